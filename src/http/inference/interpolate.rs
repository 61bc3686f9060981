//! Rows on the way from one row or code to another, through the code.

use axum::extract::{Request, State};
use axum::http::HeaderMap;
use axum::response::Response;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, IntoResponses, ToSchema};

use super::answers::{Documented, Sheet};
use super::bodies::{self, Missing, Posted, PostedRows, json_body, posted};
use super::patience::Patience;
use super::prepared::{Prepared, Rows};
use super::references::{self, Reference};
use super::{Asked, BODY, ModelInPath, Place, QUERY, RowsBody, Wish, answers};
use crate::domain::id::{DatasetId, ModelId};
use crate::domain::refusal::{Code, Faults, Refusal};
use crate::http::App;
use crate::http::error::{ApiError, Problem};
use crate::http::extract::{Id, Query, query};
use crate::http::forms::{self, Matrix, RowInput};
use crate::http::media::{BodyForm, Form};
use crate::serving::{Answer, Question};

/// Rows that are given for a way, both ends among them, where nothing else is said.
const STEPS: u32 = 8;

/// How codes go from one to the next.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Way {
    /// In a straight line.
    #[default]
    Linear,
    /// Along the arc between their directions (Shoemake, 1985), which keeps to the lengths that codes of a normal prior have.
    Spherical,
}

/// Rows by reference or inline, and the way between them.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct InterpolateQuery {
    /// A dataset with the columns of the model.
    #[param(value_type = Option<String>)]
    dataset: Option<DatasetId>,
    /// Rows of that dataset, such as `3-5`: the way goes from each to the next.
    rows: Option<String>,
    /// A row: numbers with commas between. Two or more; the way goes from each to the next.
    x: Vec<String>,
    /// A code: numbers with commas between. Two or more, instead of rows.
    code: Vec<String>,
    /// Rows that are given for each way, both ends among them.
    #[param(minimum = 2, maximum = 1000)]
    steps: u32,
    /// How codes go from one to the next.
    #[param(inline)]
    way: Way,
    /// The form of the answer; the `Accept` header decides when left out.
    #[param(inline)]
    format: Option<Form>,
    /// Which rows are prepared, as the network has them, instead of in the user's columns and units.
    #[param(inline)]
    prepared: Prepared,
}

impl Default for InterpolateQuery {
    fn default() -> Self {
        Self {
            dataset: None,
            rows: None,
            x: Vec::new(),
            code: Vec::new(),
            steps: STEPS,
            way: Way::Linear,
            format: None,
            prepared: Prepared::None,
        }
    }
}

/// The way between rows that are a body of another form than JSON; in a JSON body this stands beside the rows.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct InterpolateOptions {
    /// Beside a body that is not JSON: as `steps` of the JSON body.
    #[param(minimum = 2, maximum = 1000)]
    steps: u32,
    /// Beside a body that is not JSON: as `way` of the JSON body.
    #[param(inline)]
    way: Way,
    /// The form of the answer; the `Accept` header decides when left out.
    #[param(inline)]
    format: Option<Form>,
    /// Which rows are prepared, as the network has them, instead of in the user's columns and units.
    #[param(inline)]
    prepared: Prepared,
}

impl Default for InterpolateOptions {
    fn default() -> Self {
        Self { steps: STEPS, way: Way::Linear, format: None, prepared: Prepared::None }
    }
}

/// Rows of a body, and the way between them.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct InterpolateBody {
    /// Two rows or more: the way goes from each to the next.
    rows: Option<Vec<RowInput>>,
    /// Two codes or more, instead of rows.
    #[schema(value_type = Option<Vec<Vec<f32>>>)]
    codes: Option<Vec<RowInput>>,
    /// Rows that are given for each way, both ends among them. 8 when left out.
    #[serde(default = "steps")]
    #[schema(minimum = 2, maximum = 1000)]
    steps: u32,
    /// How codes go from one to the next.
    #[serde(default)]
    way: Way,
}

