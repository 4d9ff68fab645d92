//! The provider is killed while it works for others: what was acknowledged is there, and nothing counts twice.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::atomic::{AtomicUsize, Ordering},
};

use futures::{StreamExt as _, stream};
use protocol::{
    OperationId,
    api::{Agent, AgreementState, Executed, Propose},
};
use serde_json::{Value, json};
use tests::{Cluster, Node, PATIENCE, until, value};
use tokio::sync::Notify;

use crate::fixtures::docs;

const DOCUMENTS: usize = 120;
const CALLERS: usize = 8;
/// Answers after which the provider is killed.
const ENOUGH: usize = 25;

fn document(at: usize) -> Value {
    json!({ "path": format!("notes/{at}.txt"), "text": format!("note {at} about apples and the number{at}x, written while the lights went out") })
}

/// One call, whose key makes it happen once however often it is sent.
async fn index(node: &Node, agent: &Agent, at: usize) -> Option<Executed> {
    node.execute_once(&agent.id.to_string(), "index", &document(at), &format!("note-{at}")).await.ok()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_provider_loses_nothing_that_it_acknowledged_and_counts_nothing_twice() {
    let (cluster, _bootstrap) = Cluster::with_bootstrap().await;
    let mut provider = cluster.node("provider").set("agreements.accept", "auto").set("trace.checkpoint_seconds", "1").join().await;
    let agent = provider.host("docs", "docs", docs()).await;
    let consumer = cluster.node("consumer").join().await;
    consumer.discovers("docs.index", "").await;
    let propose =
        Propose { agent: agent.id.to_string(), node: None, methods: Vec::new(), template: "standard".into(), parameters: BTreeMap::new() };
    let agreed: AgreementState = consumer.client().post("/v1/agreements", &propose).await.expect("agreed");
    let before = provider.json(&["trace", "checkpoint"]).await;

    let acknowledged = kill_while_indexing(&consumer, &mut provider, &agent).await;
    assert!((ENOUGH..DOCUMENTS).contains(&acknowledged.len()), "{} of {DOCUMENTS} before the kill", acknowledged.len());
    provider.restart().await;

    // Everyone asks again with their keys, those who had their answer included.
    let answers: Vec<_> = stream::iter(0..DOCUMENTS)
        .map(async |at| (at, until(&format!("document {at}"), async || index(&consumer, &agent, at).await).await))
        .buffer_unordered(CALLERS)
        .collect()
        .await;
    for (at, answer) in &answers {
        if let Some(operation) = acknowledged.get(at) {
            assert_eq!(answer.operation, *operation, "document {at} was acknowledged before, as another operation");
        }
    }
    let operations: BTreeSet<_> = answers.iter().map(|(_, answer)| answer.operation).collect();
    assert_eq!(operations.len(), DOCUMENTS);

    let stats = value(&provider.execute("docs", "stats", &json!({})).await.expect("the owner may look"));
    assert_eq!(stats["documents"], DOCUMENTS, "{stats}");
    for at in [0, DOCUMENTS / 2, DOCUMENTS - 1] {
        let found = value(&provider.execute("docs", "search", &json!({ "query": format!("number{at}x") })).await.expect("found"));
        assert_eq!(found["hits"][0]["path"], document(at)["path"], "{found}");
    }
    let used = provider.agreement(agreed.terms.id).await.expect("kept").used;
    assert_eq!(used.calls as usize, DOCUMENTS, "each counted exactly once");
    let traced = executions(&provider, &agreed).await;
    assert_eq!(traced, operations, "the trace has each once, and nothing else");
    assert_eq!(provider.json(&["trace", "verify"]).await["entries"], provider.json(&["status"]).await["trace_size"]);

    // The log of after only adds to that of before.
    let file = cluster.place().join("consistency.json");
    let path = file.to_str().expect("UTF-8");
    let proof = provider.json(&["trace", "consistency", &before["size"].to_string(), "--output", path]).await;
    assert_eq!(proof["old"], before["note"]);
    let verified = provider.json(&["trace", "verify", path]).await;
    assert!(verified["verified"] == true && verified["new_size"].as_u64() > verified["old_size"].as_u64(), "{verified}");
}

/// Several callers index all documents; the provider is killed in the middle. Returns what was acknowledged.
async fn kill_while_indexing(consumer: &Node, provider: &mut Node, agent: &Agent) -> BTreeMap<usize, OperationId> {
    let (answered, enough) = (AtomicUsize::new(0), Notify::new());
    let calls = stream::iter(0..DOCUMENTS).map(async |at| {
        let operation = index(consumer, agent, at).await?.operation;
        if answered.fetch_add(1, Ordering::SeqCst) + 1 == ENOUGH {
            enough.notify_one();
        }
        Some((at, operation))
    });
    let indexing = async {
        let mut calls = calls.buffer_unordered(CALLERS);
        let mut acknowledged = BTreeMap::new();
        while let Some(outcome) = calls.next().await {
            match outcome {
                Some((at, operation)) => acknowledged.insert(at, operation),
                // The provider is gone: those that have not begun would only wait for it.
                None => break,
            };
        }
        acknowledged
    };
    let killing = async {
        tokio::time::timeout(PATIENCE, enough.notified()).await.expect("the first answers come in time");
        provider.kill9();
    };
    tokio::join!(indexing, killing).0
}

/// The operations under an agreement in a node's trace.
async fn executions(node: &Node, agreed: &AgreementState) -> BTreeSet<OperationId> {
    let listed = node.json(&["trace", "list", "--limit", "1000"]).await;
    let items = listed["items"].as_array().expect("items").iter();
    let ours = items.filter(|item| item["entry"]["action"] == "execute" && item["entry"]["agreement"] == json!(agreed.terms.id));
    ours.map(|item| serde_json::from_value(item["entry"]["operation"].clone()).expect("an operation")).collect()
}
