//! Being reachable: own addresses, what others see of them, relays, hole punches, port mappings, neighbours on the LAN.

use std::{collections::HashSet, time::Duration};

use libp2p::{
    Multiaddr, PeerId,
    autonat::v2::client::Event as Tested,
    core::transport::ListenerId,
    dcutr, mdns,
    multiaddr::Protocol,
    relay,
    swarm::{FromSwarm, NetworkBehaviour as _, NewExternalAddrCandidate},
    upnp,
};
use protocol::{NodeId, api};
use tokio::time::Instant;

use super::Driver;
use crate::{
    address::{self, Transport},
    identity,
};

/// A relayed connection is kept this long after a direct one was made, and longer while it is in use.
const RETIRE: Duration = Duration::from_secs(60);
/// Addresses that others saw, by who saw them, are kept for so many peers.
const MAX_OBSERVERS: usize = 32;
/// Neighbours on the LAN are dialled of themselves up to this number of connections.
const ENOUGH: usize = 32;
/// A neighbour that couldn't be connected with is let alone for this long: it may be of another mesh.
const LEAVE_ALONE: Duration = Duration::from_secs(600);
/// Neighbours that are let alone are remembered up to this number.
const MAX_ALONE: usize = 256;

/// An own address that a peer couldn't reach is tried once more after this long: connections from before an interface changed are
/// gone by then, and so are the limits that they count under.
const DOUBT: Duration = Duration::from_secs(10);

/// What is known of this node's own reachability.
#[derive(Debug, Default)]
pub(super) struct Reach {
    /// Where peers saw this node come from.
    observed: Vec<(NodeId, Multiaddr)>,
    /// Addresses that a peer tried: whether it reached this node there.
    tested: Vec<(Multiaddr, bool)>,
    /// Own addresses that a peer couldn't reach, to be tried once more: their network may just have changed.
    doubted: Vec<(Instant, Multiaddr)>,
    /// Own addresses that peers couldn't reach, twice: a firewall stands before them.
    guarded: HashSet<Multiaddr>,
    /// What the router's port mapping says.
    mapping: Option<String>,
    /// Relayed connections that a direct one has replaced.
    retiring: Vec<(Instant, PeerId)>,
    /// Neighbours on the LAN that are let alone until then.
    alone: Vec<(Instant, PeerId)>,
}

impl Reach {
    pub(super) fn next(&self) -> Option<Instant> {
        self.retiring.iter().map(|(due, _)| *due).chain(self.doubted.iter().map(|(due, _)| *due)).min()
    }
}

impl Driver {
    pub(super) fn on_relay_client(&mut self, event: relay::client::Event) {
        match event {
            relay::client::Event::ReservationReqAccepted { relay_peer_id, renewal, .. } => {
                if !renewal {
                    tracing::info!(relay = %relay_peer_id, "a relay holds a reservation for this node");
                }
                self.reserving.accepted(&relay_peer_id, Instant::now());
            }
            relay::client::Event::OutboundCircuitEstablished { relay_peer_id, .. } => {
                tracing::debug!(relay = %relay_peer_id, "connected through a relay");
            }
            relay::client::Event::InboundCircuitEstablished { src_peer_id, .. } => {
                tracing::debug!(peer = %src_peer_id, "reached through a relay");
            }
        }
    }

    pub(super) fn on_relay_server(&mut self, event: &relay::Event) {
        tracing::debug!(?event, "relay");
    }

    pub(super) fn on_hole_punch(&mut self, event: dcutr::Event) {
        let dcutr::Event { remote_peer_id: peer, result } = event;
        match result {
            Ok(_) => tracing::info!(%peer, "a relayed connection was upgraded to a direct one"),
            Err(error) => tracing::debug!(%peer, %error, "no direct connection: it stays relayed"),
        }
    }

    /// A direct connection is there: relayed ones with the same peer are closed when nobody uses them any more.
    pub(super) fn retire_relayed(&mut self, peer: PeerId) {
        if self.reach.retiring.iter().all(|(_, known)| *known != peer) {
            self.reach.retiring.push((Instant::now() + RETIRE, peer));
        }
    }

