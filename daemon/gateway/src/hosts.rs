//! Which Host names are answered to. A gateway on loopback that answered to any would answer to a web page whose name
//! was rebound to 127.0.0.1.

use std::net::IpAddr;

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
        if allowed.iter().any(|name| name == "*") || allowed.is_empty() && !address.is_loopback() {
            Self::Any
        } else {
            Self::Only(allowed.iter().map(|name| name.to_ascii_lowercase()).collect())
        }
    }

    /// Whether a request to this authority (`name`, `name:port`, `[v6]:port`) is answered.
    pub(crate) fn permit(&self, authority: Option<&str>) -> bool {
        match (self, authority) {
            (Self::Any, _) => true,
            (Self::Only(_), None) => false,
            (Self::Only(allowed), Some(authority)) => {
                let name = name(authority).to_ascii_lowercase();
                let loopback = name == "localhost" || name.parse::<IpAddr>().is_ok_and(|address| address.is_loopback());
                loopback || allowed.contains(&name)
            }
        }
    }
}

/// The authority without its port and the brackets of IPv6.
fn name(authority: &str) -> &str {
    if let Some(rest) = authority.strip_prefix('[') {
        return rest.split_once(']').map_or("", |(address, _)| address);
    }
    let name = authority.rsplit_once(':').map_or(authority, |(name, _)| name);
    name.strip_suffix('.').unwrap_or(name)
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use super::*;

    #[test]
    fn on_loopback_only_loopback_names_are_answered_to() {
        let hosts = Hosts::new(Ipv4Addr::LOCALHOST.into(), &[]);
        for host in ["localhost", "LOCALHOST:8000", "localhost.:80", "127.0.0.1:8000", "127.8.8.8", "[::1]:8000"] {
            assert!(hosts.permit(Some(host)), "{host}");
        }
        for host in ["evil.example", "evil.example:8000", "localhost.evil.example", "10.0.0.1:8000", "[fe80::1]:80", "[::1", ""] {
            assert!(!hosts.permit(Some(host)), "{host}");
        }
        assert!(!hosts.permit(None));
    }

    #[test]
    fn elsewhere_any_name_is_unless_some_are_named() {
        let everywhere = IpAddr::from(Ipv6Addr::UNSPECIFIED);
        assert!(Hosts::new(everywhere, &[]).permit(Some("node.example")));
        let named = Hosts::new(everywhere, &["Node.example".into()]);
        assert!(named.permit(Some("node.example:8000")) && named.permit(Some("localhost")) && !named.permit(Some("other.example")));
        assert!(Hosts::new(Ipv4Addr::LOCALHOST.into(), &["*".into()]).permit(Some("any.example")));
    }
}
