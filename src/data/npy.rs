//! NumPy array files: every real type, both byte orders, C and Fortran order.
//!
//! The header is checked against the length of the file before anything is sized by it. Arrays of objects are pickles and
//! are refused. The first axis counts rows; the others are flattened, and `[n, height, width]` or `[n, channels, height,
//! width]` are taken for images. Format: NEP 1 of NumPy.

use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::path::Path;

use npyz::{DType, Endianness, Order, TypeChar};

use super::DataError;
use super::sink::{Sink, numbered};
use crate::domain::limits::{COLUMNS, NPY_HEADER_BYTES};
use crate::domain::refusal::{Code, Refusal};
use crate::domain::shape::ImageShape;

const MAGIC: &[u8; 6] = b"\x93NUMPY";
const AXES: usize = 8;
/// The header of a real array nests one tuple in one dictionary; deeper ones would only exhaust a parser's stack.
const NESTING: usize = 32;
/// Values that are read at once.
const BLOCK_VALUES: usize = 1 << 18;

pub(super) fn begins(start: &[u8]) -> bool {
    start.starts_with(MAGIC)
}

pub(super) fn read(source: &Path, sink: &mut Sink<'_>) -> Result<(), DataError> {
    let file = File::open(source)?;
    let file_bytes = file.metadata()?.len();
    read_array(BufReader::with_capacity(1 << 18, file), file_bytes, sink)
}

/// Reads an array of `bytes` bytes, header included.
pub(super) fn read_array(source: impl Read + Seek, bytes: u64, sink: &mut Sink<'_>) -> Result<(), DataError> {
    let mut blocks = Blocks::open(source, bytes)?;
    let (rows, width) = (blocks.rows, blocks.width as usize);
    if sink.image.is_none() && sink.spec.roles.is_empty() {
        sink.image = image(blocks.header.shape());
    }
    sink.begin(numbered(width))?;
    let at_once = (BLOCK_VALUES / width).max(1) as u64;
    let mut first = 0;
    while first < rows && !sink.is_full() {
        let count = at_once.min(rows - first);
        for row in blocks.read(first, count)?.chunks_exact(width) {
            row.iter().for_each(|value| sink.number(*value));
            sink.end_row()?;
        }
        first += count;
    }
    Ok(())
}

/// A whole array of one row or more, from memory: rows, width and values, NaN where one is missing.
///
/// # Errors
/// A refusal: the bytes are not such an array, or 32 bits do not hold a value.
pub fn matrix(bytes: &[u8], most_values: usize) -> Result<(usize, usize, Vec<f32>), DataError> {
    let mut blocks = Blocks::open(std::io::Cursor::new(bytes), bytes.len() as u64)?;
    let (rows, width) = (blocks.rows as usize, blocks.width as usize);
    if rows == 0 || rows.saturating_mul(width) > most_values {
        return Err(refuse(
            "wrong_shape",
            format!("the array has {rows} rows of {width}; allowed are 1 row or more, and {most_values} values"),
        ));
    }
    let values: Vec<f32> = blocks.read(0, rows as u64)?.into_iter().map(|value| value as f32).collect();
    if let Some(position) = values.iter().position(|value| value.is_infinite()) {
        let (row, column) = (position / width, position % width);
        let detail = "is infinite or beyond what 32-bit floats hold (about 3.4e38)";
        return Err(Refusal::at(Code::InvalidRequest, format!("/rows/{row}/{column}"), "out_of_range", detail).into());
    }
    Ok((rows, width, values))
}

