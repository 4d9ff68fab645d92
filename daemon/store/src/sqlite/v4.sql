-- Version 4. Each row has a checksum over its key and its content (sum.rs), so that a flipped bit shows when it is read. It
-- stands before what may be long, so that reading it never follows overflow pages. The rows are copied by schema.rs, which
-- computes the sums, and the old tables are dropped after that.
ALTER TABLE state RENAME TO old_state;
ALTER TABLE record RENAME TO old_record;
ALTER TABLE usage RENAME TO old_usage;
ALTER TABLE answer RENAME TO old_answer;
ALTER TABLE log RENAME TO old_log;
ALTER TABLE node RENAME TO old_node;
ALTER TABLE held RENAME TO old_held;
ALTER TABLE mark RENAME TO old_mark;
ALTER TABLE base RENAME TO old_base;
ALTER TABLE change RENAME TO old_change;
DROP INDEX answer_by_expiry;

CREATE TABLE state (
    agent BLOB NOT NULL,
    key TEXT NOT NULL,
    sum INTEGER NOT NULL,
    value BLOB NOT NULL,
    PRIMARY KEY (agent, key)
) STRICT, WITHOUT ROWID;

CREATE TABLE record (
    kind INTEGER NOT NULL,
    id TEXT NOT NULL,
    sum INTEGER NOT NULL,
    value BLOB NOT NULL,
    PRIMARY KEY (kind, id)
) STRICT, WITHOUT ROWID;

CREATE TABLE usage (
    agreement BLOB NOT NULL,
    bucket TEXT NOT NULL,
    sum INTEGER NOT NULL,
    calls INTEGER NOT NULL,
    fuel INTEGER NOT NULL,
    wall_us INTEGER NOT NULL,
    egress_bytes INTEGER NOT NULL,
    PRIMARY KEY (agreement, bucket)
) STRICT, WITHOUT ROWID;

CREATE TABLE answer (
    scope TEXT NOT NULL,
    key TEXT NOT NULL,
    expires INTEGER NOT NULL,
    sum INTEGER NOT NULL,
    value BLOB NOT NULL,
    PRIMARY KEY (scope, key)
) STRICT, WITHOUT ROWID;
CREATE INDEX answer_by_expiry ON answer (expires);

CREATE TABLE log (
    position INTEGER PRIMARY KEY,
    operation BLOB NOT NULL UNIQUE,
    leaf BLOB NOT NULL,
    sum INTEGER NOT NULL,
    entry BLOB NOT NULL
) STRICT;

CREATE TABLE node (
    level INTEGER NOT NULL,
    position INTEGER NOT NULL,
    sum INTEGER NOT NULL,
    hash BLOB NOT NULL,
    PRIMARY KEY (level, position)
) STRICT, WITHOUT ROWID;

CREATE TABLE held (
    agent BLOB NOT NULL PRIMARY KEY,
    sum INTEGER NOT NULL,
    keys INTEGER NOT NULL,
    bytes INTEGER NOT NULL,
    since INTEGER,
    mark INTEGER,
    changes INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE mark (
    last INTEGER NOT NULL,
    sum INTEGER NOT NULL
) STRICT;

CREATE TABLE base (
    agent BLOB NOT NULL PRIMARY KEY,
    sum INTEGER NOT NULL,
    note BLOB NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE change (
    agent BLOB NOT NULL,
    key TEXT NOT NULL,
    sum INTEGER NOT NULL,
    mark INTEGER NOT NULL,
    PRIMARY KEY (agent, key)
) STRICT, WITHOUT ROWID;
