//! Whether the server lives, whether it is ready, and which one it is.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::Serialize;
use utoipa::ToSchema;

use super::App;
use super::error::{ApiError, Problem};
use crate::domain::refusal::{Code, Refusal};
use crate::training::device::LIBTORCH_VERSION;

/// What a server that is ready says of itself.
#[derive(Debug, Serialize, ToSchema)]
pub struct ReadyView {
    /// `ready`.
    pub status: &'static str,
    /// `cpu`, and `cuda` where there is a GPU.
    pub devices: Vec<&'static str>,
    /// Why there is no CUDA.
    pub cuda_absence: Option<String>,
    /// Jobs that run at once.
    pub workers: usize,
    /// Threads of each.
    pub threads: usize,
    /// Jobs that wait.
    pub queued: u64,
    /// Jobs at work.
    pub running: u64,
}

/// Which program this is.
#[derive(Debug, Serialize, ToSchema)]
pub struct VersionView {
    /// The version of this program.
    pub version: &'static str,
    /// The version of libtorch.
    pub libtorch: &'static str,
}

/// Whether the process lives.
#[utoipa::path(get, path = "/livez", tag = "operations", responses((status = 200, body = String)))]
pub async fn livez() -> &'static str {
    "live"
}

/// Whether requests can be served; not so once the server is shutting down.
#[utoipa::path(get, path = "/readyz", tag = "operations", responses((status = 200, body = ReadyView), (status = "default", body = Problem, content_type = "application/problem+json")))]
pub async fn readyz(State(app): State<App>) -> Result<Json<ReadyView>, ApiError> {
    if app.jobs.shutdown_token().is_cancelled() {
        return Err(Refusal::new(Code::ShuttingDown, "the server is shutting down").into());
    }
    let (queued, running) = app.store.queue_length().await?;
    let devices = app.jobs.devices();
    Ok(Json(ReadyView {
        status: "ready",
        devices: if devices.cuda > 0 { vec!["cpu", "cuda"] } else { vec!["cpu"] },
        cuda_absence: devices.cuda_absence.clone(),
        workers: app.jobs.config().workers,
        threads: app.jobs.config().trainer.threads,
        queued,
        running,
    }))
}

/// Which program this is.
#[utoipa::path(get, path = "/version", tag = "operations", responses((status = 200, body = VersionView)))]
pub async fn version() -> (StatusCode, Json<VersionView>) {
    (StatusCode::OK, Json(VersionView { version: env!("CARGO_PKG_VERSION"), libtorch: LIBTORCH_VERSION }))
}
