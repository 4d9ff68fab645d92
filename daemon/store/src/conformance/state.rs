//! Agents' state: ordered, and seen as of one moment.

use protocol::AgentId;

use super::{apply, made, state, value, writes};
use crate::{
    Store,
    commit::{Commit, Held, Kind, Rejected, StateWrites},
};

pub(super) async fn lists_are_in_byte_order(store: &dyn Store) {
    let (agent, other) = (AgentId::new(), AgentId::new());
    let keys = ["b", "a/2", "a", "é", "a/10", "a/", "a0", "B", "a/1", "\u{10ffff}", "a/é"];
    let pairs: Vec<_> = keys.iter().map(|key| (*key, Some("v"))).collect();
    made(store, state(agent, &pairs)).await;
    made(store, state(other, &[("a/3", Some("v")), ("0", Some("v"))])).await;
    let mut view = store.view(&agent).await.expect("view");
    let sorted = ["B", "a", "a/", "a/1", "a/10", "a/2", "a/é", "a0", "b", "é", "\u{10ffff}"];
    assert_eq!(view.list("", None, 100).await.expect("list"), sorted);
    assert_eq!(view.list("a/", None, 100).await.expect("list"), ["a/", "a/1", "a/10", "a/2", "a/é"]);
    assert_eq!(view.list("a/", Some("a/10"), 100).await.expect("list"), ["a/2", "a/é"]);
    assert_eq!(view.list("a/", Some("a/10x"), 1).await.expect("list"), ["a/2"], "after what isn't there");
    assert_eq!(view.list("a/", Some("B"), 2).await.expect("list"), ["a/", "a/1"], "after what is before all");
    assert!(view.list("a/", Some("b"), 9).await.expect("list").is_empty(), "after all");
    assert!(view.list("c", None, 9).await.expect("list").is_empty());
    assert!(view.list("", None, 0).await.expect("list").is_empty());
    let mut paged = Vec::new();
    loop {
        let page = view.list("", paged.last().map(String::as_str), 3).await.expect("list");
        let last = page.len() < 3;
        paged.extend(page);
        if last {
            break;
        }
    }
    assert_eq!(paged, sorted, "pages meet without gap or overlap");
    for bytes in [1, 5, 1_000] {
        let mut scanned: Vec<String> = Vec::new();
        loop {
            let page = view.scan(scanned.last().map(String::as_str), bytes).await.expect("scan");
            assert!(page.iter().all(|(_, value)| value == b"v"));
            assert!(page.iter().rev().skip(1).map(|(key, value)| key.len() + value.len()).sum::<usize>() < bytes, "one beyond the limit");
            if page.is_empty() {
                break;
            }
            scanned.extend(page.into_iter().map(|(key, _)| key));
        }
        assert_eq!(scanned, sorted, "scans meet without gap or overlap");
    }
}

pub(super) async fn what_is_held_is_counted_and_limited(store: &dyn Store) {
    let agent = AgentId::new();
    let held = async || {
        let held = store.held(&agent).await.expect("held");
        (held.keys, held.bytes)
    };
    assert_eq!(held().await, (0, 0));
    made(store, state(agent, &[("é", Some("12345")), ("b", Some("")), ("b", Some("12")), ("none", None)])).await;
    assert_eq!(held().await, (2, 10), "each key once, as it is in the end, in bytes");
    let limited = |quota: (u64, u64), pairs: &[(&str, Option<&str>)]| {
        let quota = Some(Held { keys: quota.0, bytes: quota.1 });
        Commit { state: Some(StateWrites { quota, ..writes(agent, pairs) }), ..Commit::default() }
    };
    made(store, limited((2, 12), &[("b", Some("1234"))])).await;
    assert_eq!(held().await, (2, 12), "up to the quota");
    for refused in [limited((2, 12), &[("b", Some("12345"))]), limited((2, 99), &[("c", Some(""))])] {
        assert!(matches!(apply(store, refused).await, Err(Rejected::StateFull { .. })));
        assert_eq!((held().await, value(store, agent, "b").await.as_deref()), ((2, 12), Some("1234")), "nothing of it was made");
    }
    made(store, limited((1, 5), &[("b", Some("1"))])).await;
    assert_eq!(held().await, (2, 9), "what shrinks is never refused, though it is over the quota");
    made(store, state(agent, &[("é", None)])).await;
    assert_eq!(held().await, (1, 2));
    made(store, Commit { clear_state: Some(agent), ..Commit::default() }).await;
    assert_eq!(held().await, (0, 0));
}

pub(super) async fn views_are_snapshots(store: &dyn Store) {
    let agent = AgentId::new();
    made(store, state(agent, &[("changed", Some("old")), ("deleted", Some("old"))])).await;
    let mut before = store.view(&agent).await.expect("view");
    made(store, state(agent, &[("changed", Some("new")), ("deleted", None), ("added", Some("new"))])).await;
    let mut between = store.view(&agent).await.expect("view");
    made(store, Commit { clear_state: Some(agent), ..Commit::default() }).await;
    let mut after = store.view(&agent).await.expect("view");
    let expected: [(_, [Option<&str>; 3], &[&str]); 3] = [
        (&mut before, [Some("old"), Some("old"), None], &["changed", "deleted"]),
        (&mut between, [Some("new"), None, Some("new")], &["added", "changed"]),
        (&mut after, [None, None, None], &[]),
    ];
    for (view, values, keys) in expected {
        assert_eq!(view.list("", None, 9).await.expect("list"), keys);
        for (key, value) in ["changed", "deleted", "added"].into_iter().zip(values) {
            assert_eq!(view.get(key).await.expect("get").as_deref(), value.map(str::as_bytes), "{key}");
        }
    }
}

/// Calls nest, each with its view, and read other things meanwhile: that must not stand still.
pub(super) async fn views_do_not_starve_each_other(store: &dyn Store) {
    let agent = AgentId::new();
    let mut views = Vec::new();
    for number in 0..64 {
        let number = number.to_string();
        made(store, state(agent, &[("n", Some(&number))])).await;
        views.push((number, store.view(&agent).await.expect("a view while others are open")));
        assert_eq!(store.record(Kind::Meta, "no such").await.expect("a read while views are open"), None);
        store.leaves(0, 1000).await.expect("a scan while views are open");
    }
    for (number, view) in &mut views {
        assert_eq!(view.get("n").await.expect("get"), Some(number.clone().into_bytes()));
    }
}

pub(super) async fn state_is_cleared_before_it_is_written(store: &dyn Store) {
    let (agent, other) = (AgentId::new(), AgentId::new());
    made(store, state(agent, &[("old", Some("1"))])).await;
    made(store, state(other, &[("old", Some("1"))])).await;
    let state = Some(writes(agent, &[("new", Some("2")), ("gone", Some("3")), ("gone", None)]));
    made(store, Commit { clear_state: Some(agent), state, ..Commit::default() }).await;
    let keys = store.view(&agent).await.expect("view").list("", None, 9).await.expect("list");
    assert_eq!(keys, ["new"], "a recovery replaces all there was, and writes are made in order");
    assert_eq!(value(store, other, "old").await.as_deref(), Some("1"), "another agent keeps its own");
}
