//! Every operation is an entry of the trace: each route of the local API that changes something, and a start.

use std::collections::BTreeMap;

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt as _, Full};
use protocol::{Digest, Key, manifest::Import};
use serde_json::{Value, json};
use tests::{Cluster, Node, Publisher};

use crate::fixtures::{counter, release};

/// What a route's operation is in the trace.
#[derive(Debug, Clone, Copy)]
enum Traced {
    /// An entry of this action, as is seen here.
    Here(&'static str),
    /// An entry of this action, as another suite sees: it takes more than this node has.
    Elsewhere(&'static str),
    /// None, and why.
    Not(&'static str),
}
use Traced::{Elsewhere, Here, Not};

/// Each route that may change something.
const ROUTES: &[(&str, &str, Traced)] = &[
    ("POST", "/v1/join", Here("join")),
    ("POST", "/v1/mesh/init", Elsewhere("member")),
    ("POST", "/v1/leave", Elsewhere("leave")),
    ("POST", "/v1/members/{node}/revoke", Elsewhere("member")),
    ("POST", "/v1/tokens", Elsewhere("token")),
    ("DELETE", "/v1/tokens/{id}", Elsewhere("token")),
    ("POST", "/v1/peers/{node}/connect", Not("a connection is no state")),
    ("POST", "/v1/peers/{node}/disconnect", Not("a connection is no state")),
    ("POST", "/v1/peers/{node}/ban", Here("ban")),
    ("DELETE", "/v1/peers/{node}/ban", Here("ban")),
    ("POST", "/v1/peers/{node}/ping", Not("it measures")),
    ("POST", "/v1/plugins", Here("plugin")),
    ("POST", "/v1/plugins/fetch", Elsewhere("plugin")),
    ("PUT", "/v1/plugins/{digest}/revocation", Here("revoke")),
    ("DELETE", "/v1/plugins/{digest}/revocation", Here("unrevoke")),
    ("DELETE", "/v1/plugins/{digest}", Here("plugin")),
    ("PUT", "/v1/publishers/{did}", Here("publisher")),
    ("DELETE", "/v1/publishers/{did}", Here("publisher")),
    ("POST", "/v1/agents", Here("spawn")),
    ("DELETE", "/v1/agents/{agent}", Here("terminate")),
    ("POST", "/v1/agents/{agent}/snapshots", Here("snapshot")),
    ("POST", "/v1/agents/{agent}/snapshots/{snapshot}/export", Here("export")),
    ("DELETE", "/v1/agents/{agent}/snapshots/{snapshot}", Elsewhere("discard")),
    ("POST", "/v1/agents/import", Elsewhere("import")),
    ("PUT", "/v1/agents/{agent}/schedule", Here("schedule")),
    ("DELETE", "/v1/agents/{agent}/schedule", Here("schedule")),
    ("POST", "/v1/agents/{agent}/upgrade", Here("upgrade")),
    ("POST", "/v1/agents/{agent}/rollback", Here("upgrade")),
    ("POST", "/v1/agents/restore", Elsewhere("restore")),
    ("POST", "/v1/agents/{agent}/move", Elsewhere("move")),
    ("PUT", "/v1/agents/{agent}/replicas", Elsewhere("replicas")),
    ("POST", "/v1/agents/{agent}/plugins", Elsewhere("attach")),
    ("DELETE", "/v1/agents/{agent}/plugins/{plugin}", Elsewhere("detach")),
    ("POST", "/v1/agents/{agent}/stop", Here("stop")),
    ("POST", "/v1/agents/{agent}/start", Here("start")),
    ("POST", "/v1/agents/{agent}/recover", Here("recover")),
    ("POST", "/v1/agents/{agent}/execute", Here("execute")),
    ("PUT", "/v1/templates/{name}", Here("template")),
    ("DELETE", "/v1/templates/{name}", Here("template")),
    ("PUT", "/v1/policy/auto-accept/{template}/{whose}", Here("auto_accept")),
    ("DELETE", "/v1/policy/auto-accept/{template}/{whose}", Here("auto_accept")),
    ("POST", "/v1/agreements", Elsewhere("agreement")),
    ("POST", "/v1/agreements/{id}/accept", Elsewhere("agreement")),
    ("POST", "/v1/agreements/{id}/reject", Elsewhere("agreement")),
    ("POST", "/v1/agreements/{id}/suspend", Elsewhere("agreement")),
    ("POST", "/v1/agreements/{id}/resume", Elsewhere("agreement")),
    ("POST", "/v1/agreements/{id}/close", Elsewhere("agreement")),
    ("POST", "/v1/trace/prune", Elsewhere("prune")),
    ("POST", "/v1/trace/verify", Not("it reads")),
    ("POST", "/v1/store/verify", Not("it reads")),
    ("DELETE", "/v1/trace/witness/{node}", Elsewhere("forget")),
    ("POST", "/v1/webhooks", Here("webhook")),
    ("DELETE", "/v1/webhooks/{id}", Here("webhook")),
    ("POST", "/v1/webhooks/{id}/retry", Not("it tells what the trace has")),
    ("POST", "/v1/keys", Here("api_key")),
    ("DELETE", "/v1/keys/{id}", Here("api_key")),
    ("POST", "/v1/keys/resolve", Not("it reads")),
    ("PUT", "/v1/blobs/{digest}", Not("content is nothing before a plugin or a snapshot names it")),
];

/// The routes of the router, read from its source.
fn routed() -> Vec<(String, String)> {
    let source = include_str!("../../../daemon/src/api/mod.rs");
    let source = source.split(".fallback(").next().expect("the routes come before");
    let mut routes = Vec::new();
    for route in source.split(".route(\"").skip(1) {
        let (path, handlers) = route.split_once('"').expect("a path and its handlers");
        for method in ["post", "put", "delete", "patch", "any"] {
            let named = |at: &(usize, &str)| !handlers[..at.0].ends_with(|c: char| c.is_ascii_alphanumeric() || c == '_');
            if handlers.match_indices(&format!("{method}(")).any(|at| named(&at)) {
                routes.push((method.to_uppercase(), path.to_owned()));
            }
        }
    }
    routes
}

#[test]
fn every_route_that_changes_something_says_what_it_is_in_the_trace() {
    let mut routed = routed();
    let mut known: Vec<_> = ROUTES.iter().map(|(method, path, _)| ((*method).to_owned(), (*path).to_owned())).collect();
    routed.sort_unstable();
    known.sort_unstable();
    assert_eq!(routed, known, "a route that changes something commits an entry with it, and stands in the table above");
    let actions = include_str!("../../../protocol/src/entry.rs");
    for (method, path, traced) in ROUTES {
        let (Here(action) | Elsewhere(action)) = traced else { continue };
        let capital = |word: &str| format!("{}{}", word[..1].to_uppercase(), &word[1..]);
        let variant: String = action.split('_').map(capital).collect();
        assert!(actions.contains(&format!("    {variant} {{\n")), "{method} {path}: the trace has no action {action}");
    }
    let exempt = ROUTES.iter().filter(|(.., traced)| matches!(traced, Not(why) if !why.is_empty())).count();
    assert!(exempt <= 8, "{exempt} routes leave no entry");
}

/// Asks a node as somebody under a name that its trace will know.
struct Walk<'a> {
    node: &'a Node,
    /// The route of each request, by the request's id.
    asked: BTreeMap<String, (&'static str, &'static str)>,
}

impl Walk<'_> {
    async fn ask(&mut self, method: &'static str, route: &'static str, names: &[&str], body: Value) -> Value {
        let mut path = route.to_owned();
        for name in names {
            let (from, to) = (path.find('{').expect("a name is due"), path.find('}').expect("a name is due"));
            path.replace_range(from..=to, name);
        }
        assert!(!path.contains('{'), "{path}");
        let id = format!("walk-{}", self.asked.len());
        let body = if body.is_null() { Bytes::new() } else { body.to_string().into() };
        let request = Request::builder().method(method).uri(&path).header("x-request-id", &id).body(Full::new(body));
        let response = self.node.client().forward(request.expect("a request")).await.expect("it answers");
        let status = response.status();
        let body = response.into_body().collect().await.expect("the answer is whole").to_bytes();
        assert!(status.is_success(), "{method} {path}: {status} {}", String::from_utf8_lossy(&body));
        self.asked.insert(id, (method, route));
        serde_json::from_slice(&body).unwrap_or_default()
    }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("a text: {value}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn each_operation_is_one_entry_with_its_request() {
    let cluster = Cluster::new();
    let (node, other) = (cluster.node("a").start().await, Key::generate().node_id().to_string());
    let mut walk = Walk { node: &node, asked: BTreeMap::new() };
    let publisher = Publisher::new();
    let first = publisher.sign("demo", counter(), &[Import::State]);
    let (second, third) = (release(&publisher, "demo", 7, None), release(&publisher, "another", 8, None));
    let digests = [&first, &second, &third].map(|plugin| Digest::blake3(&plugin.component));
    let [one, two, three] = digests.map(|digest| digest.to_string());
    let did = publisher.key().did().to_string();

    walk.ask("PUT", "/v1/publishers/{did}", &[&did], json!({ "name": "tests" })).await;
    for (plugin, digest) in [(&first, digests[0]), (&second, digests[1]), (&third, digests[2])] {
        let _: Digest = node.client().put_bytes(&format!("/v1/blobs/{digest}"), plugin.component.clone()).await.expect("kept");
        walk.ask("POST", "/v1/plugins", &[], json!({ "manifest": plugin.manifest })).await;
    }
    walk.ask("POST", "/v1/agents", &[], json!({ "name": "counter", "component": one })).await;
    let agent = &["counter"][..];
    walk.ask("POST", "/v1/agents/{agent}/execute", agent, json!({ "method": "count", "params": {} })).await;
    let taken = walk.ask("POST", "/v1/agents/{agent}/snapshots", agent, json!({})).await;
    let snapshot = text(&taken["id"]);
    walk.ask("POST", "/v1/agents/{agent}/snapshots/{snapshot}/export", &["counter", snapshot], Value::Null).await;
    walk.ask("POST", "/v1/agents/{agent}/recover", agent, json!({ "snapshot": snapshot })).await;
    walk.ask("PUT", "/v1/agents/{agent}/schedule", agent, json!({ "every_s": 86_400, "keep": 3 })).await;
    walk.ask("DELETE", "/v1/agents/{agent}/schedule", agent, Value::Null).await;
    walk.ask("POST", "/v1/agents/{agent}/upgrade", agent, json!({ "component": two })).await;
    walk.ask("POST", "/v1/agents/{agent}/rollback", agent, json!({})).await;
    walk.ask("PUT", "/v1/plugins/{digest}/revocation", &[&two], json!({ "reason": "a test" })).await;
    walk.ask("DELETE", "/v1/plugins/{digest}/revocation", &[&two], Value::Null).await;
    walk.ask("POST", "/v1/agents/{agent}/stop", agent, Value::Null).await;
    walk.ask("POST", "/v1/agents/{agent}/start", agent, Value::Null).await;
    walk.ask("DELETE", "/v1/agents/{agent}", agent, Value::Null).await;
    walk.ask("DELETE", "/v1/plugins/{digest}", &[&three], Value::Null).await;
    walk.ask("DELETE", "/v1/publishers/{did}", &[&did], Value::Null).await;

    let mut template = node.client().get::<Value>("/v1/templates/trial").await.expect("it comes along")["template"].take();
    template["name"] = json!("ours");
    walk.ask("PUT", "/v1/templates/{name}", &["ours"], template).await;
    walk.ask("PUT", "/v1/policy/auto-accept/{template}/{whose}", &["ours", &did], Value::Null).await;
    walk.ask("DELETE", "/v1/policy/auto-accept/{template}/{whose}", &["ours", &did], Value::Null).await;
    walk.ask("DELETE", "/v1/templates/{name}", &["ours"], Value::Null).await;
    let hook =
        walk.ask("POST", "/v1/webhooks", &[], json!({ "url": "http://127.0.0.1:9/hook", "filter": { "actions": ["recover"] } })).await;
    walk.ask("DELETE", "/v1/webhooks/{id}", &[text(&hook["id"])], Value::Null).await;
    let key = walk.ask("POST", "/v1/keys", &[], json!({ "name": "ci" })).await;
    walk.ask("DELETE", "/v1/keys/{id}", &[text(&key["id"])], Value::Null).await;
    walk.ask("POST", "/v1/peers/{node}/ban", &[&other], json!({ "for_s": 60 })).await;
    walk.ask("DELETE", "/v1/peers/{node}/ban", &[&other], Value::Null).await;
    walk.ask("POST", "/v1/join", &[], json!({ "addresses": ["/ip4/127.0.0.1/tcp/9"] })).await;

    let listed = node.json(&["trace", "list", "--limit", "1000"]).await;
    let entries: Vec<&Value> = listed["items"].as_array().expect("a list").iter().map(|item| &item["entry"]).collect();
    assert!(!listed.to_string().contains(text(&key["secret"])), "no secret is in the trace");
    let mut left: Vec<_> = ROUTES.iter().filter(|(.., traced)| matches!(traced, Here(_))).collect();
    for (id, (method, route)) in &walk.asked {
        let (.., traced) = ROUTES.iter().find(|(m, r, _)| (m, r) == (method, route)).expect("in the table");
        let Here(action) = traced else { panic!("{method} {route} is asked here") };
        let found: Vec<_> = entries.iter().filter(|entry| entry["request_id"] == id.as_str()).map(|entry| &entry["action"]).collect();
        assert_eq!(found, [action], "{method} {route}");
        left.retain(|(m, r, _)| (m, r) != (method, route));
    }
    assert!(left.is_empty(), "not asked: {left:?}");
    node.json(&["trace", "verify"]).await;
}

/// Entries of these actions, oldest first.
async fn of(node: &Node, actions: &[&str]) -> Vec<Value> {
    let listed = node.json(&["trace", "list", "--limit", "1000"]).await;
    let items = listed["items"].as_array().expect("a list").iter().map(|item| item["entry"].clone());
    items.filter(|entry| actions.iter().any(|action| entry["action"] == *action)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_enters_its_key_and_what_is_other_than_before() {
    let cluster = Cluster::new();
    let mut node = cluster.node("a").start().await;
    let id = node.json(&["id"]).await;
    let begun = of(&node, &["open", "config", "join"]).await;
    let actions: Vec<_> = begun.iter().map(|entry| text(&entry["action"])).collect();
    assert_eq!(actions, ["config", "join", "open"]);
    let changed: Vec<_> = begun[0]["changed"].as_array().expect("a list").iter().map(text).collect();
    assert!(changed.contains(&"mesh.id") && !changed.contains(&"trace.checkpoint_seconds"), "{changed:?}");
    assert_eq!(begun[1]["into"], id["mesh_id"]);
    assert_eq!((&begun[2]["owner"], &begun[2]["kept"]), (&id["owner"], &json!("file")));
    // The ports that it had are settings from then on, once.
    node.restart().await;
    let again = of(&node, &["open", "config", "join"]).await;
    assert_eq!((again.len(), &again[3]["action"], &again[4]["action"]), (5, &json!("config"), &json!("open")));
    assert_eq!(again[3]["changed"], json!(["mesh.port", "mesh.quic_port", "mesh.tcp_port"]));
    assert_ne!(again[3]["digest"], again[0]["digest"]);
    node.restart().await;
    assert_eq!(of(&node, &["open", "config", "join"]).await.len(), 6, "the same configuration is no news");
}