    pub(super) fn on_reach_tick(&mut self, now: Instant) {
        let (due, rest) = std::mem::take(&mut self.reach.retiring).into_iter().partition(|(due, _)| *due <= now);
        self.reach.retiring = rest;
        for (_, peer) in due {
            let Some(node) = identity::node_of(&peer) else { continue };
            let relayed = self.shared.peers.relayed(node);
            if relayed.is_empty() || !self.shared.peers.is_direct(node) {
                continue;
            }
            if self.shared.peers.is_busy(node) {
                self.reach.retiring.push((now + RETIRE, peer));
                continue;
            }
            for connection in relayed {
                self.close_connection(connection);
            }
        }
        self.dispel(now);
        self.reserve(now);
    }

    /// Has doubted addresses tried once more.
    fn dispel(&mut self, now: Instant) {
        let (due, rest) = std::mem::take(&mut self.reach.doubted).into_iter().partition(|(due, _)| *due <= now);
        self.reach.doubted = rest;
        for (_, address) in due {
            if self.shared.listening.read().contains(&address) {
                // AutoNAT tries no address twice (rust-libp2p, issue 6203); by its full name it is another.
                self.have_tried(&address.with(Protocol::P2p(identity::peer_of(self.shared.node))));
            }
        }
    }

    /// Asks for reservations where they are wanted.
    pub(super) fn reserve(&mut self, now: Instant) {
        for peer in self.reserving.wanted(now) {
            let Some(node) = identity::node_of(&peer) else { continue };
            let Some(connection) = self.shared.peers.best(node).filter(|connection| connection.transport != Transport::Relayed) else {
                self.reserving.refused(&peer, now);
                continue;
            };
            let address = connection.address.with(Protocol::P2p(peer)).with(Protocol::P2pCircuit);
            match self.swarm.listen_on(address) {
                Ok(listener) => self.reserving.asked(peer, listener),
                Err(error) => {
                    tracing::debug!(relay = %peer, %error, "no reservation can be asked for");
                    self.reserving.refused(&peer, now);
                }
            }
        }
    }

    pub(super) fn on_listener_closed(&mut self, listener: ListenerId) {
        if let Some(relay) = self.reserving.lost(listener, Instant::now()) {
            tracing::info!(%relay, "a relay's reservation is lost: it is made again");
        }
    }

    /// Where `node` sees this node come from.
    pub(super) fn on_observed(&mut self, node: NodeId, address: Multiaddr) {
        let observed = &mut self.reach.observed;
        observed.retain(|(by, _)| *by != node);
        observed.push((node, address::split_peer(address).0));
        if observed.len() > MAX_OBSERVERS {
            observed.remove(0);
        }
    }

    pub(super) fn on_tested(&mut self, event: &Tested) {
        let reached = event.result.is_ok();
        tracing::debug!(address = %event.tested_addr, reached, by = %event.server, "an address of this node was tried");
        let (address, again) = address::split_peer(event.tested_addr.clone());
        let Reach { tested, doubted, .. } = &mut self.reach;
        tested.retain(|(known, _)| *known != address);
        tested.push((address.clone(), reached));
        if tested.len() > MAX_OBSERVERS {
            tested.remove(0);
        }
        doubted.retain(|(_, known)| *known != address);
        if reached || !self.shared.listening.read().contains(&address) || self.announced.contains(&address) {
            return;
        }
        if again.is_some() {
            self.on_guarded(address);
        } else if doubted.len() < MAX_OBSERVERS {
            doubted.push((Instant::now() + DOUBT, address));
        }
    }

    /// Has a peer try an own address: it may be a public one, and a firewall stands before it all the same.
    pub(super) fn have_tried(&mut self, address: &Multiaddr) {
        if let Some(client) = self.swarm.behaviour_mut().autonat_client.as_mut() {
            client.on_swarm_event(FromSwarm::NewExternalAddrCandidate(NewExternalAddrCandidate { addr: address }));
        }
    }

    /// A peer has reached this node at an address, or a relay has given it one.
    pub(super) fn on_confirmed(&mut self, address: &Multiaddr) {
        let (plain, named) = address::split_peer(address.clone());
        if named == Some(identity::peer_of(self.shared.node)) && !address::relayed(address) {
            self.swarm.remove_external_address(address);
            self.swarm.add_external_address(plain);
        }
        self.on_external(address, true);
    }

