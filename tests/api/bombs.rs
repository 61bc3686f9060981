//! Files that are made to hurt: a server refuses each of them, in little memory, and nothing of them is left.

use std::io::Write;
use std::path::Path;

use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::Value;
use zip::write::{SimpleFileOptions, ZipWriter};

use crate::server::Server;

const MIB: usize = 1 << 20;
/// Bytes that a piece of a compressed file stands for.
const PIECE: usize = 16 * MIB;
/// What the server may have had at most; libtorch and the program themselves are nearly half of it.
const MOST: u64 = 384 * MIB as u64;

/// A file of gzip members that all hold the same `text`, over and over.
fn gzip(text: &[u8], pieces: usize) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(&text.repeat(PIECE / text.len())).unwrap();
    encoder.finish().unwrap().repeat(pieces)
}

fn zstandard(text: &[u8], pieces: usize) -> Vec<u8> {
    zstd::encode_all(&text.repeat(PIECE / text.len())[..], 3).unwrap().repeat(pieces)
}

fn archive(name: &str, pieces: &[&[u8]]) -> Vec<u8> {
    let mut writer = ZipWriter::new(std::io::Cursor::new(Vec::new()));
    writer.start_file(name, SimpleFileOptions::default()).unwrap();
    pieces.iter().for_each(|piece| writer.write_all(piece).unwrap());
    writer.finish().unwrap().into_inner()
}

fn npy_header(shape: &str) -> Vec<u8> {
    let header = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}\n");
    [b"\x93NUMPY\x01\x00", &(header.len() as u16).to_le_bytes()[..], header.as_bytes()].concat()
}

/// A PNG that declares so many pixels a side and has none.
fn png(side: u32) -> Vec<u8> {
    let mut header = b"IHDR".to_vec();
    header.extend(side.to_be_bytes());
    header.extend(side.to_be_bytes());
    header.extend([8, 0, 0, 0, 0]);
    let mut sum = flate2::Crc::new();
    sum.update(&header);
    [b"\x89PNG\r\n\x1a\n\x00\x00\x00\x0d", &header[..], &sum.sum().to_be_bytes()].concat()
}

fn bombs() -> Vec<(&'static str, Vec<u8>)> {
    let zeros = vec![0_u8; MIB];
    let declared = npy_header("(67108864, 4)");
    vec![
        ("gzip of 2 GiB of rows", gzip(b"1,2,3,4\n", 128)),
        ("Zstandard of 2 GiB of rows", zstandard(b"1,2,3,4\n", 128)),
        ("gzip of one line of 2 GiB", gzip(b"a", 128)),
        ("gzip of a number of 2 GiB", gzip(b"1", 128)),
        ("a million columns", b"1,".repeat(1_000_000)),
        ("a quoted cell without an end", [b"a,b\n1,\"".to_vec(), gzip(b"x", 1), b"x".repeat(32 * MIB)].concat()),
        ("a shape that the file does not have", npy_header("(1000000000, 1000000)")),
        ("a shape beyond 64 bits", npy_header("(9223372036854775807, 9223372036854775807)")),
        ("gzip of an IDX of 4 TB", gzip(&[0, 0, 8, 2, 255, 255, 255, 255, 0, 0, 4, 0], 16)),
        ("an IDX of 4 TB", [0, 0, 8, 2, 255, 255, 255, 255, 0, 0, 4, 0].to_vec()),
        ("1 GiB in an NPZ", archive("x.npy", &[&[&declared[..]], &vec![&zeros[..]; 1024][..]].concat())),
        ("an archive that climbs out", archive("../../evil.png", &[&png(8)])),
        ("an image of 60,000 by 60,000", png(60_000)),
        ("such an image in an archive", archive("a/x.png", &[&png(60_000)])),
        ("lists in lists", b"[".repeat(MIB)),
        ("objects in objects", b"{\"a\":".repeat(MIB)),
        ("a tensor whose header is longer than it", [&u64::MAX.to_le_bytes()[..], b"{\"x\":{}}"].concat()),
        ("a Parquet file that is all footer", b"PAR1\xff\xff\xff\x7fPAR1".to_vec()),
        ("an Arrow stream with a message of 2 GiB", b"\xff\xff\xff\xff\xff\xff\xff\x7f".to_vec()),
        ("an Arrow file without a footer", [&b"ARROW1\0\0"[..], &[255; 64], b"ARROW1"].concat()),
        ("ARFF of levels without an end", [&b"@relation x\n@attribute a {"[..], &b"x,".repeat(8 * MIB)].concat()),
    ]
}

/// The most memory that a process has had, in bytes.
fn peak(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}

fn files(folder: &Path) -> usize {
    std::fs::read_dir(folder).map_or(0, Iterator::count)
}

#[tokio::test]
async fn bombs_are_refused_in_little_memory_and_leave_nothing() {
    let data = tempfile::tempdir().unwrap();
    let server = Server::start_with(data.path(), 1, &["--upload-mib", "64", "--dataset-mib", "64"]);
    for (what, bytes) in bombs() {
        let answer = server.client.post(format!("{}/v1/datasets", server.base)).body(bytes).send().await.unwrap();
        let status = answer.status().as_u16();
        let problem: Value = answer.json().await.unwrap();
        assert!([400, 413, 415, 422].contains(&status), "{what}: {status} {problem}");
        assert!(problem["detail"].as_str().is_some_and(|detail| !detail.is_empty()), "{what}: {problem}");
        let left = files(&data.path().join("tmp")) + files(&data.path().join("datasets"));
        assert_eq!(left, 0, "{what} left something");
        assert!(peak(server.process.id()) < MOST, "{what}: {} MiB", peak(server.process.id()) / MIB as u64);
    }
    assert_eq!(server.client.get(format!("{}/readyz", server.base)).send().await.unwrap().status(), 200);
}
