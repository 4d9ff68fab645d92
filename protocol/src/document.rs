//! Signed documents: a JSON payload in a DSSE envelope that names its type, version, mesh and validity.

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::DeserializeOwned};

use crate::{
    envelope::{self, Envelope, Signatory},
    error::{Code, Problem},
    id::MeshId,
    key::{Did, Key},
    signer::Signer,
};

/// How far another party's clock may run ahead of ours.
pub const MAX_SKEW: SignedDuration = SignedDuration::from_secs(60);

/// The first member of every document.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// The document's type, as in its payload type.
    #[serde(rename = "type")]
    pub kind: String,
    /// The version of that type.
    pub version: u32,
    /// The mesh it was made for; `*` where the type is bound to none.
    pub mesh: MeshId,
    /// When it was issued.
    pub issued_at: Timestamp,
    /// From when on it is refused.
    pub expires_at: Timestamp,
}

impl Header {
    /// The header of a new `D`.
    pub fn new<D: Document>(mesh: &MeshId, issued_at: Timestamp, valid: SignedDuration) -> Self {
        Self {
            kind: D::TYPE.into(),
            version: D::VERSION,
            mesh: mesh.clone(),
            issued_at,
            expires_at: issued_at.saturating_add(valid).unwrap_or(Timestamp::MAX),
        }
    }
}

/// A kind of document.
pub trait Document: Serialize + DeserializeOwned {
    /// Its name: `agreement`.
    const TYPE: &'static str;
    /// The one version this program writes and reads.
    const VERSION: u32;
    /// Whether it may be bound to no mesh (`*`).
    const ANY_MESH: bool = false;

    /// Its header.
    fn header(&self) -> &Header;

    /// Its payload type: `application/vnd.mcp-zero.<type>+json`.
    fn payload_type() -> String {
        format!("application/vnd.mcp-zero.{}+json", Self::TYPE)
    }
}

/// What a document must be to be accepted.
#[derive(Debug, Clone, Copy)]
pub struct Expect<'a> {
    /// The mesh it must be of.
    pub mesh: &'a MeshId,
    /// The time at which it must be valid; `None` accepts any, for archives.
    pub now: Option<Timestamp>,
}

impl<'a> Expect<'a> {
    /// Valid in `mesh` at `now`.
    pub fn at(mesh: &'a MeshId, now: Timestamp) -> Self {
        Self { mesh, now: Some(now) }
    }

    /// Of `mesh`, valid now or once: for verification from an archive.
    pub fn archived(mesh: &'a MeshId) -> Self {
        Self { mesh, now: None }
    }
}

/// Why a document is refused.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The envelope doesn't verify.
    #[error(transparent)]
    Envelope(#[from] envelope::Error),
    /// The envelope holds another type of document.
    #[error("the envelope holds {found:?}, not a {expected}")]
    Type {
        /// The type wanted.
        expected: &'static str,
        /// The payload type found.
        found: String,
    },
    /// The payload isn't such a document.
    #[error("the {kind} can't be read: {source}")]
    Malformed {
        /// The type wanted.
        kind: &'static str,
        /// Where reading stopped.
        source: serde_json::Error,
    },
    /// A version this program doesn't know.
    #[error("the {kind} is of version {found}; this program knows version {known}")]
    Version {
        /// The type.
        kind: &'static str,
        /// Its version.
        found: u32,
        /// Ours.
        known: u32,
    },
    /// Made for another mesh.
    #[error("the {kind} is of mesh {found}, not of {expected}")]
    Mesh {
        /// The type.
        kind: &'static str,
        /// Its mesh.
        found: MeshId,
        /// Ours.
        expected: MeshId,
    },
    /// No longer valid.
    #[error("the {kind} expired at {at}")]
    Expired {
        /// The type.
        kind: &'static str,
        /// When.
        at: Timestamp,
    },
    /// Not yet valid.
    #[error("the {kind} was issued at {at}, over {} s in the future", MAX_SKEW.as_secs())]
    Future {
        /// The type.
        kind: &'static str,
        /// When.
        at: Timestamp,
    },
    /// It is to bring about something new, and was issued too long ago for that.
    #[error("the {kind} was issued at {at}, over {} s ago: what is new is signed just before; check the clocks", MAX_SKEW.as_secs())]
    Old {
        /// The type.
        kind: &'static str,
        /// When.
        at: Timestamp,
    },
    /// A party that must sign did not.
    #[error("the {kind} is not signed by {missing}")]
    NotSignedBy {
        /// The type.
        kind: &'static str,
        /// The missing party.
        missing: Did,
    },
    /// A key signed that wasn't its owner's any more.
    #[error("the {kind} is signed by {key}, which was succeeded by another key at {at}")]
    Succeeded {
        /// The type.
        kind: &'static str,
        /// The old key.
        key: Did,
        /// Since when.
        at: Timestamp,
    },
}

