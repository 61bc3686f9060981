//! The models that there are, and which of them answer: the protocol's model repository extension.
//!
//! A model that training made is there at once: it is ready, and read into memory at its first question or when it is loaded. One
//! that was unloaded is dropped from memory and refused under `/v2` until it is loaded again or the server starts anew; `/v1`
//! answers in any case.

use axum::Json;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use serde::de::{DeserializeOwned, IgnoredAny};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::error::ProtocolError;
use super::{NameInPath, Named, Served, absence, version_of};
use crate::domain::id::ModelId;
use crate::domain::limits::JSON_BODY_BYTES;
use crate::domain::refusal::{Code, Refusal};
use crate::http::App;
use crate::http::error::ApiError;
use crate::http::extract::{Nothing, Query, invalid_json, pointer, read_body};
use crate::store::models::ModelSize;

/// A model of the repository, by its name in the registry or else its id.
pub(super) struct Entry {
    pub name: String,
    pub version: String,
    pub id: ModelId,
    pub bytes: u64,
}

/// Every model.
pub(super) async fn entries(app: &App) -> Result<Vec<Entry>, ApiError> {
    let sizes = app.store.model_sizes().await?;
    let entry = |ModelSize { id, registered, bytes }| {
        let version = version_of(registered.as_ref());
        let name = registered.map_or_else(|| id.to_string(), |place| place.name.to_string());
        Entry { name, version, id, bytes }
    };
    Ok(sizes.into_iter().map(entry).collect())
}

/// Which models are listed.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct IndexSpec {
    /// Only models that answer.
    #[serde(default)]
    ready: bool,
    /// Of no meaning here: there is one repository.
    #[serde(rename = "repository_name")]
    #[schema(value_type = Option<String>)]
    _repository_name: Option<IgnoredAny>,
}

/// A model and whether it answers.
#[derive(Debug, Serialize, ToSchema)]
pub struct IndexView {
    /// The model.
    name: String,
    /// Its version.
    version: String,
    /// `READY` or `UNAVAILABLE`.
    state: &'static str,
    /// Why it is unavailable; of a model that is ready, whether it is in memory.
    reason: String,
}

/// What goes with a load or an unload.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct LoadSpec {
    /// For `unload`: `unload_dependents`, of no meaning here.
    #[serde(rename = "parameters")]
    _parameters: Option<LoadParameters>,
}

/// Parameters of a load or an unload.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct LoadParameters {
    /// No model depends on another.
    #[serde(default, rename = "unload_dependents")]
    _unload_dependents: bool,
}

/// List every model with its state. The body may be empty, or say that only models that answer are wanted.
#[utoipa::path(
    post, path = "/v2/repository/index", tag = "protocol", request_body = IndexSpec,
    responses((status = 200, body = Vec<IndexView>), ProtocolError)
)]
pub async fn repository_index(
    State(app): State<App>,
    _: Query<Nothing>,
    request: Request,
) -> Result<Json<Vec<IndexView>>, ApiError> {
    let wanted: IndexSpec = body(request.into_body()).await?;
    let loaded = app.inference.statistics.loaded();
    let view = |Entry { name, version, id, bytes }: Entry| match absence(&app, id, bytes) {
        Some(refusal) => IndexView { name, version, state: "UNAVAILABLE", reason: refusal.detail },
        None => {
            let reason = if loaded.contains_key(&id) { "in memory" } else { "read into memory when it is asked" };
            IndexView { name, version, state: "READY", reason: reason.to_owned() }
        }
    };
    let listed = entries(&app).await?.into_iter().map(view).filter(|view| !wanted.ready || view.state == "READY");
    Ok(Json(listed.collect()))
}

/// Read a model into memory, again where it is there already; one that was unloaded answers again.
#[utoipa::path(
    post, path = "/v2/repository/models/{name}/load", tag = "protocol", params(NameInPath), request_body = LoadSpec,
    responses((status = 200), ProtocolError)
)]
pub async fn load_model(
    State(app): State<App>,
    named: Named,
    _: Query<Nothing>,
    request: Request,
) -> Result<StatusCode, ApiError> {
    let served = Served::find(&app, named).await?;
    body::<LoadSpec>(request.into_body()).await?;
    app.inference.load(&served.model).await?;
    Ok(StatusCode::OK)
}

/// Drop a model from memory, and refuse it under `/v2` until it is loaded again.
#[utoipa::path(
    post, path = "/v2/repository/models/{name}/unload", tag = "protocol", params(NameInPath), request_body = LoadSpec,
    responses((status = 200), ProtocolError)
)]
pub async fn unload_model(
    State(app): State<App>,
    named: Named,
    _: Query<Nothing>,
    request: Request,
) -> Result<StatusCode, ApiError> {
    let served = Served::find(&app, named).await?;
    body::<LoadSpec>(request.into_body()).await?;
    app.inference.unload(served.model.id).await;
    Ok(StatusCode::OK)
}

/// A JSON body that may be empty.
async fn body<T: DeserializeOwned + Default>(body: Body) -> Result<T, ApiError> {
    let bytes = read_body(body, JSON_BODY_BYTES).await?;
    if bytes.trim_ascii().is_empty() {
        return Ok(T::default());
    }
    serde_path_to_error::deserialize(&mut serde_json::Deserializer::from_slice(&bytes)).map_err(|error| {
        if !error.inner().is_data() {
            return invalid_json(error.inner());
        }
        let detail = error.inner().to_string();
        Refusal::at(Code::InvalidRequest, pointer(error.path()), "invalid", detail).into()
    })
}
