//! The gateway in front of a node: who gets in, and how far.

use protocol::api::CreatedKey;
use serde_json::json;
use tests::{Cluster, Raw, until};

use crate::fixtures::counter;

#[tokio::test(flavor = "multi_thread")]
async fn a_key_opens_the_gateway_until_it_is_revoked() {
    let cluster = Cluster::new();
    let node = cluster.node("a").start().await;
    let agent = node.host("counter", "demo", counter()).await;
    let gateway = cluster.gateway(&node).await;

    assert_eq!(gateway.ask("GET", "/healthz", &[], "").await.status, 200);
    assert_eq!(gateway.ask("GET", "/readyz", &[], "").await.body["ready"], true);
    let refused = gateway.ask("GET", "/v1/status", &[], "").await;
    assert_eq!((refused.status, refused.kind.as_str()), (401, "application/problem+json"));
    assert_eq!(refused.body["code"], "unauthenticated");
    assert_eq!(gateway.ask_with("guessed", "GET", "/v1/status", "").await.status, 401);

    let created = node.json(&["key", "create", "ci"]).await;
    let created: CreatedKey = serde_json::from_value(created).expect("a key");
    let key = created.secret.as_str();
    let status = gateway.ask_with(key, "GET", "/v1/status", "").await;
    assert_eq!((status.status, status.body["node_id"].as_str()), (200, Some(node.id().to_string().as_str())));

    let path = format!("/v1/agents/{}/execute", agent.id);
    let body = json!({ "method": "count", "params": {} }).to_string();
    let authorization = format!("Bearer {key}");
    let headers = [("authorization", authorization.as_str()), ("idempotency-key", "once"), ("x-request-id", "from-outside")];
    for _ in 0..2 {
        let executed = gateway.ask("POST", &path, &headers, &body).await;
        assert_eq!((executed.status, &executed.body["result"]), (200, &json!({ "count": 1 })), "{executed:?}");
    }
    let traced = node.json(&["trace", "list", "--limit", "1000"]).await;
    let last = traced["items"].as_array().and_then(|items| items.last()).expect("an entry");
    assert_eq!((&last["entry"]["method"], &last["entry"]["request_id"]), (&json!("count"), &json!("from-outside")));
    let wrong = gateway.ask_with(key, "POST", &path, &json!({ "method": "strict", "params": { "text": 1 } }).to_string()).await;
    assert_eq!((wrong.status, wrong.body["errors"][0]["pointer"].as_str()), (422, Some("/text")));

    let revoked = node.json(&["key", "revoke", &created.key.id.to_string()]).await;
    assert_eq!(revoked["revoked"], true);
    assert_eq!(gateway.ask_with(key, "GET", "/v1/status", "").await.status, 401, "from the very next request on");
}

