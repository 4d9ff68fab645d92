//! What an agent may reach outside of itself: hosts by HTTP, and other agents.
//!
//! State, log, clock and random bytes are every agent's; the rest is granted to one agent by its owner, and bounded by what
//! its node allows any of them.

use std::{fmt, net::IpAddr, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::{
    id::AgentId,
    manifest::{Import, is_name},
};

/// Hosts, and agents, that one agent can be granted.
pub const MAX_GRANTS: usize = 64;
/// The longest name of a host (RFC 1035).
const MAX_HOST: usize = 253;
const HTTPS: u16 = 443;
const HTTP: u16 = 80;

/// What one agent may reach.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Grants {
    /// Hosts.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub http: Vec<HostPattern>,
    /// Agents.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub agents: Vec<AgentPattern>,
}

impl Grants {
    /// Whether it may reach nothing.
    pub fn is_empty(&self) -> bool {
        self.http.is_empty() && self.agents.is_empty()
    }

    /// Whether an agent with these grants may use an import at all.
    pub fn includes(&self, import: Import) -> bool {
        match import {
            Import::State | Import::Log | Import::Clock | Import::Random => true,
            Import::Http => !self.http.is_empty(),
            Import::Agents => !self.agents.is_empty(),
        }
    }
}

/// A text that is no pattern.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Invalid {
    /// Of hosts.
    #[error("{0:?} is not a host such as api.example.com, *.example.com:8443 or http://10.0.0.7:8080")]
    Host(String),
    /// Of agents.
    #[error("{0:?} is neither an agent's name nor its id, nor '*'")]
    Agent(String),
}

fn cut(text: &str) -> String {
    text.chars().take(80).collect()
}

/// Hosts that may be reached: `api.example.com`, `*.example.com`, or `*` for any; over TLS at port 443 unless a port, or
/// `http://`, says otherwise.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct HostPattern {
    tls: bool,
    host: Hosts,
    port: u16,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Hosts {
    Any,
    /// Every name that ends with a dot and this one.
    Below(String),
    One(String),
}

impl HostPattern {
    /// Whether a host is one of these, its name as [`host`] gives it.
    pub fn matches(&self, tls: bool, host: &str, port: u16) -> bool {
        let named = match &self.host {
            Hosts::Any => true,
            Hosts::Below(domain) => is_below(host, domain),
            Hosts::One(name) => name == host,
        };
        named && self.tls == tls && self.port == port
    }

    /// Whether every host of `other` is one of these.
    pub fn covers(&self, other: &Self) -> bool {
        let named = match (&self.host, &other.host) {
            (Hosts::Any, _) => true,
            (Hosts::Below(ours), Hosts::Below(theirs)) => ours == theirs || is_below(theirs, ours),
            (Hosts::Below(ours), Hosts::One(theirs)) => is_below(theirs, ours),
            (Hosts::One(ours), Hosts::One(theirs)) => ours == theirs,
            (Hosts::Below(_), Hosts::Any) | (Hosts::One(_), Hosts::Any | Hosts::Below(_)) => false,
        };
        named && self.tls == other.tls && self.port == other.port
    }
}

fn is_below(host: &str, domain: &str) -> bool {
    host.strip_suffix(domain).is_some_and(|rest| rest.len() > 1 && rest.ends_with('.'))
}

/// A host's name in lower case, or its address as it is usually written; none if it is neither. `[::1]` is `::1`.
pub fn host(text: &str) -> Option<String> {
    if let Some(inner) = text.strip_prefix('[') {
        return inner.strip_suffix(']')?.parse::<std::net::Ipv6Addr>().ok().map(|address| address.to_string());
    }
    if let Ok(address) = text.parse::<std::net::Ipv4Addr>() {
        return Some(address.to_string());
    }
    let label = |label: &str| {
        let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
        (1..=63).contains(&label.len()) && label.bytes().all(plain)
    };
    (text.len() <= MAX_HOST && text.split('.').all(label)).then(|| text.to_ascii_lowercase())
}

impl FromStr for HostPattern {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let invalid = || Invalid::Host(cut(text));
        let (tls, rest) = match (text.strip_prefix("http://"), text.strip_prefix("https://")) {
            (Some(rest), _) => (false, rest),
            (None, Some(rest)) => (true, rest),
            (None, None) => (true, text),
        };
        let (name, port) = match rest.rsplit_once(':') {
            // The colons of an address in brackets are no port's.
            Some((name, port)) if !port.ends_with(']') => {
                let digits = port.bytes().all(|b| b.is_ascii_digit());
                (name, port.parse().ok().filter(|port| *port > 0 && digits).ok_or_else(invalid)?)
            }
            _ => (rest, if tls { HTTPS } else { HTTP }),
        };
        let hosts = match name.strip_prefix("*.") {
            _ if name == "*" => Some(Hosts::Any),
            // There is nothing below an address.
            Some(domain) => host(domain).filter(|domain| domain.parse::<IpAddr>().is_err()).map(Hosts::Below),
            None => host(name).map(Hosts::One),
        };
        Ok(Self { tls, host: hosts.ok_or_else(invalid)?, port })
    }
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (scheme, usual) = if self.tls { ("", HTTPS) } else { ("http://", HTTP) };
        match &self.host {
            Hosts::Any => write!(f, "{scheme}*")?,
            Hosts::Below(domain) => write!(f, "{scheme}*.{domain}")?,
            Hosts::One(address) if address.contains(':') => write!(f, "{scheme}[{address}]")?,
            Hosts::One(name) => write!(f, "{scheme}{name}")?,
        }
        if self.port == usual { Ok(()) } else { write!(f, ":{}", self.port) }
    }
}

