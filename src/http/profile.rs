//! A closer look at a dataset: figures and warnings, and pictures of images.

use axum::Json;
use axum::extract::State;
use axum::response::Response;
use serde::Deserialize;
use utoipa::{IntoParams, ToSchema};

use super::App;
use super::error::{ApiError, Problem, internal};
use super::extract::{Id, Nothing, Query};
use super::forms::{self, Shades};
use crate::data::dataset::Column;
use crate::data::rows::RowFile;
use crate::data::summary::{Summary, summarize};
use crate::domain::id::DatasetId;
use crate::domain::limits::GRID_IMAGES;
use crate::domain::refusal::{Code, Faults, Refusal};
use crate::store::datasets::Dataset;

/// Look closely at a dataset: histograms, quantiles, correlations, and warnings in plain words.
///
/// Taken from up to 100,000 rows, spread evenly over the dataset; `missing_share` counts all of them.
#[utoipa::path(
    get, path = "/v1/datasets/{id}/profile", tag = "datasets", params(("id" = String, Path, description = "The id of a dataset")),
    responses((status = 200, body = Summary), (status = "default", body = Problem, content_type = "application/problem+json"))
)]
pub async fn get_profile(
    State(app): State<App>,
    _: Query<Nothing>,
    Id(id): Id<DatasetId>,
) -> Result<Json<Summary>, ApiError> {
    let dataset = app.store.dataset(id).await?;
    let schema = dataset.schema.clone();
    Ok(Json(with_rows(&app, &dataset, move |file| summarize(file, &schema)).await?))
}

/// What a picture shows.
#[derive(Clone, Copy, Debug, Default, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
enum Picture {
    /// Images of the dataset side by side, spread evenly over it.
    #[default]
    Sheet,
    /// The mean of all images.
    Mean,
}

/// Which picture is wanted.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct PictureQuery {
    /// `sheet` or `mean`.
    #[serde(default)]
    #[param(inline)]
    of: Picture,
    /// Images on the sheet; 64 when left out.
    #[param(minimum = 1, maximum = 4096)]
    n: Option<usize>,
}

/// A picture of a dataset of images, as PNG: a contact sheet, or their mean.
#[utoipa::path(
    get, path = "/v1/datasets/{id}/picture", tag = "datasets",
    params(("id" = String, Path, description = "The id of a dataset"), PictureQuery),
    responses((status = 200, body = Vec<u8>, content_type = "image/png"), (status = "default", body = Problem, content_type = "application/problem+json"))
)]
pub async fn get_picture(
    State(app): State<App>,
    Id(id): Id<DatasetId>,
    Query(query): Query<PictureQuery>,
) -> Result<Response, ApiError> {
    let count = query.n.unwrap_or(64);
    let mut faults = Faults::new();
    faults.require_within("?n", count, 1..=GRID_IMAGES);
    faults.into_result(Code::InvalidRequest)?;
    let dataset = app.store.dataset(id).await?;
    let Some(shape) = dataset.schema.image else {
        let detail = "the rows of this dataset are not images; say `shape` at upload, or by PATCH, to have pictures";
        return Err(Refusal::new(Code::NotAcceptable, detail).into());
    };
    let columns: Vec<&Column> = dataset.schema.feature_columns().collect();
    let shades = Shades::of(columns.iter().copied());
    let values: Vec<f32> = match query.of {
        Picture::Mean => columns.iter().map(|column| mean(column).unwrap_or(shades.low)).collect(),
        Picture::Sheet => {
            let features = dataset.schema.features();
            let pick = move |file: &RowFile| {
                let count = count.min(file.len());
                let rows = (0..count).map(|row| (row as u128 * file.len() as u128 / count as u128) as usize);
                rows.flat_map(|row| features.iter().map(move |feature| file.row(row)[*feature])).collect()
            };
            with_rows(&app, &dataset, pick).await?
        }
    };
    let images = values.len() / dataset.schema.row_shape().width.max(1);
    Ok(forms::png(forms::grid(&values, shape, shades, (images as f64).sqrt().ceil() as usize)?))
}

/// The mean of a column, where a row has a value.
fn mean(column: &Column) -> Option<f32> {
    column.profile.as_ref()?.mean.map(|mean| mean as f32)
}

/// Works on the rows of a dataset off the asynchronous threads.
async fn with_rows<T: Send + 'static>(
    app: &App,
    dataset: &Dataset,
    work: impl FnOnce(&RowFile) -> T + Send + 'static,
) -> Result<T, ApiError> {
    let permit = app.ingesting.clone().acquire_owned().await.map_err(|error| internal(&error))?;
    let (path, width, rows) = (app.store.rows_path(dataset.id), dataset.schema.kept().count(), dataset.rows);
    let done = tokio::task::spawn_blocking(move || {
        let _permit = permit;
        RowFile::open(&path, width, rows).map(|file| work(&file))
    });
    done.await.map_err(|error| internal(&error))?.map_err(|error| internal(&error))
}
