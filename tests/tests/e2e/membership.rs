//! Private meshes, as operators make and guard them: founding, tokens, members, revocation, leaving.

use serde_json::{Value, json};
use tests::{Bootstrap, Cluster, Node, until};

use crate::fixtures::counter;

/// A node that has founded a mesh.
pub(crate) async fn founder(cluster: &Cluster) -> Node {
    let mut node = cluster.lone_node("authority").set("agreements.accept", "auto").set("kernel.http_allow", "a.example.com").start().await;
    let founded = node.json(&["mesh", "init", "--zone", "eu-1"]).await;
    assert_eq!((&founded["admission"], &founded["authority"]), (&json!("private"), &json!(true)), "{founded}");
    node.look_again().await;
    node
}

pub(crate) async fn token(authority: &Node, arguments: &[&str]) -> String {
    let created = authority.json(&[&["token", "create"], arguments].concat()).await;
    created["token"].as_str().expect("a token").to_owned()
}

/// A mesh of an authority and an entry node, which enters by a token.
async fn private(cluster: &Cluster) -> (Node, Bootstrap) {
    let authority = founder(cluster).await;
    let entry = cluster.bootstrap_by(&token(&authority, &["--role", "entry"]).await).await;
    authority.is_connected(entry.id()).await;
    (authority, entry)
}

