//! An agent whose home is lost: the newest snapshot that any node of its owner holds becomes its state, here.
//!
//! It keeps its id and goes on in a later epoch, by which its old home, should it come back, learns that it is its home no
//! longer. Agreements are not part of a snapshot: what was used under them is known to the lost home alone.

use std::collections::BTreeMap;

use futures::{StreamExt as _, stream};
use protocol::{
    AgentId, Code, NodeId, Problem, Signed, api,
    custody::{Custody, Held},
    entry::Action,
    snapshot::Snapshot,
    wire::Response,
};

use super::{Node, PATIENCE};
use crate::node::Caller;

/// Nodes that are asked at once.
const AT_ONCE: usize = 8;

/// A snapshot that somebody holds; `None` is this node.
struct Found {
    signed: Signed<Snapshot>,
    agent: api::Agent,
    at: Option<NodeId>,
}

impl Node {
    /// Makes an agent, lost elsewhere, this node's. With `force` although its home seems to be there.
    pub(crate) async fn restore(&self, caller: &Caller, restore: api::Restore) -> Result<api::Agent, Problem> {
        let wanted = restore.agent;
        if self.agents.find(&wanted).is_some() {
            return Err(Problem::new(Code::Conflict, format!("agent {wanted} lives here"))
                .hint("'mcpctl agent recover --from SNAPSHOT' takes it back"));
        }
        let found = self.newest_held(&wanted).await?;
        let Found { signed, agent, at } = found;
        let id = agent.id;
        let home = self.directory.homes(&id, self.owner);
        if !restore.force
            && let Some((home, _)) = home.iter().max_by_key(|(_, epoch)| *epoch)
            && self.mesh()?.ping(*home).await.is_ok()
        {
            return Err(Problem::new(Code::Conflict, format!("agent {} lives on node {home}, which is there", agent.name))
                .hint("'mcpctl agent move' on that node brings it here; '--force' takes it away from it"));
        }
        if let Some(from) = at {
            self.fetch_snapshot(caller, from, &signed).await?;
        }
        let known = home.iter().map(|(_, epoch)| *epoch).chain(self.whereabouts.epoch(&id)).max().unwrap_or_default();
        let epoch = known.max(agent.epoch).max(signed.document().epoch) + 1;
        let action = Action::Restore { agent: id, snapshot: signed.document().id, epoch };
        let _adopting = self.adopting.lock().await;
        let agent = api::Agent { epoch, stopped: false, ..agent };
        let agent = Box::pin(self.settle_in(caller, agent, &signed, Vec::new(), action)).await?;
        self.replicas.look();
        Ok(agent)
    }

    /// The newest snapshot that any node of this owner holds of the agent of this id or name.
    async fn newest_held(&self, wanted: &str) -> Result<Found, Problem> {
        let mut all: Vec<(Option<NodeId>, Held)> = self.held_for(wanted).await?.into_iter().map(|held| (None, held)).collect();
        let asked = stream::iter(self.companions()).map(|(node, _)| async move {
            let held = async {
                self.require_ours(node).await?;
                self.entrust(node, Custody::Held(wanted.to_owned()), "restore", PATIENCE).await
            };
            match held.await {
                Ok(Response::Held(held)) => held.into_iter().map(|held| (Some(node), held)).collect(),
                Ok(_) => Vec::new(),
                Err(problem) => {
                    tracing::warn!(%node, %problem, "did not say what it holds");
                    Vec::new()
                }
            }
        });
        all.extend(asked.buffer_unordered(AT_ONCE).collect::<Vec<_>>().await.into_iter().flatten());
        let mut newest: BTreeMap<AgentId, Found> = BTreeMap::new();
        for (at, held) in all {
            let signed = match self.verified_snapshot(held.snapshot) {
                Ok(signed) if signed.document().owner == self.owner && signed.document().agent == held.agent.id => signed,
                _ => continue,
            };
            let rank = |signed: &Signed<Snapshot>| (signed.document().epoch, signed.document().header.issued_at);
            let better = newest.get(&held.agent.id).is_none_or(|have| rank(&have.signed) < rank(&signed));
            if better {
                newest.insert(held.agent.id, Found { signed, agent: held.agent, at });
            }
        }
        let short: String = wanted.chars().take(80).collect();
        match (newest.pop_first(), newest.is_empty()) {
            (Some((_, only)), true) => Ok(only),
            (None, _) => {
                Err(Problem::new(Code::NotFound, format!("no node of this owner that can be reached holds a snapshot of agent {short}"))
                    .hint("'mcpctl agent replicas' has snapshots held by other nodes, before their home is lost"))
            }
            (Some((first, _)), false) => {
                let others = newest.keys().map(ToString::to_string).collect::<Vec<_>>().join(", ");
                Err(Problem::new(Code::Conflict, format!("several agents were called {short}"))
                    .hint(format!("name one by its id: {first}, {others}")))
            }
        }
    }
}
