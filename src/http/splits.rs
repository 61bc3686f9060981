//! Which rows of a job trained, validated and tested.

use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::App;
use super::error::{ApiError, Problem};
use super::extract::{Id, Query};
use crate::data::split::Part;
use crate::domain::id::JobId;
use crate::domain::limits::{PAGE_ROWS, PAGE_ROWS_MOST};
use crate::domain::refusal::{Code, Faults, Refusal};

/// Which rows are wanted.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct SplitQuery {
    /// The part whose rows are listed; none when left out.
    #[param(inline)]
    part: Option<Part>,
    /// How many of them to pass over.
    #[serde(default)]
    offset: u64,
    /// How many rows; 100 when left out, at most 10,000.
    limit: Option<u64>,
}

/// How the rows of a job were divided.
#[derive(Debug, Serialize, ToSchema)]
pub struct SplitView {
    /// How many rows train.
    pub train: u64,
    /// How many pick the best epoch.
    pub validation: u64,
    /// How many are measured once, at the end.
    pub test: u64,
    /// Where the rows of the part that was asked for stand in the dataset, in ascending order, counted from 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rows: Option<Vec<u32>>,
    /// Whether that part has rows beyond these.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub has_more: Option<bool>,
}

/// How the rows of a job were divided: how many train, validate and test, and with `?part=` which ones.
#[utoipa::path(
    get, path = "/v1/jobs/{id}/split", tag = "jobs", params(("id" = String, Path, description = "The id of a job"), SplitQuery),
    responses((status = 200, body = SplitView), (status = "default", body = Problem, content_type = "application/problem+json"))
)]
pub async fn get_split(
    State(app): State<App>,
    Id(id): Id<JobId>,
    Query(query): Query<SplitQuery>,
) -> Result<Json<SplitView>, ApiError> {
    let limit = query.limit.unwrap_or(PAGE_ROWS);
    let mut faults = Faults::new();
    faults.require_within("?limit", limit, 1..=PAGE_ROWS_MOST);
    faults.into_result(Code::InvalidRequest)?;
    app.store.job(id).await?;
    let counts = app.store.split_counts(id).await?.ok_or_else(|| {
        Refusal::new(
            Code::NotFound,
            format!("the rows of the job {id} are divided when it begins, and it has not begun"),
        )
    })?;
    let mut view =
        SplitView { train: counts.train, validation: counts.validation, test: counts.test, rows: None, has_more: None };
    if let Some(part) = query.part {
        let split = app.store.split(&counts).await?;
        let all = split.part(part);
        let first = usize::try_from(query.offset).unwrap_or(usize::MAX).min(all.len());
        let last = first.saturating_add(limit as usize).min(all.len());
        (view.rows, view.has_more) = (Some(all[first..last].to_vec()), Some(last < all.len()));
    }
    Ok(Json(view))
}
