//! The table of datasets.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use sqlx::{FromRow, Row, SqliteExecutor};

use super::artifacts::checksum;
use super::{Page, Paged, Store, StoreError, from_json, gone, now_ms, parse, refused, to_json};
use crate::data::dataset::Schema;
use crate::data::{Format, Ingested};
use crate::domain::id::{DatasetId, JobId};
use crate::domain::refusal::Code;

/// A dataset.
#[derive(Clone, Debug)]
pub struct Dataset {
    /// Its id.
    pub id: DatasetId,
    /// What a person called it.
    pub name: String,
    /// The format it came in.
    pub format: Format,
    /// Number of rows.
    pub rows: u64,
    /// Bytes of its canonical rows.
    pub bytes: u64,
    /// Its columns.
    pub schema: Schema,
    /// When it was uploaded.
    pub created_at: i64,
    /// SHA-256 of the file it came from, or of the one that was added last; datasets of earlier versions have none.
    pub sha256: Option<String>,
    /// Bytes that go back to the disk when it is deleted: none while another dataset shares its rows.
    pub stored_bytes: u64,
    /// 1, and one more each time rows are added.
    pub version: u32,
    /// The dataset that rows were added to.
    pub parent: Option<DatasetId>,
    /// The first one of its chain; absent for that one itself.
    pub root: Option<DatasetId>,
    /// The job of inference that made it.
    pub job: Option<JobId>,
}

/// Where the rows of a dataset come from.
#[derive(Clone, Debug, Default)]
pub struct Origin {
    /// SHA-256 of the file, in hexadecimal.
    pub sha256: Option<String>,
    /// A digest of the parameters the file was read with. Absent where the rows are not those of the file alone.
    pub reading: Option<String>,
    /// The dataset that the file was added to.
    pub parent: Option<DatasetId>,
    /// The version it makes.
    pub version: u32,
    /// The first one of the chain.
    pub root: Option<DatasetId>,
    /// The job of inference that made the rows.
    pub job: Option<JobId>,
}

const COLUMNS: &str = "SELECT id, name, format, rows, bytes, schema, created_at, sha256, version, parent_id, root_id, job_id FROM datasets WHERE deleted_at IS NULL";

struct DatasetRow(Result<Dataset, StoreError>);

impl FromRow<'_, sqlx::sqlite::SqliteRow> for DatasetRow {
    fn from_row(row: &sqlx::sqlite::SqliteRow) -> Result<Self, sqlx::Error> {
        let (id, format, schema): (String, String, String) =
            (row.try_get("id")?, row.try_get("format")?, row.try_get("schema")?);
        let (rows, bytes): (i64, i64) = (row.try_get("rows")?, row.try_get("bytes")?);
        let (name, created_at) = (row.try_get("name")?, row.try_get("created_at")?);
        let (sha256, version): (Option<String>, i64) = (row.try_get("sha256")?, row.try_get("version")?);
        let (parent, root): (Option<String>, Option<String>) = (row.try_get("parent_id")?, row.try_get("root_id")?);
        let job: Option<String> = row.try_get("job_id")?;
        let read = || {
            let format = Format::stored(&format).map_err(StoreError::Damaged)?;
            Ok(Dataset {
                id: parse(&id)?,
                name,
                format,
                rows: rows as u64,
                bytes: bytes as u64,
                schema: from_json(&schema)?,
                created_at,
                sha256,
                // The disk knows: see `Store::measured`.
                stored_bytes: 0,
                version: version as u32,
                parent: parent.as_deref().map(parse).transpose()?,
                root: root.as_deref().map(parse).transpose()?,
                job: job.as_deref().map(parse).transpose()?,
            })
        };
        Ok(Self(read()))
    }
}

impl Dataset {
    /// A dataset that is not in the database yet.
    pub(super) fn new(name: &str, ingested: &Ingested, origin: &Origin) -> Self {
        Self {
            id: DatasetId::new(),
            name: name.to_owned(),
            format: ingested.format,
            rows: ingested.rows,
            bytes: ingested.bytes,
            schema: ingested.schema.clone(),
            created_at: now_ms(),
            sha256: origin.sha256.clone(),
            stored_bytes: 0,
            version: origin.version.max(1),
            parent: origin.parent,
            root: origin.root,
            job: origin.job,
        }
    }
}

