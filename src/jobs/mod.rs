//! The queue, the workers, and the trainer processes they drive.
//!
//! One job, one child process: libtorch's seeds and thread counts belong to a whole process, and whatever goes wrong in it
//! ends one job and never the API. A job lives in the database; this floor moves it through its statuses.
//!
//! Start reading with [`Jobs`], then `worker`.

mod answerer;
mod asking;
pub mod estimate;
pub mod exporter;
pub mod feed;
mod fork;
mod log;
pub mod messages;
mod nursery;
pub mod process;
mod sweeps;
pub mod template;
pub mod trainer;
mod worker;

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, Semaphore};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::data::dataset::Schema;
use crate::domain::id::JobId;
use crate::domain::job::{JobStatus, RetryFrom, RunOptions};
use crate::domain::limits::{MODEL_EXPORTS, PROBES};
use crate::domain::reference::{ModelName, ModelRef};
use crate::domain::refusal::{Code, Refusal};
use crate::store::inference::NewInference;
use crate::store::jobs::{Job, NewJob};
use crate::store::models::Model;
use crate::store::{Store, StoreError};
use crate::training::device::Devices;
use crate::training::export::{Form, Part};
use crate::training::inference::InferenceSpec;
use crate::training::spec::TrainSpec;
use exporter::ExportFault;
use feed::Feed;
use process::{TrainerConfig, Trainers};

/// With as many deaths of its trainer, without a new checkpoint in between, a job fails.
pub const MAX_DEATHS: u32 = 3;
/// Leases that ran out are looked for this often.
const REAP: Duration = Duration::from_secs(5);
/// So long an export waits for its turn.
const EXPORT_WAIT: Duration = Duration::from_secs(30);

/// What the operator set.
#[derive(Clone, Debug)]
pub struct JobsConfig {
    /// Jobs that run at once, at most.
    pub workers: usize,
    /// Cores that jobs share: each takes as many as it has threads. `None` when any job may run beside any other.
    pub cores: Option<usize>,
    /// How trainers are started.
    pub trainer: TrainerConfig,
    /// Whether they are copies of a process that has libtorch loaded already.
    pub copies: bool,
}

impl JobsConfig {
    /// How many jobs run at once, and with how many threads, for people.
    pub fn words(&self) -> String {
        let (workers, threads) = (self.workers, self.trainer.threads);
        match self.cores {
            Some(cores) => {
                format!("as many at once as {cores} core(s) allow, with 1 to {threads} thread(s) by their size")
            }
            None => format!("{workers} at once, {threads} thread(s) each"),
        }
    }
}

/// The handle of this floor. Cheap to clone.
#[derive(Clone)]
pub struct Jobs {
    shared: Arc<Shared>,
    tasks: Arc<Mutex<JoinSet<()>>>,
    config: Arc<JobsConfig>,
    /// Jobs that are looked at before they are queued.
    probing: Arc<Semaphore>,
    /// Models that are exported at once.
    exports: Arc<Semaphore>,
}

/// The cores that jobs share.
struct Cores {
    all: u32,
    free: Semaphore,
    /// Held while some are taken.
    turn: tokio::sync::Mutex<()>,
}

impl Cores {
    fn new(all: usize) -> Self {
        Self { all: all.max(1) as u32, free: Semaphore::new(all.max(1)), turn: tokio::sync::Mutex::default() }
    }
}

struct Shared {
    store: Store,
    feed: Feed,
    trainers: Trainers,
    devices: Devices,
    cores: Option<Cores>,
    owner: String,
    queued: Notify,
    shutdown: CancellationToken,
    /// Jobs that this process works on, and the way to ask each to stop.
    running: Mutex<HashMap<JobId, Arc<Notify>>>,
}

impl Shared {
    /// Threads of the trainer of a job.
    fn threads(&self, job: &Job, schema: &Schema) -> u32 {
        let all = self.trainers.config.threads.max(1) as u32;
        // Beside a GPU, and where a model is asked, nothing is left out.
        let trains_here =
            job.inference.is_none() && self.devices.choose(job.spec.training.device) == Ok(tch::Device::Cpu);
        if trains_here { job.spec.threads(schema, all) } else { all }
    }

    fn enlist(&self, job: JobId) -> Arc<Notify> {
        let stop = Arc::new(Notify::new());
        self.running.lock().unwrap_or_else(PoisonError::into_inner).insert(job, Arc::clone(&stop));
        stop
    }

    /// Ends what `enlist` began. False when another worker has taken the job meanwhile: one that was paused may go on before
    /// the worker that paused it is done.
    fn dismiss(&self, job: JobId, stop: &Arc<Notify>) -> bool {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        let is_own = running.get(&job).is_some_and(|other| Arc::ptr_eq(other, stop));
        if is_own {
            running.remove(&job);
        }
        is_own
    }

    fn running(&self) -> Vec<JobId> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner).keys().copied().collect()
    }
}

