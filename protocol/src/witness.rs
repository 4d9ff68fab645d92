//! Witnessing: nodes remember the checkpoints of others, cosign what only grew, and keep what speaks against a log.
//!
//! ```text
//! log's owner                                       witness
//!   Shown { newest checkpoint } ───────────────────►  never seen, or the same: cosigned
//!                    ◄───────────── Remembered(note)  or: how did you get here from what you showed me before?
//!   Shown { newest checkpoint, link from there } ──►  it only grew: remembered, cosigned. Otherwise: evidence
//! ```

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{
    checkpoint::{self, Checkpoint},
    merkle::{self, Hash},
};

/// The longest note that is taken from a peer: a checkpoint with its one signature takes 300 bytes.
pub const MAX_NOTE: usize = 1024;
/// The most checkpoints of others that a node tells a neighbour at once.
pub const MAX_TOLD: usize = 64;

/// How a log says that it came from an earlier size to a checkpoint's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Link {
    /// The earlier size.
    pub from: u64,
    /// The root that it had at that size.
    #[serde(with = "merkle::base64_hash")]
    pub root: Hash,
    /// The consistency proof between both.
    #[serde(with = "merkle::base64_hashes")]
    pub hashes: Vec<Hash>,
}

impl Link {
    /// Whether the tree of `to` really began with the tree that this says.
    pub fn leads_to(&self, to: &Checkpoint) -> bool {
        merkle::verify_consistency(self.from, &self.root, to.size, &to.root, &self.hashes).is_ok()
    }
}

/// What a log's owner shows a witness.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shown {
    /// Its newest checkpoint: a signed note.
    pub note: String,
    /// How it came there from the one that the witness remembers.
    pub link: Option<Link>,
}

/// What a witness answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Witnessed {
    /// Its cosignature: a line of the note.
    Cosigned(String),
    /// The checkpoint of this log that it remembers, a signed note: link to that one.
    Remembered(String),
}

/// What was found about a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Finding {
    /// Proof: it signed two histories.
    Fork,
    /// Suspicion: told of a larger checkpoint that it had signed, it showed a smaller one.
    Rollback,
    /// Suspicion: its link to what it had signed before doesn't hold.
    Unconnected,
    /// Suspicion: asked again and again, it gave no link to what it had signed before.
    Withheld,
}

impl Finding {
    /// Whether it is a proof, which needs nobody's word.
    pub fn is_proof(self) -> bool {
        self == Self::Fork
    }

    /// It in words.
    pub fn describe(self) -> &'static str {
        match self {
            Self::Fork => "proof: it signed two histories",
            Self::Rollback => "suspicion: it showed a smaller log than it had signed before",
            Self::Unconnected => "suspicion: it showed a log that is not proven to extend what it had signed before",
            Self::Withheld => "suspicion: it did not prove that its log extends what it had signed before",
        }
    }
}

/// What speaks against a log. Of a proof, all that is needed to verify it offline.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Evidence {
    /// What was found.
    pub finding: Finding,
    /// The checkpoint that the log's owner had signed before: a signed note.
    pub old: String,
    /// The one that was shown then.
    pub new: String,
    /// Of a fork between two sizes: how the newer tree began, which is not what the older checkpoint says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub link: Option<Link>,
    /// When this node found it.
    pub found_at: Timestamp,
}

/// Why evidence is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A note isn't one, or isn't signed by its node.
    #[error(transparent)]
    Checkpoint(#[from] checkpoint::Error),
    /// The notes are of two logs.
    #[error("the two checkpoints are of different logs")]
    Logs,
    /// It calls itself a proof, and proves nothing.
    #[error("both checkpoints can be of one history: this proves no fork")]
    NoFork,
}

impl Evidence {
    /// Verifies both notes, and of a proof, that they can't be of one history; returns the older and the newer checkpoint.
    /// What is no [proof](Finding::is_proof) stays somebody's word.
    pub fn verify(&self) -> Result<(Checkpoint, Checkpoint), Error> {
        let (old, new) = (Checkpoint::verify(&self.old)?, Checkpoint::verify(&self.new)?);
        if old.node != new.node {
            return Err(Error::Logs);
        }
        if self.finding.is_proof() && !forks(&old, &new, self.link.as_ref()) {
            return Err(Error::NoFork);
        }
        Ok((old, new))
    }
}

/// Whether two checkpoints of one log can't be of one history: they are of one size with different roots, or the newer tree
/// began with a tree of the older one's size that has another root. A valid link fixes that root as well as it fixes the
/// newer one, for whoever can't find two inputs of one SHA-256 hash.
pub fn forks(old: &Checkpoint, new: &Checkpoint, link: Option<&Link>) -> bool {
    match link {
        None => old.size == new.size && old.root != new.root,
        Some(link) => link.from == old.size && link.root != old.root && link.leads_to(new),
    }
}
