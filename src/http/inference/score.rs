//! How strange rows are.

use axum::extract::{Request, State};
use axum::http::HeaderMap;
use axum::response::Response;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, IntoResponses, ToSchema};

use super::answers::{Documented, Heads, Sheet};
use super::bodies::{Missing, Posted, PostedRows, posted};
use super::patience::Patience;
use super::prepared::{Prepared, Rows};
use super::references::Reference;
use super::{Asked, ModelInPath, Place, QUERY, Wish, answers, require_passes};
use crate::domain::id::{DatasetId, ModelId};
use crate::domain::refusal::{Code, Faults, Refusal};
use crate::http::App;
use crate::http::error::{ApiError, Problem};
use crate::http::extract::{Id, Query};
use crate::http::forms::{self, Matrix, RowInput};
use crate::http::media::Form;
use crate::models::families;
use crate::serving::{Answer, Measure, Question, SCORE_SAMPLES, Scored};

/// The share of ordinary rows that are less strange than an anomaly, where nothing else is said.
const THRESHOLD: f32 = 0.99;

/// Rows by reference or inline, and how they are judged.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ScoreQuery {
    /// A dataset with the columns of the model.
    #[param(value_type = Option<String>)]
    dataset: Option<DatasetId>,
    /// Rows of that dataset: `7`, or `0-31` with both ends.
    rows: Option<String>,
    /// A row: numbers with commas between, and of models that were trained on rows with gaps nothing where one is missing. May
    /// be repeated.
    x: Vec<String>,
    /// What `score` and `anomaly` go by.
    #[param(inline)]
    measure: Measure,
    /// Importance samples for log p(x) of each row; 0 for none. 64 for families that have a density when left out, which is what
    /// `anomaly` was calibrated with.
    #[param(minimum = 0, maximum = 10000)]
    samples: Option<u32>,
    /// Which samples.
    seed: u64,
    /// Rows that are stranger than this share of ordinary rows are anomalies.
    #[param(exclusive_minimum = 0.0, exclusive_maximum = 1.0)]
    threshold: f32,
    /// Whether the share of each column in `reconstruction` is given.
    contributions: bool,
    /// The form of the answer; the `Accept` header decides when left out.
    #[param(inline)]
    format: Option<Form>,
    /// Which rows are prepared, as the network has them, instead of in the user's columns and units.
    #[param(inline)]
    prepared: Prepared,
}

impl Default for ScoreQuery {
    fn default() -> Self {
        let ScoreOptions { measure, samples, seed, threshold, contributions, format, prepared } =
            ScoreOptions::default();
        Self {
            dataset: None,
            rows: None,
            x: Vec::new(),
            measure,
            samples,
            seed,
            threshold,
            contributions,
            format,
            prepared,
        }
    }
}

/// How rows are judged that are a body of another form than JSON; in a JSON body this stands beside the rows.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ScoreOptions {
    /// Beside a body that is not JSON: as `measure` of the JSON body.
    #[param(inline)]
    pub(in crate::http) measure: Measure,
    /// Beside a body that is not JSON: as `samples` of the JSON body.
    #[param(minimum = 0, maximum = 10000)]
    pub(in crate::http) samples: Option<u32>,
    /// Beside a body that is not JSON: as `seed` of the JSON body.
    pub(in crate::http) seed: u64,
    /// Beside a body that is not JSON: as `threshold` of the JSON body.
    #[param(exclusive_minimum = 0.0, exclusive_maximum = 1.0)]
    pub(in crate::http) threshold: f32,
    /// Beside a body that is not JSON: as `contributions` of the JSON body.
    pub(in crate::http) contributions: bool,
    /// The form of the answer; the `Accept` header decides when left out.
    #[param(inline)]
    pub(in crate::http) format: Option<Form>,
    /// Which rows are prepared, as the network has them, instead of in the user's columns and units.
    #[param(inline)]
    pub(in crate::http) prepared: Prepared,
}

impl Default for ScoreOptions {
    fn default() -> Self {
        Self {
            measure: Measure::default(),
            samples: None,
            seed: 0,
            threshold: THRESHOLD,
            contributions: false,
            format: None,
            prepared: Prepared::None,
        }
    }
}

/// Rows of a body, and how they are judged.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ScoreBody {
    /// The rows; `null` where a value is missing, of models that were trained on rows with gaps.
    rows: Vec<RowInput>,
    /// What `score` and `anomaly` go by.
    #[serde(default)]
    measure: Measure,
    /// Importance samples for log p(x) of each row; 0 for none. 64 for families that have a density when left out.
    #[serde(default)]
    #[schema(minimum = 0, maximum = 10000)]
    samples: Option<u32>,
    /// Which samples.
    #[serde(default)]
    seed: u64,
    /// Rows that are stranger than this share of ordinary rows are anomalies.
    #[serde(default = "threshold")]
    #[schema(exclusive_minimum = 0.0, exclusive_maximum = 1.0)]
    threshold: f32,
    /// Whether the share of each column in `reconstruction` is given.
    #[serde(default)]
    contributions: bool,
}

