//! Datasets: upload, look at, page through, delete.

use std::collections::BTreeMap;
use std::path::Path;

use axum::Json;
use axum::body::Body;
use axum::extract::{FromRequest, Multipart, Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures_util::StreamExt;
use serde::{Deserialize, Serialize};
use tokio::io::AsyncWriteExt;
use utoipa::{IntoParams, ToSchema};

use super::App;
use super::error::{ApiError, Problem, internal};
use super::extract::{BODY_IDLE, Id, Lenient, Nothing, Query, media_type, too_slow};
use super::forms::{self, Form, Matrix};
use super::lists::{List, page};
use crate::data::dataset::{Change, Column, Role};
use crate::data::rows::RowFile;
use crate::data::{Format, Header, IngestSpec, Ingested, ingest};
use crate::domain::id::DatasetId;
use crate::domain::limits::{PAGE_ROWS, PAGE_ROWS_MOST};
use crate::domain::name;
use crate::domain::refusal::{Code, Faults, Refusal};
use crate::domain::shape::ImageShape;
use crate::store::datasets::Dataset;
use crate::store::files::Scratch;

/// A dataset.
#[derive(Debug, Serialize, ToSchema)]
pub struct DatasetView {
    /// Its id.
    pub id: DatasetId,
    /// What it was called at upload.
    pub name: String,
    /// `ready`: a dataset is answered with once its rows are on the disk.
    pub status: &'static str,
    /// The format it came in.
    pub format: Format,
    /// Number of rows.
    pub rows: u64,
    /// Bytes of its rows on the server's disk.
    pub bytes: u64,
    /// Its columns, each with role, kind and profile.
    pub columns: Vec<Column>,
    /// The shape of the image that the feature columns are the pixels of.
    pub image: Option<ImageShape>,
    /// When it was uploaded (RFC 3339).
    pub created_at: String,
}

impl From<Dataset> for DatasetView {
    fn from(dataset: Dataset) -> Self {
        Self {
            id: dataset.id,
            name: dataset.name,
            status: "ready",
            format: dataset.format,
            rows: dataset.rows,
            bytes: dataset.bytes,
            columns: dataset.schema.columns,
            image: dataset.schema.image,
            created_at: super::time(dataset.created_at),
        }
    }
}

/// What may be said of a file when it is uploaded.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct UploadQuery {
    /// A name for people.
    name: Option<String>,
    /// The format; found by content when left out.
    format: Option<String>,
    /// Whether a CSV file begins with column names: `auto`, `true` or `false`.
    header: Option<String>,
    /// A column that is fed to the model. When some are named, the others are not used. May be repeated.
    #[serde(default)]
    feature: Vec<String>,
    /// A column that is kept as a label and never fed to the model. May be repeated.
    #[serde(default)]
    label: Vec<String>,
    /// A column that says which row this is, and is never fed to a model. May be repeated.
    #[serde(default)]
    id: Vec<String>,
    /// A column that is left out. May be repeated.
    #[serde(default)]
    ignore: Vec<String>,
    /// What the values of a column are, as `COLUMN:KIND`: real, positive, count, binary, categorical or ordinal. May be
    /// repeated.
    #[serde(default)]
    kind: Vec<String>,
    /// The levels of a category in their order, as `COLUMN:LEVEL,LEVEL`. May be repeated.
    #[serde(default)]
    levels: Vec<String>,
    /// A text or number that stands for a missing value, beside the usual ones. May be repeated.
    #[serde(default)]
    missing: Vec<String>,
    /// What stands between the cells of a text: `,`, `;`, `|`, `tab`; found when left out.
    delimiter: Option<String>,
    /// The decimal sign of a text, `.` or `,`; found when left out.
    decimal: Option<String>,
    /// The image that the feature columns are the pixels of: `8x8` or `3x32x32`.
    shape: Option<String>,
    /// The size that images of files are brought to: `28x28`, or `1x28x28` for grey. Without it they must all have the same.
    resize: Option<String>,
}

