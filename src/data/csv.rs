//! Comma-separated text, with or without a header, plain or gzip, in UTF-8.
//!
//! Cells are numbers; empty ones and the usual markers (`NA`, `NaN`, `null`, `none`, `?`) are missing values. Faults name the line, and
//! up to a score of them are reported together.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;

use super::rows::too_large;
use super::{DataError, Header, Sink};
use crate::domain::limits::LINE_BYTES;
use crate::domain::refusal::{Code, Faults, Refusal};

const GZIP: [u8; 2] = [0x1f, 0x8b];
const UTF8_MARK: [u8; 3] = [0xef, 0xbb, 0xbf];

pub(super) fn read(source: &Path, sink: &mut Sink<'_>) -> Result<(), DataError> {
    let mut raw = BufReader::with_capacity(1 << 18, File::open(source)?);
    let plain: Box<dyn Read> = if raw.fill_buf()?.starts_with(&GZIP) {
        Box::new(flate2::bufread::MultiGzDecoder::new(raw))
    } else {
        Box::new(raw)
    };
    // Text is longer than the rows it makes only by so much: a number of 32 bits seldom takes more than sixteen characters.
    let bounded = Bounded { inner: plain, left: sink.most_bytes.saturating_mul(4), line: 0, fault: None };
    let mut text = BufReader::with_capacity(1 << 18, bounded);
    let start = text.fill_buf().map_err(|error| wrong_bytes(error, sink.most_bytes))?;
    if start.starts_with(&[0xff, 0xfe]) || start.starts_with(&[0xfe, 0xff]) {
        return Err(refuse("/", "not_utf8", "the text is UTF-16; save it as UTF-8"));
    }
    if start.contains(&0) {
        return Err(refuse("/", "not_text", "the file is neither CSV text nor another format that is known"));
    }
    if start.starts_with(&UTF8_MARK) {
        text.consume(UTF8_MARK.len());
    }
    let reader = csv::ReaderBuilder::new().has_headers(false).flexible(true).from_reader(text);
    Table { reader, most_bytes: sink.most_bytes }.read(sink)
}

struct Table<R> {
    reader: csv::Reader<R>,
    most_bytes: u64,
}

impl<R: Read> Table<R> {
    fn read(mut self, sink: &mut Sink<'_>) -> Result<(), DataError> {
        let mut record = csv::ByteRecord::new();
        if !self.next(&mut record)? {
            return Err(refuse("", "empty", "the file has no rows of data"));
        }
        let width = record.len();
        let named = match sink.spec.header {
            Header::Present => true,
            Header::Absent => false,
            Header::Auto => record.iter().any(|cell| matches!(value(cell), Err(Wrong::Text))),
        };
        sink.begin(if named { names(&record)? } else { (0..width).map(|column| format!("c{column}")).collect() })?;
        if named && !self.next(&mut record)? {
            return Err(refuse("", "empty", "the file has a header and no rows of data"));
        }
        let kept: Vec<bool> = sink.columns.iter().map(super::Column::is_kept).collect();
        let names: Vec<String> = sink.columns.iter().map(|column| column.name.clone()).collect();
        let mut faults = Faults::new();
        let mut row = Vec::with_capacity(width);
        for index in 0_u64.. {
            let line = record.position().map_or(0, csv::Position::line);
            if record.len() != width {
                let detail = format!(
                    "(line {line}) has {} cells; {} has {width}",
                    record.len(),
                    if named { "the header" } else { "the first row" }
                );
                faults.push(format!("/rows/{index}"), "ragged", detail);
            } else {
                row.clear();
                for (column, cell) in record.iter().enumerate().filter(|(column, _)| kept[*column]) {
                    match value(cell) {
                        Ok(number) => row.push(number),
                        Err(wrong) => {
                            let shown: String = String::from_utf8_lossy(cell).chars().take(40).collect();
                            let detail =
                                format!("(line {line}, column `{}`) is `{shown}`, {}", names[column], wrong.explain());
                            faults.push(format!("/rows/{index}/columns/{column}"), wrong.code(), detail);
                        }
                    }
                }
            }
            if faults.is_empty() {
                sink.push(&row)?;
            } else if faults.is_full() {
                break;
            }
            if !self.next(&mut record)? {
                break;
            }
        }
        Ok(faults.into_result(Code::InvalidDataset)?)
    }

