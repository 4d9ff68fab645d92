//! What a request is for: pure, by method and path.

use http::Method;
use protocol::{Code, Problem, api::MAX_BODY, manifest::MAX_COMPONENT};

/// What to do with a request.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Route {
    /// The gateway lives.
    Health,
    /// The daemon behind it serves.
    Ready,
    /// Goes to the daemon, with a body of at most this many bytes.
    Forward(usize),
}

/// Where a request goes.
///
/// # Errors
/// Says that there is no such thing, or that it isn't for callers from outside.
pub(crate) fn route(method: &Method, path: &str) -> Result<Route, Problem> {
    match path {
        "/healthz" if method == Method::GET || method == Method::HEAD => return Ok(Route::Health),
        "/readyz" if method == Method::GET || method == Method::HEAD => return Ok(Route::Ready),
        _ => {}
    }
    let unknown = || Problem::new(Code::NotFound, format!("there is no {method} {}", path.chars().take(200).collect::<String>()));
    let rest = path.strip_prefix("/v1/").ok_or_else(unknown)?;
    let segments: Vec<&str> = rest.split('/').collect();
    // Another spelling of a route must not slip by: the daemon's nouns and verbs need no escapes, and paths no dots.
    let odd = |segment: &&str| segment.is_empty() || *segment == "." || *segment == "..";
    if segments.iter().any(odd)
        || segments[0].contains('%')
        || segments.last().is_some_and(|verb| matches!(segments[0], "keys" | "trace") && verb.contains('%'))
    {
        return Err(unknown());
    }
    let kept = |what: &str| Err(Problem::new(Code::NotAuthorized, format!("{what} only on the node itself")).hint("use 'mcpctl' there"));
    match (segments.as_slice(), method) {
        (["keys", "resolve", ..], _) => Err(unknown()),
        (["keys"], &Method::POST) => kept("keys are made"),
        (["config", ..], _) => kept("the configuration is shown"),
        // What is gone is gone.
        (["trace", "prune"], _) => kept("the trace is pruned"),
        // They reach into the node's own network.
        (["webhooks"], &Method::POST) => kept("webhooks are made"),
        (["blobs", ..], &Method::PUT) => Ok(Route::Forward(MAX_COMPONENT)),
        _ => Ok(Route::Forward(MAX_BODY)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_goes_to_the_daemon_is_bounded() {
        assert_eq!(route(&Method::POST, "/v1/agents/docs/execute"), Ok(Route::Forward(MAX_BODY)));
        assert_eq!(route(&Method::PUT, "/v1/blobs/blake3:00"), Ok(Route::Forward(MAX_COMPONENT)));
        assert_eq!(route(&Method::POST, "/v1/blobs/blake3:00"), Ok(Route::Forward(MAX_BODY)));
        assert_eq!(route(&Method::GET, "/v1/keys"), Ok(Route::Forward(MAX_BODY)));
        assert_eq!(route(&Method::DELETE, "/v1/publishers/did%3Akey%3Az6"), Ok(Route::Forward(MAX_BODY)));
        assert_eq!(route(&Method::GET, "/healthz"), Ok(Route::Health));
        assert_eq!(route(&Method::GET, "/readyz"), Ok(Route::Ready));
    }

    #[test]
    fn what_is_not_for_outside_has_no_other_spelling() {
        let refused = |method: Method, path: &str, code| assert_eq!(route(&method, path).expect_err(path).code, code, "{path}");
        for path in ["/v1/keys/resolve", "/v1/keys/resolve/", "/v1/keys/res%6flve", "/v1/k%65ys/resolve", "/v1//keys/resolve"] {
            refused(Method::POST, path, Code::NotFound);
        }
        for path in ["/v1/x/../keys/resolve", "/v1/./config", "/v1/", "/v1", "/", "/metrics", "/healthz/", "//v1/status"] {
            refused(Method::GET, path, Code::NotFound);
        }
        refused(Method::POST, "/v1/keys", Code::NotAuthorized);
        refused(Method::POST, "/v1/webhooks", Code::NotAuthorized);
        refused(Method::POST, "/v1/trace/prune", Code::NotAuthorized);
        refused(Method::POST, "/v1/trace/pr%75ne", Code::NotFound);
        refused(Method::GET, "/v1/config", Code::NotAuthorized);
        refused(Method::GET, "/v1/config/mesh", Code::NotAuthorized);
        refused(Method::POST, "/healthz", Code::NotFound);
    }
}
