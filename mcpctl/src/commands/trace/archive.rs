//! An export of a trace: files as <https://c2sp.org/tlog-tiles> lays them out, verified without any node.
//!
//! ```text
//! tile/entries/…  ── hashed ──► tile/0/… ── 256 into one ──► tile/1/… ──► … ──► root ──► checkpoint, signed
//! ```

use std::{
    fs,
    io::ErrorKind,
    path::{Path, PathBuf},
};

use protocol::{
    NodeId, Problem,
    checkpoint::Checkpoint,
    error::Code,
    merkle::{Frontier, Hash, leaf_hash},
    tile::{self, Content, HEIGHT, MAX_BUNDLE, Tile, WIDTH},
};
use serde::Serialize;

use super::{
    against,
    held::{self, Held},
};
use crate::input;

/// The file of the checkpoint: a signed note.
pub(super) const CHECKPOINT: &str = "checkpoint";
/// The largest checkpoint.
pub(super) const MAX_CHECKPOINT: usize = 64 * 1024;

/// A directory with an export.
#[derive(Debug)]
pub(super) struct Archive(PathBuf);

/// What was found to be true of an export.
#[derive(Debug, Serialize)]
pub(super) struct Verified {
    verified: bool,
    log: NodeId,
    /// Entries that the checkpoint covers.
    size: u64,
    /// Those whose content is there: each was hashed.
    entries: u64,
    checkpoint: String,
    /// How it stands to a checkpoint that was saved earlier.
    #[serde(skip_serializing_if = "Option::is_none")]
    held: Option<Held>,
}

impl Verified {
    pub(super) fn describe(&self) -> String {
        let Self { log, size, entries, held, .. } = self;
        format!("verified: {entries} entries of the trace of {log} with {size} entries, signed by it{}", against(held))
    }
}

/// The tree as it grows, with the hashes of the upper tiles under way.
#[derive(Default)]
struct Growing {
    frontier: Frontier,
    /// Of the levels above the leaves, the tiles done and the hashes of the one that isn't.
    rows: Vec<(u64, Vec<Hash>)>,
}

impl Archive {
    pub(super) fn at(directory: &Path) -> Self {
        Self(directory.into())
    }

    /// The file of a tile.
    pub(super) fn file(&self, tile: Tile) -> PathBuf {
        self.0.join(tile.path())
    }

    /// The checkpoint as it is there, and what it says; none where there is no export.
    pub(super) fn checkpoint(&self) -> Result<Option<(String, Checkpoint)>, Problem> {
        let path = self.0.join(CHECKPOINT);
        if !path.exists() {
            return Ok(None);
        }
        let note = String::from_utf8(input::read(&path, MAX_CHECKPOINT)?).unwrap_or_default();
        let checkpoint = Checkpoint::verify(&note).map_err(|error| broken(CHECKPOINT, &error.to_string()))?;
        Ok(Some((note, checkpoint)))
    }

    /// The hashes of a tile.
    pub(super) fn hashes(&self, tile: Tile) -> Result<Vec<Hash>, Problem> {
        let path = tile.path();
        let bytes = self.read(tile)?.ok_or_else(|| broken(&path, "the file is missing"))?;
        let whole = tile::decode(&bytes).filter(|hashes| hashes.len() == usize::from(tile.width));
        whole.ok_or_else(|| broken(&path, &format!("it has {} bytes, not {} hashes of 32", bytes.len(), tile.width)))
    }

    /// A bundle of entries, each of which has the hash that the tree has of it; none where there is no file.
    fn entries(&self, tile: Tile, hashes: &[Hash]) -> Result<Option<u64>, Problem> {
        let Some(bytes) = self.read(tile)? else { return Ok(None) };
        check_entries(tile, &bytes, hashes)?;
        Ok(Some(tile.width.into()))
    }

    fn read(&self, tile: Tile) -> Result<Option<Vec<u8>>, Problem> {
        let path = self.file(tile);
        let max = if tile.content == Content::Entries { MAX_BUNDLE } else { usize::from(WIDTH) * size_of::<Hash>() };
        match fs::metadata(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Ok(_) | Err(_) => input::read(&path, max).map(Some),
        }
    }

