//! Whether anything can still happen under an agreement on this node: the one place that decides it, for every path.
//!
//! ```text
//! in force    the one contract in memory, of this node's mesh, whose books aren't closed: called, metered, signed, moved on
//! over        a copy from the store: shown, proven, and answered for to whoever repeats a call; nothing else
//! ```
//! What the terms and the state say (active, valid, in scope) comes on top of it: `agreement::authorize`.

use std::sync::Arc;

use protocol::{
    Code, MeshId, Problem, Timestamp,
    agreement::{Reason, Status},
};

use super::{Contract, Standing};

impl Contract {
    /// What was read from the store, for whoever only reads.
    pub(super) fn into_copy(mut self) -> Arc<Self> {
        self.is_copy = true;
        self.standing.get_mut().frozen = true;
        Arc::new(self)
    }

    /// Refuses an agreement that was made in another mesh: there it may be in force, here nobody answers for it.
    pub(crate) fn require_mesh(&self, mesh: &MeshId) -> Result<(), Problem> {
        let standing = self.standing.lock();
        let terms = standing.signed.document();
        if terms.header.mesh == *mesh {
            return Ok(());
        }
        let detail = format!("agreement {} was made in mesh {}, and this node is in {mesh}", self.id, terms.header.mesh);
        Err(Problem::new(Code::ForeignMesh, detail).hint(anew(&standing)))
    }

    /// Refuses what would change anything under an agreement that isn't in force here.
    pub(crate) fn require_in_force(&self, mesh: &MeshId, now: Timestamp) -> Result<(), Problem> {
        self.require_mesh(mesh)?;
        self.check_open(&self.standing.lock(), now)
    }

    /// Refuses an agreement that can't even be settled any more: neither in memory nor closed on a receipt.
    pub(crate) fn require_books(&self, mesh: &MeshId, now: Timestamp) -> Result<(), Problem> {
        self.require_mesh(mesh)?;
        let standing = self.standing.lock();
        if standing.closing.is_some() { Ok(()) } else { self.check_open(&standing, now) }
    }

    /// Whether its books are open, here: with the lock held under which something is about to be set aside.
    pub(super) fn check_open(&self, standing: &Standing, now: Timestamp) -> Result<(), Problem> {
        if !self.is_copy && !standing.frozen {
            return Ok(());
        }
        let (terms, id) = (standing.signed.document(), self.id);
        let expired = standing.state.reason(terms, now) == Some(Reason::Expired);
        let (code, detail) = match &standing.closing {
            Some(closing) => {
                (Code::AgreementNotActive, format!("agreement {id} is {}: its books were closed at {}", Status::Closed, closing.at))
            }
            None if self.is_copy => (Code::AgreementNotActive, format!("agreement {id} is not in force on this node")),
            None => (Code::AgreementNotActive, format!("agreement {id} is {}: its books are being closed", Status::Closed)),
        };
        let code = if expired { Code::AgreementExpired } else { code };
        Err(Problem::new(code, detail).hint(anew(standing)))
    }
}

fn anew(standing: &Standing) -> String {
    format!("get a new one: mcpctl agreement propose --agent {}", standing.signed.document().agent)
}
