//! What can go wrong in the mesh, in terms a caller can act on.

use std::{io, time::Duration};

use protocol::{Code, Problem};

/// Why the mesh refuses or fails.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The text is no address that this node can dial.
    #[error("{address:?} is not an address to dial: {reason}")]
    Address {
        /// The text.
        address: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A configured address can't be listened on.
    #[error("can't listen on {address}: {source}")]
    Listen {
        /// The multiaddr.
        address: String,
        /// Why not.
        source: io::Error,
    },
    /// The transports can't be set up.
    #[error("can't set up {what}: {reason}")]
    Setup {
        /// Which part.
        what: &'static str,
        /// Why not.
        reason: String,
    },
    /// No connection could be made.
    #[error("{target} can't be reached: {reason}")]
    Unreachable {
        /// The address or node.
        target: String,
        /// Why not, as far as it is known.
        reason: String,
    },
    /// One of the two isn't admitted by the other.
    #[error("no admission at {target}: {reason}")]
    Refused {
        /// The address or node.
        target: String,
        /// Why, in a form for programs.
        code: Code,
        /// Why, and by whom.
        reason: String,
    },
    /// The node there has just been enrolled by this one, or has enrolled it: it connects as a member next.
    #[error("{target}: a node was enrolled; it connects as a member next")]
    Enrolled {
        /// The address.
        target: String,
    },
    /// No answer in time.
    #[error("no answer from {target} within {} ms", after.as_millis())]
    TimedOut {
        /// Who or what was asked.
        target: String,
        /// How long it was waited for.
        after: Duration,
    },
    /// A limit of this node is reached.
    #[error("{what}: this node's limit is reached")]
    Limit {
        /// Of what.
        what: &'static str,
    },
    /// The mesh has been shut down.
    #[error("the mesh is shut down")]
    Stopped,
}

impl Error {
    /// The stable code.
    pub fn code(&self) -> Code {
        match self {
            Self::Address { .. } => Code::InvalidRequest,
            Self::Listen { .. } => Code::InvalidConfig,
            Self::Setup { .. } => Code::Internal,
            Self::Unreachable { .. } => Code::Unreachable,
            Self::Refused { code, .. } => *code,
            Self::Enrolled { .. } => Code::Conflict,
            Self::TimedOut { .. } => Code::TimedOut,
            Self::Limit { .. } => Code::Overloaded,
            Self::Stopped => Code::ShuttingDown,
        }
    }

    fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Address { .. } => Some("write /ip4/192.0.2.1/tcp/8766, /dns4/host/tcp/8765/tls/ws or wss://host:8765"),
            Self::Listen { .. } => Some("see whether another process holds the port, and whether the address is this host's"),
            Self::Unreachable { .. } => Some("see whether the node runs and its ports (8765 tcp and udp, 8766 tcp) are open"),
            Self::Refused { code: Code::ForeignMesh, .. } => Some("use the address of a node of this mesh, or a join token of that mesh"),
            Self::Refused { code: Code::NotAMember | Code::Expired | Code::Revoked, .. } => {
                Some("ask the mesh's operator for a join token ('mcpctl token create'), then 'mcpctl join TOKEN'")
            }
            Self::Refused { .. } => None,
            Self::Enrolled { .. } | Self::TimedOut { .. } | Self::Setup { .. } | Self::Limit { .. } | Self::Stopped => None,
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
