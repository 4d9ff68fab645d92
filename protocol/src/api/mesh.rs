//! The mesh, from a user's side: membership, peers, reachability, limits.

use serde::{Deserialize, Serialize};

use crate::{
    Timestamp,
    credential::{Member, Role, Zone},
    error::Code,
    id::{MeshId, TokenId},
    key::NodeId,
};

/// How a mesh admits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Admission {
    /// The node is in no mesh.
    None,
    /// The mesh admits everyone: for development.
    Open,
    /// The mesh admits members alone.
    Private,
}

/// `GET /v1/mesh`, and the answer of `POST /v1/mesh/init`
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct MeshState {
    /// The mesh.
    pub mesh_id: MeshId,
    /// How it admits.
    pub admission: Admission,
    /// This node's membership, in a private mesh, once it is enrolled.
    pub member: Option<Membership>,
    /// Whether this node has the authority's key.
    pub authority: bool,
    /// Connected peers.
    pub peers: usize,
}

/// A node's own membership.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Membership {
    /// What the node is in the mesh.
    pub role: Role,
    /// Where it is.
    pub zone: Option<Zone>,
    /// When its credential expires, if it isn't renewed before.
    pub expires_at: Timestamp,
}

/// `POST /v1/join`
#[derive(Clone, Serialize, Deserialize)]
pub struct Join {
    /// Multiaddrs, or `wss://host:port`; may be empty where there is a token.
    #[serde(default)]
    pub addresses: Vec<String>,
    /// A join token: a secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
}

impl std::fmt::Debug for Join {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Join").field("addresses", &self.addresses).finish_non_exhaustive()
    }
}

/// The answer of `POST /v1/join`
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Entered {
    /// The mesh that the node is in now, or on its way into.
    pub mesh_id: MeshId,
    /// Whether it is a member; always so in an open mesh.
    pub member: bool,
    /// One for each address that was tried.
    pub items: Vec<Joined>,
}

/// What came of one address.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Joined {
    /// The address as a multiaddr.
    pub address: String,
    /// The node that answered there.
    pub node_id: Option<NodeId>,
    /// The step that failed: `address`, `DNS`, `TCP`, `QUIC`, `TLS`, `handshake`, `admission`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step: Option<String>,
    /// The reason's code, where one is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<Code>,
    /// Why nobody did; the daemon keeps trying.
    pub error: Option<String>,
}

/// `POST /v1/tokens`
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CreateToken {
    /// How long it is valid, in seconds.
    pub ttl_s: u64,
    /// How many nodes may enter by it.
    pub uses: u32,
    /// What they become.
    pub role: Role,
    /// Where they are.
    #[serde(default)]
    pub zone: Option<Zone>,
    /// Where they enter; this node's own addresses and bootstrap peers if left out.
    #[serde(default)]
    pub addresses: Vec<String>,
}

/// The answer of `POST /v1/tokens`: the only time that the token is shown.
#[derive(Clone, Serialize, Deserialize)]
pub struct CreatedToken {
    /// The token's outline.
    #[serde(flatten)]
    pub outline: TokenOutline,
    /// The token: a secret.
    pub token: String,
}

impl std::fmt::Debug for CreatedToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CreatedToken").field("outline", &self.outline).finish_non_exhaustive()
    }
}

/// An item of `GET /v1/tokens`
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct TokenOutline {
    /// Its id.
    pub id: TokenId,
    /// What nodes become by it.
    pub role: Role,
    /// Where they are.
    pub zone: Option<Zone>,
    /// How many nodes may enter by it.
    pub uses: u32,
    /// Those that did.
    pub used_by: Vec<NodeId>,
    /// When it was made.
    pub created_at: Timestamp,
    /// From when on it is refused.
    pub expires_at: Timestamp,
    /// Where nodes enter.
    pub addresses: Vec<String>,
    /// Whether it was taken back.
    pub revoked: bool,
}

/// An item of `GET /v1/members`
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct MemberState {
    /// The member.
    #[serde(flatten)]
    pub member: Member,
    /// Whether it is connected with this node now.
    pub connected: bool,
}

/// An item of `GET /v1/peers`
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Peer {
    /// The peer.
    pub node_id: NodeId,
    /// Where it is connected.
    pub address: String,
    /// The transport: `tcp`, `quic`, `wss`, `relayed`.
    pub transport: String,
    /// Whether a relay stands between.
    #[serde(default)]
    pub relayed: bool,
    /// The last measured round trip, in microseconds.
    pub rtt_us: Option<u64>,
    /// The peer's program.
    pub agent_version: Option<String>,
}

/// `POST /v1/peers/{node}/ping`
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Pong {
    /// The peer.
    pub node_id: NodeId,
    /// The round trip of one request on the RPC stream, in microseconds.
    pub rtt_us: u64,
    /// The transport that carried it; `relayed` where a relay stands between.
    #[serde(default)]
    pub via: String,
}

/// A node that is kept out: an item of `GET /v1/bans`, and the answer of `POST /v1/peers/{node}/ban`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ban {
    /// The node.
    pub node: NodeId,
    /// Why.
    pub reason: String,
    /// Since when.
    pub since: Timestamp,
    /// Until when.
    pub until: Timestamp,
    /// Whether an operator said so.
    pub manual: bool,
    /// How often this node was banned for misbehaviour, this time included.
    #[serde(default)]
    pub times: u32,
}

/// `POST /v1/peers/{node}/ban`
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct BanPeer {
    /// For how long, in seconds.
    pub for_s: u64,
    /// Why.
    #[serde(default)]
    pub reason: Option<String>,
}

/// An item of `GET /v1/swarm/limits`
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Limit {
    /// What is limited.
    pub name: String,
    /// In what it is counted.
    pub unit: String,
    /// The limit.
    pub value: u64,
    /// Why this much.
    pub why: String,
    /// How much is in use now, where that is known.
    pub in_use: Option<u64>,
    /// How often it was met since the start, where that is counted.
    pub refused: Option<u64>,
}

/// What stands between a node and the internet, as others see it (RFC 4787, section 4.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Nat {
    /// Nobody has told yet where this node comes from.
    Unknown,
    /// Nothing: others see the node's own address.
    None,
    /// An address translator, of a kind that isn't known yet: too few peers have told.
    Behind,
    /// One mapping for all: hole punching works as a rule.
    EndpointIndependent,
    /// Another mapping for each peer: as a rule only relays help.
    EndpointDependent,
}

/// Where a peer sees this node come from.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Observed {
    /// The peer.
    pub by: NodeId,
    /// The address.
    pub address: String,
}

/// A reservation on a relay.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Reservation {
    /// The relay.
    pub relay: NodeId,
    /// Since how many seconds.
    pub held_s: u64,
}

/// `GET /v1/netcheck`
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Netcheck {
    /// What stands between.
    pub nat: Nat,
    /// Whether others can dial this node without a relay.
    pub public: bool,
    /// Where it listens.
    pub listening: Vec<String>,
    /// Addresses that lead here from elsewhere, relayed ones too.
    pub reachable: Vec<String>,
    /// Addresses that a peer tried in vain.
    pub unreachable: Vec<String>,
    /// Where peers see it come from.
    pub observed: Vec<Observed>,
    /// Relays that hold a reservation for it.
    pub relays: Vec<Reservation>,
    /// What the router says, if it was asked.
    pub port_mapping: Option<String>,
    /// How each peer is reached.
    pub peers: Vec<Peer>,
}

/// `GET /v1/mesh/ca`
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CertificateAuthority {
    /// The mesh.
    pub mesh_id: MeshId,
    /// The certificate of its TLS authority.
    pub pem: String,
}
