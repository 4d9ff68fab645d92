//! How many agreements others may make with this owner, how often, and what becomes of those that came to nothing.
//!
//! ```text
//! a proposal ─> known? the same answer ─> rate ─> policy ─> places ─> kept
//! lapsed unsigned            deleted at once, from memory and store
//! closed without a call      the newest MAX_UNUSED are kept
//! ```
//! What is refused by rate, policy or places leaves nothing behind.

use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, Instant},
};

use agreement::rate::{Rate, Rates};
use parking_lot::Mutex;
use protocol::{
    AgreementId, Code, Did, NodeId, Problem, SignedDuration, Timestamp,
    agreement::{Agreement, Status},
    document::Sealed,
    statement::Closing,
};
use store::{Commit, Kind, RecordWrite};

use super::{Agreements, Contract, MAX_OPEN, Standing};
use crate::node::journal;

/// Of the places in memory, those that only what this owner proposes itself may take.
const OWN_PLACES: usize = 1_000;
/// Places that the proposals and agreements of one node, or of one principal, may take.
const MAX_EACH: usize = 256;
/// Proposals of one node, or of one principal, that wait for this owner's answer.
const MAX_WAITING: usize = 16;
/// Proposals that wait, of principals without any agreement in force: keys cost nothing.
const MAX_WAITING_NEW: usize = 1_024;
/// New proposals of one node, and of one principal: a consumer that starts may agree on a hundred agents at once.
const EACH: Rate = Rate { burst: 128, every: Duration::from_secs(10) };
/// New proposals of all principals together that have no agreement in force.
const NEWCOMERS: Rate = Rate { burst: 256, every: Duration::from_secs(1) };
/// Nodes, and principals, whose rates are remembered; about 100 bytes each.
const MAX_RATES: usize = 4_096;
/// Agreements without any call whose closed books are kept, about 4 KB each: of later ones the oldest go.
const MAX_UNUSED: usize = 1_000;
/// Records deleted in one commit: some milliseconds, so that calls get in between.
const GROUP: usize = 256;

/// How often proposals may come. Time is that since the node's start, which no clock sets back.
#[derive(Debug)]
pub(super) struct Admission {
    since: Instant,
    nodes: Mutex<Rates<NodeId>>,
    principals: Mutex<Rates<Did>>,
    newcomers: Mutex<Rates<()>>,
}

impl Default for Admission {
    fn default() -> Self {
        Self {
            since: Instant::now(),
            nodes: Mutex::new(Rates::new(EACH, MAX_RATES)),
            principals: Mutex::new(Rates::new(EACH, MAX_RATES)),
            newcomers: Mutex::new(Rates::new(NEWCOMERS, 1)),
        }
    }
}

/// What a start finds of agreements that are over.
#[derive(Debug, Default)]
pub(super) struct Past {
    pub(super) lapsed: Vec<String>,
    unused: Vec<(Timestamp, AgreementId)>,
    ended: Vec<(Timestamp, Agreement)>,
}

/// What others hold of the places.
#[derive(Debug, Default)]
struct Taken {
    of_others: usize,
    of_node: usize,
    of_principal: usize,
    waiting_of_node: usize,
    waiting_of_principal: usize,
    waiting: usize,
    in_force: bool,
}

impl Agreements {
    /// Counts a new proposal against the rates of its node and its principal.
    pub(crate) fn admit(&self, from: NodeId, consumer: Did) -> Result<(), Problem> {
        let now = self.admission.since.elapsed();
        let newcomer = !self.open.read().values().any(|contract| {
            let standing = contract.standing.lock();
            self.of_others(&standing).is_some_and(|terms| terms.consumer == consumer) && standing.state.status == Status::Active
        });
        let mut taken = self.admission.nodes.lock().take(from, now).map_err(|wait| ("node", wait));
        taken = taken.and_then(|()| self.admission.principals.lock().take(consumer, now).map_err(|wait| ("principal", wait)));
        if newcomer {
            taken = taken.and_then(|()| self.admission.newcomers.lock().take((), now).map_err(|wait| ("newcomer", wait)));
        }
        taken.map_err(|(whose, wait)| {
            let whose = if whose == "newcomer" { "principals without an agreement in force".into() } else { format!("this {whose}") };
            let mut problem = Problem::new(Code::Overloaded, format!("too many proposals of {whose} came lately"));
            problem.retry_after = Some(u32::try_from(wait.as_secs()).unwrap_or(u32::MAX).saturating_add(1));
            problem
        })
    }

