//! What a mesh node is told at its start.

use std::{
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
};

use protocol::{Key, MeshId};

use crate::{limits::MAX_MEMORY, membership::Membership, papers::Papers, transport::CertificateFiles, trimming};

/// How to run a node of a mesh.
#[derive(Debug, Clone)]
pub struct Config {
    /// The node's transport identity.
    pub key: Key,
    /// The mesh, whose id is in every protocol name so that meshes don't mix; and this node's place in it.
    pub membership: Arc<Membership>,
    /// Where its membership is kept when it changes.
    pub papers: Option<Papers>,
    /// Where to listen.
    pub listen: Listen,
    /// What WebSocket over TLS shows; a certificate of the node's own if left out.
    pub certificate: Option<CertificateFiles>,
    /// Where to enter: multiaddrs or `wss://host:port`. Redialled for ever.
    pub bootstrap: Vec<String>,
    /// Whether loopback and private addresses are exchanged with others: for LANs and development.
    pub private_addresses: bool,
    /// Addresses by which this node is known to be reachable, whatever it sees itself: behind a 1:1 NAT, in a container.
    pub announce: Vec<String>,
    /// Whether to relay between nodes that can't reach one another, where this node can be reached itself.
    pub relay: bool,
    /// Whether to ask the router for a port mapping.
    pub upnp: bool,
    /// Whether to look for neighbours on the LAN; where private addresses are exchanged.
    pub mdns: bool,
    /// Peers that are kept connected, about; more are let go unless they are needed.
    pub peers: usize,
    /// Bytes of memory of the process past which no connection is made.
    pub max_memory: usize,
    /// Whether to serve Kademlia from the start, without waiting for a public address of this node.
    pub server: bool,
}

impl Config {
    /// The mesh.
    pub fn mesh(&self) -> &MeshId {
        self.membership.mesh()
    }

    /// A node of `mesh` with the usual ports, alone until it joins. In a private mesh it isn't a member yet.
    pub fn new(key: Key, mesh: MeshId) -> Self {
        let membership = Arc::new(Membership::new(mesh, key.node_id()));
        Self {
            key,
            membership,
            papers: None,
            certificate: None,
            listen: Listen::default(),
            bootstrap: Vec::new(),
            private_addresses: false,
            announce: Vec::new(),
            relay: false,
            upnp: false,
            mdns: false,
            peers: trimming::PEERS,
            max_memory: MAX_MEMORY,
            server: false,
        }
    }
}

/// Where to listen. A port of 0 lets the system choose; `None` leaves the transport out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Listen {
    /// The interface's address; the unspecified address means every interface of its family.
    pub host: IpAddr,
    /// TCP with Noise and Yamux.
    pub tcp: Option<u16>,
    /// QUIC, a UDP port.
    pub quic: Option<u16>,
    /// WebSocket over TLS; can't share `tcp`'s port.
    pub wss: Option<u16>,
}

impl Default for Listen {
    fn default() -> Self {
        Self { host: Ipv4Addr::UNSPECIFIED.into(), tcp: Some(8766), quic: Some(8765), wss: Some(8765) }
    }
}

impl Listen {
    /// Every transport on ports that the system chooses, on `host`.
    pub fn any_port(host: IpAddr) -> Self {
        Self { host, tcp: Some(0), quic: Some(0), wss: Some(0) }
    }
}
