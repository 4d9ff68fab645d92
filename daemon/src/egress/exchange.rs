//! One request, one answer.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, header};
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use kernel::{HttpRequest, HttpResponse};

use super::{connect::Stream, target::Target};

/// The longest body of a request.
const MAX_BODY: usize = 1 << 20;
/// The longest body of an answer.
const MAX_ANSWER: usize = 4 << 20;
/// The most headers, of a request and of an answer, and their most bytes.
const MAX_HEADERS: usize = 64;
const MAX_HEAD: usize = 32 * 1024;

/// Headers that say how a message is delimited, where it goes, or what becomes of the connection: those are ours.
const OURS: &[&str] = &[
    "host",
    "content-length",
    "transfer-encoding",
    "connection",
    "keep-alive",
    "te",
    "trailer",
    "upgrade",
    "expect",
    "proxy-authorization",
    "proxy-authenticate",
    "proxy-connection",
];

/// The guest's request as it is sent; the error is for the guest.
pub(super) fn request(target: &Target, asked: HttpRequest) -> Result<Request<Full<Bytes>>, String> {
    let method = Method::from_bytes(asked.method.as_bytes()).ok().filter(|method| *method != Method::CONNECT && *method != Method::TRACE);
    let method = method.ok_or("the method is none that can be used here")?;
    if asked.body.len() > MAX_BODY {
        return Err(format!("the body has {} bytes; at most {MAX_BODY} are sent", asked.body.len()));
    }
    let mut request = Request::new(Full::new(Bytes::from(asked.body)));
    *request.method_mut() = method;
    *request.uri_mut() = target.path.clone();
    *request.headers_mut() = headers(target, &asked.headers)?;
    Ok(request)
}

fn headers(target: &Target, asked: &[(String, String)]) -> Result<HeaderMap, String> {
    let bytes: usize = asked.iter().map(|(name, value)| name.len() + value.len()).sum();
    if asked.len() > MAX_HEADERS || bytes > MAX_HEAD {
        return Err(format!("a request has at most {MAX_HEADERS} headers of {MAX_HEAD} bytes"));
    }
    let mut headers = HeaderMap::new();
    let authority = HeaderValue::from_str(&target.authority()).map_err(|_| "the URL's host is none")?;
    headers.insert(header::HOST, authority);
    headers.insert(header::USER_AGENT, HeaderValue::from_static(concat!("mcp-zero/", env!("CARGO_PKG_VERSION"))));
    for (name, value) in asked {
        let short: String = name.chars().take(40).collect();
        let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| format!("{short:?} is no header's name"))?;
        if OURS.contains(&name.as_str()) {
            return Err(format!("header {name} is not the plugin's to set"));
        }
        let value = HeaderValue::from_bytes(value.as_bytes()).map_err(|_| format!("the value of header {name} can't be sent"))?;
        if name == header::USER_AGENT {
            headers.insert(name, value);
        } else {
            headers.append(name, value);
        }
    }
    Ok(headers)
}

/// What a request takes on the wire, but for TLS.
pub(super) fn size(request: &Request<Full<Bytes>>) -> u64 {
    use hyper::body::Body as _;
    // Between the parts: blanks, colons, ends of lines, the version.
    let line = request.method().as_str().len() + request.uri().to_string().len() + 12;
    let headers: usize = request.headers().iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum();
    (line + headers + 2) as u64 + request.body().size_hint().exact().unwrap_or_default()
}

/// Sends a request and reads its answer; the error is for the guest.
pub(super) async fn exchange(stream: Box<dyn Stream>, request: Request<Full<Bytes>>) -> Result<HttpResponse, String> {
    let failed = |error: hyper::Error| format!("the exchange failed: {error}");
    let mut builder = http1::Builder::new();
    builder.max_headers(MAX_HEADERS).max_buf_size(MAX_HEAD);
    let (mut sender, connection) = builder.handshake(TokioIo::new(stream)).await.map_err(failed)?;
    let answer = async {
        let (head, body) = sender.send_request(request).await.map_err(failed)?.into_parts();
        let body = Limited::new(body, MAX_ANSWER).collect().await.map_err(|error| match error.downcast_ref::<LengthLimitError>() {
            Some(_) => format!("the answer has more than {MAX_ANSWER} bytes"),
            None => format!("the answer broke off: {error}"),
        })?;
        Ok(HttpResponse { status: head.status.as_u16(), headers: readable(&head.headers), body: body.to_bytes().into() })
    };
    let (mut answer, mut connection) = (std::pin::pin!(answer), std::pin::pin!(connection));
    tokio::select! {
        answered = &mut answer => answered,
        // A connection that has ended may have left an answer to be read.
        _ = &mut connection => answer.await,
    }
}

fn readable(headers: &HeaderMap) -> Vec<(String, String)> {
    headers.iter().map(|(name, value)| (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(headers: &[(&str, &str)], body: usize) -> HttpRequest {
        let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        HttpRequest { method: "POST".into(), url: String::new(), headers, body: vec![b'x'; body] }
    }

    fn made(asked: HttpRequest) -> Result<Request<Full<Bytes>>, String> {
        request(&Target::parse("https://a.b:8443/path?q").expect("sound"), asked)
    }

    #[test]
    fn what_belongs_to_the_connection_is_ours() {
        let sent =
            made(asked(&[("Accept", "a"), ("accept", "b"), ("Authorization", "Bearer x"), ("user-agent", "mine")], 3)).expect("sound");
        assert_eq!((sent.headers()["host"].as_bytes(), sent.headers()["user-agent"].as_bytes()), (&b"a.b:8443"[..], &b"mine"[..]));
        assert_eq!((sent.headers().get_all("accept").iter().count(), sent.uri().to_string().as_str()), (2, "/path?q"));
        for ours in ["Host", "content-length", "Transfer-Encoding", "connection", "Upgrade", "proxy-authorization", "Keep-Alive", "TE"] {
            assert!(made(asked(&[(ours, "1")], 0)).expect_err(ours).contains("not the plugin's"), "{ours}");
        }
        for (name, value) in [("a\r\nhost", "b"), ("a b", "c"), ("", "a"), ("a", "b\r\nhost: c"), ("a", "b\0")] {
            assert!(made(asked(&[(name, value)], 0)).is_err(), "{name:?}: {value:?}");
        }
        assert!(made(HttpRequest { method: "CONNECT".into(), ..asked(&[], 0) }).is_err());
        assert!(made(HttpRequest { method: "GET /x".into(), ..asked(&[], 0) }).is_err());
    }

    #[test]
    fn requests_are_bounded_and_counted() {
        assert!(made(asked(&[], MAX_BODY + 1)).is_err());
        assert!(made(asked(&[("a", "b"); MAX_HEADERS + 1], 0)).is_err());
        assert!(made(asked(&[("a", &"b".repeat(MAX_HEAD))], 0)).is_err());
        let (none, some) = (made(asked(&[], 0)).expect("sound"), made(asked(&[("ab", "cd")], 100)).expect("sound"));
        assert_eq!(size(&some) - size(&none), 100 + 2 + 2 + 4);
        let wire = "POST /path?q HTTP/1.1\r\nhost: a.b:8443\r\nuser-agent: mcp-zero/0.1.0\r\n\r\n";
        assert_eq!(size(&none), wire.len() as u64);
    }
}
