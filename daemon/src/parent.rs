//! Ending with the process that started this one, for stacks that must leave nothing behind.
//!
//! By looking who the parent is, not by the parent-death signal: that one fires when the parent's *thread* ends.

use std::time::Duration;

use rustix::process::{Pid, getppid};

/// How often to look; an orphan lives no longer than this.
const EVERY: Duration = Duration::from_millis(250);

/// The process that started this one.
#[derive(Debug)]
pub(crate) struct Parent(Option<Pid>);

impl Parent {
    /// Remembers it.
    pub(crate) fn remember() -> Self {
        Self(getppid())
    }

    /// Waits for its end: an orphan is given another parent.
    pub(crate) async fn ended(&self) {
        while getppid() == self.0 {
            tokio::time::sleep(EVERY).await;
        }
    }
}
