//! Files of a model: its own, and those for other programs.

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use utoipa::IntoParams;

use super::App;
use super::error::{ApiError, Problem, internal};
use super::extract::{Id, Nothing, Query};
use super::inference::predict::learned_none;
use crate::domain::id::ModelId;
use crate::training::export::{Form, Part};
use crate::training::spec::TrainSpec;

/// Download a model: a safetensors file whose metadata key `latente` holds spec, columns and scaling as JSON.
#[utoipa::path(
    get, path = "/v1/models/{id}/artifacts/safetensors", tag = "models", params(("id" = String, Path, description = "The id of a model")),
    responses((status = 200, content_type = "application/octet-stream", body = Vec<u8>), (status = "default", body = Problem, content_type = "application/problem+json"))
)]
pub async fn download_model(
    State(app): State<App>,
    _: Query<Nothing>,
    Id(id): Id<ModelId>,
) -> Result<Response, ApiError> {
    let model = app.store.model(id).await?;
    let bytes = app.store.artifact(model.artifact_id).await?;
    file(format!("{id}.safetensors"), bytes)
}

/// The spec that a model was trained by; post it again to train another.
#[utoipa::path(
    get, path = "/v1/models/{id}/artifacts/spec", tag = "models", params(("id" = String, Path, description = "The id of a model")),
    responses((status = 200, body = TrainSpec), (status = "default", body = Problem, content_type = "application/problem+json"))
)]
pub async fn get_model_spec(
    State(app): State<App>,
    _: Query<Nothing>,
    Id(id): Id<ModelId>,
) -> Result<Json<TrainSpec>, ApiError> {
    Ok(Json(app.store.model(id).await?.spec.clone()))
}

/// What an exported file holds.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct PartQuery {
    /// The part of the model; the encoder when left out.
    #[serde(default)]
    #[param(inline)]
    part: Part,
}

/// Download a part of a model as an ONNX file (operators 17, 32-bit floats) that takes rows in the units of the dataset, with the
/// preparation of columns inside. Categories are numbers, the position of a level among the `levels` of its column; a gap
/// is NaN. What it answers is what this server answers.
#[utoipa::path(
    get, path = "/v1/models/{id}/artifacts/onnx", tag = "models", params(("id" = String, Path, description = "The id of a model"), PartQuery),
    responses((status = 200, content_type = "application/octet-stream", body = Vec<u8>), (status = "default", body = Problem, content_type = "application/problem+json"))
)]
pub async fn download_onnx(
    State(app): State<App>,
    Query(query): Query<PartQuery>,
    Id(id): Id<ModelId>,
) -> Result<Response, ApiError> {
    exported(&app, id, query.part, Form::Onnx).await
}

/// Download a part of a model as a TorchScript file for `torch.jit.load`; else as the ONNX file.
#[utoipa::path(
    get, path = "/v1/models/{id}/artifacts/torchscript", tag = "models", params(("id" = String, Path, description = "The id of a model"), PartQuery),
    responses((status = 200, content_type = "application/octet-stream", body = Vec<u8>), (status = "default", body = Problem, content_type = "application/problem+json"))
)]
pub async fn download_torchscript(
    State(app): State<App>,
    Query(query): Query<PartQuery>,
    Id(id): Id<ModelId>,
) -> Result<Response, ApiError> {
    exported(&app, id, query.part, Form::TorchScript).await
}

async fn exported(app: &App, id: ModelId, part: Part, form: Form) -> Result<Response, ApiError> {
    let model = app.store.model(id).await?;
    if part == Part::Predictor && !model.spec.learns_labels(&model.schema) {
        return Err(learned_none(&model).into());
    }
    let scratch = app.store.scratch()?;
    let bytes = app.store.artifact(model.artifact_id).await?;
    let bytes = app.jobs.export(scratch.directory(), &bytes, part, form).await?;
    file(format!("{id}-{}.{}", part.as_str(), form.ending()), bytes)
}

fn file(name: String, bytes: Vec<u8>) -> Result<Response, ApiError> {
    let name = HeaderValue::try_from(format!("attachment; filename=\"{name}\"")).map_err(|error| internal(&error))?;
    let kind = HeaderValue::from_static("application/octet-stream");
    Ok(([(header::CONTENT_TYPE, kind), (header::CONTENT_DISPOSITION, name)], bytes).into_response())
}
