//! The table of jobs: the queue, its leases, and what a worker may write.
//!
//! Every write of a worker names the attempt and the owner it holds ([`Lease`]). When no row has both, the worker has lost the
//! job and its transaction changes nothing.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::json;
use sqlx::{FromRow, Row, SqliteConnection};

use super::checkpoints::{self, CheckpointRecord};
use super::{
    Page, Paged, Store, StoreError, artifacts, events, from_json, gone, metrics, now_ms, parse, phases, refused,
    registry, sweeps, to_json,
};
use crate::data::dataset::Schema;
use crate::domain::id::{DatasetId, JobId, ModelId, SweepId};
use crate::domain::job::{JobStatus, Phase, Progress, RetryFrom, RunOptions, StopReason};
use crate::domain::limits::QUEUED_JOBS;
use crate::domain::metric::Metric;
use crate::domain::reference::ModelName;
use crate::domain::refusal::{Code, Refusal};
use crate::training::inference::{InferenceSpec, JobKind};
use crate::training::spec::TrainSpec;

/// How long a lease holds without a heartbeat.
pub const LEASE_MS: i64 = 15_000;

/// A job.
#[derive(Clone, Debug)]
pub struct Job {
    /// Its id.
    pub id: JobId,
    /// What a person called it.
    pub name: Option<String>,
    /// What it trains on, or asks a model about.
    pub dataset_id: DatasetId,
    /// The resolved spec; of a job of inference that of the model it asks.
    pub spec: TrainSpec,
    /// What a model is asked; absent for a job that trains.
    pub inference: Option<InferenceSpec>,
    /// Rows of the answer that are on the disk.
    pub result_rows: u64,
    /// The dataset that a job of inference made.
    pub result_dataset_id: Option<DatasetId>,
    /// The name its model is registered under once it is there.
    pub register: Option<ModelName>,
    /// Where it stands.
    pub status: JobStatus,
    /// Why it ended.
    pub stop_reason: Option<StopReason>,
    /// Why it failed.
    pub error: Option<Refusal>,
    /// How far it was when that was last kept.
    pub progress: Option<Progress>,
    /// Figures of its model.
    pub metrics: Option<BTreeMap<String, f64>>,
    /// How often it was begun.
    pub attempt: i64,
    /// Trainers that died since its last new checkpoint.
    pub deaths: i64,
    /// Whether it is to be paused: it runs until its trainer has stopped.
    pub pausing: bool,
    /// Jobs of a higher priority leave the queue first.
    pub priority: i32,
    /// What it may use up, and what stays of it.
    pub options: RunOptions,
    /// Milliseconds that workers were at it.
    pub ran_ms: u64,
    /// What it did last, by name; absent of jobs that ended under an earlier version.
    pub phase: Option<String>,
    /// What the request asked for; absent of jobs of an earlier version.
    pub(super) asked: Option<Asked>,
    /// The job that this one tries again.
    pub parent_job_id: Option<JobId>,
    /// Its place in the queue, from 1, while it is in there.
    pub queue_position: Option<i64>,
    /// What it is to its sweep, when it belongs to one.
    pub trial: Option<Trial>,
    /// Its model.
    pub model_id: Option<ModelId>,
    /// When it was asked for.
    pub created_at: i64,
    /// When it was first begun.
    pub started_at: Option<i64>,
    /// When it ended.
    pub finished_at: Option<i64>,
}

/// What a job is to its sweep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trial {
    /// The sweep.
    pub sweep: SweepId,
    /// The epoch after which it rests and is compared with others; `None` when it trains to its end.
    pub rest_at: Option<u32>,
    /// Whether it came there and nobody has decided yet.
    pub is_resting: bool,
    /// Whether as many jobs of the sweep run as may run at once.
    pub is_held: bool,
}

/// A new job.
#[derive(Clone, Debug)]
pub struct NewJob {
    /// The resolved spec.
    pub spec: TrainSpec,
    /// With as many deaths it fails.
    pub max_deaths: u32,
    /// Jobs of a higher priority leave the queue first.
    pub priority: i32,
    /// The name its model is registered under.
    pub register: Option<ModelName>,
    /// What it may use up, and what stays of it.
    pub options: RunOptions,
    /// The key of the request, when it has one.
    pub idempotency_key: Option<String>,
}

