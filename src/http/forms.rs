//! Rows as they are written: JSON in and out, and for images PNG.

use axum::body::Body;
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use image::{ExtendedColorType, ImageBuffer, ImageEncoder, Rgb, RgbImage};
use serde::de::{Deserializer, MapAccess, SeqAccess, Visitor};
use serde::ser::{SerializeSeq, Serializer};
use serde::{Deserialize, Serialize};
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::{ArrayBuilder, ObjectBuilder, OneOfBuilder, Schema, SchemaType, Type};
use utoipa::{PartialSchema, ToSchema};

use super::error::{ApiError, internal};
use super::media::Form;
use crate::data::dataset::Column;
use crate::domain::limits::GRID_IMAGES;
use crate::domain::refusal::{Code, Refusal};
use crate::domain::shape::ImageShape;

/// A cell of a JSON body.
#[derive(Clone, Debug, PartialEq)]
pub enum Cell {
    /// `null`.
    Missing,
    /// A number.
    Number(f64),
    /// A level of a category.
    Text(Box<str>),
}

impl<'de> Deserialize<'de> for Cell {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct AnyCell;

        impl Visitor<'_> for AnyCell {
            type Value = Cell;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a number, a text or null")
            }

            fn visit_f64<E>(self, number: f64) -> Result<Cell, E> {
                Ok(Cell::Number(number))
            }

            fn visit_i64<E>(self, number: i64) -> Result<Cell, E> {
                Ok(Cell::Number(number as f64))
            }

            fn visit_u64<E>(self, number: u64) -> Result<Cell, E> {
                Ok(Cell::Number(number as f64))
            }

            fn visit_str<E>(self, text: &str) -> Result<Cell, E> {
                Ok(Cell::Text(text.into()))
            }

            fn visit_unit<E>(self) -> Result<Cell, E> {
                Ok(Cell::Missing)
            }
        }

        deserializer.deserialize_any(AnyCell)
    }
}

/// A row of a JSON body: values in the order of the columns, or by the name of the column. `null` is a missing value.
#[derive(Debug)]
pub enum RowInput {
    /// In order.
    Values(Vec<Cell>),
    /// By name.
    Named(Vec<(String, Cell)>),
}

// Written out, because a derived schema would not say that the two look different.
impl PartialSchema for RowInput {
    fn schema() -> RefOr<Schema> {
        let value =
            || ObjectBuilder::new().schema_type(SchemaType::from_iter([Type::Number, Type::String, Type::Null]));
        let named = ObjectBuilder::new().additional_properties(Some(Schema::from(value())));
        OneOfBuilder::new()
            .description(Some("Values in the order of the columns, or by their names; a text is a level of a category, `null` a missing value."))
            .item(ArrayBuilder::new().items(value()))
            .item(named)
            .into()
    }
}

impl ToSchema for RowInput {}

impl<'de> Deserialize<'de> for RowInput {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Row;

        impl<'de> Visitor<'de> for Row {
            type Value = RowInput;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a row: an array of values, or an object by column name")
            }

            fn visit_seq<S: SeqAccess<'de>>(self, mut seq: S) -> Result<RowInput, S::Error> {
                let mut values = Vec::with_capacity(seq.size_hint().unwrap_or(0).min(4096));
                while let Some(value) = seq.next_element()? {
                    values.push(value);
                }
                Ok(RowInput::Values(values))
            }

            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<RowInput, M::Error> {
                let mut values = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    values.push(entry);
                }
                Ok(RowInput::Named(values))
            }
        }

        deserializer.deserialize_any(Row)
    }
}

/// Rows that lie one after the other, written as an array of arrays. What is not finite becomes `null`, and what stands for a
/// text the text.
pub struct Matrix<'a> {
    /// The values.
    pub values: &'a [f32],
    /// Values in a row.
    pub width: usize,
    /// The column of each value, where one of them has texts.
    columns: Option<Vec<&'a Column>>,
}

impl<'a> Matrix<'a> {
    /// Rows of numbers.
    pub fn new(values: &'a [f32], width: usize) -> Self {
        Self { values, width, columns: None }
    }

    /// Rows of these columns.
    pub fn of(values: &'a [f32], columns: impl Iterator<Item = &'a Column>) -> Self {
        let columns: Vec<&Column> = columns.collect();
        let width = columns.len();
        let with_texts = columns.iter().any(|column| !column.levels.is_empty());
        Self { values, width, columns: with_texts.then_some(columns) }
    }
}

/// A row in which some values stand for texts.
struct TextRow<'a>(&'a [f32], &'a [&'a Column]);

impl Serialize for TextRow<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut row = serializer.serialize_seq(Some(self.0.len()))?;
        for (value, column) in self.0.iter().zip(self.1) {
            match column.text(*value) {
                Some(text) => row.serialize_element(text)?,
                None => row.serialize_element(value)?,
            }
        }
        row.end()
    }
}

impl Serialize for Matrix<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut rows = serializer.serialize_seq(Some(self.values.len() / self.width.max(1)))?;
        for row in self.values.chunks(self.width.max(1)) {
            match &self.columns {
                Some(columns) => rows.serialize_element(&TextRow(row, columns))?,
                None => rows.serialize_element(row)?,
            }
        }
        rows.end()
    }
}

/// A JSON answer, written without going through a tree of values.
pub fn json<T: Serialize>(value: &T) -> Result<Response, ApiError> {
    let body = serde_json::to_vec(value).map_err(|error| internal(&error))?;
    Ok(file(Form::Json.media_type(), body))
}