fn steps() -> u32 {
    STEPS
}

impl PostedRows for InterpolateBody {
    type Options = InterpolateOptions;

    fn split(self) -> (Vec<RowInput>, InterpolateOptions) {
        (
            self.rows.unwrap_or_default(),
            InterpolateOptions { steps: self.steps, way: self.way, format: None, prepared: Prepared::None },
        )
    }

    fn wish(options: &InterpolateOptions) -> Wish {
        let InterpolateOptions { format, prepared, .. } = *options;
        Wish { format, prepared }
    }
}

/// Rows on a way.
#[derive(Serialize, ToSchema)]
pub struct WayView<'a> {
    /// The rows, in the user's units; each way after the other.
    #[schema(value_type = Vec<Vec<f32>>)]
    rows: Matrix<'a>,
    /// Their codes.
    #[schema(value_type = Vec<Vec<f32>>)]
    codes: Matrix<'a>,
}

impl IntoResponses for WayView<'_> {
    fn responses() -> Documented {
        answers::documented_rows("WayView", "Rows on the way, and their codes")
    }
}

/// Go from row to row of a dataset, or of small inline ones, or from code to code.
#[utoipa::path(
    get,
    path = "/v1/models/{id}/interpolate",
    tag = "inference",
    params(ModelInPath, Patience, InterpolateQuery),
    responses(WayView, Problem)
)]
pub async fn get_interpolate(
    State(app): State<App>,
    Id(id): Id<ModelId>,
    Query(query): Query<InterpolateQuery>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let InterpolateQuery { dataset, rows, x, code, steps, way, format, prepared } = query;
    let asked = Asked::of(app, id, Wish { format, prepared }, &headers, Rows::InAndOut).await?;
    let names_rows = dataset.is_some() || rows.is_some() || !x.is_empty();
    let ends = match code.is_empty() {
        false if names_rows => return Err(two_kinds("?code").into()),
        false => {
            let codes = references::inline(&code, asked.latent(), std::iter::empty(), Missing::Refused);
            Ends::Codes(codes.map_err(|refusal| refusal.moved("?x", "?code"))?)
        }
        true => Ends::Rows(Reference { dataset, rows, x }.read(&asked, Missing::AsTrained).await?),
    };
    interpolate(&asked, ends, &InterpolateOptions { steps, way, format, prepared }, QUERY).await
}

/// Go from row to row, or from code to code: the rows whose codes lie evenly between those of each and the next.
#[utoipa::path(
    post, path = "/v1/models/{id}/interpolate", tag = "inference", params(ModelInPath, Patience, InterpolateOptions),
    request_body(content((InterpolateBody = "application/json"), (Vec<u8> = "application/x-npy"))),
    responses(WayView, Problem)
)]
pub async fn post_interpolate(
    State(app): State<App>,
    Id(id): Id<ModelId>,
    request: Request,
) -> Result<Response, ApiError> {
    if BodyForm::of(request.headers())? != BodyForm::Json {
        let Posted { asked, values, options, place } = posted::<InterpolateBody>(app, id, request).await?;
        return interpolate(&asked, Ends::Rows(values), &options, place).await;
    }
    let wish = RowsBody::wish(&query(request.uri())?);
    let asked = Asked::of(app, id, wish, request.headers(), Rows::InAndOut).await?;
    let InterpolateBody { rows, codes, steps, way } = json_body(request.into_body()).await?;
    let ends = match (rows, codes) {
        (Some(_), Some(_)) => return Err(two_kinds("/codes").into()),
        (None, Some(codes)) => Ends::Codes(bodies::codes_of_json(&asked, codes)?),
        (rows, None) => Ends::Rows(bodies::rows_of_json(&asked, rows.unwrap_or_default())?),
    };
    interpolate(&asked, ends, &InterpolateOptions { steps, way, ..InterpolateOptions::default() }, BODY).await
}

