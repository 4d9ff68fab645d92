//! Succession: an owner goes on with another key, and stays who it was.
//!
//! ```text
//! did:key of the first key   the name for good: in agreements, credentials, entries
//!   └─ succession 1 ── signed by the first key and the second
//!        └─ succession 2 ── signed by the second key and the third
//!             └─ each signature of the third key has both beside it, and counts for the first one's name
//! ```
//!
//! So whoever has a document has all that it takes to verify it, now and in ten years, and nobody but the holder of a key
//! names the next one. What a signature can't say is that its key was succeeded since: whoever knows a longer lineage
//! ([`Known`]) refuses what the older key signs under a later time.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use crate::{
    document::{self, Document, Expect, Header, MAX_SKEW, Signed},
    envelope::Envelope,
    error::Problem,
    id::MeshId,
    key::Did,
    signer::Signer,
};

/// Successions in one lineage: with a new key each year, more than a node's life.
pub const MAX_SUCCESSIONS: usize = 16;
/// The largest payload of one, in base64: it has two names of 56 letters and a header, which together take half of it.
const MAX_PAYLOAD: usize = 1024;
/// Lineages that are remembered at once, about 1 KiB for each succession.
const MAX_KNOWN: usize = 4096;

/// That the owner who signed by `from` signs by `to` from now on. Both sign it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Succession {
    /// Type, version, no mesh, and the time from which on it counts.
    pub header: Header,
    /// The key before.
    pub from: Did,
    /// The key from now on.
    pub to: Did,
    /// Which succession of this owner it is, from 1.
    pub number: u64,
}

impl Document for Succession {
    const TYPE: &'static str = "succession";
    const VERSION: u32 = 1;
    /// An owner is the same in every mesh.
    const ANY_MESH: bool = true;

    fn header(&self) -> &Header {
        &self.header
    }
}

/// Why a lineage is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// More than [`MAX_SUCCESSIONS`], or a succession that is larger than any honest one.
    #[error("the lineage exceeds {MAX_SUCCESSIONS} successions, or one of them is too large")]
    TooLarge,
    /// A succession that isn't signed by exactly its two keys, or can't be read.
    #[error("succession {0} does not verify: {1}")]
    Invalid(usize, String),
    /// A succession that doesn't follow the one before.
    #[error("succession {0} does not follow the one before")]
    Broken(usize),
    /// A key that comes again.
    #[error("succession {0} returns to an earlier key")]
    Cyclic(usize),
    /// The lineage ends in another key than the one that signs.
    #[error("the lineage does not lead to {0}")]
    Elsewhere(Did),
    /// Two lineages of one owner, of which neither continues the other.
    #[error("{0} was succeeded by another key already")]
    Forked(Did),
    /// Too many are known.
    #[error("the lineages of {MAX_KNOWN} owners are known already")]
    Full,
}

/// One step of a lineage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// The key before.
    pub from: Did,
    /// The key after.
    pub to: Did,
    /// Since when.
    pub at: Timestamp,
}

/// A verified chain of successions, from an owner's first key to its newest. Serializes as the envelopes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lineage {
    steps: Vec<Step>,
    proofs: Vec<Envelope>,
}

impl Lineage {
    /// Verifies a chain; nothing where there is none.
    ///
    /// # Errors
    /// It is too long, or a succession isn't signed by both its keys, or doesn't follow the one before.
    pub fn open(proofs: &[Envelope]) -> Result<Option<Self>, Error> {
        if proofs.len() > MAX_SUCCESSIONS {
            return Err(Error::TooLarge);
        }
        let mut steps: Vec<Step> = Vec::with_capacity(proofs.len());
        for (number, proof) in (1..).zip(proofs) {
            let step = step(number, proof)?;
            if steps.last().is_some_and(|before| before.to != step.from || before.at > step.at) {
                return Err(Error::Broken(number));
            }
            if step.from == step.to || steps.iter().any(|before| before.from == step.to) {
                return Err(Error::Cyclic(number));
            }
            steps.push(step);
        }
        Ok(if steps.is_empty() { None } else { Some(Self { steps, proofs: proofs.to_vec() }) })
    }

    /// The next succession of an owner, as the bare key `old` signs it.
    ///
    /// # Errors
    /// `key_unavailable`.
    pub async fn name(before: Option<&Self>, old: &dyn Signer, to: Did, now: Timestamp) -> Result<Signed<Succession>, Problem> {
        // A clock that was set back must not make a lineage that nobody accepts.
        let now = before.map_or(now, |before| before.last().at.max(now));
        let header = Header::new::<Succession>(&MeshId::any(), now, SignedDuration::MAX);
        let number = before.map_or(0, |before| before.steps.len() as u64) + 1;
        Signed::sign_by(Succession { header, from: old.did(), to, number }, old).await
    }

    /// The lineage with that succession, which the bare key `new` signs too.
    ///
    /// # Errors
    /// `key_unavailable`; `conflict`: there would be too many, or the new key was one of the owner's before.
    pub async fn accept(before: Option<&Self>, named: Signed<Succession>, new: &dyn Signer) -> Result<Self, Problem> {
        let mut proofs = before.map(|before| before.proofs.clone()).unwrap_or_default();
        proofs.push(named.countersign_by(new).await?.into_envelope());
        let refused = |error: Error| Problem::new(crate::Code::Conflict, error.to_string());
        Self::open(&proofs).map_err(refused)?.ok_or_else(|| refused(Error::TooLarge))
    }