/// Reads and parses the header; says where the values begin.
fn header(file: &mut (impl Read + Seek)) -> Result<(npyz::NpyHeader, u64), DataError> {
    let mut start = [0; 12];
    let got = read_most(file, &mut start)?;
    let (length, text_start) = match start {
        [.., a, b, _, _] if got >= 10 && start[6] == 1 => (usize::from(u16::from_le_bytes([a, b])), 10),
        [.., a, b, c, d] if got >= 12 && matches!(start[6], 2 | 3) => (u32::from_le_bytes([a, b, c, d]) as usize, 12),
        _ => return Err(refuse("broken_header", "the NPY header is cut short or of an unknown version")),
    };
    if length > NPY_HEADER_BYTES {
        return Err(refuse(
            "broken_header",
            format!("the NPY header declares {length} bytes; allowed are {NPY_HEADER_BYTES}"),
        ));
    }
    let mut bytes = vec![0; text_start + length];
    file.rewind()?;
    let got = read_most(file, &mut bytes)?;
    let text = &bytes[text_start..];
    if got < bytes.len() || text.iter().filter(|byte| matches!(byte, b'(' | b'[' | b'{')).count() > NESTING {
        return Err(refuse("broken_header", "the NPY header is cut short or nested too deeply"));
    }
    if text.windows(3).any(|part| part == b"'|O" || part == b"\"|O") {
        return Err(refuse(
            "pickled",
            "the array holds Python objects, which are pickles and are never loaded; save an array of numbers",
        ));
    }
    let header = npyz::NpyHeader::from_reader(&bytes[..])
        .map_err(|error| refuse("broken_header", format!("the NPY header cannot be read: {error}")))?;
    Ok((header, bytes.len() as u64))
}

fn read_most(file: &mut impl Read, buffer: &mut [u8]) -> std::io::Result<usize> {
    let mut got = 0;
    while got < buffer.len() {
        match file.read(&mut buffer[got..])? {
            0 => break,
            count => got += count,
        }
    }
    Ok(got)
}

/// Rows and values per row.
fn sizes(shape: &[u64]) -> Result<(u64, u64), DataError> {
    if shape.is_empty() || shape.len() > AXES {
        let detail =
            format!("the array has {} axes; allowed are 1 to {AXES}, the first of which counts rows", shape.len());
        return Err(refuse("wrong_shape", detail));
    }
    let width = shape[1..].iter().try_fold(1_u64, |product, side| product.checked_mul(*side));
    match width {
        Some(width @ 1..) if width <= COLUMNS as u64 => Ok((shape[0], width)),
        _ => Err(refuse(
            "wrong_shape",
            format!("the array has the shape {shape:?}; a row may have 1 to {COLUMNS} values"),
        )),
    }
}

fn image(shape: &[u64]) -> Option<ImageShape> {
    let side = |side: u64| u32::try_from(side).ok();
    match *shape {
        [_, height, width] if height > 1 && width > 1 => {
            Some(ImageShape { channels: 1, height: side(height)?, width: side(width)? })
        }
        [_, channels @ (1 | 3), height, width] => {
            Some(ImageShape { channels: side(channels)?, height: side(height)?, width: side(width)? })
        }
        _ => None,
    }
}

/// How one value is read.
#[derive(Clone, Copy)]
struct Value {
    bytes: usize,
    big_endian: bool,
    decode: fn(&[u8]) -> f64,
}

impl Value {
    fn of(dtype: &DType) -> Result<Self, String> {
        let DType::Plain(kind) = dtype else {
            return Err(format!("the array has the structured type {}; save one array of numbers", dtype.descr()));
        };
        macro_rules! decode {
            ($number:ty) => {
                |bytes| {
                    <$number>::from_le_bytes(bytes.try_into().expect("a value was sized above; this is a bug")) as f64
                }
            };
        }
        let decode: fn(&[u8]) -> f64 = match (kind.type_char(), kind.size_field()) {
            (TypeChar::Bool, 1) => |bytes| f64::from(u8::from(bytes[0] != 0)),
            (TypeChar::Uint, 1) => decode!(u8),
            (TypeChar::Uint, 2) => decode!(u16),
            (TypeChar::Uint, 4) => decode!(u32),
            (TypeChar::Uint, 8) => decode!(u64),
            (TypeChar::Int, 1) => decode!(i8),
            (TypeChar::Int, 2) => decode!(i16),
            (TypeChar::Int, 4) => decode!(i32),
            (TypeChar::Int, 8) => decode!(i64),
            (TypeChar::Float, 2) => |bytes| f64::from(half::f16::from_le_bytes([bytes[0], bytes[1]])),
            (TypeChar::Float, 4) => decode!(f32),
            (TypeChar::Float, 8) => decode!(f64),
            (TypeChar::Object, _) => {
                return Err("the array holds Python objects, which are pickles and are never loaded".to_owned());
            }
            _ => {
                return Err(format!(
                    "the array has the type {kind}; allowed are bool, integers and floats of 2, 4 or 8 bytes"
                ));
            }
        };
        Ok(Self { bytes: kind.size_field() as usize, big_endian: kind.endianness() == Endianness::Big, decode })
    }

