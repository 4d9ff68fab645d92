//! What changed in agents' states since their bases.
//!
//! ```text
//! held    keys, bytes │ since, mark, changes      one row, read and written by each commit anyway
//! change  key, mark                               one row for each key, only for agents with a mark
//! base    note                                    what the caller wants to know of the state at `since`
//! ```

use protocol::AgentId;
use rusqlite::{OptionalExtension as _, Row};

use super::{
    quantity,
    reads::Reading,
    stored,
    sum::{Part, Parts, Table},
    writer::run,
};
use crate::{
    Tracked,
    commit::{Held, Tracking},
};

/// What stands beside an agent's state.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Beside {
    pub(super) held: Held,
    /// The mark of the base, or the first one if there is no base yet.
    pub(super) since: Option<i64>,
    /// The last mark, if changes are kept.
    pub(super) mark: Option<i64>,
    /// How many are; those that were made again after another mark may count twice.
    pub(super) changes: u64,
}

impl Beside {
    fn sum(&self, agent: &[u8; 16]) -> i64 {
        let Self { held, since, mark, changes } = self;
        let (keys, bytes, changes) = (stored(held.keys), stored(held.bytes), stored(*changes));
        let body = [Part::Number(keys), Part::Number(bytes), Part::maybe(*since), Part::maybe(*mark), Part::Number(changes)];
        Parts::of(Table::Held, &[Part::Bytes(agent)], &body).sum()
    }
}

pub(super) fn beside(reading: Reading<'_>, agent: &[u8; 16]) -> rusqlite::Result<Beside> {
    found(reading, agent).map(Option::unwrap_or_default)
}

fn found(reading: Reading<'_>, agent: &[u8; 16]) -> rusqlite::Result<Option<Beside>> {
    let mut statement = reading.connection.prepare_cached("SELECT keys, bytes, since, mark, changes, sum FROM held WHERE agent = ?1")?;
    let read = |row: &Row<'_>| {
        let body = (0..5).map(|column| Part::of(row, column)).collect::<rusqlite::Result<Vec<_>>>()?;
        reading.damage.check(&Parts::of(Table::Held, &[Part::Bytes(agent)], &body), row.get(5)?)?;
        let held = Held { keys: quantity(row.get(0)?), bytes: quantity(row.get(1)?) };
        Ok(Beside { held, since: row.get(2)?, mark: row.get(3)?, changes: quantity(row.get(4)?) })
    };
    match statement.query_row([agent], read).optional()? {
        Some(beside) => Ok(Some(beside)),
        None => reading.damage.nothing(Table::Held, &[Part::Bytes(agent)]).map(|()| None),
    }
}

/// How much an agent's state is: counted as it is written, so that nobody has to look through it.
pub(super) fn held(reading: Reading<'_>, agent: &[u8; 16]) -> rusqlite::Result<Held> {
    beside(reading, agent).map(|beside| beside.held)
}

/// Writes down what a commit left of it. Where too much has changed, no more is kept.
pub(super) fn put(writing: Reading<'_>, agent: &[u8; 16], after: &Beside) -> rusqlite::Result<()> {
    if after.mark.is_some() && after.changes > after.held.changes_kept() {
        forget_changes(writing, agent)?;
        return write(writing, agent, &Beside { since: None, mark: None, changes: 0, ..*after });
    }
    write(writing, agent, after)
}

fn write(writing: Reading<'_>, agent: &[u8; 16], beside: &Beside) -> rusqlite::Result<()> {
    let sql = "INSERT OR REPLACE INTO held (agent, sum, keys, bytes, since, mark, changes) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)";
    let Beside { held, since, mark, changes } = beside;
    let values = (agent, beside.sum(agent), stored(held.keys), stored(held.bytes), since, mark, stored(*changes));
    run(writing.connection, sql, values).map(drop)
}

/// Notes that a key was written or deleted after a mark; says how many rows that took.
pub(super) fn changed(writing: Reading<'_>, agent: &[u8; 16], key: &str, mark: i64) -> rusqlite::Result<usize> {
    let sql = "INSERT INTO change (agent, key, sum, mark) VALUES (?1, ?2, ?3, ?4)
        ON CONFLICT DO UPDATE SET sum = excluded.sum, mark = excluded.mark WHERE mark <> excluded.mark OR sum <> excluded.sum";
    let sum = of_change(agent, Part::Bytes(key.as_bytes()), Part::Number(mark)).sum();
    run(writing.connection, sql, (agent, key, sum, mark))
}

fn of_change<'a>(agent: &'a [u8; 16], key: Part<'a>, mark: Part<'a>) -> Parts<'a> {
    Parts::of(Table::Change, &[Part::Bytes(agent), key], &[mark])
}

/// Forgets all that is known of an agent's state; its rows of `state` are the caller's.
pub(super) fn clear(writing: Reading<'_>, agent: &AgentId) -> rusqlite::Result<()> {
    forget_changes(writing, agent.uuid().as_bytes())?;
    run(writing.connection, "DELETE FROM held WHERE agent = ?1", [agent.uuid().as_bytes()]).map(drop)
}

