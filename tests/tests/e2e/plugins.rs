//! What may run on a node, and what it may do there.

use protocol::{
    Code, Digest, Envelope, Signed,
    api::{Agent, Execute, Executed, Limits, RegisterPlugin},
    manifest::Import,
};
use serde_json::{Value, json};
use tests::{Cluster, Node, Plugin, Publisher, until, value};

use crate::fixtures::counter;

#[tokio::test(flavor = "multi_thread")]
async fn each_way_of_being_wrong_is_refused_by_its_own_name() {
    let cluster = Cluster::new();
    let node = cluster.node("a").start().await;
    let (publisher, component) = (Publisher::new(), counter());
    let sound = publisher.sign("demo", component.clone(), &[Import::State]);
    let refused = async |plugin: &Plugin| node.register(plugin).await.expect_err("refused").code;

    assert_eq!(refused(&sound).await, Code::UntrustedPublisher);
    node.trust(&publisher).await;

    let manifest = publisher.manifest("demo", &component, &[Import::State]);
    let unsigned = Signed::sign(manifest.clone(), &[]).into();
    assert_eq!(refused(&Plugin { manifest: unsigned, ..sound.clone() }).await, Code::Unsigned);
    // Signed, but not by the publisher that it names.
    let impostor = Signed::sign(manifest.clone(), &[Publisher::new().key()]).into();
    assert_eq!(refused(&Plugin { manifest: impostor, ..sound.clone() }).await, Code::Unsigned);

    let mut tampered = sound.manifest.envelope().clone();
    tampered.payload =
        Envelope::sign("x", &serde_json::to_vec(&publisher.manifest("evil", &component, &Import::ALL)).expect("JSON"), &[]).payload;
    assert_eq!(refused(&Plugin { manifest: tampered.into(), ..sound.clone() }).await, Code::BadSignature);

    // Other bytes under the component's name don't get in, and what is signed must be there.
    let mut other = component.clone();
    *other.last_mut().expect("bytes") ^= 1;
    let path = format!("/v1/blobs/{}", Digest::blake3(&component));
    let swapped = node.client().put_bytes::<Digest>(&path, other.clone().into()).await.expect_err("another's name");
    assert_eq!(swapped.code, Code::BadSignature);
    let absent = RegisterPlugin { manifest: publisher.sign("demo", other, &[Import::State]).manifest };
    let unknown = node.client().post::<_, protocol::api::Plugin>("/v1/plugins", &absent).await;
    assert_eq!(unknown.expect_err("never uploaded").code, Code::NotFound);

    for junk in [&b"\0asm\x01\0\0\0"[..], b"garbage", b"\0asm\x0d\0\x01\0garbage", b""] {
        assert_eq!(refused(&publisher.sign("junk", junk.to_vec(), &[])).await, Code::InvalidPlugin, "{junk:?}");
    }
    // It imports more than its manifest asks for.
    assert_eq!(refused(&publisher.sign("greedy", component.clone(), &[])).await, Code::InvalidPlugin);

    assert_eq!(node.json(&["plugin", "list"]).await["items"], json!([]), "nothing was kept");
    node.register(&sound).await.expect("the sound one is taken");
    let agent = node.spawn("counter", &sound, None).await.expect("and runs");
    assert_eq!(node.spawn("counter", &sound, None).await.expect_err("the name is taken").code, Code::AlreadyExists);

    // A publisher that is no longer trusted spawns nothing more.
    node.json(&["plugin", "untrust", &publisher.key().did().to_string()]).await;
    assert_eq!(node.spawn("more", &sound, None).await.expect_err("untrusted").code, Code::UntrustedPublisher);
    assert_eq!(agent.name, "counter");
}

