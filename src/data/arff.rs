//! ARFF files of Weka, plain or compressed: declared attributes, then rows, dense or sparse.
//!
//! What is declared decides what a column holds: numbers, the levels of a nominal attribute, texts, dates. In rows only a bare
//! `?` is a missing value; cells are separated by commas or blanks, may be quoted, and a `%` outside quotes begins a remark.
//! A sparse row leaves out numbers that are 0 and the first level of nominal attributes. The last attribute is the label when it
//! is nominal and called `class`. Format: the Weka manual, chapter "ARFF".

mod dates;
mod words;

use std::collections::HashSet;
use std::io::BufRead;
use std::path::Path;

use super::DataError;
use super::dataset::Role;
use super::sink::{Field, Holds, Sink};
use super::text::{Text, refuse, wrong};
use crate::domain::limits::{ARFF_HEADER_BYTES, COLUMNS, LEVELS};
use dates::Pattern;
use words::{Word, Words};

pub(super) fn begins(start: &[u8]) -> bool {
    let mut lines = start.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii);
    let spoken = lines.find(|line| !line.is_empty() && !line.starts_with(b"%"));
    // A remark may be longer than what is looked at.
    spoken.map_or(start.starts_with(b"%"), |line| keyword(line, b"@relation") || keyword(line, b"@attribute"))
}

/// Whether a line begins with this word, whatever its case.
fn keyword(line: &[u8], word: &[u8]) -> bool {
    line.get(..word.len()).is_some_and(|start| start.eq_ignore_ascii_case(word))
        && line.get(word.len()).is_none_or(u8::is_ascii_whitespace)
}

pub(super) fn read(source: &Path, sink: &mut Sink<'_>) -> Result<(), DataError> {
    let text = Text::open(source, sink.most_bytes)?;
    let most_bytes = text.most_bytes();
    let mut lines = Lines { reader: text.reader(), most_bytes, line: Vec::new(), number: 0 };
    let attributes = declared(&mut lines)?;
    let last = attributes.len() - 1;
    let fields = attributes.iter().enumerate().map(|(position, attribute)| Field {
        role: (position == last && attribute.is_class()).then_some(Role::Label),
        ..Field::new(&attribute.name, attribute.holds())
    });
    sink.begin(fields.collect())?;
    for (position, attribute) in attributes.iter().enumerate() {
        if let Kind::Date(pattern) = &attribute.kind {
            sink.note(position, pattern.note());
        }
    }
    Rows { attributes, words: Words::default(), places: Vec::new() }.read(&mut lines, sink)
}

/// Lines of the text, counted from 1.
struct Lines<R> {
    reader: R,
    most_bytes: u64,
    line: Vec<u8>,
    number: u64,
}

impl<R: BufRead> Lines<R> {
    /// Goes to the next line that is neither blank nor a remark; false at the end.
    fn next(&mut self) -> Result<bool, DataError> {
        loop {
            self.line.clear();
            let got = self.reader.read_until(b'\n', &mut self.line).map_err(|error| wrong(error, self.most_bytes))?;
            if got == 0 {
                return Ok(false);
            }
            self.number += 1;
            if !matches!(self.line.trim_ascii(), [] | [b'%', ..]) {
                return Ok(true);
            }
        }
    }

    fn text(&self) -> &[u8] {
        self.line.trim_ascii()
    }
}

/// What an attribute holds.
enum Kind {
    Number,
    Text,
    Levels(Vec<String>),
    Date(Pattern),
}

struct Attribute {
    name: String,
    kind: Kind,
}

impl Attribute {
    fn is_class(&self) -> bool {
        matches!(self.kind, Kind::Levels(_)) && self.name.eq_ignore_ascii_case("class")
    }

    fn holds(&self) -> Holds {
        match &self.kind {
            Kind::Number | Kind::Date(_) => Holds::Numbers,
            Kind::Levels(names) if names.len() <= LEVELS as usize => {
                Holds::Levels { names: names.clone(), ordered: false }
            }
            Kind::Text | Kind::Levels(_) => Holds::Names,
        }
    }
}

