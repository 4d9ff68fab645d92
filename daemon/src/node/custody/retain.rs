//! Snapshots that are kept whatever else is deleted.
//!
//! ```text
//! given away   the state that a move has brought to another home: for `snapshots.retain_s`, in case that home loses it
//! branch       what a home had acknowledged that has let go: until its owner discards it, here and at the new home
//! ```
//! The time of retention is counted while the node runs, so that no clock that is set ends it early.

use std::time::Duration;

use protocol::{
    AgentId, Code, NodeId, Problem, Signed, SnapshotId, api, custody::Custody, document::Sealed, entry::Action, snapshot::Snapshot,
};
use serde::{Deserialize, Serialize};
use store::{Commit, Kind, RecordWrite};

use super::{LARGE, Node};
use crate::node::{
    Caller,
    agents::not_here,
    journal,
    snapshots::{deletion, record, record_id},
};

/// How often the time that is left is written down: a restart forgets no more than this.
const NOTED: Duration = Duration::from_secs(3_600);
/// Branches of one agent that a node takes from others.
const MAX_BRANCHES: usize = 64;
/// How often a home that is told of a branch may name another one.
const MAX_HOPS: usize = 4;

/// Why a snapshot is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::node) struct Retained {
    /// The agent's home since it was taken.
    pub(in crate::node) home: NodeId,
    /// For how many more seconds of this node's running; of a branch until it is discarded.
    #[serde(default)]
    pub(in crate::node) left_s: Option<u64>,
    /// Whether the home has a branch, too.
    #[serde(default)]
    pub(in crate::node) told: bool,
}

impl Retained {
    pub(in crate::node) fn record(&self, agent: AgentId, snapshot: SnapshotId) -> RecordWrite {
        RecordWrite { kind: Kind::Retained, id: record_id(agent, snapshot), value: Some(journal::encode(self)) }
    }

    fn is_branch(&self) -> bool {
        self.left_s.is_none()
    }

    /// As the API shows it.
    pub(in crate::node) fn outline(&self) -> api::Retention {
        api::Retention { branch: self.is_branch(), home: self.home, left_s: self.left_s }
    }
}

pub(super) fn end(agent: AgentId, snapshot: SnapshotId) -> RecordWrite {
    RecordWrite { kind: Kind::Retained, id: record_id(agent, snapshot), value: None }
}

impl Node {
    /// The retained snapshots of an agent.
    pub(in crate::node) async fn retained(&self, agent: AgentId) -> Result<Vec<(SnapshotId, Retained)>, Problem> {
        let all = self.all_retained().await?;
        Ok(all.into_iter().filter(|(of, ..)| *of == agent).map(|(_, snapshot, retained)| (snapshot, retained)).collect())
    }

    async fn all_retained(&self) -> Result<Vec<(AgentId, SnapshotId, Retained)>, Problem> {
        let records = journal::all_records(self.journal.store().as_ref(), Kind::Retained).await?;
        let parsed = records.into_iter().map(|(id, bytes)| {
            let ids = id.split_once('/').and_then(|(agent, snapshot)| Some((agent.parse().ok()?, snapshot.parse().ok()?)));
            let (agent, snapshot) = ids.ok_or_else(|| Problem::new(Code::StoreFailed, format!("{id} names no snapshot")))?;
            Ok((agent, snapshot, journal::decode("retained snapshot", &bytes)?))
        });
        parsed.collect()
    }

    /// The snapshots of an agent that may be deleted, the oldest first.
    pub(in crate::node) async fn disposable(&self, agent: AgentId) -> Result<Vec<Signed<Snapshot>>, Problem> {
        let retained = self.retained(agent).await?;
        let mut all = self.snapshots_of(agent).await?;
        all.retain(|signed| retained.iter().all(|(kept, _)| *kept != signed.document().id));
        Ok(all)
    }

    /// The snapshots of an agent's own history, the oldest first: those of homes that have let go are not of it.
    pub(in crate::node) async fn own_line(&self, agent: AgentId) -> Result<Vec<Signed<Snapshot>>, Problem> {
        let retained = self.retained(agent).await?;
        let mut all = self.snapshots_of(agent).await?;
        all.retain(|signed| !retained.iter().any(|(kept, why)| *kept == signed.document().id && why.is_branch()));
        Ok(all)
    }

    /// Ends the retention of what was given away, in the commit by which the agent comes back: it is the agent's again.
    pub(in crate::node) async fn end_given_away(&self, agent: AgentId) -> Result<Vec<RecordWrite>, Problem> {
        let given = self.retained(agent).await?.into_iter().filter(|(_, retained)| !retained.is_branch());
        Ok(given.map(|(snapshot, _)| end(agent, snapshot)).collect())
    }

    /// Counts time that has passed while the node ran, and deletes what was kept for long enough. False if it is too early to
    /// write anything down.
    pub(super) async fn age_retained(&self, passed: Duration) -> Result<bool, Problem> {
        let all = self.all_retained().await?;
        let passed_s = passed.as_secs();
        let over = |retained: &Retained| retained.left_s.is_some_and(|left| left <= passed_s);
        if passed < NOTED && !all.iter().any(|(.., retained)| over(retained)) {
            return Ok(false);
        }
        for (agent, snapshot, retained) in all {
            let Some(left) = retained.left_s else { continue };
            if over(&retained) {
                // It is one of those that its home counts on as replicas: that one says when it isn't needed.
                if self.entrusted_with(&agent).await?.is_some_and(|held| held.known.contains(&snapshot)) {
                    self.journal.keep(Commit { records: vec![end(agent, snapshot)], ..Commit::default() }).await?;
                    continue;
                }
                tracing::info!(%agent, %snapshot, home = %retained.home, "a snapshot that was given away is kept no longer");
                self.delete_snapshot(agent, snapshot, None).await?;
                continue;
            }
            let aged = Retained { left_s: Some(left - passed_s), ..retained }.record(agent, snapshot);
            self.journal.keep(Commit { records: vec![aged], ..Commit::default() }).await?;
        }
        Ok(true)
    }

