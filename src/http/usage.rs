//! What takes the room of the server's disk.

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use utoipa::ToSchema;

use super::App;
use super::error::{ApiError, Problem};
use super::extract::{Nothing, Query};
use crate::domain::id::{DatasetId, UploadId};
use crate::store::uploads::Upload;
use crate::store::usage::{DatasetUsage, Usage};

/// Bytes on the server's disk, by what they are for.
#[derive(Debug, Serialize, ToSchema)]
pub struct UsageView {
    /// The datasets with the most bytes, at most 100 of them.
    pub datasets: Vec<DatasetUsageView>,
    /// The rows of all datasets; those that several share count once.
    pub dataset_bytes: u64,
    /// Uploads in several requests that are not yet datasets.
    pub uploads: Vec<UploadUsageView>,
    /// What has arrived of them.
    pub upload_bytes: u64,
    /// The database. Models and checkpoints are in it.
    pub database_bytes: u64,
    /// Models.
    pub model_bytes: u64,
    /// Checkpoints of jobs.
    pub checkpoint_bytes: u64,
    /// What is free on the disk; absent where the system does not say.
    pub free_bytes: Option<u64>,
}

/// The rows of one dataset.
#[derive(Debug, Serialize, ToSchema)]
pub struct DatasetUsageView {
    /// Its id.
    pub id: DatasetId,
    /// Its name.
    pub name: String,
    /// Bytes of its rows.
    pub bytes: u64,
    /// Bytes that go back to the disk when it is deleted.
    pub stored_bytes: u64,
    /// Whether another dataset has the same rows.
    pub shared: bool,
}

/// An upload that is not yet a dataset.
#[derive(Debug, Serialize, ToSchema)]
pub struct UploadUsageView {
    /// Its id.
    pub id: UploadId,
    /// Bytes of the whole, as they were announced.
    pub bytes: u64,
    /// Bytes that have arrived.
    pub received: u64,
    /// When it is removed if nothing more comes (RFC 3339).
    pub expires_at: String,
}

impl From<DatasetUsage> for DatasetUsageView {
    fn from(usage: DatasetUsage) -> Self {
        let DatasetUsage { id, name, bytes, stored_bytes, is_shared } = usage;
        Self { id, name, bytes, stored_bytes, shared: is_shared }
    }
}

impl From<Upload> for UploadUsageView {
    fn from(upload: Upload) -> Self {
        let Upload { id, bytes, received, .. } = upload;
        Self { id, bytes, received, expires_at: super::time(upload.expires_at) }
    }
}

impl From<Usage> for UsageView {
    fn from(usage: Usage) -> Self {
        Self {
            upload_bytes: usage.uploads.iter().map(|upload| upload.received).sum(),
            datasets: usage.datasets.into_iter().map(DatasetUsageView::from).collect(),
            dataset_bytes: usage.dataset_bytes,
            uploads: usage.uploads.into_iter().map(UploadUsageView::from).collect(),
            database_bytes: usage.database_bytes,
            model_bytes: usage.model_bytes,
            checkpoint_bytes: usage.checkpoint_bytes,
            free_bytes: usage.free_bytes,
        }
    }
}

/// What takes the room of the server's disk.
#[utoipa::path(
    get, path = "/v1/usage", tag = "operations",
    responses((status = 200, body = UsageView), (status = "default", body = Problem, content_type = "application/problem+json"))
)]
pub async fn get_usage(State(app): State<App>, _: Query<Nothing>) -> Result<Json<UsageView>, ApiError> {
    Ok(Json(app.store.usage().await?.into()))
}
