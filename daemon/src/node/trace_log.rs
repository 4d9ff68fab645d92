//! The node's trace: checkpoints signed as the log grows, and proofs from stored hashes.
//!
//! ```text
//! commit -> (index, leaf) durable     the journal, on every operation
//!              |
//! every few seconds: leaves -> Tree -> completed subtrees + signed checkpoint -> one commit
//! ```
//! Merkle maths stays out of the path of a call: a receipt promises a position, the next checkpoint fulfils it.

use std::{sync::Arc, time::Duration};

use protocol::{
    Code, Key, OperationId, Problem,
    api::{Pruned, SignedCheckpoint, TraceItem, TraceVerified},
    checkpoint::Checkpoint,
    entry::{Action, ConsistencyProof, Entry, InclusionProof},
    merkle::Hash,
    witness::Link,
};
use store::{Commit, Kind, LoggedEntry, RecordWrite, Store, TreeNode};
use tokio::sync::Mutex;
use trace::{Auditor, Plan, Tree};

use super::{
    journal::Journal,
    prune::{Retention, without_content},
};

/// Leaves hashed, and entries audited, at a time.
const PAGE: usize = 4_096;

/// The trace of this node.
#[derive(Debug)]
pub(crate) struct TraceLog {
    journal: Journal,
    key: Key,
    head: Mutex<Head>,
    retention: Retention,
}

/// The tree as far as it was signed.
#[derive(Debug)]
struct Head {
    tree: Tree,
    note: Option<String>,
}

impl TraceLog {
    /// Restores the tree of the newest checkpoint.
    pub(crate) async fn open(journal: Journal, key: Key) -> Result<Self, Problem> {
        let (tree, note) = match newest(journal.store().as_ref()).await? {
            None => (Tree::new(), None),
            Some(bytes) => {
                let note = String::from_utf8(bytes).map_err(|_| damaged("the newest checkpoint is not text"))?;
                let checkpoint = Checkpoint::verify(&note).map_err(|error| damaged(&error.to_string()))?;
                let tree = restore(journal.store().as_ref(), checkpoint.size).await?;
                if tree.root() != checkpoint.root || checkpoint.node != key.node_id() {
                    return Err(damaged("its hashes do not lead to the newest checkpoint"));
                }
                (tree, Some(note))
            }
        };
        let retention = Retention::open(journal.store().as_ref()).await?;
        Ok(Self { journal, key, head: Mutex::new(Head { tree, note }), retention })
    }

    /// Signs what was appended since the last checkpoint.
    pub(crate) async fn checkpoint(&self) -> Result<SignedCheckpoint, Problem> {
        self.journal.flush().await;
        let mut head = self.head.lock().await;
        let size = self.journal.store().log_size().await?;
        if head.note.is_none() || head.tree.size() < size {
            let (tree, nodes) = grow(self.journal.store().as_ref(), head.tree.clone(), size).await?;
            let checkpoint = Checkpoint { node: self.key.node_id(), size, root: tree.root() };
            let note = checkpoint.sign(&self.key);
            let record = |kind, id: String| RecordWrite { kind, id, value: Some(note.clone().into_bytes()) };
            let records = vec![record(Kind::Checkpoint, format!("{size:020}")), record(Kind::Meta, NEWEST.into())];
            self.journal.keep(Commit { records, nodes, ..Commit::default() }).await?;
            *head = Head { tree, note: Some(note) };
        }
        let checkpoint = Checkpoint { node: self.key.node_id(), size: head.tree.size(), root: head.tree.root() };
        let note = head.note.clone().unwrap_or_default();
        Ok(SignedCheckpoint { note, size: checkpoint.size, verifier_key: checkpoint.verifier_key(), cosigners: Vec::new() })
    }

    /// The newest checkpoint that was signed, and its note; none before the first.
    pub(crate) async fn signed(&self) -> Option<(Checkpoint, String)> {
        let head = self.head.lock().await;
        let checkpoint = Checkpoint { node: self.key.node_id(), size: head.tree.size(), root: head.tree.root() };
        head.note.clone().map(|note| (checkpoint, note))
    }

    /// How this log came from a size that it once had to a checkpoint's. Of a size that it doesn't have there is nothing to show.
    pub(crate) async fn link(&self, from: u64, to: &Checkpoint) -> Result<Link, Problem> {
        if from > to.size {
            return Ok(Link { from, root: to.root, hashes: Vec::new() });
        }
        let store = self.journal.store().as_ref();
        let (past, plan) = (trace::proof::frontier(from), trace::proof::consistency(from, to.size)?);
        let root = Tree::restore(from, past.assemble(read(store, &past).await?)?)?.root();
        Ok(Link { from, root, hashes: plan.assemble(read(store, &plan).await?)? })
    }

