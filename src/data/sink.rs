//! Where a format puts what it reads: first its columns, then cell after cell, row after row.
//!
//! The sink decides what each column is. A format that knows its types says so ([`Holds`]); texts are looked at over the first
//! rows ([`LOOK_ROWS`]) before anything is written: a column whose texts are numbers holds numbers, one with few different texts
//! holds levels of a category, and one with many is not kept. From then on rows are written as they come, in bounded memory.
//!
//! A level is written as the number of its first appearance; when all rows are known the levels are put in order and the file
//! is written once more, if that changed anything.

use std::collections::HashMap;
use std::ops::Range;
use std::path::Path;

use super::dataset::{self, Column, Given, Kind, Role, Schema};
use super::levels::{Levels, Recode, rewrite};
use super::rows::RowWriter;
use super::words::Words;
use super::{DataError, Format, IngestSpec, Ingested, check_image};
use crate::domain::limits::{COLUMN_NAME_CHARS, LEVELS, LOOK_CELLS, LOOK_ROWS, LOOK_TEXT_BYTES};
use crate::domain::refusal::{Code, Faults, Refusal};
use crate::domain::shape::ImageShape;

/// What a format knows of the values of a column.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Holds {
    /// Texts, which may all be numbers.
    Texts,
    /// Numbers and nothing else.
    Numbers,
    /// Texts that are no numbers even where they look like some: a string column of a typed file.
    Names,
    /// One of these texts.
    Levels {
        /// All that there may be, in their order.
        names: Vec<String>,
        /// Whether the order means something.
        ordered: bool,
    },
}

/// A column as its format knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Field {
    pub name: String,
    pub holds: Holds,
    /// What it is for, where the format says so and the caller does not.
    pub role: Option<Role>,
}

impl Field {
    pub fn new(name: impl Into<String>, holds: Holds) -> Self {
        Self { name: name.into(), holds, role: None }
    }
}

/// Columns of numbers that are called `c0`, `c1` …
pub(super) fn numbered(count: usize) -> Vec<Field> {
    (0..count).map(|column| Field::new(format!("c{column}"), Holds::Numbers)).collect()
}

/// The cells of a column in several rows.
pub(super) enum Cells<'a> {
    Skipped,
    /// NaN where one is missing.
    Numbers(Vec<f64>),
    /// The text of a row, if it has one.
    Texts(Box<dyn Fn(usize) -> Option<&'a str> + 'a>),
}

/// What becomes of the cells of a column.
enum State {
    /// They are passed over.
    Skipped,
    /// Not known yet.
    Open,
    Numbers,
    Levels(Levels),
}

/// A cell that waits for its column to be known.
#[derive(Clone)]
struct Cell {
    /// NaN when it is missing or no number.
    number: f32,
    /// Where its text is, when it came as one; empty when it is missing.
    text: Range<u32>,
}

/// The first rows.
#[derive(Default)]
struct Look {
    cells: Vec<Cell>,
    text: String,
    /// Line of each row, 0 where the format has none.
    lines: Vec<u64>,
}

pub(super) struct Sink<'a> {
    pub spec: &'a IngestSpec,
    pub most_bytes: u64,
    pub image: Option<ImageShape>,
    /// Whether the rows are kept: they are synced then.
    pub lasts: bool,
    target: &'a Path,
    words: Words,
    fields: Vec<Field>,
    /// What a format has to say of a column, added to the reason of its kind.
    notes: HashMap<usize, &'static str>,
    columns: Vec<Column>,
    states: Vec<State>,
    look: Option<Look>,
    writer: Option<RowWriter>,
    row: Vec<f32>,
    /// Rows that are taken together.
    block: Vec<f32>,
    /// The column of the next cell.
    at: usize,
    index: u64,
    line: u64,
    faults: Faults,
    /// Whether this row is as it should be.
    broken: bool,
    /// Whether numbers are written as they come: the look has ended, and none stands for a missing value.
    plain_numbers: bool,
}

