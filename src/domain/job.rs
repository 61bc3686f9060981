//! The life of a job: its statuses, which may follow which, why it ended, and how far it is.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Where a job stands. The set is closed; clients may match on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum JobStatus {
    /// Waits for a worker; also where an interrupted job returns to.
    Queued,
    /// A trainer process works on it.
    Running,
    /// Waits until it is resumed; goes on from its last checkpoint then.
    Paused,
    /// Was asked to stop; its trainer is ending.
    Cancelling,
    /// Ended with a model.
    Succeeded,
    /// Ended without a model; `error` says why.
    Failed,
    /// Ended because somebody asked for it.
    Cancelled,
}

impl JobStatus {
    /// Every status, in the order of a life.
    pub const ALL: [Self; 7] =
        [Self::Queued, Self::Running, Self::Paused, Self::Cancelling, Self::Succeeded, Self::Failed, Self::Cancelled];

    /// The name on the wire and in the database.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Cancelling => "cancelling",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }

    /// The status of that name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|status| status.as_str() == name)
    }

    /// Whether a job in this status has ended for good.
    pub fn is_terminal(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed | Self::Cancelled)
    }

    /// Whether `next` may follow.
    ///
    /// A job that is being cancelled never returns to the queue: it may only end. Its trainer can still finish in the
    /// moment before it hears of the cancel, so success may follow too. A running job that is to be paused still runs until its
    /// trainer has ended, so everything that may follow running may follow then.
    pub fn may_become(self, next: Self) -> bool {
        match self {
            Self::Queued => matches!(next, Self::Running | Self::Paused | Self::Cancelled | Self::Failed),
            Self::Running => {
                matches!(next, Self::Queued | Self::Paused | Self::Cancelling | Self::Succeeded | Self::Failed)
            }
            Self::Paused => matches!(next, Self::Queued | Self::Cancelled),
            Self::Cancelling => next.is_terminal(),
            Self::Succeeded | Self::Failed | Self::Cancelled => false,
        }
    }
}

/// Why training ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum StopReason {
    /// Every epoch was done.
    Completed,
    /// As many steps were done as the job allows.
    MaxSteps,
    /// The validation loss had stopped falling; the best epoch was kept.
    EarlyStopped,
    /// The loss or the gradient was no longer finite or had grown beyond measure; the best epoch before that was kept.
    Diverged,
    /// The time that the job was given was over; the best epoch before that was kept, or what there was of the first one.
    MaxRuntime,
    /// Somebody cancelled the job.
    User,
    /// Others of its sweep were better after as many epochs.
    NotPromoted,
}

/// What a job does at a time. More may come; clients should take any name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// In the queue.
    Waiting,
    /// A worker has it, and its trainer is coming up.
    Starting,
    /// Rows are divided, and what is done to columns is found from those that train.
    Preparing,
    /// Layers train one by one.
    Pretraining,
    /// All layers train.
    Training,
    /// A model is asked about rows.
    Inference,
    /// The model that was kept is measured.
    Evaluating,
    /// What codes are drawn from is fitted.
    FittingSampler,
    /// Held-out rows are scored, so that others can be compared with them.
    Calibrating,
    /// The model is written.
    Storing,
    /// Its trainer was asked to stop, until somebody resumes the job.
    Pausing,
    /// Until somebody resumes it.
    Paused,
    /// Its trainer was asked to stop for good.
    Stopping,
    /// It has ended.
    Done,
}

impl Phase {
    /// The name on the wire and in the database.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Starting => "starting",
            Self::Preparing => "preparing",
            Self::Pretraining => "pretraining",
            Self::Training => "training",
            Self::Inference => "inference",
            Self::Evaluating => "evaluating",
            Self::FittingSampler => "fitting_sampler",
            Self::Calibrating => "calibrating",
            Self::Storing => "storing",
            Self::Pausing => "pausing",
            Self::Paused => "paused",
            Self::Stopping => "stopping",
            Self::Done => "done",
        }
    }
}

/// What a job may use up, and what stays of it. Nothing of this is in the model file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RunOptions {
    /// Seconds that workers may spend on it, over all attempts. Then it ends after the step under way, with a model.
    pub max_runtime_seconds: Option<u32>,
    /// MiB of memory that its trainer may have of its own; the operator's limit holds too.
    pub max_memory_mib: Option<u64>,
    /// Checkpoints that are kept.
    pub keep: Retention,
}

