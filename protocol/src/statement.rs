//! Statements: all that one party of an agreement can show of it, signed as a whole, for whoever has to judge.

use rust_decimal::Decimal;
use serde::{Deserialize, Serialize};

use crate::{
    Timestamp,
    agreement::{Bundle, Reason, Status},
    document::{Document, Header},
    id::AgreementId,
    key::Did,
    usage::Usage,
};

/// An agreement with its history, the last receipts of both sides, and what they come to. Verifies without any node.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Statement {
    /// Type, version, mesh, validity.
    pub header: Header,
    /// The agreement.
    pub agreement: AgreementId,
    /// Who states it: a party, which must have signed.
    pub by: Did,
    /// Where the agreement stood then.
    pub status: Status,
    /// Why it was closed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<Reason>,
    /// The terms, the transitions and the newest receipts, each with the signatures of whoever made it.
    pub bundle: Bundle,
    /// What was used in all, as the newest receipt says.
    pub total: Usage,
    /// What of `total` passed a limit.
    pub overage: Usage,
    /// The price of `total`.
    pub price: Decimal,
    /// The label of `price`.
    pub currency: String,
    /// The number of the newest receipt that both parties have signed; 0 if there is none.
    pub acknowledged: u64,
    /// How it came to its end, once it has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub closing: Option<Closing>,
}

/// How an agreement came to its end, on one side: which of what was signed counts for good.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Closing {
    /// When that side closed its books.
    pub at: Timestamp,
    /// The number of the receipt that it closed on: the newest that both parties have signed; 0 if there is none.
    pub receipt: u64,
    /// What was used in all, by that receipt.
    pub total: Usage,
    /// What of `total` passed a limit.
    pub overage: Usage,
    /// The price of `total`.
    pub price: Decimal,
    /// Calls beyond it that the provider has charged and the consumer never acknowledged, as far as that side knows.
    pub unacknowledged: u64,
}

impl Document for Statement {
    const TYPE: &'static str = "statement";
    const VERSION: u32 = 1;

    fn header(&self) -> &Header {
        &self.header
    }
}
