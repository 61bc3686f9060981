//! Rows as files that other programs read: CSV, an Arrow stream, Parquet. Written block after block, so that a dataset of any
//! length passes through little memory. A missing value is an empty cell, or a null.

use std::io::{self, Write};
use std::ops::Range;
use std::sync::Arc;

use arrow_array::{ArrayRef, Float32Array, RecordBatch as Block};
use arrow_schema::{ArrowError, DataType, Field};
use parquet::arrow::ArrowWriter;
use parquet::basic::Compression;
use parquet::errors::ParquetError;
use parquet::file::properties::WriterProperties;

use super::dataset::Column;
use super::rows::RowFile;

/// Values that are in memory at once.
const BLOCK_VALUES: usize = 1 << 20;
/// Values of a row group of Parquet, which is encoded in memory as a whole.
const GROUP_VALUES: usize = 4 << 20;

/// The formats that rows can be written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExportFormat {
    /// Comma-separated text with a header, as RFC 4180 has it.
    Csv,
    /// A stream of Arrow record batches.
    Arrow,
    /// A Parquet file.
    Parquet,
}

/// Writes rows, with their kept columns named.
///
/// # Errors
/// `out` does not take more.
pub fn write<W: Write + Send>(
    format: ExportFormat,
    file: &RowFile,
    columns: &[Column],
    rows: Range<usize>,
    out: W,
) -> io::Result<()> {
    match format {
        ExportFormat::Csv => csv(file, columns, rows, out),
        ExportFormat::Arrow => arrow(file, columns, rows, out).map_err(|error| match error {
            ArrowError::IoError(_, error) => error,
            other => io::Error::other(other),
        }),
        ExportFormat::Parquet => parquet(file, columns, rows, out).map_err(|error| match error {
            ParquetError::External(error) => io::Error::other(error),
            other => io::Error::other(other),
        }),
    }
}

fn csv<W: Write>(file: &RowFile, columns: &[Column], rows: Range<usize>, out: W) -> io::Result<()> {
    let mut writer = csv::WriterBuilder::new().terminator(csv::Terminator::CRLF).from_writer(out);
    writer.write_record(columns.iter().map(|column| column.name.as_str()))?;
    let mut cell = String::new();
    for index in rows {
        for (value, column) in file.row(index).iter().zip(columns) {
            cell.clear();
            write_text(column, *value, &mut cell);
            writer.write_field(&cell)?;
        }
        writer.write_record(None::<&[u8]>)?;
    }
    writer.flush()
}

/// A value as the shortest text that reads back as the same 32-bit float.
fn write_text(_: &Column, value: f32, cell: &mut String) {
    use std::fmt::Write;
    let size = value.abs();
    let written = match () {
        () if value.is_nan() => Ok(()),
        () if value == 0.0 || (1e-5..1e16).contains(&size) => write!(cell, "{value}"),
        () => write!(cell, "{value:e}"),
    };
    written.expect("a text takes what is written to it");
}

fn arrow<W: Write>(file: &RowFile, columns: &[Column], rows: Range<usize>, out: W) -> Result<(), ArrowError> {
    let schema = schema(columns);
    let mut writer = arrow_ipc::writer::StreamWriter::try_new(out, &schema)?;
    for block in blocks(rows, columns.len()) {
        writer.write(&batch(file, &schema, block)?)?;
    }
    writer.finish()
}

fn parquet<W: Write + Send>(
    file: &RowFile,
    columns: &[Column],
    rows: Range<usize>,
    out: W,
) -> Result<(), ParquetError> {
    let schema = schema(columns);
    let group = (GROUP_VALUES / columns.len().max(1)).max(1);
    let properties = WriterProperties::builder()
        .set_compression(Compression::SNAPPY)
        .set_max_row_group_row_count(Some(group))
        .build();
    let mut writer = ArrowWriter::try_new(out, Arc::clone(&schema), Some(properties))?;
    for block in blocks(rows, columns.len()) {
        writer.write(&batch(file, &schema, block)?)?;
    }
    writer.close().map(|_| ())
}

fn schema(columns: &[Column]) -> arrow_schema::SchemaRef {
    let fields: Vec<Field> = columns.iter().map(|column| Field::new(&column.name, DataType::Float32, true)).collect();
    Arc::new(arrow_schema::Schema::new(fields))
}

fn blocks(rows: Range<usize>, width: usize) -> impl Iterator<Item = Range<usize>> {
    let step = (BLOCK_VALUES / width.max(1)).max(1);
    let end = rows.end;
    rows.step_by(step).map(move |start| start..(start + step).min(end))
}

fn batch(file: &RowFile, schema: &arrow_schema::SchemaRef, rows: Range<usize>) -> Result<Block, ArrowError> {
    let column = |position: usize| -> ArrayRef {
        let values = rows.clone().map(|index| Some(file.row(index)[position]).filter(|value| !value.is_nan()));
        Arc::new(values.collect::<Float32Array>())
    };
    Block::try_new(Arc::clone(schema), (0..schema.fields().len()).map(column).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{IngestSpec, ingest};

    #[test]
    fn a_csv_file_that_was_written_reads_back_as_the_same_numbers() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        let text = "\"a, \"\"b\"\"\",c\r\n0.1,\r\n-3.4e38,1e-45\r\n16777216,0.3333333\r\n";
        std::fs::write(path("first"), text).unwrap();
        let read = |from: &str, to: &str| ingest(&path(from), &path(to), &IngestSpec::default(), 1 << 20).unwrap();
        let first = read("first", "rows");
        let file = RowFile::open(&path("rows"), 2, first.rows).unwrap();
        let mut out = Vec::new();
        write(ExportFormat::Csv, &file, &first.schema.columns, 0..3, &mut out).unwrap();
        assert_eq!(String::from_utf8(out.clone()).unwrap(), text);
        std::fs::write(path("second"), out).unwrap();
        assert_eq!(read("second", "again").schema, first.schema);
        assert_eq!(std::fs::read(path("rows")).unwrap(), std::fs::read(path("again")).unwrap());
    }

    #[test]
    fn blocks_cover_every_row_once() {
        let found: Vec<_> = blocks(3..10, BLOCK_VALUES / 3).collect();
        assert_eq!(found, [3..6, 6..9, 9..10]);
        assert_eq!(blocks(0..2, BLOCK_VALUES * 2).collect::<Vec<_>>(), [0..1, 1..2]);
        assert_eq!(blocks(5..5, 1).count(), 0);
    }
}
