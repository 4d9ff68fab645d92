//! Peers remember what a node's trace was, cosign it, and prove it where the node shows another past.

use std::{fs, net::Ipv4Addr, path::Path, sync::Arc};

use mesh::{Config, Listen, Mesh};
use protocol::{
    Code, Key, NodeId, Problem,
    api::{List, SignedCheckpoint, WitnessedLog},
    checkpoint::Checkpoint,
    cosignature,
    wire::{Request, Response},
    witness::{Finding, MAX_TOLD, Shown, Witnessed},
};
use serde_json::{Value, json};
use tests::{Cluster, Node, PATIENCE, until};

use crate::{fixtures::counter, rogue::Deaf};

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

/// A log's owner that signs whatever it likes.
struct Liar {
    key: Key,
    mesh: Mesh,
    peer: NodeId,
}

impl Liar {
    async fn meets(cluster: &Cluster, peer: &Node) -> Self {
        let key = Key::generate();
        let config = Config {
            listen: Listen { host: Ipv4Addr::LOCALHOST.into(), tcp: Some(0), quic: None, wss: None },
            private_addresses: true,
            ..Config::new(key.clone(), cluster.mesh_id().clone())
        };
        let mesh = Mesh::spawn(config, Arc::new(Deaf)).await.expect("a peer");
        mesh.join(peer.address("tcp"), PATIENCE).await.expect("it answers");
        Self { key, mesh, peer: peer.id() }
    }

    fn says(&self, size: u64, root: u8) -> String {
        Checkpoint { node: self.key.node_id(), size, root: [root; 32] }.sign(&self.key)
    }

    async fn ask(&self, request: Request) -> Result<Response, Problem> {
        self.mesh.request(self.peer, request, "liar", PATIENCE).await
    }

    async fn shows(&self, note: String) -> Result<Witnessed, Problem> {
        match self.ask(Request::Witness(Box::new(Shown { note, link: None }))).await? {
            Response::Witnessed(witnessed) => Ok(witnessed),
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn liars_are_told_apart_from_those_they_lie_about() {
    let cluster = Cluster::new();
    let peer = cluster.node("peer").start().await;
    let (one, two) = (Liar::meets(&cluster, &peer).await, Liar::meets(&cluster, &peer).await);
    let evidence = async |of: &Liar| {
        let logs: List<WitnessedLog> = peer.client().get("/v1/trace/witness").await.expect("a list");
        logs.items.into_iter().find(|log| log.node == of.key.node_id()).and_then(|log| log.evidence)
    };
    // Only of one's own log, and signed.
    for note in [two.says(10, 1), one.says(10, 1).replace("\n10\n", "\n11\n"), "nothing".into(), one.says(10, 1) + &"x".repeat(2_000)] {
        assert_eq!(one.shows(note).await.expect_err("not its checkpoint").code, Code::BadSignature);
    }
    for liar in [&one, &two] {
        let Witnessed::Cosigned(line) = liar.shows(liar.says(10, 1)).await.expect("the first one") else { panic!("not cosigned") };
        let shown = Checkpoint::verify(&liar.says(10, 1)).expect("its own");
        assert_eq!(cosignature::verify(&line, &shown).map(|(by, _)| by), Some(peer.id()));
    }
    // A neighbour's word is nothing without the signature of the log's owner; with it, it is a proof.
    let made_up = Checkpoint { node: one.key.node_id(), size: 10, root: [2; 32] }.sign(&two.key);
    for (told, proven) in [(made_up, false), (one.says(11, 2), false), (one.says(10, 1), false), (one.says(10, 2), true)] {
        assert_eq!(two.ask(Request::Checkpoints(vec![told])).await, Ok(Response::Done));
        assert_eq!(evidence(&one).await.is_some(), proven);
    }
    let proof = evidence(&one).await.expect("a proof");
    assert_eq!(proof.finding, Finding::Fork);
    proof.verify().expect("it verifies offline");
    assert_eq!(one.shows(one.says(10, 1)).await.expect_err("two histories").code, Code::ProofFailed);
    let many = vec![one.says(10, 2); MAX_TOLD + 1];
    assert_eq!(two.ask(Request::Checkpoints(many)).await.expect_err("too many").code, Code::TooLarge);

    // Who never links is suspected, and nobody asks without end.
    let mut shown = 0;
    let refused = loop {
        match two.shows(two.says(11, 3)).await {
            Ok(Witnessed::Remembered(note)) => assert_eq!(note, two.says(10, 1)),
            Ok(other) => panic!("{other:?}"),
            Err(problem) => break problem,
        }
        shown += 1;
        assert!(shown < 200, "nothing bounds it");
        assert_eq!(evidence(&two).await.map(|evidence| evidence.finding), (shown >= 8).then_some(Finding::Withheld));
    };
    assert_eq!(refused.code, Code::Overloaded, "{refused}");
}
