//! Rows and codes out of the tensors of a request.

use std::borrow::Cow;
use std::collections::HashMap;

use super::catalogue::{CODES, Catalogue, ROWS, column_name};
use super::tensors::{Data, Datatype, Element};
use crate::data::dataset::Column;
use crate::domain::limits::{INFERENCE_ROWS, INFERENCE_VALUES};
use crate::domain::refusal::{Code, Faults, Refusal};
use crate::http::inference::{unknown_class, unknown_level};

/// A tensor of a request.
pub(super) struct Input<'a> {
    pub name: Cow<'a, str>,
    pub shape: Vec<u64>,
    pub datatype: Datatype,
    pub data: Data<'a>,
}

/// What a request gives: one row or code after the other, NaN where a value is missing.
#[derive(Debug, PartialEq)]
pub(super) enum Given {
    Rows {
        values: Vec<f32>,
        /// Columns for which there was no tensor.
        absent: Vec<String>,
    },
    Codes(Vec<f32>),
    Nothing,
}

/// What may stand in a place of a row.
struct Place<'a> {
    column: &'a Column,
    /// Numbers that stand for its texts, where it has some.
    positions: Option<HashMap<&'a str, f32>>,
}

impl<'a> Place<'a> {
    fn of(column: &'a Column) -> Self {
        let numbered = || column.levels.iter().enumerate().map(|(at, level)| (level.as_str(), at as f32)).collect();
        Self { column, positions: (!column.levels.is_empty()).then(numbered) }
    }
}

/// Reads the tensors of a request.
///
/// # Errors
/// Tensors that the model does not take, that do not go together, or whose data do not fit.
pub(super) fn read(catalogue: &Catalogue<'_>, inputs: &[Input<'_>]) -> Result<Given, Refusal> {
    let given = |name: &str| inputs.iter().position(|input| input.name == name);
    match (inputs, given(ROWS), given(CODES)) {
        ([], ..) => Ok(Given::Nothing),
        ([codes], _, Some(_)) => whole(codes, catalogue.latent(), &[]).map(Given::Codes),
        ([rows], Some(_), _) => {
            let places: Vec<Place<'_>> = catalogue.features().iter().map(|column| Place::of(column)).collect();
            let values = whole(rows, places.len(), &places)?;
            Ok(Given::Rows { values, absent: Vec::new() })
        }
        (_, rows, codes) => match rows.or(codes) {
            Some(position) => {
                let name = &inputs[position].name;
                Err(fault(position, "name", "conflict", format!("is `{name}`, which is given alone")))
            }
            None => columns(catalogue, inputs),
        },
    }
}

/// A tensor that holds all there is of each row.
fn whole(input: &Input<'_>, width: usize, places: &[Place<'_>]) -> Result<Vec<f32>, Refusal> {
    let count = rows(input, 0, width)?;
    let mut values = Vec::with_capacity(count * width);
    let mut faults = Faults::new();
    let read = input.data.each(input.datatype, count * width, |element| {
        let at = values.len();
        values.push(value(element, places.get(at % width), &mut faults, || format!("/inputs/0/data/{at}")));
    });
    read.map_err(|detail| fault(0, "data", "invalid", detail))?;
    faults.into_result(Code::InvalidRequest)?;
    Ok(values)
}

/// A tensor for each column.
fn columns(catalogue: &Catalogue<'_>, inputs: &[Input<'_>]) -> Result<Given, Refusal> {
    let features = catalogue.features();
    let names: HashMap<Cow<'_, str>, usize> =
        features.iter().enumerate().map(|(position, column)| (column_name(column), position)).collect();
    let mut faults = Faults::new();
    let mut found = vec![None; features.len()];
    for (position, input) in inputs.iter().enumerate() {
        match names.get(&input.name) {
            Some(column) if found[*column].is_none() => found[*column] = Some(position),
            Some(_) => faults.push(place(position, "name"), "duplicate", format!("is `{}` again", input.name)),
            None => faults.push(place(position, "name"), "unknown", unknown(&input.name, features)),
        }
    }
    faults.into_result(Code::InvalidRequest)?;
    let count = rows(&inputs[0], 0, 1)?;
    if count.saturating_mul(features.len()) > INFERENCE_VALUES {
        let detail = format!(
            "has {count} rows, which of {} columns are more than the {INFERENCE_VALUES} values of one question",
            features.len()
        );
        return Err(fault(0, "shape", "too_large", detail));
    }
    let mut values = vec![f32::NAN; count * features.len()];
    let mut absent = Vec::new();
    let mut faults = Faults::new();
    for (column, position) in found.into_iter().enumerate() {
        let Some(position) = position else {
            absent.push(column_name(features[column]).into_owned());
            continue;
        };
        let input = &inputs[position];
        if rows(input, position, 1)? != count {
            let detail = format!("is {:?}, and that of `{}` begins with {count}", input.shape, inputs[0].name);
            return Err(fault(position, "shape", "wrong_shape", detail));
        }
        let described = Place::of(features[column]);
        let mut at = 0;
        let read = input.data.each(input.datatype, count, |element| {
            let pointer = || format!("/inputs/{position}/data/{at}");
            values[at * features.len() + column] = value(element, Some(&described), &mut faults, pointer);
            at += 1;
        });
        read.map_err(|detail| fault(position, "data", "invalid", detail))?;
    }
    faults.into_result(Code::InvalidRequest)?;
    Ok(Given::Rows { values, absent })
}

