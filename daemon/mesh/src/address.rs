//! Addresses: what operators write, what others may dial, and which transport they mean.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use libp2p::{Multiaddr, PeerId, multiaddr::Protocol};

use crate::{config::Listen, error::Error};

/// Longer text is no address.
const MAX_TEXT: usize = 512;

/// The transports, best first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Transport {
    Tcp,
    Quic,
    Wss,
    /// Over a relay, whatever the transport to it.
    Relayed,
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Quic => "quic",
            Self::Wss => "wss",
            Self::Relayed => "relayed",
        })
    }
}

/// The transport of `address`.
pub(crate) fn transport(address: &Multiaddr) -> Option<Transport> {
    if relayed(address) {
        return Some(Transport::Relayed);
    }
    address.iter().fold(None, |found, part| match part {
        Protocol::Ws(_) | Protocol::Wss(_) => Some(Transport::Wss),
        Protocol::QuicV1 => Some(Transport::Quic),
        Protocol::Tcp(_) => found.or(Some(Transport::Tcp)),
        _ => found,
    })
}

/// Whether `address` leads through a relay.
pub(crate) fn relayed(address: &Multiaddr) -> bool {
    address.iter().any(|part| part == Protocol::P2pCircuit)
}

/// Checks an address that an operator wrote, and gives it as a multiaddr.
///
/// # Errors
/// It is neither a multiaddr nor `wss://host:port`.
pub fn parse_address(text: &str) -> Result<String, Error> {
    parse(text).map(|address| address.to_string())
}

/// Reads a multiaddr or `wss://host:port[/p2p/<id>]`, in its one normal form.
pub(crate) fn parse(text: &str) -> Result<Multiaddr, Error> {
    let refuse = |reason: &str| Error::Address { address: text.chars().take(80).collect(), reason: reason.into() };
    if text.len() > MAX_TEXT {
        return Err(refuse("it is longer than 512 bytes"));
    }
    let address = match text.strip_prefix("wss://") {
        Some(rest) => from_url(rest).map_err(refuse)?,
        None if text.contains("://") => return Err(refuse("of URLs only wss:// is known")),
        None => normal(text.parse::<Multiaddr>().map_err(|error| refuse(&error.to_string()))?),
    };
    if transport(&address).is_none() {
        return Err(refuse("it names none of the transports tcp, quic-v1 and tls/ws"));
    }
    if address.iter().any(|part| matches!(part, Protocol::Tcp(0) | Protocol::Udp(0))) {
        return Err(refuse("it has no port"));
    }
    Ok(address)
}

fn from_url(rest: &str) -> Result<Multiaddr, &'static str> {
    let (authority, path) = rest.split_once('/').map_or((rest, ""), |(authority, path)| (authority, path));
    let (host, port) = match authority.rsplit_once(':') {
        // The colons of a bare IPv6 address aren't a port's.
        Some((host, port)) if !port.contains(']') => (host, port.parse().map_err(|_| "the port isn't a number up to 65535")?),
        _ => (authority, 443),
    };
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    let mut address = match bare.parse::<IpAddr>() {
        Ok(ip) => Multiaddr::from(ip),
        Err(_) if bare.is_empty() || bare.contains([':', '@', '?', '#', ' ']) => return Err("it has no host"),
        Err(_) => Multiaddr::empty().with(Protocol::Dns4(bare.to_owned().into())),
    };
    address = address.with(Protocol::Tcp(port)).with(Protocol::Tls).with(Protocol::Ws("/".into()));
    match path.strip_prefix("p2p/") {
        Some(peer) => Ok(address.with(Protocol::P2p(peer.parse().map_err(|_| "what follows /p2p/ isn't a node id")?))),
        None if path.is_empty() => Ok(address),
        None => Err("a path other than /p2p/<node id> isn't supported"),
    }
}

/// `/wss` is written `/tls/ws`, so that one address has one form.
pub(crate) fn normal(address: Multiaddr) -> Multiaddr {
    if !address.iter().any(|part| matches!(part, Protocol::Wss(_))) {
        return address;
    }
    address.iter().fold(Multiaddr::empty(), |built, part| match part {
        Protocol::Wss(path) => built.with(Protocol::Tls).with(Protocol::Ws(path)),
        other => built.with(other),
    })
}

/// Splits a trailing `/p2p/<id>` off.
pub(crate) fn split_peer(mut address: Multiaddr) -> (Multiaddr, Option<PeerId>) {
    match address.pop() {
        Some(Protocol::P2p(peer)) => (address, Some(peer)),
        Some(other) => (address.with(other), None),
        None => (address, None),
    }
}

/// Whether others may be told of `address` and dial it: global addresses and names; loopback and private ranges only
/// where `private` allows. A peer's claim must not make us dial the inside of our own network.
pub(crate) fn dialable(address: &Multiaddr, private: bool) -> bool {
    let host_allowed = match address.iter().next() {
        Some(Protocol::Ip4(ip)) => {
            if private {
                !never_v4(ip)
            } else {
                global_v4(ip)
            }
        }
        Some(Protocol::Ip6(ip)) => {
            if private {
                !never_v6(ip)
            } else {
                global_v6(ip)
            }
        }
        Some(Protocol::Dns(name) | Protocol::Dns4(name) | Protocol::Dns6(name)) => private || name.contains('.') && name != "localhost",
        _ => false,
    };
    host_allowed && transport(address).is_some()
}

