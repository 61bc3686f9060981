//! Rows given back as a file: CSV, JSON Lines, an Arrow stream or Parquet.
//!
//! What was a text is one again, and a missing value is an empty cell or a null. Written block by block into whatever takes
//! bytes, so that a dataset of any length passes through a bounded piece of memory.
//! Start reading with [`write()`].

use std::io::{self, Write};
use std::sync::Arc;

use arrow_array::types::Int32Type;
use arrow_array::{ArrayRef, DictionaryArray, Float32Array, Int32Array, RecordBatch as Block, StringArray};
use arrow_ipc::writer::StreamWriter;
use arrow_schema::{DataType, Field, Schema as Layout};
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;

use super::dataset::{Column, Kind};
use crate::domain::limits::{EXPORT_BLOCK_CELLS, EXPORT_GROUP_CELLS};

/// The forms in which rows are given back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Comma-separated text with a header.
    Csv,
    /// An object by column name in each line.
    Jsonl,
    /// A stream of Arrow batches (IPC).
    Arrow,
    /// A Parquet file, compressed with zstd.
    Parquet,
}

impl Form {
    /// Every form, by name.
    pub const ALL: [(&'static str, Self); 4] =
        [("csv", Self::Csv), ("jsonl", Self::Jsonl), ("arrow", Self::Arrow), ("parquet", Self::Parquet)];

    /// What a response calls it.
    pub fn media_type(self) -> &'static str {
        match self {
            Self::Csv => "text/csv; charset=utf-8; header=present",
            Self::Jsonl => "application/x-ndjson",
            Self::Arrow => "application/vnd.apache.arrow.stream",
            Self::Parquet => "application/vnd.apache.parquet",
        }
    }
}

/// Writes rows of these columns.
///
/// # Errors
/// What `out` answers, or that a value cannot be written.
pub fn write<'r>(
    form: Form,
    columns: &[&Column],
    rows: impl Iterator<Item = &'r [f32]>,
    out: impl Write + Send,
) -> io::Result<()> {
    match form {
        Form::Csv => write_csv(columns, rows, out),
        Form::Jsonl => write_jsonl(columns, rows, out),
        Form::Arrow => {
            let blocks = Blocks::of(columns);
            let mut writer = StreamWriter::try_new(out, &blocks.layout).map_err(io::Error::other)?;
            blocks.each(rows, |batch| writer.write(&batch).map_err(io::Error::other))?;
            writer.finish().map_err(io::Error::other)
        }
        Form::Parquet => {
            let blocks = Blocks::of(columns);
            let properties = WriterProperties::builder()
                .set_compression(Compression::ZSTD(ZstdLevel::default()))
                .set_max_row_group_row_count(Some((EXPORT_GROUP_CELLS / blocks.columns.len().max(1)).max(1)))
                .build();
            let mut writer =
                ArrowWriter::try_new(out, blocks.layout.clone(), Some(properties)).map_err(io::Error::other)?;
            blocks.each(rows, |batch| writer.write(&batch).map_err(io::Error::other))?;
            writer.close().map(|_| ()).map_err(io::Error::other)
        }
    }
}

fn write_csv<'r>(columns: &[&Column], rows: impl Iterator<Item = &'r [f32]>, out: impl Write) -> io::Result<()> {
    let mut writer = csv::WriterBuilder::new().terminator(csv::Terminator::CRLF).from_writer(out);
    writer.write_record(columns.iter().map(|column| &column.name))?;
    let mut number = String::new();
    for row in rows {
        for (column, value) in columns.iter().zip(row) {
            number.clear();
            let text = match column.text(*value) {
                _ if value.is_nan() => "",
                Some(text) => text,
                None if column.levels.is_empty() => {
                    use std::fmt::Write;
                    // As short as it can be and still be read as the same value.
                    write!(number, "{value}").map_err(io::Error::other)?;
                    &number
                }
                None => "",
            };
            writer.write_field(text)?;
        }
        writer.write_record(None::<&[u8]>)?;
    }
    writer.flush()
}

fn write_jsonl<'r>(columns: &[&Column], rows: impl Iterator<Item = &'r [f32]>, mut out: impl Write) -> io::Result<()> {
    let text = |text: &str| serde_json::to_string(text).map_err(io::Error::other);
    let heads: Vec<String> = columns.iter().map(|column| Ok(text(&column.name)? + ":")).collect::<io::Result<_>>()?;
    let levels: Vec<Vec<String>> = columns
        .iter()
        .map(|column| column.levels.iter().map(|level| text(level)).collect())
        .collect::<io::Result<_>>()?;
    let mut line = Vec::new();
    for row in rows {
        line.clear();
        for (position, value) in row.iter().enumerate() {
            line.push(if position == 0 { b'{' } else { b',' });
            line.extend_from_slice(heads[position].as_bytes());
            if levels[position].is_empty() {
                // As short as it can be; what is not finite becomes null.
                serde_json::to_writer(&mut line, value).map_err(io::Error::other)?;
            } else {
                let level = levels[position].get(*value as usize).filter(|_| *value >= 0.0);
                line.extend_from_slice(level.map_or("null", String::as_str).as_bytes());
            }
        }
        line.extend_from_slice(b"}\n");
        out.write_all(&line)?;
    }
    out.flush()
}

/// Makes batches of rows.
struct Blocks {
    layout: Arc<Layout>,
    /// The levels of each kept column; `None` for one of numbers.
    columns: Vec<Option<ArrayRef>>,
}