impl Error {
    /// The stable code.
    pub fn code(&self) -> Code {
        match self {
            Self::Envelope(envelope::Error::Unsigned) | Self::NotSignedBy { .. } => Code::Unsigned,
            Self::Envelope(envelope::Error::TooLarge) => Code::TooLarge,
            Self::Envelope(envelope::Error::Encoding(_)) | Self::Type { .. } | Self::Malformed { .. } => Code::MalformedDocument,
            Self::Envelope(envelope::Error::Signature(_) | envelope::Error::Lineage(_)) | Self::Succeeded { .. } => Code::BadSignature,
            Self::Version { .. } => Code::UnknownVersion,
            Self::Mesh { .. } => Code::ForeignMesh,
            Self::Expired { .. } | Self::Old { .. } => Code::Expired,
            Self::Future { .. } => Code::FutureDated,
        }
    }
}

/// A document whose signatures were verified, with the envelope that proves it. Serializes as the envelope.
#[derive(Debug, Clone, PartialEq)]
pub struct Signed<D> {
    envelope: Envelope,
    signatories: Vec<Signatory>,
    signers: Vec<Did>,
    document: D,
}

impl<D: Document> Signed<D> {
    /// Signs a document with each of `keys`.
    pub fn sign(document: D, keys: &[&Key]) -> Self {
        let payload = serde_json::to_vec(&document).expect("our documents have text keys and finite numbers");
        let envelope = Envelope::sign(&D::payload_type(), &payload, keys);
        let signatories: Vec<_> = keys.iter().map(|key| bare(key.did())).collect();
        Self { envelope, signers: envelope::principals(&signatories), signatories, document }
    }

    /// Signs a document by a key that may be elsewhere.
    ///
    /// # Errors
    /// `key_unavailable`: then there is no document.
    pub async fn sign_by(document: D, signer: &dyn Signer) -> Result<Self, Problem> {
        Self::sign(document, &[]).countersign_by(signer).await
    }

    /// Verifies signatures, type, version, mesh and validity, in this order.
    pub fn open(envelope: Envelope, expect: Expect<'_>) -> Result<Self, Error> {
        if envelope.payload_type != D::payload_type() {
            return Err(Error::Type { expected: D::TYPE, found: envelope.payload_type.chars().take(80).collect() });
        }
        let (payload, signatories) = envelope.verify_each()?;
        let malformed = |source| Error::Malformed { kind: D::TYPE, source };
        // The header alone first: a later version may have members this program can't read.
        let Outline { header } = serde_json::from_slice(&payload).map_err(malformed)?;
        check::<D>(&header, expect)?;
        let document = serde_json::from_slice(&payload).map_err(malformed)?;
        Ok(Self { envelope, signers: envelope::principals(&signatories), signatories, document })
    }

    /// Adds a signature over the very same bytes.
    #[must_use]
    pub fn countersign(mut self, key: &Key) -> Self {
        if !self.signers.contains(&key.did()) {
            self.envelope.countersign(key).expect("a verified envelope decodes");
            self.signers.push(key.did());
            self.signatories.push(bare(key.did()));
        }
        self
    }

    /// Adds a signature over the very same bytes, by a key that may be elsewhere.
    ///
    /// # Errors
    /// `key_unavailable`.
    pub async fn countersign_by(mut self, signer: &dyn Signer) -> Result<Self, Problem> {
        if !self.signers.contains(&signer.did()) {
            self.envelope.countersign_by(signer).await?;
            self.signers.push(signer.did());
            self.signatories.push(Signatory { principal: signer.did(), key: signer.key(), lineage: signer.lineage().cloned() });
        }
        Ok(self)
    }

