//! Witnessing: this node's checkpoints are shown to peers, who cosign them; theirs are remembered, compared and cosigned.
//!
//! ```text
//! every ten seconds, on connecting:   newest checkpoint ── Witness ──► a few peers ──► cosignatures, under it
//! a peer's Witness ──► judge (pure) ──► remembered durably, then cosigned    or kept as evidence, and said aloud
//! each minute, to one neighbour:      what is remembered of others ── Checkpoints ──► two roots of one size? evidence
//! ```
//! What a node signed can't be unsigned: whoever loses its past, or shows one here and another one there, is named.

mod memory;

use std::{collections::BTreeMap, time::Duration};

use futures::{StreamExt as _, stream};
use parking_lot::Mutex;
use protocol::{
    Code, NodeId, Problem, Timestamp,
    api::{Cosigner, SignedCheckpoint},
    checkpoint::Checkpoint,
    cosignature,
    wire::{Request, Response},
    witness::{self, MAX_TOLD, Shown, Witnessed},
};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

pub(crate) use self::memory::Witness;
use super::Node;

/// How often a new checkpoint is shown to peers.
const ROUND: Duration = Duration::from_secs(10);
/// To how many, each time others: more would make a forged past no more noticeable.
const WITNESSES: usize = 4;
/// Cosignatures that are kept: each is 200 bytes of a note.
const MAX_COSIGNERS: usize = 32;
/// How long a peer is waited for.
const PATIENCE: Duration = Duration::from_secs(5);

/// The newest checkpoint that a peer has cosigned.
#[derive(Debug)]
struct Cosigned {
    checkpoint: Checkpoint,
    note: String,
    /// By whom: when, and the signature's line.
    by: BTreeMap<NodeId, (Timestamp, String)>,
}

/// This node's own checkpoints, before others.
#[derive(Debug, Default)]
struct Own {
    cosigned: Mutex<Option<Cosigned>>,
    /// What was last complained of, so that it is said once.
    denied: Mutex<String>,
}

impl Own {
    fn keep(&self, checkpoint: Checkpoint, note: String, (peer, at, line): (NodeId, Timestamp, String)) {
        let mut kept = self.cosigned.lock();
        if kept.as_ref().is_none_or(|kept| kept.checkpoint.size < checkpoint.size) {
            *kept = Some(Cosigned { checkpoint, note, by: BTreeMap::from([(peer, (at, line))]) });
        } else if let Some(kept) = kept.as_mut().filter(|kept| kept.note == note)
            && (kept.by.len() < MAX_COSIGNERS || kept.by.contains_key(&peer))
        {
            kept.by.insert(peer, (at, line));
        }
    }
}

impl Cosigned {
    fn signed(&self) -> SignedCheckpoint {
        let lines = self.by.values().flat_map(|(_, line)| [line, "\n"]);
        let cosigner = |(node, (time, _)): (&NodeId, &(Timestamp, String))| Cosigner {
            node: *node,
            time: *time,
            verifier_key: cosignature::verifier_key(node),
        };
        SignedCheckpoint {
            note: std::iter::once(self.note.as_str()).chain(lines).collect(),
            size: self.checkpoint.size,
            verifier_key: self.checkpoint.verifier_key(),
            cosigners: self.by.iter().map(cosigner).collect(),
        }
    }
}

impl Witness {
    /// The checkpoint with the cosignatures that it has by now.
    pub(crate) fn with_cosignatures(&self, checkpoint: SignedCheckpoint) -> SignedCheckpoint {
        let kept = self.own.cosigned.lock();
        kept.as_ref().filter(|kept| kept.note == checkpoint.note).map_or(checkpoint, Cosigned::signed)
    }

    /// The newest checkpoint that has any.
    pub(crate) fn newest_cosigned(&self) -> Result<SignedCheckpoint, Problem> {
        let none = || {
            Problem::new(Code::NotFound, "no peer has cosigned a checkpoint since this node started")
                .hint("it takes a connected peer ('mcpctl peers') and some seconds")
        };
        self.own.cosigned.lock().as_ref().map(Cosigned::signed).ok_or_else(none)
    }
}