fn threshold() -> f32 {
    THRESHOLD
}

impl PostedRows for ScoreBody {
    type Options = ScoreOptions;
    const ROWS: Rows = Rows::In;

    fn split(self) -> (Vec<RowInput>, ScoreOptions) {
        let Self { rows, measure, samples, seed, threshold, contributions } = self;
        (
            rows,
            ScoreOptions { measure, samples, seed, threshold, contributions, format: None, prepared: Prepared::None },
        )
    }

    fn wish(options: &ScoreOptions) -> Wish {
        let ScoreOptions { format, prepared, .. } = *options;
        Wish { format, prepared }
    }
}

/// How strange a row is. Densities are those of prepared values.
#[derive(Serialize, ToSchema)]
pub struct ScoreView {
    /// What it is judged by, in nats; larger for stranger rows.
    score: f32,
    /// The share of ordinary rows that are less strange, from rows that the model has not trained on; absent where there were
    /// none to go by.
    #[serde(skip_serializing_if = "Option::is_none")]
    anomaly: Option<f32>,
    /// Whether its score is above that which the share `threshold` of ordinary rows has at most.
    #[serde(skip_serializing_if = "Option::is_none")]
    is_anomaly: Option<bool>,
    /// -log p(x given its code), in nats.
    reconstruction: f32,
    /// The mean squared error of what came back, over prepared numbers.
    error: f32,
    /// log p(x) by importance samples, in nats.
    #[serde(skip_serializing_if = "Option::is_none")]
    log_likelihood: Option<f32>,
    /// Its standard error, in nats; absent with a single sample.
    #[serde(skip_serializing_if = "Option::is_none")]
    standard_error: Option<f32>,
    /// How many equally weighted samples would say as much. Where it is near 1 the estimate hangs on a single sample.
    #[serde(skip_serializing_if = "Option::is_none")]
    effective_samples: Option<f32>,
    /// The evidence lower bound on log p(x), in nats.
    #[serde(skip_serializing_if = "Option::is_none")]
    elbo: Option<f32>,
}

/// How strange rows are.
#[derive(Serialize, ToSchema)]
pub struct ScoresView<'a> {
    /// One a row.
    scores: Vec<ScoreView>,
    /// The share of each feature column in `reconstruction`, one row a row, where it was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Vec<Vec<f32>>>)]
    contributions: Option<Matrix<'a>>,
    /// The feature columns, in their order, where contributions were asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    columns: Option<Vec<&'a str>>,
}

impl IntoResponses for ScoresView<'_> {
    fn responses() -> Documented {
        let main =
            "a column for each figure, and as NPY or 32-bit floats score and anomaly alone, NaN where there is none";
        answers::documented("ScoresView", "Scores", main)
    }
}

/// Tell how strange rows of a dataset are, or small inline ones.
#[utoipa::path(
    get,
    path = "/v1/models/{id}/score",
    tag = "inference",
    params(ModelInPath, Patience, ScoreQuery),
    responses(ScoresView, Problem)
)]
pub async fn get_score(
    State(app): State<App>,
    Id(id): Id<ModelId>,
    Query(query): Query<ScoreQuery>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let ScoreQuery { dataset, rows, x, measure, samples, seed, threshold, contributions, format, prepared } = query;
    let asked = Asked::of(app, id, Wish { format, prepared }, &headers, Rows::In).await?;
    let rows = Reference { dataset, rows, x }.read(&asked, Missing::AsTrained).await?;
    score(&asked, rows, ScoreOptions { measure, samples, seed, threshold, contributions, format, prepared }, QUERY)
        .await
}

/// Tell how strange rows are: what going through the code loses, of families with a density log p(x), and what share of
/// ordinary rows is less strange.
#[utoipa::path(
    post, path = "/v1/models/{id}/score", tag = "inference", params(ModelInPath, Patience, ScoreOptions),
    request_body(content((ScoreBody = "application/json"), (Vec<u8> = "application/x-npy"))),
    responses(ScoresView, Problem)
)]
pub async fn post_score(State(app): State<App>, Id(id): Id<ModelId>, request: Request) -> Result<Response, ApiError> {
    let Posted { asked, values, options, place } = posted::<ScoreBody>(app, id, request).await?;
    score(&asked, values, options, place).await
}

