//! What one host may take of the handshakes under way: a share, so that whoever opens connections and says nothing keeps out
//! those alone that share its address.

use std::{
    collections::HashMap,
    net::IpAddr,
    task::{Context, Poll},
};

use libp2p::{
    Multiaddr, PeerId,
    core::{Endpoint, transport::PortUse},
    multiaddr::Protocol,
    swarm::{
        ConnectionDenied, ConnectionId, FromSwarm, ListenFailure, NetworkBehaviour, THandler, THandlerInEvent, THandlerOutEvent, ToSwarm,
        behaviour::ConnectionEstablished, dummy,
    },
};

use crate::{address, limits::MAX_PENDING_PER_HOST};

/// Why a connection isn't taken.
#[derive(Debug, thiserror::Error)]
#[error("{MAX_PENDING_PER_HOST} handshakes with {0} are under way")]
pub(crate) struct Crowd(IpAddr);

/// See the module. Holds no more than the handshakes that may be under way in all.
#[derive(Debug, Default)]
pub(crate) struct Behaviour {
    pending: HashMap<ConnectionId, IpAddr>,
}

impl Behaviour {
    fn enter(&mut self, id: ConnectionId, remote: &Multiaddr) -> Result<(), Crowd> {
        // Who comes over a relay shows no address of its own; the relay has limits of its own.
        let Some(host) = host(remote) else { return Ok(()) };
        if self.pending.values().filter(|known| **known == host).count() >= MAX_PENDING_PER_HOST as usize {
            return Err(Crowd(host));
        }
        self.pending.insert(id, host);
        Ok(())
    }
}

/// Who has an address: a host, or in IPv6 the network that is one customer's.
fn host(remote: &Multiaddr) -> Option<IpAddr> {
    if address::relayed(remote) {
        return None;
    }
    match remote.iter().next()? {
        Protocol::Ip4(ip) => Some(ip.into()),
        Protocol::Ip6(ip) => {
            let [a, b, c, d, ..] = ip.segments();
            Some(IpAddr::from([a, b, c, d, 0, 0, 0, 0]))
        }
        _ => None,
    }
}

impl NetworkBehaviour for Behaviour {
    type ConnectionHandler = dummy::ConnectionHandler;
    type ToSwarm = std::convert::Infallible;

    fn handle_pending_inbound_connection(&mut self, id: ConnectionId, _: &Multiaddr, remote: &Multiaddr) -> Result<(), ConnectionDenied> {
        self.enter(id, remote).map_err(ConnectionDenied::new)
    }

    fn handle_established_inbound_connection(
        &mut self,
        _: ConnectionId,
        _: PeerId,
        _: &Multiaddr,
        _: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(dummy::ConnectionHandler)
    }

    fn handle_established_outbound_connection(
        &mut self,
        _: ConnectionId,
        _: PeerId,
        _: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(dummy::ConnectionHandler)
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        if let FromSwarm::ConnectionEstablished(ConnectionEstablished { connection_id, .. })
        | FromSwarm::ListenFailure(ListenFailure { connection_id, .. }) = event
        {
            self.pending.remove(&connection_id);
        }
    }

    fn on_connection_handler_event(&mut self, _: PeerId, _: ConnectionId, event: THandlerOutEvent<Self>) {
        match event {}
    }

    fn poll(&mut self, _: &mut Context<'_>) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_has_its_share_and_leaves_the_rest_to_others() {
        let mut crowd = Behaviour::default();
        let mut next = 0;
        let mut enter = |crowd: &mut Behaviour, text: &str| {
            next += 1;
            let id = ConnectionId::new_unchecked(next);
            crowd.enter(id, &text.parse().expect("an address")).map(|()| id)
        };
        let loud: Vec<ConnectionId> =
            (1..=MAX_PENDING_PER_HOST).map(|port| enter(&mut crowd, &format!("/ip4/192.0.2.1/tcp/{port}")).expect("its share")).collect();
        assert!(enter(&mut crowd, "/ip4/192.0.2.1/udp/9/quic-v1").is_err(), "whatever the transport");
        enter(&mut crowd, "/ip4/192.0.2.2/tcp/1").expect("another host");
        enter(&mut crowd, "/ip4/192.0.2.1/tcp/1/p2p-circuit").expect("over a relay");
        crowd.pending.remove(&loud[0]);
        enter(&mut crowd, "/ip4/192.0.2.1/tcp/1").expect("a place that is free again");
        for port in 1..=MAX_PENDING_PER_HOST {
            enter(&mut crowd, &format!("/ip6/2001:db8::{port:x}/tcp/1")).expect("its share");
        }
        assert!(enter(&mut crowd, "/ip6/2001:db8::ffff:1/tcp/1").is_err(), "the same customer's network");
        enter(&mut crowd, "/ip6/2001:db8:0:1::1/tcp/1").expect("another's");
    }
}
