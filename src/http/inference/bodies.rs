//! Rows and codes that come in a body: JSON, or a matrix in another form. Tables are read by `tables`.

use std::collections::HashMap;

use axum::body::Body;
use axum::extract::Request;
use serde::de::DeserializeOwned;

use super::held::{Floats, Head, Held};
use super::prepared::Rows;
use super::tables::{self, Brought};
use super::{Asked, BODY, Place, QUERY, RowsBody, Wish};
use crate::data::dataset::Column;
use crate::data::{Format, Header, npy, safetensors};
use crate::domain::id::ModelId;
use crate::domain::limits::{INFERENCE_BODY_BYTES, INFERENCE_ROWS, INFERENCE_VALUES};
use crate::domain::refusal::{Code, Faults, Refusal};
use crate::http::App;
use crate::http::error::{ApiError, internal};
use crate::http::extract::{invalid_json, pointer, query, read_body};
use crate::http::forms::{Cell, RowInput};
use crate::http::json_rows::{self, Found};
use crate::http::media::BodyForm;

/// What becomes of missing values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::http) enum Missing {
    /// The question is refused.
    Refused,
    /// They are kept where the model was trained on rows with gaps, else refused.
    AsTrained,
    /// They are kept, as NaN.
    Kept,
}

/// Why an infinite value is refused.
const BEYOND: &str = "is infinite or beyond what 32-bit floats hold (about 3.4e38)";

/// Why a missing value is refused.
pub(in crate::http) const ONLY_IMPUTE: &str =
    "this model was trained on rows without gaps, of which only impute takes missing values";

/// How wide the rows of a question are, what they are called, and whether they may have gaps.
#[derive(Clone, Copy, Debug)]
pub(super) struct Expected<'a> {
    /// `rows` or `codes`; pointers begin with it.
    pub what: &'static str,
    pub width: usize,
    /// The columns of rows, which may be objects; empty for codes.
    pub columns: &'a [&'a Column],
    pub missing: Missing,
}

/// The JSON body of a question that brings rows or codes.
pub(super) trait PostedRows: DeserializeOwned {
    /// Its options, as they are read from the query beside a body of another form than JSON.
    type Options: DeserializeOwned;
    /// Whether it brings codes.
    const CODES: bool = false;
    /// What becomes of missing values.
    const MISSING: Missing = Missing::AsTrained;
    /// What rows there are about it.
    const ROWS: Rows = Rows::InAndOut;

    fn split(self) -> (Vec<RowInput>, Self::Options);

    fn wish(options: &Self::Options) -> Wish;
}

/// A question that came as a body.
pub(super) struct Posted<Options> {
    pub asked: Asked,
    /// One row, or code, after the other.
    pub values: Vec<f32>,
    pub options: Options,
    /// Where the options stood.
    pub place: Place,
}

/// Reads a question: JSON that holds everything but the form of the answer, or rows in another form with the options in the
/// query.
pub(super) async fn posted<B: PostedRows>(
    app: App,
    id: ModelId,
    request: Request,
) -> Result<Posted<B::Options>, ApiError> {
    let (parts, body) = request.into_parts();
    let form = BodyForm::of(&parts.headers)?;
    let beside: Option<B::Options> = match form {
        BodyForm::Json => None,
        _ => Some(query(&parts.uri)?),
    };
    let wish = match &beside {
        Some(options) => B::wish(options),
        None => RowsBody::wish(&query(&parts.uri)?),
    };
    let asked = Asked::of(app, id, wish, &parts.headers, B::ROWS).await?;
    let (values, options, place) = match beside {
        Some(options) => (matrix::<B>(&asked, form, body).await?, options, QUERY),
        None => {
            let bytes = read_body(body, INFERENCE_BODY_BYTES).await?;
            match numbers(&bytes, &asked, asked.expected::<B>(&[])) {
                Some(found) => (found.values, read_json::<B>(&found.rest)?.split().1, BODY),
                None => {
                    let columns: Vec<&Column> = asked.taken().feature_columns().collect();
                    let (rows, options) = read_json::<B>(&bytes)?.split();
                    (flatten(rows, asked.expected::<B>(&columns))?, options, BODY)
                }
            }
        }
    };
    Ok(Posted { asked, values, options, place })
}

