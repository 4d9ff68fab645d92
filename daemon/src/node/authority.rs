//! The mesh's authority, on the node that has its key: who is a member, by which token, until when.
//!
//! ```text
//! token create --> Token record, the string           enrol (desk, or a peer's desk) --> uses counted --> credential
//! revoke ------> Member record, new list ------> mesh: closed and refused everywhere within seconds
//! ```
//! Every decision and its trace entry are one commit, made one at a time, so that no token is used more often than it
//! may.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use mesh::CertificateAuthority;
use protocol::{
    Code, Credential, Did, Header, Key, MeshId, NodeId, OperationId, Problem, Signed, SignedDuration, Timestamp, Token, TokenId,
    api::{CreateToken, CreatedToken, TokenOutline},
    credential::{MAX_REVOKED, MAX_VALIDITY, Member, Revocations, Revoked, Role, Standing, Zone},
    entry::Action,
    id::CredentialId,
    token::{self, Enrolment, Grant},
};
use serde::{Deserialize, Serialize};
use store::{Append, Commit, Kind, RecordWrite};

use super::{
    journal::{self, Journal, Note},
    lineages::Lineages,
};
use crate::data_dir::DataDir;

/// Tokens that are valid at once: each is a secret that somebody has to guard.
const MAX_TOKENS: usize = 1_024;
/// Nodes that may enter by one token.
const MAX_USES: u32 = 10_000;
/// Members in the books; all fit one answer.
const MAX_MEMBERS: usize = 20_000;
/// A list of revocations is renewed with each revocation, and believed long after.
const LIST_VALIDITY: SignedDuration = SignedDuration::from_hours(10 * 366 * 24);

/// See the module. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Books(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    journal: Journal,
    key: Key,
    certificates: CertificateAuthority,
    mesh: MeshId,
    /// The node that has the key: this one.
    node: NodeId,
    owner: Did,
    /// By which keys owners sign by now.
    lineages: Lineages,
    validity: SignedDuration,
    /// Held over reading the books and writing into them.
    writing: tokio::sync::Mutex<()>,
}

/// What the authority signs with.
#[derive(Debug)]
pub(crate) struct AuthorityKeys {
    /// Credentials, tokens and revocations.
    key: Key,
    /// TLS certificates.
    certificates: CertificateAuthority,
}

impl AuthorityKeys {
    /// The keys in the data directory; those for TLS are made on first use.
    pub(crate) fn open(directory: &DataDir, key: Key, validity: SignedDuration) -> Result<Self, Problem> {
        let mesh = MeshId::of(key.did());
        let advice = |problem: Problem| problem.hint("restore ca.pem in the data directory, or remove it for a new one");
        let mut pem = directory.secret("ca.pem", || CertificateAuthority::create(&mesh, Timestamp::now()))?;
        if let Some(renewed) = CertificateAuthority::renewed(&mesh, &pem, Timestamp::now()).map_err(advice)? {
            directory.replace_secret("ca.pem", &renewed)?;
            tracing::warn!("the mesh's TLS authority has a new certificate ('mcpctl mesh ca'): tell the proxies that trust the old one");
            pem = renewed;
        }
        let certificates = CertificateAuthority::read(&mesh, &pem, validity).map_err(advice)?;
        Ok(Self { key, certificates })
    }
}

/// A member and how it became one.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct MemberRecord {
    member: Member,
    token: Option<TokenId>,
    credential: CredentialId,
    /// When its membership was taken back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    revoked_at: Option<Timestamp>,
}

impl MemberRecord {
    /// Where it stands at `now`: an expiry is no event that anybody records.
    fn standing(&self, now: Timestamp) -> Standing {
        match self.member.standing {
            Standing::Active if self.member.expires_at <= now => Standing::Expired,
            standing => standing,
        }
    }
}

/// What becomes of a member.
struct Change<'a> {
    record: &'a MemberRecord,
    token: Option<&'a TokenOutline>,
    issued: Option<CredentialId>,
    principal: Did,
    request_id: &'a str,
}

impl Books {
    /// The books of the authority whose key is `key`, kept by `node`.
    pub(crate) fn new(
        (journal, lineages): (Journal, Lineages),
        keys: AuthorityKeys,
        node: NodeId,
        owner: Did,
        validity: SignedDuration,
    ) -> Self {
        let AuthorityKeys { key, certificates } = keys;
        let mesh = MeshId::of(key.did());
        Self(Arc::new(Inner {
            certificates,
            journal,
            mesh,
            key,
            node,
            owner,
            lineages,
            validity: validity.min(MAX_VALIDITY),
            writing: tokio::sync::Mutex::default(),
        }))
    }

