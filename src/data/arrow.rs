//! Arrow files and streams (IPC), plain or with compressed buffers.
//!
//! Every size that the file declares is compared with the bytes there are, and with what may be held in memory, before
//! anything is decoded; the decoding itself is that of the `arrow-ipc` crate. Buffers that are not compressed are read where
//! they lie, through a memory map. A dictionary that stays the same through the file gives a column its levels.
//! Format: the Arrow columnar format, versions 4 and 5 of its messages.

use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use arrow_array::ArrayRef;
use arrow_buffer::Buffer;
use arrow_ipc::reader::{RecordBatchDecoder, read_dictionary};
use arrow_ipc::{Block, MessageHeader, convert, root_as_footer_with_opts, root_as_message_with_opts};
use arrow_schema::{ArrowError, DataType, Schema, SchemaRef};

use super::DataError;
use super::batches::{self, Columns, guarded, mapped};
use super::sink::{Holds, Sink};
use super::text::refuse;
use crate::domain::limits::{ARROW_MESSAGES, COLUMNS, TABLE_BYTES, TABLE_METADATA_BYTES};

const MAGIC: &[u8; 6] = b"ARROW1";
const CONTINUATION: [u8; 4] = [0xff; 4];
/// Length of the footer and the magic after it.
const TRAILER: usize = 10;
/// A buffer that is stored as it is among compressed ones has this for its length.
const STORED: i64 = -1;

pub(super) fn begins(start: &[u8]) -> bool {
    // No text begins with four bytes 0xff.
    start.starts_with(MAGIC) || start.starts_with(&CONTINUATION)
}

pub(super) fn read(source: &Path, sink: &mut Sink<'_>) -> Result<(), DataError> {
    let file = Buffer::from(mapped(source)?);
    guarded("Arrow", sink, |sink| {
        let (schema, messages) = if file.starts_with(MAGIC) { listed(&file)? } else { walked(&file)? };
        Table { file, schema, dictionaries: HashMap::new(), dictionary_bytes: 0 }.read(&messages, sink)
    })
}

fn broken(why: impl std::fmt::Display) -> DataError {
    batches::broken("Arrow", why)
}

fn wrong(error: ArrowError) -> DataError {
    broken(error)
}

/// How much of a description is looked at. One that repeats its parts without end is cut off.
fn verifier() -> flatbuffers::VerifierOptions {
    flatbuffers::VerifierOptions {
        max_tables: COLUMNS * 16,
        max_apparent_size: TABLE_METADATA_BYTES * 4,
        ..flatbuffers::VerifierOptions::default()
    }
}

/// Where a message is in the file.
struct Message {
    metadata: Range<usize>,
    body: Range<usize>,
}

impl Message {
    /// The message at a place; `None` when the stream ends there.
    fn at(file: &[u8], start: usize) -> Result<Option<Self>, DataError> {
        let word = |at: usize| {
            let bytes = at.checked_add(4).and_then(|end| file.get(at..end));
            bytes.and_then(|bytes| bytes.try_into().ok()).ok_or_else(|| broken("it ends inside a message"))
        };
        if start == file.len() {
            return Ok(None);
        }
        let first: [u8; 4] = word(start)?;
        // Before version 0.15 the length came first.
        let (length, begin) = if first == CONTINUATION { (word(start + 4)?, start + 8) } else { (first, start + 4) };
        let length = i32::from_le_bytes(length);
        if length == 0 {
            return Ok(None);
        }
        let length = usize::try_from(length).ok().filter(|length| *length <= TABLE_METADATA_BYTES);
        let length = length.ok_or_else(|| {
            broken(format!("a message at byte {start} has a description of more than {TABLE_METADATA_BYTES} bytes"))
        })?;
        let metadata = begin..begin + length;
        let Some(description) = file.get(metadata.clone()) else {
            return Err(broken(format!("the description of the message at byte {start} goes beyond its end")));
        };
        let message = root_as_message_with_opts(&verifier(), description).map_err(broken)?;
        let held = file.len() - metadata.end;
        match usize::try_from(message.bodyLength()) {
            Ok(body) if body <= held => Ok(Some(Self { body: metadata.end..metadata.end + body, metadata })),
            _ => Err(refuse(
                "/",
                "wrong_length",
                format!(
                    "the message at byte {start} of the Arrow file declares {} bytes; {held} follow it",
                    message.bodyLength()
                ),
            )),
        }
    }