impl UploadQuery {
    fn read(self) -> Result<(String, IngestSpec), Refusal> {
        let mut faults = Faults::new();
        let name = self.name.as_deref().map_or(Ok("dataset".to_owned()), name::checked);
        let name = name.unwrap_or_else(|fault| {
            faults.push("?name", "invalid_name", fault);
            String::new()
        });
        let mut spec = IngestSpec { missing: self.missing, ..IngestSpec::default() };
        spec.format = self.format.as_deref().map(Format::parse).transpose().unwrap_or_else(|fault| {
            faults.push("?format", "unknown_value", fault);
            None
        });
        spec.header = match self.header.as_deref() {
            None | Some("auto") => Header::Auto,
            Some("true") => Header::Present,
            Some("false") => Header::Absent,
            Some(other) => {
                faults.push("?header", "unknown_value", format!("is `{other}`; allowed are auto, true, false"));
                Header::Auto
            }
        };
        let roles = [
            (self.feature, Role::Feature),
            (self.label, Role::Label),
            (self.id, Role::Id),
            (self.ignore, Role::Ignore),
        ];
        for (names, role) in roles {
            spec.roles.extend(names.into_iter().map(|name| (name, role)));
        }
        let mut said = |parameter: &str, outcome: Result<(), String>| {
            if let Err(fault) = outcome {
                faults.push(parameter, "invalid", fault);
            }
        };
        self.kind.iter().for_each(|text| said("?kind", spec.say_kind(text)));
        self.levels.iter().for_each(|text| said("?levels", spec.say_levels(text)));
        self.delimiter.iter().for_each(|text| said("?delimiter", spec.say_delimiter(text)));
        self.decimal.iter().for_each(|text| said("?decimal", spec.say_decimal(text)));
        for (parameter, text, shape) in
            [("?shape", self.shape, &mut spec.image), ("?resize", self.resize, &mut spec.resize)]
        {
            *shape = text.as_deref().map(str::parse).transpose().unwrap_or_else(|fault: String| {
                faults.push(parameter, "invalid", fault);
                None
            });
        }
        faults.into_result(Code::InvalidRequest)?;
        Ok((name, spec))
    }
}

/// Upload a dataset.
///
/// The body is the file itself, or a multipart form with a field `file`. Its format, its columns and what they hold are found
/// in it; every parameter overrides one such finding. The answer comes once the rows are checked and on the disk.
#[utoipa::path(
    post, path = "/v1/datasets", tag = "datasets", params(UploadQuery),
    request_body(content = Vec<u8>, content_type = "application/octet-stream"),
    responses((status = 201, body = DatasetView), (status = "default", body = Problem, content_type = "application/problem+json"))
)]
pub async fn create_dataset(
    State(app): State<App>,
    Query(query): Query<UploadQuery>,
    request: Request,
) -> Result<Response, ApiError> {
    let (name, spec) = query.read()?;
    let scratch = app.store.scratch()?;
    let upload = scratch.path("upload");
    if media_type(request.headers()) == "multipart/form-data" {
        receive_multipart(request, &upload, app.config.upload_bytes).await?;
    } else {
        receive(request, &upload, app.config.upload_bytes).await?;
    }
    let (ingested, scratch) = read_upload(&app, spec, scratch).await?;
    let dataset = app.store.insert_dataset(&name, &ingested, &scratch.path("rows")).await?;
    tracing::info!(dataset.id = %dataset.id, rows = dataset.rows, "Dataset {} has {} rows", dataset.id, dataset.rows);
    let location = HeaderValue::try_from(format!("/v1/datasets/{}", dataset.id)).map_err(|error| internal(&error))?;
    Ok((StatusCode::CREATED, [(header::LOCATION, location)], Json(DatasetView::from(dataset))).into_response())
}

/// Reads an uploaded file off the asynchronous threads. The scratch directory goes along, so that it outlives a caller
/// who leaves.
async fn read_upload(app: &App, spec: IngestSpec, scratch: Scratch) -> Result<(Ingested, Scratch), ApiError> {
    let permit = app.ingesting.clone().acquire_owned().await.map_err(|error| internal(&error))?;
    let most = app.config.dataset_bytes;
    let read = tokio::task::spawn_blocking(move || {
        let _permit = permit;
        ingest(&scratch.path("upload"), &scratch.path("rows"), &spec, most).map(|ingested| (ingested, scratch))
    });
    Ok(read.await.map_err(|error| internal(&error))??)
}

