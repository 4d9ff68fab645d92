//! DSSE v1: the one way a document is signed (<https://github.com/secure-systems-lab/dsse>).
//!
//! The signature covers the pre-authentication encoding of the payload's exact bytes, so nothing is canonicalized
//! and any number of parties can sign the same bytes.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde::{Deserialize, Serialize};

use crate::{
    error::Problem,
    key::{Did, Key},
    signer::Signer,
    succession::{self, Lineage},
};

/// Parties that may sign one document: two for an agreement, and room for witnesses.
pub const MAX_SIGNATURES: usize = 8;
/// The largest payload accepted from outside; an advert of a thousand agents takes a tenth of it.
pub const MAX_PAYLOAD: usize = 1024 * 1024;

/// A payload, its type and the signatures over both.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Envelope {
    /// What the payload is: a media type.
    #[serde(rename = "payloadType")]
    pub payload_type: String,
    /// The payload's bytes in standard base64.
    pub payload: String,
    /// At least one.
    pub signatures: Vec<Signature>,
}

/// One party's signature.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Signature {
    /// Who signed: a `did:key`. A hint in DSSE; here also the key itself, which the caller holds against whom it expects.
    pub keyid: Did,
    /// 64 bytes in standard base64.
    pub sig: String,
    /// The successions by which this key follows the first of the principal's, in whose name it signs.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub lineage: Vec<Envelope>,
}

/// Whose signature it is that was verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signatory {
    /// In whose name: the first key of the lineage, or the key itself.
    pub principal: Did,
    /// The key that signed.
    pub key: Did,
    /// How the key came to be the principal's, if it isn't its first.
    pub lineage: Option<Lineage>,
}

