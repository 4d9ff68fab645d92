//! Agents that change their home: moved, with all that belongs to them, or recovered where their home is lost.

use std::time::Duration;

use protocol::{
    Code, NodeId, Problem,
    agreement::Status,
    api::{Agent, Executed, Propose},
    grant::Grants,
    manifest::Import,
};
use serde_json::{Value, json};
use tests::{Cluster, Node, Plugin, Publisher, until, value};

use crate::{
    fixtures::{counter, reaches},
    membership::{founder, token},
};

/// Two nodes of one owner, one of somebody else, in a private mesh; an agent lives on the first.
pub(crate) struct Estate {
    pub(crate) home: Node,
    pub(crate) other: Node,
    pub(crate) consumer: Node,
    pub(crate) agent: Agent,
    plugin: Plugin,
    publisher: Publisher,
    pub(crate) cluster: Cluster,
}

impl Estate {
    pub(crate) async fn new() -> Self {
        let cluster = Cluster::new();
        let home = founder(&cluster).await;
        let token = token(&home, &["--uses", "8"]).await;
        let join = async |mut node: Node| {
            node.json(&["join", &token]).await;
            node.look_again().await;
            node
        };
        let other =
            join(cluster.lone_node("other").owned_as(&home).set("agreements.accept", "auto").set("snapshots.retain_s", "1").start().await)
                .await;
        let consumer = join(cluster.lone_node("consumer").start().await).await;
        assert_eq!(home.identity().owner, other.identity().owner);
        let publisher = Publisher::new();
        let plugin = publisher.sign("demo", counter(), &[Import::State]);
        home.trust(&publisher).await;
        other.trust(&publisher).await;
        home.register(&plugin).await.expect("registered");
        let agent = home.spawn("counter", &plugin, None).await.expect("spawned");
        consumer.discovers("demo.count", "").await;
        Self { home, other, consumer, agent, plugin, publisher, cluster }
    }

    /// The consumer may call the agent so often.
    pub(crate) async fn agree(&self, calls: &str) -> protocol::AgreementId {
        let parameters = [("calls".to_owned(), calls.to_owned())].into();
        let propose = Propose { agent: self.agent.id.to_string(), node: None, methods: Vec::new(), template: "trial".into(), parameters };
        let agreed: protocol::api::AgreementState = self.consumer.client().post("/v1/agreements", &propose).await.expect("accepted");
        agreed.terms.id
    }

    pub(crate) async fn call(&self, method: &str) -> Result<Executed, Problem> {
        self.consumer.execute(&self.agent.id.to_string(), method, &json!({})).await
    }
}

pub(crate) fn counted(executed: Result<Executed, Problem>) -> u64 {
    value(&executed.expect("counted"))["count"].as_u64().expect("a number")
}

pub(crate) async fn count(node: &Node) -> u64 {
    counted(node.execute("counter", "count", &json!({})).await)
}

pub(crate) async fn agents(node: &Node) -> Vec<Value> {
    node.json(&["agent", "list"]).await["items"].as_array().expect("a list").clone()
}

