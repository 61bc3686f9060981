//! The only SQL and the only lasting files.
//!
//! SQLite in WAL mode with full synchronisation: what is acknowledged is on the disk. One connection writes, and begins
//! every transaction as a writer; a pool of others reads. (Read-then-write on a shared pool makes writers wait for each other
//! and fail.) The rows of datasets are files, written aside, synced, renamed into place, and only then committed.
//!
//! Start reading with [`Store::open`]; each table is a file, and each function is named for the question it answers.

pub mod artifacts;
pub mod checkpoints;
pub mod datasets;
pub mod events;
pub mod files;
pub mod inference;
pub mod jobs;
pub mod life;
pub mod logs;
pub mod metrics;
pub mod models;
pub mod phases;
pub mod registry;
pub mod splits;
pub mod sweeps;
pub mod uploads;
pub mod usage;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use sqlx::sqlite::{
    SqliteAutoVacuum, SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous,
};
use sqlx::{Connection, Sqlite, SqliteConnection, Transaction};

use crate::domain::refusal::{Code, Refusal};

const DATABASE: &str = "latente.db";
const READERS: u32 = 8;
/// Fewer deleted bytes wait for new ones to take their place.
const WORTHWHILE_BYTES: i64 = 1 << 20;
const BUSY_TIMEOUT: Duration = Duration::from_secs(10);

static MIGRATIONS: sqlx::migrate::Migrator = sqlx::migrate!();

/// Why the store did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The request is at fault.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The worker that asked no longer holds the job; nothing was written.
    #[error("the lease on the job is lost")]
    LeaseLost,
    /// Another process uses the data directory.
    #[error("the data directory {0} is in use by another latente process")]
    InUse(PathBuf),
    /// The database failed.
    #[error("the database failed: {0}")]
    Database(#[from] sqlx::Error),
    /// The database is of a newer program, or damaged.
    #[error("the database could not be brought up to date: {0}")]
    Migration(#[from] sqlx::migrate::MigrateError),
    /// A file could not be written or read.
    #[error("a file of the data directory failed: {0}")]
    Io(#[from] std::io::Error),
    /// What was read back is not what was written.
    #[error("stored data is damaged: {0}")]
    Damaged(String),
}

impl StoreError {
    /// Whether the disk has no room.
    pub fn is_full(&self) -> bool {
        match self {
            Self::Io(error) => {
                error.kind() == std::io::ErrorKind::StorageFull || error.kind() == std::io::ErrorKind::QuotaExceeded
            }
            // SQLITE_FULL
            Self::Database(sqlx::Error::Database(error)) => error.code().as_deref() == Some("13"),
            _ => false,
        }
    }
}

/// The database and the data directory. Cheap to clone.
#[derive(Clone)]
pub struct Store {
    writer: SqlitePool,
    readers: SqlitePool,
    directory: Arc<Path>,
    claims: uploads::Claims,
    models: models::Recent,
    /// Held while the store lives: one process per data directory.
    _lock: Arc<std::fs::File>,
}

impl Store {
    /// Opens the data directory, makes it where it is not there, and brings the database up to date.
    ///
    /// # Errors
    /// Another process has it open, or it cannot be written.
    pub async fn open(directory: &Path) -> Result<Self, StoreError> {
        std::fs::create_dir_all(directory)?;
        let lock = std::fs::File::options().create(true).truncate(false).write(true).open(directory.join("lock"))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(std::fs::TryLockError::WouldBlock) => return Err(StoreError::InUse(directory.to_owned())),
            Err(std::fs::TryLockError::Error(error)) => return Err(error.into()),
        }
        files::prepare(directory)?;
        let options = SqliteConnectOptions::new()
            .filename(directory.join(DATABASE))
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .foreign_keys(true)
            .busy_timeout(BUSY_TIMEOUT);
        // Only a new database takes this: what is deleted goes back to the disk without copying the whole file.
        let writing = options.clone().auto_vacuum(SqliteAutoVacuum::Incremental);
        migrate(&writing).await?;
        let writer = SqlitePoolOptions::new().max_connections(1).connect_with(writing).await?;
        let readers = SqlitePoolOptions::new().max_connections(READERS).connect_with(options.read_only(true)).await?;
        let store = Self {
            writer,
            readers,
            directory: directory.into(),
            claims: uploads::Claims::default(),
            models: models::Recent::default(),
            _lock: Arc::new(lock),
        };
        store.remove_orphans().await?;
        store.remove_orphaned_results().await?;
        store.settle_uploads().await?;
        Ok(store)
    }

    /// The data directory.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Whether the database answers and is sound, and how large it is.
    ///
    /// # Errors
    /// It does not answer.
    pub async fn check(&self) -> Result<(String, u64), StoreError> {
        let verdict: String = sqlx::query_scalar("PRAGMA quick_check").fetch_one(&self.readers).await?;
        let bytes = std::fs::metadata(self.directory.join(DATABASE))?.len();
        Ok((verdict, bytes))
    }

    /// Closes the database after what is under way.
    pub async fn close(&self) {
        self.readers.close().await;
        self.writer.close().await;
    }

    /// Gives the room of deleted bytes back to the disk, once it is worth a write. What fails here is done the next time.
    async fn give_back_room(&self) {
        match sqlx::query_scalar("SELECT freelist_count * page_size FROM pragma_freelist_count, pragma_page_size")
            .fetch_one(&self.readers)
            .await
        {
            Ok(WORTHWHILE_BYTES..) => {}
            Ok(_) => return,
            Err(error) => return tracing::warn!(%error, "Room could not be given back to the disk"),
        }
        // The file becomes shorter only once the log is written into it. Readers are not waited for.
        for sql in ["PRAGMA incremental_vacuum", "PRAGMA wal_checkpoint(PASSIVE)"] {
            if let Err(error) = sqlx::query(sql).execute(&self.writer).await {
                tracing::warn!(%error, "Room could not be given back to the disk");
            }
        }
    }

    async fn begin(&self) -> Result<Transaction<'static, Sqlite>, StoreError> {
        Ok(self.writer.begin_with("BEGIN IMMEDIATE").await?)
    }
}

