//! The table of uploads in several requests, and their files.
//!
//! The table says how many bytes count, and a file may hold more: bytes are written, synced, and only then counted. So what
//! was acknowledged is on the disk whatever happens, and what was not is cut off before more is written. Start reading with
//! [`UploadWriter`].

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{self, SeekFrom};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use sqlx::{FromRow, Row};
use tokio::io::{AsyncSeekExt, AsyncWriteExt};

use super::{Store, StoreError, gone, now_ms, parse, refused};
use crate::domain::id::UploadId;
use crate::domain::limits::{UPLOAD_HOURS, UPLOADS, UPLOADS_BYTES};
use crate::domain::refusal::Code;

const HOUR_MS: i64 = 3_600_000;

/// An upload in several requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upload {
    /// Its id.
    pub id: UploadId,
    /// Bytes of the whole, as they were announced.
    pub bytes: u64,
    /// Bytes that are on the disk.
    pub received: u64,
    /// What was said of the file when it was begun, as it came.
    pub metadata: String,
    /// When it was begun.
    pub created_at: i64,
    /// When it is removed if nothing more comes.
    pub expires_at: i64,
}

impl Upload {
    /// Whether nothing is missing.
    pub fn is_complete(&self) -> bool {
        self.received == self.bytes
    }
}

struct UploadRow(Result<Upload, StoreError>);

impl FromRow<'_, sqlx::sqlite::SqliteRow> for UploadRow {
    fn from_row(row: &sqlx::sqlite::SqliteRow) -> Result<Self, sqlx::Error> {
        let (id, metadata): (String, String) = (row.try_get("id")?, row.try_get("metadata")?);
        let (bytes, received): (i64, i64) = (row.try_get("bytes")?, row.try_get("received")?);
        let (created_at, expires_at) = (row.try_get("created_at")?, row.try_get("expires_at")?);
        let (bytes, received) = (bytes as u64, received as u64);
        Ok(Self(parse(&id).map(|id| Upload { id, bytes, received, metadata, created_at, expires_at })))
    }
}

/// The uploads that a request is writing to or reading from.
pub(super) type Claims = Arc<Mutex<HashSet<UploadId>>>;

/// The right to write to an upload, to read it or to remove it, which one request has at a time. Given back when dropped.
#[derive(Debug)]
pub struct UploadClaim {
    id: UploadId,
    claims: Claims,
}

impl Drop for UploadClaim {
    fn drop(&mut self) {
        self.claims.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.id);
    }
}

impl Store {
    /// Begins an upload.
    ///
    /// # Errors
    /// There are too many, or they announce too many bytes, or the disk has no room for this one.
    pub async fn create_upload(&self, bytes: u64, metadata: &str) -> Result<Upload, StoreError> {
        if self.free_bytes().is_some_and(|free| free < bytes) {
            let detail = format!("the server's disk has no room for {bytes} bytes");
            return Err(refused(Code::StorageFull, detail));
        }
        let mut tx = self.begin().await?;
        let (count, announced): (i64, i64) =
            sqlx::query_as("SELECT count(*), coalesce(sum(bytes), 0) FROM uploads").fetch_one(&mut *tx).await?;
        if count as u64 >= UPLOADS || (announced as u64).saturating_add(bytes) > UPLOADS_BYTES {
            let detail = format!(
                "{count} uploads of {announced} bytes wait for their end; finish or delete some (at most {UPLOADS} of {UPLOADS_BYTES} bytes)"
            );
            return Err(refused(Code::Overloaded, detail));
        }
        let now = now_ms();
        let (id, metadata) = (UploadId::new(), metadata.to_owned());
        let upload =
            Upload { id, bytes, received: 0, metadata, created_at: now, expires_at: now + UPLOAD_HOURS * HOUR_MS };
        // The file comes first: a file without a row is removed at the next start.
        File::create_new(self.upload_path(id))?.sync_all()?;
        File::open(self.uploads_directory())?.sync_all()?;
        sqlx::query("INSERT INTO uploads (id, bytes, metadata, created_at, expires_at) VALUES (?, ?, ?, ?, ?)")
            .bind(id.to_string())
            .bind(bytes as i64)
            .bind(&upload.metadata)
            .bind(upload.created_at)
            .bind(upload.expires_at)
            .execute(&mut *tx)
            .await?;
        tx.commit().await?;
        Ok(upload)
    }

    /// One upload.
    ///
    /// # Errors
    /// There is none of this id, or its time is over.
    pub async fn upload(&self, id: UploadId) -> Result<Upload, StoreError> {
        let row: Option<UploadRow> = sqlx::query_as("SELECT * FROM uploads WHERE id = ? AND expires_at > ?")
            .bind(id.to_string())
            .bind(now_ms())
            .fetch_optional(&self.readers)
            .await?;
        row.ok_or_else(|| gone("upload", id))?.0
    }

    /// Every upload, the oldest first. There are at most [`UPLOADS`].
    ///
    /// # Errors
    /// The database failed.
    pub async fn uploads(&self) -> Result<Vec<Upload>, StoreError> {
        let rows: Vec<UploadRow> = sqlx::query_as("SELECT * FROM uploads ORDER BY id").fetch_all(&self.readers).await?;
        rows.into_iter().map(|row| row.0).collect()
    }

    /// Takes the right to write, read or remove.
    ///
    /// # Errors
    /// Another request has it.
    pub fn claim_upload(&self, id: UploadId) -> Result<UploadClaim, StoreError> {
        if self.claims.lock().unwrap_or_else(PoisonError::into_inner).insert(id) {
            return Ok(UploadClaim { id, claims: Arc::clone(&self.claims) });
        }
        Err(refused(Code::UploadBusy, format!("another request works on the upload {id}")))
    }

