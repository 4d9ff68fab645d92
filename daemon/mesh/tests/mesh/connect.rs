//! Connecting, over each transport and again.

use std::time::Duration;

use mesh::{Config, Error, Listen};
use protocol::{Code, Key};
use tokio::time::Instant;

use crate::harness::{LOCALHOST, Node, PATIENCE, config, config_of, eventually, tcp};

#[tokio::test(flavor = "multi_thread")]
async fn nodes_connect_over_each_transport() {
    let none = Listen { host: LOCALHOST, tcp: None, quic: None, wss: None };
    let single = [("tcp", tcp(0)), ("quic", Listen { quic: Some(0), ..none }), ("wss", Listen { wss: Some(0), ..none })];
    for (transport, listen) in single {
        let server = Node::spawn(config(listen)).await;
        let client = Node::spawn(config(none)).await;
        let address = server.address(transport);
        assert!(address.ends_with(&format!("/p2p/{}", server.id())), "{address}");
        assert_eq!(client.mesh.join(&address, PATIENCE).await.expect(transport), server.id());
        let peer = client.mesh.peers().pop().expect("a peer");
        assert_eq!((peer.node_id, peer.transport.as_str()), (server.id(), transport));
        assert_eq!(format!("{}/p2p/{}", peer.address, server.id()), address);
        assert!(peer.agent_version.expect("identified").starts_with("mcp-zero/"));
        server.sees(&client).await;
        assert_eq!(server.mesh.peers()[0].transport, transport);
        let rtt = client.mesh.ping(server.id()).await.expect("a ping");
        assert_eq!(client.mesh.rtt(server.id()), Some(rtt));
        assert_eq!(*client.seen.connected.lock(), [server.id()]);
        client.mesh.shutdown().await;
        eventually("disconnected", || server.mesh.peers().is_empty()).await;
        // The node above is told a moment after the list is shorter.
        eventually("told", || *server.seen.disconnected.lock() == *server.seen.connected.lock()).await;
        server.mesh.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_url_is_enough_to_join() {
    let server = Node::new().await;
    for host in ["127.0.0.1", "localhost"] {
        let client = Node::spawn(config(tcp(0))).await;
        let url = format!("wss://{host}:{}", server.port("wss"));
        assert_eq!(client.mesh.join(&url, PATIENCE).await.expect("joined"), server.id());
        assert_eq!(client.mesh.peers()[0].transport, "wss");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn addresses_that_lead_nowhere_are_explained_and_do_no_harm() {
    let (node, other) = (Node::new().await, Node::new().await);
    let free = std::net::TcpListener::bind((LOCALHOST, 0)).expect("a port").local_addr().expect("bound").port();
    let refused = node.mesh.join(&format!("/ip4/127.0.0.1/tcp/{free}"), PATIENCE).await.expect_err("nobody listens");
    assert!(matches!(&refused, Error::Unreachable { reason, .. } if reason.contains("refused")), "{refused}");
    let itself = node.mesh.join(&node.address("tcp"), PATIENCE).await.expect_err("its own");
    assert!(itself.to_string().contains("own address"), "{itself}");
    let impostor = other.address("tcp").replace(&other.id().to_string(), &Key::generate().node_id().to_string());
    let wrong = node.mesh.join(&impostor, PATIENCE).await.expect_err("somebody else");
    assert!(wrong.to_string().contains(&other.id().to_string()), "{wrong}");
    assert_eq!(node.mesh.join("nonsense", PATIENCE).await.expect_err("no address").code(), Code::InvalidRequest);
    assert_eq!(node.mesh.join(&other.address("quic"), PATIENCE).await.expect("reachable"), other.id());

    // The address that nobody answered at is still tried: a node that comes up there is found.
    let late = Node::spawn(config(tcp(free))).await;
    node.sees(&late).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_of_another_mesh_are_refused() {
    let node = Node::new().await;
    let foreign = Node::spawn(Config {
        listen: tcp(0),
        private_addresses: true,
        ..Config::new(Key::generate(), "other".parse().expect("a mesh id"))
    })
    .await;
    let error = foreign.mesh.join(&node.address("tcp"), PATIENCE).await.expect_err("another mesh");
    assert_eq!(error.code(), Code::ForeignMesh, "{error}");
    assert!(node.mesh.peers().is_empty() && foreign.mesh.peers().is_empty());
    assert!(node.seen.connected.lock().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_restarts_is_found_again() {
    let key = Key::generate();
    let first = Node::spawn(config_of(key.clone(), tcp(0))).await;
    let (port, address) = (first.port("tcp"), first.address("tcp"));
    let node = Node::spawn(Config { bootstrap: vec![address], ..config(tcp(0)) }).await;
    node.sees(&first).await;
    first.mesh.shutdown().await;
    eventually("disconnected", || node.mesh.peers().is_empty()).await;
    let again = Node::spawn(config_of(key, tcp(port))).await;
    let restarted = Instant::now();
    node.sees(&again).await;
    assert!(restarted.elapsed() < Duration::from_secs(10), "{:?}", restarted.elapsed());
    assert_eq!(node.seen.connected.lock().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_in_use_is_named() {
    let node = Node::spawn(config(tcp(0))).await;
    // The listening socket may be shared among those that ask for it, so another kind of socket takes the port here.
    let taken = std::net::TcpListener::bind((LOCALHOST, 0)).expect("a port");
    let port = taken.local_addr().expect("bound").port();
    let error = mesh::Mesh::spawn(config(tcp(port)), node.seen.clone()).await.expect_err("in use");
    assert!(error.to_string().contains(&format!("/ip4/127.0.0.1/tcp/{port}")), "{error}");
    assert_eq!(error.code(), Code::InvalidConfig);
}
