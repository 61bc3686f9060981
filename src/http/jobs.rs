//! Jobs: ask for training, follow it, stop it.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::sse::{Event as SseEvent, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use utoipa::{IntoParams, ToSchema};

use super::App;
use super::error::{ApiError, Problem, internal};
use super::estimates::EstimateView;
use super::extract::{Id, Lenient, Nothing, Query};
use super::job_specs::{JobBody, JobSpec, ask};
use super::life::WaitingView;
use super::lists::{List, page};
use super::phases::{LimitsView, PhaseView};
use crate::domain::id::{DatasetId, JobId, ModelId, SweepId};
use crate::domain::job::{JobStatus, Phase, Progress, Retention, RunOptions, StopReason};
use crate::domain::limits::{
    CHECKPOINTS, METRIC_POINTS_MOST, PAGE_ITEMS_MOST, PRIORITY, RUNTIME_SECONDS, TRAINER_MIB, WAIT_SECONDS_MOST,
};
use crate::domain::reference::ModelName;
use crate::domain::refusal::{Category, Code, Fault, Faults, Refusal};
use crate::store::StoreError;
use crate::store::events::Event;
use crate::store::jobs::{Job, JobFilter, unknown_dataset};
use crate::store::metrics::Series;
use crate::training::inference::JobKind;
use crate::training::spec::TrainSpec;

/// Why a job failed.
#[derive(Debug, Serialize, ToSchema)]
pub struct JobErrorView {
    /// The code, as a failed request would have it.
    pub code: Code,
    /// Who can do something about it.
    pub category: Category,
    /// What happened.
    pub detail: String,
    /// Single faults.
    pub errors: Vec<Fault>,
}

/// A job.
#[derive(Debug, Serialize, ToSchema)]
pub struct JobView {
    /// Its id.
    pub id: JobId,
    /// What kind of job it is.
    pub kind: JobKind,
    /// What it was called.
    pub name: Option<String>,
    /// Where it stands.
    pub status: JobStatus,
    /// What it does just now: `waiting`, `starting`, `preparing`, `pretraining`, `training`, `inference`, `evaluating`, `fitting_sampler`,
    /// `calibrating`, `storing`, `pausing`, `paused`, `stopping` or `done`. More may come.
    pub phase: String,
    /// What it did when, in order; lists leave it out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub phases: Option<Vec<PhaseView>>,
    /// How far it is.
    pub progress: Option<Progress>,
    /// Figures of its model; `null` until it succeeded.
    pub metrics: Option<BTreeMap<String, f64>>,
    /// Why training ended.
    pub stop_reason: Option<StopReason>,
    /// Why it failed.
    pub error: Option<JobErrorView>,
    /// Jobs of a higher priority leave the queue first.
    pub priority: i32,
    /// Its place in the queue; 1 is next. `null` when it is not in there.
    pub queue_position: Option<i64>,
    /// What it waits for, while it is queued or paused.
    pub waiting_for: Option<WaitingView>,
    /// What it may use up, and what stays of it.
    pub limits: LimitsView,
    /// Seconds that workers were at it, over all attempts.
    pub runtime_seconds: f64,
    /// The job that this one tries again.
    pub parent_job_id: Option<JobId>,
    /// The sweep that it is a trial of.
    pub sweep_id: Option<SweepId>,
    /// Its model, once it succeeded.
    pub model_id: Option<ModelId>,
    /// The dataset it trains on, or asks a model about.
    pub dataset_id: DatasetId,
    /// The dataset that a job of inference made, once it succeeded.
    pub result_dataset_id: Option<DatasetId>,
    /// How often it was begun; above 1 after an interruption.
    pub attempt: i64,
    /// The name that its model is registered under.
    pub register: Option<ModelName>,
    /// The spec, with what the data decides filled in.
    pub spec: JobSpec,
    /// When it was asked for (RFC 3339).
    pub created_at: String,
    /// When it was first begun.
    pub started_at: Option<String>,
    /// When it ended.
    pub finished_at: Option<String>,
}

