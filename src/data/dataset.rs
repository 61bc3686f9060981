//! What is known of a dataset: its columns, their roles, and a profile of each.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::domain::limits::{COLUMN_NAME_CHARS, COLUMNS};
use crate::domain::refusal::{Code, Faults, Refusal};
use crate::domain::shape::{ImageShape, RowShape};

/// What a column is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Fed to the model.
    Feature,
    /// Kept, but never fed to a model that learns without labels; splits can be stratified by it.
    Label,
    /// Not kept.
    Ignore,
}

/// What the values of a column look like.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Any number.
    Real,
    /// Numbers above zero, not all whole.
    Positive,
    /// Whole numbers from zero up.
    Count,
    /// Only 0 and 1, or one of them.
    Binary,
    /// Not looked at, because the column is ignored.
    Unknown,
}

/// Figures of one column over all rows. Missing values count only in `missing`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Profile {
    /// Smallest value; absent when every value is missing.
    pub minimum: Option<f64>,
    /// Largest value.
    pub maximum: Option<f64>,
    /// Mean.
    pub mean: Option<f64>,
    /// Standard deviation of the population (divided by n).
    pub deviation: Option<f64>,
    /// How many rows have no value here.
    pub missing: u64,
    /// How many different values there are.
    pub distinct: u64,
    /// False when counting stopped: there are at least `distinct`.
    pub distinct_is_exact: bool,
    /// The kind that the values suggest.
    #[serde(skip)]
    pub(super) kind: Option<Kind>,
}

/// One column of the file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Column {
    /// The name in the header, or `c0`, `c1` … where there is none.
    pub name: String,
    /// What its values look like.
    pub kind: Kind,
    /// What it is for.
    pub role: Role,
    /// Figures; absent for an ignored column.
    pub profile: Option<Profile>,
}

impl Column {
    /// Whether the canonical rows hold it.
    pub fn is_kept(&self) -> bool {
        self.role != Role::Ignore
    }

    pub(super) fn describe(&mut self, profile: Profile) {
        self.kind = profile.kind.unwrap_or(Kind::Real);
        self.profile = Some(profile);
    }
}

/// The columns of a dataset, and the image they make when they are pixels.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Schema {
    /// Every column of the file, in its order.
    pub columns: Vec<Column>,
    /// The shape of the image that the feature columns are the pixels of.
    pub image: Option<ImageShape>,
}

impl Schema {
    /// The columns that the canonical rows hold, in their order.
    pub fn kept(&self) -> impl Iterator<Item = &Column> {
        self.columns.iter().filter(|column| column.is_kept())
    }

    /// Where the feature columns stand in a canonical row.
    pub fn features(&self) -> Vec<usize> {
        self.positions(Role::Feature)
    }

    /// Where the label columns stand in a canonical row.
    pub fn labels(&self) -> Vec<usize> {
        self.positions(Role::Label)
    }

    /// The feature columns, in their order.
    pub fn feature_columns(&self) -> impl Iterator<Item = &Column> {
        self.columns.iter().filter(|column| column.role == Role::Feature)
    }

    /// The label columns, in their order.
    pub fn label_columns(&self) -> impl Iterator<Item = &Column> {
        self.columns.iter().filter(|column| column.role == Role::Label)
    }

    /// Whether values of feature columns are missing.
    pub fn has_gaps(&self) -> bool {
        self.feature_columns().any(|column| column.profile.as_ref().is_some_and(|profile| profile.missing > 0))
    }

    /// The shape that a model of these rows has.
    pub fn row_shape(&self) -> RowShape {
        RowShape { width: self.features().len(), image: self.image }
    }

    fn positions(&self, role: Role) -> Vec<usize> {
        self.kept().enumerate().filter(|(_, column)| column.role == role).map(|(position, _)| position).collect()
    }
}

/// Columns with their roles, from names and from what the caller said of them.
pub(super) fn columns(names: Vec<String>, labels: &[String], ignored: &[String]) -> Result<Vec<Column>, Refusal> {
    let mut faults = Faults::new();
    if names.len() > COLUMNS {
        faults.push("/columns", "too_many", format!("are {}; allowed are up to {COLUMNS}", names.len()));
        faults.into_result(Code::InvalidDataset)?;
        unreachable!("a fault was pushed");
    }
    let mut seen = std::collections::HashMap::new();
    for (position, name) in names.iter().enumerate() {
        if name.chars().count() > COLUMN_NAME_CHARS {
            faults.push(
                format!("/columns/{position}"),
                "too_long",
                format!("has a name of more than {COLUMN_NAME_CHARS} characters"),
            );
        }
        if let Some(first) = seen.insert(name.as_str(), position) {
            let detail = format!("is called `{name}`, as column {first} already is (columns are counted from 0)");
            faults.push(format!("/columns/{position}"), "duplicate", detail);
        }
    }
    for (parameter, wanted) in [("?label", labels), ("?ignore", ignored)] {
        for name in wanted.iter().filter(|name| !seen.contains_key(name.as_str())) {
            let some: Vec<&str> = names.iter().take(12).map(String::as_str).collect();
            faults.push(parameter, "unknown_column", format!("names `{name}`; the columns are {}", some.join(", ")));
        }
    }
    for name in labels.iter().filter(|name| ignored.contains(name)) {
        faults.push("?ignore", "conflict", format!("names `{name}`, which `label` names too"));
    }
    let role = |name: &String| match () {
        () if ignored.contains(name) => Role::Ignore,
        () if labels.contains(name) => Role::Label,
        () => Role::Feature,
    };
    let columns: Vec<Column> = names
        .iter()
        .map(|name| Column { name: name.clone(), kind: Kind::Unknown, role: role(name), profile: None })
        .collect();
    if faults.is_empty() && !columns.iter().any(|column| column.role == Role::Feature) {
        faults.push("/columns", "no_features", "leave none to feed a model: every column is a label or ignored");
    }
    faults.into_result(Code::InvalidDataset)?;
    Ok(columns)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn features_are_found_among_the_kept_columns() {
        let columns = columns(text(&["id", "a", "y", "b"]), &text(&["y"]), &text(&["id"])).unwrap();
        let schema = Schema { columns, image: None };
        assert_eq!(schema.features(), [0, 2]);
        assert_eq!(schema.labels(), [1]);
        assert_eq!(schema.row_shape().width, 2);
    }

    #[test]
    fn every_fault_of_the_columns_is_reported_at_once() {
        let refusal = columns(text(&["a", "a", "b"]), &text(&["x"]), &text(&["z"])).unwrap_err();
        let pointers: Vec<&str> = refusal.errors.iter().map(|fault| fault.pointer.as_str()).collect();
        assert_eq!(pointers, ["/columns/1", "?label", "?ignore"]);
    }
}