/// Writes the row of a dataset whose rows are in their place.
pub(super) async fn insert_row(
    executor: impl SqliteExecutor<'_>,
    dataset: &Dataset,
    origin: &Origin,
) -> Result<(), StoreError> {
    let schema = to_json(&dataset.schema);
    sqlx::query(
        "INSERT INTO datasets (id, name, format, rows, bytes, schema, created_at, sha256, reading, found, version, parent_id, root_id, job_id)
         VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
    )
    .bind(dataset.id.to_string())
    .bind(&dataset.name)
    .bind(
        serde_json::to_value(dataset.format)
            .expect("a format is JSON")
            .as_str()
            .expect("a format is a name")
            .to_owned(),
    )
    .bind(dataset.rows as i64)
    .bind(dataset.bytes as i64)
    .bind(&schema)
    .bind(dataset.created_at)
    .bind(&origin.sha256)
    .bind(&origin.reading)
    .bind(checksum(schema.as_bytes()))
    .bind(i64::from(dataset.version))
    .bind(dataset.parent.map(|id| id.to_string()))
    .bind(dataset.root.map(|id| id.to_string()))
    .bind(dataset.job.map(|id| id.to_string()))
    .execute(executor)
    .await?;
    Ok(())
}

impl Store {
    /// Takes a dataset in: moves its rows into place, then commits.
    ///
    /// # Errors
    /// The disk or the database failed; nothing is left behind then, or is removed at the next start.
    pub async fn insert_dataset(
        &self,
        name: &str,
        ingested: &Ingested,
        rows: &Path,
        origin: &Origin,
    ) -> Result<Dataset, StoreError> {
        let dataset = Dataset::new(name, ingested, origin);
        self.place_rows(dataset.id, rows)?;
        if let Err(error) = insert_row(&self.writer, &dataset, origin).await {
            let _ = self.remove_rows(dataset.id);
            return Err(error);
        }
        Ok(self.measured(dataset))
    }

    /// Links the rows of a dataset that came from the same file, read in the same way, to `rows`. Answers what was found in
    /// the file then.
    ///
    /// # Errors
    /// The database failed. A dataset whose rows cannot be linked is passed over.
    pub async fn link_twin(&self, origin: &Origin, rows: &Path) -> Result<Option<Ingested>, StoreError> {
        let twins: Vec<(String, String)> = sqlx::query_as(
            "SELECT id, found FROM datasets WHERE sha256 = ? AND reading = ? AND deleted_at IS NULL ORDER BY id",
        )
        .bind(&origin.sha256)
        .bind(&origin.reading)
        .fetch_all(&self.readers)
        .await?;
        for (id, found) in twins {
            // Another request may delete it at any time: then there is nothing to link.
            let Ok(twin) = self.dataset(parse(&id)?).await else { continue };
            let path = self.rows_path(twin.id);
            let is_as_found = checksum(to_json(&twin.schema).as_bytes()) == found;
            let is_whole = fs::metadata(&path).is_ok_and(|metadata| metadata.len() == twin.bytes);
            if is_as_found && is_whole && fs::hard_link(&path, rows).is_ok() {
                let Dataset { format, rows, schema, bytes, .. } = twin;
                return Ok(Some(Ingested { format, rows, schema, bytes }));
            }
        }
        Ok(None)
    }

    /// A dataset with what the disk knows of it.
    fn measured(&self, dataset: Dataset) -> Dataset {
        let stored_bytes = match fs::metadata(self.rows_path(dataset.id)) {
            Ok(metadata) if metadata.nlink() == 1 => metadata.len(),
            _ => 0,
        };
        Dataset { stored_bytes, ..dataset }
    }

    /// One dataset.
    ///
    /// # Errors
    /// There is none of this id.
    pub async fn dataset(&self, id: DatasetId) -> Result<Dataset, StoreError> {
        let row: Option<DatasetRow> = sqlx::query_as(sqlx::AssertSqlSafe(format!("{COLUMNS} AND id = ?")))
            .bind(id.to_string())
            .fetch_optional(&self.readers)
            .await?;
        row.ok_or_else(|| gone("dataset", id))?.0.map(|dataset| self.measured(dataset))
    }

