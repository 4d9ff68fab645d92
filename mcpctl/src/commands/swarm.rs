//! `swarm`: what others may use of this node.

use protocol::{
    Client,
    api::{Limit, List},
};

use crate::{error::Result, output::Output};

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Show every limit that the mesh enforces, what is in use, and how often it was met
    Limits,
}

pub(crate) async fn run(command: Command, client: &Client, output: Output) -> Result {
    let Command::Limits = command;
    let limits: List<Limit> = client.get("/v1/swarm/limits").await?;
    let number = |number: Option<u64>| number.map_or_else(|| "-".into(), |number| number.to_string());
    output.list(&limits, ["limit", "value", "unit", "in use", "refused", "why"], |limit| {
        [limit.name.clone(), limit.value.to_string(), limit.unit.clone(), number(limit.in_use), number(limit.refused), limit.why.clone()]
    })
}
