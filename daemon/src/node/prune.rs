//! Retention: old entries lose their content. Their hashes stay, so that the log still proves what is kept, that any of its
//! checkpoints only adds to those before, and that nobody changed it.
//!
//! ```text
//! age ──► index ── at most up to what is signed, and what webhooks are still to be told; whole tiles ──► until
//! one commit:        Prune { until } in the trace, and a record of it
//! some at a time:    content deleted, but for entries under agreements that are open: those are looked at again next time
//! ```

use std::time::Duration;

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use parking_lot::RwLock;
use protocol::{
    AgreementId, Code, Problem, SignedDuration, Timestamp,
    agreement::Status,
    api::{Pruned, Pruning},
    entry::Action,
    tile::WIDTH,
};
use serde::{Deserialize, Serialize};
use store::{Commit, Kind, LoggedEntry, RecordWrite, Store};
use tokio_util::sync::CancellationToken;

use super::{Caller, Node, journal};

/// Entries looked at, and deleted, in one transaction: some 10 ms, so that calls get in between.
const BATCH: usize = 1_000;
/// How often it is looked what has become old enough, and how long after a start for the first time.
const EVERY: Duration = Duration::from_secs(3_600);
const FIRST: Duration = Duration::from_secs(10);
/// Under which name a node remembers what was pruned.
const PRUNED: &str = "pruned";

/// How far a log was pruned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct State {
    #[serde(flatten)]
    pruned: Pruned,
    /// No entry before this one has content.
    from: u64,
}

impl State {
    fn record(&self) -> RecordWrite {
        RecordWrite { kind: Kind::Meta, id: PRUNED.into(), value: Some(journal::encode(self)) }
    }
}

/// What was pruned.
#[derive(Debug, Default)]
pub(super) struct Retention {
    state: RwLock<Option<State>>,
    /// Held while something is pruned.
    running: tokio::sync::Mutex<()>,
}

impl Retention {
    pub(super) async fn open(store: &dyn Store) -> Result<Self, Problem> {
        let bytes = store.record(Kind::Meta, PRUNED).await?;
        let state = bytes.map(|bytes| journal::decode("note of what was pruned", &bytes)).transpose()?;
        Ok(Self { state: RwLock::new(state), running: tokio::sync::Mutex::default() })
    }

    /// What has no content any more, if anything.
    pub(super) fn pruned(&self) -> Option<Pruned> {
        self.state.read().map(|state| state.pruned)
    }
}

/// What decides whether an entry is kept.
#[derive(Deserialize)]
struct Outline {
    agreement: Option<AgreementId>,
}

impl Node {
    /// Deletes the content of entries that are older than this, of those under open agreements excepted. What a crash interrupts
    /// is done by the next time.
    pub(crate) async fn prune(&self, caller: &Caller, older_than: SignedDuration) -> Result<Pruning, Problem> {
        let retention = self.trace.retention();
        let _one_at_a_time = retention.running.lock().await;
        let believed = self.journal.clock().believed();
        if self.journal.clock().is_doubted() {
            tracing::warn!(%believed, "the clock is ahead of what is proven: what became old since then isn't pruned yet");
        }
        let cutoff = believed.saturating_sub(older_than).unwrap_or(Timestamp::MIN);
        self.declare(caller, cutoff).await?;
        let before = *retention.state.read();
        let Some(before) = before else { return Ok(Pruning { pruned: None, cleared: 0 }) };
        let until = before.pruned.until;
        let (mut at, mut kept, mut first_kept, mut cleared) = (before.from, 0, None, 0);
        while at < until {
            let entries = self.journal.store().entries(at, BATCH).await?;
            let Some(last) = entries.last() else { break };
            at = last.index + 1;
            let mut prune = Vec::new();
            for logged in entries.iter().filter(|logged| logged.index < until && !logged.entry.is_empty()) {
                if self.needs(logged) {
                    kept += 1;
                    first_kept.get_or_insert(logged.index);
                } else {
                    prune.push(logged.index);
                }
            }
            cleared += prune.len() as u64;
            if !prune.is_empty() {
                self.journal.keep(Commit { prune, ..Commit::default() }).await?;
            }
        }
        let after = State { pruned: Pruned { kept, ..before.pruned }, from: first_kept.unwrap_or(until) };
        if after != before {
            self.journal.keep(Commit { records: vec![after.record()], ..Commit::default() }).await?;
            *retention.state.write() = Some(after);
        }
        Ok(Pruning { pruned: Some(after.pruned), cleared })
    }

    /// Enters into the trace how far it is pruned from now on, if that is further than before.
    async fn declare(&self, caller: &Caller, cutoff: Timestamp) -> Result<(), Problem> {
        let retention = self.trace.retention();
        let before = *retention.state.read();
        let old = self.trace.index_at(cutoff, before.map_or(0, |before| before.pruned.until)).await?;
        let signed = self.trace.checkpoint().await?.size;
        // None is made meanwhile that wants what goes now.
        let (_held, untold) = self.webhooks.untold().await?;
        if untold < old {
            tracing::warn!(from = untold, "a webhook is still to be told of old entries, which are not pruned: see 'mcpctl webhook list'");
        }
        let until = old.min(signed).min(untold);
        let until = until - until % u64::from(WIDTH);
        if before.is_some_and(|before| before.pruned.until >= until) || until == 0 {
            return Ok(());
        }
        let pruned = Pruned { until, at: Timestamp::now(), kept: 0 };
        let state = State { pruned, from: before.map_or(0, |before| before.from) };
        self.enter_action(caller, Action::Prune { until }, vec![state.record()]).await?;
        tracing::info!(until, "pruning the trace");
        *retention.state.write() = Some(state);
        Ok(())
    }

    /// Whether an entry is still needed: it is what receipts of an open agreement tell of. What can't be read is kept, too.
    fn needs(&self, logged: &LoggedEntry) -> bool {
        let Ok(outline) = journal::decode::<Outline>("trace entry", &logged.entry) else { return true };
        let contract = outline.agreement.and_then(|id| self.agreements.find_open(&id));
        contract.is_some_and(|contract| contract.status(Timestamp::now()) != Status::Closed)
    }

    /// Prunes what has become so many days old, until cancelled; nothing, if that is 0.
    pub(crate) async fn keep_days(self, days: u64, stop: CancellationToken) {
        let mut pause = FIRST;
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(pause), if days > 0 => {}
            }
            pause = EVERY;
            let caller = Caller { principal: self.owner, request_id: String::new() };
            let age = SignedDuration::from_hours(i64::try_from(days).unwrap_or(i64::MAX).saturating_mul(24));
            let pruning = self.prune(&caller, age);
            tokio::select! {
                () = stop.cancelled() => return,
                pruned = pruning => match pruned {
                    Ok(Pruning { cleared: 0, .. }) => {}
                    Ok(Pruning { cleared, .. }) => tracing::info!(cleared, days, "pruned the trace"),
                    Err(problem) => tracing::error!(%problem, "can't prune the trace"),
                },
            }
        }
    }
}

/// The problem of an entry that has lost its content.
pub(super) fn without_content(logged: &LoggedEntry) -> Problem {
    let (index, hash) = (logged.index, BASE64.encode(logged.leaf));
    Problem::new(Code::Pruned, format!("the content of entry {index} was pruned; the trace has its hash: {hash}"))
        .hint("an export that was made before has it: 'mcpctl trace export' writes one")
}
