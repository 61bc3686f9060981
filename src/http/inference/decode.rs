//! Codes to rows.

use axum::extract::{Request, State};
use axum::http::HeaderMap;
use axum::response::Response;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, IntoResponses, ToSchema};

use super::answers::{Documented, Sheet};
use super::bodies::{Missing, Posted, PostedRows, posted};
use super::patience::Patience;
use super::prepared::{Prepared, Rows};
use super::{Asked, ModelInPath, Place, QUERY, Wish, answers, references};
use crate::domain::id::ModelId;
use crate::domain::refusal::{Code, Faults};
use crate::http::App;
use crate::http::error::{ApiError, Problem};
use crate::http::extract::{Id, Query};
use crate::http::forms::{self, Matrix, RowInput};
use crate::http::media::Form;
use crate::serving::{Answer, Question};

/// Inline codes, and what is asked of them.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct DecodeQuery {
    /// A code: numbers with commas between. May be repeated.
    x: Vec<String>,
    /// Whether the spread of each value is told too: the standard deviation of numbers, of classes the probability of all
    /// others.
    spread: bool,
    /// Whether rows are drawn from what the decoder says of their codes. Otherwise they are its means.
    draw: bool,
    /// Which draw: the same seed draws the same rows. Only with `draw`; 0 when left out.
    seed: Option<u64>,
    /// The form of the answer; the `Accept` header decides when left out.
    #[param(inline)]
    format: Option<Form>,
    /// Which rows are prepared, as the network has them, instead of in the user's columns and units.
    #[param(inline)]
    prepared: Prepared,
}

/// What is asked of codes that are a body of another form than JSON; in a JSON body this stands beside the codes.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct DecodeOptions {
    /// Beside a body that is not JSON: as `spread` of the JSON body.
    spread: bool,
    /// Beside a body that is not JSON: as `draw` of the JSON body.
    draw: bool,
    /// Beside a body that is not JSON: as `seed` of the JSON body.
    seed: Option<u64>,
    /// The form of the answer; the `Accept` header decides when left out.
    #[param(inline)]
    format: Option<Form>,
    /// Which rows are prepared, as the network has them, instead of in the user's columns and units.
    #[param(inline)]
    prepared: Prepared,
}

/// Codes of a body, and what is asked of them.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CodesBody {
    /// Each an array of the code's width.
    #[schema(value_type = Vec<Vec<f32>>)]
    codes: Vec<RowInput>,
    /// Whether the spread of each value is told too: the standard deviation of numbers, of classes the probability of all
    /// others.
    #[serde(default)]
    spread: bool,
    /// Whether rows are drawn from what the decoder says of their codes. Otherwise they are its means.
    #[serde(default)]
    draw: bool,
    /// Which draw: the same seed draws the same rows. Only with `draw`; 0 when left out.
    seed: Option<u64>,
}

impl PostedRows for CodesBody {
    type Options = DecodeOptions;
    const ROWS: Rows = Rows::Out;
    const CODES: bool = true;

    fn split(self) -> (Vec<RowInput>, DecodeOptions) {
        let Self { codes, spread, draw, seed } = self;
        (codes, DecodeOptions { spread, draw, seed, format: None, prepared: Prepared::None })
    }

    fn wish(options: &DecodeOptions) -> Wish {
        let DecodeOptions { format, prepared, .. } = *options;
        Wish { format, prepared }
    }
}

/// Rows of codes, in the user's units.
#[derive(Serialize, ToSchema)]
pub struct DecodedView<'a> {
    /// One row a code, in the order of the columns.
    #[schema(value_type = Vec<Vec<f32>>)]
    rows: Matrix<'a>,
    /// The spread of each value, where it was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Vec<Vec<f32>>>)]
    spread: Option<Matrix<'a>>,
}

impl IntoResponses for DecodedView<'_> {
    fn responses() -> Documented {
        answers::documented_rows("DecodedView", "Rows and, where asked for, their spread")
    }
}

/// Decode a small inline code: one row a code, in the user's units.
#[utoipa::path(
    get,
    path = "/v1/models/{id}/decode",
    tag = "inference",
    params(ModelInPath, Patience, DecodeQuery),
    responses(DecodedView, Problem)
)]
pub async fn get_decode(
    State(app): State<App>,
    Id(id): Id<ModelId>,
    Query(query): Query<DecodeQuery>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let DecodeQuery { x, spread, draw, seed, format, prepared } = query;
    let asked = Asked::of(app, id, Wish { format, prepared }, &headers, Rows::Out).await?;
    let codes = references::inline(&x, asked.latent(), std::iter::empty(), Missing::Refused)?;
    decode(&asked, codes, &DecodeOptions { spread, draw, seed, format, prepared }, QUERY).await
}

/// Decode codes: one row a code, in the user's units.
#[utoipa::path(
    post, path = "/v1/models/{id}/decode", tag = "inference", params(ModelInPath, Patience, DecodeOptions),
    request_body(content((CodesBody = "application/json"), (Vec<u8> = "application/x-npy"))),
    responses(DecodedView, Problem)
)]
pub async fn post_decode(State(app): State<App>, Id(id): Id<ModelId>, request: Request) -> Result<Response, ApiError> {
    let Posted { asked, values, options, place } = posted::<CodesBody>(app, id, request).await?;
    decode(&asked, values, &options, place).await
}

async fn decode(asked: &Asked, codes: Vec<f32>, options: &DecodeOptions, place: Place) -> Result<Response, ApiError> {
    let mut faults = Faults::new();
    if options.draw && options.spread {
        faults.push(format!("{place}draw"), "conflict", "goes without `spread`: a draw has none");
    }
    if options.seed.is_some() && !options.draw {
        faults.push(format!("{place}seed"), "conflict", "goes with `draw`: means are the same for every seed");
    }
    faults.into_result(Code::InvalidRequest)?;
    if options.spread {
        answers::require_room(asked, format!("{place}spread"))?;
    }
    Asked::check_answer_size(codes.len() / asked.latent(), asked.width_out())?;
    let question = match options {
        DecodeOptions { draw: true, seed, .. } => Question::DecodeDraw { codes, seed: seed.unwrap_or(0) },
        DecodeOptions { spread: true, .. } => Question::DecodeSpread(codes),
        _ => Question::Decode(codes),
    };
    let Answer { values, beside } = asked.ask(question).await?;
    if asked.form == Form::Json {
        let spread = beside.as_deref().map(|values| Matrix::new(values, asked.width_out()));
        return forms::json(&DecodedView { rows: asked.rows(&values), spread });
    }
    Sheet::rows(values).beside("spread", asked.width_out(), beside).answer(asked).await
}