    /// Makes the node that has the key the first member.
    pub(crate) async fn found(&self, zone: Option<Zone>, request_id: &str) -> Result<Signed<Credential>, Problem> {
        let _writing = self.0.writing.lock().await;
        let (signed, record) = self.issue(self.0.node, self.0.owner, Role::Server, zone, None, Timestamp::now());
        let change = Change { record: &record, token: None, issued: Some(record.credential), principal: self.0.owner, request_id };
        self.write(change).await?;
        Ok(signed)
    }

    /// Makes a token.
    pub(crate) async fn create_token(&self, create: CreateToken, request_id: &str) -> Result<CreatedToken, Problem> {
        let now = Timestamp::now();
        let invalid = |detail: String| Problem::new(Code::InvalidRequest, detail);
        if !(1..=MAX_USES).contains(&create.uses) {
            return Err(invalid(format!("a token has 1 to {MAX_USES} uses")));
        }
        let ttl = i64::try_from(create.ttl_s).map(SignedDuration::from_secs).unwrap_or(SignedDuration::MAX);
        if create.ttl_s == 0 || ttl > token::MAX_TTL {
            return Err(invalid("a token is valid for 1 s to 366 days".into()));
        }
        if create.addresses.is_empty() {
            return Err(invalid("nobody could enter: this node has no address to name; pass --address".into()));
        }
        if create.addresses.len() > token::MAX_ADDRESSES {
            return Err(invalid(format!("a token names at most {} addresses", token::MAX_ADDRESSES)));
        }
        let _writing = self.0.writing.lock().await;
        let alive = self.tokens().await?.into_iter().filter(|token| !token.revoked && token.expires_at > now).count();
        if alive >= MAX_TOKENS {
            return Err(Problem::new(Code::Overloaded, format!("{MAX_TOKENS} tokens are valid already")).hint("revoke some"));
        }
        let key = Token::key();
        let CreateToken { uses, role, zone, addresses, .. } = create;
        let grant = Grant {
            id: TokenId::new(),
            mesh: self.0.mesh.clone(),
            key: key.did(),
            expires_at: now.saturating_add(ttl).unwrap_or(Timestamp::MAX),
            uses,
            role,
            zone: zone.clone(),
            issuer: self.0.node,
            addresses: addresses.clone(),
        };
        let (id, expires_at) = (grant.id, grant.expires_at);
        let outline = TokenOutline { id, role, zone, uses, used_by: Vec::new(), created_at: now, expires_at, addresses, revoked: false };
        self.write_token(&outline, request_id).await?;
        Ok(CreatedToken { outline, token: Token::new(&grant, &key, &self.0.key).to_text().to_string() })
    }

    /// Every token, without its secret.
    pub(crate) async fn tokens(&self) -> Result<Vec<TokenOutline>, Problem> {
        let records = journal::all_records(self.0.journal.store().as_ref(), Kind::Token).await?;
        records.iter().map(|(_, bytes)| journal::decode("token", bytes)).collect()
    }

    /// Takes a token back: nobody enters by it any more. Those who did stay.
    pub(crate) async fn revoke_token(&self, id: &TokenId, request_id: &str) -> Result<TokenOutline, Problem> {
        let _writing = self.0.writing.lock().await;
        let token = self.token(id).await?.ok_or_else(|| Problem::new(Code::NotFound, format!("no token {id} is known")))?;
        let token = TokenOutline { revoked: true, ..token };
        self.write_token(&token, request_id).await?;
        Ok(token)
    }

    /// Takes a membership back; returns the list to be told to everyone.
    pub(crate) async fn revoke(
        &self,
        node: NodeId,
        before: Option<u64>,
        request_id: &str,
    ) -> Result<(Member, Signed<Revocations>), Problem> {
        if node == self.0.node {
            return Err(Problem::new(Code::Conflict, "this node has the authority's key: it can't be revoked"));
        }
        let _writing = self.0.writing.lock().await;
        let mut record = self.member(&node).await?;
        record.member.standing = Standing::Revoked;
        // Whoever is revoked again was out since the first time.
        record.revoked_at.get_or_insert_with(Timestamp::now);
        let change = Change { record: &record, token: None, issued: None, principal: self.0.owner, request_id };
        self.write(change).await?;
        Ok((record.member, self.list(before.unwrap_or_default()).await?))
    }

