-- Uploads in several requests, and what is known of the file that a dataset came from.

-- The bytes are a file in the data directory, under the id. This table says how many of them count: what the file holds
-- beyond `received` was never acknowledged, or failed its checksum, and is cut off before more is written.
CREATE TABLE uploads (
    id         TEXT PRIMARY KEY,
    bytes      INTEGER NOT NULL,           -- announced when it was begun
    received   INTEGER NOT NULL DEFAULT 0, -- synced to the disk before they are counted here
    metadata   TEXT NOT NULL,              -- the header Upload-Metadata, as it came
    created_at INTEGER NOT NULL,
    expires_at INTEGER NOT NULL            -- moved forward with every part
) STRICT;

-- The same file read in the same way gives the same rows: a second dataset of it links the rows of the first.
ALTER TABLE datasets ADD COLUMN sha256 TEXT;       -- of the file as it arrived; absent for datasets of earlier versions
ALTER TABLE datasets ADD COLUMN reading TEXT;      -- SHA-256 of the parameters it was read with; absent where rows were added
ALTER TABLE datasets ADD COLUMN found TEXT;        -- SHA-256 of the schema that was found, which may be changed later
CREATE INDEX datasets_by_file ON datasets (sha256, reading) WHERE deleted_at IS NULL AND reading IS NOT NULL;

-- Rows that are added to a dataset make another one. A chain hangs together by its first.
ALTER TABLE datasets ADD COLUMN version INTEGER NOT NULL DEFAULT 1;
ALTER TABLE datasets ADD COLUMN parent_id TEXT REFERENCES datasets (id);
ALTER TABLE datasets ADD COLUMN root_id TEXT REFERENCES datasets (id);
CREATE INDEX datasets_by_root ON datasets (root_id, id) WHERE root_id IS NOT NULL;