impl JobView {
    pub(super) fn new(app: &App, job: Job) -> Self {
        let live = app.jobs.feed().progress(job.id);
        let waiting_for = WaitingView::of(app, &job);
        let phase = match job.status {
            JobStatus::Queued => Phase::Waiting,
            JobStatus::Running if job.pausing => Phase::Pausing,
            JobStatus::Running => Phase::Starting,
            JobStatus::Cancelling => Phase::Stopping,
            JobStatus::Paused => Phase::Paused,
            JobStatus::Succeeded | JobStatus::Failed | JobStatus::Cancelled => Phase::Done,
        };
        let spec = JobSpec::of(&job);
        // What a running job does, its trainer tells.
        let told = job.phase.filter(|_| phase == Phase::Starting);
        Self {
            id: job.id,
            kind: if job.inference.is_some() { JobKind::Inference } else { JobKind::Training },
            spec,
            result_dataset_id: job.result_dataset_id,
            name: job.name,
            status: job.status,
            waiting_for,
            priority: job.priority,
            queue_position: job.queue_position,
            parent_job_id: job.parent_job_id,
            phase: told.unwrap_or_else(|| phase.as_str().to_owned()),
            phases: None,
            limits: job.options.into(),
            runtime_seconds: job.ran_ms as f64 / 1000.0,
            sweep_id: job.trial.map(|trial| trial.sweep),
            progress: live.or(job.progress),
            metrics: job.metrics,
            stop_reason: job.stop_reason,
            error: job.error.map(|Refusal { code, detail, errors }| JobErrorView {
                code,
                category: code.category(),
                detail,
                errors,
            }),
            model_id: job.model_id,
            dataset_id: job.dataset_id,
            attempt: job.attempt,
            register: job.register,
            created_at: super::time(job.created_at),
            started_at: job.started_at.map(super::time),
            finished_at: job.finished_at.map(super::time),
        }
    }
}

/// How a new job waits.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct CreateQuery {
    /// Jobs of a higher priority leave the queue first: -100 to 100, 0 when left out.
    #[serde(default)]
    #[param(value_type = Option<i32>)]
    pub(super) priority: i32,
    /// The name to register the model under once it is there: it becomes the next version of that name.
    #[param(value_type = Option<String>)]
    pub(super) register: Option<ModelName>,
    /// Seconds that workers may spend on it, over all attempts. Then it ends after the step under way, with a model.
    max_runtime_seconds: Option<u32>,
    /// MiB of memory that its trainer may have of its own. The server's own limit holds too.
    max_memory_mib: Option<u64>,
    /// Checkpoints to keep of those that were the best when they were made: 0 to 10, 1 when left out.
    keep_best: Option<u32>,
    /// Checkpoints to keep of the latest: 1 to 10, 1 when left out. While it has not ended there are two at least.
    keep_latest: Option<u32>,
    /// Whether checkpoints stay when the job has succeeded; `false` when left out.
    #[serde(default)]
    #[param(value_type = Option<bool>)]
    keep_after_success: bool,
    /// Only tell what the job would take: memory, and time by a short look at it. Nothing is queued or kept.
    #[serde(default)]
    #[param(value_type = Option<bool>)]
    pub(super) dry_run: bool,
}

impl CreateQuery {
    /// Reports what a job of inference has no use for.
    fn refuse_training(&self, faults: &mut Faults) {
        let given = [
            ("register", self.register.is_some()),
            ("max_runtime_seconds", self.max_runtime_seconds.is_some()),
            ("keep_best", self.keep_best.is_some()),
            ("keep_latest", self.keep_latest.is_some()),
            ("keep_after_success", self.keep_after_success),
            ("dry_run", self.dry_run),
        ];
        for (name, _) in given.iter().filter(|(_, is_given)| *is_given) {
            faults.push(format!("?{name}"), "conflict", "goes with a job that trains");
        }
    }

