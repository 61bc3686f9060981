//! What a job may use up, what it did when, and what was said of it.

use std::fmt::Write;

use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::App;
use super::error::{ApiError, Problem};
use super::extract::{Id, Query};
use crate::domain::id::JobId;
use crate::domain::job::{Retention, RunOptions};
use crate::domain::limits::LOG_LINES;
use crate::domain::refusal::{Code, Faults};
use crate::store::logs::LogLine;
use crate::store::phases::PhaseRecord;

/// What a job may use up, and what stays of it.
#[derive(Debug, Serialize, ToSchema)]
pub struct LimitsView {
    /// Seconds that workers may spend on it, over all attempts; `null` without a limit.
    pub max_runtime_seconds: Option<u32>,
    /// MiB of memory that its trainer may have of its own, beside what the server allows; `null` without a limit.
    pub max_memory_mib: Option<u64>,
    /// Checkpoints that are kept.
    pub keep: Retention,
}

impl From<RunOptions> for LimitsView {
    fn from(options: RunOptions) -> Self {
        let RunOptions { max_runtime_seconds, max_memory_mib, keep } = options;
        Self { max_runtime_seconds, max_memory_mib, keep }
    }
}

/// A phase that a job entered.
#[derive(Debug, Serialize, ToSchema)]
pub struct PhaseView {
    /// Its name, as in `phase`.
    pub name: String,
    /// When (RFC 3339).
    pub started_at: String,
    /// Which attempt; 0 before the first.
    pub attempt: i64,
}

impl From<PhaseRecord> for PhaseView {
    fn from(record: PhaseRecord) -> Self {
        let PhaseRecord { name, attempt, started_at } = record;
        Self { name, started_at: super::time(started_at), attempt }
    }
}

/// Which lines are wanted.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct LogQuery {
    /// Only the last lines, so many: 1 to 2,000. All that are kept when it is left out.
    tail: Option<u32>,
}

/// What a job's workers and trainers said, as plain text: time, who, what. The last 2,000 lines are kept.
#[utoipa::path(
    get, path = "/v1/jobs/{id}/log", tag = "jobs", params(("id" = String, Path, description = "The id of a job"), LogQuery),
    responses((status = 200, body = String, content_type = "text/plain"), (status = "default", body = Problem, content_type = "application/problem+json"))
)]
pub async fn get_log(
    State(app): State<App>,
    Id(id): Id<JobId>,
    Query(query): Query<LogQuery>,
) -> Result<Response, ApiError> {
    let tail = query.tail.unwrap_or(LOG_LINES);
    let mut faults = Faults::new();
    faults.require_within("?tail", tail, 1..=LOG_LINES);
    faults.into_result(Code::InvalidRequest)?;
    app.store.job(id).await?;
    let log = app.store.log_tail(id, tail).await?;
    let mut text = String::new();
    if log.before > 0 {
        let _ = writeln!(text, "({} lines before these)", log.before);
    }
    for LogLine { at, source, text: said } in log.lines {
        let _ = writeln!(text, "{} {source}: {said}", super::time(at));
    }
    Ok(([(header::CONTENT_TYPE, "text/plain; charset=utf-8")], text).into_response())
}
