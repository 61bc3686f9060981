//! Versions of a dataset: rows that are added make another one. The one before stays as it is, since jobs and models refer
//! to it.

use axum::Json;
use axum::extract::{Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use utoipa::IntoParams;

use super::App;
use super::datasets::{DatasetView, ListQuery, read_header};
use super::error::{ApiError, Problem, internal};
use super::extract::{Id, Query};
use super::intake::{Complete, Intake};
use super::lists::{List, page};
use crate::data::append::Addition;
use crate::data::{Format, Header};
use crate::domain::id::{DatasetId, UploadId};
use crate::domain::name;
use crate::domain::refusal::{Code, Faults, Refusal};
use crate::store::datasets::Dataset;

/// What may be said of a file whose rows are added.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct AppendQuery {
    /// A complete upload (`/v1/uploads`) to take instead of a body.
    #[param(value_type = Option<String>)]
    upload: Option<UploadId>,
    /// A name for the new version; that of the dataset when left out.
    name: Option<String>,
    /// The format; found by content when left out.
    format: Option<String>,
    /// Whether a CSV file begins with column names: `auto`, `true` or `false`.
    header: Option<String>,
}

struct Said {
    name: Option<String>,
    format: Option<Format>,
    header: Header,
}

impl AppendQuery {
    fn read(self) -> Result<Said, Refusal> {
        let mut faults = Faults::new();
        let name = self.name.as_deref().map(name::checked).transpose().unwrap_or_else(|fault| {
            faults.push("?name", "invalid_name", fault);
            None
        });
        let format = self.format.as_deref().map(Format::parse).transpose().unwrap_or_else(|fault| {
            faults.push("?format", "unknown_value", fault);
            None
        });
        let header = read_header(self.header.as_deref(), &mut faults);
        faults.into_result(Code::InvalidRequest)?;
        Ok(Said { name, format, header })
    }
}

/// Add rows to a dataset.
///
/// The body is a file in any format, with the columns of the dataset in any order, or without names in the same order. The
/// answer is a new dataset: its `version` is one more, its `parent` the one it was made of, and its rows are those of its parent
/// followed by those of the file.
#[utoipa::path(
    post, path = "/v1/datasets/{id}/rows", tag = "datasets", params(("id" = String, Path, description = "The id of a dataset"), AppendQuery),
    request_body(content = Vec<u8>, content_type = "application/octet-stream"),
    responses((status = 201, body = DatasetView), (status = "default", body = Problem, content_type = "application/problem+json"))
)]
pub async fn append_rows(
    State(app): State<App>,
    Id(id): Id<DatasetId>,
    Query(query): Query<AppendQuery>,
    request: Request,
) -> Result<Response, ApiError> {
    let parent = app.store.dataset(id).await?;
    let said_name = query.name.is_some();
    let (query, complete) = match query.upload {
        Some(upload) => {
            let complete = Complete::claim(&app, upload).await?;
            (complete.fill_in(request.uri())?, Some(complete))
        }
        None => (query, None),
    };
    let said = query.read()?;
    let intake = match complete {
        Some(complete) => Intake::of_upload(&app, complete, request.into_body()).await?,
        None => Intake::receive(&app, request).await?,
    };
    let addition = Addition {
        rows: app.store.rows_path(id),
        count: parent.rows,
        schema: parent.schema.clone(),
        format: said.format,
        header: said.header,
    };
    let (ingested, origin, intake) = intake.append(&app, &parent, addition).await?;
    // The name of an uploaded file is not that of the dataset it is added to.
    let name = said.name.filter(|_| said_name).unwrap_or(parent.name);
    let dataset = app.store.insert_dataset(&name, &ingested, &intake.rows(), &origin).await?;
    intake.done(&app).await;
    let Dataset { id: new, version, rows, .. } = dataset;
    tracing::info!(dataset.id = %new, version, rows, "Dataset {new} is version {version} of {id} and has {rows} rows");
    let location = HeaderValue::try_from(format!("/v1/datasets/{new}")).map_err(|error| internal(&error))?;
    Ok((StatusCode::CREATED, [(header::LOCATION, location)], Json(DatasetView::from(dataset))).into_response())
}

/// List the versions of a dataset, the newest first: every dataset that was made by adding rows to the same first one.
#[utoipa::path(
    get, path = "/v1/datasets/{id}/versions", tag = "datasets", params(("id" = String, Path, description = "The id of any of them"), ListQuery),
    responses((status = 200, body = List<DatasetView>), (status = "default", body = Problem, content_type = "application/problem+json"))
)]
pub async fn list_versions(
    State(app): State<App>,
    Id(id): Id<DatasetId>,
    Query(query): Query<ListQuery>,
) -> Result<Json<List<DatasetView>>, ApiError> {
    let dataset = app.store.dataset(id).await?;
    let root = dataset.root.unwrap_or(dataset.id);
    let paged = app.store.versions(root, &page(query.limit, query.after)?).await?;
    Ok(Json(List::new(paged, DatasetView::from, |dataset| dataset.id.to_string())))
}
