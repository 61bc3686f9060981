-- The registry of models, models from elsewhere, and jobs that ask a model about a whole dataset.
--
-- An imported model has neither a job nor a dataset here. SQLite cannot take NOT NULL away, so the table is made anew, as in
-- migration 4.

CREATE TABLE models_anew (
    id          TEXT PRIMARY KEY,
    name        TEXT NOT NULL,                          -- what its job was called, or its family
    job_id      TEXT UNIQUE REFERENCES jobs (id),       -- absent where it was imported
    dataset_id  TEXT REFERENCES datasets (id),          -- absent where it was imported
    family      TEXT NOT NULL,
    spec        TEXT NOT NULL,                          -- JSON: as in the job
    schema      TEXT NOT NULL,                          -- JSON: the columns it takes
    metrics     TEXT NOT NULL,                          -- JSON: figures by name
    artifact_id TEXT REFERENCES artifacts (id),         -- gone when the model is deleted
    created_at  INTEGER NOT NULL,
    deleted_at  INTEGER,
    -- Its place in the registry. The row of a deleted model keeps it, so that no version is given twice.
    registered  TEXT,
    version     INTEGER,
    CHECK ((registered IS NULL) = (version IS NULL))
) STRICT;

INSERT INTO models_anew (id, name, job_id, dataset_id, family, spec, schema, metrics, artifact_id, created_at, deleted_at)
    SELECT id, name, job_id, dataset_id, family, spec, schema, metrics, artifact_id, created_at, deleted_at FROM models;
DROP TABLE models;
ALTER TABLE models_anew RENAME TO models;

CREATE UNIQUE INDEX models_by_version ON models (registered, version) WHERE registered IS NOT NULL;

-- Where each alias points now.
CREATE TABLE aliases (
    name     TEXT NOT NULL,                -- in the registry
    alias    TEXT NOT NULL,
    model_id TEXT NOT NULL REFERENCES models (id),
    since    INTEGER NOT NULL,
    PRIMARY KEY (name, alias)
) STRICT, WITHOUT ROWID;
CREATE INDEX aliases_by_model ON aliases (model_id);

-- Every move of an alias. It is written with the move, and never changed.
CREATE TABLE alias_moves (
    seq          INTEGER PRIMARY KEY AUTOINCREMENT,
    name         TEXT NOT NULL,
    alias        TEXT NOT NULL,
    from_version INTEGER,                  -- absent where the alias was new
    to_version   INTEGER,                  -- absent where it was removed
    at           INTEGER NOT NULL
) STRICT;
CREATE INDEX alias_moves_by_name ON alias_moves (name, seq);

-- The name that the model of a job is registered under once it is there.
ALTER TABLE jobs ADD COLUMN register TEXT;

-- A job that asks a model about every row of a dataset. `spec` is then the spec of that model.
ALTER TABLE jobs ADD COLUMN inference TEXT;                                        -- JSON: what is asked; absent for training
ALTER TABLE jobs ADD COLUMN asked_model_id TEXT REFERENCES models (id);
ALTER TABLE jobs ADD COLUMN result_dataset_id TEXT REFERENCES datasets (id);
ALTER TABLE jobs ADD COLUMN result_rows INTEGER NOT NULL DEFAULT 0;                -- rows of the answer that are on the disk

-- The job that made a dataset.
ALTER TABLE datasets ADD COLUMN job_id TEXT REFERENCES jobs (id);
