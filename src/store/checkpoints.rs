//! The table of checkpoints: where a job can go on from, and which of them are kept.

use sqlx::SqliteConnection;

use super::{Store, StoreError, artifacts, now_ms, parse};
use crate::domain::id::{ArtifactId, JobId};
use crate::domain::job::Retention;

/// A place from which a job can go on.
#[derive(Clone, Copy, Debug)]
pub struct CheckpointRecord<'a> {
    /// Epochs done.
    pub epoch: u32,
    /// Steps done of the epoch under way.
    pub step: u64,
    /// Whether its weights are the best so far.
    pub best: bool,
    /// The checkpoint file.
    pub data: &'a [u8],
}

/// A checkpoint that is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// Epochs done.
    pub epoch: u32,
    /// Steps done of the epoch under way.
    pub step: u64,
    /// Whether its weights are the best of those that are kept.
    pub is_best: bool,
    /// Bytes of the file.
    pub bytes: u64,
    /// Its SHA-256, in hexadecimal.
    pub sha256: String,
    /// When it was made, in milliseconds since 1970.
    pub created_at: i64,
    /// The file.
    pub artifact_id: ArtifactId,
}

impl Store {
    /// The checkpoints that are kept of a job, the newest first.
    ///
    /// # Errors
    /// The database failed.
    pub async fn checkpoints(&self, job: JobId) -> Result<Vec<Checkpoint>, StoreError> {
        let rows: Vec<(i64, i64, bool, i64, String, i64, String)> = sqlx::query_as(
            "SELECT c.epoch, c.step, c.best, a.bytes, a.sha256, c.created_at, c.artifact_id
             FROM checkpoints c JOIN artifacts a ON a.id = c.artifact_id WHERE c.job_id = ? ORDER BY c.epoch DESC, c.step DESC",
        )
        .bind(job.to_string())
        .fetch_all(&self.readers)
        .await?;
        let mut kept = Vec::new();
        let mut best_seen = false;
        for (epoch, step, best, bytes, sha256, created_at, artifact) in rows {
            kept.push(Checkpoint {
                epoch: epoch as u32,
                step: step as u64,
                is_best: best && !best_seen,
                bytes: bytes as u64,
                sha256,
                created_at,
                artifact_id: parse(&artifact)?,
            });
            best_seen |= best;
        }
        Ok(kept)
    }

    /// The newest checkpoint that is sound, and how many newer ones are damaged.
    ///
    /// # Errors
    /// The database failed.
    pub async fn latest_checkpoint(&self, job: JobId) -> Result<(Option<Vec<u8>>, u32), StoreError> {
        let mut damaged = 0;
        for checkpoint in self.checkpoints(job).await? {
            match self.artifact(checkpoint.artifact_id).await {
                Ok(data) => return Ok((Some(data), damaged)),
                Err(StoreError::Damaged(fault)) => {
                    tracing::warn!(job.id = %job, fault, "A checkpoint of job {job} is damaged; trying the one before");
                    damaged += 1;
                }
                Err(other) => return Err(other),
            }
        }
        Ok((None, damaged))
    }
}

/// Keeps a checkpoint of a living job within the caller's transaction, and drops those that it makes needless.
pub(super) async fn keep(
    tx: &mut SqliteConnection,
    job: &str,
    retention: Retention,
    checkpoint: CheckpointRecord<'_>,
) -> Result<(), StoreError> {
    let (epoch, step) = (i64::from(checkpoint.epoch), checkpoint.step as i64);
    let known: Option<String> =
        sqlx::query_scalar("SELECT artifact_id FROM checkpoints WHERE job_id = ? AND epoch = ? AND step = ?")
            .bind(job)
            .bind(epoch)
            .bind(step)
            .fetch_optional(&mut *tx)
            .await?;
    let artifact = artifacts::insert(&mut *tx, checkpoint.data).await?;
    sqlx::query(
        "INSERT INTO checkpoints (job_id, epoch, step, best, artifact_id, created_at) VALUES (?, ?, ?, ?, ?, ?)
         ON CONFLICT (job_id, epoch, step) DO UPDATE SET artifact_id = excluded.artifact_id, best = excluded.best, created_at = excluded.created_at",
    )
    .bind(job)
    .bind(epoch)
    .bind(step)
    .bind(checkpoint.best)
    .bind(artifact.to_string())
    .bind(now_ms())
    .execute(&mut *tx)
    .await?;
    match known {
        Some(replaced) => artifacts::delete(&mut *tx, &replaced).await?,
        None => {
            sqlx::query("UPDATE jobs SET deaths = 0 WHERE id = ?").bind(job).execute(&mut *tx).await?;
        }
    }
    // A job that may have to go on has one more, should the last be damaged.
    drop_needless(tx, job, retention.best, retention.latest.max(2)).await
}

/// Drops all but the `latest` newest checkpoints and the `best` newest of those that were the best.
pub(super) async fn drop_needless(
    tx: &mut SqliteConnection,
    job: &str,
    best: u32,
    latest: u32,
) -> Result<(), StoreError> {
    let old: Vec<String> = sqlx::query_scalar(
        "DELETE FROM checkpoints WHERE job_id = ?1
             AND rowid NOT IN (SELECT rowid FROM checkpoints WHERE job_id = ?1 ORDER BY epoch DESC, step DESC LIMIT ?2)
             AND rowid NOT IN (SELECT rowid FROM checkpoints WHERE job_id = ?1 AND best ORDER BY epoch DESC, step DESC LIMIT ?3)
         RETURNING artifact_id",
    )
    .bind(job)
    .bind(i64::from(latest))
    .bind(i64::from(best))
    .fetch_all(&mut *tx)
    .await?;
    for artifact in old {
        artifacts::delete(&mut *tx, &artifact).await?;
    }
    Ok(())
}
