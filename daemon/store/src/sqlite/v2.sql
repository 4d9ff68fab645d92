-- Version 2. How much each agent's state is, kept up to date with it, so that quotas cost no count.
CREATE TABLE held (
    agent BLOB NOT NULL PRIMARY KEY,
    keys INTEGER NOT NULL,
    bytes INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

INSERT INTO held (agent, keys, bytes)
    SELECT agent, count(*), sum(octet_length(key) + length(value)) FROM state GROUP BY agent;