    fn next(&mut self, record: &mut csv::ByteRecord) -> Result<bool, DataError> {
        self.reader.read_byte_record(record).map_err(|error| match error.into_kind() {
            csv::ErrorKind::Io(error) => wrong_bytes(error, self.most_bytes),
            other => refuse("/", "not_csv", format!("the text is not CSV: {other:?}")),
        })
    }
}

fn names(record: &csv::ByteRecord) -> Result<Vec<String>, DataError> {
    let mut faults = Faults::new();
    let names = record
        .iter()
        .enumerate()
        .map(|(column, cell)| match std::str::from_utf8(cell).map(str::trim) {
            Ok("") => format!("c{column}"),
            Ok(name) => name.to_owned(),
            Err(_) => {
                faults.push(
                    format!("/columns/{column}"),
                    "not_utf8",
                    "has a name that is not UTF-8; save the file as UTF-8",
                );
                String::new()
            }
        })
        .collect();
    faults.into_result(Code::InvalidDataset)?;
    Ok(names)
}

/// Why a cell is not a number that a model can take.
#[derive(Debug, PartialEq)]
enum Wrong {
    Text,
    Infinite,
}

impl Wrong {
    fn code(&self) -> &'static str {
        match self {
            Self::Text => "not_a_number",
            Self::Infinite => "out_of_range",
        }
    }

    fn explain(&self) -> &'static str {
        match self {
            Self::Text => "not a number; name the column in `ignore` if it is not to be used",
            Self::Infinite => "infinite or beyond what 32-bit floats hold (about 3.4e38)",
        }
    }
}

/// The number in a cell, NaN when it says that the value is missing; `None` when it is not a finite number either.
pub fn cell(text: &str) -> Option<f32> {
    value(text.as_bytes()).ok()
}

