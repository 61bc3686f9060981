//! The text of a file: decompressed, in UTF-8, and never longer than is allowed.
//!
//! gzip and zstd are found by their first bytes, UTF-16 by its byte-order mark. Every text format reads through
//! [`Text::open`], and turns what went wrong into a refusal by [`wrong`].

use std::fs::File;
use std::io::{self, BufRead, BufReader, Cursor, Read};
use std::path::Path;

use super::DataError;
use super::rows::too_large;
use crate::domain::limits::LINE_BYTES;
use crate::domain::refusal::{Code, Refusal};

const GZIP: [u8; 2] = [0x1f, 0x8b];
const ZSTD: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
const UTF8_MARK: [u8; 3] = [0xef, 0xbb, 0xbf];
/// Bytes of memory that a zstd frame may ask for, as a power of two.
const ZSTD_WINDOW_LOG: u32 = 27;
/// How much of the start is looked at.
const HEAD_BYTES: usize = 1 << 16;

/// The text of a file.
pub(super) struct Text {
    /// Its start, without a byte-order mark.
    pub head: Vec<u8>,
    /// Whether `head` is all of it.
    pub is_whole: bool,
    rest: Box<dyn Read + Send>,
    most_bytes: u64,
}

impl Text {
    /// Opens a file. Its text may take up to four times `most_bytes`: a number of 32 bits seldom takes more than sixteen
    /// characters.
    pub fn open(source: &Path, most_bytes: u64) -> Result<Self, DataError> {
        let plain = decompressed(source)?;
        let mut bounded =
            Bounded { inner: decoded(plain, most_bytes)?, left: most_bytes.saturating_mul(4), line: 0, fault: None };
        let mut head = Vec::new();
        let taken = bounded.by_ref().take(HEAD_BYTES as u64).read_to_end(&mut head);
        taken.map_err(|error| wrong(error, most_bytes))?;
        if head.contains(&0) {
            return Err(refuse("/", "not_text", "the file is neither text nor another format that is known"));
        }
        let is_whole = head.len() < HEAD_BYTES;
        if head.starts_with(&UTF8_MARK) {
            head.drain(..UTF8_MARK.len());
        }
        Ok(Self { head, is_whole, rest: Box::new(bounded), most_bytes })
    }

    /// All of it, from the start.
    pub fn reader(self) -> BufReader<impl Read> {
        BufReader::with_capacity(1 << 18, Cursor::new(self.head).chain(self.rest))
    }

    /// The limit that its errors are told with.
    pub fn most_bytes(&self) -> u64 {
        self.most_bytes
    }
}

/// What a file begins with, decompressed and in UTF-8; as much as can be read.
pub(super) fn start(source: &Path) -> Result<Vec<u8>, DataError> {
    let mut start = Vec::new();
    let mut plain = decoded(decompressed(source)?, 0)?.take(HEAD_BYTES as u64);
    // Whoever reads the file says what is wrong with it.
    let _ = plain.read_to_end(&mut start);
    if start.starts_with(&UTF8_MARK) {
        start.drain(..UTF8_MARK.len());
    }
    Ok(start)
}

/// The bytes of a file, decompressed where it is compressed. Unbounded.
pub(super) fn decompressed(source: &Path) -> io::Result<Box<dyn Read + Send>> {
    let mut raw = BufReader::with_capacity(1 << 18, File::open(source)?);
    let start = raw.fill_buf()?;
    Ok(if start.starts_with(&GZIP) {
        Box::new(flate2::bufread::MultiGzDecoder::new(raw))
    } else if start.starts_with(&ZSTD) {
        let mut decoder = zstd::stream::read::Decoder::with_buffer(raw)?;
        decoder.window_log_max(ZSTD_WINDOW_LOG)?;
        Box::new(decoder)
    } else {
        Box::new(raw)
    })
}

/// UTF-8 of what may be UTF-16.
fn decoded(mut plain: Box<dyn Read + Send>, most_bytes: u64) -> Result<Box<dyn Read + Send>, DataError> {
    let mut mark = Vec::new();
    plain.by_ref().take(2).read_to_end(&mut mark).map_err(|error| wrong(error, most_bytes))?;
    let utf16 = matches!(mark[..], [0xff, 0xfe] | [0xfe, 0xff]);
    let all = Cursor::new(mark).chain(plain);
    Ok(if utf16 { Box::new(encoding_rs_io::DecodeReaderBytes::new(all)) } else { Box::new(all) })
}

/// Ends the text with an error when it is longer than allowed, or when one of its lines is.
struct Bounded<R> {
    inner: R,
    left: u64,
    line: usize,
    fault: Option<Limit>,
}

#[derive(Clone, Copy, Debug, thiserror::Error)]
enum Limit {
    #[error("too many bytes")]
    Bytes,
    #[error("a line is too long")]
    Line,
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if let Some(limit) = self.fault {
            return Err(io::Error::other(limit));
        }
        let count = self.inner.read(buffer)?;
        let read = &buffer[..count];
        match self.left.checked_sub(count as u64) {
            Some(left) => self.left = left,
            None => self.fault = Some(Limit::Bytes),
        }
        match read.iter().rposition(|byte| *byte == b'\n') {
            Some(position) => self.line = count - position - 1,
            None => self.line += count,
        }
        if self.line > LINE_BYTES {
            self.fault = Some(Limit::Line);
        }
        match self.fault {
            Some(limit) => Err(io::Error::other(limit)),
            None => Ok(count),
        }
    }
}

pub(super) fn refuse(pointer: &str, fault: &str, detail: impl Into<String>) -> DataError {
    Refusal::at(Code::InvalidDataset, pointer, fault, detail).into()
}

/// Reading failed: because of a bound, of damaged compression, or of the disk.
pub(super) fn wrong(error: io::Error, most_bytes: u64) -> DataError {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<Limit>()) {
        Some(Limit::Bytes) => return too_large(most_bytes).into(),
        Some(Limit::Line) => {
            return refuse("/", "line_too_long", format!("a line is longer than {LINE_BYTES} bytes: is this text?"));
        }
        None => {}
    }
    // The system's own errors have a number; those of decoders do not.
    if error.raw_os_error().is_none() {
        return refuse("/", "broken_compression", format!("the compressed data is damaged or cut short: {error}"));
    }
    DataError::Io(error)
}
