-- The first tables.
--
-- Choices that hold for all of them:
--   * Ids are text, a prefix and a UUIDv7, made by the program: they sort by time and mean the same in every database.
--   * Times are milliseconds since 1970 in UTC, whole numbers: they compare without parsing in any database.
--   * JSON is kept as text. The program owns its form; no query looks inside.
--   * Little here is peculiar to SQLite: WITHOUT ROWID and STRICT can be dropped elsewhere, and BLOB is BYTEA in PostgreSQL.

-- Bytes of models and checkpoints. They live in the database so that a job, its metrics and its model commit together and
-- the directory with this file and the rows beside it is the whole backup.
CREATE TABLE artifacts (
    id         TEXT PRIMARY KEY,
    bytes      INTEGER NOT NULL,
    sha256     TEXT NOT NULL,              -- of the whole, in hexadecimal: checked whenever they are read
    created_at INTEGER NOT NULL
) STRICT;

-- In pieces of 1 MiB, because a row should stay far below SQLite's limits and reading a part should not read the whole.
CREATE TABLE artifact_chunks (
    artifact_id TEXT NOT NULL REFERENCES artifacts (id) ON DELETE CASCADE,
    position    INTEGER NOT NULL,
    data        BLOB NOT NULL,
    PRIMARY KEY (artifact_id, position)
) STRICT;

-- The rows themselves are files in the data directory, under the id; this is what is known of them.
CREATE TABLE datasets (
    id         TEXT PRIMARY KEY,
    name       TEXT NOT NULL,
    format     TEXT NOT NULL,
    rows       INTEGER NOT NULL,
    bytes      INTEGER NOT NULL,           -- of the canonical rows on disk
    schema     TEXT NOT NULL,              -- JSON: columns with roles and profiles, image shape
    created_at INTEGER NOT NULL,
    deleted_at INTEGER                     -- set instead of removing the row: finished jobs and models still refer to it
) STRICT;

CREATE TABLE jobs (
    id               TEXT PRIMARY KEY,
    name             TEXT,
    dataset_id       TEXT NOT NULL REFERENCES datasets (id),
    family           TEXT NOT NULL,        -- taken out of the spec, because lists filter by it
    spec             TEXT NOT NULL,        -- JSON: the resolved spec
    status           TEXT NOT NULL CHECK (status IN ('queued', 'running', 'cancelling', 'succeeded', 'failed', 'cancelled')),
    stop_reason      TEXT,
    error            TEXT,                 -- JSON: a refusal
    progress         TEXT,                 -- JSON: the latest
    metrics          TEXT,                 -- JSON: figures of the finished model by name
    -- The lease. A worker may write to a job only while it holds it: every update names the attempt and the owner, so one
    -- that lost its lease can change nothing.
    attempt          INTEGER NOT NULL DEFAULT 0,   -- grows with every claim
    deaths           INTEGER NOT NULL DEFAULT 0,   -- trainers that died since the last new checkpoint
    max_deaths       INTEGER NOT NULL,             -- with as many the job fails
    lease_owner      TEXT,
    lease_expires_at INTEGER,
    -- The order of the queue: higher priority first, then by id, which is by time.
    priority         INTEGER NOT NULL DEFAULT 0,
    run_after        INTEGER NOT NULL DEFAULT 0,   -- not before this time
    idempotency_key  TEXT UNIQUE,                  -- of the request that made it
    created_at       INTEGER NOT NULL,
    started_at       INTEGER,                      -- of the first attempt
    finished_at      INTEGER
) STRICT;

-- The queue is short beside the history of jobs: an index over the waiting ones alone keeps a claim cheap for ever.
CREATE INDEX jobs_waiting ON jobs (priority DESC, id) WHERE status = 'queued';
CREATE INDEX jobs_by_dataset ON jobs (dataset_id);
CREATE INDEX jobs_by_status ON jobs (status, id);

-- What happened to a job, for people and for event streams. `seq` counts per job without a gap, and is what a stream goes on
-- from after a break.
CREATE TABLE job_events (
    job_id TEXT NOT NULL REFERENCES jobs (id) ON DELETE CASCADE,
    seq    INTEGER NOT NULL,
    at     INTEGER NOT NULL,
    kind   TEXT NOT NULL,
    data   TEXT NOT NULL,                  -- JSON
    PRIMARY KEY (job_id, seq)
) STRICT, WITHOUT ROWID;

-- One row a number. The key makes a point of a curve unique: an epoch that is trained again after a crash replaces its own.
CREATE TABLE metrics (
    job_id TEXT NOT NULL REFERENCES jobs (id) ON DELETE CASCADE,
    name   TEXT NOT NULL,
    step   INTEGER NOT NULL,               -- the epoch, from 1
    value  REAL NOT NULL,
    PRIMARY KEY (job_id, name, step)
) STRICT, WITHOUT ROWID;

-- Where a job can go on from. The two latest are kept, so that a damaged one has one before it.
CREATE TABLE checkpoints (
    job_id      TEXT NOT NULL REFERENCES jobs (id) ON DELETE CASCADE,
    epoch       INTEGER NOT NULL,
    step        INTEGER NOT NULL,
    artifact_id TEXT NOT NULL REFERENCES artifacts (id),
    created_at  INTEGER NOT NULL,
    PRIMARY KEY (job_id, epoch, step)
) STRICT;

CREATE TABLE models (
    id          TEXT PRIMARY KEY,
    name        TEXT NOT NULL,
    job_id      TEXT NOT NULL UNIQUE REFERENCES jobs (id),
    dataset_id  TEXT NOT NULL REFERENCES datasets (id),
    family      TEXT NOT NULL,
    spec        TEXT NOT NULL,             -- JSON: as in the job
    schema      TEXT NOT NULL,             -- JSON: the columns it takes
    metrics     TEXT NOT NULL,             -- JSON: figures by name
    artifact_id TEXT REFERENCES artifacts (id), -- gone when the model is deleted
    created_at  INTEGER NOT NULL,
    deleted_at  INTEGER
) STRICT;
