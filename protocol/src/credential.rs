//! Membership of a private mesh: credentials, and the list of those that were taken back.

use std::{fmt, str::FromStr};

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use crate::{
    document::{Document, Expect, Header, Sealed, Signed},
    error::{Code, Problem},
    id::{CredentialId, MeshId},
    key::{Did, NodeId},
};

/// The longest that a credential may be valid: how long a member that can't be reached by revocations may live on.
pub const MAX_VALIDITY: SignedDuration = SignedDuration::from_hours(30 * 24);
/// Revocations in one list. Each is needed only until its node's last credential has expired.
pub const MAX_REVOKED: usize = 4_096;

/// What a member is in its mesh.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// A node wherever it may be: it serves agents, and nobody relies on it to reach others.
    Edge,
    /// A node that others can reach: it also serves look-ups, and may relay.
    Server,
    /// An entry node: look-ups, relay and join desk, and no agents.
    Entry,
}

impl Role {
    /// Its name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Edge => "edge",
            Self::Server => "server",
            Self::Entry => "entry",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Role {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let all = [Self::Edge, Self::Server, Self::Entry];
        all.into_iter().find(|role| role.as_str() == text).ok_or_else(|| format!("{text:?} is not a role: edge, server or entry"))
    }
}

/// Where a node is, as its operator names places: 1 to 32 characters of `a-z 0-9 -`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Zone(String);

impl Zone {
    /// The zone as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Zone {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        if (1..=32).contains(&text.len()) && text.bytes().all(plain) {
            Ok(Self(text.into()))
        } else {
            Err("a zone is 1 to 32 of a-z, 0-9 and '-', as in eu-1".into())
        }
    }
}

impl TryFrom<String> for Zone {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Zone> for String {
    fn from(zone: Zone) -> Self {
        zone.0
    }
}

impl fmt::Display for Zone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Says that a node is a member of its mesh. Signed by the mesh's authority.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Credential {
    /// Type, version, mesh, validity.
    pub header: Header,
    /// Its own name.
    pub id: CredentialId,
    /// The member: the only node that may show it.
    pub node: NodeId,
    /// The principal that owns the node.
    pub owner: Did,
    /// What the member is in the mesh.
    pub role: Role,
    /// Where it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<Zone>,
    /// The node that has the authority's key: where the credential is renewed.
    pub issuer: NodeId,
}

impl Document for Credential {
    const TYPE: &'static str = "credential";
    const VERSION: u32 = 1;

    fn header(&self) -> &Header {
        &self.header
    }
}

impl Credential {
    /// Verifies what `node` shows to be admitted into `mesh` at `now`.
    ///
    /// # Errors
    /// Each reason has its code: malformed, unsigned, of another mesh, expired, future-dated, of another node.
    pub fn verify(sealed: Sealed<Self>, mesh: &MeshId, node: NodeId, now: Timestamp) -> Result<Signed<Self>, Problem> {
        let signed = signed_by_authority(sealed, Expect::at(mesh, now))?;
        let credential = signed.document();
        credential.require_node(node)?;
        if credential.header.expires_at.duration_since(credential.header.issued_at) > MAX_VALIDITY {
            return Err(Problem::new(Code::MalformedDocument, "the credential claims to be valid for over 30 days"));
        }
        Ok(signed)
    }

    /// Verifies what a node shows that is, or once was, a member of `mesh`.
    ///
    /// # Errors
    /// It never was one.
    pub fn verify_past(sealed: Sealed<Self>, mesh: &MeshId) -> Result<Signed<Self>, Problem> {
        signed_by_authority(sealed, Expect::archived(mesh))
    }

    /// Insists that it is the credential of `node`.
    ///
    /// # Errors
    /// It is another's.
    pub fn require_node(&self, node: NodeId) -> Result<(), Problem> {
        if self.node == node {
            return Ok(());
        }
        Err(Problem::new(Code::StolenCredential, format!("the credential is of node {}, not of {node}", self.node)))
    }

    /// When it is time to renew it: after two thirds of its life.
    pub fn renew_at(&self) -> Timestamp {
        let life = self.header.expires_at.duration_since(self.header.issued_at);
        self.header.expires_at.saturating_sub(life / 3).unwrap_or(self.header.issued_at)
    }
}

/// Opens a document that only the authority of `mesh` can sign.
fn signed_by_authority<D: Document>(sealed: Sealed<D>, expect: Expect<'_>) -> Result<Signed<D>, Problem> {
    let mesh = expect.mesh;
    let authority = mesh.authority().ok_or_else(|| Problem::new(Code::ForeignMesh, format!("mesh {mesh} is open: it has no members")))?;
    let signed = sealed.open(expect)?;
    signed.require(authority)?;
    Ok(signed)
}

/// One node whose membership was taken back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Revoked {
    /// The node.
    pub node: NodeId,
    /// When.
    pub at: Timestamp,
    /// When its last credential expires by itself: the entry isn't needed longer.
    pub until: Timestamp,
}

