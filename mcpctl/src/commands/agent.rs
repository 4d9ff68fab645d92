//! `agent`: spawn a plugin as an agent, call it wherever it lives, and end it.
//!
//! ```text
//! spawn:   component -> PUT /v1/blobs/{digest}; manifest -> POST /v1/plugins; POST /v1/agents
//! execute: POST /v1/agents/{agent}/execute, local or remote: the daemon decides
//! ```

use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use protocol::{
    AgreementId, Client, Problem,
    advert::Effect,
    agreement::Pricing,
    api::{Agent, Execute, Executed, Limits, List, LogLine, Rollback, Spawn, StateOutline, Upgrade},
    error::Code,
    wire::{MAX_IDEMPOTENCY_KEY, MAX_PARAMS},
};
use rust_decimal::Decimal;
use serde::{Serialize, de::IgnoredAny};
use serde_json::value::RawValue;

pub(crate) mod grants;
mod keep;
mod transfer;

use super::{names, plugin, pricing, usage};
use crate::{
    error::{Error, Result},
    input,
    output::{Output, fields},
    parse,
};

/// What an answer may take beyond the time that the call itself was given.
const SLACK: Duration = Duration::from_secs(5);
/// For a state of many GB.
const LARGE: Duration = Duration::from_secs(3_600);

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Run a signed plugin as an agent
    Spawn(SpawnArguments),
    /// List the agents of this node
    List,
    /// Show an agent
    Show {
        /// Its id or name
        #[arg(value_parser = parse::agent)]
        agent: String,
    },
    /// Call a method of an agent, here or anywhere in the mesh
    Execute(ExecuteArguments),
    /// Show what an agent's plugin logs
    Logs {
        /// Its id or name
        #[arg(value_parser = parse::agent)]
        agent: String,
        /// Go on, and show what comes; ends with Ctrl-C
        #[arg(short, long)]
        follow: bool,
        /// How many lines to begin with
        #[arg(long, value_name = "N", default_value_t = 100)]
        tail: u32,
    },
    /// Move an agent to another release of its plugin, which must pass its health check on the agent's state
    Upgrade {
        /// Its id or name
        #[arg(value_parser = parse::agent)]
        agent: String,
        /// The new release's component
        #[arg(long, value_name = "FILE")]
        plugin: PathBuf,
        /// The component's signed manifest; the one beside it if not given
        #[arg(long, value_name = "FILE")]
        manifest: Option<PathBuf>,
        #[command(flatten)]
        grants: grants::Arguments,
    },
    /// Move an agent back to the release of a plugin that it had before
    Rollback {
        /// Its id or name
        #[arg(value_parser = parse::agent)]
        agent: String,
        /// The plugin's name, where the agent has several
        #[arg(long, value_name = "NAME", value_parser = parse::name)]
        plugin: Option<String>,
    },
    /// Give an agent another plugin, whose methods work on the same state
    Attach {
        /// Its id or name
        #[arg(value_parser = parse::agent)]
        agent: String,
        /// The component
        #[arg(long, value_name = "FILE")]
        plugin: PathBuf,
        /// The component's signed manifest; the one beside it if not given
        #[arg(long, value_name = "FILE")]
        manifest: Option<PathBuf>,
        #[command(flatten)]
        grants: grants::Arguments,
    },
    /// Take a plugin from an agent; the state stays
    Detach {
        /// Its id or name
        #[arg(value_parser = parse::agent)]
        agent: String,
        /// The plugin's name
        #[arg(long, value_name = "NAME", value_parser = parse::name)]
        plugin: String,
    },
    /// Have an agent take no calls
    Stop {
        /// Its id or name
        #[arg(value_parser = parse::agent)]
        agent: String,
    },
    /// Have an agent take calls again
    Start {
        /// Its id or name
        #[arg(value_parser = parse::agent)]
        agent: String,
    },
    #[command(flatten)]
    Keep(keep::Command),
    /// End an agent; delete its state and its snapshots
    Terminate {
        /// Its id or name
        #[arg(value_parser = parse::agent)]
        agent: String,
    },
}

