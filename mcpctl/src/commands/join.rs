//! `join`: enter the mesh through known nodes.

use protocol::{
    Client,
    api::{Join, Joined, List},
    error::Exit,
};

use crate::{
    error::{Error, Result},
    output::Output,
};

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Multiaddrs, or wss://host:port
    #[arg(required = true, value_name = "ADDR")]
    addresses: Vec<String>,
}

/// Succeeds if any address answered; the daemon keeps trying the others.
pub(crate) async fn run(arguments: Arguments, client: &Client, output: Output) -> Result {
    let joined: List<Joined> = client.post("/v1/join", &Join { addresses: arguments.addresses }).await?;
    output.list(&joined, ["address", "node", "state"], |joined| {
        let node = joined.node_id.map_or_else(|| "-".into(), |node| node.to_string());
        let state = joined.error.clone().unwrap_or_else(|| "connected".into());
        [joined.address.clone(), node, state]
    })?;
    if joined.items.iter().any(|joined| joined.node_id.is_some()) {
        return Ok(());
    }
    output.note("no address answered yet; the daemon keeps trying");
    Err(Error::Exit(Exit::Failure as u8))
}
