//! The embedded backend: one SQLite file in WAL mode, its writer, and its readers.
//!
//! ```text
//! apply, forget ─► Writer (one connection, its own thread) ─► store.db-wal ─► store.db
//! view, record, usage … ─► Readers (read-only connections) ◄──────┴──────────────┘
//! ```

mod readers;
mod schema;
mod thread;
mod tracking;
mod writer;

use std::{path::Path, sync::Arc};

use async_trait::async_trait;
use protocol::{AgentId, AgreementId, OperationId, Usage, merkle::Hash};
use rusqlite::{Connection, ErrorCode, OptionalExtension as _, Row};

use self::{readers::Readers, thread::Thread, writer::Writer};
use crate::{
    LoggedEntry, Store, View,
    commit::{Answer, Commit, Committed, Held, Kind, Rejected},
    error::Error,
};

/// A store in one file.
#[derive(Debug)]
pub struct Sqlite {
    writer: Thread,
    readers: Arc<Readers>,
}

impl Sqlite {
    /// Opens the file, and makes it (mode 0600) if nothing is there; its directory must exist. Brings an older version
    /// up to date. Takes milliseconds, also after a crash. One process writes at a time; others may read.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let writer = Writer::new(schema::open_writer(path)?, schema::beside(path, "-wal"));
        Ok(Self { writer: Thread::spawn(writer)?, readers: Readers::new(path.into()) })
    }
}

#[async_trait]
impl Store for Sqlite {
    async fn apply(&self, group: Vec<Commit>) -> Result<Vec<Result<Committed, Rejected>>, Error> {
        self.writer.write(move |writer| writer.apply(&group)).await
    }

    async fn view(&self, agent: &AgentId) -> Result<Box<dyn View>, Error> {
        Ok(Box::new(self.readers.view(agent.uuid().into_bytes()).await?))
    }

    async fn held(&self, agent: &AgentId) -> Result<Held, Error> {
        self.readers.point(|connection| held(connection, agent.uuid().as_bytes()))
    }

    async fn record(&self, kind: Kind, id: &str) -> Result<Option<Vec<u8>>, Error> {
        self.readers.point(|connection| {
            let mut statement = connection.prepare_cached("SELECT value FROM record WHERE kind = ?1 AND id = ?2")?;
            statement.query_row((kind.number(), id), |row| row.get(0)).optional()
        })
    }

    async fn records(&self, kind: Kind, after: Option<&str>, limit: usize) -> Result<Vec<(String, Vec<u8>)>, Error> {
        // The least text above another is that text and a zero byte; the empty one is the least of all.
        let from = after.map(|after| format!("{after}\0")).unwrap_or_default();
        let read = move |connection: &Connection| {
            let sql = "SELECT id, value FROM record WHERE kind = ?1 AND id >= ?2 ORDER BY id LIMIT ?3";
            let mut statement = connection.prepare_cached(sql)?;
            statement.query_map((kind.number(), from, rows(limit)), |row| Ok((row.get(0)?, row.get(1)?)))?.collect()
        };
        self.readers.scan(limit, read).await
    }

    async fn usage(&self, agreement: &AgreementId) -> Result<Vec<(String, Usage)>, Error> {
        self.readers.point(|connection| {
            let sql = "SELECT bucket, calls, fuel, wall_us, egress_bytes FROM usage WHERE agreement = ?1 ORDER BY bucket";
            let mut statement = connection.prepare_cached(sql)?;
            statement.query_map([agreement.uuid().as_bytes()], |row| Ok((row.get(0)?, usage_of(row, 1)?)))?.collect()
        })
    }

    async fn answer(&self, scope: &str, key: &str, now_s: i64) -> Result<Option<Vec<u8>>, Error> {
        self.readers.point(|connection| {
            let sql = "SELECT value FROM answer WHERE scope = ?1 AND key = ?2 AND expires > ?3";
            connection.prepare_cached(sql)?.query_row((scope, key, now_s), |row| row.get(0)).optional()
        })
    }

    async fn answers(&self, scope: &str, after: Option<(String, String)>, now_s: i64, limit: usize) -> Result<Vec<Answer>, Error> {
        let scope = scope.to_owned();
        let read = move |connection: &Connection| {
            let sql = "SELECT scope, key, value, expires FROM answer
                WHERE (scope, key) > (?1, ?2) AND scope < ?3 AND expires > ?4 ORDER BY scope, key LIMIT ?5";
            // No text that begins with the prefix comes after the prefix and the last character there is.
            let end = format!("{scope}\u{10ffff}");
            let (from, key) = after.unwrap_or((scope, String::new()));
            let answer =
                |row: &Row<'_>| Ok(Answer { scope: row.get(0)?, key: row.get(1)?, value: row.get(2)?, now_s, expires_s: row.get(3)? });
            connection.prepare_cached(sql)?.query_map((from, key, end, now_s, rows(limit)), answer)?.collect()
        };
        self.readers.scan(limit, read).await
    }

