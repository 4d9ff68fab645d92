//! What one call holds of an agreement until it is charged.

use std::sync::Arc;

use agreement::meter::{Reservation, Stretch};
use protocol::Usage;
use store::{Bucket, Charge};

use super::Contract;

/// Usage set aside for one call. Given back when dropped; counted by [`Held::settle`].
#[derive(Debug)]
pub(crate) struct Held {
    pub(super) contract: Arc<Contract>,
    /// The most that the call may use.
    pub(crate) granted: Usage,
    pub(super) reservation: Option<Reservation>,
}

impl Held {
    /// The agreement.
    pub(crate) fn contract(&self) -> &Arc<Contract> {
        &self.contract
    }

    /// What of the actual usage counts: a sandbox that overshoots its grant by a moment does so at the provider's cost.
    pub(crate) fn counted(&self, actual: Usage) -> Usage {
        self.reservation.as_ref().map_or(actual, |reservation| reservation.counted(actual))
    }

    /// The charge that goes into the call's commit.
    pub(crate) fn charge(&self, counted: Usage) -> Charge {
        let bucket = |stretch: &Stretch| Bucket { name: stretch.bucket.clone(), limit: stretch.limit, cap: stretch.cap };
        let buckets = self.reservation.iter().flat_map(|reservation| &reservation.stretches).map(bucket).collect();
        Charge { agreement: self.contract.id, usage: counted, buckets }
    }

    /// Counts what was used, after it became durable, and what of all usage is overage by then.
    pub(crate) fn settle(mut self, actual: Usage, overage: Usage) {
        if let Some(reservation) = self.reservation.take() {
            let mut standing = self.contract.standing.lock();
            standing.meter.settle(reservation, actual);
            // Commits may be told out of their order; sums only grow.
            standing.overage = standing.overage.max(overage);
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Some(reservation) = self.reservation.take() {
            self.contract.standing.lock().meter.release(reservation);
        }
    }
}
