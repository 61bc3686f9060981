//! NPZ files: ZIP archives of NPY arrays, stored or deflated.
//!
//! One array is rows; of two, one may label the rows of the other ([`arrays::choose`](super::arrays::choose)). Rows are read as
//! they are unpacked, so that an archive which unpacks to more than it should takes neither memory nor disk; only an array
//! that lies column after column is unpacked to a file, of the length that its header declares and no longer. That file has
//! no name and goes away with the reader.

use std::fs::File;
use std::io::{BufReader, Cursor, Read, Seek};
use std::path::Path;

use bytes::Bytes;
use zip::ZipArchive;

use super::DataError;
use super::arrays::{Rows, Stream, choose, feed};
use super::batches::{guarded, mapped};
use super::npy::{self, Header};
use super::rows::too_large;
use super::sink::Sink;
use super::text::{refuse, wrong};
use crate::domain::limits::NPZ_ENTRIES;

const LOCAL_HEADER: &[u8; 4] = b"PK\x03\x04";
/// What each entry of the list at the end of an archive begins with.
const LISTED: &[u8; 4] = b"PK\x01\x02";
const SUFFIX: &str = ".npy";

/// An archive whose first entry is an array.
pub(super) fn begins(start: &[u8]) -> bool {
    let name = || {
        let length = usize::from(u16::from_le_bytes([*start.get(26)?, *start.get(27)?]));
        start.get(30..30 + length)
    };
    start.starts_with(LOCAL_HEADER) && name().is_some_and(|name| name.ends_with(SUFFIX.as_bytes()))
}

pub(super) fn read(source: &Path, sink: &mut Sink<'_>) -> Result<(), DataError> {
    let file = mapped(source)?;
    // What is parsed of an archive grows with the number of its entries, and each of them has these bytes.
    let listed = memchr::memmem::find_iter(&file, LISTED).take(NPZ_ENTRIES + 1).count();
    if listed > NPZ_ENTRIES {
        let detail = format!("the archive has more than {NPZ_ENTRIES} entries; allowed are one array or two");
        return Err(refuse("/", "several_arrays", detail));
    }
    guarded("NPZ", sink, |sink| read_arrays(&file, sink))
}

fn read_arrays(file: &Bytes, sink: &mut Sink<'_>) -> Result<(), DataError> {
    let mut archive = opened(file)?;
    let entries: Vec<String> = archive
        .file_names()
        .map(|name| name.map(|name| name.into_owned()))
        .collect::<Result<_, _>>()
        .map_err(broken)?;
    let names: Vec<&str> = entries.iter().map(|name| name.strip_suffix(SUFFIX).unwrap_or(name)).collect();
    if let Some(other) = entries.iter().find(|name| !name.ends_with(SUFFIX)) {
        let detail = format!("the archive holds `{}`, which is no array", other.chars().take(60).collect::<String>());
        return Err(refuse("/", "not_an_array", detail));
    }
    let (features, labels) = choose(&names)?;
    // Two entries can be read side by side only through two readers.
    let mut other = opened(file)?;
    let mut rows = array(&mut archive, &entries[features], sink)?;
    let mut beside = labels.map(|labels| array(&mut other, &entries[labels], sink)).transpose()?;
    let beside = match (&mut beside, labels) {
        (Some(rows), Some(labels)) => Some((names[labels], &mut **rows as &mut dyn Rows)),
        _ => None,
    };
    feed(&mut *rows, beside, sink)
}

fn opened(file: &Bytes) -> Result<ZipArchive<Cursor<Bytes>>, DataError> {
    ZipArchive::new(Cursor::new(file.clone())).map_err(broken)
}

fn broken(error: zip::result::ZipError) -> DataError {
    refuse(
        "/",
        "broken_archive",
        format!("the archive is damaged, cut short or packed in a way that is unknown: {error}"),
    )
}

