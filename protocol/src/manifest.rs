//! The plugin manifest: what a publisher signs.

use serde::{Deserialize, Serialize};

use crate::{
    digest::Digest,
    document::{Document, Header},
    key::Did,
};

/// The plugin interface this program hosts (see `protocol/wit/plugin.wit`).
pub const INTERFACE: &str = "mcp-zero:plugin@0.1.0";

/// The largest component a node accepts; componentize-py makes 18 MB of a small program.
pub const MAX_COMPONENT: usize = 64 * 1024 * 1024;

/// What a plugin may import from its host. Linked only if its manifest asks for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Import {
    /// The agent's durable key-value state.
    State,
    /// Log lines.
    Log,
    /// The wall clock.
    Clock,
    /// Random bytes.
    Random,
    /// Outgoing HTTP, to hosts that the agent was granted and the node allows.
    Http,
    /// Calls of other agents, of those that the agent was granted.
    Agents,
}

impl Import {
    /// Every import there is.
    pub const ALL: [Self; 6] = [Self::State, Self::Log, Self::Clock, Self::Random, Self::Http, Self::Agents];

    /// Its interface's name within [`INTERFACE`].
    pub fn as_str(self) -> &'static str {
        match self {
            Self::State => "state",
            Self::Log => "log",
            Self::Clock => "clock",
            Self::Random => "random",
            Self::Http => "http",
            Self::Agents => "agents",
        }
    }
}

/// A publisher's statement about one component. Bound to no mesh.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// Type, version, mesh `*`, validity.
    pub header: Header,
    /// The plugin's name, 1 to 32 of `a-z 0-9 -`. A method `search` of plugin `docs` is the capability `docs.search`.
    pub name: String,
    /// Its version (semantic versioning).
    pub release: String,
    /// Who signs.
    pub publisher: Did,
    /// The component's BLAKE3 digest.
    pub component: Digest,
    /// The component's size in bytes.
    pub size: u64,
    /// The interface it is built for: [`INTERFACE`].
    pub interface: String,
    /// What it needs from its host.
    pub imports: Vec<Import>,
    /// How a node finds out whether this release works on an agent's state, before the agent becomes it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health: Option<Health>,
}

/// A call that succeeds where all is well. What it writes is dropped.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    /// The method.
    pub method: String,
    /// Its parameters.
    #[serde(default)]
    pub params: serde_json::Value,
}

impl Document for Manifest {
    const TYPE: &'static str = "plugin-manifest";
    const VERSION: u32 = 1;
    const ANY_MESH: bool = true;

    fn header(&self) -> &Header {
        &self.header
    }
}

/// Whether `name` may name a plugin, an agent or a method: 1 to 32 of `a-z 0-9 - _`, beginning with a letter.
pub fn is_name(name: &str) -> bool {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'_';
    (1..=32).contains(&name.len()) && name.as_bytes()[0].is_ascii_lowercase() && name.bytes().all(plain)
}
