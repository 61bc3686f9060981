//! Rows and codes that come as a table: CSV, JSON Lines, Arrow or Parquet.
//!
//! A table is read as a dataset is (`data::pass`), in a directory that disappears: by the names of its columns, or by their
//! positions where it has none. Categories come by their texts, and what is said of the columns is what the model was trained on.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::path::Path;

use bytes::Bytes;

use super::Asked;
use super::answers::unit_name;
use super::bodies::{Missing, ONLY_IMPUTE};
use crate::data::dataset::{Column, Kind, Role, Schema};
use crate::data::rows::RowFile;
use crate::data::{DataError, Format, Header, IngestSpec, pass};
use crate::domain::limits::{INFERENCE_ROWS, INFERENCE_VALUES};
use crate::domain::refusal::{Code, Fault, Faults, Refusal};
use crate::http::error::{ApiError, internal};

/// What a table brings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Brought {
    /// Rows, and what becomes of missing values.
    Rows(Missing),
    /// Codes.
    Codes,
}

/// Reads a table of a body.
///
/// # Errors
/// It is no such table, or its columns or values are not those of the model.
pub(super) async fn read(
    asked: &Asked,
    format: Format,
    header: Header,
    bytes: Bytes,
    brought: Brought,
) -> Result<Vec<f32>, ApiError> {
    let permit = asked.app.reading.clone().acquire_owned().await.map_err(|error| internal(&error))?;
    let (model, latent) = (asked.model.clone(), asked.latent());
    let slots = asked.slots.clone().filter(|_| asked.units.prepared_in);
    let scratch = asked.app.store.scratch()?;
    let read = move || {
        let _permit = permit;
        let table = match brought {
            Brought::Rows(missing) => Table::rows(slots.as_deref().unwrap_or(&model.schema), missing),
            Brought::Codes => Table::codes(latent),
        };
        let (source, target) = (scratch.path("body"), scratch.path("rows"));
        std::fs::write(&source, &bytes)?;
        drop(bytes);
        table.read(format, header, &source, &target)
    };
    tokio::task::spawn_blocking(read).await.map_err(|error| internal(&error))?.map_err(refused)
}

/// A body is at fault where a dataset would be.
pub(super) fn refused(error: DataError) -> ApiError {
    let mut refusal = match error {
        DataError::Refused(refusal) => refusal,
        other => return other.into(),
    };
    match refusal.code {
        Code::TooLarge => {
            refusal.detail = format!(
                "the body holds more than the {} bytes that are allowed here, counted after decompression",
                MOST_BYTES
            );
        }
        Code::InvalidDataset => refusal.code = Code::InvalidRequest,
        _ => {}
    }
    for Fault { pointer, detail, .. } in &mut refusal.errors {
        if pointer.is_empty() {
            "/".clone_into(pointer);
        }
        // What could be said of a column at an upload cannot be said here.
        if let Some((fault, _)) = detail.split_once("; say kind=") {
            *detail = fault.to_owned();
        }
    }
    if let Some((fault, _)) = refusal.detail.split_once("; say kind=") {
        refusal.detail = fault.to_owned();
    }
    refusal.into()
}

/// Bytes of the text of a table, or of its rows.
const MOST_BYTES: u64 = (INFERENCE_VALUES * size_of::<f32>()) as u64;

/// What a table is to hold.
struct Table<'a> {
    /// `rows` or `codes`.
    what: &'static str,
    columns: Vec<Cow<'a, Column>>,
    /// Columns of the model's dataset that are passed over.
    others: Vec<&'a str>,
    missing: Missing,
}

impl<'a> Table<'a> {
    fn rows(schema: &'a Schema, missing: Missing) -> Self {
        let is_feature = |column: &Column| column.is_kept() && column.role == Role::Feature;
        let others = schema.columns.iter().filter(|column| !is_feature(column));
        Self {
            what: "rows",
            columns: schema.feature_columns().map(Cow::Borrowed).collect(),
            others: others.map(|column| column.name.as_str()).collect(),
            missing,
        }
    }

    fn codes(width: usize) -> Self {
        let columns = (0..width).map(|unit| Cow::Owned(Column::of_numbers(unit_name(unit))));
        Self { what: "codes", columns: columns.collect(), others: Vec::new(), missing: Missing::Refused }
    }

