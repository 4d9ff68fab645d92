//! Join tokens: the short string by which an operator lets a machine in.
//!
//! ```text
//! mcpz1_<base64url of: the one-time key's seed, then in CBOR the grant and the authority's signature over it>
//! ```
//! Whoever holds the string can check it without any network: it names the mesh by its authority's key, and the
//! authority signed the grant. To use it, the holder signs an [`Enrolment`] with the one-time key; the seed itself never
//! leaves the machine.

use std::{fmt, str::FromStr};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use bytes::Bytes;
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use uuid::Uuid;
use zeroize::Zeroizing;

use crate::{
    credential::{Role, Zone},
    document::{Document, Expect, Header, Sealed, Signed},
    error::{Code, Problem},
    id::{MeshId, TokenId},
    key::{Did, Key, NodeId},
    signer::Signer,
    wire,
};

/// What a token begins with, so that people and secret scanners know one.
pub const PREFIX: &str = "mcpz1_";
/// The longest token: eight addresses and all else.
pub const MAX_TEXT: usize = 2_048;
/// Addresses that a token names.
pub const MAX_ADDRESSES: usize = 8;
/// The longest that a token may be valid.
pub const MAX_TTL: SignedDuration = SignedDuration::from_hours(366 * 24);
/// How long an enrolment is valid at most; it is taken only within the skew of when it was issued.
const ENROLMENT_VALIDITY: SignedDuration = SignedDuration::from_mins(10);
/// What the authority signs begins with this, so that it can't be mistaken for anything else that it signs.
const CONTEXT: &[u8] = b"mcp-zero join token v1\n";

/// What a token grants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    /// The token.
    pub id: TokenId,
    /// The mesh.
    pub mesh: MeshId,
    /// The public half of the one-time key.
    pub key: Did,
    /// From when on it is refused.
    pub expires_at: Timestamp,
    /// How many nodes may enter by it.
    pub uses: u32,
    /// What they become.
    pub role: Role,
    /// Where they are.
    pub zone: Option<Zone>,
    /// The node that has the authority's key.
    pub issuer: NodeId,
    /// Where to enter: multiaddrs.
    pub addresses: Vec<String>,
}

/// A grant as the authority signed it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "(Bytes, Bytes)", into = "(Bytes, Bytes)")]
pub struct SignedGrant {
    /// The grant in CBOR.
    grant: Bytes,
    /// 64 bytes.
    signature: Bytes,
}

impl From<(Bytes, Bytes)> for SignedGrant {
    fn from((grant, signature): (Bytes, Bytes)) -> Self {
        Self { grant, signature }
    }
}

impl From<SignedGrant> for (Bytes, Bytes) {
    fn from(SignedGrant { grant, signature }: SignedGrant) -> Self {
        (grant, signature)
    }
}

/// A grant as it is signed: as short as it can be, as people copy it.
#[derive(Serialize, Deserialize)]
struct Packed(Bytes, Bytes, Bytes, i64, u32, Role, Option<Zone>, Bytes, Vec<String>);

/// Stands in an address for the issuer's own id.
const ISSUER: &str = "/p2p/@";

impl Packed {
    fn of(grant: &Grant) -> Self {
        let bytes = |bytes: &[u8]| Bytes::copy_from_slice(bytes);
        let authority = grant.mesh.authority().map(|authority| bytes(authority.as_bytes())).unwrap_or_default();
        let suffix = format!("/p2p/{}", grant.issuer);
        let short = |address: &String| address.strip_suffix(&suffix).map_or_else(|| address.clone(), |rest| format!("{rest}{ISSUER}"));
        Self(
            bytes(grant.id.uuid().as_bytes()),
            authority,
            bytes(grant.key.as_bytes()),
            grant.expires_at.as_second(),
            grant.uses,
            grant.role,
            grant.zone.clone(),
            bytes(grant.issuer.as_bytes()),
            grant.addresses.iter().map(short).collect(),
        )
    }

