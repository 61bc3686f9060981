//! The HTTP surface: the only axum.
//!
//! Handlers extract, check, make one call downwards and answer. Every address is in [`router`].

pub mod artifacts;
pub mod card;
mod card_text;
pub mod checkpoints;
pub mod datasets;
pub mod error;
pub mod estimates;
pub mod exports;
pub mod extract;
pub mod families;
pub mod forms;
pub mod health;
pub mod imports;
pub mod inference;
pub mod intake;
pub mod job_specs;
pub mod jobs;
pub mod json_rows;
pub mod life;
pub mod lists;
pub mod media;
pub mod models;
pub mod openapi;
pub mod phases;
pub mod profile;
pub mod registry;
pub mod server;
pub mod splits;
pub mod sweeps;
pub mod trials;
pub mod tus;
pub mod uploads;
pub mod usage;
pub mod v2;
pub mod versions;

use std::sync::Arc;

use axum::Router;
use axum::http::{HeaderValue, Request, header};
use axum::response::Redirect;
use axum::routing::get;
use tokio::sync::Semaphore;
use tower::ServiceBuilder;
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::request_id::{MakeRequestUuid, PropagateRequestIdLayer, RequestId, SetRequestIdLayer};
use tower_http::set_header::SetResponseHeaderLayer;
use tower_http::trace::TraceLayer;
use utoipa::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use utoipa_swagger_ui::SwaggerUi;

use crate::domain::limits::{EVENT_STREAMS, EXPORTS, INFERENCE_BODIES_KIB, TABLE_BODIES};
use crate::jobs::Jobs;
use crate::serving::Inference;
use crate::store::Store;
use inference::{
    conditional, decode, encode, impute, interpolate, predict, reconstruct, room, sample, score, traverse,
};
use openapi::ApiDocument;

/// What the operator set.
#[derive(Clone, Debug)]
pub struct HttpConfig {
    /// Bytes of one upload.
    pub upload_bytes: u64,
    /// Bytes of the rows of one dataset, after decompression.
    pub dataset_bytes: u64,
}

/// What every handler can reach. Cheap to clone: every layer of the router does, for each request.
#[derive(Clone)]
pub struct App(Arc<Parts>);

impl std::ops::Deref for App {
    type Target = Parts;

    fn deref(&self) -> &Parts {
        &self.0
    }
}

impl App {
    /// Puts the floors below together.
    pub fn new(store: Store, jobs: Jobs, inference: Inference, config: HttpConfig) -> Self {
        Self(Arc::new(Parts::new(store, jobs, inference, config)))
    }
}

/// What an [`App`] holds.
pub struct Parts {
    /// The database and the files.
    pub store: Store,
    /// The queue.
    pub jobs: Jobs,
    /// The inference threads.
    pub inference: Inference,
    /// What the operator set.
    pub config: Arc<HttpConfig>,
    /// Uploads that are read at once.
    ingesting: Arc<Semaphore>,
    /// Downloads that are written at once.
    exporting: Arc<Semaphore>,
    /// Tables of questions that are read at once.
    reading: Arc<Semaphore>,
    /// Event streams that are open at once.
    streams: Arc<Semaphore>,
    /// KiB of questions to models that are held at once.
    questions: Arc<Semaphore>,
}

impl Parts {
    fn new(store: Store, jobs: Jobs, inference: Inference, config: HttpConfig) -> Self {
        Self {
            store,
            jobs,
            inference,
            config: Arc::new(config),
            ingesting: Arc::new(Semaphore::new(2)),
            exporting: Arc::new(Semaphore::new(EXPORTS)),
            reading: Arc::new(Semaphore::new(TABLE_BODIES)),
            streams: Arc::new(Semaphore::new(EVENT_STREAMS)),
            questions: Arc::new(Semaphore::new(INFERENCE_BODIES_KIB as usize)),
        }
    }
}