/// Opens one array of the archive.
fn array<'a>(
    archive: &'a mut ZipArchive<impl Read + Seek + 'a>,
    name: &str,
    sink: &Sink<'_>,
) -> Result<Box<dyn Rows + 'a>, DataError> {
    let (header, bytes) = {
        let mut entry = archive.by_name(name).map_err(broken)?;
        (Header::read(&mut entry)?, entry.size())
    };
    header.check_length(bytes)?;
    let mut entry = BufReader::with_capacity(1 << 18, archive.by_name(name).map_err(broken)?);
    if !header.is_fortran {
        // Past the header.
        Header::read(&mut entry)?;
        return Ok(Box::new(Stream::new(entry, header.extent, header.value)));
    }
    // Values of the file may be twice as long as canonical ones.
    if bytes > sink.most_bytes.saturating_mul(2) {
        return Err(too_large(sink.most_bytes).into());
    }
    let mut file = tempfile::tempfile_in(sink.directory())?;
    let got = std::io::copy(&mut entry.take(bytes), &mut file).map_err(|error| wrong(error, 0))?;
    file.rewind()?;
    npy::open(BufReader::<File>::with_capacity(1 << 18, file), got)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use proptest::prelude::*;
    use zip::CompressionMethod;
    use zip::write::{SimpleFileOptions, ZipWriter};

    use super::super::trial;
    use super::*;
    use crate::data::Format;
    use crate::data::dataset::Role;

    fn array(descr: &str, fortran: bool, shape: &str, data: &[u8]) -> Vec<u8> {
        let order = if fortran { "True" } else { "False" };
        let header = format!("{{'descr': '{descr}', 'fortran_order': {order}, 'shape': {shape}, }}\n");
        let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
        bytes.extend((header.len() as u16).to_le_bytes());
        bytes.extend(header.as_bytes());
        bytes.extend(data);
        bytes
    }

    fn floats(values: &[f32]) -> Vec<u8> {
        values.iter().flat_map(|value| value.to_le_bytes()).collect()
    }

    fn archive(method: CompressionMethod, entries: &[(&str, &[u8])]) -> Vec<u8> {
        let mut writer = ZipWriter::new(Cursor::new(Vec::new()));
        for (name, bytes) in entries {
            writer.start_file(*name, SimpleFileOptions::default().compression_method(method)).unwrap();
            writer.write_all(bytes).unwrap();
        }
        writer.finish().unwrap().into_inner()
    }

    fn both(entries: &[(&str, &[u8])]) -> [Vec<u8>; 2] {
        [CompressionMethod::Stored, CompressionMethod::Deflated].map(|method| archive(method, entries))
    }

    #[test]
    fn one_array_is_read_whatever_its_name() {
        for bytes in both(&[("weights.npy", &array("<f4", false, "(2, 2)", &floats(&[1.0, 2.0, 3.0, 4.0])))]) {
            let (ingested, rows) = trial::read(&bytes).unwrap();
            assert_eq!((rows, ingested.format), (vec![vec![1.0, 2.0], vec![3.0, 4.0]], Format::Npz));
        }
    }

    #[test]
    fn labels_stand_beside_their_rows() {
        let x = array("|u1", false, "(2, 2, 3)", &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]);
        let y = array("<i8", false, "(2,)", &[7_i64, 9].map(i64::to_le_bytes).concat());
        for bytes in both(&[("labels.npy", &y), ("images.npy", &x)]) {
            let (ingested, rows) = trial::read(&bytes).unwrap();
            assert_eq!(rows[1], [7.0, 8.0, 9.0, 10.0, 11.0, 12.0, 9.0]);
            assert_eq!(ingested.schema.image.unwrap().to_string(), "1x2x3");
            let label = &ingested.schema.columns[6];
            assert_eq!((label.name.as_str(), label.role), ("labels", Role::Label));
        }
        let two = array("|b1", false, "(2, 2)", &[0, 1, 1, 0]);
        let (ingested, _) = trial::read(&both(&[("x.npy", &x), ("y.npy", &two)])[1]).unwrap();
        let labels: Vec<_> = ingested.schema.label_columns().map(|column| column.name.as_str()).collect();
        assert_eq!(labels, ["y0", "y1"]);
    }

    #[test]
    fn columns_that_lie_one_behind_the_other_are_read_right() {
        let x = array("<f4", true, "(3, 2)", &floats(&[1.0, 3.0, 5.0, 2.0, 4.0, 6.0]));
        for bytes in both(&[("x.npy", &x)]) {
            assert_eq!(trial::read(&bytes).unwrap().1, [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]);
        }
    }

    #[test]
    fn each_malformed_file_says_where() {
        let x = array("<f4", false, "(2, 2)", &floats(&[1.0; 4]));
        let packed = |entries: &[(&str, &[u8])]| archive(CompressionMethod::Deflated, entries);
        let check = trial::refused;
        check(&packed(&[("a.npy", &x), ("b.npy", &x)]), "/", "several_arrays");
        check(&packed(&[("x.npy", &x), ("y.npy", &array("|u1", false, "(3,)", &[0; 3]))]), "/", "wrong_shape");
        check(&packed(&[("x.npy", &x), ("y.npy", &array("|O", false, "(2,)", b"cos\nsystem\n"))]), "/", "pickled");
        check(&packed(&[("x.npy", &x), ("read.me", b"hello")]), "/", "not_an_array");
        check(&packed(&[("x.npy", b"hello, there")]), "/", "broken_header");
        check(&packed(&[("x.npy", &x[..x.len() - 2])]), "/", "wrong_length");
        check(&packed(&[("x.npy", &[&x[..], &[0]].concat())]), "/", "wrong_length");
        let whole = packed(&[("x.npy", &x)]);
        check(&whole[..whole.len() - 9], "/", "broken_archive");
        check(&whole[..60], "/", "broken_archive");
        let names: Vec<String> = (0..NPZ_ENTRIES + 1).map(|index| format!("a{index}.npy")).collect();
        let many: Vec<(&str, &[u8])> = names.iter().map(|name| (name.as_str(), &x[..])).collect();
        check(&packed(&many), "/", "several_arrays");
    }

    #[test]
    fn a_bomb_is_stopped_at_the_limit() {
        for fortran in [false, true] {
            let zeros = array("<f8", fortran, "(4096, 512)", &vec![0; 16 << 20]);
            let bomb = archive(CompressionMethod::Deflated, &[("x.npy", &zeros)]);
            assert!(bomb.len() < 100_000);
            trial::too_large(&bomb);
        }
    }

    proptest! {
        #[test]
        fn what_was_written_is_read(width in 1..5_usize, mut values in prop::collection::vec(-1e30_f32..1e30, 1..40)) {
            let rows = values.len().div_ceil(width);
            values.resize(rows * width, 0.5);
            let labels: Vec<u8> = (0..rows).map(|row| (row % 7) as u8).collect();
            let x = array("<f4", false, &format!("({rows}, {width})"), &floats(&values));
            let y = array("|u1", false, &format!("({rows},)"), &labels);
            for bytes in both(&[("x.npy", &x), ("y.npy", &y)]) {
                let (_, read) = trial::read(&bytes).unwrap();
                for (index, row) in read.iter().enumerate() {
                    prop_assert_eq!(&row[..width], &values[index * width..(index + 1) * width]);
                    prop_assert_eq!(row[width], f32::from(labels[index]));
                }
            }
        }

        #[test]
        fn any_bytes_are_read_or_refused(rest in prop::collection::vec(any::<u8>(), 0..300)) {
            let mut bytes = b"PK\x03\x04\x14\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x05\0\0\0x.npy".to_vec();
            bytes.extend(rest);
            let _ = trial::read(&bytes);
        }

        #[test]
        fn damage_is_read_or_refused(position in any::<prop::sample::Index>(), byte: u8, cut in any::<prop::sample::Index>()) {
            let x = array("<f4", true, "(2, 2)", &floats(&[1.0, 2.0, 3.0, 4.0]));
            let y = array("|u1", false, "(2,)", &[1, 0]);
            for whole in both(&[("x.npy", &x), ("y.npy", &y)]) {
                trial::damage(&whole, position.index(whole.len()), byte, cut.index(whole.len()));
            }
        }
    }
}
