//! Group commit: many callers, one writer, one disk flush for as many commits as wait.
//!
//! ```text
//! commit() ─► queue (bounded by count and bytes) ─► writer: take what waits, at most 256 ─► Store::apply
//!     ▲                                                                                         │
//!     └───────────────── in the queue's order, after all are durable ◄──────────────────────────┘
//! ```
//!
//! A lone commit isn't delayed: the writer takes what is there and never waits for company; company gathers by itself
//! while the group before is being flushed. Without this, 64 writers would be no faster than one.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    Store,
    commit::{Commit, Committed},
    error::Error,
};

/// The most commits in one transaction: past this the flush is a small part of the cost, and latency only grows.
const GROUP: usize = 256;
/// The most commits that wait; callers beyond wait for room. Sixteen full groups: the writer never starves.
const QUEUE: usize = 4096;
/// The most bytes that wait, in units of 1 KiB: some commits carry megabytes.
const BUDGET: u32 = 64 * 1024;

/// The handle of the writer; cheap to clone.
#[derive(Debug, Clone)]
pub struct Committer {
    queue: mpsc::Sender<Queued>,
    budget: Arc<Semaphore>,
    stop: CancellationToken,
    tasks: TaskTracker,
}

#[derive(Debug)]
struct Queued {
    commit: Commit,
    room: OwnedSemaphorePermit,
    done: oneshot::Sender<Result<Committed, Error>>,
}

impl Committer {
    /// Starts the writer of `store`. It ends with [`shutdown`](Self::shutdown), or after the last handle is gone.
    pub fn spawn(store: Arc<dyn Store>) -> Self {
        let (sender, receiver) = mpsc::channel(QUEUE);
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        tasks.spawn(Driver { store, queue: receiver }.run(stop.clone()));
        tasks.close();
        Self { queue: sender, budget: Arc::new(Semaphore::new(BUDGET as usize)), stop, tasks }
    }

    /// Makes a commit; returns when it is durable. Waits where the queue is full.
    ///
    /// Dropping this future is safe: the commit was either not queued, and doesn't happen, or is made as if awaited.
    pub async fn commit(&self, commit: Commit) -> Result<Committed, Error> {
        let size = u32::try_from(commit.size() / 1024).unwrap_or(BUDGET).clamp(1, BUDGET);
        let room = Arc::clone(&self.budget).acquire_many_owned(size).await.map_err(|_| Error::Closed)?;
        let (done, outcome) = oneshot::channel();
        self.queue.send(Queued { commit, room, done }).await.map_err(|_| Error::Closed)?;
        outcome.await.unwrap_or(Err(Error::Interrupted))
    }

    /// Takes no more commits, makes those that are queued, and ends the writer. Any handle may do it, and more than one.
    pub async fn shutdown(self) {
        self.budget.close();
        self.stop.cancel();
        self.tasks.wait().await;
    }
}

struct Driver {
    store: Arc<dyn Store>,
    queue: mpsc::Receiver<Queued>,
}

impl Driver {
    async fn run(mut self, stop: CancellationToken) {
        let mut group = Vec::with_capacity(GROUP);
        loop {
            let taken = tokio::select! {
                biased;
                () = stop.cancelled() => break,
                taken = self.queue.recv_many(&mut group, GROUP) => taken,
            };
            if taken == 0 {
                return;
            }
            self.flush(&mut group).await;
        }
        self.queue.close();
        while self.queue.recv_many(&mut group, GROUP).await > 0 {
            self.flush(&mut group).await;
        }
    }

    async fn flush(&self, group: &mut Vec<Queued>) {
        let (mut commits, mut waiters) = (Vec::with_capacity(group.len()), Vec::with_capacity(group.len()));
        for Queued { commit, room, done } in group.drain(..) {
            commits.push(commit);
            waiters.push((room, done));
        }
        // A caller that went away doesn't hear of it, hence the ignored results of `send`.
        match self.store.apply(commits).await {
            Ok(outcomes) => {
                for ((_room, done), outcome) in waiters.into_iter().zip(outcomes) {
                    let _ = done.send(outcome.map_err(Error::Rejected));
                }
            }
            Err(error) => {
                tracing::error!(%error, cause = error_cause(&error), commits = waiters.len(), "a group of commits failed");
                for (_room, done) in waiters {
                    let _ = done.send(Err(error.clone()));
                }
            }
        }
    }
}

fn error_cause(error: &Error) -> Option<String> {
    std::error::Error::source(error).map(ToString::to_string)
}
