//! An agent has one home. Whoever learns that one of its agents lives elsewhere in a later epoch lets go of it: the agent was
//! recovered from the mesh while this node was away, or given up in the middle of a move.

use std::sync::Arc;

use protocol::{AgentId, Problem, advert::Advert};

use super::Moving;
use crate::node::{Caller, Node};

impl Node {
    /// Looks through an advert for agents that live here, too.
    pub(in crate::node) fn look_for_twins(&self, advert: &Advert) {
        if advert.owner != self.owner || advert.node == self.node_id {
            return;
        }
        let offered = advert.services.iter().flat_map(|service| &service.agents);
        for twin in offered {
            let later = |epoch: u64| epoch < twin.epoch;
            if self.agents.get(&twin.id).is_some_and(|here| later(here.outline.epoch)) {
                self.let_go(twin.id, Moving { to: advert.node, epoch: twin.epoch });
            }
        }
    }

    fn let_go(&self, agent: AgentId, there: Moving) {
        let node = self.clone();
        self.tasks.spawn(async move {
            if let Err(problem) = node.try_let_go(agent, there).await {
                tracing::warn!(%agent, node = %there.to, %problem, "claims to be the agent's home");
            }
        });
    }

    async fn try_let_go(&self, id: AgentId, there: Moving) -> Result<(), Problem> {
        // An advert says whose its node is; the credential proves it.
        self.require_ours(there.to).await?;
        // It may have left for there just now.
        let Some(agent) = self.agents.get(&id) else { return Ok(()) };
        let mut presence = Arc::clone(&agent.presence).write_owned().await;
        let _gate = Arc::clone(&agent.gate).lock_owned().await;
        let Some(agent) = self.agents.get(&id).filter(|now| now.outline.epoch < there.epoch) else { return Ok(()) };
        let caller = Caller { principal: self.owner, request_id: "fence".into() };
        // Nothing is thrown away unasked: what it held here can be looked at, and recovered.
        let kept = self.take_snapshot(&caller, &id.to_string(), None).await?;
        self.depart(&caller, &agent, there, &mut presence).await?;
        tracing::warn!(
            agent = %agent.outline.name, node = %there.to, snapshot = %kept.id,
            "lives on another node by now; what it held here is kept as a snapshot"
        );
        Ok(())
    }
}
