//! What a model takes and gives, and whether it answers, as the inference protocol asks.

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use utoipa::ToSchema;

use super::catalogue::Catalogue;
use super::error::ProtocolError;
use super::tensors::Datatype;
use super::{NameInPath, Named, Served, VersionInPath};
use crate::domain::limits::INFERENCE_ROWS;
use crate::http::App;
use crate::http::error::ApiError;
use crate::http::extract::{Nothing, Query};

/// A tensor that a model takes or gives.
#[derive(Debug, Serialize, ToSchema)]
pub struct TensorMetadataView {
    /// Its name.
    name: String,
    /// The type of its elements.
    datatype: Datatype,
    /// Its shape; -1 counts rows.
    shape: [i64; 2],
}

/// What a model takes and gives.
#[derive(Debug, Serialize, ToSchema)]
pub struct ModelMetadataView {
    /// The model.
    name: String,
    /// Its versions.
    versions: Vec<String>,
    /// `latente_` and its family.
    platform: String,
    /// What it takes: rows, or `codes` in their place.
    inputs: Vec<TensorMetadataView>,
    /// What it gives for rows.
    outputs: Vec<TensorMetadataView>,
}

/// Whether a model answers.
#[derive(Debug, Serialize, ToSchema)]
pub struct ModelReadyView {
    /// The model.
    name: String,
    /// Always true: one that is not ready is answered with an error.
    ready: bool,
}

/// A tensor of a model's configuration.
#[derive(Debug, Serialize, ToSchema)]
pub struct TensorConfigView {
    /// Its name.
    name: String,
    /// `TYPE_` and its type.
    data_type: String,
    /// The shape of one row.
    dims: [i64; 1],
    /// Whether another input may stand in its place.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    optional: bool,
}

/// Which versions of a model answer.
#[derive(Debug, Serialize, ToSchema)]
pub struct VersionPolicyView {
    /// Those that are asked by number.
    specific: SpecificVersionsView,
}

/// Versions by number.
#[derive(Debug, Serialize, ToSchema)]
pub struct SpecificVersionsView {
    /// The numbers.
    versions: Vec<String>,
}

/// How questions to a model share its passes.
#[derive(Debug, Serialize, ToSchema)]
pub struct DynamicBatchingView {
    /// Always 0: whatever waits when the model is free goes together.
    max_queue_delay_microseconds: u64,
}

/// A model in the words of Triton's configuration.
#[derive(Debug, Serialize, ToSchema)]
pub struct ModelConfigView {
    /// The model.
    name: String,
    /// As in its metadata.
    platform: String,
    /// `latente`.
    backend: &'static str,
    /// Its versions.
    version_policy: VersionPolicyView,
    /// Rows of one request.
    max_batch_size: usize,
    /// What it takes.
    input: Vec<TensorConfigView>,
    /// What it gives for rows.
    output: Vec<TensorConfigView>,
    /// How questions share passes.
    dynamic_batching: DynamicBatchingView,
}

/// What a model takes and gives.
#[utoipa::path(get, path = "/v2/models/{name}", tag = "protocol", params(NameInPath), responses((status = 200, body = ModelMetadataView), ProtocolError))]
pub async fn model_metadata(
    app: State<App>,
    named: Named,
    _: Query<Nothing>,
) -> Result<Json<ModelMetadataView>, ApiError> {
    metadata(app, named).await
}

/// What a version of a model takes and gives.
#[utoipa::path(get, path = "/v2/models/{name}/versions/{version}", tag = "protocol", params(VersionInPath), responses((status = 200, body = ModelMetadataView), ProtocolError))]
pub async fn version_metadata(
    app: State<App>,
    named: Named,
    _: Query<Nothing>,
) -> Result<Json<ModelMetadataView>, ApiError> {
    metadata(app, named).await
}

/// A model in the words of Triton's configuration.
#[utoipa::path(get, path = "/v2/models/{name}/config", tag = "protocol", params(NameInPath), responses((status = 200, body = ModelConfigView), ProtocolError))]
pub async fn model_config(app: State<App>, named: Named, _: Query<Nothing>) -> Result<Json<ModelConfigView>, ApiError> {
    config(app, named).await
}

/// A version of a model in the words of Triton's configuration.
#[utoipa::path(get, path = "/v2/models/{name}/versions/{version}/config", tag = "protocol", params(VersionInPath), responses((status = 200, body = ModelConfigView), ProtocolError))]
pub async fn version_config(
    app: State<App>,
    named: Named,
    _: Query<Nothing>,
) -> Result<Json<ModelConfigView>, ApiError> {
    config(app, named).await
}

/// Whether a model answers: it does unless it was unloaded.
#[utoipa::path(get, path = "/v2/models/{name}/ready", tag = "protocol", params(NameInPath), responses((status = 200, body = ModelReadyView), ProtocolError))]
pub async fn model_ready(app: State<App>, named: Named, _: Query<Nothing>) -> Result<Json<ModelReadyView>, ApiError> {
    ready(app, named).await
}

/// Whether a version of a model answers.
#[utoipa::path(get, path = "/v2/models/{name}/versions/{version}/ready", tag = "protocol", params(VersionInPath), responses((status = 200, body = ModelReadyView), ProtocolError))]
pub async fn version_ready(app: State<App>, named: Named, _: Query<Nothing>) -> Result<Json<ModelReadyView>, ApiError> {
    ready(app, named).await
}

async fn metadata(State(app): State<App>, named: Named) -> Result<Json<ModelMetadataView>, ApiError> {
    let served = Served::find(&app, named).await?;
    let catalogue = Catalogue::of(&served.model);
    let view = |tensor: super::catalogue::Tensor<'_>| TensorMetadataView {
        name: tensor.name.into_owned(),
        datatype: tensor.datatype,
        shape: [-1, tensor.width as i64],
    };
    Ok(Json(ModelMetadataView {
        platform: platform(&served),
        inputs: catalogue.inputs().into_iter().map(view).collect(),
        outputs: catalogue.outputs().into_iter().map(|output| view(catalogue.describe(output))).collect(),
        name: served.name,
        versions: served.versions,
    }))
}

async fn config(State(app): State<App>, named: Named) -> Result<Json<ModelConfigView>, ApiError> {
    let served = Served::find(&app, named).await?;
    let catalogue = Catalogue::of(&served.model);
    let view = |tensor: super::catalogue::Tensor<'_>| TensorConfigView {
        name: tensor.name.into_owned(),
        data_type: tensor.datatype.configured(),
        dims: [tensor.width as i64],
        optional: tensor.optional,
    };
    Ok(Json(ModelConfigView {
        platform: platform(&served),
        backend: "latente",
        max_batch_size: INFERENCE_ROWS,
        input: catalogue.inputs().into_iter().map(view).collect(),
        output: catalogue.outputs().into_iter().map(|output| view(catalogue.describe(output))).collect(),
        dynamic_batching: DynamicBatchingView { max_queue_delay_microseconds: 0 },
        version_policy: VersionPolicyView { specific: SpecificVersionsView { versions: served.versions } },
        name: served.name,
    }))
}

async fn ready(State(app): State<App>, named: Named) -> Result<Json<ModelReadyView>, ApiError> {
    let served = Served::find(&app, named).await?;
    served.require_ready(&app)?;
    Ok(Json(ModelReadyView { name: served.name, ready: true }))
}

fn platform(served: &Served) -> String {
    format!("latente_{}", served.model.spec.model.family())
}
