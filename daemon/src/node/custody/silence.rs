//! Whether a home is lost. Only silence says so: for [`SILENCE`], no attempt of this node reached it, and none of the owner's
//! other nodes can reach it either. A node that refuses this one, or that this one refuses, is there.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use futures::{StreamExt as _, stream};
use protocol::{AgentId, Code, NodeId, Problem, Signed, api, custody::Custody, snapshot::Snapshot, wire::Response};
use tokio::time::Instant;

use super::{Node, PATIENCE};

/// For how long a node must have been silent to count as lost. README and ARCHITECTURE say so.
const SILENCE: Duration = Duration::from_secs(10);
/// Between two attempts to reach it.
const PAUSE: Duration = Duration::from_secs(1);
/// How often a node that was asked may name another one.
const MAX_HOPS: usize = 4;
/// Nodes that are asked at once.
const AT_ONCE: usize = 8;
/// How far the epoch that an advert claims may be ahead of what is known otherwise. Adverts are believed no further: nothing
/// proves what a node that is gone has said in its own name.
const MAX_AHEAD: u64 = 1 << 20;

impl Node {
    /// The nodes where an agent may live, and the latest epoch that is known of it.
    pub(super) fn suspects(&self, agent: &api::Agent, snapshot: &Signed<Snapshot>) -> (BTreeSet<NodeId>, u64) {
        let taken = snapshot.document();
        let mut known: Vec<(NodeId, u64)> = vec![(taken.node, taken.epoch)];
        if let Some((_, there)) = self.whereabouts.find(&agent.id.to_string()) {
            known.push((there.node, there.epoch));
        }
        let sure = known.iter().map(|(_, epoch)| *epoch).max().unwrap_or_default().max(agent.epoch);
        // Whoever shows the credential of somebody else is no home of this owner's agent.
        let ours = |node: &NodeId| self.owner_of(*node).is_none_or(|owner| owner == self.owner);
        let advertised = self.directory.homes(&agent.id, self.owner).into_iter();
        known.extend(advertised.filter(|(node, epoch)| ours(node) && *epoch <= sure.saturating_add(MAX_AHEAD)));
        let latest = known.iter().map(|(_, epoch)| *epoch).max().unwrap_or_default().max(sure);
        let mut homes: BTreeMap<NodeId, u64> = BTreeMap::new();
        for (node, epoch) in known {
            let newest = homes.entry(node).or_default();
            *newest = epoch.max(*newest);
        }
        let last = homes.values().copied().max().unwrap_or_default();
        (homes.into_iter().filter(|(node, epoch)| *node != self.node_id && *epoch == last).map(|(node, _)| node).collect(), latest)
    }

    /// Refuses if an agent has a home that isn't lost.
    pub(super) async fn require_lost(&self, agent: &api::Agent, suspects: BTreeSet<NodeId>) -> Result<(), Problem> {
        let (mut asked, mut next) = (BTreeSet::new(), suspects);
        for _ in 0..MAX_HOPS {
            let mut named = BTreeSet::new();
            for node in next {
                if node != self.node_id && asked.insert(node) {
                    named.extend(self.require_silent(agent, node).await?);
                }
            }
            if named.is_empty() {
                return Ok(());
            }
            next = named;
        }
        Err(Problem::new(Code::Conflict, format!("node after node says that agent {} lives on another one", agent.name)).hint(FORCE))
    }

    /// Refuses if a node is an agent's home and isn't lost. Answers with the node that it names instead.
    async fn require_silent(&self, agent: &api::Agent, node: NodeId) -> Result<Option<NodeId>, Problem> {
        let refused = |what: String| Err(Problem::new(Code::Conflict, format!("agent {} lives on node {node}, {what}", agent.name)));
        let (here, heard) = tokio::join!(self.attempt(node), self.heard_by_others(node));
        match here {
            Life::Answers => match self.lives_on(node, agent.id).await {
                Ok(true) => refused("which is there".into())
                    .map_err(|problem| problem.hint("'mcpctl agent move' on that node brings it here; ".to_owned() + FORCE)),
                Ok(false) => Ok(None),
                Err(Problem { code: Code::AgentMoved, moved_to: Some(to), .. }) => Ok(Some(to)),
                Err(problem) => refused(format!("which answers, and not this question: {}", problem.detail)).map_err(|it| it.hint(FORCE)),
            },
            Life::Refuses(why) => refused(format!("which is not known to be lost: {why}")).map_err(|problem| problem.hint(FORCE)),
            Life::Silent => match heard {
                Some(other) => refused(format!("which node {other} reaches")).map_err(|problem| problem.hint(FORCE)),
                None => Ok(None),
            },
            Life::Unknown(problem) => Err(problem),
        }
    }

    /// Tries to reach a node until it answers, or for as long as a node must be silent.
    async fn attempt(&self, node: NodeId) -> Life {
        let until = Instant::now() + SILENCE;
        loop {
            match self.reach(node).await {
                Life::Silent if Instant::now() < until => tokio::time::sleep(PAUSE).await,
                known => return known,
            }
        }
    }

    async fn reach(&self, node: NodeId) -> Life {
        let mesh = match self.mesh() {
            Ok(mesh) => mesh,
            Err(problem) => return Life::Unknown(problem),
        };
        match mesh.ping(node).await {
            Ok(_) => Life::Answers,
            Err(error @ mesh::Error::Refused { .. }) => Life::Refuses(error.to_string()),
            Err(mesh::Error::Unreachable { .. } | mesh::Error::TimedOut { .. }) => Life::Silent,
            Err(
                error @ (mesh::Error::Address { .. }
                | mesh::Error::Listen { .. }
                | mesh::Error::Setup { .. }
                | mesh::Error::Enrolled { .. }
                | mesh::Error::Limit { .. }
                | mesh::Error::Stopped),
            ) => Life::Unknown(error.into()),
        }
    }

    /// Whether another node of this owner reaches a node, or can't say that it doesn't.
    pub(super) async fn hears(&self, node: NodeId) -> bool {
        !matches!(self.reach(node).await, Life::Silent)
    }

    /// The first of this owner's other nodes that reaches a node.
    async fn heard_by_others(&self, node: NodeId) -> Option<NodeId> {
        let others = self.companions().into_iter().map(|(other, _)| other).filter(|other| *other != node);
        let asked = stream::iter(others).map(|other| async move {
            self.require_ours(other).await.ok()?;
            let answer = self.entrust(other, Custody::Hears(node), "restore", PATIENCE).await.ok()?;
            matches!(answer, Response::Is(true)).then_some(other)
        });
        asked.buffer_unordered(AT_ONCE).filter_map(async |heard| heard).boxed().next().await
    }

    async fn lives_on(&self, node: NodeId, agent: AgentId) -> Result<bool, Problem> {
        if !self.is_ours(node) {
            // Somebody else's node is nobody's home of this owner.
            return Ok(false);
        }
        match self.entrust(node, Custody::Lives(agent), "restore", PATIENCE).await {
            Ok(Response::Is(lives)) => Ok(lives),
            Ok(_) => Err(super::super::execute::strange(node)),
            Err(problem) => Err(problem),
        }
    }
}

/// What `--force` does.
const FORCE: &str = "'--force' makes this node its home all the same: the other one lets go when it learns of that, and keeps what it \
                     acknowledged until then as a snapshot of its own";

/// What came of an attempt to reach a node.
enum Life {
    Answers,
    /// It refuses this node, or this node refuses it.
    Refuses(String),
    Silent,
    /// This node couldn't try.
    Unknown(Problem),
}