/// What a request asked for beside the spec, so that another one with the same key can be told from it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "what", rename_all = "snake_case")]
pub(super) enum Asked {
    /// A job.
    New {
        /// Its priority, which may be changed later.
        priority: i32,
        /// Its limits.
        options: RunOptions,
        /// The name its model is registered under.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        register: Option<ModelName>,
    },
    /// That one is tried again.
    Retry {
        /// Which one.
        parent: JobId,
        /// From where.
        from: RetryFrom,
    },
    /// That one goes on.
    Extend {
        /// Which one.
        parent: JobId,
        /// For so many epochs.
        epochs: u32,
    },
}

/// The right to write to a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// Which job.
    pub job: JobId,
    /// Which claim of it.
    pub attempt: i64,
    /// Who claimed it.
    pub owner: String,
}

/// The numbers of one epoch.
#[derive(Clone, Debug, PartialEq)]
pub struct EpochRecord {
    /// Counted from 1.
    pub epoch: u32,
    /// Means over its rows.
    pub metrics: Vec<Metric>,
}

/// What a worker has heard of a job at work and not yet recorded.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Gathered {
    /// Phases that it entered, and when, in milliseconds since 1970.
    pub phases: Vec<(Phase, i64)>,
    /// Epochs that are done.
    pub epochs: Vec<EpochRecord>,
    /// How far it is, where that is to be kept.
    pub progress: Option<Progress>,
}

/// What became of a trainer that ended without a result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interruption {
    /// The server is shutting down: nobody's fault.
    Shutdown,
    /// The trainer died.
    Death,
}

/// Which jobs a list shows.
#[derive(Clone, Debug, Default)]
pub struct JobFilter {
    /// Only those in this status.
    pub status: Option<JobStatus>,
    /// Only those of this family.
    pub family: Option<String>,
    /// Only those on this dataset.
    pub dataset: Option<DatasetId>,
    /// Only those of this sweep.
    pub sweep: Option<SweepId>,
    /// Only those of this kind.
    pub kind: Option<JobKind>,
}

pub(super) const COLUMNS: &str = "SELECT j.*, m.id AS model_id, t.sweep_id, t.rest_at, t.resting,
    (SELECT p.name FROM job_phases p WHERE p.job_id = j.id ORDER BY p.seq DESC LIMIT 1) AS phase,
    CASE WHEN j.status = 'queued' THEN (SELECT count(*) FROM trials o JOIN jobs r ON r.id = o.job_id
         WHERE o.sweep_id = t.sweep_id AND r.status IN ('running', 'cancelling'))
         >= (SELECT parallel FROM sweeps WHERE id = t.sweep_id) END AS held,
    CASE WHEN j.status = 'queued' THEN 1 + (SELECT count(*) FROM jobs q WHERE q.status = 'queued'
         AND (q.priority > j.priority OR (q.priority = j.priority AND q.id < j.id))) END AS queue_position
    FROM jobs j LEFT JOIN models m ON m.job_id = j.id LEFT JOIN trials t ON t.job_id = j.id";

/// Sweeps of which as many jobs run as may run at once. It looks at the jobs that run, which are few.
const FULL_SWEEPS: &str =
    "SELECT t.sweep_id FROM jobs r JOIN trials t ON t.job_id = r.id JOIN sweeps s ON s.id = t.sweep_id
    WHERE r.status IN ('running', 'cancelling') GROUP BY t.sweep_id HAVING count(*) >= s.parallel";

pub(super) struct JobRow(pub(super) Result<Job, StoreError>);

