//! RFC 6962 Merkle tree hashing and the verification of its proofs (RFC 9162, sections 2.1.3.2 and 2.1.4.2).
//!
//! Verification lives here, beside the documents, because an auditor needs it without any node.

use sha2::{Digest as _, Sha256};

/// A SHA-256 hash.
pub type Hash = [u8; 32];

/// A proof in a tree of 2⁶⁴ leaves has at most this many hashes.
pub const MAX_PROOF: usize = 64;

/// The proof doesn't lead to the root it was made for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the proof does not verify against the tree's root")]
pub struct Invalid;

/// The root of the tree without leaves.
pub fn empty_root() -> Hash {
    Sha256::digest(b"").into()
}

/// The hash of a leaf: `SHA-256(0x00 ‖ entry)`.
pub fn leaf_hash(entry: &[u8]) -> Hash {
    Sha256::new().chain_update([0]).chain_update(entry).finalize().into()
}

/// The hash of an inner node: `SHA-256(0x01 ‖ left ‖ right)`.
pub fn node_hash(left: &Hash, right: &Hash) -> Hash {
    Sha256::new().chain_update([1]).chain_update(left).chain_update(right).finalize().into()
}

/// Verifies that `leaf` is the leaf at `index` of the tree of `size` leaves with `root`.
pub fn verify_inclusion(leaf: &Hash, index: u64, size: u64, proof: &[Hash], root: &Hash) -> Result<(), Invalid> {
    if index >= size || proof.len() > MAX_PROOF {
        return Err(Invalid);
    }
    let (mut node, mut last, mut hash) = (index, size - 1, *leaf);
    for sibling in proof {
        if last == 0 {
            return Err(Invalid);
        }
        if node & 1 == 1 || node == last {
            hash = node_hash(sibling, &hash);
            while node & 1 == 0 && node != 0 {
                node >>= 1;
                last >>= 1;
            }
        } else {
            hash = node_hash(&hash, sibling);
        }
        node >>= 1;
        last >>= 1;
    }
    if last == 0 && hash == *root { Ok(()) } else { Err(Invalid) }
}

/// Verifies that the tree of `new_size` leaves with `new_root` only adds to the tree of `old_size` leaves with `old_root`.
pub fn verify_consistency(old_size: u64, old_root: &Hash, new_size: u64, new_root: &Hash, proof: &[Hash]) -> Result<(), Invalid> {
    if old_size > new_size || proof.len() > MAX_PROOF {
        return Err(Invalid);
    }
    if old_size == new_size {
        return if proof.is_empty() && old_root == new_root { Ok(()) } else { Err(Invalid) };
    }
    if old_size == 0 {
        return if proof.is_empty() && *old_root == empty_root() { Ok(()) } else { Err(Invalid) };
    }
    // The old root is itself the first node of the path where the old tree is a complete one.
    let path: Vec<Hash> =
        if old_size.is_power_of_two() { std::iter::once(*old_root).chain(proof.iter().copied()).collect() } else { proof.to_vec() };
    let (first, rest) = path.split_first().ok_or(Invalid)?;
    let (mut node, mut last) = (old_size - 1, new_size - 1);
    while node & 1 == 1 {
        node >>= 1;
        last >>= 1;
    }
    let (mut old, mut new) = (*first, *first);
    for sibling in rest {
        if last == 0 {
            return Err(Invalid);
        }
        if node & 1 == 1 || node == last {
            old = node_hash(sibling, &old);
            new = node_hash(sibling, &new);
            while node & 1 == 0 && node != 0 {
                node >>= 1;
                last >>= 1;
            }
        } else {
            new = node_hash(&new, sibling);
        }
        node >>= 1;
        last >>= 1;
    }
    if last == 0 && old == *old_root && new == *new_root { Ok(()) } else { Err(Invalid) }
}

/// Serializes a [`type@Hash`] as standard base64, as C2SP formats write it.
pub mod base64_hash {
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    use serde::{Deserialize as _, Deserializer, Serializer, de::Error as _};

    use super::Hash;

    /// Writes it.
    pub fn serialize<S: Serializer>(hash: &Hash, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD.encode(hash))
    }

    /// Reads it.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Hash, D::Error> {
        let text = String::deserialize(deserializer)?;
        parse(&text).ok_or_else(|| D::Error::custom("not a SHA-256 hash in base64"))
    }

    /// Reads it from text.
    pub fn parse(text: &str) -> Option<Hash> {
        STANDARD.decode(text).ok()?.try_into().ok()
    }
}

/// Serializes a list of hashes as standard base64.
pub mod base64_hashes {
    use base64::{Engine as _, engine::general_purpose::STANDARD};
    use serde::{Deserialize as _, Deserializer, Serialize as _, Serializer, de::Error as _};

    use super::{Hash, MAX_PROOF, base64_hash};

    /// Writes them.
    pub fn serialize<S: Serializer>(hashes: &[Hash], serializer: S) -> Result<S::Ok, S::Error> {
        hashes.iter().map(|hash| STANDARD.encode(hash)).collect::<Vec<_>>().serialize(serializer)
    }

    /// Reads them, at most [`MAX_PROOF`].
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Hash>, D::Error> {
        let texts = Vec::<String>::deserialize(deserializer)?;
        if texts.len() > MAX_PROOF {
            return Err(D::Error::custom("a proof has at most 64 hashes"));
        }
        let hashes: Option<Vec<_>> = texts.iter().map(|text| base64_hash::parse(text)).collect();
        hashes.ok_or_else(|| D::Error::custom("not SHA-256 hashes in base64"))
    }
}
