//! Files of the data directory. Their paths are made of the program's own ids only.
//!
//! ```text
//! datasets/<id>/rows.f32   canonical rows
//! uploads/<id>             uploads in several requests, which outlive a start
//! results/<id>             answers of jobs of inference that have not ended
//! tmp/                     uploads in one request and trainers at work; emptied at start-up
//! ```

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use super::{Store, StoreError};
use crate::domain::id::DatasetId;

const DATASETS: &str = "datasets";
const UPLOADS: &str = "uploads";
const RESULTS: &str = "results";
const TEMPORARY: &str = "tmp";
pub(super) const ROWS: &str = "rows.f32";

pub(super) fn prepare(directory: &Path) -> io::Result<()> {
    let temporary = directory.join(TEMPORARY);
    if temporary.exists() {
        fs::remove_dir_all(&temporary)?;
    }
    fs::create_dir_all(temporary)?;
    fs::create_dir_all(directory.join(UPLOADS))?;
    fs::create_dir_all(directory.join(RESULTS))?;
    fs::create_dir_all(directory.join(DATASETS))
}

/// A directory that disappears with this value, whatever happens.
#[derive(Debug)]
pub struct Scratch(tempfile::TempDir);

impl Scratch {
    /// A path in it.
    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// The directory itself.
    pub fn directory(&self) -> &Path {
        self.0.path()
    }
}

impl Store {
    /// A fresh directory on the disk of the data directory, so that what is made there can be renamed into place.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn scratch(&self) -> Result<Scratch, StoreError> {
        Ok(Scratch(tempfile::tempdir_in(self.directory.join(TEMPORARY))?))
    }

    /// Where the rows of a dataset are.
    pub fn rows_path(&self, id: DatasetId) -> PathBuf {
        self.dataset_directory(id).join(ROWS)
    }

    /// Free bytes on the disk of the data directory; `None` where the system does not say.
    pub fn free_bytes(&self) -> Option<u64> {
        let found = rustix::fs::statvfs(&*self.directory).ok()?;
        Some(found.f_bavail.saturating_mul(found.f_frsize))
    }

    /// Moves synced rows into place. Rows without a row in the database are removed at the next start.
    pub(super) fn place_rows(&self, id: DatasetId, written: &Path) -> io::Result<()> {
        let directory = self.dataset_directory(id);
        fs::create_dir(&directory)?;
        fs::rename(written, directory.join(ROWS))?;
        File::open(&directory)?.sync_all()?;
        File::open(self.directory.join(DATASETS))?.sync_all()
    }

    pub(super) fn remove_rows(&self, id: DatasetId) -> io::Result<()> {
        match fs::remove_dir_all(self.dataset_directory(id)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Removes files that no row of the database speaks of: an upload or a deletion was cut short.
    pub(super) async fn remove_orphans(&self) -> Result<(), StoreError> {
        let known: std::collections::HashSet<String> =
            sqlx::query_scalar("SELECT id FROM datasets WHERE deleted_at IS NULL")
                .fetch_all(&self.readers)
                .await?
                .into_iter()
                .collect();
        for entry in fs::read_dir(self.directory.join(DATASETS))? {
            let entry = entry?;
            if !known.contains(entry.file_name().to_string_lossy().as_ref()) {
                tracing::info!(path = %entry.path().display(), "Removing rows that no dataset refers to");
                fs::remove_dir_all(entry.path())?;
            }
        }
        Ok(())
    }

    /// Removes answers of jobs that have ended: the server died before it could.
    pub(super) async fn remove_orphaned_results(&self) -> Result<(), StoreError> {
        let known: std::collections::HashSet<String> = sqlx::query_scalar(
            "SELECT id FROM jobs WHERE inference IS NOT NULL AND status IN ('queued', 'running', 'paused', 'cancelling')",
        )
        .fetch_all(&self.readers)
        .await?
        .into_iter()
        .collect();
        for entry in fs::read_dir(self.results_directory())? {
            let entry = entry?;
            if !known.contains(entry.file_name().to_string_lossy().as_ref()) {
                tracing::info!(path = %entry.path().display(), "Removing answers of a job that has ended");
                fs::remove_file(entry.path())?;
            }
        }
        Ok(())
    }

    pub(super) fn results_directory(&self) -> PathBuf {
        self.directory.join(RESULTS)
    }

    pub(super) fn datasets_directory(&self) -> PathBuf {
        self.directory.join(DATASETS)
    }

    pub(super) fn uploads_directory(&self) -> PathBuf {
        self.directory.join(UPLOADS)
    }

    fn dataset_directory(&self, id: DatasetId) -> PathBuf {
        self.directory.join(DATASETS).join(id.to_string())
    }
}
