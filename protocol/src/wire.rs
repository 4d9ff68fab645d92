//! What nodes say to one another: names, limits, and the requests of the mesh's RPC.
//!
//! A message is one frame: `length u32 BE | kind u8 | request id u64 BE | payload`; `length` counts what follows it.
//! Payloads are CBOR (RFC 8949) of the types below.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use sha2::{Digest as _, Sha256};

use crate::{
    Timestamp,
    advert::Advert,
    agreement::{Agreement, Transition},
    credential::{Credential, Member, Revocations},
    custody::{Custody, Held},
    digest::Digest,
    document::Sealed,
    entry::InclusionProof,
    error::Problem,
    id::{AgentId, AgreementId, MeshId, OperationId},
    key::NodeId,
    manifest::Manifest,
    receipt::Receipt,
    token::Enrolment,
    usage::Usage,
    witness::{Shown, Witnessed},
};

/// The largest result of a call.
pub const MAX_RESULT: usize = 16 * 1024 * 1024;
/// The largest parameters of a call.
pub const MAX_PARAMS: usize = 4 * 1024 * 1024;
/// The most agents in one call, each called by the one before.
pub const MAX_DEPTH: usize = 4;
/// The longest idempotency key.
pub const MAX_IDEMPOTENCY_KEY: usize = 128;
/// The largest frame: a result and its receipt.
pub const MAX_FRAME: usize = MAX_RESULT + 256 * 1024;
/// Requests that one peer may have under way with us; more are refused as overloaded.
pub const MAX_IN_FLIGHT: usize = 1024;
/// The largest item of a streamed answer.
pub const MAX_ITEM: usize = 256 * 1024;
/// The most that [`Call::window`] may be; the least is one item's frame.
pub const MAX_WINDOW: u32 = 4 * 1024 * 1024;
/// See [`MAX_WINDOW`].
pub const MIN_WINDOW: u32 = (MAX_ITEM + crate::frame::HEADER) as u32;
/// The largest message of the gossip layer, which gathers several announcements and says who has which.
pub const MAX_GOSSIP: usize = 64 * 1024;
/// The largest announcement; it takes 200 bytes.
pub const MAX_ANNOUNCEMENT: usize = 1024;

/// The RPC's protocol name in `mesh`.
pub fn rpc_protocol(mesh: &MeshId) -> String {
    format!("/mcp-zero/{mesh}/rpc/1")
}

/// The Kademlia protocol name in `mesh`.
pub fn kad_protocol(mesh: &MeshId) -> String {
    format!("/mcp-zero/{mesh}/kad/1")
}

/// The identify protocol version in `mesh`.
pub fn identify_protocol(mesh: &MeshId) -> String {
    format!("/mcp-zero/{mesh}/id/1")
}

/// The gossip topic of announcements in `mesh`.
pub fn advert_topic(mesh: &MeshId) -> String {
    format!("mcp-zero/{mesh}/adverts/1")
}

/// The Kademlia key under which nodes provide `capability`.
pub fn capability_key(capability: &str) -> [u8; 32] {
    Sha256::new().chain_update("capability/").chain_update(capability).finalize().into()
}

/// Kinds of frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// A [`Call`].
    Request = 1,
    /// A [`Response`], ending the request.
    Response = 2,
    /// A [`Problem`], ending the request.
    Problem = 3,
    /// The caller no longer waits: stop the work. No payload, no answer.
    Cancel = 4,
    /// Are you there? No payload; answered at once by a [`Kind::Pong`] of the same id.
    Ping = 5,
    /// The answer to a [`Kind::Ping`]. No payload.
    Pong = 6,
    /// Part of a streamed answer, before the [`Kind::Response`] or [`Kind::Problem`] that ends it. Of the call's window
    /// it takes as much as its frame has bytes, and 1 KiB at least.
    Item = 7,
    /// The caller has taken items: so many bytes (u32 BE) of the window are free again.
    Credit = 8,
}

impl TryFrom<u8> for Kind {
    type Error = u8;

