//! Enrolling with a join token, step by step, so that whoever waits for it learns which step failed.
//!
//! A running mesh enrols by itself: what it dials hears of its token. This is for the operator who has just typed the
//! token, before there is a mesh.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use libp2p::{
    Multiaddr, Transport as _,
    core::{
        Endpoint,
        transport::{DialOpts, PortUse, TransportError},
    },
    multiaddr::Protocol,
    relay,
};
use protocol::{Code, Key, NodeId, Problem};
use tokio::{
    net::{TcpStream, lookup_host},
    time,
};

use crate::{
    address::{self, Transport},
    admission::Refused,
    identity,
    membership::Membership,
    transport::Shown,
    transport::{self, Permitted},
};

/// For each step of the diagnosis.
const STEP: Duration = Duration::from_secs(5);

/// Where an attempt to enrol ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// The address itself.
    Address,
    /// Resolving its name.
    Dns,
    /// Connecting by TCP.
    Tcp,
    /// Connecting by QUIC, over UDP.
    Quic,
    /// The TLS handshake.
    Tls,
    /// The handshake that proves who is at the other end.
    Handshake,
    /// The other end's decision.
    Admission,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Address => "address",
            Self::Dns => "DNS",
            Self::Tcp => "TCP",
            Self::Quic => "QUIC",
            Self::Tls => "TLS",
            Self::Handshake => "handshake",
            Self::Admission => "admission",
        })
    }
}

/// An attempt to enrol that failed.
#[derive(Debug)]
pub struct Enrolling {
    /// The step that failed.
    pub step: Step,
    /// Why.
    pub problem: Problem,
}

/// Asks the node at `address` to enrol this one, whose token `membership` holds; returns who did. The credential is in
/// `membership` then.
///
/// # Errors
/// The step that failed, and why.
pub async fn enrol(key: &Key, membership: &Arc<Membership>, address: &str, timeout: Duration) -> Result<NodeId, Enrolling> {
    let failed = |step: Step| move |problem: Problem| Enrolling { step, problem };
    let parsed = address::parse(address).map_err(Problem::from).map_err(failed(Step::Address))?;
    let attempt = time::timeout(timeout, dial(key, membership, &parsed)).await;
    let reason = match attempt {
        Ok(Ok(node)) => return Ok(node),
        Ok(Err(error)) => match Refused::within(&error) {
            // Enrolled: the connection ends, as a member's first begins with its credential.
            Some(refused) if refused.enrolled => return Ok(refused.peer),
            Some(refused) => {
                return Err(failed(Step::Admission)(Problem::new(refused.refusal.code, refused.to_string())));
            }
            None => error.to_string(),
        },
        Err(_) => format!("no answer within {} s", timeout.as_secs()),
    };
    Err(diagnose(&parsed, reason).await)
}

async fn dial(key: &Key, membership: &Arc<Membership>, address: &Multiaddr) -> std::io::Result<NodeId> {
    let permitted = Permitted::new(false);
    permitted.name(address);
    let mut transport = transport::build(
        &identity::keypair(key),
        permitted,
        membership.clone(),
        relay::client::new(identity::peer_of(key.node_id())).0,
        Shown::own().map_err(std::io::Error::other)?,
    )
    .map_err(std::io::Error::other)?;
    let options = DialOpts { role: Endpoint::Dialer, port_use: PortUse::New };
    let dialled = transport.dial(address.clone(), options).map_err(|error| match error {
        TransportError::Other(error) => error,
        TransportError::MultiaddrNotSupported(_) => std::io::Error::other("no transport knows this address"),
    })?;
    let (peer, _) = dialled.await?;
    identity::node_of(&peer).ok_or_else(|| std::io::Error::other("its key isn't Ed25519"))
}

/// Which step fails on the way to `address`, where a whole attempt ended for `reason`.
async fn diagnose(address: &Multiaddr, reason: String) -> Enrolling {
    let unreachable = |step, reason: String| Enrolling { step, problem: Problem::new(Code::Unreachable, reason) };
    let (Some((host, port)), Some(kind)) = (endpoint(address), address::transport(address)) else {
        return unreachable(Step::Address, reason);
    };
    let resolved = match time::timeout(STEP, lookup_host((host.as_str(), port))).await {
        Ok(Ok(mut found)) => found.next(),
        Ok(Err(error)) => return unreachable(Step::Dns, format!("{host} can't be resolved: {error}")),
        Err(_) => return unreachable(Step::Dns, format!("{host} was not resolved within {} s", STEP.as_secs())),
    };
    let Some(socket) = resolved else { return unreachable(Step::Dns, format!("{host} has no address")) };
    if kind == Transport::Quic {
        return unreachable(Step::Quic, reason);
    }
    let stream = match time::timeout(STEP, TcpStream::connect(socket)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return unreachable(Step::Tcp, format!("{socket}: {error}")),
        Err(_) => return unreachable(Step::Tcp, format!("{socket} doesn't answer: a firewall, or nothing is there")),
    };
    if kind == Transport::Wss
        && let Err(error) = tls(stream, address, socket).await
    {
        return unreachable(Step::Tls, format!("{socket}: {error}"));
    }
    unreachable(Step::Handshake, reason)
}

async fn tls(stream: TcpStream, address: &Multiaddr, socket: SocketAddr) -> Result<(), String> {
    let handshake = transport::tls_handshake(stream, address);
    match time::timeout(STEP, handshake).await {
        Ok(done) => done.map_err(|error| error.to_string()),
        Err(_) => Err(format!("{socket} doesn't answer the TLS handshake")),
    }
}

fn endpoint(address: &Multiaddr) -> Option<(String, u16)> {
    let mut parts = address.iter();
    let host = match parts.next()? {
        Protocol::Ip4(ip) => IpAddr::from(ip).to_string(),
        Protocol::Ip6(ip) => IpAddr::from(ip).to_string(),
        Protocol::Dns(name) | Protocol::Dns4(name) | Protocol::Dns6(name) => name.into_owned(),
        _ => return None,
    };
    match parts.next()? {
        Protocol::Tcp(port) | Protocol::Udp(port) => Some((host, port)),
        _ => None,
    }
}
