//! What is left of the time before, after an agent was recovered from the mesh: nothing that is older than what its lost home knew.

use protocol::{
    AgreementId, Code, Problem,
    agreement::Status,
    api::{Execute, Executed, List, TraceItem},
    entry::Action,
};
use serde_json::{Value, json, value::RawValue};
use tests::{Node, until};

use crate::{
    fixtures::reaches,
    moving::{Estate, count, counted, move_to},
};

impl Estate {
    /// The consumer calls the agent under one agreement.
    async fn call_under(&self, agreement: AgreementId) -> Result<Executed, Problem> {
        let params = RawValue::from_string("{}".into()).expect("JSON");
        let execute = Execute { method: "count".into(), params, agreement: Some(agreement), timeout_ms: None };
        self.consumer.client().post(&format!("/v1/agents/{}/execute", self.agent.id), &execute).await
    }

    /// Has the agent's state at its home held by the other node, as it is now.
    async fn held_elsewhere(&self) {
        let taken = self.home.json(&["agent", "snapshot", "counter"]).await["id"].clone();
        until("the newest snapshot to be held elsewhere", async || {
            let replicas = self.home.json(&["agent", "replicas", "counter"]).await;
            replicas["items"].as_array().expect("a list").iter().any(|one| one["snapshot"] == taken).then_some(())
        })
        .await;
    }
}

/// The line that a node's list has of an agreement.
async fn listed(node: &Node, id: AgreementId) -> Value {
    let list = node.json(&["agreement", "list"]).await;
    let found = list["items"].as_array().expect("a list").iter().find(|one| one["id"] == json!(id)).cloned();
    found.expect("it is listed")
}

/// An agent moves away and back, its agreement is used up and another one closed, and its home is lost: the copies that the other
/// node kept of its time as the home are not in force, neither when it starts again nor when it recovers the agent.
#[tokio::test(flavor = "multi_thread")]
async fn no_old_copy_of_an_agreement_is_in_force_after_a_recovery() {
    let mut estate = Estate::new().await;
    estate.home.json(&["agent", "replicas", "counter", "1"]).await;
    estate.held_elsewhere().await;
    let (used_up, closed) = (estate.agree("3").await, estate.agree("100").await);
    assert_eq!(counted(estate.call_under(used_up).await), 1);
    move_to(&estate.home, estate.other.id()).await;
    counted(estate.call_under(closed).await);
    let once = estate.other.execute_once("counter", "count", &json!({}), "key").await.expect("answered");
    move_to(&estate.other, estate.home.id()).await;

    // A node that its agent has left keeps its agreements as an archive, over a restart too.
    estate.other.restart().await;
    for id in [used_up, closed] {
        let state = estate.other.agreement(id).await.expect("it is kept");
        let departed = state.departed.expect("it is marked");
        assert_eq!((state.status, departed.node, departed.lost), (Status::Suspended, estate.home.id(), false));
        assert_eq!(listed(&estate.other, id).await["departed"]["node"], json!(estate.home.id()));
    }
    let refused = estate.other.mcpctl(&["agreement", "close", &used_up.to_string(), "--json"]).await.exits(1).json();
    assert_eq!(refused["code"], "agent_moved", "{refused}");

    // At its home it is used up, and the other one is closed.
    until("the agent to be found", async || estate.call_under(used_up).await.ok()).await;
    counted(estate.call_under(used_up).await);
    assert_eq!(estate.call_under(used_up).await.expect_err("used up").code, Code::AgreementExhausted);
    estate.consumer.json(&["agreement", "close", &closed.to_string()]).await;
    reaches(&estate.home, closed, Status::Closed).await;
    reaches(&estate.consumer, closed, Status::Closed).await;
    estate.held_elsewhere().await;
    estate.home.kill9();
    estate.other.json(&["agent", "recover", "counter", "--from-mesh"]).await;

    // No call runs, whoever asks, and both sides say why.
    let before = count(&estate.other).await;
    let refused = async || estate.call_under(used_up).await.err().filter(|problem| problem.code == Code::AgreementLost);
    let problem = until("the new home to refuse", refused).await;
    assert!(problem.hint.as_deref().is_some_and(|hint| hint.contains("agreement propose")), "{problem:?}");
    assert!(estate.call_under(closed).await.is_err());
    for id in [used_up, closed] {
        let state = estate.other.agreement(id).await.expect("it is kept");
        assert_eq!((state.status, state.departed.map(|departed| departed.lost)), (Status::Suspended, Some(true)));
        let shown = estate.other.mcpctl(&["agreement", "show", &id.to_string()]).await.exits(0).stdout;
        assert!(shown.contains("not in force any more"), "{shown}");
        for step in ["suspend", "close"] {
            let refused = estate.other.mcpctl(&["agreement", step, &id.to_string(), "--json"]).await.exits(5).json();
            assert_eq!(refused["code"], "agreement_lost", "{refused}");
        }
    }
    let known = estate.consumer.agreement(used_up).await.expect("it is kept");
    assert_eq!((known.status, known.departed.map(|departed| departed.lost)), (Status::Suspended, Some(true)));
    assert_eq!(estate.call("count").await.expect_err("none is in force").code, Code::AgreementRequired);
    // A key of before is a new one: what the lost home answered under it is not known.
    let again = estate.other.execute_once("counter", "count", &json!({}), "key").await.expect("runs");
    assert_ne!(again.operation, once.operation);
    assert_eq!(count(&estate.other).await, before + 2, "nobody else's call ran");

    // A new agreement counts from nothing, over a restart, and the old one stays as it is.
    let renewed = estate.agree("3").await;
    counted(estate.call("count").await);
    estate.other.restart().await;
    until("the agent to be found", async || estate.call("count").await.ok()).await;
    assert_eq!(estate.other.agreement(renewed).await.expect("kept").used.calls, 2);
    assert_eq!(estate.call_under(used_up).await.expect_err("lost").code, Code::AgreementLost);
    assert_eq!(estate.other.agreement(used_up).await.expect("kept").status, Status::Suspended);

    // The lost home comes back, and has nothing of it in force either.
    estate.home.restart().await;
    until("the old home to let go", async || crate::moving::agents(&estate.home).await.is_empty().then_some(())).await;
    assert_eq!(estate.home.agreement(used_up).await.expect("kept").status, Status::Suspended);
}