    /// Signs whenever the log has grown, until cancelled.
    pub(crate) async fn run(self: Arc<Self>, every: Duration, stop: tokio_util::sync::CancellationToken) {
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                () = tokio::time::sleep(every) => {}
            }
            if let Err(problem) = self.checkpoint().await {
                tracing::error!(%problem, "can't sign a checkpoint");
            }
        }
    }

    /// Proves that an operation is in the log.
    pub(crate) async fn prove(&self, operation: &OperationId) -> Result<InclusionProof, Problem> {
        let logged = self.journal.store().entry_of(operation).await?;
        let logged = logged.ok_or_else(|| Problem::new(Code::NotFound, format!("operation {operation} is not in this node's trace")))?;
        if logged.entry.is_empty() {
            return Err(without_content(&logged));
        }
        let checkpoint = self.checkpoint().await?;
        let plan = trace::proof::inclusion(logged.index, checkpoint.size)?;
        let hashes = plan.assemble(read(self.journal.store().as_ref(), &plan).await?)?;
        let entry = String::from_utf8(logged.entry).map_err(|_| damaged("an entry is not text"))?;
        let proof = InclusionProof { index: logged.index, entry, hashes, checkpoint: checkpoint.note };
        proof.verify().map_err(|error| damaged(&error.to_string()))?;
        Ok(proof)
    }

    /// Proves that the log at its signed size `to` (the newest if none) only adds to that at its signed size `from`.
    pub(crate) async fn consistency(&self, from: u64, to: Option<u64>) -> Result<ConsistencyProof, Problem> {
        let newest = self.checkpoint().await?;
        let old = self.signed_at(from).await?;
        let (size, new) = match to {
            Some(size) => (size, self.signed_at(size).await?),
            None => (newest.size, newest.note),
        };
        if from > size {
            return Err(Problem::new(Code::InvalidRequest, format!("'from' ({from}) is over 'to' ({size})")));
        }
        let plan = trace::proof::consistency(from, size)?;
        let hashes = plan.assemble(read(self.journal.store().as_ref(), &plan).await?)?;
        Ok(ConsistencyProof { old, new, hashes })
    }

    async fn signed_at(&self, size: u64) -> Result<String, Problem> {
        let bytes = self.journal.store().record(Kind::Checkpoint, &format!("{size:020}")).await?;
        let missing = || {
            Problem::new(Code::NotFound, format!("no checkpoint was signed at size {size}"))
                .hint("'mcpctl trace checkpoint' tells the newest size")
        };
        String::from_utf8(bytes.ok_or_else(missing)?).map_err(|_| damaged("a checkpoint is not text"))
    }

    /// Recomputes the whole log from its entries and holds it against every checkpoint that was signed.
    pub(crate) async fn verify(&self) -> Result<TraceVerified, Problem> {
        let store = self.journal.store().as_ref();
        // Before all else, so that what says so is among the entries.
        let pruned = self.pruned();
        let (mut without, mut declared) = (0, false);
        // Before the newest is signed, so that none of them lies beyond it.
        let mut checkpoints = super::journal::all_records(store, Kind::Checkpoint).await?.into_iter().peekable();
        let checkpoint = self.checkpoint().await?;
        let mut auditor = Auditor::new(self.key.node_id());
        let mut matched = 0;
        loop {
            while let Some((_, note)) = checkpoints.next_if(|(id, _)| id.parse() == Ok(auditor.size())) {
                auditor.checkpoint(&String::from_utf8_lossy(&note))?;
                matched += 1;
            }
            if auditor.size() == checkpoint.size {
                break;
            }
            // Up to the next checkpoint, so that each is held against the tree of exactly its size.
            let next = checkpoints.peek().and_then(|(id, _)| id.parse::<u64>().ok()).unwrap_or(checkpoint.size);
            let wanted = next.saturating_sub(auditor.size()).clamp(1, PAGE as u64) as usize;
            let entries = store.entries(auditor.size(), wanted).await?;
            if entries.is_empty() {
                return Err(Problem::new(Code::ProofFailed, format!("entry {} is missing from the trace", auditor.size())));
            }
            for LoggedEntry { index, leaf, entry } in entries {
                if entry.is_empty() && self.pruned().is_some_and(|pruned| index < pruned.until) {
                    auditor.without_bytes(index, &leaf)?;
                    without += 1;
                    continue;
                }
                auditor.entry(index, &leaf, &entry)?;
                declared |= pruned.is_some_and(|pruned| says_pruned(&entry, pruned.until));
            }
        }
        if let Some(pruned) = pruned.filter(|_| !declared) {
            let detail = format!("entries before {} are said to be pruned, and no entry of the trace says so", pruned.until);
            return Err(Problem::new(Code::ProofFailed, detail));
        }
        // A checkpoint beyond the log's end: entries that were signed are gone.
        for (_, note) in checkpoints {
            auditor.checkpoint(&String::from_utf8_lossy(&note))?;
        }
        let entries = auditor.size();
        Ok(TraceVerified { entries, without_content: without, pruned, checkpoints: matched, checkpoint: checkpoint.note })
    }

    /// The entry at an index.
    pub(crate) async fn at(&self, index: u64) -> Result<TraceItem, Problem> {
        self.journal.flush().await;
        let found = self.journal.store().entries(index, 1).await?.pop().filter(|logged| logged.index == index);
        item(found.ok_or_else(|| Problem::new(Code::NotFound, format!("the trace has no entry {index}")))?)
    }

    /// One entry.
    pub(crate) async fn entry(&self, operation: &OperationId) -> Result<TraceItem, Problem> {
        self.journal.flush().await;
        let logged = self.journal.store().entry_of(operation).await?;
        item(logged.ok_or_else(|| Problem::new(Code::NotFound, format!("operation {operation} is not in this node's trace")))?)
    }

    /// What was pruned.
    pub(super) fn retention(&self) -> &Retention {
        &self.retention
    }

    /// The entries that have lost their content, if any have.
    pub(crate) fn pruned(&self) -> Option<Pruned> {
        self.retention.pruned()
    }

    /// The store, to read.
    pub(super) fn store(&self) -> &dyn Store {
        self.journal.store().as_ref()
    }

    /// Commits what waits, so that it is there to be read.
    pub(super) async fn flush(&self) {
        self.journal.flush().await;
    }

    /// Entries so far.
    pub(crate) async fn size(&self) -> Result<u64, Problem> {
        Ok(self.journal.store().log_size().await?)
    }
}

