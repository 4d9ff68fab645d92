-- Version 1. Ids are the 16 bytes of their UUIDs; times are Unix seconds; texts sort by their bytes.

-- Clustered by agent, so that a snapshot of one is one run of pages.
CREATE TABLE state (
    agent BLOB NOT NULL,
    key TEXT NOT NULL,
    value BLOB NOT NULL,
    PRIMARY KEY (agent, key)
) STRICT, WITHOUT ROWID;

CREATE TABLE record (
    kind INTEGER NOT NULL,
    id TEXT NOT NULL,
    value BLOB NOT NULL,
    PRIMARY KEY (kind, id)
) STRICT, WITHOUT ROWID;

CREATE TABLE usage (
    agreement BLOB NOT NULL,
    bucket TEXT NOT NULL,
    calls INTEGER NOT NULL,
    fuel INTEGER NOT NULL,
    wall_us INTEGER NOT NULL,
    egress_bytes INTEGER NOT NULL,
    PRIMARY KEY (agreement, bucket)
) STRICT, WITHOUT ROWID;

CREATE TABLE answer (
    scope TEXT NOT NULL,
    key TEXT NOT NULL,
    value BLOB NOT NULL,
    expires INTEGER NOT NULL,
    PRIMARY KEY (scope, key)
) STRICT, WITHOUT ROWID;
CREATE INDEX answer_by_expiry ON answer (expires);

-- Appended in the order of its row ids, which are the indices. The leaf stands before the entry, so that reading
-- leaves never follows an entry's overflow pages.
CREATE TABLE log (
    position INTEGER PRIMARY KEY,
    operation BLOB NOT NULL UNIQUE,
    leaf BLOB NOT NULL,
    entry BLOB NOT NULL
) STRICT;

CREATE TABLE node (
    level INTEGER NOT NULL,
    position INTEGER NOT NULL,
    hash BLOB NOT NULL,
    PRIMARY KEY (level, position)
) STRICT, WITHOUT ROWID;
