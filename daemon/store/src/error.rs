//! What can go wrong in a store.

use std::{error::Error as StdError, io, path::PathBuf, sync::Arc};

use protocol::{Code, Digest, Problem};

use crate::commit::Rejected;

/// Why a store didn't do it. Cloned to every caller whose commit shared a group.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// The commit was not made; the store is well.
    #[error(transparent)]
    Rejected(#[from] Rejected),
    /// The store was written by a newer program.
    #[error("the store {} is of version {found}, this program knows up to {known}", path.display())]
    MigrationNeeded {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u32,
        /// The newest version known.
        known: u32,
    },
    /// The file is something else; it was not touched.
    #[error("{} is not a store: {why}", path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
        /// How that shows.
        why: &'static str,
    },
    /// Another process has it locked.
    #[error("the store is locked by another process")]
    Locked,
    /// The disk is full.
    #[error("the disk of the store is full")]
    Full,
    /// What is stored isn't what was written.
    #[error("the store is damaged: {what}")]
    Damaged {
        /// What shows it.
        what: String,
    },
    /// A row isn't what was written; the rest of the store works.
    #[error("a row of the store is damaged: {0}")]
    DamagedRow(DamagedRow),
    /// Content doesn't have the digest it was announced with.
    #[error("the content doesn't have the digest {expected}")]
    Mismatch {
        /// The digest announced.
        expected: Digest,
    },
    /// Somebody else is at it.
    #[error("{what} is being gathered already")]
    Busy {
        /// What.
        what: String,
    },
    /// Too many snapshots are open.
    #[error("too many calls read the store at once")]
    Overloaded,
    /// The store was closed.
    #[error("the store is closed")]
    Closed,
    /// The writer ended before it said how the commit came out.
    #[error("the store's writer ended, it is not known whether the commit was made")]
    Interrupted,
    /// The database failed.
    #[error("the store failed to {doing}")]
    Failed {
        /// What it was doing.
        doing: &'static str,
        /// What the database says.
        #[source]
        source: Arc<dyn StdError + Send + Sync>,
    },
    /// The file system failed.
    #[error("failed to {doing} {}", path.display())]
    Files {
        /// What was being done.
        doing: &'static str,
        /// To which file.
        path: PathBuf,
        /// What the system says.
        #[source]
        source: Arc<io::Error>,
    },
}

/// A row that isn't what was written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{table} {key}")]
pub struct DamagedRow {
    /// Its table.
    pub table: &'static str,
    /// Its key as it was read, for people.
    pub key: String,
    /// Whether it is the content that changed, and the key is the one that was written.
    pub content: bool,
    /// The key that was written, encoded, as far as that can be told.
    pub(crate) original: Option<Vec<u8>>,
}

impl DamagedRow {
    /// The id of a record, as it was written, as far as that can be told.
    pub fn record_id(&self) -> Option<String> {
        // A number of nine bytes, the kind, and then a text with its length of eight bytes before it.
        let text = self.original.as_deref().filter(|_| self.table == "record")?.get(9 + 9..)?;
        std::str::from_utf8(text).ok().map(str::to_owned)
    }
}

/// What to do about a damaged store.
pub(crate) const DAMAGED: &str =
    "'mcpctl store verify' names all that is damaged; check the disk, then restore a backup, or have the agents recovered from replicas";

impl Error {
    /// Its stable code.
    pub fn code(&self) -> Code {
        match self {
            Self::Rejected(rejected) => rejected.code(),
            Self::MigrationNeeded { .. } => Code::MigrationNeeded,
            Self::Locked => Code::Locked,
            Self::Mismatch { .. } => Code::BadSignature,
            Self::Overloaded => Code::Overloaded,
            Self::Busy { .. } => Code::Conflict,
            Self::Closed => Code::ShuttingDown,
            Self::Damaged { .. } | Self::DamagedRow(_) => Code::StoreDamaged,
            Self::Foreign { .. } | Self::Full | Self::Interrupted | Self::Failed { .. } | Self::Files { .. } => Code::StoreFailed,
        }
    }

    fn hint(&self) -> Option<&'static str> {
        match self {
            Self::MigrationNeeded { .. } => Some("run the newer program, or restore a backup made by this one"),
            Self::Foreign { .. } => Some("point the data directory elsewhere, or move the file away"),
            Self::Full => Some("free some space; nothing was lost and no restart is needed"),
            Self::Damaged { .. } | Self::DamagedRow(_) => Some(DAMAGED),
            Self::Overloaded | Self::Busy { .. } => Some("try again later"),
            Self::Interrupted => Some("look the operation up before repeating it"),
            Self::Rejected(_) | Self::Locked | Self::Mismatch { .. } | Self::Closed | Self::Failed { .. } | Self::Files { .. } => None,
        }
    }

    /// Wraps a file system's error.
    pub(crate) fn files(doing: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |error| match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::Full,
            _ => Self::Files { doing, path, source: Arc::new(error) },
        }
    }

    /// A task of ours ended early.
    pub fn from_task(doing: &'static str, error: tokio::task::JoinError) -> Self {
        Self::failed(doing, error)
    }

    /// Wraps a backend's error.
    pub(crate) fn failed(doing: &'static str, source: impl StdError + Send + Sync + 'static) -> Self {
        Self::Failed { doing, source: Arc::new(source) }
    }
}

impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        let mut detail = error.to_string();
        // A transparent variant shows its cause already.
        let mut cause = if matches!(error, Error::Rejected(_)) { None } else { error.source() };
        while let Some(source) = cause {
            detail.push_str(": ");
            detail.push_str(&source.to_string());
            cause = source.source();
        }
        let problem = Self::new(error.code(), detail);
        let hint = match &error {
            Error::Rejected(Rejected::Damaged { .. }) => Some(DAMAGED),
            other => other.hint(),
        };
        match hint {
            Some(hint) => problem.hint(hint),
            None => problem,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn problems_name_the_cause_once() {
        let error = Error::files("read", "/x/y")(io::Error::other("no such luck"));
        let problem = Problem::from(error);
        assert_eq!(problem.detail, "failed to read /x/y: no such luck");
        assert_eq!(problem.code, Code::StoreFailed);
        let rejected = Problem::from(Error::Rejected(Rejected::Duplicate));
        assert_eq!((rejected.code, rejected.detail), (Code::Conflict, Rejected::Duplicate.to_string()));
    }
}