pub(super) fn apply(writing: Reading<'_>, tracking: &Tracking) -> rusqlite::Result<()> {
    match tracking {
        Tracking::Mark(agent) => mark(writing, agent.uuid().as_bytes()),
        Tracking::Base { agent, mark, note } => base(writing, agent.uuid().as_bytes(), stored(*mark), note),
        Tracking::End(agent) => end(writing, agent.uuid().as_bytes()),
    }
}

fn mark(writing: Reading<'_>, agent: &[u8; 16]) -> rusqlite::Result<()> {
    let mut statement = writing.connection.prepare_cached("SELECT last, sum FROM mark")?;
    let last: i64 = statement.query_row([], |row| {
        let last = row.get(0)?;
        writing.damage.check(&of_mark(last), row.get(1)?)?;
        Ok(last)
    })?;
    let next = last.saturating_add(1);
    run(writing.connection, "UPDATE mark SET last = ?1, sum = ?2", (next, of_mark(next).sum()))?;
    match found(writing, agent)? {
        Some(beside) => write(writing, agent, &Beside { mark: Some(next), since: beside.since.or(Some(next)), ..beside }),
        None => Ok(()),
    }
}

/// The one row that says which mark was given out last.
pub(super) fn of_mark(last: i64) -> Parts<'static> {
    Parts::of(Table::Mark, &[], &[Part::Number(last)])
}

fn base(writing: Reading<'_>, agent: &[u8; 16], mark: i64, note: &[u8]) -> rusqlite::Result<()> {
    // If no changes are kept any more, or only later ones, nothing can be said relative to that mark.
    let Some(beside) = found(writing, agent)? else { return Ok(()) };
    let kept = beside.since.is_some_and(|since| since <= mark) && beside.mark.is_some_and(|last| mark <= last);
    if !kept {
        return Ok(());
    }
    let sum = Parts::of(Table::Base, &[Part::Bytes(agent)], &[Part::Bytes(note)]).sum();
    run(writing.connection, "INSERT OR REPLACE INTO base (agent, sum, note) VALUES (?1, ?2, ?3)", (agent, sum, note))?;
    run(writing.connection, "DELETE FROM change WHERE agent = ?1 AND mark < ?2", (agent, mark))?;
    let mut statement = writing.connection.prepare_cached("SELECT count(*) FROM change WHERE agent = ?1")?;
    let changes = quantity(statement.query_row([agent], |row| row.get(0))?);
    write(writing, agent, &Beside { since: Some(mark), changes, ..beside })
}

fn end(writing: Reading<'_>, agent: &[u8; 16]) -> rusqlite::Result<()> {
    forget_changes(writing, agent)?;
    match found(writing, agent)? {
        Some(beside) => write(writing, agent, &Beside { since: None, mark: None, changes: 0, ..beside }),
        None => Ok(()),
    }
}

fn forget_changes(writing: Reading<'_>, agent: &[u8; 16]) -> rusqlite::Result<()> {
    run(writing.connection, "DELETE FROM change WHERE agent = ?1", [agent])?;
    run(writing.connection, "DELETE FROM base WHERE agent = ?1", [agent]).map(drop)
}

/// What is known of the changes of an agent.
pub(super) fn tracked(reading: Reading<'_>, agent: &[u8; 16]) -> rusqlite::Result<Option<Tracked>> {
    let Some(mark) = beside(reading, agent)?.mark else { return Ok(None) };
    let mut statement = reading.connection.prepare_cached("SELECT note, sum FROM base WHERE agent = ?1")?;
    let read = |row: &Row<'_>| {
        reading.damage.check(&Parts::of(Table::Base, &[Part::Bytes(agent)], &[Part::of(row, 0)?]), row.get(1)?)?;
        row.get(0)
    };
    let base = statement.query_row([agent], read).optional()?;
    if base.is_none() {
        reading.damage.nothing(Table::Base, &[Part::Bytes(agent)])?;
    }
    Ok(Some(Tracked { mark: quantity(mark), base }))
}

/// Keys that changed, from `from` on.
pub(super) fn changes(reading: Reading<'_>, agent: &[u8; 16], from: &str, limit: i64) -> rusqlite::Result<Vec<String>> {
    let sql = "SELECT key, mark, sum FROM change WHERE agent = ?1 AND key >= ?2 ORDER BY key LIMIT ?3";
    let mut statement = reading.connection.prepare_cached(sql)?;
    let read = |row: &Row<'_>| {
        reading.damage.check(&of_change(agent, Part::of(row, 0)?, Part::of(row, 1)?), row.get(2)?)?;
        row.get(0)
    };
    let keys = statement.query_map((agent, from, limit), read)?.collect::<rusqlite::Result<Vec<String>>>()?;
    reading.damage.nothing(Table::Change, &[Part::Bytes(agent)])?;
    Ok(keys)
}
