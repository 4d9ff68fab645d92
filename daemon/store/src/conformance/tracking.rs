//! What changed in a state since its base: nothing is ever left out, and no more is kept than is worth it.

use std::sync::Arc;

use protocol::AgentId;

use super::{apply, at_most, calls, charge, made, state};
use crate::{
    Store, Tracked,
    commit::{Commit, Held, Tracking},
};

async fn track(store: &dyn Store, tracking: Tracking) {
    made(store, Commit { tracking: Some(tracking), ..Commit::default() }).await;
}

/// What a view says now: the mark, the base's note, the keys that changed.
async fn seen(store: &dyn Store, agent: AgentId) -> Option<(u64, Option<String>, Vec<String>)> {
    let mut view = store.view(&agent).await.expect("view");
    let Tracked { mark, base } = view.tracked().await.expect("tracked")?;
    let mut keys: Vec<String> = Vec::new();
    loop {
        let page = view.changed(keys.last().map(String::as_str), 2).await.expect("changes");
        let last = page.len() < 2;
        keys.extend(page);
        if last {
            return Some((mark, base.map(|note| String::from_utf8(note).expect("text")), keys));
        }
    }
}

async fn mark(store: &dyn Store, agent: AgentId) -> u64 {
    track(store, Tracking::Mark(agent)).await;
    seen(store, agent).await.expect("changes are kept").0
}

async fn base(store: &dyn Store, agent: AgentId, mark: u64, note: &str) {
    track(store, Tracking::Base { agent, mark, note: note.into() }).await;
}

pub(super) async fn changes_are_told_since_a_base(store: &dyn Store) {
    let (agent, other) = (AgentId::new(), AgentId::new());
    track(store, Tracking::Mark(agent)).await;
    assert_eq!(seen(store, agent).await, None, "there is nothing yet that could change");
    made(store, state(agent, &[("a", Some("1")), ("b", Some("1")), ("c", Some("1"))])).await;
    made(store, state(other, &[("a", Some("1"))])).await;
    assert_eq!(seen(store, agent).await, None, "not before the first mark");
    let first = mark(store, agent).await;
    made(store, state(agent, &[("b", Some("2")), ("gone", None)])).await;
    made(store, state(other, &[("x", Some("1"))])).await;
    assert_eq!(seen(store, agent).await, Some((first, None, vec!["b".into()])), "what isn't there can't be deleted");
    base(store, agent, first, "one").await;
    let since = |mark, note: &str, keys: &[&str]| Some((mark, Some(note.to_owned()), keys.iter().map(|key| (*key).into()).collect()));
    assert_eq!(seen(store, agent).await, since(first, "one", &["b"]), "those after the mark stay");

    // A snapshot under way: what was written before its mark is what it takes, the rest the next one's.
    made(store, state(agent, &[("a", None), ("é", Some("1")), ("d/1", Some("")), ("a", Some("2"))])).await;
    let second = mark(store, agent).await;
    assert!(second > first);
    let mut under_way = store.view(&agent).await.expect("view");
    made(store, state(agent, &[("a", Some("3")), ("c", None), ("z", Some("1")), ("z", None)])).await;
    assert_eq!(under_way.changed(None, 9).await.expect("changes"), ["a", "b", "d/1", "é"], "as of the view");
    assert_eq!(under_way.changed(Some("b"), 1).await.expect("changes"), ["d/1"]);
    assert_eq!(seen(store, agent).await, since(second, "one", &["a", "b", "c", "d/1", "z", "é"]), "one that fails loses nothing");
    let third = mark(store, agent).await;
    made(store, state(agent, &[("d/2", Some("1"))])).await;
    base(store, agent, second, "two").await;
    assert_eq!(seen(store, agent).await, since(third, "two", &["a", "c", "d/2", "z"]), "before that mark: b, d/1, é");
    base(store, agent, first, "late").await;
    base(store, agent, third + 1_000_000, "early").await;
    base(store, other, third, "never marked").await;
    assert_eq!(seen(store, agent).await, since(third, "two", &["a", "c", "d/2", "z"]), "neither an older base nor one to come");
    assert_eq!(seen(store, other).await, None);

    // What isn't made changes nothing.
    let agreement = protocol::AgreementId::new();
    let refused = Commit {
        charge: Some(charge(agreement, calls(2), &[("total", at_most(1))])),
        tracking: Some(Tracking::End(agent)),
        ..state(agent, &[("e", Some("1"))])
    };
    apply(store, refused).await.expect_err("over its limit");
    assert_eq!(seen(store, agent).await, since(third, "two", &["a", "c", "d/2", "z"]));
    track(store, Tracking::End(agent)).await;
    assert_eq!(seen(store, agent).await, None);
    let again = mark(store, agent).await;
    assert!(again > third, "no mark is given out twice");
    base(store, agent, third, "of before").await;
    assert_eq!(seen(store, agent).await, Some((again, None, vec![])), "changes between were not kept");
}

pub(super) async fn tracking_ends_with_the_state_and_where_too_much_changed(store: &dyn Store) {
    let agent = AgentId::new();
    made(store, state(agent, &[("a", Some("1"))])).await;
    let first = mark(store, agent).await;
    base(store, agent, first, "one").await;
    let state_then = super::writes(agent, &[("b", Some("1"))]);
    made(store, Commit { clear_state: Some(agent), state: Some(state_then), ..Commit::default() }).await;
    assert_eq!(seen(store, agent).await, None, "another state");
    base(store, agent, first, "one").await;
    assert_eq!(seen(store, agent).await, None, "a base of the state before is none of this one");

    // As much as is kept for a small state, and one key more.
    let most = usize::try_from(Held::default().changes_kept()).expect("few");
    let keys: Vec<String> = (0..=most).map(|key| format!("{key:06}")).collect();
    let write = |from: usize, to: usize, value| keys[from..to].iter().map(|key| (key.as_str(), value)).collect::<Vec<_>>();
    let second = mark(store, agent).await;
    base(store, agent, second, "two").await;
    made(store, state(agent, &write(0, most, Some("1")))).await;
    made(store, state(agent, &write(0, most, None))).await;
    assert_eq!(seen(store, agent).await.map(|(_, _, keys)| keys.len()), Some(most), "each key counts once");
    made(store, state(agent, &write(most, most + 1, Some("1")))).await;
    made(store, state(agent, &write(most, most + 1, None))).await;
    assert_eq!(seen(store, agent).await, None, "no more is kept");
    made(store, state(agent, &[("c", Some("1"))])).await;
    let third = mark(store, agent).await;
    assert_eq!(seen(store, agent).await, Some((third, None, vec![])), "it begins anew");
    assert_eq!(store.held(&agent).await.expect("held"), Held { keys: 2, bytes: 4 }, "what is held is counted all the same");
}

pub(super) async fn changes_outlive_the_process<F: AsyncFn() -> Arc<dyn Store>>(store: Arc<dyn Store>, open: &F) -> Arc<dyn Store> {
    let agent = AgentId::new();
    made(&*store, state(agent, &[("a", Some("1"))])).await;
    let first = mark(&*store, agent).await;
    base(&*store, agent, first, "one").await;
    made(&*store, state(agent, &[("b", Some("1"))])).await;
    store.close().await.expect("close");
    drop(store);
    let store = open().await;
    made(&*store, state(agent, &[("a", None)])).await;
    assert_eq!(seen(&*store, agent).await, Some((first, Some("one".into()), vec!["a".into(), "b".into()])));
    store
}