    /// Every revocation that still matters, signed. Milliseconds since 1970 grow; a clock set back is made good by counting.
    async fn list(&self, before: u64) -> Result<Signed<Revocations>, Problem> {
        let (now, believed) = (Timestamp::now(), self.0.journal.clock().believed());
        let records = self.records().await?.into_iter().filter(|record| record.member.standing == Standing::Revoked);
        let mut revoked: Vec<Revoked> = records
            .map(|record| Revoked { node: record.member.node, at: record.revoked_at.unwrap_or(now), until: record.member.expires_at })
            // A revocation that is left out lets a node in again.
            .filter(|revoked| revoked.until > believed)
            .collect();
        if revoked.len() > MAX_REVOKED {
            return Err(Problem::new(Code::Overloaded, format!("over {MAX_REVOKED} nodes were revoked within 30 days")));
        }
        revoked.sort_by_key(|revoked| revoked.node);
        let sequence = u64::try_from(now.as_millisecond()).unwrap_or_default().max(before + 1);
        let header = Header::new::<Revocations>(&self.0.mesh, now, LIST_VALIDITY);
        Ok(Signed::sign(Revocations { header, sequence, revoked }, &[&self.0.key]))
    }

    fn issue(
        &self,
        node: NodeId,
        owner: Did,
        role: Role,
        zone: Option<Zone>,
        before: Option<&MemberRecord>,
        now: Timestamp,
    ) -> (Signed<Credential>, MemberRecord) {
        let header = Header::new::<Credential>(&self.0.mesh, now, self.0.validity);
        let credential = Credential { header, id: CredentialId::new(), node, owner, role, zone: zone.clone(), issuer: self.0.node };
        let member = Member {
            node,
            owner,
            role,
            zone,
            since: before.map_or(now, |before| before.member.since),
            expires_at: credential.header.expires_at,
            standing: Standing::Active,
        };
        let token = before.and_then(|before| before.token);
        let record = MemberRecord { member, token, credential: credential.id, revoked_at: None };
        (Signed::sign(credential, &[&self.0.key]), record)
    }

    async fn token(&self, id: &TokenId) -> Result<Option<TokenOutline>, Problem> {
        let bytes = self.0.journal.store().record(Kind::Token, &id.to_string()).await?;
        bytes.map(|bytes| journal::decode("token", &bytes)).transpose()
    }

    async fn find(&self, node: &NodeId) -> Result<Option<MemberRecord>, Problem> {
        let bytes = self.0.journal.store().record(Kind::Member, &node.to_string()).await?;
        bytes.map(|bytes| journal::decode("member", &bytes)).transpose()
    }

    async fn member(&self, node: &NodeId) -> Result<MemberRecord, Problem> {
        let unknown = || Problem::new(Code::NotFound, format!("node {node} is not a member of this mesh")).hint("see 'mcpctl members'");
        self.find(node).await?.ok_or_else(unknown)
    }

    async fn records(&self) -> Result<Vec<MemberRecord>, Problem> {
        let records = journal::all_records(self.0.journal.store().as_ref(), Kind::Member).await?;
        records.iter().map(|(_, bytes)| journal::decode("member", bytes)).collect()
    }

    async fn write(&self, change: Change<'_>) -> Result<(), Problem> {
        let Change { record, token, issued, principal, request_id } = change;
        let member = RecordWrite { kind: Kind::Member, id: record.member.node.to_string(), value: Some(journal::encode(record)) };
        let token = token.map(|token| RecordWrite { kind: Kind::Token, id: token.id.to_string(), value: Some(journal::encode(token)) });
        let action = Action::Member { node: record.member.node, standing: record.member.standing, credential: issued };
        let append = self.entry(principal, request_id, action);
        let commit = Commit { records: [member].into_iter().chain(token).collect(), entry: Some(append), ..Commit::default() };
        self.0.journal.keep(commit).await.map(drop)
    }

