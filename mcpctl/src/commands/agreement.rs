//! `agreement`: propose terms, sign them, follow what they have used, and verify all of it without any node.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::Duration,
};

use protocol::{
    AgentId, AgreementId, Client, NodeId, Problem, Timestamp,
    agreement::{Bundle, Limit, Reason},
    api::{AgreementOutline, AgreementState, Close, List, Propose, Step},
    error::Code,
};
use serde::Serialize;

use super::{discover, names, pricing, receipt, usage};
use crate::{
    beside::{Members, Remarked},
    error::{Error, Result},
    input,
    output::{Output, fields},
    parse,
};

#[cfg(test)]
mod fixture;
mod prose;
mod shown;
pub(crate) mod statement;
pub(crate) mod terms;
pub(crate) mod verify;

/// How long `propose --capability` searches.
const SEARCH: Duration = Duration::from_secs(5);

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Propose terms for an agent to its provider
    Propose(ProposeArguments),
    /// Sign terms that were proposed to this node's owner
    Accept {
        /// The agreement
        id: AgreementId,
    },
    /// List agreements, on either side
    List,
    /// Show an agreement
    Show {
        /// The agreement
        id: AgreementId,
        /// Also write its signed documents to FILE, for 'agreement verify'
        #[arg(short, long, value_name = "FILE")]
        output: Option<PathBuf>,
    },
    /// Decline terms that were proposed to this node's owner
    Reject(StepArguments),
    /// Refuse calls until the agreement is resumed
    Suspend(StepArguments),
    /// Allow calls again; only for the party that suspended
    Resume(StepArguments),
    /// Close an agreement for good: what was agreed was delivered
    Close(StepArguments),
    /// End an agreement before its time, or withdraw a proposal
    Terminate {
        #[command(flatten)]
        step: StepArguments,
        /// Because the other party broke it
        #[arg(long)]
        breached: bool,
    },
    /// The templates that terms are made of
    Templates {
        #[command(subcommand)]
        command: Option<terms::Templates>,
    },
    /// What this node accepts, as a provider
    Policy {
        #[command(subcommand)]
        command: terms::Policy,
    },
    /// Show what an agreement has used, what is left, and up to which receipt both have signed
    Usage {
        /// The agreement
        id: AgreementId,
    },
    /// State all that can be shown of an agreement, signed as a whole, for 'agreement verify'
    Statement(statement::Arguments),
    /// Verify an agreement's documents offline: signatures, transitions, receipts
    Verify {
        /// What 'agreement statement' or 'agreement show -o FILE' wrote, or '-' for stdin
        file: PathBuf,
    },
}

