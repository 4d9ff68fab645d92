//! Which Host names are answered to. A gateway on loopback that answered to any would answer to a web page whose name
//! was rebound to 127.0.0.1.

use std::net::IpAddr;

use protocol::head::Authority;

/// The names that are answered to.
#[derive(Debug)]
pub(crate) enum Hosts {
    /// Any.
    Any,
    /// Loopback names, and these (in lower case).
    Only(Vec<String>),
}

impl Hosts {
    /// Those of a gateway that listens on `address`, where the operator allows `allowed`.
    pub(crate) fn new(address: IpAddr, allowed: &[String]) -> Self {
        if allowed.iter().any(|name| name == "*") || allowed.is_empty() && !is_loopback(address) {
            Self::Any
        } else {
            Self::Only(allowed.iter().map(|name| name.to_ascii_lowercase()).collect())
        }
    }

    /// Whether a request to this authority is answered.
    pub(crate) fn permit(&self, authority: Option<&Authority>) -> bool {
        match (self, authority) {
            (Self::Any, _) => true,
            (Self::Only(_), None) => false,
            (Self::Only(allowed), Some(Authority { host, .. })) => {
                host == "localhost" || host.parse::<IpAddr>().is_ok_and(is_loopback) || allowed.contains(host)
            }
        }
    }
}

/// Whether only this machine reaches the address, written as IPv4 within IPv6 too.
pub(crate) fn is_loopback(address: IpAddr) -> bool {
    address.to_canonical().is_loopback()
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use super::*;

    fn permits(hosts: &Hosts, host: &str) -> bool {
        hosts.permit(Some(&Authority { host: host.into(), port: None }))
    }

    #[test]
    fn on_loopback_only_loopback_names_are_answered_to() {
        let mapped = IpAddr::from(Ipv4Addr::LOCALHOST.to_ipv6_mapped());
        for address in [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into(), mapped] {
            let hosts = Hosts::new(address, &[]);
            for host in ["localhost", "127.0.0.1", "127.8.8.8", "::1", "::ffff:127.0.0.1"] {
                assert!(permits(&hosts, host), "{host}");
            }
            for host in ["evil.example", "localhost.evil.example", "10.0.0.1", "fe80::1", ""] {
                assert!(!permits(&hosts, host), "{host}");
            }
            assert!(!hosts.permit(None));
        }
    }

    #[test]
    fn elsewhere_any_name_is_unless_some_are_named() {
        let everywhere = IpAddr::from(Ipv6Addr::UNSPECIFIED);
        assert!(permits(&Hosts::new(everywhere, &[]), "node.example") && Hosts::new(everywhere, &[]).permit(None));
        let named = Hosts::new(everywhere, &["Node.example".into()]);
        assert!(permits(&named, "node.example") && permits(&named, "localhost") && !permits(&named, "other.example"));
        assert!(permits(&Hosts::new(Ipv4Addr::LOCALHOST.into(), &["*".into()]), "any.example"));
    }
}
