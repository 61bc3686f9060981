//! What handlers read out of requests. Every fault comes with a pointer, and as many as can be found come at once.

use std::fmt::Display;
use std::str::FromStr;
use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::extract::{FromRequest, FromRequestParts, RawPathParams, Request};
use axum::http::{HeaderMap, Uri, header, request::Parts};
use bytes::Bytes;
use http_body_util::LengthLimitError;
use serde::de::DeserializeOwned;
use serde_json::Value;
use serde_path_to_error::{Path, Segment};

use super::App;
use super::error::ApiError;
use crate::domain::id::{DatasetId, JobId, ModelId, SweepId, UploadId};
use crate::domain::limits::{FAULTS_LISTED, JSON_BODY_BYTES};
use crate::domain::reference::ModelName;
use crate::domain::refusal::{Code, Faults, Refusal};

/// A body of which nothing arrives for so long is given up.
pub const BODY_IDLE: Duration = Duration::from_secs(30);

/// The id in the path. That of a model may be written as a name of the registry with a version or an alias; the handler is
/// given the id.
pub struct Id<T>(pub T);

/// What may stand for `{id}` in a path.
pub trait InPath: Sized + Send {
    /// Reads it, and looks it up where it is a name.
    fn read(text: &str, parts: &Parts, app: &App) -> impl Future<Output = Result<Self, ApiError>> + Send;
}

macro_rules! parsed_in_path {
    ($($name:ident)*) => {$(
        impl InPath for $name {
            async fn read(text: &str, _: &Parts, _: &App) -> Result<Self, ApiError> {
                parse(text, "id")
            }
        }
    )*};
}

parsed_in_path!(DatasetId JobId ModelName SweepId UploadId);

/// The model that the path means, where that was found out before its handler: an alias that moves meanwhile must not give the
/// handler another one.
#[derive(Clone, Copy, Debug)]
pub struct Meant(pub ModelId);

impl InPath for ModelId {
    async fn read(text: &str, parts: &Parts, app: &App) -> Result<Self, ApiError> {
        if let Some(Meant(id)) = parts.extensions.get() {
            return Ok(*id);
        }
        Ok(app.store.find_model(&parse(text, "id")?).await?)
    }
}

impl<T: InPath> FromRequestParts<App> for Id<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, ApiError> {
        let text = in_path(parts, app, "id").await;
        T::read(&text, parts, app).await.map(Self)
    }
}

/// The alias in the path.
pub struct Alias(pub ModelName);

impl FromRequestParts<App> for Alias {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, ApiError> {
        parse(&in_path(parts, app, "alias").await, "alias").map(Self)
    }
}

async fn in_path(parts: &mut Parts, app: &App, wanted: &str) -> String {
    let params = RawPathParams::from_request_parts(parts, app).await;
    let found = params
        .ok()
        .and_then(|params| params.iter().find(|(name, _)| *name == wanted).map(|(_, value)| value.to_owned()));
    found.unwrap_or_default()
}

fn parse<T: FromStr<Err: Display>>(text: &str, what: &str) -> Result<T, ApiError> {
    let refuse = |error: T::Err| Refusal::at(Code::NotFound, format!("{{{what}}}"), "not_an_id", error.to_string());
    Ok(text.parse().map_err(refuse)?)
}

/// The query parameters, none of them unknown.
pub struct Query<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Query<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        query(&parts.uri).map(Self)
    }
}

/// The query of an address.
///
/// # Errors
/// A refusal that names the parameter.
pub fn query<T: DeserializeOwned>(uri: &Uri) -> Result<T, ApiError> {
    let pairs = serde_html_form::Deserializer::from_bytes(uri.query().unwrap_or("").as_bytes());
    serde_path_to_error::deserialize(pairs).map_err(|error| {
        let path = pointer(error.path()).replacen('/', "?", 1);
        let pointer = if path.is_empty() { "?".to_owned() } else { path };
        let detail = error.inner().to_string();
        Refusal::at(Code::InvalidRequest, pointer, fault_code(&detail), detail).into()
    })
}

/// For addresses that take no query parameters.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Nothing {}

/// A JSON body of moderate size, and every fault of its form.
pub struct Lenient<T> {
    /// The body, with what was at fault left out; `None` when too little is left.
    pub value: Option<T>,
    /// What was at fault.
    pub faults: Faults,
}

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Lenient<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, _: &S) -> Result<Self, ApiError> {
        let (parts, body) = request.into_parts();
        require_json(&parts.headers)?;
        let bytes = read_body(body, JSON_BODY_BYTES).await?;
        let value: Value = serde_json::from_slice(&bytes).map_err(|error| invalid_json(&error))?;
        Ok(lenient(value))
    }
}

/// Reads a value, leaving out one faulty part after another until the rest can be read.
pub fn lenient<T: DeserializeOwned>(mut json: Value) -> Lenient<T> {
    let mut faults = Faults::new();
    let mut found: Vec<String> = Vec::new();
    for _ in 0..2 * FAULTS_LISTED {
        match serde_path_to_error::deserialize(&json) {
            Ok(value) => return Lenient { value: Some(value), faults },
            Err(error) => {
                let detail = error.inner().to_string();
                let at = place(&pointer(error.path()), &detail);
                // What is only missing because a part of it was at fault, and left out, was told already.
                let follows = |earlier: &String| {
                    earlier.strip_prefix(&at).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
                };
                if !found.iter().any(follows) {
                    faults.push(at.clone(), fault_code(&detail), detail);
                }
                if !remove(&mut json, &at) {
                    break;
                }
                found.push(at);
            }
        }
    }
    Lenient { value: None, faults }
}

