//! Kademlia: look-ups end here, and what others ask us to keep is judged here.

use std::{collections::HashSet, sync::atomic::Ordering, time::Duration};

use libp2p::{
    Multiaddr, PeerId,
    kad::{
        BootstrapOk, Event, GetClosestPeersError, GetClosestPeersOk, GetProvidersOk, InboundRequest, ProviderRecord, QueryId, QueryResult,
        RecordKey, store::RecordStore as _,
    },
};
use protocol::NodeId;
use tokio::{sync::mpsc, time::Instant};

use super::Driver;
use crate::{bans::Offence, diversity::Network, error::Error, identity, limits::Met};

/// Peers that join together are told of provider keys once, not one by one.
const SETTLE: Duration = Duration::from_secs(1);
/// A node that has just started leaves far buckets to fill by themselves.
const YOUTH: Duration = Duration::from_secs(5 * 60);
/// With this many peers in the routing table a new one is rarely among the closest to a key: republishing is enough.
const SMALL_TABLE: usize = 20;
/// Addresses that a provider's record may carry.
const MAX_ADDRESSES: usize = 8;

/// What a query of ours is for.
pub(super) enum Lookup {
    /// Providers of a key, for a caller.
    Providers(mpsc::Sender<Result<Vec<NodeId>, Error>>),
    /// The addresses of a peer that somebody wants to reach.
    Peer(PeerId),
    /// A provider key is being told.
    Telling,
}

impl Driver {
    pub(super) fn on_kad(&mut self, event: Event) {
        match event {
            Event::OutboundQueryProgressed { id, result, step, stats } => {
                if step.last && matches!(self.lookups.get(&id), Some(Lookup::Providers(_))) {
                    self.shared.lookups.0.fetch_add(1, Ordering::Relaxed);
                    self.shared.lookups.1.fetch_add(stats.num_requests().into(), Ordering::Relaxed);
                }
                self.on_bootstrap(id, &result);
                self.on_progress(id, result, step.last);
            }
            Event::InboundRequest { request: InboundRequest::AddProvider { record: Some(record) } } => self.on_provider_record(record),
            Event::RoutingUpdated { is_new_peer: true, .. } => self.on_new_peer(),
            Event::ModeChanged { new_mode } => tracing::info!(mode = %new_mode, "Kademlia's mode has changed"),
            // Values aren't accepted, and peers are entered by what identify tells.
            Event::InboundRequest { .. }
            | Event::RoutingUpdated { .. }
            | Event::UnroutablePeer { .. }
            | Event::RoutablePeer { .. }
            | Event::PendingRoutablePeer { .. } => {}
        }
    }

    /// Kademlia looks through every bucket as soon as it has met a peer. With hundreds of nodes that has each new one meet
    /// all others, just when many come at once; a table with some peers in it will do for the start.
    fn on_bootstrap(&mut self, id: QueryId, result: &QueryResult) {
        let QueryResult::Bootstrap(Ok(BootstrapOk { num_remaining: 1.., .. })) = result else { return };
        let kad = &mut self.swarm.behaviour_mut().kad;
        let known: usize = kad.kbuckets().map(|bucket| bucket.num_entries()).sum();
        if known >= SMALL_TABLE
            && self.begun.elapsed() < YOUTH
            && let Some(mut query) = kad.query_mut(&id)
        {
            query.finish();
        }
    }

    fn on_progress(&mut self, id: QueryId, result: QueryResult, last: bool) {
        if let (QueryResult::GetProviders(Ok(GetProvidersOk::FoundProviders { providers, .. })), Some(Lookup::Providers(found))) =
            (&result, self.lookups.get(&id))
        {
            let nodes = providers.iter().filter_map(identity::node_of).filter(|node| *node != self.shared.node).collect();
            // Full means that the caller has more than enough, closed that it left.
            if found.try_send(Ok(nodes)).is_err()
                && let Some(mut query) = self.swarm.behaviour_mut().kad.query_mut(&id)
            {
                query.finish();
            }
        }
        if !last {
            return;
        }
        match (self.lookups.remove(&id), result) {
            (
                Some(Lookup::Peer(peer)),
                QueryResult::GetClosestPeers(Ok(GetClosestPeersOk { peers, .. }) | Err(GetClosestPeersError::Timeout { peers, .. })),
            ) => {
                let found = peers.into_iter().find(|found| found.peer_id == peer);
                self.on_looked_up(peer, found.map(|found| found.addrs).unwrap_or_default());
            }
            (Some(Lookup::Telling), _) => {
                self.providing.told();
                self.tell_provided();
            }
            // Dropping the sender tells the caller that the look-up is over.
            (Some(Lookup::Providers(_) | Lookup::Peer(_)) | None, _) => {}
        }
    }

