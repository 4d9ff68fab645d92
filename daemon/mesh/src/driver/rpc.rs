//! RPC: streams are handed to tasks of their own.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

use libp2p::swarm::ConnectionId;
use protocol::NodeId;
use tokio::sync::oneshot;

use crate::{
    bans::Offence,
    error::Error,
    identity,
    limits::Met,
    rpc::{Event, Purpose, Serving, Session, Stage, serve},
};

use super::Driver;

/// Callers that wait for a stream of their own, by the connection that it is opened on.
#[derive(Default)]
pub(super) struct Transfers(HashMap<ConnectionId, VecDeque<Reply>>);

type Reply = oneshot::Sender<Result<Arc<Session>, Error>>;

impl Transfers {
    /// Whether somebody waits for it still.
    fn opened(&mut self, connection: ConnectionId, session: Arc<Session>) -> bool {
        self.next(connection).is_some_and(|reply| reply.send(Ok(session)).is_ok())
    }

    fn failed(&mut self, connection: ConnectionId, reason: &str) {
        if let Some(reply) = self.next(connection) {
            let reason = format!("no stream can be opened: {reason}");
            // A caller that left needs no answer.
            let _ = reply.send(Err(Error::Unreachable { target: "the peer".into(), reason }));
        }
    }

    fn next(&mut self, connection: ConnectionId) -> Option<Reply> {
        let waiting = self.0.get_mut(&connection)?;
        let reply = waiting.pop_front();
        if waiting.is_empty() {
            self.0.remove(&connection);
        }
        reply
    }

    /// The connection is closed: whoever waits hears so, as its end of the channel is dropped.
    pub(super) fn closed(&mut self, connection: ConnectionId) {
        self.0.remove(&connection);
    }
}

impl Driver {
    /// Opens a stream for one transfer, over the connection of the session with `node` that the caller has made sure of.
    pub(super) fn on_open_apart(&mut self, node: NodeId, reply: Reply) {
        let Some(connection) = self.shared.peers.best(node) else {
            // A caller that left needs no answer.
            let _ = reply.send(Err(Error::Unreachable { target: node.to_string(), reason: "the connection was lost".into() }));
            return;
        };
        self.transfers.0.entry(connection.id).or_default().push_back(reply);
        self.swarm.behaviour_mut().rpc.open_apart(identity::peer_of(node), connection.id);
    }

    pub(super) fn on_rpc(&mut self, Event { peer, connection, stage }: Event) {
        let Some(node) = identity::node_of(&peer) else { return };
        match stage {
            Stage::Opened(stream, purpose) => {
                let Some(carrier) = self.shared.peers.connection(node, connection) else { return };
                if purpose == Purpose::Transfer {
                    let (session, writing) = Session::new(connection, carrier.transport);
                    if self.transfers.opened(connection, session.clone()) {
                        self.streams.spawn(writing.run(session, stream, self.token.clone()));
                    }
                    return;
                }
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
                    room: self.shared.peers.room(node),
                    membership: self.membership.clone(),
                };
                let token = self.token.clone();
                self.streams.spawn(async move {
                    serve(serving, stream, token).await;
                    drop(place);
                    None
                });
            }
            Stage::Flooded => {
                self.membership.counters().met(Met::Streams);
                self.membership.offend(node, Offence::StreamFlood);
            }
            Stage::Failed(reason, Purpose::Transfer) => self.transfers.failed(connection, &reason),
            Stage::Failed(reason, Purpose::Requests) => {
                tracing::debug!(%node, %reason, "no stream for requests can be opened");
                self.dialling.unreachable(&peer, &format!("no stream for requests can be opened: {reason}"));
            }
        }
    }
}