    /// Whether there is a place for one more agreement of this status.
    pub(super) fn check_places(&self, terms: &Agreement, status: Status, now: Timestamp) -> Result<(), Problem> {
        let open = self.open.read();
        let full =
            |what: String| Err(Problem::new(Code::Overloaded, what).hint("close agreements that are not used, or withdraw proposals"));
        if terms.provider != self.owner || terms.consumer == self.owner {
            return if open.len() < MAX_OPEN { Ok(()) } else { full(format!("this node holds {MAX_OPEN} open agreements, its most")) };
        }
        let taken = self.taken(open.values(), terms, now);
        drop(open);
        if taken.of_others >= MAX_OPEN - OWN_PLACES {
            return full(format!("the provider holds {} agreements of others, its most", taken.of_others));
        }
        if taken.of_node >= MAX_EACH || taken.of_principal >= MAX_EACH {
            return full(format!("the provider holds {MAX_EACH} agreements with this consumer, as many as it may have"));
        }
        if status != Status::Proposed {
            return Ok(());
        }
        if taken.waiting_of_node >= MAX_WAITING || taken.waiting_of_principal >= MAX_WAITING {
            return full(format!("{MAX_WAITING} proposals of this consumer wait for the provider's answer, as many as may"));
        }
        if taken.waiting >= MAX_WAITING_NEW && !taken.in_force {
            return full(format!("{} proposals wait for the provider's answer, as many as may of new consumers", taken.waiting));
        }
        Ok(())
    }

