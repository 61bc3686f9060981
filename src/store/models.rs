//! The table of models.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use lru::LruCache;
use sqlx::{FromRow, Row};

use super::registry::{self, Registered};
use super::{Page, Paged, Store, StoreError, artifacts, from_json, gone, now_ms, parse, refused, to_json};
use crate::data::dataset::{Column, Schema};
use crate::domain::id::{ArtifactId, DatasetId, JobId, ModelId};
use crate::domain::limits::RECENT_MODELS;
use crate::domain::reference::ModelName;
use crate::domain::refusal::Code;
use crate::training::spec::TrainSpec;

/// A trained model.
#[derive(Clone, Debug)]
pub struct Model {
    /// Its id.
    pub id: ModelId,
    /// What a person called its job, or the family.
    pub name: String,
    /// Its place in the registry, where it has one.
    pub registered: Option<Registered>,
    /// The job that made it; absent where it was imported.
    pub job_id: Option<JobId>,
    /// The dataset it was trained on, which may be deleted by now; absent where it was imported.
    pub dataset_id: Option<DatasetId>,
    /// The spec it was trained by, resolved.
    pub spec: TrainSpec,
    /// The columns of that dataset.
    pub schema: Schema,
    /// What every question asks of them.
    pub facts: Facts,
    /// Figures by name.
    pub metrics: BTreeMap<String, f64>,
    /// Its file.
    pub artifact_id: ArtifactId,
    /// Bytes of that file.
    pub bytes: u64,
    /// When it was made.
    pub created_at: i64,
}

/// A model that was trained elsewhere.
#[derive(Clone, Copy, Debug)]
pub struct ImportedModel<'a> {
    /// The spec in its file.
    pub spec: &'a TrainSpec,
    /// The columns it takes and the labels it learned.
    pub schema: &'a Schema,
    /// The name it is registered under, where it is to be.
    pub register: Option<&'a ModelName>,
    /// Its file.
    pub file: &'a Path,
    /// The checksum of that.
    pub sha256: &'a str,
}

/// A model, without what is large.
#[derive(Clone, Debug)]
pub struct ModelSize {
    /// Its id.
    pub id: ModelId,
    /// Its place in the registry.
    pub registered: Option<Registered>,
    /// Bytes of its file.
    pub bytes: u64,
}

/// What is to be known of the columns of a model at every question. There may be tens of thousands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Facts {
    /// How many are features.
    pub width: usize,
    /// Whether some of these had missing values.
    pub has_gaps: bool,
    /// Whether all of these are amounts: none has classes.
    pub is_plain: bool,
}

impl Facts {
    fn of(schema: &Schema) -> Self {
        let is_plain = |column: &Column| column.levels.is_empty() && !column.kind.is_class();
        Self {
            width: schema.row_shape().width,
            has_gaps: schema.has_gaps(),
            is_plain: schema.feature_columns().all(is_plain),
        }
    }
}

const COLUMNS: &str =
    "SELECT m.id, m.name, m.registered, m.version, m.job_id, m.dataset_id, m.spec, m.schema, m.metrics, m.artifact_id, m.created_at, a.bytes
    FROM models m JOIN artifacts a ON a.id = m.artifact_id WHERE m.deleted_at IS NULL";

struct ModelRow(Result<Model, StoreError>);

impl FromRow<'_, sqlx::sqlite::SqliteRow> for ModelRow {
    fn from_row(row: &sqlx::sqlite::SqliteRow) -> Result<Self, sqlx::Error> {
        let text = |column: &str| row.try_get::<String, _>(column);
        let maybe = |column: &str| row.try_get::<Option<String>, _>(column);
        let (id, name, artifact) = (text("id")?, text("name")?, text("artifact_id")?);
        let (job, dataset) = (maybe("job_id")?, maybe("dataset_id")?);
        let place = maybe("registered")?.zip(row.try_get::<Option<i64>, _>("version")?);
        let (spec, schema, metrics) = (text("spec")?, text("schema")?, text("metrics")?);
        let (bytes, created_at): (i64, i64) = (row.try_get("bytes")?, row.try_get("created_at")?);
        let read = || {
            let schema = from_json(&schema)?;
            Ok(Model {
                id: parse(&id)?,
                name,
                registered: place.map(registered).transpose()?,
                job_id: job.as_deref().map(parse).transpose()?,
                dataset_id: dataset.as_deref().map(parse).transpose()?,
                spec: from_json(&spec)?,
                facts: Facts::of(&schema),
                schema,
                metrics: from_json(&metrics)?,
                artifact_id: parse(&artifact)?,
                bytes: bytes as u64,
                created_at,
            })
        };
        Ok(Self(read()))
    }
}

fn registered((name, version): (String, i64)) -> Result<Registered, StoreError> {
    let name = name.parse().map_err(|fault| StoreError::Damaged(format!("the name of a model {fault}")))?;
    Ok(Registered { name, version: version as u32 })
}

/// Models whose rows were read lately. They hardly ever change until they are deleted, and each question to a model begins with
/// its row, of which a wide one takes longer to read than the question to answer.
#[derive(Clone)]
pub(super) struct Recent(Arc<Mutex<Rows>>);

struct Rows {
    rows: LruCache<ModelId, Arc<Model>>,
    /// Counts changes: a row that was read before one may be that of the deleted model.
    changes: u64,
}