impl<'a> Sink<'a> {
    pub fn new(spec: &'a IngestSpec, target: &'a Path, most_bytes: u64) -> Self {
        Self {
            spec,
            most_bytes,
            image: spec.image,
            lasts: true,
            target,
            words: Words::new(&spec.missing, spec.decimal),
            fields: Vec::new(),
            notes: HashMap::new(),
            columns: Vec::new(),
            states: Vec::new(),
            look: None,
            writer: None,
            row: Vec::new(),
            block: Vec::new(),
            at: 0,
            index: 0,
            line: 0,
            faults: Faults::new(),
            broken: false,
            plain_numbers: false,
        }
    }

    /// Numbers are written with a comma.
    pub fn say_decimal_comma(&mut self) {
        self.words = Words::new(&self.spec.missing, Some(b','));
    }

    /// What texts mean here.
    pub fn words(&self) -> &Words {
        &self.words
    }

    /// Takes the columns. Comes once, before the first row.
    pub fn begin(&mut self, fields: Vec<Field>) -> Result<(), DataError> {
        self.columns = dataset::columns(&fields, self.spec)?;
        let said = self.spec.by_name();
        let given = |name: &str| said.get(name).copied().unwrap_or_default();
        self.states = (self.columns.iter().zip(&fields))
            .map(|(column, field)| match (&field.holds, given(&column.name)) {
                _ if column.role == Role::Ignore => State::Skipped,
                (_, Given { levels: Some(levels), .. }) => State::Levels(Levels::of(levels)),
                (Holds::Levels { names, .. }, _) if names.len() <= LEVELS as usize => State::Levels(Levels::of(names)),
                (Holds::Numbers, _) => State::Numbers,
                _ => State::Open,
            })
            .collect();
        self.fields = fields;
        self.row.reserve(self.columns.len());
        self.look = Some(Look::default());
        if !self.states.iter().any(|state| matches!(state, State::Open)) {
            self.end_look()?;
        }
        Ok(())
    }

    /// Whether the cells of a column are looked at at all.
    pub fn wants(&self, column: usize) -> bool {
        !matches!(self.states[column], State::Skipped)
    }

    /// Says something of the values of a column that whoever reads its reason should know.
    pub fn note(&mut self, column: usize, note: &'static str) {
        self.notes.insert(column, note);
    }

    /// Where the rows are written: room for a file that is removed again.
    pub fn directory(&self) -> &Path {
        self.target.parent().unwrap_or(Path::new("."))
    }

    /// Says on which line of the file the next row is, for faults.
    pub fn at_line(&mut self, line: u64) {
        self.line = line;
    }

    /// Whether so many faults were found that reading on has no use.
    pub fn is_full(&self) -> bool {
        self.faults.is_full()
    }

    /// Reports a fault of the next row as a whole.
    pub fn fault(&mut self, code: &str, detail: impl std::fmt::Display) {
        let line = self.place();
        self.faults.push(format!("/rows/{}", self.index), code, format!("{line}{detail}"));
        self.broken = true;
    }

    /// The next cell is this number; NaN is a missing value.
    pub fn number(&mut self, number: f64) {
        let column = self.at;
        self.at += 1;
        let narrow = number as f32;
        // Nearly every number of a file is one that is kept as it is.
        if self.plain_numbers && !narrow.is_infinite() && matches!(self.states[column], State::Numbers) {
            return self.row.push(narrow);
        }
        if narrow.is_infinite() {
            if self.wants(column) {
                self.cell_fault(column, "out_of_range", &number.to_string(), BEYOND);
            }
            return;
        }
        if self.words.is_missing_number(narrow) {
            return self.cell(column, f32::NAN, None);
        }
        match &self.states[column] {
            State::Skipped => {}
            State::Numbers => self.cell(column, narrow, None),
            State::Open | State::Levels(_) if narrow.is_nan() => self.cell(column, f32::NAN, None),
            State::Open | State::Levels(_) => {
                // A number among texts is the text that it is written as.
                let text = number.to_string();
                self.cell(column, narrow, Some(&text));
            }
        }
    }

