//! Rows with gaps to rows without.

use axum::extract::{Request, State};
use axum::http::HeaderMap;
use axum::response::Response;
use serde::Deserialize;
use utoipa::{IntoParams, ToSchema};

use super::answers::{RowsView, Sheet};
use super::bodies::{Missing, Posted, PostedRows, posted};
use super::patience::Patience;
use super::prepared::{Prepared, Rows};
use super::references::Reference;
use super::{Asked, ModelInPath, Place, QUERY, Wish, require_passes};
use crate::domain::id::{DatasetId, ModelId};
use crate::domain::refusal::{Code, Faults, Refusal};
use crate::http::App;
use crate::http::error::{ApiError, Problem};
use crate::http::extract::{Id, Query};
use crate::http::forms::{self, RowInput};
use crate::http::media::Form;
use crate::serving::{Answer, Question};

/// Rows by reference or inline, and how their gaps are filled.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ImputeQuery {
    /// A dataset with the columns of the model.
    #[param(value_type = Option<String>)]
    dataset: Option<DatasetId>,
    /// Rows of that dataset: `7`, or `0-31` with both ends.
    rows: Option<String>,
    /// A row: numbers with commas between, and nothing where one is missing. May be repeated.
    x: Vec<String>,
    /// Steps of the Markov chain, for families that have one; else how often rows go through the code and back.
    #[param(minimum = 1, maximum = 1000)]
    rounds: u32,
    /// How many times each row is filled by chance; once, by what is likeliest, when left out. All rows come by the first draw,
    /// then by the next.
    #[param(minimum = 1, maximum = 100)]
    draws: Option<u32>,
    /// Which draw of the chain, or which draws.
    seed: u64,
    /// The form of the answer; the `Accept` header decides when left out.
    #[param(inline)]
    format: Option<Form>,
    /// Which rows are prepared, as the network has them, instead of in the user's columns and units.
    #[param(inline)]
    prepared: Prepared,
}

impl Default for ImputeQuery {
    fn default() -> Self {
        let ImputeOptions { rounds, draws, seed, format, prepared } = ImputeOptions::default();
        Self { dataset: None, rows: None, x: Vec::new(), rounds, draws, seed, format, prepared }
    }
}

/// How the gaps of an NPY body are filled; in a JSON body this stands beside the rows.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ImputeOptions {
    /// Beside a body that is not JSON: as `rounds` of the JSON body.
    #[param(minimum = 1, maximum = 1000)]
    rounds: u32,
    /// Beside a body that is not JSON: as `draws` of the JSON body.
    #[param(minimum = 1, maximum = 100)]
    draws: Option<u32>,
    /// Beside a body that is not JSON: as `seed` of the JSON body.
    seed: u64,
    /// The form of the answer; the `Accept` header decides when left out.
    #[param(inline)]
    format: Option<Form>,
    /// Which rows are prepared, as the network has them, instead of in the user's columns and units.
    #[param(inline)]
    prepared: Prepared,
}

/// Rounds when the caller names none.
pub(in crate::http) const ROUNDS: u32 = 20;

impl Default for ImputeOptions {
    fn default() -> Self {
        Self { rounds: ROUNDS, draws: None, seed: 0, format: None, prepared: Prepared::None }
    }
}

/// Rows of a body, and how their gaps are filled.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ImputeBody {
    /// The rows; `null` where a value is missing. An object may also leave out what is missing.
    rows: Vec<RowInput>,
    /// Steps of the Markov chain, for families that have one; else how often rows go through the code and back. 20 when left
    /// out.
    #[schema(minimum = 1, maximum = 1000)]
    rounds: Option<u32>,
    /// How many times each row is filled by chance; once, by what is likeliest, when left out. All rows come by the first draw,
    /// then by the next.
    #[schema(minimum = 1, maximum = 100)]
    draws: Option<u32>,
    /// Which draw of the chain, or which draws.
    #[serde(default)]
    seed: u64,
}

