//! What happens on a node, as it happens: server-sent events and webhooks, both fed from the trace.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::{
    Timestamp,
    id::{AgentId, AgreementId, WebhookId},
    key::NodeId,
};

/// Which entries of the trace are told; all, where nothing is said.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EventFilter {
    /// Those of these actions, as entries name them: `execute`, `agreement`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub actions: Vec<String>,
    /// Those about this agent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<AgentId>,
    /// Those under this agreement.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agreement: Option<AgreementId>,
}

/// An event of `GET /v1/events`, whose id is the index; the entry is as the log has it, byte for byte.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct TraceEvent {
    /// The entry's index in the log.
    pub index: u64,
    /// The entry.
    pub entry: Box<RawValue>,
}

/// `POST /v1/webhooks`
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CreateWebhook {
    /// Where events are posted.
    pub url: String,
    /// Which.
    #[serde(default)]
    pub filter: EventFilter,
    /// Those from this index of the log on; those from now on, where nothing is said.
    #[serde(default)]
    pub from: Option<u64>,
}

/// An item of `GET /v1/webhooks`
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Webhook {
    /// Its id.
    pub id: WebhookId,
    /// Where events are posted.
    pub url: String,
    /// Which.
    #[serde(default)]
    pub filter: EventFilter,
    /// Since when it is there.
    pub created_at: Timestamp,
    /// The index of the next entry that it hasn't been told, nor given up on.
    pub next: u64,
    /// Deliveries that failed in a row.
    #[serde(default)]
    pub failures: u32,
    /// Why the last one did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
    /// The key of its signatures: `whpk_…`, base64 of the node's public key.
    #[serde(default)]
    pub public_key: String,
}

/// The body of a delivery, signed as <https://www.standardwebhooks.com> says (`v1a`: Ed25519).
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Delivery {
    /// `trace.entries`.
    pub r#type: String,
    /// When it was made.
    pub timestamp: Timestamp,
    /// What it tells.
    pub data: Told,
}

/// Entries of one log, in order.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Told {
    /// The log.
    pub node: NodeId,
    /// The entries.
    pub events: Vec<TraceEvent>,
}

/// An item of `GET /v1/webhooks/{id}/dead`: events that were not delivered, after every attempt.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct DeadLetter {
    /// The index of the first.
    pub from: u64,
    /// The index of the last.
    pub to: u64,
    /// How many.
    pub events: usize,
    /// Why they weren't.
    pub error: String,
    /// When they were given up on.
    pub at: Timestamp,
}

/// The answer of `POST /v1/webhooks/{id}/retry`
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Retried {
    /// Dead letters that were delivered.
    pub delivered: usize,
    /// Those that are left.
    pub left: usize,
    /// Why the first of them failed again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}
