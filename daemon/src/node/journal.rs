//! The one way to write: a commit and its trace entry become durable together, or neither does.

use std::{collections::HashMap, sync::Arc, time::Duration};

use futures::future;
use parking_lot::Mutex;
use protocol::{AgreementId, Code, Did, MeshId, OperationId, Problem, Timestamp, entry, entry::Action, merkle};
use store::{Append, Commit, Committed, Committer, Kind, RecordWrite, SoundRecords, Store};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::clock::Clock;

/// How long a commit that nobody waits for may wait for company. Each flush of the disk costs all others the same.
const LATER: Duration = Duration::from_millis(200);
/// Of those, how many may wait: two groups' worth of the store's queue. Whoever brings one more waits for the disk.
const MAX_WAITING: usize = 2_048;

/// The store behind its group commit.
#[derive(Debug, Clone)]
pub(crate) struct Journal {
    store: Arc<dyn Store>,
    committer: Committer,
    mesh: MeshId,
    clock: Clock,
    /// Commits whose loss in a crash the next one makes good.
    waiting: Arc<Mutex<Vec<Commit>>>,
    /// Records of which only the newest counts, by their ids, with their numbers.
    newest: Arc<Mutex<Newest>>,
    flushing: Arc<tokio::sync::Mutex<()>>,
    /// The length of the trace, for those who follow it.
    grown: watch::Sender<u64>,
}

/// Records by their ids, with their numbers.
type Newest = HashMap<(Kind, String), (u64, RecordWrite)>;

/// What an entry says beside the action itself.
#[derive(Debug)]
pub(crate) struct Note<'a> {
    pub(crate) operation: OperationId,
    pub(crate) principal: Did,
    pub(crate) agreement: Option<AgreementId>,
    pub(crate) failure: Option<Code>,
    pub(crate) request_id: &'a str,
}

impl<'a> Note<'a> {
    /// An operation of `principal` that succeeded, under no agreement.
    pub(crate) fn plain(principal: Did, request_id: &'a str) -> Self {
        Self { operation: OperationId::new(), principal, agreement: None, failure: None, request_id }
    }
}

impl Journal {
    pub(crate) fn new(store: Arc<dyn Store>, mesh: MeshId, clock: Clock) -> Self {
        Self {
            committer: Committer::spawn(Arc::clone(&store)),
            store,
            mesh,
            clock,
            waiting: Arc::default(),
            newest: Arc::default(),
            flushing: Arc::default(),
            grown: watch::Sender::new(0),
        }
    }

    /// The store, to read.
    pub(crate) fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    /// Which time is believed before something is forgotten for good.
    pub(crate) fn clock(&self) -> &Clock {
        &self.clock
    }

    /// Tells the store which time is believed, every ten minutes or at once: what a later start goes by.
    pub(crate) async fn note_time(&self, at_once: bool) {
        let Some(record) = self.clock.note(at_once) else { return };
        if let Err(error) = self.commit(Commit { records: vec![record], ..Commit::default() }).await {
            tracing::warn!(%error, "the time is not noted");
        }
    }

    /// The entry of an action, ready to be appended.
    pub(crate) fn append(&self, note: Note<'_>, action: Action) -> Append {
        let entry = entry::Entry {
            version: entry::VERSION,
            operation: note.operation,
            time: Timestamp::now(),
            mesh: self.mesh.clone(),
            principal: note.principal,
            agreement: note.agreement,
            action,
            failure: note.failure,
            request_id: Some(note.request_id.to_owned()),
        };
        let bytes = serde_json::to_vec(&entry).expect("entries have text keys and finite numbers");
        Append { operation: note.operation, leaf: merkle::leaf_hash(&bytes), entry: bytes }
    }

    /// Commits, and answers once it is durable.
    pub(crate) async fn commit(&self, commit: Commit) -> Result<Committed, store::Error> {
        let committed = self.committer.commit(commit).await?;
        if let Some(index) = committed.index {
            self.grown.send_if_modified(|length| std::mem::replace(length, (*length).max(index + 1)) <= index);
        }
        Ok(committed)
    }

    /// Rings whenever the trace has grown.
    pub(crate) fn grown(&self) -> watch::Receiver<u64> {
        self.grown.subscribe()
    }

    /// Commits what can only fail with the store itself.
    pub(crate) async fn keep(&self, commit: Commit) -> Result<Committed, Problem> {
        Ok(self.commit(commit).await?)
    }

