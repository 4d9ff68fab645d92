//! What every backend guarantees, as a suite that each passes unchanged.
//!
//! It runs on a store that may hold other things already, and may run more than once on the same: all it writes is
//! under new ids, and the log is judged from where it stood. It panics on the first guarantee that is broken.

mod charges;
mod commits;
mod group;
mod log;
mod state;
mod tracking;

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use protocol::{AgentId, AgreementId, Digest, OperationId, Usage, merkle::leaf_hash};

use crate::{
    Store,
    commit::{Answer, Append, Bucket, Charge, Commit, Committed, Kind, RecordWrite, Rejected, StateWrites, Write},
    committer::Committer,
    error::Error,
};

/// Runs all of it. `open` opens the same place each time, and is called again only after the store was closed.
pub async fn run<F: AsyncFn() -> Arc<dyn Store>>(open: F) {
    let store = open().await;
    commits::a_commit_is_all_or_nothing(&*store).await;
    commits::a_rejected_commit_falls_alone(&*store).await;
    commits::what_is_too_large_is_rejected(&*store).await;
    commits::records_are_put_listed_and_deleted(&*store).await;
    commits::an_idempotency_key_counts_once(&store).await;
    commits::expired_answers_make_room(&*store).await;
    commits::answers_of_a_scope_come_page_by_page(&*store).await;
    charges::limits_are_hard(&store).await;
    charges::each_quantity_and_bucket_is_limited(&*store).await;
    charges::sums_saturate(&*store).await;
    charges::windows_are_retired(&*store).await;
    charges::what_passes_a_limit_is_overage(&*store).await;
    state::lists_are_in_byte_order(&*store).await;
    state::views_are_snapshots(&*store).await;
    state::views_do_not_starve_each_other(&*store).await;
    state::what_is_held_is_counted_and_limited(&*store).await;
    state::state_is_cleared_before_it_is_written(&*store).await;
    tracking::changes_are_told_since_a_base(&*store).await;
    tracking::tracking_ends_with_the_state_and_where_too_much_changed(&*store).await;
    let store = tracking::changes_outlive_the_process(store, &open).await;
    log::indices_are_dense_and_unique(&store).await;
    log::pages_of_the_log_agree(&*store).await;
    log::nodes_are_dense_from_where_they_are_asked(&*store).await;
    log::pruned_entries_keep_all_but_their_content(&*store).await;
    group::a_queued_commit_needs_no_waiter(&store).await;
    group::the_queue_keeps_its_order(&store).await;
    group::shutdown_makes_what_is_queued(&store).await;
    persistence(store, &open).await;
    group::a_failed_group_tells_everyone(&open().await).await;
}

async fn persistence<F: AsyncFn() -> Arc<dyn Store>>(store: Arc<dyn Store>, open: &F) {
    let (agent, agreement, operation) = (AgentId::new(), AgreementId::new(), OperationId::new());
    let id = operation.to_string();
    let full = Commit {
        state: Some(writes(agent, &[("k", Some("v"))])),
        charge: Some(charge(agreement, calls(3), &[("total", Usage::UNLIMITED)])),
        records: vec![record(Kind::Meta, &id, Some("r"))],
        answer: Some(answer(&id, "k", 0, 10)),
        entry: Some(append(operation)),
        ..Commit::default()
    };
    let index = made(&*store, full).await.index.expect("an entry has an index");
    let size = store.log_size().await.expect("size");
    store.close().await.expect("close");
    store.close().await.expect("close again");
    assert!(matches!(store.log_size().await, Err(Error::Closed)), "a closed store answers no reads");
    assert!(matches!(store.view(&agent).await, Err(Error::Closed)), "a closed store gives no views");
    assert!(matches!(store.apply(vec![Commit::default()]).await, Err(Error::Closed)), "a closed store takes no commits");
    drop(store);

    let store = open().await;
    assert_eq!(store.log_size().await.expect("size"), size, "the log is as long as before");
    assert_eq!(store.entry_of(&operation).await.expect("entry").expect("is there").index, index);
    assert_eq!(store.usage(&agreement).await.expect("usage"), [("total".to_owned(), calls(3))]);
    assert_eq!(store.record(Kind::Meta, &id).await.expect("record").as_deref(), Some(&b"r"[..]));
    assert_eq!(store.answer(&id, "k", 9).await.expect("answer").as_deref(), Some(&b"answer"[..]));
    assert_eq!(value(&*store, agent, "k").await.as_deref(), Some("v"));
    let next = made(&*store, Commit { entry: Some(append(OperationId::new())), ..Commit::default() }).await;
    assert_eq!(next.index, Some(size), "the log goes on where it ended");
    store.close().await.expect("close");
}

