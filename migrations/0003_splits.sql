-- Which rows of a job trained, validated and tested: counts, and one byte a row (0, 1, 2), compressed. It stays with the job, so that
-- others can be measured on the rows that a model never saw.
CREATE TABLE splits (
    job_id          TEXT PRIMARY KEY REFERENCES jobs (id) ON DELETE CASCADE,
    train_rows      INTEGER NOT NULL,
    validation_rows INTEGER NOT NULL,
    test_rows       INTEGER NOT NULL,
    artifact_id     TEXT NOT NULL REFERENCES artifacts (id)
) STRICT;