/// Rows or codes of a body of another form than JSON.
async fn matrix<B: PostedRows>(asked: &Asked, form: BodyForm, body: Body) -> Result<Vec<f32>, ApiError> {
    let (format, header) = match form {
        BodyForm::Json => return Err(internal(&"a JSON body was read as a matrix")),
        BodyForm::Csv(header) => (Format::Csv, header),
        BodyForm::Jsonl => (Format::Jsonl, Header::Auto),
        BodyForm::Arrow => (Format::Arrow, Header::Auto),
        BodyForm::Parquet => (Format::Parquet, Header::Auto),
        BodyForm::Npy | BodyForm::F32 | BodyForm::Safetensors => {
            let head: Head = if form == BodyForm::Npy { npy::header_bytes } else { |_: &[u8]| Some(0) };
            let held = Held::read(body, INFERENCE_BODY_BYTES, head).await?;
            let plain_columns = asked.is_plain() || B::CODES;
            let columns = (!plain_columns).then(|| asked.taken().feature_columns().collect::<Vec<&Column>>());
            let expected = asked.expected::<B>(columns.as_deref().unwrap_or_default());
            let (count, width, values) = match form {
                BodyForm::Npy => array(held)?,
                BodyForm::F32 => plain(held, expected)?,
                _ => {
                    let matrix = safetensors::matrix(&held.into_bytes(), expected.what, INFERENCE_VALUES);
                    looked_at(matrix.map_err(tables::refused)?)
                }
            };
            return Ok(checked(count, width, values, expected)?);
        }
    };
    let bytes = read_body(body, INFERENCE_BODY_BYTES).await?;
    let missing = asked.expected::<B>(&[]).missing;
    tables::read(asked, format, header, bytes, if B::CODES { Brought::Codes } else { Brought::Rows(missing) }).await
}

/// An NPY file.
fn array(held: Held) -> Result<(usize, usize, Floats), ApiError> {
    match npy::plain(held.head(), held.len(), INFERENCE_VALUES) {
        Some((count, width)) => Ok((count, width, held.into_floats())),
        None => Ok(looked_at(npy::matrix(&held.into_bytes(), INFERENCE_VALUES).map_err(tables::refused)?)),
    }
}

/// A matrix that did not come as it is kept.
fn looked_at((count, width, values): (usize, usize, Vec<f32>)) -> (usize, usize, Floats) {
    let are_finite = values.iter().all(|value| value.is_finite());
    (count, width, Floats { values, are_finite })
}

/// 32-bit floats and nothing else: of the width that the model takes.
fn plain(held: Held, expected: Expected<'_>) -> Result<(usize, usize, Floats), Refusal> {
    let Expected { what, width, .. } = expected;
    if held.len() == 0 || !held.len().is_multiple_of(4 * width) {
        let detail = format!(
            "is {} bytes; {what} of {width} values in little-endian 32-bit floats are {} bytes each",
            held.len(),
            4 * width
        );
        return Err(Refusal::at(Code::InvalidRequest, "/", "wrong_length", detail));
    }
    let floats = held.into_floats();
    Ok((floats.values.len() / width, width, floats))
}

