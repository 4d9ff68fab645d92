//! What `mcpctl plugin new` makes, in every language: built, signed, run and called, by compilers as developers have them.

use std::{fs, path::Path, time::Duration};

use serde_json::{Value, json};
use tests::{Answer, Cluster, Node, Process, command, run_within, until, value, with_toolchains};

/// A compiler that meets a machine for the first time builds its own libraries first.
const LONG: Duration = Duration::from_secs(600);

/// `mcpctl` on a node, with compilers at hand.
async fn mcpctl(node: &Node, arguments: &[&str]) -> Answer {
    let mut command = command("mcpctl");
    command.arg("--data-dir").arg(node.directory()).args(arguments);
    with_toolchains(&mut command);
    run_within(command, LONG).await
}

/// The whole way of a new plugin, from its template to an answer.
async fn from_template_to_answer(language: &str) {
    let cluster = Cluster::new();
    let node = cluster.node("a").start().await;
    let file = |name: &str| cluster.place().join(name).to_str().expect("UTF-8").to_owned();
    let (dir, wasm, key) = (file("greeter"), file("greeter/greeter.wasm"), file("publisher.pem"));
    let did = node.mcpctl(&["key", "create", "--signing", &key]).await.exits(0).stdout;
    node.mcpctl(&["plugin", "trust", did.trim(), "--name", "me"]).await.exits(0);
    node.mcpctl(&["plugin", "new", "greeter", "--language", language, "--dir", &dir]).await.exits(0);
    mcpctl(&node, &["plugin", "build", &dir]).await.exits(0);
    node.mcpctl(&["plugin", "sign", &dir, "--key", &key]).await.exits(0);
    mcpctl(&node, &["agent", "spawn", "greeter", "--plugin", &wasm]).await.exits(0);

    let greet = async |name: &str| node.execute("greeter", "greet", &json!({ "name": name })).await;
    assert_eq!(value(&greet("Ada").await.expect("greeted")), json!({ "text": "Hello, Ada!", "greeted": 1 }));
    // What needs care in every language: quotes, backslashes, text beyond ASCII and beyond the first plane.
    let odd = "\"Å\\\u{1f980}\n";
    let second = json!({ "text": format!("Hello, {odd}!"), "greeted": 2 });
    assert_eq!(value(&greet(odd).await.expect("greeted")), second);
    let counted = node.execute("greeter", "greeted", &json!({})).await.expect("counted");
    assert_eq!(value(&counted), json!({ "greeted": 2 }));
    let logs = node.json(&["agent", "logs", "greeter"]).await;
    assert_eq!(logs["items"][1]["line"], "greeting number 2", "{logs}");
    let wrong = node.execute("greeter", "greet", &json!({ "nam": "Ada" })).await.expect_err("the schema says name");
    assert_eq!(wrong.code, protocol::Code::InvalidParams);
}

#[tokio::test(flavor = "multi_thread")]
async fn rust() {
    from_template_to_answer("rust").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn c() {
    from_template_to_answer("c").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn python() {
    from_template_to_answer("python").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn javascript() {
    from_template_to_answer("javascript").await;
}

/// A developer at work: the agent follows each change, keeps its state, and outlives what doesn't compile.
#[tokio::test(flavor = "multi_thread")]
async fn an_agent_follows_its_sources() {
    let cluster = Cluster::new();
    let node = cluster.node("a").start().await;
    let dir = cluster.place().join("greeter");
    let folder = dir.to_str().expect("UTF-8");
    node.mcpctl(&["plugin", "new", "greeter", "--language", "javascript", "--dir", folder]).await.exits(0);
    let mut dev = command("mcpctl");
    dev.arg("--data-dir").arg(node.directory()).args(["plugin", "dev", folder, "--agent", "greeter", "--json"]);
    with_toolchains(&mut dev);
    let mut dev = Process::start("dev", dev, cluster.place());

    let greeting = async |begins: &str| {
        until(begins, async || {
            let answer = node.execute("greeter", "greet", &json!({ "name": "Ada" })).await.ok()?;
            let answer = value(&answer);
            answer["text"].as_str().is_some_and(|text| text.starts_with(begins)).then_some(answer)
        })
        .await
    };
    let count = |answer: &Value| answer["greeted"].as_u64().expect("a count");
    let first = greeting("Hello, ").await;
    change(&dir, "Hello, ", "Howdy, ");
    let second = greeting("Howdy, ").await;
    assert!(count(&second) > count(&first), "the state is kept");

    change(&dir, "function greet(", "function greet((");
    until("the fault to be told", async || events(&dev).iter().any(|event| event["event"] == "failed").then_some(())).await;
    assert!(count(&greeting("Howdy, ").await) > count(&second), "the agent runs what it ran");
    change(&dir, "function greet((", "function greet(");
    change(&dir, "Howdy, ", "Hi, ");
    greeting("Hi, ").await;
    until("the agent's log", async || events(&dev).iter().any(|event| event["event"] == "logged").then_some(())).await;
    assert!(dev.is_running());

    // Builds don't pile up on the node: what the agent can't go back to is gone.
    for turn in 0..10 {
        let (from, to) = (if turn == 0 { "Hi, ".into() } else { format!("Hi{}, ", turn - 1) }, format!("Hi{turn}, "));
        change(&dir, &from, &to);
        greeting(&to).await;
    }
    until("old builds to go", async || {
        let plugins = node.json(&["plugin", "list"]).await;
        (plugins["items"].as_array().expect("a list").len() <= 9).then_some(())
    })
    .await;
}

/// Changes the source, as an editor does that writes another file and puts it in place.
fn change(dir: &Path, from: &str, to: &str) {
    let source = dir.join("plugin.js");
    let text = fs::read_to_string(&source).expect("the source is there");
    assert!(text.contains(from), "{text}");
    fs::write(dir.join("plugin.js~"), text.replace(from, to)).expect("written");
    fs::rename(dir.join("plugin.js~"), &source).expect("put in place");
}

fn events(dev: &Process) -> Vec<Value> {
    dev.output().lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}
