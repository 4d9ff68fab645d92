//! `completions`: a shell's completion script.

use clap_complete::Shell;

use crate::{error::Result, output::Output};

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The shell
    shell: Shell,
}

pub(crate) fn run(arguments: &Arguments, mut command: clap::Command, output: Output) -> Result {
    let mut script = Vec::new();
    clap_complete::generate(arguments.shell, &mut command, "mcpctl", &mut script);
    output.bytes(&script)
}
