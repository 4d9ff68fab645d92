//! Agents after they were spawned: stopped, started, moved to another release and back.

use protocol::{
    Code,
    api::{Agent, GivenLimits, Spawn, Upgrade},
    grant::Grants,
    manifest::Import,
};
use serde_json::json;
use tests::{Cluster, Node, Plugin, Publisher, value};

use crate::fixtures::{counter, release};

async fn count(node: &Node) -> u64 {
    value(&node.execute("counter", "count", &json!({})).await.expect("counted"))["count"].as_u64().expect("a number")
}

async fn upgrade(node: &Node, plugin: &Plugin) -> Result<Agent, protocol::Problem> {
    let component = node.register(plugin).await.expect("registered").component;
    node.client().post("/v1/agents/counter/upgrade", &Upgrade { component, grants: None }).await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_becomes_another_release_and_goes_back_with_its_state() {
    let cluster = Cluster::new();
    let mut node = cluster.node("a").start().await;
    let publisher = Publisher::new();
    node.trust(&publisher).await;
    let first = release(&publisher, "demo", 1, None);
    node.register(&first).await.expect("registered");
    // Short, so that a check that loops ends soon.
    let limits = Some(GivenLimits { wall_ms: Some(800), ..GivenLimits::default() });
    let component = protocol::Digest::blake3(&first.component);
    let spawn = Spawn { name: "counter".into(), component, pricing: None, limits, grants: Grants::default() };
    let _: Agent = node.client().post("/v1/agents", &spawn).await.expect("spawned");
    assert_eq!(count(&node).await, 1);

    // Releases whose check fails, in whatever way, never become the agent's; what they wrote is dropped.
    for (mark, health, code) in [
        (2, "trap", Code::PluginTrapped),
        (3, "loop", Code::TimedOut),
        (4, "fail", Code::PluginFailed),
        (5, "nothing", Code::MethodNotFound),
        (6, "trap_after_write", Code::PluginTrapped),
    ] {
        let problem = upgrade(&node, &release(&publisher, "demo", mark, Some(health))).await.expect_err(health);
        assert_eq!(problem.code, code, "{health}: {problem}");
        assert!(problem.detail.contains("health check"), "{problem}");
    }
    assert_eq!(count(&node).await, 2, "the state is untouched");

    // One that passes, while calls go on: none is lost, none runs twice. Its check counts, which is dropped.
    let sound = release(&publisher, "demo", 7, Some("count"));
    let calls = async {
        for expected in 3..=60 {
            assert_eq!(count(&node).await, expected);
        }
    };
    let (upgraded, ()) = tokio::join!(upgrade(&node, &sound), calls);
    let upgraded = upgraded.expect("upgraded");
    let runs = &upgraded.plugins[0];
    assert_eq!((runs.plugin.as_str(), runs.previous.as_slice()), ("demo@0.7.0", &[component][..]));
    assert_eq!(count(&node).await, 61);
    node.kill9();
    node.restart().await;
    assert_eq!(node.json(&["agent", "show", "counter"]).await["plugins"][0]["plugin"], "demo@0.7.0");
    let back = node.json(&["agent", "rollback", "counter"]).await;
    assert_eq!((&back["plugins"][0]["plugin"], count(&node).await), (&json!("demo@0.1.0"), 62));
    assert_eq!(node.mcpctl(&["agent", "rollback", "counter", "--json"]).await.exits(1).json()["code"], "not_found");

    // Another plugin, or another publisher's, isn't a release of this one.
    let stranger = Publisher::new();
    node.trust(&stranger).await;
    for other in [release(&publisher, "other", 8, None), release(&stranger, "demo", 9, None)] {
        assert_eq!(upgrade(&node, &other).await.expect_err("another plugin").code, Code::Conflict);
    }
    let traced = node.json(&["trace", "list", "--limit", "1000"]).await;
    let upgrades = traced["items"].as_array().expect("items").iter().filter(|item| item["entry"]["action"] == "upgrade").count();
    assert_eq!(upgrades, 2, "there and back");
    node.json(&["trace", "verify"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_has_several_plugins_on_one_state() {
    let (cluster, _bootstrap) = Cluster::with_bootstrap().await;
    let mut node = cluster.node("a").join().await;
    let consumer = cluster.node("consumer").join().await;
    let publisher = Publisher::new();
    node.trust(&publisher).await;
    let [demo, twin, docs] = [
        release(&publisher, "demo", 1, None),
        release(&publisher, "twin", 2, None),
        publisher.sign("docs", crate::fixtures::docs(), &[Import::State]),
    ];
    node.register(&demo).await.expect("registered");
    node.spawn("counter", &demo, None).await.expect("spawned");
    let attach = async |node: &Node, plugin: &Plugin| {
        let component = node.register(plugin).await.expect("registered").component;
        node.client().post::<_, Agent>("/v1/agents/counter/plugins", &Upgrade { component, grants: None }).await
    };
    // Two methods of one name, or two releases of one plugin, can't be told apart.
    let refused = attach(&node, &twin).await.expect_err("the same methods");
    assert!(refused.code == Code::Conflict && refused.detail.contains("method"), "{refused}");
    let refused = attach(&node, &release(&publisher, "demo", 3, None)).await.expect_err("the same plugin");
    assert!(refused.hint.is_some_and(|hint| hint.contains("upgrade")));

    let agent = attach(&node, &docs).await.expect("attached");
    assert_eq!(agent.plugins.iter().map(|plugin| plugin.name()).collect::<Vec<_>>(), ["demo", "docs"]);
    attach(&node, &docs).await.expect("once more is no harm");
    let index = json!({ "path": "a.txt", "text": "two plugins" });
    node.execute("counter", "index", &index).await.expect("the second plugin's method");
    assert_eq!(count(&node).await, 1);
    let unknown = node.execute("counter", "nothing", &json!({})).await.expect_err("no such method");
    assert!(unknown.hint.is_some_and(|hint| hint.contains("count") && hint.contains("search")));
    for capability in ["demo.count", "docs.search"] {
        assert_eq!(consumer.discovers(capability, "").await.agent, agent.id);
    }

    // Both go along in an export, and outlive a kill.
    let file = cluster.place().join("two.agent");
    let file = file.to_str().expect("UTF-8");
    node.json(&["agent", "export", "counter", file]).await;
    node.json(&["agent", "import", file, "--as", "copy"]).await;
    let search = json!({ "query": "two" });
    assert_eq!(
        value(&node.execute("copy", "search", &search).await.expect("found")),
        value(&node.execute("counter", "search", &search).await.expect("found"))
    );
    node.kill9();
    node.restart().await;
    assert_eq!(count(&node).await, 2);

    // Which one is meant has to be said; the last one stays; what was taken away leaves its state behind.
    assert_eq!(node.mcpctl(&["agent", "rollback", "counter", "--json"]).await.exits(1).json()["code"], "invalid_request");
    assert_eq!(node.mcpctl(&["agent", "detach", "counter", "--plugin", "none", "--json"]).await.exits(1).json()["code"], "not_found");
    node.json(&["agent", "detach", "counter", "--plugin", "docs"]).await;
    assert_eq!(node.execute("counter", "search", &search).await.expect_err("gone").code, Code::MethodNotFound);
    assert_eq!(node.mcpctl(&["agent", "detach", "counter", "--plugin", "demo", "--json"]).await.exits(1).json()["code"], "conflict");
    attach(&node, &docs).await.expect("attached again");
    assert!(value(&node.execute("counter", "search", &search).await.expect("found")).to_string().contains("a.txt"));
    node.json(&["trace", "verify"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_agent_takes_no_calls_and_is_offered_to_nobody() {
    let (cluster, _bootstrap) = Cluster::with_bootstrap().await;
    let mut provider = cluster.node("provider").join().await;
    let consumer = cluster.node("consumer").join().await;
    provider.host("counter", "demo", counter()).await;
    consumer.discovers("demo.count", "").await;
    assert_eq!(count(&provider).await, 1);
    assert_eq!(provider.json(&["agent", "stop", "counter"]).await["stopped"], json!(true));
    provider.json(&["agent", "stop", "counter"]).await;
    for method in ["count", "read"] {
        assert_eq!(provider.execute("counter", method, &json!({})).await.expect_err("stopped").code, Code::AgentStopped);
    }
    tests::until("it to be offered no longer", async || {
        let found = consumer.json(&["discover", "demo.count", "--timeout", "5s"]).await;
        (found["items"] == json!([])).then_some(())
    })
    .await;
    provider.restart().await;
    assert_eq!(provider.execute("counter", "count", &json!({})).await.expect_err("still").code, Code::AgentStopped);
    provider.json(&["agent", "start", "counter"]).await;
    assert_eq!(count(&provider).await, 2);
    consumer.discovers("demo.count", "").await;
}

/// A plugin that logs its parameters, once or far too often.
fn talker() -> Vec<u8> {
    let say = "(call $log (i32.const 1) (local.get $p) (local.get $n))";
    let ok = "(call $ok (local.get $p) (local.get $n))";
    kernel::fixture::Builder::new()
        .import("(import \"mcp-zero:plugin/log@0.1.0\" \"write\" (func $log (param i32 i32 i32)))")
        .method("say", kernel::fixture::Effect::ReadOnly, &format!("{say} {ok}"))
        .method(
            "flood",
            kernel::fixture::Effect::ReadOnly,
            &format!(
                "(local $i i32) (loop $more {say} (local.set $i (i32.add (local.get $i) (i32.const 1)))
                 (br_if $more (i32.lt_u (local.get $i) (i32.const 500)))) {ok}"
            ),
        )
        .build()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_plugins_log_is_shown_with_its_request_bounded_and_as_it_comes() {
    let cluster = Cluster::new();
    let node = cluster.node("a").start().await;
    let publisher = Publisher::new();
    node.trust(&publisher).await;
    let plugin = publisher.sign("talker", talker(), &[Import::Log]);
    node.register(&plugin).await.expect("registered");
    node.spawn("talker", &plugin, None).await.expect("spawned");
    node.host("other", "demo", counter()).await;
    let mut events = node.client().events("/v1/agents/talker/logs/follow").await.expect("a stream");
    let said = node.execute("talker", "say", &json!({ "n": 1, "evil": "a\u{1b}[31m\nb" })).await.expect("ran");
    assert_eq!(value(&said)["n"], 1);
    let event = tokio::time::timeout(tests::PATIENCE, events.next()).await.expect("in time").expect("no failure").expect("it goes on");
    let line: protocol::api::LogLine = serde_json::from_str(&event.data).expect("a line");
    assert_eq!((line.level.as_str(), line.method.as_str()), ("info", "say"));
    assert!(line.line.contains("\"n\":1") && !line.line.contains('\u{1b}') && line.request_id.starts_with("req_"), "{line:?}");
    // A call's own share, whatever it logs.
    node.execute("talker", "flood", &json!({})).await.expect("ran");
    let lines = node.json(&["agent", "logs", "talker", "--tail", "1000"]).await;
    let lines = lines["items"].as_array().expect("items").clone();
    assert_eq!(lines.len(), 1 + 101, "100 of a call, and that there were more");
    assert!(lines[101]["line"].as_str().expect("text").contains("dropped"), "{}", lines[101]);
    assert_eq!(node.json(&["agent", "logs", "talker", "--tail", "2"]).await["items"].as_array().expect("items").len(), 2);
    assert_eq!(node.json(&["agent", "logs", "other"]).await["items"], json!([]), "each agent's are its own");
    assert_eq!(node.mcpctl(&["agent", "logs", "nobody", "--json"]).await.exits(1).json()["code"], "agent_not_found");
    node.json(&["agent", "terminate", "talker"]).await;
    node.spawn("talker", &plugin, None).await.expect("spawned");
    assert_eq!(node.json(&["agent", "logs", "talker"]).await["items"], json!([]));
}
