//! The command line: what may be typed, and who answers it.

use std::{path::PathBuf, process::ExitCode, time::Duration};

use clap::{CommandFactory as _, Parser, Subcommand};
use protocol::{Client, Problem, error::Code};

use crate::{
    commands::{
        agent, agreement, completions, config, devstack, discover, events, id, join, key, leave, members, mesh, netcheck, peers, plugin,
        receipt, revoke, status, store, swarm, token, trace, webhook,
    },
    error::Result,
    output::Output,
    paths,
};

/// How long an answer may take where the command names no time: far longer than any of them does.
const PATIENCE: Duration = Duration::from_secs(75);

/// Operate an MCP-ZERO node: peers, plugins, agents, agreements, traces.
#[derive(Debug, Parser)]
#[command(name = "mcpctl", version, arg_required_else_help = true)]
pub(crate) struct Cli {
    /// The daemon's data directory [env: MCP_DATA_DIR]
    #[arg(long, global = true, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// The daemon's socket, instead of the one in its data directory [env: MCP_SOCKET]
    #[arg(long, global = true, value_name = "PATH", conflicts_with = "data_dir")]
    socket: Option<PathBuf>,
    /// Print JSON: the answer, or an RFC 9457 problem document
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Show whether the node serves, and how busy it is
    Status,
    /// Show who the node is and where it can be reached
    Id,
    /// Found a private mesh, or show how this node stands to its mesh
    #[command(subcommand)]
    Mesh(mesh::Command),
    /// Make, list and take back join tokens, on the node that has the mesh's authority
    #[command(subcommand)]
    Token(token::Command),
    /// Enter a mesh by a join token, or through nodes at these addresses
    Join(join::Arguments),
    /// Leave the mesh: the credential is given up
    Leave,
    /// List the members of the mesh
    Members,
    /// Take a node's membership back, for good
    Revoke(revoke::Arguments),
    /// Show what others may use of this node
    #[command(subcommand)]
    Swarm(swarm::Command),
    /// Show how this node can be reached: NAT, addresses, relays
    Netcheck,
    /// List connected peers, or measure one
    #[command(subcommand)]
    Peers(peers::Command),
    /// Find agents that provide a capability, anywhere in the mesh
    Discover(discover::Arguments),
    /// Sign and inspect plugins, and decide whose plugins run here
    #[command(subcommand)]
    Plugin(plugin::Command),
    /// Spawn, call and terminate agents
    #[command(subcommand)]
    Agent(agent::Command),
    /// Propose, follow and verify agreements
    #[command(subcommand)]
    Agreement(agreement::Command),
    /// Verify receipts offline
    #[command(subcommand)]
    Receipt(receipt::Command),
    /// Read the node's trace, and prove or verify what is in it
    #[command(subcommand)]
    Trace(trace::Command),
    /// Verify that all that the node has kept is what it has written
    #[command(subcommand)]
    Store(store::Command),
    /// Follow what happens on the node
    Events(events::Arguments),
    /// Post what happens on the node to an address
    #[command(subcommand)]
    Webhook(webhook::Command),
    /// Show or validate the configuration
    #[command(subcommand)]
    Config(config::Command),
    /// Make API keys, publishers' signing keys, and the key of a node's owner
    #[command(subcommand)]
    Key(key::Command),
    /// Print a shell's completion script
    Completions(completions::Arguments),
    /// Run a small mesh of real daemons on this machine
    Devstack(devstack::Arguments),
}

/// Parses, runs and reports.
pub(crate) fn run() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return refused(&error),
    };
    let output = Output::new(cli.json);
    let Err(error) = start(cli, output) else {
        return ExitCode::SUCCESS;
    };
    if let Some(problem) = error.problem() {
        output.failure(problem);
    }
    ExitCode::from(error.exit())
}