impl FromRow<'_, sqlx::sqlite::SqliteRow> for JobRow {
    fn from_row(row: &sqlx::sqlite::SqliteRow) -> Result<Self, sqlx::Error> {
        let text = |column: &str| row.try_get::<String, _>(column);
        let maybe = |column: &str| row.try_get::<Option<String>, _>(column);
        let (id, dataset, spec, status) = (text("id")?, text("dataset_id")?, text("spec")?, text("status")?);
        let (stop_reason, error, progress) = (maybe("stop_reason")?, maybe("error")?, maybe("progress")?);
        let (metrics, model_id, name) = (maybe("metrics")?, maybe("model_id")?, maybe("name")?);
        let (attempt, deaths, created_at) =
            (row.try_get("attempt")?, row.try_get("deaths")?, row.try_get("created_at")?);
        let (started_at, finished_at) = (row.try_get("started_at")?, row.try_get("finished_at")?);
        let (pausing, priority, parent) = (row.try_get("pausing")?, row.try_get("priority")?, maybe("parent_job_id")?);
        let (inference, result) = (maybe("inference")?, maybe("result_dataset_id")?);
        let result_rows: i64 = row.try_get("result_rows")?;
        let (queue_position, register) = (row.try_get("queue_position")?, maybe("register")?);
        let (options, asked, phase) = (text("options")?, maybe("asked")?, maybe("phase")?);
        let ran_ms: i64 = row.try_get("ran_ms")?;
        let (sweep, held) = (maybe("sweep_id")?, row.try_get::<Option<bool>, _>("held")?);
        let (rest_at, resting) = (row.try_get("rest_at")?, row.try_get::<Option<bool>, _>("resting")?);
        let read = || {
            Ok(Job {
                id: parse(&id)?,
                name,
                dataset_id: parse(&dataset)?,
                spec: from_json(&spec)?,
                inference: inference.as_deref().map(from_json).transpose()?,
                result_rows: result_rows as u64,
                result_dataset_id: result.as_deref().map(parse).transpose()?,
                register: register.map(|name| name.parse()).transpose().map_err(StoreError::Damaged)?,
                status: JobStatus::parse(&status).ok_or_else(|| StoreError::Damaged(format!("the status {status}")))?,
                stop_reason: stop_reason.map(|text| from_json(&format!("\"{text}\""))).transpose()?,
                error: error.as_deref().map(from_json).transpose()?,
                progress: progress.as_deref().map(from_json).transpose()?,
                metrics: metrics.as_deref().map(from_json).transpose()?,
                attempt,
                deaths,
                pausing,
                priority,
                options: from_json(&options)?,
                ran_ms: ran_ms as u64,
                phase,
                asked: asked.as_deref().map(from_json).transpose()?,
                parent_job_id: parent.as_deref().map(parse).transpose()?,
                queue_position,
                trial: match sweep {
                    None => None,
                    Some(sweep) => Some(Trial {
                        sweep: parse(&sweep)?,
                        rest_at,
                        is_resting: resting.unwrap_or(false),
                        is_held: held.unwrap_or(false),
                    }),
                },
                model_id: model_id.as_deref().map(parse).transpose()?,
                created_at,
                started_at,
                finished_at,
            })
        };
        Ok(Self(read()))
    }
}

impl Store {
    /// Puts a job into the queue. With a key that was used before, answers with that job and `false`.
    ///
    /// # Errors
    /// The dataset is gone, the queue is full, or the key was used for another spec.
    pub async fn insert_job(&self, new: &NewJob) -> Result<(Job, bool), StoreError> {
        let mut tx = self.begin().await?;
        let (priority, options, register) = (new.priority, new.options, new.register.clone());
        let asked = Asked::New { priority, options, register };
        if let Some(known) = find_by_key(&mut tx, new.idempotency_key.as_deref()).await? {
            // An earlier version of the program may have left open what this one writes out.
            let mut stored = known.spec.clone();
            stored.training.optimizer.settle();
            let is_same = stored == new.spec && known.inference.is_none();
            return if is_same { known.if_asked(&asked) } else { Err(known.key_conflict()) };
        }
        require_room(&mut tx, 1).await?;
        let id = enqueue(&mut tx, new, &asked).await?;
        tx.commit().await?;
        Ok((self.job(id).await?, true))
    }

    /// One job.
    ///
    /// # Errors
    /// There is none of this id.
    pub async fn job(&self, id: JobId) -> Result<Job, StoreError> {
        let row: Option<JobRow> = sqlx::query_as(sqlx::AssertSqlSafe(format!("{COLUMNS} WHERE j.id = ?")))
            .bind(id.to_string())
            .fetch_optional(&self.readers)
            .await?;
        row.ok_or_else(|| gone("job", id))?.0
    }

    /// Jobs, the newest first.
    ///
    /// # Errors
    /// The database failed.
    pub async fn jobs(&self, page: &Page<JobId>, filter: &JobFilter) -> Result<Paged<Job>, StoreError> {
        let sql = format!(
            "{COLUMNS} WHERE (?1 IS NULL OR j.id < ?1) AND (?2 IS NULL OR j.status = ?2) AND (?3 IS NULL OR j.family = ?3)
             AND (?4 IS NULL OR j.dataset_id = ?4) AND (?5 IS NULL OR (j.inference IS NOT NULL) = ?5) AND (?7 IS NULL OR t.sweep_id = ?7) ORDER BY j.id DESC LIMIT ?6"
        );
        let rows: Vec<JobRow> = sqlx::query_as(sqlx::AssertSqlSafe(sql))
            .bind(page.after.map(|id| id.to_string()))
            .bind(filter.status.map(JobStatus::as_str))
            .bind(&filter.family)
            .bind(filter.dataset.map(|id| id.to_string()))
            .bind(filter.kind.map(|kind| kind == JobKind::Inference))
            .bind(i64::from(page.limit) + 1)
            .bind(filter.sweep.map(|id| id.to_string()))
            .fetch_all(&self.readers)
            .await?;
        Ok(Paged::from_one_more(rows.into_iter().map(|row| row.0).collect::<Result<_, _>>()?, page.limit))
    }