/// A matrix of as many rows or codes as are allowed, and no value among them that is not.
fn checked(count: usize, found: usize, floats: Floats, expected: Expected<'_>) -> Result<Vec<f32>, Refusal> {
    let Floats { values, are_finite } = floats;
    let Expected { what, width, columns, missing } = expected;
    if found != width || count > INFERENCE_ROWS {
        let detail = format!("is {count} x {found}; allowed are 1 to {INFERENCE_ROWS} {what} of {width}");
        return Err(Refusal::at(Code::InvalidRequest, "/", "wrong_shape", detail));
    }
    let mut faults = Faults::new();
    let place = |position: usize| format!("/{what}/{}/{}", position / width, position % width);
    if !are_finite {
        for (position, value) in values.iter().enumerate() {
            if value.is_infinite() {
                faults.push(place(position), "out_of_range", BEYOND);
            } else if value.is_nan() && missing != Missing::Kept {
                faults.push(place(position), "missing_value", format!("is NaN; {ONLY_IMPUTE}"));
            }
        }
    }
    for (at, column) in columns.iter().enumerate().filter(|(_, column)| column.kind.is_class()) {
        for (row, value) in values.iter().skip(at).step_by(width).enumerate() {
            if let Some(detail) = unknown_class(column, *value) {
                faults.push(place(row * width + at), "unknown_level", detail);
            }
        }
    }
    faults.into_result(Code::InvalidRequest)?;
    Ok(values)
}

/// Why a number stands for none of the classes of a column.
pub(in crate::http) fn unknown_class(column: &Column, value: f32) -> Option<String> {
    if value.is_nan() {
        return None;
    }
    let name = &column.name;
    if let Some(last) = column.levels.len().checked_sub(1) {
        let is_level = value >= 0.0 && value <= last as f32 && value.fract() == 0.0;
        return (!is_level).then(|| {
            let list = shown_levels(column);
            format!("is {value}; the levels of `{name}` are numbered 0 to {last}: {list}")
        });
    }
    // Of classes that are numbers the profile knows the range.
    let profile = column.profile.as_ref()?;
    let (low, high) = (profile.minimum? as f32, profile.maximum? as f32);
    let fits = (low..=high).contains(&value) && !(profile.whole && value.fract() != 0.0);
    (!fits).then(|| {
        let whole = if profile.whole { "whole numbers" } else { "numbers" };
        format!("is {value}; the classes of `{name}` are {whole} from {low} to {high}")
    })
}

/// Rows that are numbers throughout, which nearly all are; `None` where something else is to be seen to.
fn numbers(body: &[u8], asked: &Asked, expected: Expected<'_>) -> Option<Found> {
    let Expected { what, width, missing, .. } = expected;
    let found = json_rows::read(body, what, width, INFERENCE_ROWS, missing == Missing::Kept)?;
    if asked.is_plain() || what != "rows" {
        return Some(found);
    }
    // Of classes only numbers that are known as such go on. A number in a column of texts is a text to be looked up.
    let mut columns = asked.taken().feature_columns().enumerate();
    let are_known = columns.all(|(at, column)| {
        let mut values = found.values.iter().skip(at).step_by(width);
        column.levels.is_empty()
            && (!column.kind.is_class() || values.all(|value| unknown_class(column, *value).is_none()))
    });
    are_known.then_some(found)
}

/// Rows that stood in a JSON body among other things.
pub(super) fn rows_of_json(asked: &Asked, rows: Vec<RowInput>) -> Result<Vec<f32>, Refusal> {
    let columns: Vec<&Column> = asked.taken().feature_columns().collect();
    flatten(rows, asked.expected::<RowsBody>(&columns))
}

/// A row that stood in a question at `pointer`, NaN where it says nothing.
pub(super) fn given_row(asked: &Asked, row: RowInput, pointer: &str) -> Result<Vec<f32>, Refusal> {
    let columns: Vec<&Column> = asked.model.schema.feature_columns().collect();
    let expected = Expected { what: "rows", width: columns.len(), columns: &columns, missing: Missing::Kept };
    let values = flatten(vec![row], expected).map_err(|refusal| refusal.moved("/rows/0", pointer))?;
    if values.iter().all(|value| value.is_nan()) {
        let detail = "names no value; leave it out, or give one of the model's columns";
        return Err(Refusal::at(Code::InvalidRequest, pointer, "missing", detail));
    }
    Ok(values)
}

