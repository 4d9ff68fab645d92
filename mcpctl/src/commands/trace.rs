//! `trace`: read the node's log of operations, and prove or verify what is in it.
//!
//! ```text
//! prove OP -o proof.json  --to whom it concerns-->  verify proof.json (no node needed)
//! ```

mod held;
mod witness;

use std::path::{Path, PathBuf};

use protocol::{
    Client, NodeId, OperationId, Problem, Timestamp,
    api::{List, Proof, SignedCheckpoint, TraceItem, TraceVerified},
    checkpoint::Checkpoint,
    entry::{Action, ConsistencyProof, Entry, InclusionProof, ProofError},
    error::Code,
    witness::Evidence,
};
use serde::{Deserialize, Serialize};

use self::held::Held;
use super::usage;
use crate::{
    error::Result,
    input,
    output::{Output, fields},
    parse,
};

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// List entries, oldest first
    List {
        /// Begin after this index
        #[arg(long, value_name = "INDEX")]
        after: Option<u64>,
        /// How many
        #[arg(long, default_value_t = 50)]
        limit: u32,
    },
    /// Show an entry
    Show {
        /// The operation's id, or the entry's index
        #[arg(value_name = "OP|INDEX", value_parser = operation_or_index)]
        entry: String,
    },
    /// Prove that an operation is in a node's trace
    Prove {
        /// The operation
        operation: OperationId,
        /// The node that ran it, if not this one
        #[arg(long)]
        node: Option<NodeId>,
        /// Write the proof to FILE
        #[arg(short, long, value_name = "FILE")]
        output: Option<PathBuf>,
    },
    /// Prove that the trace of one size only adds to that of a smaller one
    Consistency {
        /// The smaller size
        from: u64,
        /// The larger size; the newest checkpoint's if not given
        to: Option<u64>,
        /// Write the proof to FILE
        #[arg(short, long, value_name = "FILE")]
        output: Option<PathBuf>,
    },
    /// Verify a proof offline; without a file, let the daemon recompute its whole log
    Verify(VerifyArguments),
    /// Show the node's newest signed checkpoint, and which peers have cosigned it
    Checkpoint {
        /// The newest one that a peer has cosigned
        #[arg(long)]
        cosigned: bool,
    },
    /// List other nodes' traces as this node remembers them, and what speaks against them
    Witness(witness::Arguments),
}

#[derive(Debug, clap::Args)]
pub(crate) struct VerifyArguments {
    /// A proof, as 'trace prove', 'trace consistency' or 'trace witness --evidence' wrote it, or '-' for stdin
    file: Option<PathBuf>,
    #[command(flatten)]
    held: held::Arguments,
}

fn operation_or_index(text: &str) -> Result<String, String> {
    if text.parse::<u64>().is_ok() || text.parse::<OperationId>().is_ok() {
        Ok(text.into())
    } else {
        Err("neither an operation's id (op_…) nor an index".into())
    }
}