    fn try_from(byte: u8) -> Result<Self, u8> {
        match byte {
            1 => Ok(Self::Request),
            2 => Ok(Self::Response),
            3 => Ok(Self::Problem),
            4 => Ok(Self::Cancel),
            5 => Ok(Self::Ping),
            6 => Ok(Self::Pong),
            7 => Ok(Self::Item),
            8 => Ok(Self::Credit),
            other => Err(other),
        }
    }
}

/// The gossip message that tells of a new advert. The gossip layer's signature binds it to its node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Announcement {
    /// Whose advert.
    pub node: NodeId,
    /// Its sequence.
    pub sequence: u64,
    /// BLAKE3 of the advert's payload.
    pub digest: Digest,
    /// When the advert expires.
    pub expires_at: Timestamp,
    /// The node leaves, or stops: its adverts up to this sequence hold no longer.
    #[serde(default)]
    pub withdrawn: bool,
}

/// A request with what goes along with each; encoded from parts that are borrowed, too.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Call<I = String, R = Request> {
    /// How long the caller waits, in milliseconds, from when the frame was sent.
    pub timeout_ms: u32,
    /// The request's id, for spans, logs and traces on every node (at most 64 bytes are kept).
    pub request_id: I,
    /// Bytes of items that may come before the caller has taken any; 0 if it expects none.
    #[serde(default)]
    pub window: u32,
    /// The request.
    pub request: R,
}

/// What one node asks of another.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Request {
    /// Your newest advert.
    Advert,
    /// The adverts that you know, but for those of a sequence that I have: one [`Sealed<Advert>`] an item, then
    /// [`Response::Done`].
    Adverts(BTreeMap<NodeId, u64>),
    /// The manifest of a plugin, by its component's digest.
    Manifest(Digest),
    /// Content, from this group on (see `crate::tree`): an [`Outline`](crate::tree::Outline)'s size (u64 BE) as the first
    /// item, its groups' chaining values, then the groups, one an item; then [`Response::Done`].
    Fetch {
        /// The content's BLAKE3 digest.
        content: Digest,
        /// The first group that is wanted.
        from: u64,
    },
    /// Sign these terms, which I have signed.
    Propose(Sealed<Agreement>),
    /// I have signed the terms that you proposed.
    Accept(Sealed<Agreement>),
    /// By the consumer: take this as the next step. By the provider: this step was taken.
    Transition(Sealed<Transition>),
    /// Run a method.
    Execute(Execute),
    /// Prove that an operation of mine is in your trace.
    Prove(OperationId),
    /// I leave, or stop: my adverts up to this sequence hold no longer.
    Withdraw(u64),
    /// Where can this node be reached?
    Where(NodeId),
    /// To the mesh's authority: make this node a member.
    Enrol(Sealed<Enrolment>),
    /// To the mesh's authority: prolong my membership.
    Renew,
    /// To the mesh's authority: prolong the membership of a node that stands at the door with this credential, which has
    /// expired.
    Readmit(Sealed<Credential>),
    /// To the mesh's authority: sign this request (PKCS#10) for a TLS certificate.
    Certify(Bytes),
    /// To the mesh's authority: I leave.
    Leave,
    /// To the mesh's authority: who is a member?
    Members,
    /// The list of revocations, if yours is newer than this sequence.
    Revocations(u64),
    /// There is a newer list of revocations.
    Revoked(Sealed<Revocations>),
    /// Among nodes of one owner: about its agents.
    Custody(Box<Custody>),
    /// By the consumer of an agreement, where no next call says it.
    Acknowledge(Box<Acknowledge>),
    /// My trace's newest checkpoint: remember it, and cosign it if it only adds to what you remember.
    Witness(Box<Shown>),
    /// Checkpoints of others that I remember, signed notes: do you know another history of one? At most
    /// [`MAX_TOLD`](crate::witness::MAX_TOLD).
    Checkpoints(Vec<String>),
}

/// The newest receipt that a consumer has of an agreement; asks whether there is a newer one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Acknowledge {
    /// The agreement.
    pub agreement: AgreementId,
    /// Its agent.
    pub agent: AgentId,
    /// The receipt, signed by both; none if no call was answered yet.
    pub receipt: Option<Sealed<Receipt>>,
    /// How many transitions it has.
    #[serde(default)]
    pub transitions: u64,
    /// Whether it has but the proposal.
    #[serde(default)]
    pub proposed: bool,
}

