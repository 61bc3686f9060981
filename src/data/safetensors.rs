//! Tensors of safetensors files: one that is rows, or two of which one labels the rows of the other.
//!
//! The header is read by the `safetensors` crate, which compares its offsets with the file; its length is bounded first. The
//! values are read where they lie, through a memory map. Format: the README of the safetensors project.

use std::borrow::Cow;
use std::collections::HashMap;
use std::io;
use std::path::Path;

use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};

use super::DataError;
use super::arrays::{Extent, Real, Rows, Stream, Value, check_count, choose, feed};
use super::batches::mapped;
use super::rows::little_endian;
use super::sink::Sink;
use super::text::refuse;
use crate::domain::limits::SAFETENSORS_HEADER_BYTES;

/// A length that is no text, and the brace that opens the header.
pub(super) fn begins(start: &[u8]) -> bool {
    matches!(*start, [_, _, _, _, _, 0, 0, 0, b'{', ..])
}

pub(super) fn read(source: &Path, sink: &mut Sink<'_>) -> Result<(), DataError> {
    let file = mapped(source)?;
    let tensors = open(&file)?;
    let mut names = tensors.names();
    names.sort_unstable();
    let (features, labels) = choose(&names)?;
    let mut rows = tensor(&tensors, names[features])?;
    let mut beside = labels.map(|labels| tensor(&tensors, names[labels])).transpose()?;
    let beside = match (&mut beside, labels) {
        (Some(rows), Some(labels)) => Some((names[labels], rows as &mut dyn Rows)),
        _ => None,
    };
    feed(&mut rows, beside, sink)
}

/// A matrix that is written under a name.
pub struct Named<'a> {
    /// What it is called.
    pub name: &'a str,
    /// Values in a row; `None` for one value a row, which has one axis.
    pub width: Option<usize>,
    /// The values, row after row.
    pub values: &'a [f32],
}

/// The file of matrices of 32-bit floats. What is said of them stands in its metadata.
///
/// # Errors
/// Two have one name.
pub fn written(matrices: &[Named<'_>], metadata: HashMap<String, String>) -> io::Result<Vec<u8>> {
    let bytes: Vec<Cow<'_, [u8]>> = matrices.iter().map(|matrix| little_endian(matrix.values)).collect();
    let views = matrices.iter().zip(&bytes).map(|(matrix, bytes)| {
        let shape = match matrix.width {
            Some(width) => vec![matrix.values.len() / width.max(1), width],
            None => vec![matrix.values.len()],
        };
        Ok((matrix.name, TensorView::new(Dtype::F32, shape, bytes).map_err(io::Error::other)?))
    });
    let views = views.collect::<io::Result<Vec<_>>>()?;
    safetensors::serialize(views, Some(metadata)).map_err(io::Error::other)
}

fn open(bytes: &[u8]) -> Result<SafeTensors<'_>, DataError> {
    let declared = bytes.first_chunk().map_or(0, |length| u64::from_le_bytes(*length));
    if declared > SAFETENSORS_HEADER_BYTES as u64 {
        let detail = format!("the header declares {declared} bytes; allowed are {SAFETENSORS_HEADER_BYTES}");
        return Err(refuse("/", "broken_header", detail));
    }
    SafeTensors::deserialize(bytes)
        .map_err(|error| refuse("/", "broken_header", format!("the safetensors file is damaged or cut short: {error}")))
}

/// A whole tensor of one row or more, from memory: rows, width and values, as of [`super::npy::matrix`]. It is the one of that
/// name, or else the one that a dataset would be made of.
///
/// # Errors
/// A refusal: there is no such tensor.
pub fn matrix(bytes: &[u8], name: &str, most_values: usize) -> Result<(usize, usize, Vec<f32>), DataError> {
    let tensors = open(bytes)?;
    let mut names = tensors.names();
    names.sort_unstable();
    let name = if names.contains(&name) { name } else { names[choose(&names)?.0] };
    let (data, extent, value) = typed(&tensors, name)?;
    check_count(extent, most_values)?;
    Ok((extent.rows as usize, extent.width, value.narrow(data)))
}

