//! What scripts rely on: documents, lists, messages, exit codes.

use std::fs;

use protocol::{Code, Problem};
use serde_json::{Value, json};
use tests::{Cluster, command, run};

use crate::fixtures::counter;

fn keys(value: &Value) -> Vec<&str> {
    value.as_object().expect("an object").keys().map(String::as_str).collect()
}

/// Sorted, as a JSON object's keys are when read.
fn sorted<const N: usize>(mut names: [&str; N]) -> [&str; N] {
    names.sort_unstable();
    names
}

#[tokio::test(flavor = "multi_thread")]
async fn documents_have_their_members_and_lists_their_items() {
    let cluster = Cluster::new();
    let node = cluster.node("a").start().await;
    let id = node.json(&["id"]).await;
    assert_eq!(keys(&id), sorted(["node_id", "mesh_id", "owner", "addresses"]));
    assert!(id["node_id"].as_str().is_some_and(|id| id.starts_with("12D3KooW")));
    assert!(id["owner"].as_str().is_some_and(|did| did.starts_with("did:key:z6Mk")));
    assert_eq!(id["addresses"].as_array().map(Vec::len), Some(3), "one for each transport: {id}");
    let status = node.json(&["status"]).await;
    assert_eq!(
        keys(&status),
        sorted(["node_id", "ready", "roles", "peers", "agents", "uptime_s", "version", "trace_size", "store_damaged"])
    );
    assert_eq!((&status["ready"], &status["roles"]), (&json!(true), &json!(["kernel", "agreement", "mesh"])));

    let agent = node.host("counter", "demo", counter()).await;
    node.json(&["key", "create", "ci", "--ttl", "1h"]).await;
    for (list, least) in [
        (&["peers", "list"][..], 0),
        (&["plugin", "list"], 1),
        (&["plugin", "publishers"], 1),
        (&["agent", "list"], 1),
        (&["agreement", "list"], 0),
        (&["agreement", "templates"], 3),
        (&["trace", "list"], 1),
        (&["key", "list"], 1),
        (&["config", "show"], 15),
        (&["discover", "demo.count"], 1),
    ] {
        let found = node.json(list).await;
        assert!(found["items"].as_array().is_some_and(|items| items.len() >= least), "{list:?}: {found}");
        // The same for people.
        let shown = node.mcpctl(list).await.exits(0);
        assert_eq!(shown.stdout.is_empty(), least == 0, "{list:?}: {shown:?}");
    }
    let setting = node.json(&["config", "show"]).await["items"]
        .as_array()
        .and_then(|items| items.iter().find(|item| item["key"] == "mesh.host").cloned());
    assert_eq!(setting.expect("a setting")["source"], "flag --set mesh.host");
    let shown = node.json(&["agent", "show", "counter"]).await;
    assert_eq!(shown["id"], json!(agent.id));
    let executed = node.json(&["agent", "execute", "counter", "echo", r#"{"a": 1}"#]).await;
    assert_eq!(executed["result"], json!({ "a": 1 }));
    assert!(executed["operation"].as_str().is_some_and(|id| id.starts_with("op_")), "{executed}");
    assert_eq!(node.mcpctl(&["agent", "execute", "counter", "echo", r#"{"a": 1.50}"#]).await.exits(0).stdout, "{\"a\": 1.50}\n");
    assert_eq!(node.json(&["agent", "terminate", "counter"]).await["terminated"], true);
    assert_eq!(node.json(&["agent", "list"]).await["items"], json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn failures_say_what_and_what_to_do_and_exit_codes_tell_them_apart() {
    let cluster = Cluster::new();
    let mut node = cluster.node("a").start().await;
    node.host("counter", "demo", counter()).await;

    // 1: it failed. Text on stderr; with --json also a problem document on stdout.
    let text = node.mcpctl(&["agent", "show", "nobody"]).await.exits(1);
    assert_eq!(text.stdout, "");
    let lines: Vec<&str> = text.stderr.lines().collect();
    assert!(lines[0].starts_with("error: ") && lines[0].contains("nobody") && lines[1].starts_with("hint: "), "{lines:?}");
    let document = node.mcpctl(&["agent", "show", "nobody", "--json"]).await.exits(1);
    let problem: Problem = serde_json::from_value(document.json()).expect("RFC 9457");
    assert_eq!((problem.code, problem.status, problem.kind.as_str()), (Code::AgentNotFound, 404, "urn:mcp-zero:error:agent_not_found"));
    assert!(problem.request_id.is_some(), "the request's id: {problem:?}");
    assert!(document.stderr.starts_with("error: "));

    // 2: the command line is wrong.
    let usage = node.mcpctl(&["agent", "execute", "counter", "echo", "{not json"]).await.exits(2);
    assert!(usage.stderr.starts_with("error: the parameters are not JSON"), "{}", usage.stderr);
    let usage = node.mcpctl(&["frobnicate", "--json"]).await.exits(2);
    assert_eq!(usage.json()["code"], "invalid_request");

    // 5: not authorized. A publisher that nobody trusts.
    let stranger = tests::Publisher::new().sign("demo", counter(), &[protocol::manifest::Import::State]);
    let wasm = cluster.place().join("demo.wasm");
    fs::write(&wasm, &stranger.component).expect("write");
    fs::write(cluster.place().join("demo.manifest.json"), serde_json::to_vec(&stranger.manifest).expect("JSON")).expect("write");
    let refused = node.mcpctl(&["agent", "spawn", "other", "--plugin", wasm.to_str().expect("UTF-8"), "--json"]).await.exits(5);
    assert_eq!(refused.json()["code"], "untrusted_publisher");
    assert!(refused.json()["hint"].as_str().is_some_and(|hint| hint.contains("mcpctl plugin trust did:key:")));

    // 6: timed out.
    let late = node.mcpctl(&["agent", "execute", "counter", "loop", "--timeout", "500ms", "--json"]).await.exits(6);
    assert_eq!(late.json()["code"], "timed_out");

    // 3: no daemon.
    node.stop().await;
    let gone = node.mcpctl(&["status", "--json"]).await.exits(3);
    assert_eq!(gone.json()["code"], "not_running");
    assert!(gone.stderr.contains("hint: start one with 'mcpd'"), "{}", gone.stderr);
}

#[tokio::test]
async fn a_wrong_configuration_is_found_before_anything_starts() {
    let place = tempfile::tempdir().expect("a directory");
    let check = |arguments: &[&str]| {
        let mut mcpd = command("mcpd");
        mcpd.arg("--check").arg("--data-dir").arg(place.path().join("node")).args(arguments);
        run(mcpd)
    };
    check(&[]).await.exits(0);
    let wrong = check(&["--set", "mesh.prot=1"]).await.exits(2);
    assert!(wrong.stderr.contains("error: unknown key 'mesh.prot'") && wrong.stderr.contains("mesh.port"), "{}", wrong.stderr);
    let wrong = check(&["--set", "mesh.port=70000"]).await.exits(2);
    assert!(wrong.stderr.contains("65535"), "{}", wrong.stderr);
    let file = place.path().join("config.toml");
    fs::write(&file, "[mesh]\nboostrap_peers = []\n").expect("write");
    let path = file.to_str().expect("UTF-8");
    let wrong = check(&["--config", path]).await.exits(2);
    assert!(wrong.stderr.contains(path) && wrong.stderr.contains("mesh.bootstrap_peers"), "{}", wrong.stderr);
    assert!(!place.path().join("node").exists(), "a check makes nothing");

    // The same through mcpctl, which finds the daemon's program beside itself.
    let validate = |file: &str| {
        let mut mcpctl = command("mcpctl");
        mcpctl.args(["config", "validate", file, "--json"]);
        run(mcpctl)
    };
    validate(path).await.exits(2);
    fs::write(&file, "[mesh]\nport = 0\n").expect("write");
    assert_eq!(validate(path).await.exits(0).json(), json!({ "valid": true }));
}

#[tokio::test]
async fn every_shell_has_completions_and_every_program_a_version() {
    for shell in ["bash", "zsh", "fish"] {
        let mut mcpctl = command("mcpctl");
        mcpctl.args(["completions", shell]);
        let script = run(mcpctl).await.exits(0).stdout;
        assert!(script.contains("mcpctl") && script.contains("devstack"), "{shell}");
    }
    for name in ["mcpd", "mcpctl", "mcp-gateway", "mcp-bootstrap"] {
        for flag in ["--version", "--help"] {
            let mut program = command(name);
            program.arg(flag);
            assert!(run(program).await.exits(0).stdout.contains(if flag == "--version" { name } else { "Usage: " }), "{name} {flag}");
        }
    }
}
