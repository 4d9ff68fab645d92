//! When agreements end, and what they close on.
//!
//! ```text
//! the end, or a closing step ── grace: last receipts, last news ──> the newest receipt of both signatures counts for good
//! ```
//!
//! A closing step that both sides know, with all receipts signed, needs no more than its own grace. Where the other side is
//! gone, the end of the terms and the grace after it are the last that anybody waits for.

use std::sync::Arc;

use protocol::{AgentId, AgreementId, Did, Problem, SignedDuration, Timestamp, agreement::Status, entry::Action, statement::Closing};
use store::{Commit, Kind, RecordWrite};

use super::{Agreements, Contract, Standing, receipts, steps::Untold};
use crate::node::{Caller, journal};

/// What is next for an agreement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    /// There is nothing to do before.
    Not(Timestamp),
    /// Its books are closed now.
    Due,
}

const SECOND: SignedDuration = SignedDuration::from_secs(1);
const MINUTE: SignedDuration = SignedDuration::from_mins(1);
/// Agreements with closed books that repeated calls find without naming them; 40 bytes each.
const MAX_ENDED: usize = 1_024;

fn later(time: Timestamp, by: SignedDuration) -> Timestamp {
    time.saturating_add(by).unwrap_or(Timestamp::MAX)
}

impl Agreements {
    /// Agreements whose books are to be closed now, and when to look for others.
    pub(crate) fn due(&self, now: Timestamp) -> (Vec<Arc<Contract>>, Option<Timestamp>) {
        let (mut due, mut next) = (Vec::new(), None);
        for contract in self.open.read().values() {
            let of_this = self.next(&contract.standing.lock(), now);
            let until = match of_this {
                // What is being settled isn't settled yet.
                Next::Due if contract.settling.try_lock().is_ok() => {
                    due.push(Arc::clone(contract));
                    continue;
                }
                Next::Due => later(now, SECOND),
                Next::Not(until) => until,
            };
            next = Some(next.map_or(until, |next: Timestamp| next.min(until)));
        }
        (due, next)
    }

    fn next(&self, standing: &Standing, now: Timestamp) -> Next {
        let terms = standing.signed.document();
        let graced = |end: Timestamp| later(end, self.grace);
        let ends = terms.header.expires_at;
        if self.is_proposal_of_others(standing) {
            return if now < ends { Next::Not(ends) } else { Next::Due };
        }
        let last = graced(ends.max(self.opened));
        let closed = (standing.state.status == Status::Closed).then(|| standing.closed_at()).flatten();
        let until = match closed.map(graced) {
            Some(early) if now < early.min(last) => early.min(last),
            Some(_) if standing.is_settled(terms.provider == self.owner) => now,
            None if now < ends => ends,
            Some(_) | None => last,
        };
        if now < until {
            return Next::Not(until);
        }
        // A call that began in time is still charged. None takes longer than its terms say.
        let wall = SignedDuration::from_millis(i64::try_from(terms.per_call.wall_ms).unwrap_or(i64::MAX));
        match standing.meter.under_way() {
            0 => Next::Due,
            _ => Next::Not(later(now, wall.clamp(SECOND, MINUTE))),
        }
    }

    /// Closes the books of an agreement on its newest receipt of both signatures, durably, once. `charged` are the provider's
    /// calls so far. False if the consumer's signature is missing under the newest receipt.
    pub(crate) async fn close(&self, contract: &Contract, charged: Option<u64>) -> Result<bool, Problem> {
        let _moving = self.moving.lock().await;
        let id = contract.id;
        if self.is_proposal_of_others(&contract.standing.lock()) {
            return self.drop_lapsed(contract).await.map(|()| true);
        }
        if self.journal.store().record(Kind::Closing, &id.to_string()).await?.is_some() {
            self.forget(contract);
            return Ok(true);
        }
        // From here on nothing more is taken, so that what is written is what the node has.
        let Some(closing) = contract.close_on(charged) else { return Ok(false) };
        let closed = self.write_closing(contract, &closing).await;
        {
            let mut standing = contract.standing.lock();
            standing.frozen = closed.is_ok();
            standing.closing = closed.is_ok().then(|| closing.clone());
        }
        closed?;
        self.forget(contract);
        if let Err(problem) = self.forget_unused(contract, &closing).await {
            tracing::warn!(%problem, "an agreement that was never used was not deleted");
        }
        Ok(true)
    }

