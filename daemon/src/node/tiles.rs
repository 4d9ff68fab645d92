//! The trace as tiles (<https://c2sp.org/tlog-tiles>), made of what the store keeps anyway: leaves, and nodes of each eighth level.

use protocol::{
    Code, Problem,
    merkle::Hash,
    tile::{self, Content, Tile},
};
use store::LoggedEntry;

use super::{prune::without_content, trace_log::TraceLog};

impl TraceLog {
    /// A tile of the log as far as it is signed.
    pub(crate) async fn tile(&self, tile: Tile) -> Result<Vec<u8>, Problem> {
        let size = self.signed().await.map_or(0, |(checkpoint, _)| checkpoint.size);
        let beyond = || {
            Problem::new(Code::NotFound, format!("a log of {size} entries has no {}", tile.path()))
                .hint("'checkpoint' says how many entries are signed by now")
        };
        let first = tile.first().filter(|_| tile.is_of(size)).ok_or_else(beyond)?;
        let width = usize::from(tile.width);
        match tile.content {
            Content::Entries => bundle(tile, self.store().entries(first, width).await?),
            Content::Hashes(0) => whole(tile, &self.store().leaves(first, width).await?),
            Content::Hashes(level) => whole(tile, &self.store().nodes(level * tile::HEIGHT, first, width).await?),
        }
    }
}

fn whole(tile: Tile, hashes: &[Hash]) -> Result<Vec<u8>, Problem> {
    if hashes.len() == usize::from(tile.width) { Ok(tile::encode(hashes)) } else { Err(missing(tile)) }
}

fn bundle(tile: Tile, entries: Vec<LoggedEntry>) -> Result<Vec<u8>, Problem> {
    if entries.len() != usize::from(tile.width) {
        return Err(missing(tile));
    }
    if let Some(pruned) = entries.iter().find(|logged| logged.entry.is_empty()) {
        return Err(without_content(pruned));
    }
    let bytes = tile::bundle(entries.iter().map(|logged| logged.entry.as_slice()));
    bytes.map_err(|error| Problem::new(Code::TooLarge, format!("{}: {error}", tile.path())))
}

fn missing(tile: Tile) -> Problem {
    Problem::new(Code::StoreFailed, format!("the trace is damaged: a part of {} is missing", tile.path()))
}
