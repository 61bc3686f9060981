//! Questions to models by the inference protocol.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Request, State};
use axum::response::Response;

use super::catalogue::Catalogue;
use super::compression::Encoding;
use super::error::ProtocolError;
use super::questions::Plan;
use super::request::{self, Head, InferenceBody};
use super::response;
pub use super::response::InferenceView;
use super::{NameInPath, Named, Served, VersionInPath};
use crate::domain::limits::INFERENCE_BODY_BYTES;
use crate::domain::refusal::{Code, Refusal};
use crate::http::App;
use crate::http::error::{ApiError, internal};
use crate::http::extract::{Nothing, Query, read_body};
use crate::http::inference::Asked;

/// Bodies above this are read, and answers to them written, where they hold up no other request.
const LARGE_BYTES: usize = 1 << 20;

/// Ask a model by tensors: JSON, or JSON and the bytes of tensors behind it, plain or compressed by gzip or deflate. The outputs that
/// are wanted choose the questions, and all come in one answer.
#[utoipa::path(
    post, path = "/v2/models/{name}/infer", tag = "protocol", params(NameInPath),
    request_body(content((InferenceBody = "application/json"), (Vec<u8> = "application/octet-stream"))),
    responses((status = 200, content((InferenceView = "application/json"), (Vec<u8> = "application/octet-stream"))), ProtocolError)
)]
pub async fn model_infer(
    app: State<App>,
    named: Named,
    _: Query<Nothing>,
    request: Request,
) -> Result<Response, ApiError> {
    infer(app, named, request).await
}

/// Ask a version of a model by tensors.
#[utoipa::path(
    post, path = "/v2/models/{name}/versions/{version}/infer", tag = "protocol", params(VersionInPath),
    request_body(content((InferenceBody = "application/json"), (Vec<u8> = "application/octet-stream"))),
    responses((status = 200, content((InferenceView = "application/json"), (Vec<u8> = "application/octet-stream"))), ProtocolError)
)]
pub async fn version_infer(
    app: State<App>,
    named: Named,
    _: Query<Nothing>,
    request: Request,
) -> Result<Response, ApiError> {
    infer(app, named, request).await
}

async fn infer(State(app): State<App>, named: Named, request: Request) -> Result<Response, ApiError> {
    let served = Served::find(&app, named).await?;
    served.require_ready(&app)?;
    let (parts, body) = request.into_parts();
    let head = Head::of(&parts.headers)?;
    let body = read_body(body, INFERENCE_BODY_BYTES).await?;
    // What is compressed may be large, however small it is.
    let is_large = body.len() > LARGE_BYTES || head.encoding != Encoding::Identity;
    let asked = Arc::new(Asked::plainly(app, served.model.clone()));
    let (id, timeout, mut plan) = {
        let asked = asked.clone();
        apart(is_large, move || {
            let catalogue = Catalogue::of(&asked.model);
            let mut order = request::read(&catalogue, head, &body)?;
            let (id, timeout) = (order.id.take(), order.parameters.timeout);
            Ok((id, timeout, Plan::of(&asked, &catalogue, order)?))
        })
        .await?
    };
    let questions = std::mem::take(&mut plan.questions);
    let asking = asked.app.inference.ask_all(&asked.model, questions);
    let answers = match timeout.filter(|timeout| *timeout > 0) {
        None => asking.await?,
        Some(timeout) => tokio::time::timeout(Duration::from_micros(timeout), asking).await.map_err(|_| {
            Refusal::new(
                Code::Overloaded,
                format!("there was no answer within the {timeout} microseconds of `timeout`"),
            )
        })??,
    };
    let encoding = Encoding::wanted(&parts.headers);
    let values: usize = answers.iter().map(|answer| answer.values.len()).sum();
    let is_large = values * size_of::<f32>() > LARGE_BYTES;
    apart(is_large, move || response::write(&served, id.as_deref(), &plan, &answers, encoding)).await
}

/// Does work here when it is small, else on a thread of its own.
async fn apart<T: Send + 'static>(
    is_large: bool,
    work: impl FnOnce() -> Result<T, ApiError> + Send + 'static,
) -> Result<T, ApiError> {
    if !is_large {
        return work();
    }
    tokio::task::spawn_blocking(work).await.map_err(|error| internal(&error))?
}
