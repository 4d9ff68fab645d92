//! `config`: what the daemon runs with, and whether a file would do.

use std::{
    path::{Path, PathBuf},
    process::Command as Process,
};

use protocol::{
    Client, Problem,
    api::{List, Setting},
    error::Code,
};

use crate::{
    error::{Error, Result},
    output::Output,
};

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Show the daemon's settings and where each came from
    Show,
    /// Check a configuration with the daemon's own program, without starting it
    Validate {
        /// The file; the installation's own if none
        file: Option<PathBuf>,
    },
}

pub(crate) async fn run(command: Command, data_dir: Option<&Path>, client: &Client, output: Output) -> Result {
    match command {
        Command::Show => {
            let settings: List<Setting> = client.get("/v1/config").await?;
            output.list(&settings, ["key", "value", "source"], |setting| {
                [setting.key.clone(), setting.value.to_string(), setting.source.clone()]
            })
        }
        Command::Validate { file } => validate(file.as_deref(), data_dir, output),
    }
}

/// Only the daemon knows its configuration, so it is the daemon that checks it.
fn validate(file: Option<&Path>, data_dir: Option<&Path>, output: Output) -> Result {
    let program = daemon();
    let mut process = Process::new(&program);
    process.arg("--check");
    if let Some(file) = file {
        process.arg("--config").arg(file);
    }
    if let Some(dir) = data_dir {
        process.arg("--data-dir").arg(dir);
    }
    // What it says goes to stderr; stdout is this program's.
    let ended = process.stdout(std::io::stderr()).status().map_err(|error| {
        let problem = Problem::new(Code::NotFound, format!("can't run {}: {error}", program.display()));
        problem.hint("install 'mcpd' beside 'mcpctl' or on the PATH")
    })?;
    if ended.success() {
        return output.show(&serde_json::json!({ "valid": true }), |_| "the configuration is valid".into());
    }
    Err(Error::Exit(ended.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1)))
}

/// The daemon's program: the one installed with this one, or the first on the PATH.
pub(super) fn daemon() -> PathBuf {
    let beside = std::env::current_exe().ok().map(|own| own.with_file_name("mcpd"));
    beside.filter(|path| path.is_file()).unwrap_or_else(|| "mcpd".into())
}
