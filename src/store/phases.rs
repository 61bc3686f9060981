//! The table of phases: what a job did when.

use sqlx::SqliteConnection;

use super::{Store, StoreError, now_ms};
use crate::domain::id::JobId;
use crate::domain::job::Phase;
use crate::domain::limits::PHASES;

/// A phase that a job entered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PhaseRecord {
    /// Its name.
    pub name: String,
    /// Which attempt; 0 before the first.
    pub attempt: i64,
    /// When, in milliseconds since 1970.
    pub started_at: i64,
}

/// Records within the caller's transaction that a job goes on to something else. What it does already is no new phase.
pub(super) async fn enter(tx: &mut SqliteConnection, job: JobId, attempt: i64, phase: Phase) -> Result<(), StoreError> {
    enter_at(tx, job, attempt, phase, now_ms()).await
}

/// The same of a moment that is past.
pub(super) async fn enter_at(
    tx: &mut SqliteConnection,
    job: JobId,
    attempt: i64,
    phase: Phase,
    at_ms: i64,
) -> Result<(), StoreError> {
    let added = sqlx::query(
        "INSERT INTO job_phases (job_id, seq, attempt, name, started_at)
         SELECT ?1, (SELECT coalesce(max(seq), 0) + 1 FROM job_phases WHERE job_id = ?1), ?2, ?3, ?4
         WHERE NOT EXISTS (SELECT 1 FROM (SELECT attempt, name FROM job_phases WHERE job_id = ?1 ORDER BY seq DESC LIMIT 1)
                           WHERE attempt = ?2 AND name = ?3)",
    )
    .bind(job.to_string())
    .bind(attempt)
    .bind(phase.as_str())
    .bind(at_ms)
    .execute(&mut *tx)
    .await?;
    if added.rows_affected() > 0 {
        sqlx::query("DELETE FROM job_phases WHERE job_id = ?1 AND seq <= (SELECT max(seq) FROM job_phases WHERE job_id = ?1) - ?2")
            .bind(job.to_string())
            .bind(PHASES)
            .execute(tx)
            .await?;
    }
    Ok(())
}

impl Store {
    /// The phases of a job in their order, at most the last `PHASES`.
    ///
    /// # Errors
    /// The database failed.
    pub async fn phases(&self, job: JobId) -> Result<Vec<PhaseRecord>, StoreError> {
        let rows: Vec<(String, i64, i64)> =
            sqlx::query_as("SELECT name, attempt, started_at FROM job_phases WHERE job_id = ? ORDER BY seq")
                .bind(job.to_string())
                .fetch_all(&self.readers)
                .await?;
        Ok(rows.into_iter().map(|(name, attempt, started_at)| PhaseRecord { name, attempt, started_at }).collect())
    }
}
