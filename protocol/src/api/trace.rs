//! The trace: entries, checkpoints, proofs, and what others show of theirs.

use serde::{Deserialize, Serialize};

use crate::{
    Timestamp,
    entry::{Entry, InclusionProof},
    key::NodeId,
    witness::Evidence,
};

/// `GET /v1/trace?agent=…&action=…&agreement=…&principal=…&since=…&until=…&from=…&limit=…`: the oldest first
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct TracePage {
    /// The entries.
    pub items: Vec<TraceItem>,
    /// What to pass as `from` to go on; none where the log ends. A page may have few entries, or none, and go on all the same:
    /// a request reads only so many that it passes over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<u64>,
    /// What has no content any more, where the page would begin with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pruned: Option<Pruned>,
}

/// Entries of the trace that were pruned: their hashes are there, their content isn't.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pruned {
    /// Those before this index.
    pub until: u64,
    /// When that was decided.
    pub at: Timestamp,
    /// How many of them have their content all the same, as agreements that are open need them.
    pub kept: u64,
}

/// Body of `POST /v1/trace/prune`
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Prune {
    /// Entries that are older lose their content.
    pub older_than_s: u64,
}

/// The answer of `POST /v1/trace/prune`
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Pruning {
    /// All that was pruned so far, if anything was.
    #[serde(default)]
    pub pruned: Option<Pruned>,
    /// Entries that lost their content now.
    pub cleared: u64,
}

/// An item of `GET /v1/trace`, and `GET /v1/trace/{operation or index}`
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct TraceItem {
    /// Its index.
    pub index: u64,
    /// The entry.
    pub entry: Entry,
}

/// `GET /v1/trace/proof?operation=…`, asked of the node that ran the operation
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Proof {
    /// The proof.
    pub inclusion: InclusionProof,
}

/// `GET /v1/trace/checkpoint`: the newest one; with `?cosigned=true` the newest that a peer has cosigned.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SignedCheckpoint {
    /// The signed note, cosigned by [`Self::cosigners`].
    pub note: String,
    /// Its size.
    pub size: u64,
    /// The key in C2SP form, for other tools.
    pub verifier_key: String,
    /// The peers that have seen it and nothing that contradicts it.
    #[serde(default)]
    pub cosigners: Vec<Cosigner>,
}

/// A peer that cosigned a checkpoint.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Cosigner {
    /// The peer.
    pub node: NodeId,
    /// When, by its clock.
    pub time: Timestamp,
    /// The key of its cosignatures in C2SP form, for other tools.
    pub verifier_key: String,
}

/// An item of `GET /v1/trace/witness`: another node's trace, as far as this node remembers it. `DELETE
/// /v1/trace/witness/{node}` forgets it, with the evidence.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct WitnessedLog {
    /// The log's node.
    pub node: NodeId,
    /// The size of the newest checkpoint that it has shown to be an extension of all before.
    pub size: u64,
    /// That checkpoint: a signed note.
    pub note: String,
    /// When it showed the first one.
    pub first_at: Timestamp,
    /// When it showed this one.
    pub seen_at: Timestamp,
    /// How many it has shown.
    pub times: u64,
    /// What speaks against it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub evidence: Option<Evidence>,
}

/// The answer of `POST /v1/trace/verify`: the whole log, recomputed from its entries.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct TraceVerified {
    /// Entries in the tree that was recomputed.
    pub entries: u64,
    /// Those of which only the hash is there; the others were read and hashed.
    #[serde(default)]
    pub without_content: u64,
    /// What was pruned, if anything was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pruned: Option<Pruned>,
    /// Signed checkpoints found on the way and matched.
    pub checkpoints: u64,
    /// The newest checkpoint.
    pub checkpoint: String,
}