    /// How many jobs wait, and how many run.
    ///
    /// # Errors
    /// The database failed.
    pub async fn queue_length(&self) -> Result<(u64, u64), StoreError> {
        let (queued, running): (i64, i64) = sqlx::query_as(
            "SELECT (SELECT count(*) FROM jobs WHERE status = 'queued'), (SELECT count(*) FROM jobs WHERE status IN ('running', 'cancelling'))",
        )
        .fetch_one(&self.readers)
        .await?;
        Ok((queued as u64, running as u64))
    }

    /// Gives the next job of the queue to `owner`, if that `fits`; none that comes after it is given instead. Jobs of a sweep are passed
    /// over while as many of it run as may run at once.
    ///
    /// # Errors
    /// The database failed.
    pub async fn claim_next(
        &self,
        owner: &str,
        fits: impl Fn(&Job, &Schema) -> bool,
    ) -> Result<Option<(Job, Lease)>, StoreError> {
        let mut tx = self.begin().await?;
        let claimed: Option<(String, i64)> = sqlx::query_as(sqlx::AssertSqlSafe(format!(
            "UPDATE jobs SET status = 'running', attempt = attempt + 1, lease_owner = ?1, lease_expires_at = ?2 + ?3,
                 started_at = coalesce(started_at, ?2), beat_at = ?2
             WHERE id = (SELECT q.id FROM jobs q LEFT JOIN trials t ON t.job_id = q.id WHERE q.status = 'queued' AND q.run_after <= ?2
                 AND (t.sweep_id IS NULL OR t.sweep_id NOT IN ({FULL_SWEEPS})) ORDER BY q.priority DESC, q.id LIMIT 1)
             RETURNING id, attempt"
        )))
        .bind(owner)
        .bind(now_ms())
        .bind(LEASE_MS)
        .fetch_optional(&mut *tx)
        .await?;
        let Some((id, attempt)) = claimed else { return Ok(None) };
        let lease = Lease { job: parse(&id)?, attempt, owner: owner.to_owned() };
        phases::enter(&mut tx, lease.job, attempt, Phase::Starting).await?;
        let job = hold(&mut tx, &lease).await?;
        // Whoever runs it finds out that its dataset is gone.
        if let Ok(dataset) = self.dataset(job.dataset_id).await
            && !fits(&job, &dataset.schema)
        {
            return Ok(None);
        }
        tx.commit().await?;
        Ok(Some((job, lease)))
    }

    /// Prolongs a lease; answers with the status that is wanted: `cancelling` or `paused` when its trainer is to stop.
    ///
    /// # Errors
    /// The lease is lost.
    pub async fn heartbeat(&self, lease: &Lease, progress: Option<&Progress>) -> Result<JobStatus, StoreError> {
        beat(&self.writer, lease, progress).await
    }

    /// Records that a trainer began or went on.
    ///
    /// # Errors
    /// The lease is lost.
    pub async fn record_event(&self, lease: &Lease, kind: &str, data: &serde_json::Value) -> Result<(), StoreError> {
        let mut tx = self.begin().await?;
        hold(&mut tx, lease).await?;
        events::append(&mut tx, lease.job, kind, data).await?;
        tx.commit().await?;
        Ok(())
    }

