//! Models: look at, name, delete. Their files are in `artifacts`.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::App;
use super::error::{ApiError, Problem};
use super::extract::{Id, Lenient, Nothing, Query};
use super::inference::ModelInPath;
use super::lists::{List, page};
use crate::data::dataset::Column;
use crate::domain::id::{DatasetId, JobId, ModelId};
use crate::domain::reference::ModelName;
use crate::domain::refusal::Code;
use crate::domain::shape::ImageShape;
use crate::store::models::Model;
use crate::store::registry::Registered;
use crate::training::spec::TrainSpec;

/// A trained model.
#[derive(Debug, Serialize, ToSchema)]
pub struct ModelView {
    /// Its id.
    pub id: ModelId,
    /// Its name in the registry; the name of its job, or its family, where it has none there.
    pub name: String,
    /// Which model of its name it is, counted from 1; `null` where it is not in the registry.
    pub version: Option<u32>,
    /// The aliases of its name that point to it.
    pub aliases: Vec<String>,
    /// The family.
    pub family: &'static str,
    /// Width of its codes.
    pub latent: u32,
    /// The columns it takes, in their order.
    pub columns: Vec<Column>,
    /// The shape of the image that the columns are the pixels of.
    pub image: Option<ImageShape>,
    /// Figures, measured when training ended.
    pub metrics: BTreeMap<String, f64>,
    /// The job that made it; `null` where it was imported.
    pub job_id: Option<JobId>,
    /// The dataset it was trained on, which may be deleted by now; `null` where it was imported.
    pub dataset_id: Option<DatasetId>,
    /// The spec it was trained by.
    pub spec: TrainSpec,
    /// Bytes of its file.
    pub bytes: u64,
    /// When it was made (RFC 3339).
    pub created_at: String,
}

impl ModelView {
    fn new(model: Model, aliases: Vec<String>) -> Self {
        let (name, version) = match model.registered {
            Some(Registered { name, version }) => (name.to_string(), Some(version)),
            None => (model.name, None),
        };
        Self {
            id: model.id,
            name,
            version,
            aliases,
            family: model.spec.model.family(),
            latent: model.spec.model.latent(),
            columns: model.schema.feature_columns().cloned().collect(),
            image: model.schema.image,
            metrics: model.metrics,
            job_id: model.job_id,
            dataset_id: model.dataset_id,
            spec: model.spec,
            bytes: model.bytes,
            created_at: super::time(model.created_at),
        }
    }

    pub(super) async fn of(app: &App, model: &Model) -> Result<Self, ApiError> {
        let aliases = app.store.aliases_of(&[model.id]).await?.remove(&model.id);
        Ok(Self::new(model.clone(), aliases.unwrap_or_default()))
    }
}

/// Which models a list shows.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ListQuery {
    /// How many; 20 when left out, at most 100.
    limit: Option<u32>,
    /// The last id of the page before.
    #[param(value_type = Option<String>)]
    after: Option<ModelId>,
    /// Only those of this family.
    family: Option<String>,
    /// Only those of this name in the registry.
    #[param(value_type = Option<String>)]
    name: Option<ModelName>,
}

/// List models, the newest first.
#[utoipa::path(
    get, path = "/v1/models", tag = "models", params(ListQuery),
    responses((status = 200, body = List<ModelView>), (status = "default", body = Problem, content_type = "application/problem+json"))
)]
pub async fn list_models(
    State(app): State<App>,
    Query(query): Query<ListQuery>,
) -> Result<Json<List<ModelView>>, ApiError> {
    let page = page(query.limit, query.after)?;
    let paged = app.store.models(&page, query.family.as_deref(), query.name.as_ref()).await?;
    let ids: Vec<ModelId> = paged.items.iter().map(|model| model.id).collect();
    let mut aliases = app.store.aliases_of(&ids).await?;
    let view = |model: Model| {
        let own = aliases.remove(&model.id).unwrap_or_default();
        ModelView::new(model, own)
    };
    Ok(Json(List::new(paged, view, |model| model.id.to_string())))
}

/// One model.
#[utoipa::path(
    get, path = "/v1/models/{id}", tag = "models", params(ModelInPath),
    responses((status = 200, body = ModelView), (status = "default", body = Problem, content_type = "application/problem+json"))
)]
pub async fn get_model(
    State(app): State<App>,
    _: Query<Nothing>,
    Id(id): Id<ModelId>,
) -> Result<Json<ModelView>, ApiError> {
    let model = app.store.model(id).await?;
    Ok(Json(ModelView::of(&app, &model).await?))
}

/// What is to be changed of a model.
#[derive(Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ModelChange {
    /// The name in the registry of which it becomes the next version. A model that has one keeps it.
    name: Option<ModelName>,
}

/// Register a model: it becomes the next version of a name.
#[utoipa::path(
    patch, path = "/v1/models/{id}", tag = "models", params(ModelInPath), request_body = ModelChange,
    responses((status = 200, body = ModelView), (status = "default", body = Problem, content_type = "application/problem+json"))
)]
pub async fn change_model(
    State(app): State<App>,
    _: Query<Nothing>,
    Id(id): Id<ModelId>,
    body: Lenient<ModelChange>,
) -> Result<Json<ModelView>, ApiError> {
    body.faults.into_result(Code::InvalidRequest)?;
    let model = match body.value.unwrap_or_default().name {
        Some(name) => app.store.register_model(id, &name).await?,
        None => app.store.model(id).await?,
    };
    Ok(Json(ModelView::of(&app, &model).await?))
}

/// How a model is deleted.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct DeleteQuery {
    /// Whether aliases that point to it are taken away. Otherwise it is not deleted while there are some.
    #[serde(default)]
    #[param(value_type = Option<bool>)]
    force: bool,
}

/// Delete a model and its file. Its job stays, and its version is not given again.
#[utoipa::path(
    delete, path = "/v1/models/{id}", tag = "models", params(ModelInPath, DeleteQuery),
    responses((status = 204), (status = "default", body = Problem, content_type = "application/problem+json"))
)]
pub async fn delete_model(
    State(app): State<App>,
    Query(query): Query<DeleteQuery>,
    Id(id): Id<ModelId>,
) -> Result<StatusCode, ApiError> {
    app.store.delete_model(id, query.force).await?;
    app.inference.forget(id).await;
    Ok(StatusCode::NO_CONTENT)
}
