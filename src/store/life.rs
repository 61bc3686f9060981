//! The life of a job beside running: it waits, goes on, is tried again, gets another name or priority.

use serde_json::json;
use sqlx::SqliteConnection;

use super::jobs::{Asked, COLUMNS, Job, JobRow, find_by_key, require_dataset, require_room};
use super::{Store, StoreError, events, gone, now_ms, phases, refused, to_json};
use crate::domain::id::JobId;
use crate::domain::job::{JobStatus, Phase, RetryFrom, StopReason};
use crate::domain::reference::ModelRef;
use crate::domain::refusal::Code;
use crate::training::spec::TrainSpec;

/// What is to be changed of a job.
#[derive(Clone, Debug, Default)]
pub struct JobChange {
    /// Another name.
    pub name: Option<String>,
    /// Another priority.
    pub priority: Option<i32>,
}

impl Store {
    /// Asks a job to wait until it is resumed. A waiting one is paused at once; a running one once its trainer has stopped, or
    /// not at all when it ends before. One that rests at a rung of its sweep is not set going by a promotion then. Asking again
    /// changes nothing.
    ///
    /// # Errors
    /// There is none of this id, it is being cancelled, or it has ended.
    pub async fn request_pause(&self, id: JobId) -> Result<Job, StoreError> {
        let mut tx = self.begin().await?;
        let job = find(&mut tx, id).await?;
        match job.status {
            JobStatus::Paused if rests(&job) => set(&mut tx, &job, JobStatus::Paused, true).await?,
            JobStatus::Paused => {}
            JobStatus::Running if job.pausing => {}
            JobStatus::Queued => {
                set(&mut tx, &job, JobStatus::Paused, false).await?;
                events::append(&mut tx, id, "paused", &json!({"message": "Paused before it ran."})).await?;
            }
            JobStatus::Running => {
                set(&mut tx, &job, JobStatus::Running, true).await?;
                events::append(&mut tx, id, "pausing", &json!({"message": "Asked to pause."})).await?;
            }
            _ => return Err(not_now(&job, "paused")),
        }
        tx.commit().await?;
        self.job(id).await
    }

    /// Returns a paused job to the queue. Of one that is still pausing the wish is taken back: its trainer stops, and it goes on
    /// from there. One that waits or runs already stays as it is.
    ///
    /// # Errors
    /// There is none of this id, it is being cancelled, it has ended, or its sweep alone can let it go on.
    pub async fn resume(&self, id: JobId) -> Result<Job, StoreError> {
        let mut tx = self.begin().await?;
        let job = find(&mut tx, id).await?;
        match job.status {
            JobStatus::Paused if rests(&job) && job.pausing => set(&mut tx, &job, JobStatus::Paused, false).await?,
            JobStatus::Paused if rests(&job) => {
                let detail = format!(
                    "the job {id} rests at a rung of its sweep, which lets it go on when it is among the best there"
                );
                return Err(refused(Code::JobStatus, detail));
            }
            JobStatus::Paused => {
                set(&mut tx, &job, JobStatus::Queued, false).await?;
                events::append(&mut tx, id, "queued", &json!({"message": "Waiting for a worker again."})).await?;
            }
            JobStatus::Running if job.pausing => {
                set(&mut tx, &job, JobStatus::Running, false).await?;
                events::append(&mut tx, id, "resuming", &json!({"message": "It is not to be paused after all."}))
                    .await?;
            }
            JobStatus::Queued | JobStatus::Running => {}
            _ => return Err(not_now(&job, "resumed")),
        }
        tx.commit().await?;
        self.job(id).await
    }