    async fn write_token(&self, token: &TokenOutline, request_id: &str) -> Result<(), Problem> {
        let write = RecordWrite { kind: Kind::Token, id: token.id.to_string(), value: Some(journal::encode(token)) };
        let action = Action::Token { token: token.id, uses: if token.revoked { 0 } else { token.uses } };
        let append = self.entry(self.0.owner, request_id, action);
        self.0.journal.keep(Commit { records: vec![write], entry: Some(append), ..Commit::default() }).await.map(drop)
    }

    fn entry(&self, principal: Did, request_id: &str, action: Action) -> Append {
        let note = Note { operation: OperationId::new(), principal, agreement: None, failure: None, request_id };
        self.0.journal.append(note, action)
    }
}

#[async_trait]
impl mesh::Authority for Books {
    async fn enrol(&self, enrolled: &Signed<Enrolment>, grant: &Grant, request_id: &str) -> Result<Signed<Credential>, Problem> {
        let enrolment = enrolled.document();
        self.0.lineages.check(enrolled)?;
        let (node, owner, now) = (enrolment.node, enrolment.owner, Timestamp::now());
        let _writing = self.0.writing.lock().await;
        let unusable = |detail: &str| Problem::new(Code::InvalidToken, format!("the join token can't be used: {detail}"));
        let mut token = self.token(&grant.id).await?.ok_or_else(|| unusable("the authority doesn't know it"))?;
        if token.revoked {
            return Err(unusable("it was taken back"));
        }
        let before = self.find(&node).await?;
        if before.as_ref().is_some_and(|before| before.member.standing == Standing::Revoked) {
            return Err(Problem::new(Code::Revoked, format!("the membership of node {node} was revoked, for good")));
        }
        // A node that comes again with its token, because an answer was lost, is no further use.
        if !token.used_by.contains(&node) {
            if token.used_by.len() >= token.uses as usize {
                return Err(Problem::new(
                    Code::TokenUsedUp,
                    format!("the join token has been used {} times, as often as it may", token.uses),
                ));
            }
            if before.is_none() && self.records().await?.len() >= MAX_MEMBERS {
                return Err(Problem::new(Code::Overloaded, format!("the mesh has {MAX_MEMBERS} members, as many as it may")));
            }
            token.used_by.push(node);
        }
        let (signed, mut record) = self.issue(node, owner, token.role, token.zone.clone(), before.as_ref(), now);
        record.token = Some(token.id);
        let issued = Some(record.credential);
        self.write(Change { record: &record, token: Some(&token), issued, principal: owner, request_id }).await?;
        self.0.lineages.hear(enrolled, &[owner])?;
        tracing::info!(%node, role = %token.role, token = %token.id, "a node is enrolled");
        Ok(signed)
    }

    async fn renew(&self, node: NodeId, request_id: &str) -> Result<Signed<Credential>, Problem> {
        let _writing = self.0.writing.lock().await;
        let before = self.member(&node).await?;
        match before.member.standing {
            Standing::Active | Standing::Expired => {}
            Standing::Left => return Err(Problem::new(Code::NotAMember, format!("node {node} has left the mesh"))),
            Standing::Revoked => return Err(Problem::new(Code::Revoked, format!("the membership of node {node} was revoked"))),
        }
        let Member { owner, role, zone, .. } = before.member.clone();
        let (signed, record) = self.issue(node, owner, role, zone, Some(&before), Timestamp::now());
        self.write(Change { record: &record, token: None, issued: Some(record.credential), principal: owner, request_id }).await?;
        Ok(signed)
    }

    async fn certify(&self, node: NodeId, request: &[u8]) -> Result<Vec<Bytes>, Problem> {
        let now = Timestamp::now();
        if self.member(&node).await?.standing(now) != Standing::Active {
            return Err(Problem::new(Code::NotAMember, format!("node {node} is not in good standing")));
        }
        self.0.certificates.issue(node, request, now)
    }

    async fn left(&self, node: NodeId, request_id: &str) -> Result<(), Problem> {
        let _writing = self.0.writing.lock().await;
        let mut record = self.member(&node).await?;
        if record.member.standing != Standing::Revoked {
            record.member.standing = Standing::Left;
            let principal = record.member.owner;
            self.write(Change { record: &record, token: None, issued: None, principal, request_id }).await?;
        }
        Ok(())
    }

    async fn members(&self) -> Result<Vec<Member>, Problem> {
        let now = Timestamp::now();
        let records = self.records().await?;
        Ok(records.into_iter().map(|record| Member { standing: record.standing(now), ..record.member }).collect())
    }
}
