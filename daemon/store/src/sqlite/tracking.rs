//! What changed in agents' states since their bases.
//!
//! ```text
//! held    keys, bytes │ since, mark, changes      one row, read and written by each commit anyway
//! change  key, mark                               one row for each key, only for agents with a mark
//! base    note                                    what the caller wants to know of the state at `since`
//! ```

use protocol::AgentId;
use rusqlite::{Connection, OptionalExtension as _, Row};

use super::{quantity, stored, writer::run};
use crate::{
    Tracked,
    commit::{Held, Tracking},
};

/// What stands beside an agent's state.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Beside {
    pub(super) held: Held,
    /// The last mark, if changes are kept.
    pub(super) mark: Option<i64>,
    /// How many are; those that were made again after another mark may count twice.
    pub(super) changes: u64,
}

pub(super) fn beside(connection: &Connection, agent: &AgentId) -> rusqlite::Result<Beside> {
    let mut statement = connection.prepare_cached("SELECT keys, bytes, mark, changes FROM held WHERE agent = ?1")?;
    let read = |row: &Row<'_>| {
        let held = Held { keys: quantity(row.get(0)?), bytes: quantity(row.get(1)?) };
        Ok(Beside { held, mark: row.get(2)?, changes: quantity(row.get(3)?) })
    };
    Ok(statement.query_row([agent.uuid().as_bytes()], read).optional()?.unwrap_or_default())
}

/// Writes down what a commit left of it. Where too much has changed, no more is kept.
pub(super) fn put(connection: &Connection, agent: &AgentId, after: &Beside) -> rusqlite::Result<()> {
    let sql = "INSERT INTO held (agent, keys, bytes, changes) VALUES (?1, ?2, ?3, ?4)
        ON CONFLICT DO UPDATE SET keys = excluded.keys, bytes = excluded.bytes, changes = excluded.changes";
    let Beside { held, mark, changes } = after;
    run(connection, sql, (agent.uuid().as_bytes(), stored(held.keys), stored(held.bytes), stored(*changes)))?;
    if mark.is_some() && *changes > held.changes_kept() { end(connection, agent) } else { Ok(()) }
}

/// Notes that a key was written or deleted after a mark; says how many rows that took.
pub(super) fn changed(connection: &Connection, agent: &[u8; 16], key: &str, mark: i64) -> rusqlite::Result<usize> {
    let sql = "INSERT INTO change (agent, key, mark) VALUES (?1, ?2, ?3)
        ON CONFLICT DO UPDATE SET mark = excluded.mark WHERE mark <> excluded.mark";
    run(connection, sql, (agent, key, mark))
}

/// Forgets all that is known of an agent's state; its rows of `state` are the caller's.
pub(super) fn clear(connection: &Connection, agent: &AgentId) -> rusqlite::Result<()> {
    end(connection, agent)?;
    run(connection, "DELETE FROM held WHERE agent = ?1", [agent.uuid().as_bytes()]).map(drop)
}

pub(super) fn apply(connection: &Connection, tracking: &Tracking) -> rusqlite::Result<()> {
    match tracking {
        Tracking::Mark(agent) => mark(connection, agent),
        Tracking::Base { agent, mark, note } => base(connection, agent, *mark, note),
        Tracking::End(agent) => end(connection, agent),
    }
}

fn mark(connection: &Connection, agent: &AgentId) -> rusqlite::Result<()> {
    run(connection, "UPDATE mark SET last = last + 1", ())?;
    let sql = "UPDATE held SET mark = (SELECT last FROM mark), since = coalesce(since, (SELECT last FROM mark)) WHERE agent = ?1";
    run(connection, sql, [agent.uuid().as_bytes()]).map(drop)
}

fn base(connection: &Connection, agent: &AgentId, mark: u64, note: &[u8]) -> rusqlite::Result<()> {
    let (uuid, mark) = (agent.uuid(), stored(mark));
    let agent = uuid.as_bytes();
    // If no changes are kept any more, or only later ones, nothing can be said relative to that mark.
    let sql = "UPDATE held SET since = ?2 WHERE agent = ?1 AND ?2 BETWEEN since AND mark";
    if run(connection, sql, (agent, mark))? == 0 {
        return Ok(());
    }
    run(connection, "INSERT OR REPLACE INTO base (agent, note) VALUES (?1, ?2)", (agent, note))?;
    run(connection, "DELETE FROM change WHERE agent = ?1 AND mark < ?2", (agent, mark))?;
    run(connection, "UPDATE held SET changes = (SELECT count(*) FROM change WHERE agent = ?1) WHERE agent = ?1", [agent]).map(drop)
}

fn end(connection: &Connection, agent: &AgentId) -> rusqlite::Result<()> {
    let uuid = agent.uuid();
    run(connection, "DELETE FROM change WHERE agent = ?1", [uuid.as_bytes()])?;
    run(connection, "DELETE FROM base WHERE agent = ?1", [uuid.as_bytes()])?;
    run(connection, "UPDATE held SET since = NULL, mark = NULL, changes = 0 WHERE agent = ?1", [uuid.as_bytes()]).map(drop)
}

/// What is known of the changes of an agent.
pub(super) fn tracked(connection: &Connection, agent: &[u8; 16]) -> rusqlite::Result<Option<Tracked>> {
    let sql = "SELECT mark, note FROM held LEFT JOIN base USING (agent) WHERE agent = ?1 AND mark IS NOT NULL";
    let read = |row: &Row<'_>| Ok(Tracked { mark: quantity(row.get(0)?), base: row.get(1)? });
    connection.prepare_cached(sql)?.query_row([agent], read).optional()
}

/// Keys that changed, from `from` on.
pub(super) fn changes(connection: &Connection, agent: &[u8; 16], from: &str, limit: i64) -> rusqlite::Result<Vec<String>> {
    let sql = "SELECT key FROM change WHERE agent = ?1 AND key >= ?2 ORDER BY key LIMIT ?3";
    connection.prepare_cached(sql)?.query_map((agent, from, limit), |row| row.get(0))?.collect()
}
