//! `leave`: give up the membership.

use protocol::{Client, api::MeshState};

use super::mesh::settled;
use crate::{error::Result, output::Output};

pub(crate) async fn run(client: &Client, output: Output) -> Result {
    let left: MeshState = client.post("/v1/leave", &serde_json::json!({})).await?;
    let state = settled(client, &left.mesh_id).await?;
    output.show(&state, |_| "left the mesh; this node is in none".into())
}
