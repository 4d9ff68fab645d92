//! Who is connected, over what, and the RPC sessions with them: shared by the handle, which reads it at each request,
//! and the driver, which keeps it.

use std::{
    collections::HashMap,
    sync::{
        Arc, Weak,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use libp2p::{Multiaddr, swarm::ConnectionId};
use parking_lot::RwLock;
use protocol::{NodeId, api};
use tokio::time::Instant;

use crate::{
    address::Transport,
    rpc::{Room, Session},
};

/// One connection.
#[derive(Debug, Clone)]
pub(crate) struct Connection {
    pub(crate) id: ConnectionId,
    pub(crate) address: Multiaddr,
    pub(crate) transport: Transport,
    pub(crate) since: Instant,
}

#[derive(Debug, Default)]
struct Peer {
    /// As many as the swarm allows: `behaviour::MAX_PER_PEER`.
    connections: Vec<Connection>,
    /// At most one for each connection.
    sessions: Vec<Arc<Session>>,
    rtt: Option<Duration>,
    agent_version: Option<String>,
    /// It showed itself to be of this mesh.
    confirmed: bool,
    /// Room for the requests that it has under way here, while any stream of it is served.
    room: Weak<Room>,
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Peers {
    all: RwLock<HashMap<NodeId, Peer>>,
    /// Bytes of requests and answers of all of them.
    bytes: Arc<AtomicUsize>,
}

impl Peers {
    pub(crate) fn opened(&self, node: NodeId, connection: Connection) {
        self.all.write().entry(node).or_default().connections.push(connection);
    }

    /// When a connection was made.
    pub(crate) fn opened_at(&self, node: NodeId, id: ConnectionId) -> Option<Instant> {
        let peers = self.all.read();
        Some(peers.get(&node)?.connections.iter().find(|connection| connection.id == id)?.since)
    }

    /// Removes a connection. Returns whether it was the last, and whether the peer had shown itself to be of this mesh.
    pub(crate) fn closed(&self, node: NodeId, id: ConnectionId) -> (bool, bool) {
        let mut peers = self.all.write();
        let Some(peer) = peers.get_mut(&node) else { return (true, false) };
        peer.connections.retain(|connection| connection.id != id);
        let confirmed = peer.confirmed;
        let last = peer.connections.is_empty();
        if last {
            peers.remove(&node);
        }
        (last, confirmed)
    }

    /// The peer is of this mesh; whether that is news.
    pub(crate) fn confirm(&self, node: NodeId, agent_version: String) -> bool {
        self.all.write().get_mut(&node).is_some_and(|peer| {
            peer.agent_version = Some(agent_version);
            !std::mem::replace(&mut peer.confirmed, true)
        })
    }

    pub(crate) fn is_confirmed(&self, node: NodeId) -> bool {
        self.all.read().get(&node).is_some_and(|peer| peer.confirmed)
    }

    /// The connection to open a stream on: the best transport, the newest of these.
    pub(crate) fn best(&self, node: NodeId) -> Option<Connection> {
        let peers = self.all.read();
        peers.get(&node)?.connections.iter().rev().min_by_key(|connection| connection.transport).cloned()
    }

    pub(crate) fn connections(&self, node: NodeId) -> Vec<ConnectionId> {
        self.all.read().get(&node).map(|peer| peer.connections.iter().map(|connection| connection.id).collect()).unwrap_or_default()
    }

    pub(crate) fn connection(&self, node: NodeId, id: ConnectionId) -> Option<Connection> {
        self.all.read().get(&node)?.connections.iter().find(|connection| connection.id == id).cloned()
    }

    /// The connections over relays.
    pub(crate) fn relayed(&self, node: NodeId) -> Vec<ConnectionId> {
        let peers = self.all.read();
        let connections = peers.get(&node).map(|peer| peer.connections.as_slice()).unwrap_or_default();
        connections.iter().filter(|connection| connection.transport == Transport::Relayed).map(|connection| connection.id).collect()
    }

    /// Whether there is a connection without a relay between.
    pub(crate) fn is_direct(&self, node: NodeId) -> bool {
        self.best(node).is_some_and(|connection| connection.transport != Transport::Relayed)
    }

    /// Whether requests are under way over a relay, in either direction.
    pub(crate) fn is_busy(&self, node: NodeId) -> bool {
        let peers = self.all.read();
        peers.get(&node).is_some_and(|peer| {
            let calling = peer.sessions.iter().any(|session| session.transport == Transport::Relayed && session.is_busy());
            let serving = peer.room.upgrade().is_some_and(|room| room.is_busy());
            calling || serving
        })
    }

    pub(crate) fn add_session(&self, node: NodeId, session: Arc<Session>) {
        if let Some(peer) = self.all.write().get_mut(&node) {
            peer.sessions.retain(|present| present.is_open() && present.connection != session.connection);
            peer.sessions.push(session);
        }
    }

    /// The open session over the best transport.
    pub(crate) fn session(&self, node: NodeId) -> Option<Arc<Session>> {
        let peers = self.all.read();
        let open = peers.get(&node)?.sessions.iter().filter(|session| session.is_open());
        open.min_by_key(|session| session.transport).cloned()
    }

    /// Room for the requests of `node`, one for all its streams.
    pub(crate) fn room(&self, node: NodeId) -> Arc<Room> {
        let mut peers = self.all.write();
        let new = || Room::new(Arc::clone(&self.bytes));
        let Some(peer) = peers.get_mut(&node) else { return new() };
        peer.room.upgrade().unwrap_or_else(|| {
            let room = new();
            peer.room = Arc::downgrade(&room);
            room
        })
    }

    /// Bytes of requests and answers that are under way here.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }

    pub(crate) fn measured(&self, node: NodeId, rtt: Duration) {
        if let Some(peer) = self.all.write().get_mut(&node) {
            peer.rtt = Some(rtt);
        }
    }

    pub(crate) fn rtt(&self, node: NodeId) -> Option<Duration> {
        self.all.read().get(&node)?.rtt
    }

    /// Every peer, since when it is connected, and whether requests use or have used the connection.
    pub(crate) fn ages(&self) -> Vec<(NodeId, Instant, bool)> {
        let peers = self.all.read();
        let age = |(node, peer): (&NodeId, &Peer)| {
            let since = peer.connections.iter().map(|connection| connection.since).min()?;
            Some((*node, since, peer.sessions.iter().any(|session| session.is_open()) || peer.room.strong_count() > 0))
        };
        peers.iter().filter_map(age).collect()
    }

    pub(crate) fn nodes(&self) -> Vec<NodeId> {
        self.all.read().keys().copied().collect()
    }

    pub(crate) fn len(&self) -> usize {
        self.all.read().len()
    }

    /// Those that showed themselves to be of this mesh, for the API.
    pub(crate) fn list(&self) -> Vec<api::Peer> {
        let peers = self.all.read();
        let mut list: Vec<api::Peer> = peers
            .iter()
            .filter(|(_, peer)| peer.confirmed)
            .filter_map(|(node, peer)| {
                let connection = peer.connections.iter().rev().min_by_key(|connection| connection.transport)?;
                Some(api::Peer {
                    node_id: *node,
                    address: connection.address.to_string(),
                    transport: connection.transport.to_string(),
                    relayed: connection.transport == Transport::Relayed,
                    rtt_us: peer.rtt.map(|rtt| u64::try_from(rtt.as_micros()).unwrap_or(u64::MAX)),
                    agent_version: peer.agent_version.clone(),
                })
            })
            .collect();
        list.sort_by_key(|peer| peer.node_id);
        list
    }
}
