//! The Open Inference Protocol, version 2, as KServe and Triton speak it over HTTP, so that their clients work unchanged.
//!
//! What it is asked is what `/v1` is asked too, by tensors with names: the outputs that a request wants choose the questions.
//! Errors have the protocol's form (`error`), other things too: nothing here is problem+json.
//!
//! Start reading with [`infer`], then `request` (what comes in), `questions` (what is asked) and `response` (what goes out).

mod catalogue;
mod compression;
pub mod error;
pub mod infer;
pub mod models;
mod questions;
pub mod repository;
mod request;
mod response;
mod rows;
pub mod server;
pub mod statistics;
mod tensors;

use std::sync::Arc;

use axum::extract::{FromRequestParts, RawPathParams};
use axum::http::request::Parts;
use utoipa::IntoParams;
use utoipa::openapi::Required;
use utoipa::openapi::path::{Parameter, ParameterBuilder, ParameterIn};

use super::App;
use super::error::ApiError;
use crate::domain::id::ModelId;
use crate::domain::reference::ModelRef;
use crate::domain::refusal::{Code, Refusal};
use crate::store::models::Model;
use crate::store::registry::Registered;

/// The model that a path names, and its version where the path has one.
#[derive(Debug)]
pub struct Named {
    name: String,
    version: Option<String>,
}

impl<S: Send + Sync> FromRequestParts<S> for Named {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let params = RawPathParams::from_request_parts(parts, state).await;
        let params = params.map_err(|_| Refusal::new(Code::NotFound, "the path is not text"))?;
        let find = |wanted: &str| params.iter().find(|(name, _)| *name == wanted).map(|(_, value)| value.to_owned());
        Ok(Self { name: find("name").unwrap_or_default(), version: find("version") })
    }
}

/// A model by the name and version that the protocol knows it by.
#[derive(Clone, Debug)]
struct Served {
    name: String,
    version: String,
    /// The versions that there are under this name.
    versions: Vec<String>,
    model: Arc<Model>,
}

/// The version of a model: that of the registry, and 1 where it is not there.
fn version_of(place: Option<&Registered>) -> String {
    place.map_or(1, |place| place.version).to_string()
}

impl Served {
    /// The only place that gives names a meaning.
    async fn find(app: &App, Named { name, version }: Named) -> Result<Self, ApiError> {
        let unknown = |fault: String| Refusal::new(Code::NotFound, fault);
        let mut reference: ModelRef = name.parse().map_err(unknown)?;
        // A name alone means its newest version, unless the path has another.
        if let (ModelRef::Newest(plain), Some(version)) = (&reference, &version) {
            reference = format!("{plain}:{version}").parse().map_err(unknown)?;
        }
        let model = app.store.model(app.store.find_model(&reference).await?).await?;
        let own = version_of(model.registered.as_ref());
        if let Some(version) = version.filter(|version| *version != own) {
            return Err(unknown(format!("model {name} has no version {version}; it has version {own}")).into());
        }
        let versions = match (&reference, &model.registered) {
            (ModelRef::Newest(_) | ModelRef::Version(..), Some(place)) if place.name.as_str() == name => {
                app.store.versions_of(&place.name).await?.iter().map(u32::to_string).collect()
            }
            _ => vec![own.clone()],
        };
        Ok(Self { name, version: own, versions, model })
    }

    /// Refuses a model that does not answer just now.
    fn require_ready(&self, app: &App) -> Result<(), Refusal> {
        match absence(app, self.model.id, self.model.bytes) {
            Some(refusal) => Err(refusal),
            None => Ok(()),
        }
    }
}

/// Why a model does not answer; `None` where it does. One that is not in memory is read at its next question.
fn absence(app: &App, model: ModelId, bytes: u64) -> Option<Refusal> {
    if app.inference.is_unloaded(model) {
        let detail = format!("model {model} was unloaded; load it by POST /v2/repository/models/{model}/load");
        return Some(Refusal::new(Code::ModelUnloaded, detail));
    }
    app.inference.too_large(bytes)
}

/// The model in the path, for the API document.
pub struct NameInPath;

/// The model and its version in the path, for the API document.
pub struct VersionInPath;

fn in_path(name: &str, description: &str) -> Parameter {
    let parameter = ParameterBuilder::new().name(name).parameter_in(ParameterIn::Path).required(Required::True);
    let text = <String as utoipa::PartialSchema>::schema();
    parameter.description(Some(description)).schema(Some(text)).build()
}

impl IntoParams for NameInPath {
    fn into_params(_: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
        vec![in_path(
            "name",
            "A model: its id, or of a name in the registry the newest version (`fraud`), one version (`fraud:3`) or an alias (`fraud@production`)",
        )]
    }
}

impl IntoParams for VersionInPath {
    fn into_params(inside: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
        let mut parameters = NameInPath::into_params(inside);
        parameters.push(in_path("version", "Its version"));
        parameters
    }
}
