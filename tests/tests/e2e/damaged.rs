//! A store whose disk has flipped bits: what is damaged is named and refused, and the rest is served.

use std::{fs, path::Path};

use protocol::{
    AgentId, AgreementId, Code, Problem,
    api::{Execute, Executed},
};
use serde_json::{Value, json, value::RawValue};
use tests::{Cluster, Node, run, until, value};

use crate::fixtures::{Pair, counter};

/// Where the text stands in the store's file, each time that it does.
fn places(bytes: &[u8], text: &str) -> Vec<usize> {
    bytes.windows(text.len()).enumerate().filter(|(_, window)| *window == text.as_bytes()).map(|(at, _)| at).collect()
}

fn file(node: &Node) -> std::path::PathBuf {
    node.directory().join("store/mcp-zero.sqlite")
}

/// Flips a bit in the content that stands behind a text, wherever that text is.
fn damage(file: &Path, text: &str, behind: usize) {
    let mut bytes = fs::read(file).expect("a store");
    let found = places(&bytes, text);
    assert!(!found.is_empty(), "{text} stands in the store");
    for at in found {
        bytes[at + text.len() + behind] ^= 1;
    }
    fs::write(file, bytes).expect("written");
}

async fn verify(node: &Node) -> (Option<i32>, Value) {
    let answer = node.mcpctl(&["store", "verify", "--json"]).await;
    (answer.code, answer.json())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_agent_is_refused_and_the_others_are_served() {
    let cluster = Cluster::new();
    let mut node = cluster.node("a").start().await;
    let broken = node.host("broken", "demo", counter()).await;
    let sound = node.host("sound", "demo2", counter()).await;
    for agent in ["broken", "sound"] {
        node.execute(agent, "count", &json!({})).await.expect("it counts");
    }
    let (code, verified) = verify(&node).await;
    assert_eq!((code, &verified["sound"]), (Some(0), &json!(true)), "{verified}");
    assert!(verified["trace"]["entries"].as_u64() >= Some(2) && verified["blobs"].as_u64() >= Some(1), "{verified}");

    node.stop().await;
    // In the agent's own record, behind its name.
    damage(&file(&node), "\"name\":\"broken\",", 3);
    node.restart().await;
    assert!(node.log().contains("a row of the store is damaged"), "{}", node.log());
    for agent in ["broken", &broken.id.to_string()] {
        let refused = node.execute(agent, "count", &json!({})).await.expect_err("its record is damaged");
        assert_eq!(refused.code, Code::StoreDamaged, "{refused:?}");
        assert!(refused.detail.contains(&broken.id.to_string()) && refused.hint.is_some(), "{refused:?}");
    }
    let missing = node.execute(&AgentId::new().to_string(), "count", &json!({})).await.expect_err("nobody");
    assert_ne!(missing.code, Code::StoreDamaged, "another one is just not there");
    let executed = node.execute(&sound.id.to_string(), "count", &json!({})).await.expect("it is served");
    assert_eq!(value(&executed)["count"], 2);
    let (code, verified) = verify(&node).await;
    assert_eq!((code, &verified["sound"]), (Some(1), &json!(false)), "{verified}");
    let damaged = verified["damaged"].as_array().expect("a list");
    let named = |row: &Value| row["table"] == "record" && row["key"].as_str().is_some_and(|key| key.contains(&broken.id.to_string()));
    assert!(damaged.len() == 1 && named(&damaged[0]), "{verified}");
    assert_eq!(node.json(&["status"]).await["store_damaged"], 1);
    let text = node.mcpctl(&["store", "verify"]).await.exits(1).stdout;
    assert!(text.contains(&format!("damaged: record 1 {}", broken.id)), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_agreement_is_refused_and_never_billed() {
    let mut pair = Pair::new("auto").await;
    let damaged = pair.propose(&[]).await.expect("agreed").terms.id;
    let sound = pair.propose(&[]).await.expect("agreed").terms.id;
    let path = format!("/v1/agents/{}/execute", pair.agent.id);
    for id in [damaged, sound] {
        call(&pair.consumer, &path, id).await.expect("it counts");
    }
    pair.provider.stop().await;
    // What was used under it, behind the key and the checksum of its total: not the agreement itself.
    let mut bytes = fs::read(file(&pair.provider)).expect("a store");
    let key = [&damaged.uuid().as_bytes()[..], b"total"].concat();
    let at: Vec<_> = bytes.windows(key.len()).enumerate().filter(|(_, window)| *window == key).map(|(at, _)| at).collect();
    assert!(!at.is_empty(), "its total stands in the store");
    for at in at {
        bytes[at + key.len() + 8] ^= 1;
    }
    fs::write(file(&pair.provider), bytes).expect("written");
    pair.provider.restart().await;
    let (consumer, provider) = (&pair.consumer, &pair.provider);
    consumer.is_connected(provider.id()).await;
    let refused = until("the provider to refuse", async || match call(consumer, &path, damaged).await {
        Err(problem) => (problem.code == Code::StoreDamaged).then_some(problem),
        Ok(executed) => panic!("it ran: {executed:?}"),
    })
    .await;
    assert!(refused.detail.contains("usage"), "{refused:?}");
    until("the other agreement to work", async || call(consumer, &path, sound).await.ok()).await;
    let (code, verified) = verify(provider).await;
    assert_eq!(code, Some(1), "{verified}");
    assert_eq!(verified["damaged"][0]["table"], "usage", "{verified}");
    let shown = provider.mcpctl(&["agreement", "show", &damaged.to_string(), "--json"]).await.exits(1);
    assert_eq!(shown.json()["code"], "store_damaged", "{shown:?}");
}

async fn call(consumer: &Node, path: &str, agreement: AgreementId) -> Result<Executed, Problem> {
    let params = RawValue::from_string("{}".into()).expect("JSON");
    consumer.client().post(path, &Execute { method: "count".into(), params, agreement: Some(agreement), timeout_ms: None }).await
}

/// Where the file's structure is damaged, nobody knows what isn't found: it isn't served from.
#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_structure_is_refused_at_the_start() {
    let cluster = Cluster::new();
    let mut node = cluster.node("a").start().await;
    node.host("counter", "demo", counter()).await;
    node.stop().await;
    let mut bytes = fs::read(file(&node)).expect("a store");
    let sound = bytes.clone();
    // The number of cells of a leaf of the records: one row less.
    let at = places(&bytes, "\"name\":\"counter\",")[0] / 4096 * 4096;
    assert!(matches!(bytes[at], 10 | 13), "a leaf");
    bytes[at + 4] ^= 1;
    fs::write(file(&node), &bytes).expect("written");
    let refused = run(node.command()).await.exits(1);
    assert!(refused.stderr.contains("structure of the store's file is damaged") && refused.stderr.contains("hint: "), "{}", refused.stderr);
    fs::write(file(&node), &sound).expect("restored");
    node.restart().await;
}

/// Blobs are held against their digests, and plugins that lost theirs are named.
#[tokio::test(flavor = "multi_thread")]
async fn damaged_and_missing_blobs_are_named() {
    let cluster = Cluster::new();
    let node = cluster.node("a").start().await;
    node.host("counter", "demo", counter()).await;
    node.execute("counter", "count", &json!({})).await.expect("it counts");
    node.json(&["agent", "snapshot", "counter"]).await;
    let shards = fs::read_dir(node.directory().join("blobs")).expect("listed").flatten().map(|shard| shard.path());
    let shards = shards.filter(|shard| shard.file_name().is_some_and(|name| name.len() == 2));
    let blobs: Vec<_> = shards.flat_map(|shard| fs::read_dir(shard).expect("listed").flatten().map(|file| file.path())).collect();
    let plugin = node.json(&["plugin", "list"]).await["items"][0]["component"].as_str().expect("a digest").replace("blake3:", "");
    let (component, other): (Vec<_>, Vec<_>) = blobs.into_iter().partition(|blob| blob.ends_with(&plugin));
    let mut bytes = fs::read(&other[0]).expect("a blob");
    bytes[0] ^= 1;
    fs::write(&other[0], bytes).expect("damaged");
    fs::remove_file(&component[0]).expect("removed");
    let (code, verified) = verify(&node).await;
    assert_eq!(code, Some(1), "{verified}");
    assert_eq!(
        (verified["damaged_blobs"].as_array().map(Vec::len), verified["missing_blobs"].as_array().map(Vec::len)),
        (Some(1), Some(1))
    );
    assert!(verified["missing_blobs"][0].as_str().is_some_and(|digest| digest.contains(&plugin)), "{verified}");
}
