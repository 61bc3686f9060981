//! Jobs of inference: put into the queue, how far their answers are on the disk, and the dataset they end with.
//!
//! The answers grow in a file of the data directory, under the id of the job. `jobs.result_rows` says how many of its rows count:
//! they are synced before they are counted, and what the file holds beyond them is written again.

use std::fs;
use std::io;
use std::path::PathBuf;

use serde_json::json;
use sqlx::SqliteConnection;

use super::datasets::{self, Dataset, Origin};
use super::jobs::{self, Asked, Job, Lease, find_by_key, require_dataset, require_room};
use super::{Store, StoreError, events, now_ms, phases, to_json};
use crate::data::Ingested;
use crate::domain::id::{DatasetId, JobId, ModelId};
use crate::domain::job::{JobStatus, Phase, RunOptions, StopReason};
use crate::domain::limits::NAME_CHARS;
use crate::domain::refusal::{Code, Refusal};
use crate::training::inference::InferenceSpec;
use crate::training::spec::TrainSpec;

/// A new job of inference.
#[derive(Clone, Debug)]
pub struct NewInference<'a> {
    /// What is asked.
    pub spec: &'a InferenceSpec,
    /// The model that it means.
    pub model: ModelId,
    /// The spec that this model was trained by.
    pub trained_by: &'a TrainSpec,
    /// With as many deaths it fails.
    pub max_deaths: u32,
    /// Jobs of a higher priority leave the queue first.
    pub priority: i32,
    /// What it may use up.
    pub options: RunOptions,
    /// The key of the request, when it has one.
    pub idempotency_key: Option<&'a str>,
}

impl Store {
    /// Puts a job of inference into the queue. With a key that was used before, answers with that job and `false`.
    ///
    /// # Errors
    /// The dataset or the model is gone, the queue is full, or the key was used for another spec.
    pub async fn insert_inference(&self, new: &NewInference<'_>) -> Result<(Job, bool), StoreError> {
        let mut tx = self.begin().await?;
        let asked = Asked::New { priority: new.priority, options: new.options, register: None };
        if let Some(known) = find_by_key(&mut tx, new.idempotency_key).await? {
            let is_same = known.inference.as_ref() == Some(new.spec);
            return if is_same { known.if_asked(&asked) } else { Err(known.key_conflict()) };
        }
        require_dataset(&mut tx, new.spec.dataset).await?;
        let alive: i64 = sqlx::query_scalar("SELECT count(*) FROM models WHERE id = ? AND deleted_at IS NULL")
            .bind(new.model.to_string())
            .fetch_one(&mut *tx)
            .await?;
        if alive == 0 {
            let detail = format!("is {}, and there is no such model any more", new.model);
            return Err(Refusal::at(Code::InvalidRequest, "/model", "not_found", detail).into());
        }
        require_room(&mut tx, 1).await?;
        let id = JobId::new();
        sqlx::query(
            "INSERT INTO jobs (id, name, dataset_id, family, spec, inference, asked_model_id, status, max_deaths, priority, options, asked, idempotency_key, created_at)
             VALUES (?, ?, ?, ?, ?, ?, ?, 'queued', ?, ?, ?, ?, ?, ?)",
        )
        .bind(id.to_string())
        .bind(&new.spec.name)
        .bind(new.spec.dataset.to_string())
        .bind(new.trained_by.model.family())
        .bind(to_json(new.trained_by))
        .bind(to_json(new.spec))
        .bind(new.model.to_string())
        .bind(i64::from(new.max_deaths))
        .bind(new.priority)
        .bind(to_json(&new.options))
        .bind(to_json(&asked))
        .bind(new.idempotency_key)
        .bind(now_ms())
        .execute(&mut *tx)
        .await?;
        events::append(&mut tx, id, "queued", &json!({"message": "Waiting for a worker."})).await?;
        phases::enter(&mut tx, id, 0, Phase::Waiting).await?;
        tx.commit().await?;
        Ok((self.job(id).await?, true))
    }

    /// Where the answers of a job grow.
    pub fn result_path(&self, job: JobId) -> PathBuf {
        self.results_directory().join(job.to_string())
    }

