//! The private loop around the swarm: commands go in, events come out, one handler file for each behaviour.
//!
//! ```text
//! Command --> commands.rs --+                  +--> connections.rs  established, closed, failed dials, joins
//! time -----> on_tick ------+--> Swarm --event-+--> identify.rs, ping.rs, kad.rs, gossip.rs, rpc.rs
//! ```

mod commands;
mod connections;
mod gossip;
mod identify;
mod kad;
mod memory;
mod ping;
mod reach;
mod rpc;
mod start;

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use futures::StreamExt as _;
use libp2p::{
    Multiaddr, PeerId, StreamProtocol, Swarm,
    gossipsub::IdentTopic,
    kad::QueryId,
    swarm::{ConnectionId, SwarmEvent},
};
use parking_lot::RwLock;
use protocol::{NodeId, Timestamp, wire::Announcement};
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinSet,
    time::{self, Instant},
};
use tokio_util::sync::CancellationToken;

pub(crate) use self::{commands::MAX_LOOKUPS, start::start};
use self::{connections::Dialling, gossip::Rates, kad::Lookup, reach::Reach, rpc::Transfers};
use crate::{
    Handler, address,
    announcing::Announcing,
    behaviour::{Behaviour, BehaviourEvent},
    book::Book,
    diversity::Networks,
    error::Error,
    identity,
    limits::{InUse, Met},
    membership::Membership,
    papers::Papers,
    peers::Peers,
    providing::{ProviderKey, Providing},
    redial::{Redial, Target},
    reserving::Reserving,
    rpc::Session,
    transport::Permitted,
    trimming::{self, Candidate},
};

/// Streams are given this long to end at shutdown, and then connections as long.
const GRACE: Duration = Duration::from_secs(2);
/// How often peers are looked through: which connections nobody needs, who spreads what is forged.
const TRIM: Duration = Duration::from_secs(2);
/// The loop wakes at least this often.
const LONGEST_SLEEP: Duration = Duration::from_secs(3600);

/// What the handle asks of the driver.
pub(crate) enum Command {
    /// Dial `address` now and keep it as a bootstrap address.
    Join { address: Multiaddr, reply: oneshot::Sender<Result<NodeId, Error>> },
    /// Have a session with `node`.
    Connect { node: NodeId, reply: oneshot::Sender<Result<(), Error>> },
    /// Have a stream to `node`, which is connected, for one transfer.
    OpenApart { node: NodeId, reply: oneshot::Sender<Result<Arc<Session>, Error>> },
    /// `node` was disconnected, and may be dialled again.
    Welcome(NodeId),
    /// The full set of keys that this node provides.
    Provide(Vec<ProviderKey>),
    /// Look for providers; the sender is dropped when the look-up is over.
    Providers { key: ProviderKey, found: mpsc::Sender<Result<Vec<NodeId>, Error>> },
    /// Tell the mesh.
    Announce(Announcement),
    /// Where `node` says that it can be reached.
    Learn { node: NodeId, addresses: Vec<String> },
    /// Where `node` is known to be.
    Known { node: NodeId, reply: oneshot::Sender<Vec<String>> },
    /// What others may use of this node, and what they do.
    Limits(oneshot::Sender<Vec<protocol::api::Limit>>),
    /// End every connection with `node`, and don't dial it again by itself.
    Disconnect(NodeId),
    /// How this node can be reached.
    Netcheck(oneshot::Sender<protocol::api::Netcheck>),
    /// Close connections with those who are members no longer.
    Sweep,
}

/// What the handle reads and the driver keeps.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) node: NodeId,
    pub(crate) peers: Peers,
    pub(crate) listening: RwLock<Vec<Multiaddr>>,
    /// Addresses that are known to lead here from elsewhere.
    pub(crate) external: RwLock<Vec<Multiaddr>>,
    /// Look-ups of providers that have ended, and the requests that they took.
    pub(crate) lookups: (AtomicU64, AtomicU64),
    /// Cancelled when the driver has ended, however it did.
    pub(crate) stopped: CancellationToken,
}

