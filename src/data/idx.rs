//! IDX files, which MNIST and its like come in, plain or compressed.
//!
//! Two zero bytes, the type of the values, the number of axes, the length of each axis as four bytes, and then the values, all
//! big-endian. The file of images and that of labels are two datasets; rows with their labels come as CSV or NPZ.
//! Format: the page of MNIST (LeCun, Cortes and Burges).

use std::path::Path;

use super::DataError;
use super::arrays::{Extent, Real, Stream, Value, feed, read_most};
use super::sink::Sink;
use super::text::{decompressed, refuse, wrong};

pub(super) fn begins(start: &[u8]) -> bool {
    matches!(*start, [0, 0, kind, axes, ..] if real(kind).is_some() && axes > 0)
}

pub(super) fn read(source: &Path, sink: &mut Sink<'_>) -> Result<(), DataError> {
    let mut file = decompressed(source)?;
    let mut start = [0; 4];
    let got = read_most(&mut file, &mut start).map_err(|error| wrong(error, 0))?;
    let axes = usize::from(start[3]);
    let Some(real) = real(start[2]).filter(|_| got == 4 && start[..2] == [0, 0]) else {
        let detail = "an IDX file begins with two zero bytes, a type (08, 09, 0B, 0C, 0D or 0E) and the number of axes";
        return Err(refuse("/", "broken_header", detail));
    };
    let mut lengths = vec![0; axes * 4];
    if read_most(&mut file, &mut lengths).map_err(|error| wrong(error, 0))? < lengths.len() {
        let detail = format!("the IDX header is cut short: it announces the lengths of {axes} axes");
        return Err(refuse("/", "broken_header", detail));
    }
    let length = |bytes: &[u8]| u64::from(u32::from_be_bytes(bytes.try_into().expect("four bytes each")));
    let shape: Vec<u64> = lengths.chunks_exact(4).map(length).collect();
    let extent = Extent::of(&shape)?;
    feed(&mut Stream::new(file, extent, Value::new(real, true)), None, sink)
}

fn real(kind: u8) -> Option<Real> {
    Some(match kind {
        0x08 => Real::U8,
        0x09 => Real::I8,
        0x0b => Real::I16,
        0x0c => Real::I32,
        0x0d => Real::F32,
        0x0e => Real::F64,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::trial;
    use crate::data::Format;

    fn file(kind: u8, shape: &[u32], values: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0, 0, kind, shape.len() as u8];
        bytes.extend(shape.iter().flat_map(|length| length.to_be_bytes()));
        bytes.extend(values);
        bytes
    }

    #[test]
    fn every_type_is_read_big_endian() {
        fn check(kind: u8, values: [Vec<u8>; 4]) {
            let (ingested, rows) = trial::read(&file(kind, &[2, 2], &values.concat())).unwrap();
            assert_eq!(rows, [[1.0, 2.0], [3.0, 4.0]], "{kind}");
            assert_eq!(ingested.format, Format::Idx);
        }
        let each = [1_u8, 2, 3, 4];
        check(0x08, each.map(|v| vec![v]));
        check(0x09, each.map(|v| vec![v]));
        check(0x0b, each.map(|v| i16::from(v).to_be_bytes().to_vec()));
        check(0x0c, each.map(|v| i32::from(v).to_be_bytes().to_vec()));
        check(0x0d, each.map(|v| f32::from(v).to_be_bytes().to_vec()));
        check(0x0e, each.map(|v| f64::from(v).to_be_bytes().to_vec()));
    }

    #[test]
    fn images_keep_their_shape_and_labels_are_one_column() {
        let images = file(8, &[2, 3, 2], &[9; 12]);
        let (ingested, rows) = trial::read(&images).unwrap();
        assert_eq!(ingested.schema.image.unwrap().to_string(), "1x3x2");
        assert_eq!(trial::read(&trial::gzip(&images)).unwrap().1, rows);
        assert_eq!(trial::read(&trial::zstd(&images)).unwrap().1, rows);
        let (ingested, rows) = trial::read(&file(8, &[3], &[5, 0, 4])).unwrap();
        assert_eq!((rows, ingested.schema.image), (vec![vec![5.0], vec![0.0], vec![4.0]], None));
    }

    #[test]
    fn digits_that_are_lost_are_told() {
        let (ingested, _) = trial::read(&file(0x0c, &[1], &20_000_001_i32.to_be_bytes())).unwrap();
        assert!(ingested.schema.columns[0].reason.as_ref().unwrap().contains("rounded"));
    }

    #[test]
    fn each_malformed_file_says_where() {
        let check = trial::refused;
        check(&file(8, &[3, 2], &[1, 2, 3, 4, 5]), "/rows/2", "wrong_length");
        check(&file(8, &[2, 2], &[1, 2, 3, 4, 5]), "/", "wrong_length");
        check(&file(8, &[u32::MAX, 28, 28], &[7; 784]), "/rows/1", "wrong_length");
        check(&file(8, &[2, u32::MAX, u32::MAX], &[7; 4]), "/", "wrong_shape");
        check(&file(8, &[0, 4], &[]), "", "empty");
        check(&file(8, &[2, 0], &[]), "/", "wrong_shape");
        check(&[0, 0, 8, 200, 1, 2, 3], "/", "broken_header");
        check(&file(8, &[1; 9], &[1]), "/", "wrong_shape");
        check(&file(0x0d, &[1], &f32::INFINITY.to_be_bytes()), "/rows/0/columns/0", "out_of_range");
        let whole = trial::gzip(&file(8, &[200, 5], &[1; 1000]));
        check(&whole[..whole.len() - 9], "/", "broken_compression");
        trial::refused_as(Format::Idx, b"a,b\n1,2\n", "/", "broken_header");
    }

    #[test]
    fn a_bomb_is_stopped_at_the_limit() {
        let bomb = trial::gzip(&file(8, &[u32::MAX, 1000], &vec![0; 4 << 20]));
        trial::too_large(&bomb);
    }

    proptest! {
        #[test]
        fn what_was_written_is_read(width in 1..5_usize, values in prop::collection::vec(any::<i16>(), 1..60)) {
            let rows = values.len().div_ceil(width);
            let mut all = values.clone();
            all.resize(rows * width, 0);
            let bytes: Vec<u8> = all.iter().flat_map(|value| value.to_be_bytes()).collect();
            let (_, read) = trial::read(&file(0x0b, &[rows as u32, width as u32], &bytes)).unwrap();
            prop_assert_eq!(read.concat(), all.iter().map(|value| f32::from(*value)).collect::<Vec<_>>());
        }

        #[test]
        fn any_bytes_are_read_or_refused(kind in 8_u8..15, rest in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = trial::read(&[&[0, 0, kind], &rest[..]].concat());
        }

        #[test]
        fn damage_is_read_or_refused(position in any::<prop::sample::Index>(), byte: u8, cut in any::<prop::sample::Index>()) {
            for whole in [file(8, &[4, 2, 2], &[3; 16]), trial::gzip(&file(8, &[4, 2, 2], &[3; 16]))] {
                trial::damage(&whole, position.index(whole.len()), byte, cut.index(whole.len()));
            }
        }
    }
}
