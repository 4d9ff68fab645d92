//! Every limit that the mesh enforces on others, in one place, and how often each was met.

use std::{
    num::NonZeroU32,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use protocol::{api, wire};

/// Relayed and direct connections overlap, and both sides may dial at once.
pub(crate) const MAX_PER_PEER: u32 = 4;
/// Handshakes under way from outside: each costs a few hundred microseconds.
pub(crate) const MAX_PENDING_IN: u32 = 256;
/// Of these, from one host: whoever stays silent must not take the places of all. A site behind one address has enough.
pub(crate) const MAX_PENDING_PER_HOST: u32 = 64;
/// Dials under way: a look-up has a handful.
pub(crate) const MAX_PENDING_OUT: u32 = 64;
/// Connections from outside, which others decide on.
pub(crate) const MAX_INBOUND: u32 = 512;
/// All connections; at 0.1-0.3 MB each.
pub(crate) const MAX_CONNECTIONS: u32 = 768;
/// The process's memory past which no connection is made, if nothing else is said: the budgets of kernel and mesh together.
pub(crate) const MAX_MEMORY: usize = 1024 * 1024 * 1024;
/// For connecting and the handshakes of TLS, Noise or QUIC, and for each step of admission: a dead peer holds a place no
/// longer.
pub(crate) const HANDSHAKE: Duration = Duration::from_secs(5);
/// For all of a connection's making where somebody is enrolled: enough for a desk that asks the authority.
pub(crate) const SETUP: Duration = Duration::from_secs(15);
/// How often a peer is pinged; a dead link is noticed after this and [`PING_TIMEOUT`] at most.
pub(crate) const PING: Duration = Duration::from_millis(5_000);
/// How long an answer may take, on a machine that is busy.
pub(crate) const PING_TIMEOUT: Duration = Duration::from_millis(4_000);
/// Streams that a peer may have open on a connection: RPC, gossip and Kademlia together stay far below.
pub(crate) const MAX_STREAMS: u32 = 256;
/// Inbound RPC streams on one connection: a peer needs one, some while it replaces it, and one for each transfer.
pub(crate) const MAX_RPC_STREAMS: usize = 8;
/// Bytes of requests and answers under way, of one peer and of all: eight of the largest answers, and four peers so.
pub(crate) const MAX_BYTES_PER_PEER: usize = 128 * 1024 * 1024;
/// See [`MAX_BYTES_PER_PEER`].
pub(crate) const MAX_BYTES: usize = 512 * 1024 * 1024;
/// Transfers of content that are served at once, in all and to one node: each reads ahead some MiB.
pub(crate) const MAX_TRANSFERS: usize = 32;
/// See [`MAX_TRANSFERS`].
pub(crate) const MAX_TRANSFERS_PER_PEER: usize = 4;
/// A frame that has begun must end within this time.
pub(crate) const FRAME: Duration = Duration::from_secs(30);
/// Announcements of one node in [`GOSSIP_WINDOW`]: it has one a minute, and some while agents come and go.
pub(crate) const MAX_GOSSIP_PER_SOURCE: u32 = 30;
/// Messages that one peer may bring in [`GOSSIP_WINDOW`]: a mesh of 10,000 nodes has fewer.
pub(crate) const MAX_GOSSIP_PER_PEER: u32 = 2_000;
/// See [`MAX_GOSSIP_PER_SOURCE`].
pub(crate) const GOSSIP_WINDOW: Duration = Duration::from_secs(10);
/// Provider records that are kept, over all keys: at 300 bytes each about 20 MB, which only a full mesh reaches.
pub(crate) const MAX_RECORDS: usize = 65_536;
/// Providers of one key that are kept; those who come first stay, so that a flood can't push them out.
pub(crate) const MAX_PROVIDERS: usize = 20;
/// Records of one provider that are kept: a node with a thousand methods.
pub(crate) const MAX_RECORDS_PER_PROVIDER: usize = 2_048;
/// Nodes that this node holds a reservation for, when it relays: each costs a connection and some hundred bytes.
pub(crate) const MAX_RESERVATIONS: usize = 1_024;
/// Connections that are relayed at once, in all and from one node.
pub(crate) const MAX_CIRCUITS: usize = 512;
/// See [`MAX_CIRCUITS`].
pub(crate) const MAX_CIRCUITS_PER_PEER: usize = 8;
/// How long one relayed connection may last, and how much it may carry.
pub(crate) const CIRCUIT: Duration = Duration::from_secs(30 * 60);
/// See [`CIRCUIT`].
pub(crate) const CIRCUIT_BYTES: u64 = 1 << 30;
/// Reservations, and circuits, that one node may ask for in a minute.
pub(crate) const RELAY_RATE: NonZeroU32 = NonZeroU32::new(60).expect("60 isn't 0");
/// Enrolments under way; each waits for the authority.
pub(crate) const MAX_ENROLMENTS: usize = 32;

macro_rules! met {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// Limits whose meeting is counted.
        #[derive(Debug, Clone, Copy)]
        pub(crate) enum Met { $($(#[$doc])* $name,)* }

        const COUNT: usize = [$(Met::$name),*].len();
    };
}

met! {
    /// A connection that the swarm didn't take.
    Connections,
    /// A peer that wasn't admitted.
    Admission,
    /// A stream of RPC too many.
    Streams,
    /// A request too many.
    Requests,
    /// A frame too large.
    Frames,
    /// Gossip too much.
    Gossip,
    /// A provider record too many.
    Records,
}

/// How often each was met.
#[derive(Debug, Default)]
pub(crate) struct Counters([AtomicU64; COUNT]);

impl Counters {
    pub(crate) fn met(&self, limit: Met) {
        self.0[limit as usize].fetch_add(1, Ordering::Relaxed);
    }

    fn get(&self, limit: Met) -> u64 {
        self.0[limit as usize].load(Ordering::Relaxed)
    }
}

/// Bytes of memory that the process has now; 0 where the system doesn't say.
pub(crate) fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let kibibytes = status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    kibibytes.unwrap_or_default() << 10
}

/// What of a limit is in use now.
#[derive(Debug, Default)]
pub(crate) struct InUse {
    pub(crate) connections: u64,
    pub(crate) inbound: u64,
    pub(crate) pending_in: u64,
    pub(crate) pending_out: u64,
    pub(crate) records: u64,
    pub(crate) bytes: u64,
    pub(crate) bans: u64,
    pub(crate) memory: u64,
    pub(crate) max_memory: u64,
}

/// The table, as operators see it.
pub(crate) fn table(counters: &Counters, in_use: &InUse) -> Vec<api::Limit> {
    let row = |name: &str, unit: &str, value: u64, why: &str| api::Limit {
        name: name.into(),
        unit: unit.into(),
        value,
        why: why.into(),
        in_use: None,
        refused: None,
    };
    let used = |limit: api::Limit, in_use: u64| api::Limit { in_use: Some(in_use), ..limit };
    let counted = |limit: api::Limit, met: Met| api::Limit { refused: Some(counters.get(met)), ..limit };
    let seconds = |duration: Duration| duration.as_secs();
    vec![
        counted(
            used(row("connections", "connections", MAX_CONNECTIONS.into(), "0.1 to 0.3 MB each"), in_use.connections),
            Met::Connections,
        ),
        used(
            row("connections.inbound", "connections", MAX_INBOUND.into(), "what others decide on leaves room for what we do"),
            in_use.inbound,
        ),
        row("connections.per_peer", "connections", MAX_PER_PEER.into(), "relayed and direct ones overlap"),
        used(row("connections.pending_in", "handshakes", MAX_PENDING_IN.into(), "a burst of joining nodes"), in_use.pending_in),
        row("connections.pending_per_host", "handshakes", MAX_PENDING_PER_HOST.into(), "from one address, or one IPv6 /64"),
        used(row("connections.pending_out", "dials", MAX_PENDING_OUT.into(), "look-ups under way"), in_use.pending_out),
        used(row("memory", "MiB", in_use.max_memory >> 20, "of the process, past which no connection is made"), in_use.memory),
        row("handshake", "seconds", seconds(HANDSHAKE), "a dead peer holds a place no longer"),
        counted(row("admission", "seconds", seconds(HANDSHAKE), "showing credentials, after the handshake"), Met::Admission),
        row("admission.enrolment", "seconds", seconds(SETUP), "all of it, where the authority is asked"),
        row("admission.message", "bytes", protocol::admission::MAX_MESSAGE as u64, "a credential takes a third of it"),
        row("ping.interval", "milliseconds", PING.as_millis() as u64, "a dead link is noticed after this and the time-out"),
        row("ping.timeout", "milliseconds", PING_TIMEOUT.as_millis() as u64, "an answer on a machine that is busy"),
        row("streams", "per connection", MAX_STREAMS.into(), "RPC, gossip and look-ups stay far below"),
        counted(
            row("streams.rpc", "per connection", MAX_RPC_STREAMS as u64, "one, some while it is replaced, one for each transfer"),
            Met::Streams,
        ),
        row("transfers", "under way", MAX_TRANSFERS as u64, "each reads ahead up to 4 MiB"),
        row("transfers.per_peer", "under way", MAX_TRANSFERS_PER_PEER as u64, "each has a stream of its own"),
        counted(row("requests.in_flight", "per peer", wire::MAX_IN_FLIGHT as u64, "more are refused as overloaded"), Met::Requests),
        row("requests.bytes_per_peer", "bytes", MAX_BYTES_PER_PEER as u64, "requests and answers under way; more are refused"),
        used(row("requests.bytes", "bytes", MAX_BYTES as u64, "the same, of all peers"), in_use.bytes),
        row("look_ups", "under way", crate::driver::MAX_LOOKUPS as u64, "each takes some twenty requests"),
        used(row("bans", "nodes", crate::bans::MAX_NODES as u64, "the one that ends first makes room"), in_use.bans),
        row("queue", "frames", crate::rpc::MAX_QUEUED as u64, "that wait for one stream's peer"),
        row("queue.stall", "seconds", seconds(crate::rpc::STALL), "a peer that takes nothing for so long is gone"),
        counted(row("frame.request", "bytes", crate::rpc::MAX_REQUEST as u64, "parameters and what goes along"), Met::Frames),
        row("frame.response", "bytes", wire::MAX_FRAME as u64, "a result and its receipt"),
        row("frame.time", "seconds", seconds(FRAME), "a frame that has begun must end"),
        counted(row("gossip.message", "bytes", wire::MAX_GOSSIP as u64, "announcements take 200 bytes"), Met::Gossip),
        row(
            "gossip.per_source",
            "messages in 10 s",
            MAX_GOSSIP_PER_SOURCE.into(),
            "a node announces once a minute, and when agents change",
        ),
        row("gossip.per_peer", "messages in 10 s", MAX_GOSSIP_PER_PEER.into(), "whoever made them; more are not passed on"),
        row("gossip.announcement", "bytes", wire::MAX_ANNOUNCEMENT as u64, "one takes 200"),
        counted(used(row("records", "provider records", MAX_RECORDS as u64, "300 bytes each"), in_use.records), Met::Records),
        row("table.per_network", "peers in a bucket", crate::diversity::MAX_PER_NETWORK as u64, "of one IPv4 /24 or IPv6 /48; half of it"),
        row("records.per_key", "providers", MAX_PROVIDERS as u64, "those who come first stay"),
        row("records.per_provider", "records", MAX_RECORDS_PER_PROVIDER as u64, "a node with many methods"),
        row("relay.reservations", "nodes", MAX_RESERVATIONS as u64, "where this node relays"),
        row("relay.circuits", "connections", MAX_CIRCUITS as u64, "where this node relays"),
        row("relay.circuits_per_peer", "connections", MAX_CIRCUITS_PER_PEER as u64, "where this node relays"),
        row("relay.circuit_time", "seconds", seconds(CIRCUIT), "one relayed connection; it is made again"),
        row("relay.circuit_bytes", "bytes", CIRCUIT_BYTES, "one relayed connection; it is made again"),
        row("relay.rate", "per minute", RELAY_RATE.get().into(), "reservations, and circuits, that one node asks for"),
        row("enrolments", "under way", MAX_ENROLMENTS as u64, "each waits for the authority"),
    ]
}
