//! Questions to trained models: a file each.
//!
//! `GET` takes rows by reference (`?dataset=ds_…&rows=0-31`) or inline when small (`?x=0.1,0.2`, repeatable), and options in the
//! query; `POST` takes a body of JSON that holds both, or rows in another form with the options in the query. Nothing is random but
//! what a seed decides, and what a row is answered depends on no other, so the same question has the same answer to the byte. A
//! caller says by `Prefer: wait=5` how many seconds it waits.
//!
//! Start reading with [`encode`], then `bodies`, `tables` and `references` (what comes in) and `answers` (what goes out).

pub mod answers;
mod bodies;
pub mod conditional;
pub mod decode;
pub mod encode;
mod held;
pub mod impute;
pub mod interpolate;
mod patience;
pub mod predict;
mod prepared;
pub mod reconstruct;
mod references;
pub mod room;
pub mod sample;
pub mod score;
mod tables;
pub mod traverse;

use std::sync::Arc;

use axum::http::HeaderMap;
use serde::Deserialize;
use tokio::time::Instant;
use utoipa::openapi::Required;
use utoipa::openapi::path::{Parameter, ParameterBuilder, ParameterIn};
use utoipa::{IntoParams, ToSchema};

use self::bodies::{Expected, PostedRows};
pub(in crate::http) use self::bodies::{Missing, ONLY_IMPUTE, unknown_class, unknown_level};
use self::prepared::{Prepared, Rows};
use self::references::Reference;
use super::App;
use super::error::ApiError;
use super::forms::{Matrix, RowInput};
use super::media::{Form, NUMBERS, PICTURES};
use crate::data::dataset::{Column, Schema};
use crate::domain::id::{DatasetId, ModelId};
use crate::domain::limits::{INFERENCE_PASSES, INFERENCE_VALUES};
use crate::domain::refusal::{Code, Faults, Refusal};
use crate::serving::{Answer, Question, Units};
use crate::store::models::Model;

/// Where the options of a question stand. Pointers of faults begin with it.
pub(in crate::http) type Place = &'static str;
const QUERY: Place = "?";
const BODY: Place = "/";

/// How a model is named in a path, for the API document.
pub const MODEL_REF: &str = "A model: its id, or of a name in the registry the newest version (`fraud`), one version (`fraud:3`) or an alias (`fraud@production`)";

/// The model in the path, for the API document.
pub struct ModelInPath;

impl IntoParams for ModelInPath {
    fn into_params(_: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
        let id = ParameterBuilder::new().name("id").parameter_in(ParameterIn::Path).required(Required::True);
        vec![id.description(Some(MODEL_REF)).schema(Some(<String as utoipa::PartialSchema>::schema())).build()]
    }
}

/// Rows by reference or inline.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct RowsQuery {
    /// A dataset with the columns of the model.
    #[param(value_type = Option<String>)]
    dataset: Option<DatasetId>,
    /// Rows of that dataset: `7`, or `0-31` with both ends.
    rows: Option<String>,
    /// A row: numbers with commas between, and of models that were trained on rows with gaps nothing where one is missing. May
    /// be repeated.
    x: Vec<String>,
    /// The form of the answer; the `Accept` header decides when left out.
    #[param(inline)]
    format: Option<Form>,
    /// Which rows are prepared, as the network has them, instead of in the user's columns and units.
    #[param(inline)]
    prepared: Prepared,
}

impl RowsQuery {
    fn wish(&self) -> Wish {
        Wish { format: self.format, prepared: self.prepared }
    }

    fn reference(self) -> Reference {
        Reference { dataset: self.dataset, rows: self.rows, x: self.x }
    }
}

/// The form of the answer.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct FormQuery {
    /// The form of the answer; the `Accept` header decides when left out.
    #[param(inline)]
    format: Option<Form>,
    /// Which rows are prepared, as the network has them, instead of in the user's columns and units.
    #[param(inline)]
    prepared: Prepared,
}

/// Rows of a body.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RowsBody {
    /// The rows; `null` where a value is missing, of models that were trained on rows with gaps.
    rows: Vec<RowInput>,
}

impl PostedRows for RowsBody {
    type Options = FormQuery;
    const ROWS: Rows = Rows::In;

    fn split(self) -> (Vec<RowInput>, FormQuery) {
        (self.rows, FormQuery::default())
    }

    fn wish(options: &FormQuery) -> Wish {
        let FormQuery { format, prepared } = *options;
        Wish { format, prepared }
    }
}

/// A model that is asked, and the form that the answer is to have.
pub(in crate::http) struct Asked {
    pub(in crate::http) app: App,
    pub(in crate::http) model: Arc<Model>,
    form: Form,
    /// Until when the caller waits, where it says so.
    deadline: Option<Instant>,
    units: Units,
    /// The columns of prepared rows, where some are.
    slots: Option<Arc<Schema>>,
}