/// An NPY answer.
pub fn npy(values: &[f32], width: usize) -> Response {
    file(Form::Npy.media_type(), crate::data::npy::written(values, width))
}

/// 32-bit floats that are sent as they lie in memory.
struct Floats(Vec<f32>);

impl AsRef<[u8]> for Floats {
    fn as_ref(&self) -> &[u8] {
        bytemuck::cast_slice(&self.0)
    }
}

/// An answer of 32-bit floats in little-endian order.
pub fn floats(mut values: Vec<f32>) -> Response {
    if cfg!(target_endian = "big") {
        values.iter_mut().for_each(|value| *value = f32::from_bits(value.to_bits().swap_bytes()));
    }
    file(Form::F32.media_type(), bytes::Bytes::from_owner(Floats(values)))
}

/// An answer of bytes.
pub fn file(kind: &'static str, bytes: impl Into<Body>) -> Response {
    ([(header::CONTENT_TYPE, HeaderValue::from_static(kind))], bytes.into()).into_response()
}

/// How pixel values become shades: `low` is black, `high` is white.
#[derive(Clone, Copy, Debug)]
pub struct Shades {
    /// The value of black.
    pub low: f32,
    /// The value of white.
    pub high: f32,
}

impl Shades {
    /// From the least to the greatest value of these columns.
    pub fn of<'a>(columns: impl Iterator<Item = &'a Column> + Clone) -> Self {
        let profiles = || columns.clone().filter_map(|column| column.profile.as_ref());
        let low = profiles().filter_map(|profile| profile.minimum).fold(f64::INFINITY, f64::min);
        let high = profiles().filter_map(|profile| profile.maximum).fold(f64::NEG_INFINITY, f64::max);
        Self { low: low as f32, high: high as f32 }
    }
}

/// Images side by side, `across` in a line; small ones are enlarged.
///
/// # Errors
/// There are none, or too many.
pub fn grid(rows: &[f32], shape: ImageShape, shades: Shades, across: usize) -> Result<Vec<u8>, Refusal> {
    const GAP: u32 = 2;
    let pixels = shape.pixels().unwrap_or(0);
    let count = rows.len() / pixels.max(1);
    if count == 0 || count > GRID_IMAGES {
        return Err(Refusal::new(
            Code::InvalidRequest,
            format!("{count} images do not make one picture; allowed are 1 to {GRID_IMAGES}"),
        ));
    }
    // Few images are shown large.
    let side = if count <= 4 { 192 } else { 48 };
    let zoom = (side / shape.height.max(shape.width)).max(1);
    let (tile_width, tile_height) = (shape.width * zoom + GAP, shape.height * zoom + GAP);
    let (columns, lines) = (across.clamp(1, count) as u32, count.div_ceil(across.max(1)) as u32);
    let background = Rgb([255, 255, 255]);
    let mut picture: RgbImage =
        ImageBuffer::from_pixel(columns * tile_width + GAP, lines * tile_height + GAP, background);
    let plane = (shape.height * shape.width) as usize;
    let range = if shades.high > shades.low { shades.high - shades.low } else { 1.0 };
    let shade = |value: f32| ((value - shades.low) / range * 255.0).round().clamp(0.0, 255.0) as u8;
    for (index, image) in rows.chunks_exact(pixels).enumerate() {
        let (left, top) = (GAP + (index as u32 % columns) * tile_width, GAP + (index as u32 / columns) * tile_height);
        for y in 0..shape.height * zoom {
            for x in 0..shape.width * zoom {
                let at = ((y / zoom) * shape.width + x / zoom) as usize;
                let channel = |channel: usize| shade(image[(channel % shape.channels as usize) * plane + at]);
                picture.put_pixel(left + x, top + y, Rgb([channel(0), channel(1), channel(2)]));
            }
        }
    }
    let mut bytes = Vec::new();
    image::codecs::png::PngEncoder::new(&mut bytes)
        .write_image(&picture, picture.width(), picture.height(), ExtendedColorType::Rgb8)
        .map_err(|error| Refusal::new(Code::Internal, error.to_string()))?;
    Ok(bytes)
}

/// A PNG answer.
pub fn png(bytes: Vec<u8>) -> Response {
    file(Form::Png.media_type(), bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grids_have_a_tile_for_each_image() {
        let shape = ImageShape { channels: 1, height: 2, width: 3 };
        let rows = [0.0, 1.0, 2.0, 3.0, 4.0, 5.0].repeat(5);
        let bytes = grid(&rows, shape, Shades { low: 0.0, high: 5.0 }, 3).unwrap();
        let picture = image::load_from_memory(&bytes).unwrap().to_rgb8();
        assert_eq!(picture.dimensions(), (3 * 50 + 2, 2 * 34 + 2));
        assert_eq!(picture.get_pixel(2, 2).0, [0, 0, 0]);
        assert_eq!(picture.get_pixel(2 + 47, 2 + 31).0, [255, 255, 255]);
        assert!(grid(&[], shape, Shades { low: 0.0, high: 1.0 }, 3).is_err());
    }

    #[test]
    fn what_is_not_finite_becomes_null() {
        let matrix = Matrix::new(&[1.0, f32::NAN, 0.5, f32::INFINITY], 2);
        assert_eq!(serde_json::to_string(&matrix).unwrap(), "[[1.0,null],[0.5,null]]");
    }
}
