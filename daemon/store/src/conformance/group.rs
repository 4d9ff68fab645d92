//! The committer over a backend: nothing queued is lost, everybody is told.

use std::sync::Arc;

use protocol::{AgentId, OperationId};

use super::{append, queue, state, value};
use crate::{Store, commit::Commit, committer::Committer, error::Error};

pub(super) async fn a_queued_commit_needs_no_waiter(store: &Arc<dyn Store>) {
    let committer = Committer::spawn(Arc::clone(store));
    let (left, unpolled) = (AgentId::new(), AgentId::new());
    drop(queue(&committer, state(left, &[("k", Some("v"))])));
    drop(committer.commit(state(unpolled, &[("k", Some("v"))])));
    let last = committer.commit(state(AgentId::new(), &[("k", Some("v"))])).await;
    last.expect("the writer goes on after a caller left");
    assert_eq!(value(&**store, left, "k").await.as_deref(), Some("v"), "made as if awaited");
    assert_eq!(value(&**store, unpolled, "k").await, None, "never queued, never made");
    committer.shutdown().await;
}

/// 600 commits: more than two groups.
pub(super) async fn the_queue_keeps_its_order(store: &Arc<dyn Store>) {
    let committer = Committer::spawn(Arc::clone(store));
    let from = store.log_size().await.expect("size");
    let commit = || Commit { entry: Some(append(OperationId::new())), ..Commit::default() };
    let queued: Vec<_> = (0..600).map(|_| queue(&committer, commit())).collect();
    for (index, outcome) in (from..).zip(queued) {
        assert_eq!(outcome.await.expect("the commit is made").index, Some(index));
    }
    committer.shutdown().await;
}

pub(super) async fn shutdown_makes_what_is_queued(store: &Arc<dyn Store>) {
    let committer = Committer::spawn(Arc::clone(store));
    let agent = AgentId::new();
    let keys: Vec<_> = (0..300).map(|number| number.to_string()).collect();
    let queued: Vec<_> = keys.iter().map(|key| queue(&committer, state(agent, &[(key, Some("v"))]))).collect();
    let late = committer.clone();
    committer.shutdown().await;
    for outcome in queued {
        outcome.await.expect("queued before the end, so made");
    }
    assert_eq!(store.view(&agent).await.expect("view").list("", None, 1000).await.expect("list").len(), 300);
    assert!(matches!(late.commit(Commit::default()).await, Err(Error::Closed)), "none after the end");
    late.shutdown().await;
}

/// The store is closed under the committer: every waiter of every group hears why.
pub(super) async fn a_failed_group_tells_everyone(store: &Arc<dyn Store>) {
    store.close().await.expect("close");
    let committer = Committer::spawn(Arc::clone(store));
    let queued: Vec<_> = (0..300).map(|_| queue(&committer, Commit::default())).collect();
    for outcome in queued {
        assert!(matches!(outcome.await, Err(Error::Closed)));
    }
    committer.shutdown().await;
}