#[derive(Debug, clap::Args)]
pub(crate) struct SpawnArguments {
    /// Its name, unique on the node
    #[arg(value_parser = parse::name)]
    name: String,
    /// The component
    #[arg(long, value_name = "FILE")]
    plugin: PathBuf,
    /// The component's signed manifest; the one beside it if not given
    #[arg(long, value_name = "FILE")]
    manifest: Option<PathBuf>,
    /// What it may use, may be repeated. A call: memory, state_bytes, result_bytes, egress_bytes (or KiB, MiB, GiB), fuel,
    /// wall_ms. The agent: concurrency, quota_bytes, quota_keys. For what isn't given the node's settings hold ('kernel.limits')
    #[arg(long = "limit", value_name = "NAME=VALUE", value_parser = parse::limit)]
    limits: Vec<(parse::Limit, u64)>,
    #[command(flatten)]
    grants: grants::Arguments,
    /// What a call costs those who are not the owner
    #[arg(long, value_name = "DECIMAL", value_parser = parse::price)]
    price_per_call: Option<Decimal>,
    /// What a million units of fuel costs
    #[arg(long, value_name = "DECIMAL", value_parser = parse::price)]
    price_per_million_fuel: Option<Decimal>,
    /// The prices' unit of account, such as EUR
    #[arg(long, value_name = "LABEL")]
    currency: Option<String>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct ExecuteArguments {
    /// The agent's id, or a local agent's name
    #[arg(value_parser = parse::agent)]
    agent: String,
    /// The method
    #[arg(value_parser = parse::name)]
    method: String,
    /// Parameters as JSON, '@FILE', or '-' for stdin
    #[arg(default_value = "{}", allow_negative_numbers = true)]
    params: String,
    /// The agreement to use; the daemon chooses among the active ones if not given
    #[arg(long, value_name = "ID")]
    agreement: Option<AgreementId>,
    /// How long to wait
    #[arg(long, value_name = "TIME", value_parser = parse::duration)]
    timeout: Option<Duration>,
    /// The same key gives the same answer, and the call happens once
    #[arg(long, value_name = "KEY")]
    idempotency_key: Option<String>,
}

impl Command {
    /// How long the command as a whole may take; `None` for as long as somebody looks on.
    pub(crate) fn patience(&self, usual: Duration) -> Option<Duration> {
        match self {
            Self::Execute(arguments) => Some(arguments.timeout.map_or(usual, |timeout| timeout.saturating_add(SLACK))),
            Self::Logs { follow: true, .. } => None,
            Self::Keep(_) => Some(LARGE),
            _ => Some(usual),
        }
    }
}

pub(crate) async fn run(command: Command, client: &Client, output: Output) -> Result {
    match command {
        Command::Spawn(arguments) => spawn(arguments, client, output).await,
        Command::List => {
            let agents: List<Agent> = client.get("/v1/agents").await?;
            output.list(&agents, ["id", "name", "plugin", "methods", "price", "created"], |agent| {
                let methods = names(agent.methods().map(|method| method.name.as_str()), "-");
                let price = pricing(&agent.pricing);
                [agent.id.to_string(), agent.name.clone(), plugins(agent), methods, price, agent.created_at.to_string()]
            })
        }
        Command::Show { agent } => {
            let agent: Agent = client.get(&format!("/v1/agents/{agent}")).await?;
            let state: StateOutline = client.get(&format!("/v1/agents/{}/state", agent.id)).await?;
            let Limits { quota_keys, quota_bytes, .. } = agent.limits;
            let mib = |bytes: u64| bytes.div_ceil(1 << 20);
            output.show(&Shown { agent, state }, |Shown { agent, state }| {
                let StateOutline { keys, bytes } = state;
                let of = format!("state      {keys} of {quota_keys} keys, {} of {} MiB", mib(*bytes), mib(quota_bytes));
                format!("{}\n{of}", describe(agent))
            })
        }
        Command::Execute(arguments) => execute(arguments, client, output).await,
        Command::Keep(command) => keep::run(command, client, output).await,
        Command::Upgrade { agent, plugin, manifest, grants } => {
            let component = plugin::push(client, &plugin, manifest.as_deref()).await?.component;
            let upgrade = Upgrade { component, grants: grants.changed() };
            output.show(&client.post::<_, Agent>(&format!("/v1/agents/{agent}/upgrade"), &upgrade).await?, describe)
        }
        Command::Rollback { agent, plugin } => {
            output.show(&client.post::<_, Agent>(&format!("/v1/agents/{agent}/rollback"), &Rollback { plugin }).await?, describe)
        }
        Command::Attach { agent, plugin, manifest, grants } => {
            let component = plugin::push(client, &plugin, manifest.as_deref()).await?.component;
            let attach = Upgrade { component, grants: grants.changed() };
            output.show(&client.post::<_, Agent>(&format!("/v1/agents/{agent}/plugins"), &attach).await?, describe)
        }
        Command::Detach { agent, plugin } => {
            output.show(&client.delete::<Agent>(&format!("/v1/agents/{agent}/plugins/{plugin}")).await?, describe)
        }
        Command::Stop { agent } => change(client, &agent, "stop", output).await,
        Command::Start { agent } => change(client, &agent, "start", output).await,
        Command::Logs { agent, follow, tail } => logs(client, &agent, follow, tail, output).await,
        Command::Terminate { agent } => {
            client.delete::<IgnoredAny>(&format!("/v1/agents/{agent}")).await?;
            output.show(&serde_json::json!({ "agent": agent, "terminated": true }), |_| format!("{agent} terminated"))
        }
    }
}

pub(super) fn log_line(line: &LogLine) -> String {
    format!("{} {:5} {} {}: {}", line.time, line.level, line.method, line.request_id, line.line)
}

async fn spawn(arguments: SpawnArguments, client: &Client, output: Output) -> Result {
    let pricing = arguments.pricing()?;
    let limits = parse::limits(&arguments.limits);
    let digest = plugin::push(client, &arguments.plugin, arguments.manifest.as_deref()).await?.component;
    let grants = arguments.grants.into();
    let agent: Agent = client.post("/v1/agents", &Spawn { name: arguments.name, component: digest, pricing, limits, grants }).await?;
    output.show(&agent, describe)
}

/// Shows what an agent's plugin logs, and goes on with it if asked to.
async fn logs(client: &Client, agent: &str, follow: bool, tail: u32, output: Output) -> Result {
    if !follow {
        let lines: List<LogLine> = client.get(&format!("/v1/agents/{agent}/logs?tail={tail}")).await?;
        if output.is_json() {
            return output.show(&lines, |_| String::new());
        }
        return lines.items.iter().try_for_each(|line| output.show(line, log_line));
    }
    let mut events = client.events(&format!("/v1/agents/{agent}/logs/follow?tail={tail}")).await?;
    while let Some(event) = events.next().await? {
        let line: LogLine = serde_json::from_str(&event.data)
            .map_err(|error| Problem::new(Code::Internal, format!("the daemon's event can't be read: {error}")))?;
        output.show(&line, log_line)?;
    }
    Ok(())
}

async fn change(client: &Client, agent: &str, what: &str, output: Output) -> Result {
    let agent: Agent = client.post(&format!("/v1/agents/{agent}/{what}"), &serde_json::json!({})).await?;
    output.show(&agent, describe)
}

impl SpawnArguments {
    /// What calls cost, where any price was given.
    fn pricing(&self) -> Result<Option<Pricing>> {
        if self.price_per_call.is_none() && self.price_per_million_fuel.is_none() {
            return match self.currency {
                None => Ok(None),
                Some(_) => Err(Error::usage("a currency without a price", "add '--price-per-call' or '--price-per-million-fuel'")),
            };
        }
        let free = Pricing::free();
        Ok(Some(Pricing {
            currency: self.currency.clone().unwrap_or_else(|| free.currency.clone()),
            per_call: self.price_per_call.unwrap_or(free.per_call),
            per_million_fuel: self.price_per_million_fuel.unwrap_or(free.per_million_fuel),
            ..free
        }))
    }
}

async fn execute(arguments: ExecuteArguments, client: &Client, output: Output) -> Result {
    let params = read_params(&arguments.params)?;
    let timeout_ms = arguments.timeout.map(|timeout| u32::try_from(timeout.as_millis()).unwrap_or(u32::MAX));
    let request = Execute { method: arguments.method, params, agreement: arguments.agreement, timeout_ms };
    let route = format!("/v1/agents/{}/execute", arguments.agent);
    let executed: Executed = match &arguments.idempotency_key {
        Some(key) if !(1..=MAX_IDEMPOTENCY_KEY).contains(&key.len()) || !key.bytes().all(|b| b.is_ascii_graphic()) => {
            return Err(Error::usage(
                format!("an idempotency key is 1 to {MAX_IDEMPOTENCY_KEY} visible ASCII characters"),
                "use a UUID, or any text that names this one call",
            ));
        }
        Some(key) => client.post_once(&route, key, &request).await?,
        None => client.post(&route, &request).await?,
    };
    output.note(&format!("{}: {}", executed.operation, usage(&executed.usage)));
    output.show(&executed, |executed| executed.result.get().into())
}

/// The parameters themselves, or those in a file or on stdin; kept byte for byte.
fn read_params(argument: &str) -> Result<Box<RawValue>> {
    let text = match (argument, argument.strip_prefix('@')) {
        ("-", _) => text(input::read(Path::new("-"), MAX_PARAMS)?)?,
        (_, Some("")) => return Err(Error::usage("'@' without a file", "write @FILE, or '-' for stdin")),
        (_, Some(file)) => text(input::read(Path::new(file), MAX_PARAMS)?)?,
        (json, None) if json.len() > MAX_PARAMS => {
            return Err(Problem::new(Code::TooLarge, format!("the parameters are over {MAX_PARAMS} bytes")).into());
        }
        (json, None) => json.into(),
    };
    RawValue::from_string(text).map_err(|error| {
        Error::usage(
            format!("the parameters are not JSON: {error}"),
            r#"quote them for the shell: '{"query": "word"}', or use @FILE or '-'"#,
        )
    })
}

fn text(bytes: Vec<u8>) -> Result<String, Problem> {
    let text = String::from_utf8(bytes).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error));
    text.map_err(|error| Problem::new(Code::InvalidRequest, format!("the parameters are not UTF-8: {error}")))
}

