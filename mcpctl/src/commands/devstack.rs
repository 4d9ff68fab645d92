//! `devstack`: a small mesh of real daemons on this machine, doing real work.

use std::path::PathBuf;

use crate::{devstack, error::Result, output::Output};

/// What `devstack` takes.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Nodes beside the bootstrap node: the consumer, the provider, and more to keep them company
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u8).range(2..=16))]
    pub(crate) nodes: u8,
    /// The directory whose text files are indexed (default: this project's own documents)
    #[arg(long, value_name = "DIR")]
    pub(crate) docs: Option<PathBuf>,
    /// Keep the nodes' data in this directory, which must be new or empty
    #[arg(long, value_name = "DIR")]
    pub(crate) keep: Option<PathBuf>,
    /// Stop when the work is done and verified, instead of at Ctrl-C
    #[arg(long)]
    pub(crate) once: bool,
}

/// Runs it.
pub(crate) async fn run(arguments: Arguments, output: Output) -> Result {
    devstack::run(arguments, output).await
}