impl Jobs {
    /// Looks at the devices, takes back jobs that the last process left behind, and starts the workers.
    ///
    /// # Errors
    /// The database failed, or trainers cannot be started at all.
    pub async fn start(store: Store, config: JobsConfig) -> Result<Self, StoreError> {
        let devices = config.trainer.probe().await.map_err(|error| worker::cannot_start(&error))?;
        let shared = Arc::new(Shared {
            store,
            feed: Feed::default(),
            trainers: if config.copies {
                Trainers::copied(config.trainer.clone())
            } else {
                Trainers::fresh(config.trainer.clone())
            },
            devices,
            cores: config.cores.map(Cores::new),
            owner: format!("pid-{}", std::process::id()),
            queued: Notify::new(),
            shutdown: CancellationToken::new(),
            running: Mutex::new(HashMap::new()),
        });
        for (job, status) in shared.store.reap(true, &[]).await? {
            tracing::info!(job.id = %job, status = status.as_str(), "Job {job} was interrupted and is {}", status.as_str());
        }
        let mut tasks = JoinSet::new();
        for number in 0..config.workers.max(1) {
            tasks.spawn(worker::work(Arc::clone(&shared), number));
        }
        tasks.spawn(reap(Arc::clone(&shared)));
        Ok(Self {
            shared,
            tasks: Arc::new(Mutex::new(tasks)),
            config: Arc::new(config),
            probing: Arc::new(Semaphore::new(PROBES)),
            exports: Arc::new(Semaphore::new(MODEL_EXPORTS)),
        })
    }

    /// Puts a job with a resolved spec into the queue; its model is registered under a name where one is given. With a key that was used before, answers with that job.
    ///
    /// # Errors
    /// The dataset is gone, the device is not there, the queue is full, or the key was used for another spec.
    pub async fn submit(
        &self,
        mut spec: TrainSpec,
        priority: i32,
        register: Option<ModelName>,
        options: RunOptions,
        idempotency_key: Option<String>,
    ) -> Result<Job, StoreError> {
        self.shared.devices.choose(spec.training.device)?;
        self.settle_init(&mut spec).await?;
        let new = NewJob { spec, max_deaths: MAX_DEATHS, priority, register, options, idempotency_key };
        let (job, _) = self.shared.store.insert_job(&new).await?;
        self.shared.queued.notify_one();
        Ok(job)
    }

    /// Puts a job that asks a model into the queue. With a key that was used before, answers with that job.
    ///
    /// # Errors
    /// The dataset or the model is gone, the device is not there, the queue is full, or the key was used for another spec.
    pub async fn ask(
        &self,
        spec: &InferenceSpec,
        model: &Model,
        priority: i32,
        options: RunOptions,
        idempotency_key: Option<&str>,
    ) -> Result<Job, StoreError> {
        self.shared.devices.choose(spec.device())?;
        let (trained_by, max_deaths) = (&model.spec, MAX_DEATHS);
        let new = NewInference { spec, model: model.id, trained_by, max_deaths, priority, options, idempotency_key };
        let (job, _) = self.shared.store.insert_inference(&new).await?;
        self.shared.queued.notify_one();
        Ok(job)
    }

    /// Asks a job to end.
    ///
    /// # Errors
    /// There is none of this id, or it has ended.
    pub async fn cancel(&self, id: JobId) -> Result<Job, StoreError> {
        let job = self.shared.store.request_cancel(id).await?;
        if job.status == JobStatus::Cancelling {
            self.stop(id);
        } else {
            self.shared.store.remove_result(id);
        }
        self.shared.feed.announce(id);
        self.shared.tell_sweep(&job).await;
        Ok(job)
    }

    /// Asks a job to wait until it is resumed. Its trainer stops with a checkpoint.
    ///
    /// # Errors
    /// There is none of this id, it is being cancelled, or it has ended.
    pub async fn pause(&self, id: JobId) -> Result<Job, StoreError> {
        let job = self.shared.store.request_pause(id).await?;
        if job.pausing {
            self.stop(id);
        }
        self.shared.feed.announce(id);
        Ok(job)
    }

    /// Lets a paused job go on, or takes back that it is to be paused.
    ///
    /// # Errors
    /// There is none of this id, it is being cancelled, or it has ended.
    pub async fn resume(&self, id: JobId) -> Result<Job, StoreError> {
        let job = self.shared.store.resume(id).await?;
        self.shared.queued.notify_one();
        self.shared.feed.announce(id);
        Ok(job)
    }

    /// Tries a job anew that failed or was cancelled: as another job of the same spec. With a key that was used before, answers
    /// with that job.
    ///
    /// # Errors
    /// There is none of this id, it did not end so, its dataset or device is gone, the queue is full, or the key was used for
    /// something else.
    pub async fn retry(&self, id: JobId, from: RetryFrom, key: Option<&str>) -> Result<Job, StoreError> {
        let parent = self.shared.store.job(id).await?;
        let device = parent.inference.as_ref().map_or(parent.spec.training.device, InferenceSpec::device);
        self.shared.devices.choose(device)?;
        let job = self.shared.store.retry(id, from, MAX_DEATHS, key).await?;
        self.shared.queued.notify_one();
        Ok(job)
    }

