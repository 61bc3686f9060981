//! Inference: threads that put rows through models, and the handle by which requests reach them.
//!
//! Rows of `f32` go in, rows of `f32` come back. Whatever waits when a thread is free leaves in one batch, so nobody waits for
//! a batch to fill. What a row is answered depends on that row alone, whoever shares its batch.
//!
//! Start reading with [`Inference::ask`], then `desk` (what waits and who takes it) and `engine` (what becomes of it).

mod batcher;
mod desk;
mod engine;
mod flights;
mod pending;
mod residency;
mod statistics;

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::future::try_join_all;

pub use statistics::{Activity, Batch, Statistics, Total};
use tokio::sync::{Semaphore, oneshot};
use tokio::time::{Instant, timeout, timeout_at};

use self::desk::{Desk, Turned};
use self::flights::Flights;
use crate::domain::id::ModelId;
use crate::domain::limits::{INFERENCE_QUEUE, INFERENCE_WAIT_SECONDS, LOADS};
use crate::domain::refusal::{Code, Refusal};
use crate::store::models::Model;
use crate::store::{Store, StoreError};
pub use crate::training::artifact::{Draw, Units};
pub use crate::training::scored::Scored;
pub use crate::training::scoring::{Measure, SCORE_SAMPLES};

/// What the operator set.
#[derive(Clone, Debug)]
pub struct ServingConfig {
    /// How many threads answer. Each does one operation at a time by itself.
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
    /// New codes, as those of new rows are drawn.
    Codes {
        /// How many.
        count: usize,
        /// Which ones.
        seed: u64,
    },
    /// Rows whose missing values are filled in.
    Impute {
        /// The rows, NaN where a value is missing.
        rows: Vec<f32>,
        /// Steps of the chain, or rounds through the code and back.
        rounds: u32,
        /// Which draw of the chain.
        seed: u64,
    },
    /// Rows whose missing values are drawn, so many times over: all rows by the first draw, then by the next.
    ImputeDraws {
        /// The rows, NaN where a value is missing.
        rows: Vec<f32>,
        /// Steps of the chain.
        rounds: u32,
        /// How many times.
        draws: u32,
        /// Which draws.
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
    /// How many numbers each column becomes when it is prepared; and beside that of each of these the level that it stands for, NaN
    /// where it stands for none.
    Slots,
    /// A question whose rows, or those of whose answer, are prepared.
    InUnits {
        /// What is asked.
        question: Box<Question>,
        /// Which rows are.
        units: Units,
    },
}

impl Question {
    /// The same question about rows in other units.
    pub fn in_units(self, units: Units) -> Self {
        if units == Units::default() {
            return self;
        }
        Self::InUnits { question: Box::new(self), units }
    }
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

enum Reply {
    Answer(Answer),
    NotLoaded,
    Refused(Refusal),
    Failed(String),
}

/// The handle of this floor. Cheap to clone.
#[derive(Clone)]
pub struct Inference {
    inner: Arc<Inner>,
    /// What was asked of each model.
    pub statistics: Statistics,
}

struct Inner {
    desk: Arc<Desk>,
    store: Store,
    /// Bytes of models that fit.
    resident_bytes: u64,
    /// Many callers of one cold model wait for one of them to load it.
    flights: Flights,
    /// Models that are loaded at once take memory beside those that are loaded.
    loads: Semaphore,
    /// Models that were unloaded until they are loaded again.
    withdrawn: Mutex<HashSet<ModelId>>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.desk.end();
    }
}

/// How often a model is loaded for one question: others may need its room before it has answered.
const ATTEMPTS: usize = 3;

impl Inference {
    /// Starts the threads.
    ///
    /// # Errors
    /// The operating system gives none.
    pub fn start(store: Store, config: &ServingConfig) -> std::io::Result<Self> {
        let threads = config.threads.max(1);
        let statistics = Statistics::default();
        let desk = Arc::new(Desk::new(config.resident_bytes, threads, statistics.clone()));
        let inner = Inner {
            desk: desk.clone(),
            store,
            resident_bytes: config.resident_bytes,
            flights: Flights::default(),
            loads: Semaphore::new(LOADS),
            withdrawn: Mutex::default(),
        };
        let inference = Self { inner: Arc::new(inner), statistics };
        for number in 0..threads {
            let (desk, statistics) = (desk.clone(), inference.statistics.clone());
            let thread = std::thread::Builder::new().name(format!("inference-{number}"));
            thread.spawn(move || engine::run(&desk, &statistics))?;
        }
        Ok(inference)
    }

