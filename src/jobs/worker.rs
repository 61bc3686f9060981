//! A worker: claims a job, runs a trainer on it, and records what the trainer says.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use serde_json::json;
use tokio::sync::SemaphorePermit as Share;
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep, sleep_until};

use super::Shared;
use super::asking;
use super::estimate;
use super::log::JobLog;
use super::messages::{INIT, Message, Order, Request};
use super::process::{Ending, TrainerProcess};
use super::trainer;
use crate::data::Ingested;
use crate::data::dataset::Schema;
use crate::domain::job::{JobStatus, Phase, Progress, Retention, StopReason};
use crate::domain::metric::Metric;
use crate::domain::refusal::{Code, Refusal};
use crate::store::checkpoints::CheckpointRecord;
use crate::store::jobs::{EpochRecord, Gathered, Interruption, Job, Lease};
use crate::store::{StoreError, now_ms};
use crate::training::observer::Chosen;

/// An idle worker looks at the queue this often, in case it missed a call.
const IDLE: Duration = Duration::from_secs(2);
/// A third of a lease.
const HEARTBEAT: Duration = Duration::from_secs(5);
/// A trainer that was asked to stop is killed after this.
const STOP_GRACE: Duration = Duration::from_secs(5);
/// The log of a job is written this often while it runs.
const LOG: Duration = Duration::from_secs(1);
/// Checkpoints are told in the log this often at most.
const CHECKPOINT_TOLD: Duration = Duration::from_secs(10);
/// What a trainer says is gathered for so long, so that many short epochs cost one transaction.
const GATHERED: Duration = Duration::from_millis(200);
/// A write that fails is tried again this often, half a second apart: a full disk may find room.
const WRITE_TRIES: u32 = 20;

/// Works until the server shuts down.
pub(super) async fn work(shared: Arc<Shared>, number: usize) {
    let owner = format!("{}/worker-{number}", shared.owner);
    while !shared.shutdown.is_cancelled() {
        match claim(&shared, &owner).await {
            Ok(Some((job, lease, share))) => {
                // Others may have missed the call that woke this one.
                shared.queued.notify_one();
                run(&shared, &job, &lease).await;
                drop(share);
                shared.queued.notify_one();
            }
            Ok(None) => {
                tokio::select! {
                    () = shared.queued.notified() => {}
                    () = sleep(IDLE) => {}
                    () = shared.shutdown.cancelled() => {}
                }
            }
            Err(error) => {
                tracing::error!(%error, "The queue cannot be read");
                sleep(IDLE).await;
            }
        }
    }
}

/// Takes the next job, and its share of the cores. One that needs more than are free stays where it is, and so do those after it:
/// else a large job would wait for ever behind small ones.
async fn claim<'a>(shared: &'a Shared, owner: &str) -> Result<Option<(Job, Lease, Option<Share<'a>>)>, StoreError> {
    let Some(cores) = &shared.cores else {
        let claimed = shared.store.claim_next(owner, |_, _| true).await?;
        return Ok(claimed.map(|(job, lease)| (job, lease, None)));
    };
    // Whoever holds this is the only one that takes any, so what is free stays free.
    let _turn = cores.turn.lock().await;
    let needed = AtomicU32::new(0);
    let fits = |job: &Job, schema: &Schema| {
        needed.store(shared.threads(job, schema).min(cores.all), Ordering::Relaxed);
        needed.load(Ordering::Relaxed) as usize <= cores.free.available_permits()
    };
    let Some((job, lease)) = shared.store.claim_next(owner, fits).await? else { return Ok(None) };
    let share = cores.free.try_acquire_many(needed.into_inner()).ok();
    Ok(Some((job, lease, share)))
}

/// How a trainer ended.
enum End {
    Finished {
        stop_reason: StopReason,
        metrics: Vec<Metric>,
        artifact: Vec<u8>,
    },
    Failed(Refusal),
    Answered(Ingested),
    /// It was asked to.
    Stopped,
    /// Without a word.
    Died,
    /// The job belongs to somebody else now.
    LeaseLost,
}