    /// Removes an upload, its row before its file.
    ///
    /// # Errors
    /// There is none of this id.
    pub async fn delete_upload(&self, claim: &UploadClaim) -> Result<(), StoreError> {
        let deleted =
            sqlx::query("DELETE FROM uploads WHERE id = ?").bind(claim.id.to_string()).execute(&self.writer).await?;
        if deleted.rows_affected() == 0 {
            return Err(gone("upload", claim.id));
        }
        Ok(remove_if_there(&self.upload_path(claim.id))?)
    }

    /// Removes the uploads whose time is over, but not one that is at work. Answers how many.
    ///
    /// # Errors
    /// The disk or the database failed.
    pub async fn remove_expired_uploads(&self) -> Result<usize, StoreError> {
        let ids: Vec<String> = sqlx::query_scalar("SELECT id FROM uploads WHERE expires_at <= ?")
            .bind(now_ms())
            .fetch_all(&self.readers)
            .await?;
        let mut removed = 0;
        for id in ids {
            let Ok(claim) = self.claim_upload(parse(&id)?) else { continue };
            self.delete_upload(&claim).await?;
            tracing::info!(upload.id = id, "Upload {id} was never finished and is removed");
            removed += 1;
        }
        Ok(removed)
    }

    /// Makes files and table agree after a start.
    pub(super) async fn settle_uploads(&self) -> Result<(), StoreError> {
        self.remove_expired_uploads().await?;
        let uploads = self.uploads().await?;
        let known: HashSet<String> = uploads.iter().map(|upload| upload.id.to_string()).collect();
        for entry in fs::read_dir(self.uploads_directory())? {
            let entry = entry?;
            if !known.contains(entry.file_name().to_string_lossy().as_ref()) {
                fs::remove_file(entry.path())?;
            }
        }
        for upload in uploads {
            let file = File::options().create(true).append(true).open(self.upload_path(upload.id))?;
            let held = file.metadata()?.len();
            if held < upload.received {
                tracing::warn!(upload.id = %upload.id, "Upload {} lost bytes that were counted; it goes on from {held}", upload.id);
                sqlx::query("UPDATE uploads SET received = ? WHERE id = ?")
                    .bind(held as i64)
                    .bind(upload.id.to_string())
                    .execute(&self.writer)
                    .await?;
            }
        }
        Ok(())
    }

    /// Where the bytes of an upload are.
    pub fn upload_path(&self, id: UploadId) -> PathBuf {
        self.uploads_directory().join(id.to_string())
    }
}

fn remove_if_there(path: &std::path::Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Goes on with an upload.
pub struct UploadWriter {
    store: Store,
    upload: Upload,
    file: tokio::fs::File,
    /// Bytes that were written and are not counted yet.
    pending: u64,
    _claim: UploadClaim,
}

impl UploadWriter {
    /// Opens an upload behind what counts of it.
    ///
    /// # Errors
    /// There is none of this id, or another request has it.
    pub async fn open(store: &Store, id: UploadId) -> Result<Self, StoreError> {
        let claim = store.claim_upload(id)?;
        // Asked for after the claim: until then another request may have counted more.
        let upload = store.upload(id).await?;
        let file = tokio::fs::File::options().write(true).open(store.upload_path(id)).await?;
        let mut writer = Self { store: store.clone(), upload, file, pending: 0, _claim: claim };
        writer.discard().await?;
        Ok(writer)
    }

    /// The upload, as it counts.
    pub fn upload(&self) -> &Upload {
        &self.upload
    }

    /// Bytes that were written and are not counted yet.
    pub fn pending(&self) -> u64 {
        self.pending
    }

    /// Writes bytes behind the others.
    ///
    /// # Errors
    /// The disk failed, or there are more than were announced.
    pub async fn write(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        let (id, announced) = (self.upload.id, self.upload.bytes);
        if self.upload.received + self.pending + bytes.len() as u64 > announced {
            let detail = format!("the upload {id} was announced with {announced} bytes, and these are more");
            return Err(refused(Code::TooLarge, detail));
        }
        self.file.write_all(bytes).await?;
        self.pending += bytes.len() as u64;
        Ok(())
    }

    /// Syncs what was written, then counts it.
    ///
    /// # Errors
    /// The disk or the database failed: nothing more counts than before.
    pub async fn acknowledge(&mut self) -> Result<(), StoreError> {
        self.file.flush().await?;
        self.file.sync_all().await?;
        let (received, expires_at) = (self.upload.received + self.pending, now_ms() + UPLOAD_HOURS * HOUR_MS);
        let counted = sqlx::query("UPDATE uploads SET received = ?, expires_at = ? WHERE id = ? AND received = ?")
            .bind(received as i64)
            .bind(expires_at)
            .bind(self.upload.id.to_string())
            .bind(self.upload.received as i64)
            .execute(&self.store.writer)
            .await?;
        if counted.rows_affected() == 0 {
            return Err(gone("upload", self.upload.id));
        }
        (self.upload.received, self.upload.expires_at, self.pending) = (received, expires_at, 0);
        Ok(())
    }

    /// Drops what was written and does not count.
    ///
    /// # Errors
    /// The disk failed. The bytes do not count in any case.
    pub async fn discard(&mut self) -> Result<(), StoreError> {
        self.file.flush().await?;
        self.file.set_len(self.upload.received).await?;
        self.file.seek(SeekFrom::Start(self.upload.received)).await?;
        self.pending = 0;
        Ok(())
    }
}
