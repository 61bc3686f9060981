//! The forms in which models answer: JSON by a view of each question's own, the others by a `Sheet`.

use std::collections::{BTreeMap, HashMap};

use axum::response::Response;
use serde::Serialize;
use utoipa::openapi::{ContentBuilder, Ref, RefOr, ResponseBuilder};
use utoipa::{IntoResponses, ToSchema};

use super::Asked;
use crate::data::dataset::{Column, Schema};
use crate::data::export::{self, Form as Export};
use crate::data::safetensors::{self, Named};
use crate::domain::refusal::{Code, Refusal};
use crate::http::error::{ApiError, internal};
use crate::http::forms::{self, Matrix, Shades};
use crate::http::media::{self, Form, NUMBERS, PICTURES};

/// Values from which on a file is written off the asynchronous threads.
const LARGE_VALUES: usize = 1 << 14;

/// Rows in the user's units.
#[derive(Serialize, ToSchema)]
pub struct RowsView<'a> {
    /// Each an array in the order of the columns.
    #[schema(value_type = Vec<Vec<f32>>)]
    pub(super) rows: Matrix<'a>,
}

/// What the API document says of an answer.
pub(super) type Documented = BTreeMap<String, RefOr<utoipa::openapi::Response>>;

/// The document of an answer: JSON as the view of that name, and what it is in the other forms.
pub(super) fn documented(view: &str, description: &str, main: &str) -> Documented {
    describe(view, &format!("{description}; in other forms than JSON {main}"), NUMBERS)
}

/// The same for an answer of rows, which may also be a picture.
pub(super) fn documented_rows(view: &str, description: &str) -> Documented {
    describe(view, &format!("{description}; in other forms than JSON the rows; as PNG, for images, a grid"), PICTURES)
}

fn describe(view: &str, description: &str, forms: &[Form]) -> Documented {
    let json = ContentBuilder::new().schema(Some(Ref::from_schema_name(view))).build();
    let mut response = ResponseBuilder::new().description(description).content(Form::Json.media_type(), json);
    for form in forms.iter().filter(|form| **form != Form::Json) {
        response = response.content(form.media_type(), media::described(form.media_type()));
    }
    BTreeMap::from([("200".to_owned(), response.build().into())])
}

impl IntoResponses for RowsView<'_> {
    fn responses() -> Documented {
        documented_rows("RowsView", "Rows")
    }
}

/// What the main matrix of an answer has for columns.
pub(super) enum Heads {
    /// The model's feature columns, or what they are prepared.
    Features,
    /// Its label columns.
    Labels,
    /// Columns of numbers.
    Numbers(Vec<Column>),
}

impl Heads {
    /// The numbers of a code.
    pub(super) fn code(width: usize) -> Self {
        Self::Numbers((0..width).map(|unit| Column::of_numbers(unit_name(unit))).collect())
    }

    /// Columns of these names.
    pub(super) fn named(names: &[&str]) -> Self {
        Self::Numbers(names.iter().map(|name| Column::of_numbers(*name)).collect())
    }

    fn columns<'a>(&'a self, given: &'a Schema, schema: &'a Schema) -> Vec<&'a Column> {
        match self {
            Self::Features => given.feature_columns().collect(),
            Self::Labels => schema.label_columns().collect(),
            Self::Numbers(columns) => columns.iter().collect(),
        }
    }
}

/// What a number of a code is called where it has a name.
pub(super) fn unit_name(unit: usize) -> String {
    format!("z{unit}")
}

/// What stands beside the main matrix.
struct Beside {
    name: &'static str,
    /// `None` for one value a row.
    width: Option<usize>,
    values: Vec<f32>,
}

/// An answer in another form than JSON: one matrix, and in a form with room for several what stands beside it.
pub(super) struct Sheet {
    name: &'static str,
    heads: Heads,
    values: Vec<f32>,
    beside: Vec<Beside>,
    /// Rows over which a picture has those of the answer.
    originals: Option<Vec<f32>>,
    /// Images in a line of a picture.
    across: Option<usize>,
}

impl Sheet {
    /// Rows of the model.
    pub(super) fn rows(values: Vec<f32>) -> Self {
        Self::of("rows", Heads::Features, values)
    }

    /// A matrix with a name, which only forms with room for several tell.
    pub(super) fn of(name: &'static str, heads: Heads, values: Vec<f32>) -> Self {
        Self { name, heads, values, beside: Vec::new(), originals: None, across: None }
    }

