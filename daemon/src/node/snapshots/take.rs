//! Taking a snapshot: one pass over a consistent view of the state, chunk by chunk.
//!
//! Of the chunks that the snapshot before had, each new one verifies a part; of the others it makes sure that they are there.
//! So a state that hardly changes is cheap to keep, and a chunk that the disk has damaged is still found and written anew.

use std::collections::HashSet;

use bytes::BytesMut;
use fastcdc::v2020::FastCDC;
use futures::{StreamExt as _, stream::FuturesUnordered};
use protocol::{
    AgentId, Digest, Header, MeshId, Problem, Signed, SignedDuration, SnapshotId, Timestamp, api,
    entry::Action,
    snapshot::{AVERAGE_CHUNK, Index, MAX_CHUNK, MAX_CHUNKS, MIN_CHUNK, Ran, Snapshot, put_pair},
};
use store::{Blobs, Commit};

use super::{Node, damaged, deletion, outline, record};
use crate::node::{Caller, agents::not_here};

/// State that is read at once.
const PAGE: usize = 1 << 20;
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
        let agent = self.agents.find(id_or_name).ok_or_else(|| not_here(id_or_name))?;
        self.owner_key.ready().await?;
        // One at a time: what one writes, another must not take for nobody's.
        let _alone = self.snapshotting.lock().await;
        let mut chunks = Chunks::new(self.plugins.blobs().clone(), self.chunks_before(agent.outline.id).await?);
        let mut view = {
            let state = agent.state.read().await;
            self.journal.store().view(&state).await?
        };
        let (mut keys, mut bytes, mut after) = (0, 0, None::<String>);
        loop {
            let page = view.scan(after.as_deref(), PAGE).await?;
            let Some((last, _)) = page.last() else { break };
            after = Some(last.clone());
            for (key, value) in &page {
                keys += 1;
                bytes += (key.len() + value.len()) as u64;
                put_pair(&mut chunks.stream, key, value);
            }
            chunks.cut(false).await?;
        }
        drop(view);
        let (index, new_bytes) = chunks.end().await?;
        let count = index.0.len() as u64;
        let index = self.plugins.blobs().put(index.encode()).await?;
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
        let mut old = self.snapshots_of(shown.id).await?;
        old.truncate(keep.map_or(0, |keep| (old.len() + 1).saturating_sub(keep.max(1) as usize)));
        let records = std::iter::once(record(&signed)).chain(old.iter().map(|old| deletion(old.document()))).collect();
        self.journal.keep(Commit { records, entry: Some(entry), ..Commit::default() }).await?;
        self.drop_chunks(&old).await?;
        self.replicas.look();
        let outline = outline(snapshot, count);
        if count > MAX_CHUNKS as u64 {
            return Err(damaged(snapshot, "it has too many chunks"));
        }
        Ok(api::SnapshotOutline { new_bytes: Some(new_bytes), ..outline })
    }
}

impl Node {
    /// The chunks of an agent's newest snapshot; none if it has no sound one.
    async fn chunks_before(&self, agent: AgentId) -> Result<HashSet<Digest>, Problem> {
        let before = self.snapshots_of(agent).await?;
        let Some(last) = before.last() else { return Ok(HashSet::new()) };
        Ok(self.index(last.document()).await.map(|index| index.0.into_iter().map(|(digest, _)| digest).collect()).unwrap_or_default())
    }
}

/// The stream of pairs, and the chunks that it was cut into.
struct Chunks {
    blobs: Blobs,
    before: HashSet<Digest>,
    /// Which of those before are verified this time.
    turn: u8,
    stream: BytesMut,
    index: Index,
    new_bytes: u64,
    writing: FuturesUnordered<tokio::task::JoinHandle<Result<u64, store::Error>>>,
}

impl Chunks {
    fn new(blobs: Blobs, before: HashSet<Digest>) -> Self {
        // Any turn will do, if it isn't always the same.
        let turn = u8::try_from(Timestamp::now().as_microsecond().rem_euclid(i64::from(VERIFIED))).expect("it is below 16");
        Self { blobs, before, turn, stream: BytesMut::new(), index: Index::default(), new_bytes: 0, writing: FuturesUnordered::new() }
    }

    /// Cuts off what can be: where a chunk ends depends on its own bytes alone, so all but the last are what they will be.
    async fn cut(&mut self, all: bool) -> Result<(), Problem> {
        let cuts: Vec<usize> = FastCDC::new(&self.stream, MIN_CHUNK, AVERAGE_CHUNK, MAX_CHUNK).map(|chunk| chunk.length).collect();
        let whole = if all { cuts.len() } else { cuts.len().saturating_sub(1) };
        for length in &cuts[..whole] {
            let chunk = self.stream.split_to(*length).freeze();
            let (digest, blobs) = (Digest::blake3(&chunk), self.blobs.clone());
            let unchanged = self.before.contains(&digest) && digest.as_bytes()[0] % VERIFIED != self.turn;
            self.index.0.push((digest, u32::try_from(*length).expect("chunks are far below 4 GiB")));
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
        }
        Ok(())
    }

    async fn written(&mut self) -> Result<(), Problem> {
        if let Some(written) = self.writing.next().await {
            self.new_bytes += written.map_err(|error| store::Error::from_task("keep a chunk", error))??;
        }
        Ok(())
    }

    /// The index, when every chunk is durable; and the bytes of those that are new.
    async fn end(mut self) -> Result<(Index, u64), Problem> {
        self.cut(true).await?;
        while !self.writing.is_empty() {
            self.written().await?;
        }
        Ok((self.index, self.new_bytes))
    }
}
