//! A mesh of its own: a directory, an id, and entry points.

use std::{
    net::{TcpListener, UdpSocket},
    path::Path,
    sync::Arc,
};

use protocol::{Key, MeshId};
use tempfile::TempDir;

use crate::{Bootstrap, Gateway, Host, Node, NodeBuilder, bootstrap::Enter};

/// A mesh of its own.
#[derive(Debug)]
pub struct Cluster {
    place: Arc<TempDir>,
    mesh_id: MeshId,
    entries: Vec<String>,
}

impl Cluster {
    /// A mesh without any node.
    pub fn new() -> Self {
        let place = tempfile::Builder::new().prefix("mcp0-").tempdir().expect("a temporary directory can be made");
        let random = protocol::digest::hex(&Key::generate().node_id().as_bytes()[..6]);
        Self { place: Arc::new(place), mesh_id: format!("test-{random}").parse().expect("a mesh id"), entries: Vec::new() }
    }

    /// A mesh that new nodes enter through a bootstrap node.
    pub async fn with_bootstrap() -> (Self, Bootstrap) {
        let mut cluster = Self::new();
        let bootstrap = cluster.bootstrap().await;
        cluster.enter_through(bootstrap.addresses());
        (cluster, bootstrap)
    }

    /// A bootstrap node on ports of its own. Nobody knows it yet.
    pub async fn bootstrap(&self) -> Bootstrap {
        Bootstrap::start(self.place(), Enter::Open(self.mesh_id.clone()), [0, 0, 0], None).await
    }

    /// A bootstrap node on these ports: TLS WebSocket, QUIC, TCP.
    pub async fn bootstrap_on(&self, ports: [u16; 3]) -> Bootstrap {
        Bootstrap::start(self.place(), Enter::Open(self.mesh_id.clone()), ports, None).await
    }

    /// A bootstrap node that enters a private mesh by a token.
    pub async fn bootstrap_by(&self, token: &str) -> Bootstrap {
        Bootstrap::start(self.place(), Enter::Token(token.into()), [0, 0, 0], None).await
    }

    /// A bootstrap node on a host of a network of our own, on the usual ports.
    pub async fn bootstrap_on_host(&self, token: &str, host: &Host) -> Bootstrap {
        Bootstrap::start(self.place(), Enter::Token(token.into()), [8765, 8765, 8766], Some(host.clone())).await
    }

    /// A node that is in no mesh yet.
    pub fn lone_node(&self, name: &str) -> NodeBuilder {
        self.node(name).set("mesh.id", "").set("mesh.bootstrap_peers", "")
    }

    /// Three ports that were free a moment ago, outside of the range from which the system gives ports away by itself.
    pub fn free_ports(&self) -> [u16; 3] {
        let free = |port: &u16| TcpListener::bind(("127.0.0.1", *port)).is_ok() && UdpSocket::bind(("127.0.0.1", *port)).is_ok();
        let random = *Key::generate().node_id().as_bytes();
        let mut found = random.chunks(2).map(|pair| 12_000 + u16::from_le_bytes([pair[0], pair[1]]) % 18_000).filter(free);
        std::array::from_fn(|_| found.next().expect("some ports are free"))
    }

    /// Nodes that are built from now on know these addresses.
    pub fn enter_through(&mut self, addresses: &[String]) {
        self.entries = addresses.to_vec();
    }

    /// A node in the making.
    pub fn node(&self, name: &str) -> NodeBuilder {
        NodeBuilder::new(Arc::clone(&self.place), name, &self.mesh_id, &self.entries)
    }

    /// A gateway in front of a node.
    pub async fn gateway(&self, node: &Node) -> Gateway {
        Gateway::start(self.place(), node).await
    }

    /// Where everything lies.
    pub fn place(&self) -> &Path {
        self.place.path()
    }

    /// The mesh's id.
    pub fn mesh_id(&self) -> &MeshId {
        &self.mesh_id
    }
}

impl Default for Cluster {
    fn default() -> Self {
        Self::new()
    }
}