    fn unpack(self) -> Option<Grant> {
        let Self(id, authority, key, expires_s, uses, role, zone, issuer, addresses) = self;
        let did = |bytes: &Bytes| Did::from_bytes(bytes.as_ref().try_into().ok()?).ok();
        let issuer = NodeId::from_bytes(issuer.as_ref().try_into().ok()?).ok()?;
        let full = |address: String| address.strip_suffix(ISSUER).map(|rest| format!("{rest}/p2p/{issuer}")).unwrap_or(address);
        Some(Grant {
            id: TokenId::from_uuid(Uuid::from_slice(&id).ok()?),
            mesh: MeshId::of(did(&authority)?),
            key: did(&key)?,
            expires_at: Timestamp::from_second(expires_s).ok()?,
            uses,
            role,
            zone,
            issuer,
            addresses: addresses.into_iter().map(full).collect(),
        })
    }
}

impl SignedGrant {
    /// Signs a grant with the authority's key. Times are kept to the second.
    pub fn sign(grant: &Grant, authority: &Key) -> Self {
        let grant = wire::encode(&Packed::of(grant));
        let signature = authority.sign(&[CONTEXT, &grant].concat()).to_vec().into();
        Self { grant: grant.into(), signature }
    }

    /// Verifies that the authority of the grant's own mesh signed it, and that it is valid at `now`.
    ///
    /// # Errors
    /// It is malformed, forged, expired.
    pub fn open(&self, now: Timestamp) -> Result<Grant, Problem> {
        let broken = |reason: &str| Problem::new(Code::InvalidToken, format!("the join token can't be used: {reason}"));
        if self.grant.len() > MAX_TEXT {
            return Err(broken("it is too long"));
        }
        let packed: Packed = wire::decode(&self.grant).map_err(|_| broken("it isn't whole, or of another version"))?;
        let grant = packed.unpack().ok_or_else(|| broken("it isn't whole, or of another version"))?;
        let authority = grant.mesh.authority().ok_or_else(|| broken("it names no private mesh"))?;
        authority
            .verify(&[CONTEXT, &self.grant].concat(), &self.signature)
            .map_err(|_| broken("its signature isn't that of the mesh's authority"))?;
        if grant.addresses.len() > MAX_ADDRESSES || grant.addresses.iter().any(|address| address.len() > 512) {
            return Err(broken("it names too many addresses"));
        }
        if grant.expires_at <= now {
            return Err(Problem::new(Code::Expired, format!("the join token expired at {}", grant.expires_at)).hint("ask for a new one"));
        }
        Ok(grant)
    }
}

/// A join token.
pub struct Token {
    signed: SignedGrant,
    seed: Zeroizing<[u8; 32]>,
}

impl Token {
    /// A new one-time key; its public half goes into the grant.
    pub fn key() -> Key {
        Key::generate()
    }

    /// A token of a grant that names `key`.
    pub fn new(grant: &Grant, key: &Key, authority: &Key) -> Self {
        Self { signed: SignedGrant::sign(grant, authority), seed: key.seed() }
    }

    /// Reads a token and checks it as far as that is possible offline: it is whole, its mesh's authority signed it, it
    /// hasn't expired.
    ///
    /// # Errors
    /// `invalid_token`, or `expired`.
    pub fn read(text: &str, now: Timestamp) -> Result<(Self, Grant), Problem> {
        let token: Self = text.parse()?;
        let grant = token.signed.open(now)?;
        if grant.key != token.one_time_key().did() {
            return Err(Problem::new(Code::InvalidToken, "the join token can't be used: its key isn't the one that was granted"));
        }
        Ok((token, grant))
    }

    /// Asks for `node` of `owner` to be enrolled: signed with the one-time key, and by both.
    ///
    /// # Errors
    /// `key_unavailable`: the owner's key can't be used now.
    pub async fn enrol(&self, grant: &Grant, node: &Key, owner: &dyn Signer, now: Timestamp) -> Result<Signed<Enrolment>, Problem> {
        let header = Header::new::<Enrolment>(&grant.mesh, now, ENROLMENT_VALIDITY);
        let enrolment = Enrolment { header, grant: self.signed.clone(), node: node.node_id(), owner: owner.did() };
        Signed::sign(enrolment, &[&self.one_time_key(), node]).countersign_by(owner).await
    }

