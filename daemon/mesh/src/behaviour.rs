//! The protocols that the swarm speaks, and their settings.

use std::time::Duration;

use libp2p::{
    StreamProtocol, autonat, connection_limits, dcutr,
    gossipsub::{
        self, ConfigBuilder, IdentTopic, MessageAuthenticity, MessageId, PeerScoreParams, PeerScoreThresholds, TopicScoreParams,
        ValidationMode,
    },
    identify,
    identity::Keypair,
    kad, mdns, memory_connection_limits, ping, relay,
    swarm::{NetworkBehaviour, behaviour::toggle::Toggle},
    upnp,
};
use protocol::wire;
use sha2::{Digest as _, Sha256};

use crate::{
    config::Config,
    crowding,
    error::Error,
    limits::{
        CIRCUIT, CIRCUIT_BYTES, HANDSHAKE, MAX_CIRCUITS, MAX_CIRCUITS_PER_PEER, MAX_CONNECTIONS, MAX_INBOUND, MAX_PENDING_IN,
        MAX_PENDING_OUT, MAX_PER_PEER, MAX_RESERVATIONS, PING, PING_TIMEOUT, RELAY_RATE,
    },
    relaying, rpc, shunning,
    store::Store,
};

/// A Kademlia look-up takes longer only where most nodes it meets are gone.
const QUERY_TIMEOUT: Duration = Duration::from_secs(20);
/// How long others believe that a node provides a key, and how often it tells them again.
pub(crate) const PROVIDER_TTL: Duration = Duration::from_secs(2 * 3600);
/// How often all of the routing table is looked through.
const REFRESH: Duration = Duration::from_secs(30 * 60);
const REPUBLISH: Duration = Duration::from_secs(30 * 60);

/// How long a reservation lasts; it is prolonged before.
const RESERVATION: Duration = Duration::from_secs(3_600);

#[derive(NetworkBehaviour)]
pub(crate) struct Behaviour {
    limits: connection_limits::Behaviour,
    crowding: crowding::Behaviour,
    pub(crate) shunning: shunning::Behaviour,
    memory: memory_connection_limits::Behaviour,
    pub(crate) identify: identify::Behaviour,
    pub(crate) ping: ping::Behaviour,
    pub(crate) kad: kad::Behaviour<Store>,
    pub(crate) gossip: gossipsub::Behaviour,
    pub(crate) rpc: rpc::Behaviour,
    pub(crate) relay_client: relay::client::Behaviour,
    pub(crate) relay_server: Toggle<relaying::Behaviour>,
    pub(crate) hole_punch: dcutr::Behaviour,
    pub(crate) autonat_client: Toggle<autonat::v2::client::Behaviour>,
    pub(crate) autonat_server: Toggle<autonat::v2::server::Behaviour>,
    pub(crate) upnp: Toggle<upnp::tokio::Behaviour>,
    pub(crate) mdns: Toggle<mdns::tokio::Behaviour>,
}

impl Behaviour {
    pub(crate) fn new(config: &Config, key: &Keypair, topic: &IdentTopic, relay_client: relay::client::Behaviour) -> Result<Self, Error> {
        let peer = key.public().to_peer_id();
        // On loopback there is neither a router nor a LAN, and among private addresses nobody is asked from outside.
        let loopback = config.listen.host.is_loopback();
        let lan =
            (config.mdns && config.private_addresses && !loopback).then(|| mdns::tokio::Behaviour::new(mdns::Config::default(), peer));
        let lan = lan.transpose().map_err(|error| Error::Setup { what: "discovery on the LAN", reason: error.to_string() })?;
        let limits = connection_limits::ConnectionLimits::default()
            .with_max_pending_incoming(Some(MAX_PENDING_IN))
            .with_max_pending_outgoing(Some(MAX_PENDING_OUT))
            .with_max_established_incoming(Some(MAX_INBOUND))
            .with_max_established(Some(MAX_CONNECTIONS))
            .with_max_established_per_peer(Some(MAX_PER_PEER));
        let identify = identify::Config::new(wire::identify_protocol(config.mesh()), key.public())
            .with_agent_version(concat!("mcp-zero/", env!("CARGO_PKG_VERSION")).into())
            // Addresses are judged and kept by the driver.
            .with_cache_size(0)
            .with_hide_listen_addrs(true)
            .with_push_listen_addr_updates(true);
        Ok(Self {
            limits: connection_limits::Behaviour::new(limits),
            crowding: crowding::Behaviour::default(),
            shunning: shunning::Behaviour::new(config.membership.clone()),
            memory: memory_connection_limits::Behaviour::with_max_bytes(config.max_memory),
            identify: identify::Behaviour::new(identify),
            ping: ping::Behaviour::new(ping::Config::new().with_interval(PING).with_timeout(PING_TIMEOUT)),
            kad: kademlia(config, key)?,
            gossip: gossip(key, topic)?,
            relay_client,
            relay_server: config
                .relay
                .then(|| relaying::Behaviour::new(relay::Behaviour::new(peer, limited(config.private_addresses))))
                .into(),
            hole_punch: dcutr::Behaviour::new(peer),
            autonat_client: (!config.private_addresses).then(autonat::v2::client::Behaviour::default).into(),
            autonat_server: (!config.private_addresses).then(autonat::v2::server::Behaviour::default).into(),
            upnp: (config.upnp && !config.private_addresses && !loopback).then(upnp::tokio::Behaviour::default).into(),
            mdns: lan.into(),
            rpc: rpc::Behaviour::new(protocol(wire::rpc_protocol(config.mesh()))?),
        })
    }
}

