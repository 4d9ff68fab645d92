//! What the head of an HTTP request must keep to before anything in it is believed: the same rules at the gateway and at
//! the daemon's socket, so that no two readers of one request see different things in it.
//!
//! Message framing (`Content-Length`, `Transfer-Encoding`) is hyper's: lengths that differ are refused, and of a length
//! beside a transfer coding only the coding counts and the connection ends after the answer (RFC 9112, section 6.3).

use std::net::Ipv6Addr;

use hyper::{HeaderMap, Request, Uri, Version, header, http::uri::Scheme};

use crate::{
    api::{IDEMPOTENCY_HEADER, KEY_HEADER, PRINCIPAL_HEADER, REQUEST_ID_HEADER},
    error::{Code, Problem},
};

/// Headers that are one value: of two, one reader would take the first and another the last.
const SINGLE: [&str; 11] = [
    "authorization",
    "content-length",
    "content-type",
    "host",
    "last-event-id",
    "traceparent",
    "x-api-key",
    IDEMPOTENCY_HEADER,
    KEY_HEADER,
    PRINCIPAL_HEADER,
    REQUEST_ID_HEADER,
];

/// A host and a port, as a `Host` header or an absolute URI names them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Authority {
    /// In lower case, without brackets and the root's dot.
    pub host: String,
    /// If one is named.
    pub port: Option<u16>,
}

/// Checks a request's head; says to whom the request is addressed (nobody is named in HTTP/1.0 without `Host`).
///
/// # Errors
/// `invalid_request`: a header that must be single comes twice, `Host` is missing or malformed (RFC 9112, section 3.2), or
/// the target's authority is another than `Host` names.
pub fn check<B>(request: &Request<B>) -> Result<Option<Authority>, Problem> {
    let headers = request.headers();
    if let Some(name) = SINGLE.iter().find(|name| headers.get_all(**name).iter().nth(1).is_some()) {
        return Err(invalid(format!("the request has more than one {name} header")));
    }
    let mut codings = headers.get_all(header::TRANSFER_ENCODING).iter();
    if codings.next().is_some_and(|coding| !coding.as_bytes().eq_ignore_ascii_case(b"chunked")) || codings.next().is_some() {
        return Err(invalid("the only transfer coding that is understood is one 'chunked'"));
    }
    let named = host(headers)?;
    if named.is_none() && request.version() == Version::HTTP_11 {
        return Err(invalid("the request has no host header"));
    }
    let Some(target) = target(request.uri())? else { return Ok(named) };
    match named {
        Some(named) if !same(&named, &target, request.uri()) => {
            Err(invalid("the host header and the request's target name different hosts"))
        }
        _ => Ok(Some(target)),
    }
}

fn host(headers: &HeaderMap) -> Result<Option<Authority>, Problem> {
    let Some(value) = headers.get(header::HOST) else { return Ok(None) };
    let authority = value.to_str().ok().and_then(parse);
    authority.map(Some).ok_or_else(|| invalid("the host header is not a host name or address with an optional port"))
}

/// The authority of a target in absolute form.
fn target(uri: &Uri) -> Result<Option<Authority>, Problem> {
    let Some(authority) = uri.authority() else { return Ok(None) };
    let known = uri.scheme().is_none_or(|scheme| *scheme == Scheme::HTTP || *scheme == Scheme::HTTPS);
    let parsed = parse(authority.as_str()).filter(|_| known);
    parsed.map(Some).ok_or_else(|| invalid("the request's target is not an http URI with a host and an optional port"))
}

fn same(one: &Authority, other: &Authority, uri: &Uri) -> bool {
    let default = if uri.scheme() == Some(&Scheme::HTTPS) { 443 } else { 80 };
    one.host == other.host && one.port.unwrap_or(default) == other.port.unwrap_or(default)
}

/// Reads `name`, `name:port`, `address:port` or `[v6]:port`. Narrower than RFC 3986: no user, no escapes and no characters
/// that no host name has.
fn parse(text: &str) -> Option<Authority> {
    let (host, rest) = match text.strip_prefix('[') {
        Some(rest) => {
            let (address, rest) = rest.split_once(']')?;
            (address.parse::<Ipv6Addr>().ok()?.to_string(), rest)
        }
        None => {
            let (name, rest) = text.split_at(text.find(':').unwrap_or(text.len()));
            let name = name.strip_suffix('.').unwrap_or(name);
            let fit = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_');
            ((1..=253).contains(&name.len()) && name.bytes().all(fit)).then(|| (name.to_ascii_lowercase(), rest))?
        }
    };
    let port = match rest.strip_prefix(':') {
        None if rest.is_empty() => None,
        Some("") => None,
        Some(port) if port.bytes().all(|byte| byte.is_ascii_digit()) => Some(port.parse().ok()?),
        _ => return None,
    };
    Some(Authority { host, port })
}

fn invalid(detail: impl Into<String>) -> Problem {
    Problem::new(Code::InvalidRequest, detail)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(target: &str, headers: &[(&str, &str)]) -> Result<Option<Authority>, Problem> {
        let request = headers.iter().fold(Request::get(target), |request, (name, value)| request.header(*name, *value));
        check(&request.body(()).expect("a request"))
    }

    #[test]
    fn a_host_is_a_name_or_an_address_and_a_port() {
        for (text, host, port) in [
            ("localhost", "localhost", None),
            ("Node.Example.:8000", "node.example", Some(8000)),
            ("127.0.0.1:80", "127.0.0.1", Some(80)),
            ("[::1]:8000", "::1", Some(8000)),
            ("[::1]", "::1", None),
            ("local:", "local", None),
        ] {
            assert_eq!(parse(text), Some(Authority { host: host.into(), port }), "{text}");
        }
        for text in [
            "",
            ":80",
            ".",
            "a b",
            "user@localhost",
            "localhost:80:80",
            "localhost:+8",
            "localhost:65536",
            "a,b",
            "[::1",
            "[x]:1",
            "[::1]x",
            "a/b",
            "a%62",
            "ä.example",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    #[test]
    fn what_two_readers_could_read_differently_is_refused() {
        assert!(checked("/v1/id", &[("host", "localhost")]).is_ok());
        assert!(checked("http://localhost/v1/id", &[("host", "LOCALHOST:80")]).is_ok());
        assert!(checked("/v1/id", &[("host", "a"), ("transfer-encoding", "Chunked"), ("accept", "a"), ("accept", "b")]).is_ok());
        for (target, headers) in [
            ("/", &[][..]),
            ("/", &[("host", "")]),
            ("/", &[("host", "a"), ("host", "a")]),
            ("/", &[("host", "user@a")]),
            ("http://b/", &[("host", "a")]),
            ("http://a:81/", &[("host", "a")]),
            ("http://user@a/", &[("host", "a")]),
            ("ftp://a/", &[("host", "a")]),
            ("/", &[("host", "a"), ("transfer-encoding", "gzip, chunked")]),
            ("/", &[("host", "a"), ("transfer-encoding", "chunked"), ("transfer-encoding", "chunked")]),
            ("/", &[("host", "a"), ("authorization", "Bearer a"), ("authorization", "Bearer a")]),
            ("/", &[("host", "a"), ("idempotency-key", "one"), ("idempotency-key", "two")]),
            ("/", &[("host", "a"), ("mcp-principal", "one"), ("mcp-principal", "two")]),
        ] {
            assert_eq!(checked(target, headers).expect_err("refused").code, Code::InvalidRequest, "{target} {headers:?}");
        }
        let old = Request::get("/").version(Version::HTTP_10).body(()).expect("a request");
        assert_eq!(check(&old), Ok(None));
    }
}