/// The number in a cell; NaN when it says that the value is missing.
fn value(cell: &[u8]) -> Result<f32, Wrong> {
    let text = std::str::from_utf8(cell).map_err(|_| Wrong::Text)?.trim();
    if let Ok(number) = text.parse::<f32>() {
        return if number.is_infinite() { Err(Wrong::Infinite) } else { Ok(number) };
    }
    let missing = ["", "na", "n/a", "null", "none", "?"];
    if missing.iter().any(|marker| text.eq_ignore_ascii_case(marker)) { Ok(f32::NAN) } else { Err(Wrong::Text) }
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
        match memchr_last_newline(read) {
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

fn memchr_last_newline(bytes: &[u8]) -> Option<usize> {
    bytes.iter().rposition(|byte| *byte == b'\n')
}

fn refuse(pointer: &str, fault: &str, detail: impl Into<String>) -> DataError {
    Refusal::at(Code::InvalidDataset, pointer, fault, detail).into()
}

/// Reading the text failed: because of a bound, of broken gzip, or of the disk.
fn wrong_bytes(error: io::Error, most_bytes: u64) -> DataError {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<Limit>()) {
        Some(Limit::Bytes) => return too_large(most_bytes).into(),
        Some(Limit::Line) => {
            return refuse("/", "line_too_long", format!("a line is longer than {LINE_BYTES} bytes: is this CSV?"));
        }
        None => {}
    }
    match error.kind() {
        io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof => {
            refuse("/", "broken_gzip", format!("the gzip data is damaged or cut short: {error}"))
        }
        _ => DataError::Io(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{IngestSpec, Ingested, dataset::Role, ingest, rows::RowFile};

    fn with(spec: &IngestSpec, bytes: &[u8]) -> Result<(Ingested, Vec<Vec<f32>>), DataError> {
        let directory = tempfile::tempdir().unwrap();
        let (source, target) = (directory.path().join("in"), directory.path().join("rows"));
        std::fs::write(&source, bytes).unwrap();
        let ingested = ingest(&source, &target, spec, 1 << 20)?;
        let file = RowFile::open(&target, ingested.schema.kept().count(), ingested.rows).unwrap();
        let rows = (0..file.len()).map(|row| file.row(row).to_vec()).collect();
        Ok((ingested, rows))
    }

    fn plain(bytes: &[u8]) -> Result<(Ingested, Vec<Vec<f32>>), DataError> {
        with(&IngestSpec::default(), bytes)
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        io::Write::write_all(&mut encoder, bytes).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn a_header_is_found_or_done_without() {
        let names = |bytes: &[u8]| {
            plain(bytes).unwrap().0.schema.columns.into_iter().map(|column| column.name).collect::<Vec<_>>()
        };
        assert_eq!(names(b"a,b\n1,2\n"), ["a", "b"]);
        assert_eq!(names(b"\xef\xbb\xbfa,b\r\n1,2"), ["a", "b"]);
        assert_eq!(names(b"1,2\n3,4\n"), ["c0", "c1"]);
        assert_eq!(names(b"NA,2\n3,4\n"), ["c0", "c1"]);
    }

    #[test]
    fn gzip_reads_like_plain_text() {
        let text = b"a,b\n1,2\n3.5,-4e2\n";
        assert_eq!(plain(&gzip(text)).unwrap().1, plain(text).unwrap().1);
        assert_eq!(plain(text).unwrap().1, [[1.0, 2.0], [3.5, -400.0]]);
    }

    #[test]
    fn missing_markers_become_nan() {
        let (ingested, rows) = plain(b"a,b\n1,NA\n,2\n3,?\nnan,null\n").unwrap();
        assert_eq!(rows.iter().flatten().filter(|value| value.is_nan()).count(), 5);
        assert_eq!(ingested.schema.columns[0].profile.as_ref().unwrap().missing, 2);
    }

    #[test]
    fn ignored_columns_may_hold_text_and_labels_are_no_features() {
        let spec = IngestSpec { ignored: vec!["name".into()], labels: vec!["y".into()], ..IngestSpec::default() };
        let (ingested, rows) = with(&spec, b"name,x,y\nAda,1,0\nBob,2,1\n").unwrap();
        assert_eq!(rows, [[1.0, 0.0], [2.0, 1.0]]);
        assert_eq!(
            ingested.schema.columns.iter().map(|column| column.role).collect::<Vec<_>>(),
            [Role::Ignore, Role::Feature, Role::Label]
        );
    }

    #[test]
    fn each_malformed_file_says_where() {
        fn check(bytes: &[u8], pointer: &str, code: &str) {
            match plain(bytes) {
                Err(DataError::Refused(refusal)) => {
                    let fault = &refusal.errors[0];
                    assert_eq!((fault.pointer.as_str(), fault.code.as_str()), (pointer, code), "{refusal:?}");
                }
                other => panic!("{:?} gave {other:?}", String::from_utf8_lossy(bytes)),
            }
        }
        check(b"", "", "empty");
        check(b"\n\n", "", "empty");
        check(b"a,b\n", "", "empty");
        check(b"a,b\n1,2\n3\n", "/rows/1", "ragged");
        check(b"a,b\n1,2\n3,x\n", "/rows/1/columns/1", "not_a_number");
        check(b"a,b\n1,inf\n", "/rows/0/columns/1", "out_of_range");
        check(b"a,b\n1,-1e99\n", "/rows/0/columns/1", "out_of_range");
        check(b"a,a\n1,2\n", "/columns/1", "duplicate");
        check(b"\xff\xfea\0", "/", "not_utf8");
        check(b"a,\xff\n1,2\n", "/columns/1", "not_utf8");
        check(b"PK\x03\x04\0\0\0", "/", "not_text");
        let whole = gzip(b"a,b\n1,2\n3,4\n5,6\n");
        check(&whole[..whole.len() - 9], "/", "broken_gzip");
    }

    #[test]
    fn every_bad_cell_of_a_row_is_named() {
        let Err(DataError::Refused(refusal)) = plain(b"a,b\nx,y\nz,1\n") else { panic!("text was taken as numbers") };
        assert_eq!(refusal.errors.len(), 3);
        assert_eq!(refusal.errors[2].pointer, "/rows/1/columns/0");
    }

    #[test]
    fn a_bomb_is_stopped_at_the_limit() {
        let bomb = gzip(&b"1,2\n".repeat(4 << 20));
        assert!(matches!(plain(&bomb), Err(DataError::Refused(Refusal { code: Code::TooLarge, .. }))));
        let line = gzip(&vec![b'7'; LINE_BYTES + (1 << 20)]);
        let directory = tempfile::tempdir().unwrap();
        let source = directory.path().join("in");
        std::fs::write(&source, line).unwrap();
        let outcome = ingest(&source, &directory.path().join("out"), &IngestSpec::default(), 1 << 30);
        assert!(matches!(outcome, Err(DataError::Refused(refusal)) if refusal.errors[0].code == "line_too_long"));
    }
}
