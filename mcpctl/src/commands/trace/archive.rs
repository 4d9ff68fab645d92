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
    NodeId, Problem, Timestamp,
    api::Pruned,
    checkpoint::Checkpoint,
    entry::{Action, Entry, InclusionProof},
    error::Code,
    merkle::{self, Frontier, Hash, leaf_hash},
    tile::{self, Content, HEIGHT, MAX_BUNDLE, Tile, WIDTH},
};
use serde::Serialize;

use super::{
    against,
    held::{self, Held},
    refused,
};
use crate::input;

/// The file of the checkpoint: a signed note.
pub(super) const CHECKPOINT: &str = "checkpoint";
/// The file that says what the node had pruned when it was exported, if it had.
pub(super) const PRUNED: &str = "pruned.json";
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
    /// What the node had pruned, as an entry of the trace says, where some of it isn't there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pruned: Option<Declared>,
    checkpoint: String,
    /// How it stands to a checkpoint that was saved earlier.
    #[serde(skip_serializing_if = "Option::is_none")]
    held: Option<Held>,
}

/// An entry by which the node says that it pruned its trace.
#[derive(Debug, Clone, Copy, Serialize)]
struct Declared {
    /// The entries before this index.
    until: u64,
    /// When.
    at: Timestamp,
}

impl Verified {
    pub(super) fn describe(&self) -> String {
        let Self { log, size, entries, pruned, held, .. } = self;
        let pruned = pruned.map(|Declared { until, at }| {
            let (last, on) = (until.saturating_sub(1), at.strftime("%F"));
            format!("\nentries 0 to {last} were pruned on {on}: their hashes were verified; where their content is missing, that says why")
        });
        let pruned = pruned.unwrap_or_default();
        format!("verified: {entries} entries of the trace of {log} with {size} entries, signed by it{}{pruned}", against(held))
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

    /// What the node had pruned.
    fn pruned(&self) -> Result<Option<Pruned>, Problem> {
        let path = self.0.join(PRUNED);
        path.exists().then(|| input::document(&path, "a note of what was pruned")).transpose()
    }

    /// The hashes of a tile.
    pub(super) fn hashes(&self, tile: Tile) -> Result<Vec<Hash>, Problem> {
        let path = tile.path();
        let bytes = self.read(tile)?.ok_or_else(|| broken(&path, "the file is missing"))?;
        let whole = tile::decode(&bytes).filter(|hashes| hashes.len() == usize::from(tile.width));
        whole.ok_or_else(|| broken(&path, &format!("it has {} bytes, not {} hashes of 32", bytes.len(), tile.width)))
    }

    fn read(&self, tile: Tile) -> Result<Option<Vec<u8>>, Problem> {
        let path = self.file(tile);
        let max = if tile.content == Content::Entries { MAX_BUNDLE } else { usize::from(WIDTH) * size_of::<Hash>() };
        match fs::metadata(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Ok(found) if found.len() > max as u64 => Err(broken(&tile.path(), &format!("it has over {max} bytes"))),
            Ok(_) | Err(_) => input::read(&path, max).map(Some),
        }
    }

    /// Proves an entry, named by its operation or index, by what is here.
    pub(super) fn prove(&self, entry: &str) -> Result<InclusionProof, Problem> {
        let (note, Checkpoint { size, .. }) = self.checkpoint()?.ok_or_else(|| self.none())?;
        let absent = || Problem::new(Code::NotFound, format!("{} has no entry {entry}", self.0.display()));
        let (index, entry) = match entry.parse() {
            Ok(index) => (index, self.entry(index, size)?),
            Err(_) => self.find(entry, size)?.ok_or_else(absent)?,
        };
        let beside = merkle::beside(index, size).ok_or_else(absent)?;
        let range = |(start, end)| {
            let roots = merkle::subtrees(start, end).map(|(first, level)| self.subtree(first, level, size));
            let whole = |roots: Vec<Hash>| merkle::fold(&roots).ok_or_else(absent);
            roots.collect::<Result<_, _>>().and_then(whole)
        };
        let hashes = beside.into_iter().map(range).collect::<Result<_, _>>()?;
        let proof = InclusionProof { index, entry, hashes, checkpoint: note };
        proof.verify().map_err(refused)?;
        Ok(proof)
    }

    /// The root of the complete subtree of `level` that begins at leaf `first`.
    fn subtree(&self, first: u64, level: u8, size: u64) -> Result<Hash, Problem> {
        let (row, above) = (level / HEIGHT, level % HEIGHT);
        let place = first >> (row * HEIGHT);
        let tile = Tile::holding(Content::Hashes(row), place, size).ok_or_else(|| broken(CHECKPOINT, "its size is not the log's"))?;
        let from = usize::try_from(place % u64::from(WIDTH)).unwrap_or_default();
        let mut under = Frontier::default();
        self.hashes(tile)?.iter().skip(from).take(1 << above).for_each(|hash| under.append(*hash, |_, _, _| {}));
        Ok(under.root())
    }

    /// The entry at an index.
    fn entry(&self, index: u64, size: u64) -> Result<String, Problem> {
        let absent = || Problem::new(Code::NotFound, format!("{} has no entry {index}", self.0.display()));
        let bundle = Tile::holding(Content::Entries, index, size).ok_or_else(absent)?;
        let bytes = self.read(bundle)?.ok_or_else(|| {
            Problem::new(Code::Pruned, format!("the content of entry {index} is not there: it was pruned before the export"))
        })?;
        let entries = tile::unbundle(&bytes).map_err(|error| broken(&bundle.path(), &error.to_string()))?;
        let at = usize::try_from(index % u64::from(WIDTH)).unwrap_or_default();
        let entry = entries.get(at).ok_or_else(absent)?;
        String::from_utf8(entry.to_vec()).map_err(|_| broken(&bundle.path(), &format!("entry {index} is not text")))
    }

    /// The entry of an operation, and its index: looked for from the newest on.
    fn find(&self, operation: &str, size: u64) -> Result<Option<(u64, String)>, Problem> {
        let bundles: Vec<_> = Tile::row(Content::Entries, size).collect();
        for bundle in bundles.into_iter().rev() {
            let Some(bytes) = self.read(bundle)? else { continue };
            let entries = tile::unbundle(&bytes).map_err(|error| broken(&bundle.path(), &error.to_string()))?;
            let is_its = |entry: &str| serde_json::from_str::<Entry>(entry).is_ok_and(|entry| entry.operation.to_string() == operation);
            let texts = (bundle.first().unwrap_or_default()..).zip(entries.iter().map(|entry| String::from_utf8_lossy(entry)));
            let found = texts.into_iter().find(|(_, entry)| entry.contains(operation) && is_its(entry));
            if let Some((index, entry)) = found {
                return Ok(Some((index, entry.into_owned())));
            }
        }
        Ok(None)
    }

    fn none(&self) -> Problem {
        Problem::new(Code::NotFound, format!("{} has no file {CHECKPOINT}: it is no export of a trace", self.0.display()))
            .hint("'mcpctl trace export DIR' makes one")
    }

    /// Recomputes the log from its entries, and holds it against every tile, the checkpoint, and a saved checkpoint.
    pub(super) fn verify(&self, arguments: &held::Arguments) -> Result<Verified, Problem> {
        let (note, signed) = self.checkpoint()?.ok_or_else(|| self.none())?;
        let saved = arguments.saved_size()?;
        let pruned = self.pruned()?;
        let (mut growing, mut entries, mut then, mut declared) = (Growing::default(), 0, None, None);
        for tile in Tile::row(Content::Hashes(0), signed.size) {
            let hashes = self.hashes(tile)?;
            let bundle = Tile { content: Content::Entries, ..tile };
            match self.read(bundle)? {
                Some(bytes) => {
                    check_entries(bundle, &bytes, &hashes)?;
                    entries += u64::from(bundle.width);
                    declared = declared.or_else(|| says_pruned(&bytes, pruned?.until));
                }
                None if pruned.is_some_and(|pruned| is_before(bundle, pruned.until)) => {}
                None => return Err(broken(&bundle.path(), "the file is missing")),
            }
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
        // Of what the file says, the rest is covered by no signature, and not shown.
        if pruned.is_some() && declared.is_none() {
            return Err(broken(PRUNED, "no entry of the trace says that it was pruned so far"));
        }
        let pruned = declared.filter(|_| entries < signed.size);
        let held = arguments.hold_root(&note, then.or(Some(root).filter(|_| saved == Some(signed.size))))?;
        Ok(Verified { verified: true, log: signed.node, size: signed.size, entries, pruned, checkpoint: note, held })
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

/// Whether all of a bundle lies before an index.
fn is_before(tile: Tile, index: u64) -> bool {
    tile.first().is_some_and(|first| first + u64::from(tile.width) <= index)
}

/// The entry by which the node says that those before an index were pruned.
fn says_pruned(bundle: &[u8], until: u64) -> Option<Declared> {
    let text = |entry: &[u8]| std::str::from_utf8(entry).is_ok_and(|text| text.contains("\"action\":\"prune\""));
    let entries = tile::unbundle(bundle).ok()?;
    let read = entries.iter().filter(|entry| text(entry)).filter_map(|entry| serde_json::from_slice::<Entry>(entry).ok());
    read.into_iter().find(|entry| entry.action == Action::Prune { until }).map(|entry| Declared { until, at: entry.time })
}

fn broken(path: &str, why: &str) -> Problem {
    let hint = "'mcpctl trace export DIR --from-scratch' fetches all of it again, as far as the node has it";
    Problem::new(Code::ProofFailed, format!("{path}: {why}")).hint(hint)
}