/// Reads everything up to `@data`.
fn declared(lines: &mut Lines<impl BufRead>) -> Result<Vec<Attribute>, DataError> {
    let mut attributes = Vec::new();
    let mut bytes = 0;
    let mut words = Words::default();
    while lines.next()? {
        let line = lines.text();
        bytes += line.len();
        if keyword(line, b"@data") {
            if attributes.is_empty() {
                return Err(refuse("/columns", "empty", "the file declares no attribute"));
            }
            return Ok(attributes);
        }
        if keyword(line, b"@relation") {
            continue;
        }
        let place = format!("/columns/{}", attributes.len());
        let fault =
            |code: &str, detail: String, number: u64| Err(refuse(&place, code, format!("(line {number}) {detail}")));
        if bytes > ARFF_HEADER_BYTES || attributes.len() >= COLUMNS {
            let detail = format!("declares too much; allowed are {COLUMNS} attributes in {ARFF_HEADER_BYTES} bytes");
            return fault("too_many", detail, lines.number);
        }
        if !keyword(line, b"@attribute") {
            let line = String::from_utf8_lossy(line).chars().take(40).collect::<String>();
            let detail = format!("is `{line}`, where @attribute or @data should be");
            return fault("broken_header", detail, lines.number);
        }
        match attribute(&line[b"@attribute".len()..], &mut words) {
            Ok(attribute) => attributes.push(attribute),
            Err((code, detail)) => return fault(code, detail, lines.number),
        }
    }
    Err(refuse("/", "broken_header", "the file ends before @data"))
}

