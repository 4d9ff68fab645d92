//! Peers remember what a node's trace was, cosign it, and prove it where the node shows another past.

use std::{fs, path::Path};

use protocol::{
    NodeId,
    api::{List, SignedCheckpoint, WitnessedLog},
    cosignature,
    witness::Finding,
};
use serde_json::{Value, json};
use tests::{Cluster, Node, until};

use crate::fixtures::counter;

/// What `node` remembers of the trace of `other`, once it is as wanted.
async fn remembers(node: &Node, other: NodeId, what: &str, wanted: impl Fn(&WitnessedLog) -> bool) -> WitnessedLog {
    until(what, async || {
        let logs: List<WitnessedLog> = node.client().get("/v1/trace/witness").await.expect("a list");
        logs.items.into_iter().find(|log| log.node == other && wanted(log))
    })
    .await
}

async fn count(node: &Node, times: usize) -> u64 {
    for _ in 0..times {
        node.execute("counter", "count", &json!({})).await.expect("it counts");
    }
    node.client().get::<SignedCheckpoint>("/v1/trace/checkpoint").await.expect("a checkpoint").size
}

/// Copies a data directory, but for its sockets.
fn copy(from: &Path, to: &Path) {
    fs::create_dir(to).expect("a new directory");
    fs::set_permissions(to, fs::metadata(from).expect("there").permissions()).expect("ours");
    for entry in fs::read_dir(from).expect("a directory") {
        let (path, to) = entry.map(|entry| (entry.path(), to.join(entry.file_name()))).expect("an entry");
        if path.is_dir() {
            copy(&path, &to);
        } else if path.is_file() {
            fs::copy(&path, &to).expect("copied, with its mode");
        }
    }
}

/// Two nodes that know each other; the first has an agent.
async fn two() -> (Cluster, Node, Node) {
    let mut cluster = Cluster::new();
    let owner = cluster.node("owner").set("trace.checkpoint_seconds", "1").start().await;
    owner.host("counter", "demo", counter()).await;
    cluster.enter_through(&[owner.address("tcp").to_owned()]);
    let peer = cluster.node("peer").join().await;
    owner.is_connected(peer.id()).await;
    (cluster, owner, peer)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_cosigns_a_trace_that_grows() {
    let (_cluster, owner, peer) = two().await;
    let mut before = 0;
    for _ in 0..2 {
        let size = count(&owner, 3).await;
        let seen = remembers(&peer, owner.id(), "the peer to have seen it", |log| log.size >= size).await;
        assert!(seen.times > before && seen.evidence.is_none(), "{seen:?}");
        before = seen.times;
        let cosigned = until("a cosignature", async || {
            let checkpoint = owner.client().get::<SignedCheckpoint>("/v1/trace/checkpoint?cosigned=true").await.ok()?;
            (checkpoint.size >= size).then_some(checkpoint)
        })
        .await;
        // By what the note says alone.
        let by = cosignature::cosigners(&cosigned.note).expect("signed by its owner");
        assert_eq!(by.keys().collect::<Vec<_>>(), [&peer.id()], "{}", cosigned.note);
        assert_eq!(cosigned.cosigners[0].time, by[&peer.id()]);
        let other = cosigned.note.replacen(&format!("\n{}\n", cosigned.size), &format!("\n{}\n", cosigned.size + 1), 1);
        assert!(cosignature::cosigners(&other).is_err());
    }
    let shown = owner.json(&["trace", "checkpoint", "--cosigned"]).await;
    assert_eq!(shown["cosigners"][0]["node"], peer.id().to_string());
    owner.mcpctl(&["trace", "witness", "--evidence", &peer.id().to_string()]).await.exits(1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_shows_another_past_is_named_and_proven() {
    let (cluster, mut owner, mut peer) = two().await;
    count(&owner, 2).await;
    owner.stop().await;
    let (directory, aside) = (owner.directory().to_owned(), cluster.place().join("copy"));
    copy(&directory, &aside);
    owner.restart().await;
    let size = count(&owner, 6).await;
    remembers(&peer, owner.id(), "the first history", |log| log.size >= size).await;

    // What is remembered outlives the peer's own restart.
    owner.stop().await;
    peer.restart().await;
    fs::rename(&directory, cluster.place().join("first")).expect("moved");
    copy(&aside, &directory);
    owner.restart().await;
    owner.is_connected(peer.id()).await;
    let suspected = remembers(&peer, owner.id(), "a suspicion", |log| log.evidence.is_some()).await;
    let evidence = suspected.evidence.expect("there is");
    assert_eq!(evidence.finding, Finding::Rollback, "{evidence:?}");
    let (old, new) = evidence.verify().expect("both are signed");
    assert!(old.node == owner.id() && new.size < old.size && old.size >= size, "{old:?} {new:?}");
    let (node, file) = (owner.id().to_string(), cluster.place().join("evidence.json"));
    let file = file.to_str().expect("UTF-8");
    let export = ["trace", "witness", "--evidence", &node, "--out", file];
    peer.json(&export).await;
    let refused = peer.mcpctl(&["trace", "verify", file, "--json"]).await.exits(1).json();
    assert!(refused["detail"].as_str().is_some_and(|detail| detail.contains("suspicion") && detail.contains(&node)), "{refused}");

    // Past the size that it had shown, its new history is its own undoing.
    assert!(count(&owner, 12).await > size);
    let proven = |log: &WitnessedLog| log.evidence.as_ref().is_some_and(|evidence| evidence.finding == Finding::Fork);
    remembers(&peer, owner.id(), "a proof", proven).await;
    peer.json(&export).await;
    let verified = owner.mcpctl(&["trace", "verify", file, "--json"]).await.exits(0).json();
    assert_eq!((&verified["verified"], verified["log"].as_str()), (&Value::Bool(true), Some(node.as_str())));
    // The proof isn't one with another note of the node in it.
    let mut changed: Value = serde_json::from_slice(&fs::read(file).expect("evidence")).expect("JSON");
    changed["new"] = changed["old"].clone();
    fs::write(file, changed.to_string()).expect("written");
    peer.mcpctl(&["trace", "verify", file]).await.exits(1);
    // It is told by its log, too, and so is the owner by its own.
    assert!(peer.log().contains("it signed two histories") && peer.log().contains(&node), "{}", peer.log());
    assert!(owner.log().contains("a peer remembers a checkpoint"), "{}", owner.log());

    // The peer's operator may let it go.
    peer.json(&["trace", "witness", "--forget", &node]).await;
    remembers(&peer, owner.id(), "it to be believed again", |log| log.evidence.is_none()).await;
}
