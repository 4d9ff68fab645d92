//! Identify: which mesh a peer is of, where it says it can be reached, and whether it serves Kademlia.

use std::time::Duration;

use libp2p::{
    PeerId,
    identify::{Event, Info},
    swarm::ConnectionId,
};
use protocol::wire;
use tokio::time::Instant;

use super::Driver;
use crate::{address, error::Error, identity};

/// Of a peer's program name so many characters are kept.
const MAX_VERSION: usize = 64;

/// A dialler of another mesh closes the connection itself, when it has heard where it is. This is its time for that.
const FAREWELL: Duration = Duration::from_secs(2);

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
        if info.protocol_version != wire::identify_protocol(&self.mesh) {
            tracing::warn!(%node, theirs = ?info.protocol_version.chars().take(120).collect::<String>(), "a node of another mesh is connected: closing");
            self.dialling.joined(connection, |address| Err(Error::ForeignMesh { node, address }));
            if self.shared.peers.connection(node, connection).is_some_and(|connection| connection.dialled) {
                self.close_connection(connection);
            } else if !self.foreign.iter().any(|(_, known)| *known == connection) {
                self.foreign.push_back((Instant::now() + FAREWELL, connection));
            }
            return;
        }
        let addresses: Vec<_> =
            info.listen_addrs.into_iter().map(address::normal).filter(|address| self.permitted.by_anyone(address)).collect();
        if info.protocols.contains(&self.kad_protocol) {
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
            self.handler.connected(node);
        }
        self.dialling.joined(connection, |_| Ok(node));
    }
}
