//! `trace witness`: other nodes' traces, as this node remembers them.

use std::path::PathBuf;

use protocol::{
    Client, NodeId, Problem,
    api::{List, SignedCheckpoint, WitnessedLog},
    error::Code,
    witness::Evidence,
};
use serde::Serialize;

use crate::{error::Result, output::Output};

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// What speaks against this node: a proof verifies offline by 'trace verify'
    #[arg(long, value_name = "NODE")]
    evidence: Option<NodeId>,
    /// Write the evidence to FILE
    #[arg(short, long, visible_alias = "out", value_name = "FILE", requires = "evidence")]
    output: Option<PathBuf>,
    /// Forget this node's trace and what speaks against it: whatever it shows next is believed
    #[arg(long, value_name = "NODE", conflicts_with = "evidence")]
    forget: Option<NodeId>,
}

pub(super) async fn run(arguments: &Arguments, client: &Client, output: Output) -> Result {
    if let Some(node) = arguments.forget {
        let forgotten: WitnessedLog = client.delete(&format!("/v1/trace/witness/{node}")).await?;
        return output.show(&forgotten, |log| format!("forgotten: the trace of {} with {} entries", log.node, log.size));
    }
    let logs: List<WitnessedLog> = client.get("/v1/trace/witness").await?;
    let Some(node) = arguments.evidence else {
        return output.list(&logs, ["node", "size", "seen", "times", "evidence"], |log| {
            let evidence = log.evidence.as_ref().map_or("none", |evidence| evidence.finding.describe());
            let seen = log.seen_at.strftime("%FT%TZ").to_string();
            [log.node.to_string(), log.size.to_string(), seen, log.times.to_string(), evidence.into()]
        });
    };
    let log = logs.items.into_iter().find(|log| log.node == node);
    let none = || Problem::new(Code::NotFound, format!("nothing that this node has seen speaks against the trace of {node}"));
    let evidence = log.and_then(|log| log.evidence).ok_or_else(none)?;
    super::hand_out(&evidence, arguments.output.as_deref(), output, &format!("{node}, {}", evidence.finding.describe()))
}

/// Who cosigned, in words.
pub(super) fn cosigners(checkpoint: &SignedCheckpoint) -> String {
    match &checkpoint.cosigners[..] {
        [] => "cosigned by nobody yet".into(),
        cosigners => {
            let each = |cosigner: &protocol::api::Cosigner| format!("cosigned by {} at {}", cosigner.node, cosigner.time);
            cosigners.iter().map(each).collect::<Vec<_>>().join("\n")
        }
    }
}

/// What a proof of two histories proves.
#[derive(Debug, Serialize)]
pub(super) struct Fork {
    verified: bool,
    log: NodeId,
    old_size: u64,
    new_size: u64,
}

impl Fork {
    pub(super) fn verify(evidence: &Evidence) -> Result<Self, Problem> {
        let (old, new) = evidence.verify().map_err(|error| Problem::new(Code::ProofFailed, error.to_string()))?;
        if !evidence.finding.is_proof() {
            let what = format!("{} signed both checkpoints, of {} and {} entries, but they prove nothing", old.node, old.size, new.size);
            return Err(Problem::new(Code::ProofFailed, format!("{what}; {}", evidence.finding.describe()))
                .hint("ask its operator for a consistency proof between the two ('mcpctl trace consistency')"));
        }
        Ok(Self { verified: true, log: old.node, old_size: old.size, new_size: new.size })
    }

    pub(super) fn describe(&self) -> String {
        let Self { log, old_size, new_size, .. } = self;
        format!("verified: {log} signed two histories; its trace of {new_size} entries does not contain its trace of {old_size}")
    }
}