/// Every address, and the document that describes them.
fn routes() -> OpenApiRouter<App> {
    let mut router = OpenApiRouter::with_openapi(ApiDocument::openapi())
        // POST GET          /v1/datasets
        // GET PATCH DELETE  /v1/datasets/{id}
        // GET POST          /v1/datasets/{id}/rows
        // GET               /v1/datasets/{id}/versions
        // GET               /v1/datasets/{id}/profile
        // GET               /v1/datasets/{id}/picture
        .routes(routes!(datasets::create_dataset, datasets::list_datasets))
        .routes(routes!(datasets::get_dataset, datasets::change_dataset, datasets::delete_dataset))
        .routes(routes!(datasets::get_rows, versions::append_rows))
        .routes(routes!(versions::list_versions))
        .routes(routes!(profile::get_profile))
        .routes(routes!(profile::get_picture))
        // OPTIONS POST      /v1/uploads
        // HEAD PATCH DELETE /v1/uploads/{id}
        .merge(
            OpenApiRouter::new()
                .routes(routes!(uploads::describe_uploads, uploads::create_upload))
                .routes(routes!(uploads::look_at_upload, uploads::append_to_upload, uploads::delete_upload))
                .layer(axum::middleware::map_response(tus::sign)),
        )
        // POST GET          /v1/jobs
        // GET PATCH         /v1/jobs/{id}
        // POST              /v1/jobs/{id}/cancel, pause, resume, retry, extend
        // GET               /v1/jobs/{id}/metrics
        // GET               /v1/jobs/{id}/events
        // GET               /v1/jobs/{id}/split
        // GET               /v1/jobs/{id}/log
        // GET               /v1/jobs/{id}/checkpoints
        // GET               /v1/jobs/{id}/checkpoints/{name}
        .routes(routes!(jobs::create_job, jobs::list_jobs))
        .routes(routes!(jobs::get_job, life::change_job))
        .routes(routes!(jobs::cancel_job))
        .routes(routes!(life::pause_job))
        .routes(routes!(life::resume_job))
        .routes(routes!(life::retry_job))
        .routes(routes!(life::extend_job))
        .routes(routes!(jobs::get_metrics))
        .routes(routes!(jobs::get_events))
        .routes(routes!(splits::get_split))
        .routes(routes!(phases::get_log))
        .routes(routes!(checkpoints::list_checkpoints))
        .routes(routes!(checkpoints::download_checkpoint))
        // POST GET          /v1/sweeps
        // GET               /v1/sweeps/{id}
        // POST              /v1/sweeps/{id}/cancel
        .routes(routes!(sweeps::create_sweep, sweeps::list_sweeps))
        .routes(routes!(sweeps::get_sweep))
        .routes(routes!(sweeps::cancel_sweep))
        // GET POST          /v1/models
        // GET PATCH DELETE  /v1/models/{id}, where {id} may be a name, a version or an alias of the registry
        // GET               /v1/models/{id}/aliases
        // PUT DELETE        /v1/models/{id}/aliases/{alias}
        // GET               /v1/models/{id}/card
        // GET               /v1/models/{id}/artifacts/safetensors
        // GET               /v1/models/{id}/artifacts/spec
        // GET               /v1/models/{id}/artifacts/onnx, torchscript
        .routes(routes!(models::list_models, imports::import_model))
        .routes(routes!(models::get_model, models::change_model, models::delete_model))
        .routes(routes!(registry::list_aliases))
        .routes(routes!(registry::set_alias, registry::delete_alias))
        .routes(routes!(card::get_card))
        .routes(routes!(artifacts::download_model))
        .routes(routes!(artifacts::get_model_spec))
        .routes(routes!(artifacts::download_onnx))
        .routes(routes!(artifacts::download_torchscript))
        // GET POST          /v1/models/{id}/encode, decode, reconstruct, sample, impute, predict, score, interpolate, traverse
        .routes(routes!(encode::get_encode, encode::post_encode))
        .routes(routes!(decode::get_decode, decode::post_decode))
        .routes(routes!(reconstruct::get_reconstruct, reconstruct::post_reconstruct))
        .routes(routes!(sample::get_sample, sample::post_sample))
        .routes(routes!(impute::get_impute, impute::post_impute))
        .routes(routes!(predict::get_predict, predict::post_predict))
        .routes(routes!(score::get_score, score::post_score))
        .routes(routes!(interpolate::get_interpolate, interpolate::post_interpolate))
        .routes(routes!(traverse::get_traverse, traverse::post_traverse))
        // GET               /v2
        // GET               /v2/health/live, ready
        // GET               /v2/models/stats
        // GET               /v2/models/{name}, /v2/models/{name}/ready, config, stats
        // GET               /v2/models/{name}/versions/{version}, /v2/models/{name}/versions/{version}/ready, config, stats
        // POST              /v2/models/{name}/infer, /v2/models/{name}/versions/{version}/infer
        // POST              /v2/repository/index
        // POST              /v2/repository/models/{name}/load, unload
        .routes(routes!(v2::server::server_metadata))
        .routes(routes!(v2::server::server_live))
        .routes(routes!(v2::server::server_ready))
        .routes(routes!(v2::models::model_metadata))
        .routes(routes!(v2::models::version_metadata))
        .routes(routes!(v2::models::model_ready))
        .routes(routes!(v2::models::version_ready))
        .routes(routes!(v2::models::model_config))
        .routes(routes!(v2::models::version_config))
        .routes(routes!(v2::statistics::all_statistics))
        .routes(routes!(v2::statistics::model_statistics))
        .routes(routes!(v2::statistics::version_statistics))
        .routes(routes!(v2::infer::model_infer))
        .routes(routes!(v2::infer::version_infer))
        .routes(routes!(v2::repository::repository_index))
        .routes(routes!(v2::repository::load_model))
        .routes(routes!(v2::repository::unload_model))
        // GET               /v1/families
        // GET               /v1/presets
        .routes(routes!(families::list_families))
        .routes(routes!(families::list_presets))
        // GET               /v1/usage
        .routes(routes!(usage::get_usage))
        // GET               /livez, /readyz, /version
        .routes(routes!(health::livez))
        .routes(routes!(health::readyz))
        .routes(routes!(health::version));
    // Beside these: GET /openapi.json and /docs, and / which leads to /docs.
    media::describe_bodies(router.get_openapi_mut());
    router
}

