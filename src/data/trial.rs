//! What the tests of the formats share: a file is read in a directory of its own, of which nothing may be left.

use std::io::Write;

use super::rows::RowFile;
use super::{DataError, Format, IngestSpec, Ingested, ingest};
use crate::domain::refusal::Code;

/// Bytes that these tests allow.
const MOST_BYTES: u64 = 1 << 20;

/// What a file says, and its canonical rows.
pub(super) type Outcome = Result<(Ingested, Vec<Vec<f32>>), DataError>;

pub(super) fn read(bytes: &[u8]) -> Outcome {
    read_with(&IngestSpec::default(), bytes)
}

pub(super) fn read_with(spec: &IngestSpec, bytes: &[u8]) -> Outcome {
    let directory = tempfile::tempdir().expect("a directory");
    let (source, target) = (directory.path().join("in"), directory.path().join("rows"));
    std::fs::write(&source, bytes).expect("a file is written");
    let outcome = ingest(&source, &target, spec, MOST_BYTES);
    let left = std::fs::read_dir(directory.path()).expect("the directory is there").map(|entry| {
        let entry = entry.expect("the directory is read");
        entry.file_name().into_string().expect("a name")
    });
    let left: Vec<String> = left.filter(|name| name != "in" && name != "rows").collect();
    assert!(left.is_empty(), "{left:?} was left");
    let ingested = outcome?;
    let file = RowFile::open(&target, ingested.schema.kept().count(), ingested.rows).expect("canonical rows");
    let rows = (0..file.len()).map(|row| file.row(row).to_vec()).collect();
    Ok((ingested, rows))
}

pub(super) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).expect("memory takes it");
    encoder.finish().expect("memory takes it")
}

pub(super) fn zstd(bytes: &[u8]) -> Vec<u8> {
    zstd::encode_all(bytes, 1).expect("memory takes it")
}

/// The file must be refused with this fault before all others.
pub(super) fn refused(bytes: &[u8], pointer: &str, code: &str) {
    fault(read(bytes), bytes, pointer, code);
}

/// So must a file that is said to be of that format.
pub(super) fn refused_as(format: Format, bytes: &[u8], pointer: &str, code: &str) {
    let spec = IngestSpec { format: Some(format), ..IngestSpec::default() };
    fault(read_with(&spec, bytes), bytes, pointer, code);
}

fn fault(outcome: Outcome, bytes: &[u8], pointer: &str, code: &str) {
    match outcome {
        Err(DataError::Refused(refusal)) => {
            let found = refusal.errors.first().map(|fault| (fault.pointer.as_str(), fault.code.as_str()));
            assert_eq!(found, Some((pointer, code)), "{refusal:?}");
        }
        other => panic!("{:?} gave {other:?}", String::from_utf8_lossy(&bytes[..bytes.len().min(200)])),
    }
}

/// The file must be refused because of its size.
pub(super) fn too_large(bytes: &[u8]) {
    match read(bytes) {
        Err(DataError::Refused(refusal)) => assert_eq!(refusal.code, Code::TooLarge, "{refusal:?}"),
        other => panic!("it was not too large: {other:?}"),
    }
}

/// Reads a file with one byte changed, and one that was cut off. What comes of them does not matter, but that it comes.
pub(super) fn damage(whole: &[u8], position: usize, byte: u8, cut: usize) {
    let mut changed = whole.to_vec();
    changed[position] = byte;
    let _ = read(&changed);
    let _ = read(&whole[..cut]);
}
