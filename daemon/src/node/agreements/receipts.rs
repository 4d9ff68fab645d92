//! What both sides hold of an agreement's receipts.
//!
//! ```text
//! consumer  the newest that it verified, signed by it before it goes out with the next call
//! provider  the newest that both have signed, and, written with each charge, what the newest one says
//! ```

use std::{sync::Arc, time::Duration};

use protocol::{
    AgentId, AgreementId, Code, Did, Digest, OperationId, Problem, Signed, Signer, Timestamp, Usage,
    agreement::Status,
    document::Sealed,
    receipt::{Position, Receipt},
};
use serde::{Deserialize, Serialize};
use store::{Kind, OVERAGE, RecordWrite};
use tokio::time::Instant;

use super::{Agreements, Contract, Standing};
use crate::node::journal;

/// What the newest receipt of an agreement says beside its totals. Each charge writes it in its own commit, so that the
/// receipt can be made again whatever happened to the one that was sent.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Charged {
    pub(crate) operation: OperationId,
    pub(crate) agent: AgentId,
    pub(crate) method: String,
    pub(crate) params: Digest,
    pub(crate) result: Digest,
    pub(crate) usage: Usage,
    /// Where the operation stands, if that is in the trace of an earlier home of the agent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) at: Option<Position>,
}

impl Charged {
    /// Its record.
    pub(crate) fn record(&self, agreement: AgreementId) -> RecordWrite {
        RecordWrite { kind: Kind::Charged, id: agreement.to_string(), value: Some(journal::encode(self)) }
    }
}

/// The record of a receipt that a node keeps.
pub(crate) fn record(receipt: &Signed<Receipt>) -> RecordWrite {
    RecordWrite { kind: Kind::Receipt, id: receipt.document().agreement.to_string(), value: Some(journal::encode(receipt)) }
}

/// What the store's buckets come to: in all, and of that beyond limits.
pub(crate) fn sums(usage: &[(String, Usage)]) -> (Usage, Usage) {
    let of = |name: &str| usage.iter().find(|(bucket, _)| bucket == name).map(|(_, usage)| *usage).unwrap_or_default();
    (of(protocol::agreement::Window::Total.as_str()), of(OVERAGE))
}

/// What a consumer knows of how its provider stands.
#[derive(Debug, Default)]
pub(super) struct Delivered {
    /// The number of the newest receipt that the provider has with both signatures.
    number: u64,
    /// Whether the provider has said that there is no newer one, since the last call that went wrong.
    settled: bool,
    /// When the newest receipt came.
    taken: Option<Instant>,
}

/// A question to the provider that isn't answered yet.
#[derive(Debug)]
pub(crate) struct Settling<'a> {
    contract: Option<&'a Contract>,
}

impl Settling<'_> {
    /// Both have the same newest receipt.
    pub(crate) fn done(mut self) {
        self.contract = None;
    }
}

impl Drop for Settling<'_> {
    fn drop(&mut self) {
        if let Some(contract) = self.contract {
            contract.set_settled(false);
        }
    }
}

impl Contract {
    /// The newest receipt: of the consumer, the newest that it verified; of the provider, the newest that both signed.
    pub(crate) fn receipt(&self) -> Option<Signed<Receipt>> {
        self.standing.lock().receipt.clone()
    }

    /// Its number; 0 if there is none.
    pub(crate) fn receipt_number(&self) -> u64 {
        self.standing.lock().receipt.as_ref().map_or(0, |receipt| receipt.document().sequence)
    }

    /// Takes a verified receipt, unless a newer one is here. Answers whether it was taken.
    ///
    /// # Errors
    /// It contradicts the one that is here.
    pub(crate) fn take_receipt(&self, receipt: &Signed<Receipt>) -> Result<bool, Problem> {
        let mut standing = self.standing.lock();
        if standing.frozen {
            return Ok(false);
        }
        if let Some(have) = &standing.receipt {
            let beside = receipt.document().check_beside(have.document());
            beside.map_err(|why| Problem::new(Code::ProofFailed, format!("receipts of the provider: {why}")))?;
            if have.document().sequence >= receipt.document().sequence {
                return Ok(false);
            }
        }
        standing.receipt = Some(receipt.clone());
        standing.delivered.taken = Some(Instant::now());
        Ok(true)
    }

    /// The consumer's newest receipt with its signature, unless the provider has it.
    pub(crate) async fn to_acknowledge(&self, key: &dyn Signer) -> Result<Option<Signed<Receipt>>, Problem> {
        let delivered = self.standing.lock().delivered.number;
        if self.receipt_number() <= delivered {
            return Ok(None);
        }
        self.countersigned(key).await
    }

