//! Inference: a thread that owns the models, and the handle by which requests reach it.
//!
//! A tensor never crosses a thread: rows of `f32` go in, rows of `f32` come back. Whatever waits when the thread is free
//! leaves in one batch, so nobody waits for a batch to fill.
//!
//! Start reading with [`Inference::ask`], then `engine`.

mod batcher;
mod engine;
mod residency;
mod statistics;

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use futures_util::future::try_join_all;
pub use statistics::{Activity, Batch, Statistics, Total};
use tokio::sync::{mpsc, oneshot};

use crate::domain::id::ModelId;
use crate::domain::limits::INFERENCE_QUEUE;
use crate::domain::refusal::{Code, Refusal};
use crate::store::models::Model;
use crate::store::{Store, StoreError};
pub use crate::training::artifact::Draw;
pub use crate::training::scored::Scored;
pub use crate::training::scoring::{Measure, SCORE_SAMPLES};

/// What the operator set.
#[derive(Clone, Debug)]
pub struct ServingConfig {
    /// Threads of one operation.
    pub threads: usize,
    /// Bytes of models that stay loaded; the least recently used go first.
    pub resident_bytes: u64,
}

/// What a model is asked. Rows are in the user's units, one after the other; the caller has checked their width.
#[derive(Clone, Debug, PartialEq)]
pub enum Question {
    /// Codes of rows.
    Encode(Vec<f32>),
    /// Rows for codes: their means.
    Decode(Vec<f32>),
    /// The same, and the spread of each value.
    DecodeSpread(Vec<f32>),
    /// Rows drawn from what the decoder says of codes.
    DecodeDraw {
        /// The codes.
        codes: Vec<f32>,
        /// Which draw.
        seed: u64,
    },
    /// Rows through the code and back.
    Reconstruct(Vec<f32>),
    /// New rows.
    Sample(Draw),
    /// Rows whose missing values are filled in.
    Impute {
        /// The rows, NaN where a value is missing.
        rows: Vec<f32>,
        /// Steps of the chain, or rounds through the code and back.
        rounds: u32,
        /// Which draw of the chain.
        seed: u64,
    },
    /// How strange rows are: of each what [`Scored`] names, and beside that the share of each column where it is asked for.
    Score {
        /// The rows, NaN where a value is missing.
        rows: Vec<f32>,
        /// What they are judged by.
        measure: Measure,
        /// The share of ordinary rows that are less strange than an anomaly.
        threshold: f32,
        /// Draws for the density of each row; 0 for none.
        samples: u32,
        /// Which draws.
        seed: u64,
        /// Whether the share of each column is asked for.
        contributions: bool,
    },
    /// What the model tells of the labels of rows.
    Predict(Vec<f32>),
    /// An estimate of the gradient of log p(x) at rows.
    ScoreEstimate(Vec<f32>),
}

/// What it answers: one row after the other.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// Codes or rows.
    pub values: Vec<f32>,
    /// Beside them: the spread of codes, of rows or of predictions, or one reconstruction error a row.
    pub beside: Option<Vec<f32>>,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ServingError {
    /// The request is at fault, or there is too much to do.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The model's bytes cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The model failed on these rows, or its file is damaged.
    #[error("the model failed: {0}")]
    Failed(String),
}

enum Request {
    Ask { model: ModelId, question: Question, asked: Instant, reply: oneshot::Sender<Reply> },
    Load { model: ModelId, bytes: Vec<u8>, reply: oneshot::Sender<Result<(), ServingError>> },
    TryOut { bytes: Vec<u8>, reply: oneshot::Sender<Result<(), ServingError>> },
    Forget(ModelId),
}

enum Reply {
    Answer(Answer),
    NotLoaded,
    Refused(Refusal),
    Failed(String),
}

/// The handle of this floor. Cheap to clone.
#[derive(Clone)]
pub struct Inference {
    requests: mpsc::Sender<Request>,
    store: Store,
    /// Bytes of models that fit.
    resident_bytes: u64,
    /// One model is loaded at a time: many callers of one cold model would otherwise each read its bytes.
    loading: Arc<tokio::sync::Mutex<()>>,
    /// Models that were unloaded until they are loaded again.
    withdrawn: Arc<Mutex<HashSet<ModelId>>>,
    /// What was asked of each model.
    pub statistics: Statistics,
}

impl Inference {
    /// Starts the thread.
    ///
    /// # Errors
    /// The operating system gives no thread.
    pub fn start(store: Store, config: ServingConfig) -> std::io::Result<Self> {
        let (requests, receiver) = mpsc::channel(INFERENCE_QUEUE);
        let resident_bytes = config.resident_bytes;
        let statistics = Statistics::default();
        std::thread::Builder::new().name("inference-0".to_owned()).spawn({
            let statistics = statistics.clone();
            move || engine::run(receiver, &config, &statistics)
        })?;
        Ok(Self { requests, store, resident_bytes, loading: Arc::default(), withdrawn: Arc::default(), statistics })
    }

    /// Asks a model; loads it first where it is not loaded.
    ///
    /// # Errors
    /// Too many wait already, or the model cannot be read or fails.
    pub async fn ask(&self, model: &Model, question: Question) -> Result<Answer, ServingError> {
        let began = Instant::now();
        let answer = self.answer(model, question).await;
        self.statistics.ended(model.id, answer.is_ok(), began.elapsed());
        answer
    }