    fn decode_all(&self, bytes: &mut [u8], mut put: impl FnMut(usize, f64)) {
        for (position, value) in bytes.chunks_exact_mut(self.bytes).enumerate() {
            if self.big_endian {
                value.reverse();
            }
            put(position, (self.decode)(value));
        }
    }
}

struct Blocks<R> {
    file: R,
    header: npyz::NpyHeader,
    data_start: u64,
    value: Value,
    rows: u64,
    width: u64,
}

impl<R: Read + Seek> Blocks<R> {
    /// Reads the header and compares what it declares with the `bytes` there are.
    fn open(mut file: R, bytes: u64) -> Result<Self, DataError> {
        let (header, data_start) = header(&mut file)?;
        let value = Value::of(&header.dtype()).map_err(|detail| refuse("not_real", detail))?;
        let shape = header.shape();
        let (rows, width) = sizes(shape)?;
        let declared =
            rows.checked_mul(width).and_then(|values| values.checked_mul(value.bytes as u64)).ok_or_else(|| {
                refuse("wrong_length", format!("the header declares the shape {shape:?}, which no file can hold"))
            })?;
        let held = bytes - data_start;
        if declared != held {
            let detail =
                format!("the header declares the shape {shape:?}, which takes {declared} bytes; {held} follow it");
            return Err(refuse("wrong_length", detail));
        }
        Ok(Self { file, header, data_start, value, rows, width })
    }

    /// `count` rows, row after row, whatever the order of the file.
    fn read(&mut self, first: u64, count: u64) -> std::io::Result<Vec<f64>> {
        if self.header.order() == Order::C { self.c_order(first, count) } else { self.fortran_order(first, count) }
    }

    fn c_order(&mut self, first: u64, count: u64) -> std::io::Result<Vec<f64>> {
        if first == 0 {
            self.file.seek(SeekFrom::Start(self.data_start))?;
        }
        let mut bytes = vec![0; (count * self.width) as usize * self.value.bytes];
        self.file.read_exact(&mut bytes)?;
        let mut block = vec![0.0; (count * self.width) as usize];
        self.value.decode_all(&mut bytes, |position, value| block[position] = value);
        Ok(block)
    }

    /// From a file that holds column after column.
    fn fortran_order(&mut self, first: u64, count: u64) -> std::io::Result<Vec<f64>> {
        let mut bytes = vec![0; count as usize * self.value.bytes];
        let mut block = vec![0.0; (count * self.width) as usize];
        for column in 0..self.width {
            let start = self.data_start + (column * self.rows + first) * self.value.bytes as u64;
            self.file.seek(SeekFrom::Start(start))?;
            self.file.read_exact(&mut bytes)?;
            self.value.decode_all(&mut bytes, |row, value| block[row * self.width as usize + column as usize] = value);
        }
        Ok(block)
    }
}

