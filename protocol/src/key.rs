//! Ed25519 keys (RFC 8032) and the two names made from their public half:
//! [`Did`] for principals (`did:key:z6Mk…`, W3C did:key) and [`NodeId`] for nodes (a libp2p PeerId, `12D3KooW…`).

use std::{fmt, str::FromStr};

use ed25519_dalek::{
    Signature, SigningKey, VerifyingKey,
    pkcs8::{DecodePrivateKey, EncodePrivateKey, EncodePublicKey, KeypairBytes, spki::der::pem::LineEnding},
};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

/// What is wrong with a key, or with a signature made by one.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The private key's text isn't an unencrypted PKCS#8 PEM of an Ed25519 key.
    #[error("not an Ed25519 private key in PKCS#8 PEM form")]
    Pem,
    /// The private key is encrypted in a way that isn't read here.
    #[error("not encrypted by PBES2 with scrypt or PBKDF2, or at a cost without measure")]
    Cipher,
    /// The private key doesn't decrypt.
    #[error("the passphrase is wrong, or the file is damaged")]
    Passphrase,
    /// The public key isn't a point on the curve, or is a weak one.
    #[error("not a valid Ed25519 public key")]
    Public,
    /// The text isn't a `did:key` of an Ed25519 key.
    #[error("{0:?} is not a did:key of an Ed25519 key (did:key:z6Mk…)")]
    Did(String),
    /// The text isn't the PeerId of an Ed25519 key.
    #[error("{0:?} is not a node id (12D3KooW…)")]
    Node(String),
    /// The signature doesn't verify.
    #[error("the signature does not verify")]
    Signature,
}

/// A private Ed25519 key. Zeroized when dropped; never in `Debug`.
#[derive(Clone)]
pub struct Key(SigningKey);

impl Key {
    /// A new key from the operating system's entropy.
    pub fn generate() -> Self {
        let mut seed = Zeroizing::new([0; 32]);
        getrandom::fill(seed.as_mut()).expect("the operating system's entropy source answers");
        Self::from_seed(&seed)
    }

    /// The key of a 32-byte seed (RFC 8032, the private key itself).
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        Self(SigningKey::from_bytes(seed))
    }

    /// The 32-byte seed.
    pub fn seed(&self) -> Zeroizing<[u8; 32]> {
        Zeroizing::new(self.0.to_bytes())
    }

    /// Reads PKCS#8 PEM (RFC 8410), as `openssl genpkey -algorithm ed25519` writes it.
    pub fn from_pem(pem: &str) -> Result<Self, Error> {
        SigningKey::from_pkcs8_pem(pem).map(Self).map_err(|_| Error::Pem)
    }

    /// Writes PKCS#8 PEM (RFC 8410), as OpenSSL reads it.
    pub fn to_pem(&self) -> Zeroizing<String> {
        self.bytes().to_pkcs8_pem(LineEnding::LF).expect("an Ed25519 key always encodes")
    }

    /// Without the public half beside it, which OpenSSL 3.0 can't read.
    pub(crate) fn bytes(&self) -> KeypairBytes {
        KeypairBytes { secret_key: self.0.to_bytes(), public_key: None }
    }

    /// Signs `message`.
    pub fn sign(&self, message: &[u8]) -> [u8; 64] {
        use ed25519_dalek::Signer as _;
        self.0.sign(message).to_bytes()
    }

    /// The principal whose key this is.
    pub fn did(&self) -> Did {
        Did(Public(self.0.verifying_key().to_bytes()))
    }

    /// The node whose transport identity this is.
    pub fn node_id(&self) -> NodeId {
        NodeId(Public(self.0.verifying_key().to_bytes()))
    }
}

impl From<SigningKey> for Key {
    fn from(key: SigningKey) -> Self {
        Self(key)
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({})", self.did())
    }
}

/// A public key that was checked to be a point of full order. Kept compressed: names are copied far more often than used.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Public([u8; 32]);

impl Public {
    fn from_bytes(bytes: &[u8; 32]) -> Result<Self, Error> {
        let key = VerifyingKey::from_bytes(bytes).map_err(|_| Error::Public)?;
        if key.is_weak() { Err(Error::Public) } else { Ok(Self(*bytes)) }
    }

    fn verify(&self, message: &[u8], signature: &[u8]) -> Result<(), Error> {
        let signature = Signature::from_slice(signature).map_err(|_| Error::Signature)?;
        let key = VerifyingKey::from_bytes(&self.0).map_err(|_| Error::Public)?;
        key.verify_strict(message, &signature).map_err(|_| Error::Signature)
    }
}

