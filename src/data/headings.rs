//! What stands above the rows of a separated text: names, nothing, or one of the heads that some collections of data have.
//!
//! Orange writes three lines: names, types, flags (its documentation, "Loading your Data"). scikit-learn's own files begin with
//! the number of rows, that of features and the names of the classes, and end each row with the class.

use super::dataset::Role;
use super::sink::{Field, Holds};
use super::words::Words;

/// Rows of cells.
type Rows = Vec<Vec<Vec<u8>>>;

/// How a separated text begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Heading {
    /// With the first row.
    None,
    /// With one line of names.
    Names,
    /// With names, types and flags.
    Orange,
    /// With counts, and a class at the end of each row.
    Counts,
}

impl Heading {
    /// Finds it in the first rows.
    pub fn of(rows: &Rows, words: &Words) -> Self {
        match () {
            () if is_orange(rows) => Self::Orange,
            () if has_counts(rows) => Self::Counts,
            () if has_names(rows, words) => Self::Names,
            () => Self::None,
        }
    }

    /// Lines above the first row.
    pub fn lines(self) -> usize {
        match self {
            Self::None => 0,
            Self::Names | Self::Counts => 1,
            Self::Orange => 3,
        }
    }
}

/// Columns by their names, all of texts.
pub(super) fn named(names: Vec<String>) -> Vec<Field> {
    names.into_iter().map(|name| Field::new(name, Holds::Texts)).collect()
}

/// Columns without names, the last of which is the class.
pub(super) fn with_class(width: usize) -> Vec<Field> {
    let mut fields = named((0..width).map(|column| format!("c{column}")).collect());
    if let Some(last) = fields.last_mut() {
        *last = Field { role: Some(Role::Label), ..Field::new("target", Holds::Texts) };
    }
    fields
}

/// Columns as Orange's lines of types and flags say.
pub(super) fn orange(names: Vec<String>, types: &[String], flags: &[String]) -> Vec<Field> {
    let cell = |cells: &[String], column: usize| cells.get(column).map_or("", String::as_str).trim().to_owned();
    (names.into_iter().enumerate())
        .map(|(column, name)| {
            let holds = match cell(types, column).as_str() {
                "c" | "continuous" | "" | "s" | "string" | "t" | "time" => Holds::Texts,
                _ => Holds::Names,
            };
            let flags = cell(flags, column);
            let role = flags.split_whitespace().find_map(|flag| match flag {
                "class" | "c" => Some(Role::Label),
                "meta" | "m" => Some(Role::Id),
                "ignore" | "i" => Some(Role::Ignore),
                _ => None,
            });
            Field { role, ..Field::new(name, holds) }
        })
        .collect()
}

fn is_orange(rows: &Rows) -> bool {
    let [names, types, flags, ..] = &rows[..] else { return false };
    const TYPES: [&[u8]; 8] = [b"c", b"continuous", b"d", b"discrete", b"s", b"string", b"t", b"time"];
    const FLAGS: [&[u8]; 6] = [b"class", b"c", b"meta", b"m", b"ignore", b"i"];
    let known = |cell: &Vec<u8>| TYPES.contains(&cell.as_slice());
    // A type may also be a list of values; one of them must be a plain type.
    let typed = types.iter().filter(|cell| known(cell)).count();
    let flagged = |cell: &Vec<u8>| cell.is_empty() || FLAGS.contains(&cell.as_slice()) || cell.contains(&b'=');
    types.len() == names.len()
        && typed * 2 >= types.len()
        && types.iter().all(|cell| known(cell) || cell.contains(&b' ') || cell.is_empty())
        && flags.len() <= names.len()
        && flags.iter().all(flagged)
}

fn has_counts(rows: &Rows) -> bool {
    let Some((first, below)) = rows.split_first() else { return false };
    let count = |position: usize| {
        first.get(position).and_then(|cell| std::str::from_utf8(cell).ok()).and_then(|text| text.parse::<usize>().ok())
    };
    let (Some(rows), Some(features)) = (count(0), count(1)) else { return false };
    let wide = |row: &Vec<Vec<u8>>| row.len() == features + 1;
    rows >= below.len() && !wide(first) && !below.is_empty() && below.iter().all(wide)
}

/// Whether the first row holds names: a text over a column of numbers says so, and where there are no numbers that none of its
/// texts comes again below.
fn has_names(rows: &Rows, words: &Words) -> bool {
    let Some((first, below)) = rows.split_first() else { return false };
    let is_text = |cell: &[u8]| words.number(cell).is_none();
    if !first.iter().any(|cell| is_text(cell)) {
        return false;
    }
    let column = |position: usize| below.iter().filter_map(move |row| row.get(position));
    let over_numbers = first.iter().enumerate().any(|(position, cell)| {
        let mut numbers = column(position).filter_map(|cell| words.number(cell));
        is_text(cell) && !column(position).any(|cell| is_text(cell)) && numbers.any(|number| !number.is_nan())
    });
    let has_numbers = first.iter().any(|cell| words.number(cell).is_some_and(|number| !number.is_nan()));
    let comes_again = || {
        first.iter().enumerate().any(|(position, cell)| column(position).any(|other| !cell.is_empty() && other == cell))
    };
    over_numbers || (!has_numbers && !comes_again())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: Heading) {
        let rows = text.lines().map(|line| line.split(',').map(|cell| cell.as_bytes().to_vec()).collect()).collect();
        assert_eq!(Heading::of(&rows, &Words::default()), expected, "{text}");
    }

    #[test]
    fn heads_are_told_apart() {
        check("a,b\n1,2", Heading::Names);
        check("1,2\n3,4", Heading::None);
        check("age,sex,y\nc,d,d\n,,class\n3,m,1", Heading::Orange);
        check("age,ecg\ncontinuous,normal odd\n,class\n3,odd", Heading::Orange);
        check("3,2,good,bad\n1,2,0\n3,4,1\n5,6,0", Heading::Counts);
        check("3,2,9\n1,2,0\n3,4,1", Heading::None);
    }
}