/// See the module.
pub(crate) struct Driver {
    swarm: Swarm<Behaviour>,
    commands: mpsc::Receiver<Command>,
    shared: Arc<Shared>,
    handler: Arc<dyn Handler>,
    membership: Arc<Membership>,
    topic: IdentTopic,
    kad_protocol: StreamProtocol,
    permitted: Permitted,
    /// Addresses that the operator says lead here.
    announced: Vec<Multiaddr>,
    /// Private addresses are exchanged: everyone is taken to be reachable.
    private: bool,
    /// Kademlia is served whatever is known of this node's addresses.
    server: bool,
    reserving: Reserving,
    reach: Reach,
    /// Where peers are remembered, and when they are written down next.
    papers: Option<Papers>,
    remember_at: Option<Instant>,
    rates: Rates,
    /// When connections are looked through that nobody needs.
    trim_at: Instant,
    /// Whether others are told of loopback addresses: only where this node listens on nothing else.
    tell_loopback: bool,
    redial: Redial,
    book: Book,
    networks: Networks,
    dialling: Dialling,
    transfers: Transfers,
    lookups: HashMap<QueryId, Lookup>,
    providing: Providing,
    /// When provider keys are told again, because peers came that haven't heard of them.
    repeat_at: Option<Instant>,
    announcing: Announcing,
    /// The tasks that serve streams; each answers with its connection if that turned out to be dead.
    streams: JoinSet<Option<ConnectionId>>,
    begun: Instant,
    /// See `Config::peers`.
    wanted_peers: usize,
    /// See `Config`.
    max_memory: u64,
    token: CancellationToken,
}

impl Driver {
    /// Runs until the token is cancelled or every handle is dropped, then closes what is open.
    pub(crate) async fn run(mut self) {
        let _stopped = self.shared.stopped.clone().drop_guard();
        loop {
            let wake = self.next_wake();
            tokio::select! {
                () = self.token.cancelled() => break,
                command = self.commands.recv() => match command {
                    Some(command) => self.on_command(command),
                    None => break,
                },
                event = self.swarm.select_next_some() => self.on_event(event),
                Some(ended) = self.streams.join_next() => match ended {
                    Ok(None) => {}
                    Ok(Some(connection)) => {
                        tracing::debug!(%connection, "a peer doesn't answer calls, nor whether it is there: closing the connection");
                        self.close_connection(connection);
                    }
                    Err(error) => tracing::error!(%error, "a stream's task failed"),
                },
                () = time::sleep_until(wake) => self.on_tick(Instant::now()),
            }
        }
        Box::pin(self.close()).await;
    }

    fn next_wake(&self) -> Instant {
        let due = [
            self.redial.next(),
            self.announcing.next(),
            self.repeat_at,
            self.reserving.next(),
            self.reach.next(),
            self.remember_at,
            Some(self.trim_at),
        ];
        due.into_iter().flatten().min().unwrap_or_else(|| Instant::now() + LONGEST_SLEEP)
    }

    fn on_tick(&mut self, now: Instant) {
        self.on_reach_tick(now);
        self.on_memory_tick(now);
        if self.trim_at <= now {
            self.trim_at = now + TRIM;
            self.trim(now);
            self.judge_gossip();
        }
        for target in self.redial.due(now, self.shared.peers.len()) {
            match &target {
                Target::Address(address) => {
                    let address = address.clone();
                    if let Err(reason) = self.dial_address(target, address) {
                        tracing::debug!(%reason, "a bootstrap address can't be dialled");
                    }
                }
                Target::Peer(peer) => self.redial_peer(*peer),
            }
        }
        if let Some(announcement) = self.announcing.take(now, Timestamp::now(), jitter()) {
            self.publish(&announcement);
        }
        if self.repeat_at.is_some_and(|due| due <= now) {
            self.repeat_at = None;
            self.providing.repeat();
            self.tell_provided();
        }
    }

    fn on_event(&mut self, event: SwarmEvent<BehaviourEvent>) {
        match event {
            SwarmEvent::Behaviour(event) => match event {
                BehaviourEvent::Identify(event) => self.on_identify(event),
                BehaviourEvent::Ping(event) => self.on_ping(event),
                BehaviourEvent::Kad(event) => self.on_kad(event),
                BehaviourEvent::Gossip(event) => self.on_gossip(event),
                BehaviourEvent::Rpc(event) => self.on_rpc(event),
                BehaviourEvent::RelayClient(event) => self.on_relay_client(event),
                BehaviourEvent::RelayServer(event) => self.on_relay_server(&event),
                BehaviourEvent::HolePunch(event) => self.on_hole_punch(event),
                BehaviourEvent::AutonatClient(event) => self.on_tested(&event),
                BehaviourEvent::AutonatServer(event) => tracing::debug!(?event, "an address of a peer was tried"),
                BehaviourEvent::Upnp(event) => self.on_mapping(&event),
                BehaviourEvent::Mdns(event) => self.on_lan(event),
            },
            SwarmEvent::ConnectionEstablished { peer_id, connection_id, endpoint, .. } => {
                self.on_established(peer_id, connection_id, &endpoint);
            }
            SwarmEvent::ConnectionClosed { peer_id, connection_id, cause, .. } => {
                self.on_closed(peer_id, connection_id, cause.as_ref());
            }
            SwarmEvent::OutgoingConnectionError { connection_id, peer_id, error } => {
                self.on_dial_failed(connection_id, peer_id, &error);
            }
            SwarmEvent::NewListenAddr { address, .. } => self.on_listening(address),
            SwarmEvent::ExpiredListenAddr { address, .. } => self.on_not_listening(&address),
            SwarmEvent::ExternalAddrConfirmed { address } => self.on_confirmed(&address),
            SwarmEvent::ExternalAddrExpired { address } => self.on_external(&address, false),
            SwarmEvent::ListenerClosed { listener_id, addresses, reason, .. } => {
                tracing::debug!(?addresses, ?reason, "a listener is closed");
                self.on_listener_closed(listener_id);
                addresses.iter().for_each(|address| self.on_not_listening(address));
            }
            SwarmEvent::ListenerError { error, .. } => tracing::debug!(%error, "a listener failed for a moment"),
            SwarmEvent::IncomingConnectionError { send_back_addr, error, .. } => {
                if matches!(error, libp2p::swarm::ListenError::Denied { .. }) {
                    self.membership.counters().met(Met::Connections);
                }
                tracing::debug!(from = %send_back_addr, %error, "a connection from outside failed");
            }
            // The rest is told again by what follows it. The enum is open: later versions may add to it.
            _ => {}
        }
    }

