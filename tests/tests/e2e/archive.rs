//! The trace in a directory: exported as tiles, taken up again, verified without a node, and no byte of it changed.

use std::{
    fs,
    path::{Path, PathBuf},
};

use protocol::{
    Code,
    tile::{MAX_BUNDLE, Tile},
};
use serde_json::{Value, json};
use tests::{Cluster, Node};

use crate::fixtures::counter;

async fn count(node: &Node, times: usize) {
    for _ in 0..times {
        node.execute("counter", "count", &json!({})).await.expect("it counts");
    }
}

/// A node whose log fills more than a tile.
async fn node(cluster: &Cluster) -> Node {
    let node = cluster.node("a").start().await;
    node.host("counter", "demo", counter()).await;
    count(&node, 260).await;
    node
}

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

/// Verified offline, or why not.
async fn verify(node: &Node, directory: &Path, more: &[&str]) -> Result<Value, Value> {
    let answer = node.mcpctl(&[&["trace", "verify", text(directory), "--json"], more].concat()).await;
    if answer.code == Some(0) { Ok(answer.json()) } else { Err(answer.exits(1).json()) }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_export_is_taken_up_again_and_verifies_without_a_node() {
    let cluster = Cluster::new();
    let mut node = node(&cluster).await;
    let (directory, saved) = (cluster.place().join("export"), cluster.place().join("saved.txt"));
    let first = node.json(&["trace", "export", text(&directory)]).await;
    let size = first["size"].as_u64().expect("a size");
    assert_eq!(first["written"], Tile::all(size).count());
    fs::copy(directory.join("checkpoint"), &saved).expect("a checkpoint");
    let verified = verify(&node, &directory, &[]).await.expect("as it was written");
    assert_eq!((&verified["size"], &verified["entries"], &verified["log"]), (&json!(size), &json!(size), &json!(node.id().to_string())));

    // What is complete is not written again; what was partial is wider now.
    count(&node, 3).await;
    let again = node.json(&["trace", "export", text(&directory)]).await;
    let (full, partial) = (Tile::all(size + 3).filter(Tile::is_full).count(), Tile::all(size + 3).filter(|tile| !tile.is_full()).count());
    assert_eq!((&again["present"], &again["written"], &again["size"]), (&json!(full), &json!(partial), &json!(size + 3)));
    for tile in Tile::all(size).filter(|tile| Tile::all(size + 3).all(|newer| newer != *tile)) {
        assert!(!directory.join(tile.path()).exists(), "{} is done with", tile.path());
    }
    let verified = verify(&node, &directory, &["--checkpoint", text(&saved)]).await.expect("it only grew");
    assert_eq!(verified["held"], json!({ "size": size, "trace": "extended" }));
    // An export that was interrupted goes on.
    fs::remove_file(directory.join("tile/entries/000")).expect("it was there");
    fs::remove_file(directory.join("checkpoint")).expect("it was there");
    let resumed = node.json(&["trace", "export", text(&directory)]).await;
    assert_eq!((&resumed["present"], &resumed["written"]), (&json!(full - 1), &json!(partial + 1)));
    let scratch = node.json(&["trace", "export", text(&directory), "--from-scratch"]).await;
    assert_eq!((&scratch["present"], &scratch["written"]), (&json!(0), &json!(full + partial)));

    // A later checkpoint than the export's proves nothing about it; another node's trace doesn't go there.
    count(&node, 1).await;
    let later = node.json(&["trace", "checkpoint"]).await;
    fs::write(&saved, later.to_string()).expect("written");
    let refused = verify(&node, &directory, &["--checkpoint", text(&saved)]).await.expect_err("too small");
    assert!(refused["detail"].as_str().is_some_and(|detail| detail.contains("the export has")), "{refused}");
    let other = cluster.node("b").start().await;
    let foreign = other.mcpctl(&["trace", "export", text(&directory), "--json"]).await.exits(1).json();
    assert_eq!(foreign["code"], "conflict");
    let checkpoint = other.json(&["trace", "checkpoint"]).await;
    fs::write(&saved, checkpoint.to_string()).expect("written");
    verify(&node, &directory, &["--checkpoint", text(&saved)]).await.expect_err("of another node");
    node.stop().await;
    verify(&node, &directory, &[]).await.expect("no daemon is needed");
    verify(&node, cluster.place(), &[]).await.expect_err("no export");
}

/// Changes one byte in the middle of a file while `f` runs.
async fn changed<T>(file: &Path, change: impl FnOnce(&mut Vec<u8>), f: impl AsyncFnOnce() -> T) -> T {
    let whole = fs::read(file).expect("it is there");
    let mut bytes = whole.clone();
    change(&mut bytes);
    fs::write(file, bytes).expect("written");
    let answer = f().await;
    fs::write(file, whole).expect("written");
    answer
}

#[tokio::test(flavor = "multi_thread")]
async fn an_export_proves_each_of_its_entries() {
    let cluster = Cluster::new();
    let mut node = node(&cluster).await;
    let (directory, file) = (cluster.place().join("export"), cluster.place().join("proof.json"));
    let size = node.json(&["trace", "export", text(&directory)]).await["size"].as_u64().expect("a size");
    let operation = node.json(&["trace", "show", "7"]).await["entry"]["operation"].as_str().expect("an id").to_owned();
    let by_index = node.json(&["trace", "prove", "7"]).await;
    node.stop().await;
    let last = (size - 1).to_string();
    for entry in ["0", "1", "7", &operation, "254", "255", "256", "257", &last] {
        node.json(&["trace", "prove", entry, "--tiles", text(&directory), "--out", text(&file)]).await;
        let verified = node.json(&["trace", "verify", text(&file)]).await;
        assert_eq!((&verified["verified"], &verified["size"]), (&json!(true), &json!(size)));
        assert!([entry, "7"].contains(&verified["index"].to_string().as_str()), "{entry}: {verified}");
    }
    // As the node itself proved it, but for the size that the log has by then.
    let proof = node.json(&["trace", "prove", &operation, "--tiles", text(&directory)]).await;
    assert_eq!(proof["inclusion"]["entry"], by_index["inclusion"]["entry"]);
    let unknown = protocol::OperationId::new().to_string();
    for (absent, code) in [(size.to_string().as_str(), "not_found"), (&u64::MAX.to_string(), "not_found"), (&unknown, "not_found")] {
        let refused = node.mcpctl(&["trace", "prove", absent, "--tiles", text(&directory), "--json"]).await.exits(1).json();
        assert_eq!(refused["code"], code, "{absent}");
    }
    fs::remove_file(directory.join("tile/0/000")).expect("it was there");
    node.mcpctl(&["trace", "prove", "7", "--tiles", text(&directory)]).await.exits(1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_byte_is_named() {
    let cluster = Cluster::new();
    let node = node(&cluster).await;
    let directory = cluster.place().join("export");
    let size = node.json(&["trace", "export", text(&directory)]).await["size"].as_u64().expect("a size");
    for tile in Tile::all(size) {
        let file = directory.join(tile.path());
        let flips: [fn(&mut Vec<u8>); 4] = [
            |bytes| {
                let middle = bytes.len() / 2;
                bytes[middle] ^= 1;
            },
            |bytes| bytes[0] ^= 1,
            |bytes| bytes.truncate(bytes.len() - 1),
            |bytes| bytes.extend([0, 0]),
        ];
        for (at, flip) in flips.into_iter().enumerate() {
            let refused = changed(&file, flip, async || verify(&node, &directory, &[]).await.expect_err("changed")).await;
            let detail = refused["detail"].as_str().expect("a text");
            // A changed hash of a leaf shows by the entry that doesn't have it.
            let named = if tile.path().starts_with("tile/0/") { tile.path().replace("tile/0/", "") } else { tile.path() };
            assert!(refused["code"] == "proof_failed" && detail.contains(&named), "{at} of {}: {detail}", tile.path());
        }
        let aside: PathBuf = cluster.place().join("aside");
        fs::rename(&file, &aside).expect("moved");
        let refused = verify(&node, &directory, &[]).await.expect_err("missing");
        assert!(refused["detail"].as_str().is_some_and(|detail| detail.contains("missing") && detail.contains(&tile.path())), "{refused}");
        fs::rename(&aside, &file).expect("moved back");
    }
    let checkpoint = directory.join("checkpoint");
    let forged = |bytes: &mut Vec<u8>| {
        *bytes = String::from_utf8_lossy(bytes).replacen(&format!("\n{size}\n"), &format!("\n{}\n", size - 1), 1).into_bytes()
    };
    changed(&checkpoint, forged, async || verify(&node, &directory, &[]).await.expect_err("not what was signed")).await;
    verify(&node, &directory, &[]).await.expect("all is as it was");
}

#[tokio::test(flavor = "multi_thread")]
async fn tiles_that_are_none_are_refused_and_those_beyond_are_not_found() {
    let cluster = Cluster::new();
    let node = cluster.node("a").start().await;
    let fetch = async |path: &str| node.client().get_bytes(&format!("/v1/trace/tiles/{path}"), MAX_BUNDLE).await;
    let size = protocol::checkpoint::Checkpoint::verify(&String::from_utf8_lossy(&fetch("checkpoint").await.expect("a note")))
        .expect("signed")
        .size;
    assert!((2..256).contains(&size), "{size}");
    for width in 1..=size {
        assert_eq!(fetch(&format!("tile/0/000.p/{width}")).await.expect("within the log").len() as u64, width * 32);
        let bundle = fetch(&format!("tile/entries/000.p/{width}")).await.expect("within the log");
        assert_eq!(protocol::tile::unbundle(&bundle).expect("a bundle").len() as u64, width);
    }
    for (path, code) in [
        (format!("tile/0/000.p/{}", size + 1), Code::NotFound),
        ("tile/0/000".into(), Code::NotFound),
        ("tile/1/000.p/1".into(), Code::NotFound),
        ("tile/63/x018/x446/x744/x073/x709/x551/615".into(), Code::NotFound),
        ("tile/entries/x018/x446/x744/x073/x709/x551/615".into(), Code::NotFound),
        ("tile/entries/x018/x446/x744/x073/x709/x551/616".into(), Code::InvalidRequest),
        ("tile/0/000.p/0".into(), Code::InvalidRequest),
        ("tile/0/0".into(), Code::InvalidRequest),
        ("tile/00/000.p/1".into(), Code::InvalidRequest),
        ("tile/entries/%2e%2e/000".into(), Code::InvalidRequest),
        ("tile/0/000.p/1%00".into(), Code::InvalidRequest),
        ("checkpoints".into(), Code::InvalidRequest),
    ] {
        assert_eq!(fetch(&path).await.expect_err(&path).code, code, "{path}");
    }
}