    fn parsed<'a>(&self, file: &'a [u8]) -> Result<arrow_ipc::Message<'a>, DataError> {
        root_as_message_with_opts(&verifier(), &file[self.metadata.clone()]).map_err(broken)
    }
}

/// The messages of a file, by its footer: dictionaries first.
fn listed(file: &[u8]) -> Result<(SchemaRef, Vec<Message>), DataError> {
    let end = file.len().checked_sub(TRAILER).filter(|_| file.ends_with(MAGIC));
    let end = end.ok_or_else(|| broken("it does not end as an Arrow file does"))?;
    let length = file[end..end + 4].iter().rev().fold(0_usize, |sum, byte| sum << 8 | usize::from(*byte));
    let start = end.checked_sub(length).filter(|_| length <= TABLE_METADATA_BYTES);
    let start = start.ok_or_else(|| broken(format!("its footer declares {length} bytes")))?;
    let footer = root_as_footer_with_opts(&verifier(), &file[start..end]).map_err(broken)?;
    let schema = schema(footer.schema())?;
    let blocks: Vec<&Block> =
        footer.dictionaries().into_iter().flatten().chain(footer.recordBatches().into_iter().flatten()).collect();
    if blocks.len() > ARROW_MESSAGES {
        return Err(too_many());
    }
    let messages = blocks.into_iter().map(|block| {
        let start = usize::try_from(block.offset()).ok().filter(|start| *start < file.len());
        let start = start.ok_or_else(|| broken(format!("a batch is said to be at byte {}", block.offset())))?;
        Message::at(file, start)?.ok_or_else(|| broken("a batch is said to be where the file ends"))
    });
    Ok((schema, messages.collect::<Result<_, _>>()?))
}

/// The messages of a stream, one after the other.
fn walked(file: &[u8]) -> Result<(SchemaRef, Vec<Message>), DataError> {
    let first = Message::at(file, 0)?.ok_or_else(|| broken("it holds no schema"))?;
    let schema = schema(first.parsed(file)?.header_as_schema())?;
    let mut messages = Vec::new();
    let mut at = first.body.end;
    while let Some(message) = Message::at(file, at)? {
        at = message.body.end;
        messages.push(message);
        if messages.len() > ARROW_MESSAGES {
            return Err(too_many());
        }
    }
    Ok((schema, messages))
}

fn too_many() -> DataError {
    refuse(
        "/",
        "too_many",
        format!("the Arrow file has more than {ARROW_MESSAGES} batches; write it with more rows in each"),
    )
}

fn schema(schema: Option<arrow_ipc::Schema<'_>>) -> Result<SchemaRef, DataError> {
    let schema = schema.ok_or_else(|| broken("it holds no schema"))?;
    if !schema.endianness().equals_to_target_endianness() {
        return Err(refuse(
            "/",
            "byte_order",
            "the Arrow file is in the byte order of other machines; write it in little-endian order",
        ));
    }
    Ok(Arc::new(convert::try_fb_to_schema(schema).map_err(wrong)?))
}

struct Table {
    file: Buffer,
    schema: SchemaRef,
    dictionaries: HashMap<i64, ArrayRef>,
    /// Bytes that the dictionaries take in memory.
    dictionary_bytes: u64,
}

impl Table {
    fn read(mut self, messages: &[Message], sink: &mut Sink<'_>) -> Result<(), DataError> {
        let changing = self.changing(messages)?;
        let file = self.file.clone();
        let mut columns = None;
        for message in messages {
            let description = message.parsed(&file)?;
            let body = file.slice_with_length(message.body.start, message.body.len());
            match description.header_type() {
                MessageHeader::DictionaryBatch => {
                    let batch =
                        description.header_as_dictionary_batch().ok_or_else(|| broken("a dictionary is empty"))?;
                    let data = batch.data().ok_or_else(|| broken("a dictionary is empty"))?;
                    self.dictionary_bytes += self.check(&data, &message.body)?;
                    if self.dictionary_bytes > TABLE_BYTES {
                        return Err(too_large("dictionaries"));
                    }
                    let version = description.version();
                    read_dictionary(&body, batch, &self.schema, &mut self.dictionaries, &version).map_err(wrong)?;
                }
                MessageHeader::RecordBatch => {
                    let batch = description.header_as_record_batch().ok_or_else(|| broken("a batch is empty"))?;
                    if self.check(&batch, &message.body)? > TABLE_BYTES {
                        return Err(too_large("one batch"));
                    }
                    let columns = match &columns {
                        Some(columns) => columns,
                        None => columns.insert(self.begin(&changing, sink)?),
                    };
                    let version = description.version();
                    let schema = self.schema.clone();
                    let wanted = columns.wanted();
                    let decoder = RecordBatchDecoder::try_new(&body, batch, schema, &self.dictionaries, &version);
                    let decoder = decoder.map_err(wrong)?.with_projection(Some(&wanted));
                    columns.feed(&decoder.read_record_batch().map_err(wrong)?, sink)?;
                    if sink.is_full() {
                        return Ok(());
                    }
                }
                other => return Err(broken(format!("it holds a message of the kind {other:?} among its batches"))),
            }
        }
        if columns.is_none() {
            self.begin(&changing, sink)?;
        }
        Ok(())
    }

