//! Taking a snapshot: a pass over a consistent view of the state, chunk by chunk, of what changed since the one before.
//!
//! Of the chunks that the snapshot before had, each new one verifies a part; of the others it makes sure that they are there.
//! So a state that hardly changes is cheap to keep, and a chunk that the disk has damaged is still found and written anew.

use std::collections::HashSet;

use bytes::Bytes;
use futures::{StreamExt as _, stream::FuturesUnordered};
use protocol::{
    AgentId, Digest, Header, MeshId, Problem, Signed, SignedDuration, SnapshotId, Timestamp, api,
    entry::Action,
    snapshot::{Index, MAX_CHUNKS, Ran, Snapshot},
};
use store::{Blobs, Commit, Expected, MAX_VALUE, Tracking};

use super::{
    Node,
    base::{Base, Note},
    cutter::{Cut, SIZES},
    damaged, deletion, outline,
    pass::{Pass, Piece},
    record,
};
use crate::node::{Caller, agents::Agent};

/// Chunks that are on their way to the disk: each waits for a flush.
const WRITING: usize = 16;
/// One in so many of the chunks that were there before is read and verified by a snapshot.
const VERIFIED: u8 = 16;
/// A snapshot can be verified for as long as anybody may want it back.
const VALIDITY: SignedDuration = SignedDuration::from_hours(10 * 366 * 24);

impl Node {
    /// Keeps an agent's state as it is now; calls go on meanwhile. With `keep`, older snapshots beyond so many are deleted.
    pub(crate) async fn take_snapshot(
        &self,
        caller: &Caller,
        id_or_name: &str,
        keep: Option<u32>,
    ) -> Result<api::SnapshotOutline, Problem> {
        let agent = self.agents.find(id_or_name).ok_or_else(|| self.agents.missing(id_or_name))?;
        self.owner_key.ready().await?;
        // One at a time: what one writes, another must not take for nobody's.
        let _alone = self.snapshotting.lock().await;
        let Cutting { state, mark, chunks, keys, bytes } = self.cut(&agent).await?;
        let count = chunks.index.0.len() as u64;
        let index = self.plugins.blobs().put(chunks.index.encode());
        let ((cuts, new_bytes), index) = tokio::try_join!(chunks.end(), async { Ok(index.await?) })?;
        let shown = &agent.outline;
        let snapshot = Snapshot {
            header: Header::new::<Snapshot>(&MeshId::any(), Timestamp::now(), VALIDITY),
            id: SnapshotId::new(),
            agent: shown.id,
            name: shown.name.clone(),
            owner: self.owner,
            node: self.node_id,
            plugins: shown.plugins.iter().map(|of| Ran { plugin: of.plugin.clone(), component: of.component }).collect(),
            epoch: shown.epoch,
            pricing: shown.pricing.clone(),
            limits: shown.limits,
            keys,
            bytes,
            index,
        };
        let signed = Signed::sign_by(snapshot, &self.owner_key).await?;
        let snapshot = signed.document();
        let digest = Digest::sha256(signed.envelope().payload.as_bytes());
        let entry = self.journal.append(caller.note(), Action::Snapshot { agent: shown.id, snapshot: snapshot.id, digest });
        // One commit brings the new and ends the old: nobody ever sees more of them than are to be kept.
        let mut old = self.disposable(shown.id).await?;
        old.truncate(keep.map_or(0, |keep| (old.len() + 1).saturating_sub(keep.max(1) as usize)));
        let records = std::iter::once(record(&signed)).chain(old.iter().map(|old| deletion(old.document()))).collect();
        let tracking = mark.map(|mark| {
            let note = Note { snapshot: snapshot.id, cuts }.encode();
            // Of what is that large all is read each time: tens of GiB in keys as long as they may be.
            if note.len() <= MAX_VALUE { Tracking::Base { agent: state, mark, note } } else { Tracking::End(state) }
        });
        self.journal.keep(Commit { records, tracking, entry: Some(entry), ..Commit::default() }).await?;
        self.drop_chunks(&old).await?;
        self.replicas.look();
        let outline = outline(snapshot, count);
        if count > MAX_CHUNKS as u64 {
            return Err(damaged(snapshot, "it has too many chunks"));
        }
        Ok(api::SnapshotOutline { new_bytes: Some(new_bytes), ..outline })
    }

    /// Cuts the state as it is now.
    async fn cut(&self, agent: &Agent) -> Result<Cutting, Problem> {
        let id = agent.outline.id;
        let (state, mut view) = {
            let state = agent.state.read().await;
            // What is written from the mark on is told to the next snapshot; some of that this one sees already.
            self.journal.keep(Commit { tracking: Some(Tracking::Mark(*state)), ..Commit::default() }).await?;
            (*state, self.journal.store().view(&state).await?)
        };
        let tracked = view.tracked().await?;
        let turn = turn();
        let note = tracked.as_ref().and_then(|tracked| Note::decode(tracked.base.as_deref()?));
        let base = match note {
            Some(note) => self.base(id, note, turn).await?,
            None => None,
        };
        let before = match &base {
            Some(base) => base.index.0.iter().map(|(digest, _)| *digest).collect(),
            None => self.chunks_before(id).await?,
        };
        let mut chunks = Chunks::new(self.plugins.blobs().clone(), before, turn);
        let mut pass = Pass::new(view, base, SIZES).await?;
        while let Some(piece) = pass.next().await? {
            match piece {
                Piece::Kept(cut, chunk) => chunks.keep(cut, chunk),
                Piece::Cut(cut, bytes) => chunks.put(cut, bytes).await?,
                Piece::Void => {
                    tracing::warn!(agent = %id, "what was noted of the last snapshot is wrong: all of the state is read");
                    chunks.clear();
                }
            }
        }
        let (keys, bytes) = pass.totals();
        Ok(Cutting { state, mark: tracked.map(|tracked| tracked.mark), chunks, keys, bytes })
    }

