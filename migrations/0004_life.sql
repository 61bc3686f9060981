-- Jobs that pause and are tried again.
--
-- SQLite cannot change a CHECK, so the table is made anew. Dropping the old one would delete what refers to it, row by row:
-- migrations therefore run on a connection that does not enforce foreign keys, and all are checked afterwards (`Store::open`).

CREATE TABLE jobs_anew (
    id               TEXT PRIMARY KEY,
    name             TEXT,
    dataset_id       TEXT NOT NULL REFERENCES datasets (id),
    family           TEXT NOT NULL,        -- taken out of the spec, because lists filter by it
    spec             TEXT NOT NULL,        -- JSON: the resolved spec
    status           TEXT NOT NULL CHECK (status IN ('queued', 'running', 'paused', 'cancelling', 'succeeded', 'failed', 'cancelled')),
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
    finished_at      INTEGER,
    -- A running job that is to be paused. It is no status: until its trainer has ended the job runs, and may yet succeed.
    pausing          INTEGER NOT NULL DEFAULT 0,
    parent_job_id    TEXT REFERENCES jobs (id)     -- the job that this one tries again
) STRICT;

INSERT INTO jobs_anew (id, name, dataset_id, family, spec, status, stop_reason, error, progress, metrics, attempt, deaths, max_deaths,
                       lease_owner, lease_expires_at, priority, run_after, idempotency_key, created_at, started_at, finished_at)
    SELECT id, name, dataset_id, family, spec, status, stop_reason, error, progress, metrics, attempt, deaths, max_deaths,
           lease_owner, lease_expires_at, priority, run_after, idempotency_key, created_at, started_at, finished_at FROM jobs;
DROP TABLE jobs;
ALTER TABLE jobs_anew RENAME TO jobs;

CREATE INDEX jobs_waiting ON jobs (priority DESC, id) WHERE status = 'queued';
CREATE INDEX jobs_by_dataset ON jobs (dataset_id);
CREATE INDEX jobs_by_status ON jobs (status, id);
