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
