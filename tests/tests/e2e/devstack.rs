//! `mcpctl devstack`: a mesh in one command, that leaves nothing behind.

use std::{fs, path::Path};

use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;
use tests::{Answer, Process, command, processes_naming, run, until};

/// A directory under which devstack makes its temporary one, so that it can be looked at.
fn place() -> TempDir {
    tempfile::Builder::new().prefix("mcp0-").tempdir().expect("a directory")
}

async fn devstack(place: &Path, arguments: &[&str]) -> Answer {
    let mut command = command("mcpctl");
    command.env("TMPDIR", place).arg("devstack").args(arguments);
    run(command).await
}

fn entries(place: &Path) -> Vec<String> {
    fs::read_dir(place).expect("a directory").flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn once_does_the_work_verifies_it_and_leaves_nothing() {
    let place = place();
    let report = devstack(place.path(), &["--once", "--json"]).await.exits(0).json();
    for (name, is) in [
        ("nodes", Value::is_array as fn(&Value) -> bool),
        ("discovered_ms", Value::is_u64),
        ("agreement", Value::is_object),
        ("indexed", Value::is_u64),
        ("results", Value::is_array),
        ("usage", Value::is_object),
        ("elapsed_ms", Value::is_u64),
    ] {
        assert!(is(&report[name]), "{name}: {report}");
    }
    for name in ["receipt_verified", "agreement_verified", "trace_verified"] {
        assert_eq!(report[name], true, "{name}");
    }
    assert_eq!(report["nodes"].as_array().map(Vec::len), Some(3), "a bootstrap node and two nodes");
    assert_eq!(report["agreement"]["status"], "active");
    assert!(!report["results"].as_array().expect("results").is_empty());
    // Each document, a search, and a look at what is there.
    assert_eq!(report["usage"]["calls"].as_u64(), report["indexed"].as_u64().map(|indexed| indexed + 2));
    assert_eq!(processes_naming(place.path()), Vec::<u32>::new());
    assert_eq!(entries(place.path()), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn documents_of_ones_own_are_indexed_by_more_nodes() {
    let (place, docs) = (place(), place());
    for (name, text) in
        [("orchard.txt", "An orchard of pears, and a pear press."), ("sub/harbour.md", "# Harbour\nBoats lie in the harbour.")]
    {
        let path = docs.path().join(name);
        fs::create_dir_all(path.parent().expect("a parent")).expect("directory");
        fs::write(path, text).expect("write");
    }
    fs::write(docs.path().join("image.bin"), [0, 159, 146]).expect("write");
    let arguments = ["--once", "--json", "--nodes", "3", "--docs", docs.path().to_str().expect("UTF-8")];
    let report = devstack(place.path(), &arguments).await.exits(0).json();
    assert_eq!((&report["indexed"], &report["skipped"]), (&2.into(), &1.into()));
    assert_eq!(report["nodes"].as_array().map(Vec::len), Some(4));
    let best = report["results"][0]["path"].as_str().expect("a path");
    assert!(["orchard.txt", "sub/harbour.md"].contains(&best), "{best}");
    assert_eq!(entries(place.path()), Vec::<String>::new());
    let none = devstack(place.path(), &["--once", "--json", "--docs", "/nonexistent"]).await.exits(1);
    assert_eq!(none.json()["code"], "invalid_request");
}

#[tokio::test(flavor = "multi_thread")]
async fn ctrl_c_leaves_no_process_and_no_file_whenever_it_comes() {
    for late in [false, true] {
        let place = place();
        let mut mcpctl = command("mcpctl");
        mcpctl.env("TMPDIR", place.path()).args(["devstack", "--json"]);
        let logs = tempfile::tempdir().expect("a directory");
        let mut devstack = Process::start("devstack", mcpctl, logs.path());
        until("devstack to be under way", async || {
            assert!(devstack.is_running(), "{}", devstack.log());
            if late { devstack.said().ends_with('\n').then_some(()) } else { (!processes_naming(place.path()).is_empty()).then_some(()) }
        })
        .await;
        devstack.signal(Signal::INT);
        let status = devstack.ended().await;
        assert_eq!(status.code(), Some(0), "late: {late}, {}", devstack.log());
        assert_eq!(processes_naming(place.path()), Vec::<u32>::new(), "late: {late}");
        assert_eq!(entries(place.path()), Vec::<String>::new(), "late: {late}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_kept_is_kept_and_a_full_directory_is_refused() {
    let (place, kept) = (place(), place());
    let directory = kept.path().join("stack");
    let arguments = ["--once", "--json", "--keep", directory.to_str().expect("UTF-8")];
    devstack(place.path(), &arguments).await.exits(0);
    for file in ["a/node.key", "b/node.key", "bootstrap", "a.log"] {
        assert!(directory.join(file).exists(), "{file}");
    }
    assert_eq!(processes_naming(&directory), Vec::<u32>::new());
    let key = fs::read(directory.join("a/node.key")).expect("key");
    let refused = devstack(place.path(), &arguments).await.exits(1).json();
    assert_eq!(refused["code"], "conflict");
    assert_eq!(fs::read(directory.join("a/node.key")).expect("key"), key, "nothing was touched");
    assert_eq!(entries(place.path()), Vec::<String>::new());
}
