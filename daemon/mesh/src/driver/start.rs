//! Brings the swarm up: sockets are bound and listening when this returns.

use std::{collections::HashMap, io, num::NonZeroU8, sync::Arc, time::Duration};

use futures::{FutureExt as _, StreamExt as _};
use libp2p::{
    Multiaddr, Swarm,
    core::{transport::ListenerId, upgrade::Version},
    gossipsub::IdentTopic,
    relay,
    swarm::{self, SwarmEvent},
};
use protocol::wire;
use tokio::{
    sync::mpsc,
    task::JoinSet,
    time::{self, Instant},
};
use tokio_util::sync::CancellationToken;

use super::{Command, Dialling, Driver, Shared, gossip::Rates, reach::Reach, rpc::Transfers};
use crate::{
    Handler, address,
    announcing::Announcing,
    behaviour::{self, Behaviour},
    book::Book,
    config::Config,
    diversity::Networks,
    error::Error,
    identity,
    providing::Providing,
    redial::Redial,
    reserving::Reserving,
    transport::{self, Permitted, Shown},
};

/// A connection that neither side uses is closed after this time. Gossip, bootstrap peers and open sessions use theirs.
const IDLE: Duration = Duration::from_secs(300);
/// Addresses of one peer that are dialled at once: all that are usual, so that the quickest transport wins.
const PARALLEL_DIALS: NonZeroU8 = NonZeroU8::new(8).expect("8 isn't 0");
/// The operating system names the interfaces of a socket at once.
const LISTEN: Duration = Duration::from_secs(5);
/// A node that starts again within its process finds its ports taken for as long as its QUIC connections of before take to
/// end: three round-trip time-outs of the peer (RFC 9000, section 10.2), of up to a second each.
const RELEASE: Duration = Duration::from_secs(5);
const RELEASE_EVERY: Duration = Duration::from_millis(50);
/// What a host with many interfaces tells of them.
const MAX_TOLD: usize = 256;

/// A driver that listens, for `run`.
pub(crate) async fn start(
    config: Config,
    certificate: Arc<Shown>,
    handler: Arc<dyn Handler>,
    commands: mpsc::Receiver<Command>,
    token: CancellationToken,
) -> Result<(Driver, Arc<Shared>), Error> {
    let key = identity::keypair(&config.key);
    let permitted = Permitted::new(config.private_addresses);
    let mut redial = Redial::new(config.private_addresses);
    // Where a token says that the mesh can be entered: dialling there is how this node is enrolled.
    for text in config.bootstrap.iter().chain(&config.membership.entries()) {
        let address = address::parse(text)?;
        permitted.name(&address);
        redial.add(address, Some(Instant::now()))?;
    }
    if config.membership.is_open() {
        tracing::warn!(mesh = %config.mesh(), "THIS MESH IS OPEN: whoever knows its name is admitted; for development only ('mcpctl mesh init' makes a private one)");
    } else if config.membership.credential().is_none() {
        tracing::warn!(mesh = %config.mesh(), "this node is not a member of its mesh yet: it waits to be enrolled by its join token");
    }
    let topic = IdentTopic::new(wire::advert_topic(config.mesh()));
    let settings = swarm::Config::with_tokio_executor()
        .with_idle_connection_timeout(IDLE)
        .with_dial_concurrency_factor(PARALLEL_DIALS)
        .with_substream_upgrade_protocol_override(Version::V1Lazy);
    let (relayed, relay_client) = relay::client::new(key.public().to_peer_id());
    let transport = transport::build(&key, permitted.clone(), config.membership.clone(), relayed, certificate)?;
    let behaviour = Behaviour::new(&config, &key, &topic, relay_client)?;
    let announced = config.announce.iter().map(|text| address::parse(text).map(|address| address::split_peer(address).0));
    let announced = announced.collect::<Result<Vec<Multiaddr>, Error>>()?;
    let shared = Arc::new(Shared {
        node: config.key.node_id(),
        peers: crate::peers::Peers::default(),
        listening: parking_lot::RwLock::default(),
        external: parking_lot::RwLock::default(),
        lookups: Default::default(),
        stopped: CancellationToken::new(),
    });
    let mut driver = Driver {
        swarm: Swarm::new(transport, behaviour, key.public().to_peer_id(), settings),
        commands,
        shared: shared.clone(),
        handler,
        kad_protocol: behaviour::protocol(wire::kad_protocol(config.mesh()))?,
        membership: config.membership,
        topic,
        permitted,
        announced,
        private: config.private_addresses,
        server: config.server,
        reserving: Reserving::default(),
        reach: Reach::default(),
        papers: config.papers,
        remember_at: None,
        rates: Rates::default(),
        trim_at: Instant::now(),
        tell_loopback: config.listen.host.is_loopback(),
        redial,
        book: Book::default(),
        networks: Networks::default(),
        dialling: Dialling::default(),
        transfers: Transfers::default(),
        lookups: HashMap::new(),
        providing: Providing::default(),
        repeat_at: None,
        announcing: Announcing::default(),
        streams: JoinSet::new(),
        begun: Instant::now(),
        wanted_peers: config.peers,
        max_memory: config.max_memory as u64,
        token,
    };
    driver.listen(address::to_listen(config.listen)).await?;
    for address in driver.announced.clone() {
        driver.swarm.add_external_address(address.clone());
        driver.on_external(&address, true);
    }
    driver.on_addresses_changed();
    let papers = driver.papers.clone();
    driver.recall(papers.as_ref());
    Ok((driver, shared))
}

