//! The gateway in front of a node: who gets in, and how far.

use protocol::api::CreatedKey;
use serde_json::json;
use tests::{Cluster, until};

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
    let begun = std::time::Instant::now();
    until("the key to be refused", async || (gateway.ask_with(key, "GET", "/v1/status", "").await.status == 401).then_some(())).await;
    assert!(begun.elapsed().as_secs() < 15, "within seconds: {:?}", begun.elapsed());
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
