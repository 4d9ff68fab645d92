//! A proof held against a checkpoint that was saved earlier: is it still the same trace?
//!
//! ```text
//! same size, same root       the same trace
//! same size, another root    a split view: both are signed, and that is proof against the node
//! sizes differ               a consistency proof between the two must show that the larger only adds
//! ```

use std::path::{Path, PathBuf};

use protocol::{
    Problem, Timestamp,
    api::SignedCheckpoint,
    checkpoint::Checkpoint,
    entry::ConsistencyProof,
    error::Code,
    merkle::Hash,
    witness::{Evidence, Finding, forks},
};
use serde::Serialize;

use super::refused;
use crate::input;

/// The largest file that holds one checkpoint.
const MAX_CHECKPOINT: usize = 64 * 1024;

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// A checkpoint that was saved earlier, as 'trace checkpoint' shows it: the proof's must be of the same trace
    #[arg(long, value_name = "FILE", requires = "file")]
    checkpoint: Option<PathBuf>,
    /// A proof by 'trace consistency', from the smaller of the two checkpoints to the larger, where their sizes differ
    #[arg(long, value_name = "FILE", requires = "checkpoint")]
    consistency: Option<PathBuf>,
    /// Where the node signed two different traces: write the proof of that to FILE
    #[arg(long, value_name = "FILE", requires = "checkpoint")]
    evidence: Option<PathBuf>,
}

/// What was found.
#[derive(Debug, Serialize)]
pub(super) struct Held {
    /// The size of the checkpoint that was saved.
    size: u64,
    /// `same`, `extended` (the proof's adds to it), or `earlier` (it adds to the proof's).
    trace: &'static str,
}

impl Held {
    pub(super) fn describe(&self) -> String {
        let Self { size, trace } = self;
        match *trace {
            "same" => format!("the same trace as in the saved checkpoint of {size} entries"),
            "extended" => format!("only adds to the trace of the saved checkpoint of {size} entries"),
            _ => format!("the saved checkpoint of {size} entries only adds to it"),
        }
    }
}

/// A signed note and what it says.
struct Noted {
    note: String,
    checkpoint: Checkpoint,
}

impl Noted {
    fn of(note: &str) -> Result<Self, Problem> {
        let checkpoint = Checkpoint::verify(note).map_err(|error| refused(error.into()))?;
        Ok(Self { note: note.into(), checkpoint })
    }
}

impl Arguments {
    /// Whether nothing is to be held against anything.
    pub(super) fn is_empty(&self) -> bool {
        self.checkpoint.is_none()
    }

    /// Holds the checkpoint of a proof against the saved one. `own` is the proof itself where it is one of consistency.
    pub(super) fn hold(&self, note: &str, own: Option<&ConsistencyProof>) -> Result<Option<Held>, Problem> {
        let Some(file) = &self.checkpoint else { return Ok(None) };
        let (saved, shown) = (saved(file)?, Noted::of(note)?);
        if saved.checkpoint.node != shown.checkpoint.node {
            let (ours, theirs) = (saved.checkpoint.node, shown.checkpoint.node);
            return Err(Problem::new(
                Code::ProofFailed,
                format!("the saved checkpoint is of the trace of {ours}, the proof of that of {theirs}"),
            ));
        }
        self.compare(&saved, &shown)?;
        let (from, to) = (saved.checkpoint.size, shown.checkpoint.size);
        if from == to {
            return Ok(Some(Held { size: from, trace: "same" }));
        }
        let (smaller, larger) = if from < to { (&saved, &shown) } else { (&shown, &saved) };
        let brought = self.consistency.as_deref().map(|file| input::document(file, "a consistency proof")).transpose()?;
        let proof = brought.as_ref().or(own).ok_or_else(|| needed(&smaller.checkpoint, &larger.checkpoint))?;
        self.bridge(proof, smaller, larger)?;
        Ok(Some(Held { size: from, trace: if from < to { "extended" } else { "earlier" } }))
    }

    /// The size of the saved checkpoint, if one was given.
    pub(super) fn saved_size(&self) -> Result<Option<u64>, Problem> {
        self.checkpoint.as_deref().map(|file| saved(file).map(|saved| saved.checkpoint.size)).transpose()
    }

