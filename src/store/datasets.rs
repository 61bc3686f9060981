//! The table of datasets.

use std::path::Path;

use sqlx::{FromRow, Row};

use super::{Page, Paged, Store, StoreError, from_json, gone, now_ms, parse, refused, to_json};
use crate::data::dataset::Schema;
use crate::data::{Format, Ingested};
use crate::domain::id::DatasetId;
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
}

const COLUMNS: &str = "SELECT id, name, format, rows, bytes, schema, created_at FROM datasets WHERE deleted_at IS NULL";

struct DatasetRow(Result<Dataset, StoreError>);

impl FromRow<'_, sqlx::sqlite::SqliteRow> for DatasetRow {
    fn from_row(row: &sqlx::sqlite::SqliteRow) -> Result<Self, sqlx::Error> {
        let (id, format, schema): (String, String, String) =
            (row.try_get("id")?, row.try_get("format")?, row.try_get("schema")?);
        let (rows, bytes): (i64, i64) = (row.try_get("rows")?, row.try_get("bytes")?);
        let (name, created_at) = (row.try_get("name")?, row.try_get("created_at")?);
        let read = || {
            let format = Format::parse(&format).map_err(StoreError::Damaged)?;
            Ok(Dataset {
                id: parse(&id)?,
                name,
                format,
                rows: rows as u64,
                bytes: bytes as u64,
                schema: from_json(&schema)?,
                created_at,
            })
        };
        Ok(Self(read()))
    }
}

impl Store {
    /// Takes a dataset in: moves its rows into place, then commits.
    ///
    /// # Errors
    /// The disk or the database failed; nothing is left behind then, or is removed at the next start.
    pub async fn insert_dataset(&self, name: &str, ingested: &Ingested, rows: &Path) -> Result<Dataset, StoreError> {
        let dataset = Dataset {
            id: DatasetId::new(),
            name: name.to_owned(),
            format: ingested.format,
            rows: ingested.rows,
            bytes: ingested.bytes,
            schema: ingested.schema.clone(),
            created_at: now_ms(),
        };
        self.place_rows(dataset.id, rows)?;
        let inserted = sqlx::query(
            "INSERT INTO datasets (id, name, format, rows, bytes, schema, created_at) VALUES (?, ?, ?, ?, ?, ?, ?)",
        )
        .bind(dataset.id.to_string())
        .bind(name)
        .bind(
            serde_json::to_value(dataset.format)
                .expect("a format is JSON")
                .as_str()
                .expect("a format is a name")
                .to_owned(),
        )
        .bind(dataset.rows as i64)
        .bind(dataset.bytes as i64)
        .bind(to_json(&dataset.schema))
        .bind(dataset.created_at)
        .execute(&self.writer)
        .await;
        if let Err(error) = inserted {
            let _ = self.remove_rows(dataset.id);
            return Err(error.into());
        }
        Ok(dataset)
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
        row.ok_or_else(|| gone("dataset", id))?.0
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
        Ok(Paged::from_one_more(rows.into_iter().map(|row| row.0).collect::<Result<_, _>>()?, page.limit))
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
            "SELECT count(*) FROM jobs WHERE dataset_id = ? AND status IN ('queued', 'running', 'cancelling')",
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
