//! The body of a request: JSON, and the bytes of tensors behind it.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

use axum::http::HeaderMap;
use serde::de::{Deserializer, Error, IgnoredAny, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;
use utoipa::ToSchema;

use super::catalogue::{Catalogue, Output, ROWS};
use super::compression::Encoding;
use super::questions::InferenceParameters;
use super::rows::{self, Given, Input};
use super::tensors::{Data, Datatype};
use crate::domain::limits::{INFERENCE_BODY_BYTES, PROTOCOL_AXES, PROTOCOL_PARAMETER_BYTES, PROTOCOL_TENSORS};
use crate::domain::refusal::{Code, Refusal};
use crate::http::extract::pointer;

/// The header that says how long the JSON is before the bytes of tensors.
pub(super) const JSON_LENGTH: &str = "inference-header-content-length";

/// What the headers say of a body.
#[derive(Clone, Copy, Debug)]
pub(super) struct Head {
    pub encoding: Encoding,
    pub json_length: Option<usize>,
}

impl Head {
    pub fn of(headers: &HeaderMap) -> Result<Self, Refusal> {
        let json_length = match headers.get(JSON_LENGTH) {
            None => None,
            Some(value) => {
                let shown = String::from_utf8_lossy(value.as_bytes()).into_owned();
                let length = shown.trim().parse().map_err(|_| {
                    invalid(format!("the header Inference-Header-Content-Length is `{shown}`, not a number of bytes"))
                })?;
                Some(length)
            }
        };
        Ok(Self { encoding: Encoding::of(headers)?, json_length })
    }
}

/// What is asked.
#[derive(Debug)]
pub(super) struct Order {
    pub id: Option<String>,
    pub parameters: InferenceParameters,
    pub given: Given,
    pub outputs: Vec<Wanted>,
}

/// An output that is wanted.
#[derive(Debug)]
pub(super) struct Wanted {
    pub name: String,
    pub binary: bool,
}

/// A request of inference. Tensors come as JSON, or as bytes behind the JSON.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct InferenceBody<'a> {
    /// Comes back in the answer.
    id: Option<String>,
    /// The model, which the path names in any case.
    #[serde(rename = "model_name")]
    #[schema(value_type = Option<String>)]
    _model_name: Option<IgnoredAny>,
    /// Its version, likewise.
    #[serde(rename = "model_version")]
    #[schema(value_type = Option<String>)]
    _model_version: Option<IgnoredAny>,
    /// What is asked, where the outputs do not say it, and how.
    #[serde(borrow, default)]
    #[schema(value_type = Option<InferenceParameters>)]
    parameters: Option<&'a RawValue>,
    /// `rows`, `codes`, or a tensor for each column; none for a sample.
    #[serde(borrow, deserialize_with = "tensors")]
    inputs: Vec<InputTensor<'a>>,
    /// What is wanted; what the question answers when left out.
    #[serde(default, deserialize_with = "tensors")]
    outputs: Vec<OutputTensor>,
}

/// A tensor of a request.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct InputTensor<'a> {
    /// Its name.
    #[serde(borrow)]
    #[schema(value_type = String)]
    name: Cow<'a, str>,
    /// Its shape: rows, and what each of them holds.
    #[serde(deserialize_with = "axes")]
    shape: Vec<u64>,
    /// The type of its elements.
    datatype: Datatype,
    /// How its data come.
    parameters: Option<InputParameters>,
    /// Its elements, flat or nested; `null` where a value is missing. Left out where they come as bytes.
    #[serde(borrow, default)]
    #[schema(value_type = Option<Vec<Object>>)]
    data: Option<&'a RawValue>,
}

/// InferenceParameters of a tensor of a request.
#[derive(Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct InputParameters {
    /// Bytes of its data, which stand behind the JSON.
    binary_data_size: Option<usize>,
    /// Of no meaning here.
    #[serde(rename = "content_type")]
    #[schema(value_type = Option<String>)]
    _content_type: Option<IgnoredAny>,
}

/// An output that is wanted.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct OutputTensor {
    /// Its name.
    name: String,
    /// How it is to come.
    parameters: Option<OutputParameters>,
}

/// InferenceParameters of an output.
#[derive(Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct OutputParameters {
    /// Whether its data come as bytes behind the JSON; as `binary_data_output` of the request when left out.
    binary_data: Option<bool>,
    /// Of no meaning here.
    #[serde(rename = "content_type")]
    #[schema(value_type = Option<String>)]
    _content_type: Option<IgnoredAny>,
}

/// What a tensor of an answer says of itself, for the API document.
#[derive(Serialize, ToSchema)]
pub struct BinaryView {
    /// Bytes of its data, which stand behind the JSON.
    pub binary_data_size: usize,
}

