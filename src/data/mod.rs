//! From the bytes of a file to canonical rows.
//!
//! A file that lies on disk is read once, in bounded memory, and written as the rows that everything else uses: 32-bit
//! little-endian floats, row after row, NaN where a value is missing ([`rows`]). On the way its columns are described
//! ([`dataset`]). Synchronous; knows no HTTP, SQL or tensors. Start reading with [`ingest`]; a new format is one file and one
//! row of `FORMATS`.

pub mod append;
pub mod csv;
pub mod dataset;
pub mod export;
pub mod npy;
pub mod preparation;
pub mod rows;
pub mod split;

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::domain::refusal::{Code, Faults, Refusal};
use crate::domain::shape::ImageShape;
use dataset::{Column, Schema};
use rows::RowWriter;

/// The file formats that can be uploaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Format {
    /// Comma-separated text with or without a header, plain or gzip.
    Csv,
    /// A NumPy array file.
    Npy,
}

struct FormatRow {
    format: Format,
    name: &'static str,
    /// Whether a file that begins with these bytes is of this format.
    begins: fn(&[u8]) -> bool,
    read: fn(&Path, &mut Sink<'_>) -> Result<(), DataError>,
}

/// Tried in this order when the caller does not name the format; the last one takes every text.
const FORMATS: &[FormatRow] = &[
    FormatRow { format: Format::Npy, name: "npy", begins: npy::begins, read: npy::read },
    FormatRow { format: Format::Csv, name: "csv", begins: |_| true, read: csv::read },
];

impl Format {
    /// The format of that name.
    ///
    /// # Errors
    /// A sentence that lists the names there are.
    pub fn parse(name: &str) -> Result<Self, String> {
        FORMATS.iter().find(|row| row.name == name).map(|row| row.format).ok_or_else(|| {
            let names: Vec<&str> = FORMATS.iter().map(|row| row.name).collect();
            format!("is `{name}`; allowed are {}", names.join(", "))
        })
    }
}

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
#[derive(Clone, Debug, Default)]
pub struct IngestSpec {
    /// The format, when it is not to be found by content.
    pub format: Option<Format>,
    /// Whether a CSV file has a header.
    pub header: Header,
    /// Columns that are kept but never fed to a model without labels.
    pub labels: Vec<String>,
    /// Columns that are not kept at all; they may hold text.
    pub ignored: Vec<String>,
    /// The shape of the image that the feature columns are the pixels of.
    pub image: Option<ImageShape>,
}

/// What came of a file.
#[derive(Debug)]
pub struct Ingested {
    /// The format it was read as.
    pub format: Format,
    /// Number of rows.
    pub rows: u64,
    /// Its columns, described.
    pub schema: Schema,
    /// Bytes of the canonical rows.
    pub bytes: u64,
}

/// Why a file gave no rows.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// The file is at fault.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The machine is.
    #[error("reading or writing a dataset failed: {0}")]
    Io(#[from] io::Error),
}

/// Reads `source` and writes canonical rows to `target`, which must not exist. Both are synced when this returns.
///
/// `most_bytes` bounds the decoded text and the rows that come of it, whatever the file declares.
///
/// # Errors
/// A refusal that names rows and columns, or an I/O error. The caller removes `target` then.
pub fn ingest(source: &Path, target: &Path, spec: &IngestSpec, most_bytes: u64) -> Result<Ingested, DataError> {
    let mut start = Vec::new();
    File::open(source)?.take(64).read_to_end(&mut start)?;
    if start.is_empty() {
        return Err(Refusal::at(Code::InvalidDataset, "", "empty", "the file is empty").into());
    }
    let row = FORMATS
        .iter()
        .find(|row| spec.format.map_or_else(|| (row.begins)(&start), |format| format == row.format))
        .expect("the last format takes everything");
    let mut sink = Sink { spec, target, most_bytes, image: spec.image, columns: Vec::new(), writer: None };
    (row.read)(source, &mut sink)?;
    sink.finish(row.format)
}

/// Where a format puts what it reads: first the names of the columns, then row after row.
struct Sink<'a> {
    spec: &'a IngestSpec,
    target: &'a Path,
    most_bytes: u64,
    image: Option<ImageShape>,
    columns: Vec<Column>,
    writer: Option<RowWriter>,
}

impl Sink<'_> {
    /// Gives every column its role and opens the file of rows.
    fn begin(&mut self, names: Vec<String>) -> Result<(), DataError> {
        self.columns = dataset::columns(names, &self.spec.labels, &self.spec.ignored)?;
        let kept = self.columns.iter().filter(|column| column.is_kept()).count();
        self.writer = Some(RowWriter::create(self.target, kept, self.most_bytes)?);
        Ok(())
    }

    /// Adds one row of the kept columns. NaN stands for a missing value.
    fn push(&mut self, row: &[f32]) -> Result<(), DataError> {
        self.writer.as_mut().expect("begin comes first").push(row)
    }

    fn finish(self, format: Format) -> Result<Ingested, DataError> {
        let written = self.writer.expect("a format begins before it returns").finish()?;
        if written.rows == 0 {
            return Err(Refusal::at(Code::InvalidDataset, "", "empty", "the file has no rows of data").into());
        }
        let mut columns = self.columns;
        for (column, profile) in columns.iter_mut().filter(|column| column.is_kept()).zip(written.profiles) {
            column.describe(profile);
        }
        let schema = Schema { columns, image: self.image };
        check_image(&schema)?;
        Ok(Ingested { format, rows: written.rows, schema, bytes: written.bytes })
    }
}

fn check_image(schema: &Schema) -> Result<(), Refusal> {
    let Some(image) = schema.image else { return Ok(()) };
    let features = schema.features().len();
    if image.pixels() == Some(features) {
        return Ok(());
    }
    let mut faults = Faults::new();
    faults.push(
        "?shape",
        "wrong_shape",
        format!("is {image}, which does not make {features} pixels, the number of feature columns of this file"),
    );
    faults.into_result(Code::InvalidRequest)
}
