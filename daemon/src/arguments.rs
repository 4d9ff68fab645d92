//! The command line of `mcpd`.

use std::{io::Write as _, path::PathBuf, process::ExitCode};

use clap::{Parser, Subcommand};
use protocol::{Code, Problem, api::OwnerKey};

use crate::{
    config::{Config, Sources},
    data_dir::DataDir,
    identity::Anew,
    owner,
};

/// The MCP-ZERO node: hosts agents, meets other nodes, executes under agreements.
///
/// Settings: defaults < file < MCP_* variables < flags. `mcpctl config show` tells them all and where each came from.
#[derive(Debug, Parser)]
#[command(version)]
pub(crate) struct Arguments {
    /// Where the node keeps its keys, store and socket; held by one process at a time.
    #[arg(long, value_name = "DIR", env = "MCP_DATA_DIR")]
    data_dir: Option<PathBuf>,
    /// The configuration file (default: config.toml in the data directory, if there).
    #[arg(long, value_name = "FILE", env = "MCP_CONFIG")]
    config: Option<PathBuf>,
    /// The socket of the local API (default: mcpd.sock in the data directory).
    #[arg(long, value_name = "PATH", env = "MCP_SOCKET")]
    socket: Option<PathBuf>,
    /// A setting: mesh.port=0.
    #[arg(long = "set", value_name = "KEY=VALUE", value_parser = pair)]
    set: Vec<(String, String)>,
    /// Checks the configuration and exits.
    #[arg(long)]
    pub(crate) check: bool,
    /// Ends when the process that started it ends.
    #[arg(long, hide = true)]
    pub(crate) with_parent: bool,
    #[command(flatten)]
    pub(crate) anew: Anew,
    /// Something else than to run the node.
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
}

/// What the program does for `mcpctl`, which tells people of it.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Cares for the owner's key of a node that doesn't run.
    #[command(subcommand, hide = true)]
    Key(owner::Command),
}

impl Command {
    /// Does it; the answer is for a program.
    pub(crate) fn run(self, arguments: &Arguments) -> Result<OwnerKey, Problem> {
        let Self::Key(command) = self;
        let config = Config::load(&arguments.sources()).map_err(|error| Problem::new(Code::InvalidConfig, error.to_string()))?;
        owner::run(command, &DataDir::open(&arguments.data_dir())?, &config.owner)
    }
}

/// Writes an answer as JSON: what was done, or the problem.
pub(crate) fn answer(answered: Result<OwnerKey, Problem>) -> ExitCode {
    let text = match &answered {
        Ok(key) => serde_json::to_string(key),
        Err(problem) => serde_json::to_string(problem),
    };
    // A reader that has left doesn't change what was done.
    let _ = writeln!(std::io::stdout().lock(), "{}", text.unwrap_or_default());
    answered.map_or_else(|problem| ExitCode::from(problem.code.exit() as u8), |_| ExitCode::SUCCESS)
}

fn pair(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("expected KEY=VALUE")?;
    Ok((key.trim().into(), value.into()))
}

impl Arguments {
    /// The data directory.
    pub(crate) fn data_dir(&self) -> PathBuf {
        self.data_dir.clone().unwrap_or_else(DataDir::usual)
    }

    /// The socket, if not the usual one.
    pub(crate) fn socket(&self) -> Option<PathBuf> {
        self.socket.clone()
    }

    /// The layers of the configuration.
    pub(crate) fn sources(&self) -> Sources {
        let variables = std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
        Sources {
            file: self.config.clone(),
            usual_file: Some(self.data_dir().join("config.toml")),
            environment: variables.collect(),
            flags: self.set.clone(),
        }
    }
}