    /// What the job may use up, and what stays of it; reports what is not allowed.
    pub(super) fn options(&self, faults: &mut Faults) -> RunOptions {
        faults.require_within("?priority", self.priority, PRIORITY);
        if let Some(seconds) = self.max_runtime_seconds {
            faults.require_within("?max_runtime_seconds", seconds, RUNTIME_SECONDS);
        }
        if let Some(mib) = self.max_memory_mib {
            faults.require_within("?max_memory_mib", mib, TRAINER_MIB);
        }
        let default = Retention::default();
        let keep = Retention {
            best: self.keep_best.unwrap_or(default.best),
            latest: self.keep_latest.unwrap_or(default.latest),
            after_success: self.keep_after_success,
        };
        faults.require_within("?keep_best", keep.best, 0..=CHECKPOINTS);
        faults.require_within("?keep_latest", keep.latest, 1..=CHECKPOINTS);
        RunOptions { max_runtime_seconds: self.max_runtime_seconds, max_memory_mib: self.max_memory_mib, keep }
    }
}

/// Queue a job: one that trains a model, or with `"kind": "inference"` one that asks a model about every row of a dataset.
///
/// To train, everything but `dataset` and `model.family` has a default. A job of inference makes a new dataset, whose rows are the
/// answers in the order of the rows they are about. With an `Idempotency-Key` header the same request gives the same
/// job, however often it is sent. What cannot have the memory that it needs is refused. With `dry_run` the answer
/// is what a training would take, after a second or two.
#[utoipa::path(
    post, path = "/v1/jobs", tag = "jobs", request_body = JobSpec,
    params(CreateQuery, ("Idempotency-Key" = Option<String>, Header, description = "Any text of up to 200 characters that names this request")),
    responses((status = 202, body = JobView), (status = 200, body = EstimateView, description = "The answer of a dry run"), (status = "default", body = Problem, content_type = "application/problem+json"))
)]
pub async fn create_job(
    State(app): State<App>,
    Query(query): Query<CreateQuery>,
    headers: HeaderMap,
    body: JobBody,
) -> Result<Response, ApiError> {
    let key = idempotency_key(&headers)?;
    let job = match body {
        JobBody::Training(body) => match train(&app, *body, query, key).await? {
            Asked::Job(job) => *job,
            Asked::Estimate(view) => return Ok(Json(*view).into_response()),
        },
        JobBody::Inference(mut body) => {
            query.refuse_training(&mut body.faults);
            let options = query.options(&mut body.faults);
            ask(&app, *body, query.priority, options, key).await?
        }
    };
    queued(&app, job)
}

/// What comes of a training that is asked for.
enum Asked {
    Job(Box<Job>),
    /// Of a dry run.
    Estimate(Box<EstimateView>),
}

async fn train(
    app: &App,
    body: Lenient<TrainSpec>,
    query: CreateQuery,
    key: Option<String>,
) -> Result<Asked, ApiError> {
    let mut faults = body.faults;
    let options = query.options(&mut faults);
    if let (Some(spec), false) = (&body.value, faults.is_empty()) {
        spec.find_faults(&mut faults);
    }
    faults.into_result(Code::InvalidRequest)?;
    let spec = body.value.expect("a body without faults was read");
    let dataset = app.store.dataset(spec.dataset).await.map_err(|error| match error {
        StoreError::Refused(Refusal { code: Code::NotFound, .. }) => unknown_dataset(spec.dataset).into(),
        other => ApiError::from(other),
    })?;
    let resolved = app.jobs.resolve(&spec, &dataset, &options)?;
    if query.dry_run {
        let estimate = app.jobs.estimate(resolved.clone(), &dataset, &options).await?;
        return Ok(Asked::Estimate(Box::new(EstimateView::new(resolved, options, estimate))));
    }
    let job = app.jobs.submit(resolved, query.priority, query.register, options, key).await?;
    Ok(Asked::Job(Box::new(job)))
}

/// The answer to whoever made a job: the job, and its address.
///
/// # Errors
/// Never: the address of a job goes into a header.
pub(super) fn queued(app: &App, job: Job) -> Result<Response, ApiError> {
    let location = HeaderValue::try_from(format!("/v1/jobs/{}", job.id)).map_err(|error| internal(&error))?;
    Ok((StatusCode::ACCEPTED, [(header::LOCATION, location)], Json(JobView::new(app, job))).into_response())
}