/// What a consumer has missed of an agreement's history, which the provider's node puts in order.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Missed {
    /// The terms with both signatures, where the consumer has but the proposal.
    pub agreement: Option<Sealed<Agreement>>,
    /// The transitions behind those that it has.
    pub transitions: Vec<Sealed<Transition>>,
}

impl Missed {
    /// Whether there is nothing.
    pub fn is_empty(&self) -> bool {
        self.agreement.is_none() && self.transitions.is_empty()
    }
}

/// How an agreement stands at its provider.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Standing {
    /// The newest receipt, where it isn't the one that was brought.
    pub receipt: Option<Sealed<Receipt>>,
    /// What was used, by bucket.
    pub usage: Vec<(String, Usage)>,
    /// The number of the newest receipt that both have signed.
    pub acknowledged: u64,
    /// What of its history whoever asks doesn't have.
    #[serde(default)]
    pub missed: Missed,
    /// Calls under it that haven't ended: each may be charged for yet.
    #[serde(default)]
    pub under_way: u64,
}

/// A call of an agent's method.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Execute {
    /// The agent.
    pub agent: AgentId,
    /// The method.
    pub method: String,
    /// The parameters: JSON text.
    pub params: Bytes,
    /// The agreement that covers it.
    pub agreement: Option<AgreementId>,
    /// The same key gives the same answer, and the call happens once (at most [`MAX_IDEMPOTENCY_KEY`] bytes).
    pub idempotency_key: Option<String>,
    /// The newest receipt that the caller holds for this agreement, signed by it too, unless the provider has it already.
    pub acknowledged: Option<Sealed<Receipt>>,
    /// The agents that wait for this call, the one that makes it last; fewer than [`MAX_DEPTH`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub chain: Vec<AgentId>,
}

/// What a node answers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Response {
    /// Its newest advert.
    Advert(Sealed<Advert>),
    /// The manifest.
    Manifest(Sealed<Manifest>),
    /// The terms, signed by the provider too, or as proposed where its operator decides later.
    Agreement(Sealed<Agreement>),
    /// It is so.
    Done,
    /// The method ran.
    Executed(Box<Executed>),
    /// The proof.
    Proof(InclusionProof),
    /// Where the node asked for can be reached, as far as this one knows: multiaddrs.
    Addresses(Vec<String>),
    /// The new credential.
    Credential(Sealed<Credential>),
    /// The certificate, and its authority's: DER.
    Certified(Vec<Bytes>),
    /// The members.
    Members(Vec<Member>),
    /// The newest list of revocations, if it is newer than asked.
    Revocations(Option<Sealed<Revocations>>),
    /// The snapshots that are held.
    Held(Vec<Held>),
    /// Whether this node has become the agent's home.
    Settled(bool),
    /// How the agreement stands.
    Standing(Box<Standing>),
    /// The step doesn't follow: this comes before it.
    Missed(Box<Missed>),
    /// What it makes of the checkpoint.
    Witnessed(Witnessed),
}

/// A call's answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Executed {
    /// The result (JSON text), or the problem that the call ended in after it used what `usage` says.
    pub outcome: Result<Bytes, Problem>,
    /// The operation.
    pub operation: OperationId,
    /// What it used.
    pub usage: Usage,
    /// The provider's receipt; none where an owner calls its own agent from another of its nodes.
    pub receipt: Option<Sealed<Receipt>>,
}

/// A message that can't be read.
#[derive(Debug, thiserror::Error)]
#[error("the message can't be read: {0}")]
pub struct Malformed(String);

/// Encodes a message as CBOR.
pub fn encode<T: Serialize>(message: &T) -> Vec<u8> {
    cbor4ii::serde::to_vec(Vec::with_capacity(512), message).expect("writing to memory doesn't fail")
}

/// Decodes a message of CBOR. The caller has bounded `bytes`.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Malformed> {
    cbor4ii::serde::from_slice(bytes).map_err(|error| Malformed(error.to_string()))
}
