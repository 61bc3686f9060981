//! Jobs that wait, go on, are tried again, or get another name or priority.

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::App;
use super::error::{ApiError, Problem};
use super::extract::{Id, Lenient, Nothing, Query};
use super::jobs::{JobView, idempotency_key, queued};
use crate::domain::id::JobId;
use crate::domain::job::{JobStatus, RetryFrom, WaitingCode};
use crate::domain::limits::{EPOCHS, NAME_CHARS, PRIORITY};
use crate::domain::refusal::Code;
use crate::store::jobs::Job;
use crate::store::life::JobChange as StoredChange;

/// What a job waits for.
#[derive(Debug, Serialize, ToSchema)]
pub struct WaitingView {
    /// Clients may match on it; more may come.
    pub code: WaitingCode,
    /// The same in a sentence.
    pub detail: String,
}

impl WaitingView {
    /// What a job waits for, when it waits.
    pub(super) fn of(app: &App, job: &Job) -> Option<Self> {
        let workers = app.jobs.config().workers.max(1);
        let trial = job.trial.as_ref();
        let (code, detail) = match (job.status, job.queue_position) {
            (JobStatus::Paused, _) if trial.is_some_and(|trial| trial.is_resting) => {
                (WaitingCode::Sweep, "It rests at a rung of its sweep, which compares it with others.".to_owned())
            }
            (JobStatus::Queued, _) if trial.is_some_and(|trial| trial.is_held) => {
                (WaitingCode::Sweep, "As many jobs of its sweep run as may run at once.".to_owned())
            }
            (JobStatus::Paused, _) => (WaitingCode::Resume, "Somebody has to resume it.".to_owned()),
            (JobStatus::Queued, Some(place)) if place <= app.jobs.idle_workers() as i64 => {
                (WaitingCode::Start, "A worker is about to begin it.".to_owned())
            }
            (JobStatus::Queued, Some(place)) if place > 1 => {
                (WaitingCode::Queue, format!("Jobs that are before it in the queue: {}.", place - 1))
            }
            (JobStatus::Queued, _) => (WaitingCode::Worker, format!("All workers of this server are busy: {workers}.")),
            _ => return None,
        };
        Some(Self { code, detail })
    }
}

/// Ask a job to wait until it is resumed. A waiting one is paused at once; a running one stops at its next step, with a
/// checkpoint, and may still succeed before that. Asking again changes nothing.
#[utoipa::path(
    post, path = "/v1/jobs/{id}/pause", tag = "jobs", params(("id" = String, Path, description = "The id of a job")),
    responses((status = 202, body = JobView), (status = "default", body = Problem, content_type = "application/problem+json"))
)]
pub async fn pause_job(
    State(app): State<App>,
    _: Query<Nothing>,
    Id(id): Id<JobId>,
) -> Result<(StatusCode, Json<JobView>), ApiError> {
    let job = app.jobs.pause(id).await?;
    Ok((StatusCode::ACCEPTED, Json(JobView::new(&app, job))))
}

/// Let a paused job go on from its last checkpoint. One that is still pausing stops and goes on by itself; one that waits or runs
/// stays as it is. One that rests at a rung of its sweep is refused: the sweep decides.
#[utoipa::path(
    post, path = "/v1/jobs/{id}/resume", tag = "jobs", params(("id" = String, Path, description = "The id of a job")),
    responses((status = 202, body = JobView), (status = "default", body = Problem, content_type = "application/problem+json"))
)]
pub async fn resume_job(
    State(app): State<App>,
    _: Query<Nothing>,
    Id(id): Id<JobId>,
) -> Result<(StatusCode, Json<JobView>), ApiError> {
    let job = app.jobs.resume(id).await?;
    Ok((StatusCode::ACCEPTED, Json(JobView::new(&app, job))))
}

/// How a job is tried again.
#[derive(Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Retry {
    /// Where it begins.
    from: RetryFrom,
}

