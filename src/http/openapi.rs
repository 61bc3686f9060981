//! The API document, made from the code.

use utoipa::OpenApi;

use super::inference::answers::RowsView;
use super::inference::decode::DecodedView;
use super::inference::encode::CodesView;
use super::inference::interpolate::WayView;
use super::inference::predict::PredictionsView;
use super::inference::reconstruct::ReconstructionView;
use super::inference::sample::SampledView;
use super::inference::score::ScoresView;
use super::inference::traverse::TraversalView;
use super::v2::error::ProtocolError;
use super::v2::infer::InferenceView;

/// Title, description and tags; paths and schemas come from the handlers.
#[derive(OpenApi)]
#[openapi(
    info(
        title = "latente",
        description = "Training-as-a-service for autoencoders: upload a dataset, post a job, watch it train, then encode, decode, reconstruct, sample, impute and predict.",
        license(name = "MIT OR Apache-2.0")
    ),
    // Views whose answers are described by hand, because they come in several forms.
    components(schemas(CodesView, DecodedView, InferenceView, PredictionsView, ProtocolError, ReconstructionView, RowsView, SampledView, ScoresView, TraversalView, WayView)),
    tags(
        (name = "datasets", description = "Rows to train on"),
        (name = "uploads", description = "Files in several requests, by tus 1.0"),
        (name = "jobs", description = "Training"),
        (name = "sweeps", description = "Many jobs that differ in some settings"),
        (name = "models", description = "What training makes"),
        (name = "inference", description = "Questions to models"),
        (name = "protocol", description = "The Open Inference Protocol, version 2, for clients of KServe and Triton"),
        (name = "families", description = "What can be trained"),
        (name = "operations", description = "The server itself")
    )
)]
pub struct ApiDocument;
