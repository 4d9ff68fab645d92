//! Clients of the HTTP gateway and of the local socket that misbehave.

use std::path::PathBuf;

use protocol::{Code, Problem};
use serde_json::{Value, json};
use tests::{Cluster, Gateway, Node, Raw, until};

use super::rounds;
use crate::fixtures::{Pair, counter};

/// A gateway and its daemon's socket, and a key for them.
struct Doors {
    gateway: Gateway,
    socket: PathBuf,
    key: String,
}

impl Doors {
    async fn new(cluster: &Cluster, node: &Node) -> Self {
        let key = node.json(&["key", "create", "hostile"]).await["secret"].as_str().expect("a secret").to_owned();
        Self { gateway: cluster.gateway(node).await, socket: node.directory().join("mcpd.sock"), key }
    }

    async fn tcp(&self) -> Raw {
        Raw::tcp(self.gateway.address()).await
    }

    /// What each answers to the very same bytes.
    async fn ask(&self, text: &str) -> [Raw; 2] {
        let mut both = [self.tcp().await, Raw::unix(&self.socket).await];
        for raw in &mut both {
            raw.send(text).await.status().await;
        }
        both
    }

    /// The head of a request with the key, in which `headers` come as well.
    fn head(&self, request: &str, headers: &str) -> String {
        format!("{request} HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {}\r\n{headers}\r\n", self.key)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_two_readers_would_read_differently_is_refused() {
    let cluster = Cluster::new();
    let node = cluster.node("a").start().await;
    let agent = node.host("counter", "demo", counter()).await;
    let doors = Doors::new(&cluster, &node).await;
    let authorization = format!("authorization: Bearer {}\r\n", doors.key);
    let get = |target: &str, headers: &str| format!("GET {target} HTTP/1.1\r\n{authorization}{headers}\r\n");
    for sound in [
        get("/v1/status", "host: localhost\r\n"),
        get("http://localhost/v1/status", "host: localhost:80\r\n"),
        get("http://LOCALHOST/v1/status", "host: localhost\r\n"),
        get("/v1/status", "host: [::1]:8000\r\naccept: a\r\naccept: b\r\n"),
        format!("GET /v1/status HTTP/1.0\r\nhost: localhost\r\n{authorization}\r\n"),
    ] {
        for mut raw in doors.ask(&sound).await {
            assert_eq!(raw.status().await, 200, "{sound}: {raw:?}");
        }
    }
    let twice = |header: &str| get("/v1/status", &format!("host: localhost\r\n{header}\r\n{header}\r\n"));
    let framed = |headers: &str| get("/v1/status", &format!("host: localhost\r\n{headers}"));
    for ambiguous in [
        get("/v1/status", ""),
        get("/v1/status", "host: localhost\r\nhost: localhost\r\n"),
        get("/v1/status", "host: localhost\r\nhost: evil.example\r\n"),
        get("/v1/status", "host: \r\n"),
        get("/v1/status", "host: user@localhost\r\n"),
        get("/v1/status", "host: localhost, evil.example\r\n"),
        get("/v1/status", "host: localhost:80:80\r\n"),
        get("http://localhost/v1/status", ""),
        get("http://localhost/v1/status", "host: evil.example\r\n"),
        get("http://evil.example/v1/status", "host: localhost\r\n"),
        get("http://localhost:81/v1/status", "host: localhost\r\n"),
        get("http://user@localhost/v1/status", "host: localhost\r\n"),
        get("ftp://localhost/v1/status", "host: localhost\r\n"),
        framed("content-length: 1\r\ncontent-length: 2\r\n\r\nab"),
        framed("content-length: 1, 2\r\n\r\nab"),
        framed("content-length: +1\r\n\r\na"),
        framed("transfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n"),
        framed("transfer-encoding: chunked, gzip\r\n\r\n0\r\n\r\n"),
        framed("transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n"),
        format!("GET /v1/status HTTP/1.0\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n{authorization}\r\n0\r\n\r\n"),
        twice(authorization.trim_end()),
        twice("x-api-key: a"),
        twice("idempotency-key: a"),
        twice("mcp-principal: a"),
        twice("mcp-key: a"),
        twice("content-type: application/json"),
        twice("last-event-id: 1"),
        twice("x-request-id: a"),
        twice("traceparent: a"),
        get("/v1/status", "host: localhost\r\nbad header: x\r\n"),
        get("/v1/status", "host: localhost\r\nx-folded: a\r\n b\r\n"),
    ] {
        for mut raw in doors.ask(&ambiguous).await {
            assert_eq!(raw.status().await, 400, "{ambiguous}: {raw:?}");
        }
    }
    // A length beside a transfer coding: the coding counts, and what follows is not taken for another request.
    let body = json!({ "method": "count", "params": {} }).to_string();
    let execute = format!("POST /v1/agents/{}/execute", agent.id);
    let chunked = format!("{:x}\r\n{body}\r\n0\r\n\r\n", body.len());
    for lengths in ["content-length: 3\r\ntransfer-encoding: chunked\r\n", "transfer-encoding: chunked\r\ncontent-length: 3\r\n"] {
        let smuggled = doors.head(&execute, "content-length: 0\r\n");
        for mut raw in doors.ask(&(doors.head(&execute, lengths) + &chunked + &smuggled)).await {
            assert_eq!(raw.closes().await.matches("HTTP/1.1 ").count(), 1, "{raw:?}");
            assert_eq!(raw.status().await, 200, "{raw:?}");
        }
    }
    let counted = node.execute("counter", "count", &json!({})).await.expect("it counts");
    assert_eq!(tests::value(&counted), json!({ "count": 5 }), "two doors, two orders of headers, and this one");
}

/// What a misbehaving client does once.
async fn misbehave(doors: &Doors, execute: &str, round: usize) {
    let body = json!({ "method": "count", "params": {} }).to_string();
    let whole = doors.head(execute, &format!("content-type: application/json\r\ncontent-length: {}\r\n", body.len())) + &body;
    for mut raw in [doors.tcp().await, Raw::unix(&doors.socket).await] {
        match round % 8 {
            // Keys that nobody has, one after another.
            0 => {
                for guess in 0..20 {
                    let head = format!("GET /v1/status HTTP/1.1\r\nhost: localhost\r\nx-api-key: guess-{round}-{guess}\r\n\r\n");
                    let mut raw = doors.tcp().await;
                    assert_eq!(raw.send(&head).await.status().await, 401);
                }
            }
            // A header, a number of headers, and a body beyond all limits.
            1 => drop(raw.send(&doors.head(execute, &format!("x-large: {}\r\n", "x".repeat(1 << 20)))).await.closes().await.to_owned()),
            2 => drop(raw.send(&doors.head(execute, &"x-many: 1\r\n".repeat(10_000))).await.closes().await.to_owned()),
            3 => assert_eq!(raw.send(&doors.head(execute, "content-length: 999999999999\r\n")).await.status().await, 413, "{raw:?}"),
            // What isn't HTTP, and what isn't whole.
            4 => drop(raw.send("\u{16}\u{3}\u{1}\0\u{a5}\r\n\r\n").await.closes().await.to_owned()),
            5 => drop(raw.send(&whole[..whole.len() - 1]).await),
            // A call that is made, and nobody there for the answer; twice in one packet.
            6 => drop(raw.send(&whole).await),
            _ => drop(raw.send(&(whole.clone() + &whole)).await),
        }
    }
}

/// The calls in a provider's trace, and those of them that counted.
async fn calls(node: &Node) -> (u64, u64) {
    let traced = node.json(&["trace", "list", "--action", "execute", "--limit", "1000000"]).await;
    let items = traced["items"].as_array().expect("a list");
    let counted = items.iter().filter(|item| item["entry"]["failure"] == Value::Null).count();
    (items.len() as u64, counted as u64)
}

#[tokio::test(flavor = "multi_thread")]
async fn honest_clients_are_served_beside_misbehaving_ones_and_only_what_ran_is_charged() {
    let (pair, state) = Pair::agreed(&[("calls", "1000000/total")]).await;
    let doors = Doors::new(&pair.cluster, &pair.consumer).await;
    let execute = format!("POST /v1/agents/{}/execute", pair.agent.id);
    // Some send nothing more for as long as they are let.
    let mut slow = Vec::new();
    for _ in 0..64 {
        for mut raw in [doors.tcp().await, Raw::unix(&doors.socket).await] {
            raw.send("GET /v1/status HTTP/1.1\r\nhost: loc").await;
            slow.push(raw);
        }
    }
    let path = execute.strip_prefix("POST ").expect("a path");
    let body = json!({ "method": "count", "params": {} }).to_string();
    let mut last = 0;
    for round in 0..rounds() * 8 {
        misbehave(&doors, &execute, round).await;
        let honest = doors.gateway.ask_with(&doors.key, "POST", path, &body).await;
        assert_eq!(honest.status, 200, "{honest:?}");
        let count = honest.body["result"]["count"].as_u64().expect("a count");
        assert!(count > last, "{count} after {last}");
        last = count;
        let local = pair.count().await.expect("the local socket serves, too");
        last = last.max(tests::value(&local)["count"].as_u64().expect("a count"));
    }
    // They are cut off, and none of them was waited for.
    for raw in &mut slow {
        raw.closes().await;
    }
    // Each call that ran is an entry of the provider's trace, and a charge; each count is one of them.
    let id = state.terms.id;
    let (ran, counted) = until("the last calls to end", async || {
        let before = calls(&pair.provider).await;
        let used = pair.provider.agreement(id).await.expect("known").used.calls;
        (before == calls(&pair.provider).await && used == before.0).then_some(before)
    })
    .await;
    let count = tests::value(&pair.count().await.expect("it counts"))["count"].as_u64().expect("a count");
    assert_eq!(count, counted + 1, "of {ran} that ran");
    let problem: Problem = serde_json::from_value(doors.gateway.ask_with("guess", "GET", "/v1/status", "").await.body).expect("a problem");
    assert_eq!(problem.code, Code::Unauthenticated);
}
