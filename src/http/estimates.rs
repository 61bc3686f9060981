//! What a job would take: the answer of a dry run.

use serde::Serialize;
use utoipa::ToSchema;

use super::phases::LimitsView;
use crate::domain::job::RunOptions;
use crate::jobs::estimate::{Estimate, Seen};
use crate::training::memory::Footprint;
use crate::training::spec::TrainSpec;

/// What a job would take.
#[derive(Debug, Serialize, ToSchema)]
pub struct EstimateView {
    /// The spec, with what the data decides filled in.
    pub spec: TrainSpec,
    /// What it may use up, and what stays of it.
    pub limits: LimitsView,
    /// Numbers that are trained.
    pub parameters: u64,
    /// Bytes of its model file, about.
    pub model_bytes: u64,
    /// Memory of its trainer.
    pub memory: MemoryView,
    /// Time; `null` when a short look was not enough to tell.
    pub time: Option<TimeView>,
}

/// Memory of a trainer, beside the rows that it reads.
#[derive(Debug, Serialize, ToSchema)]
pub struct MemoryView {
    /// The most that is expected to be there at once, told from the spec. What is measured is within a factor of three of it.
    pub expected_bytes: u64,
    /// What it is for.
    pub parts: Footprint,
    /// The most that there was in the short look; `null` where it was not seen, and on a GPU.
    pub measured_bytes: Option<u64>,
    /// What the trainer may have; `null` without a limit.
    pub limit_bytes: Option<u64>,
}

/// Time of a job.
#[derive(Debug, Serialize, ToSchema)]
pub struct TimeView {
    /// All epochs, with what comes before and after, or `max_runtime_seconds` if that is less. Early stopping may end it sooner.
    pub seconds: f64,
    /// Epochs of layers alone and of all together.
    pub epochs: u32,
    /// One epoch, with its validation.
    pub seconds_per_epoch: f64,
    /// Rows that go through training in a second.
    pub rows_per_second: f64,
    /// Before the first step.
    pub preparing_seconds: f64,
    /// After the last epoch.
    pub finishing_seconds: f64,
    /// Rows that train, validate and test.
    pub rows: PartsView,
    /// What these figures are from.
    pub measured: MeasuredView,
}

/// Rows of each part.
#[derive(Debug, Serialize, ToSchema)]
pub struct PartsView {
    /// Rows that train.
    pub train: u64,
    /// Rows that validate.
    pub validation: u64,
    /// Rows that test.
    pub test: u64,
}

/// What was measured: steps of the job itself, on its own rows, in a process of its own beside whatever the server did.
#[derive(Debug, Serialize, ToSchema)]
pub struct MeasuredView {
    /// Steps that were timed.
    pub steps: u64,
    /// Seconds that they took.
    pub seconds: f64,
}

impl EstimateView {
    /// That of a job with this resolved spec.
    pub(super) fn new(spec: TrainSpec, options: RunOptions, estimate: Estimate) -> Self {
        let Estimate { parameters, footprint, limit_bytes, seen } = estimate;
        let (epochs, most) = (spec.epochs(), options.max_runtime_seconds.map_or(f64::INFINITY, f64::from));
        let memory = MemoryView {
            expected_bytes: footprint.peak(),
            parts: footprint,
            measured_bytes: seen.as_ref().and_then(|seen| seen.peak_bytes),
            limit_bytes,
        };
        let time = seen.map(|Seen { probed, .. }| TimeView {
            seconds: probed.seconds(epochs).min(most),
            epochs,
            seconds_per_epoch: probed.epoch_seconds,
            rows_per_second: probed.rows_per_second,
            preparing_seconds: probed.preparing_seconds,
            finishing_seconds: probed.finishing_seconds,
            rows: PartsView { train: probed.rows[0], validation: probed.rows[1], test: probed.rows[2] },
            measured: MeasuredView { steps: probed.steps, seconds: probed.steps_seconds },
        });
        let model_bytes = footprint.parameter_bytes + serde_json::to_vec(&spec).map_or(0, |spec| spec.len() as u64);
        Self { spec, limits: options.into(), parameters, model_bytes, memory, time }
    }
}
