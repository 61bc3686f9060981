//! Rows along single numbers of a code, which shows what each of them means.

use axum::extract::{Request, State};
use axum::http::HeaderMap;
use axum::response::Response;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, IntoResponses, ToSchema};

use super::answers::{Documented, Sheet};
use super::bodies::{self, PostedRows, json_body};
use super::patience::Patience;
use super::prepared::{Prepared, Rows};
use super::references::{self, Reference};
use super::{Asked, BODY, FormQuery, ModelInPath, Place, QUERY, RowsBody, Wish, answers};
use crate::domain::id::{DatasetId, ModelId};
use crate::domain::refusal::{Code, Faults, Refusal};
use crate::http::App;
use crate::http::error::{ApiError, Problem};
use crate::http::extract::{Id, Query, require_json};
use crate::http::forms::{self, Matrix, RowInput};
use crate::http::inference::bodies::Missing;
use crate::http::media::Form;
use crate::serving::{Answer, Question};

/// Rows that are given for each unit, where nothing else is said.
const STEPS: u32 = 8;
/// Codes that the range of a unit is found from.
const CODES: usize = 4_096;
/// So many standard deviations to either side of the mean.
const DEVIATIONS: f64 = 3.0;

/// Where a traversal starts, and how it goes.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct TraverseQuery {
    /// A dataset with the columns of the model.
    #[param(value_type = Option<String>)]
    dataset: Option<DatasetId>,
    /// A row of that dataset, such as `7`, whose code the others are like.
    rows: Option<String>,
    /// A row whose code the others are like: numbers with commas between.
    x: Vec<String>,
    /// A code that the others are like: numbers with commas between. The mean of codes when there is no row either.
    code: Option<String>,
    /// Which number of the code is changed, counted from 0; each in its turn when left out.
    unit: Option<usize>,
    /// Rows that are given for each.
    #[param(minimum = 2, maximum = 1000)]
    steps: u32,
    /// The first value; three standard deviations of codes below their mean when left out.
    from: Option<f32>,
    /// The last value; three standard deviations above when left out.
    to: Option<f32>,
    /// The form of the answer; the `Accept` header decides when left out.
    #[param(inline)]
    format: Option<Form>,
    /// Which rows are prepared, as the network has them, instead of in the user's columns and units.
    #[param(inline)]
    prepared: Prepared,
}

impl Default for TraverseQuery {
    fn default() -> Self {
        Self {
            dataset: None,
            rows: None,
            x: Vec::new(),
            code: None,
            unit: None,
            steps: STEPS,
            from: None,
            to: None,
            format: None,
            prepared: Prepared::None,
        }
    }
}

/// Where a traversal starts, and how it goes.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TraverseBody {
    /// One row, whose code the others are like.
    rows: Option<Vec<RowInput>>,
    /// One code that the others are like. The mean of codes when there is no row either.
    #[schema(value_type = Option<Vec<Vec<f32>>>)]
    codes: Option<Vec<RowInput>>,
    /// Which number of the code is changed, counted from 0; each in its turn when left out.
    unit: Option<usize>,
    /// Rows that are given for each. 8 when left out.
    #[serde(default = "steps")]
    #[schema(minimum = 2, maximum = 1000)]
    steps: u32,
    /// The first value; three standard deviations of codes below their mean when left out.
    from: Option<f32>,
    /// The last value; three standard deviations above when left out.
    to: Option<f32>,
}

fn steps() -> u32 {
    STEPS
}

/// Rows along units of the code.
#[derive(Serialize, ToSchema)]
pub struct TraversalView<'a> {
    /// The units that are changed, counted from 0.
    units: Vec<usize>,
    /// The values of each of them, in the order of the rows.
    #[schema(value_type = Vec<Vec<f32>>)]
    values: Matrix<'a>,
    /// The rows of the first unit, then those of the next.
    #[schema(value_type = Vec<Vec<f32>>)]
    rows: Matrix<'a>,
    /// Their codes.
    #[schema(value_type = Vec<Vec<f32>>)]
    codes: Matrix<'a>,
}

impl IntoResponses for TraversalView<'_> {
    fn responses() -> Documented {
        answers::documented_rows("TraversalView", "Rows along units of the code, a line of the picture for each")
    }
}

/// What a traversal starts from.
enum Start {
    Row(Vec<f32>),
    Code(Vec<f32>),
    Mean,
}

/// How it goes.
#[derive(Clone, Copy, Debug)]
struct Way {
    unit: Option<usize>,
    steps: u32,
    from: Option<f32>,
    to: Option<f32>,
}

/// Change one number of a code at a time: the rows that the model makes of it. As PNG: a line for each.
#[utoipa::path(
    get,
    path = "/v1/models/{id}/traverse",
    tag = "inference",
    params(ModelInPath, Patience, TraverseQuery),
    responses(TraversalView, Problem)
)]
pub async fn get_traverse(
    State(app): State<App>,
    Id(id): Id<ModelId>,
    Query(query): Query<TraverseQuery>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let TraverseQuery { dataset, rows, x, code, unit, steps, from, to, format, prepared } = query;
    let asked = Asked::of(app, id, Wish { format, prepared }, &headers, Rows::InAndOut).await?;
    let names_row = dataset.is_some() || rows.is_some() || !x.is_empty();
    let start = match code {
        Some(_) if names_row => return Err(two_starts("?code").into()),
        Some(code) => {
            let code = references::inline(&[code], asked.latent(), std::iter::empty(), Missing::Refused);
            Start::Code(code.map_err(|refusal| refusal.moved("?x", "?code"))?)
        }
        None if names_row => Start::Row(Reference { dataset, rows, x }.read(&asked, Missing::AsTrained).await?),
        None => Start::Mean,
    };
    traverse(&asked, start, Way { unit, steps, from, to }, QUERY).await
}

