//! Arrays of numbers in binary files: the types of their values, what their axes mean, which of several are rows and which
//! labels, and how they come into the sink.
//!
//! The first axis counts rows; the others are flattened, and `[n, height, width]` or `[n, channels, height, width]` are taken
//! for images. A shape is only what a file declares: nothing is sized by it but a block of rows, and a file that ends early
//! is refused. A format makes [`Rows`] and calls [`feed`].

use std::io::{self, Read};

use super::DataError;
use super::batches::{EXACT, ROUNDED};
use super::dataset::Role;
use super::rows::floats;
use super::sink::{Field, Holds, Sink, numbered};
use super::text::{refuse, wrong};
use crate::domain::limits::COLUMNS;
use crate::domain::refusal::{Code, Refusal};
use crate::domain::shape::ImageShape;

/// Axes of an array.
const AXES: usize = 8;
/// Values that are read at once.
const BLOCK_VALUES: usize = 1 << 18;

/// The real types that a binary file may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Real {
    Bool,
    U8,
    I8,
    U16,
    I16,
    U32,
    I32,
    U64,
    I64,
    F16,
    BF16,
    F32,
    F64,
}

impl Real {
    /// How many bytes a value takes, and how they become a number when they are in little-endian order.
    fn decoder(self) -> (usize, fn(&[u8]) -> f64) {
        macro_rules! plain {
            ($number:ty) => {
                (size_of::<$number>(), |bytes| {
                    <$number>::from_le_bytes(bytes.try_into().expect("a value was sized above; this is a bug")) as f64
                })
            };
        }
        match self {
            Self::Bool => (1, |bytes| f64::from(u8::from(bytes[0] != 0))),
            Self::U8 => plain!(u8),
            Self::I8 => plain!(i8),
            Self::U16 => plain!(u16),
            Self::I16 => plain!(i16),
            Self::U32 => plain!(u32),
            Self::I32 => plain!(i32),
            Self::U64 => plain!(u64),
            Self::I64 => plain!(i64),
            Self::F16 => (2, |bytes| f64::from(half::f16::from_le_bytes([bytes[0], bytes[1]]))),
            Self::BF16 => (2, |bytes| f64::from(half::bf16::from_le_bytes([bytes[0], bytes[1]]))),
            Self::F32 => plain!(f32),
            Self::F64 => plain!(f64),
        }
    }

    /// Whether it holds whole numbers with more digits than 32-bit floats.
    fn has_digits_to_lose(self) -> bool {
        matches!(self, Self::U32 | Self::I32 | Self::U64 | Self::I64)
    }
}

/// How one value is read.
#[derive(Clone, Copy)]
pub(super) struct Value {
    /// Its size.
    pub bytes: usize,
    big_endian: bool,
    decode: fn(&[u8]) -> f64,
    has_digits_to_lose: bool,
    is_f32: bool,
}

impl Value {
    pub fn new(real: Real, big_endian: bool) -> Self {
        let (bytes, decode) = real.decoder();
        Self { bytes, big_endian, decode, has_digits_to_lose: real.has_digits_to_lose(), is_f32: real == Real::F32 }
    }

    /// Whether it lies as this program's own rows do.
    pub fn is_plain_f32(&self) -> bool {
        self.is_f32 && !self.big_endian
    }

    /// Every value of `bytes` as a 32-bit float; infinite where that does not hold it.
    pub fn narrow(&self, bytes: &[u8]) -> Vec<f32> {
        if self.is_plain_f32() {
            return floats(bytes);
        }
        let mut narrowed = vec![0.0; bytes.len() / self.bytes];
        self.decode_all(&mut bytes.to_vec(), |position, value| narrowed[position] = value as f32);
        narrowed
    }

    /// Gives every value of `bytes` and its position. Turns those of the other byte order where they lie.
    pub fn decode_all(&self, bytes: &mut [u8], mut put: impl FnMut(usize, f64)) {
        for (position, value) in bytes.chunks_exact_mut(self.bytes).enumerate() {
            if self.big_endian {
                value.reverse();
            }
            put(position, (self.decode)(value));
        }
    }
}

/// Refuses an array that is no question: without rows, or of more values than one takes.
pub(super) fn check_count(extent: Extent, most_values: usize) -> Result<(), DataError> {
    let Extent { rows, width, .. } = extent;
    if (1..=(most_values / width) as u64).contains(&rows) {
        return Ok(());
    }
    let detail = format!("the array has {rows} rows of {width}; allowed are 1 row or more, and {most_values} values");
    Err(refuse("/", "wrong_shape", detail))
}

