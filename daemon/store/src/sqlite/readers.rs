//! Connections that only read. They see the last commit that is durable and never wait for the writer.
//!
//! Point reads run on the caller's thread: no await, so there are no more of them at once than the runtime has
//! threads. Long scans go to the blocking pool, a few at once. Views last as long as a call, and calls nest (an agent
//! calls another): were they to share a small pool, calls waiting for the calls they made would stand still for ever.
//! So views have a wide bound of their own, and who finds it reached is refused after a moment.

use std::{
    ops::Deref,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use parking_lot::Mutex;
use rusqlite::Connection;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{damage::Damage, failed, following, reads::Reading, rows, schema, tracking};
use crate::{Tracked, View, commit::Held, error::Error};

/// Connections kept open while idle: some 100 KiB each; those beyond are closed when they come back.
const IDLE: usize = 16;
/// Scans at once: more wouldn't be quicker on the disks this runs on.
const SCANS: usize = 8;
/// Views at once: far above the calls that a node runs at once.
const VIEWS: usize = 256;
/// How long a view waits for another to end.
const VIEW_PATIENCE: Duration = Duration::from_secs(5);
/// Reads of at most this many rows run on the caller's thread: some 0.1 ms.
const INLINE: usize = 128;

/// The pool.
#[derive(Debug)]
pub(super) struct Readers {
    path: PathBuf,
    idle: Mutex<Vec<Connection>>,
    scans: Arc<Semaphore>,
    views: Arc<Semaphore>,
    closed: AtomicBool,
    damage: Arc<Damage>,
}

impl Readers {
    pub(super) fn new(path: PathBuf, damage: Arc<Damage>) -> Arc<Self> {
        let (scans, views) = (Arc::new(Semaphore::new(SCANS)), Arc::new(Semaphore::new(VIEWS)));
        Arc::new(Self { path, idle: Mutex::default(), scans, views, closed: AtomicBool::new(false), damage })
    }

    /// Refuses what comes later, and closes what is idle; what is lent is closed when it comes back.
    pub(super) fn close(&self) {
        self.closed.store(true, Ordering::Release);
        self.scans.close();
        self.views.close();
        self.idle.lock().clear();
    }

    /// Reads a row or a few on the caller's thread: microseconds from the page cache, less than a hop to another.
    pub(super) fn point<T>(self: &Arc<Self>, read: impl FnOnce(Reading<'_>) -> rusqlite::Result<T>) -> Result<T, Error> {
        let reader = self.lend()?;
        read(reader.reading()).map_err(failed("read"))
    }

    /// What is known to be damaged.
    pub(super) fn damage(&self) -> &Damage {
        &self.damage
    }

    /// A connection of its own, for what takes long.
    pub(super) fn connect(&self) -> Result<Connection, Error> {
        if self.closed.load(Ordering::Acquire) { Err(Error::Closed) } else { schema::open_reader(&self.path) }
    }

    /// Reads at most `rows` rows, off the runtime's threads where that may take long.
    pub(super) async fn scan<T: Send + 'static>(
        self: &Arc<Self>,
        rows: usize,
        read: impl FnOnce(Reading<'_>) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, Error> {
        if rows <= INLINE {
            return self.point(read);
        }
        let permit = Arc::clone(&self.scans).acquire_owned().await.map_err(|_| Error::Closed)?;
        let readers = Arc::clone(self);
        let done = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            readers.point(read)
        });
        done.await.unwrap_or_else(|error| Err(Error::failed("read", error)))
    }

    /// Takes a snapshot.
    pub(super) async fn view(self: &Arc<Self>, agent: [u8; 16]) -> Result<SqliteView, Error> {
        let permit = tokio::time::timeout(VIEW_PATIENCE, Arc::clone(&self.views).acquire_owned()).await;
        let permit = permit.map_err(|_| Error::Overloaded)?.map_err(|_| Error::Closed)?;
        let reader = self.lend()?;
        // A transaction sees the database as of its first read, so it reads at once.
        let snapshot = |connection: &Connection| -> rusqlite::Result<()> {
            connection.prepare_cached("BEGIN")?.execute([])?;
            connection.prepare_cached("SELECT 1 FROM state WHERE agent = ?1 LIMIT 1")?.exists([agent])?;
            Ok(())
        };
        snapshot(&reader).map_err(failed("take a snapshot"))?;
        Ok(SqliteView { agent, reader, _permit: permit })
    }

    fn lend(self: &Arc<Self>) -> Result<Reader, Error> {
        if self.closed.load(Ordering::Acquire) {
            return Err(Error::Closed);
        }
        // A statement of its own: the lock isn't held while a file is opened.
        let idle = self.idle.lock().pop();
        let connection = match idle {
            Some(connection) => connection,
            None => schema::open_reader(&self.path)?,
        };
        Ok(Reader { connection: Some(connection), home: Arc::clone(self) })
    }
}

/// A connection on loan.
struct Reader {
    /// There until it is given back.
    connection: Option<Connection>,
    home: Arc<Readers>,
}

impl Reader {
    fn reading(&self) -> Reading<'_> {
        Reading { connection: self, damage: &self.home.damage }
    }
}

impl Deref for Reader {
    type Target = Connection;

    fn deref(&self) -> &Connection {
        self.connection.as_ref().expect("taken only when the loan is dropped")
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        let Some(connection) = self.connection.take() else { return };
        // What can't be brought back to the state it was lent in is closed instead.
        let settled = connection.is_autocommit() || connection.execute_batch("ROLLBACK").is_ok();
        let mut idle = self.home.idle.lock();
        if settled && idle.len() < IDLE && !self.home.closed.load(Ordering::Acquire) {
            idle.push(connection);
        }
    }
}

/// A snapshot: a read transaction that is open while this lives.
pub(super) struct SqliteView {
    agent: [u8; 16],
    reader: Reader,
    _permit: OwnedSemaphorePermit,
}

// Both read from the page cache in microseconds, `list` in some 0.1 ms for 100 keys, so they stay on the caller's thread.
#[async_trait]
impl View for SqliteView {
    async fn get(&mut self, key: &str) -> Result<Option<Vec<u8>>, Error> {
        self.reader.reading().state(&self.agent, key).map_err(failed("read an agent's state"))
    }

    async fn scan(&mut self, after: Option<&str>, bytes: usize) -> Result<Vec<(String, Vec<u8>)>, Error> {
        let from = after.map(following).unwrap_or_default();
        self.reader.reading().scan(&self.agent, &from, bytes).map_err(failed("read an agent's state"))
    }

    async fn held(&mut self) -> Result<Held, Error> {
        tracking::held(self.reader.reading(), &self.agent).map_err(failed("read an agent's state"))
    }

    async fn tracked(&mut self) -> Result<Option<Tracked>, Error> {
        tracking::tracked(self.reader.reading(), &self.agent).map_err(failed("read what changed"))
    }

    async fn changed(&mut self, after: Option<&str>, limit: usize) -> Result<Vec<String>, Error> {
        let from = after.map(following).unwrap_or_default();
        tracking::changes(self.reader.reading(), &self.agent, &from, rows(limit)).map_err(failed("read what changed"))
    }

    async fn list(&mut self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Vec<String>, Error> {
        let from = match after {
            Some(after) if after >= prefix => following(after),
            _ => prefix.to_owned(),
        };
        self.reader.reading().list(&self.agent, prefix, &from, limit).map_err(failed("list an agent's state"))
    }
}