    fn begin(&self, changing: &HashSet<i64>, sink: &mut Sink<'_>) -> Result<Columns, DataError> {
        Columns::begin(&self.schema, |position| self.levels(position, changing), sink)
    }

    /// The levels of a column that draws from a dictionary which stays the same.
    fn levels(&self, position: usize, changing: &HashSet<i64>) -> Option<Holds> {
        let field = self.schema.field(position);
        #[expect(deprecated, reason = "nothing else says which dictionary a column of a file draws from")]
        let id = field.dict_id().filter(|id| !changing.contains(id))?;
        batches::levels(self.dictionaries.get(&id)?, field.dict_is_ordered() == Some(true))
    }

    /// The dictionaries that come more than once.
    fn changing(&self, messages: &[Message]) -> Result<HashSet<i64>, DataError> {
        let (mut seen, mut changing) = (HashSet::new(), HashSet::new());
        for message in messages {
            let Some(dictionary) = message.parsed(&self.file)?.header_as_dictionary_batch() else { continue };
            if dictionary.isDelta() {
                return Err(refuse(
                    "/",
                    "delta_dictionary",
                    "the Arrow file adds to its dictionaries as it goes; write it without delta dictionaries",
                ));
            }
            if !seen.insert(dictionary.id()) {
                changing.insert(dictionary.id());
            }
        }
        Ok(changing)
    }

    /// Compares what a batch declares with its body. Answers the bytes it will take in memory beside the file.
    fn check(&self, batch: &arrow_ipc::RecordBatch<'_>, body: &Range<usize>) -> Result<u64, DataError> {
        let bytes = &self.file[body.clone()];
        let counts = |length: i64, nulls: i64| length >= 0 && (0..=length).contains(&nulls);
        if !counts(batch.length(), 0)
            || batch.nodes().into_iter().flatten().any(|node| !counts(node.length(), node.null_count()))
        {
            return Err(broken("a batch declares a number of rows or of missing values that cannot be"));
        }
        let alignment = if needs_wide_alignment(&self.schema) { 16 } else { 8 };
        let mut taken = 0_u64;
        for buffer in batch.buffers().into_iter().flatten() {
            let start = usize::try_from(buffer.offset()).ok();
            let end = start.and_then(|start| start.checked_add(usize::try_from(buffer.length()).ok()?));
            let held = start.zip(end).and_then(|(start, end)| bytes.get(start..end));
            let Some(held) = held else {
                let detail = format!(
                    "a buffer of the Arrow file is said to have {} bytes from byte {} of its batch on, which has {}",
                    buffer.length(),
                    buffer.offset(),
                    bytes.len()
                );
                return Err(refuse("/", "wrong_length", detail));
            };
            if held.is_empty() {
                continue;
            }
            let is_aligned = (body.start + start.unwrap_or(0)).is_multiple_of(alignment);
            taken = taken.saturating_add(match batch.compression() {
                // What does not lie as the processor reads it is copied.
                None => {
                    if is_aligned {
                        0
                    } else {
                        held.len() as u64
                    }
                }
                Some(_) => {
                    let length = held.first_chunk().map(|length| i64::from_le_bytes(*length));
                    match length.ok_or_else(|| broken("a compressed buffer is too short"))? {
                        STORED => held.len() as u64,
                        length => u64::try_from(length).map_err(|_| broken("a compressed buffer has no length"))?,
                    }
                }
            });
        }
        Ok(taken)
    }
}

fn needs_wide_alignment(schema: &Schema) -> bool {
    schema.fields().iter().any(|field| {
        matches!(field.data_type(), DataType::Utf8View | DataType::Decimal128(..) | DataType::Decimal256(..))
    })
}