/// As an operator meets it: files on disk, `mcpctl` between them and the daemon.
#[tokio::test(flavor = "multi_thread")]
async fn sign_trust_spawn_and_a_swapped_file_on_the_command_line() {
    let cluster = Cluster::new();
    let node = cluster.node("a").start().await;
    let file = |name: &str| cluster.place().join(name).to_str().expect("UTF-8").to_owned();
    let (wasm, key) = (file("demo.wasm"), file("publisher.pem"));
    std::fs::write(&wasm, counter()).expect("write");
    let did = node.mcpctl(&["key", "create", "--signing", &key]).await.exits(0).stdout;
    node.mcpctl(&["plugin", "sign", "--key", &key, "--name", "demo", "--release", "1.0.0", "--imports", "state", &wasm]).await.exits(0);
    assert_eq!(node.json(&["plugin", "inspect", &wasm]).await["component_verified"], true);
    node.mcpctl(&["plugin", "trust", did.trim(), "--name", "me"]).await.exits(0);
    let spawned = node.json(&["agent", "spawn", "counter", "--plugin", &wasm, "--price-per-call", "0.5", "--currency", "EUR"]).await;
    assert_eq!((&spawned["plugins"][0]["plugin"], &spawned["pricing"]["per_call"]), (&json!("demo@1.0.0"), &json!("0.5")));
    assert_eq!(node.json(&["agent", "execute", "counter", "count"]).await["result"], json!({ "count": 1 }));

    let mut swapped = counter();
    *swapped.last_mut().expect("bytes") ^= 1;
    std::fs::write(&wasm, swapped).expect("write");
    let refused = node.mcpctl(&["agent", "spawn", "other", "--plugin", &wasm, "--json"]).await.exits(5);
    assert_eq!(refused.json()["code"], "bad_signature");
    std::fs::write(&wasm, b"\0asm\x01\0\0\0").expect("write");
    assert_eq!(node.mcpctl(&["agent", "spawn", "other", "--plugin", &wasm, "--json"]).await.exits(1).json()["code"], "invalid_plugin");
}

/// As others than mcpctl ask for it, too: what they leave out is the node's to say.
#[tokio::test(flavor = "multi_thread")]
async fn limits_that_are_not_given_are_the_nodes() {
    let cluster = Cluster::new();
    let node =
        cluster.node("a").set("profile", "edge").set("kernel.limits.memory", "32MiB").set("kernel.limits.wall_ms", "700").start().await;
    let publisher = Publisher::new();
    let plugin = publisher.sign("demo", counter(), &[Import::State]);
    node.trust(&publisher).await;
    node.register(&plugin).await.expect("sound");
    let component = Digest::blake3(&plugin.component);
    let asked = json!({ "name": "counter", "component": component, "limits": { "fuel": u64::MAX, "quota_keys": 2 } });
    let agent: Agent = node.client().post("/v1/agents", &asked).await.expect("spawned");
    let edge = Limits {
        state_bytes: 4 << 20,
        result_bytes: 4 << 20,
        egress_bytes: 4 << 20,
        concurrency: 4,
        quota_bytes: 256 << 20,
        ..agent.limits
    };
    assert_eq!(agent.limits, Limits { memory: 32 << 20, fuel: u64::MAX, wall_ms: 700, quota_keys: 2, ..edge });
    let late = node.execute("counter", "loop", &json!({})).await.expect_err("its time is over");
    assert!(late.code == Code::TimedOut && late.detail.contains("700"), "{late}");
    let file = cluster.place().join("demo.wasm").to_str().expect("UTF-8").to_owned();
    std::fs::write(&file, &plugin.component).expect("write");
    std::fs::write(cluster.place().join("demo.manifest.json"), serde_json::to_vec(&plugin.manifest).expect("JSON")).expect("write");
    let spawned = node.json(&["agent", "spawn", "other", "--plugin", &file, "--limit", "concurrency=2"]).await;
    assert_eq!((&spawned["limits"]["concurrency"], &spawned["limits"]["memory"]), (&json!(2), &json!(32 << 20)));
    let shown = node.mcpctl(&["agent", "show", "other"]).await.exits(0).stdout;
    assert!(shown.contains("32 MiB memory") && shown.contains("2 calls at a time"), "{shown}");
    let unknown = json!({ "name": "third", "component": component, "limits": { "memry": 1 } });
    let refused = node.client().post::<_, Agent>("/v1/agents", &unknown).await.expect_err("no such limit");
    assert!(refused.code == Code::InvalidRequest && refused.detail.contains("memry"), "{refused}");
}

