//! One line as the cells of a row.
//!
//! The line is read by `serde_json` without building a value of it: keys are looked up as they come, and what lies inside a
//! nested value is passed over without recursion.

use std::collections::HashMap;
use std::fmt;
use std::ops::Range;

use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

use crate::domain::limits::{COLUMN_NAME_CHARS, COLUMNS, TEXT_CELL_BYTES};

/// What a row says of a column.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) enum Cell {
    /// Null, or no such key.
    #[default]
    Missing,
    Bool(bool),
    Number(f64),
    /// A whole number of up to 64 bits.
    Whole(f64),
    /// Where its text is.
    Text(Range<usize>),
    /// What it is, in brackets.
    Nested(&'static str),
}

/// A code and a sentence.
pub(super) type RowFault = (&'static str, String);

/// Reads one row after the other, without taking memory for each.
#[derive(Default)]
pub(super) struct Row {
    names: HashMap<Box<str>, usize>,
    columns: Vec<String>,
    /// Whether rows are arrays, once a row was seen.
    arrays: Option<bool>,
    /// From how many rows the columns are known, when no more may come.
    closed: Option<usize>,
    cells: Vec<Cell>,
    /// Which row last gave a cell of each column.
    given: Vec<u64>,
    number: u64,
    text: String,
    fault: Option<RowFault>,
}

impl Row {
    /// Reads a line into `cells`.
    pub fn read(&mut self, line: &[u8]) -> Result<(), RowFault> {
        self.cells.clear();
        self.cells.resize(self.columns.len(), Cell::Missing);
        self.text.clear();
        self.fault = None;
        self.number += 1;
        let mut reader = serde_json::Deserializer::from_slice(line);
        let outcome = self.deserialize(&mut reader).and_then(|()| reader.end());
        if let Some(fault) = self.fault.take() {
            return Err(fault);
        }
        outcome.map_err(|error| {
            let whole = error.to_string();
            let what = whole.split(" at line ").next().unwrap_or_default();
            let hint = if error.is_eof() {
                "; each line holds one whole object or array (pandas: `to_json(orient='records', lines=True)`)"
            } else {
                ""
            };
            ("not_json", format!("is no JSON value: {what} at character {}{hint}", error.column()))
        })
    }

    /// The cells of the row that was read last.
    pub fn cells(&self) -> &[Cell] {
        &self.cells
    }

    pub fn text(&self, place: &Range<usize>) -> &str {
        &self.text[place.clone()]
    }

    /// How many columns are known.
    pub fn columns(&self) -> usize {
        self.columns.len()
    }

    /// Whether rows are arrays.
    pub fn are_arrays(&self) -> bool {
        self.arrays == Some(true)
    }

    /// No more columns may come, after so many rows. Answers their names.
    pub fn close(&mut self, rows: usize) -> Vec<String> {
        self.closed = Some(rows);
        self.columns.clone()
    }

    /// Keeps the first fault of the row.
    fn wrong(&mut self, code: &'static str, detail: String) {
        self.fault.get_or_insert((code, detail));
    }

    /// The column of a key.
    fn column(&mut self, key: &str) -> Option<usize> {
        let column = match (self.names.get(key), self.closed) {
            (Some(column), _) => *column,
            (None, Some(rows)) => {
                let key = key.chars().take(60).collect::<String>();
                self.wrong("unknown_column", format!("has the key `{key}`, which none of the first {rows} rows has"));
                return None;
            }
            (None, None) if self.columns.len() > COLUMNS => return None,
            (None, None) => {
                let column = self.columns.len();
                // Of a name that is too long no more is needed than that it is.
                let key = &key[..key.floor_char_boundary(COLUMN_NAME_CHARS * 4 + 4)];
                self.names.insert(key.into(), column);
                self.columns.push(match key.trim() {
                    "" => format!("c{column}"),
                    name => name.to_owned(),
                });
                self.cells.push(Cell::Missing);
                column
            }
        };
        self.given.resize(self.columns.len(), 0);
        if std::mem::replace(&mut self.given[column], self.number) == self.number {
            self.wrong("duplicate", format!("has the key `{}` twice", self.columns[column]));
        }
        Some(column)
    }

    /// Whether a row may be an array, or an object.
    fn may_be(&mut self, array: bool) -> bool {
        let fits = *self.arrays.get_or_insert(array) == array;
        if !fits {
            let (this, first) = if array { ("an array", "an object") } else { ("an object", "an array") };
            self.wrong("mixed", format!("is {this}; the first row is {first}"));
        }
        fits
    }
}

impl<'de> DeserializeSeed<'de> for &mut Row {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for &mut Row {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object or an array")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let fits = self.may_be(false);
        while let Some(column) = map.next_key_seed(Key { row: &mut *self, fits })? {
            match column {
                Some(column) => {
                    let cell = map.next_value_seed(Value { text: &mut self.text })?;
                    self.cells[column] = cell;
                }
                None => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<(), A::Error> {
        let fits = self.may_be(true);
        let first = self.columns.is_empty() && self.closed.is_none();
        let mut count = 0;
        while fits && (first || count < self.columns.len()) && count <= COLUMNS {
            let Some(cell) = sequence.next_element_seed(Value { text: &mut self.text })? else { break };
            if first {
                self.columns.push(format!("c{count}"));
                self.cells.push(cell);
            } else {
                self.cells[count] = cell;
            }
            count += 1;
        }
        while sequence.next_element::<IgnoredAny>()?.is_some() {
            count += 1;
        }
        if fits && !first && count != self.columns.len() {
            self.wrong("ragged", format!("has {count} values; the first row has {}", self.columns.len()));
        }
        Ok(())
    }
}

/// A key, of which the column is wanted.
struct Key<'a> {
    row: &'a mut Row,
    fits: bool,
}

impl<'de> DeserializeSeed<'de> for Key<'_> {
    type Value = Option<usize>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Option<usize>, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for Key<'_> {
    type Value = Option<usize>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E: Error>(self, key: &str) -> Result<Option<usize>, E> {
        Ok(if self.fits { self.row.column(key) } else { None })
    }
}

/// The value of a cell.
struct Value<'a> {
    text: &'a mut String,
}

impl<'de> DeserializeSeed<'de> for Value<'_> {
    type Value = Cell;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Cell, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Value<'_> {
    type Value = Cell;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a number, a text, a boolean or null")
    }

    fn visit_unit<E: Error>(self) -> Result<Cell, E> {
        Ok(Cell::Missing)
    }

    fn visit_bool<E: Error>(self, yes: bool) -> Result<Cell, E> {
        Ok(Cell::Bool(yes))
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<Cell, E> {
        Ok(Cell::Whole(number as f64))
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<Cell, E> {
        Ok(Cell::Whole(number as f64))
    }

    fn visit_f64<E: Error>(self, number: f64) -> Result<Cell, E> {
        Ok(Cell::Number(number))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Cell, E> {
        let start = self.text.len();
        self.text.push_str(&text[..text.floor_char_boundary(TEXT_CELL_BYTES)]);
        Ok(Cell::Text(start..self.text.len()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<Cell, A::Error> {
        while sequence.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Cell::Nested("[…]"))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Cell, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Cell::Nested("{…}"))
    }
}
