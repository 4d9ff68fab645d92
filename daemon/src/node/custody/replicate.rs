//! The newest snapshot of each agent of this node, at as many other nodes as the agent asks for.
//!
//! Looked at whenever a snapshot was taken, and by the clock: a node that has left is replaced by another.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;
use protocol::{
    AgentId, Code, NodeId, Problem, SnapshotId, Timestamp, api,
    credential::Zone,
    custody::{Custody, Hold, MAX_REPLICAS},
    entry::Action,
};
use tokio::{
    sync::Notify,
    time::{Instant, MissedTickBehavior},
};
use tokio_util::sync::CancellationToken;

use super::{LARGE, Node, PATIENCE};
use crate::node::{Caller, agents::Agent};

/// How often it is looked whether every agent's snapshots are where they should be.
const EVERY: Duration = Duration::from_secs(15);

/// Who holds what; made anew after a restart, as holding twice is no harm.
#[derive(Debug, Default)]
pub(crate) struct Replicas {
    held: Mutex<HashMap<AgentId, BTreeMap<NodeId, api::Replica>>>,
    changed: Notify,
}

impl Replicas {
    /// Who holds snapshots of an agent.
    fn of(&self, agent: &AgentId) -> Vec<api::Replica> {
        self.held.lock().get(agent).map(|held| held.values().cloned().collect()).unwrap_or_default()
    }

    /// A node is known to hold a snapshot of an agent that came from there.
    fn insert(&self, agent: AgentId, replica: api::Replica) {
        self.held.lock().entry(agent).or_default().insert(replica.node, replica);
    }

    /// A snapshot was taken, an agent came, or asks for another number.
    pub(in crate::node) fn look(&self) {
        self.changed.notify_one();
    }
}

impl Node {
    /// Has an agent's snapshots held by so many other nodes.
    pub(crate) async fn set_replicas(&self, caller: &Caller, id_or_name: &str, replicas: u32) -> Result<api::Agent, Problem> {
        if replicas > MAX_REPLICAS {
            return Err(Problem::new(Code::InvalidRequest, format!("at most {MAX_REPLICAS} nodes hold an agent's snapshots")));
        }
        let agent = self.agents.find(id_or_name).ok_or_else(|| self.agents.missing(id_or_name))?;
        if replicas > 0 && self.own_line(agent.outline.id).await?.is_empty() {
            self.take_snapshot(caller, id_or_name, None).await?;
        }
        let (agent, _gate) = self.hold(id_or_name).await?;
        let outline = api::Agent { replicas, ..agent.outline.clone() };
        let action = Action::Replicas { agent: outline.id, replicas };
        let outline = self.replace(caller, &agent, outline, action).await?;
        self.replicas.look();
        Ok(outline)
    }

    /// Who holds an agent's snapshots.
    pub(crate) fn replicas_of(&self, id_or_name: &str) -> Result<Vec<api::Replica>, Problem> {
        let agent = self.agents.find(id_or_name).ok_or_else(|| self.agents.missing(id_or_name))?;
        Ok(self.replicas.of(&agent.outline.id))
    }