/// An agent, and how much its state is.
#[derive(Serialize)]
struct Shown {
    #[serde(flatten)]
    agent: Agent,
    state: StateOutline,
}

/// What each call may use, and how many run at a time. The quota is shown beside what is used of it.
fn limits(limits: &Limits) -> String {
    let Limits { fuel, wall_ms, concurrency, .. } = limits;
    let bytes = |bytes: u64| match bytes {
        small if small < 1 << 20 => format!("{small} bytes"),
        bytes => format!("{} MiB", bytes >> 20),
    };
    let [memory, state, result, egress] = [limits.memory, limits.state_bytes, limits.result_bytes, limits.egress_bytes].map(bytes);
    format!(
        "{memory} memory, {fuel} fuel, {wall_ms} ms, {state} state written, {result} result, {egress} egress; {concurrency} calls at a time"
    )
}

fn describe(agent: &Agent) -> String {
    let method = |method: &protocol::api::MethodOutline| match method.effect {
        Effect::ReadOnly => format!("{} (read-only)", method.name),
        Effect::Mutating => method.name.clone(),
    };
    let methods: Vec<String> = agent.methods().map(method).collect();
    fields([
        ("id", agent.id.to_string()),
        ("name", agent.name.clone()),
        ("plugins", plugins(agent)),
        ("components", agent.components().map(|component| component.to_string()).collect::<Vec<_>>().join(" ")),
        ("owner", agent.owner.to_string()),
        ("methods", methods.join(", ")),
        ("price", pricing(&agent.pricing)),
        ("limits", limits(&agent.limits)),
        ("reaches", grants::describe(&agent.grants)),
        ("created", agent.created_at.to_string()),
        ("stopped", if agent.stopped { "yes".into() } else { String::new() }),
        ("replicas", if agent.replicas > 0 { agent.replicas.to_string() } else { String::new() }),
        ("epoch", if agent.epoch > 0 { agent.epoch.to_string() } else { String::new() }),
        ("snapshots", agent.schedule.map(|s| format!("every {} s, {} kept", s.every_s, s.keep)).unwrap_or_default()),
        ("before", agent.plugins.iter().filter_map(|plugin| plugin.previous.last()).map(ToString::to_string).collect::<Vec<_>>().join(" ")),
    ])
}

fn plugins(agent: &Agent) -> String {
    agent.plugins.iter().map(|plugin| plugin.plugin.as_str()).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_come_from_argv_or_file_byte_for_byte() {
        let dir = tempfile::tempdir().expect("directory");
        let file = dir.path().join("p.json");
        let json = r#"{"b": 1.50, "a":2}"#;
        input::write(&file, json.as_bytes()).expect("write");
        assert_eq!(read_params(json).expect("argv").get(), json);
        assert_eq!(read_params(&format!("@{}", file.display())).expect("file").get(), json);
        assert_eq!(read_params("{").expect_err("not JSON").exit(), 2);
        assert_eq!(read_params("@").expect_err("no file").exit(), 2);
        let long = format!("\"{}\"", "x".repeat(MAX_PARAMS));
        assert_eq!(read_params(&long).expect_err("long").problem().expect("problem").code, Code::TooLarge);
        input::write(&file, long.as_bytes()).expect("write");
        assert!(read_params(&format!("@{}", file.display())).is_err());
    }
}
