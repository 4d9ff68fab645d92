//! How nodes find the mesh and one another, and do again after whatever came between.

use std::time::Duration;

use protocol::Code;
use serde_json::json;
use tests::{Cluster, until};

use crate::fixtures::{Pair, counter};

#[tokio::test(flavor = "multi_thread")]
async fn a_provider_is_found_through_kademlia_by_the_bootstrap_node_alone() {
    let (cluster, bootstrap) = Cluster::with_bootstrap().await;
    let b = cluster.node("b").join().await;
    let agent = b.host("counter", "demo", counter()).await;
    let a = cluster.node("a").join().await;
    a.is_connected(bootstrap.id()).await;
    let found = a.discovers("demo.count", "&via=kademlia").await;
    assert_eq!((found.agent, found.node_id, found.via.as_str()), (agent.id, b.id(), "kademlia"));
    assert_eq!((found.name.as_str(), found.plugin.as_str(), found.provider), ("counter", "demo@0.1.0", b.identity().owner));
    let method = found.methods.iter().find(|method| method.name == "count").expect("its methods come along");
    assert_eq!(method.input_schema["type"], "object");
    // What nobody offers isn't found, and that is no failure; what is here already is found here.
    let none = a.json(&["discover", "demo.nothing", "--timeout", "1s"]).await;
    assert_eq!(none["items"], json!([]));
    assert_eq!(b.discovers("demo.count", "").await.via, "local");
    let pong = a.json(&["peers", "ping", &b.id().to_string()]).await;
    assert!(pong["rtt_us"].as_u64().is_some_and(|us| us > 0), "{pong}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_join_is_remembered() {
    let cluster = Cluster::new();
    let mut bootstrap = cluster.bootstrap().await;
    let mut node = cluster.node("a").start().await;
    assert!(node.peers().await.is_empty());
    let joined = node.json(&["join", bootstrap.address("tcp")]).await;
    assert_eq!(joined["items"][0]["node_id"], json!(bootstrap.id()));
    node.is_connected(bootstrap.id()).await;
    // A bootstrap node that was restarted knows nobody: it is the joined node that must remember.
    node.stop().await;
    bootstrap.restart().await;
    node.restart().await;
    node.is_connected(bootstrap.id()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_starts_alone_joins_when_the_bootstrap_node_appears() {
    let mut cluster = Cluster::new();
    let ports = cluster.free_ports();
    cluster.enter_through(&[format!("/ip4/127.0.0.1/tcp/{}", ports[2])]);
    let node = cluster.node("a").start().await;
    let status = node.json(&["status"]).await;
    assert_eq!((&status["ready"], &status["peers"]), (&json!(true), &json!(0)));
    node.host("counter", "demo", counter()).await;
    node.execute("counter", "count", &json!({})).await.expect("it works alone");
    let refused = node.mcpctl(&["join", &format!("wss://127.0.0.1:{}", ports[0]), "--json"]).await.exits(1);
    assert!(refused.json()["items"][0]["error"].is_string(), "{refused:?}");

    let bootstrap = cluster.bootstrap_on(ports).await;
    node.is_connected(bootstrap.id()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_come_back_when_the_bootstrap_node_does() {
    let (cluster, mut bootstrap) = Cluster::with_bootstrap().await;
    let a = cluster.node("a").join().await;
    let b = cluster.node("b").join().await;
    for node in [&a, &b] {
        node.is_connected(bootstrap.id()).await;
    }
    bootstrap.kill9();
    for node in [&a, &b] {
        until("the loss to be noticed", async || node.peers().await.iter().all(|peer| peer.node_id != bootstrap.id()).then_some(())).await;
        assert_eq!(node.json(&["status"]).await["ready"], true);
    }
    bootstrap.restart().await;
    for node in [&a, &b] {
        node.is_connected(bootstrap.id()).await;
    }
    // The mesh works again, not only its connections.
    b.host("counter", "demo", counter()).await;
    a.discovers("demo.count", "&via=kademlia").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_transport_is_enough_to_join() {
    let cluster = Cluster::new();
    let bootstrap = cluster.bootstrap().await;
    let [port] = [bootstrap.address("wss").split('/').nth(4).expect("a port")];
    let url = format!("wss://127.0.0.1:{port}");
    for (at, (transport, address)) in
        [("tcp", bootstrap.address("tcp")), ("quic", bootstrap.address("quic")), ("wss", bootstrap.address("wss")), ("wss", &url)]
            .into_iter()
            .enumerate()
    {
        let node = cluster.node(&format!("n{at}")).start().await;
        let joined = node.json(&["join", address]).await;
        assert_eq!(joined["items"][0]["node_id"], json!(bootstrap.id()), "{address}: {joined}");
        let peers = node.peers().await;
        let via: Vec<_> = peers.iter().filter(|peer| peer.node_id == bootstrap.id()).map(|peer| peer.transport.as_str()).collect();
        assert!(via.contains(&transport), "{address}: {peers:?}");
        assert!(node.json(&["peers", "ping", &bootstrap.id().to_string()]).await["rtt_us"].is_u64());
    }
}

/// Two meshes may share entry points by mistake: they don't mix.
#[tokio::test(flavor = "multi_thread")]
async fn nodes_of_another_mesh_stay_outside() {
    let (cluster, bootstrap) = Cluster::with_bootstrap().await;
    let member = cluster.node("member").join().await;
    let foreign = Cluster::new();
    let stranger = foreign.node("stranger").start().await;
    for address in [bootstrap.address("tcp"), member.address("tcp")] {
        let refused = stranger.mcpctl(&["join", address, "--json"]).await.exits(1);
        assert!(refused.json()["items"][0]["node_id"].is_null(), "{refused:?}");
    }
    assert!(stranger.peers().await.is_empty());
    assert!(member.peers().await.iter().all(|peer| peer.node_id != stranger.id()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_to_a_node_that_answers_no_more_ends_long_before_its_time() {
    let (pair, _) = Pair::agreed(&[]).await;
    pair.count().await.expect("it runs");
    pair.provider.halt(true);
    // A call may take 30 s.
    let calls = futures::future::join_all((0..8).map(|_| pair.count()));
    let ended = tokio::time::timeout(Duration::from_secs(25), calls).await.expect("they don't wait for their deadlines");
    for call in ended {
        assert_eq!(call.expect_err("nobody answers").code, Code::Unreachable);
    }
    pair.provider.halt(false);
    until("the node to be reached again", async || pair.count().await.ok()).await;
}