/// Try a job again that failed or was cancelled: as a new job of the same spec, which goes on from the last checkpoint that was
/// kept, where there is one. The job itself stays as it is. Each request makes another job, unless it has the
/// `Idempotency-Key` of one before.
#[utoipa::path(
    post, path = "/v1/jobs/{id}/retry", tag = "jobs",
    params(("id" = String, Path, description = "The id of a job"),
           ("Idempotency-Key" = Option<String>, Header, description = "Any text of up to 200 characters that names this request")),
    request_body = Retry,
    responses((status = 202, body = JobView), (status = "default", body = Problem, content_type = "application/problem+json"))
)]
pub async fn retry_job(
    State(app): State<App>,
    _: Query<Nothing>,
    Id(id): Id<JobId>,
    headers: HeaderMap,
    body: Lenient<Retry>,
) -> Result<Response, ApiError> {
    let key = idempotency_key(&headers)?;
    body.faults.into_result(Code::InvalidRequest)?;
    let job = app.jobs.retry(id, body.value.unwrap_or_default().from, key.as_deref()).await?;
    queued(&app, job)
}

/// How far a job goes on.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Extension {
    /// Epochs more.
    #[schema(minimum = 1, maximum = 100000)]
    epochs: u32,
}

/// Let a job that has succeeded go on for more epochs, as a new job: from its last checkpoint, as if it had never ended, where
/// that was kept (`keep_after_success`), else with the weights of its model and a fresh optimizer. The job itself stays as it is.
#[utoipa::path(
    post, path = "/v1/jobs/{id}/extend", tag = "jobs",
    params(("id" = String, Path, description = "The id of a job"),
           ("Idempotency-Key" = Option<String>, Header, description = "Any text of up to 200 characters that names this request")),
    request_body = Extension,
    responses((status = 202, body = JobView), (status = "default", body = Problem, content_type = "application/problem+json"))
)]
pub async fn extend_job(
    State(app): State<App>,
    _: Query<Nothing>,
    Id(id): Id<JobId>,
    headers: HeaderMap,
    body: Lenient<Extension>,
) -> Result<Response, ApiError> {
    let key = idempotency_key(&headers)?;
    let mut faults = body.faults;
    if let Some(extension) = &body.value {
        faults.require_within("/epochs", extension.epochs, 1..=EPOCHS);
    }
    faults.into_result(Code::InvalidRequest)?;
    let extension = body.value.expect("a body without faults was read");
    let job = app.jobs.extend(id, extension.epochs, key.as_deref()).await?;
    queued(&app, job)
}

/// What is to be changed of a job.
#[derive(Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct JobChange {
    /// Another name.
    name: Option<String>,
    /// Another priority. Jobs of a higher priority leave the queue first.
    #[schema(minimum = -100, maximum = 100)]
    priority: Option<i32>,
}

/// Give a job another name, or another priority while it has not ended.
#[utoipa::path(
    patch, path = "/v1/jobs/{id}", tag = "jobs", params(("id" = String, Path, description = "The id of a job")),
    request_body = JobChange,
    responses((status = 200, body = JobView), (status = "default", body = Problem, content_type = "application/problem+json"))
)]
pub async fn change_job(
    State(app): State<App>,
    _: Query<Nothing>,
    Id(id): Id<JobId>,
    body: Lenient<JobChange>,
) -> Result<Json<JobView>, ApiError> {
    let mut faults = body.faults;
    let change = body.value.unwrap_or_default();
    if let Some(name) = &change.name {
        faults.require_within("/name", name.chars().count(), 1..=NAME_CHARS);
    }
    if let Some(priority) = change.priority {
        faults.require_within("/priority", priority, PRIORITY);
    }
    faults.into_result(Code::InvalidRequest)?;
    let job = app.store.change_job(id, &StoredChange { name: change.name, priority: change.priority }).await?;
    app.jobs.feed().announce(id);
    Ok(Json(JobView::new(&app, job)))
}
