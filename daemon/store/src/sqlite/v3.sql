-- Version 3. What has changed in an agent's state since its base (a snapshot), for agents that have one.

-- The last mark that was given out: none is given out twice.
CREATE TABLE mark (
    last INTEGER NOT NULL
) STRICT;
INSERT INTO mark (last) VALUES (0);

-- Beside what is read with each commit anyway: changes after the mark `since` are all there; what is written now comes
-- after the mark `mark`; about so many changes are there. Without a mark no changes are kept.
ALTER TABLE held ADD COLUMN since INTEGER;
ALTER TABLE held ADD COLUMN mark INTEGER;
ALTER TABLE held ADD COLUMN changes INTEGER NOT NULL DEFAULT 0;

CREATE TABLE base (
    agent BLOB NOT NULL PRIMARY KEY,
    note BLOB NOT NULL
) STRICT, WITHOUT ROWID;

-- Each key once, with the last mark that stood before it was written or deleted.
CREATE TABLE change (
    agent BLOB NOT NULL,
    key TEXT NOT NULL,
    mark INTEGER NOT NULL,
    PRIMARY KEY (agent, key)
) STRICT, WITHOUT ROWID;
