//! Refusals in the form that the protocol gives them: `{"error": "…"}`.

use std::collections::BTreeMap;

use axum::body::Body;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::Response;
use serde::Serialize;
use utoipa::openapi::{ContentBuilder, Ref, RefOr, ResponseBuilder};
use utoipa::{IntoResponses, ToSchema};

use crate::domain::refusal::Refusal;

/// What a request of the inference protocol that failed is answered with.
#[derive(Debug, Serialize, ToSchema)]
pub struct ProtocolError {
    /// What happened, with every single fault.
    error: String,
}

/// So that the document of a handler can name it among its answers in one word.
impl IntoResponses for ProtocolError {
    fn responses() -> BTreeMap<String, RefOr<utoipa::openapi::Response>> {
        let body = ContentBuilder::new().schema(Some(Ref::from_schema_name("ProtocolError"))).build();
        let response = ResponseBuilder::new().content("application/json", body).build();
        BTreeMap::from([("default".to_owned(), response.into())])
    }
}

/// Whether an address is one of the protocol.
pub(in crate::http) fn speaks(path: &str) -> bool {
    path.strip_prefix("/v2").is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Writes a refusal into a response that has its status.
pub(in crate::http) fn render(mut response: Response, refusal: Refusal) -> Response {
    // The protocol knows 400 for whatever is wrong with a request.
    if response.status() == StatusCode::UNPROCESSABLE_ENTITY {
        *response.status_mut() = StatusCode::BAD_REQUEST;
    }
    let Refusal { detail, errors, .. } = refusal;
    let error = match errors.len() {
        0 => detail,
        _ => errors
            .iter()
            .map(|fault| format!("{} {}", fault.pointer, fault.detail).trim_start().to_owned())
            .collect::<Vec<_>>()
            .join("; "),
    };
    *response.body_mut() = Body::from(serde_json::to_vec(&ProtocolError { error }).expect("a text is JSON"));
    let headers = response.headers_mut();
    headers.remove(header::CONTENT_LENGTH);
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_the_protocol_are_told_from_others() {
        assert!(speaks("/v2") && speaks("/v2/") && speaks("/v2/models/stats"));
        assert!(!speaks("/v20") && !speaks("/v1/models") && !speaks("/"));
    }
}
