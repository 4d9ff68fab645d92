//! Connections: made, lost, and not made.

use std::{collections::HashMap, error::Error as _};

use libp2p::{
    Multiaddr, PeerId, TransportError,
    core::ConnectedPoint,
    swarm::{
        ConnectionError, ConnectionId, DialError,
        dial_opts::{DialOpts, PeerCondition},
    },
};
use protocol::{Code, NodeId, admission::Refusal};
use tokio::{sync::oneshot, time::Instant};

use super::{Driver, jitter};
use crate::{
    address::{self, Transport},
    admission::Refused,
    error::Error,
    identity,
    peers::Connection,
    redial::Target,
    shunning::Shunned,
};

/// Callers that wait for a session with one peer.
const MAX_WAITING: usize = 1024;

/// Dials under way, and who waits for what they bring. The number of dials is limited by the swarm.
#[derive(Default)]
pub(super) struct Dialling {
    targets: HashMap<ConnectionId, Target>,
    /// Waiting until the peer at the other end has shown its mesh.
    joins: HashMap<ConnectionId, Join>,
    /// Waiting for a session.
    wanted: HashMap<PeerId, Wanted>,
}

struct Join {
    address: String,
    reply: oneshot::Sender<Result<NodeId, Error>>,
}

#[derive(Default)]
struct Wanted {
    replies: Vec<oneshot::Sender<Result<(), Error>>>,
    /// When the first of them came.
    since: Option<Instant>,
    /// Kademlia was asked already where the peer is.
    looked_up: bool,
}

impl Dialling {
    pub(super) fn join(&mut self, connection: ConnectionId, address: String, reply: oneshot::Sender<Result<NodeId, Error>>) {
        self.joins.insert(connection, Join { address, reply });
    }

    /// Tells who joined over `connection` how it went; `outcome` is made from the address.
    pub(super) fn joined(&mut self, connection: ConnectionId, outcome: impl FnOnce(String) -> Result<NodeId, Error>) {
        if let Some(Join { address, reply }) = self.joins.remove(&connection) {
            // A caller that left needs no answer.
            let _ = reply.send(outcome(address));
        }
    }

    /// Tells those who wait for a session with `peer`.
    pub(super) fn connected(&mut self, peer: &PeerId) {
        for reply in self.wanted.remove(peer).unwrap_or_default().replies {
            let _ = reply.send(Ok(()));
        }
    }

    /// Tells those who wait for a session with `peer` why there is none.
    pub(super) fn unreachable(&mut self, peer: &PeerId, reason: &str) {
        self.failed(peer, || Error::Unreachable { target: peer.to_string(), reason: reason.to_owned() });
    }

    fn failed(&mut self, peer: &PeerId, error: impl Fn() -> Error) {
        for reply in self.wanted.remove(peer).unwrap_or_default().replies {
            let _ = reply.send(Err(error()));
        }
    }

    /// Whether somebody has waited for `peer` since before a connection with it was opened.
    fn waited_since(&self, peer: &PeerId, opened: Instant) -> bool {
        self.wanted.get(peer).and_then(|wanted| wanted.since).is_some_and(|since| since <= opened)
    }

    pub(super) fn is_wanted(&self, peer: &PeerId) -> bool {
        self.wanted.contains_key(peer)
    }

    /// Whether Kademlia may be asked for `peer`, which is done once.
    pub(super) fn may_look_up(&mut self, peer: &PeerId) -> bool {
        self.wanted.get_mut(peer).is_some_and(|wanted| !std::mem::replace(&mut wanted.looked_up, true))
    }
}

impl Driver {
    /// A session with `node` is wanted: over a connection that is there, or after a dial.
    pub(super) fn on_connect(&mut self, node: NodeId, reply: oneshot::Sender<Result<(), Error>>) {
        if self.shared.peers.session(node).is_some() {
            // It was opened for another caller while this one's command waited.
            let _ = reply.send(Ok(()));
            return;
        }
        let peer = identity::peer_of(node);
        if self.shared.peers.best(node).is_none()
            && let Err(Shunned(refusal)) = self.swarm.behaviour().shunning.check(&peer)
        {
            let _ = reply.send(Err(refused(node.to_string(), refusal)));
            return;
        }
        let wanted = self.dialling.wanted.entry(peer).or_default();
        if wanted.replies.len() >= MAX_WAITING {
            let _ = reply.send(Err(Error::Limit { what: "callers that wait for one peer" }));
            return;
        }
        wanted.since.get_or_insert_with(Instant::now);
        wanted.replies.push(reply);
        if wanted.replies.len() > 1 {
            // The first caller's dial or stream serves all.
            return;
        }
        match self.shared.peers.best(node) {
            Some(connection) => self.swarm.behaviour_mut().rpc.open(peer, connection.id),
            None => self.reach(peer),
        }
    }

