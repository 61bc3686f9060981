//! Rows that are added to rows: a file whose columns fit makes a longer dataset.
//!
//! Start reading with [`append`]. What fits is decided by [`matched_columns`] and nowhere else.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use super::dataset::{Column, Kind, Profile, Role, Schema};
use super::rows::{self, RowFile, too_large};
use super::{DataError, Header, IngestSpec, Ingested, ingest};
use crate::domain::refusal::{Code, Faults, Refusal};

/// What a file is added to, and how it is read.
#[derive(Clone, Debug)]
pub struct Addition {
    /// The canonical rows so far.
    pub rows: PathBuf,
    /// How many they are.
    pub count: u64,
    /// Their columns.
    pub schema: Schema,
    /// The format of the file, when it is not to be found by content.
    pub format: Option<super::Format>,
    /// Whether a CSV file has a header.
    pub header: Header,
}

impl Addition {
    /// The file is read for the columns of the dataset: numbers where it has numbers, and no levels but its own. Columns that
    /// it does not use may be absent.
    fn spec(&self) -> IngestSpec {
        let mut spec =
            IngestSpec { format: self.format, header: self.header, passes_over_absent: true, ..IngestSpec::default() };
        for column in &self.schema.columns {
            let name = column.name.clone();
            match () {
                () if !column.is_kept() => spec.roles.push((name, Role::Ignore)),
                () if column.levels.is_empty() => spec.kinds.push((name, Kind::Real)),
                () => spec.levels.push((name, column.levels.clone())),
            }
        }
        spec
    }
}

/// Reads `source` and writes the rows so far, followed by those of the file, to `target`. The rows of the file alone are
/// written to `beside` on the way; neither may exist.
///
/// # Errors
/// A refusal that names the columns that do not fit, or what `ingest` refuses.
pub fn append(
    addition: &Addition,
    source: &Path,
    beside: &Path,
    target: &Path,
    most_bytes: u64,
) -> Result<Ingested, DataError> {
    let added = ingest(source, beside, &addition.spec(), most_bytes)?;
    let order = matched_columns(&addition.schema, &added.schema)?;
    let width = order.len();
    let mut whole = File::options().write(true).create_new(true).open(target)?;
    let so_far = File::open(&addition.rows)?.metadata()?.len();
    if so_far + added.bytes > most_bytes {
        return Err(too_large(most_bytes).into());
    }
    // From file to file this copies within the kernel, and shares the blocks where the file system can.
    io::copy(&mut File::open(&addition.rows)?, &mut whole)?;
    if added.schema.kept().count() == width && order.iter().enumerate().all(|(wanted, given)| wanted == *given) {
        io::copy(&mut File::open(beside)?, &mut whole)?;
    } else {
        let file = RowFile::open(beside, added.schema.kept().count(), added.rows)?;
        let mut out = BufWriter::with_capacity(1 << 20, &whole);
        for index in 0..file.len() {
            let row = file.row(index);
            for given in &order {
                out.write_all(&row[*given].to_le_bytes())?;
            }
        }
        out.flush()?;
    }
    whole.sync_all()?;
    let count = addition.count + added.rows;
    let mut schema = addition.schema.clone();
    let profiles = rows::profiles(target, width, count)?;
    for (column, profile) in schema.columns.iter_mut().filter(|column| column.is_kept()).zip(profiles) {
        describe_again(column, profile, count);
    }
    Ok(Ingested { format: added.format, rows: count, schema, bytes: whole.metadata()?.len() })
}

/// Where each kept column of the dataset stands in a row of the file: by name, or by position where the file has no names.
///
/// # Errors
/// A refusal that names every column that is missing, and every one that is not of the dataset.
pub fn matched_columns(dataset: &Schema, file: &Schema) -> Result<Vec<usize>, Refusal> {
    let wanted: Vec<&str> = dataset.kept().map(|column| column.name.as_str()).collect();
    let given: Vec<&str> = file.kept().map(|column| column.name.as_str()).collect();
    let has_no_names = given.iter().enumerate().all(|(position, name)| *name == format!("c{position}"));
    if has_no_names && wanted != given {
        if given.len() == wanted.len() {
            return Ok((0..wanted.len()).collect());
        }
        if given.len() == dataset.columns.len() {
            let all = dataset.columns.iter().enumerate();
            return Ok(all.filter(|(_, column)| column.is_kept()).map(|(position, _)| position).collect());
        }
    }
    let positions: HashMap<&str, usize> = given.iter().enumerate().map(|(position, name)| (*name, position)).collect();
    let mut faults = Faults::new();
    let mut order = Vec::with_capacity(wanted.len());
    for name in &wanted {
        match positions.get(name) {
            Some(position) => order.push(*position),
            None => faults.push("/columns", "missing_column", format!("lack `{name}`, which the dataset has")),
        }
    }
    let known: HashMap<&str, &Column> = dataset.columns.iter().map(|column| (column.name.as_str(), column)).collect();
    for (position, name) in given.iter().enumerate().filter(|(_, name)| !known.contains_key(*name)) {
        let detail = format!("is `{name}`, which is no column of the dataset");
        faults.push(format!("/columns/{position}"), "unknown_column", detail);
    }
    faults.into_result(Code::InvalidDataset)?;
    Ok(order)
}

/// More rows may make another kind of a column of numbers.
fn describe_again(column: &mut Column, profile: Profile, rows: u64) {
    if !column.levels.is_empty() {
        let (kind, reason, levels) = (column.kind, column.reason.take(), std::mem::take(&mut column.levels));
        column.describe_levels(profile, levels, false);
        (column.kind, column.reason) = (kind, reason);
        return;
    }
    column.profile = Some(profile.clone());
    if column.unfit(column.kind).is_some() {
        column.reason = None;
        column.describe(profile, rows);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Columns of three rows of numbers.
    fn schema(names: &[&str], ignored: &[&str]) -> Schema {
        let directory = tempfile::tempdir().unwrap();
        let (source, target) = (directory.path().join("in"), directory.path().join("rows"));
        let cells = vec!["1.5"; names.len()].join(",");
        std::fs::write(&source, format!("{}\n{cells}\n{cells}\n", names.join(","))).unwrap();
        let spec = IngestSpec { header: Header::Present, ..IngestSpec::default() };
        let spec = spec.with_role(Role::Ignore, ignored.iter().copied());
        ingest(&source, &target, &spec, 1 << 20).unwrap().schema
    }

    #[test]
    fn columns_are_matched_by_name_or_by_position() {
        let dataset = schema(&["id", "a", "b"], &["id"]);
        let check = |names: &[&str]| matched_columns(&dataset, &schema(names, &[])).unwrap();
        assert_eq!(check(&["a", "b"]), [0, 1]);
        assert_eq!(check(&["b", "a"]), [1, 0]);
        assert_eq!(check(&["b", "id", "a"]), [2, 0]);
        assert_eq!(check(&["c0", "c1"]), [0, 1]);
        assert_eq!(check(&["c0", "c1", "c2"]), [1, 2]);
    }

    #[test]
    fn every_column_that_does_not_fit_is_named() {
        let refusal = matched_columns(&schema(&["a", "b"], &[]), &schema(&["x", "b", "y"], &[])).unwrap_err();
        let told: Vec<String> =
            refusal.errors.iter().map(|fault| format!("{} {}", fault.pointer, fault.detail)).collect();
        assert_eq!(
            told,
            [
                "/columns lack `a`, which the dataset has",
                "/columns/0 is `x`, which is no column of the dataset",
                "/columns/2 is `y`, which is no column of the dataset"
            ]
        );
    }
}
