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
use super::arrays::{Extent, Real, Rows, Stream, Value, check_count, feed, read_most};
use super::rows::little_endian;
use super::sink::Sink;
use super::text::wrong;
use crate::domain::limits::NPY_HEADER_BYTES;
use crate::domain::refusal::{Code, Refusal};

const MAGIC: &[u8; 6] = b"\x93NUMPY";
/// The header of a real array nests one tuple in one dictionary; deeper ones would only exhaust a parser's stack.
const NESTING: usize = 32;

pub(super) fn begins(start: &[u8]) -> bool {
    start.starts_with(MAGIC)
}

pub(super) fn read(source: &Path, sink: &mut Sink<'_>) -> Result<(), DataError> {
    let file = File::open(source)?;
    let file_bytes = file.metadata()?.len();
    feed(&mut *open(BufReader::with_capacity(1 << 18, file), file_bytes)?, None, sink)
}

/// Opens an array that takes all of `bytes` bytes, header included.
pub(super) fn open<'a>(mut source: impl Read + Seek + 'a, bytes: u64) -> Result<Box<dyn Rows + 'a>, DataError> {
    let header = Header::read(&mut source)?;
    header.check_length(bytes)?;
    Ok(if header.is_fortran {
        Box::new(Columns { source, header, done: 0 })
    } else {
        Box::new(Stream::new(source, header.extent, header.value))
    })
}

/// A whole array of one row or more, from memory: rows, width and values. NaN where one is missing, infinite where 32 bits do
/// not hold it.
///
/// # Errors
/// A refusal: the bytes are not such an array.
pub fn matrix(bytes: &[u8], most_values: usize) -> Result<(usize, usize, Vec<f32>), DataError> {
    let mut rest = bytes;
    let header = Header::read(&mut rest)?;
    header.check_length(bytes.len() as u64)?;
    check_count(header.extent, most_values)?;
    let (rows, width) = (header.extent.rows as usize, header.extent.width);
    let values = header.value.narrow(rest);
    if !header.is_fortran {
        return Ok((rows, width, values));
    }
    let columns: Vec<&[f32]> = values.chunks_exact(rows).collect();
    Ok((rows, width, (0..rows).flat_map(|row| columns.iter().map(move |column| column[row])).collect()))
}

/// How many bytes the header of a file takes that begins so; 0 where it is no such file, `None` where more of it must be seen.
pub fn header_bytes(start: &[u8]) -> Option<usize> {
    let start: &[u8; 12] = start.first_chunk()?;
    let length = match start[6] {
        1 => 10 + usize::from(u16::from_le_bytes([start[8], start[9]])),
        _ => 12 + u32::from_le_bytes([start[8], start[9], start[10], start[11]]) as usize,
    };
    Some(if start.starts_with(MAGIC) && length <= NPY_HEADER_BYTES { length } else { 0 })
}

/// Rows and width of a matrix of little-endian 32-bit floats, row after row, by its header and the bytes of the whole file. `None`
/// where it is another, or at fault.
pub fn plain(header: &[u8], bytes: usize, most_values: usize) -> Option<(usize, usize)> {
    let header = Header::read(&mut &header[..]).ok()?;
    header.check_length(bytes as u64).ok()?;
    check_count(header.extent, most_values).ok()?;
    let is_plain = header.value.is_plain_f32() && !header.is_fortran;
    is_plain.then_some((header.extent.rows as usize, header.extent.width))
}

/// The file of a matrix of 32-bit floats.
pub fn written(values: &[f32], width: usize) -> Vec<u8> {
    let rows = values.len() / width.max(1);
    let mut header = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({rows}, {width}), }}");
    // With the line break the values begin at a multiple of 64 bytes.
    let begin = (MAGIC.len() + 4 + header.len() + 1).next_multiple_of(64);
    header.extend(std::iter::repeat_n(' ', begin - MAGIC.len() - 4 - header.len() - 1));
    header.push('\n');
    let mut bytes = Vec::with_capacity(begin + values.len() * 4);
    bytes.extend_from_slice(MAGIC);
    bytes.extend_from_slice(&[1, 0]);
    bytes.extend_from_slice(&(header.len() as u16).to_le_bytes());
    bytes.extend_from_slice(header.as_bytes());
    bytes.extend_from_slice(&little_endian(values));
    bytes
}

/// What stands before the values.
#[derive(Clone, Copy)]
pub(super) struct Header {
    /// Whether columns lie one behind the other, not rows.
    pub is_fortran: bool,
    pub extent: Extent,
    pub value: Value,
    /// Bytes before the first value.
    bytes: u64,
}