impl Node {
    /// Shows each new checkpoint to a few peers, until cancelled.
    pub(crate) async fn be_witnessed(self, stop: CancellationToken) {
        let mut rounds = tokio::time::interval(ROUND);
        rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut turn, mut done) = (0, None);
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                _ = rounds.tick() => {}
            }
            let size = self.trace.signed().await.map(|(checkpoint, _)| checkpoint.size);
            let Some(peers) = self.mesh().ok().map(mesh::Mesh::peers).filter(|peers| size != done && !peers.is_empty()) else { continue };
            let chosen: Vec<_> =
                peers.iter().cycle().skip(turn % peers.len()).take(WITNESSES.min(peers.len())).map(|peer| peer.node_id).collect();
            let asked = stream::iter(chosen).map(|peer| self.seek_cosignature(peer)).buffer_unordered(WITNESSES);
            let cosigned = tokio::select! {
                () = stop.cancelled() => break,
                cosigned = asked.collect::<Vec<bool>>() => cosigned,
            };
            turn = turn.wrapping_add(WITNESSES);
            if cosigned.contains(&true) {
                done = size;
            }
        }
    }

    /// Shows a peer the newest checkpoint; whether it cosigned.
    pub(super) async fn seek_cosignature(&self, peer: NodeId) -> bool {
        let sought = self.show_trace(peer).await;
        sought.inspect_err(|problem| tracing::debug!(node = %peer, %problem, "did not cosign")).unwrap_or(false)
    }

    async fn show_trace(&self, peer: NodeId) -> Result<bool, Problem> {
        let Some((mut checkpoint, mut note)) = self.trace.signed().await else { return Ok(false) };
        let mut answer = self.show(peer, Shown { note: note.clone(), link: None }).await?;
        if let Witnessed::Remembered(theirs) = answer {
            let past = Checkpoint::verify(&theirs).ok().filter(|past| past.node == self.node_id);
            let past = past.ok_or_else(|| Problem::new(Code::BadSignature, "it remembers what this node did not sign"))?;
            // What is the newest by now: it can't be smaller than anything that was shown.
            (checkpoint, note) = self.trace.signed().await.unwrap_or((checkpoint, note));
            let link = self.trace.link(past.size, &checkpoint).await?;
            if past.size > checkpoint.size || link.root != past.root {
                self.own_past_is_lost(peer, &past, theirs);
            }
            answer = self.show(peer, Shown { note: note.clone(), link: Some(link) }).await?;
        }
        let Witnessed::Cosigned(line) = answer else {
            return Err(Problem::new(Code::ProofFailed, "it remembers another past of this node's trace"));
        };
        let cosigned = cosignature::verify(&line, &checkpoint).filter(|(by, _)| *by == peer);
        let (_, at) = cosigned.ok_or_else(|| Problem::new(Code::BadSignature, "its cosignature does not verify"))?;
        self.witness.own.keep(checkpoint, note, (peer, at, line));
        Ok(true)
    }

    async fn show(&self, peer: NodeId, shown: Shown) -> Result<Witnessed, Problem> {
        match self.mesh()?.request(peer, Request::Witness(Box::new(shown)), "", PATIENCE).await? {
            Response::Witnessed(witnessed) => Ok(witnessed),
            _ => Err(Problem::new(Code::Internal, format!("node {peer} answered what was not asked"))),
        }
    }

    /// Says once that this log isn't what it was.
    fn own_past_is_lost(&self, peer: NodeId, past: &Checkpoint, theirs: String) {
        if std::mem::replace(&mut *self.witness.own.denied.lock(), theirs.clone()) != theirs {
            tracing::error!(
                witness = %peer, size = past.size, note = ?theirs,
                "a peer remembers a checkpoint that this node's key signed and this node's trace doesn't contain: the data \
                 directory is an old copy, or another node runs with this key"
            );
        }
    }

    /// A peer shows its newest checkpoint.
    pub(super) async fn witness(&self, from: NodeId, shown: Shown) -> Result<Witnessed, Problem> {
        self.witness.pace(from)?;
        let checkpoint = Some(&shown.note).filter(|note| note.len() <= witness::MAX_NOTE).and_then(|note| Checkpoint::verify(note).ok());
        let checkpoint = checkpoint.filter(|checkpoint| checkpoint.node == from);
        let checkpoint = checkpoint.ok_or_else(|| Problem::new(Code::BadSignature, "not a checkpoint of your log that you signed"))?;
        self.witness.shown(&checkpoint, shown, &self.node_key).await
    }

    /// Tells a neighbour what is remembered of others, some at a time.
    pub(super) async fn tell_checkpoints(&self, neighbour: NodeId, turn: usize) {
        let notes = self.witness.notes(neighbour, turn).await;
        let Ok(mesh) = self.mesh() else { return };
        if !notes.is_empty()
            && let Err(problem) = mesh.request(neighbour, Request::Checkpoints(notes), "", PATIENCE).await
        {
            tracing::debug!(node = %neighbour, %problem, "was not told the checkpoints of others");
        }
    }

    /// A neighbour tells what it remembers of others.
    pub(super) async fn compare_checkpoints(&self, from: NodeId, notes: Vec<String>) -> Result<(), Problem> {
        self.witness.pace(from)?;
        if notes.len() > MAX_TOLD || notes.iter().any(|note| note.len() > witness::MAX_NOTE) {
            return Err(Problem::new(Code::TooLarge, format!("at most {MAX_TOLD} checkpoints are told at once")));
        }
        for note in notes {
            self.witness.told(from, note).await?;
        }
        Ok(())
    }
}
