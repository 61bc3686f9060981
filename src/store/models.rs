//! The table of models.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use lru::LruCache;
use sqlx::{FromRow, Row};

use super::{Page, Paged, Store, StoreError, artifacts, from_json, gone, now_ms, parse};
use crate::data::dataset::Schema;
use crate::domain::id::{ArtifactId, DatasetId, JobId, ModelId};
use crate::domain::limits::RECENT_MODELS;
use crate::training::spec::TrainSpec;

/// A trained model.
#[derive(Clone, Debug)]
pub struct Model {
    /// Its id.
    pub id: ModelId,
    /// What a person called it, or the family.
    pub name: String,
    /// The job that made it.
    pub job_id: JobId,
    /// The dataset it was trained on; it may be deleted by now.
    pub dataset_id: DatasetId,
    /// The spec it was trained by, resolved.
    pub spec: TrainSpec,
    /// The columns of that dataset.
    pub schema: Schema,
    /// Figures by name.
    pub metrics: BTreeMap<String, f64>,
    /// Its file.
    pub artifact_id: ArtifactId,
    /// Bytes of that file.
    pub bytes: u64,
    /// When it was made.
    pub created_at: i64,
}

const COLUMNS: &str =
    "SELECT m.id, m.name, m.job_id, m.dataset_id, m.spec, m.schema, m.metrics, m.artifact_id, m.created_at, a.bytes
    FROM models m JOIN artifacts a ON a.id = m.artifact_id WHERE m.deleted_at IS NULL";

struct ModelRow(Result<Model, StoreError>);

impl FromRow<'_, sqlx::sqlite::SqliteRow> for ModelRow {
    fn from_row(row: &sqlx::sqlite::SqliteRow) -> Result<Self, sqlx::Error> {
        let text = |column: &str| row.try_get::<String, _>(column);
        let (id, name, job, dataset, artifact) =
            (text("id")?, text("name")?, text("job_id")?, text("dataset_id")?, text("artifact_id")?);
        let (spec, schema, metrics) = (text("spec")?, text("schema")?, text("metrics")?);
        let (bytes, created_at): (i64, i64) = (row.try_get("bytes")?, row.try_get("created_at")?);
        let read = || {
            Ok(Model {
                id: parse(&id)?,
                name,
                job_id: parse(&job)?,
                dataset_id: parse(&dataset)?,
                spec: from_json(&spec)?,
                schema: from_json(&schema)?,
                metrics: from_json(&metrics)?,
                artifact_id: parse(&artifact)?,
                bytes: bytes as u64,
                created_at,
            })
        };
        Ok(Self(read()))
    }
}

/// Models whose rows were read lately. They never change until they are deleted, and each question to a model begins with
/// its row, of which a wide one takes longer to read than the question to answer.
#[derive(Clone)]
pub(super) struct Recent(Arc<Mutex<Rows>>);

struct Rows {
    rows: LruCache<ModelId, Arc<Model>>,
    /// Counts deletions: a row that was read before one may be that of the deleted model.
    deletions: u64,
}

impl Default for Recent {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(Rows { rows: LruCache::new(RECENT_MODELS), deletions: 0 })))
    }
}

impl Recent {
    fn rows(&self) -> MutexGuard<'_, Rows> {
        // Nothing is done under the lock that could leave it half done.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Store {
    /// One model.
    ///
    /// # Errors
    /// There is none of this id.
    pub async fn model(&self, id: ModelId) -> Result<Arc<Model>, StoreError> {
        let deletions = {
            let mut recent = self.models.rows();
            if let Some(model) = recent.rows.get(&id) {
                return Ok(model.clone());
            }
            recent.deletions
        };
        let model = Arc::new(self.read_model(id).await?);
        let mut recent = self.models.rows();
        if recent.deletions == deletions {
            recent.rows.put(id, model.clone());
        }
        Ok(model)
    }

    async fn read_model(&self, id: ModelId) -> Result<Model, StoreError> {
        let row: Option<ModelRow> = sqlx::query_as(sqlx::AssertSqlSafe(format!("{COLUMNS} AND m.id = ?")))
            .bind(id.to_string())
            .fetch_optional(&self.readers)
            .await?;
        row.ok_or_else(|| gone("model", id))?.0
    }

    /// Models, the newest first.
    ///
    /// # Errors
    /// The database failed.
    pub async fn models(&self, page: &Page<ModelId>, family: Option<&str>) -> Result<Paged<Model>, StoreError> {
        let sql = format!(
            "{COLUMNS} AND (?1 IS NULL OR m.id < ?1) AND (?2 IS NULL OR m.family = ?2) ORDER BY m.id DESC LIMIT ?3"
        );
        let rows: Vec<ModelRow> = sqlx::query_as(sqlx::AssertSqlSafe(sql))
            .bind(page.after.map(|id| id.to_string()))
            .bind(family)
            .bind(i64::from(page.limit) + 1)
            .fetch_all(&self.readers)
            .await?;
        Ok(Paged::from_one_more(rows.into_iter().map(|row| row.0).collect::<Result<_, _>>()?, page.limit))
    }

    /// Deletes a model and its bytes. Its job stays.
    ///
    /// # Errors
    /// There is none of this id.
    pub async fn delete_model(&self, id: ModelId) -> Result<(), StoreError> {
        let mut tx = self.begin().await?;
        let artifact: Option<String> =
            sqlx::query_scalar("SELECT artifact_id FROM models WHERE id = ? AND deleted_at IS NULL")
                .bind(id.to_string())
                .fetch_optional(&mut *tx)
                .await?;
        let artifact = artifact.ok_or_else(|| gone("model", id))?;
        sqlx::query("UPDATE models SET deleted_at = ?, artifact_id = NULL WHERE id = ?")
            .bind(now_ms())
            .bind(id.to_string())
            .execute(&mut *tx)
            .await?;
        artifacts::delete(&mut tx, &artifact).await?;
        tx.commit().await?;
        {
            let mut recent = self.models.rows();
            recent.deletions += 1;
            recent.rows.pop(&id);
        }
        self.give_back_room().await;
        Ok(())
    }
}