    /// Dials `peer` where it is known to be, or asks Kademlia for it.
    pub(super) fn reach(&mut self, peer: PeerId) {
        match self.swarm.dial(self.peer_options(peer)) {
            // What comes of it, or of the dial under way already, is an event.
            Ok(()) | Err(DialError::DialPeerConditionFalse(_)) => {}
            Err(DialError::NoAddresses) if self.dialling.may_look_up(&peer) => self.look_up(peer),
            Err(DialError::NoAddresses) => self.dialling.unreachable(&peer, "no address of it is known"),
            Err(error) => self.dialling.unreachable(&peer, &describe(&error)),
        }
    }

    fn peer_options(&self, peer: PeerId) -> DialOpts {
        DialOpts::peer_id(peer)
            .condition(PeerCondition::DisconnectedAndNotDialing)
            .addresses(self.book.get(&peer))
            .extend_addresses_through_behaviour()
            .build()
    }

    /// Dials a lost peer again.
    pub(super) fn redial_peer(&mut self, peer: PeerId) {
        let options = self.peer_options(peer);
        let connection = options.connection_id();
        match self.swarm.dial(options) {
            Ok(()) => {
                self.dialling.targets.insert(connection, Target::Peer(peer));
            }
            Err(_) => self.redial.failed(&Target::Peer(peer), Instant::now(), jitter()),
        }
    }

    /// Dials an address that an operator named.
    pub(super) fn dial_address(&mut self, target: Target, address: Multiaddr) -> Result<ConnectionId, String> {
        let (bare, peer) = address::split_peer(address);
        let options = match peer {
            Some(peer) => DialOpts::peer_id(peer).condition(PeerCondition::Always).addresses(vec![bare]).build(),
            None => DialOpts::unknown_peer_id().address(bare).build(),
        };
        let connection = options.connection_id();
        match self.swarm.dial(options) {
            Ok(()) => {
                self.dialling.targets.insert(connection, target);
                Ok(connection)
            }
            // The swarm strikes addresses out that it listens on.
            Err(DialError::NoAddresses) => {
                self.redial.forget(&target);
                Err("it is this node's own address".into())
            }
            Err(error) => {
                self.redial.failed(&target, Instant::now(), jitter());
                Err(describe(&error))
            }
        }
    }

    pub(super) fn on_established(&mut self, peer: PeerId, id: ConnectionId, endpoint: &ConnectedPoint) {
        let Some(node) = identity::node_of(&peer) else {
            self.close_connection(id);
            return;
        };
        // Whoever comes through a relay shows no address of its own: what is known is the circuit that it came by.
        let remote = match endpoint {
            ConnectedPoint::Listener { local_addr, .. } if endpoint.is_relayed() => local_addr,
            _ => endpoint.get_remote_address(),
        };
        let (address, _) = address::split_peer(remote.clone());
        let transport = address::transport(&address).unwrap_or(Transport::Tcp);
        tracing::debug!(%node, %address, dialled = endpoint.is_dialer(), "connected");
        if endpoint.is_dialer() && transport != Transport::Relayed {
            self.book.add(peer, [address.clone()]);
        }
        self.shared.peers.opened(node, Connection { id, address, transport, since: Instant::now() });
        if let Some(target) = self.dialling.targets.remove(&id) {
            self.redial.answered(&target, peer);
        }
        if transport != Transport::Relayed && !self.shared.peers.relayed(node).is_empty() {
            self.retire_relayed(peer);
        }
        // A better transport than that of the session there is takes over.
        let better = self.shared.peers.session(node).is_some_and(|session| transport < session.transport);
        if better || self.dialling.is_wanted(&peer) {
            self.swarm.behaviour_mut().rpc.open(peer, id);
        }
    }