/// Codes that did.
pub(super) fn codes_of_json(asked: &Asked, codes: Vec<RowInput>) -> Result<Vec<f32>, Refusal> {
    flatten(codes, Expected { what: "codes", width: asked.latent(), columns: &[], missing: Missing::Refused })
}

/// A JSON body, whatever else there is about it.
pub(super) async fn json_body<T: DeserializeOwned>(body: Body) -> Result<T, ApiError> {
    read_json(&read_body(body, INFERENCE_BODY_BYTES).await?)
}

fn read_json<T: serde::de::DeserializeOwned>(body: &[u8]) -> Result<T, ApiError> {
    let mut deserializer = serde_json::Deserializer::from_slice(body);
    let value = serde_path_to_error::deserialize(&mut deserializer).map_err(|error| {
        if error.inner().is_data() {
            return ApiError::from(Refusal::at(
                Code::InvalidRequest,
                pointer(error.path()),
                "invalid",
                error.inner().to_string(),
            ));
        }
        invalid_json(error.inner())
    })?;
    deserializer.end().map_err(|error| invalid_json(&error))?;
    Ok(value)
}

/// Where the first missing value is that is not allowed.
pub(super) fn gap(values: &[f32], missing: Missing) -> Option<usize> {
    values.iter().position(|value| value.is_nan() && missing != Missing::Kept)
}

/// Rows of a JSON body, checked and laid one after the other.
fn flatten(rows: Vec<RowInput>, expected: Expected<'_>) -> Result<Vec<f32>, Refusal> {
    let Expected { what, width, columns, missing } = expected;
    let mut faults = Faults::new();
    if rows.is_empty() || rows.len() > INFERENCE_ROWS {
        let detail = format!("has {} {what}; allowed are 1 to {INFERENCE_ROWS}", rows.len());
        return Err(Refusal::at(Code::InvalidRequest, format!("/{what}"), "wrong_length", detail));
    }
    let mut values = Vec::with_capacity(rows.len() * width);
    for (index, row) in rows.into_iter().enumerate() {
        let place = format!("/{what}/{index}");
        match row {
            RowInput::Values(row) if row.len() == width => {
                for (column, value) in row.into_iter().enumerate() {
                    let described = columns.get(column).copied();
                    values.push(number(value, described, missing, &mut faults, || format!("{place}/{column}")));
                }
            }
            RowInput::Values(row) => {
                faults.push(place, "wrong_width", format!("has {} values; this model takes {width}", row.len()));
            }
            RowInput::Named(_) if columns.is_empty() => {
                faults.push(place, "wrong_type", "is an object; codes are arrays of numbers");
            }
            RowInput::Named(row) => named(row, expected, &mut values, &mut faults, &place),
        }
    }
    faults.into_result(Code::InvalidRequest)?;
    Ok(values)
}

fn named(row: Vec<(String, Cell)>, expected: Expected<'_>, values: &mut Vec<f32>, faults: &mut Faults, place: &str) {
    let mut given: HashMap<String, Cell> = HashMap::with_capacity(row.len());
    for (name, value) in row {
        if given.contains_key(&name) {
            faults.push(format!("{place}/{name}"), "duplicate", "is given twice");
        }
        given.insert(name, value);
    }
    for column in expected.columns {
        let name = &column.name;
        match given.remove(name) {
            Some(value) => {
                values.push(number(value, Some(column), expected.missing, faults, || format!("{place}/{name}")));
            }
            None if expected.missing == Missing::Kept => values.push(f32::NAN),
            None => {
                faults.push(format!("{place}/{name}"), "missing", "is missing; a row names every column of the model")
            }
        }
    }
    let mut unknown: Vec<String> = given.into_keys().collect();
    unknown.sort_unstable();
    for name in unknown {
        faults.push(format!("{place}/{name}"), "unknown_field", "is no column of this model");
    }
}