    /// Asks a model several questions that are one request. Answers come in their order.
    ///
    /// # Errors
    /// As with [`Inference::ask`], of the first question that fails.
    pub async fn ask_all(&self, model: &Model, questions: Vec<Question>) -> Result<Vec<Answer>, ServingError> {
        let began = Instant::now();
        let answers = try_join_all(questions.into_iter().map(|question| self.answer(model, question))).await;
        self.statistics.ended(model.id, answers.is_ok(), began.elapsed());
        answers
    }

    /// Why a model cannot be kept in memory.
    pub fn too_large(&self, bytes: u64) -> Option<Refusal> {
        // Its numbers are about as many bytes as its file.
        (bytes > self.resident_bytes).then(|| {
            let detail = format!(
                "the model has {bytes} bytes, and this server keeps {} bytes of models in memory; start it with a larger --resident-mib",
                self.resident_bytes
            );
            Refusal::new(Code::ModelTooLarge, detail)
        })
    }

    async fn answer(&self, model: &Model, question: Question) -> Result<Answer, ServingError> {
        if let Some(refusal) = self.too_large(model.bytes) {
            return Err(refusal.into());
        }
        match self.send(model.id, question.clone()).await? {
            Reply::NotLoaded => {}
            reply => return finish(reply),
        }
        let _one = self.loading.lock().await;
        // Whoever held the lock before may have loaded it.
        match self.send(model.id, question.clone()).await? {
            Reply::NotLoaded => {}
            reply => return finish(reply),
        }
        self.read_in(model).await?;
        finish(self.send(model.id, question).await?)
    }

    /// Whether the bytes of a model file from elsewhere are a model that answers. One that this server could not serve, because it
    /// is larger than what it keeps of models in memory, is not tried.
    ///
    /// # Errors
    /// It does not answer, or too many wait already.
    pub async fn try_out(&self, bytes: Vec<u8>) -> Result<(), ServingError> {
        if bytes.len() as u64 > self.resident_bytes {
            return Ok(());
        }
        let (reply, answer) = oneshot::channel();
        self.enqueue(Request::TryOut { bytes, reply })?;
        answer.await.map_err(|_| stopped())?
    }

    /// Reads a model into memory, again where it is there already, and gives it back to those who see it as unloaded.
    ///
    /// # Errors
    /// It has no room, or cannot be read.
    pub async fn load(&self, model: &Model) -> Result<(), ServingError> {
        if let Some(refusal) = self.too_large(model.bytes) {
            return Err(refusal.into());
        }
        let _one = self.loading.lock().await;
        self.read_in(model).await?;
        self.withdrawn().remove(&model.id);
        Ok(())
    }

    /// Drops a model from memory and keeps in mind that it was unloaded, until it is loaded or the server ends. Who asks for it
    /// all the same is answered: it is for them to look ([`Inference::is_unloaded`]).
    pub async fn unload(&self, model: ModelId) {
        self.withdrawn().insert(model);
        let _ = self.requests.send(Request::Forget(model)).await;
    }

    /// Whether a model was unloaded and not loaded again.
    pub fn is_unloaded(&self, model: ModelId) -> bool {
        self.withdrawn().contains(&model)
    }

    /// Drops a deleted model from memory, and what is known of it.
    pub async fn forget(&self, model: ModelId) {
        let _ = self.requests.send(Request::Forget(model)).await;
        self.withdrawn().remove(&model);
        self.statistics.forget(model);
    }

    /// The caller holds the lock of loading.
    async fn read_in(&self, model: &Model) -> Result<(), ServingError> {
        let bytes = self.store.artifact(model.artifact_id).await?;
        let (reply, loaded) = oneshot::channel();
        self.enqueue(Request::Load { model: model.id, bytes, reply })?;
        loaded.await.map_err(|_| stopped())?
    }

    fn withdrawn(&self) -> std::sync::MutexGuard<'_, HashSet<ModelId>> {
        self.withdrawn.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn send(&self, model: ModelId, question: Question) -> Result<Reply, ServingError> {
        let (reply, answer) = oneshot::channel();
        self.enqueue(Request::Ask { model, question, asked: Instant::now(), reply })?;
        answer.await.map_err(|_| stopped())
    }

    fn enqueue(&self, request: Request) -> Result<(), ServingError> {
        self.requests.try_send(request).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => Refusal::new(
                Code::Overloaded,
                format!("{INFERENCE_QUEUE} questions wait already; try again in a moment"),
            )
            .into(),
            mpsc::error::TrySendError::Closed(_) => stopped(),
        })
    }
}

fn finish(reply: Reply) -> Result<Answer, ServingError> {
    match reply {
        Reply::Answer(answer) => Ok(answer),
        Reply::Refused(refusal) => Err(refusal.into()),
        Reply::Failed(fault) => Err(ServingError::Failed(fault)),
        Reply::NotLoaded => Err(Refusal::new(
            Code::Overloaded,
            "the model was dropped from memory again before it could answer; try again",
        )
        .into()),
    }
}

fn stopped() -> ServingError {
    ServingError::Failed("the inference thread has ended".to_owned())
}
