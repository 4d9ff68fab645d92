//! RPC: streams are handed to tasks of their own.

use crate::{
    bans::Offence,
    identity,
    limits::Met,
    rpc::{Event, Serving, Session, Stage, serve},
};

use super::Driver;

impl Driver {
    pub(super) fn on_rpc(&mut self, Event { peer, connection, stage }: Event) {
        let Some(node) = identity::node_of(&peer) else { return };
        match stage {
            Stage::Opened(stream) => {
                let Some(carrier) = self.shared.peers.connection(node, connection) else { return };
                if self.shared.peers.session(node).is_some_and(|session| session.connection == connection) {
                    // Asked for twice; the peer has few places for streams.
                    return;
                }
                let (session, writing) = Session::new(connection, carrier.transport);
                self.streams.spawn(writing.run(session.clone(), stream, self.token.clone()));
                self.shared.peers.add_session(node, session);
                self.dialling.connected(&peer);
            }
            Stage::Accepted(stream, place) => {
                let serving = Serving {
                    peer: node,
                    handler: self.handler.clone(),
                    places: self.shared.peers.places(node),
                    membership: self.membership.clone(),
                };
                let token = self.token.clone();
                self.streams.spawn(async move {
                    serve(serving, stream, token).await;
                    drop(place);
                });
            }
            Stage::Flooded => {
                self.membership.counters().met(Met::Streams);
                self.membership.offend(node, Offence::StreamFlood);
            }
            Stage::Failed(reason) => {
                tracing::debug!(%node, %reason, "no stream for requests can be opened");
                self.dialling.unreachable(&peer, &format!("no stream for requests can be opened: {reason}"));
            }
        }
    }
}
