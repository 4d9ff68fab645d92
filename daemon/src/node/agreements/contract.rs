//! What one agreement says of itself, and lets calls set aside.

use std::sync::Arc;

use agreement::authorize;
use protocol::{
    AgreementId, NodeId, Problem, Signed, Timestamp, Usage,
    agreement::{Agreement, Status},
    lifecycle,
};
use tokio::time::Instant;

use super::{Contract, Held, Standing};

impl Contract {
    /// Its id.
    pub(crate) fn id(&self) -> AgreementId {
        self.id
    }

    /// Its terms.
    pub(crate) fn terms(&self) -> Agreement {
        self.standing.lock().signed.document().clone()
    }

    /// The signed terms.
    pub(crate) fn signed(&self) -> Signed<Agreement> {
        self.standing.lock().signed.clone()
    }

    /// Where it stands at `now`.
    pub(crate) fn status(&self, now: Timestamp) -> Status {
        let standing = self.standing.lock();
        standing.state.effective(standing.signed.document(), now)
    }

    /// Its state, for the next transition.
    pub(crate) fn state(&self) -> lifecycle::State {
        self.standing.lock().state.clone()
    }

    /// Checks that a call is covered, and sets aside the worst that it may use.
    pub(crate) fn reserve(self: &Arc<Self>, request: &authorize::Request<'_>, now: Timestamp) -> Result<Held, Problem> {
        let mut standing = self.standing.lock();
        self.check_open(&standing, now)?;
        let Standing { signed, state, meter, .. } = &mut *standing;
        authorize::authorize(signed.document(), state, request, now)?;
        let reservation = meter.reserve(now)?;
        Ok(Held { contract: Arc::clone(self), granted: reservation.granted, reservation: Some(reservation) })
    }

    /// A call may be charged until then though nobody waits for its answer. Answers whether that is news to whoever waits for
    /// such calls to end: one that waits already sees a later time by itself.
    pub(crate) fn expect_charge(&self, until: Instant) -> bool {
        let mut standing = self.standing.lock();
        let before = standing.abandoned;
        standing.abandoned = Some(before.map_or(until, |before| before.max(until)));
        before.is_none()
    }

    /// Until when such a call may be charged, if that is later than `now`.
    pub(crate) fn charge_expected(&self, now: Instant) -> Option<Instant> {
        let mut standing = self.standing.lock();
        standing.abandoned = standing.abandoned.filter(|until| *until > now);
        standing.abandoned
    }

    /// The provider's calls that haven't ended.
    pub(crate) fn under_way(&self) -> u64 {
        self.standing.lock().meter.under_way()
    }

    /// Usage so far: the provider's own count, or what its last receipt says.
    pub(crate) fn used(&self, provides: bool) -> Usage {
        self.used_in_all(provides).0
    }

    /// Usage so far, and what of it passed limits.
    pub(super) fn used_in_all(&self, provides: bool) -> (Usage, Usage) {
        let standing = self.standing.lock();
        if provides {
            return (standing.meter.total(), standing.overage);
        }
        standing.receipt.as_ref().map(|receipt| (receipt.document().total, receipt.document().overage)).unwrap_or_default()
    }

    /// Who may call under it, from where.
    pub(crate) fn consumer_node(&self) -> NodeId {
        self.standing.lock().signed.document().consumer_node
    }
}