    /// Queues another job of the same spec and limits. From a checkpoint, it takes the last one along with the curves up to
    /// there. With a key that was used before, answers with that job.
    ///
    /// # Errors
    /// There is none of this id, it neither failed nor was cancelled, its dataset is gone, the queue is full, or the key was
    /// used for something else.
    pub async fn retry(
        &self,
        id: JobId,
        from: RetryFrom,
        max_deaths: u32,
        key: Option<&str>,
    ) -> Result<Job, StoreError> {
        let mut tx = self.begin().await?;
        let asked = Asked::Retry { parent: id, from };
        if let Some(known) = find_by_key(&mut tx, key).await? {
            return Ok(known.if_asked(&asked)?.0);
        }
        let parent = find(&mut tx, id).await?;
        if !matches!(parent.status, JobStatus::Failed | JobStatus::Cancelled) {
            let status = parent.status.as_str();
            let detail = format!("the job {id} is {status}; only one that failed or was cancelled can be tried again");
            return Err(refused(Code::JobStatus, detail));
        }
        let child = insert_child(&mut tx, &parent, &parent.spec, max_deaths, &asked, key).await?;
        if from == RetryFrom::Checkpoint {
            take_along(&mut tx, id, child).await?;
        }
        let data = json!({"message": format!("Tries {id} again. Waiting for a worker."), "parent_job_id": id});
        events::append(&mut tx, child, "queued", &data).await?;
        phases::enter(&mut tx, child, 0, Phase::Waiting).await?;
        tx.commit().await?;
        self.job(child).await
    }

    /// Puts a job into the queue that goes on where one that has succeeded ended, for so many more epochs: from its last checkpoint
    /// where that was kept and nothing but the number of epochs had ended it, else with the weights of its model. With a key that
    /// was used before, answers with that job.
    ///
    /// # Errors
    /// There is none of this id, it has not succeeded, its dataset or model is gone, it would have too many epochs, the queue is
    /// full, or the key was used for something else.
    pub async fn extend(&self, id: JobId, epochs: u32, max_deaths: u32, key: Option<&str>) -> Result<Job, StoreError> {
        let mut tx = self.begin().await?;
        let asked = Asked::Extend { parent: id, epochs };
        if let Some(known) = find_by_key(&mut tx, key).await? {
            return Ok(known.if_asked(&asked)?.0);
        }
        let parent = find(&mut tx, id).await?;
        if parent.inference.is_some() {
            return Err(refused(Code::JobStatus, format!("the job {id} trains nothing that could go on")));
        }
        let Some(model) = parent.model_id.filter(|_| parent.status == JobStatus::Succeeded) else {
            let detail = match parent.status {
                JobStatus::Succeeded => format!("the model of the job {id} is deleted; there is nothing to go on from"),
                status => format!("the job {id} is {}; only one that has succeeded can go on", status.as_str()),
            };
            return Err(refused(Code::JobStatus, detail));
        };
        let kept: i64 = sqlx::query_scalar("SELECT count(*) FROM checkpoints WHERE job_id = ?")
            .bind(id.to_string())
            .fetch_one(&mut *tx)
            .await?;
        let exactly = kept > 0 && parent.stop_reason == Some(StopReason::Completed);
        let mut spec = parent.spec.clone();
        spec.training.max_steps = None;
        if exactly {
            spec.training.epochs = spec.training.epochs.saturating_add(epochs);
        } else {
            spec.training.epochs = epochs;
            spec.training.pretraining = None;
            spec.init_from = Some(ModelRef::Id(model));
        }
        spec.check()?;
        let child = insert_child(&mut tx, &parent, &spec, max_deaths, &asked, key).await?;
        if exactly {
            take_along(&mut tx, id, child).await?;
        }
        let from = if exactly { "its last checkpoint".to_owned() } else { format!("the weights of {model}") };
        let message = format!("Goes on where {id} ended, from {from}. Waiting for a worker.");
        events::append(&mut tx, child, "queued", &json!({"message": message, "parent_job_id": id})).await?;
        phases::enter(&mut tx, child, 0, Phase::Waiting).await?;
        let job = find(&mut tx, child).await?;
        tx.commit().await?;
        Ok(job)
    }

    /// Gives a job another name or priority.
    ///
    /// # Errors
    /// There is none of this id, or it is to get a priority and has ended.
    pub async fn change_job(&self, id: JobId, change: &JobChange) -> Result<Job, StoreError> {
        let mut tx = self.begin().await?;
        let job = find(&mut tx, id).await?;
        if change.priority.is_some() && job.status.is_terminal() {
            let detail = format!("the job {id} has ended: it is {}; only its name can be changed", job.status.as_str());
            return Err(refused(Code::JobEnded, detail));
        }
        sqlx::query("UPDATE jobs SET name = coalesce(?, name), priority = coalesce(?, priority) WHERE id = ?")
            .bind(&change.name)
            .bind(change.priority)
            .bind(id.to_string())
            .execute(&mut *tx)
            .await?;
        tx.commit().await?;
        self.job(id).await
    }
}