    /// How the file is read: numbers where the model has numbers, and no levels but its own. A file without names has its columns
    /// in the order of the model's.
    fn spec(&self, format: Format, header: Header) -> IngestSpec {
        let mut spec = IngestSpec { format: Some(format), header, passes_over_absent: true, ..IngestSpec::default() };
        let names: HashSet<&str> =
            self.columns.iter().map(|column| column.name.as_str()).chain(self.others.iter().copied()).collect();
        for (position, column) in self.columns.iter().enumerate() {
            let unnamed = Some(format!("c{position}")).filter(|name| !names.contains(name.as_str()));
            for name in std::iter::once(column.name.clone()).chain(unnamed) {
                match column.levels.is_empty() {
                    true => spec.kinds.push((name, Kind::Real)),
                    false => spec.levels.push((name, column.levels.clone())),
                }
            }
        }
        spec.with_role(Role::Ignore, self.others.iter().copied())
    }

    fn read(&self, format: Format, header: Header, source: &Path, target: &Path) -> Result<Vec<f32>, DataError> {
        let passed = pass(source, target, &self.spec(format, header), MOST_BYTES)?;
        let places = self.places(&passed.schema)?;
        let (rows, width) = (passed.rows, self.columns.len());
        if rows > INFERENCE_ROWS as u64 || rows.saturating_mul(width as u64) > INFERENCE_VALUES as u64 {
            let detail = format!(
                "has {rows} {} of {width}; allowed are 1 to {INFERENCE_ROWS}, and {INFERENCE_VALUES} values",
                self.what
            );
            return Err(invalid("/", "wrong_length", detail));
        }
        let kept: Vec<usize> =
            (0..passed.schema.columns.len()).filter(|at| passed.schema.columns[*at].is_kept()).collect();
        let in_row: HashMap<usize, usize> = kept.iter().enumerate().map(|(place, column)| (*column, place)).collect();
        let from: Vec<Option<usize>> =
            places.iter().map(|place| place.and_then(|column| in_row.get(&column).copied())).collect();
        let file = RowFile::open(target, kept.len(), rows)?;
        let mut values = Vec::with_capacity(rows as usize * width);
        let mut faults = Faults::new();
        for index in 0..file.len() {
            let row = file.row(index);
            for (at, place) in from.iter().enumerate() {
                let value = place.map_or(f32::NAN, |place| row[place]);
                if value.is_nan() && self.missing != Missing::Kept {
                    let column = places[at].unwrap_or_default();
                    let detail = format!("(column `{}`) has no value; {ONLY_IMPUTE}", self.columns[at].name);
                    faults.push(format!("/rows/{index}/columns/{column}"), "missing_value", detail);
                }
                values.push(value);
            }
        }
        faults.into_result(Code::InvalidRequest)?;
        Ok(values)
    }

    /// Which column of the file each of the model's is; `None` where it has none and that is a missing value.
    fn places(&self, file: &Schema) -> Result<Vec<Option<usize>>, DataError> {
        let given: HashMap<&str, usize> =
            file.columns.iter().enumerate().map(|(position, column)| (column.name.as_str(), position)).collect();
        let width = self.columns.len();
        let has_no_names = file.columns.iter().enumerate().all(|(at, column)| column.name == format!("c{at}"));
        if has_no_names && !self.columns.iter().any(|column| given.contains_key(column.name.as_str())) {
            if file.columns.len() == width {
                return Ok((0..width).map(Some).collect());
            }
            let detail = format!("has {} values; this model takes {width}", file.columns.len());
            return Err(invalid("/rows/0", "wrong_width", detail));
        }
        let mut faults = Faults::new();
        let mut places = Vec::with_capacity(width);
        for column in &self.columns {
            let place = given.get(column.name.as_str()).copied();
            if place.is_none() && self.missing != Missing::Kept {
                let detail = format!("lack `{}`, which the model takes", column.name);
                faults.push("/columns", "missing_column", detail);
            }
            places.push(place);
        }
        let known: HashSet<&str> =
            self.columns.iter().map(|column| column.name.as_str()).chain(self.others.iter().copied()).collect();
        for (position, column) in
            file.columns.iter().enumerate().filter(|(_, column)| !known.contains(column.name.as_str()))
        {
            let detail = format!("is `{}`, which is no column of this model", column.name);
            faults.push(format!("/columns/{position}"), "unknown_column", detail);
        }
        faults.into_result(Code::InvalidRequest)?;
        Ok(places)
    }
}

fn invalid(pointer: &str, fault: &str, detail: String) -> DataError {
    Refusal::at(Code::InvalidRequest, pointer, fault, detail).into()
}