async fn receive(request: Request, path: &Path, most: u64) -> Result<(), ApiError> {
    let declared = request
        .headers()
        .get(header::CONTENT_LENGTH)
        .and_then(|value| value.to_str().ok())
        .and_then(|text| text.parse().ok());
    if declared.is_some_and(|bytes: u64| bytes > most) {
        return Err(upload_too_large(most));
    }
    let body: Body = request.into_body();
    store_stream(body.into_data_stream().map(|chunk| chunk.map_err(|_| cut_short())), path, most).await
}

async fn receive_multipart(request: Request, path: &Path, most: u64) -> Result<(), ApiError> {
    let invalid = |error: &dyn std::fmt::Display| -> ApiError {
        Refusal::new(Code::InvalidRequest, format!("the form cannot be read: {error}")).into()
    };
    // The file is counted while it is written; axum's own limit on bodies does not apply to it.
    let mut request = request;
    axum::extract::DefaultBodyLimit::disable().apply(&mut request);
    let mut form = Multipart::from_request(request, &()).await.map_err(|error| invalid(&error))?;
    while let Some(field) = form.next_field().await.map_err(|error| invalid(&error))? {
        if field.name() == Some("file") {
            return store_stream(field.map(|chunk| chunk.map_err(|_| cut_short())), path, most).await;
        }
    }
    Err(Refusal::at(Code::InvalidRequest, "/file", "missing", "the form has no field `file`").into())
}

async fn store_stream(
    chunks: impl futures_util::Stream<Item = Result<bytes::Bytes, ApiError>>,
    path: &Path,
    most: u64,
) -> Result<(), ApiError> {
    let io = |error: std::io::Error| ApiError::from(crate::store::StoreError::Io(error));
    let mut file = tokio::fs::File::create_new(path).await.map_err(io)?;
    let mut chunks = std::pin::pin!(chunks);
    let mut received = 0_u64;
    while let Some(chunk) = tokio::time::timeout(BODY_IDLE, chunks.next()).await.map_err(|_| too_slow())? {
        let chunk = chunk?;
        received += chunk.len() as u64;
        if received > most {
            return Err(upload_too_large(most));
        }
        file.write_all(&chunk).await.map_err(io)?;
    }
    file.flush().await.map_err(io)
}

fn upload_too_large(most: u64) -> ApiError {
    Refusal::new(Code::TooLarge, format!("the upload is larger than the {most} bytes that this server allows")).into()
}

fn cut_short() -> ApiError {
    Refusal::new(Code::InvalidRequest, "the upload ended before it was complete").into()
}

/// Which datasets a list shows.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ListQuery {
    /// How many; 20 when left out, at most 100.
    limit: Option<u32>,
    /// The last id of the page before.
    #[param(value_type = Option<String>)]
    after: Option<DatasetId>,
}

/// List datasets, the newest first.
#[utoipa::path(
    get, path = "/v1/datasets", tag = "datasets", params(ListQuery),
    responses((status = 200, body = List<DatasetView>), (status = "default", body = Problem, content_type = "application/problem+json"))
)]
pub async fn list_datasets(
    State(app): State<App>,
    Query(query): Query<ListQuery>,
) -> Result<Json<List<DatasetView>>, ApiError> {
    let paged = app.store.datasets(&page(query.limit, query.after)?).await?;
    Ok(Json(List::new(paged, DatasetView::from, |dataset| dataset.id.to_string())))
}

/// One dataset, with its columns and their profiles.
#[utoipa::path(
    get, path = "/v1/datasets/{id}", tag = "datasets", params(("id" = String, Path, description = "The id of a dataset")),
    responses((status = 200, body = DatasetView), (status = "default", body = Problem, content_type = "application/problem+json"))
)]
pub async fn get_dataset(
    State(app): State<App>,
    _: Query<Nothing>,
    Id(id): Id<DatasetId>,
) -> Result<Json<DatasetView>, ApiError> {
    Ok(Json(app.store.dataset(id).await?.into()))
}

/// What is to be changed of a dataset.
#[derive(Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct DatasetChange {
    /// Another name.
    name: Option<String>,
    /// Other roles and kinds, by the name of the column.
    columns: BTreeMap<String, Change>,
    /// The image that the feature columns are the pixels of, such as `8x8`; the empty text for none.
    shape: Option<String>,
}

