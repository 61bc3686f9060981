//! What was asked of models since the server started, as the protocol's statistics extension tells it.

use axum::Json;
use axum::extract::State;
use serde::Serialize;
use utoipa::ToSchema;

use super::error::ProtocolError;
use super::repository::{Entry, entries};
use super::{NameInPath, Named, Served, VersionInPath};
use crate::http::App;
use crate::http::error::ApiError;
use crate::http::extract::{Nothing, Query};
use crate::serving::{Activity, Batch, Total};

/// How often something happened, and how long it took in all.
#[derive(Debug, Serialize, ToSchema)]
pub struct DurationView {
    /// How often.
    count: u64,
    /// Nanoseconds in all.
    ns: u64,
}

impl From<Total> for DurationView {
    fn from(Total { count, ns }: Total) -> Self {
        Self { count, ns }
    }
}

/// What requests to a model came to.
#[derive(Debug, Serialize, ToSchema)]
pub struct InferenceStatisticsView {
    /// Requests that were answered.
    success: DurationView,
    /// Requests that reached the model and were not.
    fail: DurationView,
    /// What questions waited for the inference thread. A request has as many questions as its outputs need.
    queue: DurationView,
    /// Joining the rows of questions that go through the model together.
    compute_input: DurationView,
    /// Going through the model.
    compute_infer: DurationView,
    /// Dividing the answer among those who asked.
    compute_output: DurationView,
    /// Always 0: answers are not kept.
    cache_hit: DurationView,
    /// Always 0.
    cache_miss: DurationView,
}

/// Passes of one size through a model.
#[derive(Debug, Serialize, ToSchema)]
pub struct BatchStatisticsView {
    /// Rows of a pass.
    batch_size: u64,
    /// Joining rows.
    compute_input: DurationView,
    /// Going through the model.
    compute_infer: DurationView,
    /// Dividing the answer.
    compute_output: DurationView,
}

/// What was asked of a model, by this protocol and by `/v1`.
#[derive(Debug, Serialize, ToSchema)]
pub struct ModelStatisticsView {
    /// The model.
    name: String,
    /// Its version.
    version: String,
    /// When the last pass was, in milliseconds since 1970; 0 when there was none.
    last_inference: u64,
    /// Rows that went through the model; a row counts once for each question.
    inference_count: u64,
    /// Passes through the model, each of the rows of one question or of several.
    execution_count: u64,
    /// What requests came to.
    inference_stats: InferenceStatisticsView,
    /// Passes by their size.
    batch_stats: Vec<BatchStatisticsView>,
}

/// What was asked of models.
#[derive(Debug, Serialize, ToSchema)]
pub struct StatisticsView {
    /// One a model.
    model_stats: Vec<ModelStatisticsView>,
}

/// What was asked of every model since the server started.
#[utoipa::path(get, path = "/v2/models/stats", tag = "protocol", responses((status = 200, body = StatisticsView), ProtocolError))]
pub async fn all_statistics(State(app): State<App>, _: Query<Nothing>) -> Result<Json<StatisticsView>, ApiError> {
    let entries = entries(&app).await?;
    let view = |Entry { name, version, id, .. }| view(name, version, app.inference.statistics.activity(id));
    Ok(Json(StatisticsView { model_stats: entries.into_iter().map(view).collect() }))
}

/// What was asked of a model since the server started.
#[utoipa::path(get, path = "/v2/models/{name}/stats", tag = "protocol", params(NameInPath), responses((status = 200, body = StatisticsView), ProtocolError))]
pub async fn model_statistics(
    app: State<App>,
    named: Named,
    _: Query<Nothing>,
) -> Result<Json<StatisticsView>, ApiError> {
    of(app, named).await
}

/// What was asked of a version of a model since the server started.
#[utoipa::path(get, path = "/v2/models/{name}/versions/{version}/stats", tag = "protocol", params(VersionInPath), responses((status = 200, body = StatisticsView), ProtocolError))]
pub async fn version_statistics(
    app: State<App>,
    named: Named,
    _: Query<Nothing>,
) -> Result<Json<StatisticsView>, ApiError> {
    of(app, named).await
}

async fn of(State(app): State<App>, named: Named) -> Result<Json<StatisticsView>, ApiError> {
    let Served { name, version, model, .. } = Served::find(&app, named).await?;
    let activity = app.inference.statistics.activity(model.id);
    Ok(Json(StatisticsView { model_stats: vec![view(name, version, activity)] }))
}

fn view(name: String, version: String, activity: Activity) -> ModelStatisticsView {
    let Activity { success, failure, queue, input, infer, output, rows, executions, last_ms, batches } = activity;
    let batch = |(batch_size, Batch { input, infer, output })| BatchStatisticsView {
        batch_size,
        compute_input: input.into(),
        compute_infer: infer.into(),
        compute_output: output.into(),
    };
    ModelStatisticsView {
        name,
        version,
        last_inference: last_ms,
        inference_count: rows,
        execution_count: executions,
        inference_stats: InferenceStatisticsView {
            success: success.into(),
            fail: failure.into(),
            queue: queue.into(),
            compute_input: input.into(),
            compute_infer: infer.into(),
            compute_output: output.into(),
            cache_hit: Total::default().into(),
            cache_miss: Total::default().into(),
        },
        batch_stats: batches.into_iter().map(batch).collect(),
    }
}
