//! The table of events: what happened to a job, numbered without a gap.

use serde_json::Value;
use sqlx::{QueryBuilder, SqliteConnection};

use super::{Store, StoreError, from_json, now_ms, to_json};
use crate::domain::id::JobId;

/// Events of one statement. SQLite binds some 32,000 values at most, and there are five in a row.
const AT_ONCE: usize = 1_000;

/// Something that happened to a job.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// Counts from 1 in each job.
    pub seq: i64,
    /// When, in milliseconds since 1970.
    pub at: i64,
    /// What kind of thing: `queued`, `started`, `epoch`, `warning` …
    pub kind: String,
    /// Its facts; `message` is for people.
    pub data: Value,
}

/// Adds an event within the caller's transaction.
pub(super) async fn append(tx: &mut SqliteConnection, job: JobId, kind: &str, data: &Value) -> Result<(), StoreError> {
    sqlx::query("INSERT INTO job_events (job_id, seq, at, kind, data) SELECT ?1, coalesce(max(seq), 0) + 1, ?2, ?3, ?4 FROM job_events WHERE job_id = ?1")
        .bind(job.to_string())
        .bind(now_ms())
        .bind(kind)
        .bind(to_json(data))
        .execute(tx)
        .await?;
    Ok(())
}

/// Adds events of one kind within the caller's transaction.
pub(super) async fn append_all(
    tx: &mut SqliteConnection,
    job: JobId,
    kind: &str,
    data: &[Value],
) -> Result<(), StoreError> {
    let id = job.to_string();
    let last: i64 = sqlx::query_scalar("SELECT coalesce(max(seq), 0) FROM job_events WHERE job_id = ?")
        .bind(&id)
        .fetch_one(&mut *tx)
        .await?;
    let (at, numbered): (_, Vec<(i64, &Value)>) = (now_ms(), (last + 1..).zip(data).collect());
    for events in numbered.chunks(AT_ONCE) {
        let mut insert = QueryBuilder::new("INSERT INTO job_events (job_id, seq, at, kind, data) ");
        insert.push_values(events, |mut row, (seq, data)| {
            row.push_bind(&id).push_bind(*seq).push_bind(at).push_bind(kind).push_bind(to_json(data));
        });
        insert.build().execute(&mut *tx).await?;
    }
    Ok(())
}

impl Store {
    /// The first event of a kind.
    ///
    /// # Errors
    /// The database failed.
    pub async fn first_event(&self, job: JobId, kind: &str) -> Result<Option<Event>, StoreError> {
        let row: Option<(i64, i64, String)> =
            sqlx::query_as("SELECT seq, at, data FROM job_events WHERE job_id = ? AND kind = ? ORDER BY seq LIMIT 1")
                .bind(job.to_string())
                .bind(kind)
                .fetch_optional(&self.readers)
                .await?;
        row.map(|(seq, at, data)| Ok(Event { seq, at, kind: kind.to_owned(), data: from_json(&data)? })).transpose()
    }

    /// At most `limit` events of a job after `seq`, in order.
    ///
    /// # Errors
    /// The database failed.
    pub async fn events_after(&self, job: JobId, seq: i64, limit: u32) -> Result<Vec<Event>, StoreError> {
        let rows: Vec<(i64, i64, String, String)> = sqlx::query_as(
            "SELECT seq, at, kind, data FROM job_events WHERE job_id = ? AND seq > ? ORDER BY seq LIMIT ?",
        )
        .bind(job.to_string())
        .bind(seq)
        .bind(i64::from(limit))
        .fetch_all(&self.readers)
        .await?;
        rows.into_iter().map(|(seq, at, kind, data)| Ok(Event { seq, at, kind, data: from_json(&data)? })).collect()
    }
}
