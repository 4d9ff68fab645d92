//! Agents' states, kept: taken while calls go on, signed, verified before anything of them is put back.
//!
//! ```text
//! take.rs:    a view of the state -> chunks -> blobs -> index -> Snapshot, signed by the owner
//!             pass.rs    which chunks of the last snapshot stay, and what is read and cut anew
//!             cutter.rs  the stream of pairs, and where it is cut
//!             base.rs    what the next one is to know of this one
//! import.rs:  the same from another node's export, as an agent of its own
//! schedule.rs: by the clock
//! recover.rs: every chunk verified -> the state written beside the agent's -> one commit makes it the agent's
//! ```

mod base;
mod cutter;
mod import;
mod pass;
mod recount;
mod recover;
mod schedule;
mod take;
#[cfg(test)]
mod tests;

use std::collections::HashSet;

use protocol::{
    AgentId, Code, Digest, Expect, MeshId, Problem, Signed, SnapshotId, api,
    document::Sealed,
    entry::Action,
    snapshot::{Index, Snapshot},
};
use store::{Kind, RecordWrite};

use super::{Caller, Node, journal};

/// Snapshots of one agent that are listed, and so kept.
const MAX_SNAPSHOTS: usize = 1_000;

impl Node {
    /// The snapshots of an agent, the newest first.
    pub(crate) async fn snapshots(&self, id_or_name: &str) -> Result<Vec<api::SnapshotOutline>, Problem> {
        let agent = self.with_snapshots(id_or_name)?;
        let (mut outlines, retained) = (Vec::new(), self.retained(agent).await?);
        for signed in self.snapshots_of(agent).await?.iter().rev() {
            let chunks = self.index(signed.document()).await.map(|index| index.0.len() as u64).unwrap_or_default();
            let why = retained.iter().find(|(id, _)| *id == signed.document().id).map(|(_, retained)| retained.outline());
            outlines.push(api::SnapshotOutline { retained: why, ..outline(signed.document(), chunks) });
        }
        Ok(outlines)
    }

    /// The snapshots of an agent, the oldest first.
    pub(super) async fn snapshots_of(&self, agent: AgentId) -> Result<Vec<Signed<Snapshot>>, Problem> {
        let store = self.journal.store();
        // Ids grow with time, and '0' follows '/'.
        let records = store.records(Kind::Snapshot, Some(&format!("{agent}/")), MAX_SNAPSHOTS).await?;
        let own = records.into_iter().take_while(|(id, _)| id.starts_with(&format!("{agent}/")));
        own.map(|(_, bytes)| self.verified_snapshot(journal::decode("snapshot", &bytes)?)).collect()
    }

    /// A snapshot that was taken of an agent which ran this component.
    pub(super) async fn snapshot_with(&self, component: &Digest) -> Result<Option<SnapshotId>, Problem> {
        for (_, bytes) in journal::all_records(self.journal.store().as_ref(), Kind::Snapshot).await? {
            let signed = self.verified_snapshot(journal::decode("snapshot", &bytes)?)?;
            if signed.document().plugins.iter().any(|ran| ran.component == *component) {
                return Ok(Some(signed.document().id));
            }
        }
        Ok(None)
    }

    /// One snapshot of an agent.
    pub(super) async fn snapshot(&self, agent: AgentId, id: SnapshotId) -> Result<Signed<Snapshot>, Problem> {
        let bytes = self.journal.store().record(Kind::Snapshot, &record_id(agent, id)).await?;
        let unknown = || {
            Problem::new(Code::NotFound, format!("agent {agent} has no snapshot {id} on this node"))
                .hint("'mcpctl agent snapshots' lists those there are")
        };
        self.verified_snapshot(journal::decode("snapshot", &bytes.ok_or_else(unknown)?)?)
    }

    /// A snapshot as its owner signed it.
    pub(crate) async fn signed_snapshot(&self, id_or_name: &str, id: SnapshotId) -> Result<Sealed<Snapshot>, Problem> {
        Ok(self.snapshot(self.with_snapshots(id_or_name)?, id).await?.into())
    }

