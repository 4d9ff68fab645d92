//! Receipts: the provider's signed statement of what an agreement has used so far, returned with each call.

use rust_decimal::Decimal;
use serde::{Deserialize, Serialize};

use crate::{
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
    /// What the agreement has used in all, this operation included.
    pub total: Usage,
    /// The price of `total`.
    pub price: Decimal,
    /// The label of `price`.
    pub currency: String,
    /// Where the operation stands in the provider's trace.
    pub trace: Position,
}

impl Document for Receipt {
    const TYPE: &'static str = "receipt";
    const VERSION: u32 = 1;

    fn header(&self) -> &Header {
        &self.header
    }
}
