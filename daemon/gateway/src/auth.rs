//! Who asks: a key from the request's headers, and the principal that it speaks for.
//!
//! ```text
//! Authorization: Bearer K | X-API-Key: K ── SHA-256 ─> static keys ─> the node's owner
//!                                              `─> cache (5 s) ─> POST /v1/keys/resolve ─> the key's principal
//! ```
//!
//! Only digests are compared, cached and sent; a key that was revoked dies with its cache entry.

use std::time::{Duration, Instant};

use http::{HeaderMap, header};
use parking_lot::Mutex;
use protocol::{
    Client, Code, Did, Digest, Problem, Timestamp,
    api::{ApiKey, Identity, ResolveKey},
};

use crate::{cache::Cache, keys::StaticKeys};

/// Keys in use at one time, at one gateway. Those that are unknown have a cache of their own: guesses don't push out keys.
const CACHED: usize = 1024;
/// How long a revoked key may live on.
const KNOWN: Duration = Duration::from_secs(5);
/// How long a new key may be refused, if it was tried before it was made.
const UNKNOWN: Duration = Duration::from_secs(1);
/// Longer than any key; what is longer isn't even hashed.
const MAX_KEY: usize = 512;

/// Knows keys and their principals.
#[derive(Debug)]
pub(crate) struct Authenticator {
    client: Client,
    keys: StaticKeys,
    known: Mutex<Cache<Digest, Known>>,
    unknown: Mutex<Cache<Digest, ()>>,
    owner: Mutex<Cache<(), Did>>,
}

#[derive(Debug, Clone)]
struct Known {
    principal: Did,
    expires_at: Option<Timestamp>,
}

impl Authenticator {
    pub(crate) fn new(client: Client, keys: StaticKeys) -> Self {
        Self {
            client,
            keys,
            known: Mutex::new(Cache::new(CACHED, KNOWN)),
            unknown: Mutex::new(Cache::new(CACHED, UNKNOWN)),
            owner: Mutex::new(Cache::new(1, KNOWN)),
        }
    }

    /// The principal that the request's key speaks for.
    pub(crate) async fn principal(&self, headers: &HeaderMap) -> Result<Did, Problem> {
        let digest = presented(headers)?;
        if self.keys.contains(&digest) {
            return self.owner().await;
        }
        let now = Instant::now();
        if self.unknown.lock().get(&digest, now).is_some() {
            return Err(refused());
        }
        let cached = self.known.lock().get(&digest, now);
        let known = match cached {
            Some(known) => known,
            None => self.resolve(digest).await?,
        };
        if known.expires_at.is_some_and(|at| at <= Timestamp::now()) { Err(refused()) } else { Ok(known.principal) }
    }

    /// Static keys are the operator's: they speak for the node's owner.
    async fn owner(&self) -> Result<Did, Problem> {
        let cached = self.owner.lock().get(&(), Instant::now());
        if let Some(owner) = cached {
            return Ok(owner);
        }
        let identity: Identity = self.client.get("/v1/id").await?;
        self.owner.lock().put((), identity.owner, Instant::now());
        Ok(identity.owner)
    }

    async fn resolve(&self, digest: Digest) -> Result<Known, Problem> {
        match self.client.post::<_, ApiKey>("/v1/keys/resolve", &ResolveKey { digest }).await {
            Ok(key) => {
                let known = Known { principal: key.principal, expires_at: key.expires_at };
                self.known.lock().put(digest, known.clone(), Instant::now());
                Ok(known)
            }
            Err(problem) if is_verdict(problem.code) => {
                self.unknown.lock().put(digest, (), Instant::now());
                Err(refused())
            }
            Err(problem) => Err(problem),
        }
    }
}

/// Whether the daemon said that there is no such key, rather than nothing.
fn is_verdict(code: Code) -> bool {
    matches!(code, Code::NotFound | Code::Unauthenticated | Code::Expired)
}

/// The digest of the key that the headers carry.
fn presented(headers: &HeaderMap) -> Result<Digest, Problem> {
    let mut authorizations = headers.get_all(header::AUTHORIZATION).iter();
    let key = match (authorizations.next(), authorizations.next()) {
        (Some(_), Some(_)) => return Err(Problem::new(Code::Unauthenticated, "there is more than one Authorization header")),
        (Some(value), None) => bearer(value.as_bytes()),
        (None, _) => headers.get("x-api-key").map(|value| value.as_bytes()),
    };
    let missing = || Problem::new(Code::Unauthenticated, "the request carries no API key");
    let key = key.filter(|key| !key.is_empty()).ok_or_else(|| {
        missing().hint("send 'Authorization: Bearer <key>' or 'X-API-Key: <key>'; make a key with 'mcpctl key create NAME'")
    })?;
    if key.len() > MAX_KEY { Err(refused()) } else { Ok(Digest::sha256(key)) }
}

/// The token of `Bearer <token>` (RFC 6750; the scheme in any case).
fn bearer(value: &[u8]) -> Option<&[u8]> {
    let (scheme, token) = value.split_at_checked(7)?;
    scheme.eq_ignore_ascii_case(b"bearer ").then(|| token.trim_ascii())
}

fn refused() -> Problem {
    Problem::new(Code::Unauthenticated, "the API key is unknown, expired or revoked").hint("make one with 'mcpctl key create NAME'")
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, HeaderValue::from_str(value).expect("value"));
        }
        headers
    }

    #[test]
    fn a_key_is_read_from_either_header() {
        let digest = Digest::sha256(b"secret");
        for pairs in [
            &[("authorization", "Bearer secret")][..],
            &[("authorization", "bearer  secret ")],
            &[("x-api-key", "secret")],
            &[("authorization", "Bearer secret"), ("x-api-key", "other")],
        ] {
            assert_eq!(presented(&headers(pairs)).expect("key"), digest, "{pairs:?}");
        }
    }

    #[test]
    fn what_is_no_key_is_unauthenticated() {
        let long = "x".repeat(MAX_KEY + 1);
        for pairs in [
            &[][..],
            &[("authorization", "Basic c2VjcmV0")],
            &[("authorization", "Bearer ")],
            &[("authorization", "Bearer")],
            &[("x-api-key", "")],
            &[("x-api-key", &long)],
            &[("authorization", "Bearer a"), ("authorization", "Bearer b")],
        ] {
            assert_eq!(presented(&headers(pairs)).expect_err("none").code, Code::Unauthenticated, "{pairs:?}");
        }
    }

    #[test]
    fn only_a_verdict_on_the_key_is_remembered() {
        assert!(is_verdict(Code::NotFound) && is_verdict(Code::Unauthenticated));
        assert!(!is_verdict(Code::NotRunning) && !is_verdict(Code::Overloaded) && !is_verdict(Code::NotAuthorized));
    }
}