    fn on_listening(&mut self, address: Multiaddr) {
        tracing::info!(%address, "listening");
        if address::relayed(&address) {
            // The reservation itself tells, by confirming the address.
            return;
        }
        if self.permitted.by_anyone(&address) && (self.tell_loopback || !address::loopback(&address)) && !self.is_guarded(&address) {
            self.swarm.add_external_address(address.clone());
            self.have_tried(&address);
        }
        self.shared.listening.write().push(address);
        self.on_addresses_changed();
    }

    fn on_not_listening(&mut self, address: &Multiaddr) {
        self.swarm.remove_external_address(address);
        self.shared.listening.write().retain(|present| present != address);
        if !address::relayed(address) {
            self.on_interface_gone();
            self.on_addresses_changed();
        }
    }

    /// In this order: take nothing new, end streams, end connections.
    async fn close(mut self) {
        self.token.cancel();
        self.commands.close();
        let drained = time::timeout(GRACE, async { while self.streams.join_next().await.is_some() {} });
        if drained.await.is_err() {
            tracing::warn!("streams that didn't end in time are dropped");
        }
        let peers: Vec<PeerId> = self.swarm.connected_peers().copied().collect();
        for peer in peers {
            // Fails only for a peer that is gone already.
            let _ = self.swarm.disconnect_peer_id(peer);
        }
        let _ = time::timeout(GRACE, async {
            while self.swarm.network_info().num_peers() > 0 {
                if let SwarmEvent::ConnectionClosed { peer_id, connection_id, cause, .. } = self.swarm.select_next_some().await {
                    self.on_closed(peer_id, connection_id, cause.as_ref());
                }
            }
        })
        .await;
    }

    /// Lets connections go that are more than this node needs.
    fn trim(&mut self, now: Instant) {
        let gossiping: HashSet<PeerId> = self.swarm.behaviour().gossip.all_mesh_peers().copied().collect();
        let relays: HashSet<PeerId> = self.reserving.held().into_iter().map(|(peer, _)| peer).collect();
        let candidates = self.shared.peers.ages().into_iter().map(|(node, since, used)| {
            let peer = identity::peer_of(node);
            let needed = used || gossiping.contains(&peer) || relays.contains(&peer) || self.redial.is_bootstrap(peer);
            Candidate { peer, since, needed }
        });
        for peer in trimming::excess(candidates.collect(), self.wanted_peers, now) {
            tracing::debug!(%peer, "a connection that isn't needed is closed");
            self.redial.forget_peer(peer);
            // Fails only for a peer that is gone already.
            let _ = self.swarm.disconnect_peer_id(peer);
        }
    }

    fn limits(&mut self) -> Vec<protocol::api::Limit> {
        let info = self.swarm.network_info();
        let counters = info.connection_counters();
        let in_use = InUse {
            connections: counters.num_established().into(),
            inbound: counters.num_established_incoming().into(),
            pending_in: counters.num_pending_incoming().into(),
            pending_out: counters.num_pending_outgoing().into(),
            records: self.swarm.behaviour_mut().kad.store_mut().len() as u64,
            bytes: self.shared.peers.bytes() as u64,
            bans: self.membership.bans().len() as u64,
            memory: crate::limits::resident() >> 20,
            max_memory: self.max_memory,
        };
        crate::limits::table(self.membership.counters(), &in_use)
    }

    fn close_connection(&mut self, connection: ConnectionId) {
        // False when it is gone already.
        let _ = self.swarm.close_connection(connection);
    }
}

/// Spreads what many nodes would otherwise do at the same moment.
fn jitter() -> f64 {
    getrandom::u32().map_or(0.5, |random| f64::from(random) / f64::from(u32::MAX))
}
