//! Trained models as files for other programs: ONNX and TorchScript.
//!
//! What a model does with rows is recorded by libtorch's tracer while it does it, preparation and all. The recording is a
//! TorchScript file as it is; `onnx` translates its operations. So no family and no layer has a second description
//! that could drift from the first.
//!
//! Start reading with [`export`], then `passes`.

mod columns;
mod graph;
mod lines;
mod onnx;
mod operations;
mod passes;
pub mod proto;
mod recording;

use std::path::Path;

use serde::{Deserialize, Serialize};
use tch::Device;
use utoipa::ToSchema;

use super::artifact::TrainedModel;
use super::bundle::BundleError;
use passes::Passes;
use recording::Recording;

/// The part of a model that a file holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Part {
    /// From `rows` to `codes`, and their `spread` where the encoder is stochastic.
    #[default]
    Encoder,
    /// From `codes` to `rows`.
    Decoder,
    /// From `rows` to what comes back of them, `reconstruction`, and the `error` of each.
    Reconstructor,
    /// From `rows` to the `score` and the `error` of each, and the share of ordinary rows that are less strange, `anomaly`.
    Scorer,
    /// From `rows` to what is told of their `labels`, and its `spread`; of models that learned labels.
    Predictor,
}

impl Part {
    /// Every part.
    pub const ALL: [Self; 5] = [Self::Encoder, Self::Decoder, Self::Reconstructor, Self::Scorer, Self::Predictor];

    /// The name on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Encoder => "encoder",
            Self::Decoder => "decoder",
            Self::Reconstructor => "reconstructor",
            Self::Scorer => "scorer",
            Self::Predictor => "predictor",
        }
    }
}

/// The form of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// A protobuf that ONNX runtimes read.
    Onnx,
    /// An archive that `torch.jit.load` reads.
    TorchScript,
}

impl Form {
    /// Every form.
    pub const ALL: [Self; 2] = [Self::Onnx, Self::TorchScript];

    /// The name on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Onnx => "onnx",
            Self::TorchScript => "torchscript",
        }
    }

    /// What the name of a file ends in.
    pub fn ending(self) -> &'static str {
        match self {
            Self::Onnx => "onnx",
            Self::TorchScript => "pt",
        }
    }
}

/// Why there is no file.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// There is no predictor of a model that learned no labels.
    #[error("the model learned no labels, so it has no predictor")]
    NoLabels,
    /// The bytes are no model.
    #[error(transparent)]
    Model(#[from] BundleError),
    /// libtorch could not record what the model does.
    #[error("the model could not be recorded: {0}")]
    Recording(String),
    /// An operation has no counterpart in the form that was asked for.
    #[error("{0}")]
    Operation(String),
    /// The file cannot be written.
    #[error("the file cannot be written: {0}")]
    File(#[from] std::io::Error),
}

/// Rows that a recording is made with. Not one, because a side of 1 is stretched where it meets another.
const RECORDED_ROWS: i64 = 3;

/// Writes a part of the model that `bytes` are into a file.
///
/// # Errors
/// The bytes are no model, it does not have that part, or the file cannot be written.
pub fn export(bytes: &[u8], part: Part, form: Form, file: &Path) -> Result<(), ExportError> {
    let model = TrainedModel::read(bytes, Device::Cpu)?;
    let passes = Passes::of(&model);
    let signature = passes.signature(part)?;
    let (recording, _) = record(&passes, part)?;
    match form {
        Form::TorchScript => recording.save(file).map_err(ExportError::Recording),
        Form::Onnx => Ok(std::fs::write(file, onnx::translate(&recording, &signature, &model.header, part)?)?),
    }
}

/// What a part does, recorded.
fn record(passes: &Passes<'_>, part: Part) -> Result<(Recording, passes::Signature), ExportError> {
    let signature = passes.signature(part)?;
    let trial = passes.trial(&signature, RECORDED_ROWS);
    // Once without recording: what a model keeps from its first answer on must be there before.
    tch::no_grad(|| drop(passes.pass(part, &trial)));
    let recording = Recording::of(&trial, signature.input.0, |input| passes.pass(part, input));
    Ok((recording.map_err(ExportError::Recording)?, signature))
}
