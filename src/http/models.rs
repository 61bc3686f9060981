//! Models: look at, delete. Their files are in `artifacts`.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::App;
use super::error::{ApiError, Problem};
use super::extract::{Id, Nothing, Query};
use super::lists::{List, page};
use crate::data::dataset::Column;
use crate::domain::id::{DatasetId, JobId, ModelId};
use crate::domain::shape::ImageShape;
use crate::store::models::Model;
use crate::training::spec::TrainSpec;

/// A trained model.
#[derive(Debug, Serialize, ToSchema)]
pub struct ModelView {
    /// Its id.
    pub id: ModelId,
    /// The name of its job, or its family.
    pub name: String,
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
    /// The job that made it.
    pub job_id: JobId,
    /// The dataset it was trained on; it may be deleted by now.
    pub dataset_id: DatasetId,
    /// The spec it was trained by.
    pub spec: TrainSpec,
    /// Bytes of its file.
    pub bytes: u64,
    /// When it was made (RFC 3339).
    pub created_at: String,
}

impl From<Model> for ModelView {
    fn from(model: Model) -> Self {
        Self {
            id: model.id,
            name: model.name,
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
    let paged = app.store.models(&page(query.limit, query.after)?, query.family.as_deref()).await?;
    Ok(Json(List::new(paged, ModelView::from, |model| model.id.to_string())))
}

/// One model.
#[utoipa::path(
    get, path = "/v1/models/{id}", tag = "models", params(("id" = String, Path, description = "The id of a model")),
    responses((status = 200, body = ModelView), (status = "default", body = Problem, content_type = "application/problem+json"))
)]
pub async fn get_model(
    State(app): State<App>,
    _: Query<Nothing>,
    Id(id): Id<ModelId>,
) -> Result<Json<ModelView>, ApiError> {
    let model = app.store.model(id).await?;
    Ok(Json(ModelView::from((*model).clone())))
}

/// Delete a model and its file. Its job stays.
#[utoipa::path(
    delete, path = "/v1/models/{id}", tag = "models", params(("id" = String, Path, description = "The id of a model")),
    responses((status = 204), (status = "default", body = Problem, content_type = "application/problem+json"))
)]
pub async fn delete_model(
    State(app): State<App>,
    _: Query<Nothing>,
    Id(id): Id<ModelId>,
) -> Result<StatusCode, ApiError> {
    app.store.delete_model(id).await?;
    app.inference.forget(id).await;
    Ok(StatusCode::NO_CONTENT)
}