/// A node with the misbehaving agent under tight limits.
async fn sandbox(limits: Limits) -> (Cluster, Node, Agent) {
    let cluster = Cluster::new();
    let node = cluster.node("a").start().await;
    let publisher = Publisher::new();
    let plugin = publisher.sign("demo", counter(), &[Import::State]);
    node.trust(&publisher).await;
    node.register(&plugin).await.expect("sound");
    let agent = node.spawn("counter", &plugin, Some(limits)).await.expect("spawned");
    (cluster, node, agent)
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_are_checked_before_they_run() {
    let (_cluster, node, _) = sandbox(Limits::default()).await;
    let missing = node.execute("counter", "nothing", &json!({})).await.expect_err("no such method");
    assert_eq!(missing.code, Code::MethodNotFound);
    assert!(missing.hint.is_some_and(|hint| hint.contains("count")), "it names those there are");
    for (params, pointer) in [(json!({ "text": 7 }), "/text"), (json!({ "text": "far too long" }), "/text")] {
        let wrong = node.execute("counter", "strict", &params).await.expect_err("breaks the schema");
        assert_eq!((wrong.code, wrong.errors[0].pointer.as_str()), (Code::InvalidParams, pointer), "{wrong:?}");
    }
    let wrong = node.execute("counter", "strict", &json!({ "txt": "a" })).await.expect_err("breaks the schema");
    let told = serde_json::to_string(&wrong.errors).expect("JSON");
    assert!(wrong.code == Code::InvalidParams && told.contains("text") && told.contains("txt"), "{told}");
    let text = node.mcpctl(&["agent", "execute", "counter", "strict", r#"{"text":7}"#]).await.exits(1).stderr;
    assert!(text.contains("\n  /text: "), "{text}");
    // What didn't run left no trace, and long parameters don't get that far.
    let size = node.json(&["status"]).await["trace_size"].clone();
    let long = json!({ "text": "x".repeat(protocol::wire::MAX_PARAMS) });
    assert_eq!(node.execute("counter", "echo", &long).await.expect_err("too long").code, Code::TooLarge);
    assert_eq!(node.json(&["status"]).await["trace_size"], size);
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_a_plugin_does_its_agent_lives_on_unchanged() {
    let (_cluster, mut node, agent) = sandbox(Limits { wall_ms: 800, ..Limits::default() }).await;
    let by_name = "counter";
    node.execute(by_name, "write", &json!({ "kept": true })).await.expect("written");
    let mut count = 0;
    for (method, code) in [
        ("trap", Code::PluginTrapped),
        ("trap_after_write", Code::PluginTrapped),
        ("trap_amid_writes", Code::PluginTrapped),
        ("forbidden", Code::PluginFailed),
        ("loop", Code::TimedOut),
        ("recurse", Code::PluginTrapped),
        ("grow", Code::OutOfMemory),
        ("flood", Code::ResultTooLarge),
        ("fill", Code::StateQuota),
        ("fail", Code::PluginFailed),
        ("refuse", Code::PluginDenied),
        ("garbage", Code::PluginBadResult),
        ("wrong", Code::PluginBadResult),
    ] {
        let failed = node.execute(by_name, method, &json!({ "kept": false })).await.expect_err(method);
        assert_eq!(failed.code, code, "{method}: {failed}");
        count += 1;
        let counted = node.execute(by_name, "count", &json!({})).await.expect("it lives on");
        assert_eq!(value(&counted), json!({ "count": count }), "after {method}");
        let read = node.execute(by_name, "read", &json!({})).await.expect("it lives on");
        assert_eq!(value(&read), json!({ "kept": true }), "after {method}");
    }
    // Each failure is in the trace by its code; the log holds, and so does the state, over a kill.
    let traced = node.json(&["trace", "list", "--limit", "1000"]).await;
    let failures: Vec<&Value> = traced["items"].as_array().expect("items").iter().filter_map(|item| item["entry"].get("failure")).collect();
    assert_eq!(failures.len(), count, "{failures:?}");
    node.kill9();
    node.restart().await;
    node.json(&["trace", "verify"]).await;
    let counted = node.execute(&agent.id.to_string(), "count", &json!({})).await.expect("it lives on");
    assert_eq!(value(&counted), json!({ "count": count + 1 }));
}

#[tokio::test(flavor = "multi_thread")]
async fn fuel_ends_a_loop_and_a_loop_holds_up_nobody_else() {
    let (_cluster, node, _) = sandbox(Limits { fuel: 50_000_000, ..Limits::default() }).await;
    let (looping, echoed) = tokio::join!(async { node.execute("counter", "loop", &json!({})).await }, async {
        node.execute("counter", "echo", &json!({ "here": 1 })).await
    },);
    assert_eq!(looping.expect_err("it burns its fuel").code, Code::OutOfFuel);
    assert_eq!(value(&echoed.expect("beside it")), json!({ "here": 1 }));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agents_state_keeps_to_its_quota() {
    let (_cluster, mut node, _) = sandbox(Limits { quota_bytes: 60, quota_keys: 1, ..Limits::default() }).await;
    let write = async |node: &Node, length: usize| node.execute("counter", "write", &json!({ "v": "x".repeat(length) })).await;
    write(&node, 40).await.expect("within the quota");
    let refused = write(&node, 80).await.expect_err("over its bytes");
    assert!(refused.code == Code::StateQuota && refused.detail.contains("60"), "{refused}");
    assert_eq!(node.execute("counter", "count", &json!({})).await.expect_err("over its keys").code, Code::StateQuota);
    // It was metered and traced like any call that failed, kept nothing, and the agent lives on, over a kill too.
    let traced = node.json(&["trace", "list", "--limit", "1000"]).await;
    let failures = traced["items"].as_array().expect("items").iter().filter(|item| item["entry"]["failure"] == "state_quota");
    assert_eq!(failures.count(), 2);
    node.kill9();
    node.restart().await;
    let shown = node.json(&["agent", "show", "counter"]).await;
    assert_eq!((&shown["state"]["keys"], &shown["state"]["bytes"]), (&json!(1), &json!(3 + 48)), "{shown}");
    write(&node, 20).await.expect("less than there was");
    node.json(&["agent", "terminate", "counter"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_of_an_agent_take_turns_and_are_told_when_to_come_back() {
    let (_cluster, node, _) = sandbox(Limits { concurrency: 1, wall_ms: 8_000, fuel: u64::MAX, ..Limits::default() }).await;
    let calls = async |method: &str, timeout_ms: u32| {
        let params = serde_json::value::to_raw_value(&json!({})).expect("JSON");
        let execute = Execute { method: method.into(), params, agreement: None, timeout_ms: Some(timeout_ms) };
        node.client().post::<_, Executed>("/v1/agents/counter/execute", &execute).await
    };
    let (looping, ()) = tokio::join!(calls("loop", 30_000), async {
        let refused = until("the loop to run", async || calls("echo", 200).await.err()).await;
        assert_eq!((refused.code, refused.retry_after), (Code::Overloaded, Some(1)), "{refused}");
    });
    assert_eq!(looping.expect_err("it is ended").code, Code::TimedOut);
    calls("echo", 30_000).await.expect("then there is room");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_is_fetched_from_another_node_that_shares_it() {
    let (cluster, _bootstrap) = Cluster::with_bootstrap().await;
    let giver = cluster.node("giver").set("plugins.share", "members").join().await;
    let taker = cluster.node("taker").join().await;
    let (publisher, component) = (Publisher::new(), counter());
    let plugin = publisher.sign("demo", component.clone(), &[Import::State]);
    giver.trust(&publisher).await;
    giver.register(&plugin).await.expect("registered");
    let digest = Digest::blake3(&component).to_string();
    let from = giver.id().to_string();
    let fetch = ["plugin", "fetch", "--from", &from, &digest, "--json"];

    // Whose code runs here is decided here.
    assert_eq!(taker.mcpctl(&fetch).await.exits(5).json()["code"], "untrusted_publisher");
    taker.trust(&publisher).await;
    assert_eq!(taker.mcpctl(&fetch).await.exits(0).json()["component"], digest);
    assert_eq!(taker.mcpctl(&fetch).await.exits(0).json()["component"], digest, "once more does no harm");
    taker.spawn("counter", &plugin, None).await.expect("it runs");

    let absent = Digest::blake3(b"absent").to_string();
    let none = taker.mcpctl(&["plugin", "fetch", "--from", &from, &absent, "--json"]).await;
    assert_eq!(none.exits(1).json()["code"], "not_found");
    // By default a node shares with its owner's other nodes alone, and in an open mesh nobody proves whose it is.
    let refused = giver.mcpctl(&["plugin", "fetch", "--from", &taker.id().to_string(), &digest, "--json"]).await;
    let refused = refused.exits(5).json();
    assert!(
        refused["code"] == "not_authorized" && refused["hint"].as_str().is_some_and(|hint| hint.contains("plugins.share")),
        "{refused}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_goes_when_nothing_needs_it_any_more() {
    let cluster = Cluster::new();
    let node = cluster.node("a").start().await;
    let agent = node.host("counter", "demo", counter()).await;
    let digest = agent.plugins[0].component.to_string();
    let remove = ["plugin", "remove", &digest, "--json"];
    let refused = node.mcpctl(&remove).await.exits(1).json();
    assert!(refused["code"] == "conflict" && refused["detail"].as_str().is_some_and(|detail| detail.contains("counter")), "{refused}");
    node.json(&["agent", "terminate", "counter"]).await;
    node.mcpctl(&remove).await.exits(0);
    assert_eq!(node.json(&["plugin", "list"]).await["items"], json!([]));
    assert_eq!(node.mcpctl(&remove).await.exits(1).json()["code"], "not_found");
    // It can come back.
    let place = tempfile::tempdir().expect("a directory");
    let publisher = Publisher::new();
    node.trust(&publisher).await;
    let plugin = publisher.sign("demo", counter(), &[Import::State]);
    let file = place.path().join("demo.wasm");
    std::fs::write(&file, &plugin.component).expect("written");
    std::fs::write(place.path().join("demo.manifest.json"), serde_json::to_vec(&plugin.manifest).expect("JSON")).expect("written");
    assert_eq!(node.json(&["plugin", "push", file.to_str().expect("text")]).await["component"], digest);
    node.spawn("counter", &plugin, None).await.expect("it runs");
}