/// Help and version, or what is wrong with the command line.
fn refused(error: &clap::Error) -> ExitCode {
    // A reader that has left doesn't change the exit code.
    let _ = error.print();
    if error.use_stderr() && std::env::args_os().any(|argument| argument == "--json") {
        let text = error.to_string();
        let line = text.lines().next().unwrap_or_default();
        let problem = Problem::new(Code::InvalidRequest, line.trim_start_matches("error: "));
        let _ = Output::new(true).show(&problem, |_| String::new());
    }
    ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(1))
}

fn start(cli: Cli, output: Output) -> Result {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Problem::new(Code::Internal, format!("can't start: {error}")))?;
    runtime.block_on(async {
        match cli.command.patience() {
            None => Box::pin(dispatch(cli, output)).await,
            Some(patience) => tokio::time::timeout(patience, Box::pin(dispatch(cli, output))).await.unwrap_or_else(|_| {
                let problem = Problem::new(Code::TimedOut, format!("no answer within {} s", patience.as_secs()));
                Err(problem.hint("see 'mcpctl status' and the daemon's log").into())
            }),
        }
    })
}

impl Command {
    /// How long to wait for the whole command; `None` where it takes what it takes.
    fn patience(&self) -> Option<Duration> {
        match self {
            Self::Completions(_) | Self::Config(_) | Self::Devstack(_) | Self::Events(_) | Self::Trace(trace::Command::Verify(_)) => None,
            // As large as the store is.
            Self::Store(_) => None,
            // As many dead letters as there are.
            Self::Webhook(webhook::Command::Retry { .. }) => None,
            Self::Agent(command) => command.patience(PATIENCE),
            Self::Plugin(command) => command.patience(PATIENCE),
            Self::Discover(arguments) => arguments.patience(),
            Self::Agreement(_)
            | Self::Id
            | Self::Join(_)
            | Self::Key(_)
            | Self::Leave
            | Self::Members
            | Self::Mesh(_)
            | Self::Netcheck
            | Self::Peers(_)
            | Self::Receipt(_)
            | Self::Revoke(_)
            | Self::Status
            | Self::Swarm(_)
            | Self::Token(_)
            | Self::Trace(_)
            | Self::Webhook(_) => Some(PATIENCE),
        }
    }
}

