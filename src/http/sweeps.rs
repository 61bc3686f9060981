//! Sweeps: many jobs from one description, the best model first.

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::App;
use super::error::{ApiError, Problem, internal};
use super::extract::{Id, Lenient, Nothing, Query};
use super::jobs::{CreateQuery, WaitQuery, idempotency_key};
use super::lists::{List, page};
use super::trials::{self, settled};
use crate::domain::id::{JobId, ModelId, SweepId};
use crate::domain::job::{JobStatus, StopReason};
use crate::domain::sweep::{SweepStatus, TrialCounts};
use crate::store::sweeps::{Sweep, TrialRow};
use crate::training::sweeps::SweepSpec;

/// A sweep.
#[derive(Debug, Serialize, ToSchema)]
pub struct SweepView {
    /// Its id.
    pub id: SweepId,
    /// What it was called.
    pub name: Option<String>,
    /// Where it stands.
    pub status: SweepStatus,
    /// How many of its trials stand where.
    pub counts: TrialCounts,
    /// With `asha`: the epochs after which trials are compared, pre-training not counted; else empty.
    pub rungs: Vec<u32>,
    /// What was asked for, with what was left out.
    pub spec: SweepSpec,
    /// When it was asked for (RFC 3339).
    pub created_at: String,
    /// When its first job began.
    pub started_at: Option<String>,
    /// When its last job ended.
    pub finished_at: Option<String>,
}

impl From<Sweep> for SweepView {
    fn from(sweep: Sweep) -> Self {
        Self {
            id: sweep.id,
            name: sweep.spec.name.clone(),
            status: sweep.status,
            counts: sweep.counts,
            rungs: sweep.rungs,
            spec: sweep.spec,
            created_at: super::time(sweep.created_at),
            started_at: sweep.started_at.map(super::time),
            finished_at: sweep.finished_at.map(super::time),
        }
    }
}

/// One job of a sweep.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct TrialView {
    /// Counts from 1, in the order of the queue.
    pub number: u32,
    /// The job.
    pub job_id: JobId,
    /// The values that were set, by JSON pointer.
    #[schema(value_type = Object)]
    pub values: serde_json::Map<String, serde_json::Value>,
    /// Where the job stands.
    pub status: JobStatus,
    /// Why training ended; `not_promoted` when others were better after as many epochs.
    pub stop_reason: Option<StopReason>,
    /// The metric: of the finished model, else the best of the epochs so far. `null` when there is none.
    pub value: Option<f64>,
    /// Its model, unless there is none or it was deleted.
    pub model_id: Option<ModelId>,
    /// Epochs it has done.
    pub epochs: u32,
    /// With `asha`: how often it was promoted, else `null`.
    pub rung: Option<u32>,
    /// Whether it rests at its rung, to be compared with others.
    pub is_resting: bool,
}

/// A sweep with its trials.
#[derive(Debug, Serialize, ToSchema)]
pub struct SweepTrialsView {
    /// What lists show of it.
    #[serde(flatten)]
    pub sweep: SweepView,
    /// The best trial that has a model.
    pub best: Option<TrialView>,
    /// All trials, the best first: those with a model by the metric, then those that came further, each by the metric.
    pub trials: Vec<TrialView>,
}

impl SweepTrialsView {
    async fn of(app: &App, sweep: Sweep) -> Result<Self, ApiError> {
        let is_asha = !sweep.rungs.is_empty();
        let view = |trial: TrialRow| TrialView {
            number: trial.number,
            job_id: trial.job,
            values: trials::values(trial.chosen),
            status: trial.status,
            stop_reason: trial.stop_reason,
            value: trial.value,
            model_id: trial.model,
            epochs: trial.epochs,
            rung: is_asha.then_some(trial.rung as u32),
            is_resting: trial.is_resting && trial.status == JobStatus::Paused,
        };
        let trials: Vec<TrialView> = app.store.trials(&sweep).await?.into_iter().map(view).collect();
        let best = trials.first().filter(|trial| trial.model_id.is_some()).cloned();
        Ok(Self { sweep: sweep.into(), best, trials })
    }
}

