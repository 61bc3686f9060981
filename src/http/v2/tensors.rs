//! Tensors of a request: their types, and their elements out of JSON or out of bytes.
//!
//! Elements are handed over one after the other and never kept in a tree, so a large tensor takes the memory of what is made of it.

use half::{bf16, f16};
use serde::de::{DeserializeSeed, Deserializer, Error, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::ToSchema;

/// The type of the elements of a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "UPPERCASE")]
pub enum Datatype {
    /// True or false; a byte.
    Bool,
    /// Whole numbers of 8 bits from 0.
    Uint8,
    /// Of 16 bits.
    Uint16,
    /// Of 32 bits.
    Uint32,
    /// Of 64 bits.
    Uint64,
    /// Whole numbers of 8 bits.
    Int8,
    /// Of 16 bits.
    Int16,
    /// Of 32 bits.
    Int32,
    /// Of 64 bits.
    Int64,
    /// Floats of 16 bits.
    Fp16,
    /// Floats of 16 bits with the range of those of 32.
    Bf16,
    /// Floats of 32 bits.
    Fp32,
    /// Floats of 64 bits.
    Fp64,
    /// Texts.
    Bytes,
}

impl Datatype {
    /// Bytes of an element; `None` where that differs.
    fn size(self) -> Option<usize> {
        match self {
            Self::Bool | Self::Uint8 | Self::Int8 => Some(1),
            Self::Uint16 | Self::Int16 | Self::Fp16 | Self::Bf16 => Some(2),
            Self::Uint32 | Self::Int32 | Self::Fp32 => Some(4),
            Self::Uint64 | Self::Int64 | Self::Fp64 => Some(8),
            Self::Bytes => None,
        }
    }

    /// The range of whole numbers; `None` for other types.
    fn range(self) -> Option<(f64, f64)> {
        // The ends of 64-bit numbers are rounded up, which is as exact as what becomes of them.
        match self {
            Self::Uint8 => Some((0.0, f64::from(u8::MAX))),
            Self::Uint16 => Some((0.0, f64::from(u16::MAX))),
            Self::Uint32 => Some((0.0, f64::from(u32::MAX))),
            Self::Uint64 => Some((0.0, u64::MAX as f64)),
            Self::Int8 => Some((f64::from(i8::MIN), f64::from(i8::MAX))),
            Self::Int16 => Some((f64::from(i16::MIN), f64::from(i16::MAX))),
            Self::Int32 => Some((f64::from(i32::MIN), f64::from(i32::MAX))),
            Self::Int64 => Some((i64::MIN as f64, i64::MAX as f64)),
            Self::Bool | Self::Fp16 | Self::Bf16 | Self::Fp32 | Self::Fp64 | Self::Bytes => None,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Bool => "BOOL",
            Self::Uint8 => "UINT8",
            Self::Uint16 => "UINT16",
            Self::Uint32 => "UINT32",
            Self::Uint64 => "UINT64",
            Self::Int8 => "INT8",
            Self::Int16 => "INT16",
            Self::Int32 => "INT32",
            Self::Int64 => "INT64",
            Self::Fp16 => "FP16",
            Self::Bf16 => "BF16",
            Self::Fp32 => "FP32",
            Self::Fp64 => "FP64",
            Self::Bytes => "BYTES",
        }
    }

    /// Its name in a model's configuration.
    pub fn configured(self) -> String {
        match self {
            Self::Bytes => "TYPE_STRING".to_owned(),
            other => format!("TYPE_{}", other.name()),
        }
    }
}

/// An element of a tensor.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Element<'a> {
    /// `null`, or a number that is none.
    Missing,
    Number(f64),
    Text(&'a str),
}

impl Element<'_> {
    fn number(value: f64) -> Self {
        if value.is_nan() { Self::Missing } else { Self::Number(value) }
    }
}

