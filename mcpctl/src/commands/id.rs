//! `id`: who the node is and where it can be reached.

use protocol::{Client, api::Identity};

use crate::{
    error::Result,
    output::{Output, fields},
};

pub(crate) async fn run(client: &Client, output: Output) -> Result {
    let identity: Identity = client.get("/v1/id").await?;
    output.show(&identity, |identity| {
        let named = fields([
            ("node", identity.node_id.to_string()),
            ("mesh", identity.mesh_id.to_string()),
            ("owner", identity.owner.to_string()),
            ("addresses", identity.addresses.len().to_string()),
        ]);
        identity.addresses.iter().fold(named, |text, address| format!("{text}  {address}\n"))
    })
}