    /// Asks a model; loads it first where it is not loaded.
    ///
    /// # Errors
    /// Too many wait already, or for too long, or the model cannot be read or fails.
    pub async fn ask(&self, model: &Model, question: Question) -> Result<Answer, ServingError> {
        let began = Instant::now();
        let answer = self.answer(model, question).await;
        self.statistics.ended(model.id, answer.is_ok(), began.elapsed());
        answer
    }

    /// The same for a caller who wants the answer by a certain time or not at all.
    ///
    /// # Errors
    /// As of [`Self::ask`]; and the time has come.
    pub async fn ask_by(&self, model: &Model, question: Question, deadline: Instant) -> Result<Answer, ServingError> {
        let began = Instant::now();
        // What is left is seen to be abandoned, and is passed over.
        timeout_at(deadline, self.ask(model, question)).await.unwrap_or_else(|_| {
            self.statistics.ended(model.id, false, began.elapsed());
            let detail = "there was no answer within the time that the request gave it (`Prefer: wait`)";
            Err(Refusal::new(Code::Overloaded, detail).into())
        })
    }

    /// Asks a model several questions that are one request. Answers come in their order.
    ///
    /// # Errors
    /// As of [`Self::ask`], of the first question that fails.
    pub async fn ask_all(&self, model: &Model, questions: Vec<Question>) -> Result<Vec<Answer>, ServingError> {
        let began = Instant::now();
        let answers = try_join_all(questions.into_iter().map(|question| self.answer(model, question))).await;
        self.statistics.ended(model.id, answers.is_ok(), began.elapsed());
        answers
    }

    async fn answer(&self, model: &Model, mut question: Question) -> Result<Answer, ServingError> {
        if let Some(refusal) = self.too_large(model.bytes) {
            return Err(refusal.into());
        }
        for _ in 0..ATTEMPTS {
            question = match self.inner.desk.ask(model.id, question) {
                Ok((pending, answer)) => return wait(&pending, answer).await,
                Err(Turned::NotLoaded(question)) => question,
                Err(Turned::Full) => {
                    let detail = format!("{INFERENCE_QUEUE} questions wait already; try again in a moment");
                    return Err(Refusal::new(Code::Overloaded, detail).into());
                }
                Err(Turned::WrongWidth) => {
                    return Err(ServingError::Failed(
                        "rows of the wrong width reached the inference threads".to_owned(),
                    ));
                }
            };
            let flight = self.inner.flights.of(model.id);
            let _one = flight.lock().await;
            // Whoever was first may have loaded it.
            if !self.inner.desk.holds(model.id) {
                self.read_in(model).await?;
            }
        }
        Err(dropped())
    }

    /// Why a model of a file of so many bytes cannot be kept in memory.
    pub fn too_large(&self, bytes: u64) -> Option<Refusal> {
        // Its numbers are about as many bytes as its file.
        let most = self.inner.resident_bytes;
        (bytes > most).then(|| {
            let detail = format!(
                "the model has {bytes} bytes, and this server keeps {most} bytes of models in memory; start it with a larger --resident-mib"
            );
            Refusal::new(Code::ModelTooLarge, detail)
        })
    }