/// All nodes whose membership was taken back and whose credentials haven't expired. Signed by the mesh's authority.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Revocations {
    /// Type, version, mesh, validity.
    pub header: Header,
    /// Grows with each list; the highest wins.
    pub sequence: u64,
    /// At most [`MAX_REVOKED`].
    pub revoked: Vec<Revoked>,
}

impl Document for Revocations {
    const TYPE: &'static str = "revocations";
    const VERSION: u32 = 1;

    fn header(&self) -> &Header {
        &self.header
    }
}

impl Revocations {
    /// Verifies a list of `mesh`.
    ///
    /// # Errors
    /// It isn't the authority's, or too long.
    pub fn verify(sealed: Sealed<Self>, mesh: &MeshId, now: Timestamp) -> Result<Signed<Self>, Problem> {
        let signed = signed_by_authority(sealed, Expect::at(mesh, now))?;
        if signed.document().revoked.len() > MAX_REVOKED {
            return Err(Problem::new(Code::TooLarge, format!("a list of over {MAX_REVOKED} revocations")));
        }
        Ok(signed)
    }
}

/// Where a member stands, in the authority's books.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Standing {
    /// It has a credential that hasn't expired.
    Active,
    /// Its credential expired, and it didn't renew it.
    Expired,
    /// It left of its own will.
    Left,
    /// Its membership was taken back.
    Revoked,
}

impl Standing {
    /// Its name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Expired => "expired",
            Self::Left => "left",
            Self::Revoked => "revoked",
        }
    }
}

/// A member, in the authority's books.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// The node.
    pub node: NodeId,
    /// The principal that owns it.
    pub owner: Did,
    /// What it is in the mesh.
    pub role: Role,
    /// Where it is.
    pub zone: Option<Zone>,
    /// When it was enrolled first.
    pub since: Timestamp,
    /// When its newest credential expires.
    pub expires_at: Timestamp,
    /// Where it stands.
    pub standing: Standing,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::Key;

    struct Case {
        authority: Key,
        node: Key,
        mesh: MeshId,
        now: Timestamp,
    }

    impl Case {
        fn new() -> Self {
            let authority = Key::generate();
            let mesh = MeshId::of(authority.did());
            Self { authority, node: Key::generate(), mesh, now: Timestamp::now() }
        }

        fn credential(&self) -> Credential {
            Credential {
                header: Header::new::<Credential>(&self.mesh, self.now, MAX_VALIDITY),
                id: CredentialId::new(),
                node: self.node.node_id(),
                owner: self.node.did(),
                role: Role::Edge,
                zone: Some("eu-1".parse().expect("a zone")),
                issuer: self.authority.node_id(),
            }
        }

        fn verify(&self, credential: Credential, key: &Key) -> Result<(), Code> {
            let sealed = Sealed::from(Signed::sign(credential, &[key]));
            Credential::verify(sealed, &self.mesh, self.node.node_id(), self.now).map(|_| ()).map_err(|problem| problem.code)
        }
    }

    #[test]
    fn a_credential_is_good_for_one_node_in_one_mesh_for_a_while() {
        let case = Case::new();
        assert_eq!(case.verify(case.credential(), &case.authority), Ok(()));
        assert_eq!(case.verify(case.credential(), &case.node), Err(Code::Unsigned));
        let stolen = Credential { node: Key::generate().node_id(), ..case.credential() };
        assert_eq!(case.verify(stolen, &case.authority), Err(Code::StolenCredential));
        let header = |mesh: &MeshId, issued_at, valid| Header::new::<Credential>(mesh, issued_at, valid);
        let foreign = Credential { header: header(&MeshId::of(case.node.did()), case.now, MAX_VALIDITY), ..case.credential() };
        assert_eq!(case.verify(foreign, &case.authority), Err(Code::ForeignMesh));
        let old = Credential { header: header(&case.mesh, case.now - MAX_VALIDITY, MAX_VALIDITY), ..case.credential() };
        assert_eq!(case.verify(old, &case.authority), Err(Code::Expired));
        let early = Credential { header: header(&case.mesh, case.now + SignedDuration::from_mins(5), MAX_VALIDITY), ..case.credential() };
        assert_eq!(case.verify(early, &case.authority), Err(Code::FutureDated));
        let long = Credential { header: header(&case.mesh, case.now, MAX_VALIDITY * 2), ..case.credential() };
        assert_eq!(case.verify(long, &case.authority), Err(Code::MalformedDocument));
        let open: MeshId = "open".parse().expect("a name");
        let sealed = Sealed::from(Signed::sign(case.credential(), &[&case.authority]));
        assert!(Credential::verify(sealed, &open, case.node.node_id(), case.now).is_err());
    }

    #[test]
    fn it_is_renewed_after_two_thirds_of_its_life() {
        let case = Case::new();
        assert_eq!(case.credential().renew_at(), case.now + MAX_VALIDITY - MAX_VALIDITY / 3);
    }

    #[test]
    fn roles_and_zones_are_words() {
        assert_eq!("server".parse::<Role>(), Ok(Role::Server));
        assert!("root".parse::<Role>().is_err() && "EU 1".parse::<Zone>().is_err() && "".parse::<Zone>().is_err());
    }
}
