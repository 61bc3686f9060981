//! The answer to a request: tensors as JSON, or as bytes behind it.

use std::borrow::Cow;

use axum::http::{HeaderName, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use serde::ser::{Serialize, Serializer};
use utoipa::ToSchema;

use super::Served;
use super::catalogue::{Catalogue, Output};
use super::compression::Encoding;
use super::questions::{Chosen, Plan, QuestionKind};
use super::request::{BinaryView, JSON_LENGTH};
use super::tensors::Datatype;
use crate::data::dataset::Column;
use crate::http::error::{ApiError, internal};
use crate::serving::{Answer, Scored};

/// The answer of an inference.
#[derive(serde::Serialize, ToSchema)]
pub struct InferenceView<'a> {
    /// The model.
    model_name: &'a str,
    /// Its version.
    model_version: &'a str,
    /// The id of the request, where it had one.
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'a str>,
    /// What was wanted, in that order.
    outputs: Vec<OutputView<'a>>,
}

/// A tensor of an answer.
#[derive(serde::Serialize, ToSchema)]
pub struct OutputView<'a> {
    /// Its name.
    #[schema(value_type = String)]
    name: Cow<'a, str>,
    /// The type of its elements.
    datatype: Datatype,
    /// Rows, and what each of them holds.
    shape: [usize; 2],
    /// Where its data are behind the JSON, how many bytes they have.
    #[serde(skip_serializing_if = "Option::is_none")]
    parameters: Option<BinaryView>,
    /// Its elements, one row after the other; `null` for a number that is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Vec<Object>>)]
    data: Option<Content<'a>>,
}

/// The elements of an output.
enum Content<'a> {
    Numbers(Cow<'a, [f32]>),
    Truths(Vec<bool>),
    Texts(Vec<&'a str>),
}

impl Serialize for Content<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Numbers(numbers) => numbers.serialize(serializer),
            Self::Truths(truths) => truths.serialize(serializer),
            Self::Texts(texts) => texts.serialize(serializer),
        }
    }
}

impl Content<'_> {
    fn len(&self) -> usize {
        match self {
            Self::Numbers(numbers) => numbers.len(),
            Self::Truths(truths) => truths.len(),
            Self::Texts(texts) => texts.len(),
        }
    }

    /// Appends it as bytes; says how many.
    fn append_to(&self, bytes: &mut Vec<u8>) -> usize {
        let before = bytes.len();
        match self {
            Self::Numbers(numbers) => bytes.extend(numbers.iter().flat_map(|number| number.to_le_bytes())),
            Self::Truths(truths) => bytes.extend(truths.iter().map(|truth| u8::from(*truth))),
            Self::Texts(texts) => texts.iter().for_each(|text| {
                bytes.extend((text.len() as u32).to_le_bytes());
                bytes.extend(text.as_bytes());
            }),
        }
        bytes.len() - before
    }
}

/// Writes the answer of a request.
pub(super) fn write(
    served: &Served,
    id: Option<&str>,
    plan: &Plan,
    answers: &[Answer],
    encoding: Encoding,
) -> Result<Response, ApiError> {
    let catalogue = Catalogue::of(&served.model);
    let scores = scores(plan, answers);
    let mut binary = Vec::new();
    let output = |chosen: &Chosen| {
        let tensor = catalogue.describe(chosen.output);
        let content = content(&catalogue, plan, answers, &scores, *chosen);
        let shape = [content.len() / tensor.width.max(1), tensor.width];
        let parameters = chosen.binary.then(|| BinaryView { binary_data_size: content.append_to(&mut binary) });
        let data = parameters.is_none().then_some(content);
        OutputView { name: tensor.name, datatype: tensor.datatype, shape, parameters, data }
    };
    let outputs = plan.outputs.iter().map(output).collect();
    let view = InferenceView { model_name: &served.name, model_version: &served.version, id, outputs };
    let mut body = serde_json::to_vec(&view).map_err(|error| internal(&error))?;
    let json_length = body.len();
    let is_binary = plan.outputs.iter().any(|chosen| chosen.binary);
    body.append(&mut binary);
    let kind = if is_binary { "application/octet-stream" } else { "application/json" };
    let body = encoding.close(body).map_err(|error| internal(&error))?;
    let mut response = ([(header::CONTENT_TYPE, HeaderValue::from_static(kind))], body).into_response();
    let headers = response.headers_mut();
    headers.insert(header::VARY, HeaderValue::from_static("accept-encoding"));
    if is_binary {
        headers.insert(HeaderName::from_static(JSON_LENGTH), HeaderValue::from(json_length));
    }
    if let Some(value) = encoding.header() {
        headers.insert(header::CONTENT_ENCODING, value);
    }
    Ok(response)
}

/// What was found of each row that was scored.
fn scores(plan: &Plan, answers: &[Answer]) -> Vec<Scored> {
    let answer = plan.kinds.iter().zip(answers).find(|(kind, _)| **kind == QuestionKind::Score);
    answer.map(|(_, answer)| Scored::rows(&answer.values, plan.samples > 0).collect()).unwrap_or_default()
}

fn content<'a>(
    catalogue: &Catalogue<'a>,
    plan: &Plan,
    answers: &'a [Answer],
    scores: &[Scored],
    chosen: Chosen,
) -> Content<'a> {
    let position = plan.kinds.iter().position(|kind| *kind == chosen.kind);
    let answer = &answers[position.expect("every output has its question; this is a bug")];
    let beside = || Content::Numbers(answer.beside.as_deref().unwrap_or_default().into());
    let scored = |number: fn(&Scored) -> f32| Content::Numbers(scores.iter().map(number).collect());
    match chosen.output {
        Output::Codes | Output::Rows | Output::Predictions => Content::Numbers((&answer.values[..]).into()),
        Output::Spread | Output::RowsSpread | Output::Errors | Output::PredictionsSpread | Output::Contributions => {
            beside()
        }
        Output::Score => scored(|row| row.score),
        Output::Anomaly => scored(|row| row.anomaly.unwrap_or(f32::NAN)),
        Output::IsAnomaly => Content::Truths(scores.iter().map(|row| row.is_anomaly.unwrap_or(false)).collect()),
        Output::Reconstruction => scored(|row| row.reconstruction),
        Output::LogLikelihood => scored(|row| row.density.map_or(f32::NAN, |density| density.log_likelihood)),
        Output::StandardError => scored(|row| row.density.map_or(f32::NAN, |density| density.standard_error)),
        Output::EffectiveSamples => scored(|row| row.density.map_or(f32::NAN, |density| density.effective_draws)),
        Output::Elbo => scored(|row| row.density.map_or(f32::NAN, |density| density.evidence_bound)),
        Output::Column(position) => column(&answer.values, catalogue.features(), position),
        Output::Label(position) => column(&answer.values, catalogue.labels(), position),
    }
}

/// A column of an answer, as texts where it has some.
fn column<'a>(values: &[f32], columns: &[&'a Column], position: usize) -> Content<'a> {
    let column = columns[position];
    let values = values.iter().skip(position).step_by(columns.len()).copied();
    match column.levels.is_empty() {
        true => Content::Numbers(values.collect()),
        false => Content::Texts(values.map(|value| column.text(value).unwrap_or("")).collect()),
    }
}
