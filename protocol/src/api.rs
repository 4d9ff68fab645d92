//! The local API: what `mcpctl`, the gateway and anyone with `curl --unix-socket` say to a daemon.
//!
//! JSON over HTTP under `/v1`; each type below is the body of the route that its comment names.

mod agents;
mod events;
mod mesh;
mod terms;
mod trace;

use rust_decimal::Decimal;
use serde::{Deserialize, Serialize};

use crate::{
    Timestamp,
    advert::Method,
    agreement::{self, Agreement, Bundle, Pricing, Reason, Status},
    credential::Zone,
    digest::Digest,
    document::Sealed,
    id::{AgentId, AgreementId, KeyId, MeshId},
    key::{Did, NodeId},
    manifest::{self, Manifest},
    statement::Closing,
    usage::Usage,
};

pub use self::{agents::*, events::*, mesh::*, terms::*, trace::*};

/// The largest body of a request other than a blob: parameters and their envelope.
pub const MAX_BODY: usize = crate::wire::MAX_PARAMS + 64 * 1024;
/// The header by which a gateway says for whom it asks.
pub const PRINCIPAL_HEADER: &str = "mcp-principal";
/// The header whose value makes a mutating request happen once.
pub const IDEMPOTENCY_HEADER: &str = "idempotency-key";
/// The header that carries a request's id, in and out.
pub const REQUEST_ID_HEADER: &str = "x-request-id";

/// Every list.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct List<T> {
    /// Its items.
    pub items: Vec<T>,
    /// What to pass as `after` for the next page, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

impl<T> From<Vec<T>> for List<T> {
    fn from(items: Vec<T>) -> Self {
        Self { items, next: None }
    }
}

/// `GET /v1/id`
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Identity {
    /// The node.
    pub node_id: NodeId,
    /// Its mesh.
    pub mesh_id: MeshId,
    /// The principal that owns it.
    pub owner: Did,
    /// Dialable multiaddrs.
    pub addresses: Vec<String>,
}

/// `GET /v1/status`
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct NodeStatus {
    /// The node.
    pub node_id: NodeId,
    /// Whether it serves.
    pub ready: bool,
    /// What it accepts to do.
    pub roles: Vec<String>,
    /// Connected peers.
    pub peers: usize,
    /// Resident agents.
    pub agents: usize,
    /// Seconds since it started.
    pub uptime_s: u64,
    /// The program's version.
    pub version: String,
    /// Entries in its trace.
    pub trace_size: u64,
}

/// An item of `GET /v1/discover?capability=…`: one agent.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Discovered {
    /// The agent.
    pub agent: AgentId,
    /// Its name on its node.
    pub name: String,
    /// Its node.
    pub node_id: NodeId,
    /// The principal that provides it.
    pub provider: Did,
    /// The plugin, `name@release`.
    pub plugin: String,
    /// Its methods.
    pub methods: Vec<Method>,
    /// What a call costs.
    pub pricing: Pricing,
    /// The last measured round trip to the node, in microseconds.
    pub rtt_us: Option<u64>,
    /// Where its node is.
    #[serde(default)]
    pub zone: Option<Zone>,
    /// How much of its node's places for calls is taken, in percent.
    #[serde(default)]
    pub load: u8,
    /// How it was found: `local`, `gossip` or `kademlia`.
    pub via: String,
}

/// `POST /v1/plugins`: register a component uploaded by `PUT /v1/blobs/{digest}`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RegisterPlugin {
    /// The publisher's statement.
    pub manifest: Sealed<Manifest>,
}

/// `GET /v1/plugins/{digest}` and the answer of `POST /v1/plugins`
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Plugin {
    /// Its name.
    pub name: String,
    /// Its version.
    pub release: String,
    /// Who signed.
    pub publisher: Did,
    /// The component.
    pub component: Digest,
    /// What it imports.
    pub imports: Vec<manifest::Import>,
    /// Its methods.
    pub methods: Vec<Method>,
    /// Why it isn't run here any more, if it isn't.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revoked: Option<Revocation>,
}

/// `PUT /v1/plugins/{digest}/revocation`
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Revoke {
    /// Why: one line, for whoever meets it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// `GET /v1/plugins/{digest}/revocation`, an item of `GET /v1/plugins/revocations`, and the answer of `PUT …/revocation`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Revocation {
    /// The component that isn't run here.
    pub component: Digest,
    /// Why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Since when.
    pub revoked_at: Timestamp,
}

/// Body of `POST /v1/plugins/fetch`
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct FetchPlugin {
    /// The node that has the plugin.
    pub node: NodeId,
    /// The digest of its component.
    pub component: Digest,
}

/// An item of `GET /v1/publishers`, and the body of `PUT /v1/publishers/{did}`
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Publisher {
    /// The publisher.
    pub did: Did,
    /// What the operator calls it.
    pub name: String,
    /// Since when it is trusted.
    pub trusted_at: Timestamp,
}

/// `PUT /v1/publishers/{did}`
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Trust {
    /// What to call it.
    pub name: String,
}

/// `POST /v1/agreements`
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Propose {
    /// The agent to call: its id, or its name where one node alone provides an agent of that name.
    pub agent: String,
    /// The node that provides it, where several claim the agent or have one of that name.
    #[serde(default)]
    pub node: Option<NodeId>,
    /// Its methods; empty for all.
    #[serde(default)]
    pub methods: Vec<String>,
    /// The template.
    pub template: String,
    /// The template's parameters.
    #[serde(default)]
    pub parameters: std::collections::BTreeMap<String, String>,
}

