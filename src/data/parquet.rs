//! Parquet files, read batch by batch by the `parquet` crate.
//!
//! Before a page is decoded, the footer and the header of every page that will be read are compared with the file, with each
//! other and with what may be held in memory: a file of some kilobytes can claim to hold petabytes. A column of strings is read as
//! views into its pages, because a dictionary makes a few bytes stand for as many long texts as it likes. Of the Arrow schema
//! that some writers leave in the file nothing is used, so that a category is told by its texts.

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::sync_channel;

use arrow_schema::{DataType, Schema, SchemaRef};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReaderBuilder};
use parquet::basic::{Compression, Type};
use parquet::file::metadata::{ColumnChunkMetaData, PageIndexPolicy};

use super::DataError;
use super::batches::{self, Columns, guarded, mapped};
use super::rows::too_large;
use super::sink::Sink;
use super::text::refuse;
use super::thrift;
use crate::domain::limits::{PARQUET_NESTING, PARQUET_PAGE_VALUES, TABLE_BYTES, TABLE_METADATA_BYTES};

const MAGIC: &[u8; 4] = b"PAR1";
/// The magic of a file whose footer is encrypted.
const ENCRYPTED: &[u8; 4] = b"PARE";
/// Length of the footer and the magic after it.
const TRAILER: usize = 8;
/// Rows and cells of a batch.
const BATCH_ROWS: usize = 8_192;
const BATCH_CELLS: usize = 1 << 17;
/// Bytes of the pages that a batch spans.
const BATCH_BYTES: usize = 4 << 20;
/// Batches that wait to be fed.
const BATCHES: usize = 16;
/// Bytes of a value that is no string: the widest decimal has 32.
const VALUE_BYTES: i32 = 32;
/// A byte of LZ4 stands for at most so many.
const LZ4_RATIO: u64 = 255;
const INDEX_PAGE: i64 = 1;
const DICTIONARY_PAGE: i64 = 2;
/// Strings that are written as what they have in common with the one before, or with their lengths ahead of them.
const DELTA_STRINGS: [i64; 2] = [6, 7];

pub(super) fn begins(start: &[u8]) -> bool {
    start.starts_with(MAGIC) || start.starts_with(ENCRYPTED)
}

pub(super) fn read(source: &Path, sink: &mut Sink<'_>) -> Result<(), DataError> {
    guarded("Parquet", sink, |sink| read_table(source, sink))
}

fn broken(why: impl std::fmt::Display) -> DataError {
    batches::broken("Parquet", why)
}

fn read_table(source: &Path, sink: &mut Sink<'_>) -> Result<(), DataError> {
    check_footer(&mapped(source)?)?;
    let file = File::open(source)?;
    let options =
        || ArrowReaderOptions::new().with_skip_arrow_metadata(true).with_page_index_policy(PageIndexPolicy::Skip);
    let plain = ArrowReaderMetadata::load(&file, options()).map_err(broken)?;
    let views = options().with_schema(with_views(plain.schema()));
    let table = ArrowReaderMetadata::try_new(plain.metadata().clone(), views).map_err(broken)?;
    let columns = Columns::begin(table.schema(), |_| None, sink)?;
    let wanted = columns.wanted();
    let width = wanted.len().max(1);
    let mask = ProjectionMask::roots(table.parquet_schema(), wanted);
    let check = Check { source, most_bytes: sink.most_bytes };
    let row_bytes = check.table(&table, &mask)?;
    let batches = ParquetRecordBatchReaderBuilder::new_with_metadata(file, table)
        .with_projection(mask)
        .with_batch_size((BATCH_CELLS / width).min(BATCH_BYTES / row_bytes.max(1)).clamp(1, BATCH_ROWS))
        .build()
        .map_err(broken)?;
    // Decoded on a thread of its own while those before are fed. Some take long, because pages end in all columns at
    // about the same row. Its panic is that of the scope.
    let (decoded, to_feed) = sync_channel(BATCHES);
    std::thread::scope(|scope| {
        scope.spawn(move || {
            for batch in batches {
                let ends = batch.is_err();
                if decoded.send(batch).is_err() || ends {
                    break;
                }
            }
        });
        for batch in to_feed {
            columns.feed(&batch.map_err(broken)?, sink)?;
            if sink.is_full() {
                break;
            }
        }
        Ok(())
    })
}

