//! Identify: where a peer says that it can be reached, and whether it serves Kademlia.

use libp2p::{
    PeerId,
    identify::{Event, Info},
    relay,
    swarm::ConnectionId,
};
use protocol::credential::Role;
use tokio::time::Instant;

use super::Driver;
use crate::{
    address::{self, Transport},
    identity,
};

/// Of a peer's program name so many characters are kept.
const MAX_VERSION: usize = 64;

impl Driver {
    pub(super) fn on_identify(&mut self, event: Event) {
        match event {
            Event::Received { connection_id, peer_id, info } => self.on_identified(connection_id, peer_id, info),
            Event::Error { peer_id, error, .. } => tracing::debug!(peer = %peer_id, %error, "a peer doesn't identify itself"),
            Event::Sent { .. } | Event::Pushed { .. } => {}
        }
    }

    fn on_identified(&mut self, connection: ConnectionId, peer: PeerId, info: Info) {
        let Some(node) = identity::node_of(&peer) else { return };
        self.on_observed(node, info.observed_addr);
        let serves = self.membership.of(node).is_none_or(|credential| credential.document().role != Role::Edge);
        let direct = self.shared.peers.connection(node, connection).filter(|connection| connection.transport != Transport::Relayed);
        if direct.is_some() && serves && info.protocols.contains(&relay::HOP_PROTOCOL_NAME) {
            self.reserving.offers(peer);
            self.reserve(Instant::now());
        }
        let addresses: Vec<_> =
            info.listen_addrs.into_iter().map(address::normal).filter(|address| self.permitted.by_anyone(address)).collect();
        if serves && info.protocols.contains(&self.kad_protocol) && direct.is_some_and(|direct| self.has_room(peer, &direct.address)) {
            for address in &addresses {
                self.swarm.behaviour_mut().kad.add_address(&peer, address.clone());
            }
        }
        self.book.add(peer, addresses);
        self.redial.confirmed(peer);
        if self.redial.is_bootstrap(peer) {
            self.hold(peer);
        }
        if self.shared.peers.confirm(node, info.agent_version.chars().take(MAX_VERSION).collect()) {
            tracing::info!(%node, "a peer is connected");
            self.remember_soon();
            self.handler.connected(node);
        }
        self.dialling.joined(connection, |_| Ok(node));
    }
}