impl RunOptions {
    /// Milliseconds that are left of a job that ran for so many; `None` without a limit.
    pub fn left_ms(&self, ran_ms: u64) -> Option<u64> {
        self.max_runtime_seconds.map(|seconds| (u64::from(seconds) * 1000).saturating_sub(ran_ms))
    }

    /// Bytes that its trainer may have, where the operator allows `most`.
    pub fn memory_bytes(&self, most: Option<u64>) -> Option<u64> {
        let own = self.max_memory_mib.map(|mib| mib << 20);
        own.into_iter().chain(most).min()
    }
}

/// Checkpoints that are kept of a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct Retention {
    /// So many of those that were the best when they were made.
    pub best: u32,
    /// So many of the latest. While the job has not ended it is two at least, should one be damaged.
    pub latest: u32,
    /// Whether they stay when the job has succeeded.
    pub after_success: bool,
}

impl Default for Retention {
    fn default() -> Self {
        Self { best: 1, latest: 1, after_success: false }
    }
}

/// Where a job begins that tries another one again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum RetryFrom {
    /// At the last checkpoint that was kept, and at the start where there is none.
    #[default]
    Checkpoint,
    /// At the start.
    Start,
}

/// Why a job waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum WaitingCode {
    /// Every worker is at work.
    Worker,
    /// Others are before it in the queue.
    Queue,
    /// It is paused until somebody resumes it.
    Resume,
    /// As many jobs of its sweep run as may run at once, or its sweep compares it with others before it goes on.
    Sweep,
    /// It begins within a moment.
    Start,
}

/// How far a running job is. The newest one replaces the one before.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Progress {
    /// Epochs done.
    pub epoch: u32,
    /// Epochs asked for.
    pub epochs: u32,
    /// Steps (batches) done, over all epochs; rows of a job of inference.
    pub step: u64,
    /// Steps, or rows, in all.
    pub steps: u64,
    /// Mean training loss of the current epoch so far, in nats per row.
    pub loss: Option<f64>,
    /// Rows that went through training, or inference, per second, lately.
    pub rows_per_second: Option<f64>,
    /// Seconds until the last epoch would end; early stopping may make it sooner.
    pub eta_seconds: Option<f64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_follows_a_terminal_status() {
        for from in JobStatus::ALL.into_iter().filter(|status| status.is_terminal()) {
            assert!(JobStatus::ALL.into_iter().all(|next| !from.may_become(next)), "{from:?}");
        }
    }

    #[test]
    fn a_job_that_is_being_cancelled_never_returns_to_the_queue() {
        assert!(!JobStatus::Cancelling.may_become(JobStatus::Queued));
        assert!(!JobStatus::Cancelling.may_become(JobStatus::Running));
    }

    #[test]
    fn a_paused_job_may_only_wait_again_or_be_cancelled() {
        let next: Vec<_> = JobStatus::ALL.into_iter().filter(|next| JobStatus::Paused.may_become(*next)).collect();
        assert_eq!(next, [JobStatus::Queued, JobStatus::Cancelled]);
        assert!(!JobStatus::Cancelling.may_become(JobStatus::Paused));
    }

    #[test]
    fn the_narrower_of_two_limits_holds_and_time_runs_over_attempts() {
        let options = RunOptions { max_runtime_seconds: Some(3), max_memory_mib: Some(256), ..RunOptions::default() };
        assert_eq!((options.left_ms(1_000), options.left_ms(9_000)), (Some(2_000), Some(0)));
        assert_eq!((options.memory_bytes(None), options.memory_bytes(Some(1 << 20))), (Some(256 << 20), Some(1 << 20)));
        assert_eq!((RunOptions::default().memory_bytes(None), RunOptions::default().left_ms(5)), (None, None));
    }

    #[test]
    fn names_are_read_back() {
        for status in JobStatus::ALL {
            assert_eq!(JobStatus::parse(status.as_str()), Some(status));
            assert_eq!(serde_json::to_value(status).unwrap(), status.as_str());
        }
    }
}