/// The API document.
pub fn document() -> utoipa::openapi::OpenApi {
    routes().into_openapi()
}

/// The whole service.
pub fn router(app: App) -> Router {
    let (router, document) = routes().split_for_parts();
    let span = |request: &Request<_>| {
        let id = request.extensions().get::<RequestId>().and_then(|id| id.header_value().to_str().ok()).unwrap_or("");
        tracing::info_span!("request", id, method = %request.method(), path = request.uri().path())
    };
    router
        .merge(SwaggerUi::new("/docs").url("/openapi.json", document))
        .route("/", get(|| async { Redirect::temporary("/docs") }))
        .fallback(error::no_such_address)
        .method_not_allowed_fallback(error::no_such_method)
        .layer(axum::middleware::from_fn_with_state(app.clone(), conditional::conditional))
        .layer(axum::middleware::from_fn_with_state(app.clone(), room::room))
        .layer(
            ServiceBuilder::new()
                .layer(SetRequestIdLayer::x_request_id(MakeRequestUuid))
                .layer(PropagateRequestIdLayer::x_request_id())
                .layer(TraceLayer::new_for_http().make_span_with(span))
                .layer(SetResponseHeaderLayer::if_not_present(
                    header::X_CONTENT_TYPE_OPTIONS,
                    HeaderValue::from_static("nosniff"),
                ))
                .layer(axum::middleware::from_fn(error::render))
                .layer(CatchPanicLayer::custom(error::panicked)),
        )
        .with_state(app)
}

/// Milliseconds since 1970 as RFC 3339.
fn time(ms: i64) -> String {
    chrono::DateTime::from_timestamp_millis(ms).unwrap_or_default().to_rfc3339_opts(chrono::SecondsFormat::Millis, true)
}