    /// Records what was gathered of a job at work, and the checkpoint that follows, in one transaction.
    ///
    /// An epoch that was recorded before replaces its numbers and is no event. Of the checkpoints those are kept that the job
    /// asked for; a new one clears the count of deaths. A trial that came to its rung is marked as resting there, and what it
    /// brought is kept.
    ///
    /// # Errors
    /// The lease is lost.
    pub async fn record(
        &self,
        lease: &Lease,
        gathered: &Gathered,
        checkpoint: Option<CheckpointRecord<'_>>,
    ) -> Result<(), StoreError> {
        let Gathered { phases, epochs, progress } = gathered;
        let mut tx = self.begin().await?;
        let job = hold(&mut tx, lease).await?;
        for (phase, at_ms) in phases {
            phases::enter_at(&mut tx, job.id, job.attempt, *phase, *at_ms).await?;
        }
        if !epochs.is_empty() {
            let are_new = metrics::upsert(&mut tx, job.id, epochs).await?;
            let new =
                epochs.iter().zip(are_new).filter(|(_, is_new)| *is_new).map(|(EpochRecord { epoch, metrics }, _)| {
                    let figures: BTreeMap<&str, f64> =
                        metrics.iter().map(|metric| (metric.name.as_str(), metric.value)).collect();
                    json!({"epoch": epoch, "metrics": figures})
                });
            events::append_all(&mut tx, job.id, "epoch", &new.collect::<Vec<_>>()).await?;
        }
        if let Some(checkpoint) = checkpoint {
            checkpoints::keep(&mut tx, &lease.job.to_string(), job.options.keep, checkpoint).await?;
        }
        if let (Some(trial), Some(last)) = (&job.trial, epochs.iter().map(|record| record.epoch).max()) {
            sweeps::arrive(&mut tx, job.id, trial, last).await?;
        }
        if let Some(progress) = progress {
            beat(&mut *tx, lease, Some(progress)).await?;
        }
        tx.commit().await?;
        Ok(())
    }

    /// Ends a job with a model: status, figures, model and bytes in one transaction.
    ///
    /// # Errors
    /// The lease is lost.
    pub async fn succeed(
        &self,
        lease: &Lease,
        stop_reason: StopReason,
        figures: &[Metric],
        schema: &Schema,
        artifact: &[u8],
    ) -> Result<ModelId, StoreError> {
        let mut tx = self.begin().await?;
        let job = hold(&mut tx, lease).await?;
        let figures: BTreeMap<&str, f64> = figures.iter().map(|metric| (metric.name.as_str(), metric.value)).collect();
        let artifact = artifacts::insert(&mut tx, artifact).await?;
        let model = ModelId::new();
        let family = job.spec.model.family();
        let version = match &job.register {
            Some(name) => Some(registry::next_version(&mut tx, name).await?),
            None => None,
        };
        sqlx::query("INSERT INTO models (id, name, job_id, dataset_id, family, spec, schema, metrics, artifact_id, created_at, registered, version) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)")
            .bind(model.to_string())
            .bind(job.name.as_deref().unwrap_or(family))
            .bind(job.id.to_string())
            .bind(job.dataset_id.to_string())
            .bind(family)
            .bind(to_json(&job.spec))
            .bind(to_json(schema))
            .bind(to_json(&figures))
            .bind(artifact.to_string())
            .bind(now_ms())
            .bind(job.register.as_ref().map(ModelName::as_str))
            .bind(version)
            .execute(&mut *tx)
            .await?;
        end(&mut tx, &job, JobStatus::Succeeded, Some(stop_reason), None, Some(to_json(&figures))).await?;
        let mut data = json!({"message": "The model is ready.", "model_id": model, "stop_reason": stop_reason, "metrics": figures});
        if let Some((name, version)) = job.register.as_ref().zip(version) {
            data["registered"] = json!({"name": name, "version": version});
        }
        events::append(&mut tx, job.id, "succeeded", &data).await?;
        tx.commit().await?;
        self.give_back_room().await;
        Ok(model)
    }

    /// Ends a job without a model.
    ///
    /// # Errors
    /// The lease is lost.
    pub async fn fail(&self, lease: &Lease, error: &Refusal) -> Result<(), StoreError> {
        let mut tx = self.begin().await?;
        let job = hold(&mut tx, lease).await?;
        end_failed(&mut tx, &job, error).await?;
        tx.commit().await?;
        Ok(())
    }

    /// Returns an interrupted job to the queue, pauses it when that was asked for or when it rests at a rung of its sweep, or ends
    /// it: when it was being cancelled, or when its trainers died too often.
    ///
    /// # Errors
    /// The lease is lost.
    pub async fn interrupt(
        &self,
        lease: &Lease,
        interruption: Interruption,
        why: &str,
    ) -> Result<JobStatus, StoreError> {
        let mut tx = self.begin().await?;
        let job = hold(&mut tx, lease).await?;
        sqlx::query("UPDATE jobs SET ran_ms = ran_ms + max(0, ?1 - coalesce(beat_at, ?1)), beat_at = ?1 WHERE id = ?2")
            .bind(now_ms())
            .bind(job.id.to_string())
            .execute(&mut *tx)
            .await?;
        let status = interrupt(&mut tx, &job, interruption, why).await?;
        tx.commit().await?;
        Ok(status)
    }