/// The key of a request, where it has one.
///
/// # Errors
/// It is too long, or no plain text.
pub(super) fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, Refusal> {
    let Some(value) = headers.get("idempotency-key") else { return Ok(None) };
    match value.to_str() {
        Ok(key) if (1..=200).contains(&key.len()) => Ok(Some(key.to_owned())),
        _ => Err(Refusal::at(
            Code::InvalidRequest,
            "Idempotency-Key",
            "invalid",
            "is not 1 to 200 characters of plain text",
        )),
    }
}

/// Which jobs a list shows.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ListQuery {
    /// How many; 20 when left out, at most 100.
    limit: Option<u32>,
    /// The last id of the page before.
    #[param(value_type = Option<String>)]
    after: Option<JobId>,
    /// Only those in this status.
    #[param(inline)]
    status: Option<JobStatus>,
    /// Only those of this family.
    family: Option<String>,
    /// Only those on this dataset.
    #[param(value_type = Option<String>)]
    dataset: Option<DatasetId>,
    /// Only those of this sweep.
    #[param(value_type = Option<String>)]
    sweep: Option<SweepId>,
    /// Only those of this kind.
    #[param(inline)]
    kind: Option<JobKind>,
}

/// List jobs, the newest first.
#[utoipa::path(
    get, path = "/v1/jobs", tag = "jobs", params(ListQuery),
    responses((status = 200, body = List<JobView>), (status = "default", body = Problem, content_type = "application/problem+json"))
)]
pub async fn list_jobs(
    State(app): State<App>,
    Query(query): Query<ListQuery>,
) -> Result<Json<List<JobView>>, ApiError> {
    let filter = JobFilter {
        status: query.status,
        family: query.family,
        dataset: query.dataset,
        sweep: query.sweep,
        kind: query.kind,
    };
    let paged = app.store.jobs(&page(query.limit, query.after)?, &filter).await?;
    Ok(Json(List::new(paged, |job| JobView::new(&app, job), |job| job.id.to_string())))
}

/// How long to wait.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct WaitQuery {
    /// Hold the answer until it has ended, at most so long: `30s` or `30`, up to 60 seconds.
    wait: Option<String>,
}

impl WaitQuery {
    /// How long to hold the answer.
    ///
    /// # Errors
    /// It is no number of seconds, or too large.
    pub(super) fn duration(&self) -> Result<Duration, Refusal> {
        self.wait.as_deref().map_or(Ok(Duration::ZERO), parse_wait)
    }
}

/// One job. With `?wait=30s` the answer comes when the job has ended, or after that time.
#[utoipa::path(
    get, path = "/v1/jobs/{id}", tag = "jobs", params(("id" = String, Path, description = "The id of a job"), WaitQuery),
    responses((status = 200, body = JobView), (status = "default", body = Problem, content_type = "application/problem+json"))
)]
pub async fn get_job(
    State(app): State<App>,
    Id(id): Id<JobId>,
    Query(query): Query<WaitQuery>,
) -> Result<Json<JobView>, ApiError> {
    let wait = query.duration()?;
    // News that come after this line are seen, so nothing is missed between the two looks.
    let mut news = app.jobs.feed().follow(id);
    let mut job = app.store.job(id).await?;
    let deadline = tokio::time::Instant::now() + wait;
    let shutdown = app.jobs.shutdown_token();
    while !job.status.is_terminal() && !wait.is_zero() {
        let version = news.borrow_and_update().version;
        let changed = async {
            while news.changed().await.is_ok() {
                if news.borrow().version != version {
                    return;
                }
            }
        };
        tokio::select! {
            () = changed => job = app.store.job(id).await?,
            () = tokio::time::sleep_until(deadline) => break,
            () = shutdown.cancelled() => break,
        }
    }
    let phases = app.store.phases(id).await?.into_iter().map(PhaseView::from).collect();
    Ok(Json(JobView { phases: Some(phases), ..JobView::new(&app, job) }))
}

