//! A private mesh: an authority behind NAT, a public entry node, members anywhere.

use serde_json::json;
use tests::{Bootstrap, Cluster, Host, Nat, Network, Node, Side, until};

/// A private mesh on a network.
pub(crate) struct Mesh {
    pub(crate) network: Network,
    pub(crate) cluster: Cluster,
    pub(crate) entry: Bootstrap,
    pub(crate) authority: Node,
    token: String,
    /// Where one enters.
    addresses: [String; 3],
}

impl Mesh {
    /// An entry node at 44.0.0.2, and the authority at home behind a friendly NAT, which calls it.
    pub(crate) async fn new() -> Self {
        let mut network = Network::new();
        let (entry, home) = (network.public("entry", 2, Side::West), network.behind("authority", 1, Nat::Friendly, Side::West));
        Self::on(network, &entry, &home).await
    }

    /// An entry node and an authority on these hosts.
    pub(crate) async fn on(network: Network, entry: &Host, home: &Host) -> Self {
        let cluster = Cluster::new();
        let authority = cluster.lone_node("authority").on(home).set("agreements.accept", "auto").start().await;
        authority.json(&["mesh", "init"]).await;
        let tcp = format!("/ip4/{}/tcp/8766", entry.address());
        let quic = format!("/ip4/{}/udp/8765/quic-v1", entry.address());
        let wss = format!("/ip4/{}/tcp/8765/tls/ws", entry.address());
        let addresses = [tcp, quic, wss];
        // The entry node knows nobody: it waits for the authority to call, and is enrolled by that call.
        let entry = cluster.bootstrap_on_host(&token(&authority, "entry", &addresses).await, entry).await;
        authority.json(&["join", &addresses[0], &addresses[1]]).await;
        authority.is_connected(entry.id()).await;
        let token = token(&authority, "edge", &addresses).await;
        Self { network, cluster, entry, authority, token, addresses }
    }

    /// A member that joins by token on `host`.
    pub(crate) async fn member(&self, name: &str, host: &Host) -> Node {
        self.member_by(&self.token, name, host).await
    }

    /// A member of another role.
    pub(crate) async fn member_as(&self, role: &str, name: &str, host: &Host) -> Node {
        self.member_by(&token(&self.authority, role, &self.addresses).await, name, host).await
    }

    async fn member_by(&self, token: &str, name: &str, host: &Host) -> Node {
        let node = self.cluster.lone_node(name).on(host).set("agreements.accept", "auto").start().await;
        let joined = node.json(&["join", token]).await;
        assert_eq!(joined["member"], json!(true), "{joined}");
        node
    }

    /// A node on `host` that was given its token and nothing else, whether it can be used now or not.
    pub(crate) async fn unattended(&self, name: &str, host: &Host) -> Node {
        let file = self.cluster.place().join(format!("{name}.token"));
        std::fs::write(&file, &self.token).expect("written");
        self.cluster.lone_node(name).on(host).set("mesh.join_token_file", file.to_str().expect("text")).start().await
    }
}

/// A token by which many may become members of `role`.
async fn token(authority: &Node, role: &str, [tcp, quic, wss]: &[String; 3]) -> String {
    let create = ["token", "create", "--role", role, "--uses", "20", "--address", tcp, "--address", quic, "--address", wss];
    authority.json(&create).await["token"].as_str().expect("a token").to_owned()
}

/// How `node` reaches `other`: `relayed`, or a direct transport.
pub(crate) async fn via(node: &Node, other: &Node) -> Option<String> {
    node.peers().await.into_iter().find(|peer| peer.node_id == other.id()).map(|peer| peer.transport)
}

/// Waits until `node` sees everyone of `others` as a peer or can ping it.
pub(crate) async fn reaches(node: &Node, other: &Node) {
    let id = other.id().to_string();
    until(&format!("{} to reach {id}", node.id()), async || (node.mcpctl(&["peers", "ping", &id]).await.code == Some(0)).then_some(()))
        .await;
}