    async fn log_size(&self) -> Result<u64, Error> {
        self.readers.point(log_size)
    }

    async fn entries(&self, from: u64, limit: usize) -> Result<Vec<LoggedEntry>, Error> {
        let read = move |connection: &Connection| {
            let sql = "SELECT position, leaf, entry FROM log WHERE position >= ?1 ORDER BY position LIMIT ?2";
            connection.prepare_cached(sql)?.query_map((stored(from), rows(limit)), logged)?.collect()
        };
        self.readers.scan(limit, read).await
    }

    async fn leaves(&self, from: u64, limit: usize) -> Result<Vec<Hash>, Error> {
        let read = move |connection: &Connection| {
            let sql = "SELECT leaf FROM log WHERE position >= ?1 ORDER BY position LIMIT ?2";
            connection.prepare_cached(sql)?.query_map((stored(from), rows(limit)), |row| row.get(0))?.collect()
        };
        self.readers.scan(limit, read).await
    }

    async fn nodes(&self, level: u8, from: u64, limit: usize) -> Result<Vec<Hash>, Error> {
        let read = move |connection: &Connection| {
            let sql = "SELECT position, hash FROM node WHERE level = ?1 AND position >= ?2 ORDER BY position LIMIT ?3";
            let mut statement = connection.prepare_cached(sql)?;
            let found = statement.query_map((level, stored(from), rows(limit)), |row| Ok((quantity(row.get(0)?), row.get(1)?)))?;
            let found: Vec<(u64, Hash)> = found.collect::<rusqlite::Result<_>>()?;
            Ok((from..).zip(found).take_while(|(wanted, (index, _))| wanted == index).map(|(_, (_, hash))| hash).collect())
        };
        self.readers.scan(limit, read).await
    }

    async fn entry_of(&self, operation: &OperationId) -> Result<Option<LoggedEntry>, Error> {
        self.readers.point(|connection| {
            let mut statement = connection.prepare_cached("SELECT position, leaf, entry FROM log WHERE operation = ?1")?;
            statement.query_row([operation.uuid().as_bytes()], logged).optional()
        })
    }

    async fn forget(&self, now_s: i64) -> Result<u64, Error> {
        let mut forgotten = 0;
        loop {
            match self.writer.write(move |writer| writer.forget(now_s)).await? {
                0 => return Ok(forgotten),
                some => forgotten += some as u64,
            }
        }
    }

    async fn close(&self) -> Result<(), Error> {
        self.readers.close();
        self.writer.close().await
    }
}

/// How much an agent's state is: counted as it is written, so that nobody has to look through it.
fn held(connection: &Connection, agent: &[u8; 16]) -> rusqlite::Result<Held> {
    let mut statement = connection.prepare_cached("SELECT keys, bytes FROM held WHERE agent = ?1")?;
    let read = |row: &Row<'_>| Ok(Held { keys: quantity(row.get(0)?), bytes: quantity(row.get(1)?) });
    Ok(statement.query_row([agent], read).optional()?.unwrap_or_default())
}

/// How many entries the log has: they are dense, and the last row is found at once.
fn log_size(connection: &Connection) -> rusqlite::Result<u64> {
    let size = connection.prepare_cached("SELECT coalesce(max(position) + 1, 0) FROM log")?.query_row([], |row| row.get(0))?;
    Ok(quantity(size))
}

fn logged(row: &Row<'_>) -> rusqlite::Result<LoggedEntry> {
    Ok(LoggedEntry { index: quantity(row.get(0)?), leaf: row.get(1)?, entry: row.get(2)? })
}

fn usage_of(row: &Row<'_>, from: usize) -> rusqlite::Result<Usage> {
    let column = |at: usize| Ok::<_, rusqlite::Error>(quantity(row.get(from + at)?));
    Ok(Usage { calls: column(0)?, fuel: column(1)?, wall_us: column(2)?, egress_bytes: column(3)? })
}

/// A quantity as SQLite holds it: signed, so it saturates at 2⁶³ - 1.
fn stored(quantity: u64) -> i64 {
    i64::try_from(quantity).unwrap_or(i64::MAX)
}

/// A quantity as it was stored: never negative.
fn quantity(stored: i64) -> u64 {
    u64::try_from(stored).unwrap_or_default()
}

fn rows(limit: usize) -> i64 {
    i64::try_from(limit).unwrap_or(i64::MAX)
}

/// Wraps an error of SQLite so that a caller can act on it.
fn failed(doing: &'static str) -> impl FnOnce(rusqlite::Error) -> Error {
    move |error| match error.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => Error::Full,
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => Error::Locked,
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => Error::Damaged { what: error.to_string() },
        // Integers where hashes should be, and the like.
        _ if matches!(error, rusqlite::Error::FromSqlConversionFailure(..) | rusqlite::Error::InvalidColumnType(..)) => {
            Error::Damaged { what: error.to_string() }
        }
        // The rest, and what isn't SQLite's own, nobody but an operator can act on.
        _ => Error::failed(doing, error),
    }
}