/// Queue many jobs that differ in some fields of their spec: every combination of values (`grid`), combinations drawn at random
/// (`random`), or the same of which only the best train for long (`asha`).
///
/// Fields are named by JSON pointers into the job spec. The trials are ordinary jobs with a `sweep_id`. With an `Idempotency-Key`
/// header the same request gives the same sweep, however often it is sent.
#[utoipa::path(
    post, path = "/v1/sweeps", tag = "sweeps", request_body = SweepSpec,
    params(CreateQuery, ("Idempotency-Key" = Option<String>, Header, description = "Any text of up to 200 characters that names this request")),
    responses((status = 202, body = SweepTrialsView), (status = "default", body = Problem, content_type = "application/problem+json"))
)]
pub async fn create_sweep(
    State(app): State<App>,
    Query(query): Query<CreateQuery>,
    headers: HeaderMap,
    body: Lenient<SweepSpec>,
) -> Result<Response, ApiError> {
    let key = idempotency_key(&headers)?;
    let mut faults = body.faults;
    let options = query.options(&mut faults);
    for (pointer, is_given) in [("?dry_run", query.dry_run), ("?register", query.register.is_some())] {
        if is_given {
            faults.push(pointer, "conflict", "is for single jobs");
        }
    }
    let spec = settled(faults, body.value)?;
    let trials = trials::trials(&app, spec.clone(), &options).await?;
    let sweep = app.jobs.submit_sweep(spec, trials, query.priority, options, key).await?;
    let location = HeaderValue::try_from(format!("/v1/sweeps/{}", sweep.id)).map_err(|error| internal(&error))?;
    let view = SweepTrialsView::of(&app, sweep).await?;
    Ok((StatusCode::ACCEPTED, [(header::LOCATION, location)], Json(view)).into_response())
}

/// Which sweeps a list shows.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ListQuery {
    /// How many; 20 when left out, at most 100.
    limit: Option<u32>,
    /// The last id of the page before.
    #[param(value_type = Option<String>)]
    after: Option<SweepId>,
}

/// List sweeps, the newest first, without their trials.
#[utoipa::path(
    get, path = "/v1/sweeps", tag = "sweeps", params(ListQuery),
    responses((status = 200, body = List<SweepView>), (status = "default", body = Problem, content_type = "application/problem+json"))
)]
pub async fn list_sweeps(
    State(app): State<App>,
    Query(query): Query<ListQuery>,
) -> Result<Json<List<SweepView>>, ApiError> {
    let paged = app.store.sweeps(&page(query.limit, query.after)?).await?;
    Ok(Json(List::new(paged, SweepView::from, |sweep| sweep.id.to_string())))
}

/// One sweep, with its trials, the best first. With `?wait=30s` the answer comes when all of its jobs have ended, or after that time.
#[utoipa::path(
    get, path = "/v1/sweeps/{id}", tag = "sweeps", params(("id" = String, Path, description = "The id of a sweep"), WaitQuery),
    responses((status = 200, body = SweepTrialsView), (status = "default", body = Problem, content_type = "application/problem+json"))
)]
pub async fn get_sweep(
    State(app): State<App>,
    Id(id): Id<SweepId>,
    Query(query): Query<WaitQuery>,
) -> Result<Json<SweepTrialsView>, ApiError> {
    let wait = query.duration()?;
    // News that come after this line are seen, so nothing is missed between the two looks.
    let mut news = app.jobs.feed().follow_sweeps();
    let mut sweep = app.store.sweep(id).await?;
    let deadline = tokio::time::Instant::now() + wait;
    let shutdown = app.jobs.shutdown_token();
    while !sweep.status.is_terminal() && !wait.is_zero() {
        tokio::select! {
            Ok(()) = news.changed() => sweep = app.store.sweep(id).await?,
            () = tokio::time::sleep_until(deadline) => break,
            () = shutdown.cancelled() => break,
        }
    }
    Ok(Json(SweepTrialsView::of(&app, sweep).await?))
}

/// Ask all jobs of a sweep to end. Those that wait end at once; running ones stop at their next step. Models that are there stay.
#[utoipa::path(
    post, path = "/v1/sweeps/{id}/cancel", tag = "sweeps", params(("id" = String, Path, description = "The id of a sweep")),
    responses((status = 202, body = SweepTrialsView), (status = "default", body = Problem, content_type = "application/problem+json"))
)]
pub async fn cancel_sweep(
    State(app): State<App>,
    _: Query<Nothing>,
    Id(id): Id<SweepId>,
) -> Result<(StatusCode, Json<SweepTrialsView>), ApiError> {
    let sweep = app.jobs.cancel_sweep(id).await?;
    Ok((StatusCode::ACCEPTED, Json(SweepTrialsView::of(&app, sweep).await?)))
}