impl Driver {
    /// Listens on each of `addresses`, and waits until each has an address to dial.
    async fn listen(&mut self, addresses: Vec<Multiaddr>) -> Result<(), Error> {
        let failed = |address: &Multiaddr, source| Error::Listen { address: address.to_string(), source };
        let mut waiting: HashMap<ListenerId, Multiaddr> = HashMap::new();
        for address in addresses {
            let id = self.take(&address).await.map_err(|error| failed(&address, error))?;
            waiting.insert(id, address);
        }
        let deadline = Instant::now() + LISTEN;
        while let Some(address) = waiting.values().next().cloned() {
            let event = time::timeout_at(deadline, self.swarm.select_next_some());
            let event =
                event.await.map_err(|_| failed(&address, io::Error::new(io::ErrorKind::AddrNotAvailable, "no interface has it")))?;
            match event {
                SwarmEvent::NewListenAddr { listener_id, .. } => {
                    waiting.remove(&listener_id);
                    self.on_event(event);
                }
                SwarmEvent::ListenerClosed { listener_id, reason: Err(source), .. } => {
                    let address = waiting.remove(&listener_id).unwrap_or(address);
                    return Err(failed(&address, source));
                }
                other => self.on_event(other),
            }
        }
        // Each listens on one address at least; those of further interfaces are known by now, too.
        for _ in 0..MAX_TOLD {
            let Some(event) = self.swarm.select_next_some().now_or_never() else { break };
            self.on_event(event);
        }
        Ok(())
    }

    /// Takes the port of `address`, as soon as it is free.
    async fn take(&mut self, address: &Multiaddr) -> io::Result<ListenerId> {
        let deadline = Instant::now() + RELEASE;
        loop {
            match self.swarm.listen_on(address.clone()).map_err(into_io) {
                Err(error) if error.kind() == io::ErrorKind::AddrInUse && Instant::now() < deadline => time::sleep(RELEASE_EVERY).await,
                settled => return settled,
            }
        }
    }
}

fn into_io(error: libp2p::TransportError<io::Error>) -> io::Error {
    match error {
        libp2p::TransportError::Other(error) => error,
        libp2p::TransportError::MultiaddrNotSupported(_) => io::Error::new(io::ErrorKind::Unsupported, "no transport knows it"),
    }
}
