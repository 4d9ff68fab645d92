//! A clock that jumps: what can't be undone waits until it is believed.

use std::path::{Path, PathBuf};

use serde_json::json;
use tests::{Cluster, value};

use crate::fixtures::counter;

/// libfaketime (`apt-get install libfaketime`), if it is there.
fn library() -> Option<PathBuf> {
    let places = ["x86_64-linux-gnu", "aarch64-linux-gnu"].map(|of| format!("/usr/lib/{of}/faketime/libfaketime.so.1").into());
    places.into_iter().find(|place: &PathBuf| place.exists())
}

/// A test that is skipped says so; in CI none is.
#[expect(clippy::print_stderr, reason = "the test's own output")]
fn skipped() {
    assert!(std::env::var_os("CI").is_none(), "libfaketime is missing: apt-get install libfaketime");
    eprintln!("SKIPPED: libfaketime is missing: apt-get install libfaketime");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_jumps_forward_drops_no_answer_and_prunes_nothing() {
    let Some(library) = library() else {
        return skipped();
    };
    let cluster = Cluster::new();
    let mut node = cluster.node("a").start().await;
    node.host("counter", "demo", counter()).await;
    let first = node.execute_once("counter", "count", &json!({}), "once").await.expect("it counts");
    for _ in 0..300 {
        node.execute("counter", "count", &json!({})).await.expect("it counts");
    }
    node.stop().await;

    // Longer than answers are kept, and than what is pruned below.
    for (variable, text) in [("FAKETIME", "+400d"), ("FAKETIME_DONT_FAKE_MONOTONIC", "1")] {
        node.env(variable, Path::new(text));
    }
    node.env("LD_PRELOAD", &library);
    node.restart().await;
    let again = node.execute_once("counter", "count", &json!({}), "once").await.expect("it was answered");
    assert_eq!((again.operation, value(&again)), (first.operation, value(&first)), "it didn't run again");
    let pruned = node.json(&["trace", "prune", "--older-than", "30d"]).await;
    assert_eq!(pruned["cleared"], 0, "{pruned}");
    assert!(node.log().contains("the clock is ahead of what is proven"), "{}", node.log());
    node.json(&["trace", "show", "0"]).await;

    // Nor after another start, by what that one has entered.
    node.restart().await;
    let again = node.execute_once("counter", "count", &json!({}), "once").await.expect("it was answered");
    assert_eq!(again.operation, first.operation, "it didn't run again");
    // And a clock that is right prunes what is old enough.
    node.stop().await;
    for variable in ["LD_PRELOAD", "FAKETIME", "FAKETIME_DONT_FAKE_MONOTONIC"] {
        node.unset(variable);
    }
    node.restart().await;
    let pruned = node.json(&["trace", "prune", "--older-than", "1ms"]).await;
    assert!(pruned["cleared"].as_u64() >= Some(256), "{pruned}");
}