fn refuse(fault: &str, detail: impl Into<String>) -> DataError {
    Refusal::at(Code::InvalidDataset, "/", fault, detail).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{IngestSpec, Ingested, ingest, rows::RowFile};

    fn file(header: &str, data: &[u8]) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        bytes.extend([1, 0]);
        bytes.extend((header.len() as u16).to_le_bytes());
        bytes.extend(header.as_bytes());
        bytes.extend(data);
        bytes
    }

    fn array(descr: &str, fortran: &str, shape: &str, data: &[u8]) -> Vec<u8> {
        file(&format!("{{'descr': '{descr}', 'fortran_order': {fortran}, 'shape': {shape}, }}\n"), data)
    }

    fn read(bytes: &[u8]) -> Result<(Ingested, Vec<Vec<f32>>), DataError> {
        let directory = tempfile::tempdir().unwrap();
        let (source, target) = (directory.path().join("in"), directory.path().join("rows"));
        std::fs::write(&source, bytes).unwrap();
        let ingested = ingest(&source, &target, &IngestSpec::default(), 1 << 20)?;
        let file = RowFile::open(&target, ingested.schema.kept().count(), ingested.rows).unwrap();
        let rows = (0..file.len()).map(|row| file.row(row).to_vec()).collect();
        Ok((ingested, rows))
    }

    #[test]
    fn every_real_type_and_byte_order_gives_the_same_rows() {
        fn check(descr: &str, values: [Vec<u8>; 4]) {
            let bytes = array(descr, "False", "(2, 2)", &values.concat());
            assert_eq!(read(&bytes).unwrap().1, [[1.0, 2.0], [3.0, 4.0]], "{descr}");
        }
        let each = [1_u8, 2, 3, 4];
        check("|u1", each.map(|v| vec![v]));
        check("|i1", each.map(|v| vec![v]));
        check("<i2", each.map(|v| i16::from(v).to_le_bytes().to_vec()));
        check(">i4", each.map(|v| i32::from(v).to_be_bytes().to_vec()));
        check("<i8", each.map(|v| i64::from(v).to_le_bytes().to_vec()));
        check(">u8", each.map(|v| u64::from(v).to_be_bytes().to_vec()));
        check("<f2", each.map(|v| half::f16::from_f32(f32::from(v)).to_le_bytes().to_vec()));
        check("<f4", each.map(|v| f32::from(v).to_le_bytes().to_vec()));
        check(">f4", each.map(|v| f32::from(v).to_be_bytes().to_vec()));
        check(">f8", each.map(|v| f64::from(v).to_be_bytes().to_vec()));
    }

    #[test]
    fn fortran_order_is_read_right() {
        let data: Vec<u8> = [1.0_f32, 3.0, 5.0, 2.0, 4.0, 6.0].iter().flat_map(|value| value.to_le_bytes()).collect();
        let (_, rows) = read(&array("<f4", "True", "(3, 2)", &data)).unwrap();
        assert_eq!(rows, [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]);
    }

    #[test]
    fn image_shapes_are_kept() {
        let (ingested, rows) = read(&array("|u1", "False", "(2, 2, 3)", &[7; 12])).unwrap();
        assert_eq!(ingested.schema.image, Some(ImageShape { channels: 1, height: 2, width: 3 }));
        assert_eq!(rows[0].len(), 6);
    }

    #[test]
    fn each_lie_of_a_header_is_refused() {
        fn check(bytes: &[u8], code: &str) {
            match read(bytes) {
                Err(DataError::Refused(refusal)) => assert_eq!(refusal.errors[0].code, code, "{refusal:?}"),
                other => panic!("expected {code}, got {other:?}"),
            }
        }
        check(&array("<f4", "False", "(200000,)", &[0; 16]), "wrong_length");
        check(&array("<f4", "False", "(1000000000000, 60000)", &[0; 16]), "wrong_length");
        check(&array("<f8", "False", "(18446744073709551615, 8)", &[0; 16]), "wrong_length");
        check(&array("<f4", "False", "(2, 4000000000)", &[0; 16]), "wrong_shape");
        check(&array("<f4", "False", "()", &[0; 4]), "wrong_shape");
        check(&array("|O", "False", "(2,)", b"cos\nsystem\n"), "pickled");
        check(&array("<c8", "False", "(2,)", &[0; 16]), "not_real");
        check(&array("<U4", "False", "(1,)", &[0; 16]), "not_real");
        check(&array("<f4", "False", "(0, 4)", &[]), "empty");
        check(&array("<f4", "False", "(1, 1)", &f32::INFINITY.to_le_bytes()), "out_of_range");
        check(&array("<f8", "False", "(1, 1)", &1e300_f64.to_le_bytes()), "out_of_range");
        check(&file(&"(".repeat(60_000), &[]), "broken_header");
        check(&file("{'descr': ", &[]), "broken_header");
        check(b"\x93NUMPY\x02\x00\xff\xff\xff\xff", "broken_header");
        check(b"\x93NUMPY\x09\x00", "broken_header");
        check(b"\x93NUMPY", "broken_header");
    }
}