pub(crate) async fn move_to(node: &Node, to: NodeId) -> Value {
    node.json(&["agent", "move", "counter", "--to", &to.to_string()]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_moves_with_all_that_belongs_to_it_while_it_is_called() {
    let mut estate = Estate::new().await;
    let agreement = estate.agree("40").await;
    assert_eq!(counted(estate.call("count").await), 1);
    let id = estate.agent.id.to_string();
    let once = async |estate: &Estate| estate.consumer.execute_once(&id, "count", &json!({}), "key").await.expect("answered");
    let first = once(&estate).await;
    estate.home.json(&["agent", "schedule", "counter", "--every", "1h", "--keep", "5"]).await;
    estate.home.json(&["agent", "snapshot", "counter"]).await;

    // Calls go on meanwhile, from both sides: each is counted once, in order, wherever it ran.
    let to = estate.other.id();
    let calls = async {
        let mut last = 2;
        while last < 20 {
            let now = counted(estate.call("count").await);
            assert!(now > last, "{now} after {last}");
            last = now;
        }
    };
    let owners = async {
        for _ in 0..20 {
            count(&estate.home).await;
        }
    };
    let (moved, (), ()) = tokio::join!(move_to(&estate.home, to), calls, owners);
    assert_eq!((&moved["to"], &moved["epoch"]), (&json!(to), &json!(1)), "{moved}");
    assert!(agents(&estate.home).await.is_empty());
    let [arrived] = &agents(&estate.other).await[..] else { panic!("one agent") };
    assert_eq!((&arrived["id"], &arrived["name"], &arrived["schedule"]["keep"]), (&json!(id), &json!("counter"), &json!(5)));

    // The last snapshot stays behind, of all that there were.
    let kept = estate.home.json(&["agent", "snapshots", &id]).await;
    let [retained] = &kept["items"].as_array().expect("a list")[..] else { panic!("{kept}") };
    assert_eq!((&retained["retained"]["home"], &retained["retained"]["branch"]), (&json!(to), &json!(false)), "{kept}");

    // The address is the same; so are what was answered, what was used, and what was agreed.
    let total = counted(estate.call("count").await);
    assert_eq!(count(&estate.home).await, total + 1, "by its name, where it lived");
    assert_eq!(once(&estate).await.operation, first.operation);
    let used = estate.other.agreement(agreement).await.expect("it came along").used.calls;
    assert_eq!(used, total - 20, "all calls but the owner's own");
    for left in (used..40).rev() {
        assert!(estate.call("count").await.is_ok(), "{left} calls are left");
    }
    assert_eq!(estate.call("count").await.expect_err("used up").code, Code::AgreementExhausted);
    assert_eq!(once(&estate).await.operation, first.operation, "a repetition costs nothing");
    let snapshots = estate.other.json(&["agent", "snapshots", "counter"]).await;
    assert!(snapshots["items"].as_array().is_some_and(|all| all.len() >= 2), "{snapshots}");

    // Both sides move the agreement on where the agent is.
    let second = estate.agree("100").await;
    let operator = estate.home.mcpctl(&["agreement", "terminate", &agreement.to_string(), "--json"]).await.exits(1).json();
    assert_eq!((&operator["code"], &operator["moved_to"]), (&json!("agent_moved"), &json!(to)), "{operator}");
    estate.consumer.json(&["agreement", "terminate", &agreement.to_string()]).await;
    crate::fixtures::reaches(&estate.other, agreement, protocol::agreement::Status::Closed).await;
    estate.other.json(&["agreement", "suspend", &second.to_string()]).await;
    crate::fixtures::reaches(&estate.consumer, second, protocol::agreement::Status::Suspended).await;
    estate.other.json(&["agreement", "resume", &second.to_string()]).await;
    crate::fixtures::reaches(&estate.consumer, second, protocol::agreement::Status::Active).await;

    // Agents that may call it by its name find it, too.
    let reaching = estate.publisher.sign("reaching", kernel::fixture::reaching(), &[Import::Http, Import::Agents]);
    estate.home.register(&reaching).await.expect("sound");
    let grants = Grants { http: vec!["a.example.com".parse().expect("a host")], agents: vec!["counter".parse().expect("a name")] };
    estate.home.spawn_with("relay", &reaching, None, grants).await.expect("allowed");
    let before = count(&estate.other).await;
    let relayed = estate.home.execute("relay", "relay", &json!({ "to": "counter!count" })).await.expect("called");
    assert_eq!(value(&relayed), json!({ "count": before + 1 }));

    // So does a consumer that has forgotten where it went, while its first home is down.
    estate.home.kill9();
    estate.consumer.restart().await;
    let found = async || estate.call("count").await.inspect_err(|problem| println!("{problem}")).ok();
    until("the consumer to find it by itself", found).await;
    estate.home.restart().await;

    // A loss of power on either side changes nothing, and back it goes.
    for node in [&mut estate.home, &mut estate.other] {
        node.kill9();
        node.restart().await;
    }
    let before = count(&estate.other).await;
    let reach = async || estate.home.execute("counter", "read", &json!({})).await.ok();
    until("the nodes to meet again", reach).await;
    assert_eq!(move_to(&estate.other, estate.home.id()).await["epoch"], 2);
    assert_eq!(count(&estate.home).await, before + 1);
    until("what was given back to be kept no longer", async || {
        (estate.other.json(&["agent", "snapshots", &id]).await["items"] == json!([])).then_some(())
    })
    .await;
    let again = async || estate.call("count").await.inspect_err(|problem| println!("{problem}")).ok();
    until("the consumer to find it", again).await;
    for node in [&estate.home, &estate.other] {
        node.json(&["trace", "verify"]).await;
    }
}

/// What the consumer wasn't told goes along, and is told from the new home; from there on that one puts steps in order.
#[tokio::test(flavor = "multi_thread")]
async fn steps_go_on_at_the_new_home() {
    let mut estate = Estate::new().await;
    let id = estate.agree("40").await;
    let text = id.to_string();
    counted(estate.call("count").await);
    estate.consumer.kill9();
    estate.home.json(&["agreement", "suspend", &text]).await;
    move_to(&estate.home, estate.other.id()).await;
    estate.home.stop().await;
    let came = estate.other.agreement(id).await.expect("it came along");
    assert_eq!((came.status, came.untold), (Status::Suspended, true));
    estate.consumer.restart().await;
    reaches(&estate.consumer, id, Status::Suspended).await;
    until("the new home to know", async || estate.other.agreement(id).await.filter(|state| !state.untold)).await;
    estate.other.json(&["agreement", "resume", &text]).await;
    reaches(&estate.consumer, id, Status::Active).await;
    let closed = estate.consumer.json(&["agreement", "close", &text]).await;
    assert_eq!((&closed["status"], &closed["wanted"]), (&json!("closed"), &json!(null)));
    let (ours, theirs) = (reaches(&estate.other, id, Status::Closed).await, reaches(&estate.consumer, id, Status::Closed).await);
    assert_eq!(ours.bundle.transitions.len(), 3);
    assert!(ours.bundle.transitions.iter().zip(&theirs.bundle.transitions).all(|(one, other)| one.envelope() == other.envelope()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_move_that_is_refused_changes_nothing() {
    let estate = Estate::new().await;
    count(&estate.home).await;
    let refused = async |to: NodeId| {
        let answer = estate.home.mcpctl(&["agent", "move", "counter", "--to", &to.to_string(), "--json"]).await;
        answer.json()["code"].as_str().expect("a code").to_owned()
    };
    assert_eq!(refused(estate.consumer.id()).await, "not_authorized", "somebody else's node");
    assert_eq!(refused(estate.home.id()).await, "invalid_request", "itself");
    assert_eq!(refused(protocol::Key::generate().node_id()).await, "unreachable");
    let did = estate.publisher.key().did().to_string();
    estate.other.json(&["plugin", "untrust", &did]).await;
    assert_eq!(refused(estate.other.id()).await, "untrusted_publisher");
    estate.other.trust(&estate.publisher).await;
    estate.other.register(&estate.plugin).await.expect("registered");
    estate.other.spawn("counter", &estate.plugin, None).await.expect("spawned");
    assert_eq!(refused(estate.other.id()).await, "already_exists", "the name is taken there");
    assert_eq!(count(&estate.home).await, 2, "it lives on where it was");
    estate.other.json(&["agent", "terminate", "counter"]).await;
    // A stranger may neither hold nor have what is this owner's.
    move_to(&estate.home, estate.other.id()).await;
    assert_eq!(count(&estate.other).await, 3);
    let lost = estate.consumer.mcpctl(&["agent", "recover", "counter", "--from-mesh", "--json"]).await.exits(1).json();
    assert_eq!(lost["code"], "not_found", "{lost}");
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_dies_in_the_middle_of_a_move_the_agent_has_one_home() {
    let mut estate = Estate::new().await;
    let (mut last, mut moves) = (count(&estate.home).await, 0);
    for round in 0..6_u64 {
        // One of the two dies at some moment of the move: the source in even rounds, the other one in odd ones.
        let (here, there) = match agents(&estate.home).await.is_empty() {
            false => (&mut estate.home, &mut estate.other),
            true => (&mut estate.other, &mut estate.home),
        };
        let (client, to) = (here.client().clone(), there.id());
        let body = json!({ "to": to });
        let moving = tokio::spawn(async move { client.post::<_, Value>("/v1/agents/counter/move", &body).await });
        tokio::time::sleep(Duration::from_millis(20 + 35 * round)).await;
        let victim = if round % 2 == 0 { here } else { there };
        victim.kill9();
        victim.restart().await;
        // Whoever asked may be told that it moved, that it didn't, or that it can't be known.
        drop(moving.await.expect("no panic"));
        // It is found out where it lives, by itself: there alone, with every call that was acknowledged.
        let settled = async || {
            let homes = [agents(&estate.home).await, agents(&estate.other).await];
            let answer = estate.home.execute("counter", "count", &json!({})).await.ok()?;
            (homes[0].len() + homes[1].len() == 1).then(|| counted(Ok(answer)))
        };
        let now = until("the agent to have one home", settled).await;
        assert!(now > last, "round {round}: {now} after {last}");
        last = now;
        let shown = [estate.home.json(&["agent", "list"]).await, estate.other.json(&["agent", "list"]).await];
        moves = shown.iter().filter_map(|list| list["items"][0]["epoch"].as_u64()).max().expect("one home");
    }
    // Undisturbed it moves; what was interrupted cost nothing but time.
    let (here, there) = if agents(&estate.home).await.is_empty() { (&estate.other, &estate.home) } else { (&estate.home, &estate.other) };
    let moved = until("the agent to move", async || {
        let answer = here.mcpctl(&["agent", "move", "counter", "--to", &there.id().to_string(), "--json"]).await;
        (answer.code == Some(0)).then(|| answer.json())
    })
    .await;
    assert!(moved["epoch"].as_u64() > Some(moves), "{moved} after epoch {moves}");
    assert_eq!(count(there).await, last + 1);
    for node in [&estate.home, &estate.other] {
        node.json(&["trace", "verify"]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_whose_home_is_lost_is_recovered_from_the_mesh() {
    let mut estate = Estate::new().await;
    assert_eq!(count(&estate.home).await, 1);
    estate.home.json(&["agent", "replicas", "counter", "1"]).await;
    let held = async |estate: &Estate| {
        let replicas = estate.home.json(&["agent", "replicas", "counter"]).await;
        let newest = estate.home.json(&["agent", "snapshots", "counter"]).await["items"][0]["id"].clone();
        let all = replicas["items"].as_array().expect("a list");
        let there = all.iter().any(|one| one["node"] == json!(estate.other.id()) && one["snapshot"] == newest);
        assert!(all.len() <= 1, "{replicas}");
        there.then_some(())
    };
    until("the first snapshot to be held", async || held(&estate).await).await;
    assert_eq!(count(&estate.home).await, 2);
    estate.home.json(&["agent", "snapshot", "counter"]).await;
    until("the second one to be held", async || held(&estate).await).await;
    assert_eq!(count(&estate.home).await, 3, "which no snapshot has");

    // While its home is there, nobody takes it away by mistake.
    let refused = estate.other.mcpctl(&["agent", "recover", "counter", "--from-mesh", "--json"]).await.exits(1).json();
    assert_eq!(refused["code"], "conflict", "{refused}");
    estate.home.kill9();
    let recovered = estate.other.json(&["agent", "recover", "counter", "--from-mesh"]).await;
    assert_eq!(
        (&recovered["id"], &recovered["epoch"], &recovered["replicas"]),
        (&json!(estate.agent.id), &json!(1), &json!(1)),
        "{recovered}"
    );
    assert_eq!(count(&estate.other).await, 3, "from the newest snapshot on");

    // The old home comes back, learns of it, and lets go; what it held in its time isn't thrown away.
    estate.home.restart().await;
    until("the old home to let go", async || agents(&estate.home).await.is_empty().then_some(())).await;
    assert_eq!(count(&estate.home).await, 4, "it asks the new one");
    let kept = estate.home.json(&["agent", "snapshots", &estate.agent.id.to_string()]).await;
    assert!(kept["items"].as_array().is_some_and(|all| all.len() >= 3), "{kept}");
    // And holds the agent's snapshots, now that it is the other one.
    let found = estate.other.json(&["agent", "snapshot", "counter"]).await["id"].clone();
    until("the old home to hold the new one's", async || {
        let replicas = estate.other.json(&["agent", "replicas", "counter"]).await;
        (replicas["items"][0]["node"] == json!(estate.home.id()) && replicas["items"][0]["snapshot"] == found).then_some(())
    })
    .await;

    // A home that is lost right after a move leaves a snapshot behind, too.
    move_to(&estate.other, estate.home.id()).await;
    estate.home.kill9();
    let recovered = estate.other.json(&["agent", "recover", "counter", "--from-mesh"]).await;
    assert_eq!(recovered["id"], json!(estate.agent.id), "{recovered}");
    assert_eq!(count(&estate.other).await, 5);
    estate.home.restart().await;
    until("the home to let go once more", async || agents(&estate.home).await.is_empty().then_some(())).await;
    until("somebody to hold it again", async || {
        let replicas = estate.other.json(&["agent", "replicas", "counter"]).await;
        (replicas["items"][0]["node"] == json!(estate.home.id())).then_some(())
    })
    .await;

    // With the agent all of it goes where it lived; elsewhere all but what that node retains by itself, which goes by hand.
    let id = estate.agent.id.to_string();
    estate.other.json(&["agent", "terminate", "counter"]).await;
    assert_eq!(estate.other.json(&["agent", "snapshots", &id]).await["items"], json!([]));
    let retained = until("its other snapshots to go", async || {
        let kept = estate.home.json(&["agent", "snapshots", &id]).await["items"].as_array().expect("a list").clone();
        kept.iter().all(|one| one["retained"].is_object()).then_some(kept)
    })
    .await;
    assert!(retained.iter().any(|one| one["retained"]["branch"] == json!(true)), "{retained:?}");
    for snapshot in retained {
        estate.home.json(&["agent", "discard", &id, snapshot["id"].as_str().expect("an id")]).await;
    }
    assert_eq!(estate.home.json(&["agent", "snapshots", &id]).await["items"], json!([]));
}