    pub(super) fn on_closed(&mut self, peer: PeerId, id: ConnectionId, cause: Option<&ConnectionError>) {
        let Some(node) = identity::node_of(&peer) else { return };
        let reason = cause.map_or_else(|| "the connection was closed".into(), |cause| format!("the connection was closed: {cause}"));
        tracing::debug!(%node, %reason, "disconnected");
        self.dialling.joined(id, |address| Err(Error::Unreachable { target: address, reason: reason.clone() }));
        self.transfers.closed(id);
        let opened = self.shared.peers.opened_at(node, id);
        let (last, confirmed) = self.shared.peers.closed(node, id);
        if last {
            self.membership.forget(node);
            self.reserving.gone(&peer);
            // Who lets a connection be made and closes it is there, and doesn't want it.
            match opened.is_some_and(|opened| self.dialling.waited_since(&peer, opened)) {
                true => {
                    let refused = || Error::Refused { target: node.to_string(), code: Code::Unreachable, reason: reason.clone() };
                    self.dialling.failed(&peer, refused);
                }
                false => self.dialling.unreachable(&peer, &reason),
            }
            // An entry node that is shunned stays one: its address is dialled again when it may be.
            let wanted = confirmed && self.swarm.behaviour().shunning.check(&peer).is_ok();
            self.redial.lost(peer, wanted, Instant::now(), jitter());
            if confirmed {
                self.handler.disconnected(node);
            }
        } else if let Some(connection) = self.shared.peers.best(node)
            && self.dialling.is_wanted(&peer)
        {
            self.swarm.behaviour_mut().rpc.open(peer, connection.id);
        }
    }

    pub(super) fn on_dial_failed(&mut self, id: ConnectionId, peer: Option<PeerId>, error: &DialError) {
        let reason = describe(error);
        tracing::debug!(?peer, %reason, "a dial failed");
        if let Some(target) = self.dialling.targets.remove(&id) {
            match error {
                DialError::LocalPeerId { .. } => self.redial.forget(&target),
                _ => self.redial.failed(&target, Instant::now(), jitter()),
            }
        }
        self.dialling.joined(id, |target| Err(failure(target, error)));
        let Some(peer) = peer.filter(|peer| self.dialling.is_wanted(peer) && !self.swarm.is_connected(peer)) else { return };
        // Where it was found is of no matter if it has refused this node itself, or this node it.
        if let Error::Refused { code, reason, .. } = failure(peer.to_string(), error)
            && refuser(error).is_none_or(|refuser| identity::node_of(&peer) == Some(refuser))
        {
            let refused = || Error::Refused { target: peer.to_string(), code, reason: reason.clone() };
            self.dialling.failed(&peer, refused);
            return;
        }
        if self.dialling.may_look_up(&peer) {
            self.look_up(peer);
        } else {
            self.dialling.unreachable(&peer, &reason);
        }
    }
}

/// The node at the other end of a failed dial whose admission failed.
fn refuser(error: &DialError) -> Option<NodeId> {
    refusal(error).map(|refused| refused.peer)
}

fn refusal(error: &DialError) -> Option<&Refused> {
    let DialError::Transport(attempts) = error else { return None };
    attempts.iter().find_map(|(_, error)| match error {
        TransportError::Other(error) => Refused::within(error),
        TransportError::MultiaddrNotSupported(_) => None,
    })
}

/// A failed dial, for whoever asked for it.
fn failure(target: String, error: &DialError) -> Error {
    if let DialError::Denied { cause } = error
        && let Some(Shunned(refusal)) = cause.source().and_then(|cause| cause.downcast_ref())
    {
        return refused(target, refusal.clone());
    }
    match refusal(error) {
        Some(refused) if refused.enrolled => Error::Enrolled { target },
        Some(refused) => Error::Refused { target, code: refused.refusal.code, reason: refused.to_string() },
        None => Error::Unreachable { target, reason: describe(error) },
    }
}

fn refused(target: String, refusal: Refusal) -> Error {
    Error::Refused { target, code: refusal.code, reason: refusal.detail }
}

/// Why a dial failed, in one line, each cause once.
fn describe(error: &DialError) -> String {
    match error {
        DialError::Transport(attempts) => {
            let attempts = attempts.iter().map(|(address, error)| match error {
                TransportError::MultiaddrNotSupported(_) => format!("{address}: no transport knows it"),
                TransportError::Other(error) => format!("{address}: {}", chain(error)),
            });
            attempts.collect::<Vec<_>>().join("; ")
        }
        DialError::LocalPeerId { .. } => "it is this node's own address".into(),
        DialError::WrongPeerId { obtained, .. } => format!("{obtained} answered there"),
        DialError::Denied { cause } => cause.source().map_or_else(|| cause.to_string(), ToString::to_string),
        DialError::NoAddresses | DialError::DialPeerConditionFalse(_) | DialError::Aborted => error.to_string(),
    }
}

fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let deeper = cause.to_string();
        if deeper.contains(&text) {
            // It says the same and more.
            text = deeper;
        } else if !text.contains(&deeper) {
            text = format!("{text}: {deeper}");
        }
        source = cause.source();
    }
    text
}
