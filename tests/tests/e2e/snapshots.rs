//! Agents' states: kept, verified, put back whole or not at all.

use std::path::PathBuf;

use protocol::{Expect, MeshId, document::Sealed, snapshot::Snapshot};
use serde_json::{Value, json};
use tests::{Cluster, Node, value};

use crate::fixtures::{counter, docs};

async fn count(node: &Node) -> u64 {
    value(&node.execute("counter", "count", &json!({})).await.expect("counted"))["count"].as_u64().expect("a number")
}

fn text(value: &Value) -> &str {
    value.as_str().expect("a text")
}

/// The files of the blobs of a node.
fn blobs(node: &Node) -> Vec<PathBuf> {
    let shards = std::fs::read_dir(node.directory().join("blobs")).expect("blobs");
    let shards = shards.map(|shard| shard.expect("a shard").path()).filter(|shard| shard.file_name().is_some_and(|name| name.len() == 2));
    shards.flat_map(|shard| std::fs::read_dir(shard).expect("a shard").map(|file| file.expect("a file").path())).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_state_comes_back_whole_and_outlives_a_kill() {
    let cluster = Cluster::new();
    let mut node = cluster.node("a").start().await;
    node.host("counter", "demo", counter()).await;
    for _ in 0..3 {
        count(&node).await;
    }
    let taken = node.json(&["agent", "snapshot", "counter"]).await;
    assert_eq!((&taken["keys"], &taken["chunks"]), (&json!(1), &json!(1)));
    assert_eq!((count(&node).await, count(&node).await), (4, 5));
    node.json(&["agent", "recover", "counter", "--from", text(&taken["id"])]).await;
    assert_eq!(count(&node).await, 4);
    node.kill9();
    node.restart().await;
    assert_eq!(count(&node).await, 5, "the state that was put back is the agent's");
    let listed = node.json(&["agent", "snapshots", "counter"]).await;
    assert_eq!(listed["items"][0]["id"], taken["id"]);

    // Neither one that isn't there nor another agent's.
    let unknown = protocol::SnapshotId::new().to_string();
    assert_eq!(node.mcpctl(&["agent", "recover", "counter", "--from", &unknown, "--json"]).await.exits(1).json()["code"], "not_found");
    node.host("other", "demo", counter()).await;
    let others = node.mcpctl(&["agent", "recover", "other", "--from", text(&taken["id"]), "--json"]).await;
    assert_eq!(others.exits(1).json()["code"], "not_found");
    let traced = node.json(&["trace", "list"]).await;
    let actions: Vec<&str> = traced["items"].as_array().expect("items").iter().map(|item| text(&item["entry"]["action"])).collect();
    assert!(actions.contains(&"snapshot") && actions.contains(&"recover"), "{actions:?}");
    node.json(&["trace", "verify"]).await;
    node.json(&["agent", "terminate", "counter"]).await;
    node.host("counter", "demo", counter()).await;
    assert_eq!(count(&node).await, 1, "nothing of the state is left");
}

#[tokio::test(flavor = "multi_thread")]
async fn snapshots_are_consistent_while_calls_go_on() {
    let cluster = Cluster::new();
    let node = cluster.node("a").start().await;
    node.host("counter", "demo", counter()).await;
    let counting = async {
        for _ in 0..200 {
            count(&node).await;
        }
    };
    let taking = async {
        let mut taken = Vec::new();
        for _ in 0..10 {
            taken.push(node.json(&["agent", "snapshot", "counter"]).await);
        }
        taken
    };
    let ((), taken) = tokio::join!(counting, taking);
    let mut last = 0;
    for snapshot in &taken {
        node.json(&["agent", "recover", "counter", "--from", text(&snapshot["id"])]).await;
        let counted = count(&node).await;
        assert!((last..=201).contains(&counted), "{counted} after {last}");
        last = counted;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_did_not_change_is_kept_once_and_old_snapshots_go() {
    let cluster = Cluster::new();
    let node = cluster.node("a").start().await;
    node.host("docs", "docs", docs()).await;
    let index = async |at: usize, words: usize| {
        let text: String = (0..words).map(|word| format!("w{}x{} ", at, word * 7919 % 10_007)).collect();
        node.execute("docs", "index", &json!({ "path": format!("{at:04}.txt"), "text": text })).await.expect("indexed");
    };
    for at in 0..40 {
        index(at, 2_000).await;
    }
    let first = node.json(&["agent", "snapshot", "docs"]).await;
    let (bytes, new) = (first["bytes"].as_u64().expect("bytes"), first["new_bytes"].as_u64().expect("new bytes"));
    assert!(first["chunks"].as_u64() > Some(4) && new >= bytes, "{first}");
    let found = node.execute("docs", "search", &json!({ "query": "w7x0" })).await.expect("found");
    index(40, 3).await;
    let second = node.json(&["agent", "snapshot", "docs"]).await;
    assert!(second["new_bytes"].as_u64().expect("new bytes") < new / 2, "{second} after {first}");

    node.json(&["agent", "recover", "docs", "--from", text(&first["id"])]).await;
    assert_eq!(value(&node.execute("docs", "search", &json!({ "query": "w7x0" })).await.expect("found")), value(&found));
    assert_eq!(value(&node.execute("docs", "search", &json!({ "query": "w40x0" })).await.expect("ran"))["hits"], json!([]));

    // Only what the last one needs stays.
    let before = blobs(&node).len();
    let last = node.json(&["agent", "snapshot", "docs", "--keep", "1"]).await;
    let listed = node.json(&["agent", "snapshots", "docs"]).await;
    assert_eq!(listed["items"].as_array().expect("items").len(), 1);
    assert!(blobs(&node).len() < before, "chunks of the second one are gone");
    node.json(&["agent", "recover", "docs", "--from", text(&last["id"])]).await;
    assert_eq!(value(&node.execute("docs", "search", &json!({ "query": "w7x0" })).await.expect("found")), value(&found));
}

/// The digest of a snapshot's index: of the same state it is the same.
async fn index_of(node: &Node, snapshot: &Value) -> String {
    let path = format!("/v1/agents/docs/snapshots/{}", text(&snapshot["id"]));
    let signed: Sealed<Snapshot> = node.client().get(&path).await.expect("a snapshot");
    signed.open(Expect::archived(&MeshId::any())).expect("signed").document().index.to_string()
}

/// What is noted of changes never leaves one out: each snapshot is what it would be if all of the state had been read, as it
/// is after a recovery, which makes another state of it.
#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_of_what_changed_is_as_if_all_had_been_read() {
    let cluster = Cluster::new();
    let mut node = cluster.node("a").start().await;
    node.host("docs", "docs", docs()).await;
    let index = async |node: &Node, at: usize, words: usize| {
        let text: String = (0..words).map(|word| format!("w{}x{} ", at, word * 7919 % 10_007)).collect();
        node.execute("docs", "index", &json!({ "path": format!("{at:04}.txt"), "text": text })).await.expect("indexed");
    };
    for at in 0..30 {
        index(&node, at, 2_000).await;
    }
    let mut last = index_of(&node, &node.json(&["agent", "snapshot", "docs"]).await).await;
    for (round, (at, words)) in [(30, 1_500), (7, 1_999), (0, 3), (15, 1)].into_iter().enumerate() {
        index(&node, at, words).await;
        if round == 2 {
            // What changed is known after a crash, too.
            node.kill9();
            node.restart().await;
        }
        let keep = if round == 1 { &["--keep", "1"][..] } else { &[] };
        let taken = node.json(&[&["agent", "snapshot", "docs"], keep].concat()).await;
        let idle = node.json(&["agent", "snapshot", "docs"]).await;
        assert_eq!((index_of(&node, &idle).await, &idle["new_bytes"]), (index_of(&node, &taken).await, &json!(0)), "nothing changed");
        node.json(&["agent", "recover", "docs", "--from", text(&taken["id"])]).await;
        let whole = node.json(&["agent", "snapshot", "docs"]).await;
        assert_eq!(index_of(&node, &whole).await, index_of(&node, &taken).await, "round {round}");
        assert_eq!((&whole["keys"], &whole["bytes"], &whole["new_bytes"]), (&taken["keys"], &taken["bytes"], &json!(0)));
        let now = index_of(&node, &whole).await;
        assert_ne!(std::mem::replace(&mut last, now.clone()), now, "it did change");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_snapshot_is_named_and_changes_nothing() {
    let cluster = Cluster::new();
    let node = cluster.node("a").start().await;
    node.host("docs", "docs", docs()).await;
    let text_of = |at: usize| (0..3_000).map(|word| format!("w{}x{} ", at, word * 7919 % 10_007)).collect::<String>();
    for at in 0..10 {
        node.execute("docs", "index", &json!({ "path": format!("{at}.txt"), "text": text_of(at) })).await.expect("indexed");
    }
    let before: std::collections::HashSet<PathBuf> = blobs(&node).into_iter().collect();
    let taken = node.json(&["agent", "snapshot", "docs"]).await;
    let stats = value(&node.execute("docs", "stats", &json!({})).await.expect("ran"));
    let recover = ["agent", "recover", "docs", "--from", text(&taken["id"]), "--json"];
    // Every file of it in turn: a flipped bit, and then nothing at all.
    let files: Vec<PathBuf> = blobs(&node).into_iter().filter(|file| !before.contains(file)).collect();
    assert!(files.len() > 3, "{}", files.len());
    for file in files.iter().take(4) {
        let sound = std::fs::read(file).expect("a blob");
        let mut bad = sound.clone();
        bad[sound.len() / 2] ^= 1;
        std::fs::write(file, bad).expect("written");
        let refused = node.mcpctl(&recover).await.exits(1).json();
        assert_eq!(refused["code"], "store_failed", "{refused}");
        std::fs::remove_file(file).expect("removed");
        let refused = node.mcpctl(&recover).await.exits(1).json();
        assert!(text(&refused["detail"]).contains("missing"), "{refused}");
        assert_eq!(value(&node.execute("docs", "stats", &json!({})).await.expect("ran")), stats, "as before");
        std::fs::write(file, sound).expect("written");
    }
    node.mcpctl(&recover).await.exits(0);
    assert_eq!(value(&node.execute("docs", "stats", &json!({})).await.expect("ran")), stats);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_disk_has_lost_of_an_unchanged_state_is_written_anew() {
    let cluster = Cluster::new();
    let node = cluster.node("a").start().await;
    node.host("docs", "docs", docs()).await;
    let text: String = (0..3_000).map(|word| format!("w{} ", word * 7919 % 10_007)).collect();
    node.execute("docs", "index", &json!({ "path": "a.txt", "text": text })).await.expect("indexed");
    let before: std::collections::HashSet<PathBuf> = blobs(&node).into_iter().collect();
    let first = node.json(&["agent", "snapshot", "docs"]).await;
    let is_chunk = |file: &PathBuf| !before.contains(file) && std::fs::metadata(file).is_ok_and(|found| found.len() > 10_000);
    let file = blobs(&node).into_iter().find(is_chunk).expect("a chunk");
    let sound = std::fs::read(&file).expect("a chunk");

    // What is missing or cut shows at once.
    std::fs::remove_file(&file).expect("removed");
    assert_eq!(node.json(&["agent", "snapshot", "docs"]).await["new_bytes"], sound.len() as u64);
    std::fs::write(&file, &sound[1..]).expect("written");
    node.json(&["agent", "snapshot", "docs"]).await;
    assert_eq!(std::fs::read(&file).expect("a chunk"), sound);
    // What has other bytes shows when its turn to be verified comes.
    let mut bad = sound.clone();
    bad[sound.len() / 2] ^= 1;
    std::fs::write(&file, bad).expect("written");
    tests::until("the chunk to be written anew", async || {
        node.json(&["agent", "snapshot", "docs", "--keep", "2"]).await;
        (std::fs::read(&file).expect("a chunk") == sound).then_some(())
    })
    .await;
    let listed = node.json(&["agent", "snapshots", "docs"]).await;
    assert_eq!(listed["items"][0]["chunks"], first["chunks"]);
    // All of it, down to the list of the chunks: the next snapshot has nothing to go on from.
    for file in blobs(&node).into_iter().filter(|file| !before.contains(file)) {
        std::fs::remove_file(file).expect("removed");
    }
    let anew = node.json(&["agent", "snapshot", "docs"]).await;
    assert_eq!(anew["new_bytes"], first["new_bytes"]);
    node.json(&["agent", "recover", "docs", "--from", self::text(&anew["id"])]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_moves_to_another_mesh_in_a_file_and_no_changed_file_gets_in() {
    let (here, there) = (Cluster::new(), Cluster::new());
    let (node, other) = (here.node("a").start().await, there.node("b").start().await);
    let place = tempfile::tempdir().expect("a directory");
    let file = place.path().join("docs.agent");
    let path = file.to_str().expect("text");
    let agent = node.host("docs", "docs", docs()).await;
    for at in 0..20 {
        let text: String = (0..500).map(|word| format!("w{at}x{word} ")).collect();
        node.execute("docs", "index", &json!({ "path": format!("{at}.txt"), "text": text })).await.expect("indexed");
    }
    let query = json!({ "query": "w7x123" });
    let found = value(&node.execute("docs", "search", &query).await.expect("found"));
    node.json(&["agent", "export", "docs", path]).await;
    // What changes afterwards isn't in the file.
    node.execute("docs", "index", &json!({ "path": "late.txt", "text": "w7x123" })).await.expect("indexed");

    let import = ["agent", "import", path, "--json"];
    assert_eq!(other.mcpctl(&import).await.exits(5).json()["code"], "untrusted_publisher");
    let publisher = node.json(&["plugin", "list"]).await["items"][0]["publisher"].clone();
    other.json(&["plugin", "trust", text(&publisher), "--name", "theirs"]).await;
    let sound = std::fs::read(&file).expect("a file");
    for at in [0, 30, 400, sound.len() / 2, sound.len() - 20] {
        let mut changed = sound.clone();
        changed[at] ^= 1;
        std::fs::write(&file, changed).expect("written");
        let refused = other.mcpctl(&import).await;
        assert_ne!(refused.code, Some(0), "byte {at}");
    }
    std::fs::write(&file, &sound[..sound.len() - 9]).expect("written");
    assert_eq!(other.mcpctl(&import).await.exits(5).json()["code"], "bad_signature", "it is cut");
    assert_eq!(other.json(&["agent", "list"]).await["items"], json!([]), "nothing came of all that");

    std::fs::write(&file, &sound).expect("written");
    let imported = other.json(&["agent", "import", path]).await;
    assert_ne!(imported["id"], json!(agent.id), "an agent of its own");
    assert_eq!(value(&other.execute("docs", "search", &query).await.expect("found")), found);
    assert_eq!(other.mcpctl(&import).await.exits(1).json()["code"], "already_exists");
    other.json(&["agent", "import", path, "--as", "second"]).await;
    assert_eq!(value(&other.execute("second", "search", &query).await.expect("found")), found);
    other.json(&["trace", "verify"]).await;
    let none = place.path().join("none");
    other.mcpctl(&["agent", "import", none.to_str().expect("text"), "--json"]).await.exits(1);
}

#[tokio::test(flavor = "multi_thread")]
async fn snapshots_are_taken_by_the_clock_and_the_oldest_go() {
    let cluster = Cluster::new();
    let mut node = cluster.node("a").start().await;
    node.host("counter", "demo", counter()).await;
    count(&node).await;
    let scheduled = node.json(&["agent", "schedule", "counter", "--every", "1s", "--keep", "2"]).await;
    assert_eq!(scheduled["schedule"], json!({ "every_s": 1, "keep": 2 }));
    let ids = async |node: &Node| {
        let listed = node.json(&["agent", "snapshots", "counter"]).await;
        listed["items"].as_array().expect("items").iter().map(|item| text(&item["id"]).to_owned()).collect::<Vec<_>>()
    };
    let first = tests::until("the first", async || ids(&node).await.pop()).await;
    tests::until("it to be replaced", async || {
        let now = ids(&node).await;
        assert!(now.len() <= 2, "{now:?}");
        (!now.contains(&first)).then_some(())
    })
    .await;
    // It goes on after a restart, until it is called off.
    node.kill9();
    node.restart().await;
    let before = ids(&node).await;
    tests::until("another", async || ids(&node).await.iter().any(|id| !before.contains(id)).then_some(())).await;
    let off = node.json(&["agent", "schedule", "counter", "--off"]).await;
    assert_eq!(off.get("schedule"), None);
    assert_eq!(node.mcpctl(&["agent", "schedule", "counter"]).await.code, Some(2), "when?");
    let wrong = node.mcpctl(&["agent", "schedule", "counter", "--every", "500d", "--json"]).await;
    assert_eq!(wrong.exits(1).json()["code"], "invalid_request");
}
