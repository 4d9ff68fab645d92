//! What goes on to the daemon, and what of its answer comes back: lists of headers, nothing else is touched.

use axum::body::Body;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, header, request::Parts};
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use protocol::{
    Problem,
    api::{IDEMPOTENCY_HEADER, KEY_HEADER, PRINCIPAL_HEADER, REQUEST_ID_HEADER},
    error::Code,
};

use crate::auth::Holder;

/// What passes to the daemon. A list of what may pass, so that no caller can name a principal or a hop of its own.
const PASSED: [&str; 6] = ["accept", "content-type", IDEMPOTENCY_HEADER, "last-event-id", "traceparent", "tracestate"];
/// What concerns one connection only (RFC 9110, section 7.6.1) and stays behind on the way back.
const HOP_BY_HOP: [&str; 8] =
    ["connection", "keep-alive", "proxy-authenticate", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade"];

/// The request for the daemon: method, path, query and body as they came, for whoever holds the key.
pub(crate) fn outgoing(parts: &Parts, body: Bytes, holder: &Holder, request_id: &str) -> Result<Request<Full<Bytes>>, Problem> {
    let unfit = |error: http::Error| Problem::new(Code::InvalidRequest, error.to_string());
    let mut request = Request::builder().method(parts.method.clone()).uri(parts.uri.clone()).body(Full::new(body)).map_err(unfit)?;
    let headers = request.headers_mut();
    for name in PASSED.map(HeaderName::from_static) {
        headers.extend(parts.headers.get_all(&name).iter().map(|value| (name.clone(), value.clone())));
    }
    let value = |text: &str| HeaderValue::from_str(text).map_err(|error| unfit(error.into()));
    headers.insert(PRINCIPAL_HEADER, value(&holder.principal.to_string())?);
    if let Some(key) = &holder.key {
        headers.insert(KEY_HEADER, value(&key.to_string())?);
    }
    headers.insert(REQUEST_ID_HEADER, value(request_id)?);
    Ok(request)
}

/// The daemon's answer for the caller, streamed; `held` is dropped when its body ends.
pub(crate) fn incoming<H: Send + 'static>(response: Response<Incoming>, held: H) -> Response<Body> {
    let (mut parts, body) = response.into_parts();
    strip(&mut parts.headers);
    let body = body.map_frame(move |frame| {
        let _ = &held;
        frame
    });
    Response::from_parts(parts, Body::new(body))
}

fn strip(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    for name in named {
        headers.remove(name);
    }
    for name in HOP_BY_HOP {
        headers.remove(name);
    }
}

#[cfg(test)]
mod tests {
    use protocol::Key;

    use super::*;

    #[test]
    fn only_listed_headers_pass_and_the_principal_is_ours() {
        let request = Request::post("http://gateway.example/v1/agents/docs/execute?x=%2F")
            .header("content-type", "application/json")
            .header("idempotency-key", "once")
            .header("mcp-principal", "did:key:zForged")
            .header("mcp-key", "key_forged")
            .header("x-request-id", "theirs")
            .header("authorization", "Bearer secret")
            .header("x-api-key", "secret")
            .header("connection", "keep-alive, x-hop")
            .header("x-hop", "1")
            .header("cookie", "a=b")
            .body(())
            .expect("request");
        let (parts, ()) = request.into_parts();
        let principal = Key::generate().did();
        let key = protocol::id::KeyId::new();
        let outgoing = |key| outgoing(&parts, Bytes::from_static(b"{}"), &Holder::for_test(principal, key), "ours").expect("outgoing");
        assert!(!outgoing(None).headers().contains_key(KEY_HEADER), "a static key is the gateway's own");
        let request = outgoing(Some(key));
        assert_eq!(request.uri().path_and_query().expect("path").as_str(), "/v1/agents/docs/execute?x=%2F");
        let mut names: Vec<&str> = request.headers().keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        assert_eq!(names, ["content-type", "idempotency-key", "mcp-key", "mcp-principal", "x-request-id"]);
        assert_eq!(request.headers().get_all(PRINCIPAL_HEADER).iter().collect::<Vec<_>>(), [&principal.to_string()]);
        assert_eq!(
            (&request.headers()[REQUEST_ID_HEADER], &request.headers()[KEY_HEADER]),
            (&"ours".parse().expect("value"), &key.to_string().parse().expect("value"))
        );
    }

    #[test]
    fn hop_by_hop_headers_stay_behind() {
        let mut headers = HeaderMap::new();
        for (name, value) in [("connection", "close, x-hop"), ("x-hop", "1"), ("transfer-encoding", "chunked"), ("x-request-id", "id")] {
            headers.insert(name, HeaderValue::from_static(value));
        }
        strip(&mut headers);
        assert_eq!(headers.keys().map(HeaderName::as_str).collect::<Vec<_>>(), ["x-request-id"]);
    }
}