/// Give a dataset another name, or columns other roles and kinds. Jobs and models that are there keep what they began with.
#[utoipa::path(
    patch, path = "/v1/datasets/{id}", tag = "datasets", params(("id" = String, Path, description = "The id of a dataset")),
    request_body = DatasetChange,
    responses((status = 200, body = DatasetView), (status = "default", body = Problem, content_type = "application/problem+json"))
)]
pub async fn change_dataset(
    State(app): State<App>,
    _: Query<Nothing>,
    Id(id): Id<DatasetId>,
    body: Lenient<DatasetChange>,
) -> Result<Json<DatasetView>, ApiError> {
    body.faults.into_result(Code::InvalidRequest)?;
    let change = body.value.unwrap_or_default();
    let invalid = |pointer: &str, fault: String| Refusal::at(Code::InvalidRequest, pointer, "invalid", fault);
    let name = change.name.as_deref().map(name::checked).transpose().map_err(|fault| invalid("/name", fault))?;
    let image = match change.shape.as_deref() {
        None => None,
        Some("") => Some(None),
        Some(text) => Some(Some(text.parse().map_err(|fault| invalid("/shape", fault))?)),
    };
    let dataset = app.store.dataset(id).await?;
    let schema = dataset.schema.amend(&change.columns, image)?;
    Ok(Json(app.store.change_dataset(id, name.as_deref(), &schema).await?.into()))
}

/// Delete a dataset and its rows. Refused while a job that has not ended uses it; models stay.
#[utoipa::path(
    delete, path = "/v1/datasets/{id}", tag = "datasets", params(("id" = String, Path, description = "The id of a dataset")),
    responses((status = 204), (status = "default", body = Problem, content_type = "application/problem+json"))
)]
pub async fn delete_dataset(
    State(app): State<App>,
    _: Query<Nothing>,
    Id(id): Id<DatasetId>,
) -> Result<StatusCode, ApiError> {
    app.store.delete_dataset(id).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Which rows are wanted.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct RowsQuery {
    /// The first row, from 0.
    #[serde(default)]
    offset: u64,
    /// How many; 100 when left out, at most 10,000.
    limit: Option<u64>,
    /// `json` or `npy`; the `Accept` header decides when left out.
    #[param(inline)]
    format: Option<Form>,
}

#[derive(Serialize)]
struct RowsView<'a> {
    columns: Vec<&'a str>,
    rows: Matrix<'a>,
    offset: u64,
    total: u64,
}

/// Rows of a dataset, in the user's units. Missing values are `null` in JSON and NaN in NPY.
#[utoipa::path(
    get, path = "/v1/datasets/{id}/rows", tag = "datasets", params(("id" = String, Path, description = "The id of a dataset"), RowsQuery),
    responses((status = 200, description = "`columns` and `rows`, or an NPY matrix", body = Object), (status = "default", body = Problem, content_type = "application/problem+json"))
)]
pub async fn get_rows(
    State(app): State<App>,
    Id(id): Id<DatasetId>,
    Query(query): Query<RowsQuery>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let form = Form::wanted(query.format, &headers)?;
    let limit = query.limit.unwrap_or(PAGE_ROWS);
    let mut faults = Faults::new();
    faults.require_within("?limit", limit, 1..=PAGE_ROWS_MOST);
    faults.into_result(Code::InvalidRequest)?;
    let dataset = app.store.dataset(id).await?;
    let first = query.offset.min(dataset.rows);
    let last = first.saturating_add(limit).min(dataset.rows);
    let width = dataset.schema.kept().count();
    let (path, count) = (app.store.rows_path(id), dataset.rows);
    let read = move || -> std::io::Result<Vec<f32>> {
        let file = RowFile::open(&path, width, count)?;
        Ok((first..last).flat_map(|row| file.row(row as usize).to_vec()).collect())
    };
    let values =
        tokio::task::spawn_blocking(read).await.map_err(|error| internal(&error))?.map_err(|error| internal(&error))?;
    let rows = Matrix::of(&values, dataset.schema.kept());
    match form {
        Form::Json => {
            let columns = dataset.schema.kept().map(|column| column.name.as_str()).collect();
            forms::json(&RowsView { columns, rows, offset: first, total: dataset.rows })
        }
        Form::Npy => forms::npy(&rows),
        Form::Png => {
            Err(Refusal::new(Code::NotAcceptable, "rows are given as application/json or application/x-npy").into())
        }
    }
}
