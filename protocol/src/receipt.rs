//! Receipts: the provider's signed statement of what an agreement has used so far, returned with each call.
//!
//! ```text
//! provider                                consumer
//! commit: charge N ── receipt N, signed ─> verified, held against those before
//!    <── the next call: receipt N, signed by the consumer too ──┘
//! ```
//!
//! They are numbered: each charge counts one call, in the commit that makes it, so that the number is the total's calls,
//! and none is skipped. Of two, the later one states what the earlier one does and what the
//! charges between them used, each at most what one call may use; two of one number state the same totals.

use rust_decimal::Decimal;
use serde::{Deserialize, Serialize};

use crate::{
    Timestamp,
    agreement::{Agreement, Quantity},
    digest::Digest,
    document::{Document, Header, Sealed},
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

/// A receipt that its provider signed and that can't be true, as a consumer keeps it: evidence, never signed by the consumer.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Dispute {
    /// When it came.
    pub at: Timestamp,
    /// What is wrong with it.
    pub why: String,
    /// How many calls the consumer had sent by then, at most.
    pub sent: u64,
    /// The receipt, signed by the provider.
    pub receipt: Sealed<Receipt>,
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
    /// Whether the operation is an earlier one, answered again under its idempotency key: its usage is part of `total`, and isn't
    /// what the charge of this number used.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub repeated: bool,
}

impl Receipt {
    /// Whether it can be a receipt under `terms`: by their parties, within all that the terms allow for its number at its time,
    /// at their price. This is all that documents alone can show: what the calls really used only the provider has measured.
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
        self.check_bounds(terms, self.header.issued_at)?;
        let price = terms.pricing.price(&self.total, &self.overage);
        if price != Some(self.price) || self.currency != terms.pricing.currency {
            let expected = price.map_or_else(|| "not expressible".into(), |price| price.to_string());
            let currency = &terms.pricing.currency;
            return Err(format!("states {} {}; by the terms its usage costs {expected} {currency}", self.price, self.currency));
        }
        Ok(())
    }

    /// Whether its usage is possible under `terms` for a receipt of its number, at `at`.
    ///
    /// # Errors
    /// What is stated beyond what bound.
    pub fn check_bounds(&self, terms: &Agreement, at: Timestamp) -> Result<(), String> {
        if self.sequence != self.total.calls {
            return Err(format!("is number {}, but counts {} calls", self.sequence, self.total.calls));
        }
        if self.usage.calls != 1 {
            return Err(format!("is for one operation, but counts {} calls for it", self.usage.calls));
        }
        within("its operation", self.usage, "one call may use", terms.most_for_one_call())?;
        if !self.usage.within(self.total) {
            return Err("states less in all than for its own operation".into());
        }
        within("all calls", self.total, "the terms allow by then for that many calls", terms.most(self.sequence, at))?;
        let (least, most) = terms.overage_range(&self.total, at);
        within("overage", self.overage, "the terms allow for what was used", most)?;
        if !least.within(self.overage) {
            return Err("states less overage than the usage beyond the limits".into());
        }
        Ok(())
    }

    /// Whether it can stand beside another one of the same agreement: totals grow by what each charge between them may use.
    ///
    /// # Errors
    /// What doesn't agree.
    pub fn check_beside(&self, other: &Self, terms: &Agreement) -> Result<(), String> {
        let (earlier, later) = if self.sequence < other.sequence { (self, other) } else { (other, self) };
        let charges = later.sequence - earlier.sequence;
        let grown = later.total.minus(earlier.total);
        let shrunk = !earlier.total.within(later.total) || !earlier.overage.within(later.overage);
        // The later one's own operation is among the charges, unless it is an earlier operation's answer given again.
        let (least, most) = match (charges, later.repeated) {
            (0, _) => Default::default(),
            (_, true) => (Usage::default(), terms.most_for_one_call().times(charges)),
            (_, false) => (later.usage, later.usage.plus(terms.most_for_one_call().times(charges - 1))),
        };
        let possible = least.within(grown) && grown.within(most) && later.overage.minus(earlier.overage).within(grown);
        if !shrunk && possible {
            return Ok(());
        }
        Err(format!("number {} and number {} of {} contradict each other", earlier.sequence, later.sequence, self.agreement))
    }
}

fn within(what: &str, stated: Usage, bound: &str, most: Usage) -> Result<(), String> {
    let beyond = Quantity::ALL.into_iter().find(|quantity| quantity.of(&stated) > quantity.of(&most));
    beyond.map_or(Ok(()), |quantity| {
        Err(format!("states {} {} for {what}; {bound} {}", quantity.of(&stated), quantity.as_str(), quantity.of(&most)))
    })
}

impl Document for Receipt {
    const TYPE: &'static str = "receipt";
    const VERSION: u32 = 1;

    fn header(&self) -> &Header {
        &self.header
    }
}
