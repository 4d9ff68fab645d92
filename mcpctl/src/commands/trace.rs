//! `trace`: read the node's log of operations, and prove or verify what is in it.
//!
//! ```text
//! prove OP -o proof.json  --to whom it concerns-->  verify proof.json (no node needed)
//! ```

mod archive;
mod export;
mod held;
mod list;
mod witness;

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use protocol::{
    Client, NodeId, OperationId, Problem, Timestamp,
    api::{Proof, Prune, Pruned, Pruning, SignedCheckpoint, TraceItem, TraceVerified},
    checkpoint::Checkpoint,
    entry::{Action, ConsistencyProof, Entry, InclusionProof, ProofError},
    error::Code,
    witness::Evidence,
};
use serde::Serialize;
use serde_json::value::RawValue;

use self::{
    archive::{Archive, Verified},
    held::Held,
};
use super::usage;
use crate::{
    beside::{Members, Remarked},
    error::Result,
    input,
    output::{Output, fields},
    parse,
};

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// List entries, oldest first
    List(list::Arguments),
    /// Show an entry
    Show {
        /// The operation's id, or the entry's index
        #[arg(value_name = "OP|INDEX", value_parser = operation_or_index)]
        entry: String,
    },
    /// Prove that an operation is in a node's trace
    Prove {
        /// The operation's id, or the entry's index
        #[arg(value_name = "OP|INDEX", value_parser = operation_or_index)]
        entry: String,
        /// The node that ran it, if not this one
        #[arg(long)]
        node: Option<NodeId>,
        /// Make the proof of an export, without any node
        #[arg(long, value_name = "DIR", conflicts_with = "node")]
        tiles: Option<PathBuf>,
        /// Write the proof to FILE
        #[arg(short, long, visible_alias = "out", value_name = "FILE")]
        output: Option<PathBuf>,
    },
    /// Prove that the trace of one size only adds to that of a smaller one
    Consistency {
        /// The smaller size
        from: u64,
        /// The larger size; the newest checkpoint's if not given
        to: Option<u64>,
        /// Write the proof to FILE
        #[arg(short, long, visible_alias = "out", value_name = "FILE")]
        output: Option<PathBuf>,
    },
    /// Verify a proof or an export offline; without one, let the daemon recompute its whole log
    Verify(VerifyArguments),
    /// Write the trace into a directory, as C2SP tiles that verify without any node; again, what is new
    Export(export::Arguments),
    /// Delete the content of old entries; their hashes stay, so that the trace proves what it did. 'trace export' keeps it before
    Prune {
        /// Those that are older: 30d
        #[arg(long, value_name = "DURATION", value_parser = parse::duration)]
        older_than: Duration,
    },
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
    /// A proof, as 'trace prove', 'trace consistency' or 'trace witness --evidence' wrote it, or '-' for stdin; or a directory,
    /// as 'trace export' wrote it
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
        Command::List(arguments) => list::run(&arguments, client, output).await,
        Command::Show { entry } => {
            let item: TraceItem = client.get(&format!("/v1/trace/{entry}")).await?;
            output.show(&item, |item| describe(item.index, &item.entry))
        }
        Command::Prove { entry, node, tiles, output: file } => {
            let proof = match tiles {
                Some(directory) => Proof { inclusion: Archive::at(&directory).prove(&entry)? },
                None => proof(&entry, node, client).await?,
            };
            let found = Inclusion::verify(&proof.inclusion)?;
            hand_out(&proof, file.as_deref(), output, &found.describe())
        }
        Command::Consistency { from, to, output: file } => {
            let to = to.map(|to| format!("&to={to}")).unwrap_or_default();
            let proof: ConsistencyProof = client.get(&format!("/v1/trace/consistency?from={from}{to}")).await?;
            let found = Consistency::verify(&proof)?;
            hand_out(&proof, file.as_deref(), output, &found.describe())
        }
        Command::Verify(VerifyArguments { file: Some(directory), held }) if directory.is_dir() => {
            output.show(&Archive::at(&directory).verify(&held)?, Verified::describe)
        }
        Command::Verify(VerifyArguments { file: Some(file), held }) => verify(&file, &held, output),
        Command::Verify(VerifyArguments { file: None, .. }) => {
            let verified: TraceVerified = client.post("/v1/trace/verify", &serde_json::json!({})).await?;
            output.show(&verified, |verified| {
                let TraceVerified { entries, without_content, pruned, checkpoints, checkpoint } = verified;
                let pruned = pruned.as_ref().map(|pruned| format!("{}\n", describe_pruned(pruned))).unwrap_or_default();
                let read = entries - without_content;
                format!("{entries} entries ({read} with their content) and {checkpoints} checkpoints verified\n{pruned}{checkpoint}")
            })
        }
        Command::Export(arguments) => export::run(&arguments, client, output).await,
        Command::Prune { older_than } => {
            let pruning: Pruning = client.post("/v1/trace/prune", &Prune { older_than_s: older_than.as_secs() }).await?;
            output.show(&pruning, |Pruning { pruned, cleared }| {
                let so_far = pruned.as_ref().map_or_else(|| "nothing is old enough".into(), describe_pruned);
                format!("{cleared} entries lost their content\n{so_far}")
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

/// A node's proof. Of another node's entries only the operations are known here.
async fn proof(entry: &str, node: Option<NodeId>, client: &Client) -> Result<Proof, Problem> {
    let operation = match entry.parse::<OperationId>() {
        Ok(operation) => operation,
        Err(_) if node.is_some() => {
            return Err(Problem::new(Code::InvalidRequest, "an entry of another node is named by its operation"));
        }
        Err(_) => client.get::<TraceItem>(&format!("/v1/trace/{entry}")).await?.entry.operation,
    };
    let node = node.map(|node| format!("&node={node}")).unwrap_or_default();
    client.get(&format!("/v1/trace/proof?operation={operation}{node}")).await
}

/// What a log has no more.
fn describe_pruned(pruned: &Pruned) -> String {
    let Pruned { until, at, kept } = pruned;
    let (last, on) = (until.saturating_sub(1), at.strftime("%F"));
    let kept = if *kept == 0 { String::new() } else { format!("; of {kept} it is, as open agreements need them") };
    format!("entries 0 to {last} were pruned on {on}: their hashes are held against the checkpoints, their content isn't there{kept}")
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
        Action::Dispute { number, .. } => {
            ("dispute", format!("{} receipt {number}", entry.agreement.map(|id| id.to_string()).unwrap_or_default()))
        }
        Action::Member { node, standing, .. } => ("member", format!("{node} {}", standing.as_str())),
        Action::Token { token, uses: 0 } => ("token", format!("{token} taken back")),
        Action::Token { token, uses } => ("token", format!("{token} for {uses} uses")),
        Action::Open { owner, .. } => ("open", owner.to_string()),
        Action::Config { digest, .. } => ("config", digest.to_string()),
        Action::Plugin { component, .. } => ("plugin", component.to_string()),
        Action::Publisher { publisher, .. } => ("publisher", publisher.to_string()),
        Action::ApiKey { key, .. } => ("api-key", key.to_string()),
        Action::Ban { node, .. } => ("ban", node.to_string()),
        Action::Join { into } => ("join", into.to_string()),
        Action::Leave { from } => ("leave", from.to_string()),
        Action::Stay { agent, .. } => ("stay", agent.to_string()),
        Action::LetGo { agent, snapshot, .. } => ("let go", format!("{agent} {snapshot}")),
        Action::Discard { agent, snapshot } => ("discard", format!("{agent} {snapshot}")),
        Action::Export { agent, snapshot } => ("export", format!("{agent} {snapshot}")),
        Action::Forget { node } => ("forget", node.to_string()),
        Action::Prune { until } => ("prune", format!("before {until}")),
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
        Action::LetGo { node, to, epoch, .. } => (None, format!("by {node}, to {to}, epoch {epoch}")),
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
        Action::Terminate { .. } | Action::Recover { .. } | Action::Discard { .. } | Action::Agreement { .. } | Action::Token { .. } => {
            (None, String::new())
        }
        Action::Dispute { receipt, why, .. } => (Some(receipt.to_string()), format!("the provider's receipt {why}")),
        Action::Open { kept, .. } => (None, kept.as_str().into()),
        Action::Config { changed, .. } => (None, changed.join(" ")),
        Action::Plugin { plugin, .. } => (None, plugin.clone().unwrap_or_else(|| "removed".into())),
        Action::Publisher { trusted, .. } => (None, if *trusted { "trusted" } else { "no longer trusted" }.into()),
        Action::ApiKey { valid, .. } => (None, if *valid { "made" } else { "ended" }.into()),
        Action::Ban { for_s: Some(seconds), reason, .. } => (None, format!("for {seconds} s: {}", reason.as_deref().unwrap_or_default())),
        Action::Ban { for_s: None, .. } => (None, "may come in again".into()),
        Action::Stay { epoch, .. } => (None, format!("epoch {epoch}")),
        Action::Join { .. } | Action::Leave { .. } | Action::Export { .. } => (None, String::new()),
        Action::Forget { .. } | Action::Prune { .. } => (None, String::new()),
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

/// Verifies any proof that this program writes. Only what the proof covers is shown of it.
fn verify(file: &Path, held: &held::Arguments, output: Output) -> Result {
    const KIND: &str = "a proof of this program";
    let mut members = Members::read(&input::read(file, input::MAX_DOCUMENT)?, KIND)?;
    let inclusion = match members.take::<Box<RawValue>>("inclusion")? {
        Some(inner) => Some(("inclusion", Members::read(inner.get().as_bytes(), KIND)?)),
        None if members.has("entry") => Some(("", std::mem::replace(&mut members, Members::read(b"{}", KIND)?))),
        None => None,
    };
    if let Some((within, mut inner)) = inclusion {
        let proof: InclusionProof = inner.document(&["index", "entry", "hashes", "checkpoint"])?;
        let found = Inclusion { held: held.hold(&proof.checkpoint, None)?, ..Inclusion::verify(&proof)? };
        let remarks = members.remarks().and(within, inner.remarks());
        return output.show(&Remarked { found, remarks }, |found| found.describe(Inclusion::describe));
    }
    if members.has("finding") {
        if !held.is_empty() {
            return Err(Problem::new(Code::InvalidRequest, "evidence stands for itself: leave '--checkpoint' out").into());
        }
        let evidence: Evidence = members.document(&["finding", "old", "new", "link", "found_at"])?;
        let (found, mut remarks) = (witness::Fork::verify(&evidence)?, members.remarks());
        // Whoever found it says so; the log's owner didn't sign it.
        remarks.not_verified.push("found_at".into());
        return output.show(&Remarked { found, remarks }, |found| found.describe(witness::Fork::describe));
    }
    let proof: ConsistencyProof = members.document(&["old", "new", "hashes"])?;
    let found = Consistency { held: held.hold(&proof.new, Some(&proof))?, ..Consistency::verify(&proof)? };
    output.show(&Remarked { found, remarks: members.remarks() }, |found| found.describe(Consistency::describe))
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
