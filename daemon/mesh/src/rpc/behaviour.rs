//! The swarm's part of RPC: opens and accepts streams, and hands them out.

use std::{
    collections::VecDeque,
    task::{Context, Poll, Waker},
};

use libp2p::{
    Multiaddr, PeerId, Stream, StreamProtocol,
    core::{Endpoint, transport::PortUse},
    swarm::{ConnectionDenied, ConnectionId, FromSwarm, NetworkBehaviour, NotifyHandler, THandlerInEvent, ToSwarm},
};
use tokio::sync::OwnedSemaphorePermit;

use super::connection::{Connection, Order};

/// What became of a stream.
#[derive(Debug)]
pub(crate) struct Event {
    pub(crate) peer: PeerId,
    pub(crate) connection: ConnectionId,
    pub(crate) stage: Stage,
}

/// What an outbound stream is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// Every request to the peer.
    Requests,
    /// One transfer.
    Transfer,
}

/// See [`Event`].
#[derive(Debug)]
pub(crate) enum Stage {
    /// The stream that [`Behaviour::open`] or [`Behaviour::open_apart`] asked for.
    Opened(Stream, Purpose),
    /// It can't be opened.
    Failed(String, Purpose),
    /// The peer opened more streams than it may.
    Flooded,
    /// The peer opened a stream; its place among the connection's inbound streams.
    Accepted(Stream, OwnedSemaphorePermit),
}

/// Streams of the RPC protocol.
pub(crate) struct Behaviour {
    protocol: StreamProtocol,
    /// Drained at each poll: an order is made by an event or a command, so it is as bounded as they are.
    actions: VecDeque<ToSwarm<Event, Order>>,
    waker: Option<Waker>,
}

impl Behaviour {
    pub(crate) fn new(protocol: StreamProtocol) -> Self {
        Self { protocol, actions: VecDeque::new(), waker: None }
    }

    /// Opens the outbound stream for requests on `connection`, unless it is being opened.
    pub(crate) fn open(&mut self, peer: PeerId, connection: ConnectionId) {
        self.order(peer, connection, Order::Open);
    }

    /// Opens a further outbound stream on `connection`, for one transfer.
    pub(crate) fn open_apart(&mut self, peer: PeerId, connection: ConnectionId) {
        self.order(peer, connection, Order::Apart);
    }

    /// Keeps `connection` alive also while it isn't used.
    pub(crate) fn hold(&mut self, peer: PeerId, connection: ConnectionId) {
        self.order(peer, connection, Order::Hold);
    }

    fn order(&mut self, peer_id: PeerId, connection: ConnectionId, event: Order) {
        self.push(ToSwarm::NotifyHandler { peer_id, handler: NotifyHandler::One(connection), event });
    }

    fn push(&mut self, action: ToSwarm<Event, Order>) {
        self.actions.push_back(action);
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

impl NetworkBehaviour for Behaviour {
    type ConnectionHandler = Connection;
    type ToSwarm = Event;

    fn handle_established_inbound_connection(
        &mut self,
        _: ConnectionId,
        _: PeerId,
        _: &Multiaddr,
        _: &Multiaddr,
    ) -> Result<Connection, ConnectionDenied> {
        Ok(Connection::new(self.protocol.clone()))
    }

    fn handle_established_outbound_connection(
        &mut self,
        _: ConnectionId,
        _: PeerId,
        _: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<Connection, ConnectionDenied> {
        Ok(Connection::new(self.protocol.clone()))
    }

    fn on_swarm_event(&mut self, _: FromSwarm<'_>) {}

    fn on_connection_handler_event(&mut self, peer: PeerId, connection: ConnectionId, stage: Stage) {
        self.push(ToSwarm::GenerateEvent(Event { peer, connection, stage }));
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<ToSwarm<Event, THandlerInEvent<Self>>> {
        match self.actions.pop_front() {
            Some(action) => Poll::Ready(action),
            None => {
                self.waker = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }
}