macro_rules! public_name {
    ($name:ident) => {
        impl $name {
            /// The name of a 32-byte public key.
            pub fn from_bytes(bytes: &[u8; 32]) -> Result<Self, Error> {
                Public::from_bytes(bytes).map(Self)
            }

            /// The 32-byte public key.
            pub fn as_bytes(&self) -> &[u8; 32] {
                &self.0.0
            }

            /// Verifies strictly (RFC 8032 without malleable or small-order cases).
            pub fn verify(&self, message: &[u8], signature: &[u8]) -> Result<(), Error> {
                self.0.verify(message, signature)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl TryFrom<String> for $name {
            type Error = Error;

            fn try_from(text: String) -> Result<Self, Error> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.to_string()
            }
        }
    };
}

/// A principal: a person or program, named by its public key (W3C did:key method, Ed25519).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Did(Public);

/// A node: its transport's public key, written as a libp2p PeerId.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct NodeId(Public);

public_name!(Did);
public_name!(NodeId);

impl Did {
    /// The public key as PEM (SubjectPublicKeyInfo, RFC 8410), as `openssl pkey -pubout` writes it.
    pub fn to_pem(&self) -> String {
        let key = VerifyingKey::from_bytes(self.as_bytes()).expect("it was checked to be a point");
        key.to_public_key_pem(LineEnding::LF).expect("an Ed25519 key always encodes")
    }
}

/// Multicodec `ed25519-pub` as a varint.
const DID_PREFIX: [u8; 2] = [0xed, 0x01];
/// Identity multihash of 36 bytes, over the protobuf `PublicKey { type: Ed25519, data: 32 bytes }` (libp2p peer-id spec).
const PEER_PREFIX: [u8; 6] = [0x00, 0x24, 0x08, 0x01, 0x12, 0x20];

impl fmt::Display for Did {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = [&DID_PREFIX[..], self.as_bytes()].concat();
        write!(f, "did:key:z{}", bs58::encode(bytes).into_string())
    }
}

impl FromStr for Did {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        text.strip_prefix("did:key:z")
            .and_then(|rest| base58_key(rest, &DID_PREFIX))
            .and_then(|key| Self::from_bytes(&key).ok())
            .ok_or_else(|| Error::Did(text.chars().take(80).collect()))
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = [&PEER_PREFIX[..], self.as_bytes()].concat();
        f.write_str(&bs58::encode(bytes).into_string())
    }
}

impl FromStr for NodeId {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        base58_key(text, &PEER_PREFIX)
            .and_then(|key| Self::from_bytes(&key).ok())
            .ok_or_else(|| Error::Node(text.chars().take(80).collect()))
    }
}

/// Decodes base58btc of `prefix` and a 32-byte key; longer text than any such key is not even decoded.
fn base58_key(text: &str, prefix: &[u8]) -> Option<[u8; 32]> {
    if text.len() > 60 {
        return None;
    }
    let bytes = bs58::decode(text).into_vec().ok()?;
    bytes.strip_prefix(prefix)?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_pem_round_trip() {
        let key = Key::generate();
        assert!(key.did().to_string().starts_with("did:key:z6Mk"));
        assert!(key.node_id().to_string().starts_with("12D3KooW"));
        assert_eq!(key.did().to_string().parse::<Did>().expect("own text"), key.did());
        assert_eq!(key.node_id().to_string().parse::<NodeId>().expect("own text"), key.node_id());
        let again = Key::from_pem(&key.to_pem()).expect("own pem");
        assert_eq!(again.did(), key.did());
        assert!("did:key:z6Mk".parse::<Did>().is_err());
        assert!(Key::from_pem("no pem").is_err());
    }

    /// RFC 8032, section 7.1, test 1 and the did:key of its public key's well-known multibase form.
    #[test]
    fn rfc8032_vector_signs_and_debug_hides_the_seed() {
        let seed = crate::digest::unhex32("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60").expect("hex");
        let key = Key::from_seed(&seed);
        assert_eq!(crate::digest::hex(key.did().as_bytes()), "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a");
        assert!(crate::digest::hex(&key.sign(b"")).starts_with("e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e06522490155"));
        assert!(!format!("{key:?}").contains("9d61b19d"));
        // As OpenSSL has them: `openssl pkey`, and `openssl pkey -pubout`.
        assert!(key.to_pem().contains("\nMC4CAQAwBQYDK2VwBCIEIJ1hsZ3v/VpguoRK9JLsLMREScVpezJpGXA7rAMcrn9g\n"));
        let with_public = "-----BEGIN PRIVATE KEY-----\n\
            MFECAQEwBQYDK2VwBCIEIJ1hsZ3v/VpguoRK9JLsLMREScVpezJpGXA7rAMcrn9g\n\
            gSEA11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=\n\
            -----END PRIVATE KEY-----\n";
        assert_eq!(Key::from_pem(with_public).expect("as this program wrote it once").did(), key.did());
        assert!(key.did().to_pem().contains("\nMCowBQYDK2VwAyEA11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=\n"));
    }
}