impl Default for Recent {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(Rows { rows: LruCache::new(RECENT_MODELS), changes: 0 })))
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
        let changes = {
            let mut recent = self.models.rows();
            if let Some(model) = recent.rows.get(&id) {
                return Ok(model.clone());
            }
            recent.changes
        };
        let model = Arc::new(self.read_model(id).await?);
        let mut recent = self.models.rows();
        if recent.changes == changes {
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

    /// Models, the newest first: all, or those of a family or a name of the registry.
    ///
    /// # Errors
    /// The database failed.
    pub async fn models(
        &self,
        page: &Page<ModelId>,
        family: Option<&str>,
        name: Option<&ModelName>,
    ) -> Result<Paged<Model>, StoreError> {
        let sql = format!(
            "{COLUMNS} AND (?1 IS NULL OR m.id < ?1) AND (?2 IS NULL OR m.family = ?2) AND (?3 IS NULL OR m.registered = ?3)
             ORDER BY m.id DESC LIMIT ?4"
        );
        let rows: Vec<ModelRow> = sqlx::query_as(sqlx::AssertSqlSafe(sql))
            .bind(page.after.map(|id| id.to_string()))
            .bind(family)
            .bind(name.map(ModelName::as_str))
            .bind(i64::from(page.limit) + 1)
            .fetch_all(&self.readers)
            .await?;
        Ok(Paged::from_one_more(rows.into_iter().map(|row| row.0).collect::<Result<_, _>>()?, page.limit))
    }

    /// Every model and the bytes of its file, the oldest first.
    ///
    /// # Errors
    /// The database failed.
    pub async fn model_sizes(&self) -> Result<Vec<ModelSize>, StoreError> {
        let sql = "SELECT m.id, m.registered, m.version, a.bytes FROM models m JOIN artifacts a ON a.id = m.artifact_id
            WHERE m.deleted_at IS NULL ORDER BY m.id";
        let rows: Vec<(String, Option<String>, Option<i64>, i64)> =
            sqlx::query_as(sql).fetch_all(&self.readers).await?;
        let read = |(id, name, version, bytes): (String, Option<String>, Option<i64>, i64)| {
            let registered = name.zip(version).map(registered).transpose()?;
            Ok(ModelSize { id: parse(&id)?, registered, bytes: bytes as u64 })
        };
        rows.into_iter().map(read).collect()
    }

    /// The versions of a name, the oldest first.
    ///
    /// # Errors
    /// The database failed.
    pub async fn versions_of(&self, name: &ModelName) -> Result<Vec<u32>, StoreError> {
        let sql = "SELECT version FROM models WHERE registered = ? AND deleted_at IS NULL ORDER BY version";
        let versions: Vec<i64> = sqlx::query_scalar(sql).bind(name.as_str()).fetch_all(&self.readers).await?;
        Ok(versions.into_iter().map(|version| version as u32).collect())
    }

    /// Takes a model in that was trained elsewhere, and gives it the next version of a name where one is asked for.
    ///
    /// # Errors
    /// The disk or the database failed.
    pub async fn import_model(&self, new: &ImportedModel<'_>) -> Result<Arc<Model>, StoreError> {
        let mut tx = self.begin().await?;
        let artifact = artifacts::insert_file(&mut tx, new.file, new.sha256).await?;
        let version = match new.register {
            Some(name) => Some(registry::next_version(&mut tx, name).await?),
            None => None,
        };
        let id = ModelId::new();
        let family = new.spec.model.family();
        sqlx::query("INSERT INTO models (id, name, family, spec, schema, metrics, artifact_id, created_at, registered, version) VALUES (?, ?, ?, ?, ?, '{}', ?, ?, ?, ?)")
            .bind(id.to_string())
            .bind(new.spec.name.as_deref().unwrap_or(family))
            .bind(family)
            .bind(to_json(new.spec))
            .bind(to_json(new.schema))
            .bind(artifact.to_string())
            .bind(now_ms())
            .bind(new.register.map(ModelName::as_str))
            .bind(version)
            .execute(&mut *tx)
            .await?;
        tx.commit().await?;
        self.model(id).await
    }

    /// Deletes a model and its bytes. Its job stays, and its version is not given again.
    ///
    /// # Errors
    /// There is none of this id, a job that has not ended asks it, or an alias points to it and is not to be taken away (`force`).
    pub async fn delete_model(&self, id: ModelId, force: bool) -> Result<(), StoreError> {
        let mut tx = self.begin().await?;
        let artifact: Option<String> =
            sqlx::query_scalar("SELECT artifact_id FROM models WHERE id = ? AND deleted_at IS NULL")
                .bind(id.to_string())
                .fetch_optional(&mut *tx)
                .await?;
        let artifact = artifact.ok_or_else(|| gone("model", id))?;
        let users: i64 = sqlx::query_scalar(
            "SELECT count(*) FROM jobs WHERE asked_model_id = ? AND status IN ('queued', 'running', 'paused', 'cancelling')",
        )
        .bind(id.to_string())
        .fetch_one(&mut *tx)
        .await?;
        if users > 0 {
            let detail = format!("the model {id} is asked by {users} job(s) that have not ended; cancel them or wait");
            return Err(refused(Code::ModelInUse, detail));
        }
        registry::release(&mut tx, id, force).await?;
        sqlx::query("UPDATE models SET deleted_at = ?, artifact_id = NULL WHERE id = ?")
            .bind(now_ms())
            .bind(id.to_string())
            .execute(&mut *tx)
            .await?;
        artifacts::delete(&mut tx, &artifact).await?;
        tx.commit().await?;
        self.forget_row(id);
        self.give_back_room().await;
        Ok(())
    }

    /// Reads the row of a model again at its next use.
    pub(super) fn forget_row(&self, id: ModelId) {
        let mut recent = self.models.rows();
        recent.changes += 1;
        recent.rows.pop(&id);
    }
}