/// Reads a body as it came.
///
/// # Errors
/// Whatever is wrong with it.
pub(super) fn read(catalogue: &Catalogue<'_>, head: Head, body: &[u8]) -> Result<Order, Refusal> {
    let body = head.encoding.open(body, INFERENCE_BODY_BYTES)?;
    if head.json_length == Some(0) {
        return bare(catalogue, &body);
    }
    let (json, mut bytes) = match head.json_length {
        None => (&body[..], None),
        Some(length) => match body.split_at_checked(length) {
            Some((json, bytes)) => (json, Some(bytes)),
            None => {
                let all = body.len();
                return Err(invalid(format!(
                    "the header Inference-Header-Content-Length says that the JSON has {length} bytes, and the body has {all}"
                )));
            }
        },
    };
    let InferenceBody { id, parameters, inputs, outputs, .. } = from_json(json)?;
    let parameters = parameters.map(InferenceParameters::read).transpose()?.unwrap_or_default();
    let mut tensors = Vec::with_capacity(inputs.len());
    for (position, input) in inputs.into_iter().enumerate() {
        let InputTensor { name, shape, datatype, parameters, data } = input;
        let binary_data_size = parameters.and_then(|parameters| parameters.binary_data_size);
        let fault = |field: &str, detail: String| {
            Refusal::at(Code::InvalidRequest, format!("/inputs/{position}/{field}"), "invalid", detail)
        };
        let data = match (data, binary_data_size) {
            (Some(data), None) => Data::Json(data),
            (None, Some(size)) => {
                let size_fault = |detail| fault("parameters/binary_data_size", detail);
                let Some(left) = bytes else {
                    return Err(size_fault("goes with the header Inference-Header-Content-Length".to_owned()));
                };
                let Some((own, rest)) = left.split_at_checked(size) else {
                    return Err(size_fault(format!("is {size}, and {} bytes are left behind the JSON", left.len())));
                };
                bytes = Some(rest);
                Data::Binary(own)
            }
            (Some(_), Some(_)) => {
                return Err(fault("data", "goes without `binary_data_size`: data are JSON or bytes".to_owned()));
            }
            (None, None) => {
                return Err(fault("data", "is missing, and so is `binary_data_size` of its parameters".to_owned()));
            }
        };
        tensors.push(Input { name, shape, datatype, data });
    }
    if let Some(left) = bytes.filter(|bytes| !bytes.is_empty()) {
        return Err(invalid(format!("{} bytes behind the JSON belong to no tensor", left.len())));
    }
    let binary = parameters.binary_data_output.unwrap_or(false);
    let wanted = |OutputTensor { name, parameters }| {
        let own = parameters.and_then(|parameters| parameters.binary_data);
        Wanted { name, binary: own.unwrap_or(binary) }
    };
    let given = rows::read(catalogue, &tensors)?;
    Ok(Order { id, parameters, given, outputs: outputs.into_iter().map(wanted).collect() })
}

/// A body that is nothing but the bytes of rows, which are answered in the same way.
fn bare(catalogue: &Catalogue<'_>, body: &[u8]) -> Result<Order, Refusal> {
    let width = catalogue.features().len();
    if catalogue.rows() != [Output::Rows] {
        let detail = "the body is to be the bytes of a single tensor, and this model takes one for each column";
        return Err(invalid(detail.to_owned()));
    }
    let row_bytes = width * size_of::<f32>();
    if !body.len().is_multiple_of(row_bytes) {
        return Err(invalid(format!("the body has {} bytes; rows of {width} FP32 have {row_bytes} each", body.len())));
    }
    let shape = vec![(body.len() / row_bytes) as u64, width as u64];
    let input = Input { name: ROWS.into(), shape, datatype: Datatype::Fp32, data: Data::Binary(body) };
    let given = rows::read(catalogue, &[input])?;
    Ok(Order { id: None, parameters: InferenceParameters::bare(), given, outputs: Vec::new() })
}

impl InferenceParameters {
    fn read(raw: &RawValue) -> Result<Self, Refusal> {
        if raw.get().len() > PROTOCOL_PARAMETER_BYTES {
            let detail = format!("has {} bytes; allowed are {PROTOCOL_PARAMETER_BYTES}", raw.get().len());
            return Err(Refusal::at(Code::InvalidRequest, "/parameters", "too_large", detail));
        }
        let mut value: Value = serde_json::from_str(raw.get()).map_err(|error| invalid(error.to_string()))?;
        if let Value::Object(map) = &mut value {
            // What Triton's clients and servers tell each other.
            map.retain(|name, _| !name.starts_with("triton_"));
        }
        serde_path_to_error::deserialize(value).map_err(|error| {
            let place = format!("/parameters{}", pointer(error.path()));
            Refusal::at(Code::InvalidRequest, place, "invalid", error.inner().to_string())
        })
    }
}

fn from_json<'a>(json: &'a [u8]) -> Result<InferenceBody<'a>, Refusal> {
    let mut deserializer = serde_json::Deserializer::from_slice(json);
    let not_json =
        |error: &serde_json::Error| Refusal::new(Code::InvalidJson, format!("the body is not JSON: {error}"));
    let body = serde_path_to_error::deserialize(&mut deserializer).map_err(|error| {
        if !error.inner().is_data() {
            return not_json(error.inner());
        }
        Refusal::at(Code::InvalidRequest, pointer(error.path()), "invalid", error.inner().to_string())
    })?;
    deserializer.end().map_err(|error| not_json(&error))?;
    Ok(body)
}

fn invalid(detail: String) -> Refusal {
    Refusal::new(Code::InvalidRequest, detail)
}

fn tensors<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Vec<T>, D::Error> {
    at_most(deserializer, PROTOCOL_TENSORS)
}

fn axes<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u64>, D::Error> {
    at_most(deserializer, PROTOCOL_AXES)
}

/// An array of so many elements at most, so that small ones do not fill the memory.
fn at_most<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D, most: usize) -> Result<Vec<T>, D::Error> {
    struct Bounded<T>(usize, PhantomData<T>);

    impl<'de, T: Deserialize<'de>> Visitor<'de> for Bounded<T> {
        type Value = Vec<T>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "an array of up to {} elements", self.0)
        }

        fn visit_seq<S: SeqAccess<'de>>(self, mut seq: S) -> Result<Vec<T>, S::Error> {
            let mut elements = Vec::new();
            while let Some(element) = seq.next_element()? {
                if elements.len() == self.0 {
                    return Err(S::Error::custom(format!("has more than the {} elements that are allowed", self.0)));
                }
                elements.push(element);
            }
            Ok(elements)
        }
    }

    deserializer.deserialize_seq(Bounded(most, PhantomData))
}
