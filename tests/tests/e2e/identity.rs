//! What lies in a data directory, who may read it, and that a node is the same after a restart.

use std::{fs, os::unix::fs::PermissionsExt as _, path::Path};

use serde_json::json;
use tests::{Cluster, run, value};

use crate::fixtures::counter;

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap_or_else(|error| panic!("{}: {error}", path.display())).permissions().mode() & 0o777
}

#[tokio::test(flavor = "multi_thread")]
async fn socket_and_keys_are_for_their_owner_alone() {
    let cluster = Cluster::new();
    let mut node = cluster.node("a").start().await;
    for file in ["mcpd.sock", "node.key", "owner.key", "cache.key"] {
        assert_eq!(mode(&node.directory().join(file)), 0o600, "{file}");
    }
    assert_eq!(mode(node.directory()), 0o700);
    node.stop().await;
    assert!(!node.directory().join("mcpd.sock").exists(), "the socket goes with the daemon");

    // A key that others can read is not used.
    let key = node.directory().join("node.key");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).expect("chmod");
    let refused = run(node.command()).await.exits(2);
    assert!(refused.stderr.contains("error: others may read") && refused.stderr.contains("hint: chmod 600"), "{}", refused.stderr);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_has_one_daemon() {
    let cluster = Cluster::new();
    let node = cluster.node("a").start().await;
    let second = run(node.command()).await.exits(4);
    assert!(second.stderr.contains("error: another process (pid ") && second.stderr.contains("hint: "), "{}", second.stderr);
    node.json(&["status"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_keeps_identity_agents_state_and_trace() {
    let cluster = Cluster::new();
    let mut node = cluster.node("a").start().await;
    let agent = node.host("counter", "demo", counter()).await;
    for _ in 0..3 {
        node.execute("counter", "count", &json!({})).await.expect("it counts");
    }
    let before = node.json(&["id"]).await;
    let size = node.json(&["status"]).await["trace_size"].as_u64().expect("a size");
    let entry = node.json(&["trace", "show", "0"]).await;
    let checkpoint = node.json(&["trace", "checkpoint"]).await;
    let key = node.mcpctl(&["key", "create", "ci"]).await.exits(0).stdout;
    assert!(key.trim().len() >= 32, "a secret");

    node.restart().await;
    let after = node.json(&["id"]).await;
    assert_eq!((&before["node_id"], &before["owner"]), (&after["node_id"], &after["owner"]));
    let agents = node.json(&["agent", "list"]).await;
    assert_eq!(agents["items"][0]["id"], json!(agent.id));
    assert_eq!(node.json(&["plugin", "list"]).await["items"][0]["name"], "demo");
    assert_eq!(node.json(&["key", "list"]).await["items"][0]["name"], "ci");
    // One for the API key, and two for the start: the key was opened, and its ports are settings now.
    assert_eq!(node.json(&["status"]).await["trace_size"], size + 3);
    assert_eq!(node.json(&["trace", "show", "0"]).await, entry);
    let executed = node.execute("counter", "count", &json!({})).await.expect("it counts on");
    assert_eq!(value(&executed)["count"], 4);
    assert_eq!(node.json(&["trace", "verify"]).await["entries"], size + 4);
    let proof = node.json(&["trace", "consistency", &checkpoint["size"].to_string()]).await;
    assert_eq!(proof["old"], checkpoint["note"]);
}

/// A store of the future is refused with a code of its own, and left as it is.
#[tokio::test(flavor = "multi_thread")]
async fn a_newer_store_is_refused_and_not_touched() {
    let cluster = Cluster::new();
    let mut node = cluster.node("a").start().await;
    node.stop().await;
    let file = node.directory().join("store/mcp-zero.sqlite");
    let mut bytes = fs::read(&file).expect("a store");
    // The user version, by SQLite's file format: 4 bytes, big endian, at 60.
    bytes[60..64].copy_from_slice(&1_000_u32.to_be_bytes());
    fs::write(&file, &bytes).expect("write");
    let refused = run(node.command()).await.exits(7);
    assert!(refused.stderr.starts_with("error: ") || refused.stderr.contains("\nerror: "), "{}", refused.stderr);
    assert_eq!(fs::read(&file).expect("a store"), bytes);
}

/// Everything that a node needs to be the one that it was: what is missing is named, and nothing is made in its place.
#[tokio::test(flavor = "multi_thread")]
async fn a_lost_key_or_store_is_named_and_not_made_anew() {
    let cluster = Cluster::new();
    let mut node = cluster.node("a").start().await;
    node.host("counter", "demo", counter()).await;
    let before = node.json(&["id"]).await;
    node.stop().await;
    let backup = cluster.place().join("backup");
    for what in ["owner.key", "node.key", "store/mcp-zero.sqlite"] {
        let file = node.directory().join(what);
        fs::rename(&file, &backup).expect("it is there");
        let refused = run(node.command()).await.exits(2);
        assert!(refused.stderr.contains(what) && refused.stderr.contains("hint: "), "{what}: {}", refused.stderr);
        assert!(!file.exists(), "{what}: none was made in its place");
        fs::rename(&backup, &file).expect("restored");
    }
    // Nor is an owner's key made by hand beside another owner's store.
    let key = node.directory().join("owner.key");
    fs::rename(&key, &backup).expect("it is there");
    for left in ["node.key", "cache.key"] {
        fs::rename(node.directory().join(left), cluster.place().join(left)).expect("it is there");
    }
    let refused = node.mcpctl(&["key", "create", "--owner", "--json"]).await.exits(1);
    assert_eq!(refused.json()["code"], "already_exists", "{refused:?}");
    for left in ["node.key", "cache.key"] {
        fs::rename(cluster.place().join(left), node.directory().join(left)).expect("restored");
    }
    // Another owner's key, and another node's.
    for what in ["owner.key", "node.key"] {
        let other = cluster.node(&format!("other-{}", &what[..4]));
        let place = other.directory();
        let mut other = other.start().await;
        other.kill9();
        if what == "node.key" {
            fs::rename(&backup, &key).expect("restored");
            fs::copy(node.directory().join(what), &backup).expect("a backup");
        }
        fs::copy(place.join(what), node.directory().join(what)).expect("another's");
        let refused = run(node.command()).await.exits(2);
        assert!(refused.stderr.contains("identity.json") && refused.stderr.contains(what), "{what}: {}", refused.stderr);
        if what == "node.key" {
            fs::copy(&backup, node.directory().join(what)).expect("restored");
        }
    }
    node.restart().await;
    let after = node.json(&["id"]).await;
    assert_eq!((&before["node_id"], &before["owner"]), (&after["node_id"], &after["owner"]));
    assert_eq!(node.json(&["agent", "list"]).await["items"][0]["name"], "counter");
}

/// By its operator's word a node begins anew, and what it was is kept.
#[tokio::test(flavor = "multi_thread")]
async fn a_new_store_or_identity_is_made_by_a_flag_alone() {
    let cluster = Cluster::new();
    let mut node = cluster.node("a").start().await;
    node.host("counter", "demo", counter()).await;
    let before = node.json(&["id"]).await;
    node.stop().await;
    fs::remove_file(node.directory().join("store/mcp-zero.sqlite")).expect("it was there");
    node.flag("--new-store");
    node.restart().await;
    let after = node.json(&["id"]).await;
    assert_eq!((&before["node_id"], &before["owner"]), (&after["node_id"], &after["owner"]));
    assert_eq!(node.json(&["agent", "list"]).await["items"], json!([]));
    // The flag stays where it is, as in a unit file: it does nothing where nothing is missing.
    node.host("counter", "demo", counter()).await;
    node.restart().await;
    assert_eq!(node.json(&["agent", "list"]).await["items"][0]["name"], "counter");

    node.stop().await;
    fs::remove_file(node.directory().join("node.key")).expect("it was there");
    let mut anew = node.command();
    anew.arg("--new-identity");
    let mut process = tests::Process::start("anew", anew, cluster.place());
    let id = tests::until("the new node to serve", async || {
        assert!(process.is_running(), "it ended: {}", process.log());
        node.client().get::<protocol::api::Identity>("/v1/id").await.ok()
    })
    .await;
    assert_ne!(json!(id.node_id), before["node_id"]);
    assert_eq!(json!(id.owner), before["owner"], "the owner's key was there");
    assert_eq!(node.json(&["agent", "list"]).await["items"], json!([]));
    let former = fs::read_dir(node.directory()).expect("listed").flatten();
    let kept: Vec<_> = former.map(|file| file.path().join("store/mcp-zero.sqlite")).filter(|file| file.exists()).collect();
    assert_eq!(kept.len(), 1, "the old store is kept: {kept:?}");
}

/// The authority of a mesh is nobody without its key, and says so.
#[tokio::test(flavor = "multi_thread")]
async fn a_lost_authority_key_is_named() {
    let cluster = Cluster::new();
    let mut node = crate::membership::founder(&cluster).await;
    node.stop().await;
    let (key, backup) = (node.directory().join("authority.key"), cluster.place().join("backup"));
    fs::rename(&key, &backup).expect("it is there");
    let refused = run(node.command()).await.exits(2);
    assert!(refused.stderr.contains("authority.key") && refused.stderr.contains("hint: "), "{}", refused.stderr);
    assert!(!key.exists(), "none was made in its place");
    // As the documentation says, to end the mesh.
    fs::remove_file(node.directory().join("credential.json")).expect("removed");
    node.restart().await;
    let mesh: protocol::api::MeshState = node.client().get("/v1/mesh").await.expect("how it stands to its mesh");
    assert_eq!((mesh.admission, mesh.authority), (protocol::api::Admission::None, false));
}
