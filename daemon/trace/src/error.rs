//! What can be wrong with a log, or with what was read from it.

use protocol::{Code, Problem, checkpoint};

/// Why a proof can't be made, or a log can't be trusted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// No such entry in a tree of this size.
    #[error("entry {index} is not in a log of {size} entries")]
    OutOfRange {
        /// The entry asked for.
        index: u64,
        /// The size of the tree.
        size: u64,
    },
    /// A log only grows: nothing proves that it did not.
    #[error("a log of {new} entries can't be shown to extend one of {old}")]
    Shrunk {
        /// The size that should be the older.
        old: u64,
        /// The size that should be the newer.
        new: u64,
    },
    /// What was read isn't what the plan asked for: the store lacks hashes.
    #[error("the store gave {found} hashes where {expected} were needed (level {level}, from {from})")]
    Missing {
        /// The level read.
        level: u8,
        /// The first index read.
        from: u64,
        /// How many were asked for.
        expected: u64,
        /// How many there were.
        found: u64,
    },
    /// Audit: an entry is missing, or comes twice.
    #[error("the log has entry {found} where entry {expected} should stand")]
    Gap {
        /// The index that is due.
        expected: u64,
        /// The index found.
        found: u64,
    },
    /// Audit: an entry's bytes don't hash to its stored leaf.
    #[error("entry {index} was changed: its bytes do not hash to its stored leaf")]
    Leaf {
        /// The entry.
        index: u64,
    },
    /// Audit: a checkpoint isn't one, or isn't signed by its node.
    #[error("after {size} entries: {fault}")]
    Checkpoint {
        /// Entries audited so far.
        size: u64,
        /// What is wrong with it.
        fault: checkpoint::Error,
    },
    /// Audit: a checkpoint of another log.
    #[error("the checkpoint of {size} entries is of log {found}, not of {expected}")]
    Origin {
        /// The checkpoint's size.
        size: u64,
        /// Its log.
        found: String,
        /// The log that is audited.
        expected: String,
    },
    /// Audit: a checkpoint of another size than the entries before it. At the end of a log: entries were cut off.
    #[error("the node signed a checkpoint of {size} entries, but here the log has {entries}")]
    Size {
        /// The checkpoint's size.
        size: u64,
        /// Entries audited so far.
        entries: u64,
    },
    /// Audit: the entries' root isn't the one that was signed.
    #[error("entries 0 to {} do not have the root that the node signed: one of them was changed", .size.saturating_sub(1))]
    Root {
        /// The checkpoint's size.
        size: u64,
    },
}

impl Error {
    /// The stable code.
    pub fn code(&self) -> Code {
        match self {
            Self::OutOfRange { .. } => Code::NotFound,
            Self::Shrunk { .. } => Code::InvalidRequest,
            Self::Missing { .. } => Code::StoreFailed,
            Self::Checkpoint { fault: checkpoint::Error::Malformed, .. } => Code::MalformedDocument,
            Self::Checkpoint { fault: checkpoint::Error::Signature, .. } => Code::BadSignature,
            Self::Gap { .. } | Self::Leaf { .. } | Self::Origin { .. } | Self::Size { .. } | Self::Root { .. } => Code::ProofFailed,
        }
    }
}

impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        let problem = Self::new(error.code(), error.to_string());
        match error {
            Error::OutOfRange { .. } | Error::Shrunk { .. } => problem,
            Error::Missing { .. } => problem.hint("verify the whole log; if it fails, restore the store from a backup"),
            Error::Gap { .. }
            | Error::Leaf { .. }
            | Error::Checkpoint { .. }
            | Error::Origin { .. }
            | Error::Size { .. }
            | Error::Root { .. } => {
                problem.hint("the log is not what the node signed: keep it as evidence, and compare it with a peer's copy")
            }
        }
    }
}
