//! Operators and the swarm: who may connect, what is limited, who comes and goes.

use serde_json::json;
use tests::{Cluster, until};

use crate::fixtures::counter;

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_bans_and_disconnects() {
    let (cluster, _bootstrap) = Cluster::with_bootstrap().await;
    let mut a = cluster.node("a").join().await;
    let b = cluster.node("b").join().await;
    let id = b.id().to_string();
    // Those between them may not have met `b` yet.
    until("a to find b", async || (a.mcpctl(&["peers", "connect", &id]).await.code == Some(0)).then_some(())).await;
    a.is_connected(b.id()).await;
    let banned = a.json(&["peers", "ban", &id, "--for", "1h", "--reason", "too loud"]).await;
    assert_eq!((&banned["reason"], &banned["manual"]), (&json!("too loud"), &json!(true)));
    until("it to be out", async || a.peers().await.iter().all(|peer| peer.node_id != b.id()).then_some(())).await;
    let refused = b.mcpctl(&["join", a.address("tcp"), "--json"]).await.exits(1).json();
    let item = &refused["items"][0];
    assert!(item["code"] == "banned" && item["error"].as_str().is_some_and(|error| error.contains("too loud")), "{refused}");
    assert_eq!(a.mcpctl(&["peers", "connect", &id, "--json"]).await.exits(5).json()["code"], "banned");

    // It holds over a restart, and until it is taken back.
    a.restart().await;
    assert_eq!(a.json(&["peers", "bans"]).await["items"][0]["node"], json!(id));
    a.json(&["peers", "unban", &id]).await;
    assert_eq!(a.mcpctl(&["peers", "unban", &id, "--json"]).await.exits(1).json()["code"], "not_found");
    a.json(&["peers", "connect", b.address("tcp")]).await;
    a.is_connected(b.id()).await;
    a.json(&["peers", "disconnect", &id]).await;
    until("it to be gone", async || a.peers().await.iter().all(|peer| peer.node_id != b.id()).then_some(())).await;
    // With both of one mind it stays so, though look-ups and redialling go on.
    b.json(&["peers", "disconnect", &a.id().to_string()]).await;
    a.json(&["peers", "disconnect", &id]).await;
    until("it to be gone", async || a.peers().await.iter().all(|peer| peer.node_id != b.id()).then_some(())).await;
    let begun = std::time::Instant::now();
    while begun.elapsed().as_secs() < 3 {
        a.mcpctl(&["discover", "demo.nothing", "--kademlia", "--timeout", "1s"]).await;
        assert!(a.peers().await.iter().all(|peer| peer.node_id != b.id()), "it was sent away");
    }
    let limits = a.json(&["swarm", "limits"]).await;
    let limits = limits["items"].as_array().expect("a table");
    assert!(limits.len() > 20 && limits.iter().all(|limit| limit["value"].is_u64() && limit["why"].is_string()));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_leaves_is_forgotten_at_once_and_who_watches_sees_it() {
    let (cluster, _bootstrap) = Cluster::with_bootstrap().await;
    let watcher = cluster.node("watcher").set("node.zone", "eu-1").join().await;
    let mut provider = cluster.node("provider").set("node.zone", "eu-2").join().await;
    let mut events = watcher.client().events("/v1/discover/watch?capability=demo.count").await.expect("a watch");
    let mut next = async || {
        let event = tokio::time::timeout(tests::PATIENCE, events.next()).await.expect("in time").expect("no failure").expect("it goes on");
        let found: serde_json::Value = serde_json::from_str(&event.data).expect("JSON");
        (event.name, found["node_id"].as_str().expect("a node").to_owned(), found["zone"].clone())
    };
    provider.host("counter", "demo", counter()).await;
    assert_eq!(next().await, ("added".into(), provider.id().to_string(), json!("eu-2")));
    let found = watcher.discovers("demo.count", "").await;
    assert_eq!((found.zone.as_ref().map(|zone| zone.as_str()), found.load), (Some("eu-2"), 0));
    // It says goodbye: nobody waits for its advert to expire.
    provider.stop().await;
    let stopped = std::time::Instant::now();
    assert_eq!(next().await.0, "removed");
    assert!(stopped.elapsed().as_secs() < 60, "an advert lives for five minutes; it took {:?}", stopped.elapsed());
    // Nor does a neighbour's old knowledge bring it back.
    let late = cluster.node("late").join().await;
    late.is_connected(watcher.id()).await;
    // Its records are still in the distributed hash table: whoever looks there asks a node that doesn't answer.
    let none = watcher.json(&["discover", "demo.count", "--timeout", "20s"]).await;
    assert_eq!(none["items"], json!([]));
    provider.restart().await;
    assert_eq!(next().await.0, "added");
}
