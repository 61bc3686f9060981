-- Sweeps: many jobs from one description. Their jobs are ordinary ones in the ordinary queue; what makes a job a trial of a sweep is a
-- row of its own, so that the table of jobs stays as it is.

CREATE TABLE sweeps (
    id              TEXT PRIMARY KEY,
    name            TEXT,
    spec            TEXT NOT NULL,         -- JSON: as it was asked for, with what was left out
    asked           TEXT NOT NULL,         -- JSON: what the request asked for beside it
    rungs           TEXT NOT NULL,         -- JSON: the epochs after which trials are compared, ascending; [] without successive halving
    parallel        INTEGER,               -- of its jobs so many run at once: the queue looks at it. Absent: as many as there are workers
    idempotency_key TEXT UNIQUE,           -- of the request that made it
    cancelled_at    INTEGER,
    created_at      INTEGER NOT NULL
) STRICT;
-- A sweep has no status of its own: it follows from those of its jobs and from cancelled_at, and so cannot contradict them.

CREATE TABLE trials (
    job_id   TEXT PRIMARY KEY REFERENCES jobs (id) ON DELETE CASCADE,
    sweep_id TEXT NOT NULL REFERENCES sweeps (id) ON DELETE CASCADE,
    number   INTEGER NOT NULL,             -- from 1, in the order of the queue
    chosen   TEXT NOT NULL,                -- JSON: the values that were set, by JSON pointer. Kept, not drawn again
    value    REAL,                         -- the metric of its finished model
    -- Successive halving. `rung` counts from 0 and is where the trial rests or what it is on its way to; beyond the last one it
    -- trains to its end. `resting` is set together with the record of the epoch `rest_at`, and cleared by the promotion: so a
    -- server that is killed at any time finds out of these two who waits for a decision.
    rung     INTEGER NOT NULL DEFAULT 0,
    rest_at  INTEGER,                      -- the epoch of that rung, pre-training included; absent where it trains to its end
    resting  INTEGER NOT NULL DEFAULT 0,
    UNIQUE (sweep_id, number)
) STRICT;

-- Which trial came to which rung with what. A trial that is promoted or ends stays here: later ones are compared with it.
CREATE TABLE arrivals (
    job_id TEXT NOT NULL REFERENCES trials (job_id) ON DELETE CASCADE,
    rung   INTEGER NOT NULL,
    value  REAL,                           -- the best that the metric had been; absent where it was not recorded
    PRIMARY KEY (job_id, rung)
) STRICT, WITHOUT ROWID;
