//! Which addresses an agent's request may go to: public ones, and those that the operator names.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

const fn v4(a: u8, b: u8, c: u8, d: u8, prefix: u8) -> Ipv4Net {
    Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), prefix)
}

const fn v6(a: u16, b: u16, prefix: u8) -> Ipv6Net {
    Ipv6Net::new_assert(Ipv6Addr::new(a, b, 0, 0, 0, 0, 0, 0), prefix)
}

/// Not public, by IANA's registry of special-purpose addresses (RFC 6890), or special to somebody's cloud.
const RESERVED_V4: &[Ipv4Net] = &[
    v4(0, 0, 0, 0, 8),        // this network: reaches the machine itself
    v4(10, 0, 0, 0, 8),       // private
    v4(100, 64, 0, 0, 10),    // carriers' NAT; metadata in some clouds
    v4(127, 0, 0, 0, 8),      // loopback
    v4(169, 254, 0, 0, 16),   // link-local; metadata in most clouds
    v4(172, 16, 0, 0, 12),    // private
    v4(192, 0, 0, 0, 24),     // protocols' own
    v4(192, 0, 2, 0, 24),     // documentation
    v4(192, 88, 99, 0, 24),   // 6to4 relays
    v4(192, 168, 0, 0, 16),   // private
    v4(198, 18, 0, 0, 15),    // benchmarks
    v4(198, 51, 100, 0, 24),  // documentation
    v4(203, 0, 113, 0, 24),   // documentation
    v4(168, 63, 129, 16, 32), // Azure's metadata, at a public address
    v4(224, 0, 0, 0, 4),      // multicast
    v4(240, 0, 0, 0, 4),      // reserved, broadcast
];

/// All that is public of IPv6. What isn't in it: loopback, unique local, link-local, multicast, NAT64.
const GLOBAL_V6: Ipv6Net = v6(0x2000, 0, 3);
const RESERVED_V6: &[Ipv6Net] = &[
    v6(0x2001, 0, 23),     // protocols' own; Teredo, which hides an IPv4 address
    v6(0x2001, 0xdb8, 32), // documentation
    v6(0x2002, 0, 16),     // 6to4, which hides an IPv4 address
    v6(0x3fff, 0, 20),     // documentation
];

/// Whether a request may go to an address.
pub(super) fn permitted(address: IpAddr, networks: &[IpNet]) -> bool {
    // An IPv4 address in an IPv6 one reaches the same machine.
    let address = address.to_canonical();
    networks.iter().any(|network| network.contains(&address)) || is_public(address)
}

fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => !RESERVED_V4.iter().any(|network| network.contains(&address)),
        IpAddr::V6(address) => GLOBAL_V6.contains(&address) && !RESERVED_V6.iter().any(|network| network.contains(&address)),
    }
}

/// A network (`10.0.0.0/8`), or a single address.
pub(crate) fn network(text: &str) -> Result<IpNet, String> {
    let single = || text.parse::<IpAddr>().map(IpNet::from);
    text.parse().or_else(|_| single()).map_err(|_| format!("{text:?} is not a network such as 10.0.0.0/8 or fd00::/8"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_public_addresses_pass() {
        let passes = |text: &str| permitted(text.parse().expect(text), &[]);
        for public in
            ["1.1.1.1", "44.0.0.7", "93.184.216.34", "172.32.0.1", "100.128.0.1", "2606:4700::1111", "2a00:1450::1", "::ffff:1.1.1.1"]
        {
            assert!(passes(public), "{public}");
        }
        for other in [
            "0.0.0.0",
            "10.1.2.3",
            "100.100.100.200",
            "127.0.0.1",
            "127.255.0.1",
            "169.254.169.254",
            "172.31.0.1",
            "192.168.1.1",
            "192.0.0.192",
            "198.19.0.1",
            "168.63.129.16",
            "224.0.0.251",
            "255.255.255.255",
            "::",
            "::1",
            "::ffff:127.0.0.1",
            "::ffff:169.254.169.254",
            "::127.0.0.1",
            "fe80::1",
            "fd00:ec2::254",
            "fec0::1",
            "ff02::1",
            "64:ff9b::7f00:1",
            "2001::1",
            "2001:db8::1",
            "2002:7f00:1::",
            "3fff::1",
            "100::1",
        ] {
            assert!(!passes(other), "{other}");
        }
    }

    #[test]
    fn the_operator_lets_through_what_is_named() {
        let networks = ["127.0.0.0/8", "fd00::/8", "10.0.0.7"].map(|text| network(text).expect(text));
        let passes = |text: &str| permitted(text.parse().expect(text), &networks);
        assert!(passes("127.0.0.1") && passes("::ffff:127.0.0.1") && passes("fd12::1") && passes("10.0.0.7") && passes("1.1.1.1"));
        assert!(!passes("::1") && !passes("10.0.0.8") && !passes("169.254.169.254"));
        assert!(network("10.0.0.0/33").is_err() && network("example.com").is_err());
    }
}
