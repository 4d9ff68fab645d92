//! Ping: measures round trips, and finds the connections that are dead without having closed. Without this a QUIC
//! connection over a cut link would stay until its idle time-out, and nothing would dial the peer again.

use libp2p::ping::{Event, Failure};

use super::Driver;
use crate::identity;

impl Driver {
    pub(super) fn on_ping(&mut self, Event { peer, connection, result }: Event) {
        let Some(node) = identity::node_of(&peer) else { return };
        match result {
            Ok(rtt) => self.shared.peers.measured(node, rtt),
            Err(Failure::Unsupported) => {}
            Err(failure @ (Failure::Timeout | Failure::Other { .. })) => {
                tracing::debug!(%peer, %failure, "a peer doesn't answer pings: closing the connection");
                self.close_connection(connection);
            }
        }
    }
}