pub(crate) async fn run(command: Command, client: &Client, output: Output) -> Result {
    match command {
        Command::List { after, limit } => list(after, limit, client, output).await,
        Command::Show { entry } => {
            let item: TraceItem = client.get(&format!("/v1/trace/{entry}")).await?;
            output.show(&item, |item| describe(item.index, &item.entry))
        }
        Command::Prove { operation, node, output: file } => {
            let node = node.map(|node| format!("&node={node}")).unwrap_or_default();
            let proof: Proof = client.get(&format!("/v1/trace/proof?operation={operation}{node}")).await?;
            let found = Inclusion::verify(&proof.inclusion)?;
            hand_out(&proof, file.as_deref(), output, &found.describe())
        }
        Command::Consistency { from, to, output: file } => {
            let to = to.map(|to| format!("&to={to}")).unwrap_or_default();
            let proof: ConsistencyProof = client.get(&format!("/v1/trace/consistency?from={from}{to}")).await?;
            let found = Consistency::verify(&proof)?;
            hand_out(&proof, file.as_deref(), output, &found.describe())
        }
        Command::Verify(VerifyArguments { file: Some(file), held }) => verify(&file, &held, output),
        Command::Verify(VerifyArguments { file: None, .. }) => {
            let verified: TraceVerified = client.post("/v1/trace/verify", &serde_json::json!({})).await?;
            output.show(&verified, |verified| {
                format!("{} entries and {} checkpoints verified\n{}", verified.entries, verified.checkpoints, verified.checkpoint)
            })
        }
        Command::Checkpoint { cosigned } => {
            let checkpoint: SignedCheckpoint = client.get(&format!("/v1/trace/checkpoint?cosigned={cosigned}")).await?;
            output.show(&checkpoint, |checkpoint| checkpoint.note.clone())?;
            output.note(&witness::cosigners(&checkpoint));
            Ok(())
        }
        Command::Witness(arguments) => witness::run(&arguments, client, output).await,
    }
}

async fn list(after: Option<u64>, limit: u32, client: &Client, output: Output) -> Result {
    let after = after.map(|after| format!("&after={}", parse::segment(&after.to_string()))).unwrap_or_default();
    let items: List<TraceItem> = client.get(&format!("/v1/trace?limit={limit}{after}")).await?;
    output.list(&items, ["index", "time", "operation", "action", "subject", "outcome"], |item| {
        let (action, subject) = outline(&item.entry);
        let outcome = item.entry.failure.map_or_else(|| "ok".into(), |code| code.to_string());
        let time = item.entry.time.strftime("%FT%TZ").to_string();
        [item.index.to_string(), time, item.entry.operation.to_string(), action.into(), subject, outcome]
    })
}

/// What was done, to what.
pub(super) fn outline(entry: &Entry) -> (&'static str, String) {
    match &entry.action {
        Action::Execute { agent, method, .. } => ("execute", format!("{agent} {method}")),
        Action::ExecuteRemote { agent, method, .. } => ("execute-remote", format!("{agent} {method}")),
        Action::Spawn { agent, .. } => ("spawn", agent.to_string()),
        Action::Terminate { agent } => ("terminate", agent.to_string()),
        Action::Snapshot { agent, snapshot, .. } => ("snapshot", format!("{agent} {snapshot}")),
        Action::Recover { agent, snapshot } => ("recover", format!("{agent} {snapshot}")),
        Action::Import { agent, snapshot, .. } => ("import", format!("{agent} {snapshot}")),
        Action::Upgrade { agent, .. } => ("upgrade", agent.to_string()),
        Action::Attach { agent, .. } => ("attach", agent.to_string()),
        Action::Detach { agent, .. } => ("detach", agent.to_string()),
        Action::Schedule { agent, .. } => ("schedule", agent.to_string()),
        Action::Replicas { agent, .. } => ("replicas", agent.to_string()),
        Action::Move { agent, .. } => ("move", agent.to_string()),
        Action::Adopt { agent, .. } => ("adopt", agent.to_string()),
        Action::Restore { agent, .. } => ("restore", agent.to_string()),
        Action::Stop { agent } => ("stop", agent.to_string()),
        Action::Start { agent } => ("start", agent.to_string()),
        Action::Revoke { component, .. } => ("revoke", component.to_string()),
        Action::Unrevoke { component } => ("unrevoke", component.to_string()),
        Action::Key { owner, .. } => ("key", owner.to_string()),
        Action::KeyRotated { from, .. } => ("key rotated", from.to_string()),
        Action::Webhook { webhook, .. } => ("webhook", webhook.to_string()),
        Action::AutoAccept { template, whose, .. } => ("auto-accept", format!("{template} for {whose}")),
        Action::Template { template, .. } => ("template", template.clone()),
        Action::Agreement { status } => ("agreement", format!("{} {status}", entry.agreement.map(|id| id.to_string()).unwrap_or_default())),
        Action::Member { node, standing, .. } => ("member", format!("{node} {}", standing.as_str())),
        Action::Token { token, uses: 0 } => ("token", format!("{token} taken back")),
        Action::Token { token, uses } => ("token", format!("{token} for {uses} uses")),
    }
}