async fn score(asked: &Asked, rows: Vec<f32>, options: ScoreOptions, place: Place) -> Result<Response, ApiError> {
    let ScoreOptions { measure, seed, threshold, contributions, .. } = options;
    let count = rows.len() / asked.width();
    let samples = check(asked, &options, count, place)?;
    let question = Question::Score { rows, measure, threshold, samples, seed, contributions };
    let Answer { values, beside } = asked.ask(question).await?;
    let rows = Scored::rows(&values, samples > 0);
    match asked.form {
        Form::Json => {
            let names = || asked.model.schema.feature_columns().map(|column| column.name.as_str()).collect();
            forms::json(&ScoresView {
                scores: rows.map(view).collect(),
                contributions: beside
                    .as_deref()
                    .map(|shares| Matrix::new(shares, asked.model.schema.row_shape().width)),
                columns: contributions.then(names),
            })
        }
        Form::Npy | Form::F32 => {
            let matrix = rows.flat_map(|row| [row.score, row.anomaly.unwrap_or(f32::NAN)]).collect();
            Sheet::of("scores", Heads::named(&["score", "anomaly"]), matrix).answer(asked).await
        }
        _ => {
            let heads = if samples > 0 { &FIGURES[..] } else { &FIGURES[..5] };
            let matrix = rows.flat_map(|row| figures(row, heads.len())).collect();
            let heads = Heads::named(heads);
            Sheet::of("scores", heads, matrix)
                .beside("contributions", asked.model.schema.row_shape().width, beside)
                .answer(asked)
                .await
        }
    }
}

/// The columns of a table of scores: the last four only of families with a density.
const FIGURES: [&str; 9] = [
    "score",
    "anomaly",
    "is_anomaly",
    "reconstruction",
    "error",
    "log_likelihood",
    "standard_error",
    "effective_samples",
    "elbo",
];

/// A row of that table, NaN where there is none.
fn figures(row: Scored, count: usize) -> impl Iterator<Item = f32> {
    let ScoreView { score, anomaly, is_anomaly, reconstruction, error, log_likelihood, standard_error, .. } = view(row);
    let ScoreView { effective_samples, elbo, .. } = view(row);
    let is_anomaly = is_anomaly.map(|yes| f32::from(u8::from(yes)));
    let plain = [Some(score), anomaly, is_anomaly, Some(reconstruction), Some(error)];
    let density = [log_likelihood, standard_error, effective_samples, elbo];
    plain.into_iter().chain(density).map(|figure| figure.unwrap_or(f32::NAN)).take(count)
}

/// Checks what is asked. Answers how many samples are drawn.
pub(in crate::http) fn check(asked: &Asked, options: &ScoreOptions, rows: usize, place: Place) -> Result<u32, Refusal> {
    let has_density = asked.model.spec.model.has_density();
    let samples = options.samples.unwrap_or(if has_density { SCORE_SAMPLES } else { 0 });
    let mut faults = Faults::new();
    let pointer = |name: &str| format!("{place}{name}");
    let without = || {
        let all = families();
        let able: Vec<&str> = all.iter().filter(|view| view.density).map(|view| view.family).collect();
        format!("goes with a family that has a density ({}); {} has none", able.join(", "), asked.family())
    };
    faults.require_within(&pointer("samples"), samples, 0..=10_000);
    require_passes(pointer("samples"), rows, samples, &mut faults);
    if samples > 0 && !has_density {
        faults.push(pointer("samples"), "not_available", without());
    }
    if options.measure == Measure::LogLikelihood {
        if !has_density {
            faults.push(pointer("measure"), "not_available", without());
        } else if samples == 0 {
            faults.push(pointer("samples"), "conflict", "is 0; judging by log_likelihood takes at least one");
        }
    }
    if !(options.threshold > 0.0 && options.threshold < 1.0) {
        let detail = format!("is {}; allowed is a share between 0 and 1", options.threshold);
        faults.push(pointer("threshold"), "out_of_range", detail);
    }
    faults.into_result(Code::InvalidRequest)?;
    if options.contributions {
        answers::require_room(asked, pointer("contributions"))?;
    }
    Ok(samples)
}

fn view(row: Scored) -> ScoreView {
    let finite = |value: f32| Some(value).filter(|value| value.is_finite());
    ScoreView {
        score: row.score,
        anomaly: row.anomaly,
        is_anomaly: row.is_anomaly,
        reconstruction: row.reconstruction,
        error: row.error,
        log_likelihood: row.density.map(|density| density.log_likelihood),
        standard_error: row.density.and_then(|density| finite(density.standard_error)),
        effective_samples: row.density.map(|density| density.effective_draws),
        elbo: row.density.map(|density| density.evidence_bound),
    }
}