async fn run(shared: &Shared, job: &Job, lease: &Lease) {
    tracing::info!(job.id = %job.id, attempt = lease.attempt, family = job.spec.model.family(), "Job {} begins", job.id);
    let stop = shared.enlist(job.id);
    shared.feed.announce(job.id);
    shared.feed.announce_sweep();
    let mut log = JobLog::new(job.id);
    log.note(format!("Attempt {} begins on {}.", lease.attempt, lease.owner));
    let outcome = match attempt(shared, job, lease, &stop, &mut log).await {
        Ok((end, schema, words)) => settle(shared, lease, end, &schema, &words).await,
        Err(StoreError::Refused(refusal)) => shared.store.fail(lease, &refusal).await.map(|()| JobStatus::Failed),
        Err(StoreError::LeaseLost) => Err(StoreError::LeaseLost),
        Err(error) => {
            tracing::error!(job.id = %job.id, %error, "Job {} could not be run", job.id);
            log.note("The server could not run the job; its own log has the reason.");
            shared.store.interrupt(lease, Interruption::Death, "The server could not run the job.").await
        }
    };
    match &outcome {
        Ok(status) => {
            tracing::info!(job.id = %job.id, status = status.as_str(), "Job {} is {}", job.id, status.as_str());
            log.note(format!("Attempt {} is over; the job is {}.", lease.attempt, status.as_str()));
        }
        Err(error) => {
            tracing::error!(job.id = %job.id, %error, "The end of job {} could not be recorded", job.id);
            log.note(format!("The end of attempt {} could not be recorded.", lease.attempt));
        }
    }
    log.flush(&shared.store).await;
    if job.inference.is_some() && outcome.is_ok_and(JobStatus::is_terminal) {
        shared.store.remove_result(job.id);
    }
    if shared.dismiss(job.id, &stop) {
        shared.feed.close(job.id);
    }
    shared.tell_sweep(job).await;
}

/// One attempt, until the trainer has ended.
async fn attempt(
    shared: &Shared,
    job: &Job,
    lease: &Lease,
    stop: &tokio::sync::Notify,
    log: &mut JobLog,
) -> Result<(End, Schema, String), StoreError> {
    let dataset = shared.store.dataset(job.dataset_id).await?;
    let (checkpoint, damaged) = shared.store.latest_checkpoint(job.id).await?;
    if damaged > 0 {
        let text = format!("{damaged} damaged checkpoint(s) were passed over; training goes on from an earlier place.");
        log.note(text.as_str());
        shared.store.record_event(lease, "warning", &json!({"message": text})).await?;
    }
    let scratch = shared.store.scratch()?;
    let request = Request {
        left_ms: job.options.left_ms(job.ran_ms),
        inference: asking::request(shared, job, &scratch).await?,
        rest_at: job.trial.as_ref().and_then(|trial| trial.rest_at),
        every_epoch: job.options.keep != Retention::default(),
        ..Request::train(job.spec.clone(), &dataset, &shared.store)?
    };
    if let Some(reference) = job.spec.init_from.as_ref().filter(|_| checkpoint.is_none()) {
        let id = shared.store.find_model(reference).await?;
        let model = shared.store.model(id).await?;
        let bytes = shared.store.artifact(model.artifact_id).await?;
        tokio::fs::write(scratch.directory().join(INIT), bytes).await?;
    }
    let memory = job.options.memory_bytes(shared.trainers.config.memory_bytes);
    let limited = shared.trainers.with_memory(memory);
    let process = TrainerProcess::start(&limited, scratch.directory(), &request, checkpoint.as_deref()).await?;
    tracing::debug!(job.id = %job.id, pid = process.pid(), "The trainer of job {} runs", job.id);
    log.note(format!(
        "The trainer runs as process {}; memory of its own: {}; time left: {}.",
        process.pid().unwrap_or_default(),
        memory.map_or_else(|| "no limit".to_owned(), |bytes| format!("{} MiB", bytes >> 20)),
        request.left_ms.map_or_else(|| "no limit".to_owned(), |left| format!("{:.1} s", left as f64 / 1000.0)),
    ));
    let gathered = Gathered::default();
    let mut drive = Drive { shared, lease, process, progress: None, gathered, due: None, log, told: None };
    let outcome = drive.drive(stop).await;
    let kill = !matches!(outcome, Ok(End::Finished { .. } | End::Answered(_) | End::Failed(_) | End::Died));
    let Drive { process, log, .. } = drive;
    let Ending { status, last_words: words, said } = process.end(kill).await;
    log.quote(said);
    let mut end = outcome?;
    let how = status.map_or_else(|error| error.to_string(), |status| status.to_string());
    log.note(format!("The trainer ended: {how}."));
    // It would only end so again.
    let ran_out = match &end {
        End::Failed(refusal) => refusal.code == Code::OutOfMemory,
        End::Died => trainer::says_out_of_memory(&words),
        _ => false,
    };
    if ran_out {
        tracing::info!(job.id = %job.id, how, words, "The trainer of job {} ran out of memory", job.id);
        log.note("It ran out of memory; smaller batches are tried.");
        let fits = tokio::select! {
            fits = estimate::fitting_batch(&limited, &shared.store, &request) => fits,
            () = stop.notified() => None,
            () = shared.shutdown.cancelled() => None,
        };
        end = End::Failed(estimate::out_of_memory(&job.spec, memory, fits));
    } else if matches!(end, End::Died) {
        tracing::warn!(job.id = %job.id, how, words, "The trainer of job {} died", job.id);
    } else if !words.is_empty() {
        tracing::info!(job.id = %job.id, words, "The trainer of job {} had something to say", job.id);
    }
    if let End::Failed(refusal) = &end {
        log.note(format!("It failed with {}: {}", refusal.code.as_str(), refusal.detail));
    }
    Ok((end, dataset.schema, how))
}

