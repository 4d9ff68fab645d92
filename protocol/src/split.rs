//! Split views: the proof that a node signed two different traces.
//!
//! A log only grows, so of each size it has one root. Whoever holds two checkpoints of one size with different roots,
//! both signed by the node, has caught it: no explanation is left, and nothing but the two notes is needed to show it.

use serde::{Deserialize, Serialize};

use crate::{
    checkpoint::{self, Checkpoint},
    key::NodeId,
    merkle::{Hash, base64_hash},
};

/// The form this program writes.
pub const VERSION: u32 = 1;

/// Two signed checkpoints that can't both be of one log: verifies offline, on any machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SplitView {
    /// The document's form: 1.
    pub version: u32,
    /// One signed note.
    pub first: String,
    /// The other.
    pub second: String,
}

/// What a split view proves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Split {
    /// The node that signed both.
    pub node: NodeId,
    /// The size of both traces.
    pub size: u64,
    /// The root of one.
    #[serde(with = "base64_hash")]
    pub first: Hash,
    /// The root of the other.
    #[serde(with = "base64_hash")]
    pub second: Hash,
}

/// Why two checkpoints prove no split view.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// One of them isn't a checkpoint, or isn't signed by its node.
    #[error(transparent)]
    Checkpoint(#[from] checkpoint::Error),
    /// A form that this program doesn't know.
    #[error("the split view is of version {found}; this program knows version {VERSION}")]
    Version {
        /// Its version.
        found: u32,
    },
    /// They may well be of one log, or are of two nodes.
    #[error("the two checkpoints don't contradict each other: they aren't of one node and one size with different roots")]
    NoContradiction,
}

impl SplitView {
    /// The proof that `first` and `second` are.
    ///
    /// # Errors
    /// They prove nothing of the kind.
    pub fn of(first: &str, second: &str) -> Result<Self, Error> {
        let view = Self { version: VERSION, first: first.into(), second: second.into() };
        view.verify().map(|_| view)
    }

    /// Verifies both signatures, and that the two contradict each other.
    ///
    /// # Errors
    /// It proves nothing: see [`Error`].
    pub fn verify(&self) -> Result<Split, Error> {
        if self.version != VERSION {
            return Err(Error::Version { found: self.version });
        }
        let (first, second) = (Checkpoint::verify(&self.first)?, Checkpoint::verify(&self.second)?);
        if !first.contradicts(&second) {
            return Err(Error::NoContradiction);
        }
        Ok(Split { node: first.node, size: first.size, first: first.root, second: second.root })
    }
}
