//! Models from elsewhere: the file that one server gives is taken by another.

use axum::Json;
use axum::extract::{Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use utoipa::IntoParams;

use super::App;
use super::error::{ApiError, Problem, internal};
use super::extract::Query;
use super::intake::Intake;
use super::models::ModelView;
use crate::data::rows::mapped;
use crate::domain::reference::ModelName;
use crate::domain::refusal::Refusal;
use crate::store::StoreError;
use crate::store::models::ImportedModel;
use crate::training::artifact::ModelHeader;
use crate::training::inspection::{inspect, schema};

/// What becomes of an imported model.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ImportQuery {
    /// The name to register it under: it becomes the next version of that name.
    #[param(value_type = Option<String>)]
    name: Option<ModelName>,
}

/// Import a model: the safetensors file that `GET …/artifacts/safetensors` gives, here or on another server, or that `latente train`
/// writes. It answers as it did there; it has no job, no figures and no dataset here.
#[utoipa::path(
    post, path = "/v1/models", tag = "models", params(ImportQuery),
    request_body(content = Vec<u8>, content_type = "application/octet-stream"),
    responses((status = 201, body = ModelView), (status = "default", body = Problem, content_type = "application/problem+json"))
)]
pub async fn import_model(
    State(app): State<App>,
    Query(query): Query<ImportQuery>,
    request: Request,
) -> Result<Response, ApiError> {
    let intake = Intake::receive(&app, request).await?;
    let (intake, header, bytes) = check(&app, intake).await?;
    app.inference.try_out(bytes).await?;
    let (file, sha256) = intake.file();
    let model = app
        .store
        .import_model(&ImportedModel {
            spec: &header.spec,
            schema: &schema(&header),
            register: query.name.as_ref(),
            file,
            sha256: sha256.unwrap_or_default(),
        })
        .await?;
    tracing::info!(model.id = %model.id, family = model.spec.model.family(), "Model {} was imported", model.id);
    let location = HeaderValue::try_from(format!("/v1/models/{}", model.id)).map_err(|error| internal(&error))?;
    let view = ModelView::of(&app, &model).await?;
    Ok((StatusCode::CREATED, [(header::LOCATION, location)], Json(view)).into_response())
}

/// Looks at the file where it lies. It is read into memory once it is known to hold what it says, and no more.
async fn check(app: &App, intake: Intake) -> Result<(Intake, ModelHeader, Vec<u8>), ApiError> {
    let permit = app.ingesting.clone().acquire_owned().await.map_err(|error| internal(&error))?;
    let looked = tokio::task::spawn_blocking(move || -> std::io::Result<Result<_, Refusal>> {
        let _permit = permit;
        let file = mapped(intake.file().0)?;
        Ok(inspect(&file).map(|header| (header, file.to_vec())).map(|(header, bytes)| (intake, header, bytes)))
    });
    Ok(looked.await.map_err(|error| internal(&error))?.map_err(StoreError::Io)??)
}
