//! The life of a job: its statuses, which may follow which, why it ended, and how far it is.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::limits::{CHECKPOINTS, METADATA_BYTES, METADATA_ENTRIES, PRIORITY, RUNTIME_SECONDS, TRAINER_MIB};
use super::refusal::Faults;

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
    /// The validation loss had stopped falling; the best epoch was kept.
    EarlyStopped,
    /// The loss or the gradient was no longer finite; the best epoch before that was kept.
    Diverged,
    /// Somebody cancelled the job.
    User,
    /// Other jobs of its sweep did better.
    Outdone,
}

/// How a job is run. Nothing of it changes what is trained, and nothing of it is kept with the model.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RunOptions {
    /// Jobs of a higher priority leave the queue first.
    #[schema(minimum = -100, maximum = 100)]
    pub priority: i32,
    /// Anything of the client's own: names and texts.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub metadata: BTreeMap<String, String>,
    /// Seconds that its trainers may run in all. With more it fails as `max_runtime`, and `retry` goes on from its last
    /// checkpoint.
    #[schema(minimum = 1, maximum = 31536000)]
    pub max_runtime_seconds: Option<u64>,
    /// MiB of memory that its trainer may have of its own. The server's limit holds too.
    #[schema(minimum = 128, maximum = 16777216)]
    pub memory_mib: Option<u64>,
    /// Which of its checkpoints are kept.
    pub checkpoints: Retention,
}

/// Which checkpoints of a job are kept. One that has not ended keeps its last two in any case, and one that succeeded none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Retention {
    /// Those with the lowest validation loss.
    #[schema(minimum = 0, maximum = 10)]
    pub best: u32,
    /// The newest.
    #[schema(minimum = 1, maximum = 10)]
    pub latest: u32,
}

impl Default for Retention {
    fn default() -> Self {
        Self { best: 1, latest: 1 }
    }
}

impl RunOptions {
    /// Reports every fault; pointers begin with `prefix`.
    pub fn find_faults(&self, prefix: &str, faults: &mut Faults) {
        let at = |name: &str| format!("{prefix}/{name}");
        faults.require_within(&at("priority"), self.priority, PRIORITY);
        if let Some(seconds) = self.max_runtime_seconds {
            faults.require_within(&at("max_runtime_seconds"), seconds, 1..=RUNTIME_SECONDS);
        }
        if let Some(mib) = self.memory_mib {
            faults.require_within(&at("memory_mib"), mib, TRAINER_MIB);
        }
        faults.require_within(&at("checkpoints/best"), self.checkpoints.best, 0..=CHECKPOINTS);
        faults.require_within(&at("checkpoints/latest"), self.checkpoints.latest, 1..=CHECKPOINTS);
        check_metadata(&self.metadata, &at("metadata"), faults);
    }

    /// Whether nothing was said.
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// Reports names and texts of a client's own that are too many or too long.
pub fn check_metadata(metadata: &BTreeMap<String, String>, pointer: &str, faults: &mut Faults) {
    if metadata.len() > METADATA_ENTRIES {
        faults.push(pointer, "too_many", format!("has {} entries; allowed are {METADATA_ENTRIES}", metadata.len()));
    }
    let bytes: usize = metadata.iter().map(|(name, text)| name.len() + text.len()).sum();
    if bytes > METADATA_BYTES {
        faults.push(pointer, "too_large", format!("has {bytes} bytes; allowed are {METADATA_BYTES}"));
    }
}

/// What a job does from a moment on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PhaseEntry {
    /// `waiting`, `starting`, `training`, `pausing`, `paused`, `stopping` or `done`. More may come.
    pub phase: String,
    /// Milliseconds since 1970.
    pub at: i64,
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
    /// As many jobs of its sweep run as its `max_parallel` allows.
    Sweep,
    /// It is paused until somebody resumes it.
    Resume,
    /// It waits at a rung for other jobs of its sweep.
    Rung,
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
    /// Steps (batches) done, over all epochs.
    pub step: u64,
    /// Steps in all.
    pub steps: u64,
    /// Mean training loss of the current epoch so far, in nats per row.
    pub loss: Option<f64>,
    /// Rows that went through training per second, lately.
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
    fn names_are_read_back() {
        for status in JobStatus::ALL {
            assert_eq!(JobStatus::parse(status.as_str()), Some(status));
            assert_eq!(serde_json::to_value(status).unwrap(), status.as_str());
        }
    }
}