    /// The next cell has no value.
    pub fn missing(&mut self) {
        let column = self.at;
        self.at += 1;
        if self.wants(column) {
            self.cell(column, f32::NAN, None);
        }
    }

    /// The next cell is this level, even where its name is a word for a missing value.
    pub fn level(&mut self, name: &str) {
        let column = self.at;
        self.at += 1;
        if self.wants(column) {
            self.cell(column, f32::NAN, Some(name));
        }
    }

    /// The next cell is this text, which may be a number or a marker of a missing value.
    pub fn text(&mut self, bytes: &[u8]) {
        let column = self.at;
        self.at += 1;
        match &self.states[column] {
            State::Skipped => return,
            State::Levels(levels) if self.look.is_none() => {
                let known = std::str::from_utf8(bytes).ok().and_then(|text| levels.numbers.get(text));
                if let Some(number) = known {
                    return self.row.push(*number as f32);
                }
            }
            State::Numbers if self.look.is_none() => {
                return match self.words.number(bytes) {
                    Some(number) if !number.is_infinite() => self.row.push(number),
                    Some(_) => self.cell_fault(column, "out_of_range", &shown(bytes), BEYOND),
                    None => self.cell_fault(column, "not_a_number", &shown(bytes), NO_NUMBER),
                };
            }
            _ => {}
        }
        let Ok(text) = std::str::from_utf8(bytes) else {
            return self.cell_fault(column, "not_utf8", &shown(bytes), "not UTF-8; save the file as UTF-8");
        };
        let text = text.trim();
        // What is declared to be a level is one, even if it is a usual word for a missing value.
        let is_level =
            matches!(&self.states[column], State::Levels(levels) if levels.closed && levels.numbers.contains_key(text));
        if is_level {
            return self.cell(column, f32::NAN, Some(text));
        }
        if self.words.is_missing(text) {
            return self.cell(column, f32::NAN, None);
        }
        let number = match self.fields[column].holds {
            Holds::Names => None,
            _ => self.words.number(text.as_bytes()),
        };
        if number.is_some_and(f32::is_nan) {
            return self.cell(column, f32::NAN, None);
        }
        if number.is_some_and(f32::is_infinite) && !matches!(self.states[column], State::Levels(_)) {
            return self.cell_fault(column, "out_of_range", &shown(bytes), BEYOND);
        }
        self.cell(column, number.unwrap_or(f32::NAN), Some(text));
    }