fn describe(index: u64, entry: &Entry) -> String {
    let (action, subject) = outline(entry);
    let text = |value: Option<String>| value.unwrap_or_default();
    let (result, used) = match &entry.action {
        Action::Execute { result, usage: used, .. } => (result.map(|digest| digest.to_string()), usage(used)),
        Action::ExecuteRemote { node, receipt, .. } => (receipt.map(|digest| digest.to_string()), format!("on {node}")),
        Action::Spawn { component, .. } | Action::Attach { component, .. } | Action::Detach { component, .. } => {
            (None, component.to_string())
        }
        Action::Member { credential, .. } => (None, credential.map(|id| id.to_string()).unwrap_or_default()),
        Action::Snapshot { digest, .. } => (Some(digest.to_string()), String::new()),
        Action::Replicas { replicas, .. } => (None, replicas.to_string()),
        Action::Move { to, epoch, .. } => (None, format!("to {to}, epoch {epoch}")),
        Action::Adopt { from, epoch, .. } => (None, format!("from {from}, epoch {epoch}")),
        Action::Restore { snapshot, epoch, .. } => (None, format!("of {snapshot}, epoch {epoch}")),
        Action::Import { from, .. } => (None, format!("of {from}")),
        Action::Upgrade { from, to, .. } => (None, format!("{from} to {to}")),
        Action::Schedule { every_s: Some(every), keep, .. } => (None, format!("every {every} s, {} kept", keep.unwrap_or_default())),
        Action::Schedule { every_s: None, .. } => (None, "no longer".into()),
        Action::Revoke { reason, .. } => (None, reason.clone().unwrap_or_default()),
        Action::AutoAccept { accepted, .. } => (None, if *accepted { String::new() } else { "no longer".into() }),
        Action::Key { kept, .. } => (None, kept.as_str().into()),
        Action::KeyRotated { to, .. } => (None, format!("to {to}")),
        Action::Webhook { host, .. } => (None, host.clone().unwrap_or_else(|| "removed".into())),
        Action::Template { digest, .. } => (None, digest.map_or_else(|| "removed".into(), |digest| digest.to_string())),
        Action::Unrevoke { .. } | Action::Stop { .. } | Action::Start { .. } => (None, String::new()),
        Action::Terminate { .. } | Action::Recover { .. } | Action::Agreement { .. } | Action::Token { .. } => (None, String::new()),
    };
    fields([
        ("index", index.to_string()),
        ("operation", entry.operation.to_string()),
        ("time", entry.time.to_string()),
        ("action", format!("{action} {subject}")),
        ("principal", entry.principal.to_string()),
        ("agreement", text(entry.agreement.map(|id| id.to_string()))),
        ("digest", text(result)),
        ("details", used),
        ("outcome", entry.failure.map_or_else(|| "ok".into(), |code| code.to_string())),
        ("request", text(entry.request_id.clone())),
    ])
}

/// A proof goes to its file, and its findings to the reader; or the proof itself to stdout.
fn hand_out<T: Serialize>(proof: &T, file: Option<&Path>, output: Output, findings: &str) -> Result {
    let mut bytes = serde_json::to_vec_pretty(proof).map_err(anyhow::Error::from)?;
    bytes.push(b'\n');
    match file {
        Some(file) => {
            input::write(file, &bytes)?;
            output.show(proof, |_| findings.into())
        }
        None if output.is_json() => output.show(proof, |_| String::new()),
        None => output.bytes(&bytes),
    }
}