fn parse_wait(text: &str) -> Result<Duration, Refusal> {
    let seconds =
        text.strip_suffix('s').unwrap_or(text).parse::<u64>().ok().filter(|seconds| *seconds <= WAIT_SECONDS_MOST);
    seconds.map(Duration::from_secs).ok_or_else(|| {
        let detail = format!("is `{text}`; allowed are whole seconds from 0 to {WAIT_SECONDS_MOST}, such as 30s");
        Refusal::at(Code::InvalidRequest, "?wait", "invalid", detail)
    })
}

/// Ask a job to end. A waiting one ends at once; a running one stops at its next step.
#[utoipa::path(
    post, path = "/v1/jobs/{id}/cancel", tag = "jobs", params(("id" = String, Path, description = "The id of a job")),
    responses((status = 202, body = JobView), (status = "default", body = Problem, content_type = "application/problem+json"))
)]
pub async fn cancel_job(
    State(app): State<App>,
    _: Query<Nothing>,
    Id(id): Id<JobId>,
) -> Result<(StatusCode, Json<JobView>), ApiError> {
    let job = app.jobs.cancel(id).await?;
    Ok((StatusCode::ACCEPTED, Json(JobView::new(&app, job))))
}

/// Which points of the curves are wanted.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct MetricsQuery {
    /// Points of each curve, evenly spaced; 1,000 when left out, at most 10,000.
    max_points: Option<u32>,
}

/// One curve.
#[derive(Debug, Serialize, ToSchema)]
pub struct SeriesView {
    /// Such as `validation/loss`. Losses are in nats per row.
    pub name: String,
    /// Epochs, from 1.
    pub steps: Vec<i64>,
    /// The number at each.
    pub values: Vec<f64>,
}

/// The curves of a job.
#[derive(Debug, Serialize, ToSchema)]
pub struct MetricsView {
    /// One for each number that is recorded.
    pub series: Vec<SeriesView>,
}

/// The curves of a job.
#[utoipa::path(
    get, path = "/v1/jobs/{id}/metrics", tag = "jobs", params(("id" = String, Path, description = "The id of a job"), MetricsQuery),
    responses((status = 200, body = MetricsView), (status = "default", body = Problem, content_type = "application/problem+json"))
)]
pub async fn get_metrics(
    State(app): State<App>,
    Id(id): Id<JobId>,
    Query(query): Query<MetricsQuery>,
) -> Result<Json<MetricsView>, ApiError> {
    let most = query.max_points.unwrap_or(1_000);
    let mut faults = Faults::new();
    faults.require_within("?max_points", most, 1..=METRIC_POINTS_MOST);
    faults.into_result(Code::InvalidRequest)?;
    app.store.job(id).await?;
    let series = app.store.series(id, most).await?;
    let view = |Series { name, steps, values }| SeriesView { name, steps, values };
    Ok(Json(MetricsView { series: series.into_iter().map(view).collect() }))
}

/// Which events are wanted.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct EventsQuery {
    /// Only events after this number.
    #[serde(default)]
    after: i64,
    /// How many in one JSON answer; 100 when left out, at most 100.
    limit: Option<u32>,
}

/// Something that happened to a job.
#[derive(Debug, Serialize, ToSchema)]
pub struct EventView {
    /// Counts from 1 without a gap.
    pub seq: i64,
    /// When (RFC 3339).
    pub at: String,
    /// `queued`, `started`, `resumed`, `epoch`, `warning`, `interrupted`, `pausing`, `paused`, `resuming`, `promoted`, `cancelling`,
    /// `succeeded`, `failed` or `cancelled`.
    pub kind: String,
    /// Its facts; `message` is for people.
    #[schema(value_type = Object)]
    pub data: serde_json::Value,
}

impl From<Event> for EventView {
    fn from(event: Event) -> Self {
        Self { seq: event.seq, at: super::time(event.at), kind: event.kind, data: event.data }
    }
}

/// Events of a job, in order.
#[derive(Debug, Serialize, ToSchema)]
pub struct EventsView {
    /// The events.
    pub data: Vec<EventView>,
    /// Whether there are later ones already.
    pub has_more: bool,
}