/// Whether it is for its sweep to decide how a job goes on.
fn rests(job: &Job) -> bool {
    job.trial.is_some_and(|trial| trial.is_resting)
}

pub(super) async fn find(tx: &mut SqliteConnection, id: JobId) -> Result<Job, StoreError> {
    let row: Option<JobRow> = sqlx::query_as(sqlx::AssertSqlSafe(format!("{COLUMNS} WHERE j.id = ?")))
        .bind(id.to_string())
        .fetch_optional(tx)
        .await?;
    row.ok_or_else(|| gone("job", id))?.0
}

async fn set(tx: &mut SqliteConnection, job: &Job, status: JobStatus, pausing: bool) -> Result<(), StoreError> {
    sqlx::query("UPDATE jobs SET status = ?, pausing = ? WHERE id = ?")
        .bind(status.as_str())
        .bind(pausing)
        .bind(job.id.to_string())
        .execute(&mut *tx)
        .await?;
    let phase = match status {
        JobStatus::Queued => Phase::Waiting,
        JobStatus::Paused => Phase::Paused,
        _ if pausing => Phase::Pausing,
        // Its trainer goes on with what it did, or stops and comes up again.
        _ => return Ok(()),
    };
    phases::enter(tx, job.id, job.attempt, phase).await
}

/// The refusal of what the status does not allow.
fn not_now(job: &Job, what: &str) -> StoreError {
    let status = job.status.as_str();
    if job.status.is_terminal() {
        refused(Code::JobEnded, format!("the job {} has already ended: it is {status}", job.id))
    } else {
        refused(Code::JobStatus, format!("the job {} is {status} and cannot be {what}", job.id))
    }
}

/// Puts a job into the queue that another one leads to.
async fn insert_child(
    tx: &mut SqliteConnection,
    parent: &Job,
    spec: &TrainSpec,
    max_deaths: u32,
    asked: &Asked,
    key: Option<&str>,
) -> Result<JobId, StoreError> {
    require_dataset(tx, parent.dataset_id).await?;
    require_room(tx, 1).await?;
    let child = JobId::new();
    sqlx::query(
        "INSERT INTO jobs (id, name, dataset_id, family, spec, register, inference, asked_model_id, status, max_deaths, priority, options, parent_job_id, asked, idempotency_key, created_at)
         SELECT ?1, name, dataset_id, family, ?2, register, inference, asked_model_id, 'queued', ?3, priority, options, id, ?6, ?7, ?4 FROM jobs WHERE id = ?5",
    )
    .bind(child.to_string())
    .bind(to_json(spec))
    .bind(i64::from(max_deaths))
    .bind(now_ms())
    .bind(parent.id.to_string())
    .bind(to_json(asked))
    .bind(key)
    .execute(tx)
    .await?;
    Ok(child)
}

/// The last checkpoint of a job becomes one of its child too. The bytes are there once; they go when neither needs them.
async fn take_along(tx: &mut SqliteConnection, parent: JobId, child: JobId) -> Result<(), StoreError> {
    let epoch: Option<i64> = sqlx::query_scalar(
        "INSERT INTO checkpoints (job_id, epoch, step, best, artifact_id, created_at)
         SELECT ?1, epoch, step, best, artifact_id, ?2 FROM checkpoints WHERE job_id = ?3 ORDER BY epoch DESC, step DESC LIMIT 1
         RETURNING epoch",
    )
    .bind(child.to_string())
    .bind(now_ms())
    .bind(parent.to_string())
    .fetch_optional(&mut *tx)
    .await?;
    let Some(epoch) = epoch else { return Ok(()) };
    sqlx::query("INSERT INTO metrics (job_id, name, step, value) SELECT ?, name, step, value FROM metrics WHERE job_id = ? AND step <= ?")
        .bind(child.to_string())
        .bind(parent.to_string())
        .bind(epoch)
        .execute(tx)
        .await?;
    Ok(())
}