    /// Asks the mesh where `peer` is.
    pub(super) fn look_up(&mut self, peer: PeerId) {
        let query = self.swarm.behaviour_mut().kad.get_closest_peers(peer);
        self.lookups.insert(query, Lookup::Peer(peer));
    }

    fn on_looked_up(&mut self, peer: PeerId, addresses: Vec<Multiaddr>) {
        if self.swarm.is_connected(&peer) {
            // The look-up itself has met it.
            return;
        }
        self.book.add(peer, addresses.into_iter().filter(|address| self.permitted.by_anyone(address)));
        self.reach(peer);
    }

    /// Tells the mesh of the provider keys that wait, a few at a time.
    pub(super) fn tell_provided(&mut self) {
        while let Some(key) = self.providing.next() {
            match self.swarm.behaviour_mut().kad.start_providing(RecordKey::new(&key)) {
                Ok(query) => {
                    self.lookups.insert(query, Lookup::Telling);
                }
                Err(error) => {
                    tracing::warn!(%error, "a provider key can't be kept");
                    self.providing.told();
                }
            }
        }
    }

    fn on_provider_record(&mut self, mut record: ProviderRecord) {
        if record.key.as_ref().len() != 32 || identity::node_of(&record.provider).is_none() {
            tracing::debug!(provider = %record.provider, "a provider record is refused: its key isn't a SHA-256");
            if let Some(node) = identity::node_of(&record.provider) {
                // libp2p accepts records only from the provider itself.
                self.membership.offend(node, Offence::PoisonedRecord);
            }
            return;
        }
        record.addresses.retain(|address| self.permitted.by_anyone(address));
        record.addresses.truncate(MAX_ADDRESSES);
        if let Err(error) = self.swarm.behaviour_mut().kad.store_mut().add_provider(record) {
            tracing::debug!(%error, "a provider record isn't kept");
            self.membership.counters().met(Met::Records);
        }
    }

    /// Whether the routing table has room for `peer`, which is connected from `address`.
    pub(super) fn has_room(&mut self, peer: PeerId, address: &Multiaddr) -> bool {
        // A LAN is one network.
        let Some(network) = Network::of(address).filter(|_| !self.private) else { return true };
        let kad = &mut self.swarm.behaviour_mut().kad;
        if self.networks.is_full() {
            let table: HashSet<PeerId> =
                kad.kbuckets().flat_map(|bucket| bucket.iter().map(|entry| *entry.node.key.preimage()).collect::<Vec<_>>()).collect();
            self.networks.keep(|peer| table.contains(peer));
        }
        let bucket = kad.kbucket(peer);
        let present: Vec<PeerId> = bucket.map(|bucket| bucket.iter().map(|entry| *entry.node.key.preimage()).collect()).unwrap_or_default();
        let admitted = self.networks.admit(peer, network, &present);
        if !admitted {
            tracing::debug!(%peer, ?network, "the routing table has enough peers of this network");
        }
        admitted
    }

    fn on_new_peer(&mut self) {
        let kad = &mut self.swarm.behaviour_mut().kad;
        let known: usize = kad.kbuckets().map(|bucket| bucket.num_entries()).sum();
        if known == 1 {
            // The first peer: ask it for those around us. Other buckets fill as this node looks up and is met; to look
            // through them all at once would have every new node meet the whole of a mesh of hundreds.
            let own = self.swarm.local_peer_id().to_owned();
            self.swarm.behaviour_mut().kad.get_closest_peers(own);
        }
        if known <= SMALL_TABLE {
            self.repeat_at.get_or_insert(Instant::now() + SETTLE);
        }
    }
}
