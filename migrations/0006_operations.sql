-- Limits of single jobs, their phases and their log, and checkpoints that are looked for by their bytes.

ALTER TABLE jobs ADD COLUMN options TEXT NOT NULL DEFAULT '{}'; -- JSON: what it may use up, and what stays of it
ALTER TABLE jobs ADD COLUMN asked TEXT;                  -- JSON: what the request asked for beside the spec; absent for jobs of earlier versions
ALTER TABLE jobs ADD COLUMN ran_ms INTEGER NOT NULL DEFAULT 0;  -- how long workers were at it, up to `beat_at`
ALTER TABLE jobs ADD COLUMN beat_at INTEGER;             -- of the last claim or heartbeat

-- Whether the weights were the best so far when the checkpoint was made.
ALTER TABLE checkpoints ADD COLUMN best INTEGER NOT NULL DEFAULT 0;
-- Bytes are only deleted when no checkpoint refers to them.
CREATE INDEX checkpoints_by_artifact ON checkpoints (artifact_id);

-- What a job did, one row each time it went on to something else.
CREATE TABLE job_phases (
    job_id     TEXT NOT NULL REFERENCES jobs (id) ON DELETE CASCADE,
    seq        INTEGER NOT NULL,
    attempt    INTEGER NOT NULL,
    name       TEXT NOT NULL,
    started_at INTEGER NOT NULL,
    PRIMARY KEY (job_id, seq)
) STRICT, WITHOUT ROWID;

-- What its workers and trainers said. The oldest lines go when there are too many.
CREATE TABLE job_logs (
    job_id TEXT NOT NULL REFERENCES jobs (id) ON DELETE CASCADE,
    seq    INTEGER NOT NULL,
    at     INTEGER NOT NULL,
    source TEXT NOT NULL,                 -- worker or trainer
    text   TEXT NOT NULL,
    PRIMARY KEY (job_id, seq)
) STRICT, WITHOUT ROWID;