fn tensor<'a>(tensors: &SafeTensors<'a>, name: &str) -> Result<Stream<&'a [u8]>, DataError> {
    let (data, extent, value) = typed(tensors, name)?;
    Ok(Stream::new(data, extent, value))
}

fn typed<'a>(tensors: &SafeTensors<'a>, name: &str) -> Result<(&'a [u8], Extent, Value), DataError> {
    let view = tensors.tensor(name).map_err(|error| refuse("/", "broken_header", error.to_string()))?;
    let real = match view.dtype() {
        Dtype::BOOL => Real::Bool,
        Dtype::U8 => Real::U8,
        Dtype::I8 => Real::I8,
        Dtype::U16 => Real::U16,
        Dtype::I16 => Real::I16,
        Dtype::U32 => Real::U32,
        Dtype::I32 => Real::I32,
        Dtype::U64 => Real::U64,
        Dtype::I64 => Real::I64,
        Dtype::F16 => Real::F16,
        Dtype::BF16 => Real::BF16,
        Dtype::F32 => Real::F32,
        Dtype::F64 => Real::F64,
        other => {
            let detail = format!(
                "the tensor has the type {other:?}; allowed are BOOL, U8 to U64, I8 to I64, F16, BF16, F32 and F64"
            );
            return Err(refuse("/", "not_real", detail));
        }
    };
    let shape: Vec<u64> = view.shape().iter().map(|side| *side as u64).collect();
    Ok((view.data(), Extent::of(&shape)?, Value::new(real, false)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::trial;
    use super::*;
    use crate::data::Format;

    fn file(tensors: &[(&str, Dtype, &[usize], &[u8])]) -> Vec<u8> {
        let views = tensors
            .iter()
            .map(|(name, dtype, shape, data)| (*name, TensorView::new(*dtype, shape.to_vec(), data).unwrap()));
        safetensors::serialize(views.collect::<HashMap<_, _>>(), None).unwrap()
    }

    fn with_header(header: &str, data: &[u8]) -> Vec<u8> {
        [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), data].concat()
    }

    #[test]
    fn every_real_type_gives_the_same_rows() {
        fn check(dtype: Dtype, values: [Vec<u8>; 4]) {
            let (ingested, rows) = trial::read(&file(&[("rows", dtype, &[2, 2], &values.concat())])).unwrap();
            assert_eq!(
                (rows, ingested.format),
                (vec![vec![1.0, 0.0], vec![0.0, 1.0]], Format::Safetensors),
                "{dtype:?}"
            );
        }
        let each = [1_u8, 0, 0, 1];
        check(Dtype::BOOL, each.map(|v| vec![v]));
        check(Dtype::U8, each.map(|v| vec![v]));
        check(Dtype::I8, each.map(|v| vec![v]));
        check(Dtype::U16, each.map(|v| u16::from(v).to_le_bytes().to_vec()));
        check(Dtype::I16, each.map(|v| i16::from(v).to_le_bytes().to_vec()));
        check(Dtype::U32, each.map(|v| u32::from(v).to_le_bytes().to_vec()));
        check(Dtype::I32, each.map(|v| i32::from(v).to_le_bytes().to_vec()));
        check(Dtype::U64, each.map(|v| u64::from(v).to_le_bytes().to_vec()));
        check(Dtype::I64, each.map(|v| i64::from(v).to_le_bytes().to_vec()));
        check(Dtype::F16, each.map(|v| half::f16::from_f32(f32::from(v)).to_le_bytes().to_vec()));
        check(Dtype::BF16, each.map(|v| half::bf16::from_f32(f32::from(v)).to_le_bytes().to_vec()));
        check(Dtype::F32, each.map(|v| f32::from(v).to_le_bytes().to_vec()));
        check(Dtype::F64, each.map(|v| f64::from(v).to_le_bytes().to_vec()));
    }

    #[test]
    fn labels_stand_beside_their_rows() {
        let bytes = file(&[("x", Dtype::U8, &[2, 3, 2], &[5; 12]), ("y", Dtype::I8, &[2], &[3, 4])]);
        let (ingested, rows) = trial::read(&bytes).unwrap();
        assert_eq!(rows[1], [5.0, 5.0, 5.0, 5.0, 5.0, 5.0, 4.0]);
        assert_eq!(ingested.schema.image.unwrap().to_string(), "1x3x2");
        assert_eq!(ingested.schema.labels(), [6]);
    }

    #[test]
    fn what_is_written_is_read_by_its_name() {
        let (rows, errors) = ([1.0, -2.5, 0.5, 4.0], [0.25, 0.5]);
        let one = Named { name: "rows", width: Some(2), values: &rows };
        let other = Named { name: "errors", width: None, values: &errors };
        let bytes = written(&[one, other], HashMap::from([("columns".to_owned(), "[]".to_owned())])).unwrap();
        assert_eq!(matrix(&bytes, "rows", 4).unwrap(), (2, 2, rows.to_vec()));
        assert_eq!(matrix(&bytes, "errors", 4).unwrap(), (2, 1, errors.to_vec()));
        assert!(matrix(&bytes, "codes", 4).is_err() && matrix(&bytes, "rows", 3).is_err());
        assert_eq!(matrix(&file(&[("any", Dtype::U8, &[2], &[3, 4])]), "rows", 4).unwrap().2, [3.0, 4.0]);
    }

    #[test]
    fn a_value_that_is_not_a_number_is_missing() {
        let data: Vec<u8> = [1.0_f32, f32::NAN].iter().flat_map(|value| value.to_le_bytes()).collect();
        assert!(trial::read(&file(&[("x", Dtype::F32, &[2, 1], &data)])).unwrap().1[1][0].is_nan());
    }

    #[test]
    fn each_malformed_file_says_where() {
        let check = trial::refused;
        let whole = file(&[("x", Dtype::F32, &[2, 2], &[0; 16])]);
        check(&whole[..whole.len() - 1], "/", "broken_header");
        check(&whole[..20], "/", "broken_header");
        check(&[&whole[..], &[0]].concat(), "/", "broken_header");
        check(&file(&[("a", Dtype::U8, &[1], &[1]), ("b", Dtype::U8, &[1], &[1])]), "/", "several_arrays");
        check(&file(&[("a", Dtype::C64, &[1], &[0; 8])]), "/", "not_real");
        check(&file(&[("a", Dtype::U8, &[], &[1])]), "/", "wrong_shape");
        check(&file(&[("a", Dtype::U8, &[2, 0], &[])]), "/", "wrong_shape");
        check(&file(&[]), "/", "empty");
        check(&[&(1_u64 << 39).to_le_bytes()[..], b"{\"x\""].concat(), "/", "broken_header");
        let forged = r#"{"x":{"dtype":"F32","shape":[4611686018427387904,4],"data_offsets":[0,16]}}"#;
        check(&with_header(forged, &[0; 16]), "/", "broken_header");
        let shared = r#"{"x":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},"y":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}}"#;
        check(&with_header(shared, &[0; 4]), "/", "broken_header");
        check(&with_header(&"{\"x\":".repeat(5_000), &[]), "/", "broken_header");
        let infinite = file(&[("x", Dtype::F32, &[1], &f32::INFINITY.to_le_bytes())]);
        check(&infinite, "/rows/0/columns/0", "out_of_range");
    }

    proptest! {
        #[test]
        fn what_was_written_is_read(width in 1..5_usize, mut values in prop::collection::vec(-1e30_f32..1e30, 1..40)) {
            let rows = values.len().div_ceil(width);
            values.resize(rows * width, 0.5);
            let data: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
            let (_, read) = trial::read(&file(&[("x", Dtype::F32, &[rows, width], &data)])).unwrap();
            prop_assert_eq!(read.concat(), values);
        }

        #[test]
        fn any_bytes_are_read_or_refused(length in 0..300_u64, rest in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = trial::read(&[&length.to_le_bytes()[..], b"{", &rest].concat());
        }

        #[test]
        fn damage_is_read_or_refused(position in any::<prop::sample::Index>(), byte: u8, cut in any::<prop::sample::Index>()) {
            let whole = file(&[("x", Dtype::F32, &[2, 2], &[0; 16]), ("y", Dtype::U8, &[2], &[0; 2])]);
            trial::damage(&whole, position.index(whole.len()), byte, cut.index(whole.len()));
        }
    }
}
