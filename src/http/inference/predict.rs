//! Rows to their labels, by models that learned to tell them.

use axum::extract::{Request, State};
use axum::http::HeaderMap;
use axum::response::Response;
use serde::Serialize;
use utoipa::{IntoResponses, ToSchema};

use super::answers::{Documented, Heads, Sheet};
use super::bodies::{Missing, Posted, posted};
use super::patience::Patience;
use super::prepared::Rows;
use super::{Asked, FormQuery, ModelInPath, RowsBody, RowsQuery, answers};
use crate::domain::id::ModelId;
use crate::domain::refusal::{Code, Refusal};
use crate::http::App;
use crate::http::error::{ApiError, Problem};
use crate::http::extract::{Id, Query};
use crate::http::forms::{self, Matrix};
use crate::http::media::Form;
use crate::models::{Labels, families};
use crate::serving::{Answer, Question};
use crate::store::models::Model;

/// What a model tells of the labels of rows.
#[derive(Serialize, ToSchema)]
pub struct PredictionsView<'a> {
    /// The label columns, in their order.
    labels: Vec<&'a str>,
    /// One value a label column for each row: the mean of a number, the likeliest class.
    #[schema(value_type = Vec<Vec<f32>>)]
    predictions: Matrix<'a>,
    /// How uncertain each is: the standard deviation of a number, of a class the probability of all others.
    #[schema(value_type = Vec<Vec<f32>>)]
    spread: Matrix<'a>,
}

impl IntoResponses for PredictionsView<'_> {
    fn responses() -> Documented {
        answers::documented("PredictionsView", "Predictions and their spread", "the predictions")
    }
}

/// Tell the labels of rows of a dataset, or of small inline ones.
#[utoipa::path(
    get,
    path = "/v1/models/{id}/predict",
    tag = "inference",
    params(ModelInPath, Patience, RowsQuery),
    responses(PredictionsView, Problem)
)]
pub async fn get_predict(
    State(app): State<App>,
    Id(id): Id<ModelId>,
    Query(query): Query<RowsQuery>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let asked = Asked::of(app, id, query.wish(), &headers, Rows::In).await?;
    let rows = query.reference().read(&asked, Missing::AsTrained).await?;
    predict(&asked, rows).await
}

/// Tell the labels of rows, for models that learned them: a value for each label column, and how uncertain it is.
#[utoipa::path(
    post, path = "/v1/models/{id}/predict", tag = "inference", params(ModelInPath, Patience, FormQuery),
    request_body(content((RowsBody = "application/json"), (Vec<u8> = "application/x-npy"))),
    responses(PredictionsView, Problem)
)]
pub async fn post_predict(State(app): State<App>, Id(id): Id<ModelId>, request: Request) -> Result<Response, ApiError> {
    let Posted { asked, values, .. } = posted::<RowsBody>(app, id, request).await?;
    predict(&asked, values).await
}

async fn predict(asked: &Asked, rows: Vec<f32>) -> Result<Response, ApiError> {
    let schema = &asked.model.schema;
    if !asked.model.spec.learns_labels(schema) {
        return Err(learned_none(&asked.model).into());
    }
    let labels: Vec<&str> = schema.label_columns().map(|column| column.name.as_str()).collect();
    let width = labels.len();
    let Answer { values, beside } = asked.ask(Question::Predict(rows)).await?;
    if asked.form == Form::Json {
        let predictions = Matrix::of(&values, schema.label_columns());
        let spread = Matrix::new(beside.as_deref().unwrap_or_default(), width);
        return forms::json(&PredictionsView { labels, predictions, spread });
    }
    Sheet::of("predictions", Heads::Labels, values).beside("spread", width, beside).answer(asked).await
}

/// The refusal of what takes labels, of a model that learned none.
pub(in crate::http) fn learned_none(model: &Model) -> Refusal {
    let family = model.spec.model.family();
    let all = families();
    let able: Vec<&str> = all.iter().filter(|view| view.labels != Labels::Unused).map(|view| view.family).collect();
    let reason = if able.contains(&family) {
        "its dataset had no label column; upload with `label`".to_owned()
    } else {
        format!("{family} learns from features alone; families that learn labels are: {}", able.join(", "))
    };
    Refusal::new(Code::InvalidRequest, format!("this model learned no labels, so it predicts none: {reason}"))
}