    /// Records that so many rows of the answer are on the disk.
    ///
    /// # Errors
    /// The lease is lost.
    pub async fn record_result(&self, lease: &Lease, rows: u64) -> Result<(), StoreError> {
        let mut tx = self.begin().await?;
        let job = jobs::hold(&mut tx, lease).await?;
        // Only who gets further is forgiven earlier deaths.
        let deaths = if rows > job.result_rows { 0 } else { job.deaths };
        sqlx::query("UPDATE jobs SET result_rows = ?, deaths = ? WHERE id = ?")
            .bind(rows as i64)
            .bind(deaths)
            .bind(job.id.to_string())
            .execute(&mut *tx)
            .await?;
        tx.commit().await?;
        Ok(())
    }

    /// Ends a job of inference with its dataset: the rows move into place, then status, dataset and event are one transaction.
    ///
    /// # Errors
    /// The lease is lost.
    pub async fn finish_inference(&self, lease: &Lease, ingested: &Ingested) -> Result<DatasetId, StoreError> {
        let source = self.dataset_that_was(self.job(lease.job).await?.dataset_id).await?.0;
        let scratch = self.scratch()?;
        let (written, rows) = (self.result_path(lease.job), scratch.path("rows"));
        // The file keeps its name until the end is recorded, so that recording can be tried again.
        fs::hard_link(&written, &rows).or_else(|_| fs::copy(&written, &rows).map(drop))?;
        fs::File::open(&rows)?.sync_all()?;
        let origin = Origin { job: Some(lease.job), ..Origin::default() };
        let mut tx = self.begin().await?;
        let job = jobs::hold(&mut tx, lease).await?;
        let name = result_name(&mut tx, &job, &source).await?;
        let dataset = Dataset::new(&name, ingested, &origin);
        self.place_rows(dataset.id, &rows)?;
        let recorded = async {
            datasets::insert_row(&mut *tx, &dataset, &origin).await?;
            sqlx::query("UPDATE jobs SET result_dataset_id = ?, result_rows = ? WHERE id = ?")
                .bind(dataset.id.to_string())
                .bind(dataset.rows as i64)
                .bind(job.id.to_string())
                .execute(&mut *tx)
                .await?;
            jobs::end(&mut tx, &job, JobStatus::Succeeded, Some(StopReason::Completed), None, None).await?;
            let data =
                json!({"message": "The dataset is ready.", "result_dataset_id": dataset.id, "rows": dataset.rows});
            events::append(&mut tx, job.id, "succeeded", &data).await?;
            Ok::<_, StoreError>(tx.commit().await?)
        };
        if let Err(error) = recorded.await {
            let _ = self.remove_rows(dataset.id);
            return Err(error);
        }
        Ok(dataset.id)
    }

    /// Removes the unfinished answers of a job that has ended.
    pub fn remove_result(&self, job: JobId) {
        match fs::remove_file(self.result_path(job)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(job.id = %job, %error, "Unfinished answers of job {job} stay until the next start");
            }
            _ => {}
        }
    }
}

/// What the dataset of a job is called: as the job, or else by what was asked of what.
async fn result_name(tx: &mut SqliteConnection, job: &Job, source: &Dataset) -> Result<String, StoreError> {
    let Some(asked) = job.inference.as_ref().filter(|_| job.name.is_none()) else {
        return Ok(job.name.clone().unwrap_or_else(|| source.name.clone()));
    };
    let place: Option<(Option<String>, Option<i64>)> = sqlx::query_as(
        "SELECT registered, version FROM models WHERE id = (SELECT asked_model_id FROM jobs WHERE id = ?)",
    )
    .bind(job.id.to_string())
    .fetch_optional(tx)
    .await?;
    let model = match place {
        Some((Some(name), Some(version))) => format!("{name}:{version}"),
        _ => job.spec.model.family().to_owned(),
    };
    let end = format!(", {} by {model}", asked.question.as_str());
    let room = NAME_CHARS.saturating_sub(end.chars().count());
    Ok(source.name.chars().take(room).chain(end.chars()).take(NAME_CHARS).collect())
}
