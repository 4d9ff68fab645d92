//! The store: what a node must not forget.
//!
//! ```text
//! callers ── Commit ──► Committer ── groups of up to 256 ──► Store::apply ── one durable transaction ──► disk
//!    ▲                      │                                     │
//!    └──── Committed ◄──────┘ after it is durable                 └─ state, usage, records, answers, trace log
//!
//! readers ── view, record, entries … ──► Store        snapshots; never wait for the writer
//! plugins, chunks ── Blobs ──► files named by their digest
//! ```
//!
//! [`Store`] speaks in what the product does, not in tables: a [`Commit`] is one operation's whole effect (state,
//! usage, idempotent answer, trace entry), made entirely or not at all. Backends differ in where it lands; the suite
//! in `conformance` says what all of them guarantee. There is no clock in here: callers pass the time. What is read is what was
//! written, or an error ([`Error::DamagedRow`]): disks flip bits.

mod blobs;
mod commit;
mod committer;
#[cfg(feature = "conformance")]
pub mod conformance;
mod error;
mod sqlite;

use std::{fmt::Debug, time::Duration};

use async_trait::async_trait;
use protocol::{AgentId, AgreementId, OperationId, Usage, merkle::Hash};

pub use crate::{
    blobs::{Blobs, Expected, Partial},
    commit::{
        Answer, Append, Bucket, Charge, Commit, Committed, Held, Kind, MAX_NAME, MAX_VALUE, OVERAGE, RecordWrite, Rejected, StateWrites,
        Tracking, TreeNode, Write,
    },
    committer::Committer,
    error::{DamagedRow, Error},
    sqlite::Sqlite,
};

/// The most damage of one sort that is told of one by one.
pub const MAX_TOLD: usize = 1_000;

/// What a look through the store has found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Checked {
    /// Rows that were held against their sums, by table.
    pub rows: Vec<(&'static str, u64)>,
    /// Those that don't match, at most [`MAX_TOLD`].
    pub damaged: Vec<DamagedRow>,
    /// What is wrong with the file's structure.
    pub structure: Vec<String>,
    /// Whether it came to the end of all in the time that it had.
    pub complete: bool,
}

impl Checked {
    /// Whether nothing was found.
    pub fn is_sound(&self) -> bool {
        self.damaged.is_empty() && self.structure.is_empty()
    }
}

/// A page of records, and what of it is damaged.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SoundRecords {
    /// Those that are as they were written.
    pub records: Vec<(String, Vec<u8>)>,
    /// The others.
    pub damaged: Vec<DamagedRow>,
}

/// One entry of the trace log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoggedEntry {
    /// Its index: dense, from 0.
    pub index: u64,
    /// Its leaf hash.
    pub leaf: Hash,
    /// The entry, byte for byte; empty if it has lost its content.
    pub entry: Vec<u8>,
}

/// What is known of the changes of an agent's state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tracked {
    /// The last mark.
    pub mark: u64,
    /// The note of the base, if there is one.
    pub base: Option<Vec<u8>>,
}

