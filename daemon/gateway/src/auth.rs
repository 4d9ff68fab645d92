//! Who asks: a key from the request's headers, and the principal that it speaks for.
//!
//! ```text
//! Authorization: Bearer K | X-API-Key: K ── SHA-256 ─> static keys ─> the node's owner
//!                                              `─> cache ─> POST /v1/keys/resolve ─> the key's principal and id
//! ```
//!
//! Only digests are compared, cached and sent. The cache decides whose body is read, and nothing else: with each request the
//! daemon is told the key's id, refuses a key that was revoked or has expired, and ends what it answers when that happens.

use std::time::{Duration, Instant};

use http::{HeaderMap, header};
use parking_lot::Mutex;
use protocol::{
    Client, Code, Did, Digest, Problem, Timestamp,
    api::{ApiKey, Identity, ResolveKey},
    id::KeyId,
};

use crate::{cache::Cache, keys::StaticKeys};

/// Keys in use at one time, at one gateway. Those that are unknown have a cache of their own: guesses don't push out keys.
const CACHED: usize = 1024;
/// How long a key isn't looked up again. The daemon checks it with each request, so this is no grace for revoked keys.
const KNOWN: Duration = Duration::from_secs(600);
/// How long the node's owner is believed: a node that starts anew may have another.
const OWNER: Duration = Duration::from_secs(5);
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
    key: KeyId,
    principal: Did,
    expires_at: Option<Timestamp>,
}

/// Who holds the key that a request carries.
#[derive(Debug)]
pub(crate) struct Holder {
    /// For whom the key speaks.
    pub(crate) principal: Did,
    /// The key, where the daemon knows it; a static key is the gateway's alone.
    pub(crate) key: Option<KeyId>,
    digest: Digest,
}

#[cfg(test)]
impl Holder {
    pub(crate) fn for_test(principal: Did, key: Option<KeyId>) -> Self {
        Self { principal, key, digest: Digest::sha256(b"secret") }
    }
}

impl Authenticator {
    pub(crate) fn new(client: Client, keys: StaticKeys) -> Self {
        Self {
            client,
            keys,
            known: Mutex::new(Cache::new(CACHED, KNOWN)),
            unknown: Mutex::new(Cache::new(CACHED, UNKNOWN)),
            owner: Mutex::new(Cache::new(1, OWNER)),
        }
    }

    /// Who holds the request's key.
    pub(crate) async fn holder(&self, headers: &HeaderMap) -> Result<Holder, Problem> {
        let digest = presented(headers)?;
        if self.keys.contains(&digest) {
            return Ok(Holder { principal: self.owner().await?, key: None, digest });
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
        if known.expires_at.is_some_and(|at| at <= Timestamp::now()) {
            return Err(refused());
        }
        Ok(Holder { principal: known.principal, key: Some(known.key), digest })
    }

    /// The daemon refuses this key: it isn't believed again without asking.
    pub(crate) fn forget(&self, holder: &Holder) -> Problem {
        self.known.lock().remove(&holder.digest);
        refused()
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
                let known = Known { key: key.id, principal: key.principal, expires_at: key.expires_at };
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
    // There is one of each at most: see `protocol::head`.
    let key = match headers.get(header::AUTHORIZATION) {
        Some(value) => bearer(value.as_bytes()),
        None => headers.get("x-api-key").map(|value| value.as_bytes()),
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
