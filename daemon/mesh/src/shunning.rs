//! Whom this node doesn't dial, whichever protocol asks for it: peers that are banned, or that the operator sent away.

use std::{
    collections::HashSet,
    sync::Arc,
    task::{Context, Poll},
};

use libp2p::{
    Multiaddr, PeerId,
    core::{Endpoint, transport::PortUse},
    swarm::{ConnectionDenied, ConnectionId, FromSwarm, NetworkBehaviour, THandler, THandlerInEvent, THandlerOutEvent, ToSwarm, dummy},
};
use protocol::{Code, Timestamp, admission::Refusal};

use crate::{identity, membership::Membership};

/// Peers that an operator keeps away: more than anybody sends away by hand.
const MAX_UNWANTED: usize = 1_024;

/// Why a peer isn't dialled.
#[derive(Debug, thiserror::Error)]
#[error("{}", .0.detail)]
pub(crate) struct Shunned(pub(crate) Refusal);

/// See the module.
pub(crate) struct Behaviour {
    membership: Arc<Membership>,
    unwanted: HashSet<PeerId>,
}

impl Behaviour {
    pub(crate) fn new(membership: Arc<Membership>) -> Self {
        Self { membership, unwanted: HashSet::new() }
    }

    /// The operator sends `peer` away.
    pub(crate) fn shun(&mut self, peer: PeerId) {
        if self.unwanted.len() < MAX_UNWANTED {
            self.unwanted.insert(peer);
        }
    }

    /// The operator wants `peer` again.
    pub(crate) fn welcome(&mut self, peer: &PeerId) {
        self.unwanted.remove(peer);
    }

    /// Whether `peer` may be dialled.
    pub(crate) fn check(&self, peer: &PeerId) -> Result<(), Shunned> {
        if self.unwanted.contains(peer) {
            let detail = "this node's operator has disconnected it; 'mcpctl peers connect' takes that back".into();
            return Err(Shunned(Refusal { code: Code::Unreachable, detail }));
        }
        let node = identity::node_of(peer);
        node.map_or(Ok(()), |node| self.membership.check_ban(node, Timestamp::now()).map_err(Shunned))
    }
}

impl NetworkBehaviour for Behaviour {
    type ConnectionHandler = dummy::ConnectionHandler;
    type ToSwarm = std::convert::Infallible;

    fn handle_pending_outbound_connection(
        &mut self,
        _: ConnectionId,
        peer: Option<PeerId>,
        _: &[Multiaddr],
        _: Endpoint,
    ) -> Result<Vec<Multiaddr>, ConnectionDenied> {
        peer.map_or(Ok(()), |peer| self.check(&peer)).map_err(ConnectionDenied::new)?;
        Ok(Vec::new())
    }

    fn handle_established_inbound_connection(
        &mut self,
        _: ConnectionId,
        _: PeerId,
        _: &Multiaddr,
        _: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        // Who may come in was judged by admission.
        Ok(dummy::ConnectionHandler)
    }

    fn handle_established_outbound_connection(
        &mut self,
        _: ConnectionId,
        peer: PeerId,
        _: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        // An address without a name may lead to it too, and it may have been sent away while it was dialled.
        self.check(&peer).map_err(ConnectionDenied::new)?;
        Ok(dummy::ConnectionHandler)
    }

    fn on_swarm_event(&mut self, _: FromSwarm<'_>) {}

    fn on_connection_handler_event(&mut self, _: PeerId, _: ConnectionId, event: THandlerOutEvent<Self>) {
        match event {}
    }

    fn poll(&mut self, _: &mut Context<'_>) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        Poll::Pending
    }
}
