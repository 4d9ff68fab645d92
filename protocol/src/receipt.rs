//! Receipts: the provider's signed statement of what an agreement has used so far, returned with each call.
//!
//! ```text
//! provider                                consumer
//! commit: charge N ── receipt N, signed ─> verified, held against those before
//!    <── the next call: receipt N, signed by the consumer too ──┘
//! ```
//!
//! They are numbered: each charge counts one call, in the commit that makes it, so that the number is the total's calls,
//! and none is skipped. Of two, the one of the larger number states no less of anything; two of one number state the same.

use rust_decimal::Decimal;
use serde::{Deserialize, Serialize};

use crate::{
    agreement::Agreement,
    digest::Digest,
    document::{Document, Header},
    id::{AgentId, AgreementId, OperationId},
    key::{Did, NodeId},
    merkle::Hash,
    usage::Usage,
};

/// Where in the provider's trace the operation stands. The provider's signature over it is a promise: a later
/// checkpoint of the log must include `leaf` at `index` (as a signed certificate time stamp promises in RFC 6962).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    /// The log: its node.
    pub log: NodeId,
    /// The entry's index.
    pub index: u64,
    /// The entry's leaf hash.
    #[serde(with = "crate::merkle::base64_hash")]
    pub leaf: Hash,
}

/// Cumulative usage under an agreement, after one operation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receipt {
    /// Type, version, mesh, validity.
    pub header: Header,
    /// The agreement.
    pub agreement: AgreementId,
    /// Who signs.
    pub provider: Did,
    /// The operation.
    pub operation: OperationId,
    /// The agent that ran it.
    pub agent: AgentId,
    /// The method.
    pub method: String,
    /// SHA-256 of the parameters' bytes.
    pub params: Digest,
    /// SHA-256 of the result's bytes (of the error's code, where it failed).
    pub result: Digest,
    /// What this operation used.
    pub usage: Usage,
    /// Its number: 1 for the agreement's first charge, and so on.
    pub sequence: u64,
    /// What the agreement has used in all, this operation included.
    pub total: Usage,
    /// What of `total` passed a limit when it was used.
    #[serde(default)]
    pub overage: Usage,
    /// The price of `total`.
    pub price: Decimal,
    /// The label of `price`.
    pub currency: String,
    /// Where the operation stands in the provider's trace.
    pub trace: Position,
}

impl Receipt {
    /// Whether it is a receipt under `terms` at all: by their parties, within their limits, at their price.
    ///
    /// # Errors
    /// What doesn't agree.
    pub fn check(&self, terms: &Agreement) -> Result<(), String> {
        if self.agreement != terms.id {
            return Err(format!("is of {}, not of {}", self.agreement, terms.id));
        }
        if self.provider != terms.provider || self.agent != terms.agent {
            return Err("names another provider or agent than the terms".into());
        }
        if !terms.covers(&self.method) {
            return Err(format!("is for {:?}, which the terms don't cover", self.method.chars().take(64).collect::<String>()));
        }
        if self.sequence != self.total.calls {
            return Err(format!("is number {}, but counts {} calls", self.sequence, self.total.calls));
        }
        if !self.usage.within(self.total) {
            return Err("states less in all than for its own operation".into());
        }
        if !terms.allows(&self.total, &self.overage) {
            return Err("states what the limits of the terms don't allow".into());
        }
        let price = terms.pricing.price(&self.total, &self.overage);
        if price != Some(self.price) || self.currency != terms.pricing.currency {
            let expected = price.map_or_else(|| "not expressible".into(), |price| price.to_string());
            let currency = &terms.pricing.currency;
            return Err(format!("states {} {}; by the terms its usage costs {expected} {currency}", self.price, self.currency));
        }
        Ok(())
    }

    /// Whether it can stand beside another one of the same agreement: what comes later states no less.
    ///
    /// # Errors
    /// What doesn't agree.
    pub fn check_beside(&self, other: &Self) -> Result<(), String> {
        let (earlier, later) = if self.sequence < other.sequence { (self, other) } else { (other, self) };
        let grows = earlier.total.within(later.total) && earlier.overage.within(later.overage);
        if grows && (earlier.sequence < later.sequence || (earlier.total, earlier.overage) == (later.total, later.overage)) {
            return Ok(());
        }
        Err(format!("number {} and number {} of {} contradict each other", earlier.sequence, later.sequence, self.agreement))
    }
}

impl Document for Receipt {
    const TYPE: &'static str = "receipt";
    const VERSION: u32 = 1;

    fn header(&self) -> &Header {
        &self.header
    }
}