    /// Hands out a snapshot, to be taken elsewhere; what it consists of is then asked for by digest.
    pub(crate) async fn export(&self, caller: &Caller, id_or_name: &str, id: SnapshotId) -> Result<Sealed<Snapshot>, Problem> {
        let sealed = self.signed_snapshot(id_or_name, id).await?;
        let agent = self.with_snapshots(id_or_name)?;
        self.enter_action(caller, Action::Export { agent, snapshot: id }, Vec::new()).await?;
        Ok(sealed)
    }

    pub(super) fn verified_snapshot(&self, sealed: Sealed<Snapshot>) -> Result<Signed<Snapshot>, Problem> {
        let signed = sealed.open(Expect::archived(&MeshId::any()))?;
        signed.require(signed.document().owner)?;
        self.lineages.check(&signed)?;
        Ok(signed)
    }

    /// The chunks of a snapshot.
    pub(super) async fn index(&self, snapshot: &Snapshot) -> Result<Index, Problem> {
        let bytes = self.plugins.blobs().get(&snapshot.index).await?;
        let missing = || damaged(snapshot, &format!("its index ({}) is missing", snapshot.index));
        Index::decode(&bytes.ok_or_else(missing)?).map_err(|error| damaged(snapshot, &error.to_string()))
    }

    /// Deletes the chunks that these snapshots had and no other one has. Their records are gone already: a crash leaves
    /// chunks that nobody names, never a snapshot without its chunks.
    pub(super) async fn drop_chunks(&self, gone: &[Signed<Snapshot>]) -> Result<(), Problem> {
        let mut candidates: HashSet<Digest> = HashSet::new();
        for signed in gone {
            candidates.insert(signed.document().index);
            if let Ok(index) = self.index(signed.document()).await {
                candidates.extend(index.0.iter().map(|(digest, _)| *digest));
            }
        }
        if candidates.is_empty() {
            return Ok(());
        }
        for (_, bytes) in journal::all_records(self.journal.store().as_ref(), Kind::Snapshot).await? {
            let other = self.verified_snapshot(journal::decode("snapshot", &bytes)?)?;
            candidates.remove(&other.document().index);
            for (digest, _) in self.index(other.document()).await?.0 {
                candidates.remove(&digest);
            }
        }
        for plugin in self.plugins.list().await? {
            candidates.remove(&plugin.component);
        }
        for digest in candidates {
            self.plugins.blobs().remove(&digest).await?;
        }
        Ok(())
    }
}

/// Keeps a snapshot.
pub(super) fn record(signed: &Signed<Snapshot>) -> RecordWrite {
    let Snapshot { agent, id, .. } = signed.document();
    RecordWrite { kind: Kind::Snapshot, id: record_id(*agent, *id), value: Some(journal::encode(signed)) }
}

/// Ends a snapshot's record.
pub(super) fn deletion(snapshot: &Snapshot) -> RecordWrite {
    RecordWrite { kind: Kind::Snapshot, id: record_id(snapshot.agent, snapshot.id), value: None }
}

/// Under which name a snapshot is kept, and what is noted of it.
pub(super) fn record_id(agent: AgentId, snapshot: SnapshotId) -> String {
    format!("{agent}/{snapshot}")
}

fn outline(snapshot: &Snapshot, chunks: u64) -> api::SnapshotOutline {
    let Snapshot { id, agent, header, plugins, keys, bytes, node, epoch, .. } = snapshot;
    api::SnapshotOutline {
        id: *id,
        agent: *agent,
        taken_at: header.issued_at,
        plugins: plugins.iter().map(|ran| ran.plugin.clone()).collect(),
        keys: *keys,
        bytes: *bytes,
        chunks,
        new_bytes: None,
        node: *node,
        epoch: *epoch,
        retained: None,
    }
}

fn damaged(snapshot: &Snapshot, detail: &str) -> Problem {
    Problem::new(Code::StoreFailed, format!("snapshot {} is damaged: {detail}; nothing was changed", snapshot.id))
        .hint("use another snapshot ('mcpctl agent snapshots')")
}
