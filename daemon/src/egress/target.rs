//! Where a URL leads. What could be read in two ways is refused.

use std::fmt;

use http::Uri;
use protocol::grant;

/// The longest URL.
const MAX_URL: usize = 8 * 1024;

/// Where a request goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Target {
    pub(super) tls: bool,
    /// A name in lower case, or an address without brackets.
    pub(super) host: String,
    pub(super) port: u16,
    /// Path and query.
    pub(super) path: Uri,
}

impl Target {
    /// Reads a URL; the error is for the guest.
    pub(super) fn parse(url: &str) -> Result<Self, String> {
        if url.len() > MAX_URL {
            return Err(format!("a URL has at most {MAX_URL} bytes"));
        }
        let invalid = |reason: &str| format!("the URL is wrong: {reason}");
        let uri: Uri = url.parse().map_err(|error: http::uri::InvalidUri| invalid(&error.to_string()))?;
        let tls = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return Err(invalid("it begins with https:// or http://")),
        };
        let authority = uri.authority().map(http::uri::Authority::as_str).unwrap_or_default();
        if authority.contains('@') {
            return Err(invalid("user and password go into a header"));
        }
        let written = uri.host().unwrap_or_default();
        let host = grant::host(written).ok_or_else(|| invalid("its host is neither a name nor an address"))?;
        let port = match authority.strip_prefix(written) {
            Some("") => Some(if tls { 443 } else { 80 }),
            Some(rest) => rest.strip_prefix(':').and_then(port),
            None => None,
        };
        let port = port.ok_or_else(|| invalid("its port is none"))?;
        let path = uri.path_and_query().map_or("/", http::uri::PathAndQuery::as_str);
        // Where the path is left out, a query stands alone.
        let path = if path.starts_with('?') { format!("/{path}") } else { path.to_owned() };
        let path = path.parse().map_err(|_| invalid("its path is none"))?;
        Ok(Self { tls, host, port, path })
    }

    /// The `Host` header.
    pub(super) fn authority(&self) -> String {
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        let usual = if self.tls { 443 } else { 80 };
        if self.port == usual { host } else { format!("{host}:{}", self.port) }
    }
}

fn port(text: &str) -> Option<u16> {
    let digits = text.bytes().all(|b| b.is_ascii_digit());
    text.parse().ok().filter(|port| digits && *port > 0)
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", if self.tls { "https://" } else { "http://" }, self.authority())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_says_where_it_leads() {
        let target = Target::parse("https://API.example.com/a/b?c=d#e").expect("sound");
        assert_eq!((target.tls, target.host.as_str(), target.port), (true, "api.example.com", 443));
        assert_eq!((target.path.to_string().as_str(), target.authority().as_str()), ("/a/b?c=d", "api.example.com"));
        let target = Target::parse("http://[::0001]:8080").expect("sound");
        assert_eq!((target.host.as_str(), target.authority().as_str(), target.path.path()), ("::1", "[::1]:8080", "/"));
        assert_eq!(Target::parse("https://a.b?c").expect("sound").path.to_string(), "/?c");
    }

    #[test]
    fn what_can_be_read_in_two_ways_is_refused() {
        for bad in [
            "",
            "/path",
            "a.b/path",
            "ftp://a.b/",
            "https://",
            "https://user@a.b/",
            "https://a.b@evil.org/",
            "https://a.b\\@evil.org/",
            "https://a.b:0/",
            "https://a.b:99999/",
            "https://a.b:+1/",
            "https://a.b.:443/",
            "https://a b/",
            "https://a.b/\r\nHost: c",
            "https://a%2eb/",
            "https://[::1/",
            "file:///etc/passwd",
        ] {
            assert!(Target::parse(bad).is_err(), "{bad:?}");
        }
        assert!(Target::parse(&format!("https://a.b/{}", "x".repeat(MAX_URL))).is_err());
    }
}
