//! The transports under the swarm.
//!
//! ```text
//! TCP ------------------------------------> Noise -> Yamux \
//! TCP -> TLS (tls.rs) -> WebSocket (wss.rs) -> Noise -> Yamux  > admission -> policy -> swarm
//! a relayed circuit ----------------------> Noise -> Yamux   >
//! UDP -> QUIC (TLS 1.3 with libp2p's certificates) -------- /
//! ```
//! DNS names are resolved above TCP and QUIC, but below WebSocket, whose TLS and HTTP name the host they ask for.

mod certificate;
mod policy;
mod tls;
mod wss;

use std::{io, sync::Arc, time::Duration};

use libp2p::{
    Multiaddr, PeerId, Transport as _,
    core::{
        ConnectedPoint, Endpoint,
        muxing::StreamMuxerBox,
        transport::{Boxed, PortUse, timeout::TransportTimeout},
        upgrade::Version,
    },
    dns::{self, ResolverConfig, ResolverOpts},
    identity::Keypair,
    noise, quic, relay, tcp, yamux,
};
use tokio::net::TcpStream;
use tokio_util::compat::TokioAsyncReadCompatExt as _;

pub use self::certificate::CertificateFiles;
pub(crate) use self::certificate::Shown;
pub(crate) use self::policy::Permitted;
use self::policy::Policy;
use crate::{
    admission,
    error::Error,
    limits::{HANDSHAKE, MAX_STREAMS},
    membership::Membership,
};

/// After this silence a QUIC connection is dead.
const QUIC_IDLE: Duration = Duration::from_secs(30);
/// Keeps NAT mappings of UDP alive (30 s in the wild).
const QUIC_KEEP_ALIVE: Duration = Duration::from_secs(10);

/// A connection with an authenticated peer.
pub(crate) type Connection = (PeerId, StreamMuxerBox);

/// Every transport, as one.
pub(crate) fn build(
    key: &Keypair,
    permitted: Permitted,
    membership: Arc<Membership>,
    relay: relay::client::Transport,
    certificate: Arc<Shown>,
) -> Result<Boxed<Connection>, Error> {
    let noise = noise::Config::new(key).map_err(|error| setup("Noise", &error))?;
    let tcp = tcp_transport().upgrade(Version::V1Lazy).authenticate(noise.clone()).multiplex(yamux_config()).boxed();
    let quic = quic::tokio::Transport::new(quic_config(key)).map(|(peer, muxer), _| (peer, StreamMuxerBox::new(muxer)));
    let direct = resolving(tcp.or_transport(quic).map(|either, _| either.into_inner()))?;
    let wss = wss::transport(resolving(tcp_transport())?, tls::Tls::new(certificate)?)
        .upgrade(Version::V1Lazy)
        .authenticate(noise.clone())
        .multiplex(yamux_config())
        .boxed();
    let relayed = relay.upgrade(Version::V1Lazy).authenticate(noise).multiplex(yamux_config()).boxed();
    // Relayed and WebSocket first: it tells at once that an address isn't for it, while names are accepted by `direct` before they are resolved.
    let all = relayed.or_transport(wss).map(|either, _| either.into_inner()).or_transport(direct).map(|either, _| either.into_inner());
    let timely = TransportTimeout::new(all, HANDSHAKE).boxed();
    Ok(Policy { inner: admission::admit(timely, membership), permitted }.boxed())
}

fn tcp_transport() -> tcp::tokio::Transport {
    // Small frames must not wait for one another (Nagle).
    tcp::tokio::Transport::new(tcp::Config::default().nodelay(true))
}

fn yamux_config() -> yamux::Config {
    let mut config = yamux::Config::default();
    config.set_max_num_streams(MAX_STREAMS as usize);
    config
}

fn quic_config(key: &Keypair) -> quic::Config {
    let mut config = quic::Config::new(key);
    config.max_idle_timeout = u32::try_from(QUIC_IDLE.as_millis()).expect("30 s are few milliseconds");
    config.keep_alive_interval = QUIC_KEEP_ALIVE;
    config.max_concurrent_stream_limit = MAX_STREAMS;
    config
}

/// Resolves names by the system's configuration. A host without one can still dial IP addresses.
fn resolving<T>(inner: T) -> Result<dns::tokio::Transport<T>, Error> {
    match dns::tokio::Transport::system(()) {
        Ok(_) => dns::tokio::Transport::system(inner).map_err(|error| setup("name resolution", &error)),
        Err(error) => {
            tracing::warn!(%error, "the system's DNS configuration can't be read: only IP addresses can be dialled");
            Ok(dns::tokio::Transport::custom(inner, ResolverConfig::from_name_servers(Vec::new()), ResolverOpts::default()))
        }
    }
}

/// The TLS handshake alone, as a dialler of `address` makes it.
pub(crate) async fn tls_handshake(stream: TcpStream, address: &Multiaddr) -> io::Result<()> {
    let endpoint = ConnectedPoint::Dialer { address: address.clone(), role_override: Endpoint::Dialer, port_use: PortUse::New };
    let tls = Shown::own().and_then(tls::Tls::new).map_err(|error| io::Error::other(error.to_string()))?;
    tls.secure(stream.compat(), endpoint).await.map(|_| ())
}

fn setup(what: &'static str, error: &dyn std::error::Error) -> Error {
    Error::Setup { what, reason: error.to_string() }
}