/// A backend.
///
/// Lists take a `limit` and page by the last item of the page before: a page shorter than its limit is the last one.
#[async_trait]
pub trait Store: Debug + Send + Sync + 'static {
    /// Applies a group in one durable transaction. Each commit stands or falls alone, in order: what a commit of the
    /// group wrote is seen by those after it. An error means that none of them was made, unless the database itself
    /// failed while it made the group durable: then look the operation up.
    ///
    /// Callers want a [`Committer`] in between: a transaction costs a disk flush, whatever is in it.
    async fn apply(&self, group: Vec<Commit>) -> Result<Vec<Result<Committed, Rejected>>, Error>;

    /// A consistent snapshot of one agent's state, as of now. Keep it no longer than a call: it holds back the space
    /// of all that is written meanwhile. Too many at once are refused as overloaded.
    async fn view(&self, agent: &AgentId) -> Result<Box<dyn View>, Error>;

    /// How much an agent's state is.
    async fn held(&self, agent: &AgentId) -> Result<Held, Error>;

    /// One record.
    async fn record(&self, kind: Kind, id: &str) -> Result<Option<Vec<u8>>, Error>;

    /// Records of a kind in the byte order of their ids, those after `after`. One that is damaged fails all.
    async fn records(&self, kind: Kind, after: Option<&str>, limit: usize) -> Result<Vec<(String, Vec<u8>)>, Error>;

    /// The same, but damaged ones are left out and named: for whoever can do without them.
    async fn sound_records(&self, kind: Kind, after: Option<&str>, limit: usize) -> Result<SoundRecords, Error>;

    /// What an agreement used, by bucket, in the byte order of the buckets' names.
    async fn usage(&self, agreement: &AgreementId) -> Result<Vec<(String, Usage)>, Error>;

    /// The answer given before under this idempotency key, if it hasn't expired at `now_s` (Unix seconds).
    async fn answer(&self, scope: &str, key: &str, now_s: i64) -> Result<Option<Vec<u8>>, Error>;

    /// Answers whose scope begins with `scope` and that haven't expired at `now_s` (Unix seconds), in the byte order of scope
    /// and key, those after `after`.
    async fn answers(&self, scope: &str, after: Option<(String, String)>, now_s: i64, limit: usize) -> Result<Vec<Answer>, Error>;

    /// How many entries the trace log has.
    async fn log_size(&self) -> Result<u64, Error>;

    /// Entries of the trace log from an index on.
    async fn entries(&self, from: u64, limit: usize) -> Result<Vec<LoggedEntry>, Error>;

    /// Leaf hashes of the trace log from an index on.
    async fn leaves(&self, from: u64, limit: usize) -> Result<Vec<Hash>, Error>;

    /// Hashes of completed subtrees of a level, from an index on up to the first that isn't there.
    async fn nodes(&self, level: u8, from: u64, limit: usize) -> Result<Vec<Hash>, Error>;

    /// The trace entry of an operation.
    async fn entry_of(&self, operation: &OperationId) -> Result<Option<LoggedEntry>, Error>;

    /// Drops the answers that have expired at `now_s` (Unix seconds); says how many.
    async fn forget(&self, now_s: i64) -> Result<u64, Error>;

    /// Looks through all of it for what isn't as it was written, for at most so long. What it finds decides what later reads that
    /// find nothing are worth.
    async fn check(&self, within: Option<Duration>) -> Result<Checked, Error>;

    /// The damaged rows that are known so far.
    fn damaged(&self) -> Vec<DamagedRow>;

    /// Ends it in an orderly way; calls that come later fail with [`Error::Closed`]. Closing twice is no error.
    async fn close(&self) -> Result<(), Error>;
}

/// A snapshot of one agent's state.
#[async_trait]
pub trait View: Send {
    /// The value of a key.
    async fn get(&mut self, key: &str) -> Result<Option<Vec<u8>>, Error>;

    /// Keys and their values after `after`, in byte order, up to `bytes` of them: at least one, if there is one. None means
    /// that there are no more.
    async fn scan(&mut self, after: Option<&str>, bytes: usize) -> Result<Vec<(String, Vec<u8>)>, Error>;

    /// How much the state is.
    async fn held(&mut self) -> Result<Held, Error>;

    /// What is known of the state's changes; none if they aren't kept.
    async fn tracked(&mut self) -> Result<Option<Tracked>, Error>;

    /// Keys that were written or deleted since the base, or the first mark if there is no base yet; those after `after`, in
    /// byte order. Some may be the same as they were.
    async fn changed(&mut self, after: Option<&str>, limit: usize) -> Result<Vec<String>, Error>;

    /// Keys that start with `prefix` and come after `after`, in byte order.
    async fn list(&mut self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Vec<String>, Error>;
}
