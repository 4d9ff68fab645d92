//! `netcheck`: how this node can be reached, and how it reaches others.

use protocol::{
    Client,
    api::{Nat, Netcheck},
};

use super::{names, rtt};
use crate::{error::Result, output::Output};

pub(crate) async fn run(client: &Client, output: Output) -> Result {
    output.show(&client.get::<Netcheck>("/v1/netcheck").await?, describe)
}

fn describe(check: &Netcheck) -> String {
    let nat = match check.nat {
        Nat::Unknown => "unknown: no peer has told yet where this node comes from",
        Nat::None => "none: peers see this node's own address",
        Nat::Behind => "behind NAT; its kind shows with more peers",
        Nat::EndpointIndependent => "behind NAT, one mapping for all peers: hole punching works as a rule",
        Nat::EndpointDependent => "behind NAT, another mapping for each peer: relays are needed as a rule",
    };
    let public = if check.public { "yes" } else { "no" };
    let mut lines = vec![
        format!("NAT:           {nat}"),
        format!("public:        {public}"),
        format!("listening:     {}", names(check.listening.iter().map(String::as_str), "nowhere")),
        format!("reachable at:  {}", names(check.reachable.iter().map(String::as_str), "nowhere yet")),
        format!("tried in vain: {}", names(check.unreachable.iter().map(String::as_str), "-")),
        format!("port mapping:  {}", check.port_mapping.as_deref().unwrap_or("-")),
    ];
    lines.extend(check.relays.iter().map(|held| format!("relay:         {} holds a reservation since {} s", held.relay, held.held_s)));
    lines.extend(check.observed.iter().map(|seen| format!("seen as:       {} by {}", seen.address, seen.by)));
    lines.extend(check.peers.iter().map(|peer| {
        let how = if peer.relayed { "relayed" } else { "direct" };
        format!("peer:          {} {how} over {} {}", peer.node_id, peer.transport, rtt(peer.rtt_us))
    }));
    lines.join("\n")
}
