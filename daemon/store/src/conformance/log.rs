//! The trace log: dense, unique, and the same from every side.

use std::sync::Arc;

use protocol::OperationId;
use tokio::task::JoinSet;

use super::{append, apply, made};
use crate::{
    LoggedEntry, Store,
    commit::{Commit, Rejected, TreeNode},
    committer::Committer,
};

/// 64 callers append through the committer, some more beside it.
pub(super) async fn indices_are_dense_and_unique(store: &Arc<dyn Store>) {
    let size = store.log_size().await.expect("size");
    let committer = Committer::spawn(Arc::clone(store));
    let mut callers = JoinSet::new();
    for caller in 0..64 {
        let (store, committer) = (Arc::clone(store), committer.clone());
        callers.spawn(async move {
            let mut appended = Vec::new();
            for _ in 0..5 {
                let operation = OperationId::new();
                let commit = Commit { entry: Some(append(operation)), ..Commit::default() };
                let committed = match caller % 8 {
                    0 => made(&*store, commit).await,
                    _ => committer.commit(commit).await.expect("the commit is made"),
                };
                appended.push((committed.index.expect("an entry has an index"), operation));
            }
            appended
        });
    }
    let mut appended = callers.join_all().await.concat();
    appended.sort_unstable();
    let indices: Vec<_> = appended.iter().map(|(index, _)| *index).collect();
    assert_eq!(indices, (size..size + 320).collect::<Vec<_>>(), "no gap, no index twice");
    assert_eq!(store.log_size().await.expect("size"), size + 320);
    for (index, operation) in appended {
        let of = append(operation);
        let expected = LoggedEntry { index, leaf: of.leaf, entry: of.entry };
        assert_eq!(store.entry_of(&operation).await.expect("entry"), Some(expected), "each where it was told");
    }
    committer.shutdown().await;
}

pub(super) async fn pages_of_the_log_agree(store: &dyn Store) {
    let from = store.log_size().await.expect("size");
    // More than a backend reads in one go.
    let appends: Vec<_> = (0..300).map(|_| append(OperationId::new())).collect();
    let group = appends.iter().map(|append| Commit { entry: Some(append.clone()), ..Commit::default() }).collect();
    assert!(store.apply(group).await.expect("the group is applied").iter().all(Result::is_ok));
    let entries = store.entries(from, 1000).await.expect("entries");
    let expected: Vec<_> =
        (from..).zip(&appends).map(|(index, append)| LoggedEntry { index, leaf: append.leaf, entry: append.entry.clone() }).collect();
    assert_eq!(entries, expected);
    let leaves: Vec<_> = appends.iter().map(|append| append.leaf).collect();
    assert_eq!(store.leaves(from, 1000).await.expect("leaves"), leaves);
    assert_eq!(store.leaves(from + 7, 11).await.expect("leaves"), leaves[7..18]);
    assert_eq!(store.entries(from + 299, 11).await.expect("entries"), expected[299..]);
    assert!(store.entries(from + 300, 11).await.expect("entries").is_empty());
    assert!(store.leaves(u64::MAX, 11).await.expect("leaves").is_empty());
    assert_eq!(store.entry_of(&OperationId::new()).await.expect("entry"), None);
}

pub(super) async fn pruned_entries_keep_all_but_their_content(store: &dyn Store) {
    let from = store.log_size().await.expect("size");
    let appends: Vec<_> = (0..5).map(|_| append(OperationId::new())).collect();
    for append in &appends {
        made(store, Commit { entry: Some(append.clone()), ..Commit::default() }).await;
    }
    // With an entry of its own, and with one that isn't there: that is nothing.
    let own = append(OperationId::new());
    made(store, Commit { prune: vec![from + 1, from + 3, u64::MAX], entry: Some(own.clone()), ..Commit::default() }).await;
    let expected: Vec<_> = (from..)
        .zip(appends.iter().chain([&own]))
        .map(|(index, append)| {
            let entry = if index == from + 1 || index == from + 3 { Vec::new() } else { append.entry.clone() };
            LoggedEntry { index, leaf: append.leaf, entry }
        })
        .collect();
    assert_eq!(store.entries(from, 10).await.expect("entries"), expected);
    assert_eq!(store.log_size().await.expect("size"), from + 6);
    assert_eq!(store.entry_of(&appends[3].operation).await.expect("entry").as_ref(), Some(&expected[3]), "it is where it was");
    let leaves: Vec<_> = expected.iter().map(|logged| logged.leaf).collect();
    assert_eq!(store.leaves(from, 10).await.expect("leaves"), leaves);
    let again = apply(store, Commit { entry: Some(appends[3].clone()), ..Commit::default() }).await;
    assert_eq!(again, Err(Rejected::Logged { operation: appends[3].operation }), "an operation stays one entry");
}

pub(super) async fn nodes_are_dense_from_where_they_are_asked(store: &dyn Store) {
    // A level and a place that real trees of this age don't reach.
    let at = u64::from(u32::MAX);
    let node = |level, index, hash| TreeNode { level, index, hash: [hash; 32] };
    let nodes = vec![node(40, at, 1), node(40, at + 1, 2), node(40, at + 3, 4), node(41, at + 2, 9)];
    made(store, Commit { nodes, ..Commit::default() }).await;
    assert_eq!(store.nodes(40, at, 10).await.expect("nodes"), [[1; 32], [2; 32]], "up to the gap");
    assert_eq!(store.nodes(40, at + 1, 1).await.expect("nodes"), [[2; 32]]);
    assert!(store.nodes(40, at + 2, 10).await.expect("nodes").is_empty(), "from the gap");
    made(store, Commit { nodes: vec![node(40, at + 1, 3)], ..Commit::default() }).await;
    assert_eq!(store.nodes(40, at, 10).await.expect("nodes"), [[1; 32], [3; 32]], "written again");
}
