//! Rows through the code and back.

use axum::extract::{Request, State};
use axum::http::HeaderMap;
use axum::response::Response;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, IntoResponses, ToSchema};

use super::answers::{Documented, Sheet};
use super::bodies::{Missing, Posted, PostedRows, posted};
use super::patience::Patience;
use super::prepared::{Prepared, Rows};
use super::references::Reference;
use super::{Asked, ModelInPath, Place, QUERY, Wish, answers};
use crate::domain::id::{DatasetId, ModelId};
use crate::domain::refusal::{Code, Refusal};
use crate::http::App;
use crate::http::error::{ApiError, Problem};
use crate::http::extract::{Id, Query};
use crate::http::forms::{self, Matrix, RowInput};
use crate::http::media::Form;
use crate::serving::{Answer, Question, ServingError};

/// Rows by reference or inline, and what is asked of them.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ReconstructQuery {
    /// A dataset with the columns of the model.
    #[param(value_type = Option<String>)]
    dataset: Option<DatasetId>,
    /// Rows of that dataset: `7`, or `0-31` with both ends.
    rows: Option<String>,
    /// A row: numbers with commas between, and of models that were trained on rows with gaps nothing where one is missing. May
    /// be repeated.
    x: Vec<String>,
    /// Whether an estimate of the gradient of log p(x) is given for each row, for families that have one.
    score_estimate: bool,
    /// The form of the answer; the `Accept` header decides when left out.
    #[param(inline)]
    format: Option<Form>,
    /// Which rows are prepared, as the network has them, instead of in the user's columns and units.
    #[param(inline)]
    prepared: Prepared,
}

/// What is asked of rows that are a body of another form than JSON; in a JSON body this stands beside the rows.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ReconstructOptions {
    /// Beside a body that is not JSON: as `score_estimate` of the JSON body.
    score_estimate: bool,
    /// The form of the answer; the `Accept` header decides when left out.
    #[param(inline)]
    format: Option<Form>,
    /// Which rows are prepared, as the network has them, instead of in the user's columns and units.
    #[param(inline)]
    prepared: Prepared,
}

/// Rows of a body, and what is asked of them.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ReconstructBody {
    /// The rows; `null` where a value is missing, of models that were trained on rows with gaps.
    rows: Vec<RowInput>,
    /// Whether an estimate of the gradient of log p(x) is given for each row, for families that have one.
    #[serde(default)]
    score_estimate: bool,
}

impl PostedRows for ReconstructBody {
    type Options = ReconstructOptions;

    fn split(self) -> (Vec<RowInput>, ReconstructOptions) {
        (self.rows, ReconstructOptions { score_estimate: self.score_estimate, format: None, prepared: Prepared::None })
    }

    fn wish(options: &ReconstructOptions) -> Wish {
        let ReconstructOptions { format, prepared, .. } = *options;
        Wish { format, prepared }
    }
}

/// What the model makes of rows.
#[derive(Serialize, ToSchema)]
pub struct ReconstructionView<'a> {
    /// One row a row, in the user's units.
    #[schema(value_type = Vec<Vec<f32>>)]
    rows: Matrix<'a>,
    /// The mean squared error of each row, over its prepared numbers.
    errors: &'a [f32],
    /// The estimated gradient of log p(x) at each row, up to a positive factor and over its prepared numbers, where it was
    /// asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Vec<Vec<f32>>>)]
    score_estimates: Option<Matrix<'a>>,
}

impl IntoResponses for ReconstructionView<'_> {
    fn responses() -> Documented {
        answers::documented_rows("ReconstructionView", "Rows and their errors")
    }
}

/// Send rows of a dataset, or small inline ones, through the code and back. As PNG: originals over reconstructions.
#[utoipa::path(
    get,
    path = "/v1/models/{id}/reconstruct",
    tag = "inference",
    params(ModelInPath, Patience, ReconstructQuery),
    responses(ReconstructionView, Problem)
)]
pub async fn get_reconstruct(
    State(app): State<App>,
    Id(id): Id<ModelId>,
    Query(query): Query<ReconstructQuery>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let ReconstructQuery { dataset, rows, x, score_estimate, format, prepared } = query;
    let asked = Asked::of(app, id, Wish { format, prepared }, &headers, Rows::InAndOut).await?;
    let rows = Reference { dataset, rows, x }.read(&asked, Missing::AsTrained).await?;
    reconstruct(&asked, rows, score_estimate, QUERY).await
}

/// Send rows through the code and back: what the model makes of them, and the mean squared error of each in prepared units.
#[utoipa::path(
    post, path = "/v1/models/{id}/reconstruct", tag = "inference", params(ModelInPath, Patience, ReconstructOptions),
    request_body(content((ReconstructBody = "application/json"), (Vec<u8> = "application/x-npy"))),
    responses(ReconstructionView, Problem)
)]
pub async fn post_reconstruct(
    State(app): State<App>,
    Id(id): Id<ModelId>,
    request: Request,
) -> Result<Response, ApiError> {
    let Posted { asked, values, options, place } = posted::<ReconstructBody>(app, id, request).await?;
    reconstruct(&asked, values, options.score_estimate, place).await
}

async fn reconstruct(asked: &Asked, rows: Vec<f32>, with_scores: bool, place: Place) -> Result<Response, ApiError> {
    let count = rows.len() / asked.width();
    Asked::check_answer_size(count, asked.width_out())?;
    let scores = match with_scores {
        true => Some(score_estimates(asked, rows.clone(), format!("{place}score_estimate")).await?),
        false => None,
    };
    let originals = (asked.form == Form::Png).then(|| rows.clone());
    let Answer { values, beside } = asked.ask(Question::Reconstruct(rows)).await?;
    // A prepared row may be wider than a row, because a category becomes one number a level.
    let prepared_width = scores.as_ref().map_or(0, |values| values.len() / count);
    if asked.form == Form::Json {
        let score_estimates = scores.as_ref().map(|values| Matrix::new(values, prepared_width));
        let errors = beside.as_deref().unwrap_or_default();
        return forms::json(&ReconstructionView { rows: asked.rows(&values), errors, score_estimates });
    }
    let sheet = Sheet::rows(values).beside_each("errors", beside).under(originals);
    sheet.beside("score_estimates", prepared_width, scores).answer(asked).await
}

/// Only the network knows whether it has one; where it has none the refusal names the option.
async fn score_estimates(asked: &Asked, rows: Vec<f32>, pointer: String) -> Result<Vec<f32>, ApiError> {
    answers::require_room(asked, pointer.clone())?;
    let question = Question::ScoreEstimate(rows).in_units(asked.units);
    match asked.app.inference.ask(&asked.model, question).await {
        Ok(answer) => Ok(answer.values),
        Err(ServingError::Refused(refusal)) if refusal.code == Code::InvalidRequest => {
            let detail = format!("goes with a family that has one; {}", refusal.detail);
            Err(Refusal::at(Code::InvalidRequest, pointer, "not_available", detail).into())
        }
        Err(error) => Err(error.into()),
    }
}
