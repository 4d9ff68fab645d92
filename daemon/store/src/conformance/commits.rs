//! Commits: whole, alone, bounded, once.

use std::sync::Arc;

use protocol::{AgentId, AgreementId, OperationId};
use tokio::task::JoinSet;

use super::{answer, append, apply, at_most, calls, charge, fresh, made, record, state, value, writes};
use crate::{
    Store,
    commit::{Commit, Kind, MAX_NAME, MAX_VALUE, Rejected, TreeNode},
};

pub(super) async fn a_commit_is_all_or_nothing(store: &dyn Store) {
    let (agent, agreement, operation, id) = (AgentId::new(), AgreementId::new(), OperationId::new(), fresh());
    made(store, state(agent, &[("kept", Some("old"))])).await;
    let full = |cap: u64| Commit {
        clear_state: None,
        state: Some(writes(agent, &[("kept", None), ("new", Some("1"))])),
        retire: Vec::new(),
        tracking: None,
        charge: Some(charge(agreement, calls(2), &[("total", at_most(10)), ("1d:1", at_most(cap))])),
        records: vec![record(Kind::Receipt, &id, Some("receipt"))],
        clear_answers: Some(format!("{id}/cleared")),
        answer: Some(answer(&id, "key", 0, 100)),
        entry: Some(append(operation)),
        nodes: vec![TreeNode { level: 63, index: 0, hash: [cap as u8; 32] }],
        prune: Vec::new(),
    };
    made(store, Commit { nodes: vec![TreeNode { level: 63, index: 0, hash: [9; 32] }], ..Commit::default() }).await;
    let size = store.log_size().await.expect("size");

    let refused = apply(store, full(1)).await;
    assert_eq!(refused, Err(Rejected::OverLimit { agreement, bucket: "1d:1".into() }));
    assert_eq!(value(store, agent, "kept").await.as_deref(), Some("old"), "nothing is deleted");
    assert_eq!(value(store, agent, "new").await, None, "nothing is written");
    assert_eq!(store.usage(&agreement).await.expect("usage"), [], "no bucket is charged");
    assert_eq!(store.record(Kind::Receipt, &id).await.expect("record"), None);
    assert_eq!(store.answer(&id, "key", 0).await.expect("answer"), None);
    assert_eq!(store.entry_of(&operation).await.expect("entry"), None);
    assert_eq!(store.log_size().await.expect("size"), size, "the log didn't grow");
    assert_eq!(store.nodes(63, 0, 1).await.expect("nodes"), [[9; 32]]);

    let committed = made(store, full(2)).await;
    assert_eq!((committed.index, committed.total), (Some(size), Some(calls(2))));
    assert_eq!(value(store, agent, "kept").await, None);
    assert_eq!(value(store, agent, "new").await.as_deref(), Some("1"));
    let used = [("1d:1".to_owned(), calls(2)), ("total".to_owned(), calls(2))];
    assert_eq!(store.usage(&agreement).await.expect("usage"), used);
    assert_eq!(store.record(Kind::Receipt, &id).await.expect("record").as_deref(), Some(&b"receipt"[..]));
    assert_eq!(store.answer(&id, "key", 0).await.expect("answer").as_deref(), Some(&b"answer"[..]));
    assert_eq!(store.entry_of(&operation).await.expect("entry").expect("is there").entry, append(operation).entry);
    assert_eq!(store.nodes(63, 0, 1).await.expect("nodes"), [[2; 32]]);
}