/// Records how an attempt ended.
async fn settle(shared: &Shared, lease: &Lease, end: End, schema: &Schema, how: &str) -> Result<JobStatus, StoreError> {
    let mut tries = 0;
    loop {
        let store = &shared.store;
        let written = match &end {
            End::Finished { stop_reason, metrics, artifact } => {
                store.succeed(lease, *stop_reason, metrics, schema, artifact).await.map(|_| JobStatus::Succeeded)
            }
            End::Answered(ingested) => store.finish_inference(lease, ingested).await.map(|_| JobStatus::Succeeded),
            End::Failed(refusal) => store.fail(lease, refusal).await.map(|()| JobStatus::Failed),
            End::Stopped => {
                let why = if shared.shutdown.is_cancelled() {
                    "The server is shutting down."
                } else {
                    "It was to be paused, and then to go on."
                };
                store.interrupt(lease, Interruption::Shutdown, why).await
            }
            End::Died => {
                store
                    .interrupt(lease, Interruption::Death, &format!("The trainer ended without a result ({how})."))
                    .await
            }
            End::LeaseLost => Err(StoreError::LeaseLost),
        };
        match written {
            Err(error) if !matches!(error, StoreError::LeaseLost) && tries < WRITE_TRIES => {
                tries += 1;
                tracing::warn!(%error, tries, "The end of a job could not be recorded; trying again");
                sleep(Duration::from_millis(500)).await;
            }
            other => return other,
        }
    }
}

/// A trainer at work and what is not yet recorded of it.
struct Drive<'a> {
    shared: &'a Shared,
    lease: &'a Lease,
    process: TrainerProcess,
    progress: Option<Progress>,
    gathered: Gathered,
    /// When what was gathered is to be recorded.
    due: Option<Instant>,
    log: &'a mut JobLog,
    /// When a checkpoint was last told in the log.
    told: Option<Instant>,
}

