//! Members behind NATs: they join by token, find one another, call over a relay, and then directly where that can be.

use std::time::Duration;

use serde_json::{Value, json};
use tests::{Nat, Node, Side, Wire, until, value};

use crate::private::{Mesh, reaches, via};

/// 50 ms there and back, and one packet in a hundred lost.
const FAR: Wire = Wire { delay: Duration::from_millis(25), loses_one_in: 100 };

/// Proposes an agreement with the provider of `demo.count`, and calls it.
async fn agree_and_call(consumer: &Node) -> String {
    let found = consumer.discovers("demo.count", "").await;
    let agent = found.agent.to_string();
    consumer.json(&["agreement", "propose", "--agent", &agent]).await;
    let called = consumer.execute(&agent, "count", &json!({})).await.expect("it runs");
    assert!(value(&called) != Value::Null);
    agent
}

#[tokio::test(flavor = "multi_thread")]
async fn members_behind_friendly_nats_call_over_a_relay_and_then_directly() {
    let mut mesh = Mesh::new().await;
    let home = mesh.network.behind_slow("home", 2, Nat::Friendly, Side::East, FAR);
    mesh.authority.host("counter", "demo", kernel::fixture::misbehaving()).await;
    let member = mesh.member("member", &home).await;
    let agent = agree_and_call(&member).await;
    let check = member.json(&["netcheck"]).await;
    assert_eq!(check["public"], json!(false), "{check}");
    assert!(check["relays"].as_array().is_some_and(|relays| !relays.is_empty()), "{check}");
    // The first call went through the entry node, as neither home can be dialled.
    until("the hole to be punched", async || via(&member, &mesh.authority).await.filter(|via| via != "relayed")).await;
    member.execute(&agent, "count", &json!({})).await.expect("it runs");
    let pong = member.json(&["peers", "ping", &mesh.authority.id().to_string()]).await;
    assert!(pong["via"] == "tcp" || pong["via"] == "quic", "{pong}");
    let log = format!("{}{}", member.log(), mesh.authority.log());
    assert!(log.contains("upgraded to a direct one"), "{log}");

    // The entry node dies: those who know one another live on, and a restart finds back.
    mesh.entry.kill9();
    member.execute(&agent, "count", &json!({})).await.expect("the mesh lives on without its entry node");
}

#[tokio::test(flavor = "multi_thread")]
async fn members_behind_symmetric_nats_live_on_a_relay() {
    let mut mesh = Mesh::new().await;
    let office = mesh.network.behind_slow("office", 3, Nat::Symmetric, Side::East, FAR);
    let carrier = mesh.network.behind("carrier", 4, Nat::Symmetric, Side::West);
    let provider = mesh.member("provider", &office).await;
    let mut provider = provider;
    provider.look_again().await;
    provider.host("counter", "demo", kernel::fixture::misbehaving()).await;
    let consumer = mesh.member("consumer", &carrier).await;
    let agent = agree_and_call(&consumer).await;
    let check = consumer.json(&["netcheck"]).await;
    assert_eq!(via(&consumer, &provider).await.as_deref(), Some("relayed"), "{check}");
    for _ in 0..50 {
        consumer.execute(&agent, "count", &json!({})).await.expect("a relayed call is as good as a direct one");
    }
    reaches(&provider, &consumer).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_finds_back_by_itself_when_the_entry_node_is_gone() {
    let mut mesh = Mesh::new().await;
    let (one, two) = (mesh.network.public("one", 11, Side::West), mesh.network.public("two", 12, Side::East));
    let one = mesh.member("one", &one).await;
    let mut two = mesh.member("two", &two).await;
    reaches(&two, &one).await;
    let peers = two.directory().join("peers.json");
    until("the peer to be written down", async || std::fs::read_to_string(&peers).ok().filter(|text| text.contains(&one.id().to_string())))
        .await;
    mesh.entry.kill9();
    mesh.authority.kill9();
    two.restart().await;
    two.is_connected(one.id()).await;
}