/// The snapshots of an agent that are what a home had acknowledged that has let go.
async fn branches(node: &Node, agent: &str) -> Vec<Value> {
    let all = node.json(&["agent", "snapshots", agent]).await;
    let all = all["items"].as_array().expect("a list");
    all.iter().filter(|one| one["retained"]["branch"] == json!(true)).cloned().collect()
}

/// A home that refuses, or is refused, or that others reach, is not lost: nobody takes its agent without force. What two homes
/// acknowledged at once is kept, named and can be recovered.
#[tokio::test(flavor = "multi_thread")]
async fn a_home_that_is_not_silent_is_not_lost_and_what_two_acknowledge_is_kept() {
    const WRITES: u64 = 40;
    let estate = Estate::new().await;
    let (home, other, id) = (&estate.home, &estate.other, estate.agent.id.to_string());
    assert_eq!(count(home).await, 1);
    home.json(&["agent", "replicas", "counter", "1"]).await;
    estate.held_elsewhere().await;
    let refused = async || {
        let refused = other.mcpctl(&["agent", "recover", "counter", "--from-mesh", "--json"]).await.exits(1).json();
        assert_eq!(refused["code"], "conflict", "{refused}");
        assert!(refused["hint"].as_str().is_some_and(|hint| hint.contains("--force")), "{refused}");
        refused["detail"].as_str().expect("a text").to_owned()
    };
    assert!(refused().await.contains("which is there"));
    // It keeps the other node out.
    home.json(&["peers", "ban", &other.id().to_string(), "--for", "1h"]).await;
    let why = refused().await;
    assert!(why.contains("not known to be lost") || why.contains("reaches"), "{why}");
    home.json(&["peers", "unban", &other.id().to_string()]).await;
    // It is kept out.
    other.json(&["peers", "ban", &home.id().to_string(), "--for", "1h"]).await;
    assert!(refused().await.contains("not known to be lost"));

    // By force there are two homes, until one hears of the other.
    other.json(&["agent", "recover", "counter", "--from-mesh", "--force"]).await;
    for write in 2..2 + WRITES {
        assert_eq!(count(home).await, write);
        assert_eq!(count(other).await, write);
    }
    assert_eq!(count(other).await, WRITES + 2);
    let taken = other.json(&["agent", "snapshot", "counter"]).await["id"].clone();
    other.json(&["peers", "unban", &home.id().to_string()]).await;
    home.mcpctl(&["peers", "connect", other.address("tcp")]).await;
    until("the first home to let go", async || crate::moving::agents(home).await.is_empty().then_some(())).await;

    // What it had acknowledged is named on both nodes, and in both traces.
    let [kept] = &branches(home, &id).await[..] else { panic!("one branch") };
    let branch = kept["id"].as_str().expect("an id");
    assert_eq!((&kept["node"], &kept["epoch"], &kept["retained"]["home"]), (&json!(home.id()), &json!(0), &json!(other.id())));
    until("the later home to have it", async || branches(other, "counter").await.first().cloned().filter(|one| one["id"] == *branch)).await;
    for node in [home, other] {
        let entries: List<TraceItem> = node.client().get("/v1/trace?action=let_go").await.expect("a list");
        let [TraceItem { entry, .. }] = &entries.items[..] else { panic!("{entries:?}") };
        let Action::LetGo { node: by, to, epoch, snapshot, .. } = entry.action else { panic!("{entry:?}") };
        assert_eq!((by, to, epoch, snapshot.to_string().as_str()), (home.id(), other.id(), 1, branch));
    }
    assert!(home.log().contains(branch), "its log names it");

    // Nothing deletes it but its owner: neither schedules, nor a smaller number of replicas, nor the end of what others hold.
    other.json(&["agent", "snapshot", "counter", "--keep", "1"]).await;
    other.json(&["agent", "replicas", "counter", "0"]).await;
    until("the replicas to be let go of", async || {
        let all = home.json(&["agent", "snapshots", &id]).await;
        (all["items"].as_array()?.len() == 1).then_some(())
    })
    .await;
    assert_eq!((branches(home, &id).await.len(), branches(other, "counter").await.len()), (1, 1));

    // And it comes back, beside what the later home has.
    let last = other.json(&["agent", "snapshot", "counter"]).await["id"].clone();
    assert_ne!(last, taken);
    other.json(&["agent", "recover", "counter", "--from", branch]).await;
    assert_eq!(count(other).await, WRITES + 2, "all that the first home had acknowledged, and one more");
    other.json(&["agent", "recover", "counter", "--from", last.as_str().expect("an id")]).await;
    assert_eq!(count(other).await, WRITES + 3, "all that the later one had");
    other.json(&["agent", "discard", "counter", branch]).await;
    assert!(branches(other, "counter").await.is_empty());
}