pub(super) async fn a_rejected_commit_falls_alone(store: &dyn Store) {
    let (agreement, scope) = (AgreementId::new(), fresh());
    let operations: Vec<_> = (0..4).map(|_| OperationId::new()).collect();
    let agents: Vec<_> = (0..6).map(|_| AgentId::new()).collect();
    let base = |at: usize| state(agents[at], &[("k", Some("v"))]);
    let entry = |at: usize| Some(append(operations[at]));
    let group = vec![
        Commit { entry: entry(0), answer: Some(answer(&scope, "a", 0, 9)), ..base(0) },
        Commit { entry: entry(1), charge: Some(charge(agreement, calls(2), &[("total", at_most(1))])), ..base(1) },
        Commit { entry: entry(2), answer: Some(answer(&scope, "a", 0, 9)), ..base(2) },
        Commit { entry: entry(0), ..base(3) },
        Commit { entry: entry(3), charge: Some(charge(agreement, calls(1), &[("total", at_most(1))])), ..base(4) },
        base(5),
    ];
    let size = store.log_size().await.expect("size");
    let outcomes = store.apply(group).await.expect("the group is applied");
    let rejected: Vec<_> = outcomes.iter().map(|outcome| outcome.as_ref().err().cloned()).collect();
    let over = Rejected::OverLimit { agreement, bucket: "total".into() };
    let expected = [None, Some(over), Some(Rejected::Duplicate), Some(Rejected::Logged { operation: operations[0] }), None, None];
    assert_eq!(rejected, expected);
    let indices: Vec<_> = outcomes.iter().flatten().map(|committed| committed.index).collect();
    assert_eq!(indices, [Some(size), Some(size + 1), None], "rejected commits leave no gap");
    for (agent, rejected) in agents.iter().zip(expected) {
        assert_eq!(value(store, *agent, "k").await.is_none(), rejected.is_some(), "{rejected:?}");
    }
    assert_eq!(store.apply(Vec::new()).await.expect("an empty group"), []);
}

pub(super) async fn what_is_too_large_is_rejected(store: &dyn Store) {
    let agent = AgentId::new();
    let longest = "k".repeat(MAX_NAME);
    made(store, state(agent, &[(&longest, Some("v"))])).await;
    assert_eq!(value(store, agent, &longest).await.as_deref(), Some("v"));
    let longer = format!("{longest}k");
    let huge = Commit { records: vec![record(Kind::Meta, &fresh(), Some(&"x".repeat(MAX_VALUE + 1)))], ..Commit::default() };
    let group = vec![state(agent, &[("before", Some("1"))]), state(agent, &[(&longer, Some("v"))]), huge];
    let outcomes = store.apply(group).await.expect("the group is applied");
    assert!(outcomes[0].is_ok(), "the others are made");
    assert!(matches!(outcomes[1], Err(Rejected::TooLarge { limit: MAX_NAME, .. })));
    assert!(matches!(outcomes[2], Err(Rejected::TooLarge { limit: MAX_VALUE, .. })));
}

pub(super) async fn records_are_put_listed_and_deleted(store: &dyn Store) {
    // All ids of this run stand together, whatever else is there.
    let run = fresh();
    let id = |name: &str| format!("{run}/{name}");
    let put = |name: &str, value: Option<&str>| record(Kind::Peer, &id(name), value);
    let names = ["é", "b", "a0", "a", "a/x", "B", "z"];
    let mut records: Vec<_> = names.iter().map(|name| put(name, Some(name))).collect();
    records.extend([put("z", Some("newer")), put("b", None), put("never", None)]);
    records.push(record(Kind::Advert, &id("a"), Some("of another kind")));
    made(store, Commit { records, ..Commit::default() }).await;
    let before = format!("{run}/");
    let mut found = Vec::new();
    let mut after = before.clone();
    loop {
        let page = store.records(Kind::Peer, Some(&after), 2).await.expect("records");
        assert!(page.len() <= 2);
        let Some((last, _)) = page.last() else { break };
        after = last.clone();
        let ours = page.iter().filter(|(id, _)| id.starts_with(&before)).count();
        found.extend(page.into_iter().take(ours));
        if ours < 2 {
            break;
        }
    }
    let expected: Vec<_> =
        [("B", "B"), ("a", "a"), ("a/x", "a/x"), ("a0", "a0"), ("z", "newer"), ("é", "é")].map(|(n, v)| (id(n), v.into())).into();
    assert_eq!(found, expected);
    assert_eq!(store.record(Kind::Peer, &id("b")).await.expect("record"), None, "deleted");
    assert_eq!(store.record(Kind::Advert, &id("a")).await.expect("record").as_deref(), Some(&b"of another kind"[..]));
    assert_eq!(store.records(Kind::Peer, None, 0).await.expect("records"), []);
    assert!(!store.records(Kind::Peer, None, 1).await.expect("records").is_empty(), "from the start");
}