    /// Whether peers have tried an own address in vain. It isn't tried again while this node runs.
    pub(super) fn is_guarded(&self, address: &Multiaddr) -> bool {
        self.reach.guarded.contains(address)
    }

    /// Peers can't reach this node at an own address: nobody is told of it any more.
    fn on_guarded(&mut self, address: Multiaddr) {
        let advice = "open its port in the firewall, then restart this node";
        if self.server {
            // One peer's word isn't enough to take an entry node from all.
            tracing::warn!(%address, advice, "a peer can't reach this entry node");
            return;
        }
        tracing::info!(%address, advice, "peers can't reach this node at its own address: others reach it elsewhere, or over relays");
        self.swarm.remove_external_address(&address);
        self.on_external(&address, false);
        if self.reach.guarded.len() < MAX_OBSERVERS {
            self.reach.guarded.insert(address);
        }
    }

    pub(super) fn on_mapping(&mut self, event: &upnp::Event) {
        let text = match event {
            upnp::Event::NewExternalAddr { external_addr, .. } => format!("mapped: {external_addr}"),
            upnp::Event::ExpiredExternalAddr { external_addr, .. } => format!("lost: {external_addr}"),
            upnp::Event::GatewayNotFound => "no router that maps ports".into(),
            upnp::Event::NonRoutableGateway => "the router itself is behind another".into(),
        };
        tracing::info!(result = text, "port mapping");
        self.reach.mapping = Some(text);
    }

    /// Neighbours on the same LAN introduce themselves; admission tells whether they are of this mesh.
    pub(super) fn on_lan(&mut self, event: mdns::Event) {
        let mdns::Event::Discovered(found) = event else { return };
        let now = Instant::now();
        self.reach.alone.retain(|(until, _)| *until > now);
        for (peer, address) in found {
            if self.shared.peers.len() >= ENOUGH || self.reach.alone.iter().any(|(_, known)| *known == peer) {
                continue;
            }
            if self.permitted.by_anyone(&address) {
                self.book.add(peer, [address]);
                if !self.swarm.is_connected(&peer) && self.reach.alone.len() < MAX_ALONE {
                    // Once, whatever comes of it: who is of this mesh stays connected, others aren't asked in a loop.
                    self.reach.alone.push((now + LEAVE_ALONE, peer));
                    self.reach(peer);
                }
            }
        }
    }

    /// An address is known to lead here, or no longer.
    pub(super) fn on_external(&mut self, address: &Multiaddr, confirmed: bool) {
        let (address, _) = address::split_peer(address.clone());
        let mut external = self.shared.external.write();
        external.retain(|known| *known != address);
        if confirmed {
            external.push(address);
        }
        drop(external);
        self.on_addresses_changed();
    }

    /// What this node tells of its addresses has changed: decides anew what follows from that.
    pub(super) fn on_addresses_changed(&mut self) {
        let public = self.private || self.swarm.external_addresses().any(|address| !address::relayed(address));
        for listener in self.reserving.set_public(public) {
            // False when it has ended already.
            let _ = self.swarm.remove_listener(listener);
        }
        let serve = (public && !self.is_edge()) || self.server;
        let mode = if serve { libp2p::kad::Mode::Server } else { libp2p::kad::Mode::Client };
        if self.swarm.behaviour().kad.mode() != mode {
            self.swarm.behaviour_mut().kad.set_mode(Some(mode));
        }
        self.reserve(Instant::now());
        self.handler.addresses_changed();
    }

    /// An interface is gone: what others confirmed of it may be wrong now, and is tried anew.
    pub(super) fn on_interface_gone(&mut self) {
        let announced = self.announced.clone();
        let listening = self.shared.listening.read().clone();
        let stale: Vec<Multiaddr> = self
            .swarm
            .external_addresses()
            .filter(|address| !address::relayed(address) && !announced.contains(address) && !listening.contains(address))
            .cloned()
            .collect();
        for address in stale {
            self.swarm.remove_external_address(&address);
            self.on_external(&address, false);
        }
        self.reach.observed.clear();
        self.reach.tested.clear();
    }