    /// Reads a model into memory, again where it is there already, and gives it back to those who see it as unloaded.
    ///
    /// # Errors
    /// It has no room, or cannot be read.
    pub async fn load(&self, model: &Model) -> Result<(), ServingError> {
        if let Some(refusal) = self.too_large(model.bytes) {
            return Err(refusal.into());
        }
        let flight = self.inner.flights.of(model.id);
        let _one = flight.lock().await;
        self.read_in(model).await?;
        self.withdrawn().remove(&model.id);
        Ok(())
    }

    /// Drops a model from memory and keeps in mind that it was unloaded, until it is loaded or the server ends. Who asks for it
    /// all the same is answered: it is for them to look ([`Inference::is_unloaded`]).
    pub async fn unload(&self, model: ModelId) {
        self.withdrawn().insert(model);
        self.inner.desk.forget(model);
    }

    /// Whether a model was unloaded and not loaded again.
    pub fn is_unloaded(&self, model: ModelId) -> bool {
        self.withdrawn().contains(&model)
    }

    /// Drops a deleted model from memory, and what is known of it.
    pub async fn forget(&self, model: ModelId) {
        self.inner.desk.forget(model);
        self.withdrawn().remove(&model);
        self.statistics.forget(model);
    }

    /// Whether the bytes of a model file from elsewhere are a model that answers. One that this server could not serve, because it
    /// is larger than what it keeps of models in memory, is not tried.
    ///
    /// # Errors
    /// It does not answer.
    pub async fn try_out(&self, bytes: Vec<u8>) -> Result<(), ServingError> {
        if self.too_large(bytes.len() as u64).is_some() {
            return Ok(());
        }
        let _place = self.inner.loads.acquire().await;
        aside(move || engine::try_out(&bytes)).await?.map_err(|fault| {
            let detail = format!("describes a model that does not answer: {fault}");
            Refusal::at(Code::InvalidModel, "/header", "conflict", detail).into()
        })
    }

    /// Reads a model on a thread of its own, so that those that are loaded go on answering. Only one caller does at a time.
    async fn read_in(&self, model: &Model) -> Result<(), ServingError> {
        let _place = self.inner.loads.acquire().await;
        let bytes = self.inner.store.artifact(model.artifact_id).await?;
        let (desk, id) = (self.inner.desk.clone(), model.id);
        aside(move || engine::load(&desk, id, &bytes)).await?.map_err(ServingError::Failed)
    }

    fn withdrawn(&self) -> MutexGuard<'_, HashSet<ModelId>> {
        self.inner.withdrawn.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Does something with a model file on a thread named for it.
async fn aside<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, ServingError> {
    let (reply, outcome) = oneshot::channel();
    let thread = std::thread::Builder::new().name("loader".to_owned()).spawn(move || drop(reply.send(work())));
    thread.map_err(|error| ServingError::Failed(format!("there is no thread to read the model: {error}")))?;
    outcome.await.map_err(|_| stopped())
}

/// Waits for an answer; not for ever for a thread that is free.
async fn wait(pending: &pending::Pending, mut answer: oneshot::Receiver<Reply>) -> Result<Answer, ServingError> {
    let reply = match timeout(Duration::from_secs(INFERENCE_WAIT_SECONDS), &mut answer).await {
        Ok(reply) => reply,
        Err(_) if pending.has_begun() => answer.await,
        Err(_) => {
            let detail = format!("no thread was free for {INFERENCE_WAIT_SECONDS} seconds; try again later");
            return Err(Refusal::new(Code::Overloaded, detail).into());
        }
    };
    match reply.map_err(|_| stopped())? {
        Reply::Answer(answer) => Ok(answer),
        Reply::Refused(refusal) => Err(refusal.into()),
        Reply::Failed(fault) => Err(ServingError::Failed(fault)),
        Reply::NotLoaded => Err(dropped()),
    }
}

fn dropped() -> ServingError {
    let detail = "the model was dropped from memory again before it could answer; try again";
    Refusal::new(Code::Overloaded, detail).into()
}

fn stopped() -> ServingError {
    ServingError::Failed("the inference threads have ended".to_owned())
}