    fn taken<'a>(&self, open: impl Iterator<Item = &'a Arc<Contract>>, new: &Agreement, now: Timestamp) -> Taken {
        let mut taken = Taken::default();
        for contract in open {
            let standing = contract.standing.lock();
            let Some(terms) = self.of_others(&standing) else { continue };
            let (same_node, same_principal) = (terms.consumer_node == new.consumer_node, terms.consumer == new.consumer);
            let status = standing.state.effective(terms, now);
            let waits = status == Status::Proposed;
            taken.of_others += 1;
            taken.of_node += usize::from(same_node);
            taken.of_principal += usize::from(same_principal);
            taken.waiting += usize::from(waits);
            taken.waiting_of_node += usize::from(waits && same_node);
            taken.waiting_of_principal += usize::from(waits && same_principal);
            taken.in_force |= same_principal && status == Status::Active;
        }
        taken
    }

    /// The terms, if others have proposed them to this owner.
    fn of_others<'a>(&self, standing: &'a Standing) -> Option<&'a Agreement> {
        let terms = standing.signed.document();
        (terms.provider == self.owner && terms.consumer != self.owner).then_some(terms)
    }

    /// Whether it is a proposal of somebody else that was never signed here.
    pub(super) fn is_proposal_of_others(&self, standing: &Standing) -> bool {
        standing.state.status == Status::Proposed && self.of_others(standing).is_some()
    }

    /// Deletes a proposal that has lapsed. It changed nothing for anybody, so the trace has no more of it than that it came.
    pub(super) async fn drop_lapsed(&self, contract: &Contract) -> Result<(), Problem> {
        self.delete(&[contract.id.to_string()]).await?;
        self.forget(contract);
        Ok(())
    }

    /// Whether a record is a proposal of somebody else that has lapsed unsigned: seen before any signature is verified.
    pub(super) fn has_lapsed(&self, bytes: &[u8]) -> bool {
        let Ok(sealed) = journal::decode::<Sealed<Agreement>>("agreement", bytes) else { return false };
        let unsigned = sealed.envelope().signatures.len() == 1;
        let lapsed =
            |terms: &Agreement| terms.provider == self.owner && terms.consumer != self.owner && terms.header.expires_at <= self.opened;
        unsigned && claimed(&sealed).is_some_and(|terms| lapsed(&terms))
    }

    /// Takes note, at the start, of an agreement whose books are closed.
    pub(super) fn recall(&self, id: &str, agreement: &[u8], closing: &[u8], past: &mut Past) {
        let terms = journal::decode::<Sealed<Agreement>>("agreement", agreement).ok().as_ref().and_then(claimed);
        let (Some(terms), Ok(closing)) = (terms, journal::decode::<Closing>("closing", closing)) else {
            tracing::error!(id, "a closed agreement can't be read");
            return;
        };
        if terms.consumer == self.owner {
            if self.opened.duration_since(closing.at) < SignedDuration::from_hours(24) {
                past.ended.push((closing.at, terms));
            }
        } else if is_unused(&closing) {
            past.unused.push((closing.at, terms.id));
        }
    }

    /// Deletes what a start found to have lapsed, and remembers what ended lately.
    pub(super) async fn forget_past(&self, mut past: Past) -> Result<(), Problem> {
        past.ended.sort_by_key(|(at, _)| *at);
        for (_, terms) in past.ended {
            self.remember_end(terms.agent, terms.id);
        }
        past.unused.sort_unstable_by_key(|(at, _)| *at);
        let surplus = past.unused.len().saturating_sub(MAX_UNUSED);
        past.lapsed.extend(past.unused.drain(..surplus).map(|(_, id)| id.to_string()));
        *self.unused.lock() = past.unused.into_iter().map(|(_, id)| id).collect();
        if !past.lapsed.is_empty() {
            tracing::info!(count = past.lapsed.len(), "deleting proposals that lapsed, and agreements that were never used");
        }
        self.delete(&past.lapsed).await
    }

    /// The books of an agreement are closed. If it was never used, and others like it are many, the oldest of those goes.
    pub(super) async fn forget_unused(&self, contract: &Contract, closing: &Closing) -> Result<(), Problem> {
        let ours = contract.terms().consumer == self.owner;
        if ours || !is_unused(closing) {
            return Ok(());
        }
        let oldest = {
            let mut unused = self.unused.lock();
            unused.push_back(contract.id);
            if unused.len() > MAX_UNUSED { unused.pop_front() } else { None }
        };
        match oldest {
            Some(oldest) => self.delete(&[oldest.to_string()]).await,
            None => Ok(()),
        }
    }

    /// Deletes all records of agreements that nothing was ever charged under.
    async fn delete(&self, ids: &[String]) -> Result<(), Problem> {
        let mut records = Vec::new();
        for id in ids {
            let gone = |kind, id: String| RecordWrite { kind, id, value: None };
            let kinds = [Kind::Agreement, Kind::Untold, Kind::Receipt, Kind::Closing];
            records.extend(kinds.map(|kind| gone(kind, id.clone())));
            let prefix = format!("{id}/");
            let transitions = self.journal.store().records(Kind::Transition, Some(&prefix), super::MAX_TRANSITIONS + 1).await?;
            let theirs = transitions.into_iter().map(|(id, _)| id).take_while(|id| id.starts_with(&prefix));
            records.extend(theirs.map(|id| gone(Kind::Transition, id)));
        }
        for group in records.chunks(GROUP) {
            self.journal.keep(Commit { records: group.to_vec(), ..Commit::default() }).await?;
        }
        Ok(())
    }
}

/// Ids of closed agreements without a call, the oldest first.
pub(super) type Unused = Mutex<VecDeque<AgreementId>>;

fn is_unused(closing: &Closing) -> bool {
    closing.receipt == 0 && closing.unacknowledged == 0 && closing.total.calls == 0
}

/// The terms that an envelope claims to hold, as this node's own store has it.
fn claimed(sealed: &Sealed<Agreement>) -> Option<Agreement> {
    serde_json::from_slice(&sealed.envelope().claimed_payload().ok()?).ok()
}
