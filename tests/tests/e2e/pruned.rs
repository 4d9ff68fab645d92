//! What a log forgets, it still proves: old entries lose their content, and nothing that is needed goes.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use protocol::{
    AgentId, Code, Key, MeshId, OperationId, Timestamp,
    api::{AgreementState, Prune, Pruning, TracePage},
    entry::{self, Action, Entry},
    merkle::leaf_hash,
};
use serde_json::{Value, json};
use store::{Append, Commit, Kind, RecordWrite, Sqlite, Store as _};
use tests::{Cluster, Node, until};

use crate::fixtures::{Pair, counter, reaches};

/// Prunes all that may be.
async fn prune(node: &Node) -> Pruning {
    node.client().post("/v1/trace/prune", &Prune { older_than_s: 0 }).await.expect("the owner may")
}

async fn count(node: &Node, agent: &str, times: usize) -> String {
    let mut last = String::new();
    for _ in 0..times {
        last = node.execute(agent, "count", &json!({})).await.expect("it counts").operation.to_string();
    }
    last
}

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

async fn refused(node: &Node, arguments: &[&str]) -> Value {
    node.mcpctl(&[arguments, &["--json"]].concat()).await.exits(1).json()
}

/// A node with more than a tile of entries: those of 300 calls and some others.
async fn node(cluster: &Cluster) -> (Node, String) {
    let node = cluster.node("a").start().await;
    node.host("counter", "demo", counter()).await;
    let first = count(&node, "counter", 1).await;
    count(&node, "counter", 299).await;
    (node, first)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pruned_log_says_so_and_proves_what_is_left() {
    let cluster = Cluster::new();
    let (mut node, first) = node(&cluster).await;
    let (archive, fresh): (PathBuf, PathBuf) = (cluster.place().join("archive"), cluster.place().join("fresh"));
    let before = node.json(&["trace", "export", text(&archive)]).await["size"].as_u64().expect("a size");
    let nothing = node.json(&["trace", "prune", "--older-than", "30d"]).await;
    assert_eq!(nothing, json!({ "pruned": null, "cleared": 0 }), "nothing is that old");

    let pruning = prune(&node).await;
    let pruned = pruning.pruned.expect("more than a tile");
    assert_eq!((pruning.cleared, pruned.until, pruned.kept), (256, 256, 0));
    assert_eq!(prune(&node).await.cleared, 0, "once");
    for _ in 0..2 {
        let verified = node.json(&["trace", "verify"]).await;
        assert_eq!((&verified["without_content"], &verified["pruned"]["until"]), (&json!(256), &json!(256)), "{verified}");
        assert_eq!(verified["entries"], node.json(&["status"]).await["trace_size"]);
        node.restart().await;
    }
    let shown = node.mcpctl(&["trace", "verify"]).await.exits(0).stdout;
    assert!(shown.contains("entries 0 to 255 were pruned on ") && shown.contains("their content isn't there"), "{shown}");

    // What is gone is said to be gone, what is left is proven: also that the log only grew.
    let listed = node.json(&["trace", "list", "--limit", "1000"]).await;
    assert_eq!((&listed["items"][0]["index"], &listed["pruned"]["until"]), (&json!(256), &json!(256)));
    let entry = listed["items"].as_array().expect("a list").iter().find(|item| item["entry"]["action"] == "prune").expect("an entry");
    assert_eq!(entry["entry"]["until"], 256);
    assert!(node.json(&["trace", "list", "--since", "1h", "--from", "256"]).await["pruned"].is_null());
    let told = node.mcpctl(&["trace", "list"]).await.exits(0).stderr;
    assert!(told.contains("entries 0 to 255 were pruned on "), "{told}");
    for gone in [&["trace", "show", "3"][..], &["trace", "show", &first], &["trace", "prove", &first]] {
        assert_eq!(refused(&node, gone).await["code"], "pruned", "{gone:?}");
    }
    let file = cluster.place().join("proof.json");
    let last = listed["items"][1]["entry"]["operation"].as_str().expect("an id").to_owned();
    node.json(&["trace", "prove", &last, "--out", text(&file)]).await;
    node.json(&["trace", "verify", text(&file)]).await;
    node.json(&["trace", "consistency", &before.to_string()]).await;
    let stream = node.client().events("/v1/events?from=255").await.expect_err("gone");
    assert_eq!(stream.code, Code::Pruned);
    node.client().events("/v1/events?from=256").await.expect("there");

    // An archive from before has all of it still; a new one says what it lacks.
    node.json(&["trace", "export", text(&archive)]).await;
    let whole = node.json(&["trace", "verify", text(&archive)]).await;
    assert_eq!((&whole["entries"], &whole["pruned"]), (&whole["size"], &Value::Null));
    let exported = node.json(&["trace", "export", text(&fresh)]).await;
    assert_eq!(exported["pruned"]["until"], 256);
    let partial = node.json(&["trace", "verify", text(&fresh)]).await;
    let (size, entries) = (partial["size"].as_u64().expect("a number"), partial["entries"].as_u64().expect("a number"));
    assert_eq!((size - entries, &partial["pruned"]["until"]), (256, &json!(256)));
    // Nobody else may say so: neither beyond what the trace says, nor without it.
    let note = fresh.join("pruned.json");
    let honest = fs::read_to_string(&note).expect("a note");
    // What nothing signed says, when and of how many, isn't taken from the file: the entry has its own time.
    let mut altered: Value = serde_json::from_str(&honest).expect("json");
    (altered["at"], altered["kept"]) = (json!("2001-01-01T00:00:00Z"), json!(77));
    fs::write(&note, altered.to_string()).expect("written");
    assert_eq!(node.json(&["trace", "verify", text(&fresh)]).await, partial);
    assert!(!partial.to_string().contains("kept") && !partial["pruned"]["at"].is_null(), "{partial}");
    fs::write(&note, honest.replace("256", "512")).expect("written");
    assert!(
        refused(&node, &["trace", "verify", text(&fresh)]).await["detail"].as_str().is_some_and(|detail| detail.contains("pruned.json"))
    );
    fs::remove_file(&note).expect("it was there");
    assert!(
        refused(&node, &["trace", "verify", text(&fresh)]).await["detail"]
            .as_str()
            .is_some_and(|detail| detail.contains("tile/entries/000"))
    );
}

/// A log of the year 2020, in the store of a node that ran until now, by its own clock.
pub(crate) async fn old_log(directory: &Path, entries: usize) {
    let place = directory.join("store");
    for directory in [directory, &place] {
        fs::create_dir(directory).expect("a new node");
        fs::set_permissions(directory, PermissionsExt::from_mode(0o700)).expect("ours");
    }
    for key in ["owner.key", "node.key"] {
        fs::write(directory.join(key), Key::generate().to_pem().as_bytes()).expect("a key");
        fs::set_permissions(directory.join(key), PermissionsExt::from_mode(0o600)).expect("ours");
    }
    let store = Sqlite::open(&place.join("mcp-zero.sqlite")).expect("a store");
    let believed = serde_json::to_vec(&Timestamp::now()).expect("JSON");
    let record = RecordWrite { kind: Kind::Meta, id: "clock".into(), value: Some(believed) };
    store.apply(vec![Commit { records: vec![record], ..Commit::default() }]).await.expect("the store works")[0].as_ref().expect("made");
    let (principal, time) = (Key::generate().did(), "2020-01-01T00:00:00Z".parse().expect("a time"));
    let commit = |_| {
        let operation = OperationId::new();
        let entry = Entry {
            version: entry::VERSION,
            operation,
            time,
            mesh: MeshId::none(),
            principal,
            agreement: None,
            action: Action::Terminate { agent: AgentId::new() },
            failure: None,
            request_id: None,
        };
        let entry = serde_json::to_vec(&entry).expect("JSON");
        Commit { entry: Some(Append { operation, leaf: leaf_hash(&entry), entry }), ..Commit::default() }
    };
    let made = store.apply((0..entries).map(commit).collect()).await.expect("the store works");
    assert!(made.iter().all(Result::is_ok));
    store.close().await.expect("closed");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_too_old_is_pruned_by_itself() {
    let cluster = Cluster::new();
    let (keeping, pruning) = (cluster.node("keeps"), cluster.node("prunes").set("trace.keep_days", "30"));
    for builder in [&keeping, &pruning] {
        old_log(&builder.directory(), 300).await;
    }
    let (keeping, pruning) = (keeping.start().await, pruning.start().await);
    let verified = until("the old entries to be pruned", async || {
        let verified = pruning.json(&["trace", "verify"]).await;
        (verified["without_content"] == 256).then_some(verified)
    })
    .await;
    assert!(verified["entries"].as_u64().is_some_and(|entries| entries > 300), "{verified}");
    // What is of the same age, but shares a tile with what isn't, stays.
    assert_eq!(pruning.json(&["trace", "list"]).await["items"][0]["index"], 256);
    assert_eq!(keeping.json(&["trace", "verify"]).await["without_content"], 0, "nothing goes by default");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_webhook_is_still_to_be_told_stays() {
    let cluster = Cluster::new();
    let node = cluster.node("a").start().await;
    // Nobody listens there.
    let hook = node.json(&["webhook", "add", "http://127.0.0.1:9/hook"]).await["id"].as_str().expect("an id").to_owned();
    node.host("counter", "demo", counter()).await;
    count(&node, "counter", 300).await;
    let pruning = prune(&node).await;
    assert!(pruning.pruned.is_none() && pruning.cleared == 0, "{pruning:?}");
    node.json(&["webhook", "remove", &hook]).await;
    assert_eq!(prune(&node).await.cleared, 256);
    let added =
        node.client().post::<_, Value>("/v1/webhooks", &json!({ "url": "http://127.0.0.1:9/hook", "from": 3 })).await.expect("added");
    assert_eq!(added["next"], 256, "what there is still");
}

#[tokio::test(flavor = "multi_thread")]
async fn entries_of_an_open_agreement_stay_until_it_is_closed() {
    let (pair, AgreementState { terms, .. }) = Pair::agreed(&[]).await;
    let early = pair.count().await.expect("active").operation.to_string();
    count(&pair.provider, "counter", 280).await;
    let pruning = prune(&pair.provider).await;
    let kept = pruning.pruned.expect("more than a tile").kept;
    assert!(kept >= 2, "the agreement and the call: {pruning:?}");
    assert_eq!(pruning.cleared + kept, 256);

    // The consumer has it proven still, and every part of it is where it was.
    let node = pair.provider.id().to_string();
    pair.consumer.json(&["trace", "prove", &early, "--node", &node]).await;
    let theirs = pair.provider.json(&["trace", "list", "--agreement", &terms.id.to_string(), "--limit", "1000"]).await;
    assert!(theirs["items"].as_array().is_some_and(|items| items.len() as u64 == kept), "{theirs}");
    let since = pair.provider.client().get::<TracePage>("/v1/trace?since=2020-01-01T00:00:00Z&limit=1").await.expect("a page");
    assert!(since.items[0].index < 256, "a search by time finds what was kept");
    let verified = pair.provider.json(&["trace", "verify"]).await;
    assert_eq!((&verified["without_content"], &verified["pruned"]["kept"]), (&json!(256 - kept), &json!(kept)));
    pair.count().await.expect("its receipts go on");

    pair.consumer.json(&["agreement", "terminate", &terms.id.to_string()]).await;
    reaches(&pair.provider, terms.id, protocol::agreement::Status::Closed).await;
    let pruning = prune(&pair.provider).await;
    assert_eq!((pruning.cleared, pruning.pruned.expect("as before").kept), (kept, 0));
    let gone = pair.consumer.mcpctl(&["trace", "prove", &early, "--node", &node, "--json"]).await.exits(1).json();
    assert_eq!(gone["code"], "pruned");
    pair.provider.json(&["trace", "verify"]).await;
}