    /// The string that an operator hands out. It is a secret.
    pub fn to_text(&self) -> Zeroizing<String> {
        let bytes = Zeroizing::new([&self.seed[..], &wire::encode(&self.signed)].concat());
        Zeroizing::new(format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(&*bytes)))
    }

    fn one_time_key(&self) -> Key {
        Key::from_seed(&self.seed)
    }
}

impl FromStr for Token {
    type Err = Problem;

    fn from_str(text: &str) -> Result<Self, Problem> {
        let broken = |reason: &str| {
            Problem::new(Code::InvalidToken, format!("this is not a join token: {reason}"))
                .hint("copy the whole string that 'mcpctl token create' printed")
        };
        let text = text.trim();
        let rest = text.strip_prefix(PREFIX).ok_or_else(|| broken("it doesn't begin with mcpz1_"))?;
        if text.len() > MAX_TEXT {
            return Err(broken("it is too long"));
        }
        let bytes = Zeroizing::new(URL_SAFE_NO_PAD.decode(rest).map_err(|_| broken("a part of it is missing or mistyped"))?);
        let (seed, signed) = bytes.split_first_chunk().ok_or_else(|| broken("a part of it is missing"))?;
        let signed = wire::decode(signed).map_err(|_| broken("a part of it is missing or mistyped"))?;
        Ok(Self { signed, seed: Zeroizing::new(*seed) })
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Token").finish_non_exhaustive()
    }
}

/// A node's request to become a member, by a token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Enrolment {
    /// Type, version, mesh, validity.
    pub header: Header,
    /// What the token grants.
    #[serde(with = "grant_text")]
    pub grant: SignedGrant,
    /// The node, whose transport key signs too.
    pub node: NodeId,
    /// The principal that owns it, who signs too.
    pub owner: Did,
}

impl Document for Enrolment {
    const TYPE: &'static str = "enrolment";
    const VERSION: u32 = 1;

    fn header(&self) -> &Header {
        &self.header
    }
}

impl Enrolment {
    /// Verifies an enrolment into `mesh` and the grant it uses, as far as anybody but the authority can.
    ///
    /// # Errors
    /// It is malformed, forged, expired, of another mesh; or doesn't carry the signatures of token, node and owner.
    pub fn verify(sealed: Sealed<Self>, mesh: &MeshId, now: Timestamp) -> Result<(Signed<Self>, Grant), Problem> {
        let signed = sealed.open(Expect::at(mesh, now))?;
        signed.require_new(now)?;
        let enrolment = signed.document();
        let grant = enrolment.grant.open(now)?;
        if grant.mesh != *mesh {
            return Err(Problem::new(Code::ForeignMesh, format!("the join token is for mesh {}, not for {mesh}", grant.mesh)));
        }
        let node = Did::from_bytes(enrolment.node.as_bytes()).map_err(|error| Problem::new(Code::MalformedDocument, error.to_string()))?;
        for party in [grant.key, node, enrolment.owner] {
            signed.require(party)?;
        }
        Ok((signed, grant))
    }
}

