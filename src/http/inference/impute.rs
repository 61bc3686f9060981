//! Rows with gaps to rows without.

use axum::extract::{Request, State};
use axum::http::HeaderMap;
use axum::response::Response;
use serde::Deserialize;
use utoipa::{IntoParams, ToSchema};

use super::answers::{RowsView, Sheet};
use super::bodies::{Missing, Posted, PostedRows, posted};
use super::references::Reference;
use super::{Asked, Gives, ModelInPath, Place, QUERY, require_passes};
use crate::domain::id::{DatasetId, ModelId};
use crate::domain::refusal::{Code, Faults, Refusal};
use crate::http::App;
use crate::http::error::{ApiError, Problem};
use crate::http::extract::{Id, Query};
use crate::http::forms::{self, RowInput};
use crate::http::media::Form;
use crate::serving::{Answer, Question};

/// Rows by reference or inline, and how their gaps are filled.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ImputeQuery {
    /// A dataset with the columns of the model.
    #[param(value_type = Option<String>)]
    dataset: Option<DatasetId>,
    /// Rows of that dataset: `7`, or `0-31` with both ends.
    rows: Option<String>,
    /// A row: numbers with commas between, and nothing where one is missing. May be repeated.
    x: Vec<String>,
    /// Steps of the Markov chain, for families that have one; else how often rows go through the code and back.
    #[param(minimum = 1, maximum = 1000)]
    rounds: u32,
    /// Which draw of the chain.
    seed: u64,
    /// The form of the answer; the `Accept` header decides when left out.
    #[param(inline)]
    format: Option<Form>,
}

impl Default for ImputeQuery {
    fn default() -> Self {
        let ImputeOptions { rounds, seed, format } = ImputeOptions::default();
        Self { dataset: None, rows: None, x: Vec::new(), rounds, seed, format }
    }
}

/// How the gaps of an NPY body are filled; in a JSON body this stands beside the rows.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ImputeOptions {
    /// Beside a body that is not JSON: as `rounds` of the JSON body.
    #[param(minimum = 1, maximum = 1000)]
    rounds: u32,
    /// Beside a body that is not JSON: as `seed` of the JSON body.
    seed: u64,
    /// The form of the answer; the `Accept` header decides when left out.
    #[param(inline)]
    format: Option<Form>,
}

/// Rounds when the caller names none.
pub(in crate::http) const ROUNDS: u32 = 20;

impl Default for ImputeOptions {
    fn default() -> Self {
        Self { rounds: ROUNDS, seed: 0, format: None }
    }
}

/// Rows of a body, and how their gaps are filled.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ImputeBody {
    /// The rows; `null` where a value is missing. An object may also leave out what is missing.
    rows: Vec<RowInput>,
    /// Steps of the Markov chain, for families that have one; else how often rows go through the code and back. 20 when left
    /// out.
    #[schema(minimum = 1, maximum = 1000)]
    rounds: Option<u32>,
    /// Which draw of the chain.
    #[serde(default)]
    seed: u64,
}

impl PostedRows for ImputeBody {
    type Options = ImputeOptions;
    const MISSING: Missing = Missing::Kept;

    fn split(self) -> (Vec<RowInput>, ImputeOptions) {
        let defaults = ImputeOptions::default();
        let rounds = self.rounds.unwrap_or(defaults.rounds);
        (self.rows, ImputeOptions { rounds, seed: self.seed, ..defaults })
    }

    fn format(options: &ImputeOptions) -> Option<Form> {
        options.format
    }
}

/// Fill the gaps of rows of a dataset, or of small inline ones. As PNG: rows with gaps over rows without.
#[utoipa::path(
    get,
    path = "/v1/models/{id}/impute",
    tag = "inference",
    params(ModelInPath, ImputeQuery),
    responses(RowsView, Problem)
)]
pub async fn get_impute(
    State(app): State<App>,
    Id(id): Id<ModelId>,
    Query(query): Query<ImputeQuery>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let ImputeQuery { dataset, rows, x, rounds, seed, format } = query;
    let asked = Asked::of(app, id, format, &headers, Gives::Rows).await?;
    let rows = Reference { dataset, rows, x }.read(&asked, Missing::Kept).await?;
    impute(&asked, rows, &ImputeOptions { rounds, seed, format }, QUERY).await
}

/// Fill the gaps of rows: values that are known come back as they are.
#[utoipa::path(
    post, path = "/v1/models/{id}/impute", tag = "inference", params(ModelInPath, ImputeOptions),
    request_body(content((ImputeBody = "application/json"), (Vec<u8> = "application/x-npy"))),
    responses(RowsView, Problem)
)]
pub async fn post_impute(State(app): State<App>, Id(id): Id<ModelId>, request: Request) -> Result<Response, ApiError> {
    let Posted { asked, values, options, place } = posted::<ImputeBody>(app, id, request).await?;
    impute(&asked, values, &options, place).await
}

async fn impute(asked: &Asked, rows: Vec<f32>, options: &ImputeOptions, place: Place) -> Result<Response, ApiError> {
    let ImputeOptions { rounds, seed, .. } = *options;
    let originals = (asked.form == Form::Png).then(|| rows.clone());
    let Answer { values, .. } = asked.ask(question(asked, rows, (rounds, seed), place)?).await?;
    if asked.form == Form::Json {
        return forms::json(&RowsView { rows: asked.rows(&values) });
    }
    Sheet::rows(values).under(originals).answer(asked).await
}

/// The question, checked.
pub(in crate::http) fn question(
    asked: &Asked,
    rows: Vec<f32>,
    (rounds, seed): (u32, u64),
    place: Place,
) -> Result<Question, Refusal> {
    let mut faults = Faults::new();
    let pointer = format!("{place}rounds");
    faults.require_within(&pointer, rounds, 1..=1000);
    require_passes(pointer, rows.len() / asked.width(), rounds, &mut faults);
    faults.into_result(Code::InvalidRequest)?;
    Ok(Question::Impute { rows, rounds, seed })
}