/// The record that holds the newest checkpoint.
const NEWEST: &str = "newest-checkpoint";

/// The newest checkpoint. Each is kept under its size, too.
async fn newest(store: &dyn Store) -> Result<Option<Vec<u8>>, Problem> {
    match store.record(Kind::Meta, NEWEST).await {
        Err(store::Error::DamagedRow(_)) => {
            let kept = super::journal::sound_records(store, Kind::Checkpoint).await?.records;
            Ok(kept.into_iter().next_back().map(|(_, note)| note))
        }
        found => Ok(found?),
    }
}

/// The tree of a size, from its stored hashes; from all leaves, if one of those is damaged.
async fn restore(store: &dyn Store, size: u64) -> Result<Tree, Problem> {
    let plan = trace::proof::frontier(size);
    let problem = match read(store, &plan).await {
        Ok(hashes) => return Ok(Tree::restore(size, plan.assemble(hashes)?)?),
        Err(problem) if problem.code == Code::StoreDamaged => problem,
        Err(problem) => return Err(problem),
    };
    tracing::warn!(%problem, size, "the trace's tree is computed again from its leaves");
    Ok(grow(store, Tree::new(), size).await?.0)
}

/// Appends the leaves up to `size`; returns the subtrees that they completed.
async fn grow(store: &dyn Store, mut tree: Tree, size: u64) -> Result<(Tree, Vec<TreeNode>), Problem> {
    let mut nodes = Vec::new();
    while tree.size() < size {
        let leaves = store.leaves(tree.size(), PAGE.min((size - tree.size()) as usize)).await?;
        if leaves.is_empty() {
            return Err(damaged(&format!("leaf {} is missing", tree.size())));
        }
        for leaf in leaves {
            nodes.extend(tree.append(leaf).into_iter().map(|node| TreeNode { level: node.level, index: node.index, hash: node.hash }));
        }
    }
    Ok((tree, nodes))
}

/// Whether an entry says that those before an index were pruned.
fn says_pruned(entry: &[u8], index: u64) -> bool {
    // Before it is read as a whole: there are few of those among millions.
    if !std::str::from_utf8(entry).is_ok_and(|text| text.contains("\"action\":\"prune\"")) {
        return false;
    }
    let entry = super::journal::decode::<Entry>("trace entry", entry);
    entry.is_ok_and(|entry| entry.action == Action::Prune { until: index })
}

fn item(logged: LoggedEntry) -> Result<TraceItem, Problem> {
    if logged.entry.is_empty() {
        return Err(without_content(&logged));
    }
    Ok(TraceItem { index: logged.index, entry: super::journal::decode("trace entry", &logged.entry)? })
}

fn damaged(what: &str) -> Problem {
    Problem::new(Code::StoreFailed, format!("the trace is damaged: {what}"))
}

/// Reads the hashes that a plan needs.
async fn read(store: &dyn Store, plan: &Plan) -> Result<Vec<Vec<Hash>>, Problem> {
    let mut hashes = Vec::new();
    for read in plan.reads() {
        hashes.push(match read.level {
            0 => store.leaves(read.from, read.count as usize).await?,
            level => store.nodes(level, read.from, read.count as usize).await?,
        });
    }
    Ok(hashes)
}