/// Where the elements of a tensor are.
#[derive(Clone, Copy, Debug)]
pub(super) enum Data<'a> {
    Json(&'a RawValue),
    Binary(&'a [u8]),
}

impl Data<'_> {
    /// Hands over every element, of which there must be `count`.
    ///
    /// # Errors
    /// What is wrong with the data.
    pub fn each(self, datatype: Datatype, count: usize, mut take: impl FnMut(Element<'_>)) -> Result<(), String> {
        match self {
            Self::Json(data) => from_json(data, datatype, count, &mut take),
            Self::Binary(bytes) => match datatype.size() {
                Some(size) => from_bytes(bytes, datatype, size, count, &mut take),
                None => from_texts(bytes, count, &mut take),
            },
        }
    }
}

fn from_bytes(
    bytes: &[u8],
    datatype: Datatype,
    size: usize,
    count: usize,
    take: &mut impl FnMut(Element<'_>),
) -> Result<(), String> {
    if count.checked_mul(size) != Some(bytes.len()) {
        let name = datatype.name();
        return Err(format!("has {} bytes; {count} elements of {name} are {size} bytes each", bytes.len()));
    }
    /// Numbers of a type, in little-endian bytes.
    macro_rules! numbers {
        ($type:ty, $widen:expr) => {
            bytes.as_chunks().0.iter().for_each(|chunk| take(Element::number($widen(<$type>::from_le_bytes(*chunk)))))
        };
    }
    match datatype {
        Datatype::Bool => {
            if let Some(position) = bytes.iter().position(|byte| *byte > 1) {
                return Err(format!("element {position} is {}; a BOOL is 0 or 1", bytes[position]));
            }
            numbers!(u8, f64::from);
        }
        Datatype::Uint8 => numbers!(u8, f64::from),
        Datatype::Uint16 => numbers!(u16, f64::from),
        Datatype::Uint32 => numbers!(u32, f64::from),
        Datatype::Uint64 => numbers!(u64, |value| value as f64),
        Datatype::Int8 => numbers!(i8, f64::from),
        Datatype::Int16 => numbers!(i16, f64::from),
        Datatype::Int32 => numbers!(i32, f64::from),
        Datatype::Int64 => numbers!(i64, |value| value as f64),
        Datatype::Fp16 => numbers!(f16, f64::from),
        Datatype::Bf16 => numbers!(bf16, f64::from),
        Datatype::Fp32 => numbers!(f32, f64::from),
        Datatype::Fp64 => numbers!(f64, |value| value),
        Datatype::Bytes => unreachable!("texts have no size; this is a bug"),
    }
    Ok(())
}

/// Texts, each after its length in four bytes.
fn from_texts(mut bytes: &[u8], count: usize, take: &mut impl FnMut(Element<'_>)) -> Result<(), String> {
    let all = bytes.len();
    for element in 0..count {
        let Some((length, rest)) = bytes.split_first_chunk() else {
            return Err(format!("ends within the length of element {element} of {count}"));
        };
        let length = u32::from_le_bytes(*length) as usize;
        let Some((text, rest)) = rest.split_at_checked(length) else {
            return Err(format!("says that element {element} has {length} bytes, and {} are left", rest.len()));
        };
        let text = str::from_utf8(text).map_err(|_| format!("element {element} is not UTF-8"))?;
        take(Element::Text(text));
        bytes = rest;
    }
    match bytes.len() {
        0 => Ok(()),
        left => Err(format!("has {all} bytes, of which {left} are left after {count} elements")),
    }
}

fn from_json(
    data: &RawValue,
    datatype: Datatype,
    count: usize,
    take: &mut impl FnMut(Element<'_>),
) -> Result<(), String> {
    let (mut seen, mut fault) = (0, None);
    let elements = Elements { datatype, count, seen: &mut seen, fault: &mut fault, take };
    let read = elements.deserialize(&mut serde_json::Deserializer::from_str(data.get()));
    match (fault, read) {
        (Some(fault), _) => Err(fault),
        (None, Err(error)) => Err(format!("element {seen} cannot be read: {error}")),
        (None, Ok(())) if seen < count => Err(format!("has {seen} elements; its shape says {count}")),
        (None, Ok(())) => Ok(()),
    }
}

/// Reads an element, or an array of what it reads. How arrays are nested says nothing that the shape does not.
struct Elements<'a, T> {
    datatype: Datatype,
    count: usize,
    seen: &'a mut usize,
    fault: &'a mut Option<String>,
    take: &'a mut T,
}

impl<T: FnMut(Element<'_>)> Elements<'_, T> {
    fn add<E: Error>(self, element: Element<'_>) -> Result<(), E> {
        if *self.seen >= self.count {
            let detail = format!("has more than the {} elements that its shape says", self.count);
            return self.fail(detail);
        }
        (self.take)(element);
        *self.seen += 1;
        Ok(())
    }

    fn number<E: Error>(self, value: f64) -> Result<(), E> {
        let name = self.datatype.name();
        let fault = match (self.datatype, self.datatype.range()) {
            (Datatype::Bytes, _) => Some("and BYTES are texts".to_owned()),
            (Datatype::Bool, _) if value != 0.0 && value != 1.0 => Some("and a BOOL is true or false".to_owned()),
            (_, Some((low, high))) if value.fract() != 0.0 || !(low..=high).contains(&value) => {
                Some(format!("and {name} are whole numbers from {low} to {high}"))
            }
            _ => None,
        };
        match fault {
            Some(fault) => {
                let detail = format!("element {} is {value}, {fault}", self.seen);
                self.fail(detail)
            }
            None => self.add(Element::number(value)),
        }
    }

    fn fail<E: Error>(self, fault: String) -> Result<(), E> {
        *self.fault = Some(fault);
        Err(E::custom("the data does not fit"))
    }
}

impl<'de, T: FnMut(Element<'_>)> DeserializeSeed<'de> for Elements<'_, T> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de, T: FnMut(Element<'_>)> Visitor<'de> for Elements<'_, T> {
    type Value = ();

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("an array of elements, flat or nested")
    }

    fn visit_seq<S: SeqAccess<'de>>(self, mut seq: S) -> Result<(), S::Error> {
        let Self { datatype, count, seen, fault, take } = self;
        loop {
            let elements = Elements { datatype, count, seen: &mut *seen, fault: &mut *fault, take: &mut *take };
            if seq.next_element_seed(elements)?.is_none() {
                return Ok(());
            }
        }
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<(), E> {
        self.number(value)
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<(), E> {
        self.number(value as f64)
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<(), E> {
        self.number(value as f64)
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<(), E> {
        if self.datatype != Datatype::Bool {
            let detail = format!("element {} is {value}, which is of type BOOL", self.seen);
            return self.fail(detail);
        }
        self.add(Element::Number(f64::from(u8::from(value))))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<(), E> {
        if self.datatype != Datatype::Bytes {
            let shown: String = text.chars().take(40).collect();
            let detail = format!("element {} is the text `{shown}`, which is of type BYTES", self.seen);
            return self.fail(detail);
        }
        self.add(Element::Text(text))
    }

    fn visit_unit<E: Error>(self) -> Result<(), E> {
        self.add(Element::Missing)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json(data: &str, datatype: Datatype, count: usize) -> Result<Vec<f64>, String> {
        let raw: &RawValue = serde_json::from_str(data).unwrap();
        numbers(Data::Json(raw), datatype, count)
    }

    fn numbers(data: Data<'_>, datatype: Datatype, count: usize) -> Result<Vec<f64>, String> {
        let mut values = Vec::new();
        data.each(datatype, count, |element| match element {
            Element::Number(value) => values.push(value),
            Element::Missing => values.push(-1.0),
            Element::Text(text) => values.push(text.len() as f64),
        })?;
        Ok(values)
    }

    #[test]
    fn flat_and_nested_data_are_the_same() {
        for data in ["[1, 2.5, null, 4]", "[[1, 2.5], [null, 4]]", "[[[1], [2.5]], [[null], [4]]]"] {
            assert_eq!(json(data, Datatype::Fp32, 4).unwrap(), [1.0, 2.5, -1.0, 4.0]);
        }
        assert_eq!(json("[true, false, 1]", Datatype::Bool, 3).unwrap(), [1.0, 0.0, 1.0]);
        assert_eq!(json(r#"["a", "bcd"]"#, Datatype::Bytes, 2).unwrap(), [1.0, 3.0]);
        assert_eq!(json("7", Datatype::Int64, 1).unwrap(), [7.0]);
    }

    #[test]
    fn data_that_does_not_fit_is_refused_with_the_element() {
        let check = |data: &str, datatype, part: &str| {
            let fault = json(data, datatype, 2).unwrap_err();
            assert!(fault.contains(part), "{data}: {fault}");
        };
        check("[1]", Datatype::Fp32, "has 1 elements; its shape says 2");
        check("[1, 2, 3]", Datatype::Fp32, "more than the 2 elements");
        check("[1, 256]", Datatype::Uint8, "element 1 is 256");
        check("[1, -1]", Datatype::Uint64, "element 1 is -1");
        check("[1, 1.5]", Datatype::Int32, "element 1 is 1.5");
        check("[1, \"a\"]", Datatype::Fp32, "element 1 is the text `a`");
        check("[1, true]", Datatype::Int8, "element 1 is true");
        check("[1, 2]", Datatype::Bool, "element 1 is 2");
        check("[\"a\", 2]", Datatype::Bytes, "element 1 is 2");
        check("[1, {}]", Datatype::Fp32, "element 1 cannot be read");
        check("[1, 1e999]", Datatype::Fp64, "element 1 cannot be read");
    }

    #[test]
    fn bytes_of_every_type_are_read() {
        macro_rules! check {
            ($datatype:ident, $($value:expr),+) => {{
                let bytes: Vec<u8> = [$($value.to_le_bytes()),+].concat();
                let read = numbers(Data::Binary(&bytes), Datatype::$datatype, 2).unwrap();
                assert_eq!(read, [$(f64::from($value)),+]);
            }};
        }
        check!(Uint8, 3_u8, 255_u8);
        check!(Uint16, 3_u16, 65_535_u16);
        check!(Uint32, 3_u32, u32::MAX);
        check!(Int8, -3_i8, 127_i8);
        check!(Int16, -3_i16, 300_i16);
        check!(Int32, -3_i32, 70_000_i32);
        check!(Fp16, f16::from_f32(-0.5), f16::from_f32(3.0));
        check!(Bf16, bf16::from_f32(-0.5), bf16::from_f32(3.0));
        check!(Fp32, -0.5_f32, 3.25_f32);
        check!(Fp64, -0.5_f64, 1e100_f64);
        let long = [u64::MAX.to_le_bytes(), 5_u64.to_le_bytes()].concat();
        assert_eq!(numbers(Data::Binary(&long), Datatype::Uint64, 2).unwrap(), [u64::MAX as f64, 5.0]);
        assert_eq!(numbers(Data::Binary(&[0, 1]), Datatype::Bool, 2).unwrap(), [0.0, 1.0]);
        let nan = f32::NAN.to_le_bytes();
        assert_eq!(numbers(Data::Binary(&nan), Datatype::Fp32, 1).unwrap(), [-1.0]);
    }

    #[test]
    fn lengths_that_lie_are_refused() {
        let check = |bytes: &[u8], datatype, count, part: &str| {
            let fault = numbers(Data::Binary(bytes), datatype, count).unwrap_err();
            assert!(fault.contains(part), "{fault}");
        };
        check(&[0; 7], Datatype::Fp32, 2, "has 7 bytes; 2 elements of FP32 are 4 bytes each");
        check(&[0; 8], Datatype::Fp64, usize::MAX, "8 bytes each");
        check(&[0, 2], Datatype::Bool, 2, "element 1 is 2");
        check(&[1, 0, 0], Datatype::Bytes, 1, "ends within the length of element 0");
        check(&[255, 255, 255, 255, 97], Datatype::Bytes, 1, "has 4294967295 bytes, and 1 are left");
        check(&[1, 0, 0, 0, 97, 9], Datatype::Bytes, 1, "1 are left after 1 elements");
        check(&[1, 0, 0, 0, 255], Datatype::Bytes, 1, "element 0 is not UTF-8");
    }
}