/// Where a fault is. An unknown or missing field is named by the message alone: its path ends at the object around it.
fn place(path: &str, detail: &str) -> String {
    let named = |start: &str| detail.strip_prefix(start)?.split_once('`').map(|(name, _)| format!("/{}", escape(name)));
    match named("unknown field `").or_else(|| named("missing field `")) {
        Some(name) if !path.ends_with(&name) => format!("{path}{name}"),
        _ => path.to_owned(),
    }
}

/// Removes what a pointer names from the object that holds it; elements of arrays take their array along.
fn remove(json: &mut Value, pointer: &str) -> bool {
    let Some((parent, key)) = pointer.rsplit_once('/') else { return false };
    match json.pointer_mut(parent) {
        Some(Value::Object(map)) => map.remove(&key.replace("~1", "/").replace("~0", "~")).is_some(),
        Some(Value::Array(_)) => remove(json, parent),
        _ => false,
    }
}

/// A JSON pointer (RFC 6901) for the path of a fault.
pub fn pointer(path: &Path) -> String {
    path.iter()
        .map(|segment| match segment {
            Segment::Seq { index } => format!("/{index}"),
            Segment::Map { key } => format!("/{}", escape(key)),
            Segment::Enum { .. } | Segment::Unknown => String::new(),
        })
        .collect()
}

fn escape(key: &str) -> String {
    key.replace('~', "~0").replace('/', "~1")
}

/// A short code for what serde says.
fn fault_code(detail: &str) -> &'static str {
    match detail {
        _ if detail.starts_with("unknown field") => "unknown_field",
        _ if detail.starts_with("unknown variant") => "unknown_value",
        _ if detail.starts_with("missing field") => "missing",
        _ if detail.starts_with("invalid type") => "wrong_type",
        _ if detail.starts_with("duplicate field") => "duplicate",
        _ => "invalid",
    }
}

/// The refusal of a body that is not JSON.
pub fn invalid_json(error: &serde_json::Error) -> ApiError {
    Refusal::new(Code::InvalidJson, format!("the body is not JSON: {error}")).into()
}

/// Refuses a body that does not say it is JSON.
pub fn require_json(headers: &HeaderMap) -> Result<(), ApiError> {
    match media_type(headers).as_str() {
        "application/json" | "" => Ok(()),
        other => {
            let detail = format!("the body is of type `{other}`; allowed is application/json");
            Err(Refusal::new(Code::UnsupportedMediaType, detail).into())
        }
    }
}

/// The type of the body without its parameters, in lower case; empty when there is none.
pub fn media_type(headers: &HeaderMap) -> String {
    let value = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or("");
    value.split(';').next().unwrap_or("").trim().to_ascii_lowercase()
}

/// A whole body of at most `most` bytes.
pub async fn read_body(body: Body, most: usize) -> Result<Bytes, ApiError> {
    let read = tokio::time::timeout(BODY_IDLE, to_bytes(body, most)).await;
    read.map_err(|_| too_slow())?.map_err(|error| {
        let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(&error);
        while let Some(inner) = cause {
            if inner.is::<LengthLimitError>() {
                return too_large(most);
            }
            cause = inner.source();
        }
        cut_short()
    })
}

/// The refusal of a body of more bytes.
pub fn too_large(most: usize) -> ApiError {
    Refusal::new(Code::TooLarge, format!("the body is larger than the {most} bytes that are allowed here")).into()
}

/// The refusal of a body whose sender stopped.
pub fn cut_short() -> ApiError {
    Refusal::new(Code::InvalidRequest, "the body ended before it was complete").into()
}

/// The refusal of a body that does not arrive.
pub fn too_slow() -> ApiError {
    Refusal::new(Code::Timeout, format!("nothing of the body arrived for {} seconds", BODY_IDLE.as_secs())).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::training::spec::TrainSpec;
    use serde_json::json;

    #[test]
    fn every_fault_of_form_is_found_with_its_pointer() {
        let body = json!({
            "dataset": "job_1", "colour": 3,
            "model": {"family": "vae", "settings": {"latent": "four", "depth": 2}},
            "network": {"hidden": [8, -1], "activation": "swish"},
            "training": {"epochs": 1.5, "optimizer": {"lr": "NaN"}},
        });
        let read = lenient::<TrainSpec>(body);
        let refusal = read.faults.into_result(Code::InvalidRequest).unwrap_err();
        let mut pointers: Vec<&str> = refusal.errors.iter().map(|fault| fault.pointer.as_str()).collect();
        pointers.sort_unstable();
        assert!(read.value.is_none(), "the dataset is missing then");
        let expected = [
            "/colour",
            "/dataset",
            "/model/settings/depth",
            "/model/settings/latent",
            "/network/activation",
            "/network/hidden/1",
            "/training/epochs",
            "/training/optimizer/lr",
        ];
        for pointer in expected {
            assert!(pointers.contains(&pointer), "{pointer} is not among {pointers:?}");
        }
    }

    #[test]
    fn what_is_left_can_still_be_checked() {
        let body = json!({"dataset": crate::domain::id::DatasetId::new(), "model": {"family": "vae"}, "training": {"epochs": "x", "batch_size": 0}});
        let read = lenient::<TrainSpec>(body);
        let mut faults = read.faults;
        read.value.unwrap().find_faults(&mut faults);
        let refusal = faults.into_result(Code::InvalidRequest).unwrap_err();
        let pointers: Vec<&str> = refusal.errors.iter().map(|fault| fault.pointer.as_str()).collect();
        assert_eq!(pointers, ["/training/epochs", "/training/batch_size"]);
    }
}
