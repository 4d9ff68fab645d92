//! Why the entry node doesn't start, or ends.

use std::{io, path::PathBuf};

use protocol::Code;

/// See the module.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// A setting is missing or wrong.
    #[error("{0}")]
    Settings(String),
    /// Another process holds the data directory.
    #[error("{} is held by another process: stop that one, or pass another --data-dir", .0.display())]
    Locked(PathBuf),
    /// The key's file can't be used.
    #[error("{}: {reason}", path.display())]
    Key {
        /// The file.
        path: PathBuf,
        /// What is wrong and what to do.
        reason: String,
    },
    /// The system failed.
    #[error("can't {doing}: {source}")]
    Io {
        /// What was tried.
        doing: String,
        /// Why it failed.
        source: io::Error,
    },
    /// The credential or the join token can't be used.
    #[error("{0}")]
    Membership(protocol::Problem),
    /// The mesh can't be joined.
    #[error(transparent)]
    Mesh(#[from] mesh::Error),
    /// The mesh ended though nobody asked it to.
    #[error("the mesh has ended unexpectedly, see the log above")]
    MeshEnded,
}

impl Error {
    pub(crate) fn code(&self) -> Code {
        match self {
            Self::Settings(_) | Self::Key { .. } | Self::Mesh(mesh::Error::Address { .. }) => Code::InvalidConfig,
            Self::Locked(_) => Code::Locked,
            Self::Io { .. } | Self::MeshEnded => Code::Internal,
            Self::Membership(problem) => problem.code,
            Self::Mesh(error) => error.code(),
        }
    }
}
