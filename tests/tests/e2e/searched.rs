//! The trace is searched by agent, action and time, page by page.

use protocol::{Code, api::TracePage};
use serde_json::{Value, json};
use tests::{Cluster, Node};

use crate::{fixtures::counter, pruned::old_log};

fn indices(listed: &Value) -> Vec<u64> {
    listed["items"].as_array().expect("a list").iter().map(|item| item["index"].as_u64().expect("an index")).collect()
}

async fn list(node: &Node, arguments: &[&str]) -> Value {
    node.json(&[&["trace", "list"], arguments].concat()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn entries_are_found_by_what_they_are_about_and_when() {
    let cluster = Cluster::new();
    let node = cluster.node("a").start().await;
    let (one, two) = (node.host("one", "demo", counter()).await, node.host("two", "demo", counter()).await);
    let mut operations = Vec::new();
    for agent in ["one", "two", "one", "one", "two"] {
        operations.push(node.execute(agent, "count", &json!({})).await.expect("it counts").operation.to_string());
    }
    node.json(&["agent", "stop", "one"]).await;
    let all = list(&node, &["--limit", "1000"]).await;
    assert_eq!(indices(&all), (0..indices(&all).len() as u64).collect::<Vec<_>>(), "the oldest first, without a gap");

    let found = list(&node, &["--agent", "one", "--action", "execute", "--since", "1h"]).await;
    let items = found["items"].as_array().expect("a list");
    let theirs: Vec<_> = items.iter().map(|item| item["entry"]["operation"].as_str().expect("an id")).collect();
    assert_eq!(theirs, [&operations[0], &operations[2], &operations[3]]);
    assert!(items.iter().all(|item| item["entry"]["agent"] == one.id.to_string()));
    // By its id as well, and several actions at once.
    let both = list(&node, &["--agent", &two.id.to_string(), "--action", "spawn,execute"]).await;
    assert_eq!(indices(&both).len(), 3);
    let owner = node.json(&["id"]).await["owner"].as_str().expect("a did").to_owned();
    assert_eq!(indices(&list(&node, &["--principal", &owner]).await), indices(&all));
    let stranger = protocol::Key::generate().did().to_string();
    assert_eq!(indices(&list(&node, &["--principal", &stranger]).await), [0; 0]);

    // A page says where it goes on, and together they are the whole.
    let (mut from, mut paged) = (0, Vec::new());
    loop {
        let page = node.client().get::<TracePage>(&format!("/v1/trace?agent=one&from={from}&limit=2")).await.expect("a page");
        assert!(page.items.len() <= 2);
        paged.extend(page.items.iter().map(|item| item.index));
        let Some(next) = page.next else { break };
        assert!(next > from, "it gets on");
        from = next;
    }
    assert_eq!(paged, indices(&list(&node, &["--agent", "one"]).await));
    assert_eq!(paged.len(), 5, "spawn, three calls, stop: {paged:?}");

    // By time: both ends count.
    let middle = all["items"].as_array().expect("a list").iter().find(|item| item["entry"]["operation"] == operations[2].as_str());
    let (middle, time) = middle
        .map(|item| (item["index"].as_u64().expect("an index"), item["entry"]["time"].as_str().expect("a time")))
        .expect("it is there");
    let (since, until) = (list(&node, &["--since", time]).await, list(&node, &["--until", time]).await);
    assert!(indices(&since).contains(&middle) && indices(&until).contains(&middle));
    assert_eq!((indices(&since).last(), indices(&until).first()), (indices(&all).last(), Some(&0)));
    assert!(indices(&since).iter().chain(&indices(&until)).count() >= indices(&all).len());
    assert_eq!(indices(&list(&node, &["--until", "1h"]).await), [0; 0], "nothing is that old");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_asked_wrongly_is_refused_and_what_is_asked_too_much_is_bounded() {
    let cluster = Cluster::new();
    let node = cluster.node("a").start().await;
    for (query, code) in [
        ("after=1", Code::InvalidRequest),
        ("agent=nobody", Code::AgentNotFound),
        ("agent=%2e%2e", Code::AgentNotFound),
        ("since=yesterday", Code::InvalidRequest),
        ("action=EXECUTE", Code::InvalidRequest),
        ("action=execute,nonsense", Code::InvalidRequest),
        ("agreement=agreement_x", Code::InvalidRequest),
        ("principal=me", Code::InvalidRequest),
        ("limit=99999999999999999999999", Code::InvalidRequest),
        ("from=-1", Code::InvalidRequest),
    ] {
        let refused = node.client().get::<TracePage>(&format!("/v1/trace?{query}")).await.expect_err(query);
        assert_eq!(refused.code, code, "{query}: {refused}");
    }
    let page = async |query: &str| node.client().get::<TracePage>(&format!("/v1/trace?{query}")).await.expect("a page");
    assert!(!page("limit=18446744073709551615").await.items.is_empty());
    assert_eq!(page("limit=0").await.items.len(), 1);
    let beyond = page("from=18446744073709551615").await;
    assert!(beyond.items.is_empty() && beyond.next.is_none());
    node.mcpctl(&["trace", "list", "--since", "yesterday"]).await.exits(2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_reads_a_bounded_part_of_a_long_log_and_time_finds_its_place_at_once() {
    let cluster = Cluster::new();
    let builder = cluster.node("a");
    old_log(&builder.directory(), 50_000).await;
    let node = builder.start().await;
    let page = async |query: &str| node.client().get::<TracePage>(&format!("/v1/trace?{query}")).await.expect("a page");
    let (mut from, mut pages, mut found) = (0, 0, Vec::new());
    loop {
        let page = page(&format!("action=open&from={from}")).await;
        (pages, found) = (pages + 1, [found, page.items].concat());
        let Some(next) = page.next else { break };
        assert!(next > from && next - from < 25_000, "from {from} to {next}");
        from = next;
    }
    assert!(pages >= 3 && found.len() == 1 && found[0].index >= 50_000, "{pages} pages: {found:?}");
    assert_eq!(indices(&list(&node, &["--action", "open"]).await), [found[0].index], "the command follows by itself");
    // No page is passed over where it begins by time.
    let recent = page("action=open&since=2024-01-01T00:00:00Z").await;
    assert_eq!((recent.items.len(), recent.next), (1, None));
    let old = page("until=2020-01-01T00:00:00Z&limit=1000&from=49900").await;
    assert_eq!((old.items.len(), old.next), (100, None), "and none after it ends");
}
