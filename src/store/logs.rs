//! The table of logs: what workers and trainers said of a job.

use super::{Store, StoreError};
use crate::domain::id::JobId;
use crate::domain::limits::LOG_LINES;

/// A line of the log of a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogLine {
    /// When, in milliseconds since 1970.
    pub at: i64,
    /// `worker` or `trainer`.
    pub source: String,
    /// What was said.
    pub text: String,
}

/// The end of the log of a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogTail {
    /// Lines before these, whether they are still there or not.
    pub before: u64,
    /// The lines, in their order.
    pub lines: Vec<LogLine>,
}

impl Store {
    /// Adds lines to the log of a job. No lease is asked for: a worker that lost its own may still say so.
    ///
    /// # Errors
    /// The database failed, or there is no such job.
    pub async fn append_log(&self, job: JobId, lines: &[LogLine]) -> Result<(), StoreError> {
        let mut tx = self.begin().await?;
        let job = job.to_string();
        let last: i64 = sqlx::query_scalar("SELECT coalesce(max(seq), 0) FROM job_logs WHERE job_id = ?")
            .bind(&job)
            .fetch_one(&mut *tx)
            .await?;
        for (seq, line) in (last + 1..).zip(lines) {
            sqlx::query("INSERT INTO job_logs (job_id, seq, at, source, text) VALUES (?, ?, ?, ?, ?)")
                .bind(&job)
                .bind(seq)
                .bind(line.at)
                .bind(&line.source)
                .bind(&line.text)
                .execute(&mut *tx)
                .await?;
        }
        sqlx::query("DELETE FROM job_logs WHERE job_id = ? AND seq <= ?")
            .bind(&job)
            .bind(last + lines.len() as i64 - i64::from(LOG_LINES))
            .execute(&mut *tx)
            .await?;
        tx.commit().await?;
        Ok(())
    }

    /// The last `tail` lines of the log of a job.
    ///
    /// # Errors
    /// The database failed.
    pub async fn log_tail(&self, job: JobId, tail: u32) -> Result<LogTail, StoreError> {
        let rows: Vec<(i64, i64, String, String)> = sqlx::query_as(
            "SELECT seq, at, source, text FROM
                 (SELECT seq, at, source, text FROM job_logs WHERE job_id = ? ORDER BY seq DESC LIMIT ?) ORDER BY seq",
        )
        .bind(job.to_string())
        .bind(i64::from(tail))
        .fetch_all(&self.readers)
        .await?;
        let before = rows.first().map_or(0, |(seq, ..)| (seq - 1) as u64);
        let lines = rows.into_iter().map(|(_, at, source, text)| LogLine { at, source, text }).collect();
        Ok(LogTail { before, lines })
    }
}
