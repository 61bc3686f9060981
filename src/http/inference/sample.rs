//! New rows.

use axum::extract::{Request, State};
use axum::http::HeaderMap;
use axum::response::Response;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, IntoResponses, ToSchema};

use super::answers::{Documented, Sheet};
use super::bodies::{PostedRows, given_row, json_body};
use super::patience::Patience;
use super::prepared::{Prepared, Rows};
use super::{Asked, BODY, FormQuery, ModelInPath, Place, QUERY, RowsBody, Wish, answers, require_passes};
use crate::domain::id::ModelId;
use crate::domain::limits::INFERENCE_ROWS;
use crate::domain::refusal::{Code, Faults, Refusal};
use crate::http::App;
use crate::http::error::{ApiError, Problem};
use crate::http::extract::{Id, Query, require_json};
use crate::http::forms::{self, Matrix, RowInput};
use crate::http::media::Form;
use crate::models::Sampling;
use crate::serving::{Answer, Draw, Question};

/// Steps of a chain when the caller names none.
const CHAIN_STEPS: u32 = 20;

/// What to draw, and the form of the answer.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct SampleQuery {
    /// How many rows.
    #[param(minimum = 1, maximum = 65536)]
    n: usize,
    /// Which ones: the same seed draws the same rows.
    seed: u64,
    /// Scales the draws of the code; below 1 gives more typical rows, above 1 more varied ones.
    #[param(minimum = 0.0, maximum = 10.0)]
    temperature: f32,
    /// Steps of the Markov chain; 20 when left out, 0 for where it starts. Only for families whose `sampling` is `chain`.
    #[param(minimum = 0, maximum = 10000)]
    steps: Option<u32>,
    /// Whether rows are drawn from what the decoder says of their codes. Otherwise they are its means. A chain of one step or
    /// more gives means.
    draw: bool,
    /// Values that the rows have, as a JSON object by column: `{"species":"Adelie"}`. The other columns are what goes with them.
    given: Option<String>,
    /// The form of the answer; the `Accept` header decides when left out.
    #[param(inline)]
    format: Option<Form>,
    /// Which rows are prepared, as the network has them, instead of in the user's columns and units.
    #[param(inline)]
    prepared: Prepared,
}

impl Default for SampleQuery {
    fn default() -> Self {
        let SampleSpec { n, seed, temperature, steps, draw, given: _ } = SampleSpec::default();
        Self { n, seed, temperature, steps, draw, given: None, format: None, prepared: Prepared::None }
    }
}

/// What to draw.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct SampleSpec {
    /// How many rows.
    #[schema(minimum = 1, maximum = 65536)]
    pub(in crate::http) n: usize,
    /// Which ones: the same seed draws the same rows.
    pub(in crate::http) seed: u64,
    /// Scales the draws of the code; below 1 gives more typical rows, above 1 more varied ones.
    #[schema(minimum = 0.0, maximum = 10.0)]
    pub(in crate::http) temperature: f32,
    /// Steps of the Markov chain; 20 when left out, 0 for where it starts. Only for families whose `sampling` is `chain`.
    #[schema(minimum = 0, maximum = 10000)]
    pub(in crate::http) steps: Option<u32>,
    /// Whether rows are drawn from what the decoder says of their codes. Otherwise they are its means. A chain of one step or
    /// more gives means.
    pub(in crate::http) draw: bool,
    /// Values that the rows have, by column; the other columns are what goes with them. `null` is a value that may be any.
    #[schema(value_type = Option<RowInput>, default = json!(null))]
    pub(in crate::http) given: Option<RowInput>,
}

impl Default for SampleSpec {
    fn default() -> Self {
        Self { n: 16, seed: 0, temperature: 1.0, steps: None, draw: false, given: None }
    }
}

/// New rows.
#[derive(Serialize, ToSchema)]
pub struct SampledView<'a> {
    /// Each an array in the order of the columns, in the user's units.
    #[schema(value_type = Vec<Vec<f32>>)]
    rows: Matrix<'a>,
    /// Where values were given: how many equally weighted codes they left of those that were drawn, 8 a row and 4,096 at least. Where
    /// that is less than `n`, rows share codes; `impute` with `draws` answers better then.
    #[serde(skip_serializing_if = "Option::is_none")]
    effective_codes: Option<f32>,
}