/// What happened to a job: JSON, or a stream of server-sent events with `Accept: text/event-stream`.
///
/// A stream begins after `Last-Event-ID` (or `?after=`), goes on until the job has ended, and carries the progress too, as
/// events named `progress` without a number.
#[utoipa::path(
    get, path = "/v1/jobs/{id}/events", tag = "jobs",
    params(("id" = String, Path, description = "The id of a job"), EventsQuery, ("Last-Event-ID" = Option<i64>, Header, description = "The last event that was seen")),
    responses((status = 200, body = EventsView), (status = 204, description = "The stream has nothing more to say"),
              (status = "default", body = Problem, content_type = "application/problem+json"))
)]
pub async fn get_events(
    State(app): State<App>,
    Id(id): Id<JobId>,
    Query(query): Query<EventsQuery>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let accept = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or("");
    if accept.contains("text/event-stream") {
        let seen =
            headers.get("last-event-id").and_then(|value| value.to_str().ok()).and_then(|text| text.parse().ok());
        return stream_events(app, id, seen.unwrap_or(query.after)).await;
    }
    let limit = query.limit.unwrap_or(PAGE_ITEMS_MOST);
    let mut faults = Faults::new();
    faults.require_within("?limit", limit, 1..=PAGE_ITEMS_MOST);
    faults.into_result(Code::InvalidRequest)?;
    app.store.job(id).await?;
    let mut events = app.store.events_after(id, query.after, limit + 1).await?;
    let has_more = events.len() > limit as usize;
    events.truncate(limit as usize);
    Ok(Json(EventsView { data: events.into_iter().map(EventView::from).collect(), has_more }).into_response())
}

async fn stream_events(app: App, id: JobId, after: i64) -> Result<Response, ApiError> {
    let permit = Arc::clone(&app.streams).try_acquire_owned().map_err(|_| {
        Refusal::new(Code::Overloaded, "as many event streams are open as this server keeps; try again later")
    })?;
    let job = app.store.job(id).await?;
    if job.status.is_terminal() && app.store.events_after(id, after, 1).await?.is_empty() {
        // By the rules of server-sent events this tells a client not to come back.
        return Ok(StatusCode::NO_CONTENT.into_response());
    }
    let (sender, receiver) = mpsc::channel(64);
    tokio::spawn(async move {
        let _permit = permit;
        if let Err(error) = feed_stream(&app, id, after, &sender).await {
            tracing::warn!(job.id = %id, %error, "An event stream of job {id} ended");
        }
    });
    let stream = Sse::new(ReceiverStream::new(receiver)).keep_alive(KeepAlive::new().interval(Duration::from_secs(15)));
    Ok(stream.into_response())
}

/// Sends what is in the database, then what comes, until the job has ended or nobody listens.
async fn feed_stream(
    app: &App,
    id: JobId,
    mut after: i64,
    sender: &mpsc::Sender<Result<SseEvent, Infallible>>,
) -> Result<(), StoreError> {
    let mut news = app.jobs.feed().follow(id);
    let shutdown = app.jobs.shutdown_token();
    let mut told = None;
    loop {
        let progress = news.borrow_and_update().progress.clone();
        let ended = app.store.job(id).await?.status.is_terminal();
        let events = app.store.events_after(id, after, PAGE_ITEMS_MOST).await?;
        let more = events.len() == PAGE_ITEMS_MOST as usize;
        for event in events {
            after = event.seq;
            let view = EventView::from(event);
            let sse = SseEvent::default().id(after.to_string()).event(view.kind.clone()).json_data(&view);
            if sender.send(Ok(sse.unwrap_or_default())).await.is_err() {
                return Ok(());
            }
        }
        if more {
            continue;
        }
        if ended {
            return Ok(());
        }
        if let Some(progress) = progress.filter(|progress| told.as_ref() != Some(progress)) {
            let sse = SseEvent::default().event("progress").json_data(&progress);
            if sender.send(Ok(sse.unwrap_or_default())).await.is_err() {
                return Ok(());
            }
            told = Some(progress);
        }
        tokio::select! {
            changed = news.changed() => if changed.is_err() {
                // The job is no longer at work here; follow it anew.
                news = app.jobs.feed().follow(id);
            },
            () = sender.closed() => return Ok(()),
            () = shutdown.cancelled() => return Ok(()),
        }
    }
}
