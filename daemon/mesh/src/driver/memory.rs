//! Remembering peers over a restart, so that a node finds back when every entry node is down.

use std::time::Duration;

use protocol::NodeId;
use tokio::time::Instant;

use super::Driver;
use crate::{
    identity,
    papers::{KnownPeer, MAX_PEERS, Papers},
};

/// New peers are written down together, and not at every coming and going.
const SETTLE: Duration = Duration::from_secs(3);
/// What entry nodes bring comes first; peers of an earlier run are dialled after this time.
const HEAD_START: Duration = Duration::from_secs(2);

impl Driver {
    /// Peers of an earlier run are dialled, if there are too few others.
    pub(super) fn recall(&mut self, papers: Option<&Papers>) {
        let due = Instant::now() + HEAD_START;
        for KnownPeer { node, addresses } in papers.map(Papers::peers).unwrap_or_default() {
            let peer = identity::peer_of(node);
            let addresses = addresses.iter().filter_map(|text| text.parse().ok()).filter(|address| self.permitted.by_anyone(address));
            self.book.add(peer, addresses.collect::<Vec<_>>());
            self.redial.remembered(peer, due);
        }
    }

    /// A peer is new: it will be written down.
    pub(super) fn remember_soon(&mut self) {
        self.remember_at.get_or_insert(Instant::now() + SETTLE);
    }

    pub(super) fn on_memory_tick(&mut self, now: Instant) {
        if self.remember_at.is_none_or(|due| due > now) {
            return;
        }
        self.remember_at = None;
        let Some(papers) = self.papers.clone() else { return };
        let peers = self.known_peers();
        // Nobody waits for it, and the next time makes a failure good.
        tokio::task::spawn_blocking(move || {
            if let Err(problem) = papers.keep_peers(&peers) {
                tracing::warn!(%problem, "the peers are not kept for the next start");
            }
        });
    }

    /// Connected peers first, then those of before: a node that was alone for a while forgets nobody.
    fn known_peers(&self) -> Vec<KnownPeer> {
        let connected = self.shared.peers.list().into_iter().map(|peer| peer.node_id);
        let mut peers: Vec<KnownPeer> = connected.filter_map(|node| self.known(node)).collect();
        for peer in self.book.peers() {
            if let Some(known) = identity::node_of(&peer).and_then(|node| self.known(node))
                && !peers.contains(&known)
            {
                peers.push(known);
            }
        }
        peers.truncate(MAX_PEERS);
        peers
    }

    fn known(&self, node: NodeId) -> Option<KnownPeer> {
        let addresses: Vec<String> = self.book.get(&identity::peer_of(node)).iter().map(ToString::to_string).collect();
        (!addresses.is_empty()).then_some(KnownPeer { node, addresses })
    }
}
