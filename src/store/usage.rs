//! What takes the room of the disk.

use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::files::ROWS;
use super::uploads::Upload;
use super::{DATABASE, Store, StoreError, parse};
use crate::domain::id::DatasetId;
use crate::domain::limits::PAGE_ITEMS_MOST;

/// Bytes on the disk, by what they are for.
#[derive(Debug)]
pub struct Usage {
    /// The largest datasets.
    pub datasets: Vec<DatasetUsage>,
    /// All rows of datasets, those that are shared counted once.
    pub dataset_bytes: u64,
    /// Uploads in several requests.
    pub uploads: Vec<Upload>,
    /// The database with its log; models and checkpoints are in it.
    pub database_bytes: u64,
    /// Models.
    pub model_bytes: u64,
    /// Checkpoints.
    pub checkpoint_bytes: u64,
    /// What is free; `None` where the system does not say.
    pub free_bytes: Option<u64>,
}

/// The rows of one dataset.
#[derive(Debug)]
pub struct DatasetUsage {
    /// Its id.
    pub id: DatasetId,
    /// Its name.
    pub name: String,
    /// Bytes of its rows.
    pub bytes: u64,
    /// Bytes that go back to the disk when it is deleted.
    pub stored_bytes: u64,
    /// Whether another dataset has the same rows.
    pub is_shared: bool,
}

impl Store {
    /// What takes the room of the disk.
    ///
    /// # Errors
    /// The database or the disk failed.
    pub async fn usage(&self) -> Result<Usage, StoreError> {
        let largest: Vec<(String, String, i64)> = sqlx::query_as(
            "SELECT id, name, bytes FROM datasets WHERE deleted_at IS NULL ORDER BY bytes DESC, id DESC LIMIT ?",
        )
        .bind(PAGE_ITEMS_MOST)
        .fetch_all(&self.readers)
        .await?;
        let datasets = largest.into_iter().map(|(id, name, bytes)| {
            let id = parse(&id)?;
            let is_shared = fs::metadata(self.rows_path(id)).is_ok_and(|metadata| metadata.nlink() > 1);
            let bytes = bytes as u64;
            Ok(DatasetUsage { id, name, bytes, stored_bytes: if is_shared { 0 } else { bytes }, is_shared })
        });
        let datasets = datasets.collect::<Result<_, StoreError>>()?;
        let (model_bytes, checkpoint_bytes): (i64, i64) = sqlx::query_as(
            "SELECT (SELECT coalesce(sum(bytes), 0) FROM artifacts WHERE id IN (SELECT artifact_id FROM models)),
                    (SELECT coalesce(sum(bytes), 0) FROM artifacts WHERE id IN (SELECT artifact_id FROM checkpoints))",
        )
        .fetch_one(&self.readers)
        .await?;
        // SQLite keeps what was written last beside the database.
        let database_bytes = ["", "-wal", "-shm"]
            .iter()
            .filter_map(|end| fs::metadata(self.directory.join(format!("{DATABASE}{end}"))).ok())
            .map(|metadata| metadata.len())
            .sum();
        let folder = self.datasets_directory();
        let dataset_bytes = tokio::task::spawn_blocking(move || each_once(&folder))
            .await
            .unwrap_or_else(|error| Err(std::io::Error::other(error)))?;
        Ok(Usage {
            datasets,
            dataset_bytes,
            uploads: self.uploads().await?,
            database_bytes,
            model_bytes: model_bytes as u64,
            checkpoint_bytes: checkpoint_bytes as u64,
            free_bytes: self.free_bytes(),
        })
    }
}

/// Bytes of all files of rows, each file once however many names it has.
fn each_once(datasets: &Path) -> std::io::Result<u64> {
    let mut seen = HashSet::new();
    let mut bytes = 0;
    for entry in fs::read_dir(datasets)? {
        // One that is deleted meanwhile takes no room.
        let Ok(metadata) = fs::metadata(entry?.path().join(ROWS)) else { continue };
        if seen.insert((metadata.dev(), metadata.ino())) {
            bytes += metadata.len();
        }
    }
    Ok(bytes)
}