    /// A part of a model as a file for other programs, made by a process of its own in `directory`.
    ///
    /// # Errors
    /// As many are being made as this server makes at once, or the process failed.
    pub async fn export(&self, directory: &Path, model: &[u8], part: Part, form: Form) -> Result<Vec<u8>, ExportFault> {
        let turn = tokio::time::timeout(EXPORT_WAIT, self.exports.acquire()).await;
        let Ok(Ok(_turn)) = turn else {
            let detail = "as many models are being exported as this server exports at once; try again in a moment";
            return Err(Refusal::new(Code::Overloaded, detail).into());
        };
        exporter::export(&self.shared.trainers.config, directory, model, part, form).await
    }

    /// Lets a job that has succeeded go on for more epochs, as another job. With a key that was used before, answers with that job.
    ///
    /// # Errors
    /// As [`Store::extend`] has them, or its device is gone.
    pub async fn extend(&self, id: JobId, epochs: u32, key: Option<&str>) -> Result<Job, StoreError> {
        self.shared.devices.choose(self.shared.store.job(id).await?.spec.training.device)?;
        let job = self.shared.store.extend(id, epochs, MAX_DEATHS, key).await?;
        self.shared.queued.notify_one();
        Ok(job)
    }

    /// Settles which model a job takes its first weights from, and refuses one that has another network. Whether its columns become as
    /// many numbers is seen by the trainer.
    pub(super) async fn settle_init(&self, spec: &mut TrainSpec) -> Result<(), StoreError> {
        let Some(reference) = &spec.init_from else { return Ok(()) };
        let refuse = |code: &str, detail: String| Refusal::at(Code::InvalidRequest, "/init_from", code, detail);
        let absent = |error| match error {
            StoreError::Refused(Refusal { code: Code::NotFound, .. }) => {
                refuse("unknown_model", format!("names the model {reference}, which is not there")).into()
            }
            other => other,
        };
        let id = self.shared.store.find_model(reference).await.map_err(absent)?;
        let model = self.shared.store.model(id).await.map_err(absent)?;
        let (own, other) = (&spec.model, &model.spec.model);
        if (own.family(), own.latent()) != (other.family(), other.latent()) || spec.network != model.spec.network {
            let detail = format!(
                "names a model of the family {} with {} units of code; the network and both of these must be the same in this job",
                other.family(),
                other.latent()
            );
            return Err(refuse("another_network", detail).into());
        }
        // An alias may move while the job waits.
        spec.init_from = Some(ModelRef::Id(id));
        Ok(())
    }

    /// Workers that have nothing to do.
    pub fn idle_workers(&self) -> usize {
        let idle = self.config.workers.max(1).saturating_sub(self.shared.running().len());
        self.shared.cores.as_ref().map_or(idle, |cores| idle.min(cores.free.available_permits()))
    }

    fn stop(&self, id: JobId) {
        let stop = self.shared.running.lock().unwrap_or_else(PoisonError::into_inner).get(&id).cloned();
        if let Some(stop) = stop {
            stop.notify_one();
        }
    }

    /// News of jobs.
    pub fn feed(&self) -> &Feed {
        &self.shared.feed
    }

    /// What libtorch finds here.
    pub fn devices(&self) -> &Devices {
        &self.shared.devices
    }

    /// What the operator set.
    pub fn config(&self) -> &JobsConfig {
        &self.config
    }

    /// Whether the server is shutting down; long answers end then.
    pub fn shutdown_token(&self) -> CancellationToken {
        self.shared.shutdown.clone()
    }

    /// Gets everything ready that the first job would have to wait for.
    pub async fn warm_up(&self) {
        self.shared.trainers.warm_up().await;
    }

    /// Asks every trainer to make a checkpoint and stop, returns their jobs to the queue, and waits for all that.
    pub async fn shut_down(&self) {
        self.shared.shutdown.cancel();
        let mut tasks = std::mem::take(&mut *self.tasks.lock().unwrap_or_else(PoisonError::into_inner));
        while tasks.join_next().await.is_some() {}
        self.shared.trainers.close().await;
    }
}

/// Takes back jobs whose worker has stopped answering.
async fn reap(shared: Arc<Shared>) {
    loop {
        tokio::select! {
            () = tokio::time::sleep(REAP) => {}
            () = shared.shutdown.cancelled() => return,
        }
        match shared.store.reap(false, &shared.running()).await {
            Ok(reaped) => {
                for (job, status) in reaped {
                    tracing::warn!(job.id = %job, status = status.as_str(), "The worker of job {job} stopped answering");
                    shared.feed.announce(job);
                    shared.feed.announce_sweep();
                    shared.queued.notify_one();
                }
            }
            Err(error) => tracing::error!(%error, "Leases cannot be looked at"),
        }
    }
}
