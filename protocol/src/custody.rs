//! What nodes of one owner ask of one another about its agents: to hold snapshots, and to become an agent's home.
//!
//! ```text
//! home                              holder
//! Hold(snapshot) ─────────────────>  fetches the chunks it lacks (Chunks), keeps the snapshot
//!                                    Held(agent): what can be recovered if the home is lost
//! home                              new home
//! Welcome, Hold ──────────────────>  has room, and the state but for the last calls
//! (calls wait) Hold, Adopt ───────>  is the home, from this epoch on
//!    <─────────────────────── Holding  signed: what the state came to that it has written, and read again
//! Settle ─────────────────────────>  after a failure: did you adopt it? If not, never will you in this epoch
//!    <─────────────────────── Holding  signed, either way
//! home that has let go              home
//! Branch(snapshot) ───────────────>  keeps what the other one had acknowledged
//! ```

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::{
    agreement::{Agreement, Transition},
    api,
    digest::Digest,
    document::{Document, Header, Sealed},
    id::{AgentId, SnapshotId},
    key::NodeId,
    receipt::Receipt,
    snapshot::Snapshot,
    usage::Usage,
};

/// Chunks that are asked for at once.
pub const MAX_CHUNKS_ASKED: usize = 1024;
/// Bytes of the papers of an agent that moves.
pub const MAX_PAPERS: u64 = 64 * 1024 * 1024;
/// Nodes that hold an agent's snapshots, at most.
pub const MAX_REPLICAS: u32 = 16;

/// See the module. Answered to nodes of the same owner alone.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Custody {
    /// Hold this snapshot; fetch from me what you lack of it.
    Hold(Box<Hold>),
    /// Which snapshots do you hold of the agent of this id or name? The newest of each agent.
    Held(String),
    /// Hold none of the agent's snapshots any longer.
    Release(AgentId),
    /// These chunks: one an item, in this order.
    Chunks(Vec<Digest>),
    /// May the agent come?
    Welcome(Box<api::Agent>),
    /// Become the agent's home.
    Adopt(Adopt),
    /// Have you become the agent's home in this epoch? If not, never do.
    Settle {
        /// The agent.
        agent: AgentId,
        /// Its name.
        name: String,
        /// The epoch.
        epoch: u64,
    },
    /// I was this agent's home and have let go: keep what I had acknowledged, as this snapshot; fetch from me what you lack of it.
    Branch(Box<Sealed<Snapshot>>),
    /// Do you reach this node?
    Hears(NodeId),
    /// Does this agent live with you?
    Lives(AgentId),
}

/// A node's statement about an agent's home in one epoch: that it is the node itself, or that it never will be. Signed by the
/// node's key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holding {
    /// Type, version, mesh, validity.
    pub header: Header,
    /// The node, which signs.
    pub node: NodeId,
    /// The agent.
    pub agent: AgentId,
    /// The epoch.
    pub epoch: u64,
    /// Whether the agent is the node's in that epoch. If not, it never will be.
    pub adopted: bool,
    /// What the node has read in its store, where it began with another node's state.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<Possession>,
}

impl Document for Holding {
    const TYPE: &'static str = "holding";
    const VERSION: u32 = 1;

    fn header(&self) -> &Header {
        &self.header
    }
}

/// A state that was given from node to node, and what came with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Possession {
    /// The snapshot that it was made of.
    pub snapshot: SnapshotId,
    /// The state's root: the BLAKE3 digest of the index of its chunks.
    pub index: Digest,
    /// Keys of the state.
    pub keys: u64,
    /// Bytes of keys and values.
    pub bytes: u64,
    /// The digest of the papers that came with it, if any did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub papers: Option<Digest>,
}

/// A snapshot to hold.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Hold {
    /// The snapshot.
    pub snapshot: Sealed<Snapshot>,
    /// The agent, as its home has it.
    pub agent: api::Agent,
    /// The older snapshots of the agent that are still wanted.
    pub keep: Vec<SnapshotId>,
}

/// What a node holds of an agent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Held {
    /// The newest snapshot.
    pub snapshot: Sealed<Snapshot>,
    /// The agent, as its home last had it.
    pub agent: api::Agent,
}

/// An agent that is to come, with all that belongs to it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Adopt {
    /// The agent.
    pub agent: AgentId,
    /// Its epoch from then on.
    pub epoch: u64,
    /// Its state: a snapshot that you hold.
    pub snapshot: SnapshotId,
    /// The BLAKE3 digest of its [`Papers`] in CBOR.
    pub papers: Digest,
}

/// What belongs to an agent beside its state.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Papers {
    /// The agent.
    pub agent: api::Agent,
    /// Agreements about it that are not closed.
    pub agreements: Vec<Undertaking>,
    /// What was answered under idempotency keys.
    pub answers: Vec<Answer>,
}

/// An agreement, and how much was used under it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Undertaking {
    /// The terms.
    pub agreement: Sealed<Agreement>,
    /// The steps that it took.
    pub transitions: Vec<Sealed<Transition>>,
    /// What was used, by bucket.
    pub usage: Vec<(String, Usage)>,
    /// The newest receipt that both parties have signed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub countersigned: Option<Sealed<Receipt>>,
    /// What the newest receipt says, as nodes keep it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last: Option<Bytes>,
    /// The consumer hasn't been told of the last step.
    #[serde(default)]
    pub untold: bool,
}

/// An answer that the same request gets again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// Whose key it is.
    pub scope: String,
    /// The idempotency key.
    pub key: String,
    /// The answer, as nodes keep it.
    pub value: Bytes,
    /// Until when, in Unix seconds.
    pub expires_s: i64,
}
