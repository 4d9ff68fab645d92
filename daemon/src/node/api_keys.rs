//! Keys by which programs speak through a gateway. Only digests are kept; a secret is seen once.
//!
//! Every key that is valid is in memory with a token that is cancelled when the key is revoked, so that each request is held
//! against what is true at that moment, and what is still being answered ends with its key.

use std::{collections::HashMap, time::Duration};

use parking_lot::RwLock;
use protocol::{
    Code, Did, Digest, Problem, Timestamp,
    api::{ApiKey, CreateKey, CreatedKey},
    entry::Action,
    id::KeyId,
};
use serde::{Deserialize, Serialize};
use store::{Commit, Kind, RecordWrite};
use tokio_util::sync::CancellationToken;

use super::{
    Caller,
    journal::{self, Journal},
};

/// Keys at one time, some 300 bytes each: one for each program of a large site.
const MAX_KEYS: usize = 10_000;

/// The API keys of this node.
#[derive(Debug)]
pub(crate) struct ApiKeys {
    journal: Journal,
    owner: Did,
    known: RwLock<HashMap<KeyId, Known>>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Record {
    key: ApiKey,
    digest: Digest,
}

#[derive(Debug)]
struct Known {
    record: Record,
    revoked: CancellationToken,
}

/// A key that was valid when a request came with it, for as long as the request is answered.
#[derive(Debug, Clone)]
pub(crate) struct HeldKey {
    expires_at: Option<Timestamp>,
    revoked: CancellationToken,
}

impl HeldKey {
    /// Waits until the key is revoked or expires.
    pub(crate) async fn ended(self) {
        let expired = async {
            let Some(end) = self.expires_at else { return std::future::pending().await };
            // In steps: a wait is measured by another clock than the one that says when the key expires.
            loop {
                let left = Duration::try_from(end.duration_since(Timestamp::now())).unwrap_or_default();
                if left.is_zero() {
                    return;
                }
                tokio::time::sleep(left.min(Duration::from_secs(60))).await;
            }
        };
        tokio::select! {
            () = self.revoked.cancelled() => {}
            () = expired => {}
        }
    }
}

impl ApiKeys {
    /// Those of the store.
    pub(crate) async fn open(journal: Journal, owner: Did) -> Result<Self, Problem> {
        let mut known = HashMap::new();
        for (_, bytes) in journal::all_records(journal.store().as_ref(), Kind::ApiKey).await? {
            let record: Record = journal::decode("API key", &bytes)?;
            known.insert(record.key.id, Known { record, revoked: CancellationToken::new() });
        }
        Ok(Self { journal, owner, known: known.into() })
    }

    /// Makes a key that speaks for the owner.
    pub(crate) async fn create(&self, caller: &Caller, create: CreateKey) -> Result<CreatedKey, Problem> {
        if create.name.is_empty() || create.name.len() > 64 {
            return Err(Problem::new(Code::InvalidRequest, "a key's name has 1 to 64 bytes"));
        }
        if self.known.read().len() >= MAX_KEYS {
            return Err(Problem::new(Code::Conflict, format!("there are {MAX_KEYS} API keys, as many as a node keeps"))
                .hint("revoke those that are no longer used: 'mcpctl key list', 'mcpctl key revoke ID'"));
        }
        // 256 bits, so that a plain digest of it can't be searched.
        let secret = format!("mcpz_{}", protocol::digest::hex(protocol::Key::generate().seed().as_ref()));
        let created_at = Timestamp::now();
        let ends = |seconds: u64| {
            let span = protocol::SignedDuration::from_secs(i64::try_from(seconds).unwrap_or(i64::MAX));
            created_at.saturating_add(span).unwrap_or(Timestamp::MAX)
        };
        let key = ApiKey { id: KeyId::new(), name: create.name, principal: self.owner, created_at, expires_at: create.ttl_s.map(ends) };
        let record = Record { key: key.clone(), digest: Digest::sha256(secret.as_bytes()) };
        self.write(caller, &record, true).await?;
        self.known.write().insert(key.id, Known { record, revoked: CancellationToken::new() });
        Ok(CreatedKey { key, secret })
    }

    /// The key of this digest, if it is valid now.
    pub(crate) async fn resolve(&self, digest: &Digest) -> Result<ApiKey, Problem> {
        // Kept under its digest, which is what a gateway asks for.
        let bytes = self.journal.store().record(Kind::ApiKey, &digest.to_string()).await?.ok_or_else(invalid)?;
        let record: Record = journal::decode("API key", &bytes)?;
        self.hold(&record.key.id, record.key.principal)?;
        Ok(record.key)
    }

    /// The key of a request that is for `principal`, if it is valid now.
    pub(crate) fn hold(&self, id: &KeyId, principal: Did) -> Result<HeldKey, Problem> {
        let known = self.known.read();
        let Known { record, revoked } = known.get(id).ok_or_else(invalid)?;
        let expires_at = record.key.expires_at;
        if record.key.principal != principal || expires_at.is_some_and(|end| end <= Timestamp::now()) {
            return Err(invalid());
        }
        Ok(HeldKey { expires_at, revoked: revoked.clone() })
    }

    /// Every key, without its secret.
    pub(crate) fn list(&self) -> Vec<ApiKey> {
        let mut keys: Vec<_> = self.known.read().values().map(|known| known.record.key.clone()).collect();
        keys.sort_by_key(|key| key.id);
        keys
    }

    /// Ends a key, and with it whatever is being answered under it.
    pub(crate) async fn revoke(&self, caller: &Caller, id: &KeyId) -> Result<ApiKey, Problem> {
        let record = self.known.read().get(id).map(|known| known.record.clone());
        let record = record.ok_or_else(|| Problem::new(Code::NotFound, format!("no API key {id} is known")))?;
        self.write(caller, &record, false).await?;
        if let Some(known) = self.known.write().remove(id) {
            known.revoked.cancel();
        }
        Ok(record.key)
    }

    async fn write(&self, caller: &Caller, record: &Record, valid: bool) -> Result<(), Problem> {
        let write = RecordWrite { kind: Kind::ApiKey, id: record.digest.to_string(), value: valid.then(|| journal::encode(record)) };
        let entry = self.journal.append(caller.note(), Action::ApiKey { key: record.key.id, valid });
        self.journal.keep(Commit { records: vec![write], entry: Some(entry), ..Commit::default() }).await.map(drop)
    }
}

/// What a gateway takes for a verdict on the key.
pub(crate) fn invalid() -> Problem {
    Problem::new(Code::Unauthenticated, "this API key is unknown, expired or revoked").hint("make one with 'mcpctl key create NAME'")
}