impl PostedRows for ImputeBody {
    type Options = ImputeOptions;
    const ROWS: Rows = Rows::Filled;
    const MISSING: Missing = Missing::Kept;

    fn split(self) -> (Vec<RowInput>, ImputeOptions) {
        let defaults = ImputeOptions::default();
        let rounds = self.rounds.unwrap_or(defaults.rounds);
        (self.rows, ImputeOptions { rounds, draws: self.draws, seed: self.seed, ..defaults })
    }

    fn wish(options: &ImputeOptions) -> Wish {
        let ImputeOptions { format, prepared, .. } = *options;
        Wish { format, prepared }
    }
}

/// Fill the gaps of rows of a dataset, or of small inline ones. As PNG: rows with gaps over rows without.
#[utoipa::path(
    get,
    path = "/v1/models/{id}/impute",
    tag = "inference",
    params(ModelInPath, Patience, ImputeQuery),
    responses(RowsView, Problem)
)]
pub async fn get_impute(
    State(app): State<App>,
    Id(id): Id<ModelId>,
    Query(query): Query<ImputeQuery>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let ImputeQuery { dataset, rows, x, rounds, draws, seed, format, prepared } = query;
    let asked = Asked::of(app, id, Wish { format, prepared }, &headers, Rows::Filled).await?;
    let rows = Reference { dataset, rows, x }.read(&asked, Missing::Kept).await?;
    impute(&asked, rows, &ImputeOptions { rounds, draws, seed, format, prepared }, QUERY).await
}

/// Fill the gaps of rows: values that are known come back as they are.
#[utoipa::path(
    post, path = "/v1/models/{id}/impute", tag = "inference", params(ModelInPath, Patience, ImputeOptions),
    request_body(content((ImputeBody = "application/json"), (Vec<u8> = "application/x-npy"))),
    responses(RowsView, Problem)
)]
pub async fn post_impute(State(app): State<App>, Id(id): Id<ModelId>, request: Request) -> Result<Response, ApiError> {
    let Posted { asked, values, options, place } = posted::<ImputeBody>(app, id, request).await?;
    impute(&asked, values, &options, place).await
}

async fn impute(asked: &Asked, rows: Vec<f32>, options: &ImputeOptions, place: Place) -> Result<Response, ApiError> {
    let ImputeOptions { rounds, draws, seed, .. } = *options;
    let count = rows.len() / asked.width();
    let originals = (asked.form == Form::Png && draws.is_none()).then(|| rows.clone());
    let Answer { values, .. } = asked.ask(question(asked, rows, (rounds, draws, seed), place)?).await?;
    if asked.form == Form::Json {
        return forms::json(&RowsView { rows: asked.rows(&values) });
    }
    // Of several draws a picture has a line for each.
    Sheet::rows(values).under(originals).across(count.min(GRID_LINE)).answer(asked).await
}

/// Images in a line of draws, at most.
const GRID_LINE: usize = 64;

/// The question, checked.
pub(in crate::http) fn question(
    asked: &Asked,
    rows: Vec<f32>,
    (rounds, draws, seed): (u32, Option<u32>, u64),
    place: Place,
) -> Result<Question, Refusal> {
    let mut faults = Faults::new();
    let (pointer, count) = (format!("{place}rounds"), rows.len() / asked.width());
    faults.require_within(&pointer, rounds, 1..=1000);
    if let Some(draws) = draws {
        faults.require_within(&format!("{place}draws"), draws, 1..=100);
    }
    // One fault is told of too many draws.
    let times = draws.unwrap_or(1).clamp(1, 100) as usize;
    require_passes(pointer, count.saturating_mul(times), rounds, &mut faults);
    faults.into_result(Code::InvalidRequest)?;
    Asked::check_answer_size(count * times, asked.width_out())?;
    Ok(match draws {
        Some(draws) => Question::ImputeDraws { rows, rounds, draws, seed },
        None => Question::Impute { rows, rounds, seed },
    })
}
