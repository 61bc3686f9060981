-- Sweeps: many jobs from one description. The jobs are ordinary ones that name their sweep.
CREATE TABLE sweeps (
    id           TEXT PRIMARY KEY,
    name         TEXT,
    spec         TEXT NOT NULL,            -- JSON: as it was asked for, with what was left out
    max_parallel INTEGER NOT NULL,         -- of its jobs so many run at once; the queue looks at it
    cancelled_at INTEGER,
    created_at   INTEGER NOT NULL
) STRICT;

ALTER TABLE jobs ADD COLUMN sweep_id TEXT REFERENCES sweeps (id);
ALTER TABLE jobs ADD COLUMN point TEXT;            -- JSON: what was set, by JSON pointer
ALTER TABLE jobs ADD COLUMN pause_at_epoch INTEGER;-- the rung at which it waits for the others
CREATE INDEX jobs_by_sweep ON jobs (sweep_id, status) WHERE sweep_id IS NOT NULL;

-- Which job came to which rung, in which order, and with what: all that the decisions of a sweep depend on.
CREATE TABLE sweep_arrivals (
    sweep_id TEXT NOT NULL REFERENCES sweeps (id) ON DELETE CASCADE,
    rung     INTEGER NOT NULL,             -- its epochs
    position INTEGER NOT NULL,
    job_id   TEXT NOT NULL REFERENCES jobs (id) ON DELETE CASCADE,
    value    REAL,                         -- of the metric; absent where there is none
    promoted INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (sweep_id, rung, job_id)
) STRICT, WITHOUT ROWID;
