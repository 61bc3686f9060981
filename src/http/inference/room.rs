//! Memory for questions to models: all bodies that are held at once have one bound, and what exceeds it is refused at once. A body
//! is counted before it is read, so that slow clients take no more than they announced.

use axum::body::HttpBody;
use axum::extract::{Request, State};
use axum::http::Method;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use crate::domain::limits::{INFERENCE_BODY_BYTES, UNANNOUNCED_BODY_BYTES};
use crate::domain::refusal::{Code, Refusal};
use crate::http::App;
use crate::http::error::ApiError;

/// Takes room for the body of a question to a model, until there is an answer.
pub async fn room(State(app): State<App>, request: Request, next: Next) -> Response {
    let path = request.uri().path();
    let is_of_models = ["/v1/models/", "/v2/models/"].iter().any(|start| path.starts_with(start));
    if request.method() != Method::POST || !is_of_models {
        return next.run(request).await;
    }
    let announced = request.body().size_hint().exact().map_or(UNANNOUNCED_BODY_BYTES, |bytes| bytes as usize);
    // A longer one is refused once so much was read.
    let kib = announced.min(INFERENCE_BODY_BYTES).div_ceil(1 << 10) as u32;
    let Ok(_room) = app.questions.try_acquire_many(kib) else {
        let detail = "the bodies of other questions take all the memory that is for them; try again in a moment";
        return ApiError::from(Refusal::new(Code::Overloaded, detail)).into_response();
    };
    next.run(request).await
}
