//! What the handle asks.

use libp2p::{Multiaddr, kad::RecordKey, swarm::ConnectionId};
use protocol::NodeId;
use tokio::{
    sync::{mpsc, oneshot},
    time::Instant,
};

use super::{Command, Driver, kad::Lookup};
use crate::{address, error::Error, identity, providing::ProviderKey, redial::Target};

/// Look-ups under way for callers; each costs some twenty requests.
pub(crate) const MAX_LOOKUPS: usize = 256;

impl Driver {
    pub(super) fn on_command(&mut self, command: Command) {
        match command {
            Command::Join { address, reply } => self.on_join(address, reply),
            Command::Connect { node, reply } => self.on_connect(node, reply),
            Command::OpenApart { node, reply } => self.on_open_apart(node, reply),
            Command::Welcome(node) => self.swarm.behaviour_mut().shunning.welcome(&identity::peer_of(node)),
            Command::Provide(keys) => {
                for gone in self.providing.set(keys) {
                    self.swarm.behaviour_mut().kad.stop_providing(&RecordKey::new(&gone));
                }
                self.tell_provided();
            }
            Command::Providers { key, found } => self.on_providers(key, found),
            Command::Announce(announcement) => self.announcing.set(announcement, Instant::now()),
            Command::Learn { node, addresses } => {
                let addresses = addresses.iter().filter_map(|text| text.parse::<Multiaddr>().ok()).map(address::normal);
                let permitted = self.permitted.clone();
                self.book.add(identity::peer_of(node), addresses.filter(|address| permitted.by_anyone(address)));
            }
            Command::Known { node, reply } => {
                // A caller that left needs no answer.
                let _ = reply.send(self.book.get(&identity::peer_of(node)).iter().map(ToString::to_string).collect());
            }
            Command::Limits(reply) => {
                // A caller that left needs no answer.
                let _ = reply.send(self.limits());
            }
            Command::Disconnect(node) => {
                let peer = identity::peer_of(node);
                self.swarm.behaviour_mut().shunning.shun(peer);
                // Fails only for a peer that isn't connected.
                let _ = self.swarm.disconnect_peer_id(peer);
            }
            Command::Netcheck(reply) => {
                // A caller that left needs no answer.
                let _ = reply.send(self.netcheck());
            }
            Command::Sweep => self.sweep(),
        }
    }

    fn on_join(&mut self, address: Multiaddr, reply: oneshot::Sender<Result<NodeId, Error>>) {
        if let Err(error) = self.redial.add(address.clone(), None) {
            // A caller that left needs no answer, here and below.
            let _ = reply.send(Err(error));
            return;
        }
        self.permitted.name(&address);
        if let (_, Some(peer)) = address::split_peer(address.clone()) {
            self.swarm.behaviour_mut().shunning.welcome(&peer);
        }
        let target = Target::Address(address.clone());
        let named = address::split_peer(address.clone()).1;
        let connected = named.and_then(|peer| Some((peer, identity::node_of(&peer)?)));
        if let Some((peer, node)) = connected.filter(|(_, node)| self.shared.peers.is_confirmed(*node)) {
            self.redial.answered(&target, peer);
            self.hold(peer);
            let _ = reply.send(Ok(node));
            return;
        }
        let text = address.to_string();
        match self.dial_address(target, address) {
            Ok(connection) => self.dialling.join(connection, text, reply),
            Err(reason) => {
                let _ = reply.send(Err(Error::Unreachable { target: text, reason }));
            }
        }
    }

    /// Keeps a bootstrap peer's connections alive.
    pub(super) fn hold(&mut self, peer: libp2p::PeerId) {
        let connections: Vec<ConnectionId> = identity::node_of(&peer).map(|node| self.shared.peers.connections(node)).unwrap_or_default();
        for connection in connections {
            self.swarm.behaviour_mut().rpc.hold(peer, connection);
        }
    }

    /// Closes connections with those who were members when they were admitted and are no longer.
    fn sweep(&mut self) {
        let now = protocol::Timestamp::now();
        for node in self.shared.peers.nodes() {
            if let Err(refusal) = self.membership.still(node, now) {
                tracing::warn!(%node, code = %refusal.code, reason = refusal.detail, "a peer is no member any more: closing");
                // Fails only for a peer that is gone already.
                let _ = self.swarm.disconnect_peer_id(identity::peer_of(node));
            }
        }
    }

    fn on_providers(&mut self, key: ProviderKey, found: mpsc::Sender<Result<Vec<NodeId>, Error>>) {
        if self.lookups.values().filter(|lookup| matches!(lookup, Lookup::Providers(_))).count() >= MAX_LOOKUPS {
            let _ = found.try_send(Err(Error::Limit { what: "look-ups under way" }));
            return;
        }
        let query = self.swarm.behaviour_mut().kad.get_providers(RecordKey::new(&key));
        self.lookups.insert(query, Lookup::Providers(found));
    }
}