/// Why an envelope is refused.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nobody signed.
    #[error("the document is not signed")]
    Unsigned,
    /// More than [`MAX_SIGNATURES`] signatures, or a payload over [`MAX_PAYLOAD`].
    #[error("the envelope exceeds {MAX_SIGNATURES} signatures or {MAX_PAYLOAD} bytes")]
    TooLarge,
    /// Payload or signature isn't base64.
    #[error("the envelope's {0} is not base64")]
    Encoding(&'static str),
    /// A signature doesn't verify.
    #[error("the signature of {0} does not verify")]
    Signature(Did),
    /// A key signs in another's name without being its successor.
    #[error(transparent)]
    Lineage(#[from] succession::Error),
}

impl Envelope {
    /// Signs `payload` with each of `keys`.
    pub fn sign(payload_type: &str, payload: &[u8], keys: &[&Key]) -> Self {
        let mut envelope = Self { payload_type: payload_type.into(), payload: STANDARD.encode(payload), signatures: Vec::new() };
        for key in keys {
            envelope.push(payload, key);
        }
        envelope
    }

    /// Adds a signature over the payload as it stands.
    pub fn countersign(&mut self, key: &Key) -> Result<(), Error> {
        let payload = self.decode()?;
        self.push(&payload, key);
        Ok(())
    }

    /// Adds a signature over the payload as it stands, by a key that may be elsewhere.
    ///
    /// # Errors
    /// The key can't be used now.
    pub(crate) async fn countersign_by(&mut self, signer: &dyn Signer) -> Result<(), Problem> {
        let payload = self.decode().map_err(|error| Problem::from(crate::document::Error::from(error)))?;
        let sig = signer.sign(&pre_authentication_encoding(&self.payload_type, &payload)).await?;
        let lineage = signer.lineage().map(|lineage| lineage.proofs().to_vec()).unwrap_or_default();
        self.signatures.push(Signature { keyid: signer.key(), sig: STANDARD.encode(sig), lineage });
        Ok(())
    }

    /// Verifies every signature; returns the payload and its signers, without repetition.
    pub fn verify(&self) -> Result<(Vec<u8>, Vec<Did>), Error> {
        let (payload, signatories) = self.verify_each()?;
        Ok((payload, principals(&signatories)))
    }

    /// Verifies every signature; returns the payload and whose each of them is.
    pub fn verify_each(&self) -> Result<(Vec<u8>, Vec<Signatory>), Error> {
        if self.signatures.is_empty() {
            return Err(Error::Unsigned);
        }
        if self.signatures.len() > MAX_SIGNATURES {
            return Err(Error::TooLarge);
        }
        let payload = self.decode()?;
        let message = pre_authentication_encoding(&self.payload_type, &payload);
        // Two parties, each with as long a lineage as there may be: more isn't work that anybody may give others to do.
        if self.signatures.iter().map(|signature| signature.lineage.len()).sum::<usize>() > 2 * succession::MAX_SUCCESSIONS {
            return Err(Error::Lineage(succession::Error::TooLarge));
        }
        let mut signatories: Vec<Signatory> = Vec::with_capacity(self.signatures.len());
        for signature in &self.signatures {
            let key = signature.keyid;
            let bytes = STANDARD.decode(&signature.sig).map_err(|_| Error::Encoding("signature"))?;
            key.verify(&message, &bytes).map_err(|_| Error::Signature(key))?;
            let lineage = Lineage::open(&signature.lineage)?;
            if lineage.as_ref().is_some_and(|lineage| lineage.newest() != key) {
                return Err(Error::Lineage(succession::Error::Elsewhere(key)));
            }
            let principal = lineage.as_ref().map_or(key, Lineage::root);
            signatories.push(Signatory { principal, key, lineage });
        }
        Ok((payload, signatories))
    }

    /// The payload, without verifying anything.
    pub fn claimed_payload(&self) -> Result<Vec<u8>, Error> {
        self.decode()
    }

    fn decode(&self) -> Result<Vec<u8>, Error> {
        if self.payload.len() > MAX_PAYLOAD / 3 * 4 + 4 {
            return Err(Error::TooLarge);
        }
        STANDARD.decode(&self.payload).map_err(|_| Error::Encoding("payload"))
    }

    fn push(&mut self, payload: &[u8], key: &Key) {
        let sig = key.sign(&pre_authentication_encoding(&self.payload_type, payload));
        self.signatures.push(Signature { keyid: key.did(), sig: STANDARD.encode(sig), lineage: Vec::new() });
    }
}

/// In whose names they signed, without repetition.
pub(crate) fn principals(signatories: &[Signatory]) -> Vec<Did> {
    let mut signers = Vec::with_capacity(signatories.len());
    for Signatory { principal, .. } in signatories {
        if !signers.contains(principal) {
            signers.push(*principal);
        }
    }
    signers
}

/// `DSSEv1 SP len(type) SP type SP len(payload) SP payload` (DSSE protocol.md, "Signature Definition").
pub fn pre_authentication_encoding(payload_type: &str, payload: &[u8]) -> Vec<u8> {
    let mut bytes = format!("DSSEv1 {} {payload_type} {} ", payload_type.len(), payload.len()).into_bytes();
    bytes.extend_from_slice(payload);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    /// DSSE protocol.md, "Test Vectors": an ECDSA P-256 signature over our encoding of its payload.
    #[test]
    fn specification_test_vector_verifies() {
        use p256::ecdsa::{Signature, VerifyingKey, signature::Verifier as _};

        let encoding = pre_authentication_encoding("http://example.com/HelloWorld", b"hello world");
        assert_eq!(encoding, b"DSSEv1 29 http://example.com/HelloWorld 11 hello world");

        let x = "46950820868899156662930047687818585632848591499744589407958293238635476079160";
        let y = "5640078356564379163099075877009565129882514886557779369047442380624545832820";
        let point = [&[4][..], &decimal(x), &decimal(y)].concat();
        let key = VerifyingKey::from_sec1_bytes(&point).expect("the vector's key");
        let sig =
            STANDARD.decode("A3JqsQGtVsJ2O2xqrI5IcnXip5GToJ3F+FnZ+O88SjtR6rDAajabZKciJTfUiHqJPcIAriEGAHTVeCUjW2JIZA==").expect("base64");
        let sig = Signature::from_slice(&sig).expect("the vector's signature");
        key.verify(&encoding, &sig).expect("the vector verifies");
        assert!(key.verify(b"another message", &sig).is_err());
    }

    /// A decimal number as 32 big-endian bytes.
    fn decimal(text: &str) -> [u8; 32] {
        let mut bytes = [0u8; 32];
        for digit in text.bytes() {
            let mut carry = u16::from(digit - b'0');
            for byte in bytes.iter_mut().rev() {
                let value = u16::from(*byte) * 10 + carry;
                *byte = (value & 0xff) as u8;
                carry = value >> 8;
            }
        }
        bytes
    }

    #[test]
    fn two_parties_sign_the_same_bytes() {
        let (one, two) = (Key::generate(), Key::generate());
        let mut envelope = Envelope::sign("text/plain", b"terms", &[&one]);
        envelope.countersign(&two).expect("countersign");
        let (payload, signers) = envelope.verify().expect("both verify");
        assert_eq!((payload.as_slice(), signers), (&b"terms"[..], vec![one.did(), two.did()]));
    }

    #[test]
    fn unsigned_and_oversized_are_refused() {
        let mut envelope = Envelope::sign("text/plain", b"terms", &[]);
        assert!(matches!(envelope.verify(), Err(Error::Unsigned)));
        let key = Key::generate();
        for _ in 0..=MAX_SIGNATURES {
            envelope.countersign(&key).expect("countersign");
        }
        assert!(matches!(envelope.verify(), Err(Error::TooLarge)));
    }
}
