//! `revoke`: throw a node out of the mesh.

use protocol::{Client, NodeId, credential::Member};

use crate::{error::Result, output::Output};

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The node, as 'mcpctl members' lists it
    node: NodeId,
}

pub(crate) async fn run(arguments: &Arguments, client: &Client, output: Output) -> Result {
    let member: Member = client.post(&format!("/v1/members/{}/revoke", arguments.node), &serde_json::json!({})).await?;
    output.show(&member, |member| format!("{} revoked", member.node))
}