    /// Asks a job to end. A waiting one ends at once; a running one becomes `cancelling`.
    ///
    /// # Errors
    /// There is none of this id, or it has ended.
    pub async fn request_cancel(&self, id: JobId) -> Result<Job, StoreError> {
        let mut tx = self.begin().await?;
        let row: Option<JobRow> = sqlx::query_as(sqlx::AssertSqlSafe(format!("{COLUMNS} WHERE j.id = ?")))
            .bind(id.to_string())
            .fetch_optional(&mut *tx)
            .await?;
        let job = row.ok_or_else(|| gone("job", id))?.0?;
        match job.status {
            JobStatus::Queued | JobStatus::Paused => end_cancelled(&mut tx, &job).await?,
            JobStatus::Running => mark_cancelling(&mut tx, &job).await?,
            JobStatus::Cancelling => {}
            ended => {
                return Err(refused(
                    Code::JobEnded,
                    format!("the job {id} has already ended: it is {}", ended.as_str()),
                ));
            }
        }
        tx.commit().await?;
        self.job(id).await
    }

    /// Takes every lease back that ran out, and at start-up (`all`) every one: then no worker of this directory is alive.
    /// `own` are leases that this process knows to be alive, whatever the clock says.
    ///
    /// # Errors
    /// The database failed.
    pub async fn reap(&self, all: bool, own: &[JobId]) -> Result<Vec<(JobId, JobStatus)>, StoreError> {
        let mut tx = self.begin().await?;
        let rows: Vec<JobRow> = sqlx::query_as(sqlx::AssertSqlSafe(format!(
            "{COLUMNS} WHERE j.status IN ('running', 'cancelling') AND (?1 OR j.lease_expires_at IS NULL OR j.lease_expires_at < ?2)"
        )))
        .bind(all)
        .bind(now_ms())
        .fetch_all(&mut *tx)
        .await?;
        let mut reaped = Vec::new();
        for row in rows {
            let job = row.0?;
            if all || !own.contains(&job.id) {
                let why = if all { "The server ended while the job ran." } else { "Its worker stopped answering." };
                reaped.push((job.id, interrupt(&mut tx, &job, Interruption::Death, why).await?));
            }
        }
        tx.commit().await?;
        Ok(reaped)
    }
}

/// The refusal of a job on a dataset that is not there.
pub fn unknown_dataset(id: DatasetId) -> Refusal {
    Refusal::at(Code::InvalidRequest, "/dataset", "not_found", format!("is {id}, and there is no dataset of this id"))
}

/// Writes a new job that waits, within the caller's transaction.
pub(super) async fn enqueue(tx: &mut SqliteConnection, new: &NewJob, asked: &Asked) -> Result<JobId, StoreError> {
    require_dataset(&mut *tx, new.spec.dataset).await?;
    let id = JobId::new();
    sqlx::query("INSERT INTO jobs (id, name, dataset_id, family, spec, status, max_deaths, priority, register, options, asked, idempotency_key, created_at) VALUES (?, ?, ?, ?, ?, 'queued', ?, ?, ?, ?, ?, ?, ?)")
        .bind(id.to_string())
        .bind(&new.spec.name)
        .bind(new.spec.dataset.to_string())
        .bind(new.spec.model.family())
        .bind(to_json(&new.spec))
        .bind(i64::from(new.max_deaths))
        .bind(new.priority)
        .bind(new.register.as_ref().map(ModelName::as_str))
        .bind(to_json(&new.options))
        .bind(to_json(asked))
        .bind(&new.idempotency_key)
        .bind(now_ms())
        .execute(&mut *tx)
        .await?;
    events::append(&mut *tx, id, "queued", &json!({"message": "Waiting for a worker."})).await?;
    phases::enter(tx, id, 0, Phase::Waiting).await?;
    Ok(id)
}

/// Refuses a job on a dataset that is not there.
pub(super) async fn require_dataset(tx: &mut SqliteConnection, id: DatasetId) -> Result<(), StoreError> {
    let alive: i64 = sqlx::query_scalar("SELECT count(*) FROM datasets WHERE id = ? AND deleted_at IS NULL")
        .bind(id.to_string())
        .fetch_one(tx)
        .await?;
    if alive == 0 { Err(unknown_dataset(id).into()) } else { Ok(()) }
}