    /// Requires that it was issued within [`MAX_SKEW`] of `now`. For what brings about something new: a key that was succeeded
    /// since could date it back, and nothing else in it tells.
    ///
    /// # Errors
    /// [`Error::Old`], [`Error::Future`].
    pub fn require_new(&self, now: Timestamp) -> Result<(), Error> {
        let at = self.document.header().issued_at;
        match now.duration_since(at) {
            age if age > MAX_SKEW => Err(Error::Old { kind: D::TYPE, at }),
            age if age < -MAX_SKEW => Err(Error::Future { kind: D::TYPE, at }),
            _ => Ok(()),
        }
    }

    /// Requires the signature of `party`, by its first key or by one that follows it.
    pub fn require(&self, party: Did) -> Result<(), Error> {
        if self.signers.contains(&party) { Ok(()) } else { Err(Error::NotSignedBy { kind: D::TYPE, missing: party }) }
    }
}

impl<D> Signed<D> {
    /// The document.
    pub fn document(&self) -> &D {
        &self.document
    }

    /// Those in whose names signatures verified.
    pub fn signers(&self) -> &[Did] {
        &self.signers
    }

    /// By which keys they signed.
    pub fn signatories(&self) -> &[Signatory] {
        &self.signatories
    }

    /// The envelope.
    pub fn envelope(&self) -> &Envelope {
        &self.envelope
    }

    /// The envelope alone.
    pub fn into_envelope(self) -> Envelope {
        self.envelope
    }
}

fn bare(key: Did) -> Signatory {
    Signatory { principal: key, key, lineage: None }
}

/// What every version of every document has.
#[derive(Deserialize)]
struct Outline {
    header: Header,
}

fn check<D: Document>(header: &Header, expect: Expect<'_>) -> Result<(), Error> {
    let kind = D::TYPE;
    if header.kind != kind {
        return Err(Error::Type { expected: kind, found: header.kind.chars().take(80).collect() });
    }
    if header.version != D::VERSION {
        return Err(Error::Version { kind, found: header.version, known: D::VERSION });
    }
    if header.mesh != *expect.mesh && !(D::ANY_MESH && header.mesh == MeshId::any()) {
        return Err(Error::Mesh { kind, found: header.mesh.clone(), expected: expect.mesh.clone() });
    }
    if let Some(now) = expect.now {
        if header.expires_at <= now {
            return Err(Error::Expired { kind, at: header.expires_at });
        }
        if header.issued_at.duration_since(now) > MAX_SKEW {
            return Err(Error::Future { kind, at: header.issued_at });
        }
    }
    Ok(())
}

impl<D> Serialize for Signed<D> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.envelope.serialize(serializer)
    }
}

/// A signed document as it comes from outside: nothing in it is verified before [`Sealed::open`].
#[derive(Debug, Clone, PartialEq)]
pub struct Sealed<D> {
    envelope: Envelope,
    of: std::marker::PhantomData<fn() -> D>,
}

impl<D: Document> Sealed<D> {
    /// Verifies it.
    pub fn open(self, expect: Expect<'_>) -> Result<Signed<D>, Error> {
        Signed::open(self.envelope, expect)
    }
}

impl<D: Document> Sealed<D> {
    /// The header as it stands there: nothing of it is verified.
    ///
    /// # Errors
    /// The payload can't be read.
    pub fn claimed_header(&self) -> Result<Header, Error> {
        let payload = self.envelope.claimed_payload()?;
        let malformed = |source| Error::Malformed { kind: D::TYPE, source };
        serde_json::from_slice(&payload).map(|Outline { header }| header).map_err(malformed)
    }
}

impl<D> Sealed<D> {
    /// The unverified envelope.
    pub fn envelope(&self) -> &Envelope {
        &self.envelope
    }
}

impl<D> From<Signed<D>> for Sealed<D> {
    fn from(signed: Signed<D>) -> Self {
        signed.envelope.into()
    }
}

impl<D> From<Envelope> for Sealed<D> {
    fn from(envelope: Envelope) -> Self {
        Self { envelope, of: std::marker::PhantomData }
    }
}

impl<D> Serialize for Sealed<D> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.envelope.serialize(serializer)
    }
}

impl<'de, D> Deserialize<'de> for Sealed<D> {
    fn deserialize<De: Deserializer<'de>>(deserializer: De) -> Result<Self, De::Error> {
        Envelope::deserialize(deserializer).map(Self::from)
    }
}