/// What ways go between.
enum Ends {
    Rows(Vec<f32>),
    Codes(Vec<f32>),
}

fn two_kinds(pointer: &str) -> Refusal {
    Refusal::at(Code::InvalidRequest, pointer, "conflict", "goes without rows: a way is between rows or between codes")
}

async fn interpolate(
    asked: &Asked,
    ends: Ends,
    options: &InterpolateOptions,
    place: Place,
) -> Result<Response, ApiError> {
    let (latent, steps) = (asked.latent(), options.steps as usize);
    let (count, what) = match &ends {
        Ends::Rows(rows) => (rows.len() / asked.width(), "rows"),
        Ends::Codes(codes) if place == QUERY => (codes.len() / latent, "code"),
        Ends::Codes(codes) => (codes.len() / latent, "codes"),
    };
    let mut faults = Faults::new();
    if count < 2 {
        faults.push(format!("{place}{what}"), "wrong_length", "is one; a way takes two or more");
    }
    faults.require_within(&format!("{place}steps"), options.steps, 2..=1000);
    faults.into_result(Code::InvalidRequest)?;
    Asked::check_answer_size((count - 1) * steps, asked.width_out().max(latent))?;
    let codes = match ends {
        Ends::Rows(rows) => asked.ask(Question::Encode(rows)).await?.values,
        Ends::Codes(codes) => codes,
    };
    let ends: Vec<&[f32]> = codes.chunks_exact(latent).collect();
    let on_the_way: Vec<f32> = ends
        .windows(2)
        .flat_map(|ends| {
            (0..steps).map(move |step| between(ends[0], ends[1], step as f64 / (steps - 1) as f64, options.way))
        })
        .flatten()
        .collect();
    let Answer { values, .. } = asked.ask(Question::Decode(on_the_way.clone())).await?;
    if asked.form == Form::Json {
        return forms::json(&WayView { rows: asked.rows(&values), codes: Matrix::new(&on_the_way, latent) });
    }
    Sheet::rows(values).beside("codes", latent, Some(on_the_way)).answer(asked).await
}

/// The code at the share `share` of the way from `from` to `to`.
fn between(from: &[f32], to: &[f32], share: f64, way: Way) -> Vec<f32> {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
    let lengths = (dot(from, from) * dot(to, to)).sqrt();
    let angle = if lengths > 0.0 { (dot(from, to) / lengths).clamp(-1.0, 1.0).acos() } else { 0.0 };
    let (a, b) = match way {
        // Between like or opposite directions there is no arc, or any.
        Way::Spherical if angle.sin() > 1e-6 => {
            (((1.0 - share) * angle).sin() / angle.sin(), (share * angle).sin() / angle.sin())
        }
        _ => (1.0 - share, share),
    };
    from.iter().zip(to).map(|(from, to)| (a * f64::from(*from) + b * f64::from(*to)) as f32).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(from: [f32; 2], to: [f32; 2], way: Way, middle: [f32; 2]) {
        let found = between(&from, &to, 0.5, way);
        let close = |a: &[f32], b: &[f32]| a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-6);
        assert!(close(&found, &middle), "{found:?}");
        assert!(close(&between(&from, &to, 0.0, way), &from) && close(&between(&from, &to, 1.0, way), &to));
    }

    #[test]
    fn an_arc_keeps_its_length_and_a_line_does_not() {
        check([2.0, 0.0], [0.0, 2.0], Way::Linear, [1.0, 1.0]);
        check([2.0, 0.0], [0.0, 2.0], Way::Spherical, [2_f32.sqrt(), 2_f32.sqrt()]);
        // Where there is no arc it is a line.
        check([1.0, 1.0], [3.0, 3.0], Way::Spherical, [2.0, 2.0]);
        check([0.0, 0.0], [1.0, 3.0], Way::Spherical, [0.5, 1.5]);
    }
}