/// A grant inside a JSON document: base64 of its CBOR.
mod grant_text {
    use base64::Engine as _;
    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};

    use super::{MAX_TEXT, SignedGrant, URL_SAFE_NO_PAD, wire};

    pub(super) fn serialize<S: Serializer>(grant: &SignedGrant, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&URL_SAFE_NO_PAD.encode(wire::encode(grant)))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<SignedGrant, D::Error> {
        let text = String::deserialize(deserializer)?;
        if text.len() > MAX_TEXT {
            return Err(D::Error::custom("the grant is too long"));
        }
        let bytes = URL_SAFE_NO_PAD.decode(text).map_err(D::Error::custom)?;
        wire::decode(&bytes).map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Case {
        authority: Key,
        key: Key,
        grant: Grant,
        now: Timestamp,
    }

    impl Case {
        fn new() -> Self {
            let (authority, key, now) = (Key::generate(), Token::key(), Timestamp::now());
            let grant = Grant {
                id: TokenId::new(),
                mesh: MeshId::of(authority.did()),
                key: key.did(),
                expires_at: Timestamp::from_second(now.as_second() + 24 * 3600).expect("a time"),
                uses: 5,
                role: Role::Edge,
                zone: Some("eu-1".parse().expect("a zone")),
                issuer: authority.node_id(),
                addresses: vec![format!("/ip4/198.51.100.7/tcp/8765/tls/ws/p2p/{}", authority.node_id())],
            };
            Self { authority, key, grant, now }
        }

        fn token(&self) -> Token {
            Token::new(&self.grant, &self.key, &self.authority)
        }
    }

    #[test]
    fn a_token_is_checked_offline() {
        let case = Case::new();
        let text = case.token().to_text();
        assert!(text.len() < 420, "{} characters are not short", text.len());
        let (_, grant) = Token::read(&text, case.now).expect("a good token");
        assert_eq!(grant, case.grant);
        assert_eq!(Token::read(&text, case.grant.expires_at).expect_err("expired").code, Code::Expired);
        let mut mistyped = text.to_string();
        mistyped.replace_range(60..61, if &text[60..61] == "A" { "B" } else { "A" });
        for bad in ["", "mcpz1_", &text[..text.len() - 3], &text[1..], &mistyped, &"mcpz1_".repeat(1000)] {
            assert_eq!(Token::read(bad, case.now).expect_err("not whole").code, Code::InvalidToken, "{bad}");
        }
        let forged = Token::new(&case.grant, &case.key, &Key::generate());
        assert_eq!(Token::read(&forged.to_text(), case.now).expect_err("forged").code, Code::InvalidToken);
        let wrong = Token::new(&case.grant, &Token::key(), &case.authority);
        assert_eq!(Token::read(&wrong.to_text(), case.now).expect_err("another key").code, Code::InvalidToken);
        assert!(!format!("{:?}", case.token()).contains(&crate::digest::hex(&*case.key.seed())));
    }

    #[test]
    fn an_enrolment_needs_token_node_and_owner() {
        let case = Case::new();
        let (node, owner) = (Key::generate(), Key::generate());
        let token = case.token();
        // Keys at hand sign at once.
        let mut enrolling = std::pin::pin!(token.enrol(&case.grant, &node, &owner, case.now));
        let polled = enrolling.as_mut().poll(&mut std::task::Context::from_waker(std::task::Waker::noop()));
        let std::task::Poll::Ready(Ok(signed)) = polled else { panic!("{polled:?}") };
        let size = serde_json::to_vec(&signed).expect("json").len();
        assert!(size < 3_500, "{size} bytes don't fit the first exchange");
        let mesh = &case.grant.mesh;
        let verify = |signed: Signed<Enrolment>, mesh: &MeshId| Enrolment::verify(signed.into(), mesh, case.now).map_err(|p| p.code);
        let (opened, grant) = verify(signed.clone(), mesh).expect("a good enrolment");
        assert_eq!((opened.document().node, grant.uses), (node.node_id(), 5));
        let other = MeshId::of(node.did());
        assert_eq!(verify(signed.clone(), &other).expect_err("another mesh"), Code::ForeignMesh);
        for missing in [[&node, &owner], [&case.key, &owner], [&case.key, &node]] {
            let partly = Signed::sign(signed.document().clone(), &missing);
            assert_eq!(verify(partly, mesh).expect_err("a signature is missing"), Code::Unsigned);
        }
        let mut back = signed.document().clone();
        back.header.issued_at -= SignedDuration::from_secs(61);
        let back = Signed::sign(back, &[&case.key, &node, &owner]);
        assert_eq!(verify(back, mesh).expect_err("a key of an earlier time could have signed it"), Code::Expired);
    }
}