    /// The cells of the next row are these texts, as many as there are columns.
    pub fn texts<'c>(&mut self, cells: impl Iterator<Item = &'c [u8]>) {
        for (column, cell) in cells.enumerate() {
            // Nearly every cell of a column of numbers is a plain number.
            if self.plain_numbers
                && matches!(self.states[column], State::Numbers)
                && let Ok(number) = fast_float2::parse::<f32, _>(cell)
                && number.is_finite()
            {
                self.row.push(number);
                continue;
            }
            self.at = column;
            self.text(cell);
        }
        self.at = self.columns.len();
    }

    /// The next rows, column by column.
    pub fn rows(&mut self, count: usize, columns: &[Cells<'_>]) -> Result<(), DataError> {
        if self.took(count, columns) {
            self.index += count as u64;
            return self.writer.as_mut().expect("the look has ended; this is a bug").push(&self.block);
        }
        for row in 0..count {
            for cells in columns {
                match cells {
                    Cells::Skipped => self.missing(),
                    Cells::Numbers(numbers) => self.number(numbers[row]),
                    Cells::Texts(text) => match text(row) {
                        Some(text) => self.text(text.as_bytes()),
                        None => self.missing(),
                    },
                }
            }
            self.end_row()?;
            if self.is_full() {
                break;
            }
        }
        Ok(())
    }

    /// Puts rows together in `block`, if every cell is one that is kept as it is: a number, a level that is known, or none.
    fn took(&mut self, count: usize, columns: &[Cells<'_>]) -> bool {
        if !self.plain_numbers || !self.faults.is_empty() {
            return false;
        }
        let kept = |state: &&State| !matches!(state, State::Skipped);
        let width = self.states.iter().filter(kept).count();
        self.block.clear();
        self.block.resize(count * width, 0.0);
        for (place, (cells, state)) in columns.iter().zip(&self.states).filter(|(_, state)| kept(state)).enumerate() {
            let mut places = self.block[place..].iter_mut().step_by(width);
            let plain = match (cells, state) {
                (Cells::Numbers(numbers), State::Numbers) => places.zip(numbers).all(|(place, number)| {
                    *place = *number as f32;
                    !place.is_infinite()
                }),
                (Cells::Texts(text), State::Levels(levels)) => (0..count).zip(&mut places).all(|(row, place)| {
                    let level = text(row).map_or(Some(f32::NAN), |text| Some(*levels.numbers.get(text)? as f32));
                    *place = level.unwrap_or_default();
                    level.is_some()
                }),
                _ => false,
            };
            if !plain {
                return false;
            }
        }
        true
    }

    /// The next cell is what no cell of its column may be.
    pub fn bad_cell(&mut self, code: &str, text: &str, explanation: &str) {
        let column = self.at;
        self.at += 1;
        if self.wants(column) {
            self.cell_fault(column, code, &shown(text.as_bytes()), explanation);
        }
    }

    /// Puts a cell in its place. The text is there unless the cell is missing or of a column of numbers.
    fn cell(&mut self, column: usize, number: f32, text: Option<&str>) {
        if let Some(look) = &mut self.look {
            let start = look.text.len() as u32;
            look.text.push_str(text.unwrap_or(""));
            look.cells.push(Cell { number, text: start..look.text.len() as u32 });
            return;
        }
        let value = match (&mut self.states[column], text) {
            (State::Levels(levels), Some(text)) => levels.number(text),
            (State::Numbers, Some(_)) if number.is_nan() => None,
            (_, None) => Some(if matches!(self.states[column], State::Numbers) { number } else { f32::NAN }),
            _ => Some(number),
        };
        match (value, text) {
            (Some(value), _) => self.row.push(value),
            (None, text) => {
                let text = text.unwrap_or("").to_owned();
                let known = match &self.states[column] {
                    State::Levels(levels) => levels.names.iter().take(12).cloned().collect::<Vec<_>>().join(", "),
                    _ => return self.cell_fault(column, "not_a_number", &shown(text.as_bytes()), NO_NUMBER),
                };
                let detail = format!("none of the levels of this column: {known}");
                self.cell_fault(column, "unknown_level", &shown(text.as_bytes()), &detail);
            }
        }
    }

    fn place(&self) -> String {
        if self.line == 0 { String::new() } else { format!("(line {}) ", self.line) }
    }

    fn cell_fault(&mut self, column: usize, code: &str, text: &str, explanation: &str) {
        let line = if self.line == 0 { String::new() } else { format!("line {}, ", self.line) };
        let detail = format!("({line}column `{}`) is `{text}`, {explanation}", self.columns[column].name);
        self.faults.push(format!("/rows/{}/columns/{column}", self.index), code, detail);
        self.broken = true;
    }

    /// The row is complete: as many cells came as there are columns, or a fault of the row.
    pub fn end_row(&mut self) -> Result<(), DataError> {
        let complete = self.at == self.columns.len();
        assert!(complete || self.broken, "a format gives every cell of a row; this is a bug");
        self.at = 0;
        self.index += 1;
        if std::mem::take(&mut self.broken) {
            self.row.clear();
            // What waits is dropped: the file is refused anyway.
            if let Some(look) = &mut self.look {
                let wanted = self.states.iter().filter(|state| !matches!(state, State::Skipped)).count();
                look.cells.truncate(look.lines.len() * wanted);
            }
            return Ok(());
        }
        if let Some(look) = &mut self.look {
            look.lines.push(self.line);
            if look.lines.len() >= LOOK_ROWS || look.cells.len() >= LOOK_CELLS || look.text.len() >= LOOK_TEXT_BYTES {
                return self.end_look();
            }
            return Ok(());
        }
        if self.faults.is_empty() {
            self.writer.as_mut().expect("the look has ended; this is a bug").push(&self.row)?;
        }
        self.row.clear();
        Ok(())
    }

    /// Decides what every open column is and writes the rows that waited for it.
    fn end_look(&mut self) -> Result<(), DataError> {
        let look = self.look.take().unwrap_or_default();
        let cells_of: Vec<usize> = (0..self.columns.len()).filter(|column| self.wants(*column)).collect();
        for (position, column) in cells_of.iter().enumerate() {
            if matches!(self.states[*column], State::Open) {
                let cells = look.cells.iter().skip(position).step_by(cells_of.len());
                self.states[*column] = self.decide(*column, cells, &look.text)?;
            }
        }
        let kept = self.states.iter().filter(|state| !matches!(state, State::Skipped)).count();
        if kept == 0
            || !(self.columns.iter().zip(&self.states))
                .any(|(column, state)| column.role == Role::Feature && !matches!(state, State::Skipped))
        {
            let detail = "leave none to feed a model: every column is a label, an id, ignored or free text";
            return Err(Refusal::at(Code::InvalidDataset, "/columns", "no_features", detail).into());
        }
        self.writer = Some(RowWriter::create(self.target, kept, self.most_bytes, self.lasts)?);
        self.plain_numbers = !self.words.has_missing_numbers();
        let (index, line, at) = (self.index, self.line, self.at);
        self.index -= look.lines.len() as u64;
        for (number, row) in look.lines.iter().enumerate() {
            self.line = *row;
            for (position, column) in cells_of.iter().enumerate() {
                if self.wants(*column) {
                    let cell = &look.cells[number * cells_of.len() + position];
                    let text = &look.text[cell.text.start as usize..cell.text.end as usize];
                    self.cell(*column, cell.number, (!text.is_empty()).then_some(text));
                }
            }
            self.at = self.columns.len();
            self.end_row()?;
        }
        (self.index, self.line, self.at) = (index, line, at);
        Ok(())
    }

    /// What an open column is, from its first cells.
    fn decide<'c>(
        &mut self,
        position: usize,
        cells: impl Iterator<Item = &'c Cell>,
        text: &str,
    ) -> Result<State, DataError> {
        let mut numbers = 0_usize;
        let mut texts = 0_usize;
        let mut distinct = std::collections::HashSet::new();
        for cell in cells.filter(|cell| !cell.text.is_empty()) {
            if cell.number.is_nan() {
                texts += 1
            } else {
                numbers += 1
            }
            distinct.insert(&text[cell.text.start as usize..cell.text.end as usize]);
        }
        let column = &mut self.columns[position];
        let given = self.spec.given(&column.name);
        let state = match given.kind {
            Some(Kind::Real | Kind::Positive | Kind::Count | Kind::Binary) => return Ok(State::Numbers),
            Some(Kind::Categorical | Kind::Ordinal) if texts > 0 => return Ok(State::Levels(Levels::seen(distinct))),
            // Where numbers abound, the rare text is a slip, and is told as one.
            _ if texts == 0 || numbers >= texts * NUMBERS_A_SLIP => State::Numbers,
            _ => State::Levels(Levels::default()),
        };
        let present = numbers + texts;
        if matches!(state, State::Numbers) {
            return Ok(state);
        }
        let count = distinct.len();
        let reason = match () {
            () if count == present && present >= ID_ROWS => {
                column.infer(Role::Id, "every row has another text here");
                None
            }
            () if count > LEVELS as usize => {
                Some(format!("{count} different texts or more are too many for a category (at most {LEVELS})"))
            }
            () if count > FEW_LEVELS && count * 2 > present => {
                Some(format!("{count} different texts in {present} rows are no category"))
            }
            () => return Ok(State::Levels(Levels::seen(distinct))),
        };
        column.kind = Kind::Text;
        if given.role.is_some_and(|role| matches!(role, Role::Feature | Role::Label)) {
            let why = reason.unwrap_or_else(|| "every row has another text here".to_owned());
            let detail = format!("(column `{}`) is free text, which no model takes: {why}", column.name);
            return Err(Refusal::at(Code::InvalidDataset, format!("/columns/{position}"), "free_text", detail).into());
        }
        if let Some(reason) = reason {
            column.infer(Role::Ignore, &reason);
        }
        Ok(State::Skipped)
    }

    /// Everything was read.
    pub fn finish(mut self, format: Format) -> Result<Ingested, DataError> {
        if self.look.is_some() {
            if self.faults.is_empty() && self.index == 0 {
                return Err(Refusal::at(Code::InvalidDataset, "", "empty", "the file has no rows of data").into());
            }
            if self.faults.is_empty() {
                self.end_look()?;
            }
        }
        std::mem::take(&mut self.faults).into_result(Code::InvalidDataset)?;
        let written = self.writer.take().expect("a format begins before it returns; this is a bug").finish()?;
        if written.rows == 0 {
            return Err(Refusal::at(Code::InvalidDataset, "", "empty", "the file has no rows of data").into());
        }
        let mut profiles = written.profiles.into_iter();
        let mut recodes: Vec<Recode> = Vec::new();
        for (position, state) in self.states.iter_mut().enumerate() {
            let column = &mut self.columns[position];
            let profile = match state {
                State::Skipped => continue,
                _ => profiles.next().expect("every kept column was counted; this is a bug"),
            };
            let recode = match state {
                State::Levels(levels) if levels.overflows => {
                    let given = self.spec.given(&column.name);
                    if given.kind.is_some()
                        || given.role.is_some_and(|role| matches!(role, Role::Feature | Role::Label))
                    {
                        let detail = format!(
                            "(column `{}`) has more than {LEVELS} different texts, or one of more than {COLUMN_NAME_CHARS} characters",
                            column.name
                        );
                        let place = format!("/columns/{position}");
                        return Err(Refusal::at(Code::InvalidDataset, place, "too_many_levels", detail).into());
                    }
                    column.kind = Kind::Text;
                    column.infer(Role::Ignore, &format!("more than {LEVELS} different texts are no category"));
                    Recode::Dropped
                }
                State::Levels(levels) => {
                    let ordered = matches!(self.fields[position].holds, Holds::Levels { ordered: true, .. });
                    let (names, recode) = levels.in_order();
                    column.describe_levels(profile, names, ordered);
                    recode
                }
                _ => {
                    column.describe(profile, written.rows);
                    Recode::Kept
                }
            };
            recodes.push(recode);
        }
        dataset::settle_kinds(&mut self.columns, self.spec)?;
        if self.image.is_none() {
            dataset::infer_ids(&mut self.columns, self.spec, written.rows);
        }
        for (position, note) in &self.notes {
            let column = &mut self.columns[*position];
            column.reason = Some(column.reason.take().map_or((*note).to_owned(), |reason| format!("{reason}; {note}")));
        }
        let bytes = if recodes.iter().all(|recode| matches!(recode, Recode::Kept)) {
            written.bytes
        } else {
            rewrite(self.target, written.rows, &recodes, self.most_bytes)?
        };
        let schema = Schema { columns: self.columns, image: self.image };
        if schema.features().is_empty() {
            let detail = "leave none to feed a model: every column is a label, an id, ignored or free text";
            return Err(Refusal::at(Code::InvalidDataset, "/columns", "no_features", detail).into());
        }
        check_image(&schema)?;
        Ok(Ingested { format, rows: written.rows, schema, bytes })
    }
}

/// Numbers for each text from which on a column is one of numbers with a slip in it.
const NUMBERS_A_SLIP: usize = 20;
/// Rows from which on a column of texts that all differ is an identifier.
const ID_ROWS: usize = 10;
/// So many different texts are a category, however few rows there are.
const FEW_LEVELS: usize = 20;
const BEYOND: &str = "infinite or beyond what 32-bit floats hold (about 3.4e38)";
const NO_NUMBER: &str = "not a number, and the column holds numbers; say kind=COLUMN:categorical if it is a category, missing=TEXT if that stands for no value, or name the column in `ignore`";

fn shown(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).chars().take(40).collect()
}