/// Applies one commit.
async fn apply(store: &dyn Store, commit: Commit) -> Result<Committed, Rejected> {
    let mut outcomes = store.apply(vec![commit]).await.expect("the store works");
    assert_eq!(outcomes.len(), 1, "one outcome for one commit");
    outcomes.remove(0)
}

/// Applies one commit that must be made.
async fn made(store: &dyn Store, commit: Commit) -> Committed {
    apply(store, commit).await.expect("the commit is made")
}

/// Reads a key as of now.
async fn value(store: &dyn Store, agent: AgentId, key: &str) -> Option<String> {
    let value = store.view(&agent).await.expect("view").get(key).await.expect("get");
    value.map(|value| String::from_utf8(value).expect("the text that was written"))
}

fn writes(agent: AgentId, pairs: &[(&str, Option<&str>)]) -> StateWrites {
    let write = |(key, value): &(&str, Option<&str>)| Write { key: (*key).into(), value: value.map(Into::into) };
    StateWrites { agent, writes: pairs.iter().map(write).collect(), quota: None }
}

fn state(agent: AgentId, pairs: &[(&str, Option<&str>)]) -> Commit {
    Commit { state: Some(writes(agent, pairs)), ..Commit::default() }
}

fn record(kind: Kind, id: &str, value: Option<&str>) -> RecordWrite {
    RecordWrite { kind, id: id.into(), value: value.map(Into::into) }
}

fn answer(scope: &str, key: &str, now_s: i64, expires_s: i64) -> Answer {
    Answer { scope: scope.into(), key: key.into(), value: b"answer".to_vec(), now_s, expires_s }
}

fn append(operation: OperationId) -> Append {
    let entry = format!("entry of {operation}").into_bytes();
    Append { operation, leaf: leaf_hash(&entry), entry }
}

fn charge(agreement: AgreementId, usage: Usage, buckets: &[(&str, Usage)]) -> Charge {
    let bucket = |(name, cap): &(&str, Usage)| Bucket { cap: *cap, ..Bucket::unlimited(*name) };
    Charge { agreement, usage, buckets: buckets.iter().map(bucket).collect() }
}

fn calls(calls: u64) -> Usage {
    Usage { calls, ..Usage::default() }
}

/// A cap on calls alone.
fn at_most(calls: u64) -> Usage {
    Usage { calls, ..Usage::UNLIMITED }
}

/// A scope that no other run has used.
fn fresh() -> String {
    Digest::blake3(OperationId::new().to_string().as_bytes()).hex()
}

/// A commit under way, driven by hand.
type Queued = Pin<Box<dyn Future<Output = Result<Committed, Error>> + Send>>;

/// Drives a commit to where it is queued, and no further.
fn queue(committer: &Committer, commit: Commit) -> Queued {
    let committer = committer.clone();
    // Without the runtime's budget, which lets a task do only so much at a time: here one task queues hundreds.
    let mut queued: Queued = Box::pin(tokio::task::coop::unconstrained(async move { committer.commit(commit).await }));
    match queued.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Pending => queued,
        Poll::Ready(outcome) => Box::pin(std::future::ready(outcome)),
    }
}
