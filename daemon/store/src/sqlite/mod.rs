//! The embedded backend: one SQLite file in WAL mode, its writer, and its readers.
//!
//! ```text
//! apply, forget ─► Writer (one connection, its own thread) ─► store.db-wal ─► store.db
//! view, record, usage … ─► Readers (read-only connections) ◄──────┴──────────────┘
//! ```

mod check;
mod damage;
mod readers;
mod reads;
mod schema;
mod sum;
mod thread;
mod tracking;
mod wal;
mod writer;

use std::{path::Path, sync::Arc, time::Duration};

use async_trait::async_trait;
use protocol::{AgentId, AgreementId, OperationId, Usage, merkle::Hash};
use rusqlite::ErrorCode;

use self::{damage::Damage, readers::Readers, reads::Reading, thread::Thread, writer::Writer};
use crate::{
    Checked, LoggedEntry, SoundRecords, Store, View,
    commit::{Answer, Commit, Committed, Held, Kind, Rejected},
    error::{DamagedRow, Error},
};

/// A store in one file.
#[derive(Debug)]
pub struct Sqlite {
    writer: Thread,
    readers: Arc<Readers>,
    damage: Arc<Damage>,
}

impl Sqlite {
    /// Opens the file, and makes it (mode 0600) if nothing is there; its directory must exist. Brings an older version
    /// up to date. Takes milliseconds, also after a crash; more where an older version is copied. One process writes at a time;
    /// others may read.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let damage = Arc::new(Damage::default());
        let writer = Writer::new(schema::open_writer(path)?, schema::beside(path, "-wal"), Arc::clone(&damage));
        Ok(Self { writer: Thread::spawn(writer)?, readers: Readers::new(path.into(), Arc::clone(&damage)), damage })
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
        self.readers.point(|reading| tracking::held(reading, agent.uuid().as_bytes()))
    }

    async fn record(&self, kind: Kind, id: &str) -> Result<Option<Vec<u8>>, Error> {
        self.readers.point(|reading| reading.record(kind, id))
    }

    async fn records(&self, kind: Kind, after: Option<&str>, limit: usize) -> Result<Vec<(String, Vec<u8>)>, Error> {
        let from = after.map(following).unwrap_or_default();
        self.readers.scan(limit, move |reading| reading.records(kind, &from, limit, None)).await
    }

    async fn sound_records(&self, kind: Kind, after: Option<&str>, limit: usize) -> Result<SoundRecords, Error> {
        let from = after.map(following).unwrap_or_default();
        let read = move |reading: Reading<'_>| {
            let mut damaged = Vec::new();
            let records = reading.records(kind, &from, limit, Some(&mut damaged))?;
            Ok(SoundRecords { records, damaged })
        };
        self.readers.scan(limit, read).await
    }

    async fn usage(&self, agreement: &AgreementId) -> Result<Vec<(String, Usage)>, Error> {
        self.readers.point(|reading| reading.usage(agreement))
    }

    async fn answer(&self, scope: &str, key: &str, now_s: i64) -> Result<Option<Vec<u8>>, Error> {
        let found = self.readers.point(|reading| reading.answer(scope, key))?;
        Ok(found.filter(|(_, expires)| *expires > now_s).map(|(value, _)| value))
    }

    async fn answers(&self, scope: &str, after: Option<(String, String)>, now_s: i64, limit: usize) -> Result<Vec<Answer>, Error> {
        let scope = scope.to_owned();
        self.readers.scan(limit, move |reading| reading.answers(&scope, after.as_ref(), now_s, limit)).await
    }

    async fn log_size(&self) -> Result<u64, Error> {
        self.readers.point(|reading| reading.log_size())
    }

    async fn entries(&self, from: u64, limit: usize) -> Result<Vec<LoggedEntry>, Error> {
        self.readers.scan(limit, move |reading| reading.entries(stored(from), limit)).await
    }

    async fn leaves(&self, from: u64, limit: usize) -> Result<Vec<Hash>, Error> {
        self.readers.scan(limit, move |reading| reading.leaves(stored(from), limit)).await
    }

    async fn nodes(&self, level: u8, from: u64, limit: usize) -> Result<Vec<Hash>, Error> {
        self.readers.scan(limit, move |reading| reading.nodes(level, from, limit)).await
    }

    async fn entry_of(&self, operation: &OperationId) -> Result<Option<LoggedEntry>, Error> {
        self.readers.point(|reading| reading.entry_of(operation))
    }

    async fn check(&self, within: Option<Duration>) -> Result<Checked, Error> {
        let checked = check::run(Arc::clone(&self.readers), within).await?;
        if checked.structure.is_empty() || !check::of_indices_alone(&checked.structure) {
            return Ok(checked);
        }
        // An index holds nothing that its table doesn't: it is made again.
        tracing::warn!(found = ?checked.structure, "an index of the store is damaged, and is made again");
        self.writer.write(Writer::reindex).await?;
        check::run(Arc::clone(&self.readers), within).await
    }

    fn damaged(&self) -> Vec<DamagedRow> {
        self.damage.rows()
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

/// The least text above another is that text and a zero byte; the empty one is the least of all.
fn following(text: &str) -> String {
    format!("{text}\0")
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
        _ if damage::row_of(&error).is_some() => {
            damage::row_of(&error).cloned().map_or_else(|| Error::failed(doing, error), Error::DamagedRow)
        }
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