/// Prolongs a lease, counts the time since the last beat, and keeps the progress where there is some.
async fn beat<'c>(
    executor: impl sqlx::SqliteExecutor<'c>,
    lease: &Lease,
    progress: Option<&Progress>,
) -> Result<JobStatus, StoreError> {
    let status: Option<String> = sqlx::query_scalar(
        "UPDATE jobs SET lease_expires_at = ?1 + ?6, progress = coalesce(?2, progress),
             ran_ms = ran_ms + max(0, ?1 - coalesce(beat_at, ?1)), beat_at = ?1
         WHERE id = ?3 AND attempt = ?4 AND lease_owner = ?5 AND status IN ('running', 'cancelling')
         RETURNING CASE WHEN status = 'running' AND pausing THEN 'paused' ELSE status END",
    )
    .bind(now_ms())
    .bind(progress.map(to_json))
    .bind(lease.job.to_string())
    .bind(lease.attempt)
    .bind(&lease.owner)
    .bind(LEASE_MS)
    .fetch_optional(executor)
    .await?;
    status.and_then(|status| JobStatus::parse(&status)).ok_or(StoreError::LeaseLost)
}

/// The job of a lease, if it still holds.
pub(super) async fn hold(tx: &mut SqliteConnection, lease: &Lease) -> Result<Job, StoreError> {
    let row: Option<JobRow> = sqlx::query_as(sqlx::AssertSqlSafe(format!(
        "{COLUMNS} WHERE j.id = ? AND j.attempt = ? AND j.lease_owner = ? AND j.status IN ('running', 'cancelling')"
    )))
    .bind(lease.job.to_string())
    .bind(lease.attempt)
    .bind(&lease.owner)
    .fetch_optional(tx)
    .await?;
    row.ok_or(StoreError::LeaseLost)?.0
}

async fn interrupt(
    tx: &mut SqliteConnection,
    job: &Job,
    interruption: Interruption,
    why: &str,
) -> Result<JobStatus, StoreError> {
    if job.status == JobStatus::Cancelling {
        end_cancelled(tx, job).await?;
        return Ok(JobStatus::Cancelled);
    }
    let deaths = job.deaths + i64::from(interruption == Interruption::Death);
    let most: i64 = sqlx::query_scalar("UPDATE jobs SET deaths = ? WHERE id = ? RETURNING max_deaths")
        .bind(deaths)
        .bind(job.id.to_string())
        .fetch_one(&mut *tx)
        .await?;
    if deaths >= most {
        let error = Refusal::new(
            Code::TrainerDied,
            format!("The job was cut off {deaths} times without getting further. Last: {why}"),
        );
        end_failed(tx, job, &error).await?;
        return Ok(JobStatus::Failed);
    }
    let resting = job.trial.filter(|trial| trial.is_resting);
    let status = if job.pausing || resting.is_some() { JobStatus::Paused } else { JobStatus::Queued };
    debug_assert!(job.status.may_become(status));
    // One that rests and was to be paused all the same keeps the wish: a promotion does not set it going then.
    sqlx::query("UPDATE jobs SET status = ?, pausing = ?, lease_owner = NULL, lease_expires_at = NULL WHERE id = ?")
        .bind(status.as_str())
        .bind(job.pausing && resting.is_some())
        .bind(job.id.to_string())
        .execute(&mut *tx)
        .await?;
    let phase = if status == JobStatus::Paused { Phase::Paused } else { Phase::Waiting };
    phases::enter(tx, job.id, job.attempt, phase).await?;
    if let Some(trial) = resting {
        let message = format!("Rests after epoch {}. Its sweep compares it with others.", trial.rest_at.unwrap_or(0));
        events::append(tx, job.id, "paused", &json!({"message": message, "attempt": job.attempt})).await?;
        sweeps::decide(tx, trial.sweep).await?;
        return Ok(status);
    }
    if status == JobStatus::Paused {
        let data = json!({"message": "Paused. It goes on from its last checkpoint once it is resumed.", "attempt": job.attempt});
        events::append(tx, job.id, "paused", &data).await?;
        return Ok(status);
    }
    let data = json!({"message": format!("{why} It waits to go on from its last checkpoint."), "attempt": job.attempt});
    events::append(tx, job.id, "interrupted", &data).await?;
    Ok(JobStatus::Queued)
}

/// Refuses more jobs than the queue takes. Paused ones count: they may come back at any time.
pub(super) async fn require_room(tx: &mut SqliteConnection, more: u64) -> Result<(), StoreError> {
    let waiting: i64 =
        sqlx::query_scalar("SELECT count(*) FROM jobs WHERE status IN ('queued', 'paused')").fetch_one(tx).await?;
    if waiting as u64 + more > QUEUED_JOBS {
        return Err(refused(Code::Overloaded, format!("{waiting} jobs wait already; allowed are {QUEUED_JOBS}")));
    }
    Ok(())
}