/// The value of a cell. In a column of texts a number is the text that it is written as.
fn number(
    cell: Cell,
    column: Option<&Column>,
    missing: Missing,
    faults: &mut Faults,
    place: impl Fn() -> String,
) -> f32 {
    let texts = column.filter(|column| !column.levels.is_empty());
    let classes = column.filter(|column| column.kind.is_class());
    match (cell, texts) {
        (Cell::Missing, _) => {
            if missing != Missing::Kept {
                faults.push(place(), "missing_value", format!("is null; {ONLY_IMPUTE}"));
            }
            f32::NAN
        }
        (Cell::Number(value), None) => {
            let number = value as f32;
            if !number.is_finite() {
                let detail = format!("is {value}, beyond what 32-bit floats hold (about 3.4e38)");
                faults.push(place(), "out_of_range", detail);
            } else if let Some(detail) = classes.and_then(|column| unknown_class(column, number)) {
                faults.push(place(), "unknown_level", detail);
            }
            number
        }
        (Cell::Number(value), Some(column)) => level(column, &value.to_string(), faults, place),
        (Cell::Text(text), Some(column)) => level(column, &text, faults, place),
        (Cell::Text(text), None) => {
            let shown: String = text.chars().take(40).collect();
            faults.push(place(), "wrong_type", format!("is the text `{shown}`, and a number is wanted"));
            f32::NAN
        }
    }
}

fn level(column: &Column, text: &str, faults: &mut Faults, place: impl Fn() -> String) -> f32 {
    column.value_of(text).unwrap_or_else(|| {
        faults.push(place(), "unknown_level", unknown_level(column, text));
        f32::NAN
    })
}

/// What is said of a text that a column does not have.
pub(in crate::http) fn unknown_level(column: &Column, text: &str) -> String {
    let shown: String = text.chars().take(40).collect();
    format!("is `{shown}`; the levels of `{}` are {}", column.name, shown_levels(column))
}

fn shown_levels(column: &Column) -> String {
    let some: Vec<&str> = column.levels.iter().take(12).map(String::as_str).collect();
    let more = if column.levels.len() > some.len() { " …" } else { "" };
    format!("{}{more}", some.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::dataset::{Kind, Role};

    fn rows(body: &str, missing: Missing) -> Result<Vec<f32>, Refusal> {
        let rows: Vec<RowInput> = serde_json::from_str(body).unwrap();
        let columns = ["a", "b"].map(|name| Column {
            name: name.to_owned(),
            kind: Kind::Real,
            role: Role::Feature,
            reason: None,
            levels: Vec::new(),
            profile: None,
        });
        flatten(rows, Expected { what: "rows", width: 2, columns: &columns.each_ref(), missing })
    }

    fn pointers(refusal: Refusal) -> Vec<String> {
        refusal.errors.into_iter().map(|fault| fault.pointer).collect()
    }

    #[test]
    fn rows_may_be_named_or_in_order_and_every_fault_is_told() {
        assert_eq!(rows(r#"[[1, 2], {"b": 4, "a": 3}]"#, Missing::Refused).unwrap(), [1.0, 2.0, 3.0, 4.0]);
        let refusal = rows(r#"[[1], {"a": 3, "z": 0}, [null, 1e300]]"#, Missing::Refused).unwrap_err();
        assert_eq!(pointers(refusal), ["/rows/0", "/rows/1/b", "/rows/1/z", "/rows/2/0", "/rows/2/1"]);
    }

    #[test]
    fn gaps_are_kept_where_they_are_the_question_and_other_faults_are_not() {
        let filled = rows(r#"[[1, null], {"b": null, "a": 3}, {"b": 4}, {}]"#, Missing::Kept).unwrap();
        let seen: Vec<Option<f32>> = filled.into_iter().map(|value| (!value.is_nan()).then_some(value)).collect();
        assert_eq!(seen, [Some(1.0), None, Some(3.0), None, None, Some(4.0), None, None]);
        let refusal = rows(r#"[[null], {"z": null}, [null, 1e300]]"#, Missing::Kept).unwrap_err();
        assert_eq!(pointers(refusal), ["/rows/0", "/rows/1/z", "/rows/2/1"]);
    }
}
