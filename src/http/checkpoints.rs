//! Checkpoints of jobs: which there are, and their bytes.

use axum::Json;
use axum::extract::{RawPathParams, State};
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

use super::App;
use super::error::{ApiError, Problem, internal};
use super::extract::{Id, Nothing, Query};
use crate::domain::id::JobId;
use crate::domain::refusal::Refusal;
use crate::store::checkpoints::Checkpoint;

/// A place from which a job can go on.
#[derive(Debug, Serialize, ToSchema)]
pub struct CheckpointView {
    /// Its name in the address of its bytes: epoch and step.
    pub name: String,
    /// Epochs done.
    pub epoch: u32,
    /// Steps done of the epoch that was under way.
    pub step: u64,
    /// Bytes of the file.
    pub bytes: u64,
    /// Its SHA-256, in hexadecimal.
    pub sha256: String,
    /// Whether its weights are the best so far by the validation loss. Every checkpoint holds the best weights beside its own.
    pub is_best: bool,
    /// When it was made (RFC 3339).
    pub created_at: String,
}

impl From<Checkpoint> for CheckpointView {
    fn from(checkpoint: Checkpoint) -> Self {
        let name = name(&checkpoint);
        let Checkpoint { epoch, step, is_best, bytes, sha256, created_at, .. } = checkpoint;
        Self { name, epoch, step, bytes, sha256, is_best, created_at: super::time(created_at) }
    }
}

fn name(checkpoint: &Checkpoint) -> String {
    format!("{}-{}", checkpoint.epoch, checkpoint.step)
}

/// The checkpoints that are kept of a job.
#[derive(Debug, Serialize, ToSchema)]
pub struct CheckpointsView {
    /// The newest first.
    pub data: Vec<CheckpointView>,
}

/// The checkpoints that are kept of a job, the newest first. Those of a job that succeeded go, unless it was asked to keep them.
#[utoipa::path(
    get, path = "/v1/jobs/{id}/checkpoints", tag = "jobs", params(("id" = String, Path, description = "The id of a job")),
    responses((status = 200, body = CheckpointsView), (status = "default", body = Problem, content_type = "application/problem+json"))
)]
pub async fn list_checkpoints(
    State(app): State<App>,
    _: Query<Nothing>,
    Id(id): Id<JobId>,
) -> Result<Json<CheckpointsView>, ApiError> {
    app.store.job(id).await?;
    let data = app.store.checkpoints(id).await?.into_iter().map(CheckpointView::from).collect();
    Ok(Json(CheckpointsView { data }))
}

/// A checkpoint as a safetensors file: the weights of its moment, the best ones, and what the optimizer remembers.
#[utoipa::path(
    get, path = "/v1/jobs/{id}/checkpoints/{name}", tag = "jobs",
    params(("id" = String, Path, description = "The id of a job"), ("name" = String, Path, description = "As the list has it, such as 12-0")),
    responses((status = 200, content_type = "application/octet-stream", body = Vec<u8>), (status = "default", body = Problem, content_type = "application/problem+json"))
)]
pub async fn download_checkpoint(
    State(app): State<App>,
    _: Query<Nothing>,
    Id(id): Id<JobId>,
    path: RawPathParams,
) -> Result<Response, ApiError> {
    let wanted = path.iter().find(|(key, _)| *key == "name").map(|(_, value)| value.to_owned()).unwrap_or_default();
    app.store.job(id).await?;
    let found = app.store.checkpoints(id).await?.into_iter().find(|checkpoint| name(checkpoint) == wanted);
    let found = found.ok_or_else(|| Refusal::not_found("checkpoint", &wanted))?;
    let bytes = app.store.artifact(found.artifact_id).await?;
    let file = format!("attachment; filename=\"{id}-{}.safetensors\"", name(&found));
    let file = HeaderValue::try_from(file).map_err(|error| internal(&error))?;
    let kind = HeaderValue::from_static("application/octet-stream");
    Ok(([(header::CONTENT_TYPE, kind), (header::CONTENT_DISPOSITION, file)], bytes).into_response())
}
