//! Datasets: upload, look at, page through, delete.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::App;
use super::error::{ApiError, Problem, internal};
use super::exports::{self, Limit, RowsForm};
use super::extract::{Id, Lenient, Nothing, Query};
use super::forms::{self, Matrix};
use super::intake::{Complete, Intake};
use super::lists::{List, page};
use crate::data::dataset::{Change, Column, Role};
use crate::data::rows::RowFile;
use crate::data::{Format, Header, IngestSpec};
use crate::domain::id::{DatasetId, JobId, UploadId};
use crate::domain::limits::PAGE_ROWS_MOST;
use crate::domain::name;
use crate::domain::refusal::{Code, Faults, Refusal};
use crate::domain::shape::ImageShape;
use crate::store::datasets::Dataset;

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
    /// SHA-256 of the file it came from, or of the one that was added last.
    pub sha256: Option<String>,
    /// Bytes that go back to the server's disk when it is deleted: none while another dataset shares its rows.
    pub stored_bytes: u64,
    /// 1, and one more each time rows are added.
    pub version: u32,
    /// The dataset that rows were added to.
    pub parent: Option<DatasetId>,
    /// The job of inference that made it.
    pub job_id: Option<JobId>,
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
            sha256: dataset.sha256,
            stored_bytes: dataset.stored_bytes,
            version: dataset.version,
            parent: dataset.parent,
            job_id: dataset.job,
        }
    }
}

/// What may be said of a file when it is uploaded.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct UploadQuery {
    /// A complete upload (`/v1/uploads`) to take instead of a body. What it said of its file stands in for parameters left out.
    #[param(value_type = Option<String>)]
    upload: Option<UploadId>,
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
        spec.header = read_header(self.header.as_deref(), &mut faults);
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

/// What is said of the header of a CSV file.
pub(super) fn read_header(text: Option<&str>, faults: &mut Faults) -> Header {
    match text {
        None | Some("auto") => Header::Auto,
        Some("true") => Header::Present,
        Some("false") => Header::Absent,
        Some(other) => {
            faults.push("?header", "unknown_value", format!("is `{other}`; allowed are auto, true, false"));
            Header::Auto
        }
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
    let (query, complete) = match query.upload {
        Some(id) => {
            let complete = Complete::claim(&app, id).await?;
            (complete.fill_in(request.uri())?, Some(complete))
        }
        None => (query, None),
    };
    let (name, spec) = query.read()?;
    let intake = match complete {
        Some(complete) => Intake::of_upload(&app, complete, request.into_body()).await?,
        None => Intake::receive(&app, request).await?,
    };
    let (ingested, origin, intake) = intake.read(&app, spec).await?;
    let dataset = app.store.insert_dataset(&name, &ingested, &intake.rows(), &origin).await?;
    intake.done(&app).await;
    tracing::info!(dataset.id = %dataset.id, rows = dataset.rows, "Dataset {} has {} rows", dataset.id, dataset.rows);
    let location = HeaderValue::try_from(format!("/v1/datasets/{}", dataset.id)).map_err(|error| internal(&error))?;
    Ok((StatusCode::CREATED, [(header::LOCATION, location)], Json(DatasetView::from(dataset))).into_response())
}

/// Which datasets a list shows.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ListQuery {
    /// How many; 20 when left out, at most 100.
    pub(super) limit: Option<u32>,
    /// The last id of the page before.
    #[param(value_type = Option<String>)]
    pub(super) after: Option<DatasetId>,
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
    /// How many; 100 when left out, at most 10,000, or `all` in the forms of files.
    #[param(value_type = Option<String>)]
    limit: Option<Limit>,
    /// `json` or `npy`, or a file: `csv`, `jsonl`, `arrow` (a stream) or `parquet`. The `Accept` header decides when left out.
    #[param(inline)]
    format: Option<RowsForm>,
}

#[derive(Serialize)]
struct RowsView<'a> {
    columns: Vec<&'a str>,
    rows: Matrix<'a>,
    offset: u64,
    total: u64,
}

/// Rows of a dataset, in the user's units. Missing values are `null` in JSON, Arrow and Parquet, NaN in NPY, and empty in CSV.
#[utoipa::path(
    get, path = "/v1/datasets/{id}/rows", tag = "datasets", params(("id" = String, Path, description = "The id of a dataset"), RowsQuery),
    responses((status = 200, description = "`columns` and `rows`, an NPY matrix, or a file", body = Object), (status = "default", body = Problem, content_type = "application/problem+json"))
)]
pub async fn get_rows(
    State(app): State<App>,
    Id(id): Id<DatasetId>,
    Query(query): Query<RowsQuery>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let form = RowsForm::wanted(query.format, &headers)?;
    if !matches!(form, RowsForm::Json | RowsForm::Npy) {
        return exports::download(&app, id, form, query.offset, query.limit).await;
    }
    let limit = Limit::page(query.limit)?;
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
    if form == RowsForm::Npy {
        return Ok(forms::npy(&values, width));
    }
    let columns = dataset.schema.kept().map(|column| column.name.as_str()).collect();
    let rows = Matrix::of(&values, dataset.schema.kept());
    forms::json(&RowsView { columns, rows, offset: first, total: dataset.rows })
}
