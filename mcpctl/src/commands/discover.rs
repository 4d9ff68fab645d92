//! `discover`: who provides a capability.

use std::time::Duration;

use protocol::{
    Client, Problem,
    api::{Discovered, List},
};

use super::{pricing, rtt};
use crate::{error::Result, output::Output, parse};

/// What the daemon's answer may take beyond the search itself.
const SLACK: Duration = Duration::from_secs(10);

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// What is wanted: PLUGIN.METHOD, as in docs.search
    capability: String,
    /// How long to search
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = parse::duration)]
    timeout: Duration,
    /// Ask the distributed hash table even where adverts are known
    #[arg(long)]
    kademlia: bool,
}

impl Arguments {
    pub(crate) fn patience(&self) -> Duration {
        self.timeout.saturating_add(SLACK)
    }
}

pub(crate) async fn run(arguments: Arguments, client: &Client, output: Output) -> Result {
    let found = find(client, &arguments.capability, arguments.timeout, arguments.kademlia).await?;
    output.list(&found, ["agent", "name", "node", "plugin", "price", "rtt", "via"], |found| {
        [
            found.agent.to_string(),
            found.name.clone(),
            found.node_id.to_string(),
            found.plugin.clone(),
            pricing(&found.pricing),
            rtt(found.rtt_us),
            found.via.clone(),
        ]
    })
}

/// Asks the daemon, best first.
pub(crate) async fn find(client: &Client, capability: &str, timeout: Duration, kademlia: bool) -> Result<List<Discovered>, Problem> {
    let via = if kademlia { "&via=kademlia" } else { "" };
    client.get(&format!("/v1/discover?capability={}&timeout_ms={}{via}", parse::segment(capability), timeout.as_millis())).await
}