/// How many rows a tensor says that it has.
fn rows(input: &Input<'_>, position: usize, width: usize) -> Result<usize, Refusal> {
    let count = input.shape.first().copied().unwrap_or(0);
    let rest = input.shape.iter().skip(1).try_fold(1_u64, |product, side| product.checked_mul(*side));
    let rows = usize::try_from(count).ok().filter(|rows| (1..=INFERENCE_ROWS).contains(rows));
    match rows.filter(|rows| rest == Some(width as u64) && rows.saturating_mul(width) <= INFERENCE_VALUES) {
        Some(rows) => Ok(rows),
        None => {
            let detail =
                format!("is {:?}; allowed are 1 to {INFERENCE_ROWS} rows of {width}: [n, {width}]", input.shape);
            Err(fault(position, "shape", "wrong_shape", detail))
        }
    }
}

/// The number that an element is in a row, or in a code where there is no place. A number in a column of texts is the position of
/// a level, a text in a column of numbers is read.
fn value(element: Element<'_>, place: Option<&Place<'_>>, faults: &mut Faults, pointer: impl Fn() -> String) -> f32 {
    let positions = place.and_then(|place| Some((place.column, place.positions.as_ref()?)));
    match (element, positions) {
        (Element::Missing, _) => f32::NAN,
        (Element::Number(value), _) => number(value, place, faults, pointer),
        (Element::Text(text), Some((column, positions))) => match positions.get(text.trim()) {
            Some(position) => *position,
            None if text.trim().is_empty() => f32::NAN,
            None => {
                faults.push(pointer(), "unknown_level", unknown_level(column, text));
                f32::NAN
            }
        },
        (Element::Text(text), None) if place.is_some() && text.trim().is_empty() => f32::NAN,
        (Element::Text(text), None) => match text.trim().parse::<f64>() {
            Ok(value) if !value.is_nan() => number(value, place, faults, pointer),
            _ => {
                let shown: String = text.chars().take(40).collect();
                faults.push(pointer(), "wrong_type", format!("is the text `{shown}`, and a number is wanted"));
                f32::NAN
            }
        },
    }
}

fn number(value: f64, place: Option<&Place<'_>>, faults: &mut Faults, pointer: impl Fn() -> String) -> f32 {
    let number = value as f32;
    let classes = place.map(|place| place.column).filter(|column| column.kind.is_class());
    if !number.is_finite() {
        let detail = format!("is {value}, beyond what 32-bit floats hold (about 3.4e38)");
        faults.push(pointer(), "out_of_range", detail);
    } else if let Some(detail) = classes.and_then(|column| unknown_class(column, number)) {
        faults.push(pointer(), "unknown_level", detail);
    }
    number
}

fn unknown(name: &str, features: &[&Column]) -> String {
    let shown: String = name.chars().take(100).collect();
    let some: Vec<Cow<'_, str>> = features.iter().take(12).map(|column| column_name(column)).collect();
    let more = if features.len() > some.len() { " …" } else { "" };
    format!("is `{shown}`; allowed are `{ROWS}`, `{CODES}` and a tensor for each column: {}{more}", some.join(", "))
}

fn place(position: usize, field: &str) -> String {
    format!("/inputs/{position}/{field}")
}

fn fault(position: usize, field: &str, code: &str, detail: impl Into<String>) -> Refusal {
    Refusal::at(Code::InvalidRequest, place(position, field), code, detail)
}