/// Brings the tables up to date. A table that is made anew must not take the rows along that refer to it, so nothing is enforced
/// meanwhile, and everything is checked when something was changed.
async fn migrate(options: &SqliteConnectOptions) -> Result<(), StoreError> {
    let mut connection = SqliteConnection::connect_with(&options.clone().foreign_keys(false)).await?;
    let version = "PRAGMA schema_version";
    let before: i64 = sqlx::query_scalar(version).fetch_one(&mut connection).await?;
    MIGRATIONS.run(&mut connection).await?;
    let after: i64 = sqlx::query_scalar(version).fetch_one(&mut connection).await?;
    if before != after {
        let broken = sqlx::query("PRAGMA foreign_key_check").fetch_all(&mut connection).await?.len();
        if broken > 0 {
            return Err(StoreError::Damaged(format!("{broken} rows refer to others that are not there")));
        }
    }
    connection.close().await?;
    Ok(())
}

/// Milliseconds since 1970.
pub fn now_ms() -> i64 {
    chrono::Utc::now().timestamp_millis()
}

fn to_json<T: Serialize>(value: &T) -> String {
    serde_json::to_string(value).expect("domain values are JSON")
}

fn from_json<T: DeserializeOwned>(text: &str) -> Result<T, StoreError> {
    serde_json::from_str(text).map_err(|error| StoreError::Damaged(error.to_string()))
}

fn parse<T: std::str::FromStr<Err = crate::domain::id::IdError>>(text: &str) -> Result<T, StoreError> {
    text.parse().map_err(|error: crate::domain::id::IdError| StoreError::Damaged(error.to_string()))
}

/// A page of a list: at most `limit` items, older than `after`.
#[derive(Clone, Debug)]
pub struct Page<Id> {
    /// How many.
    pub limit: u32,
    /// The last id of the page before; lists go from the newest to the oldest.
    pub after: Option<Id>,
}

/// Items of a page, and whether more follow.
#[derive(Clone, Debug)]
pub struct Paged<T> {
    /// The items.
    pub items: Vec<T>,
    /// Whether there are older ones.
    pub has_more: bool,
}

impl<T> Paged<T> {
    /// From one item more than the page holds, when there is one.
    fn from_one_more(mut items: Vec<T>, limit: u32) -> Self {
        let has_more = items.len() > limit as usize;
        items.truncate(limit as usize);
        Self { items, has_more }
    }
}

fn gone(noun: &str, id: impl std::fmt::Display) -> StoreError {
    Refusal::not_found(noun, id).into()
}

fn refused(code: Code, detail: impl Into<String>) -> StoreError {
    Refusal::new(code, detail).into()
}
