//! Rows to codes.

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
use crate::http::App;
use crate::http::error::{ApiError, Problem};
use crate::http::extract::{Id, Query};
use crate::http::forms::{self, Matrix};
use crate::http::media::Form;
use crate::serving::{Answer, Question};

/// Codes of rows.
#[derive(Serialize, ToSchema)]
pub struct CodesView<'a> {
    /// One code a row.
    #[schema(value_type = Vec<Vec<f32>>)]
    codes: Matrix<'a>,
    /// The standard deviation of each number of each code, where the encoder is stochastic.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Vec<Vec<f32>>>)]
    spread: Option<Matrix<'a>>,
}

impl IntoResponses for CodesView<'_> {
    fn responses() -> Documented {
        answers::documented("CodesView", "Codes and their spread", "the codes, `z0`, `z1` …")
    }
}

/// Encode rows of a dataset, or small inline ones: one code a row, with its spread where the encoder is stochastic.
#[utoipa::path(
    get,
    path = "/v1/models/{id}/encode",
    tag = "inference",
    params(ModelInPath, Patience, RowsQuery),
    responses(CodesView, Problem)
)]
pub async fn get_encode(
    State(app): State<App>,
    Id(id): Id<ModelId>,
    Query(query): Query<RowsQuery>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let asked = Asked::of(app, id, query.wish(), &headers, Rows::In).await?;
    let rows = query.reference().read(&asked, Missing::AsTrained).await?;
    encode(&asked, rows).await
}

/// Encode rows: one code a row, with its spread where the encoder is stochastic.
#[utoipa::path(
    post, path = "/v1/models/{id}/encode", tag = "inference", params(ModelInPath, Patience, FormQuery),
    request_body(content((RowsBody = "application/json"), (Vec<u8> = "application/x-npy"))),
    responses(CodesView, Problem)
)]
pub async fn post_encode(State(app): State<App>, Id(id): Id<ModelId>, request: Request) -> Result<Response, ApiError> {
    let Posted { asked, values, .. } = posted::<RowsBody>(app, id, request).await?;
    encode(&asked, values).await
}

async fn encode(asked: &Asked, rows: Vec<f32>) -> Result<Response, ApiError> {
    let width = asked.latent();
    Asked::check_answer_size(rows.len() / asked.width(), width)?;
    let Answer { values, beside } = asked.ask(Question::Encode(rows)).await?;
    if asked.form == Form::Json {
        let spread = beside.as_deref().map(|values| Matrix::new(values, width));
        return forms::json(&CodesView { codes: Matrix::new(&values, width), spread });
    }
    Sheet::of("codes", Heads::code(width), values).beside("spread", width, beside).answer(asked).await
}