    fn is_edge(&self) -> bool {
        self.membership.credential().is_some_and(|own| own.document().role == protocol::credential::Role::Edge)
    }

    pub(super) fn netcheck(&self) -> api::Netcheck {
        let listening = self.shared.listening.read().clone();
        let external: Vec<Multiaddr> = self.swarm.external_addresses().map(|address| address::split_peer(address.clone()).0).collect();
        let now = Instant::now();
        let relays = self.reserving.held().into_iter().filter_map(|(peer, since)| {
            Some(api::Reservation { relay: identity::node_of(&peer)?, held_s: now.duration_since(since).as_secs() })
        });
        api::Netcheck {
            nat: nat(&self.reach.observed, &listening),
            public: external.iter().any(|address| !address::relayed(address)),
            listening: listening.iter().filter(|address| !address::relayed(address)).map(ToString::to_string).collect(),
            reachable: external.iter().map(ToString::to_string).collect(),
            unreachable: self.reach.tested.iter().filter(|(_, reached)| !reached).map(|(address, _)| address.to_string()).collect(),
            observed: self.reach.observed.iter().map(|(by, address)| api::Observed { by: *by, address: address.to_string() }).collect(),
            relays: relays.collect(),
            port_mapping: self.reach.mapping.clone(),
            peers: self.shared.peers.list(),
        }
    }
}

/// What kind of NAT stands between, as far as others' view of this node tells (RFC 4787, section 4.1).
fn nat(observed: &[(NodeId, Multiaddr)], listening: &[Multiaddr]) -> api::Nat {
    // QUIC comes from the port that it listens on, so what happens to the port can be seen; and one transport is enough.
    let udp: Vec<&Multiaddr> =
        observed.iter().map(|(_, address)| address).filter(|address| address::transport(address) == Some(Transport::Quic)).collect();
    let host = |address: &Multiaddr| address.iter().next().map(|part| part.to_string());
    let seen: Vec<&Multiaddr> = observed.iter().map(|(_, address)| address).filter(|address| !address::relayed(address)).collect();
    if seen.is_empty() {
        return api::Nat::Unknown;
    }
    if seen.iter().all(|address| listening.iter().any(|own| host(own) == host(address))) {
        return api::Nat::None;
    }
    match udp.split_first() {
        Some((first, rest)) if !rest.is_empty() => {
            if rest.iter().all(|address| address == first) {
                api::Nat::EndpointIndependent
            } else {
                api::Nat::EndpointDependent
            }
        }
        _ => api::Nat::Behind,
    }
}

#[cfg(test)]
mod tests {
    use protocol::Key;

    use super::*;

    #[test]
    fn the_kind_of_nat_is_what_others_see() {
        let addresses = |list: &[&str]| list.iter().map(|text| text.parse().expect("an address")).collect::<Vec<Multiaddr>>();
        let seen = |list: &[&str]| {
            addresses(list).into_iter().map(|address| (Key::generate().node_id(), address)).collect::<Vec<(NodeId, Multiaddr)>>()
        };
        let listening = addresses(&["/ip4/10.0.0.2/udp/8765/quic-v1", "/ip4/10.0.0.2/tcp/8766"]);
        assert_eq!(nat(&[], &listening), api::Nat::Unknown);
        assert_eq!(nat(&seen(&["/ip4/10.0.0.2/udp/8765/quic-v1"]), &listening), api::Nat::None);
        assert_eq!(nat(&seen(&["/ip4/44.0.0.1/tcp/5"]), &listening), api::Nat::Behind);
        let same = seen(&["/ip4/44.0.0.1/udp/5/quic-v1", "/ip4/44.0.0.1/udp/5/quic-v1"]);
        assert_eq!(nat(&same, &listening), api::Nat::EndpointIndependent);
        let other = seen(&["/ip4/44.0.0.1/udp/5/quic-v1", "/ip4/44.0.0.1/udp/6/quic-v1"]);
        assert_eq!(nat(&other, &listening), api::Nat::EndpointDependent);
    }
}
