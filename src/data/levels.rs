//! Levels of a column of texts: numbered as they come while rows are written, put in order when all are known.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;

use super::DataError;
use super::rows::RowWriter;
use crate::domain::limits::{COLUMN_NAME_CHARS, LEVELS};

/// The levels of a column, numbered as they come.
#[derive(Default)]
pub(super) struct Levels {
    pub numbers: HashMap<Box<str>, u32, foldhash::fast::FixedState>,
    pub names: Vec<String>,
    /// Whether no other may come.
    pub closed: bool,
    /// There are too many: the column is left out at the end.
    pub overflows: bool,
}

impl Levels {
    pub fn of(names: &[String]) -> Self {
        let mut levels = Self { closed: true, ..Self::default() };
        for name in names {
            levels.numbers.insert(name.as_str().into(), levels.names.len() as u32);
            levels.names.push(name.clone());
        }
        levels
    }

    /// Those that were seen so far, in their order; others may come.
    pub fn seen(texts: std::collections::HashSet<&str>) -> Self {
        let mut names: Vec<&str> = texts.into_iter().collect();
        let fit = names.len() <= LEVELS as usize && names.iter().all(|name| name.chars().count() <= COLUMN_NAME_CHARS);
        if !fit {
            return Self::default();
        }
        names.sort_by(|a, b| natural(a, b));
        let names: Vec<String> = names.into_iter().map(str::to_owned).collect();
        Self { closed: false, ..Self::of(&names) }
    }

    /// The number of a level; `None` when it is one that may not be.
    pub fn number(&mut self, text: &str) -> Option<f32> {
        if let Some(number) = self.numbers.get(text) {
            return Some(*number as f32);
        }
        if self.closed {
            return None;
        }
        if self.names.len() >= LEVELS as usize || text.chars().count() > COLUMN_NAME_CHARS {
            self.overflows = true;
            return Some(f32::NAN);
        }
        let number = self.names.len() as u32;
        self.numbers.insert(text.into(), number);
        self.names.push(text.to_owned());
        Some(number as f32)
    }

    /// Levels in their order, and what that does to what was written.
    pub fn in_order(&mut self) -> (Vec<String>, Recode) {
        let names = std::mem::take(&mut self.names);
        if self.closed {
            return (names, Recode::Kept);
        }
        let mut order: Vec<usize> = (0..names.len()).collect();
        order.sort_by(|a, b| natural(&names[*a], &names[*b]));
        if order.iter().enumerate().all(|(new, old)| new == *old) {
            return (names, Recode::Kept);
        }
        let mut recoded = vec![0.0; names.len()];
        for (new, old) in order.iter().enumerate() {
            recoded[*old] = new as f32;
        }
        (order.into_iter().map(|old| names[old].clone()).collect(), Recode::Levels(recoded))
    }
}

/// What becomes of a written column.
pub(super) enum Recode {
    Kept,
    Dropped,
    /// The new number of each level.
    Levels(Vec<f32>),
}

/// Numbers by their value and before texts, texts by their characters.
fn natural(a: &str, b: &str) -> std::cmp::Ordering {
    match (a.parse::<f64>(), b.parse::<f64>()) {
        (Ok(x), Ok(y)) => x.total_cmp(&y),
        (Ok(_), Err(_)) => std::cmp::Ordering::Less,
        (Err(_), Ok(_)) => std::cmp::Ordering::Greater,
        _ => a.cmp(b),
    }
}

/// Writes the rows once more, with levels in their order and without dropped columns. Answers the bytes they have.
pub(super) fn rewrite(target: &Path, rows: u64, recodes: &[Recode], most_bytes: u64) -> Result<u64, DataError> {
    let again = target.with_extension("again");
    // Not through a map: every page of it would stay in memory.
    let mut file = BufReader::with_capacity(1 << 20, File::open(target)?);
    let mut old = vec![0.0_f32; recodes.len()];
    let kept = recodes.iter().filter(|recode| !matches!(recode, Recode::Dropped)).count();
    let mut writer = RowWriter::plain(&again, kept, most_bytes)?;
    let mut row = Vec::with_capacity(kept);
    let written = (0..rows).try_for_each(|_| {
        file.read_exact(bytemuck::cast_slice_mut(&mut old))?;
        row.clear();
        for (value, recode) in old.iter().zip(recodes) {
            match recode {
                Recode::Kept => row.push(*value),
                Recode::Levels(numbers) if !value.is_nan() => row.push(numbers[*value as usize]),
                Recode::Levels(_) => row.push(f32::NAN),
                Recode::Dropped => {}
            }
        }
        writer.push(&row)
    });
    let outcome = written.and_then(|()| Ok(writer.finish()?));
    let outcome = outcome.and_then(|written| Ok(std::fs::rename(&again, target).map(|()| written.bytes)?));
    if outcome.is_err() {
        let _ = std::fs::remove_file(&again);
    }
    outcome
}