    /// Recomputes the log from its entries, and holds it against every tile, the checkpoint, and a saved checkpoint.
    pub(super) fn verify(&self, arguments: &held::Arguments) -> Result<Verified, Problem> {
        let none = || {
            Problem::new(Code::NotFound, format!("{} has no file {CHECKPOINT}: it is no export of a trace", self.0.display()))
                .hint("'mcpctl trace export DIR' makes one")
        };
        let (note, signed) = self.checkpoint()?.ok_or_else(none)?;
        let saved = arguments.saved_size()?;
        let (mut growing, mut entries, mut then) = (Growing::default(), 0, None);
        for tile in Tile::row(Content::Hashes(0), signed.size) {
            let hashes = self.hashes(tile)?;
            let bundle = Tile { content: Content::Entries, ..tile };
            entries += self.entries(bundle, &hashes)?.ok_or_else(|| broken(&bundle.path(), "the file is missing"))?;
            for hash in hashes {
                if saved == Some(growing.frontier.size()) {
                    then = Some(growing.frontier.root());
                }
                growing.append(hash, self)?;
            }
        }
        growing.finish(self)?;
        let root = growing.frontier.root();
        if root != signed.root {
            return Err(broken(CHECKPOINT, "it states another root than the tiles have"));
        }
        let held = arguments.hold_root(&note, then.or(Some(root).filter(|_| saved == Some(signed.size))))?;
        Ok(Verified { verified: true, log: signed.node, size: signed.size, entries, checkpoint: note, held })
    }
}

impl Growing {
    fn append(&mut self, leaf: Hash, archive: &Archive) -> Result<(), Problem> {
        let rows = &mut self.rows;
        self.frontier.append(leaf, |level, _, hash| {
            if level.is_multiple_of(HEIGHT) {
                let above = usize::from(level / HEIGHT) - 1;
                rows.resize_with(rows.len().max(above + 1), Default::default);
                rows[above].1.push(hash);
            }
        });
        for (above, (done, row)) in self.rows.iter_mut().enumerate() {
            if row.len() == usize::from(WIDTH) {
                compare(archive, Tile::full(level(above), *done), row)?;
                *done += 1;
                row.clear();
            }
        }
        Ok(())
    }

    /// Those that aren't full.
    fn finish(&self, archive: &Archive) -> Result<(), Problem> {
        let partial = self.rows.iter().enumerate().filter(|(_, (_, row))| !row.is_empty());
        for (above, (done, row)) in partial {
            compare(archive, Tile { content: level(above), index: *done, width: row.len() as u16 }, row)?;
        }
        Ok(())
    }
}

/// What the row of this place above the leaves holds.
fn level(above: usize) -> Content {
    Content::Hashes(above as u8 + 1)
}

fn compare(archive: &Archive, tile: Tile, row: &[Hash]) -> Result<(), Problem> {
    let found = archive.hashes(tile)?;
    match found.iter().zip(row).position(|(found, expected)| found != expected) {
        None => Ok(()),
        Some(at) => Err(broken(&tile.path(), &format!("its hash {at} is not that of the tile below"))),
    }
}

/// Each entry of a bundle must have the hash that the tree has of it.
pub(super) fn check_entries(tile: Tile, bundle: &[u8], hashes: &[Hash]) -> Result<(), Problem> {
    let path = tile.path();
    let entries = tile::unbundle(bundle).map_err(|error| broken(&path, &error.to_string()))?;
    if entries.len() != hashes.len() {
        return Err(broken(&path, &format!("it has {} entries, not {}", entries.len(), hashes.len())));
    }
    match entries.iter().zip(hashes).position(|(entry, hash)| leaf_hash(entry) != *hash) {
        None => Ok(()),
        Some(at) => {
            let index = tile.first().unwrap_or_default() + at as u64;
            Err(broken(&path, &format!("entry {index} does not have the hash that the tree has of it")))
        }
    }
}

fn broken(path: &str, why: &str) -> Problem {
    let hint = "'mcpctl trace export DIR --from-scratch' fetches all of it again, as far as the node has it";
    Problem::new(Code::ProofFailed, format!("{path}: {why}")).hint(hint)
}