/// The schema with every string as a view.
fn with_views(schema: &Schema) -> SchemaRef {
    let fields = schema.fields().iter().map(|field| match field.data_type() {
        DataType::Utf8 | DataType::LargeUtf8 => Arc::new(field.as_ref().clone().with_data_type(DataType::Utf8View)),
        _ => field.clone(),
    });
    Arc::new(Schema::new_with_metadata(fields.collect::<Vec<_>>(), schema.metadata().clone()))
}

/// What has to be right before the footer can be decoded.
fn check_footer(file: &[u8]) -> Result<(), DataError> {
    if file.starts_with(ENCRYPTED) || file.ends_with(ENCRYPTED) {
        return Err(refuse("/", "encrypted", "the Parquet file is encrypted; save it without encryption"));
    }
    let end = file.len().checked_sub(TRAILER).filter(|_| file.ends_with(MAGIC));
    let end = end.ok_or_else(|| broken("it does not end as a Parquet file does"))?;
    let length = file[end..end + 4].iter().rev().fold(0_usize, |sum, byte| sum << 8 | usize::from(*byte));
    let start = end.checked_sub(length).filter(|_| length <= TABLE_METADATA_BYTES);
    let start = start.ok_or_else(|| {
        broken(format!("its footer declares {length} bytes; {end} precede it, and {TABLE_METADATA_BYTES} are allowed"))
    })?;
    match thrift::nesting(&file[start..end]) {
        Some(depth) if depth <= PARQUET_NESTING => Ok(()),
        Some(depth) => Err(broken(format!("its columns are nested {depth} deep; allowed are {PARQUET_NESTING}"))),
        None => Err(broken("its footer cannot be read")),
    }
}

/// What the pages of a column need.
struct Pages {
    /// Bytes that are held while it is read: one page and the dictionary.
    held: u64,
    /// Most bytes of a page for each of its values.
    row_bytes: u64,
}

/// Compares what a file declares with what there is.
struct Check<'a> {
    source: &'a Path,
    most_bytes: u64,
}