/// Change one number of a code at a time: the rows that the model makes of it.
#[utoipa::path(
    post, path = "/v1/models/{id}/traverse", tag = "inference", params(ModelInPath, Patience, FormQuery),
    request_body = TraverseBody, responses(TraversalView, Problem)
)]
pub async fn post_traverse(
    State(app): State<App>,
    Id(id): Id<ModelId>,
    Query(query): Query<FormQuery>,
    request: Request,
) -> Result<Response, ApiError> {
    let asked = Asked::of(app, id, RowsBody::wish(&query), request.headers(), Rows::InAndOut).await?;
    require_json(request.headers())?;
    let TraverseBody { rows, codes, unit, steps, from, to } = json_body(request.into_body()).await?;
    let start = match (rows, codes) {
        (Some(_), Some(_)) => return Err(two_starts("/codes").into()),
        (Some(rows), None) => Start::Row(bodies::rows_of_json(&asked, rows)?),
        (None, Some(codes)) => Start::Code(bodies::codes_of_json(&asked, codes)?),
        (None, None) => Start::Mean,
    };
    traverse(&asked, start, Way { unit, steps, from, to }, BODY).await
}

fn two_starts(pointer: &str) -> Refusal {
    Refusal::at(
        Code::InvalidRequest,
        pointer,
        "conflict",
        "goes without a row: a traversal starts from one or the other",
    )
}

async fn traverse(asked: &Asked, start: Start, way: Way, place: Place) -> Result<Response, ApiError> {
    let (latent, steps) = (asked.latent(), way.steps as usize);
    let mut faults = Faults::new();
    faults.require_within(&format!("{place}steps"), way.steps, 2..=1000);
    if let Some(unit) = way.unit {
        faults.require_within(&format!("{place}unit"), unit, 0..=latent - 1);
    }
    for (name, value) in [("from", way.from), ("to", way.to)] {
        if value.is_some_and(|value| !value.is_finite()) {
            faults.push(format!("{place}{name}"), "out_of_range", "is not finite");
        }
    }
    let (what, count) = match &start {
        Start::Row(values) => ("rows", values.len() / asked.width()),
        Start::Code(values) => ("codes", values.len() / latent),
        Start::Mean => ("rows", 1),
    };
    if count != 1 {
        faults.push(format!("{place}{what}"), "wrong_length", format!("are {count}; a traversal starts from one"));
    }
    faults.into_result(Code::InvalidRequest)?;
    let units: Vec<usize> = way.unit.map_or_else(|| (0..latent).collect(), |unit| vec![unit]);
    Asked::check_answer_size(units.len() * steps, asked.width_out().max(latent))?;
    let ranges = Ranges::of(&asked.ask(Question::Codes { count: CODES, seed: 0 }).await?.values, latent);
    let base = match start {
        Start::Row(row) => asked.ask(Question::Encode(row)).await?.values,
        Start::Code(code) => code,
        Start::Mean => ranges.means.clone(),
    };
    let value = |unit: usize, step: usize| {
        let (low, high) = ranges.of_unit(unit);
        let (low, high) = (way.from.unwrap_or(low), way.to.unwrap_or(high));
        let share = step as f64 / (steps - 1) as f64;
        (f64::from(low) * (1.0 - share) + f64::from(high) * share) as f32
    };
    let values: Vec<f32> = units.iter().flat_map(|unit| (0..steps).map(|step| value(*unit, step))).collect();
    let mut codes = Vec::with_capacity(values.len() * latent);
    for (unit, values) in units.iter().zip(values.chunks_exact(steps)) {
        for value in values {
            let start = codes.len();
            codes.extend_from_slice(&base);
            codes[start + unit] = *value;
        }
    }
    let Answer { values: rows, .. } = asked.ask(Question::Decode(codes.clone())).await?;
    if asked.form == Form::Json {
        let (values, codes) = (Matrix::new(&values, steps), Matrix::new(&codes, latent));
        return forms::json(&TraversalView { units, values, rows: asked.rows(&rows), codes });
    }
    Sheet::rows(rows).across(steps).beside("codes", latent, Some(codes)).answer(asked).await
}

/// Where codes are.
struct Ranges {
    means: Vec<f32>,
    deviations: Vec<f32>,
}

impl Ranges {
    fn of(codes: &[f32], latent: usize) -> Self {
        let count = (codes.len() / latent).max(1) as f64;
        let sum = |of: &dyn Fn(usize, f64) -> f64| -> Vec<f64> {
            let mut sums = vec![0.0; latent];
            for code in codes.chunks_exact(latent) {
                for (unit, value) in code.iter().enumerate() {
                    sums[unit] += of(unit, f64::from(*value));
                }
            }
            sums.into_iter().map(|sum| sum / count).collect()
        };
        let means = sum(&|_, value| value);
        let variances = sum(&|unit, value| (value - means[unit]).powi(2));
        let deviations = variances.into_iter().map(|variance| variance.sqrt() as f32).collect();
        Self { means: means.into_iter().map(|mean| mean as f32).collect(), deviations }
    }

    fn of_unit(&self, unit: usize) -> (f32, f32) {
        let (mean, reach) = (self.means[unit], self.deviations[unit] * DEVIATIONS as f32);
        (mean - reach, mean + reach)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_three_deviations_around_the_means() {
        let ranges = Ranges::of(&[1.0, 10.0, 3.0, 10.0, 1.0, 10.0, 3.0, 10.0], 2);
        assert_eq!((ranges.of_unit(0), ranges.of_unit(1)), ((-1.0, 5.0), (10.0, 10.0)));
    }
}
