//! Why the gateway doesn't start.

use std::{io, net::SocketAddr, path::PathBuf};

use protocol::{Code, Problem};

use crate::keys::MIN_LENGTH;

/// Why the gateway doesn't start.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// A static key that can be guessed. Names its place, never the key.
    #[error("key {place} of {source_name} has fewer than {MIN_LENGTH} characters")]
    ShortKey {
        /// Its place, from 1.
        place: usize,
        /// Where it was read.
        source_name: String,
    },
    /// More static keys, or more text, than anyone needs.
    #[error("{0} holds too many keys")]
    TooManyKeys(String),
    /// The variable isn't UTF-8.
    #[error("{0} is not UTF-8")]
    NotText(String),
    /// The file of keys can't be read.
    #[error("can't read {} (MCP_API_KEYS_FILE): {source}", path.display())]
    KeyFile {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The address can't be listened on.
    #[error("can't listen on {address}: {source}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// The operating system refuses a thread, a timer or a signal handler.
    #[error("can't start: {0}")]
    Runtime(io::Error),
}

impl Error {
    /// The stable code.
    fn code(&self) -> Code {
        match self {
            Self::ShortKey { .. } | Self::TooManyKeys(_) | Self::NotText(_) | Self::KeyFile { .. } => Code::InvalidConfig,
            Self::Listen { .. } => Code::Conflict,
            Self::Runtime(_) => Code::Internal,
        }
    }

    fn hint(&self) -> Option<&'static str> {
        match self {
            Self::ShortKey { .. } => Some("make one with 'mcpctl key create NAME', or with 'openssl rand -hex 32'"),
            Self::TooManyKeys(_) => Some("make keys with 'mcpctl key create NAME': those can be listed and revoked"),
            Self::Listen { source, .. } if source.kind() == io::ErrorKind::AddrInUse => Some("choose another with '--listen ADDR:PORT'"),
            Self::Listen { .. } | Self::NotText(_) | Self::KeyFile { .. } | Self::Runtime(_) => None,
        }
    }
}

impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        let problem = Self::new(error.code(), error.to_string());
        match error.hint() {
            Some(hint) => problem.hint(hint),
            None => problem,
        }
    }
}