#[derive(Debug, clap::Args)]
pub(crate) struct StepArguments {
    /// The agreement
    id: AgreementId,
    /// What there is to say of it, in a line: it is signed with the step
    #[arg(long, value_name = "TEXT")]
    note: Option<String>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct ProposeArguments {
    /// The agent to call: its id, or its name
    #[arg(long, value_name = "AGENT", required_unless_present = "capability")]
    agent: Option<String>,
    /// The node that provides it, where several have such an agent
    #[arg(long, value_name = "NODE", conflicts_with = "capability")]
    to: Option<NodeId>,
    /// Agree with the best provider of PLUGIN.METHOD, on this method if --method is not given
    #[arg(long, value_name = "C", conflicts_with = "agent")]
    capability: Option<String>,
    /// The template of the terms
    #[arg(long, default_value = "standard")]
    template: String,
    /// A parameter of the template, as in calls=1000/1d
    #[arg(long, value_name = "NAME=VALUE", value_parser = parse::parameter)]
    set: Vec<(String, String)>,
    /// A method that may be called; all if not given
    #[arg(long, value_name = "M", value_parser = parse::name)]
    method: Vec<String>,
}

pub(crate) async fn run(command: Command, client: &Client, output: Output) -> Result {
    match command {
        Command::Propose(arguments) => propose(arguments, client, output).await,
        Command::Accept { id } => change(id, "accept", &serde_json::json!({}), client, output).await,
        Command::Reject(step) => take(step, "reject", client, output).await,
        Command::Suspend(step) => take(step, "suspend", client, output).await,
        Command::Resume(step) => take(step, "resume", client, output).await,
        Command::Close(step) => close(step, Reason::Completed, client, output).await,
        Command::Terminate { step, breached: true } => close(step, Reason::Breached, client, output).await,
        Command::Terminate { step, breached: false } => close(step, Reason::Terminated, client, output).await,
        Command::List => list(client, output).await,
        Command::Templates { command } => terms::templates(command.unwrap_or(terms::Templates::List), client, output).await,
        Command::Policy { command } => terms::policy(command, client, output).await,
        Command::Show { id, output: file } => {
            let state: AgreementState = client.get(&format!("/v1/agreements/{id}")).await?;
            if let Some(file) = file {
                save(&state.bundle, &file)?;
            }
            output.show(&state, prose::describe)
        }
        Command::Usage { id } => statement::usage(id, client, output).await,
        Command::Statement(arguments) => statement::run(arguments, client, output).await,
        Command::Verify { file } => {
            let kind = "an agreement with its signatures, as 'agreement show -o' writes it";
            let mut members = Members::read(&input::read(&file, input::MAX_DOCUMENT)?, kind)?;
            if members.has("payload") {
                let found = statement::verify(receipt::envelope(&mut members)?.into(), Timestamp::now())?;
                return output.show(&Remarked { found, remarks: members.remarks() }, |found| found.describe(statement::describe));
            }
            output.show(&shown::verify(members, Timestamp::now())?, |found| found.describe(verify::describe))
        }
    }
}

async fn take(StepArguments { id, note }: StepArguments, verb: &str, client: &Client, output: Output) -> Result {
    change(id, verb, &Step { note }, client, output).await
}

async fn close(StepArguments { id, note }: StepArguments, reason: Reason, client: &Client, output: Output) -> Result {
    change(id, "close", &Close { reason, note }, client, output).await
}

async fn propose(arguments: ProposeArguments, client: &Client, output: Output) -> Result {
    let ProposeArguments { agent, to: node, capability, template, set, mut method } = arguments;
    let agent = match (agent, capability) {
        (Some(agent), _) => agent,
        (None, Some(capability)) => {
            if let Some((_, of_capability)) = capability.rsplit_once('.').filter(|_| method.is_empty()) {
                method.push(of_capability.into());
            }
            best(client, &capability).await?.to_string()
        }
        (None, None) => return Err(Error::usage("nothing to agree on", "name '--agent ID' or '--capability C'")),
    };
    let mut parameters = BTreeMap::new();
    for (name, value) in set {
        if parameters.insert(name.clone(), value).is_some() {
            return Err(Error::usage(
                format!("'--set {name}' is given twice"),
                "several limits of one quantity are written calls=1000/1d,100/1h",
            ));
        }
    }
    let state: AgreementState = client.post("/v1/agreements", &Propose { agent, node, methods: method, template, parameters }).await?;
    output.show(&state, describe)
}

/// The best provider's agent; agents of this very node need no agreement.
async fn best(client: &Client, capability: &str) -> Result<AgentId, Problem> {
    let found = discover::find(client, capability, SEARCH, false).await?;
    let remote = found.items.iter().find(|found| found.via != "local");
    remote.map(|found| found.agent).ok_or_else(|| {
        let problem = Problem::new(Code::CapabilityNotFound, format!("no other node provides {capability:?}"));
        problem.hint(if found.items.is_empty() { "see 'mcpctl peers list'" } else { "an agent of this node needs no agreement" })
    })
}

async fn change<B: Serialize>(id: AgreementId, verb: &str, body: &B, client: &Client, output: Output) -> Result {
    let state: AgreementState = client.post(&format!("/v1/agreements/{id}/{verb}"), body).await?;
    output.show(&state, describe)
}

async fn list(client: &Client, output: Output) -> Result {
    let agreements: List<AgreementOutline> = client.get("/v1/agreements").await?;
    output.list(&agreements, ["id", "status", "side", "counterparty", "agent", "expires", "calls"], |agreement| {
        [
            agreement.id.to_string(),
            listed(agreement),
            agreement.side.clone(),
            agreement.counterparty.to_string(),
            agreement.agent.to_string(),
            agreement.expires_at.to_string(),
            agreement.calls.to_string(),
        ]
    })
}

fn save(bundle: &Bundle, file: &Path) -> Result {
    let mut bytes = serde_json::to_vec_pretty(bundle).map_err(anyhow::Error::from)?;
    bytes.push(b'\n');
    Ok(input::write(file, &bytes)?)
}

fn describe(state: &AgreementState) -> String {
    let terms = &state.terms;
    fields([
        ("id", terms.id.to_string()),
        ("status", status(&state.status.to_string(), state.reason)),
        ("side", state.side.clone()),
        ("provider", terms.provider.to_string()),
        ("consumer", terms.consumer.to_string()),
        ("agent", terms.agent.to_string()),
        ("methods", names(terms.methods.iter().map(String::as_str), "all")),
        ("template", terms.template.clone()),
        ("limits", limits(&terms.limits)),
        ("price", pricing(&terms.pricing)),
        ("valid", format!("{} to {}", terms.header.issued_at, terms.header.expires_at)),
        ("used", usage(&state.used)),
        ("costs", format!("{} {}", state.price, terms.pricing.currency)),
        ("waits", prose::waiting(state).unwrap_or_default()),
        ("note", state.departed.as_ref().map(prose::out_of_force).unwrap_or_default()),
    ])
}

/// The status in a list; what is not in force on this node says so.
fn listed(agreement: &AgreementOutline) -> String {
    match &agreement.departed {
        Some(departed) if departed.lost => format!("{} (lost: make a new one)", agreement.status),
        Some(departed) => format!("{} (went to {})", agreement.status, departed.node),
        None => agreement.status.to_string(),
    }
}

/// A status and, of a closed agreement, why.
fn status(status: &str, reason: Option<Reason>) -> String {
    reason.map_or_else(|| status.into(), |reason| format!("{status} ({reason})"))
}

/// `calls 1000/1d, fuel 5/total`.
fn limits(limits: &[Limit]) -> String {
    let texts: Vec<String> = limits.iter().map(|limit| format!("{} {}/{}", limit.quantity.as_str(), limit.max, limit.window)).collect();
    if texts.is_empty() { "none".into() } else { texts.join(", ") }
}

#[cfg(test)]
mod tests {
    use protocol::agreement::{Quantity, Window};

    use super::*;

    #[test]
    fn limits_and_statuses_read_as_they_are_written() {
        let limit = |quantity, window, max| Limit { quantity, window, max };
        let both = [limit(Quantity::Calls, Window::Day, 1000), limit(Quantity::Fuel, Window::Total, 5)];
        assert_eq!((limits(&both), limits(&[])), ("calls 1000/1d, fuel 5/total".into(), "none".into()));
        assert_eq!((status("closed", Some(Reason::Breached)), status("active", None)), ("closed (breached)".into(), "active".into()));
    }
}
