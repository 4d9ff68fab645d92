//! The trace of a node as it grows: what an entry costs, and what its proof does.

use std::{path::Path, sync::Arc, time::Instant};

use anyhow::{Result, ensure};
use protocol::{
    AgentId, Digest, Key, MeshId, OperationId, Timestamp, Usage, api,
    entry::{self, Action, Entry},
    merkle::leaf_hash,
};
use serde_json::json;
use store::{Append, Commit, Sqlite, Store};

use crate::{
    arguments::Arguments,
    counter,
    measure::median,
    node::Node,
    place::Place,
    report::{Gauge, Report},
};

/// Entries of one transaction, so that the disk's flush is a small part of it.
const GROUP: u64 = 4_096;
/// Operations that are proven at each size.
const SAMPLES: u64 = 200;

pub(crate) async fn measure(place: &Place, arguments: &Arguments, report: &mut Report) -> Result<()> {
    let sizes: &[u64] = if arguments.quick { &[1_000, 20_000] } else { &[1_000, 100_000, 10_000_000] };
    // The node makes its store; between its runs entries are added as it would, many at a time.
    Node::start(place, "trace", "bench-trace", &["mesh.enabled=false"]).await?.stop().await?;
    let mut log = Log::new(&place.directory("trace"))?;
    report.gauges("A log of so many entries: one more, and proofs of any of them (through the socket, a fresh checkpoint included)");
    let mut first = None;
    for &size in sizes {
        let appended_us = log.grow(size).await?;
        let begun = Instant::now();
        let node = Node::start(place, "trace", "bench-trace", &["mesh.enabled=false"]).await?;
        let started_ms = begun.elapsed().as_secs_f64() * 1e3;
        let begun = Instant::now();
        let checkpoint: api::SignedCheckpoint = node.client.get("/v1/trace/checkpoint").await?;
        let signed_ms = begun.elapsed().as_secs_f64() * 1e3;
        ensure!(checkpoint.size >= size, "the node has {} of {size} entries", checkpoint.size);
        let cold = log.prove(&node).await?;
        let proven = log.prove(&node).await?;
        node.stop().await?;
        let figures = [appended_us, cold.took_us, proven.took_us, proven.verified_us, proven.bytes];
        let beside = *first.get_or_insert(figures);
        let detail = json!({ "entries": size, "start_ms": started_ms, "first_checkpoint_ms": signed_ms, "hashes": proven.hashes });
        let names = [
            ("appended, 4,096 at once", "us"),
            ("proven, after a start", "us"),
            ("proven again", "us"),
            ("verified", "us"),
            ("size of a proof", "B"),
        ];
        for (at, (what, unit)) in names.into_iter().enumerate() {
            // A proof may grow as the logarithm does; what is added may cost no more, but for what varies. What comes from the disk
            // first depends on the disk.
            let factor = if at == 0 { 1.5 } else { (size as f64).log2() / (sizes[0] as f64).log2() };
            report.gauge(Gauge {
                section: "trace",
                what: format!("{size}: {what}"),
                unit,
                value: figures[at],
                aim: (size != sizes[0] && at != 1).then(|| (factor * beside[at] * 10.0).round() / 10.0),
                yardstick: Some(("the first size", beside[at])),
                detail: detail.clone(),
            });
        }
    }
    Ok(())
}

/// The node's log, from outside.
struct Log {
    file: std::path::PathBuf,
    mesh: MeshId,
    key: Key,
    /// Operations of all places of the log.
    sample: Vec<OperationId>,
}

/// Medians over the sample.
struct Proven {
    took_us: f64,
    verified_us: f64,
    bytes: f64,
    hashes: f64,
}

impl Log {
    fn new(directory: &Path) -> Result<Self> {
        Ok(Self {
            file: directory.join("store").join("mcp-zero.sqlite"),
            mesh: "bench-trace".parse()?,
            key: Key::generate(),
            sample: Vec::new(),
        })
    }

    /// Adds entries up to a size; what one of the last cost, in microseconds.
    async fn grow(&mut self, size: u64) -> Result<f64> {
        let store: Arc<dyn Store> = Arc::new(Sqlite::open(&self.file)?);
        let mut at = store.log_size().await?;
        let (every, mut costs) = (((size - at) / SAMPLES).max(1), Vec::new());
        while at < size {
            let group = GROUP.min(size - at);
            let commits: Vec<_> = (at..at + group)
                .map(|index| {
                    let operation = OperationId::new();
                    if index % every == 0 {
                        self.sample.push(operation);
                    }
                    self.append(operation)
                })
                .collect::<Result<_>>()?;
            let begun = Instant::now();
            for committed in store.apply(commits).await? {
                committed?;
            }
            costs.push(begun.elapsed().as_secs_f64() * 1e6 / group as f64);
            at += group;
        }
        store.close().await?;
        let last = costs.len().saturating_sub(25);
        Ok(median(costs.split_off(last)))
    }

    /// An entry such as a node writes for each call.
    fn append(&self, operation: OperationId) -> Result<Commit> {
        let action = Action::Execute {
            agent: AgentId::new(),
            method: counter::METHOD.into(),
            params: Digest::sha256(counter::PARAMS.as_bytes()),
            result: Some(Digest::sha256(b"{}")),
            usage: Usage { calls: 1, fuel: 1_000, wall_us: 100, egress_bytes: 12 },
        };
        let entry = Entry {
            version: entry::VERSION,
            operation,
            time: Timestamp::now(),
            mesh: self.mesh.clone(),
            principal: self.key.did(),
            agreement: None,
            action,
            failure: None,
            request_id: Some(operation.to_string()),
        };
        let entry = serde_json::to_vec(&entry)?;
        Ok(Commit { entry: Some(Append { operation, leaf: leaf_hash(&entry), entry }), ..Commit::default() })
    }

    /// Proves operations from everywhere, and verifies each proof.
    async fn prove(&self, node: &Node) -> Result<Proven> {
        let (mut took, mut verified, mut bytes, mut hashes) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let step = (self.sample.len() / SAMPLES as usize).max(1);
        for operation in self.sample.iter().step_by(step) {
            let begun = Instant::now();
            let api::Proof { inclusion } = node.client.get(&format!("/v1/trace/proof?operation={operation}")).await?;
            took.push(begun.elapsed().as_secs_f64() * 1e6);
            let begun = Instant::now();
            let (_, entry) = inclusion.verify()?;
            verified.push(begun.elapsed().as_secs_f64() * 1e6);
            ensure!(entry.operation == *operation, "the proof of another operation");
            // The entry itself is no part of what grows.
            bytes.push((serde_json::to_vec(&inclusion)?.len() - inclusion.entry.len()) as f64);
            hashes.push(inclusion.hashes.len() as f64);
        }
        ensure!(!took.is_empty(), "nothing was proven");
        let [took_us, verified_us, bytes, hashes] = [took, verified, bytes, hashes].map(median);
        Ok(Proven { took_us, verified_us, bytes, hashes })
    }
}