/// The head of a request with a key; its body has `length` bytes.
fn head(method: &str, path: &str, key: &str, length: usize) -> String {
    format!("{method} {path} HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {key}\r\ncontent-length: {length}\r\n\r\n")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_ends_ends_the_answers_that_it_began() {
    let cluster = Cluster::new();
    let node = cluster.node("a").start().await;
    let agent = node.host("counter", "demo", counter()).await;
    let gateway = cluster.gateway(&node).await;
    let key = async |arguments: &[&str]| -> CreatedKey {
        let created = node.json(&[&["key", "create"], arguments].concat()).await;
        serde_json::from_value(created).expect("a key")
    };
    let (revoked, expiring, kept) = (key(&["one"]).await, key(&["two", "--ttl", "3s"]).await, key(&["three"]).await);
    let follow = async |path: &str, key: &CreatedKey| {
        let mut stream = Raw::tcp(gateway.address()).await;
        stream.send(&head("GET", path, &key.secret, 0)).await;
        assert_eq!(stream.status().await, 200, "{stream:?}");
        stream
    };
    let logs = format!("/v1/agents/{}/logs/follow", agent.id);
    let mut streams = Vec::new();
    for path in ["/v1/events", "/v1/discover/watch?capability=demo.count", &logs] {
        streams.push(follow(path, &revoked).await);
    }
    let mut expires = follow("/v1/events", &expiring).await;
    let mut stays = follow("/v1/events", &kept).await;
    // A call that would go on for as long as it may.
    let body = json!({ "method": "loop", "params": {}, "timeout_ms": 600_000 }).to_string();
    let mut call = Raw::tcp(gateway.address()).await;
    call.send(&head("POST", &format!("/v1/agents/{}/execute", agent.id), &revoked.secret, body.len())).await.send(&body).await;
    node.json(&["key", "revoke", &revoked.key.id.to_string()]).await;
    assert_eq!(call.status().await, 401, "{call:?}");
    for mut stream in streams {
        // It ends as a stream does: by its last chunk. The connection may be used for what another key asks.
        assert!(stream.reads("\r\n0\r\n\r\n").await, "{stream:?}");
    }
    assert!(expires.reads("\r\n0\r\n\r\n").await, "{expires:?}");
    assert_eq!(gateway.ask_with(&expiring.secret, "GET", "/v1/status", "").await.status, 401);
    // And no other: it tells of what happens now.
    node.execute("counter", "count", &json!({})).await.expect("it counts");
    assert!(stays.reads("\"method\":\"count\"").await, "{stays:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_daemon_itself_answers_for_no_key_that_is_not_valid() {
    let cluster = Cluster::new();
    let node = cluster.node("a").start().await;
    let created: CreatedKey = serde_json::from_value(node.json(&["key", "create", "ci"]).await).expect("a key");
    let socket = node.directory().join("mcpd.sock");
    let ask = async |headers: String| {
        let mut raw = Raw::unix(&socket).await;
        raw.send(&format!("GET /v1/events HTTP/1.1\r\nhost: local\r\n{headers}\r\n")).await.status().await;
        raw
    };
    let id = created.key.id;
    let mut stream = ask(format!("mcp-key: {id}\r\n")).await;
    assert_eq!(stream.status().await, 200);
    let other = protocol::Key::generate().did();
    assert_eq!(ask(format!("mcp-key: {id}\r\nmcp-principal: {other}\r\n")).await.status().await, 401, "it speaks for its own principal");
    assert_eq!(ask("mcp-key: key\r\n".into()).await.status().await, 400);
    assert_eq!(ask(format!("mcp-key: {}\r\n", protocol::id::KeyId::new())).await.status().await, 401);
    node.json(&["key", "revoke", &id.to_string()]).await;
    assert!(stream.reads("\r\n0\r\n\r\n").await, "{stream:?}");
    assert_eq!(ask(format!("mcp-key: {id}\r\n")).await.status().await, 401);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_for_the_node_itself_is_not_for_callers_from_outside() {
    let cluster = Cluster::new();
    let mut node = cluster.node("a").start().await;
    let gateway = cluster.gateway(&node).await;
    let key = node.json(&["key", "create", "ci"]).await["secret"].as_str().expect("a secret").to_owned();
    let digest = json!({ "digest": protocol::Digest::sha256(key.as_bytes()) }).to_string();
    for path in ["/v1/keys/resolve", "/v1/keys//resolve", "/v1/keys/%72esolve", "/v1/./keys/resolve", "/v1/%6beys/resolve"] {
        assert_eq!(gateway.ask_with(&key, "POST", path, &digest).await.status, 404, "{path}");
    }
    assert_eq!(gateway.ask_with(&key, "POST", "/v1/keys", &json!({ "name": "more" }).to_string()).await.status, 403);
    assert_eq!(gateway.ask_with(&key, "GET", "/v1/config", "").await.status, 403);
    // For whom a caller speaks is what the key says, whatever the caller says.
    let other = protocol::Key::generate().did().to_string();
    let authorization = format!("Bearer {key}");
    let claimed = gateway.ask("GET", "/v1/keys", &[("authorization", &authorization), ("mcp-principal", &other)], "").await;
    assert_eq!(claimed.status, 200, "{claimed:?}");

    // Without its daemon the gateway lives, says so, and works again when the daemon does.
    node.stop().await;
    assert_eq!(gateway.ask("GET", "/healthz", &[], "").await.status, 200);
    let away = gateway.ask("GET", "/readyz", &[], "").await;
    assert_eq!((away.status, away.body["code"].as_str()), (503, Some("not_running")));
    node.restart().await;
    until("the gateway to serve again", async || (gateway.ask_with(&key, "GET", "/v1/status", "").await.status == 200).then_some(())).await;
}
