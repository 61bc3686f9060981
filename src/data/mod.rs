//! From the bytes of a file to canonical rows.
//!
//! A file that lies on disk is read once, in bounded memory, and written as the rows that everything else uses: 32-bit
//! little-endian floats, row after row, NaN where a value is missing ([`rows`]). On the way its columns are described
//! ([`dataset`]). Synchronous; knows no HTTP, SQL or tensors. Start reading with [`ingest`]; a new format is one file and one
//! row of `FORMATS`.

pub mod append;
mod arff;
mod arrays;
mod arrow;
mod batches;
pub mod computed;
pub mod csv;
pub mod dataset;
pub mod export;
mod headings;
mod idx;
mod images;
mod jsonl;
mod levels;
pub mod lines;
pub mod npy;
mod npz;
mod parquet;
pub mod preparation;
pub mod quantiles;
pub mod recode;
pub mod rows;
pub mod safetensors;
mod sink;
pub mod spec;
pub mod split;
pub mod summary;
mod text;
mod thrift;
#[cfg(test)]
mod trial;
pub mod words;

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::domain::refusal::{Code, Faults, Refusal};
use dataset::Schema;
use sink::Sink;
pub use spec::{Header, IngestSpec};

/// The file formats that can be uploaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Format {
    /// Comma-separated text with or without a header, plain or gzip.
    Csv,
    /// A NumPy array file.
    Npy,
    /// An Arrow file or stream (IPC), which Feather files of version 2 are too.
    Arrow,
    /// A Parquet file.
    Parquet,
    /// A ZIP archive of PNG and JPEG images, or of one text.
    Zip,
    /// A ZIP archive of one NumPy array, or of rows and their labels.
    Npz,
    /// A safetensors file of one tensor, or of rows and their labels.
    Safetensors,
    /// An IDX file, as those of MNIST, plain, gzip or zstd.
    Idx,
    /// A text of Weka's attribute-relation format.
    Arff,
    /// Lines that each hold one JSON object or array.
    Jsonl,
    /// No file: rows that a model computed here.
    Computed,
}

/// What the database calls rows that no file was read for.
const COMPUTED: &str = "computed";

struct FormatRow {
    format: Format,
    name: &'static str,
    /// Whether a file that begins with these bytes is of this format.
    begins: fn(&[u8]) -> bool,
    read: fn(&Path, &mut Sink<'_>) -> Result<(), DataError>,
}

/// Tried in this order when the caller does not name the format; an NPZ is a ZIP of arrays, and the last one takes every text.
const FORMATS: &[FormatRow] = &[
    FormatRow { format: Format::Npy, name: "npy", begins: npy::begins, read: npy::read },
    FormatRow { format: Format::Arrow, name: "arrow", begins: arrow::begins, read: arrow::read },
    FormatRow { format: Format::Parquet, name: "parquet", begins: parquet::begins, read: parquet::read },
    FormatRow { format: Format::Npz, name: "npz", begins: npz::begins, read: npz::read },
    FormatRow {
        format: Format::Safetensors,
        name: "safetensors",
        begins: safetensors::begins,
        read: safetensors::read,
    },
    FormatRow { format: Format::Idx, name: "idx", begins: idx::begins, read: idx::read },
    FormatRow { format: Format::Arff, name: "arff", begins: arff::begins, read: arff::read },
    FormatRow { format: Format::Jsonl, name: "jsonl", begins: jsonl::begins, read: jsonl::read },
    FormatRow { format: Format::Zip, name: "zip", begins: images::begins, read: images::read },
    FormatRow { format: Format::Csv, name: "csv", begins: |_| true, read: csv::read },
];

/// Bytes of a file that its format is found in.
const START_BYTES: u64 = 1 << 10;
/// Formats that a file may hold compressed as a whole. They are found by what is in it.
const COMPRESSED: &[Format] = &[Format::Idx, Format::Arff, Format::Jsonl, Format::Csv];

impl Format {
    /// The format of that name, or that of rows which came from no file.
    ///
    /// # Errors
    /// There is none.
    pub fn stored(name: &str) -> Result<Self, String> {
        if name == COMPUTED { Ok(Self::Computed) } else { Self::parse(name) }
    }

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
    read(source, Sink::new(spec, target, most_bytes))
}

/// The same for rows that are read once and thrown away: `target` is not synced.
///
/// # Errors
/// As of [`ingest`].
pub fn pass(source: &Path, target: &Path, spec: &IngestSpec, most_bytes: u64) -> Result<Ingested, DataError> {
    let mut sink = Sink::new(spec, target, most_bytes);
    sink.lasts = false;
    read(source, sink)
}

fn read(source: &Path, mut sink: Sink<'_>) -> Result<Ingested, DataError> {
    let mut start = Vec::new();
    File::open(source)?.take(START_BYTES).read_to_end(&mut start)?;
    if start.is_empty() {
        return Err(Refusal::at(Code::InvalidDataset, "", "empty", "the file is empty").into());
    }
    let inner = text::start(source)?;
    let begins = |row: &FormatRow| (row.begins)(if COMPRESSED.contains(&row.format) { &inner } else { &start });
    let row = FORMATS
        .iter()
        .find(|row| sink.spec.format.map_or_else(|| begins(row), |format| format == row.format))
        .expect("the last format takes everything");
    (row.read)(source, &mut sink)?;
    sink.finish(row.format)
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
