//! Keys by which programs speak through a gateway. Only digests are kept; a secret is seen once.

use protocol::{
    Code, Did, Digest, Problem, Timestamp,
    api::{ApiKey, CreateKey, CreatedKey},
    entry::Action,
    id::KeyId,
};
use serde::{Deserialize, Serialize};
use store::{Commit, Kind, RecordWrite};

use super::{
    Caller,
    journal::{self, Journal},
};

/// The API keys of this node.
#[derive(Debug)]
pub(crate) struct ApiKeys {
    journal: Journal,
    owner: Did,
}

#[derive(Debug, Serialize, Deserialize)]
struct Record {
    key: ApiKey,
    digest: Digest,
}

impl ApiKeys {
    pub(crate) fn new(journal: Journal, owner: Did) -> Self {
        Self { journal, owner }
    }

    /// Makes a key that speaks for the owner.
    pub(crate) async fn create(&self, caller: &Caller, create: CreateKey) -> Result<CreatedKey, Problem> {
        if create.name.is_empty() || create.name.len() > 64 {
            return Err(Problem::new(Code::InvalidRequest, "a key's name has 1 to 64 bytes"));
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
        // Kept under its digest, which is what a gateway asks for.
        self.write(caller, &record, true).await?;
        Ok(CreatedKey { key, secret })
    }

    /// The key of this digest, if it is valid now.
    pub(crate) async fn resolve(&self, digest: &Digest) -> Result<ApiKey, Problem> {
        let unknown = || Problem::new(Code::Unauthenticated, "this API key is not known, or no longer valid");
        let bytes = self.journal.store().record(Kind::ApiKey, &digest.to_string()).await?.ok_or_else(unknown)?;
        let record: Record = journal::decode("API key", &bytes)?;
        if record.key.expires_at.is_some_and(|end| end <= Timestamp::now()) {
            return Err(unknown());
        }
        Ok(record.key)
    }

    /// Every key, without its secret.
    pub(crate) async fn list(&self) -> Result<Vec<ApiKey>, Problem> {
        Ok(self.records().await?.into_iter().map(|record| record.key).collect())
    }

    /// Ends a key.
    pub(crate) async fn revoke(&self, caller: &Caller, id: &KeyId) -> Result<ApiKey, Problem> {
        let record = self.records().await?.into_iter().find(|record| record.key.id == *id);
        let record = record.ok_or_else(|| Problem::new(Code::NotFound, format!("no API key {id} is known")))?;
        self.write(caller, &record, false).await?;
        Ok(record.key)
    }

    async fn records(&self) -> Result<Vec<Record>, Problem> {
        let records = journal::all_records(self.journal.store().as_ref(), Kind::ApiKey).await?;
        records.iter().map(|(_, bytes)| journal::decode("API key", bytes)).collect()
    }

    async fn write(&self, caller: &Caller, record: &Record, valid: bool) -> Result<(), Problem> {
        let write = RecordWrite { kind: Kind::ApiKey, id: record.digest.to_string(), value: valid.then(|| journal::encode(record)) };
        let entry = self.journal.append(caller.note(), Action::ApiKey { key: record.key.id, valid });
        self.journal.keep(Commit { records: vec![write], entry: Some(entry), ..Commit::default() }).await.map(drop)
    }
}
