//! What happens on a node, told as it happens: streams that can be taken up again, and webhooks that insist.

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use protocol::{
    NodeId,
    api::{Delivery, TraceEvent},
};
use serde_json::{Value, json};
use tests::{Cluster, Node, until};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::UnixStream,
};

use crate::{fixtures::counter, web::Web};

async fn node(settings: &[(&str, &str)]) -> (Cluster, Node) {
    let cluster = Cluster::new();
    let builder = settings.iter().fold(cluster.node("a"), |builder, (key, value)| builder.set(key, value));
    let node = builder.start().await;
    node.host("counter", "demo", counter()).await;
    (cluster, node)
}

async fn count(node: &Node) {
    node.execute("counter", "count", &json!({})).await.expect("it counts");
}

/// The stream's text until it contains `end`.
async fn told(node: &Node, query: &str, header: &str, end: &str) -> String {
    let mut stream = UnixStream::connect(node.directory().join("mcpd.sock")).await.expect("the daemon listens");
    let request = format!("GET /v1/events{query} HTTP/1.1\r\nhost: local\r\naccept: text/event-stream\r\n{header}\r\n");
    stream.write_all(request.as_bytes()).await.expect("sent");
    let mut text = String::new();
    while !text.contains(end) {
        let mut part = [0; 4096];
        let length = tokio::time::timeout(tests::PATIENCE, stream.read(&mut part)).await.expect("it is told").expect("open");
        assert!(length > 0, "the stream ended: {text}");
        text += &String::from_utf8_lossy(&part[..length]);
    }
    text
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_goes_on_where_it_was_cut() {
    let (_cluster, node) = node(&[]).await;
    let size = node.json(&["status"]).await["trace_size"].as_u64().expect("a number");
    let mut events = node.client().events("/v1/events?actions=execute").await.expect("a stream");
    count(&node).await;
    node.json(&["agent", "stop", "counter"]).await;
    node.json(&["agent", "start", "counter"]).await;
    count(&node).await;
    for expected in [size, size + 3] {
        let event: TraceEvent = serde_json::from_str(&events.next().await.expect("open").expect("an event").data).expect("an event");
        let entry: Value = serde_json::from_str(event.entry.get()).expect("an entry");
        assert_eq!((event.index, &entry["action"]), (expected, &json!("execute")));
    }
    // Whoever was cut off says what came last; that counts more than where it once began.
    let text = told(&node, "?from=0", &format!("last-event-id: {size}\r\n"), &format!("id: {}", size + 3)).await;
    let ids: Vec<_> = text.lines().filter_map(|line| line.strip_prefix("id: ")?.parse::<u64>().ok()).collect();
    assert_eq!(ids, [size + 1, size + 2, size + 3], "{text}");
    // The first of all, byte for byte as it is in the log.
    let first = told(&node, "?from=0&actions=spawn", "", "\n\n").await;
    assert!(first.contains("\"action\":\"spawn\""), "{first}");
    let beyond = node.client().events("/v1/events?from=100000").await.expect_err("there is nothing");
    assert_eq!(beyond.code, protocol::Code::InvalidRequest);
}

/// The indices of a delivery, whose signature is the node's.
fn verified(request: &str, node: NodeId) -> Vec<u64> {
    let (head, body) = request.split_once("\r\n\r\n").expect("a head and a body");
    let header = |name: &str| head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": ")).expect(name);
    let signed = format!("{}.{}.{body}", header("webhook-id"), header("webhook-timestamp"));
    let signature = BASE64.decode(header("webhook-signature").strip_prefix("v1a,").expect("Ed25519")).expect("base64");
    node.verify(signed.as_bytes(), &signature).expect("the node signed it");
    let delivery: Delivery = serde_json::from_str(body).expect("a delivery");
    assert_eq!((delivery.r#type.as_str(), delivery.data.node), ("trace.entries", node));
    delivery.data.events.iter().map(|event| event.index).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_webhook_tells_everything_in_order_and_keeps_what_does_not_arrive() {
    let (_cluster, mut node) = node(&[("webhooks.attempts", "2")]).await;
    let web = Web::start().await;
    let bad = node.mcpctl(&["webhook", "add", "ftp://example.org", "--json"]).await.exits(1).json();
    assert_eq!(bad["code"], "invalid_request");
    let added = node.json(&["webhook", "add", &web.url("/hook?key=secret"), "--action", "execute,webhook"]).await;
    let (id, first) = (added["id"].as_str().expect("an id").to_owned(), added["next"].as_u64().expect("an index"));
    assert_eq!(added["public_key"], format!("whpk_{}", BASE64.encode(node.id().as_bytes())));
    let mut told = Vec::new();
    let collect = async |told: &mut Vec<u64>, length: usize| {
        until("the events to arrive", async || {
            told.extend(web.seen().iter().flat_map(|request| verified(request, node_id(&added))));
            (told.len() >= length).then_some(())
        })
        .await;
    };
    collect(&mut told, 1).await;
    count(&node).await;
    count(&node).await;
    collect(&mut told, 3).await;
    assert_eq!(told, [first, first + 1, first + 2]);

    // Nothing is lost while the receiver is away: what fails twice is put aside, and the rest comes after.
    web.fail(true);
    count(&node).await;
    let dead = until("the delivery to be given up on", async || {
        let dead = node.json(&["webhook", "dead", &id]).await["items"].clone();
        dead.as_array().is_some_and(|dead| !dead.is_empty()).then_some(dead)
    })
    .await;
    assert_eq!((&dead[0]["from"], &dead[0]["error"]), (&json!(first + 3), &json!("status 503")));
    let retried = node.json(&["webhook", "retry", &id]).await;
    assert_eq!((&retried["delivered"], &retried["left"]), (&json!(0), &json!(1)));
    web.fail(false);
    web.seen();
    node.restart().await;
    let retried = node.json(&["webhook", "retry", &id]).await;
    assert_eq!((&retried["delivered"], &retried["left"]), (&json!(1), &json!(0)));
    collect(&mut told, 4).await;
    // Behind what the start entered.
    let next = node.json(&["status"]).await["trace_size"].as_u64().expect("a size");
    count(&node).await;
    collect(&mut told, 5).await;
    assert_eq!(told, [first, first + 1, first + 2, first + 3, next]);
    let traced = node.json(&["trace", "list"]).await.to_string();
    assert!(!traced.contains("secret") && traced.contains("\"action\":\"webhook\""), "{traced}");

    node.json(&["webhook", "remove", &id]).await;
    assert_eq!(node.json(&["webhook", "list"]).await["items"], json!([]));
    node.mcpctl(&["webhook", "dead", &id]).await.exits(1);
}

/// The node that a webhook's public key is of.
fn node_id(webhook: &Value) -> NodeId {
    let key = webhook["public_key"].as_str().and_then(|key| key.strip_prefix("whpk_")).expect("a key");
    let bytes: [u8; 32] = BASE64.decode(key).expect("base64").try_into().expect("32 bytes");
    NodeId::from_bytes(&bytes).expect("a node's key")
}