impl TryFrom<String> for HostPattern {
    type Error = Invalid;

    fn try_from(text: String) -> Result<Self, Invalid> {
        text.parse()
    }
}

impl From<HostPattern> for String {
    fn from(pattern: HostPattern) -> Self {
        pattern.to_string()
    }
}

/// Agents that may be called.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum AgentPattern {
    /// `*`: whichever there are.
    Any,
    /// The one of this id, wherever it lives.
    Id(AgentId),
    /// The one of this name on the caller's node.
    Name(String),
}

impl AgentPattern {
    /// Whether an agent is one of these; `name` if it lives on the caller's node.
    pub fn matches(&self, id: &AgentId, name: Option<&str>) -> bool {
        match self {
            Self::Any => true,
            Self::Id(granted) => granted == id,
            Self::Name(granted) => name == Some(granted.as_str()),
        }
    }
}

impl FromStr for AgentPattern {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        match text.parse() {
            _ if text == "*" => Ok(Self::Any),
            Ok(id) => Ok(Self::Id(id)),
            Err(_) if is_name(text) => Ok(Self::Name(text.into())),
            Err(_) => Err(Invalid::Agent(cut(text))),
        }
    }
}

impl fmt::Display for AgentPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("*"),
            Self::Id(id) => id.fmt(f),
            Self::Name(name) => f.write_str(name),
        }
    }
}

impl TryFrom<String> for AgentPattern {
    type Error = Invalid;

    fn try_from(text: String) -> Result<Self, Invalid> {
        text.parse()
    }
}

impl From<AgentPattern> for String {
    fn from(pattern: AgentPattern) -> Self {
        pattern.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pattern(text: &str) -> HostPattern {
        text.parse().expect(text)
    }

    #[test]
    fn hosts_read_back_and_match_what_they_say() {
        for text in ["api.example.com", "*.example.com:8443", "*", "http://127.0.0.1:8080", "[2001:db8::1]:444", "http://localhost"] {
            assert_eq!(pattern(text).to_string(), text);
        }
        assert_eq!(pattern("https://API.Example.com:443").to_string(), "api.example.com");
        let one = pattern("api.example.com");
        assert!(one.matches(true, "api.example.com", 443));
        assert!(!one.matches(false, "api.example.com", 443) && !one.matches(true, "api.example.com", 444));
        assert!(!one.matches(true, "api.example.com.evil.org", 443) && !one.matches(true, "x.api.example.com", 443));
        let below = pattern("*.example.com");
        assert!(below.matches(true, "a.b.example.com", 443));
        assert!(!below.matches(true, "example.com", 443) && !below.matches(true, "badexample.com", 443));
        assert!(!below.matches(true, ".example.com", 443));
    }

    #[test]
    fn what_is_no_host_is_refused() {
        for bad in [
            "",
            "a b",
            "http://",
            "a/b",
            "user@a",
            "a:0",
            "a:70000",
            "a:+1",
            "*.",
            "*.10.0.0.1",
            "a.*.b",
            "**",
            "::1",
            "[::1",
            "a..b",
            "a.",
            "ftp://a",
            "a?b",
            "[fe80::1%eth0]",
        ] {
            assert!(bad.parse::<HostPattern>().is_err(), "{bad:?}");
        }
        assert!(serde_json::from_str::<Grants>(r#"{"http":["a/b"]}"#).is_err());
    }

    #[test]
    fn a_wider_pattern_covers_a_narrower_one() {
        let covers = |a: &str, b: &str| pattern(a).covers(&pattern(b));
        assert!(covers("*", "*.a.b") && covers("*.b", "*.a.b") && covers("*.b", "a.b") && covers("a.b", "a.b"));
        assert!(!covers("*.a.b", "*.b") && !covers("a.b", "*.a.b") && !covers("*.b", "*") && !covers("*.b", "b"));
        assert!(!covers("*", "http://a.b") && !covers("*", "a.b:8443"));
    }

    #[test]
    fn agents_are_granted_by_name_id_or_all() {
        let id = AgentId::new();
        let granted = |text: &str| text.parse::<AgentPattern>().expect(text);
        assert!(granted("*").matches(&id, None) && granted(&id.to_string()).matches(&id, Some("other")));
        assert!(granted("docs").matches(&id, Some("docs")) && !granted("docs").matches(&id, None));
        assert!(!granted(&AgentId::new().to_string()).matches(&id, Some("docs")));
        assert!("Docs".parse::<AgentPattern>().is_err());
        let grants = Grants { http: Vec::new(), agents: vec![granted("docs"), granted("*")] };
        assert!(grants.includes(Import::Agents) && grants.includes(Import::Clock) && !grants.includes(Import::Http));
        let text = serde_json::to_string(&grants).expect("JSON");
        assert_eq!((text.as_str(), serde_json::from_str::<Grants>(&text).expect("own text")), (r#"{"agents":["docs","*"]}"#, grants));
    }
}
