//! Which server this is, whether it lives and whether it is ready, as the inference protocol asks.

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use utoipa::ToSchema;

use super::error::ProtocolError;
use crate::domain::refusal::{Code, Refusal};
use crate::http::App;
use crate::http::error::ApiError;
use crate::http::extract::{Nothing, Query};

/// Extensions of the protocol that this server has.
const EXTENSIONS: &[&str] =
    &["binary_tensor_data", "model_configuration", "model_repository", "parameters", "statistics"];

/// Which server this is.
#[derive(Debug, Serialize, ToSchema)]
pub struct ServerMetadataView {
    /// `latente`.
    name: &'static str,
    /// The version of this program.
    version: &'static str,
    /// Extensions of the protocol that it has.
    extensions: &'static [&'static str],
}

/// Whether the server lives.
#[derive(Debug, Serialize, ToSchema)]
pub struct LiveView {
    /// Always true.
    live: bool,
}

/// Whether the server is ready.
#[derive(Debug, Serialize, ToSchema)]
pub struct ServerReadyView {
    /// Always true: a server that is not ready answers with an error.
    ready: bool,
}

/// Which server this is, and the extensions of the inference protocol that it has.
#[utoipa::path(get, path = "/v2", tag = "protocol", responses((status = 200, body = ServerMetadataView), ProtocolError))]
pub async fn server_metadata(_: Query<Nothing>) -> Json<ServerMetadataView> {
    Json(ServerMetadataView { name: "latente", version: env!("CARGO_PKG_VERSION"), extensions: EXTENSIONS })
}

/// Whether the server lives.
#[utoipa::path(get, path = "/v2/health/live", tag = "protocol", responses((status = 200, body = LiveView), ProtocolError))]
pub async fn server_live(_: Query<Nothing>) -> Json<LiveView> {
    Json(LiveView { live: true })
}

/// Whether the server answers questions; not so once it is shutting down.
#[utoipa::path(get, path = "/v2/health/ready", tag = "protocol", responses((status = 200, body = ServerReadyView), ProtocolError))]
pub async fn server_ready(State(app): State<App>, _: Query<Nothing>) -> Result<Json<ServerReadyView>, ApiError> {
    if app.jobs.shutdown_token().is_cancelled() {
        return Err(Refusal::new(Code::ShuttingDown, "the server is shutting down").into());
    }
    Ok(Json(ServerReadyView { ready: true }))
}
