//! What a state comes to that is stored here, read from the store alone: the proof that it is held.

use protocol::{
    AgentId, Digest, Problem,
    snapshot::{Index, Snapshot},
};

use super::{
    Node,
    cutter::SIZES,
    damaged,
    pass::{Pass, Piece},
};

impl Node {
    /// Reads the state stored under an id, cuts it as snapshots are cut, and refuses one that isn't what `snapshot` says.
    pub(in crate::node) async fn recount(&self, state: AgentId, snapshot: &Snapshot) -> Result<(), Problem> {
        let view = self.journal.store().view(&state).await?;
        let mut pass = Pass::new(view, None, SIZES).await?;
        let mut index = Index::default();
        while let Some(piece) = pass.next().await? {
            if let Piece::Cut(_, bytes) = piece {
                index.0.push((Digest::blake3(&bytes), u32::try_from(bytes.len()).expect("chunks are far below 4 GiB")));
            }
        }
        if (Digest::blake3(&index.encode()), pass.totals()) != (snapshot.index, (snapshot.keys, snapshot.bytes)) {
            return Err(damaged(snapshot, "what was written of it reads as something else"));
        }
        Ok(())
    }
}