    /// Keeps the snapshots of this node's agents where they should be, until cancelled.
    pub(crate) async fn keep_replicas(self, stop: CancellationToken) {
        let mut ticks = tokio::time::interval(EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut aged = Instant::now();
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = ticks.tick() => {}
                () = self.replicas.changed.notified() => {}
            }
            match self.age_retained(aged.elapsed()).await {
                Ok(true) => aged = Instant::now(),
                Ok(false) => {}
                Err(problem) => tracing::warn!(%problem, "can't look after retained snapshots"),
            }
            tokio::select! {
                () = stop.cancelled() => return,
                told = self.tell_branches() => if let Err(problem) = told {
                    tracing::warn!(%problem, "can't tell homes of what others had acknowledged");
                }
            }
            let all = self.agents.all();
            self.replicas.held.lock().retain(|id, _| all.iter().any(|agent| agent.outline.id == *id));
            for agent in all {
                let known = !self.replicas.of(&agent.outline.id).is_empty();
                if agent.outline.replicas == 0 && !known {
                    continue;
                }
                tokio::select! {
                    () = stop.cancelled() => return,
                    replicated = self.replicate(&agent) => if let Err(problem) = replicated {
                        tracing::warn!(agent = %agent.outline.name, %problem, "its snapshots are not held by as many nodes as they should be");
                    }
                }
            }
        }
    }

    /// Brings an agent's newest snapshot to the nodes that are to hold it, and has the others let go.
    async fn replicate(&self, agent: &Arc<Agent>) -> Result<(), Problem> {
        let outline = &agent.outline;
        let snapshots = self.own_line(outline.id).await?;
        let Some(newest) = snapshots.last() else { return Ok(()) };
        let wanted = outline.replicas as usize;
        let known = self.replicas.of(&outline.id);
        let (present, mut failed) = (self.companions(), None);
        let chosen = choose(&present, &known, self.zone().as_ref(), wanted);
        let mut holding = 0;
        for (node, zone) in chosen {
            if holding == wanted {
                break;
            }
            let id = newest.document().id;
            if known.iter().any(|replica| replica.node == node && replica.snapshot == id) {
                holding += 1;
                continue;
            }
            let keep = snapshots.iter().map(|signed| signed.document().id).collect();
            let hold = Hold { snapshot: newest.clone().into(), agent: outline.clone(), keep };
            match self.entrusted(node, hold).await {
                Ok(()) => {
                    holding += 1;
                    let replica = api::Replica { node, zone, snapshot: id, held_at: Timestamp::now() };
                    self.replicas.insert(outline.id, replica);
                }
                Err(problem) => failed = Some(problem),
            }
        }
        self.release_surplus(outline.id, &known, &present, wanted, newest.document().id).await;
        if holding == wanted {
            return Ok(());
        }
        let few = format!("{holding} of {wanted} nodes hold its newest snapshot");
        Err(match failed {
            Some(problem) => Problem::new(problem.code, format!("{few}: {}", problem.detail)),
            None => Problem::new(Code::Unreachable, few).hint("more nodes of this owner are needed in the mesh"),
        })
    }

    /// Has another node of this owner hold a snapshot.
    pub(in crate::node) async fn entrusted(&self, node: NodeId, hold: Hold) -> Result<(), Problem> {
        self.require_ours(node).await?;
        self.entrust(node, Custody::Hold(Box::new(hold)), "replicate", LARGE).await.map(drop)
    }

    /// Nodes that hold more than is asked for, and those that are gone.
    async fn release_surplus(
        &self,
        agent: AgentId,
        known: &[api::Replica],
        present: &[(NodeId, Option<Zone>)],
        wanted: usize,
        newest: SnapshotId,
    ) {
        let here = |node: NodeId| present.iter().any(|(known, _)| *known == node);
        let current = self.replicas.of(&agent);
        let fresh: HashSet<NodeId> = current
            .iter()
            .filter(|replica| replica.snapshot == newest && here(replica.node))
            .map(|replica| replica.node)
            .take(wanted)
            .collect();
        for replica in known.iter().filter(|replica| !fresh.contains(&replica.node)) {
            // Not before as many hold the newest as should: an older one is better than none.
            if !here(replica.node) || fresh.len() == wanted {
                if let Some(held) = self.replicas.held.lock().get_mut(&agent) {
                    held.remove(&replica.node);
                }
                if here(replica.node)
                    && let Err(problem) = self.entrust(replica.node, Custody::Release(agent), "replicate", PATIENCE).await
                {
                    tracing::debug!(node = %replica.node, %problem, "still holds snapshots that are not needed");
                }
            }
        }
    }

    /// An agent came from `home`, which keeps holding its last snapshot there if the agent asks for replicas: so there is one
    /// at every moment.
    pub(in crate::node) fn count_in(&self, agent: &api::Agent, home: NodeId, snapshot: SnapshotId) {
        if agent.replicas > 0 {
            let zone = self.companions().into_iter().find(|(node, _)| *node == home).and_then(|(_, zone)| zone);
            self.replicas.insert(agent.id, api::Replica { node: home, zone, snapshot, held_at: Timestamp::now() });
        }
        self.replicas.look();
    }

    /// Has the nodes that hold an agent's snapshots let go of them, in the background: the agent has ended.
    pub(in crate::node) fn dismiss(&self, agent: AgentId) {
        let replicas = self.replicas.held.lock().remove(&agent).unwrap_or_default();
        for holder in replicas.into_keys() {
            let node = self.clone();
            self.tasks.spawn(async move {
                if let Err(problem) = node.entrust(holder, Custody::Release(agent), "terminate", PATIENCE).await {
                    tracing::warn!(%agent, %holder, %problem, "still holds snapshots of an agent that has ended");
                }
            });
        }
    }

    /// The other nodes that say they are of this owner, and are in the mesh now; the nearest first.
    pub(in crate::node) fn companions(&self) -> Vec<(NodeId, Option<Zone>)> {
        let mut nodes = self.directory.nodes_of(self.owner);
        let mesh = self.mesh().ok();
        nodes.sort_by_key(|(node, _)| (mesh.and_then(|mesh| mesh.rtt(*node)).unwrap_or(Duration::MAX), *node));
        nodes
    }
}

/// In which order nodes are asked to hold an agent's snapshots: those that do already, then those in zones where nobody does,
/// then the nearest.
fn choose(present: &[(NodeId, Option<Zone>)], known: &[api::Replica], home: Option<&Zone>, wanted: usize) -> Vec<(NodeId, Option<Zone>)> {
    let holds = |node: &NodeId| known.iter().any(|replica| replica.node == *node);
    let (mut chosen, mut others): (Vec<_>, Vec<_>) = present.iter().cloned().partition(|(node, _)| holds(node));
    chosen.truncate(wanted);
    while !others.is_empty() {
        let elsewhere = |zone: &Option<Zone>| zone.as_ref() != home && chosen.iter().all(|(_, taken)| taken != zone);
        let next = others.iter().position(|(_, zone)| elsewhere(zone)).unwrap_or(0);
        chosen.push(others.remove(next));
    }
    chosen
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_zones_come_first_and_who_holds_goes_on() {
        let zone = |name: &str| Some(name.parse::<Zone>().expect("a zone"));
        let node = || protocol::Key::generate().node_id();
        let [near, near2, east, east2, west] = std::array::from_fn(|_| node());
        let present = [(near, zone("eu")), (near2, zone("eu")), (east, zone("asia")), (east2, zone("asia")), (west, zone("us"))];
        let order = |known: &[api::Replica], wanted| {
            choose(&present, known, zone("eu").as_ref(), wanted).into_iter().map(|(node, _)| node).collect::<Vec<_>>()
        };
        assert_eq!(order(&[], 2)[..2], [east, west]);
        assert_eq!(order(&[], 5), [east, west, near, near2, east2]);
        let replica = api::Replica { node: near2, zone: zone("eu"), snapshot: SnapshotId::new(), held_at: Timestamp::now() };
        assert_eq!(order(&[replica], 2)[..2], [near2, east]);
    }
}