    /// Commits soon, together with others, without anybody waiting: only for what the next such commit makes good if a
    /// crash takes it.
    pub(crate) async fn keep_soon(&self, commit: Commit) {
        let full = {
            let mut waiting = self.waiting.lock();
            waiting.push(commit);
            waiting.len() >= MAX_WAITING
        };
        if full {
            self.flush().await;
        }
    }

    /// Puts a record soon, together with others, without anybody waiting: only for what its next version makes good if a crash
    /// takes it. Of those that wait the one of the largest number is put; there are as many as agreements in use.
    pub(crate) fn keep_newest(&self, record: RecordWrite, number: u64) {
        let mut newest = self.newest.lock();
        let waits = newest.entry((record.kind, record.id.clone())).or_insert_with(|| (number, record.clone()));
        if waits.0 <= number {
            *waits = (number, record);
        }
    }

    /// Commits what waits.
    pub(crate) async fn flush(&self) {
        // One at a time, so that an older receipt never lands on a newer one.
        let flushing = Arc::clone(&self.flushing).lock_owned().await;
        let mut waiting = std::mem::take(&mut *self.waiting.lock());
        let records: Vec<_> = self.newest.lock().drain().map(|(_, (_, record))| record).collect();
        if !records.is_empty() {
            waiting.push(Commit { records, ..Commit::default() });
        }
        if waiting.is_empty() {
            return;
        }
        let journal = self.clone();
        // A task of its own, awaited: whoever asked may go away, what was taken is committed all the same.
        let committing = tokio::spawn(async move {
            for committed in future::join_all(waiting.into_iter().map(|commit| journal.commit(commit))).await {
                match committed {
                    // A repeated call: its entry is there already.
                    Ok(_) | Err(store::Error::Rejected(store::Rejected::Logged { .. })) => {}
                    Err(error) => tracing::error!(%error, "a receipt was not kept"),
                }
            }
            drop(flushing);
        });
        if let Err(error) = committing.await {
            tracing::error!(%error, "receipts were not kept");
        }
    }

    /// Flushes whenever something waits, until cancelled.
    pub(crate) async fn run(self, stop: CancellationToken) {
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                () = tokio::time::sleep(LATER) => self.flush().await,
            }
        }
    }

    /// Finishes what is queued and closes the store.
    pub(crate) async fn close(&self) -> Result<(), store::Error> {
        self.flush().await;
        self.committer.clone().shutdown().await;
        self.store.close().await
    }
}

/// Encodes a record for the store.
pub(crate) fn encode<T: serde::Serialize>(record: &T) -> Vec<u8> {
    serde_json::to_vec(record).expect("records have text keys and finite numbers")
}

/// Decodes a record from the store.
pub(crate) fn decode<T: serde::de::DeserializeOwned>(what: &str, bytes: &[u8]) -> Result<T, Problem> {
    serde_json::from_slice(bytes).map_err(|error| Problem::new(Code::StoreFailed, format!("the stored {what} can't be read: {error}")))
}

/// Every record of a kind, page by page.
pub(crate) async fn all_records(store: &dyn Store, kind: store::Kind) -> Result<Vec<(String, Vec<u8>)>, Problem> {
    const PAGE: usize = 1_000;
    let mut records: Vec<(String, Vec<u8>)> = Vec::new();
    loop {
        let after = records.last().map(|(id, _)| id.clone());
        let page = store.records(kind, after.as_deref(), PAGE).await?;
        let last = page.len() < PAGE;
        records.extend(page);
        if last {
            return Ok(records);
        }
    }
}

/// The same, without those that are damaged: for what works without one of them. They are named in the log.
pub(crate) async fn sound_records(store: &dyn Store, kind: store::Kind) -> Result<SoundRecords, Problem> {
    const PAGE: usize = 1_000;
    let mut all = SoundRecords::default();
    loop {
        let after = all.records.last().map(|(id, _)| id.clone());
        let page = store.sound_records(kind, after.as_deref(), PAGE).await?;
        let last = page.records.len() < PAGE;
        all.records.extend(page.records);
        all.damaged.extend(page.damaged);
        if last {
            return Ok(all);
        }
    }
}

/// A note of the node's own that can be made again: a damaged one is as good as none.
pub(crate) async fn noted(store: &dyn Store, id: &str) -> Result<Option<Vec<u8>>, Problem> {
    match store.record(Kind::Meta, id).await {
        Err(store::Error::DamagedRow(_)) => Ok(None),
        found => Ok(found?),
    }
}
