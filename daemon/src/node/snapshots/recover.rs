//! Putting a snapshot back: all of it or nothing.
//!
//! The state is written under an id of its own, a few MiB at a time, while the agent goes on with the one it has. One
//! commit then makes it the agent's. A crash before leaves a note (`Kind::Staged`) by which the next start clears it away.

use bytes::BytesMut;
use kernel::{MAX_KEY, MAX_VALUE};
use protocol::{
    AgentId, Problem, Signed, SnapshotId, api,
    entry::Action,
    snapshot::{Index, Snapshot, take_pair},
};
use store::{Commit, Kind, RecordWrite, StateWrites, Write};

use super::{Node, damaged};
use crate::node::{Caller, agents::Record, journal};

/// State that is written at once.
const BATCH: usize = 4 << 20;

impl Node {
    /// Makes an agent's state that of one of its snapshots. Calls that write wait meanwhile; those that read go on.
    pub(crate) async fn recover(&self, caller: &Caller, id_or_name: &str, snapshot: SnapshotId) -> Result<api::SnapshotOutline, Problem> {
        let agent = self.agents.find(id_or_name).ok_or_else(|| self.agents.missing(id_or_name))?;
        let signed = self.snapshot(agent.outline.id, snapshot).await?;
        let index = self.verified(&signed).await?;
        let (agent, _gate) = self.hold(id_or_name).await?;
        let staged = AgentId::new();
        let note = |value| RecordWrite { kind: Kind::Staged, id: staged.to_string(), value };
        self.journal.keep(Commit { records: vec![note(Some(Vec::new()))], ..Commit::default() }).await?;
        if let Err(problem) = self.stage(staged, signed.document(), &index).await {
            self.journal.keep(Commit { clear_state: Some(staged), records: vec![note(None)], ..Commit::default() }).await?;
            return Err(problem);
        }
        // Whoever opens a view waits, and sees the old state or the new, never one that is being cleared.
        let mut state = agent.state.write().await;
        let record = Record::of(&agent, agent.outline.clone(), staged);
        let record = RecordWrite { kind: Kind::Agent, id: agent.outline.id.to_string(), value: Some(journal::encode(&record)) };
        let entry = self.journal.append(caller.note(), Action::Recover { agent: agent.outline.id, snapshot });
        let commit = Commit { clear_state: Some(*state), records: vec![record, note(None)], entry: Some(entry), ..Commit::default() };
        self.journal.keep(commit).await?;
        *state = staged;
        Ok(super::outline(signed.document(), index.0.len() as u64))
    }

    /// The chunks of a snapshot, each of which is there and what it should be.
    pub(in crate::node) async fn verified(&self, signed: &Signed<Snapshot>) -> Result<Index, Problem> {
        let snapshot = signed.document();
        let index = self.index(snapshot).await?;
        for (at, (digest, _)) in index.0.iter().enumerate() {
            let chunk = || format!("chunk {} of {} ({digest})", at + 1, index.0.len());
            match self.plugins.blobs().get(digest).await {
                Ok(Some(_)) => {}
                Ok(None) => return Err(damaged(snapshot, &format!("{} is missing", chunk()))),
                Err(error) => return Err(damaged(snapshot, &format!("{} can't be used: {error}", chunk()))),
            }
        }
        Ok(index)
    }

    /// Writes a snapshot's state under the id `staged`.
    pub(in crate::node) async fn stage(&self, staged: AgentId, snapshot: &Snapshot, index: &Index) -> Result<(), Problem> {
        let malformed = |error: protocol::snapshot::Malformed| damaged(snapshot, &error.to_string());
        let (mut stream, mut writes, mut size) = (BytesMut::new(), Vec::new(), 0);
        let (mut keys, mut bytes) = (0, 0);
        for (digest, _) in &index.0 {
            let chunk = self.plugins.blobs().get(digest).await?.ok_or_else(|| damaged(snapshot, &format!("chunk {digest} is gone")))?;
            stream.extend_from_slice(&chunk);
            while let Some((key, value)) = take_pair(&mut stream, (MAX_KEY, MAX_VALUE)).map_err(malformed)? {
                keys += 1;
                bytes += (key.len() + value.len()) as u64;
                size += key.len() + value.len();
                writes.push(Write { key, value: Some(value.to_vec()) });
                if size >= BATCH {
                    self.write_staged(staged, std::mem::take(&mut writes)).await?;
                    size = 0;
                }
            }
        }
        self.write_staged(staged, writes).await?;
        if !stream.is_empty() || (keys, bytes) != (snapshot.keys, snapshot.bytes) {
            return Err(damaged(snapshot, "it doesn't hold what it says"));
        }
        Ok(())
    }

    async fn write_staged(&self, staged: AgentId, writes: Vec<Write>) -> Result<(), Problem> {
        if writes.is_empty() {
            return Ok(());
        }
        let state = Some(StateWrites { agent: staged, writes, quota: None });
        self.journal.keep(Commit { state, ..Commit::default() }).await.map(drop)
    }

    /// Clears away what a crash has left of a recovery.
    pub(crate) async fn clear_staged(&self) -> Result<(), Problem> {
        for (id, _) in journal::sound_records(self.journal.store().as_ref(), Kind::Staged).await?.records {
            let note = RecordWrite { kind: Kind::Staged, id: id.clone(), value: None };
            self.journal.keep(Commit { clear_state: id.parse().ok(), records: vec![note], ..Commit::default() }).await?;
            tracing::warn!(state = %id, "a recovery was interrupted: the agent has the state that it had before");
        }
        Ok(())
    }
}