async fn standing(authority: &Node, node: &Node) -> String {
    let members = authority.json(&["members"]).await;
    let id = node.id().to_string();
    let found = members["items"].as_array().expect("a list").iter().find(|member| member["node"] == id).cloned();
    found.map_or_else(|| "unknown".into(), |member| member["standing"].as_str().expect("a word").to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_lets_a_node_in_through_an_entry_node_to_find_and_call() {
    let cluster = Cluster::new();
    let (authority, entry) = private(&cluster).await;
    authority.host("counter", "demo", counter()).await;
    // The token names the entry node alone: the authority is asked through it.
    let token = token(&authority, &["--uses", "1", "--zone", "eu-2", "--address", entry.address("wss")]).await;
    let mut edge = cluster.lone_node("edge").start().await;
    let alone = edge.mcpctl(&["peers", "list", "--json"]).await.exits(1).json();
    assert!(alone["hint"].as_str().is_some_and(|hint| hint.contains("mcpctl join")), "{alone}");
    let joined = edge.json(&["join", &token]).await;
    assert_eq!((&joined["member"], &joined["items"][0]["node_id"]), (&json!(true), &json!(entry.id())), "{joined}");
    let shown = edge.json(&["mesh", "show"]).await;
    assert_eq!((&shown["member"]["role"], &shown["member"]["zone"]), (&json!("edge"), &json!("eu-2")), "{shown}");
    edge.look_again().await;
    assert!(!edge.directory().join("join.token").exists(), "a used token isn't kept");

    let found = edge.discovers("demo.count", "").await;
    assert_eq!(found.node_id, authority.id());
    edge.json(&["agreement", "propose", "--agent", &found.agent.to_string()]).await;
    edge.execute(&found.agent.to_string(), "count", &json!({})).await.expect("members call one another");

    // Again does no harm and costs no use; another node finds the token used up.
    edge.json(&["join", &token]).await;
    let late = cluster.lone_node("late").start().await;
    let refused = late.mcpctl(&["join", &token, "--json"]).await.exits(1).json();
    assert_eq!((&refused["items"][0]["step"], &refused["items"][0]["code"]), (&json!("admission"), &json!("token_used_up")), "{refused}");
    let tokens = authority.json(&["token", "list"]).await;
    let used = tokens["items"].as_array().expect("a list").iter().any(|token| token["used_by"] == json!([edge.id()]));
    assert!(used, "{tokens}");
    assert_eq!(standing(&edge, &edge).await, "active");
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_tokens_are_told_apart() {
    let cluster = Cluster::new();
    let authority = founder(&cluster).await;
    let node = cluster.lone_node("node").start().await;
    let join = async |text: &str| node.mcpctl(&["join", text, "--json"]).await.exits(1).json();
    let good = token(&authority, &["--uses", "3"]).await;
    for broken in ["mcpz1_", &good[..good.len() / 2], &good.replacen("mcpz1_", "mcpz1_A", 1)] {
        assert_eq!(join(broken).await["code"], "invalid_token", "{broken}");
    }
    let brief = token(&authority, &["--ttl", "1s"]).await;
    let expired = async || protocol::Token::read(&brief, protocol::Timestamp::now()).is_err().then_some(());
    until("the token to expire", expired).await;
    assert_eq!(join(&brief).await["code"], "expired");

    let other = Cluster::new();
    let taken = founder(&other).await;
    let created = taken.json(&["token", "create"]).await;
    taken.json(&["token", "revoke", created["id"].as_str().expect("an id")]).await;
    let refused = join(created["token"].as_str().expect("a token")).await;
    assert_eq!(refused["items"][0]["code"], "invalid_token", "{refused}");
    assert!(refused["items"][0]["error"].as_str().is_some_and(|error| error.contains("taken back")), "{refused}");
    // It waits for that mesh now, and can still be sent into another.
    node.json(&["leave"]).await;
    assert_eq!(node.json(&["join", &good]).await["member"], true);
    // Who is in a mesh doesn't slip into another, nor does an authority abandon its own.
    let conflict = node.mcpctl(&["join", &token(&taken, &[]).await, "--json"]).await.exits(1).json();
    assert_eq!(conflict["code"], "conflict", "{conflict}");
    assert_eq!(authority.mcpctl(&["leave", "--json"]).await.exits(1).json()["code"], "conflict");
    assert_eq!(node.mcpctl(&["token", "create", "--json"]).await.exits(1).json()["code"], "conflict");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_node_is_out_within_seconds_and_for_good() {
    let cluster = Cluster::new();
    let (mut authority, mut entry) = private(&cluster).await;
    let token = token(&authority, &["--uses", "5", "--address", entry.address("tcp")]).await;
    let (mut good, mut bad) = (cluster.lone_node("good").start().await, cluster.lone_node("bad").start().await);
    for node in [&mut good, &mut bad] {
        node.json(&["join", &token]).await;
        node.look_again().await;
        node.is_connected(entry.id()).await;
    }
    bad.json(&["join", good.address("tcp")]).await;
    good.is_connected(bad.id()).await;
    authority.json(&["revoke", &bad.id().to_string()]).await;
    for node in [&authority, &good] {
        until("the revoked node to be out", async || node.peers().await.iter().all(|peer| peer.node_id != bad.id()).then_some(())).await;
    }
    until("it to be alone", async || bad.peers().await.is_empty().then_some(())).await;
    let refused = bad.mcpctl(&["join", entry.address("tcp"), "--json"]).await.exits(1).json();
    assert_eq!(refused["items"][0]["code"], "revoked", "{refused}");
    assert_eq!(standing(&authority, &bad).await, "revoked");
    good.is_connected(entry.id()).await;

    // It is out since the first time, whatever lists come later.
    let reason = async || {
        let refused = bad.mcpctl(&["join", authority.address("tcp"), "--json"]).await.exits(1).json();
        refused["items"][0]["error"].as_str().expect("a reason").to_owned()
    };
    let before = reason().await;
    authority.json(&["revoke", &bad.id().to_string()]).await;
    assert_eq!(reason().await, before);

    // Everyone remembers it over a loss of power, and no token helps.
    for node in [&mut authority, &mut good, &mut bad] {
        node.kill9();
    }
    entry.restart().await;
    good.restart().await;
    good.is_connected(entry.id()).await;
    bad.restart().await;
    let refused = bad.mcpctl(&["join", entry.address("tcp"), "--json"]).await.exits(1).json();
    assert_eq!(refused["items"][0]["code"], "revoked", "{refused}");
    authority.restart().await;
    authority.is_connected(entry.id()).await;
    bad.json(&["leave"]).await;
    bad.look_again().await;
    let again = bad.mcpctl(&["join", &token, "--json"]).await.exits(1).json();
    assert_eq!(again["items"][0]["code"], "revoked", "{again}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_leaves_and_comes_back_by_a_new_token() {
    let cluster = Cluster::new();
    let authority = founder(&cluster).await;
    let mut node = cluster.lone_node("node").start().await;
    node.json(&["join", &token(&authority, &[]).await]).await;
    node.look_again().await;
    assert_eq!(standing(&authority, &node).await, "active");
    assert_eq!(node.json(&["leave"]).await["admission"], "none");
    assert_eq!(standing(&authority, &node).await, "left");
    until("the authority to lose it", async || authority.peers().await.is_empty().then_some(())).await;
    assert!(!node.directory().join("credential.json").exists());
    node.json(&["join", &token(&authority, &["--role", "server"]).await]).await;
    assert_eq!(node.json(&["mesh", "show"]).await["member"]["role"], "server");
    let trace: Value = authority.json(&["trace", "list"]).await;
    let members: Vec<&Value> =
        trace["items"].as_array().expect("a list").iter().filter(|item| item["entry"]["action"] == "member").collect();
    assert!(members.len() >= 4, "{trace}");
}

/// Everyone was off for so long that nobody's credential holds, the authority's own included.
#[tokio::test(flavor = "multi_thread")]
async fn a_mesh_that_was_off_for_longer_than_its_credentials_last_comes_back_by_itself() {
    let cluster = Cluster::new();
    let mut authority = cluster.lone_node("authority").set("mesh.credential_seconds", "20").start().await;
    authority.json(&["mesh", "init"]).await;
    let mut node = cluster.lone_node("node").start().await;
    node.json(&["join", &token(&authority, &[]).await]).await;
    node.is_connected(authority.id()).await;
    // From now on on the ports that they keep.
    for node in [&mut authority, &mut node] {
        node.look_again().await;
        node.kill9();
    }
    for node in [&authority, &node] {
        let file = node.directory().join("credential.json");
        until("the credential to expire", async || {
            let sealed: protocol::document::Sealed<protocol::Credential> =
                serde_json::from_slice(&std::fs::read(&file).expect("it is there")).expect("a document");
            (sealed.claimed_header().expect("a header").expires_at <= protocol::Timestamp::now()).then_some(())
        })
        .await;
    }
    authority.restart().await;
    assert!(!authority.json(&["mesh", "show"]).await["member"].is_null(), "it is a member by its own word");
    node.restart().await;
    node.is_connected(authority.id()).await;
    assert_eq!(standing(&node, &node).await, "active");
}

/// The ports that everyone uses are the same before and after, and the peers' QUIC connections still in the middle of ending.
#[tokio::test(flavor = "multi_thread")]
async fn a_node_changes_its_mesh_on_its_usual_ports() {
    let (cluster, other) = (Cluster::new(), Cluster::new());
    let (one, two) = (founder(&cluster).await, founder(&other).await);
    let [port, quic, tcp] = cluster.free_ports().map(|port| port.to_string());
    let fixed = cluster.lone_node("node").set("mesh.port", &port).set("mesh.quic_port", &quic).set("mesh.tcp_port", &tcp);
    let node = fixed.start().await;
    for authority in [&one, &two, &one] {
        let token = token(authority, &["--address", authority.address("quic")]).await;
        assert_eq!(node.json(&["join", &token]).await["member"], true);
        authority.is_connected(node.id()).await;
        let pong = node.json(&["peers", "ping", &authority.id().to_string()]).await;
        assert!(pong["via"].as_str().is_some_and(|via| !via.is_empty()), "{pong}");
        assert_eq!(node.json(&["leave"]).await["admission"], "none");
    }
    assert_eq!(node.mcpctl(&["peers", "ping", &node.id().to_string(), "--json"]).await.exits(1).json()["code"], "invalid_request");
}

/// A machine that nobody types at: its token is in its environment, and its authority is down when it starts.
#[tokio::test(flavor = "multi_thread")]
async fn a_machine_joins_by_itself_when_its_authority_comes() {
    let cluster = Cluster::new();
    let mut authority = founder(&cluster).await;
    authority.restart().await;
    authority.look_again().await;
    let file = cluster.place().join("token");
    let first = authority.json(&["token", "create"]).await;
    // On the ports that it keeps from now on.
    std::fs::write(&file, first["token"].as_str().expect("a token")).expect("written");
    authority.kill9();
    let node = cluster.lone_node("unattended").set("mesh.join_token_file", file.to_str().expect("text")).start().await;
    let shown = node.json(&["mesh", "show"]).await;
    assert_eq!((&shown["admission"], &shown["member"]), (&json!("private"), &Value::Null), "{shown}");
    authority.restart().await;
    until("it to be a member", async || (!node.json(&["mesh", "show"]).await["member"].is_null()).then_some(())).await;
    node.is_connected(authority.id()).await;
    authority.is_connected(node.id()).await;
    assert_eq!(authority.peers().await.len(), 1);
}