impl IntoResponses for SampledView<'_> {
    fn responses() -> Documented {
        answers::documented_rows("SampledView", "New rows")
    }
}

/// Draw new rows: `?n=16&seed=7`. With `given` only such as have those values.
#[utoipa::path(
    get,
    path = "/v1/models/{id}/sample",
    tag = "inference",
    params(ModelInPath, Patience, SampleQuery),
    responses(SampledView, Problem)
)]
pub async fn get_sample(
    State(app): State<App>,
    Id(id): Id<ModelId>,
    Query(query): Query<SampleQuery>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let SampleQuery { n, seed, temperature, steps, draw, given, format, prepared } = query;
    let asked = Asked::of(app, id, Wish { format, prepared }, &headers, Rows::Out).await?;
    let given = given.map(|text| serde_json::from_str(&text)).transpose().map_err(|error| {
        let detail = format!("is no JSON object such as {{\"column\":value}}: {error}");
        Refusal::at(Code::InvalidRequest, "?given", "invalid", detail)
    })?;
    sample(&asked, SampleSpec { n, seed, temperature, steps, draw, given }, QUERY).await
}

/// Draw new rows; with `given` only such as have those values.
#[utoipa::path(
    post, path = "/v1/models/{id}/sample", tag = "inference", params(ModelInPath, Patience, FormQuery),
    request_body = SampleSpec, responses(SampledView, Problem)
)]
pub async fn post_sample(
    State(app): State<App>,
    Id(id): Id<ModelId>,
    Query(query): Query<FormQuery>,
    request: Request,
) -> Result<Response, ApiError> {
    let asked = Asked::of(app, id, RowsBody::wish(&query), request.headers(), Rows::Out).await?;
    require_json(request.headers())?;
    let spec: SampleSpec = json_body(request.into_body()).await?;
    sample(&asked, spec, BODY).await
}

async fn sample(asked: &Asked, spec: SampleSpec, place: Place) -> Result<Response, ApiError> {
    let Answer { values, beside } = asked.ask(question(asked, spec, place)?).await?;
    if asked.form == Form::Json {
        let effective_codes = beside.and_then(|told| told.first().copied());
        return forms::json(&SampledView { rows: asked.rows(&values), effective_codes });
    }
    Sheet::rows(values).answer(asked).await
}

/// The question, checked.
pub(in crate::http) fn question(asked: &Asked, spec: SampleSpec, place: Place) -> Result<Question, Refusal> {
    let mut faults = Faults::new();
    faults.require_within(&format!("{place}n"), spec.n, 1..=INFERENCE_ROWS);
    faults.require_within(&format!("{place}temperature"), spec.temperature, 0.0..=10.0);
    let chain_steps = chain_steps(asked, &spec, place, &mut faults);
    faults.into_result(Code::InvalidRequest)?;
    Asked::check_answer_size(spec.n, asked.width_out())?;
    let SampleSpec { n: count, seed, temperature, draw: drawn, given, .. } = spec;
    let given = given.map(|row| given_row(asked, row, &format!("{place}given"))).transpose()?;
    Ok(Question::Sample(Draw { count, seed, temperature, chain_steps, drawn, given }))
}

fn chain_steps(asked: &Asked, spec: &SampleSpec, place: Place, faults: &mut Faults) -> u32 {
    let pointer = format!("{place}steps");
    if asked.model.spec.model.sampling() != Sampling::Chain {
        if spec.steps.is_some() {
            let detail = format!("goes with a family that samples by a Markov chain; {} does not", asked.family());
            faults.push(pointer, "conflict", detail);
        }
        return 0;
    }
    let steps = spec.steps.unwrap_or(CHAIN_STEPS);
    if spec.draw && steps > 0 {
        let detail = format!(
            "goes with `steps` 0 here: {} samples by a Markov chain, which gives the means that its last step drew from",
            asked.family()
        );
        faults.push(format!("{place}draw"), "conflict", detail);
    }
    faults.require_within(&pointer, steps, 0..=10_000);
    require_passes(pointer, spec.n, steps, faults);
    steps
}