/// No address of a host, or one that means something else on every link.
fn never_v4(ip: Ipv4Addr) -> bool {
    ip.is_unspecified() || ip.is_multicast() || ip.is_broadcast() || ip.is_link_local()
}

fn never_v6(ip: Ipv6Addr) -> bool {
    ip.is_unspecified() || ip.is_multicast() || ip.is_unicast_link_local()
}

/// IANA's special-purpose registry, as far as it can be met in practice (RFC 6890, RFC 6598).
fn global_v4(ip: Ipv4Addr) -> bool {
    let [a, b, ..] = ip.octets();
    let shared = a == 100 && (64..128).contains(&b);
    let benchmarking = a == 198 && (18..20).contains(&b);
    !(never_v4(ip) || ip.is_loopback() || ip.is_private() || ip.is_documentation() || shared || benchmarking || a == 0 || a >= 240)
}

fn global_v6(ip: Ipv6Addr) -> bool {
    // Global unicast is 2000::/3, of which 2001:db8::/32 is for documentation.
    let [a, b, ..] = ip.segments();
    a & 0xe000 == 0x2000 && !(a == 0x2001 && b == 0xdb8)
}

/// The multiaddrs of `listen`, best transport first.
/// The hosts that addresses name: what a TLS certificate of theirs has to hold.
pub(crate) fn hosts(addresses: &[String]) -> Vec<String> {
    let parsed = addresses.iter().filter_map(|text| text.parse::<Multiaddr>().ok()).filter(|address| !relayed(address));
    let hosts: std::collections::BTreeSet<String> = parsed
        .filter_map(|address| match address.iter().next()? {
            Protocol::Ip4(ip) => Some(ip.to_string()),
            Protocol::Ip6(ip) => Some(ip.to_string()),
            Protocol::Dns(name) | Protocol::Dns4(name) | Protocol::Dns6(name) => Some(name.into_owned()),
            _ => None,
        })
        .collect();
    hosts.into_iter().collect()
}

pub(crate) fn to_listen(listen: Listen) -> Vec<Multiaddr> {
    let host = Multiaddr::from(listen.host);
    let tcp = listen.tcp.map(|port| host.clone().with(Protocol::Tcp(port)));
    let quic = listen.quic.map(|port| host.clone().with(Protocol::Udp(port)).with(Protocol::QuicV1));
    let wss = listen.wss.map(|port| host.clone().with(Protocol::Tcp(port)).with(Protocol::Tls).with(Protocol::Ws("/".into())));
    [tcp, quic, wss].into_iter().flatten().collect()
}

/// Whether `address` is a loopback address.
pub(crate) fn loopback(address: &Multiaddr) -> bool {
    match address.iter().next() {
        Some(Protocol::Ip4(ip)) => ip.is_loopback(),
        Some(Protocol::Ip6(ip)) => ip.is_loopback(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operators_write_urls_and_multiaddrs() {
        for (text, address) in [
            ("wss://mesh.example.org:8765", "/dns4/mesh.example.org/tcp/8765/tls/ws"),
            ("wss://mesh.example.org/", "/dns4/mesh.example.org/tcp/443/tls/ws"),
            ("wss://[2606:4700::1]:8765", "/ip6/2606:4700::1/tcp/8765/tls/ws"),
            ("wss://127.0.0.1:1", "/ip4/127.0.0.1/tcp/1/tls/ws"),
            ("/ip4/127.0.0.1/tcp/1/wss", "/ip4/127.0.0.1/tcp/1/tls/ws"),
            ("/ip4/127.0.0.1/udp/1/quic-v1", "/ip4/127.0.0.1/udp/1/quic-v1"),
        ] {
            assert_eq!(parse(text).expect(text).to_string(), address);
        }
        for bad in
            ["", "127.0.0.1:80", "ws://a:1", "wss://", "wss://a:70000", "wss://a/b", "/ip4/1.2.3.4", "/ip4/1.2.3.4/tcp/0", "wss://:1"]
        {
            assert!(parse(bad).is_err(), "{bad:?}");
        }
        let peer = crate::identity::peer_of(protocol::Key::generate().node_id());
        let (address, found) = split_peer(parse(&format!("wss://a.example:1/p2p/{peer}")).expect("an address"));
        assert_eq!((address.to_string().as_str(), found), ("/dns4/a.example/tcp/1/tls/ws", Some(peer)));
    }

    #[test]
    fn only_global_addresses_are_dialled_on_a_peers_word() {
        let dialable = |text: &str, private| super::dialable(&text.parse().expect(text), private);
        for (text, public, lan) in [
            ("/ip4/1.1.1.1/tcp/1", true, true),
            ("/ip4/127.0.0.1/tcp/1", false, true),
            ("/ip4/10.1.2.3/udp/1/quic-v1", false, true),
            ("/ip4/100.64.0.1/tcp/1", false, true),
            ("/ip4/169.254.169.254/tcp/80", false, false),
            ("/ip4/0.0.0.0/tcp/1", false, false),
            ("/ip6/2606:4700::1/tcp/1", true, true),
            ("/ip6/::1/tcp/1", false, true),
            ("/ip6/fe80::1/tcp/1", false, false),
            ("/dns4/localhost/tcp/1", false, true),
            ("/dns4/mesh.example.org/tcp/1/tls/ws", true, true),
            ("/ip4/1.1.1.1/udp/1", false, false),
        ] {
            assert_eq!((dialable(text, false), dialable(text, true)), (public, lan), "{text}");
        }
    }
}