pub(super) async fn an_idempotency_key_counts_once(store: &Arc<dyn Store>) {
    let (agent, scope) = (AgentId::new(), fresh());
    let mut tries = JoinSet::new();
    for number in 0..64 {
        let (store, scope) = (Arc::clone(store), scope.clone());
        let key = format!("{number}");
        let commit = Commit { answer: Some(answer(&scope, "key", 0, 100)), ..state(agent, &[(&key, Some("v"))]) };
        tries.spawn(async move { apply(&*store, commit).await });
    }
    let outcomes = tries.join_all().await;
    assert_eq!(outcomes.iter().filter(|outcome| outcome.is_ok()).count(), 1, "one of 64 is made");
    assert_eq!(outcomes.iter().filter(|outcome| **outcome == Err(Rejected::Duplicate)).count(), 63);
    let keys = store.view(&agent).await.expect("view").list("", None, 100).await.expect("list");
    assert_eq!(keys.len(), 1, "the others left nothing: {keys:?}");
    let elsewhere = Commit { answer: Some(answer(&format!("{scope}/other"), "key", 0, 100)), ..Commit::default() };
    made(&**store, elsewhere).await;
}

pub(super) async fn expired_answers_make_room(store: &dyn Store) {
    let scope = fresh();
    let with = |key: &str, now_s, expires_s| Commit { answer: Some(answer(&scope, key, now_s, expires_s)), ..Commit::default() };
    made(store, with("a", 0, 10)).await;
    assert!(store.answer(&scope, "a", 9).await.expect("answer").is_some());
    assert_eq!(store.answer(&scope, "a", 10).await.expect("answer"), None, "expired at its time");
    assert_eq!(apply(store, with("a", 9, 20)).await, Err(Rejected::Duplicate), "not before its time");
    made(store, with("a", 10, 20)).await;
    assert!(store.answer(&scope, "a", 19).await.expect("answer").is_some(), "overwritten, with its new time");
    made(store, with("b", 0, 30)).await;
    assert!(store.forget(20).await.expect("forget") >= 1);
    assert_eq!(store.answer(&scope, "a", 0).await.expect("answer"), None, "forgotten");
    assert!(store.answer(&scope, "b", 0).await.expect("answer").is_some(), "kept until its time");
    assert_eq!(store.forget(20).await.expect("forget"), 0, "nothing is left to forget");
}

pub(super) async fn answers_of_a_scope_come_page_by_page(store: &dyn Store) {
    let root = fresh();
    let scopes = [format!("{root}/a/1"), format!("{root}/a/2"), format!("{root}/ab"), format!("{root}/é")];
    for (scope, key, expires_s) in [(0, "x", 100), (0, "y", 100), (1, "x", 100), (1, "old", 5), (2, "x", 100), (3, "x", 100)] {
        made(store, Commit { answer: Some(answer(&scopes[scope], key, 0, expires_s)), ..Commit::default() }).await;
    }
    let (mut found, mut after) = (Vec::new(), None);
    loop {
        let page = store.answers(&format!("{root}/a/"), after.clone(), 10, 2).await.expect("answers");
        let last = page.len() < 2;
        after = page.last().map(|answer| (answer.scope.clone(), answer.key.clone()));
        found.extend(page.into_iter().map(|answer| (answer.scope, answer.key, answer.expires_s)));
        if last {
            break;
        }
    }
    let expected = [(0, "x"), (0, "y"), (1, "x")].map(|(scope, key)| (scopes[scope].clone(), key.to_owned(), 100));
    assert_eq!(found, expected, "those of the prefix alone, in order, but for what has expired");
    assert_eq!(store.answers(&root, None, 0, 100).await.expect("answers").len(), 6);
    // A scope is cleared with all below it, before the answer of the same commit is remembered.
    let again = answer(&scopes[0], "x", 0, 200);
    made(store, Commit { clear_answers: Some(format!("{root}/a/")), answer: Some(again), ..Commit::default() }).await;
    let left: Vec<_> = store.answers(&root, None, 0, 100).await.expect("answers").into_iter().map(|left| left.scope).collect();
    assert_eq!(left, [&scopes[0], &scopes[2], &scopes[3]].map(Clone::clone));
}