    /// The consumer's newest receipt with its signature.
    pub(crate) async fn countersigned(&self, key: &dyn Signer) -> Result<Option<Signed<Receipt>>, Problem> {
        let Some(receipt) = self.receipt() else { return Ok(None) };
        if receipt.require(key.did()).is_ok() {
            return Ok(Some(receipt));
        }
        // Not under the lock: others go on meanwhile. Whoever signs the same comes to the same.
        let receipt = receipt.countersign_by(key).await?;
        let mut standing = self.standing.lock();
        if standing.receipt.as_ref().is_some_and(|have| have.envelope().payload == receipt.envelope().payload) {
            standing.receipt = Some(receipt.clone());
        }
        Ok(Some(receipt))
    }

    /// The provider has the receipt of this number with both signatures.
    pub(crate) fn deliver(&self, number: u64) {
        let delivered = &mut self.standing.lock().delivered;
        delivered.number = delivered.number.max(number);
    }

    /// The provider is asked whether it has a newer receipt. Unless it says that it hasn't, it may.
    pub(crate) fn begin_settling(&self) -> Settling<'_> {
        self.set_settled(true);
        Settling { contract: Some(self) }
    }

    /// Whether the provider is known to have no newer receipt.
    pub(crate) fn set_settled(&self, settled: bool) {
        self.standing.lock().delivered.settled = settled;
    }

    /// Whether, as far as this consumer knows, the provider lacks its signature, or it a receipt.
    pub(crate) fn is_unsettled(&self) -> bool {
        is_unsettled(&self.standing.lock())
    }

    /// Whether receipts still come.
    pub(crate) fn is_busy(&self, within: Duration) -> bool {
        self.standing.lock().delivered.taken.is_some_and(|taken| taken.elapsed() < within)
    }

    /// Whether a receipt that claims this number would tell the provider anything.
    pub(crate) fn is_news(&self, number: u64) -> bool {
        number > self.acknowledged()
    }

    /// The number of the newest receipt that both have signed, as the provider counts.
    pub(crate) fn acknowledged(&self) -> u64 {
        self.standing.lock().meter.acknowledged()
    }

    /// The provider takes a receipt that both have signed. Answers whether it is the newest.
    pub(crate) fn take_countersigned(&self, receipt: &Signed<Receipt>) -> bool {
        let mut standing = self.standing.lock();
        let number = receipt.document().sequence;
        let newest = number > standing.meter.acknowledged() && !standing.frozen;
        if newest {
            standing.meter.acknowledge(number);
            standing.receipt = Some(receipt.clone());
        }
        newest
    }
}

/// See [`Contract::is_unsettled`].
pub(super) fn is_unsettled(standing: &Standing) -> bool {
    let Standing { delivered, receipt, .. } = standing;
    !delivered.settled || receipt.as_ref().is_some_and(|have| have.document().sequence > delivered.number)
}

impl Agreements {
    /// Agreements of which this owner, as the consumer, may lack a receipt, or the provider its signature, or in which the
    /// provider has to be told what this owner wants.
    pub(crate) fn unsettled(&self) -> Vec<Arc<Contract>> {
        let now = Timestamp::now();
        let ours = |contract: &&Arc<Contract>| {
            let settles = contract.status(now) != Status::Proposed && contract.is_unsettled();
            contract.is_consumed_by(self.owner) && (settles || contract.wanted().is_some())
        };
        self.open.read().values().filter(ours).cloned().collect()
    }
}

impl Contract {
    fn is_consumed_by(&self, owner: Did) -> bool {
        self.standing.lock().signed.document().consumer == owner
    }
}

/// The number that a receipt claims to have: nothing of it is verified.
pub(crate) fn claimed_number(sealed: &Sealed<Receipt>) -> Result<u64, Problem> {
    claimed(sealed).map(|outline| outline.sequence)
}

/// The agreement that a receipt claims to be of: nothing of it is verified.
pub(crate) fn claimed_agreement(sealed: &Sealed<Receipt>) -> Result<AgreementId, Problem> {
    claimed(sealed).map(|outline| outline.agreement)
}

#[derive(Deserialize)]
struct Outline {
    agreement: AgreementId,
    sequence: u64,
}

fn claimed(sealed: &Sealed<Receipt>) -> Result<Outline, Problem> {
    let payload = sealed.envelope().claimed_payload().map_err(protocol::document::Error::from)?;
    let outline = serde_json::from_slice(&payload);
    outline.map_err(|error| Problem::new(Code::MalformedDocument, format!("the receipt can't be read: {error}")))
}
