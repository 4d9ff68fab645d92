//! `peers`: who is connected, and how far away.

use protocol::{
    Client, NodeId,
    api::{List, Peer, Pong},
};

use super::rtt;
use crate::{error::Result, output::Output};

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// List connected peers
    List,
    /// Measure the round trip to a peer
    Ping {
        /// The peer
        node: NodeId,
    },
}

pub(crate) async fn run(command: Command, client: &Client, output: Output) -> Result {
    match command {
        Command::List => {
            let peers: List<Peer> = client.get("/v1/peers").await?;
            output.list(&peers, ["node", "transport", "rtt", "program", "address"], |peer| {
                let program = peer.agent_version.clone().unwrap_or_else(|| "-".into());
                [peer.node_id.to_string(), peer.transport.clone(), rtt(peer.rtt_us), program, peer.address.clone()]
            })
        }
        Command::Ping { node } => {
            let pong: Pong = client.post(&format!("/v1/peers/{node}/ping"), &serde_json::json!({})).await?;
            output.show(&pong, |pong| {
                let how = if pong.via == "relayed" { "relayed".into() } else { format!("direct over {}", pong.via) };
                format!("{}: {} ({how})", pong.node_id, rtt(Some(pong.rtt_us)))
            })
        }
    }
}
