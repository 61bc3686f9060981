//! What the person who brings a file may say about it.
//!
//! Nothing of it is needed: what is not said is found in the file.

use std::collections::HashMap;

use super::Format;
use super::dataset::{Given, Kind, Role};
use crate::domain::limits::LEVELS;
use crate::domain::shape::ImageShape;

/// Whether a CSV file begins with the names of its columns.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Header {
    /// Yes when the first line holds anything that is not a number.
    #[default]
    Auto,
    /// The first line holds names.
    Present,
    /// The first line holds values.
    Absent,
}

/// What the person who uploads a file may say about it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IngestSpec {
    /// The format, when it is not to be found by content.
    pub format: Option<Format>,
    /// Whether a CSV file has a header.
    pub header: Header,
    /// What columns are for. When some are named as features, the others are not used.
    pub roles: Vec<(String, Role)>,
    /// What the values of columns look like.
    pub kinds: Vec<(String, Kind)>,
    /// The levels of categories, in their order. Other texts are faults then.
    pub levels: Vec<(String, Vec<String>)>,
    /// Texts and numbers that stand for a missing value, beside the usual ones.
    pub missing: Vec<String>,
    /// What stands between the cells of a text, when it is not to be found.
    pub delimiter: Option<u8>,
    /// `.` or `,`, when it is not to be found.
    pub decimal: Option<u8>,
    /// The shape of the image that the feature columns are the pixels of.
    pub image: Option<ImageShape>,
    /// Whether names of columns that are not there are no fault.
    pub passes_over_absent: bool,
    /// The size that images of files are brought to; without it they must all have the same.
    pub resize: Option<ImageShape>,
}

impl IngestSpec {
    /// What is said of one column.
    pub fn given(&self, name: &str) -> Given<'_> {
        fn find<'a, T>(list: &'a [(String, T)], name: &str) -> Option<&'a T> {
            list.iter().find(|(column, _)| column == name).map(|(_, value)| value)
        }
        Given {
            role: find(&self.roles, name).copied(),
            kind: find(&self.kinds, name).copied(),
            levels: find(&self.levels, name).map(Vec::as_slice),
        }
    }

    /// What is said of every column, by name: of many columns it is found faster so.
    pub fn by_name(&self) -> HashMap<&str, Given<'_>> {
        let mut said: HashMap<&str, Given<'_>> = HashMap::new();
        // What is said first of a column counts.
        for (name, role) in self.roles.iter().rev() {
            said.entry(name).or_default().role = Some(*role);
        }
        for (name, kind) in self.kinds.iter().rev() {
            said.entry(name).or_default().kind = Some(*kind);
        }
        for (name, levels) in self.levels.iter().rev() {
            said.entry(name).or_default().levels = Some(levels);
        }
        said
    }

    /// Columns in one role.
    pub fn with_role<'a>(mut self, role: Role, names: impl IntoIterator<Item = &'a str>) -> Self {
        self.roles.extend(names.into_iter().map(|name| (name.to_owned(), role)));
        self
    }

    /// Takes `COLUMN:KIND`.
    ///
    /// # Errors
    /// A sentence that says what is allowed.
    pub fn say_kind(&mut self, text: &str) -> Result<(), String> {
        let (column, name) = text.rsplit_once(':').ok_or_else(|| format!("is `{text}`; write COLUMN:KIND"))?;
        let kind = Kind::ALL.iter().find(|(known, _)| *known == name.trim()).ok_or_else(|| {
            let names: Vec<&str> = Kind::ALL.iter().map(|(name, _)| *name).collect();
            format!("gives `{column}` the kind `{name}`; allowed are {}", names.join(", "))
        })?;
        self.kinds.push((column.to_owned(), kind.1));
        Ok(())
    }

    /// Takes `COLUMN:LEVEL,LEVEL…`, the levels of a category in their order.
    ///
    /// # Errors
    /// A sentence that says what is allowed.
    pub fn say_levels(&mut self, text: &str) -> Result<(), String> {
        let (column, levels) = text.split_once(':').ok_or_else(|| format!("is `{text}`; write COLUMN:LEVEL,LEVEL"))?;
        let levels: Vec<String> = levels.split(',').map(|level| level.trim().to_owned()).collect();
        let mut sorted = levels.clone();
        sorted.sort_unstable();
        sorted.dedup();
        if sorted.len() < levels.len() || sorted.len() > LEVELS as usize || sorted.iter().any(String::is_empty) {
            return Err(format!("gives `{column}` {} levels; allowed are 1 to {LEVELS}, each once", levels.len()));
        }
        self.levels.push((column.to_owned(), levels));
        Ok(())
    }

    /// Takes what stands between cells: one character, or `tab`.
    ///
    /// # Errors
    /// A sentence that says what is allowed.
    pub fn say_delimiter(&mut self, text: &str) -> Result<(), String> {
        let delimiter = match text {
            "tab" | "\\t" | "\t" => b'\t',
            "comma" => b',',
            "semicolon" => b';',
            _ => match text.as_bytes() {
                [byte] if *byte == b' ' || (byte.is_ascii_punctuation() && !b"\".-".contains(byte)) => *byte,
                _ => return Err(format!("is `{text}`; allowed are one of , ; | or another sign, and `tab`")),
            },
        };
        self.delimiter = Some(delimiter);
        Ok(())
    }

    /// Takes the decimal sign.
    ///
    /// # Errors
    /// A sentence that says what is allowed.
    pub fn say_decimal(&mut self, text: &str) -> Result<(), String> {
        self.decimal = match text {
            "." | "point" => Some(b'.'),
            "," | "comma" => Some(b','),
            _ => return Err(format!("is `{text}`; allowed are . and ,")),
        };
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_is_read_or_refused() {
        let mut spec = IngestSpec::default();
        spec.say_kind("a:b:ordinal").unwrap();
        spec.say_levels("size: small, large").unwrap();
        spec.say_delimiter("tab").unwrap();
        spec.say_decimal(",").unwrap();
        assert_eq!(spec.given("a:b").kind, Some(Kind::Ordinal));
        assert_eq!(spec.given("size").levels.unwrap(), ["small", "large"]);
        assert_eq!((spec.delimiter, spec.decimal), (Some(b'\t'), Some(b',')));
        assert!(spec.say_kind("a:text").is_err() && spec.say_kind("real").is_err());
        assert!(spec.say_levels("a:x,x").is_err() && spec.say_levels("a:x,").is_err());
        assert!(
            spec.say_delimiter("ab").is_err() && spec.say_delimiter("\"").is_err() && spec.say_delimiter("a").is_err()
        );
        assert!(spec.say_decimal(";").is_err());
    }
}
