//! Answers that a caller has already are not worked out again (RFC 9110, section 13).
//!
//! The answer of a `GET` depends on the model that the reference means, which never changes, on the columns of a stored dataset, which may be described
//! anew, and on the address: its tag is made of these, before anything is computed.

use axum::extract::{Request, State};
use axum::http::header::{ACCEPT, CACHE_CONTROL, ETAG, IF_NONE_MATCH, VARY};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, Uri};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use sha2::{Digest, Sha256};

use crate::domain::id::{DatasetId, ModelId};
use crate::http::App;
use crate::http::extract::Meant;

/// Whatever is asked of a model or downloaded from it. Answers `304 Not Modified` where the caller's tag is that of the answer;
/// else gives the answer its tag.
pub async fn conditional(State(app): State<App>, mut request: Request, next: Next) -> Response {
    let asked = request.uri().path().strip_prefix("/v1/models/").and_then(|rest| rest.split_once('/'));
    let Some((reference, _)) = asked.filter(|(_, rest)| request.method() == Method::GET && is_lasting(rest)) else {
        return next.run(request).await;
    };
    // A model or dataset that is not there is the handler's to refuse.
    let model = match reference.parse() {
        Ok(reference) => app.store.find_model(&reference).await.ok(),
        Err(_) => None,
    };
    let tag = match model {
        Some(model) => tag(&app, model, request.uri(), request.headers()).await,
        None => None,
    };
    let Some((model, tag)) = model.zip(tag) else { return next.run(request).await };
    // A name or an alias may mean another model the next time, which has another tag.
    request.extensions_mut().insert(Meant(model));
    let lists = request.headers().get_all(IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok());
    let held: Vec<&str> = lists.flat_map(|list| list.split(',')).map(str::trim).collect();
    if held.iter().any(|held| held.strip_prefix("W/").unwrap_or(held).as_bytes() == tag.as_bytes()) {
        return described(StatusCode::NOT_MODIFIED.into_response(), tag);
    }
    // Whatever the caller has will do, but only where there is an answer.
    let any = held.contains(&"*");
    let response = next.run(request).await;
    match response.status() {
        StatusCode::OK if any => described(StatusCode::NOT_MODIFIED.into_response(), tag),
        StatusCode::OK => described(response, tag),
        _ => response,
    }
}

/// Whether what is asked for depends on nothing else that may change.
fn is_lasting(rest: &str) -> bool {
    !matches!(rest.split('/').next(), Some("aliases" | "card"))
}

/// A cache may keep the answer, and asks each time whether the model is still there.
fn described(mut response: Response, tag: HeaderValue) -> Response {
    let headers = response.headers_mut();
    headers.insert(ETAG, tag);
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("private, no-cache"));
    headers.insert(VARY, HeaderValue::from_static("accept"));
    response
}

async fn tag(app: &App, model: ModelId, uri: &Uri, headers: &HeaderMap) -> Option<HeaderValue> {
    let model = app.store.model(model).await.ok()?;
    let mut hash = Sha256::new();
    let mut add = |part: &[u8]| {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    };
    add(env!("CARGO_PKG_VERSION").as_bytes());
    add(model.id.to_string().as_bytes());
    add(uri.path_and_query()?.as_str().as_bytes());
    headers.get_all(ACCEPT).iter().for_each(|value| add(value.as_bytes()));
    let parameters: Vec<(String, String)> = serde_html_form::from_str(uri.query().unwrap_or("")).ok()?;
    for (_, dataset) in parameters.iter().filter(|(name, _)| name == "dataset") {
        let dataset = app.store.dataset(dataset.parse::<DatasetId>().ok()?).await.ok()?;
        add(&serde_json::to_vec(&dataset.schema).ok()?);
    }
    let tag: String = hash.finalize().iter().take(16).map(|byte| format!("{byte:02x}")).collect();
    HeaderValue::from_str(&format!("\"{tag}\"")).ok()
}