fn too_large(what: &str) -> DataError {
    refuse(
        "/",
        "too_large_at_once",
        format!(
            "{what} of the Arrow file would take more than {TABLE_BYTES} bytes of memory; write it with fewer rows in each batch, or without compression"
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::batches::trial::{peak_bytes, read, refused, survives};
    use crate::data::dataset::{Kind, Role, Schema as Described};
    use crate::data::{Format, IngestSpec};
    use arrow_array::builder::StringDictionaryBuilder;
    use arrow_array::types::{Int8Type, Int32Type, UInt8Type};
    use arrow_array::*;
    use arrow_ipc::CompressionType;
    use arrow_ipc::writer::{FileWriter, IpcWriteOptions, StreamWriter};
    use arrow_schema::Field;
    use proptest::prelude::*;

    fn batch(columns: Vec<(&str, ArrayRef)>) -> RecordBatch {
        RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(name, array)| (name, array, true))).unwrap()
    }

    fn file(batches: &[RecordBatch], compression: Option<CompressionType>) -> Vec<u8> {
        let options = IpcWriteOptions::default().try_with_compression(compression).unwrap();
        let mut writer = FileWriter::try_new_with_options(Vec::new(), &batches[0].schema(), options).unwrap();
        batches.iter().for_each(|batch| writer.write(batch).unwrap());
        writer.into_inner().unwrap()
    }

    fn stream(batches: &[RecordBatch]) -> Vec<u8> {
        let mut writer = StreamWriter::try_new(Vec::new(), &batches[0].schema()).unwrap();
        batches.iter().for_each(|batch| writer.write(batch).unwrap());
        writer.into_inner().unwrap()
    }

    fn plain(bytes: &[u8]) -> (Described, Vec<Vec<f32>>) {
        let (ingested, rows) = read(bytes, &IngestSpec::default()).unwrap();
        assert_eq!(ingested.format, Format::Arrow);
        (ingested.schema, rows)
    }

    /// One column of each type that becomes numbers, with the same two values and a gap.
    fn every_number() -> RecordBatch {
        macro_rules! of {
            ($array:ident) => {
                Arc::new($array::from(vec![Some(1 as _), None, Some(0 as _)])) as ArrayRef
            };
        }
        let half = |value| half::f16::from_f32(value);
        let text = ["i8", "i16", "i32", "i64", "u8", "u16", "u32", "u64", "f32", "f64"];
        let arrays = [
            of!(Int8Array),
            of!(Int16Array),
            of!(Int32Array),
            of!(Int64Array),
            of!(UInt8Array),
            of!(UInt16Array),
            of!(UInt32Array),
            of!(UInt64Array),
            of!(Float32Array),
            of!(Float64Array),
        ];
        let mut columns: Vec<(&str, ArrayRef)> = text.into_iter().zip(arrays).collect();
        columns.push(("f16", Arc::new(Float16Array::from(vec![Some(half(1.0)), None, Some(half(0.0))]))));
        columns.push(("bool", Arc::new(BooleanArray::from(vec![Some(true), None, Some(false)]))));
        let decimal = Decimal128Array::from(vec![Some(100), None, Some(0)]).with_precision_and_scale(10, 2).unwrap();
        columns.push(("decimal", Arc::new(decimal)));
        let wide = [Some(arrow_buffer::i256::from(10)), None, Some(arrow_buffer::i256::from(0))];
        let wide = Decimal256Array::from(wide.to_vec()).with_precision_and_scale(40, 1).unwrap();
        columns.push(("wide", Arc::new(wide)));
        columns.push(("date", Arc::new(Date32Array::from(vec![Some(1), None, Some(0)]))));
        columns.push(("date64", Arc::new(Date64Array::from(vec![Some(86_400_000), None, Some(0)]))));
        let time = TimestampMicrosecondArray::from(vec![Some(1_000_000), None, Some(0)]).with_timezone("+01:00");
        columns.push(("time", Arc::new(time)));
        columns.push(("clock", Arc::new(Time64NanosecondArray::from(vec![Some(1_000_000_000), None, Some(0)]))));
        columns.push(("lasts", Arc::new(DurationMillisecondArray::from(vec![Some(1000), None, Some(0)]))));
        let keyed = DictionaryArray::<Int8Type>::new(
            Int8Array::from(vec![Some(1), None, Some(0)]),
            Arc::new(Float64Array::from(vec![0.0, 1.0])),
        );
        columns.push(("keyed", Arc::new(keyed)));
        batch(columns)
    }

    #[test]
    fn every_type_of_number_is_read_and_nulls_are_missing() {
        for bytes in [
            file(&[every_number()], None),
            file(&[every_number()], Some(CompressionType::LZ4_FRAME)),
            file(&[every_number()], Some(CompressionType::ZSTD)),
            stream(&[every_number()]),
        ] {
            let (schema, rows) = plain(&bytes);
            for (position, column) in schema.columns.iter().enumerate() {
                assert_eq!((rows[0][position], rows[2][position]), (1.0, 0.0), "{}", column.name);
                assert!(rows[1][position].is_nan(), "{}", column.name);
            }
            let reason = |name: &str| schema.columns.iter().find(|column| column.name == name).unwrap().reason.clone();
            assert!(reason("date").unwrap().contains("days since 1970"));
            assert!(reason("time").unwrap().contains("seconds since 1970"));
        }
    }

    #[test]
    fn strings_become_categories_and_dictionaries_give_their_levels() {
        let words = ["low", "high", "low"];
        let mut ordered = StringDictionaryBuilder::<Int32Type>::new();
        for level in ["low", "middle", "high"] {
            ordered.append_value(level);
        }
        let values = ordered.finish().values().clone();
        let keys = Int32Array::from(vec![Some(0), Some(2), None]);
        let keyed = DictionaryArray::new(keys, values);
        let kind = DataType::Dictionary(Box::new(DataType::Int32), Box::new(DataType::Utf8));
        let fields = vec![
            Field::new("plain", DataType::Utf8, true),
            Field::new("large", DataType::LargeUtf8, true),
            Field::new("view", DataType::Utf8View, true),
            Field::new("keyed", kind, true).with_dict_is_ordered(true),
            Field::new("x", DataType::Float32, true),
        ];
        let arrays: Vec<ArrayRef> = vec![
            Arc::new(StringArray::from(words.to_vec())),
            Arc::new(LargeStringArray::from(words.to_vec())),
            Arc::new(StringViewArray::from(vec![Some("low"), Some("a text that is longer than its view"), None])),
            Arc::new(keyed),
            Arc::new(Float32Array::from(vec![0.5, 1.5, 2.5])),
        ];
        let batch = RecordBatch::try_new(Arc::new(Schema::new(fields)), arrays).unwrap();
        for bytes in [file(std::slice::from_ref(&batch), None), stream(&[batch.clone(), batch])] {
            let (schema, rows) = plain(&bytes);
            assert_eq!(schema.columns[0].levels, ["high", "low"]);
            assert_eq!(schema.columns[3].levels, ["low", "middle", "high"]);
            assert_eq!((schema.columns[3].kind, schema.columns[1].kind), (Kind::Ordinal, Kind::Categorical));
            assert_eq!(rows[0], [1.0, 1.0, 1.0, 0.0, 0.5]);
            assert_eq!(rows[1], [0.0, 0.0, 0.0, 2.0, 1.5]);
            assert!(rows[2][2].is_nan() && rows[2][3].is_nan());
        }
    }

    #[test]
    fn a_dictionary_that_changes_on_the_way_gives_the_levels_that_came() {
        let part = |words: [&str; 2]| {
            let keyed: DictionaryArray<UInt8Type> = words.into_iter().collect();
            batch(vec![("k", Arc::new(keyed)), ("x", Arc::new(Float32Array::from(vec![0.5, 1.5])))])
        };
        let (schema, rows) = plain(&stream(&[part(["b", "c"]), part(["a", "b"])]));
        assert_eq!(schema.columns[0].levels, ["a", "b", "c"]);
        assert_eq!(rows.iter().map(|row| row[0]).collect::<Vec<_>>(), [1.0, 2.0, 0.0, 1.0]);
    }

    #[test]
    fn columns_that_are_no_table_are_refused_by_name_unless_ignored() {
        let list = ListArray::from_iter_primitive::<Int32Type, _, _>(vec![Some(vec![Some(1)]), None]);
        let bytes = file(
            &[batch(vec![
                ("x", Arc::new(Float32Array::from(vec![0.5, 1.5]))),
                ("list", Arc::new(list)),
                ("bytes", Arc::new(BinaryArray::from(vec![b"a".as_slice(), b"b"]))),
                ("y", Arc::new(NullArray::new(2))),
            ])],
            None,
        );
        assert_eq!(refused(&bytes, &IngestSpec::default()), ("/columns/1".into(), "not_tabular".into()));
        let spec = IngestSpec::default().with_role(Role::Ignore, ["list", "bytes"]);
        let (_, rows) = read(&bytes, &spec).unwrap();
        assert!(rows[1][0] == 1.5 && rows[1][1].is_nan());
    }

    #[test]
    fn large_whole_numbers_are_said_to_be_rounded() {
        let (schema, _) = plain(&file(&[batch(vec![("n", Arc::new(Int64Array::from(vec![1 << 40, 3])))])], None));
        assert!(schema.columns[0].reason.as_ref().unwrap().contains("rounded"));
    }

    #[test]
    fn each_malformed_file_says_what_is_wrong() {
        let whole = file(&[every_number()], None);
        let spec = IngestSpec::default();
        let code = |bytes: &[u8]| refused(bytes, &spec).1;
        assert_eq!(code(&whole[..whole.len() / 2]), "broken_file");
        assert_eq!(code(b"ARROW1\0\0"), "broken_file");
        let endless = [&CONTINUATION[..], &i32::MAX.to_le_bytes(), &[0; 64]].concat();
        assert_eq!(code(&endless), "broken_file");
        let streamed = stream(&[every_number()]);
        assert_eq!(code(&streamed[..streamed.len() - 40]), "wrong_length");
        let infinite = file(&[batch(vec![("x", Arc::new(Float32Array::from(vec![f32::INFINITY])))])], None);
        assert_eq!(refused(&infinite, &spec), ("/rows/0/columns/0".into(), "out_of_range".into()));
        let none = file(&[batch(vec![("x", Arc::new(Float32Array::from(Vec::<f32>::new())))])], None);
        assert_eq!(code(&none), "empty");
    }

    #[test]
    fn a_buffer_that_claims_to_be_huge_is_refused_before_it_is_made() {
        let zeros = Float64Array::from(vec![0.0; 100_000]);
        let bytes = file(&[batch(vec![("x", Arc::new(zeros))])], Some(CompressionType::ZSTD));
        let length = 800_000_i64.to_le_bytes();
        let at = bytes.windows(8).position(|window| window == length).unwrap();
        let before = peak_bytes();
        for forged in [1_i64 << 45, i64::MAX, -2, 300 << 20] {
            let mut bytes = bytes.clone();
            bytes[at..at + 8].copy_from_slice(&forged.to_le_bytes());
            let code = refused(&bytes, &IngestSpec::default()).1;
            assert!(code == "too_large_at_once" || code == "broken_file", "{forged}: {code}");
        }
        assert!(peak_bytes() - before < 16 << 20, "{} bytes more", peak_bytes() - before);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn what_was_written_is_read_back(
            rows in proptest::collection::vec((any::<i16>(), proptest::option::of(-1e6_f32..1e6)), 1..60),
            split in 0_usize..60,
            streamed: bool,
        ) {
            let make = |rows: &[(i16, Option<f32>)]| {
                let whole: Vec<i16> = rows.iter().map(|row| row.0).collect();
                let real: Vec<Option<f32>> = rows.iter().map(|row| row.1).collect();
                batch(vec![("a", Arc::new(Int16Array::from(whole))), ("b", Arc::new(Float32Array::from(real)))])
            };
            let (first, second) = rows.split_at(split.min(rows.len()));
            let parts = [make(first), make(second)];
            let bytes = if streamed { stream(&parts) } else { file(&parts, Some(CompressionType::LZ4_FRAME)) };
            let (_, found) = plain(&bytes);
            let same = found.iter().zip(&rows).all(|(found, (whole, real))| {
                found[0] == f32::from(*whole) && real.map_or(found[1].is_nan(), |real| real == found[1])
            });
            prop_assert!(same && found.len() == rows.len());
        }

        #[test]
        fn any_bytes_behind_the_magic_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..400), kind: bool) {
            let start: &[u8] = if kind { b"ARROW1\0\0" } else { &CONTINUATION };
            survives(&[start, &bytes[..]].concat());
            survives(&[start, &bytes[..], &200_u32.to_le_bytes(), MAGIC].concat());
        }

        #[test]
        fn damage_and_cuts_are_survived(at in any::<prop::sample::Index>(), byte: u8, cut: bool, kind in 0..3) {
            let mut bytes = match kind {
                0 => file(&[every_number()], None),
                1 => file(&[every_number()], Some(CompressionType::ZSTD)),
                _ => stream(&[every_number()]),
            };
            let at = at.index(bytes.len());
            if cut {
                bytes.truncate(at.max(8));
            } else {
                bytes[at] = byte;
            }
            survives(&bytes);
        }
    }
}
