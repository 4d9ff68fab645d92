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

use super::behaviour::Stage;
use crate::limits::MAX_RPC_STREAMS;

/// What the behaviour tells a connection.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Order {
    /// Open the outbound stream.
    Open,
    /// Stay alive also while unused.
    Hold,
}

/// See the module.
pub(crate) struct Connection {
    protocol: StreamProtocol,
    wanted: bool,
    opening: bool,
    held: bool,
    inbound: Arc<Semaphore>,
    /// At most one outbound and `MAX_RPC_STREAMS` inbound streams.
    done: VecDeque<Stage>,
}

impl Connection {
    /// A stream too many; told once until the driver has heard of it, so that a flood costs nothing.
    fn refused(&mut self) {
        if !self.done.iter().any(|stage| matches!(stage, Stage::Flooded)) {
            self.done.push_back(Stage::Flooded);
        }
    }

    pub(super) fn new(protocol: StreamProtocol) -> Self {
        let inbound = Arc::new(Semaphore::new(MAX_RPC_STREAMS));
        Self { protocol, wanted: false, opening: false, held: false, inbound, done: VecDeque::new() }
    }
}

type Upgrade = ReadyUpgrade<StreamProtocol>;

impl ConnectionHandler for Connection {
    type FromBehaviour = Order;
    type ToBehaviour = Stage;
    type InboundProtocol = Upgrade;
    type OutboundProtocol = Upgrade;
    type InboundOpenInfo = ();
    type OutboundOpenInfo = ();

    fn listen_protocol(&self) -> SubstreamProtocol<Upgrade> {
        SubstreamProtocol::new(ReadyUpgrade::new(self.protocol.clone()), ())
    }

    fn connection_keep_alive(&self) -> bool {
        self.held
    }

    fn poll(&mut self, _: &mut Context<'_>) -> Poll<ConnectionHandlerEvent<Upgrade, (), Stage>> {
        if let Some(stage) = self.done.pop_front() {
            return Poll::Ready(ConnectionHandlerEvent::NotifyBehaviour(stage));
        }
        if std::mem::take(&mut self.wanted) && !self.opening {
            self.opening = true;
            return Poll::Ready(ConnectionHandlerEvent::OutboundSubstreamRequest { protocol: self.listen_protocol() });
        }
        // Woken by the swarm: nothing changes here but by its events and orders.
        Poll::Pending
    }

    fn on_behaviour_event(&mut self, order: Order) {
        match order {
            Order::Open => self.wanted = true,
            Order::Hold => self.held = true,
        }
    }

    fn on_connection_event(&mut self, event: ConnectionEvent<'_, Upgrade, Upgrade>) {
        match event {
            ConnectionEvent::FullyNegotiatedInbound(FullyNegotiatedInbound { protocol: stream, .. }) => {
                match self.inbound.clone().try_acquire_owned() {
                    Ok(place) => self.done.push_back(Stage::Accepted(stream, place)),
                    Err(_) => self.refused(),
                }
            }
            ConnectionEvent::FullyNegotiatedOutbound(FullyNegotiatedOutbound { protocol: stream, .. }) => {
                self.opening = false;
                self.done.push_back(Stage::Opened(stream));
            }
            ConnectionEvent::DialUpgradeError(DialUpgradeError { error, .. }) => {
                self.opening = false;
                self.done.push_back(Stage::Failed(error.to_string()));
            }
            // Inbound negotiation of a fixed name can't fail here, and neither addresses nor others' protocols matter.
            _ => {}
        }
    }
}
