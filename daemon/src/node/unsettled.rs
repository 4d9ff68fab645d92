//! Calls of this consumer that may be charged though their answer never came: it is given up on, or lost on the way.
//!
//! ```text
//! sent ── answered ──────────────────────────────> its receipt says all
//!   └──── its caller left, or it failed ──> settled soon, and again until the last moment at which it may run, or for as long
//!                                           as the provider says that calls are under way
//! ```
//! A guard, as a caller that leaves drops the call wherever it stands.

use std::sync::Arc;

use protocol::{Code, NodeId, Problem, wire::Response};
use tokio::{
    runtime::Handle,
    time::{Duration, Instant},
};

use super::{Node, agreements::Contract};

/// How long after a call's last moment its charge is durable at the provider, for certain enough.
const COMMITTED: Duration = Duration::from_secs(1);

/// How long until a provider is asked again in which such a call may be under way; twice as long each time.
const UNDER_WAY: Duration = Duration::from_secs(2);
/// The longest of these pauses.
const LONGEST: Duration = Duration::from_secs(30);

/// Marks an agreement as unsettled when it is dropped, unless its call was answered.
#[derive(Debug)]
pub(super) struct Unsettled<'a> {
    pub(super) node: &'a Node,
    pub(super) contract: &'a Arc<Contract>,
    /// The last moment at which the call may run.
    pub(super) until: Instant,
    pub(super) answered: bool,
}

impl Unsettled<'_> {
    /// The call has come to an end that its caller sees.
    pub(super) fn ended(mut self, answer: &Result<(NodeId, Response), Problem>) {
        match answer {
            Ok(_) => self.answered = true,
            // It may still run.
            Err(problem) if matches!(problem.code, Code::TimedOut | Code::Unreachable | Code::Cancelled | Code::Overloaded) => {}
            // It has ended there, though it may have been charged for.
            Err(_) => self.until = Instant::now(),
        }
    }
}

impl Drop for Unsettled<'_> {
    fn drop(&mut self) {
        if self.answered {
            return;
        }
        self.contract.set_settled(false);
        self.node.agreements.unsettled.notify_one();
        if self.until > Instant::now() {
            self.node.settle_after(self.contract, self.until + COMMITTED);
        }
    }
}

impl Node {
    /// Settles an agreement once more, as its provider has calls under way that nobody may wait for.
    pub(super) fn settle_again(&self, contract: &Arc<Contract>) {
        self.settle_after(contract, Instant::now() + UNDER_WAY);
    }

    /// Settles an agreement now and then up to a later time; one task for each, whatever number of calls was given up on.
    fn settle_after(&self, contract: &Arc<Contract>, until: Instant) {
        // None where the process ends.
        let Ok(runtime) = Handle::try_current() else { return };
        if !contract.expect_charge(until) {
            return;
        }
        let (node, contract) = (self.clone(), Arc::clone(contract));
        let waiting = async move {
            let mut pause = UNDER_WAY;
            while let Some(until) = contract.charge_expected(Instant::now()) {
                tokio::select! {
                    () = node.stopping.cancelled() => return,
                    () = tokio::time::sleep_until(until.min(Instant::now() + pause)) => {}
                }
                pause = (pause * 2).min(LONGEST);
                contract.set_settled(false);
                node.agreements.unsettled.notify_one();
            }
            node.agreements.ends.notify_one();
        };
        self.tasks.spawn_on(waiting, &runtime);
    }
}
