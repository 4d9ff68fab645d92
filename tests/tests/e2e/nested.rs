//! Agents that call agents: here, elsewhere under an agreement, and no further than they may.

use futures::future::join_all;
use protocol::{
    Code, Problem,
    api::{Agent, AgreementState, Limits, Propose},
    grant::Grants,
    manifest::Import,
};
use serde_json::{Value, json};
use tests::{Cluster, Node, Plugin, Publisher, until, value};

use crate::fixtures::counter;

fn calling(agents: &[&str]) -> Grants {
    Grants {
        http: vec!["a.example.com".parse().expect("a host")],
        agents: agents.iter().map(|agent| agent.parse().expect("an agent")).collect(),
    }
}

/// Runs the fixture as agents of these names, each with what it may call.
async fn relays(node: &Node, agents: &[(&str, &[&str])], limits: Limits) -> Vec<Agent> {
    let publisher = Publisher::new();
    let plugin: Plugin = publisher.sign("reaching", kernel::fixture::reaching(), &[Import::Http, Import::Agents]);
    node.trust(&publisher).await;
    node.register(&plugin).await.expect("the fixture is sound");
    let mut spawned = Vec::new();
    for (name, may_call) in agents {
        spawned.push(node.spawn_with(name, &plugin, Some(limits), calling(may_call)).await.expect("allowed"));
    }
    spawned
}

/// A node on which `a.example.com` may be asked, which nobody does.
async fn node(cluster: &Cluster, name: &str) -> Node {
    cluster.node(name).set("kernel.http_allow", "a.example.com").start().await
}

async fn relay(node: &Node, agent: &str, to: &str) -> Result<Value, Problem> {
    node.execute(agent, "relay", &json!({ "to": to })).await.map(|executed| value(&executed))
}