    /// One dataset, even where it was deleted, and whether it was.
    ///
    /// # Errors
    /// There never was one of this id.
    pub async fn dataset_that_was(&self, id: DatasetId) -> Result<(Dataset, bool), StoreError> {
        let sql = COLUMNS.replace("WHERE deleted_at IS NULL", "WHERE id = ?");
        let row: Option<DatasetRow> =
            sqlx::query_as(sqlx::AssertSqlSafe(sql)).bind(id.to_string()).fetch_optional(&self.readers).await?;
        let dataset = row.ok_or_else(|| gone("dataset", id))?.0?;
        let is_deleted = match self.dataset(id).await {
            Ok(_) => false,
            Err(StoreError::Refused(_)) => true,
            Err(other) => return Err(other),
        };
        Ok((dataset, is_deleted))
    }

    /// Datasets, the newest first.
    ///
    /// # Errors
    /// The database failed.
    pub async fn datasets(&self, page: &Page<DatasetId>) -> Result<Paged<Dataset>, StoreError> {
        let rows: Vec<DatasetRow> = sqlx::query_as(sqlx::AssertSqlSafe(format!(
            "{COLUMNS} AND (?1 IS NULL OR id < ?1) ORDER BY id DESC LIMIT ?2"
        )))
        .bind(page.after.map(|id| id.to_string()))
        .bind(i64::from(page.limit) + 1)
        .fetch_all(&self.readers)
        .await?;
        let datasets = rows.into_iter().map(|row| row.0.map(|dataset| self.measured(dataset)));
        Ok(Paged::from_one_more(datasets.collect::<Result<_, _>>()?, page.limit))
    }

    /// The datasets of one chain of versions, the newest first.
    ///
    /// # Errors
    /// The database failed.
    pub async fn versions(&self, root: DatasetId, page: &Page<DatasetId>) -> Result<Paged<Dataset>, StoreError> {
        let rows: Vec<DatasetRow> = sqlx::query_as(sqlx::AssertSqlSafe(format!(
            "{COLUMNS} AND (id = ?1 OR root_id = ?1) AND (?2 IS NULL OR id < ?2) ORDER BY id DESC LIMIT ?3"
        )))
        .bind(root.to_string())
        .bind(page.after.map(|id| id.to_string()))
        .bind(i64::from(page.limit) + 1)
        .fetch_all(&self.readers)
        .await?;
        let datasets = rows.into_iter().map(|row| row.0.map(|dataset| self.measured(dataset)));
        Ok(Paged::from_one_more(datasets.collect::<Result<_, _>>()?, page.limit))
    }

    /// Gives a dataset another name, where one is given, and another schema.
    ///
    /// # Errors
    /// There is none of this id.
    pub async fn change_dataset(
        &self,
        id: DatasetId,
        name: Option<&str>,
        schema: &Schema,
    ) -> Result<Dataset, StoreError> {
        let changed =
            sqlx::query("UPDATE datasets SET name = coalesce(?, name), schema = ? WHERE id = ? AND deleted_at IS NULL")
                .bind(name)
                .bind(to_json(schema))
                .bind(id.to_string())
                .execute(&self.writer)
                .await?;
        if changed.rows_affected() == 0 {
            return Err(gone("dataset", id));
        }
        self.dataset(id).await
    }

    /// Deletes a dataset and its rows.
    ///
    /// # Errors
    /// There is none of this id, or a job that has not ended uses it.
    pub async fn delete_dataset(&self, id: DatasetId) -> Result<(), StoreError> {
        let mut tx = self.begin().await?;
        let users: i64 = sqlx::query_scalar(
            "SELECT count(*) FROM jobs WHERE dataset_id = ? AND status IN ('queued', 'running', 'paused', 'cancelling')",
        )
        .bind(id.to_string())
        .fetch_one(&mut *tx)
        .await?;
        if users > 0 {
            return Err(refused(
                Code::DatasetInUse,
                format!("the dataset {id} is used by {users} job(s) that have not ended; cancel them or wait"),
            ));
        }
        let deleted = sqlx::query("UPDATE datasets SET deleted_at = ? WHERE id = ? AND deleted_at IS NULL")
            .bind(now_ms())
            .bind(id.to_string())
            .execute(&mut *tx)
            .await?;
        if deleted.rows_affected() == 0 {
            return Err(gone("dataset", id));
        }
        tx.commit().await?;
        // The rows go after the commit: a crash in between leaves files without a row, which the next start removes.
        Ok(self.remove_rows(id)?)
    }
}