    /// Adds a matrix, where there is one.
    pub(super) fn beside(mut self, name: &'static str, width: usize, values: Option<Vec<f32>>) -> Self {
        self.beside.extend(values.map(|values| Beside { name, width: Some(width), values }));
        self
    }

    /// Adds one value a row, where there are such.
    pub(super) fn beside_each(mut self, name: &'static str, values: Option<Vec<f32>>) -> Self {
        self.beside.extend(values.map(|values| Beside { name, width: None, values }));
        self
    }

    /// Has a picture show the rows under these.
    pub(super) fn under(mut self, originals: Option<Vec<f32>>) -> Self {
        self.originals = originals;
        self
    }

    /// Has a picture show so many in a line.
    pub(super) fn across(mut self, images: usize) -> Self {
        self.across = Some(images);
        self
    }

    /// The answer, in the form that is wanted.
    pub(super) async fn answer(self, asked: &Asked) -> Result<Response, ApiError> {
        let form = asked.form;
        if self.values.len() < LARGE_VALUES {
            return self.write(form, asked.given(), &asked.model.schema);
        }
        let (model, slots) = (asked.model.clone(), asked.slots.clone().filter(|_| asked.units.prepared_out));
        let written = tokio::task::spawn_blocking(move || {
            self.write(form, slots.as_deref().unwrap_or(&model.schema), &model.schema)
        });
        written.await.map_err(|error| internal(&error))?
    }

    fn write(self, form: Form, given: &Schema, schema: &Schema) -> Result<Response, ApiError> {
        let columns = self.heads.columns(given, schema);
        let width = columns.len().max(1);
        let export = match form {
            Form::Json => return forms::json(&Matrix::of(&self.values, columns.into_iter())),
            Form::Npy => return Ok(forms::npy(&self.values, width)),
            Form::F32 => return Ok(forms::floats(self.values)),
            Form::Safetensors => {
                let bytes = self.tensors(&columns).map_err(|error| internal(&error))?;
                return Ok(forms::file(form.media_type(), bytes));
            }
            Form::Png => return picture(schema, &self),
            Form::Csv => Export::Csv,
            Form::Jsonl => Export::Jsonl,
            Form::Arrow => Export::Arrow,
            Form::Parquet => Export::Parquet,
        };
        let mut bytes = Vec::new();
        export::write(export, &columns, self.values.chunks_exact(width), &mut bytes)
            .map_err(|error| internal(&error))?;
        Ok(forms::file(export.media_type(), bytes))
    }

    fn tensors(&self, columns: &[&Column]) -> std::io::Result<Vec<u8>> {
        let names: Vec<&str> = columns.iter().map(|column| column.name.as_str()).collect();
        let names = serde_json::to_string(&names).map_err(std::io::Error::other)?;
        let main = Named { name: self.name, width: Some(columns.len()), values: &self.values };
        let others = self.beside.iter().map(|one| Named { name: one.name, width: one.width, values: &one.values });
        let matrices: Vec<Named<'_>> = std::iter::once(main).chain(others).collect();
        safetensors::written(&matrices, HashMap::from([("columns".to_owned(), names)]))
    }
}

/// The fault of asking for more than the main matrix in a form that holds nothing else.
pub(super) fn require_room(asked: &Asked, pointer: String) -> Result<(), Refusal> {
    if matches!(asked.form, Form::Json | Form::Safetensors) {
        return Ok(());
    }
    let detail = format!(
        "is given in {} and {} alone; ask for one of them, or leave it out",
        Form::Json.media_type(),
        Form::Safetensors.media_type()
    );
    Err(Refusal::at(Code::InvalidRequest, pointer, "conflict", detail))
}

fn picture(schema: &Schema, sheet: &Sheet) -> Result<Response, ApiError> {
    let Some(shape) = schema.image else { return Err(internal(&"a picture of rows that are no images")) };
    let width = schema.row_shape().width;
    let columns: Vec<&Column> = schema.feature_columns().collect();
    let shades = Shades::of(columns.iter().copied());
    let (values, count) = (&sheet.values, sheet.values.len() / width);
    let Some(originals) = &sheet.originals else {
        let across = sheet.across.unwrap_or((count as f64).sqrt().ceil() as usize);
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
