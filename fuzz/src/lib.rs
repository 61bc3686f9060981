//! What the fuzz targets share: bytes as a file of a named format.

use latente::data::{DataError, Format, IngestSpec, ingest};

/// Reads the bytes as a file of a format. Rows or a refusal may come of it; a panic or a fault of the machine is a finding.
pub fn ingested(format: &str, bytes: &[u8]) {
    let directory = tempfile::tempdir().expect("a directory");
    let (source, target) = (directory.path().join("in"), directory.path().join("rows"));
    std::fs::write(&source, bytes).expect("a file");
    let spec = IngestSpec { format: Some(Format::parse(format).expect("a format")), ..IngestSpec::default() };
    if let Err(DataError::Io(error)) = ingest(&source, &target, &spec, 1 << 24) {
        panic!("{error}");
    }
}