/// What the axes of an array mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Extent {
    /// Length of the first axis.
    pub rows: u64,
    /// Values of a row: at least one, at most as many as a dataset has columns.
    pub width: usize,
    /// The image that a row looks like.
    pub image: Option<ImageShape>,
}

impl Extent {
    /// Reads a shape.
    pub fn of(shape: &[u64]) -> Result<Self, DataError> {
        if shape.is_empty() || shape.len() > AXES {
            let detail =
                format!("the array has {} axes; allowed are 1 to {AXES}, the first of which counts rows", shape.len());
            return Err(refuse("/", "wrong_shape", detail));
        }
        let width = shape[1..].iter().try_fold(1_u64, |product, side| product.checked_mul(*side));
        match width {
            Some(width @ 1..) if width <= COLUMNS as u64 => {
                Ok(Self { rows: shape[0], width: width as usize, image: image(shape) })
            }
            _ => {
                let detail = format!("the array has the shape {shape:?}; a row may have 1 to {COLUMNS} values");
                Err(refuse("/", "wrong_shape", detail))
            }
        }
    }

    /// Bytes that all values take; `None` beyond 64 bits.
    pub fn bytes(&self, value: Value) -> Option<u64> {
        self.rows.checked_mul(self.width as u64)?.checked_mul(value.bytes as u64)
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

/// The rows of an array, one block after the other.
pub(super) trait Rows {
    fn extent(&self) -> Extent;
    fn value(&self) -> Value;
    /// The next `count` rows, row after row.
    fn next(&mut self, count: u64) -> Result<Vec<f64>, DataError>;
    /// Says whether the array ends where it should.
    fn end(&mut self) -> Result<(), DataError>;
}

/// Rows that lie one behind the other.
pub(super) struct Stream<R> {
    source: R,
    extent: Extent,
    value: Value,
    done: u64,
}

impl<R: Read> Stream<R> {
    /// `source` stands at the first value.
    pub fn new(source: R, extent: Extent, value: Value) -> Self {
        Self { source, extent, value, done: 0 }
    }
}

impl<R: Read> Rows for Stream<R> {
    fn extent(&self) -> Extent {
        self.extent
    }

    fn value(&self) -> Value {
        self.value
    }

    fn next(&mut self, count: u64) -> Result<Vec<f64>, DataError> {
        let row_bytes = self.extent.width * self.value.bytes;
        let mut bytes = vec![0; count as usize * row_bytes];
        let got = read_most(&mut self.source, &mut bytes).map_err(|error| wrong(error, 0))?;
        if got < bytes.len() {
            let row = self.done + (got / row_bytes) as u64;
            let detail =
                format!("is where the file ends; its header declares {} rows of {row_bytes} bytes", self.extent.rows);
            return Err(refuse(&format!("/rows/{row}"), "wrong_length", detail));
        }
        self.done += count;
        let mut block = vec![0.0; bytes.len() / self.value.bytes];
        self.value.decode_all(&mut bytes, |position, value| block[position] = value);
        Ok(block)
    }

    fn end(&mut self) -> Result<(), DataError> {
        match read_most(&mut self.source, &mut [0]).map_err(|error| wrong(error, 0))? {
            0 => Ok(()),
            _ => {
                let detail = format!("the header declares {} rows; more bytes follow them", self.extent.rows);
                Err(refuse("/", "wrong_length", detail))
            }
        }
    }
}

/// Fills as much of the buffer as there is.
pub(super) fn read_most(source: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut got = 0;
    while got < buffer.len() {
        match source.read(&mut buffer[got..]) {
            Ok(0) => break,
            Ok(count) => got += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(got)
}

/// Puts an array into the sink, and beside each row that of another one, whose columns are labels of that name.
pub(super) fn feed(
    features: &mut dyn Rows,
    mut labels: Option<(&str, &mut dyn Rows)>,
    sink: &mut Sink<'_>,
) -> Result<(), DataError> {
    let extent = features.extent();
    let (rows, width) = (extent.rows, extent.width);
    let mut fields = numbered(width);
    if let Some((name, labels)) = &labels {
        let of = labels.extent();
        if of.rows != rows {
            let detail = format!("the array `{name}` has {} rows; the one it labels has {rows}", of.rows);
            return Err(refuse("/", "wrong_shape", detail));
        }
        fields.extend((0..of.width).map(|column| {
            let name = if of.width == 1 { (*name).to_owned() } else { format!("{name}{column}") };
            Field { role: Some(Role::Label), ..Field::new(name, Holds::Numbers) }
        }));
    }
    let pixels_have_roles =
        sink.spec.roles.iter().any(|(name, _)| !fields[width..].iter().any(|label| label.name == *name));
    if sink.image.is_none() && !pixels_have_roles {
        sink.image = extent.image;
    }
    let columns = fields.len();
    sink.begin(fields)?;
    let loses = features.value().has_digits_to_lose;
    let labels_lose = labels.as_ref().is_some_and(|(_, labels)| labels.value().has_digits_to_lose);
    let mut rounded = vec![false; columns];
    let at_once = (BLOCK_VALUES / columns).max(1) as u64;
    let mut first = 0;
    while first < rows && !sink.is_full() {
        let count = at_once.min(rows - first);
        let block = features.next(count)?;
        let beside = labels.as_mut().map(|(_, labels)| labels.next(count)).transpose()?.unwrap_or_default();
        for (index, row) in block.chunks_exact(width).enumerate() {
            put(row, 0, loses, &mut rounded, sink);
            put(&beside[index * (columns - width)..][..columns - width], width, labels_lose, &mut rounded, sink);
            sink.end_row()?;
        }
        first += count;
    }
    if sink.is_full() {
        return Ok(());
    }
    features.end()?;
    labels.map_or(Ok(()), |(_, labels)| labels.end())
}

/// Gives values for the columns from `first` on. Says once for each column that its whole numbers lose digits.
fn put(values: &[f64], first: usize, loses: bool, rounded: &mut [bool], sink: &mut Sink<'_>) {
    for (position, value) in values.iter().enumerate() {
        if loses && value.abs() > EXACT && !std::mem::replace(&mut rounded[first + position], true) {
            sink.note(first + position, ROUNDED);
        }
        sink.number(*value);
    }
}

/// Names under which the rows of a dataset are looked for among several arrays.
const FEATURES: [&str; 5] = ["x", "X", "data", "images", "features"];
/// Names of what labels them.
const LABELS: [&str; 5] = ["y", "Y", "labels", "label", "target"];

/// Which of several named arrays are rows: the only one, or one that is called as rows are. Then which of them labels the rows,
/// if one does.
pub(super) fn choose(names: &[&str]) -> Result<(usize, Option<usize>), DataError> {
    let called = |known: &[&str]| -> Vec<usize> {
        (0..names.len()).filter(|position| known.contains(&names[*position])).collect()
    };
    match (names.len(), &called(&FEATURES)[..], &called(&LABELS)[..]) {
        (1, _, _) => Ok((0, None)),
        (2, [features], [labels]) => Ok((*features, Some(*labels))),
        (0, _, _) => Err(refuse("/", "empty", "the file holds no array")),
        (count, _, _) => {
            let some = names.iter().take(12).map(|name| name.chars().take(60).collect()).collect::<Vec<String>>();
            let detail = format!(
                "the file holds {count} arrays: {}; allowed is one, or two of which one is called {} and the other, which labels its rows, {}",
                some.join(", "),
                FEATURES.join(", "),
                LABELS.join(", ")
            );
            Err(Refusal::at(Code::InvalidDataset, "/", "several_arrays", detail).into())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_array_is_rows_and_two_are_rows_and_labels() {
        assert_eq!(choose(&["weights"]).unwrap(), (0, None));
        assert_eq!(choose(&["target", "data"]).unwrap(), (1, Some(0)));
        for names in [&["x", "X"][..], &["x", "y", "z"], &["a", "b"], &["y", "labels"], &[]] {
            assert!(choose(names).is_err(), "{names:?}");
        }
        let Err(DataError::Refused(refusal)) = choose(&["x_train", "x_test"]) else { panic!("two were taken") };
        assert!(refusal.errors[0].detail.contains("x_train, x_test"), "{refusal:?}");
    }

    #[test]
    fn shapes_beyond_a_dataset_are_refused() {
        let code = |shape: &[u64]| match Extent::of(shape) {
            Err(DataError::Refused(refusal)) => refusal.errors[0].code.clone(),
            other => panic!("{shape:?} gave {other:?}"),
        };
        for shape in [&[][..], &[1; 9], &[5, 0], &[5, u64::MAX, 2], &[5, 70_000], &[5, 300, 300]] {
            assert_eq!(code(shape), "wrong_shape");
        }
        assert_eq!(Extent::of(&[u64::MAX, 3, 1, 4]).unwrap().width, 12);
        let image = |shape: &[u64]| Extent::of(shape).unwrap().image.map(|image| image.to_string());
        assert_eq!(image(&[9, 2, 3]), image(&[9, 1, 2, 3]));
        assert!(image(&[9, 6]).is_none() && image(&[9, 2, 2, 3]).is_none());
    }
}
