//! An agent has one home. Whoever learns that one of its agents lives elsewhere in a later epoch lets go of it: the agent was
//! recovered from the mesh while this node was away, or given up in the middle of a move.
//!
//! The other node must prove first that it is the home: by its signed statement about that epoch. What this node had
//! acknowledged becomes a snapshot of its own, a branch, which nothing deletes but its owner's hand, and which the home gets, too.
//! Two homes of one epoch, which two recoveries at once may bring, are told apart by their ids: the greater one stays.

use std::sync::Arc;

use protocol::{AgentId, Code, NodeId, Problem, Signed, advert::Offered, custody::Holding, entry::Action};
use store::RecordWrite;

use super::Departure;
use crate::node::{
    Caller, Node,
    agents::Agent,
    claims::VerifiedAdvert,
    custody::{Entrusted, Retained},
};

/// Another node that offers an agent of this one.
#[derive(Debug, Clone, Copy)]
struct Twin {
    node: NodeId,
    epoch: u64,
}

impl Node {
    /// Looks through an advert for agents that live here, too.
    pub(in crate::node) fn look_for_twins(&self, claims: &Arc<VerifiedAdvert>) {
        let advert = claims.document();
        if !claims.is_owned() || advert.owner != self.owner || advert.node == self.node_id {
            return;
        }
        for Offered { id, epoch, .. } in advert.services.iter().flat_map(|service| &service.agents) {
            let (id, twin) = (*id, Twin { node: advert.node, epoch: *epoch });
            let Some(here) = self.agents.get(&id) else { continue };
            let (node, claims, yields) = (self.clone(), Arc::clone(claims), self.yields_to(&here, twin));
            self.tasks.spawn(async move {
                let done = match yields {
                    true => node.try_let_go(id, twin).await,
                    // It may be in an epoch that it signed never to have it in.
                    false => node.expose(id, twin.epoch, twin.node, claims.signed()).await,
                };
                if let Err(problem) = done {
                    tracing::warn!(agent = %id, node = %twin.node, %problem, "claims to be the agent's home");
                }
            });
        }
    }

    /// Whether another home is the later one.
    fn yields_to(&self, here: &Agent, twin: Twin) -> bool {
        (here.outline.epoch, self.node_id) < (twin.epoch, twin.node)
    }

    async fn try_let_go(&self, id: AgentId, twin: Twin) -> Result<(), Problem> {
        // An advert says whose its node is; the credential proves it.
        self.require_ours(twin.node).await?;
        // It may have left for there just now.
        let Some(agent) = self.agents.get(&id) else { return Ok(()) };
        let word = self.ask_holding(twin.node, id, agent.outline.name.clone(), twin.epoch).await?;
        if !word.document().adopted {
            return Err(Problem::new(Code::ProofFailed, format!("it offers agent {id} and signs that it does not have it")));
        }
        let mut presence = Arc::clone(&agent.presence).write_owned().await;
        let _gate = Arc::clone(&agent.gate).lock_owned().await;
        let Some(agent) = self.agents.get(&id).filter(|now| self.yields_to(now, twin)) else { return Ok(()) };
        let caller = Caller { principal: self.owner, request_id: "fence".into() };
        let (departure, branch) = self.kept_apart(&caller, &agent, twin, &word).await?;
        self.depart(&caller, &agent, departure, &mut presence).await?;
        let name = &agent.outline.name;
        match branch {
            Some(snapshot) => tracing::warn!(
                agent = %name, node = %twin.node, %snapshot, epoch = agent.outline.epoch,
                "lives on another node by now; what was acknowledged here is kept as this snapshot, here and there: 'mcpctl agent snapshots' \
                 lists it, 'agent recover --from' on its home makes it the agent's state"
            ),
            None => tracing::warn!(agent = %name, node = %twin.node, "lives on another node by now, with all that it had here"),
        }
        self.replicas.look();
        Ok(())
    }

    /// Keeps what an agent has here as a snapshot; as a branch, unless its home began with the same.
    async fn kept_apart(
        &self,
        caller: &Caller,
        agent: &Agent,
        twin: Twin,
        word: &Signed<Holding>,
    ) -> Result<(Departure, Option<protocol::SnapshotId>), Problem> {
        let (id, Twin { node: to, epoch }) = (agent.outline.id, twin);
        let kept = self.take_snapshot(caller, &id.to_string(), None).await?.id;
        let snapshot = self.snapshot(id, kept).await?;
        let same = word.document().state.is_some_and(|state| state.index == snapshot.document().index);
        let retained = Retained { home: to, left_s: same.then_some(self.retain_s), told: same };
        let held = Entrusted { agent: agent.outline.clone(), known: Vec::new() }.record();
        let along: Vec<RecordWrite> = vec![retained.record(id, kept), held];
        let action = match same {
            true => Action::Move { agent: id, to, epoch },
            false => Action::LetGo { agent: id, node: self.node_id, to, epoch, snapshot: kept },
        };
        Ok((Departure { to, epoch, action, along }, (!same).then_some(kept)))
    }
}
