//! Releases that the operator has revoked: no way leads to one, and its agents say what to do.

use protocol::{
    Code, Digest, Problem,
    api::{Agent, Upgrade},
};
use serde_json::{Value, json};
use tests::{Cluster, Node, Plugin, Publisher, until, value};

use crate::fixtures::release;

async fn count(node: &Node) -> Result<Value, Problem> {
    node.execute("counter", "count", &json!({})).await.map(|executed| value(&executed))
}

async fn spawn(node: &Node, name: &str, plugin: &Plugin) -> Result<Agent, Problem> {
    node.spawn(name, plugin, None).await
}

fn digest(plugin: &Plugin) -> String {
    Digest::blake3(&plugin.component).to_string()
}

async fn refused(node: &Node, arguments: &[&str]) -> Value {
    let problem = node.mcpctl(&[arguments, &["--json"]].concat()).await.exits(5).json();
    assert_eq!(problem["code"], "plugin_revoked", "{arguments:?}: {problem}");
    problem
}

#[tokio::test(flavor = "multi_thread")]
async fn no_way_leads_to_a_revoked_release_and_its_agents_say_what_to_do() {
    let cluster = Cluster::new();
    let mut node = cluster.node("a").start().await;
    let publisher = Publisher::new();
    node.trust(&publisher).await;
    let [first, second, third] = [1, 2, 3].map(|mark| release(&publisher, "demo", mark, None));
    for plugin in [&first, &second] {
        node.register(plugin).await.expect("sound");
    }
    spawn(&node, "counter", &first).await.expect("spawned");
    count(&node).await.expect("counted");
    let upgrade = async |node: &Node, plugin: &Plugin| -> Result<Agent, Problem> {
        node.client().post("/v1/agents/counter/upgrade", &Upgrade { component: Digest::blake3(&plugin.component), grants: None }).await
    };
    upgrade(&node, &second).await.expect("upgraded");
    let file = cluster.place().join("counter.agent");
    let path = file.to_str().expect("UTF-8");
    node.json(&["agent", "export", "counter", path]).await;

    // The release that runs: calls of either kind are refused, whether it is loaded or not, and over a restart.
    let bad = digest(&second);
    let revoked = node.json(&["plugin", "revoke", &bad, "--reason", "it leaks"]).await;
    assert_eq!((&revoked["component"], &revoked["reason"]), (&json!(bad), &json!("it leaks")));
    for restarted in [false, true] {
        for method in ["count", "read"] {
            let problem = node.execute("counter", method, &json!({})).await.expect_err("revoked");
            assert_eq!(problem.code, Code::PluginRevoked, "{problem}");
            let hint = problem.hint.unwrap_or_default();
            assert!(problem.detail.contains("counter") && problem.detail.contains("it leaks") && hint.contains("agent upgrade"), "{hint}");
        }
        assert_eq!(spawn(&node, "other", &second).await.expect_err("revoked").code, Code::PluginRevoked);
        assert_eq!(node.register(&second).await.expect_err("revoked").code, Code::PluginRevoked);
        refused(&node, &["agent", "import", path, "--as", "copy"]).await;
        if !restarted {
            node.kill9();
            node.restart().await;
        }
    }
    // It is seen where one looks.
    let listed = node.json(&["plugin", "list"]).await;
    let of = |bad: &str| listed["items"].as_array().expect("items").iter().find(|item| item["component"] == bad).expect("listed").clone();
    assert_eq!((&of(&bad)["revoked"]["reason"], of(&digest(&first)).get("revoked")), (&json!("it leaks"), None));
    assert!(node.mcpctl(&["plugin", "list"]).await.exits(0).stdout.contains("it leaks"));
    assert_eq!(node.json(&["plugin", "revocations"]).await["items"][0]["component"], bad);
    let manifest = cluster.place().join("demo.manifest.json");
    std::fs::write(&manifest, serde_json::to_vec(&second.manifest).expect("JSON")).expect("written");
    let manifest = manifest.to_str().expect("UTF-8");
    assert_eq!(node.json(&["plugin", "inspect", manifest]).await["revoked"]["reason"], "it leaks");
    assert!(node.mcpctl(&["plugin", "inspect", manifest]).await.exits(0).stdout.contains("revoked"));

    // The agent moves on with its state: back, as the release before is sound, or forward; never to what is revoked.
    node.json(&["agent", "rollback", "counter"]).await;
    assert_eq!(count(&node).await.expect("it runs again"), json!({ "count": 2 }));
    assert_eq!(upgrade(&node, &second).await.expect_err("downgrade").code, Code::PluginRevoked);
    node.register(&third).await.expect("sound");
    upgrade(&node, &third).await.expect("upgraded");
    node.json(&["plugin", "revoke", &digest(&first)]).await;
    refused(&node, &["agent", "rollback", "counter"]).await;
    assert_eq!(count(&node).await.expect("as before"), json!({ "count": 3 }));

    // Taken back, it is as it was; and all of it is in the trace.
    node.json(&["plugin", "unrevoke", &bad]).await;
    upgrade(&node, &second).await.expect("no longer revoked");
    assert_eq!(count(&node).await.expect("counted"), json!({ "count": 4 }));
    assert_eq!(node.mcpctl(&["plugin", "unrevoke", &bad, "--json"]).await.exits(1).json()["code"], "not_found");
    let traced = node.json(&["trace", "list", "--limit", "1000"]).await;
    let actions = |action: &str| traced["items"].as_array().expect("items").iter().filter(|item| item["entry"]["action"] == action).count();
    assert_eq!((actions("revoke"), actions("unrevoke")), (2, 1));
    node.json(&["trace", "verify"]).await;
    let long = "x".repeat(300);
    for reason in ["", "two\nlines", &long] {
        let wrong = node.mcpctl(&["plugin", "revoke", &bad, "--reason", reason, "--json"]).await;
        assert_eq!(wrong.exits(1).json()["code"], "invalid_request", "{reason:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_plugin_is_offered_to_nobody_and_comes_from_nowhere() {
    let (cluster, _bootstrap) = Cluster::with_bootstrap().await;
    let giver = cluster.node("giver").set("plugins.share", "members").join().await;
    let taker = cluster.node("taker").join().await;
    let publisher = Publisher::new();
    let plugin = release(&publisher, "demo", 1, None);
    let component = digest(&plugin);
    for node in [&giver, &taker] {
        node.trust(&publisher).await;
    }
    giver.register(&plugin).await.expect("sound");
    giver.spawn("counter", &plugin, None).await.expect("spawned");
    taker.discovers("demo.count", "").await;

    // Before it was ever here.
    taker.json(&["plugin", "revoke", &component]).await;
    let from = giver.id().to_string();
    let fetch = ["plugin", "fetch", "--from", &from, &component];
    refused(&taker, &fetch).await;
    taker.json(&["plugin", "unrevoke", &component]).await;

    // Who revokes it neither offers it nor hands it out.
    giver.json(&["plugin", "revoke", &component]).await;
    refused(&taker, &fetch).await;
    until("it to be offered no longer", async || {
        let found = taker.json(&["discover", "demo.count", "--timeout", "5s"]).await;
        (found["items"] == json!([])).then_some(())
    })
    .await;
    giver.json(&["plugin", "unrevoke", &component]).await;
    taker.discovers("demo.count", "").await;
    taker.json(&fetch).await;
}