/// Any proof that this program writes.
#[derive(Deserialize)]
#[serde(untagged)]
enum AnyProof {
    Wrapped { inclusion: InclusionProof },
    Inclusion(InclusionProof),
    Evidence(Evidence),
    Consistency(ConsistencyProof),
}

fn verify(file: &Path, held: &held::Arguments, output: Output) -> Result {
    let proof: AnyProof = input::document(file, "a proof of this program")?;
    match proof {
        AnyProof::Wrapped { inclusion } | AnyProof::Inclusion(inclusion) => {
            let found = Inclusion::verify(&inclusion)?;
            output.show(&Inclusion { held: held.hold(&inclusion.checkpoint, None)?, ..found }, Inclusion::describe)
        }
        AnyProof::Evidence(_) if !held.is_empty() => {
            Err(Problem::new(Code::InvalidRequest, "evidence stands for itself: leave '--checkpoint' out").into())
        }
        AnyProof::Evidence(evidence) => output.show(&witness::Fork::verify(&evidence)?, witness::Fork::describe),
        AnyProof::Consistency(proof) => {
            let found = Consistency::verify(&proof)?;
            output.show(&Consistency { held: held.hold(&proof.new, Some(&proof))?, ..found }, Consistency::describe)
        }
    }
}

/// What an inclusion proof proves.
#[derive(Debug, Serialize)]
struct Inclusion {
    verified: bool,
    log: NodeId,
    mesh: String,
    size: u64,
    index: u64,
    entry: Entry,
    time: Timestamp,
    /// How it stands to a checkpoint that was saved earlier.
    #[serde(skip_serializing_if = "Option::is_none")]
    held: Option<Held>,
}

impl Inclusion {
    fn verify(proof: &InclusionProof) -> Result<Self, Problem> {
        let (checkpoint, entry) = proof.verify().map_err(refused)?;
        let Checkpoint { node, size, .. } = checkpoint;
        Ok(Self { verified: true, log: node, mesh: entry.mesh.to_string(), size, index: proof.index, time: entry.time, entry, held: None })
    }

    fn describe(&self) -> String {
        let Self { log, mesh, size, held, .. } = self;
        let entry = describe(self.index, &self.entry);
        format!("verified: in the trace of {log} in mesh {mesh}, of {size} entries, signed by it{}\n{entry}", against(held))
    }
}

/// What a consistency proof proves.
#[derive(Debug, Serialize)]
struct Consistency {
    verified: bool,
    log: NodeId,
    old_size: u64,
    new_size: u64,
    /// How the newer stands to a checkpoint that was saved earlier.
    #[serde(skip_serializing_if = "Option::is_none")]
    held: Option<Held>,
}

impl Consistency {
    fn verify(proof: &ConsistencyProof) -> Result<Self, Problem> {
        proof.verify().map_err(refused)?;
        let read = |note| Checkpoint::verify(note).map_err(|error| refused(error.into()));
        let (old, new) = (read(&proof.old)?, read(&proof.new)?);
        Ok(Self { verified: true, log: new.node, old_size: old.size, new_size: new.size, held: None })
    }

    fn describe(&self) -> String {
        let Self { log, old_size, new_size, held, .. } = self;
        let held = against(held);
        format!("verified: the trace of {log} with {new_size} entries only adds to that with {old_size}, both signed by it{held}")
    }
}

/// The line about a checkpoint that was saved earlier, if one was given.
fn against(held: &Option<Held>) -> String {
    held.as_ref().map(|held| format!("\nverified: {}", held.describe())).unwrap_or_default()
}

fn refused(error: ProofError) -> Problem {
    Problem::new(Code::ProofFailed, error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_named_by_operation_or_index() {
        assert!(operation_or_index("7").is_ok() && operation_or_index(&OperationId::new().to_string()).is_ok());
        assert!(operation_or_index("agent_01h455vb4pex5vsknk084sn02q").is_err() && operation_or_index("../id").is_err());
    }
}
