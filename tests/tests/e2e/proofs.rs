//! What a node says can be verified without it, and not one byte of it can be changed.

use std::{fs, path::Path};

use serde_json::Value;
use tests::{Node, until, value};

use crate::fixtures::Pair;

/// Places of one text that are changed, one after the other.
const PLACES: usize = 6;

#[tokio::test(flavor = "multi_thread")]
async fn an_agreement_verifies_offline_and_no_changed_one_does() {
    let (pair, state) = Pair::agreed(&[]).await;
    let id = state.terms.id.to_string();
    for _ in 0..3 {
        pair.count().await.expect("active");
    }
    pair.provider.json(&["agreement", "suspend", &id]).await;
    crate::fixtures::reaches(&pair.consumer, state.terms.id, protocol::agreement::Status::Suspended).await;

    let file = pair.cluster.place().join("bundle.json");
    pair.consumer.json(&["agreement", "show", &id, "--output", text(&file)]).await;
    let Pair { consumer, provider, .. } = &pair;
    let verified = verify(consumer, "agreement", &file).await.expect("as it is, it verifies");
    assert_eq!((&verified["verified"], &verified["status"]), (&Value::Bool(true), &Value::from("suspended")));
    assert_eq!(verified["receipt"]["used"]["calls"], 3);
    assert_eq!(verified["signers"].as_array().map(Vec::len), Some(2));
    // What 'show --json' prints verifies as well, on any machine.
    let shown = pair.cluster.place().join("shown.json");
    fs::write(&shown, provider.mcpctl(&["agreement", "show", &id, "--json"]).await.exits(0).stdout).expect("write");
    verify(provider, "agreement", &shown).await.expect("as the provider has it, too");

    let bundle: Value = serde_json::from_slice(&fs::read(&file).expect("bundle")).expect("JSON");
    let mut texts = Vec::new();
    signed_texts(&bundle, String::new(), &mut texts);
    assert!(texts.len() >= 3 * 4, "terms, a transition and a receipt: {texts:?}");
    let changed = pair.cluster.place().join("changed.json");
    for pointer in texts {
        refuses_changes(consumer, "agreement", &bundle, &pointer, &changed).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_provider_proves_an_operation_and_no_changed_proof_passes() {
    let (pair, _) = Pair::agreed(&[]).await;
    let executed = pair.count().await.expect("active");
    let (operation, node) = (executed.operation.to_string(), pair.provider.id().to_string());
    let file = pair.cluster.place().join("proof.json");
    pair.consumer.json(&["trace", "prove", &operation, "--node", &node, "--output", text(&file)]).await;
    let verified = verify(&pair.consumer, "trace", &file).await.expect("as it is, it verifies");
    assert_eq!((verified["log"].as_str(), verified["entry"]["operation"].as_str()), (Some(node.as_str()), Some(operation.as_str())));
    assert_eq!(verified["entry"]["result"], format!("{}", protocol::Digest::sha256(value(&executed).to_string().as_bytes())));

    let proof: Value = serde_json::from_slice(&fs::read(&file).expect("proof")).expect("JSON");
    let changed = pair.cluster.place().join("changed.json");
    for pointer in ["/inclusion/entry", "/inclusion/checkpoint"] {
        refuses_changes(&pair.consumer, "trace", &proof, pointer, &changed).await;
    }
    for at in 0..proof["inclusion"]["hashes"].as_array().map_or(0, Vec::len) {
        refuses_changes(&pair.consumer, "trace", &proof, &format!("/inclusion/hashes/{at}"), &changed).await;
    }
    let mut moved = proof.clone();
    moved["inclusion"]["index"] = (proof["inclusion"]["index"].as_u64().expect("an index") + 1).into();
    fs::write(&changed, moved.to_string()).expect("write");
    verify(&pair.consumer, "trace", &changed).await.expect_err("another index");

    // The consumer's own log has it as well, and both logs verify as a whole.
    let own = until("the consumer's own entry", async || {
        let shown = pair.consumer.mcpctl(&["trace", "show", &operation, "--json"]).await;
        (shown.code == Some(0)).then(|| shown.json())
    });
    let own = own.await;
    assert_eq!((own["entry"]["action"].as_str(), own["entry"]["node"].as_str()), (Some("execute_remote"), Some(node.as_str())));
    for side in [&pair.consumer, &pair.provider] {
        let verified = side.json(&["trace", "verify"]).await;
        assert_eq!(verified["entries"], side.json(&["status"]).await["trace_size"]);
    }
}

/// `mcpctl <noun> verify FILE`, by a command that knows no daemon.
async fn verify(node: &Node, noun: &str, file: &Path) -> Result<Value, Value> {
    let answer = node.mcpctl(&[noun, "verify", text(file), "--json"]).await;
    match answer.code {
        Some(0) => Ok(answer.json()),
        Some(1 | 5) => Err(answer.json()),
        _ => panic!("{answer:?}"),
    }
}

/// Changes one character after the other of the text at `pointer`, and expects each to be refused.
async fn refuses_changes(node: &Node, noun: &str, document: &Value, pointer: &str, file: &Path) {
    let original = document.pointer(pointer).and_then(Value::as_str).expect("a text");
    let places: Vec<usize> = original.char_indices().filter(|(_, c)| c.is_ascii_alphanumeric()).map(|(at, _)| at).collect();
    for at in places.iter().step_by((places.len() / PLACES).max(1)) {
        let other = if &original[*at..=*at] == "1" { "2" } else { "1" };
        let mut changed = document.clone();
        *changed.pointer_mut(pointer).expect("the same text") = format!("{}{other}{}", &original[..*at], &original[at + 1..]).into();
        fs::write(file, changed.to_string()).expect("write");
        if let Ok(passed) = verify(node, noun, file).await {
            panic!("{pointer} changed at {at} and passed: {passed}");
        }
    }
}

/// Pointers to every text that a signature covers, and to the signatures.
fn signed_texts(value: &Value, pointer: String, found: &mut Vec<String>) {
    match value {
        Value::Object(members) => members.iter().for_each(|(name, member)| signed_texts(member, format!("{pointer}/{name}"), found)),
        Value::Array(items) => items.iter().enumerate().for_each(|(at, item)| signed_texts(item, format!("{pointer}/{at}"), found)),
        Value::String(_) => found.push(pointer),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}
