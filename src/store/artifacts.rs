//! Bytes of models and checkpoints, in pieces, with their checksum.

use std::path::Path;

use sha2::{Digest, Sha256};
use sqlx::SqliteConnection;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{Store, StoreError, now_ms};
use crate::domain::id::ArtifactId;

const CHUNK_BYTES: usize = 1 << 20;

/// Writes bytes within the caller's transaction.
pub(super) async fn insert(tx: &mut SqliteConnection, data: &[u8]) -> Result<ArtifactId, StoreError> {
    let id = ArtifactId::new();
    sqlx::query("INSERT INTO artifacts (id, bytes, sha256, created_at) VALUES (?, ?, ?, ?)")
        .bind(id.to_string())
        .bind(data.len() as i64)
        .bind(checksum(data))
        .bind(now_ms())
        .execute(&mut *tx)
        .await?;
    for (position, chunk) in data.chunks(CHUNK_BYTES).enumerate() {
        sqlx::query("INSERT INTO artifact_chunks (artifact_id, position, data) VALUES (?, ?, ?)")
            .bind(id.to_string())
            .bind(position as i64)
            .bind(chunk)
            .execute(&mut *tx)
            .await?;
    }
    Ok(id)
}

/// Writes a file of that checksum within the caller's transaction, piece by piece.
pub(super) async fn insert_file(
    tx: &mut SqliteConnection,
    path: &Path,
    sha256: &str,
) -> Result<ArtifactId, StoreError> {
    let mut file = tokio::fs::File::open(path).await?;
    let id = ArtifactId::new();
    sqlx::query("INSERT INTO artifacts (id, bytes, sha256, created_at) VALUES (?, ?, ?, ?)")
        .bind(id.to_string())
        .bind(file.metadata().await?.len() as i64)
        .bind(sha256)
        .bind(now_ms())
        .execute(&mut *tx)
        .await?;
    for position in 0_i64.. {
        let mut chunk = Vec::with_capacity(CHUNK_BYTES);
        (&mut file).take(CHUNK_BYTES as u64).read_to_end(&mut chunk).await?;
        if chunk.is_empty() {
            break;
        }
        sqlx::query("INSERT INTO artifact_chunks (artifact_id, position, data) VALUES (?, ?, ?)")
            .bind(id.to_string())
            .bind(position)
            .bind(chunk)
            .execute(&mut *tx)
            .await?;
    }
    Ok(id)
}

/// Removes bytes within the caller's transaction, unless a checkpoint of another job still needs them.
pub(super) async fn delete(tx: &mut SqliteConnection, id: &str) -> Result<(), StoreError> {
    sqlx::query(
        "DELETE FROM artifacts WHERE id = ?1 AND NOT EXISTS (SELECT 1 FROM checkpoints WHERE artifact_id = ?1)",
    )
    .bind(id)
    .execute(tx)
    .await?;
    Ok(())
}

/// The checksum of bytes, in hexadecimal.
pub fn checksum(data: &[u8]) -> String {
    hexadecimal(&Sha256::digest(data))
}

/// Bytes as text.
pub fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

impl Store {
    /// How many bytes there are, and their checksum.
    ///
    /// # Errors
    /// They are not there.
    pub async fn artifact_facts(&self, id: ArtifactId) -> Result<(u64, String), StoreError> {
        let (bytes, sha256): (i64, String) = sqlx::query_as("SELECT bytes, sha256 FROM artifacts WHERE id = ?")
            .bind(id.to_string())
            .fetch_optional(&self.readers)
            .await?
            .ok_or_else(|| StoreError::Damaged(format!("the artifact {id} is missing")))?;
        Ok((bytes as u64, sha256))
    }

    /// The first bytes, at least as many as `least` where there are so many. They are not checked.
    ///
    /// # Errors
    /// They cannot be read.
    pub async fn artifact_start(&self, id: ArtifactId, least: usize) -> Result<Vec<u8>, StoreError> {
        let chunks: Vec<Vec<u8>> = sqlx::query_scalar(
            "SELECT data FROM artifact_chunks WHERE artifact_id = ? AND position < ? ORDER BY position",
        )
        .bind(id.to_string())
        .bind(least.div_ceil(CHUNK_BYTES) as i64)
        .fetch_all(&self.readers)
        .await?;
        Ok(chunks.concat())
    }

    /// Writes bytes to a new file, piece by piece, and checks them.
    ///
    /// # Errors
    /// They are not there, or not what was written, or the file cannot be made.
    pub async fn artifact_to(&self, id: ArtifactId, path: &Path) -> Result<(), StoreError> {
        let (bytes, sha256) = self.artifact_facts(id).await?;
        let mut file = tokio::fs::File::create_new(path).await?;
        let (mut digest, mut count) = (Sha256::new(), 0);
        for position in 0_i64.. {
            let chunk: Option<Vec<u8>> =
                sqlx::query_scalar("SELECT data FROM artifact_chunks WHERE artifact_id = ? AND position = ?")
                    .bind(id.to_string())
                    .bind(position)
                    .fetch_optional(&self.readers)
                    .await?;
            let Some(chunk) = chunk else { break };
            digest.update(&chunk);
            count += chunk.len() as u64;
            file.write_all(&chunk).await?;
        }
        file.flush().await?;
        if count != bytes || hexadecimal(&digest.finalize()) != sha256 {
            return Err(StoreError::Damaged(format!(
                "the artifact {id} does not have the checksum it was written with"
            )));
        }
        Ok(())
    }

    /// Reads bytes and checks them.
    ///
    /// # Errors
    /// They are not there, or not what was written.
    pub async fn artifact(&self, id: ArtifactId) -> Result<Vec<u8>, StoreError> {
        let (bytes, sha256): (i64, String) = sqlx::query_as("SELECT bytes, sha256 FROM artifacts WHERE id = ?")
            .bind(id.to_string())
            .fetch_optional(&self.readers)
            .await?
            .ok_or_else(|| StoreError::Damaged(format!("the artifact {id} is missing")))?;
        let chunks: Vec<Vec<u8>> =
            sqlx::query_scalar("SELECT data FROM artifact_chunks WHERE artifact_id = ? ORDER BY position")
                .bind(id.to_string())
                .fetch_all(&self.readers)
                .await?;
        // A checksum of many bytes takes a while, in which this thread has others to serve.
        let checked = tokio::task::spawn_blocking(move || {
            let data = chunks.concat();
            let is_sound = data.len() as i64 == bytes && checksum(&data) == sha256;
            is_sound.then_some(data)
        });
        let Some(data) = checked.await.map_err(std::io::Error::other)? else {
            return Err(StoreError::Damaged(format!(
                "the artifact {id} does not have the checksum it was written with"
            )));
        };
        Ok(data)
    }
}
