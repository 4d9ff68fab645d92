//! `members`: who belongs to the mesh, by the authority's books.

use protocol::{
    Client,
    api::{List, MemberState},
};

use super::zone;
use crate::{error::Result, output::Output};

pub(crate) async fn run(client: &Client, output: Output) -> Result {
    let members: List<MemberState> = client.get("/v1/members").await?;
    output.list(&members, ["node", "role", "zone", "standing", "connected", "expires"], |state| {
        let member = &state.member;
        let connected = if state.connected { "yes" } else { "no" };
        [
            member.node.to_string(),
            member.role.to_string(),
            zone(member.zone.as_ref()),
            member.standing.as_str().into(),
            connected.into(),
            member.expires_at.to_string(),
        ]
    })
}