type Declared = Result<Attribute, (&'static str, String)>;

/// An attribute from what stands after the keyword.
fn attribute(line: &[u8], words: &mut Words) -> Declared {
    let broken = |detail: String| ("broken_header", detail);
    let Ok(line) = std::str::from_utf8(line) else {
        return Err(("not_utf8", "is not UTF-8; save the file as UTF-8".to_owned()));
    };
    words.start(line);
    let name = match words.next().map_err(broken)? {
        Some(_) => words.text().trim().to_owned(),
        None => return Err(broken("has no name".to_owned())),
    };
    let kind = match words.next().map_err(broken)? {
        None => return Err(broken(format!("(attribute `{name}`) has no type"))),
        Some(Word::Open) => Kind::Levels(levels(&name, words)?),
        Some(_) => match words.text().to_ascii_lowercase().as_str() {
            "numeric" | "real" | "integer" => Kind::Number,
            "string" => Kind::Text,
            "date" => {
                let given = words.next().map_err(broken)?.map(|_| words.text().to_owned());
                Kind::Date(Pattern::of(given.as_deref()).map_err(|detail| {
                    ("broken_header", format!("(attribute `{name}`) has a pattern of dates {detail}"))
                })?)
            }
            other => {
                let detail = format!(
                    "(attribute `{name}`) is of the type `{}`; allowed are numeric, real, integer, string, date and {{a, b}}",
                    other.chars().take(40).collect::<String>()
                );
                return Err(("not_tabular", detail));
            }
        },
    };
    match words.next().map_err(broken)? {
        None => Ok(Attribute { name, kind }),
        Some(_) => Err(broken(format!("(attribute `{name}`) has `{}` after its type", words.text()))),
    }
}

/// The levels after an opening brace.
fn levels(name: &str, words: &mut Words) -> Result<Vec<String>, (&'static str, String)> {
    let mut levels: Vec<String> = Vec::new();
    let mut seen = HashSet::new();
    loop {
        match words.next().map_err(|detail| ("broken_header", detail))? {
            Some(Word::Close) => return Ok(levels),
            Some(Word::Open) | None => {
                return Err(("broken_header", format!("(attribute `{name}`) has no `}}` after its levels")));
            }
            Some(Word::Bare | Word::Quoted) => {
                // Of too many levels no more is needed than that they are.
                if levels.len() > LEVELS as usize {
                    continue;
                }
                let level = words.text().trim();
                if level.is_empty() || !seen.insert(level.to_owned()) {
                    return Err((
                        "duplicate",
                        format!("(attribute `{name}`) has the level `{level}` twice, or an empty one"),
                    ));
                }
                levels.push(level.to_owned());
            }
        }
    }
}

/// The rows after `@data`.
struct Rows {
    attributes: Vec<Attribute>,
    words: Words,
    /// Where the cells of a sparse row are among its words, one more than the number; 0 where there is none.
    places: Vec<usize>,
}

/// Where the text of a cell is in the row's text, and whether it was quoted.
struct Cell {
    start: usize,
    end: usize,
    quoted: bool,
}

impl Rows {
    fn read(mut self, lines: &mut Lines<impl BufRead>, sink: &mut Sink<'_>) -> Result<(), DataError> {
        let mut text = String::new();
        let mut cells = Vec::with_capacity(self.attributes.len());
        while !sink.is_full() {
            if !lines.next()? {
                break;
            }
            let outcome = std::str::from_utf8(lines.text())
                .map_err(|_| ("not_utf8", "is not UTF-8; save the file as UTF-8".to_owned()))
                .and_then(|line| self.cells(line, &mut text, &mut cells));
            sink.at_line(lines.number);
            match outcome {
                Ok(sparse) => self.give(sparse, &text, &cells, sink),
                Err((code, detail)) => sink.fault(code, detail),
            }
            sink.end_row()?;
        }
        Ok(())
    }

    /// Cuts a row into its cells. Answers whether it is sparse; then `places` says where each column's cell is.
    fn cells(&mut self, line: &str, text: &mut String, cells: &mut Vec<Cell>) -> Result<bool, (&'static str, String)> {
        let broken = |detail| ("broken_row", detail);
        let width = self.attributes.len();
        text.clear();
        cells.clear();
        self.words.start(line);
        let mut found = 0;
        let mut word = self.words.next().map_err(broken)?;
        let sparse = word == Some(Word::Open);
        if sparse {
            self.places.clear();
            self.places.resize(width, 0);
            word = self.words.next().map_err(broken)?;
        }
        loop {
            let quoted = match word {
                Some(Word::Bare) => false,
                Some(Word::Quoted) => true,
                Some(Word::Close) if sparse => break,
                None if !sparse => break,
                None => return Err(("broken_row", "is a sparse row without its `}`".to_owned())),
                Some(Word::Open | Word::Close) => {
                    let detail = "has a brace among its cells; weights of rows are not read";
                    return Err(("broken_row", detail.to_owned()));
                }
            };
            if sparse {
                let index = self.words.text().parse().ok().filter(|index: &usize| *index < width);
                let Some(index) = index.filter(|_| !quoted) else {
                    let shown = self.words.text().chars().take(40).collect::<String>();
                    let detail =
                        format!("has `{shown}` where the position of a column should be, from 0 to {}", width - 1);
                    return Err(("broken_row", detail));
                };
                let value = self.words.next().map_err(broken)?;
                let (Some(Word::Bare | Word::Quoted), 0) = (value, self.places[index]) else {
                    return Err(("broken_row", format!("gives column {index} no value, or two")));
                };
                word = value;
                self.places[index] = cells.len() + 1;
            }
            found += 1;
            if cells.len() < width {
                let start = text.len();
                text.push_str(self.words.text());
                cells.push(Cell { start, end: text.len(), quoted: word == Some(Word::Quoted) });
            }
            word = self.words.next().map_err(broken)?;
        }
        if sparse && self.words.next().map_err(broken)?.is_some() {
            return Err(("broken_row", "goes on after its `}`; weights of rows are not read".to_owned()));
        }
        if !sparse && found != width {
            return Err(("ragged", format!("has {found} cells; the file declares {width} attributes")));
        }
        Ok(sparse)
    }

    fn give(&self, sparse: bool, text: &str, cells: &[Cell], sink: &mut Sink<'_>) {
        for (position, attribute) in self.attributes.iter().enumerate() {
            let cell = if sparse {
                self.places[position].checked_sub(1).map(|place| &cells[place])
            } else {
                cells.get(position)
            };
            let Some(Cell { start, end, quoted }) = cell else {
                // What a sparse row leaves out.
                match &attribute.kind {
                    Kind::Number | Kind::Date(_) => sink.number(0.0),
                    Kind::Levels(names) if !names.is_empty() => sink.text(names[0].as_bytes()),
                    Kind::Levels(_) | Kind::Text => sink.missing(),
                }
                continue;
            };
            let cell = &text[*start..*end];
            match &attribute.kind {
                _ if cell == "?" && !quoted => sink.missing(),
                Kind::Date(_) if !sink.wants(position) || sink.words().is_missing(cell.trim()) => sink.missing(),
                Kind::Date(pattern) => match pattern.number(cell.trim()) {
                    Some(number) => sink.number(number),
                    None => sink.bad_cell("not_a_date", cell, &format!("not a date of the pattern `{}`", pattern.text)),
                },
                _ => sink.text(cell.as_bytes()),
            }
        }
    }
}

#[cfg(test)]
mod tests;
