//! One connection's part of RPC: negotiates its streams.

use std::{
    collections::VecDeque,
    sync::Arc,
    task::{Context, Poll},
};

use libp2p::{
    StreamProtocol,
    core::upgrade::ReadyUpgrade,
    swarm::{
        ConnectionHandler, ConnectionHandlerEvent, SubstreamProtocol,
        handler::{ConnectionEvent, DialUpgradeError, FullyNegotiatedInbound, FullyNegotiatedOutbound},
    },
};
use tokio::sync::Semaphore;

use super::behaviour::{Purpose, Stage};
use crate::limits::MAX_RPC_STREAMS;

/// What the behaviour tells a connection.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Order {
    /// Open the outbound stream for requests, unless it is being opened.
    Open,
    /// Open a stream for one transfer.
    Apart,
    /// Stay alive also while unused.
    Hold,
}

/// See the module.
pub(crate) struct Connection {
    protocol: StreamProtocol,
    /// The stream for requests is to be opened, or is being opened.
    wanted: bool,
    opening: bool,
    /// Streams for transfers that are to be opened.
    apart: usize,
    held: bool,
    inbound: Arc<Semaphore>,
    /// As many as there are orders, and `MAX_RPC_STREAMS` inbound streams.
    done: VecDeque<Stage>,
}

impl Connection {
    /// A stream too many; told once until the driver has heard of it, so that a flood costs nothing.
    fn refused(&mut self) {
        if !self.done.iter().any(|stage| matches!(stage, Stage::Flooded)) {
            self.done.push_back(Stage::Flooded);
        }
    }

    fn request(&self, purpose: Purpose) -> ConnectionHandlerEvent<Upgrade, Purpose, Stage> {
        let protocol = SubstreamProtocol::new(ReadyUpgrade::new(self.protocol.clone()), purpose);
        ConnectionHandlerEvent::OutboundSubstreamRequest { protocol }
    }

    pub(super) fn new(protocol: StreamProtocol) -> Self {
        let inbound = Arc::new(Semaphore::new(MAX_RPC_STREAMS));
        Self { protocol, wanted: false, opening: false, apart: 0, held: false, inbound, done: VecDeque::new() }
    }
}

type Upgrade = ReadyUpgrade<StreamProtocol>;

impl ConnectionHandler for Connection {
    type FromBehaviour = Order;
    type ToBehaviour = Stage;
    type InboundProtocol = Upgrade;
    type OutboundProtocol = Upgrade;
    type InboundOpenInfo = ();
    type OutboundOpenInfo = Purpose;

    fn listen_protocol(&self) -> SubstreamProtocol<Upgrade> {
        SubstreamProtocol::new(ReadyUpgrade::new(self.protocol.clone()), ())
    }

    fn connection_keep_alive(&self) -> bool {
        self.held
    }

    fn poll(&mut self, _: &mut Context<'_>) -> Poll<ConnectionHandlerEvent<Upgrade, Purpose, Stage>> {
        if let Some(stage) = self.done.pop_front() {
            return Poll::Ready(ConnectionHandlerEvent::NotifyBehaviour(stage));
        }
        if std::mem::take(&mut self.wanted) && !self.opening {
            self.opening = true;
            return Poll::Ready(self.request(Purpose::Requests));
        }
        if self.apart > 0 {
            self.apart -= 1;
            return Poll::Ready(self.request(Purpose::Transfer));
        }
        // Woken by the swarm: nothing changes here but by its events and orders.
        Poll::Pending
    }

    fn on_behaviour_event(&mut self, order: Order) {
        match order {
            Order::Open => self.wanted = true,
            Order::Apart => self.apart += 1,
            Order::Hold => self.held = true,
        }
    }

    fn on_connection_event(&mut self, event: ConnectionEvent<'_, Upgrade, Upgrade, (), Purpose>) {
        match event {
            ConnectionEvent::FullyNegotiatedInbound(FullyNegotiatedInbound { protocol: stream, .. }) => {
                match self.inbound.clone().try_acquire_owned() {
                    Ok(place) => self.done.push_back(Stage::Accepted(stream, place)),
                    Err(_) => self.refused(),
                }
            }
            ConnectionEvent::FullyNegotiatedOutbound(FullyNegotiatedOutbound { protocol: stream, info }) => {
                self.opening &= info != Purpose::Requests;
                self.done.push_back(Stage::Opened(stream, info));
            }
            ConnectionEvent::DialUpgradeError(DialUpgradeError { error, info }) => {
                self.opening &= info != Purpose::Requests;
                self.done.push_back(Stage::Failed(error.to_string(), info));
            }
            // Inbound negotiation of a fixed name can't fail here, and neither addresses nor others' protocols matter.
            _ => {}
        }
    }
}
