//! Snapshots of other nodes' agents, held here.
//!
//! They lie beside this node's own, under the agent's id, with a record (`Kind::Held`) of the agent as its home has it.

use std::collections::{BTreeMap, HashSet};

use futures::{StreamExt as _, stream::FuturesUnordered};
use mesh::Piece;
use protocol::{
    AgentId, Code, Digest, NodeId, Problem, Signed, SnapshotId, api,
    custody::{Custody, Held, Hold, MAX_CHUNKS_ASKED},
    snapshot::{Index, MAX_CHUNKS, Snapshot},
    wire::Request,
};
use serde::{Deserialize, Serialize};
use store::{Commit, Kind, RecordWrite};

use super::{LARGE, Node, names};
use crate::node::{
    Caller, journal,
    snapshots::{deletion, record},
};

/// What the store keeps of an agent of another node.
#[derive(Debug, Serialize, Deserialize)]
pub(in crate::node) struct Entrusted {
    /// The agent, as its home has it.
    pub(in crate::node) agent: api::Agent,
    /// The snapshots that its home knows of. Others that are here, of a time when the agent lived here, are not its to delete.
    pub(in crate::node) known: Vec<SnapshotId>,
}

impl Entrusted {
    pub(in crate::node) fn record(&self) -> RecordWrite {
        RecordWrite { kind: Kind::Held, id: self.agent.id.to_string(), value: Some(journal::encode(self)) }
    }
}

/// Chunks that are on their way to the disk: each waits for a flush.
const WRITING: usize = 16;
/// How often it is looked whether a blob that somebody else fetches has come.
const BUSY: std::time::Duration = std::time::Duration::from_millis(20);
/// Chunks that went between fetching and keeping, because another snapshot was deleted just then: tried again so often.
const ATTEMPTS: usize = 3;

impl Node {
    /// Fetches a snapshot from its home and keeps it, and of the older ones those that are still wanted.
    pub(super) async fn hold_snapshot(&self, caller: &Caller, from: NodeId, hold: Hold) -> Result<(), Problem> {
        let signed = self.verified_snapshot(hold.snapshot)?;
        let snapshot = signed.document();
        let agent = snapshot.agent;
        if snapshot.owner != self.owner || hold.agent.id != agent {
            return Err(Problem::new(Code::NotAuthorized, format!("snapshot {} is not one of this owner's agent", snapshot.id)));
        }
        for attempt in 1.. {
            self.fetch_snapshot(caller, from, &signed).await?;
            let _alone = self.snapshotting.lock().await;
            // What a deletion took away meanwhile is fetched again; while the lock is held nothing is deleted.
            if !self.lacking(snapshot).await?.is_empty() && attempt < ATTEMPTS {
                continue;
            }
            self.verified(&signed).await?;
            let before = self.entrusted_with(&agent).await?.map(|before| before.known).unwrap_or_default();
            let mut known = hold.keep.clone();
            known.push(snapshot.id);
            let mut gone = self.disposable(agent).await?;
            gone.retain(|old| before.contains(&old.document().id) && !known.contains(&old.document().id));
            let mut records = vec![record(&signed), Entrusted { agent: hold.agent.clone(), known }.record()];
            if self.agents.get(&agent).is_some() {
                return Err(Problem::new(Code::Conflict, format!("agent {agent} lives here")));
            }
            records.extend(gone.iter().map(|old| deletion(old.document())));
            self.journal.keep(Commit { records, ..Commit::default() }).await?;
            return self.drop_chunks(&gone).await;
        }
        unreachable!("the last attempt returns")
    }

    pub(super) async fn entrusted_with(&self, agent: &AgentId) -> Result<Option<Entrusted>, Problem> {
        let record = self.journal.store().record(Kind::Held, &agent.to_string()).await?;
        record.map(|bytes| journal::decode("held agent", &bytes)).transpose()
    }

    /// Goes on holding the snapshots of an agent that has left: its new home knows all of them.
    pub(in crate::node) async fn hold_on(&self, agent: &api::Agent) -> Result<(), Problem> {
        let known = self.snapshots_of(agent.id).await?.iter().map(|signed| signed.document().id).collect();
        let entrusted = Entrusted { agent: agent.clone(), known };
        self.journal.keep(Commit { records: vec![entrusted.record()], ..Commit::default() }).await.map(drop)
    }

    /// Fetches what this node lacks of a snapshot: its plugins, its index, its chunks. All of it is verified.
    pub(super) async fn fetch_snapshot(&self, caller: &Caller, from: NodeId, signed: &Signed<Snapshot>) -> Result<(), Problem> {
        let snapshot = signed.document();
        for ran in &snapshot.plugins {
            if self.plugins.get(&ran.component).await.is_err() {
                self.fetch_plugin(caller, from, ran.component).await?;
            }
        }
        let blobs = self.plugins.blobs();
        if !blobs.contains(&snapshot.index).await? {
            self.fetch_blob(caller, from, snapshot.index, MAX_CHUNKS as u64 * 36).await?;
        }
        for wanted in self.lacking(snapshot).await?.chunks(MAX_CHUNKS_ASKED) {
            self.fetch_chunks(caller, from, wanted).await?;
        }
        Ok(())
    }