impl Header {
    /// Reads the header, and leaves the source at the first value.
    pub fn read(source: &mut impl Read) -> Result<Self, DataError> {
        let mut start = [0; 12];
        let got = read_most(source, &mut start[..10]).map_err(|error| wrong(error, 0))?;
        let more = if got == 10 && matches!(start[6], 2 | 3) {
            read_most(source, &mut start[10..]).map_err(|error| wrong(error, 0))?
        } else {
            0
        };
        let (length, text_start) = match start {
            [.., a, b, _, _] if got == 10 && start[6] == 1 => (usize::from(u16::from_le_bytes([a, b])), 10),
            [.., a, b, c, d] if more == 2 => (u32::from_le_bytes([a, b, c, d]) as usize, 12),
            _ => return Err(refuse("broken_header", "the NPY header is cut short or of an unknown version")),
        };
        if !start.starts_with(MAGIC) {
            return Err(refuse("broken_header", "the array does not begin as an NPY file does"));
        }
        if length > NPY_HEADER_BYTES {
            let detail = format!("the NPY header declares {length} bytes; allowed are {NPY_HEADER_BYTES}");
            return Err(refuse("broken_header", detail));
        }
        let mut bytes = start[..text_start].to_vec();
        bytes.resize(text_start + length, 0);
        let got = read_most(source, &mut bytes[text_start..]).map_err(|error| wrong(error, 0))?;
        let text = &bytes[text_start..];
        if got < length || text.iter().filter(|byte| matches!(byte, b'(' | b'[' | b'{')).count() > NESTING {
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
        Ok(Self {
            is_fortran: header.order() == Order::Fortran,
            extent: Extent::of(header.shape())?,
            value: value(&header.dtype()).map_err(|detail| refuse("not_real", detail))?,
            bytes: bytes.len() as u64,
        })
    }

    /// Compares what is declared with the bytes there are.
    pub fn check_length(&self, bytes: u64) -> Result<(), DataError> {
        let held = bytes.saturating_sub(self.bytes);
        if self.extent.bytes(self.value) == Some(held) {
            return Ok(());
        }
        let Extent { rows, width, .. } = self.extent;
        let detail = format!(
            "the header declares {rows} rows of {width} values of {} bytes; {held} bytes follow it",
            self.value.bytes
        );
        Err(refuse("wrong_length", detail))
    }
}

fn value(dtype: &DType) -> Result<Value, String> {
    let DType::Plain(kind) = dtype else {
        return Err(format!("the array has the structured type {}; save one array of numbers", dtype.descr()));
    };
    let real = match (kind.type_char(), kind.size_field()) {
        (TypeChar::Bool, 1) => Real::Bool,
        (TypeChar::Uint, 1) => Real::U8,
        (TypeChar::Uint, 2) => Real::U16,
        (TypeChar::Uint, 4) => Real::U32,
        (TypeChar::Uint, 8) => Real::U64,
        (TypeChar::Int, 1) => Real::I8,
        (TypeChar::Int, 2) => Real::I16,
        (TypeChar::Int, 4) => Real::I32,
        (TypeChar::Int, 8) => Real::I64,
        (TypeChar::Float, 2) => Real::F16,
        (TypeChar::Float, 4) => Real::F32,
        (TypeChar::Float, 8) => Real::F64,
        (TypeChar::Object, _) => {
            return Err("the array holds Python objects, which are pickles and are never loaded".to_owned());
        }
        _ => {
            return Err(format!(
                "the array has the type {kind}; allowed are bool, integers and floats of 2, 4 or 8 bytes"
            ));
        }
    };
    Ok(Value::new(real, kind.endianness() == Endianness::Big))
}

/// Rows of an array that holds column after column. Its length was compared with its header.
struct Columns<R> {
    source: R,
    header: Header,
    done: u64,
}

impl<R: Read + Seek> Rows for Columns<R> {
    fn extent(&self) -> Extent {
        self.header.extent
    }

    fn value(&self) -> Value {
        self.header.value
    }

    fn next(&mut self, count: u64) -> Result<Vec<f64>, DataError> {
        let (value, Extent { rows, width, .. }) = (self.header.value, self.header.extent);
        let mut bytes = vec![0; count as usize * value.bytes];
        let mut block = vec![0.0; count as usize * width];
        for column in 0..width {
            let start = self.header.bytes + (column as u64 * rows + self.done) * value.bytes as u64;
            self.source.seek(SeekFrom::Start(start))?;
            self.source.read_exact(&mut bytes)?;
            value.decode_all(&mut bytes, |row, value| block[row * width + column] = value);
        }
        self.done += count;
        Ok(block)
    }

    fn end(&mut self) -> Result<(), DataError> {
        Ok(())
    }
}

fn refuse(fault: &str, detail: impl Into<String>) -> DataError {
    Refusal::at(Code::InvalidDataset, "/", fault, detail).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{IngestSpec, Ingested, ingest, rows::RowFile};
    use crate::domain::shape::ImageShape;

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
    fn a_matrix_in_memory_is_what_the_file_is() {
        let check = |bytes: &[u8]| {
            let rows = read(bytes).unwrap().1;
            assert_eq!(matrix(bytes, 6).unwrap(), (rows.len(), rows[0].len(), rows.concat()));
        };
        let floats = |values: &[f32]| values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>();
        check(&array("<f4", "False", "(3, 2)", &floats(&[1.0, 3.0, 5.0, 2.0, 4.0, 6.5])));
        check(&array("<f4", "True", "(3, 2)", &floats(&[1.0, 3.0, 5.0, 2.0, 4.0, 6.5])));
        check(&array(">i2", "False", "(1, 2)", &[1, 0, 0, 7]));
        check(&array("<f2", "True", "(2, 1)", &[0, 0x3c, 0, 0x40]));
        check(&written(&[0.5, -1.0, 3.0, 1e-30], 2));
        let file = written(&[0.5; 6], 3);
        assert_eq!((header_bytes(&file), header_bytes(&file[..9]), header_bytes(&[7; 12])), (Some(128), None, Some(0)));
        assert_eq!(plain(&file[..128], file.len(), 6), Some((2, 3)));
        assert_eq!(
            plain(&file[..100], file.len(), 6).or(plain(&file, file.len() + 1, 6)).or(plain(&file, file.len(), 5)),
            None
        );
        assert_eq!(plain(&array(">f4", "False", "(1, 1)", &[0; 4]), 4, 6), None);
        assert_eq!(written(&[0.0; 6], 3).len() % 64, 24);
        for bytes in [array("<f4", "False", "(0, 2)", &[]), array("<f4", "False", "(7, 1)", &[0; 28])] {
            assert!(matrix(&bytes, 6).is_err());
        }
        assert!(matrix(&array("<f8", "False", "(1,)", &1e300_f64.to_le_bytes()), 6).unwrap().2[0].is_infinite());
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
