//! Where a connection is admitted before the swarm sees it.
//!
//! Every transport ends here with an authenticated peer and its muxer. Whatever decides who may connect belongs into
//! [`decide`]: it may exchange what it needs on the connection's first substream, and a refusal reaches the dialler as
//! the reason why the dial failed. So far the mesh is open: a peer is admitted if its key is one that a node can have.

use std::{io, time::Duration};

use libp2p::{
    PeerId, Transport as _,
    core::{
        muxing::StreamMuxerBox,
        transport::{Boxed, timeout::TransportTimeout},
    },
};

use crate::{identity, transport::Connection};

/// For connecting, all handshakes and admission together: enough for three round trips over a satellite with retries.
const SETUP: Duration = Duration::from_secs(10);

/// Lets only admitted connections through `transport`, within [`SETUP`].
pub(crate) fn admit(transport: Boxed<Connection>) -> Boxed<Connection> {
    let admitted = transport.and_then(|(peer, muxer), _| decide(peer, muxer));
    TransportTimeout::new(admitted, SETUP).boxed()
}

/// Admits or refuses.
#[expect(clippy::unused_async, reason = "admission talks to the peer before it decides")]
async fn decide(peer: PeerId, muxer: StreamMuxerBox) -> io::Result<Connection> {
    match identity::node_of(&peer) {
        Some(_) => Ok((peer, muxer)),
        None => Err(io::Error::new(io::ErrorKind::PermissionDenied, format!("{peer} is not the id of a node: its key isn't Ed25519"))),
    }
}