impl Check<'_> {
    /// Answers the most bytes that the pages of any row have for it.
    fn table(&self, table: &ArrowReaderMetadata, mask: &ProjectionMask) -> Result<usize, DataError> {
        let (mut rows, mut heaviest) = (0_u64, 0_u64);
        for (group, row_group) in table.metadata().row_groups().iter().enumerate() {
            let count = u64::try_from(row_group.num_rows()).map_err(|_| broken("a row group has no number of rows"))?;
            rows = rows.saturating_add(count);
            let (mut held, mut row_bytes) = (0_u64, 0_u64);
            for (leaf, column) in row_group.columns().iter().enumerate() {
                if !mask.leaf_included(leaf) {
                    continue;
                }
                let name = || format!("row group {group}, column `{}`", column.column_path().string());
                if column.num_values() != row_group.num_rows() {
                    let detail = format!("{}: {} values are declared for {count} rows", name(), column.num_values());
                    return Err(refuse(&format!("/columns/{leaf}"), "wrong_length", detail));
                }
                let pages = self.column(column, &name)?;
                held = held.saturating_add(pages.held);
                row_bytes = row_bytes.saturating_add(pages.row_bytes);
            }
            heaviest = heaviest.max(row_bytes);
            if held > TABLE_BYTES {
                let detail = format!(
                    "row group {group} of the Parquet file would take more than {TABLE_BYTES} bytes of memory, with one page of each column; write it with smaller pages or row groups"
                );
                return Err(refuse("/", "too_large_at_once", detail));
            }
        }
        // A row takes a value at least.
        if rows.saturating_mul(4) > self.most_bytes {
            return Err(too_large(self.most_bytes).into());
        }
        Ok(usize::try_from(heaviest).unwrap_or(usize::MAX))
    }

    /// Looks at the pages of a column.
    fn column(&self, column: &ColumnChunkMetaData, name: &dyn Fn() -> String) -> Result<Pages, DataError> {
        if column.file_path().is_some() {
            return Err(broken(format!("{} is said to lie in another file", name())));
        }
        let descriptor = column.column_descr();
        if descriptor.physical_type() == Type::FIXED_LEN_BYTE_ARRAY
            && !(1..=VALUE_BYTES).contains(&descriptor.type_length())
        {
            return Err(broken(format!("{} has values of {} bytes", name(), descriptor.type_length())));
        }
        let declared =
            [Some(column.data_page_offset()), column.dictionary_page_offset(), Some(column.compressed_size())];
        if declared.into_iter().flatten().any(|number| number < 0) {
            return Err(broken(format!("{} has no place in the file", name())));
        }
        let (start, length) = column.byte_range();
        // A map for every column: what was looked at of the others is no longer held.
        let file = mapped(self.source)?;
        let end = start.checked_add(length).filter(|end| *end <= file.len() as u64);
        let end = end.ok_or_else(|| {
            let detail =
                format!("{} is said to lie at byte {start} with {length} bytes; the file has {}", name(), file.len());
            refuse("/", "wrong_length", detail)
        })?;
        let (mut at, end) = (start as usize, end as usize);
        let (mut values, mut widest, mut dictionary, mut row_bytes) = (0_u64, 0_u64, 0_u64, 0_u64);
        while at < end {
            let rest = &file[at..end];
            let page = thrift::page(rest).ok_or_else(|| broken(format!("{}: a page has no header", name())))?;
            let stored =
                usize::try_from(page.stored_bytes).ok().and_then(|bytes| rest.get(page.header_bytes..)?.get(..bytes));
            let stored = stored.ok_or_else(|| {
                let detail = format!(
                    "{}: the page at byte {at} declares {} bytes; {} follow its header",
                    name(),
                    page.stored_bytes,
                    rest.len() - page.header_bytes
                );
                refuse("/", "wrong_length", detail)
            })?;
            at += page.header_bytes + stored.len();
            if page.kind == INDEX_PAGE {
                continue;
            }
            let plain = u64::try_from(page.plain_bytes).ok();
            let count = u64::try_from(page.values).ok();
            let (Some(plain), Some(count)) = (plain, count) else {
                return Err(broken(format!("{}: a page has no size", name())));
            };
            let packed = usize::try_from(page.level_bytes).ok().and_then(|levels| stored.get(levels..));
            let packed = packed.ok_or_else(|| broken(format!("{}: a page is shorter than its levels", name())))?;
            self.decompressed(column.compression(), packed, plain, name)?;
            let is_text = matches!(descriptor.physical_type(), Type::BYTE_ARRAY | Type::FIXED_LEN_BYTE_ARRAY);
            if is_text && DELTA_STRINGS.contains(&page.encoding) {
                let detail = format!(
                    "{} is written with a delta encoding of its strings, which is not read; write it plain or with a dictionary",
                    name()
                );
                return Err(refuse("/", "not_supported", detail));
            }
            let held = plain.max(stored.len() as u64);
            if page.kind == DICTIONARY_PAGE {
                // Each value takes a byte of the page at least, and a view of 16 in memory.
                if count > held {
                    return Err(broken(format!("{}: a dictionary of {held} bytes declares {count} values", name())));
                }
                dictionary = dictionary.max(held.saturating_add(count * 16));
            } else {
                if count > PARQUET_PAGE_VALUES {
                    return Err(broken(format!(
                        "{}: a page declares {count} values; allowed are {PARQUET_PAGE_VALUES}",
                        name()
                    )));
                }
                values += count;
                widest = widest.max(held);
                row_bytes = row_bytes.max(held / count.max(1));
            }
        }
        if i64::try_from(values) != Ok(column.num_values()) {
            let detail = format!("{}: its pages hold {values} values; {} are declared", name(), column.num_values());
            return Err(refuse("/", "wrong_length", detail));
        }
        Ok(Pages { held: widest.saturating_add(dictionary), row_bytes })
    }

    /// Some codecs write on until their data ends, whatever the page declares: these pages are counted first.
    fn decompressed(
        &self,
        codec: Compression,
        stored: &[u8],
        plain: u64,
        name: &dyn Fn() -> String,
    ) -> Result<(), DataError> {
        let bomb = || broken(format!("{}: a page is larger than the {plain} bytes that it declares", name()));
        if plain > TABLE_BYTES {
            let detail = format!(
                "{}: a page would take {plain} bytes of memory; allowed are {TABLE_BYTES}: write it with smaller pages",
                name()
            );
            return Err(refuse("/", "too_large_at_once", detail));
        }
        let count = |reader: &mut dyn Read| std::io::copy(&mut reader.take(plain + 1), &mut std::io::sink());
        let counted = match codec {
            Compression::GZIP(_) => count(&mut flate2::read::MultiGzDecoder::new(stored)),
            Compression::BROTLI(_) => count(&mut brotli::Decompressor::new(stored, 1 << 12)),
            Compression::LZ4 if stored.len() as u64 * LZ4_RATIO > TABLE_BYTES => return Err(bomb()),
            _ => return Ok(()),
        };
        // Where the count fails, so will the reader, at the same byte.
        match counted {
            Ok(bytes) if bytes > plain => Err(bomb()),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::batches::trial::{peak_bytes, read, refused, survives};
    use crate::data::dataset::{Role, Schema as Described};
    use crate::data::{Format, IngestSpec};
    use ::parquet::arrow::ArrowWriter;
    use ::parquet::basic::{BrotliLevel, GzipLevel, ZstdLevel};
    use ::parquet::file::properties::{EnabledStatistics, WriterProperties, WriterPropertiesBuilder, WriterVersion};
    use arrow_array::types::{Int8Type, Int32Type};
    use arrow_array::*;
    use proptest::prelude::*;

    fn batch(columns: Vec<(&str, ArrayRef)>) -> RecordBatch {
        RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(name, array)| (name, array, true))).unwrap()
    }

    fn file(batch: &RecordBatch, properties: WriterPropertiesBuilder) -> Vec<u8> {
        let properties = properties.set_statistics_enabled(EnabledStatistics::None).build();
        let mut writer = ArrowWriter::try_new(Vec::new(), batch.schema(), Some(properties)).unwrap();
        writer.write(batch).unwrap();
        writer.into_inner().unwrap()
    }

    fn plain() -> WriterPropertiesBuilder {
        WriterProperties::builder()
    }

    fn found(bytes: &[u8]) -> (Described, Vec<Vec<f32>>) {
        let (ingested, rows) = read(bytes, &IngestSpec::default()).unwrap();
        assert_eq!(ingested.format, Format::Parquet);
        (ingested.schema, rows)
    }

    /// Columns of many types with the values 1, none and 0.
    fn every_number() -> RecordBatch {
        macro_rules! of {
            ($array:ident, $kind:ty) => {
                Arc::new($array::from(vec![Some(1 as $kind), None, Some(0 as $kind)])) as ArrayRef
            };
        }
        let half = |value| half::f16::from_f32(value);
        let decimal = |precision| {
            let array = Decimal128Array::from(vec![Some(100), None, Some(0)]);
            Arc::new(array.with_precision_and_scale(precision, 2).unwrap()) as ArrayRef
        };
        let keys = Int8Array::from(vec![Some(1), None, Some(0)]);
        let keyed = DictionaryArray::<Int8Type>::new(keys, Arc::new(Int32Array::from(vec![0, 1])));
        batch(vec![
            ("i8", of!(Int8Array, i8)),
            ("i64", of!(Int64Array, i64)),
            ("u16", of!(UInt16Array, u16)),
            ("u64", of!(UInt64Array, u64)),
            ("f32", of!(Float32Array, f32)),
            ("f64", of!(Float64Array, f64)),
            ("f16", Arc::new(Float16Array::from(vec![Some(half(1.0)), None, Some(half(0.0))]))),
            ("bool", Arc::new(BooleanArray::from(vec![Some(true), None, Some(false)]))),
            ("d9", decimal(9)),
            ("d18", decimal(18)),
            ("d38", decimal(38)),
            ("date", Arc::new(Date32Array::from(vec![Some(1), None, Some(0)]))),
            ("time", Arc::new(TimestampMillisecondArray::from(vec![Some(1000), None, Some(0)]))),
            ("keyed", Arc::new(keyed)),
        ])
    }

    fn texts(count: usize) -> RecordBatch {
        let words = (0..count).map(|row| (row % 7 != 3).then(|| ["red", "green", "blue"][row % 3]));
        let keyed: DictionaryArray<Int32Type> = (0..count).map(|row| Some(["b", "a"][row % 2])).collect();
        batch(vec![
            ("colour", Arc::new(words.collect::<StringArray>())),
            ("keyed", Arc::new(keyed)),
            ("x", Arc::new(Float64Array::from_iter_values((0..count).map(|row| row as f64 / 4.0)))),
        ])
    }

    fn codecs() -> [Compression; 6] {
        [
            Compression::UNCOMPRESSED,
            Compression::SNAPPY,
            Compression::GZIP(GzipLevel::default()),
            Compression::BROTLI(BrotliLevel::default()),
            Compression::LZ4_RAW,
            Compression::ZSTD(ZstdLevel::default()),
        ]
    }

    #[test]
    fn every_type_and_every_compression_reads_the_same() {
        for codec in codecs() {
            for version in [WriterVersion::PARQUET_1_0, WriterVersion::PARQUET_2_0] {
                let properties = plain().set_compression(codec).set_writer_version(version);
                let (schema, rows) = found(&file(&every_number(), properties));
                for (position, column) in schema.columns.iter().enumerate() {
                    assert_eq!((rows[0][position], rows[2][position]), (1.0, 0.0), "{codec} {}", column.name);
                    assert!(rows[1][position].is_nan(), "{codec} {}", column.name);
                }
            }
        }
    }

    #[test]
    fn strings_are_categories_over_row_groups_and_pages() {
        let properties = plain().set_max_row_group_row_count(Some(700)).set_data_page_row_count_limit(100);
        let (schema, rows) = found(&file(&texts(2000), properties));
        assert_eq!(schema.columns[0].levels, ["blue", "green", "red"]);
        assert_eq!(schema.columns[1].levels, ["a", "b"]);
        assert_eq!(rows.len(), 2000);
        for (number, row) in rows.iter().enumerate() {
            assert!(if number % 7 == 3 { row[0].is_nan() } else { row[0] == [2.0, 1.0, 0.0][number % 3] }, "{number}");
            assert_eq!((row[1], row[2]), (1.0 - (number % 2) as f32, number as f32 / 4.0));
        }
    }

    #[test]
    fn nested_columns_are_refused_by_name_unless_ignored() {
        let list = ListArray::from_iter_primitive::<Int32Type, _, _>(vec![Some(vec![Some(1), Some(2)]), None]);
        let x = Arc::new(Float32Array::from(vec![0.5, 1.5]));
        let bytes = file(&batch(vec![("list", Arc::new(list)), ("x", x)]), plain());
        assert_eq!(refused(&bytes, &IngestSpec::default()), ("/columns/0".into(), "not_tabular".into()));
        let spec = IngestSpec::default().with_role(Role::Ignore, ["list"]);
        assert_eq!(read(&bytes, &spec).unwrap().1, [[0.5], [1.5]]);
    }

    #[test]
    fn each_malformed_file_says_what_is_wrong() {
        let code = |bytes: &[u8]| refused(bytes, &IngestSpec::default()).1;
        let whole = file(&every_number(), plain());
        assert_eq!(code(&whole[..whole.len() / 2]), "broken_file");
        assert_eq!(code(b"PAR1"), "broken_file");
        assert_eq!(code(b"PAR1\xff\xff\xff\x7fPAR1"), "broken_file");
        assert_eq!(code(b"PAR1\x00\x00\x00\x00PARE"), "encrypted");
        // Without the pages that the footer speaks of.
        let footer = whole.len() - 8 - u32::from_le_bytes(whole[whole.len() - 8..][..4].try_into().unwrap()) as usize;
        let shorter = [b"PAR1", &whole[footer..]].concat();
        assert_eq!(code(&shorter), "broken_file");
        let infinite = batch(vec![("x", Arc::new(Float64Array::from(vec![0.0, 1e300])))]);
        let place = refused(&file(&infinite, plain()), &IngestSpec::default());
        assert_eq!(place, ("/rows/1/columns/0".into(), "out_of_range".into()));
        let delta = plain().set_dictionary_enabled(false).set_encoding(::parquet::basic::Encoding::DELTA_BYTE_ARRAY);
        let words = batch(vec![("s", Arc::new(StringArray::from(vec!["a", "b"])))]);
        assert_eq!(code(&file(&words, delta)), "not_supported");
    }

    #[test]
    fn a_page_that_lies_about_its_size_is_refused_before_it_is_made() {
        let zeros = batch(vec![("x", Arc::new(Float64Array::from(vec![0.0; 8 << 20])))]);
        for codec in [Compression::GZIP(GzipLevel::default()), Compression::BROTLI(BrotliLevel::default())] {
            let properties = plain()
                .set_compression(codec)
                .set_dictionary_enabled(false)
                .set_data_page_size_limit(1 << 30)
                .set_data_page_row_count_limit(1 << 30)
                .set_write_batch_size(1 << 24)
                .set_max_row_group_row_count(Some(1 << 24));
            let mut bytes = file(&zeros, properties);
            let page = thrift::page(&bytes[4..]).unwrap();
            assert!(page.plain_bytes > 60 << 20, "{page:?}");
            // The size in the header of the page, as it is written: a smaller one of as many bytes.
            let zigzag = |mut number: u64| {
                let mut out = Vec::new();
                while number > 127 {
                    out.push(number as u8 | 0x80);
                    number >>= 7;
                }
                out.push(number as u8);
                out
            };
            let (old, new) = (zigzag(page.plain_bytes as u64 * 2), zigzag(2 << 21));
            let at = bytes.windows(old.len()).position(|window| window == old).unwrap();
            assert_eq!(old.len(), new.len());
            bytes[at..at + new.len()].copy_from_slice(&new);
            let before = peak_bytes();
            assert_eq!(refused(&bytes, &IngestSpec::default()).1, "broken_file");
            assert!(peak_bytes() - before < 16 << 20, "{} bytes more", peak_bytes() - before);
        }
    }

    #[test]
    fn many_pages_of_long_texts_are_not_held_together() {
        // 800 texts of 1 MiB, which differ: 800 MB of plain pages in some hundred kilobytes.
        let text = |row: usize| format!("{row:08}{}", "x".repeat(1 << 20));
        let properties = plain()
            .set_compression(Compression::ZSTD(ZstdLevel::default()))
            .set_dictionary_enabled(false)
            .set_data_page_row_count_limit(4)
            .set_write_batch_size(4)
            .build();
        let of = |from: usize| {
            let texts: StringArray = (from..from + 40).map(|row| Some(text(row))).collect();
            let x = Float32Array::from_iter_values((from..from + 40).map(|row| row as f32));
            batch(vec![("s", Arc::new(texts)), ("x", Arc::new(x))])
        };
        let mut writer = ArrowWriter::try_new(Vec::new(), of(0).schema(), Some(properties)).unwrap();
        for from in (0..800).step_by(40) {
            writer.write(&of(from)).unwrap();
        }
        let bytes = writer.into_inner().unwrap();
        assert!(bytes.len() < 1 << 20, "{}", bytes.len());
        let before = peak_bytes();
        let (_, rows) = found(&bytes);
        assert_eq!(rows.len(), 800);
        assert!(peak_bytes() - before < 150 << 20, "{} bytes more", peak_bytes() - before);
    }

    #[test]
    fn a_dictionary_of_long_texts_does_not_multiply_them() {
        let long = "x".repeat(1 << 20);
        let array: StringArray = (0..50_000).map(|_| Some(long.as_str())).take(500).collect();
        let x = Arc::new(Float32Array::from_iter_values((0..500).map(|row| row as f32)));
        let properties = plain().set_dictionary_page_size_limit(64 << 20);
        let bytes = file(&batch(vec![("s", Arc::new(array)), ("x", x)]), properties);
        assert!(bytes.len() < 4 << 20, "{}", bytes.len());
        let (schema, rows) = found(&bytes);
        assert_eq!((rows.len(), rows[3].len()), (500, 1));
        assert!(schema.columns[0].reason.is_some());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        #[test]
        fn what_was_written_is_read_back(
            rows in proptest::collection::vec((any::<i16>(), proptest::option::of(-1e6_f32..1e6)), 1..200),
            codec in 0_usize..6,
            group in 1_usize..100,
            dictionary: bool,
        ) {
            let whole = Int16Array::from(rows.iter().map(|row| row.0).collect::<Vec<_>>());
            let real = Float32Array::from(rows.iter().map(|row| row.1).collect::<Vec<_>>());
            let properties = plain()
                .set_compression(codecs()[codec])
                .set_max_row_group_row_count(Some(group))
                .set_dictionary_enabled(dictionary);
            let (_, found) = found(&file(&batch(vec![("a", Arc::new(whole)), ("b", Arc::new(real))]), properties));
            let same = found.iter().zip(&rows).all(|(found, (whole, real))| {
                found[0] == f32::from(*whole) && real.map_or(found[1].is_nan(), |real| real == found[1])
            });
            prop_assert!(same && found.len() == rows.len());
        }

        #[test]
        fn any_bytes_behind_the_magic_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let length = (bytes.len() as u32).to_le_bytes();
            survives(&[MAGIC, &bytes[..]].concat());
            survives(&[MAGIC, &bytes[..], &length, MAGIC].concat());
        }

        #[test]
        fn damage_and_cuts_are_survived(at in any::<prop::sample::Index>(), byte: u8, cut: bool, codec in 0_usize..6, words: bool) {
            let batch = if words { texts(300) } else { every_number() };
            let mut bytes = file(&batch, plain().set_compression(codecs()[codec]));
            let at = at.index(bytes.len());
            if cut {
                bytes.truncate(at.max(4));
            } else {
                bytes[at] = byte;
            }
            survives(&bytes);
        }
    }
}
