//! What a consumer holds its provider's receipts against: the calls that it has sent, and the receipts before.
//!
//! ```text
//! before a call   count_call: one more, within a block that is durable
//! a receipt       take_receipt: its number, usage, totals and price follow from those calls, or it is evidence
//! evidence        dispute: kept and shown; no call, and no signature under a receipt, comes after it
//! ```

use protocol::{
    AgreementId, Code, Problem, Signed, Timestamp,
    entry::Action,
    receipt::{Dispute, Receipt},
};
use store::{Commit, Kind, RecordWrite};
use tokio::time::Instant;

use super::{Agreements, Contract};
use crate::node::{Caller, execute::digest, journal};

/// Agreements of earlier versions have no count: at most so many calls were ahead of their newest receipt, the most that a
/// provider allowed by default.
const UNCOUNTED: u64 = 1_000;

/// The count of an agreement as the store has it; `receipt` is the newest receipt's number.
pub(super) fn restored(record: Option<Vec<u8>>, receipt: u64) -> Result<agreement::SentCalls, Problem> {
    let reserved = record.map(|bytes| journal::decode("count of calls", &bytes)).transpose()?;
    Ok(agreement::SentCalls::restored(reserved.unwrap_or(receipt.saturating_add(UNCOUNTED))))
}

/// The record of a block.
pub(super) fn record(agreement: &AgreementId, upto: u64) -> RecordWrite {
    RecordWrite { kind: Kind::Sent, id: agreement.to_string(), value: Some(journal::encode(&upto)) }
}

impl Agreements {
    /// Counts a call that is about to be sent, once a restart would count it too.
    pub(crate) async fn count_call(&self, contract: &Contract) -> Result<(), Problem> {
        while !contract.standing.lock().sent.send() {
            self.reserve_calls(contract).await?;
        }
        Ok(())
    }

    /// Makes the next block durable, if it should be.
    pub(crate) async fn reserve_calls(&self, contract: &Contract) -> Result<(), Problem> {
        let _reserving = contract.reserving.lock().await;
        let Some(upto) = contract.standing.lock().sent.next_block() else { return Ok(()) };
        self.journal.keep(Commit { records: vec![record(&contract.id, upto)], ..Commit::default() }).await?;
        contract.standing.lock().sent.reserve(upto);
        Ok(())
    }

    /// Writes how many calls were really sent, before the node stops.
    pub(crate) async fn end_blocks(&self) -> Result<(), Problem> {
        let consumed: Vec<_> = self.open.read().values().filter(|contract| contract.is_consumed_by(self.owner)).cloned().collect();
        let ended = |contract: &std::sync::Arc<Contract>| Some(record(&contract.id, contract.standing.lock().sent.end_block()?));
        let records: Vec<_> = consumed.iter().filter_map(ended).collect();
        if records.is_empty() {
            return Ok(());
        }
        self.journal.keep(Commit { records, ..Commit::default() }).await.map(drop)
    }

    /// Keeps a receipt that its provider signed and that can't be true. The first one is enough: it ends all calls.
    pub(crate) async fn dispute(&self, caller: &Caller, contract: &Contract, receipt: &Signed<Receipt>, why: String) -> Problem {
        let _moving = self.moving.lock().await;
        if let Some(dispute) = contract.dispute() {
            return disputed(contract.id, &dispute);
        }
        let sent = contract.standing.lock().sent.sent();
        let dispute = Dispute { at: Timestamp::now(), why, sent, receipt: receipt.clone().into() };
        tracing::error!(agreement = %contract.id, why = %dispute.why, "the provider signed a receipt that can't be true: no further calls are made");
        let mut note = caller.note();
        note.agreement = Some(contract.id);
        let action = Action::Dispute { receipt: digest(receipt), number: receipt.document().sequence, why: dispute.why.clone() };
        let entry = self.journal.append(note, action);
        let record = RecordWrite { kind: Kind::Dispute, id: contract.id.to_string(), value: Some(journal::encode(&dispute)) };
        // In memory first: while it is written no call is made.
        contract.standing.lock().dispute = Some(dispute.clone());
        if let Err(problem) = self.journal.keep(Commit { records: vec![record], entry: Some(entry), ..Commit::default() }).await {
            return problem;
        }
        disputed(contract.id, &dispute)
    }
}

/// What a caller is told.
fn disputed(id: AgreementId, dispute: &Dispute) -> Problem {
    let detail = format!("agreement {id} is disputed: the provider signed a receipt that {}", dispute.why);
    let hint = format!(
        "no further calls are made under it; 'mcpctl agreement show {id}' has the evidence, 'agreement terminate --breached' ends it"
    );
    Problem::new(Code::AgreementDisputed, detail).hint(hint)
}

impl Contract {
    /// The receipt that this consumer doesn't accept.
    pub(crate) fn dispute(&self) -> Option<Dispute> {
        self.standing.lock().dispute.clone()
    }

    /// Refuses calls after a receipt that can't be true.
    pub(crate) fn check_undisputed(&self) -> Result<(), Problem> {
        self.dispute().map_or(Ok(()), |dispute| Err(disputed(self.id, &dispute)))
    }

    /// Whether another block of calls should become durable soon.
    pub(crate) fn needs_block(&self) -> bool {
        self.standing.lock().sent.next_block().is_some()
    }

    /// Takes a receipt that the provider signed, if it follows from the calls that were sent and the receipts before. Answers
    /// whether it is the newest.
    ///
    /// # Errors
    /// Why it can't be true.
    pub(crate) fn take_receipt(&self, receipt: &Signed<Receipt>) -> Result<bool, String> {
        let mut standing = self.standing.lock();
        if standing.frozen || standing.dispute.is_some() {
            return Ok(false);
        }
        let terms = standing.signed.document();
        standing.sent.check(terms, receipt.document(), Timestamp::now())?;
        if let Some(have) = &standing.receipt {
            receipt.document().check_beside(have.document(), terms)?;
            if have.document().sequence >= receipt.document().sequence {
                return Ok(false);
            }
        }
        standing.receipt = Some(receipt.clone());
        standing.delivered.taken = Some(Instant::now());
        Ok(true)
    }
}