    /// Deletes one snapshot, whatever it is kept for.
    pub(crate) async fn discard(&self, caller: &Caller, id_or_name: &str, snapshot: SnapshotId) -> Result<(), Problem> {
        let agent = self.with_snapshots(id_or_name)?;
        self.snapshot(agent, snapshot).await?;
        self.delete_snapshot(agent, snapshot, Some(caller)).await
    }

    async fn delete_snapshot(&self, agent: AgentId, snapshot: SnapshotId, caller: Option<&Caller>) -> Result<(), Problem> {
        let _alone = self.snapshotting.lock().await;
        let mut all = self.snapshots_of(agent).await?;
        let gone = all.iter().position(|signed| signed.document().id == snapshot).map(|at| all.remove(at));
        let mut records = vec![end(agent, snapshot)];
        records.extend(gone.iter().map(|signed| deletion(signed.document())));
        if all.is_empty() {
            records.push(RecordWrite { kind: Kind::Held, id: agent.to_string(), value: None });
        }
        let entry = caller.map(|caller| self.journal.append(caller.note(), Action::Discard { agent, snapshot }));
        self.journal.keep(Commit { records, entry, ..Commit::default() }).await?;
        self.drop_chunks(&gone.into_iter().collect::<Vec<_>>()).await
    }

    /// Brings the branches that this node keeps to the homes of their agents, as far as these are there.
    pub(super) async fn tell_branches(&self) -> Result<(), Problem> {
        for (agent, snapshot, retained) in self.all_retained().await? {
            if !retained.is_branch() || retained.told {
                continue;
            }
            // Where the agent has come back, its owner sees the branch.
            if self.agents.get(&agent).is_none() {
                let sealed = self.snapshot(agent, snapshot).await?.into();
                if let Err(problem) = self.bring_branch(agent, sealed, retained.home).await {
                    tracing::debug!(%agent, %snapshot, %problem, "its new home does not have what the old one acknowledged yet");
                    continue;
                }
            }
            let told = Retained { told: true, ..retained }.record(agent, snapshot);
            self.journal.keep(Commit { records: vec![told], ..Commit::default() }).await?;
        }
        Ok(())
    }

    async fn bring_branch(&self, agent: AgentId, sealed: Sealed<Snapshot>, home: NodeId) -> Result<(), Problem> {
        let mut home = self.whereabouts.find(&agent.to_string()).map_or(home, |(_, there)| there.node);
        for _ in 0..MAX_HOPS {
            self.require_ours(home).await?;
            match self.entrust(home, Custody::Branch(Box::new(sealed.clone())), "branch", LARGE).await {
                Err(Problem { code: Code::AgentMoved, moved_to: Some(to), .. }) => home = to,
                answer => return answer.map(drop),
            }
        }
        Err(Problem::new(Code::Conflict, format!("agent {agent} is sent from node to node")))
    }

    /// A node that has let go of an agent that lives here brings what it had acknowledged.
    pub(super) async fn take_branch(&self, caller: &Caller, from: NodeId, sealed: Sealed<Snapshot>) -> Result<(), Problem> {
        let signed = self.verified_snapshot(sealed)?;
        let Snapshot { agent, id, owner, node, epoch, .. } = signed.document();
        let (agent, id, epoch) = (*agent, *id, *epoch);
        if *owner != self.owner || *node != from {
            return Err(Problem::new(Code::NotAuthorized, format!("snapshot {id} is not one that node {from} took of this owner's agent")));
        }
        let Some(home) = self.agents.get(&agent) else { return Err(self.absent(&agent.to_string())) };
        if self.snapshot(agent, id).await.is_ok() {
            return Ok(());
        }
        if self.retained(agent).await?.len() >= MAX_BRANCHES {
            let detail = format!("{MAX_BRANCHES} branches of agent {} are kept, the most", home.outline.name);
            return Err(Problem::new(Code::Overloaded, detail).hint("'mcpctl agent discard' deletes those that nobody needs"));
        }
        self.fetch_snapshot(caller, from, &signed).await?;
        let _alone = self.snapshotting.lock().await;
        self.verified(&signed).await?;
        let retained = Retained { home: self.node_id, left_s: None, told: true };
        let action = Action::LetGo { agent, node: from, to: self.node_id, epoch: home.outline.epoch, snapshot: id };
        let commit = Commit {
            records: vec![record(&signed), retained.record(agent, id)],
            entry: Some(self.journal.append(caller.note(), action)),
            ..Commit::default()
        };
        self.journal.keep(commit).await?;
        tracing::warn!(
            agent = %home.outline.name, node = %from, snapshot = %id, epoch,
            "another node had acknowledged calls of this agent and has let go: what it held is kept here as a snapshot"
        );
        Ok(())
    }

    /// The agent that is meant. It needn't live here: this node may hold snapshots of it all the same.
    pub(in crate::node) fn with_snapshots(&self, id_or_name: &str) -> Result<AgentId, Problem> {
        let here = self.agents.find(id_or_name).map(|agent| agent.outline.id);
        let left = || self.whereabouts.find(id_or_name).map(|(id, _)| id);
        here.or_else(|| id_or_name.parse().ok()).or_else(left).ok_or_else(|| not_here(id_or_name))
    }
}
