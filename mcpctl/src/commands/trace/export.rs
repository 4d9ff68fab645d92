//! `trace export`: the trace into a directory, as tiles. What is complete there is not fetched again.
//!
//! ```text
//! checkpoint ─► hash tiles ─► bundles of entries, each entry hashed ─► on disk ─► the checkpoint's file, last
//! ```
//! So a directory with a checkpoint has all that belongs to it, whenever an export was interrupted.

use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
};

use protocol::{
    Client, NodeId, Problem,
    api::{Pruned, TracePage},
    checkpoint::Checkpoint,
    entry::ConsistencyProof,
    error::Code,
    merkle::Hash,
    tile::{Content, MAX_BUNDLE, Tile, WIDTH},
};
use serde::Serialize;

use super::{
    archive::{Archive, CHECKPOINT, MAX_CHECKPOINT, PRUNED, check_entries},
    describe_pruned, refused,
};
use crate::{error::Result, output::Output};

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Where to: a new directory, or one with an earlier export of the same trace
    #[arg(value_name = "DIR")]
    directory: PathBuf,
    /// Fetch also what is there
    #[arg(long)]
    from_scratch: bool,
}

/// What an export came to.
#[derive(Debug, Serialize)]
struct Exported {
    directory: PathBuf,
    log: NodeId,
    /// Entries that the checkpoint covers.
    size: u64,
    /// Files written now.
    written: u64,
    /// Files that were there.
    present: u64,
    /// What the node had pruned before, if anything.
    #[serde(skip_serializing_if = "Option::is_none")]
    pruned: Option<Pruned>,
}

pub(super) async fn run(arguments: &Arguments, client: &Client, output: Output) -> Result {
    let Arguments { directory, from_scratch } = arguments;
    let archive = Archive::at(directory);
    // Before the checkpoint: the entry that says so is among what that covers.
    let pruned = client.get::<TracePage>("/v1/trace?limit=1").await?.pruned;
    let note = client.get_bytes(&route(CHECKPOINT), MAX_CHECKPOINT).await?;
    let note = String::from_utf8(note.into()).map_err(|_| refused(protocol::checkpoint::Error::Malformed.into()))?;
    let signed = Checkpoint::verify(&note).map_err(|error| refused(error.into()))?;
    let before = if *from_scratch { None } else { archive.checkpoint()?.map(|(_, before)| before) };
    if let Some(before) = &before {
        extends(client, directory, before, &signed).await?;
    }
    let mut exported = Exported { directory: directory.clone(), log: signed.node, size: signed.size, written: 0, present: 0, pruned };
    let progress = output.progress();
    for tile in Tile::all(signed.size) {
        let file = archive.file(tile);
        if !from_scratch && tile.is_full() && is_there(&file, tile) {
            exported.present += 1;
            continue;
        }
        let bytes = match client.get_bytes(&route(&tile.path()), MAX_BUNDLE).await {
            Ok(bytes) => bytes,
            Err(problem) if problem.code == Code::Pruned => continue,
            Err(problem) => return Err(problem.into()),
        };
        write(&file, &bytes)?;
        // By the file that was just written, or verified when it was.
        let checked = match tile.content {
            Content::Entries => {
                let hashes = archive.hashes(Tile { content: Content::Hashes(0), ..tile })?;
                check_entries(tile, &bytes, &hashes)
            }
            Content::Hashes(_) => archive.hashes(tile).map(drop),
        };
        checked.inspect_err(|_| drop(fs::remove_file(&file)))?;
        exported.written += 1;
        progress.show(&format!("{} files written", exported.written));
    }
    progress.end();
    if let Some(pruned) = &pruned {
        write(&directory.join(PRUNED), &serde_json::to_vec(pruned).map_err(anyhow::Error::from)?)?;
    }
    // All of it is on the disk before the checkpoint says that it is there.
    rustix::fs::sync();
    write(&directory.join(CHECKPOINT), note.as_bytes())?;
    if let Some(before) = before {
        tidy(&archive, before.size, signed.size);
    }
    output.show(&exported, |Exported { directory, log, size, written, present, pruned }| {
        let directory = directory.display();
        let pruned = pruned.as_ref().map(|pruned| format!("\n{}", describe_pruned(pruned))).unwrap_or_default();
        format!("exported: the trace of {log} with {size} entries, in {directory}: {written} files written, {present} were there{pruned}")
    })
}

fn route(path: &str) -> String {
    format!("/v1/trace/tiles/{path}")
}

/// What is in the directory must be an earlier state of what the node shows now.
async fn extends(client: &Client, directory: &Path, before: &Checkpoint, signed: &Checkpoint) -> Result<(), Problem> {
    let directory = directory.display();
    if before.node != signed.node {
        let detail = format!("{directory} has an export of the trace of {}, not of {}", before.node, signed.node);
        return Err(Problem::new(Code::Conflict, detail).hint("name another directory"));
    }
    let other = || {
        let detail = format!("the trace of {} entries in {directory} is not how the node's trace of {} began", before.size, signed.size);
        Problem::new(Code::ProofFailed, detail).hint("keep the directory: its checkpoint is signed by the node; export to another one")
    };
    if before.size >= signed.size {
        return if before == signed { Ok(()) } else { Err(other()) };
    }
    let path = format!("/v1/trace/consistency?from={}&to={}", before.size, signed.size);
    let proof: ConsistencyProof = client.get(&path).await?;
    let states = |note: &str, checkpoint: &Checkpoint| Checkpoint::verify(note).is_ok_and(|shown| shown == *checkpoint);
    let shown = proof.verify().is_ok() && states(&proof.old, before) && states(&proof.new, signed);
    if shown { Ok(()) } else { Err(other()) }
}

/// Whether a full tile was written before: all of it, as it was renamed to this name. After a loss of power it may be empty.
fn is_there(file: &Path, tile: Tile) -> bool {
    let whole = u64::from(WIDTH) * size_of::<Hash>() as u64;
    fs::metadata(file).is_ok_and(|found| if tile.content == Content::Entries { found.len() > 0 } else { found.len() == whole })
}

/// Writes a file that is there whole or not at all.
fn write(file: &Path, bytes: &[u8]) -> Result<(), Problem> {
    let unwritable = |error: std::io::Error| Problem::new(Code::InvalidRequest, format!("can't write {}: {error}", file.display()));
    let directory = file.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(directory).map_err(unwritable)?;
    let mut beside = tempfile::NamedTempFile::new_in(directory).map_err(unwritable)?;
    beside.write_all(bytes).map_err(unwritable)?;
    beside.persist(file).map(drop).map_err(|error| unwritable(error.error))
}

/// Removes partial tiles of a smaller log: a wider one has what they had. What can't be removed is in nobody's way.
fn tidy(archive: &Archive, before: u64, now: u64) {
    for tile in Tile::all(before).filter(|tile| !tile.is_full()) {
        let file = archive.file(tile);
        if Tile::row(tile.content, now).all(|newer| newer != tile)
            && fs::remove_file(&file).is_ok()
            && let Some(directory) = file.parent()
        {
            let _ = fs::remove_dir(directory);
        }
    }
}
