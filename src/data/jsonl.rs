//! JSON Lines, plain or compressed: each line is an object, whose keys name the columns, or an array of one width.
//!
//! The first rows are read twice: once to know the columns, in the order in which their keys appear, and what they hold. A row
//! may lack a key, which is a missing value, as null is; a key that the first rows do not have is a fault. Booleans are zero and
//! one. Texts stay texts, unless all of a column are numbers in quotes. Objects and arrays inside a row are refused by name
//! unless their column is ignored. Format: jsonlines.org.

mod row;

use std::io::BufRead;
use std::path::Path;

use super::DataError;
use super::batches::{EXACT, ROUNDED};
use super::sink::{Field, Holds, Sink};
use super::text::{Text, refuse, wrong};
use super::words::Words;
use crate::domain::limits::{LOOK_CELLS, LOOK_ROWS, LOOK_TEXT_BYTES};
use crate::domain::refusal::{Code, Faults};
use row::{Cell, Row};

/// An object with a key or none, or an array.
pub(super) fn begins(start: &[u8]) -> bool {
    match start.trim_ascii_start() {
        [b'{', rest @ ..] => matches!(rest.trim_ascii_start(), [b'"' | b'}', ..]),
        [b'[', ..] => true,
        _ => false,
    }
}

pub(super) fn read(source: &Path, sink: &mut Sink<'_>) -> Result<(), DataError> {
    let mut survey = Survey::default();
    survey.look(&mut Lines::open(source, sink.most_bytes)?, sink.words())?;
    let Survey { mut row, seen, rows } = survey;
    let names = row.close(rows);
    if names.is_empty() {
        // Without a column there is no row; what the lines are instead is told.
        return Err(nothing(&mut Lines::open(source, sink.most_bytes)?, row)?);
    }
    let fields = names.iter().zip(&seen).map(|(name, seen)| Field::new(name, seen.holds()));
    sink.begin(fields.collect())?;
    let hint = if row.are_arrays() {
        "each line holds one row, so write the objects of an array on lines of their own (pandas: `to_json(orient='records', lines=True)`)"
    } else {
        "name it in `ignore`, or write it as columns of numbers"
    };
    let mut faults = Faults::new();
    for (position, (name, _)) in names.iter().zip(&seen).enumerate().filter(|(_, (_, seen))| seen.nested) {
        if sink.wants(position) {
            let detail =
                format!("(column `{name}`) holds objects or arrays, which are neither numbers nor texts; {hint}");
            faults.push(format!("/columns/{position}"), "not_tabular", detail);
        }
    }
    faults.into_result(Code::InvalidDataset)?;
    feed(&mut Lines::open(source, sink.most_bytes)?, row, sink)
}

fn feed(lines: &mut Lines, mut row: Row, sink: &mut Sink<'_>) -> Result<(), DataError> {
    while !sink.is_full() && lines.next()? {
        sink.at_line(lines.number);
        match row.read(lines.text()) {
            Ok(()) => give(&row, sink),
            Err((code, detail)) => sink.fault(code, detail),
        }
        sink.end_row()?;
    }
    Ok(())
}

fn give(row: &Row, sink: &mut Sink<'_>) {
    for (position, cell) in row.cells().iter().enumerate() {
        match cell {
            Cell::Missing => sink.missing(),
            Cell::Bool(yes) => sink.number(f64::from(u8::from(*yes))),
            Cell::Number(number) => sink.number(*number),
            Cell::Whole(number) => {
                if number.abs() > EXACT {
                    sink.note(position, ROUNDED);
                }
                sink.number(*number);
            }
            Cell::Text(place) => sink.text(row.text(place).as_bytes()),
            Cell::Nested(what) => sink.bad_cell("nested", what, "neither a number nor a text"),
        }
    }
}

/// Why no line of the file has a column.
fn nothing(lines: &mut Lines, mut row: Row) -> Result<DataError, DataError> {
    let mut index = 0;
    while lines.next()? {
        if let Err((code, detail)) = row.read(lines.text()) {
            return Ok(refuse(&format!("/rows/{index}"), code, format!("(line {}) {detail}", lines.number)));
        }
        index += 1;
    }
    Ok(refuse("", "empty", "the file has no rows of data"))
}

/// Lines that are not blank, counted from 1.
struct Lines {
    reader: Box<dyn BufRead>,
    most_bytes: u64,
    line: Vec<u8>,
    number: u64,
}

impl Lines {
    fn open(source: &Path, most_bytes: u64) -> Result<Self, DataError> {
        let text = Text::open(source, most_bytes)?;
        Ok(Self { most_bytes: text.most_bytes(), reader: Box::new(text.reader()), line: Vec::new(), number: 0 })
    }

    /// Goes to the next line; false at the end.
    fn next(&mut self) -> Result<bool, DataError> {
        loop {
            self.line.clear();
            let got = self.reader.read_until(b'\n', &mut self.line).map_err(|error| wrong(error, self.most_bytes))?;
            if got == 0 {
                return Ok(false);
            }
            self.number += 1;
            if !self.line.trim_ascii().is_empty() {
                return Ok(true);
            }
        }
    }

    fn text(&self) -> &[u8] {
        self.line.trim_ascii()
    }
}

/// The columns, found in the first rows.
#[derive(Default)]
struct Survey {
    row: Row,
    seen: Vec<Seen>,
    rows: usize,
}

impl Survey {
    fn look(&mut self, lines: &mut Lines, words: &Words) -> Result<(), DataError> {
        let (mut cells, mut bytes) = (0, 0);
        while self.rows < LOOK_ROWS && cells < LOOK_CELLS && bytes < LOOK_TEXT_BYTES && lines.next()? {
            self.rows += 1;
            bytes += lines.text().len();
            // What is wrong with a line is told when it is read again.
            if self.row.read(lines.text()).is_err() {
                continue;
            }
            cells += self.row.cells().len();
            self.seen.resize(self.row.cells().len().max(self.seen.len()), Seen::default());
            for (seen, cell) in self.seen.iter_mut().zip(self.row.cells()) {
                seen.add(cell, &self.row, words);
            }
        }
        // Keys of a row that was no row.
        self.seen.resize(self.row.columns(), Seen::default());
        Ok(())
    }
}

/// What the cells of a column are.
#[derive(Clone, Copy, Default)]
struct Seen {
    numbers: bool,
    /// Texts that are numbers.
    quoted: bool,
    /// Other texts.
    texts: bool,
    nested: bool,
}

impl Seen {
    fn add(&mut self, cell: &Cell, row: &Row, words: &Words) {
        match cell {
            Cell::Missing => {}
            Cell::Bool(_) | Cell::Number(_) | Cell::Whole(_) => self.numbers = true,
            Cell::Text(place) => {
                let text = row.text(place).trim();
                // A number that begins with zeros is the name of something.
                let named = text.len() > 1 && text.bytes().all(|byte| byte.is_ascii_digit()) && text.starts_with('0');
                match words.number(text.as_bytes()) {
                    Some(number) if number.is_nan() => {}
                    Some(_) if !named => self.quoted = true,
                    _ => self.texts = true,
                }
            }
            Cell::Nested(_) => self.nested = true,
        }
    }

    fn holds(self) -> Holds {
        match self {
            Self { numbers: true, quoted: false, texts: false, .. } => Holds::Numbers,
            Self { numbers: false, texts: true, .. } => Holds::Names,
            _ => Holds::Texts,
        }
    }
}

#[cfg(test)]
mod tests;
