//! What was changed after it was made: each section of an export, what stands beside signatures in a file, and what a client
//! might send without any file.

use protocol::{
    Code, Digest, Expect, Key, MeshId, Problem, Signed,
    api::{Agent, Import},
    document::Sealed,
    grant::Grants,
    manifest::Manifest,
    snapshot::{Index, Snapshot},
};
use serde_json::json;
use tests::{Cluster, Node, Publisher, value};

use crate::fixtures::{Pair, counter, docs, release};

/// What an export consists of: where each section's content is, and the names of those that must be there.
fn sections(file: &[u8]) -> Vec<(u8, std::ops::Range<usize>)> {
    let mut at = b"mcp-zero agent 1\n".len();
    let mut found = Vec::new();
    while at < file.len() {
        let length = u64::from_be_bytes(file[at + 1..at + 9].try_into().expect("8 bytes")) as usize;
        found.push((file[at], at + 9..at + 9 + length));
        at += 9 + length;
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_section_of_whatever_kind_is_seen_and_leaves_nothing() {
    let (here, there) = (Cluster::new(), Cluster::new());
    let (node, other) = (here.node("a").start().await, there.node("b").start().await);
    node.host("docs", "docs", docs()).await;
    for at in 0..20 {
        let text: String = (0..800).map(|word| format!("w{at}x{word} ")).collect();
        node.execute("docs", "index", &json!({ "path": format!("{at}.txt"), "text": text })).await.expect("indexed");
    }
    let file = here.place().join("docs.agent");
    let path = file.to_str().expect("UTF-8");
    node.json(&["agent", "export", "docs", path]).await;
    let publisher = node.json(&["plugin", "list"]).await["items"][0]["publisher"].as_str().expect("a DID").to_owned();
    other.json(&["plugin", "trust", &publisher, "--name", "theirs"]).await;
    let sound = std::fs::read(&file).expect("a file");
    let sections = sections(&sound);
    let kinds: Vec<u8> = sections.iter().map(|(kind, _)| *kind).collect();
    assert!(kinds.starts_with(&[1, 2, 3, 4, 5, 5]) && kinds.ends_with(&[5, 0]), "{kinds:?}");
    let import = async |changed: Vec<u8>| {
        std::fs::write(&file, changed).expect("written");
        other.mcpctl(&["agent", "import", path, "--json"]).await
    };
    // The first, the last, and one of each kind: its middle, its kind, its length; and the section gone.
    for (at, (kind, content)) in sections.iter().enumerate() {
        if at > 5 && at + 2 < sections.len() {
            continue;
        }
        let begin = content.start - 9;
        let mut changes = vec![(begin, 0x40), (begin + 8, 1)];
        if !content.is_empty() {
            changes.push((content.start + content.len() / 2, 1));
        }
        for (byte, bit) in changes {
            let mut changed = sound.clone();
            changed[byte] ^= bit;
            assert_ne!(import(changed).await.code, Some(0), "section {at} of kind {kind}, byte {byte}");
        }
        let gone = [&sound[..begin], &sound[content.end..]].concat();
        assert_ne!(import(gone).await.code, Some(0), "without section {at} of kind {kind}");
    }
    assert_eq!(other.json(&["agent", "list"]).await["items"], json!([]), "nothing came of all that");
    import(sound).await.exits(0);
    assert_eq!(value(&other.execute("docs", "stats", &json!({})).await.expect("ran"))["documents"], 20);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_altered_beside_a_signature_is_no_longer_verified() {
    let (pair, state) = Pair::agreed(&[]).await;
    let (agent, id) = (pair.agent.id.to_string(), state.terms.id.to_string());
    let file = pair.cluster.place().join("file.json");
    let path = file.to_str().expect("UTF-8");
    let verify = async |what: &str, text: &str| {
        std::fs::write(&file, text).expect("written");
        pair.consumer.mcpctl(&[what, "verify", path, "--json"]).await
    };
    // The params come back as they were, with white space within and around them.
    let answer = pair.consumer.mcpctl(&["agent", "execute", &agent, "echo", "  {\"paid\":  1.0 }\n", "--json"]).await.exits(0);
    let found = verify("receipt", &answer.stdout).await.exits(0).json();
    assert_eq!(found["compared"].as_array().map(Vec::len), Some(3), "{found}");
    let pretty = serde_json::to_string_pretty(&pair.consumer.json(&["agent", "execute", &agent, "count", "{}"]).await).expect("json");
    verify("receipt", &pretty).await.exits(0);
    let honest: serde_json::Value = serde_json::from_str(&pretty).expect("json");
    for (field, altered) in
        [("result", json!({ "paid": 2.0 })), ("usage", json!(state.used)), ("operation", json!(protocol::OperationId::new()))]
    {
        let mut answer = honest.clone();
        answer[field] = altered;
        let refused = verify("receipt", &answer.to_string()).await.exits(1).json();
        assert!(refused["detail"].as_str().is_some_and(|detail| detail.contains(&format!("{field:?}"))), "{refused}");
    }
    // Both sides' own views of the agreement.
    for node in [&pair.consumer, &pair.provider] {
        let shown = node.json(&["agreement", "show", &id]).await;
        let found = verify("agreement", &shown.to_string()).await.exits(0).json();
        assert_eq!(found["compared"], json!(["status", "terms", "used", "price"]), "{found}");
        for (field, altered) in [("status", json!("closed")), ("used", json!(state.used)), ("price", json!("1"))] {
            let mut shown = shown.clone();
            shown[field] = altered;
            let refused = verify("agreement", &shown.to_string()).await.exits(1).json();
            assert!(refused["detail"].as_str().is_some_and(|detail| detail.contains(&format!("{field:?}"))), "{refused}");
        }
    }
}

/// Puts what a client would send to a node, whatever it is.
async fn import(node: &Node, snapshot: Sealed<Snapshot>, manifest: Sealed<Manifest>) -> Result<Agent, Problem> {
    node.client().post("/v1/agents/import", &Import { name: None, snapshot, manifests: vec![manifest], grants: Grants::default() }).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_believes_no_client_that_sends_it_an_agent() {
    let (here, there) = (Cluster::new(), Cluster::new());
    let (node, other) = (here.node("a").start().await, there.node("b").start().await);
    let publisher = Publisher::new();
    let (plugin, another) = (release(&publisher, "demo", 1, None), release(&publisher, "demo", 2, None));
    for node in [&node, &other] {
        node.trust(&publisher).await;
        node.register(&plugin).await.expect("sound");
        node.register(&another).await.expect("sound");
    }
    node.spawn("counter", &plugin, None).await.expect("spawned");
    node.execute("counter", "count", &json!({})).await.expect("counted");
    let taken = node.json(&["agent", "snapshot", "counter"]).await;
    let path = format!("/v1/agents/counter/snapshots/{}", taken["id"].as_str().expect("an id"));
    let sealed: Sealed<Snapshot> = node.client().get(&path).await.expect("a snapshot");
    let opened = sealed.clone().open(Expect::archived(&MeshId::any())).expect("its own");
    let snapshot = opened.document().clone();
    let refused = async |sealed: Sealed<Snapshot>, manifest: Sealed<Manifest>| import(&other, sealed, manifest).await.expect_err("refused");

    // Neither index nor chunks were sent.
    let missing = refused(sealed.clone(), plugin.manifest.clone()).await;
    assert!(missing.code == Code::StoreFailed && missing.detail.contains("index") && missing.detail.contains("missing"), "{missing}");
    let blob = async |digest: Digest| node.client().get_bytes(&format!("/v1/blobs/{digest}"), 1 << 20).await.expect("a blob");
    let send =
        async |digest: Digest, content: bytes::Bytes| other.client().put_bytes::<Digest>(&format!("/v1/blobs/{digest}"), content).await;
    let index = blob(snapshot.index).await;
    send(snapshot.index, index.clone()).await.expect("sent");
    let missing = refused(sealed.clone(), plugin.manifest.clone()).await;
    assert!(missing.code == Code::StoreFailed && missing.detail.contains("chunk 1 of 1"), "{missing}");
    let (chunk, _) = Index::decode(&index).expect("an index").0[0];
    let content = blob(chunk).await;
    let mut changed = content.to_vec();
    changed[0] ^= 1;
    assert_eq!(send(chunk, changed.into()).await.expect_err("other bytes").code, Code::BadSignature);
    send(chunk, content).await.expect("sent");

    // All is there, and the papers are wrong.
    assert_eq!(refused(sealed.clone(), another.manifest.clone()).await.code, Code::InvalidRequest, "another plugin's manifest");
    let stranger = Publisher::new();
    let manifest = stranger.manifest("demo", &counter(), &[]);
    assert_eq!(refused(sealed.clone(), Signed::sign(manifest, &[stranger.key()]).into()).await.code, Code::UntrustedPublisher);
    let forged = Signed::sign(snapshot.clone(), &[&Key::generate()]);
    assert_eq!(refused(forged.into(), plugin.manifest.clone()).await.code, Code::Unsigned, "not by its owner");
    let owner = Key::generate();
    let lies = protocol::snapshot::Snapshot { owner: owner.did(), keys: 7, ..snapshot.clone() };
    let lies = refused(Signed::sign(lies, &[&owner]).into(), plugin.manifest.clone()).await;
    assert!(lies.code == Code::StoreFailed && lies.detail.contains("doesn't hold what it says"), "{lies}");
    assert_eq!(other.json(&["agent", "list"]).await["items"], json!([]), "nothing came of all that");

    let agent = import(&other, sealed, plugin.manifest.clone()).await.expect("the sound one");
    assert_ne!(agent.id, snapshot.agent);
    assert_eq!(value(&other.execute("counter", "count", &json!({})).await.expect("counted")), json!({ "count": 2 }));
}
