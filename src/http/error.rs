//! Refusals as `application/problem+json` (RFC 9457). The only place that gives codes a status.

use std::collections::BTreeMap;

use axum::body::Body;
use axum::extract::Request;
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use tower_http::request_id::RequestId;
use utoipa::openapi::{ContentBuilder, Ref, RefOr, ResponseBuilder};
use utoipa::{IntoResponses, ToSchema};

use crate::data::DataError;
use crate::domain::refusal::{Category, Code, Fault, Refusal};
use crate::jobs::exporter::ExportFault;
use crate::serving::ServingError;
use crate::store::StoreError;

/// What a request that failed is answered with.
#[derive(Debug, Serialize, ToSchema)]
pub struct Problem {
    /// Always `about:blank`: the code says what kind of problem it is.
    #[serde(rename = "type")]
    kind: &'static str,
    /// What the code means.
    title: &'static str,
    /// The HTTP status.
    status: u16,
    /// The code; clients may match on it.
    code: Code,
    /// Who can do something about it.
    category: Category,
    /// What happened, in a sentence.
    detail: String,
    /// The id under which the server's log speaks of this request.
    request_id: Option<String>,
    /// Whether the same request may succeed later.
    retryable: bool,
    /// Every single fault and where it is.
    errors: Vec<Fault>,
}

/// So that the document of a handler can name it among its answers in one word.
impl IntoResponses for Problem {
    fn responses() -> BTreeMap<String, RefOr<utoipa::openapi::Response>> {
        let body = ContentBuilder::new().schema(Some(Ref::from_schema_name("Problem"))).build();
        let response = ResponseBuilder::new().content("application/problem+json", body).build();
        BTreeMap::from([("default".to_owned(), response.into())])
    }
}

/// What handlers fail with.
#[derive(Debug)]
pub struct ApiError(Refusal);

/// The status of a code.
fn status(code: Code) -> StatusCode {
    match code {
        Code::InvalidJson => StatusCode::BAD_REQUEST,
        Code::InvalidRequest
        | Code::InvalidDataset
        | Code::InvalidModel
        | Code::MissingValues
        | Code::DeviceUnavailable
        | Code::OutOfMemory
        | Code::Diverged => StatusCode::UNPROCESSABLE_ENTITY,
        Code::NotFound => StatusCode::NOT_FOUND,
        Code::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
        Code::UnsupportedMediaType => StatusCode::UNSUPPORTED_MEDIA_TYPE,
        Code::NotAcceptable => StatusCode::NOT_ACCEPTABLE,
        Code::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
        Code::DatasetInUse
        | Code::ModelInUse
        | Code::ModelRegistered
        | Code::JobEnded
        | Code::JobStatus
        | Code::SweepEnded
        | Code::WrongOffset
        | Code::UploadIncomplete => StatusCode::CONFLICT,
        Code::UploadBusy => StatusCode::LOCKED,
        Code::UnsupportedVersion => StatusCode::PRECONDITION_FAILED,
        // What the upload protocol (tus) gives this meaning; no RFC knows it.
        Code::ChecksumMismatch => StatusCode::from_u16(460).expect("460 is a status"),
        Code::Timeout => StatusCode::REQUEST_TIMEOUT,
        Code::StorageFull | Code::ModelTooLarge => StatusCode::INSUFFICIENT_STORAGE,
        Code::Overloaded | Code::ModelUnloaded | Code::ShuttingDown => StatusCode::SERVICE_UNAVAILABLE,
        Code::TrainerDied | Code::Internal => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

impl From<Refusal> for ApiError {
    fn from(refusal: Refusal) -> Self {
        Self(refusal)
    }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Refused(refusal) => Self(refusal),
            full if full.is_full() => {
                tracing::error!(error = %full, "The disk is full");
                Self(Refusal::new(Code::StorageFull, "the server's disk has no room; nothing was changed"))
            }
            other => internal(&other),
        }
    }
}

impl From<ExportFault> for ApiError {
    fn from(error: ExportFault) -> Self {
        match error {
            ExportFault::Refused(refusal) => Self(refusal),
            ExportFault::Io(error) => StoreError::Io(error).into(),
            failed @ ExportFault::Failed(_) => internal(&failed),
        }
    }
}

impl From<DataError> for ApiError {
    fn from(error: DataError) -> Self {
        match error {
            DataError::Refused(refusal) => Self(refusal),
            DataError::Io(error) => StoreError::Io(error).into(),
        }
    }
}

impl From<ServingError> for ApiError {
    fn from(error: ServingError) -> Self {
        match error {
            ServingError::Refused(refusal) => Self(refusal),
            ServingError::Store(error) => error.into(),
            other @ ServingError::Failed(_) => internal(&other),
        }
    }
}

/// Logs what only the operator should read.
pub fn internal(error: &dyn std::fmt::Display) -> ApiError {
    tracing::error!(%error, "A request failed");
    ApiError(Refusal::new(Code::Internal, "the server failed; its log has the reason under this request id"))
}

impl IntoResponse for ApiError {
    /// Only the status and the refusal; [`render`] writes the body, because it knows the request id.
    fn into_response(self) -> Response {
        let mut response = status(self.0.code).into_response();
        response.extensions_mut().insert(self.0);
        response
    }
}

/// Writes the bodies of refusals.
pub async fn render(request: Request, next: Next) -> Response {
    let request_id =
        request.extensions().get::<RequestId>().and_then(|id| id.header_value().to_str().ok().map(str::to_owned));
    let is_protocol = super::v2::error::speaks(request.uri().path());
    let mut response = next.run(request).await;
    let Some(refusal) = response.extensions_mut().remove::<Refusal>() else { return response };
    if is_protocol {
        return super::v2::error::render(response, refusal);
    }
    let Refusal { code, detail, errors } = refusal;
    let status = response.status();
    let problem = Problem {
        kind: "about:blank",
        title: code.title(),
        status: status.as_u16(),
        code,
        category: code.category(),
        detail,
        request_id,
        retryable: code.retryable(),
        errors,
    };
    // Headers stay: `Allow`, and what the upload protocol wants on every answer.
    *response.body_mut() = Body::from(serde_json::to_vec(&problem).expect("a problem is JSON"));
    let headers = response.headers_mut();
    headers.remove(header::CONTENT_LENGTH);
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
    if status == StatusCode::SERVICE_UNAVAILABLE {
        headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    }
    response
}

/// There is nothing at this address.
pub async fn no_such_address(request: Request) -> ApiError {
    ApiError(Refusal::new(
        Code::NotFound,
        format!("there is nothing at {}; /docs lists the addresses", request.uri().path()),
    ))
}

/// The address is there, but not for this method.
pub async fn no_such_method(request: Request) -> ApiError {
    ApiError(Refusal::new(
        Code::MethodNotAllowed,
        format!("{} does not take {}", request.uri().path(), request.method()),
    ))
}

/// A handler panicked: a bug, but the server goes on.
pub fn panicked(panic: Box<dyn std::any::Any + Send>) -> Response {
    let words = panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("?");
    internal(&format_args!("a handler panicked: {words}")).into_response()
}
