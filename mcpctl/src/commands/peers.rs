//! `peers`: who is connected and how far away, who shall be, and who is kept out.

use std::time::Duration;

use protocol::{
    Client, NodeId,
    api::{Ban, BanPeer, Entered, Join, List, Peer, Pong},
    error::Exit,
};
use serde::de::IgnoredAny;

use super::rtt;
use crate::{
    error::{Error, Result},
    output::Output,
    parse,
};

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// List connected peers
    List,
    /// Measure the round trip to a peer
    Ping {
        /// The peer
        node: NodeId,
    },
    /// Connect with a node of the mesh, by its id or its address
    Connect {
        /// A node id, a multiaddr, or wss://host:port
        target: String,
    },
    /// End the connections with a peer; it isn't dialled again by itself
    Disconnect {
        /// The peer
        node: NodeId,
    },
    /// Keep a node out for a while
    Ban {
        /// The node
        node: NodeId,
        /// For how long
        #[arg(long = "for", value_name = "TIME", default_value = "24h", value_parser = parse::duration)]
        span: Duration,
        /// Why, for the log and for the node itself
        #[arg(long)]
        reason: Option<String>,
    },
    /// Let a node in again
    Unban {
        /// The node
        node: NodeId,
    },
    /// List the nodes that are kept out
    Bans,
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
        Command::Connect { target } => connect(&target, client, output).await,
        Command::Disconnect { node } => {
            client.post::<_, IgnoredAny>(&format!("/v1/peers/{node}/disconnect"), &serde_json::json!({})).await?;
            output.show(&serde_json::json!({ "node_id": node, "connected": false }), |_| format!("{node} disconnected"))
        }
        Command::Ban { node, span, reason } => {
            let ban = BanPeer { for_s: span.as_secs().max(1), reason };
            let banned: Ban = client.post(&format!("/v1/peers/{node}/ban"), &ban).await?;
            output.show(&banned, |ban| format!("{} banned until {}", ban.node, ban.until))
        }
        Command::Unban { node } => {
            client.delete::<IgnoredAny>(&format!("/v1/peers/{node}/ban")).await?;
            output.show(&serde_json::json!({ "node_id": node, "banned": false }), |_| format!("{node} may come in again"))
        }
        Command::Bans => {
            let bans: List<Ban> = client.get("/v1/bans").await?;
            output.list(&bans, ["node", "until", "by", "reason"], |ban| {
                let by = if ban.manual { "operator" } else { "this node" };
                [ban.node.to_string(), ban.until.to_string(), by.into(), ban.reason.clone()]
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

async fn connect(target: &str, client: &Client, output: Output) -> Result {
    if let Ok(node) = target.parse::<NodeId>() {
        let peers: List<Peer> = client.post(&format!("/v1/peers/{node}/connect"), &serde_json::json!({})).await?;
        return output.list(&peers, ["node", "transport", "address"], |peer| {
            [peer.node_id.to_string(), peer.transport.clone(), peer.address.clone()]
        });
    }
    let entered: Entered = client.post("/v1/join", &Join { addresses: vec![target.into()], token: None }).await?;
    output.list(&List::from(entered.items.clone()), ["address", "node", "result"], |item| {
        let node = item.node_id.map_or_else(|| "-".into(), |node| node.to_string());
        [item.address.clone(), node, item.error.clone().unwrap_or_else(|| "connected".into())]
    })?;
    if entered.items.iter().any(|item| item.node_id.is_some()) { Ok(()) } else { Err(Error::Exit(Exit::Failure as u8)) }
}