/// Takes note that a running job is to end.
pub(super) async fn mark_cancelling(tx: &mut SqliteConnection, job: &Job) -> Result<(), StoreError> {
    sqlx::query("UPDATE jobs SET status = 'cancelling', pausing = 0 WHERE id = ?")
        .bind(job.id.to_string())
        .execute(&mut *tx)
        .await?;
    events::append(&mut *tx, job.id, "cancelling", &json!({"message": "Asked to stop."})).await?;
    phases::enter(tx, job.id, job.attempt, Phase::Stopping).await
}

pub(super) async fn end_cancelled(tx: &mut SqliteConnection, job: &Job) -> Result<(), StoreError> {
    end(tx, job, JobStatus::Cancelled, Some(StopReason::User), None, None).await?;
    events::append(tx, job.id, "cancelled", &json!({"message": "Cancelled."})).await
}

async fn end_failed(tx: &mut SqliteConnection, job: &Job, error: &Refusal) -> Result<(), StoreError> {
    end(tx, job, JobStatus::Failed, None, Some(to_json(error)), None).await?;
    events::append(tx, job.id, "failed", &json!({"message": error.detail, "code": error.code})).await
}

/// Sets a terminal status, frees what only a living job needs, and lets the sweep of a trial decide about others.
pub(super) async fn end(
    tx: &mut SqliteConnection,
    job: &Job,
    status: JobStatus,
    stop_reason: Option<StopReason>,
    error: Option<String>,
    metrics: Option<String>,
) -> Result<(), StoreError> {
    let figures = metrics.as_deref().map(from_json::<BTreeMap<String, f64>>).transpose()?;
    end_alone(tx, job, status, stop_reason, error, metrics).await?;
    match &job.trial {
        Some(trial) => sweeps::trial_ended(tx, job.id, trial.sweep, figures.as_ref()).await,
        None => Ok(()),
    }
}

/// The same, and nothing else.
pub(super) async fn end_alone(
    tx: &mut SqliteConnection,
    job: &Job,
    status: JobStatus,
    stop_reason: Option<StopReason>,
    error: Option<String>,
    metrics: Option<String>,
) -> Result<(), StoreError> {
    debug_assert!(job.status.may_become(status));
    sqlx::query(
        "UPDATE jobs SET status = ?, stop_reason = ?, error = ?, metrics = ?, pausing = 0, lease_owner = NULL, lease_expires_at = NULL, finished_at = ?
         WHERE id = ?",
    )
    .bind(status.as_str())
    .bind(stop_reason.and_then(|reason| serde_json::to_value(reason).expect("a reason is a name").as_str().map(str::to_owned)))
    .bind(error)
    .bind(metrics)
    .bind(now_ms())
    .bind(job.id.to_string())
    .execute(&mut *tx)
    .await?;
    phases::enter(tx, job.id, job.attempt, Phase::Done).await?;
    // A model makes its checkpoints needless, unless they are asked for.
    let keep = job.options.keep;
    let needed = status != JobStatus::Succeeded || keep.after_success;
    let (best, latest) = if needed { (keep.best, keep.latest) } else { (0, 0) };
    checkpoints::drop_needless(tx, &job.id.to_string(), best, latest).await
}

/// The job that a request with this key made.
pub(super) async fn find_by_key(tx: &mut SqliteConnection, key: Option<&str>) -> Result<Option<Job>, StoreError> {
    let Some(key) = key else { return Ok(None) };
    let known: Option<JobRow> = sqlx::query_as(sqlx::AssertSqlSafe(format!("{COLUMNS} WHERE j.idempotency_key = ?")))
        .bind(key)
        .fetch_optional(tx)
        .await?;
    known.map(|row| row.0).transpose()
}

impl Job {
    /// This job, when the request that made it asked for the same. Of those of earlier versions nobody knows.
    pub(super) fn if_asked(self, asked: &Asked) -> Result<(Self, bool), StoreError> {
        if self.asked.as_ref().is_some_and(|before| before != asked) {
            return Err(self.key_conflict());
        }
        Ok((self, false))
    }

    pub(super) fn key_conflict(&self) -> StoreError {
        let detail = format!("was used before for something else, which made {}", self.id);
        Refusal::at(Code::InvalidRequest, "Idempotency-Key", "conflict", detail).into()
    }
}