    /// Holds a whole log against the saved checkpoint. `root` is what it had at that one's size, if it is as large.
    pub(super) fn hold_root(&self, note: &str, root: Option<Hash>) -> Result<Option<Held>, Problem> {
        let Some(file) = &self.checkpoint else { return Ok(None) };
        let (saved, shown) = (saved(file)?, Noted::of(note)?);
        let Checkpoint { node, size, .. } = saved.checkpoint;
        if node != shown.checkpoint.node {
            let detail = format!("the saved checkpoint is of the trace of {node}, the export of that of {}", shown.checkpoint.node);
            return Err(Problem::new(Code::ProofFailed, detail));
        }
        self.compare(&saved, &shown)?;
        let larger = || {
            let detail = format!("the saved checkpoint is of {size} entries, the export has {}", shown.checkpoint.size);
            Problem::new(Code::ProofFailed, detail).hint("export the trace again")
        };
        if root.ok_or_else(larger)? != saved.checkpoint.root {
            let detail = format!("the trace that node {node} signed with {size} entries is not how the exported one began");
            return Err(Problem::new(Code::ProofFailed, detail).hint("keep both: each is signed by the node"));
        }
        Ok(Some(Held { size, trace: if size == shown.checkpoint.size { "same" } else { "extended" } }))
    }

    /// The consistency proof must verify, and lead from the one to the other.
    fn bridge(&self, proof: &ConsistencyProof, smaller: &Noted, larger: &Noted) -> Result<(), Problem> {
        let (old, new) = (Noted::of(&proof.old)?, Noted::of(&proof.new)?);
        for ours in [smaller, larger] {
            for theirs in [&old, &new] {
                self.compare(ours, theirs)?;
            }
        }
        proof.verify().map_err(refused)?;
        if old.checkpoint == smaller.checkpoint && new.checkpoint == larger.checkpoint {
            return Ok(());
        }
        let (from, to) = (old.checkpoint.size, new.checkpoint.size);
        let Problem { detail, hint, .. } = needed(&smaller.checkpoint, &larger.checkpoint);
        let problem = Problem::new(Code::ProofFailed, format!("{detail}; the one given leads from {from} to {to}"));
        Err(Problem { hint, ..problem })
    }

    /// Fails, with evidence, where the two are proof of a split view.
    fn compare(&self, one: &Noted, other: &Noted) -> Result<(), Problem> {
        if one.checkpoint.node != other.checkpoint.node || !forks(&one.checkpoint, &other.checkpoint, None) {
            return Ok(());
        }
        let contradiction =
            format!("split view: node {} signed two different traces of {} entries", one.checkpoint.node, one.checkpoint.size);
        let problem = Problem::new(Code::ProofFailed, contradiction);
        let Some(file) = &self.evidence else {
            return Err(problem.hint("'--evidence FILE' writes the two signed checkpoints: they prove it to anybody"));
        };
        let (old, new) = (one.note.clone(), other.note.clone());
        let evidence = Evidence { finding: Finding::Fork, old, new, link: None, found_at: Timestamp::now() };
        let mut bytes = serde_json::to_vec_pretty(&evidence).map_err(|error| Problem::new(Code::Internal, error.to_string()))?;
        bytes.push(b'\n');
        input::write(file, &bytes)?;
        Err(problem.hint(format!("the proof is in {0}; 'mcpctl trace verify {0}' verifies it", file.display())))
    }
}

fn needed(smaller: &Checkpoint, larger: &Checkpoint) -> Problem {
    let (from, to) = (smaller.size, larger.size);
    Problem::new(Code::ProofFailed, format!("a consistency proof from {from} to {to} entries is needed to tell that it is the same trace"))
        .hint(format!("on the node: 'mcpctl trace consistency {from} {to} -o FILE'; then '--consistency FILE' here"))
}

/// The saved checkpoint: a note, or what `trace checkpoint --json` prints.
fn saved(file: &Path) -> Result<Noted, Problem> {
    let bytes = input::read(file, MAX_CHECKPOINT)?;
    let unreadable = || Problem::new(Code::MalformedDocument, format!("{} is not a checkpoint", file.display()));
    if bytes.starts_with(b"{") {
        let signed: SignedCheckpoint = serde_json::from_slice(&bytes).map_err(|_| unreadable())?;
        return Noted::of(&signed.note);
    }
    let text = String::from_utf8(bytes).map_err(|_| unreadable())?;
    // As printed, a line's end may have been added or lost.
    Noted::of(&format!("{}\n", text.trim_end()))
}
