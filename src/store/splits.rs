//! The table of splits: which rows of a job trained, validated and tested.

use super::jobs::{Lease, hold};
use super::{Store, StoreError, artifacts, parse};
use crate::data::split::Split;
use crate::domain::id::{ArtifactId, JobId};

/// How many rows each part has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SplitCounts {
    /// Rows that train.
    pub train: u64,
    /// Rows that pick the best epoch.
    pub validation: u64,
    /// Rows that are measured once, at the end.
    pub test: u64,
    artifact: ArtifactId,
}

impl Store {
    /// Records how the rows of a job were divided: how many train, validate and test, and what [`Split::to_bytes`] gave. What was
    /// recorded before stays, because a job is always divided in the same way.
    ///
    /// # Errors
    /// The lease is lost.
    pub async fn record_split(&self, lease: &Lease, rows: [u64; 3], data: &[u8]) -> Result<(), StoreError> {
        let mut tx = self.begin().await?;
        let job = hold(&mut tx, lease).await?.id.to_string();
        let known: i64 =
            sqlx::query_scalar("SELECT count(*) FROM splits WHERE job_id = ?").bind(&job).fetch_one(&mut *tx).await?;
        if known == 0 {
            let artifact = artifacts::insert(&mut tx, data).await?;
            let [train, validation, test] = rows.map(|rows| rows as i64);
            sqlx::query("INSERT INTO splits (job_id, train_rows, validation_rows, test_rows, artifact_id) VALUES (?, ?, ?, ?, ?)")
                .bind(&job)
                .bind(train)
                .bind(validation)
                .bind(test)
                .bind(artifact.to_string())
                .execute(&mut *tx)
                .await?;
            tx.commit().await?;
        }
        Ok(())
    }

    /// How many rows each part of a job has; `None` before they are divided.
    ///
    /// # Errors
    /// The database failed.
    pub async fn split_counts(&self, job: JobId) -> Result<Option<SplitCounts>, StoreError> {
        let row: Option<(i64, i64, i64, String)> =
            sqlx::query_as("SELECT train_rows, validation_rows, test_rows, artifact_id FROM splits WHERE job_id = ?")
                .bind(job.to_string())
                .fetch_optional(&self.readers)
                .await?;
        let Some((train, validation, test, artifact)) = row else { return Ok(None) };
        Ok(Some(SplitCounts {
            train: train as u64,
            validation: validation as u64,
            test: test as u64,
            artifact: parse(&artifact)?,
        }))
    }

    /// The rows of each part.
    ///
    /// # Errors
    /// The database failed.
    pub async fn split(&self, counts: &SplitCounts) -> Result<Split, StoreError> {
        let bytes = self.artifact(counts.artifact).await?;
        Split::from_bytes(&bytes).map_err(|error| StoreError::Damaged(format!("a split cannot be read: {error}")))
    }
}