    /// A blob of another node, whole and verified. If it is being fetched already, as a move and a replica may want the same one,
    /// that is waited for.
    pub(in crate::node) async fn fetch_blob(&self, caller: &Caller, from: NodeId, content: Digest, limit: u64) -> Result<(), Problem> {
        let blobs = self.plugins.blobs();
        let partial = loop {
            match blobs.partial(&content) {
                Err(store::Error::Busy { .. }) => tokio::time::sleep(BUSY).await,
                partial => break partial?,
            }
            if blobs.contains(&content).await? {
                return Ok(());
            }
        };
        self.mesh()?.fetch(from, content, partial.path(), limit, &caller.request_id).await?;
        Ok(partial.adopt().await?)
    }

    /// The chunks of a snapshot that aren't here.
    async fn lacking(&self, snapshot: &Snapshot) -> Result<Vec<Digest>, Problem> {
        let Index(chunks) = self.index(snapshot).await?;
        let (mut seen, mut lacking) = (HashSet::new(), Vec::new());
        for (digest, _) in chunks {
            if seen.insert(digest) && !self.plugins.blobs().contains(&digest).await? {
                lacking.push(digest);
            }
        }
        Ok(lacking)
    }

    async fn fetch_chunks(&self, caller: &Caller, from: NodeId, wanted: &[Digest]) -> Result<(), Problem> {
        let request = Request::Custody(Box::new(Custody::Chunks(wanted.to_vec())));
        let mut answers = self.mesh()?.stream(from, request, &caller.request_id, LARGE).await?;
        let mut wanted = wanted.iter();
        let mut writing = FuturesUnordered::new();
        let strange = || Problem::new(Code::BadSignature, format!("node {from} sent other chunks than were asked for"));
        while let Piece::Item(chunk) = answers.next().await? {
            let digest = *wanted.next().ok_or_else(strange)?;
            let blobs = self.plugins.blobs().clone();
            writing.push(async move { blobs.put_verified(digest, chunk).await });
            if writing.len() >= WRITING {
                writing.next().await.transpose()?;
            }
        }
        while let Some(written) = writing.next().await {
            written?;
        }
        if wanted.next().is_some() { Err(strange()) } else { Ok(()) }
    }

    /// The newest snapshot of each agent of this id or name that is held here, or lives here.
    pub(in crate::node) async fn held_for(&self, id_or_name: &str) -> Result<Vec<Held>, Problem> {
        let store = self.journal.store();
        let mut agents: BTreeMap<AgentId, api::Agent> = BTreeMap::new();
        for (_, bytes) in journal::all_records(store.as_ref(), Kind::Held).await? {
            let Entrusted { agent, .. } = journal::decode("held agent", &bytes)?;
            agents.insert(agent.id, agent);
        }
        agents.extend(self.agents.all().into_iter().map(|agent| (agent.outline.id, agent.outline.clone())));
        let mut held = Vec::new();
        for (id, agent) in agents.into_iter().filter(|(id, agent)| names(id_or_name, *id, agent)) {
            // What a home had that let go is of an earlier epoch: it counts where there is nothing else.
            let rank = |signed: &Signed<Snapshot>| (signed.document().epoch, signed.document().header.issued_at, signed.document().id);
            if let Some(newest) = self.snapshots_of(id).await?.into_iter().max_by_key(rank) {
                held.push(Held { snapshot: newest.into(), agent });
            }
        }
        Ok(held)
    }

    /// Deletes what is held of an agent that lives elsewhere, but for what this node retains by itself.
    pub(in crate::node) async fn release_held(&self, agent: AgentId) -> Result<(), Problem> {
        if self.agents.get(&agent).is_some() {
            return Err(Problem::new(Code::Conflict, format!("agent {agent} lives here")));
        }
        let _alone = self.snapshotting.lock().await;
        let gone = self.disposable(agent).await?;
        let mut records: Vec<_> = gone.iter().map(|old| deletion(old.document())).collect();
        // What is retained can be recovered, and so needs the note of its agent; but its home counts on nothing here any more.
        let note = match self.entrusted_with(&agent).await? {
            Some(entrusted) if !self.retained(agent).await?.is_empty() => Entrusted { known: Vec::new(), ..entrusted }.record(),
            Some(_) | None => RecordWrite { kind: Kind::Held, id: agent.to_string(), value: None },
        };
        records.push(note);
        self.journal.keep(Commit { records, ..Commit::default() }).await?;
        self.drop_chunks(&gone).await
    }

    /// Deletes all that is kept of an agent that its owner has ended on this node.
    pub(in crate::node) async fn end_held(&self, agent: AgentId) -> Result<(), Problem> {
        let retained = self.retained(agent).await?;
        let records = retained.iter().map(|(snapshot, _)| super::retain::end(agent, *snapshot)).collect();
        self.journal.keep(Commit { records, ..Commit::default() }).await?;
        self.release_held(agent).await
    }
}
