//! What a trainer process and its worker say to each other: one JSON object a line, over the child's standard streams.
//!
//! Large things go as files in the directory they share; the messages name them.

use serde::{Deserialize, Serialize};

use crate::data::dataset::Schema;
use crate::domain::job::{Phase, Progress, StopReason};
use crate::domain::metric::Metric;
use crate::domain::refusal::Refusal;
use crate::store::Store;
use crate::store::datasets::Dataset;
use crate::training::inference::InferenceSpec;
use crate::training::observer::{Chosen, Started};
use crate::training::probe::Probed;
use crate::training::spec::TrainSpec;

/// The file that tells a trainer what to do.
pub const REQUEST: &str = "request.json";
/// The checkpoint it goes on from, when there is one.
pub const RESUME: &str = "resume.safetensors";
/// The file of the model whose weights a trainer begins with, when there is one and nothing to resume.
pub const INIT: &str = "init.safetensors";

/// The file of the model that it asks, where it does not train.
pub const ASKED: &str = "asked.safetensors";

/// What a trainer is to do.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Request {
    /// The resolved spec.
    pub spec: TrainSpec,
    /// The columns of the rows.
    pub schema: Schema,
    /// The file of canonical rows.
    pub rows_path: std::path::PathBuf,
    /// How many there are.
    pub rows: u64,
    /// Milliseconds after which it ends with the model it has; no limit when it is absent.
    pub left_ms: Option<u64>,
    /// Stop after so many epochs, with a checkpoint: where a sweep compares its trials.
    pub rest_at: Option<u32>,
    /// Offer a checkpoint after every epoch, however short it is: somebody wants to keep them.
    #[serde(default)]
    pub every_epoch: bool,
    /// What becomes of it.
    pub task: Task,
    /// What a model is asked about the rows, where none is trained. `spec` is then what the model was trained by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inference: Option<InferenceRequest>,
}

impl Request {
    /// Training on a dataset, without a limit of time.
    ///
    /// # Errors
    /// The current directory cannot be found.
    pub fn train(spec: TrainSpec, dataset: &Dataset, store: &Store) -> std::io::Result<Self> {
        Ok(Self {
            spec,
            schema: dataset.schema.clone(),
            rows_path: std::path::absolute(store.rows_path(dataset.id))?,
            rows: dataset.rows,
            left_ms: None,
            rest_at: None,
            every_epoch: false,
            task: Task::Train,
            inference: None,
        })
    }
}

/// What a trainer is there for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Task {
    /// To train.
    Train,
    /// To find out how fast it would train.
    Probe {
        /// How long steps are timed.
        ms: u64,
    },
}

/// What a model is asked about every row.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct InferenceRequest {
    /// What is asked.
    pub spec: InferenceSpec,
    /// The columns of the model and the labels it learned.
    pub schema: Schema,
    /// The file in which the answers grow; it outlives the process.
    pub result_path: std::path::PathBuf,
    /// How many of its rows count.
    pub from_row: u64,
}

/// The answers to every row, described.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Answered {
    /// How many rows there are.
    pub rows: u64,
    /// Bytes of them.
    pub bytes: u64,
    /// Their columns.
    pub schema: Schema,
}

/// From the trainer.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "message", rename_all = "snake_case")]
pub enum Message {
    /// The trainer goes on to something else.
    Phase {
        /// What it does now.
        phase: Phase,
    },
    /// Training begins or goes on.
    Started(Started),
    /// Rows were divided. The worker removes the file.
    Split {
        /// Its name in the shared directory.
        file: String,
        /// Rows that train, validate and test.
        rows: [u64; 3],
    },
    /// How far it is.
    Progress(Progress),
    /// An epoch is done.
    Epoch {
        /// Counted from 1.
        epoch: u32,
        /// Means over its rows.
        metrics: Vec<Metric>,
    },
    /// A checkpoint was written. The worker removes the file and answers [`Order::Stored`].
    Checkpoint {
        /// Its name in the shared directory.
        file: String,
        /// Epochs done.
        epoch: u32,
        /// Steps done of the epoch under way.
        step: u64,
        /// Whether its weights are the best so far.
        best: bool,
    },
    /// A model is asked about rows, the first of them or the next.
    Answering {
        /// How many rows there are.
        rows: u64,
        /// How many of them were answered before.
        from_row: u64,
    },
    /// So many rows are answered and on the disk. The worker records it and answers [`Order::Stored`].
    Rows {
        /// Counted from the first of the dataset.
        rows: u64,
    },
    /// Every row is answered. The last message.
    Answered {
        /// The description of the answers in the shared directory.
        file: String,
    },
    /// Something was left to the program, and is settled.
    Chosen(Chosen),
    /// Something that a person should know.
    Warning {
        /// What.
        text: String,
    },
    /// Done, with a model. The last message.
    Finished {
        /// Why training ended.
        stop_reason: StopReason,
        /// Figures of the model.
        metrics: Vec<Metric>,
        /// The model's name in the shared directory.
        file: String,
    },
    /// The end of a look at a job. The last message.
    Probed {
        /// What was seen.
        probed: Probed,
        /// The most memory that there was beside mapped files; `None` on a GPU, or where the system does not say.
        peak_bytes: Option<u64>,
    },
    /// Stopped because it was asked to, after a checkpoint. The last message.
    Stopped,
    /// Done, without a model. The last message.
    Failed {
        /// Why.
        error: Refusal,
    },
}

/// To the trainer. The end of the stream means that nobody is listening any more, and ends it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    /// A checkpoint was kept; the next may come.
    Stored,
    /// Stop at the next step, after a checkpoint.
    Stop,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_one_line() {
        let message = Message::Warning { text: "two\nlines".to_owned() };
        let line = serde_json::to_string(&message).unwrap();
        assert!(!line.contains('\n'));
        assert!(matches!(serde_json::from_str(&line).unwrap(), Message::Warning { text } if text == "two\nlines"));
    }
}