impl Drive<'_> {
    async fn drive(&mut self, stop: &tokio::sync::Notify) -> Result<End, StoreError> {
        let mut heartbeat = interval_at(Instant::now() + HEARTBEAT, HEARTBEAT);
        let mut logging = interval_at(Instant::now() + LOG, LOG);
        heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        logging.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut killed_at: Option<Instant> = None;
        let mut batch = Vec::new();
        loop {
            tokio::select! {
                () = self.process.receive(&mut batch) => {
                    let closed = batch.is_empty();
                    if let Some(end) = self.take(&mut batch).await? {
                        return Ok(end);
                    }
                    if closed {
                        return Ok(if killed_at.is_some() { End::Stopped } else { End::Died });
                    }
                }
                _ = heartbeat.tick() => match self.shared.store.heartbeat(self.lease, self.progress.as_ref()).await {
                    // The wish may have come before this worker could be told.
                    Ok(JobStatus::Cancelling | JobStatus::Paused) if killed_at.is_none() => killed_at = Some(self.ask_to_stop().await),
                    Ok(_) => {}
                    Err(StoreError::LeaseLost) => return Ok(End::LeaseLost),
                    Err(error) => tracing::warn!(%error, "A heartbeat could not be recorded"),
                },
                _ = logging.tick() => {
                    let said = self.process.heard();
                    self.log.quote(said);
                    self.log.flush(&self.shared.store).await;
                }
                () = stop.notified(), if killed_at.is_none() => killed_at = Some(self.ask_to_stop().await),
                () = self.shared.shutdown.cancelled(), if killed_at.is_none() => killed_at = Some(self.ask_to_stop().await),
                () = sleep_until(self.due.unwrap_or_else(Instant::now)), if self.due.is_some() => self.record(None).await?,
                () = sleep_until(killed_at.unwrap_or_else(Instant::now)), if killed_at.is_some() => return Ok(End::Stopped),
            }
        }
    }

    async fn ask_to_stop(&mut self) -> Instant {
        self.log.note("The trainer is asked to stop.");
        self.process.order(Order::Stop).await;
        Instant::now() + STOP_GRACE
    }

    /// Handles all messages that have arrived, or the end of them, when there are none.
    async fn take(&mut self, batch: &mut Vec<Message>) -> Result<Option<End>, StoreError> {
        let mut end = None;
        let closed = batch.is_empty();
        for message in batch.drain(..) {
            match message {
                Message::Phase { phase } => self.enter(phase),
                Message::Started(started) => {
                    let resumed = started.from_epoch > 0 || started.from_step > 0;
                    let text = if resumed {
                        format!("Goes on after epoch {}.", started.from_epoch)
                    } else {
                        "Training begins.".to_owned()
                    };
                    self.log.note(format!(
                        "{text} {} parameters, {} rows to train, on {}.",
                        started.parameters, started.train_rows, started.device
                    ));
                    let mut data = json!({"message": text, "attempt": self.lease.attempt});
                    let facts = serde_json::to_value(&started).expect("facts are JSON");
                    data.as_object_mut()
                        .expect("it is an object")
                        .extend(facts.as_object().cloned().unwrap_or_default());
                    self.shared
                        .store
                        .record_event(self.lease, if resumed { "resumed" } else { "started" }, &data)
                        .await?;
                    self.shared.feed.announce(self.lease.job);
                }
                Message::Answering { rows, from_row } => {
                    self.log.note(format!("A model is asked about {rows} rows, from row {from_row} on."));
                    asking::begins(self.shared, self.lease, rows, from_row).await?;
                    self.shared.feed.announce(self.lease.job);
                }
                Message::Rows { rows } => {
                    self.shared.store.record_result(self.lease, rows).await?;
                    self.process.order(Order::Stored).await;
                }
                Message::Answered { file } => {
                    self.enter(Phase::Storing);
                    end = Some(End::Answered(asking::described(&self.process.take_file(&file).await?)?));
                }
                Message::Split { file, rows } => {
                    let data = self.process.take_file(&file).await?;
                    self.shared.store.record_split(self.lease, rows, &data).await?;
                }
                Message::Progress(progress) => {
                    self.progress = Some(progress.clone());
                    self.shared.feed.report(self.lease.job, progress);
                }
                Message::Epoch { epoch, metrics } => {
                    self.gathered.epochs.push(EpochRecord { epoch, metrics });
                    self.gather();
                }
                Message::Checkpoint { file, epoch, step, best } => {
                    let data = self.process.take_file(&file).await?;
                    self.record(Some(CheckpointRecord { epoch, step, best, data: &data })).await?;
                    self.process.order(Order::Stored).await;
                    if self.told.is_none_or(|told| told.elapsed() >= CHECKPOINT_TOLD) {
                        self.told = Some(Instant::now());
                        let size = data.len();
                        self.log.note(format!("Checkpoint after epoch {epoch}, step {step}: {size} bytes stored."));
                    }
                }
                Message::Chosen(Chosen { learning_rate, text, curve }) => {
                    self.log.note(text.as_str());
                    let data = json!({"message": text, "learning_rate": learning_rate, "curve": curve});
                    self.shared.store.record_event(self.lease, "chosen", &data).await?;
                    self.shared.feed.announce(self.lease.job);
                }
                Message::Warning { text } => {
                    self.record(None).await?;
                    self.log.note(format!("Warning: {text}"));
                    self.shared.store.record_event(self.lease, "warning", &json!({"message": text})).await?;
                    self.shared.feed.announce(self.lease.job);
                }
                Message::Finished { stop_reason, metrics, file } => {
                    self.enter(Phase::Storing);
                    let artifact = self.process.take_file(&file).await?;
                    end = Some(End::Finished { stop_reason, metrics, artifact });
                }
                // Nobody asked for that.
                Message::Probed { .. } => {}
                Message::Stopped => end = Some(End::Stopped),
                Message::Failed { error } => end = Some(End::Failed(error)),
            }
        }
        if end.is_some() || closed {
            self.gathered.progress = self.progress.clone();
            self.record(None).await?;
        }
        Ok(end)
    }

    fn enter(&mut self, phase: Phase) {
        self.gathered.phases.push((phase, now_ms()));
        self.gather();
    }

    fn gather(&mut self) {
        self.due = self.due.or_else(|| Some(Instant::now() + GATHERED));
    }

    /// Writes what was gathered; tries again for a while when the disk does not take it.
    async fn record(&mut self, checkpoint: Option<CheckpointRecord<'_>>) -> Result<(), StoreError> {
        if self.gathered == Gathered::default() && checkpoint.is_none() {
            return Ok(());
        }
        for tries in 1.. {
            match self.shared.store.record(self.lease, &self.gathered, checkpoint).await {
                Ok(()) => break,
                Err(error) if tries >= WRITE_TRIES || matches!(error, StoreError::LeaseLost) => return Err(error),
                Err(error) => {
                    tracing::warn!(%error, tries, "Training could not be recorded; trying again");
                    sleep(Duration::from_millis(500)).await;
                }
            }
        }
        self.gathered = Gathered::default();
        self.due = None;
        self.shared.feed.announce(self.lease.job);
        Ok(())
    }
}

/// The refusal of a job when trainers cannot be started at all.
pub(super) fn cannot_start(error: &std::io::Error) -> Refusal {
    Refusal::new(Code::Internal, format!("trainers cannot be started: {error}"))
}
