//! What a training run tells whoever watches it.

use super::checkpoint::Checkpoint;
use crate::data::split::Split;
use crate::domain::job::{Phase, Progress};
use crate::domain::metric::Metric;

/// Watches a run. Called on the thread that trains, so it must not wait.
pub trait Observer {
    /// Takes note of something that happened.
    fn observe(&mut self, report: Report<'_>);

    /// Whether a checkpoint would be taken now. A run that is asked to stop sends one in any case.
    fn takes_checkpoint(&self) -> bool;
}

/// Something that happened in a run.
#[derive(Debug)]
pub enum Report<'a> {
    /// The run goes on to something else. May be sent again.
    Phase(Phase),
    /// Rows are divided. Sent at every beginning, and always the same of one job.
    Split(&'a Split),
    /// Training begins, or goes on.
    Started(Started),
    /// A step is done. Sent often; the receiver picks.
    Progress(Progress),
    /// An epoch is done.
    Epoch {
        /// Counted from 1.
        epoch: u32,
        /// Means over its rows.
        metrics: Vec<Metric>,
    },
    /// The run can go on from here.
    Checkpoint(&'a Checkpoint),
    /// Something was left to the program, and is settled.
    Chosen(Chosen),
    /// Something that a person should know.
    Warning(String),
}

/// What a range test found.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Chosen {
    /// The learning rate of the job.
    pub learning_rate: f64,
    /// Why, for a person.
    pub text: String,
    /// Rates and the smoothed losses of the steps that had them.
    pub curve: Vec<[f64; 2]>,
}

/// How a run began.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Started {
    /// Numbers that are trained.
    pub parameters: u64,
    /// Rows that train.
    pub train_rows: u64,
    /// Rows that validate.
    pub validation_rows: u64,
    /// Rows that are kept for the end.
    pub test_rows: u64,
    /// Rows in one batch.
    pub batch_size: u32,
    /// `cpu` or `cuda`.
    pub device: String,
    /// The epoch it goes on from; 0 for a fresh start.
    pub from_epoch: u32,
    /// The step of that epoch.
    pub from_step: u64,
}