/// The operations of a request, as the node traced them: agent and what failed.
async fn traced(node: &Node) -> Vec<(String, Value, Value)> {
    let listed = node.json(&["trace", "list", "--limit", "1000"]).await;
    let entry = |item: &Value| {
        let entry = &item["entry"];
        let name = entry["agent"].as_str().unwrap_or_default().to_owned();
        (entry["request_id"].as_str().unwrap_or_default().to_owned(), json!(name), entry["failure"].clone())
    };
    listed["items"].as_array().expect("items").iter().map(entry).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_calls_another_and_each_call_is_an_operation_of_one_request() {
    let cluster = Cluster::new();
    let node = node(&cluster, "a").await;
    let agents = relays(&node, &[("a", &["b", "counter"]), ("b", &["*"]), ("c", &["a"])], Limits::default()).await;
    let counter = node.host("counter", "demo", counter()).await;
    assert_eq!(relay(&node, "a", "b/c").await.expect("called"), json!({ "to": "" }));
    assert_eq!(relay(&node, "a", &format!("b/{}!count", counter.id)).await.expect("by id"), json!({ "count": 1 }));
    assert_eq!(relay(&node, "a", "counter!count").await.expect("by name"), json!({ "count": 2 }));
    let operations = traced(&node).await;
    let of = |agent: &Agent| operations.iter().filter(|(_, id, _)| *id == json!(agent.id)).count();
    // Spawned, and called.
    assert_eq!((of(&agents[0]), of(&agents[1]), of(&agents[2]), of(&counter)), (1 + 3, 1 + 2, 1 + 1, 1 + 2));
    let request = |agent: &Agent| {
        operations.iter().filter(|(_, id, _)| *id == json!(agent.id)).map(|(request, ..)| request.clone()).collect::<Vec<_>>()
    };
    assert!(request(&agents[0]).contains(&request(&agents[2])[1]), "the request's id goes along: {operations:?}");

    // What wasn't granted, isn't there, or fails is told by its code.
    for (to, told) in [
        ("c", "not_authorized: agent c was not granted"),
        ("b/nobody", "agent_not_found"),
        ("counter!dance", "method_not_found"),
        ("counter!fail", "plugin_failed: the plugin failed: on purpose"),
        ("counter!refuse", "plugin_denied"),
    ] {
        let failed = relay(&node, "a", to).await.expect_err("it fails");
        assert!(failed.detail.contains(told), "{to}: {failed}");
    }
    assert_eq!(relay(&node, "a", "counter!strict").await.expect_err("it fails").code, Code::InvalidParams);
    // A child that has written and a parent that fails: what is done is done.
    assert_eq!(relay(&node, "a", "counter!count").await.expect("called"), json!({ "count": 3 }));
}

#[tokio::test(flavor = "multi_thread")]
async fn rings_and_long_chains_are_refused_at_once() {
    let cluster = Cluster::new();
    let node = node(&cluster, "a").await;
    let all: &[&str] = &["*"];
    relays(&node, &[("a", all), ("b", all), ("c", all), ("d", all), ("e", all)], Limits::default()).await;
    for ring in ["a", "b/a", "b/c/a", "b/c/b"] {
        let refused = relay(&node, "a", ring).await.expect_err("a ring");
        assert!(refused.code == Code::PluginDenied && refused.detail.contains("call_loop: "), "{ring}: {refused}");
    }
    assert_eq!(relay(&node, "a", "b/c/d").await.expect("four"), json!({ "to": "" }));
    let refused = relay(&node, "a", "b/c/d/e").await.expect_err("five");
    assert!(refused.detail.contains("call_depth: at most 4"), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn many_parents_at_once_do_not_starve_their_children() {
    let cluster = Cluster::new();
    let mut node = cluster.node("a").set("kernel.http_allow", "a.example.com").set("kernel.max_concurrent", "1").start().await;
    let limits = Limits { wall_ms: 60_000, concurrency: 64, ..Limits::default() };
    relays(&node, &[("a", &["b"]), ("b", &["c"]), ("c", &["counter"])], limits).await;
    let answers = join_all((0..64).map(|_| relay(&node, "a", "b/c"))).await;
    for answer in answers {
        assert_eq!(answer.expect("answered"), json!({ "to": "" }));
    }
    // Nor do they while the children's plugin is loaded first.
    node.host("counter", "demo", counter()).await;
    node.restart().await;
    for answer in join_all((0..8).map(|_| relay(&node, "c", "counter!echo"))).await {
        assert_eq!(answer.expect("answered"), json!({}));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_child_has_the_time_that_its_parent_has_left() {
    let cluster = Cluster::new();
    let node = node(&cluster, "a").await;
    relays(&node, &[("a", &["*"])], Limits { wall_ms: 500, ..Limits::default() }).await;
    let publisher = Publisher::new();
    let plugin = publisher.sign("demo", counter(), &[Import::State]);
    node.trust(&publisher).await;
    node.register(&plugin).await.expect("sound");
    let patient = Limits { wall_ms: 600_000, fuel: u64::MAX, concurrency: 1, ..Limits::default() };
    node.spawn("counter", &plugin, Some(patient)).await.expect("spawned");
    let late = relay(&node, "a", "counter!loop").await.expect_err("too long");
    assert!(late.code == Code::TimedOut || late.detail.contains("timed_out"), "{late}");
    // It would go on for ten minutes by its own limit.
    let echo = async || node.execute("counter", "echo", &json!({})).await.ok();
    until("the child to be stopped", echo).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_calls_another_nodes_under_an_agreement_and_not_without() {
    let (cluster, _bootstrap) = Cluster::with_bootstrap().await;
    let provider = cluster.node("provider").set("agreements.accept", "auto").join().await;
    let far = provider.host("counter", "demo", counter()).await;
    let consumer = cluster.node("consumer").set("kernel.http_allow", "a.example.com").join().await;
    consumer.discovers("demo.count", "").await;
    let far_id = far.id.to_string();
    relays(&consumer, &[("a", &[&far_id]), ("b", &["*"])], Limits { wall_ms: 5_000, ..Limits::default() }).await;
    let count = format!("{far_id}!count");
    let refused = relay(&consumer, "a", &count).await.expect_err("no agreement");
    assert!(refused.code == Code::PluginDenied && refused.detail.contains("agreement_required: "), "{refused}");

    let terms =
        Propose { agent: far.id.to_string(), node: None, methods: Vec::new(), template: "trial".into(), parameters: Default::default() };
    let agreed: AgreementState = consumer.client().post("/v1/agreements", &terms).await.expect("agreed");
    let executed = consumer.execute("a", "relay", &json!({ "to": count })).await.expect("under the agreement");
    assert_eq!(value(&executed), json!({ "count": 1 }));
    // The parameters that went to the other node, and the result that went to the caller.
    assert_eq!(executed.usage.egress_bytes, ("{}".len() + r#"{"count":1}"#.len()) as u64);
    assert_eq!(relay(&consumer, "b", &count).await.expect("any agent"), json!({ "count": 2 }));
    assert_eq!(provider.agreement(agreed.terms.id).await.expect("known").used.calls, 2);
    // Both nodes trace the inner call, an operation of its own, of the same request as the outer one.
    let outer = consumer.json(&["agent", "list"]).await["items"][0]["id"].clone();
    let here = until("both calls to be traced", async || {
        let here = traced(&consumer).await;
        let requests =
            |agent: &Value| here.iter().filter(|(_, id, _)| id == agent).map(|(request, ..)| request.clone()).collect::<Vec<_>>();
        let (inner, outer) = (requests(&json!(far.id)), requests(&outer));
        (inner.len() == 2).then_some((inner, outer))
    });
    let (inner, outer) = here.await;
    assert!(outer.contains(&inner[0]), "{inner:?} are not of {outer:?}");
    assert!(traced(&provider).await.iter().any(|(request, ..)| *request == inner[0]));

    // The time that is left goes along: the loop would have ten seconds by its agent's limits, and fuel for several.
    relays(&consumer, &[("late", &[&far_id])], Limits { wall_ms: 1_000, ..Limits::default() }).await;
    let late = relay(&consumer, "late", &format!("{far_id}!loop")).await.expect_err("too long");
    assert!(late.code == Code::TimedOut || late.detail.contains("timed_out"), "{late}");
    // Nor does an agent's name lead to another node.
    let named = relay(&consumer, "b", "counter!count").await.expect_err("it lives elsewhere");
    assert!(named.detail.contains("agent_not_found"), "{named}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ring_over_two_nodes_is_refused_where_it_would_close() {
    let (cluster, _bootstrap) = Cluster::with_bootstrap().await;
    let start =
        async |name: &str| cluster.node(name).set("agreements.accept", "auto").set("kernel.http_allow", "a.example.com").join().await;
    let (west, east) = (start("west").await, start("east").await);
    let here = relays(&west, &[("a", &["*"])], Limits::default()).await.remove(0);
    let there = relays(&east, &[("b", &["*"])], Limits::default()).await.remove(0);
    west.discovers("reaching.relay", "").await;
    for (node, agent) in [(&west, &there), (&east, &here)] {
        let terms = Propose {
            agent: agent.id.to_string(),
            node: None,
            methods: Vec::new(),
            template: "trial".into(),
            parameters: Default::default(),
        };
        let agreed = until("an agreement", async || node.client().post::<_, AgreementState>("/v1/agreements", &terms).await.ok());
        agreed.await;
    }
    assert_eq!(relay(&west, "a", &there.id.to_string()).await.expect("one way"), json!({ "to": "" }));
    let refused = relay(&west, "a", &format!("{}/{}", there.id, here.id)).await.expect_err("a ring");
    assert!(refused.code == Code::PluginDenied && refused.detail.contains("call_loop: "), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn agents_that_hold_all_the_nodes_memory_are_told_to_come_back() {
    let cluster = Cluster::new();
    let node = cluster.node("a").set("profile", "edge").set("kernel.max_memory_mib", "48").start().await;
    let publisher = Publisher::new();
    let plugin = publisher.sign("demo", counter(), &[Import::State]);
    node.trust(&publisher).await;
    node.register(&plugin).await.expect("sound");
    // It may have more than there is for all.
    let limits = Limits { memory: 200 << 20, wall_ms: 20_000, ..Limits::default() };
    node.spawn("counter", &plugin, Some(limits)).await.expect("spawned");
    let grown = node.execute("counter", "grow", &json!({})).await.expect_err("over the ceiling");
    assert_eq!((grown.code, grown.retry_after), (Code::Overloaded, Some(1)), "{grown}");
    assert_eq!(value(&node.execute("counter", "count", &json!({})).await.expect("the node lives on")), json!({ "count": 1 }));
    let shown = node.json(&["config", "show"]).await;
    let setting = |key: &str| {
        let items = shown["items"].as_array().expect("items");
        items.iter().find(|item| item["key"] == key).map(|item| (item["value"].clone(), item["source"].clone())).expect(key)
    };
    assert_eq!(setting("kernel.max_memory_mib"), (json!(48), json!("flag --set kernel.max_memory_mib")));
    assert_eq!(setting("kernel.cpu_percent"), (json!(27), json!("profile edge")));
}
