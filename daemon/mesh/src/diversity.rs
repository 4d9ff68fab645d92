//! Of which networks the peers in a bucket of the routing table are, decided without I/O: whoever has many nodes in one
//! network can't surround others with them.
//!
//! What counts is where a connection comes from, as what a peer says of its addresses costs it nothing.

use std::{collections::HashMap, net::IpAddr};

use libp2p::{Multiaddr, PeerId, multiaddr::Protocol};

/// Peers of one network in a bucket: half of the twenty that it holds. Sites with all nodes in one network live well with it.
pub(crate) const MAX_PER_NETWORK: usize = 10;
/// Peers whose network is kept: more than a routing table holds.
const MAX_KEPT: usize = 4_096;

/// What one customer of a provider has as a rule: /24 of IPv4, /48 of IPv6.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Network {
    V4([u8; 3]),
    V6([u16; 3]),
}

impl Network {
    /// The network that `address` is in; none for a name.
    pub(crate) fn of(address: &Multiaddr) -> Option<Self> {
        let ip = match address.iter().next()? {
            Protocol::Ip4(ip) => IpAddr::from(ip),
            Protocol::Ip6(ip) => ip.to_canonical(),
            _ => return None,
        };
        Some(match ip {
            IpAddr::V4(ip) => {
                let [a, b, c, _] = ip.octets();
                Self::V4([a, b, c])
            }
            IpAddr::V6(ip) => {
                let [a, b, c, ..] = ip.segments();
                Self::V6([a, b, c])
            }
        })
    }
}

/// The networks of peers in the routing table.
#[derive(Debug, Default)]
pub(crate) struct Networks(HashMap<PeerId, Network>);

impl Networks {
    /// Whether `peer` of `network` may be in a bucket with `present`; it is taken to be if so.
    pub(crate) fn admit(&mut self, peer: PeerId, network: Network, present: &[PeerId]) -> bool {
        let same = present.iter().filter(|other| **other != peer && self.0.get(other) == Some(&network)).count();
        let admitted = same < MAX_PER_NETWORK && (self.0.len() < MAX_KEPT || self.0.contains_key(&peer));
        if admitted {
            self.0.insert(peer, network);
        }
        admitted
    }

    /// Forgets all but those that `holds` says are in the table.
    pub(crate) fn keep(&mut self, holds: impl Fn(&PeerId) -> bool) {
        self.0.retain(|peer, _| holds(peer));
    }

    /// Whether it is time to forget some.
    pub(crate) fn is_full(&self) -> bool {
        self.0.len() >= MAX_KEPT
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network(text: &str) -> Network {
        Network::of(&text.parse().expect("an address")).expect("it has one")
    }

    #[test]
    fn networks_are_what_one_customer_has() {
        assert_eq!(network("/ip4/192.0.2.1/tcp/1"), network("/ip4/192.0.2.200/udp/9/quic-v1"));
        assert_ne!(network("/ip4/192.0.2.1/tcp/1"), network("/ip4/192.0.3.1/tcp/1"));
        assert_eq!(network("/ip6/2001:db8:1:2::1/tcp/1"), network("/ip6/2001:db8:1:3::1/tcp/1"));
        assert_ne!(network("/ip6/2001:db8:1::1/tcp/1"), network("/ip6/2001:db8:2::1/tcp/1"));
        assert_eq!(network("/ip6/::ffff:192.0.2.1/tcp/1"), network("/ip4/192.0.2.7/tcp/1"));
        assert_eq!(Network::of(&"/dns4/a.example/tcp/1".parse().expect("an address")), None);
    }

    #[test]
    fn one_network_has_half_a_bucket() {
        let (mut networks, mut bucket) = (Networks::default(), Vec::new());
        let (crowd, other) = (network("/ip4/192.0.2.1/tcp/1"), network("/ip4/198.51.100.1/tcp/1"));
        for _ in 0..MAX_PER_NETWORK {
            let peer = PeerId::random();
            assert!(networks.admit(peer, crowd, &bucket));
            bucket.push(peer);
        }
        assert!(!networks.admit(PeerId::random(), crowd, &bucket), "one too many");
        assert!(networks.admit(bucket[0], crowd, &bucket), "who is in stays in");
        assert!(networks.admit(PeerId::random(), other, &bucket) && networks.admit(PeerId::random(), crowd, &[]), "elsewhere is room");
        // Who has left leaves room.
        let gone = bucket.remove(0);
        networks.keep(|peer| *peer != gone);
        assert!(networks.admit(PeerId::random(), crowd, &bucket));
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let mut networks = Networks::default();
        let crowd = network("/ip4/192.0.2.1/tcp/1");
        let first = PeerId::random();
        networks.admit(first, crowd, &[]);
        for _ in 0..MAX_KEPT {
            networks.admit(PeerId::random(), crowd, &[]);
        }
        assert!(networks.is_full() && networks.0.len() == MAX_KEPT);
        networks.keep(|peer| *peer == first);
        assert!(!networks.is_full() && networks.admit(PeerId::random(), crowd, &[]));
    }
}