    async fn write_closing(&self, contract: &Contract, closing: &Closing) -> Result<(), Problem> {
        let id = contract.id;
        if let Some(receipt) = contract.receipt() {
            self.journal.keep_newest(receipts::record(&receipt), receipt.document().sequence);
            self.journal.flush().await;
        }
        let record = RecordWrite { kind: Kind::Closing, id: id.to_string(), value: Some(journal::encode(closing)) };
        // A step that closed it has its entry; its end by itself has this one.
        let by_itself = contract.state().status != Status::Closed;
        let caller = Caller { principal: self.owner, request_id: "closing".into() };
        let entry = by_itself.then(|| {
            let mut note = caller.note();
            note.agreement = Some(id);
            self.journal.append(note, Action::Agreement { status: Status::Closed })
        });
        let counted = self.ended_record(contract, closing.at);
        let records = [record, Untold::over(&id)].into_iter().chain(counted).collect();
        self.journal.keep(Commit { records, entry, ..Commit::default() }).await?;
        contract.standing.lock().untold = None;
        Ok(())
    }

    /// Keeps an agreement in memory no longer; the store has it.
    pub(crate) fn forget(&self, contract: &Contract) {
        self.open.write().remove(&contract.id);
        let terms = contract.terms();
        if terms.consumer == self.owner {
            self.remember_end(terms.agent, contract.id);
        }
    }

    /// Calls that were made under an agreement of this consumer may be repeated after its end.
    pub(super) fn remember_end(&self, agent: AgentId, id: AgreementId) {
        let mut ended = self.ended.lock();
        ended.push_back((agent, id));
        if ended.len() > MAX_ENDED {
            ended.pop_front();
        }
    }
}

impl Standing {
    /// When the step was made that closed it.
    fn closed_at(&self) -> Option<Timestamp> {
        // It was verified when it was taken.
        Some(self.transitions.last()?.claimed_header().ok()?.issued_at)
    }

    /// Whether, as far as this side knows, the other one has all that it has.
    fn is_settled(&self, provides: bool) -> bool {
        let receipts = match provides {
            true => self.meter.unacknowledged() == 0,
            false => !receipts::is_unsettled(self),
        };
        receipts && self.untold.is_none() && self.abandoned.is_none()
    }
}

impl Contract {
    /// How it came to its end.
    pub(crate) fn closing(&self) -> Option<Closing> {
        self.standing.lock().closing.clone()
    }

    /// Whether it was closed by a step.
    pub(crate) fn is_closed(&self) -> bool {
        self.standing.lock().state.status == Status::Closed
    }

    /// The receipt that counts for good, if it is signed by both.
    fn close_on(&self, charged: Option<u64>) -> Option<Closing> {
        let mut standing = self.standing.lock();
        if standing.meter.under_way() > 0 {
            // One began while the others were looked at.
            return None;
        }
        let consumer: Did = standing.signed.document().consumer;
        let receipt = standing.receipt.as_ref();
        if receipt.is_some_and(|receipt| receipt.require(consumer).is_err()) {
            return None;
        }
        let said = receipt.map(|receipt| receipt.document().clone());
        let number = said.as_ref().map_or(0, |said| said.sequence);
        let closing = Closing {
            at: Timestamp::now(),
            receipt: number,
            total: said.as_ref().map(|said| said.total).unwrap_or_default(),
            overage: said.as_ref().map(|said| said.overage).unwrap_or_default(),
            price: said.as_ref().map(|said| said.price).unwrap_or_default(),
            unacknowledged: charged.unwrap_or_default().saturating_sub(number),
        };
        standing.frozen = true;
        Some(closing)
    }
}

#[cfg(test)]
mod tests;