/// What this node relays for others. libp2p's own limits (2 minutes, 128 KiB a circuit) are for hole punching alone; here
/// a relayed connection must be good enough to live on.
fn limited(private: bool) -> relay::Config {
    let mut config = relay::Config {
        max_reservations: MAX_RESERVATIONS,
        max_reservations_per_peer: 2,
        reservation_duration: RESERVATION,
        max_circuits: MAX_CIRCUITS,
        max_circuits_per_peer: MAX_CIRCUITS_PER_PEER,
        max_circuit_duration: CIRCUIT,
        max_circuit_bytes: CIRCUIT_BYTES,
        ..relay::Config::default()
    };
    // Members were admitted, and whole sites share one address: what counts is who asks, not from where.
    config.reservation_rate_limiters.clear();
    config.circuit_src_rate_limiters.clear();
    if private {
        return config;
    }
    let minute = Duration::from_secs(60);
    config.reservation_rate_per_peer(RELAY_RATE, minute).circuit_src_per_peer(RELAY_RATE, minute)
}

/// A protocol's name as libp2p wants it.
pub(crate) fn protocol(name: String) -> Result<StreamProtocol, Error> {
    StreamProtocol::try_from_owned(name).map_err(|error| Error::Setup { what: "a protocol's name", reason: error.to_string() })
}

fn kademlia(config: &Config, key: &Keypair) -> Result<kad::Behaviour<Store>, Error> {
    let peer = key.public().to_peer_id();
    let mut settings = kad::Config::new(protocol(wire::kad_protocol(config.mesh()))?);
    settings
        .set_query_timeout(QUERY_TIMEOUT)
        .set_substreams_timeout(HANDSHAKE)
        .disjoint_query_paths(true)
        // The driver enters peers, after it judged their addresses, and records, after it judged them.
        .set_kbucket_inserts(kad::BucketInserts::Manual)
        .set_record_filtering(kad::StoreInserts::FilterBoth)
        .set_record_ttl(None)
        .set_periodic_bootstrap_interval(Some(REFRESH))
        .set_replication_interval(None)
        .set_publication_interval(None)
        .set_caching(kad::Caching::Disabled)
        .set_provider_record_ttl(Some(PROVIDER_TTL))
        .set_provider_publication_interval(Some(REPUBLISH));
    let mut behaviour = kad::Behaviour::with_config(peer, Store::new(peer), settings);
    // The driver says when this node serves look-ups: when it can be reached.
    behaviour.set_mode(Some(if config.server || config.private_addresses { kad::Mode::Server } else { kad::Mode::Client }));
    Ok(behaviour)
}

fn gossip(key: &Keypair, topic: &IdentTopic) -> Result<gossipsub::Behaviour, Error> {
    let failed = |reason: String| Error::Setup { what: "gossip", reason };
    // The protocol ids stay the default ones: a prefix of our own would silently lose version 1.2. The mesh is in the topic.
    let config = ConfigBuilder::default()
        .validation_mode(ValidationMode::Strict)
        .validate_messages()
        // A node that lost power hears what it said before from those who remember; they mustn't be blamed for that.
        .allow_self_origin(true)
        .message_id_fn(message_id)
        .max_transmit_size(wire::MAX_GOSSIP)
        .mesh_n_low(2)
        .mesh_n(4)
        .mesh_n_high(8)
        .mesh_outbound_min(1)
        .flood_publish(true)
        .build()
        .map_err(|error| failed(error.to_string()))?;
    let mut behaviour =
        gossipsub::Behaviour::new(MessageAuthenticity::Signed(key.clone()), config).map_err(|error| failed(error.to_owned()))?;
    // Penalties for quiet peers (P3, P3b) and for sharing an IP address (P6) are off: announcements are rare, and a whole
    // site may sit behind one NAT.
    // Nobody honest brings invalid messages, so few of them are enough; a promise not kept may be the network's fault.
    let topic_score = TopicScoreParams {
        mesh_message_deliveries_weight: 0.0,
        mesh_failure_penalty_weight: 0.0,
        // What is gained by good messages must not pay for bad ones.
        first_message_deliveries_weight: 0.0,
        time_in_mesh_weight: 0.0,
        invalid_message_deliveries_weight: -10.0,
        invalid_message_deliveries_decay: 0.9,
        ..TopicScoreParams::default()
    };
    let score = PeerScoreParams {
        topics: [(topic.hash(), topic_score)].into(),
        ip_colocation_factor_weight: 0.0,
        behaviour_penalty_threshold: 6.0,
        ..PeerScoreParams::default()
    };
    behaviour.with_peer_score(score, PeerScoreThresholds::default()).map_err(failed)?;
    behaviour.subscribe(topic).map_err(|error| failed(error.to_string()))?;
    Ok(behaviour)
}

/// What makes a message the same: a repetition has another sequence number and is another message.
fn message_id(message: &gossipsub::Message) -> MessageId {
    let source = message.source.map(|source| source.to_bytes()).unwrap_or_default();
    let digest = Sha256::new()
        .chain_update(message.topic.as_str())
        .chain_update(source)
        .chain_update(message.sequence_number.unwrap_or_default().to_be_bytes())
        .chain_update(&message.data)
        .finalize();
    MessageId::from(digest[..20].to_vec())
}
