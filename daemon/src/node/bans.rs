//! Keeping nodes out, as the operator says.

use protocol::{Code, NodeId, Problem, SignedDuration, api, entry::Action};

use super::{Caller, Node};

impl Node {
    /// Keeps a node out for so many seconds. Bans lie beside the store, so the entry comes first: nobody is kept out without one.
    pub(crate) async fn ban(&self, caller: &Caller, node: NodeId, seconds: u64, reason: String) -> Result<api::Ban, Problem> {
        let mesh = self.mesh()?;
        let action = Action::Ban { node, for_s: Some(seconds), reason: Some(reason.clone()) };
        self.enter_action(caller, action, Vec::new()).await?;
        Ok(mesh.membership().ban(node, SignedDuration::from_secs(i64::try_from(seconds).unwrap_or(i64::MAX)), reason))
    }

    /// Lets a node in again.
    pub(crate) async fn unban(&self, caller: &Caller, node: NodeId) -> Result<(), Problem> {
        let membership = self.mesh()?.membership();
        if membership.bans().iter().all(|ban| ban.node != node) {
            return Err(Problem::new(Code::NotFound, format!("node {node} is not banned")));
        }
        self.enter_action(caller, Action::Ban { node, for_s: None, reason: None }, Vec::new()).await?;
        // Its time may have come meanwhile: then the entry says what is so anyway.
        membership.unban(node);
        Ok(())
    }
}
