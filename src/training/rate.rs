//! What a spec may leave to the program: `"auto"` in the place of a number.

use std::fmt;

use serde::de::{Deserializer, Visitor};
use serde::{Deserialize, Serialize, Serializer};
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::{ObjectBuilder, OneOfBuilder, Schema, SchemaType, Type};
use utoipa::{PartialSchema, ToSchema};

const AUTO: &str = "auto";

/// The learning rate: a number, or `"auto"` for one that is found by a range test.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum LearningRate {
    /// Found before the first step; see `range_test`.
    Auto,
    /// As it was asked for.
    Set(f64),
}

impl LearningRate {
    /// The number, where there is one.
    pub fn number(self) -> Option<f64> {
        match self {
            Self::Auto => None,
            Self::Set(rate) => Some(rate),
        }
    }
}

impl Serialize for LearningRate {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Auto => serializer.serialize_str(AUTO),
            Self::Set(rate) => serializer.serialize_f64(*rate),
        }
    }
}

impl<'de> Deserialize<'de> for LearningRate {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let number: Option<f64> = deserializer.deserialize_any(NumberOrAuto("a number or \"auto\""))?;
        Ok(number.map_or(Self::Auto, Self::Set))
    }
}

impl PartialSchema for LearningRate {
    fn schema() -> RefOr<Schema> {
        let number = ObjectBuilder::new().schema_type(Type::Number).exclusive_minimum(Some(0.0)).maximum(Some(100.0));
        let auto = ObjectBuilder::new().schema_type(Type::String).enum_values(Some([AUTO]));
        let text =
            "The learning rate: a number, or `auto` for one that is found by a range test before the first step.";
        OneOfBuilder::new().description(Some(text)).item(number).item(auto).into()
    }
}

impl ToSchema for LearningRate {}

/// A whole number of rows; `None` where it is `"auto"`, `null` or left out.
///
/// # Errors
/// It is something else.
pub(super) fn rows_or_auto<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u32>, D::Error> {
    let expected = "a whole number of rows, \"auto\" or null";
    let number: Option<f64> = deserializer.deserialize_any(NumberOrAuto(expected))?;
    let whole = |number: f64| {
        let is_one = number.fract() == 0.0 && (0.0..=f64::from(u32::MAX)).contains(&number);
        let unexpected = serde::de::Unexpected::Float(number);
        if is_one { Ok(number as u32) } else { Err(serde::de::Error::invalid_value(unexpected, &expected)) }
    };
    number.map(whole).transpose()
}

/// The schema of a number of rows that may be left to the program.
pub(super) fn rows_or_auto_schema() -> Schema {
    let types = [Type::Integer, Type::Null];
    let number = ObjectBuilder::new().schema_type(SchemaType::from_iter(types)).minimum(Some(1)).maximum(Some(65_536));
    let auto = ObjectBuilder::new().schema_type(Type::String).enum_values(Some([AUTO]));
    let text = "Rows in one step. By the number of rows, in powers of two from 8 to 256 and as far as memory has room, when it is left out or `auto`.";
    OneOfBuilder::new().description(Some(text)).item(number).item(auto).into()
}

struct NumberOrAuto(&'static str);

impl Visitor<'_> for NumberOrAuto {
    type Value = Option<f64>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }

    fn visit_f64<E>(self, number: f64) -> Result<Option<f64>, E> {
        Ok(Some(number))
    }

    fn visit_i64<E>(self, number: i64) -> Result<Option<f64>, E> {
        Ok(Some(number as f64))
    }

    fn visit_u64<E>(self, number: u64) -> Result<Option<f64>, E> {
        Ok(Some(number as f64))
    }

    fn visit_unit<E>(self) -> Result<Option<f64>, E> {
        Ok(None)
    }

    fn visit_none<E>(self) -> Result<Option<f64>, E> {
        Ok(None)
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Option<f64>, E> {
        if text == AUTO { Ok(None) } else { Err(E::invalid_value(serde::de::Unexpected::Str(text), &self)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_a_number_or_left_to_the_program() {
        for (text, rate) in
            [("0.01", LearningRate::Set(0.01)), ("1", LearningRate::Set(1.0)), ("\"auto\"", LearningRate::Auto)]
        {
            let read: LearningRate = serde_json::from_str(text).unwrap();
            assert_eq!(read, rate);
            let written = serde_json::to_string(&read).unwrap();
            assert_eq!(serde_json::from_str::<LearningRate>(&written).unwrap(), rate);
        }
        let error = serde_json::from_str::<LearningRate>("\"fast\"").unwrap_err().to_string();
        assert!(error.contains("a number or \"auto\""), "{error}");
    }
}