    /// The snapshot that a note is of, if it is there still, and which of its chunks aren't.
    async fn base(&self, agent: AgentId, note: Note, turn: u8) -> Result<Option<Base>, Problem> {
        let Ok(signed) = self.snapshot(agent, note.snapshot).await else { return Ok(None) };
        let Ok(index) = self.index(signed.document()).await else { return Ok(None) };
        if index.0.len() != note.cuts.len() {
            return Ok(None);
        }
        let expected = index.0.iter().map(|(digest, length)| Expected {
            digest: *digest,
            length: u64::from(*length),
            verify: digest.as_bytes()[0] % VERIFIED == turn,
        });
        let expected: Vec<Expected> = expected.collect();
        let unsound = self.plugins.blobs().unsound(expected).await?.into_iter().collect();
        Ok(Some(Base { cuts: note.cuts, index, unsound }))
    }

    /// The chunks of an agent's newest snapshot; none if it has no sound one.
    async fn chunks_before(&self, agent: AgentId) -> Result<HashSet<Digest>, Problem> {
        let before = self.snapshots_of(agent).await?;
        let Some(last) = before.last() else { return Ok(HashSet::new()) };
        Ok(self.index(last.document()).await.map(|index| index.0.into_iter().map(|(digest, _)| digest).collect()).unwrap_or_default())
    }
}

/// Which of the chunks before are verified this time: any turn will do, if it isn't always the same.
fn turn() -> u8 {
    u8::try_from(Timestamp::now().as_microsecond().rem_euclid(i64::from(VERIFIED))).expect("it is below 16")
}

/// A state that was cut.
struct Cutting {
    /// The id under which it is stored.
    state: AgentId,
    /// The mark that it was read after, if its changes are kept.
    mark: Option<u64>,
    chunks: Chunks,
    keys: u64,
    bytes: u64,
}

/// The chunks of a snapshot; those that are new are on their way to the disk.
struct Chunks {
    blobs: Blobs,
    before: HashSet<Digest>,
    /// Which of those are verified.
    turn: u8,
    index: Index,
    cuts: Vec<Cut>,
    new_bytes: u64,
    writing: FuturesUnordered<tokio::task::JoinHandle<Result<u64, store::Error>>>,
}

impl Chunks {
    fn new(blobs: Blobs, before: HashSet<Digest>, turn: u8) -> Self {
        let (index, writing) = (Index::default(), FuturesUnordered::new());
        Self { blobs, before, turn, index, cuts: Vec::new(), new_bytes: 0, writing }
    }

    /// Takes over a chunk that is there.
    fn keep(&mut self, cut: Cut, chunk: (Digest, u32)) {
        self.index.0.push(chunk);
        self.cuts.push(cut);
    }

    async fn put(&mut self, cut: Cut, chunk: Bytes) -> Result<(), Problem> {
        let (digest, blobs) = (Digest::blake3(&chunk), self.blobs.clone());
        let unchanged = self.before.contains(&digest) && digest.as_bytes()[0] % VERIFIED != self.turn;
        self.keep(cut, (digest, u32::try_from(chunk.len()).expect("chunks are far below 4 GiB")));
        self.writing.push(tokio::spawn(async move {
            if unchanged && blobs.contains_whole(&digest, chunk.len() as u64).await? {
                return Ok(0);
            }
            // Other bytes than they should be are damage, which is put right.
            if blobs.get(&digest).await.is_ok_and(|found| found.is_some()) {
                return Ok(0);
            }
            blobs.put(chunk.to_vec()).await.map(|_| chunk.len() as u64)
        }));
        while self.writing.len() >= WRITING {
            self.written().await?;
        }
        Ok(())
    }

    /// Begins the list anew; what was written stays.
    fn clear(&mut self) {
        self.index.0.clear();
        self.cuts.clear();
    }

    async fn written(&mut self) -> Result<(), Problem> {
        if let Some(written) = self.writing.next().await {
            self.new_bytes += written.map_err(|error| store::Error::from_task("keep a chunk", error))??;
        }
        Ok(())
    }

    /// What is known of them, when every one is durable; and the bytes of those that are new.
    async fn end(mut self) -> Result<(Vec<Cut>, u64), Problem> {
        while !self.writing.is_empty() {
            self.written().await?;
        }
        Ok((self.cuts, self.new_bytes))
    }
}
