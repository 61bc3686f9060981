//! The forms in which models answer: JSON, NPY and, for images, PNG.

use std::collections::BTreeMap;

use axum::response::Response;
use serde::Serialize;
use utoipa::openapi::schema::{KnownFormat, ObjectBuilder, SchemaFormat, Type};
use utoipa::openapi::{ContentBuilder, Ref, RefOr, ResponseBuilder};
use utoipa::{IntoResponses, ToSchema};

use super::Asked;
use crate::data::dataset::Column;
use crate::domain::refusal::{Code, Refusal};
use crate::http::error::ApiError;
use crate::http::forms::{self, Form, Matrix, NPY, Shades};
use crate::store::models::Model;

/// Rows in the user's units.
#[derive(Serialize, ToSchema)]
pub struct RowsView<'a> {
    /// Each an array in the order of the columns.
    #[schema(value_type = Vec<Vec<f32>>)]
    pub(super) rows: Matrix<'a>,
}

/// What the API document says of an answer.
pub(super) type Documented = BTreeMap<String, RefOr<utoipa::openapi::Response>>;

/// The document of an answer: JSON as the view of that name, and bytes of other media types.
pub(super) fn documented(view: &str, description: &str, others: &[&str]) -> Documented {
    let json = ContentBuilder::new().schema(Some(Ref::from_schema_name(view))).build();
    let mut response = ResponseBuilder::new().description(description).content("application/json", json);
    for kind in others {
        let binary = ObjectBuilder::new().schema_type(Type::String);
        let binary = binary.format(Some(SchemaFormat::KnownFormat(KnownFormat::Binary)));
        response = response.content(*kind, ContentBuilder::new().schema(Some(binary)).build());
    }
    BTreeMap::from([("200".to_owned(), response.build().into())])
}

/// The same for an answer that may also be a matrix of rows or, for images, a picture.
pub(super) fn documented_rows(view: &str, description: &str) -> Documented {
    documented(view, &format!("{description}; an NPY matrix of rows; or a PNG"), &[NPY, "image/png"])
}

impl IntoResponses for RowsView<'_> {
    fn responses() -> Documented {
        documented_rows("RowsView", "Rows")
    }
}

/// An answer of rows: as JSON what `view` makes of them. With originals a picture has each of them over its row.
pub(super) fn rows<'a, V: Serialize>(
    asked: &'a Asked,
    values: &'a [f32],
    originals: Option<&[f32]>,
    view: impl FnOnce(Matrix<'a>) -> V,
) -> Result<Response, ApiError> {
    let rows = Matrix::of(values, asked.model.schema.feature_columns());
    match asked.form {
        Form::Json => forms::json(&view(rows)),
        Form::Npy => forms::npy(&rows),
        Form::Png => picture(&asked.model, values, originals),
    }
}

/// An answer of numbers that are no rows: as JSON what `view` makes of them.
pub(super) fn numbers<'a, V: Serialize>(
    asked: &Asked,
    what: &str,
    matrix: Matrix<'a>,
    view: impl FnOnce(Matrix<'a>) -> V,
) -> Result<Response, ApiError> {
    match asked.form {
        Form::Json => forms::json(&view(matrix)),
        Form::Npy => forms::npy(&matrix),
        Form::Png => {
            let detail = format!("{what} are given as application/json or application/x-npy");
            Err(Refusal::new(Code::NotAcceptable, detail).into())
        }
    }
}

/// The fault of asking for more than the main matrix in a form that holds nothing else.
pub(super) fn require_json(asked: &Asked, pointer: String) -> Result<(), Refusal> {
    if asked.form == Form::Json {
        return Ok(());
    }
    let detail = "is given in JSON alone; ask for application/json, or leave it out";
    Err(Refusal::at(Code::InvalidRequest, pointer, "conflict", detail))
}

fn picture(model: &Model, values: &[f32], originals: Option<&[f32]>) -> Result<Response, ApiError> {
    let Some(shape) = model.schema.image else {
        let detail = "the rows of this model are not images; upload the dataset with `shape` to have pictures";
        return Err(Refusal::new(Code::NotAcceptable, detail).into());
    };
    let width = model.schema.row_shape().width;
    let columns: Vec<&Column> = model.schema.feature_columns().collect();
    let shades = Shades::of(columns.iter().copied());
    let count = values.len() / width;
    let Some(originals) = originals else {
        let across = (count as f64).sqrt().ceil() as usize;
        return Ok(forms::png(forms::grid(values, shape, shades, across)?));
    };
    let across = count.min(16);
    let line = across * width;
    // A missing pixel is grey.
    let shown = |value: &f32| if value.is_nan() { (shades.low + shades.high) / 2.0 } else { *value };
    let paired: Vec<f32> = originals
        .chunks(line)
        .zip(values.chunks(line))
        .flat_map(|(above, below)| {
            // A last line that is not full is filled up, so that rows stay under their originals.
            let fill = std::iter::repeat_n(shades.high, line - above.len());
            above.iter().map(shown).chain(fill.clone()).chain(below.iter().copied()).chain(fill)
        })
        .collect();
    Ok(forms::png(forms::grid(&paired, shape, shades, across)?))
}