    fn last(&self) -> &Step {
        self.steps.last().expect("a lineage has a step")
    }

    /// The owner's name: its first key.
    pub fn root(&self) -> Did {
        self.steps.first().expect("a lineage has a step").from
    }

    /// The newest key.
    pub fn newest(&self) -> Did {
        self.last().to
    }

    /// All steps, the first one first.
    pub fn steps(&self) -> &[Step] {
        &self.steps
    }

    /// The successions, as they are shown to others.
    pub fn proofs(&self) -> &[Envelope] {
        &self.proofs
    }

    /// Since when `key` is succeeded, if it is.
    pub fn succeeded(&self, key: Did) -> Option<Timestamp> {
        self.steps.iter().find(|step| step.from == key).map(|step| step.at)
    }

    /// Whether it is the same as `earlier`, or continues it.
    pub fn follows(&self, earlier: &Self) -> bool {
        self.steps.starts_with(&earlier.steps)
    }

    /// As it was when `key` was the newest: nothing for the first key.
    ///
    /// # Errors
    /// `key` isn't in it.
    pub fn up_to(&self, key: Did) -> Result<Option<Self>, Error> {
        if key == self.root() {
            return Ok(None);
        }
        let place = self.steps.iter().position(|step| step.to == key).ok_or(Error::Elsewhere(key))?;
        Ok(Some(Self { steps: self.steps[..=place].to_vec(), proofs: self.proofs[..=place].to_vec() }))
    }
}

impl Serialize for Lineage {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.proofs.serialize(serializer)
    }
}

fn step(number: usize, proof: &Envelope) -> Result<Step, Error> {
    // Its own signatures are of bare keys, or verifying one would verify others without an end.
    let bare = proof.signatures.len() == 2 && proof.signatures.iter().all(|signature| signature.lineage.is_empty());
    if proof.payload.len() > MAX_PAYLOAD {
        return Err(Error::TooLarge);
    }
    let invalid = |why: String| Error::Invalid(number, why);
    if !bare {
        return Err(invalid("two bare keys sign a succession".into()));
    }
    let signed = Signed::<Succession>::open(proof.clone(), Expect::archived(&MeshId::any())).map_err(|error| invalid(error.to_string()))?;
    let Succession { header, from, to, number: said } = signed.document();
    for key in [from, to] {
        signed.require(*key).map_err(|error| invalid(error.to_string()))?;
    }
    if *said != number as u64 {
        return Err(Error::Broken(number));
    }
    Ok(Step { from: *from, to: *to, at: header.issued_at })
}

/// The lineages that somebody has heard of, one for each owner.
#[derive(Debug, Clone, Default)]
pub struct Known(BTreeMap<Did, Lineage>);

impl Known {
    /// Takes a lineage; answers whether it says more than what was known.
    ///
    /// # Errors
    /// It is another one than what is known: the first that was heard of counts. Or too many are known.
    pub fn learn(&mut self, lineage: &Lineage) -> Result<bool, Error> {
        let root = lineage.root();
        match self.0.get(&root) {
            Some(known) if known.follows(lineage) => return Ok(false),
            Some(known) if !lineage.follows(known) => {
                let parted = known.steps.iter().zip(&lineage.steps).find(|(known, said)| known != said);
                return Err(Error::Forked(parted.map_or(root, |(known, _)| known.from)));
            }
            Some(_) => {}
            None if self.0.len() >= MAX_KNOWN => return Err(Error::Full),
            None => {}
        }
        self.0.insert(root, lineage.clone());
        Ok(true)
    }

    /// Takes the lineages beside a document's signatures, in an audit of several that belong together.
    ///
    /// # Errors
    /// As for [`Known::learn`].
    pub fn hear<D: Document>(&mut self, signed: &Signed<D>) -> Result<(), document::Error> {
        for lineage in signed.signatories().iter().filter_map(|signatory| signatory.lineage.as_ref()) {
            self.learn(lineage).map_err(crate::envelope::Error::from)?;
        }
        Ok(())
    }

    /// The lineage of an owner.
    pub fn of(&self, owner: Did) -> Option<&Lineage> {
        self.0.get(&owner)
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &Lineage> {
        self.0.values()
    }

    /// Refuses what a key signed under a time at which, as is known, it was succeeded already, and what is signed by a lineage
    /// that isn't the known one.
    ///
    /// # Errors
    /// [`document::Error::Succeeded`], or the envelope's.
    pub fn check<D: Document>(&self, signed: &Signed<D>) -> Result<(), document::Error> {
        for signatory in signed.signatories() {
            let Some(known) = self.of(signatory.principal) else { continue };
            if signatory.lineage.as_ref().is_some_and(|said| !known.follows(said) && !said.follows(known)) {
                let forked = crate::envelope::Error::Lineage(Error::Forked(signatory.principal));
                return Err(document::Error::Envelope(forked));
            }
            let Some(at) = known.succeeded(signatory.key) else { continue };
            if signed.document().header().issued_at.duration_since(at) > MAX_SKEW {
                return Err(document::Error::Succeeded { kind: D::TYPE, key: signatory.key, at });
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