/// `GET /v1/agreements/{id}` and the answer of every route that changes one
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct AgreementState {
    /// Where it stands.
    pub status: Status,
    /// Why it was closed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<Reason>,
    /// The side that this node's owner is on: `provider` or `consumer`.
    pub side: String,
    /// The terms.
    pub terms: Agreement,
    /// What it has used, as far as this side knows.
    pub used: Usage,
    /// The price of that.
    pub price: Decimal,
    /// A step that this node's owner wants and the provider hasn't taken yet: it is told when it comes back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wanted: Option<Wanted>,
    /// The consumer hasn't been told of the last step yet: it is when it comes back.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub untold: bool,
    /// Why a rule of the provider's that is for such proposals leaves this one to the operator: its budget has no room now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub left_open: Option<String>,
    /// How it came to its end, once it has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub closing: Option<Closing>,
    /// What verifies without any node.
    pub bundle: Bundle,
}

/// A step that a party wants an agreement to take.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wanted {
    /// The status after it.
    pub to: Status,
    /// Why, where it is closed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<Reason>,
    /// What there is to say of it, in a line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

/// `GET /v1/agreements/{id}/usage`
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct AgreementUsage {
    /// The agreement.
    pub id: AgreementId,
    /// Where it stands.
    pub status: Status,
    /// The side that this node's owner is on: `provider` or `consumer`.
    pub side: String,
    /// What was used in all.
    pub total: Usage,
    /// What of it passed a limit.
    pub overage: Usage,
    /// The price of it.
    pub price: Decimal,
    /// The label of `price`.
    pub currency: String,
    /// Each limit, as it stands now.
    pub limits: Vec<LimitState>,
    /// The number of the newest receipt.
    pub receipt: u64,
    /// The number of the newest receipt that both parties have signed.
    pub acknowledged: u64,
    /// Whether the provider's count is told; if not, it couldn't be asked, and this is what the newest receipt says.
    pub current: bool,
    /// How it came to its end, once it has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub closing: Option<Closing>,
}

/// A limit, and what is left of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LimitState {
    /// The limit.
    #[serde(flatten)]
    pub limit: agreement::Limit,
    /// The most that may be used, overage included.
    pub hard_max: u64,
    /// What is used of it now; unknown where the provider couldn't be asked about a window.
    pub used: Option<u64>,
    /// What is left before `hard_max`.
    pub left: Option<u64>,
    /// When it begins anew.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resets_at: Option<Timestamp>,
}

/// An item of `GET /v1/agreements`
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct AgreementOutline {
    /// Its id.
    pub id: AgreementId,
    /// Where it stands.
    pub status: Status,
    /// The side that this node's owner is on.
    pub side: String,
    /// The other principal.
    pub counterparty: Did,
    /// The agent.
    pub agent: AgentId,
    /// When it ends.
    pub expires_at: Timestamp,
    /// Calls so far.
    pub calls: u64,
}

/// `POST /v1/keys`
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CreateKey {
    /// What it is for.
    pub name: String,
    /// How long it is valid, in seconds; for ever if none.
    #[serde(default)]
    pub ttl_s: Option<u64>,
}

/// The answer of `POST /v1/keys`: the only time that the secret is seen.
#[derive(Clone, Serialize, Deserialize)]
pub struct CreatedKey {
    /// The key's description.
    #[serde(flatten)]
    pub key: ApiKey,
    /// The secret that goes into `Authorization: Bearer …`.
    pub secret: String,
}

impl std::fmt::Debug for CreatedKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CreatedKey").field("key", &self.key).finish_non_exhaustive()
    }
}

/// An item of `GET /v1/keys`
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ApiKey {
    /// Its id.
    pub id: KeyId,
    /// What it is for.
    pub name: String,
    /// For whom it speaks.
    pub principal: Did,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it ends.
    pub expires_at: Option<Timestamp>,
}

/// How a node keeps its owner's private key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KeyKept {
    /// In a file.
    File,
    /// In a file, encrypted with a passphrase.
    EncryptedFile,
    /// In a token (PKCS#11), which it never leaves.
    Token,
}

impl KeyKept {
    /// As it stands in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::File => "file",
            Self::EncryptedFile => "encrypted_file",
            Self::Token => "token",
        }
    }
}

/// `GET /v1/keys/owner`: the key that signs agreements, transitions, receipts and snapshots.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct OwnerKey {
    /// The owner, named by the first key.
    pub did: Did,
    /// The key that signs by now.
    pub key: Did,
    /// That key's public half: PEM, SubjectPublicKeyInfo.
    pub public_key: String,
    /// By which successions it follows the first key.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub lineage: Vec<crate::succession::Step>,
    /// How the private key is kept.
    pub kept: KeyKept,
    /// Where: a file's path, or a token's `pkcs11:` URI.
    pub place: String,
    /// Why it can't sign now; none where it can.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unavailable: Option<String>,
}

/// `POST /v1/keys/resolve`: a gateway asks whose key this is. Answered with an [`ApiKey`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ResolveKey {
    /// SHA-256 of the secret.
    pub digest: Digest,
}

/// An item of `GET /v1/config`
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Setting {
    /// The key: `mesh.port`.
    pub key: String,
    /// Its value; secrets are masked.
    pub value: serde_json::Value,
    /// Where it came from: `default`, `file <path>`, `environment <NAME>`, `flag <name>`.
    pub source: String,
}
