//! `discover`: who provides a capability.

use std::time::Duration;

use protocol::{
    Client, Problem,
    api::{Discovered, List},
};

use super::{pricing, rtt, zone};
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
    /// Go on, and tell who comes, changes and goes; ends with Ctrl-C
    #[arg(long, conflicts_with_all = ["timeout", "kademlia"])]
    watch: bool,
    /// Ask the distributed hash table even where adverts are known
    #[arg(long)]
    kademlia: bool,
}

impl Arguments {
    /// How long the whole may take; `None` for as long as somebody watches.
    pub(crate) fn patience(&self) -> Option<Duration> {
        (!self.watch).then(|| self.timeout.saturating_add(SLACK))
    }
}

pub(crate) async fn run(arguments: Arguments, client: &Client, output: Output) -> Result {
    if arguments.watch {
        return watch(&arguments.capability, client, output).await;
    }
    let found = find(client, &arguments.capability, arguments.timeout, arguments.kademlia).await?;
    output.list(&found, ["agent", "name", "node", "plugin", "price", "zone", "load", "rtt", "via"], |found| {
        [
            found.agent.to_string(),
            found.name.clone(),
            found.node_id.to_string(),
            found.plugin.clone(),
            pricing(&found.pricing),
            zone(found.zone.as_ref()),
            format!("{} %", found.load),
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

/// Tells changes as they come: a line each, in JSON an object each.
async fn watch(capability: &str, client: &Client, output: Output) -> Result {
    let mut events = client.events(&format!("/v1/discover/watch?capability={}", parse::segment(capability))).await?;
    while let Some(event) = events.next().await? {
        let found: Discovered = serde_json::from_str(&event.data)
            .map_err(|error| Problem::new(protocol::Code::Internal, format!("the daemon's event can't be read: {error}")))?;
        output.show(&serde_json::json!({ "event": event.name, "agent": found }), |_| {
            let Discovered { agent, name, node_id, plugin, .. } = &found;
            format!("{:8} {agent} {name} {plugin} on {node_id}", event.name)
        })?;
    }
    output.note("the daemon has ended the watch");
    Ok(())
}