/// What is asked of a question whatever it is about.
#[derive(Clone, Copy, Debug, Default)]
struct Wish {
    format: Option<Form>,
    prepared: Prepared,
}

impl Asked {
    async fn of(app: App, id: ModelId, wish: Wish, headers: &HeaderMap, rows: Rows) -> Result<Self, ApiError> {
        let model = app.store.model(id).await?;
        let units = rows.units(wish.prepared)?;
        let pictures = rows.are_given() && model.schema.image.is_some() && units == Units::default();
        let form = Form::wanted(wish.format, headers, if pictures { PICTURES } else { NUMBERS });
        let form = form.map_err(|mut refusal| {
            if rows.are_given() && !pictures {
                refusal.detail +=
                    ", and pictures of rows in their own units, where the dataset was uploaded with `shape`";
            }
            refusal
        })?;
        let mut asked = Self { app, model, form, deadline: patience::deadline(headers), units, slots: None };
        if units != Units::default() {
            let slots = asked.ask(Question::Slots).await?;
            asked.slots = Some(Arc::new(prepared::schema(&asked.model.schema, &slots)));
        }
        Ok(asked)
    }

    /// A model whose answers are told as numbers, whatever becomes of them then.
    pub(in crate::http) fn plainly(app: App, model: Arc<Model>) -> Self {
        Self { app, model, form: Form::Json, deadline: None, units: Units::default(), slots: None }
    }

    async fn ask(&self, question: Question) -> Result<Answer, ApiError> {
        let (inference, question) = (&self.app.inference, question.in_units(self.units));
        Ok(match self.deadline {
            Some(deadline) => inference.ask_by(&self.model, question, deadline).await?,
            None => inference.ask(&self.model, question).await?,
        })
    }

    /// What a question brings.
    fn expected<'a, B: PostedRows>(&self, columns: &'a [&'a Column]) -> Expected<'a> {
        match B::CODES {
            true => Expected { what: "codes", width: self.latent(), columns: &[], missing: Missing::Refused },
            false => Expected { what: "rows", width: self.width(), columns, missing: self.missing(B::MISSING) },
        }
    }

    /// What becomes of missing values in a question to this model.
    pub(in crate::http) fn missing(&self, wanted: Missing) -> Missing {
        match wanted {
            Missing::AsTrained if self.model.facts.has_gaps => Missing::Kept,
            Missing::AsTrained => Missing::Refused,
            other => other,
        }
    }

    /// Rows of an answer, as JSON has them.
    fn rows<'a>(&'a self, values: &'a [f32]) -> Matrix<'a> {
        Matrix::of(values, self.given().feature_columns())
    }

    /// Width of the code.
    pub(in crate::http) fn latent(&self) -> usize {
        self.model.spec.model.latent() as usize
    }

    /// Width of a row of the question.
    pub(in crate::http) fn width(&self) -> usize {
        match &self.slots {
            Some(slots) if self.units.prepared_in => slots.row_shape().width,
            _ => self.model.facts.width,
        }
    }

    /// Width of a row of the answer.
    fn width_out(&self) -> usize {
        match &self.slots {
            Some(slots) if self.units.prepared_out => slots.row_shape().width,
            _ => self.model.facts.width,
        }
    }

    /// Whether all columns of rows of the question are amounts.
    fn is_plain(&self) -> bool {
        self.units.prepared_in || self.model.facts.is_plain
    }

    /// The columns of rows of the question.
    fn taken(&self) -> &Schema {
        self.slots.as_deref().filter(|_| self.units.prepared_in).unwrap_or(&self.model.schema)
    }

    /// The columns of rows of the answer.
    fn given(&self) -> &Schema {
        self.slots.as_deref().filter(|_| self.units.prepared_out).unwrap_or(&self.model.schema)
    }

    pub(in crate::http) fn family(&self) -> &'static str {
        self.model.spec.model.family()
    }

    /// Refuses answers that are too large to be given at once.
    pub(in crate::http) fn check_answer_size(rows: usize, width: usize) -> Result<(), Refusal> {
        if rows.saturating_mul(width) > INFERENCE_VALUES {
            let detail = format!(
                "{rows} rows of {width} are more than the {INFERENCE_VALUES} values of one answer; ask for fewer"
            );
            return Err(Refusal::new(Code::InvalidRequest, detail));
        }
        Ok(())
    }
}

/// Reports a question that would hold up all others: each row goes through the model so many times.
fn require_passes(pointer: String, rows: usize, times: u32, faults: &mut Faults) {
    if (rows as u64).saturating_mul(u64::from(times)) > INFERENCE_PASSES {
        let most = INFERENCE_PASSES / (rows as u64).max(1);
        let detail = format!("is {times}; allowed are up to {most} for {rows} rows");
        faults.push(pointer, "too_much_work", detail);
    }
}