async fn dispatch(cli: Cli, output: Output) -> Result {
    let client = Client::new(paths::socket(cli.socket.as_deref(), cli.data_dir.as_deref()));
    match cli.command {
        Command::Status => status::run(&client, output).await,
        Command::Id => id::run(&client, output).await,
        Command::Mesh(command) => mesh::run(command, &client, output).await,
        Command::Token(command) => token::run(command, &client, output).await,
        Command::Leave => leave::run(&client, output).await,
        Command::Members => members::run(&client, output).await,
        Command::Revoke(arguments) => revoke::run(&arguments, &client, output).await,
        Command::Join(arguments) => join::run(arguments, &client, output).await,
        Command::Swarm(command) => swarm::run(command, &client, output).await,
        Command::Netcheck => netcheck::run(&client, output).await,
        Command::Peers(command) => peers::run(command, &client, output).await,
        Command::Discover(arguments) => discover::run(arguments, &client, output).await,
        Command::Plugin(command) => plugin::run(command, &client, output).await,
        Command::Agent(command) => agent::run(command, &client, output).await,
        Command::Agreement(command) => agreement::run(command, &client, output).await,
        Command::Receipt(command) => receipt::run(command, output),
        Command::Trace(command) => trace::run(command, &client, output).await,
        Command::Store(command) => store::run(command, &client, output).await,
        Command::Events(arguments) => events::run(arguments, &client, output).await,
        Command::Webhook(command) => webhook::run(command, &client, output).await,
        Command::Config(command) => config::run(command, cli.data_dir.as_deref(), &client, output).await,
        Command::Key(command) => key::run(command, cli.data_dir.as_deref(), &client, output).await,
        Command::Completions(arguments) => completions::run(&arguments, Cli::command(), output),
        Command::Devstack(arguments) => devstack::run(arguments, output).await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn what_people_type_parses() {
        for line in [
            "mcpctl status --json",
            "mcpctl --data-dir /d join /ip4/127.0.0.1/tcp/8766 wss://host:8765",
            "mcpctl discover docs.search",
            "mcpctl mesh init --zone eu-1",
            "mcpctl discover docs.search --watch",
            "mcpctl peers ban 12D3KooWQQNidjS78ajB97Ss9d4CBEqJhpufsZEUSLH2PXigYoC4 --for 1h --reason noise",
            "mcpctl swarm limits",
            "mcpctl netcheck",
            "mcpctl token create --ttl 24h --uses 5 --role edge --zone eu-1",
            "mcpctl join mcpz1_abc",
            "mcpctl join --bootstrap /ip4/127.0.0.1/tcp/8766 --token mcpz1_abc",
            "mcpctl join --token-file t",
            "mcpctl members",
            "mcpctl leave",
            "mcpctl agent execute docs search -",
            "mcpctl agent execute docs add -5 --timeout 10s --idempotency-key once",
            "mcpctl agent spawn docs --plugin docs.wasm --price-per-call 0.01 --currency EUR",
            "mcpctl agreement propose --capability docs.search --set calls=1000/1d --set at_limit=deny --method search",
            "mcpctl agreement verify -",
            "mcpctl agreement statement agreement_01h455vb4pex5vsknk084sn02q --out statement.json",
            "mcpctl agreement usage agreement_01h455vb4pex5vsknk084sn02q",
            "mcpctl receipt verify receipt.json --agreement statement.json",
            "mcpctl trace verify --socket /s",
            "mcpctl store verify --json",
            "mcpctl key create ci --ttl 30d",
            "mcpctl key create --signing publisher.pem",
            "mcpctl key create --signing publisher.pem --encrypted --passphrase-file f",
            "mcpctl key create --owner --encrypted --data-dir /d",
            "mcpctl key create --owner --pkcs11 pkcs11:object=o?module-path=/m.so",
            "mcpctl key encrypt --passphrase-file f",
            "mcpctl key export --public",
            "mcpctl plugin sign --key k.pem --passphrase-file f greeter",
            "mcpctl plugin sign --key k.pem --name docs --release 0.1.0 --imports state,log docs.wasm",
            "mcpctl plugin sign --key k.pem greeter",
            "mcpctl plugin new greeter --language rust",
            "mcpctl plugin dev greeter --agent greeter",
            "mcpctl plugin revoke blake3:af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262 --reason leaks",
            "mcpctl config validate",
        ] {
            if let Err(error) = Cli::try_parse_from(line.split(' ')) {
                panic!("{line}: {error}");
            }
        }
    }

    #[test]
    fn what_contradicts_itself_is_refused() {
        for line in [
            "mcpctl --socket /s --data-dir /d status",
            "mcpctl revoke nobody",
            "mcpctl token create --role root",
            "mcpctl agreement propose --capability docs.search --agent agent_01h455vb4pex5vsknk084sn02q",
            "mcpctl agreement propose",
            "mcpctl key create",
            "mcpctl key create ci --signing file",
            "mcpctl key create --signing file --ttl 1d",
            "mcpctl key create ci --owner",
            "mcpctl key create ci --encrypted",
            "mcpctl key create --owner --passphrase-file f",
            "mcpctl key create --owner --encrypted --pkcs11 u",
            "mcpctl key export",
            "mcpctl agent execute ../id search",
            "mcpctl plugin new greeter --language cobol",
            "mcpctl plugin revoke docs",
            "mcpctl plugin sign --key k.pem --name Docs --release 0.1.0 docs.wasm",
            "mcpctl agent spawn docs --plugin docs.wasm --price-per-call=-1",
        ] {
            assert!(Cli::try_parse_from(line.split(' ')).is_err(), "{line}");
        }
    }
}