impl Blocks {
    fn of(described: &[&Column]) -> Self {
        let (mut fields, mut columns) = (Vec::new(), Vec::new());
        for column in described {
            if column.levels.is_empty() {
                fields.push(Field::new(&column.name, DataType::Float32, true));
                columns.push(None);
            } else {
                let kind = DataType::Dictionary(Box::new(DataType::Int32), Box::new(DataType::Utf8));
                let ordered = column.kind == Kind::Ordinal;
                fields.push(Field::new(&column.name, kind, true).with_dict_is_ordered(ordered));
                let levels: ArrayRef = Arc::new(StringArray::from_iter_values(&column.levels));
                columns.push(Some(levels));
            }
        }
        Self { layout: Arc::new(Layout::new(fields)), columns }
    }

    fn each<'r>(
        &self,
        rows: impl Iterator<Item = &'r [f32]>,
        mut take: impl FnMut(Block) -> io::Result<()>,
    ) -> io::Result<()> {
        let at_once = (EXPORT_BLOCK_CELLS / self.columns.len().max(1)).max(1);
        let mut rows = rows.peekable();
        while rows.peek().is_some() {
            let block: Vec<&[f32]> = rows.by_ref().take(at_once).collect();
            let arrays = self.columns.iter().enumerate().map(|(position, levels)| {
                let values = block.iter().map(|row| row[position]);
                match levels {
                    None => {
                        Ok(Arc::new(values.map(|value| (!value.is_nan()).then_some(value)).collect::<Float32Array>())
                            as ArrayRef)
                    }
                    Some(levels) => {
                        let is_level = |value: &f32| *value >= 0.0 && (*value as usize) < levels.len();
                        let keys: Int32Array =
                            values.map(|value| Some(value).filter(is_level).map(|value| value as i32)).collect();
                        let keyed = DictionaryArray::<Int32Type>::try_new(keys, levels.clone());
                        keyed.map(|array| Arc::new(array) as ArrayRef)
                    }
                }
            });
            let arrays = arrays.collect::<Result<Vec<_>, _>>().map_err(io::Error::other)?;
            take(Block::try_new(self.layout.clone(), arrays).map_err(io::Error::other)?)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::batches::trial::read;
    use crate::data::dataset::{Role, Schema};
    use crate::data::{Format, IngestSpec};
    use proptest::prelude::*;

    fn same(a: &[Vec<f32>], b: &[Vec<f32>]) -> bool {
        let values = |rows: &[Vec<f32>]| rows.iter().flatten().map(|value| (value + 0.0).to_bits()).collect::<Vec<_>>();
        let gaps = |rows: &[Vec<f32>]| rows.iter().flatten().map(|value| value.is_nan()).collect::<Vec<_>>();
        gaps(a) == gaps(b) && values(a) == values(b)
    }

    fn exported(form: Form, schema: &Schema, rows: &[Vec<f32>]) -> Vec<u8> {
        let mut out = Vec::new();
        let columns: Vec<&Column> = schema.kept().collect();
        write(form, &columns, rows.iter().map(Vec::as_slice), &mut out).unwrap();
        out
    }

    #[test]
    fn rows_come_back_through_each_form_as_they_were() {
        let lines: String = (0..3000)
            .map(|row| {
                let size = ["large", "small", "middle, \"so\"", ""][row % 4];
                let cell = if row % 5 == 0 { String::new() } else { format!("{}", row as f32 / 3.0) };
                format!("\"{}\",{cell},{}\n", size.replace('"', "\"\""), row % 11)
            })
            .collect();
        let (ingested, rows) = read(format!("size,x,n\n{lines}").as_bytes(), &IngestSpec::default()).unwrap();
        let formats = [Format::Csv, Format::Jsonl, Format::Arrow, Format::Parquet];
        for ((name, form), format) in Form::ALL.into_iter().zip(formats) {
            let bytes = exported(form, &ingested.schema, &rows);
            let (again, found) = read(&bytes, &IngestSpec::default()).unwrap();
            assert_eq!(again.format, format, "{name}");
            assert!(same(&found, &rows), "{name}");
            for (column, other) in ingested.schema.columns.iter().zip(&again.schema.columns) {
                assert_eq!(
                    (&column.name, &column.levels, column.kind),
                    (&other.name, &other.levels, other.kind),
                    "{name}"
                );
            }
        }
    }

    #[test]
    fn columns_that_were_not_kept_are_not_written() {
        let spec = IngestSpec::default().with_role(Role::Ignore, ["b"]);
        let (ingested, rows) = read(b"a,b,c\n1.5,2,3\n4,5,6\n", &spec).unwrap();
        assert_eq!(exported(Form::Csv, &ingested.schema, &rows), b"a,c\r\n1.5,3\r\n4,6\r\n");
        assert_eq!(exported(Form::Jsonl, &ingested.schema, &rows), b"{\"a\":1.5,\"c\":3.0}\n{\"a\":4.0,\"c\":6.0}\n");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        #[test]
        fn any_numbers_come_back_bit_by_bit(
            rows in proptest::collection::vec((any::<i16>(), proptest::option::of(proptest::num::f32::NORMAL)), 1..60),
            form in 0_usize..4,
        ) {
            let text: String = rows
                .iter()
                .map(|(whole, real)| format!("{whole},{}\n", real.map_or(String::new(), |real| real.to_string())))
                .collect();
            let (ingested, rows) = read(format!("a,b\n{text}").as_bytes(), &IngestSpec::default()).unwrap();
            let (_, found) = read(&exported(Form::ALL[form].1, &ingested.schema, &rows), &IngestSpec::default()).unwrap();
            prop_assert!(same(&found, &rows));
        }
    }
}
