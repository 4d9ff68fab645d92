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

/// The growing edge of a tree: the roots of its complete subtrees ("compact range"), largest first. At most 64 hashes.
///
/// ```text
/// size 7 = 4 + 2 + 1          append: the new leaf joins each equal-sized
///      4        2     1       neighbour to its left, as a carry does in binary
///    ┌─┴─┐    ┌─┴─┐   │
///    0 … 3    4   5   6
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Frontier {
    size: u64,
    /// One root for each bit of `size` that is set, the highest first.
    roots: Vec<Hash>,
}

impl Frontier {
    /// The edge of the tree of `size` leaves; none where `roots` aren't as many as that one has.
    pub fn new(size: u64, roots: Vec<Hash>) -> Option<Self> {
        (roots.len() == size.count_ones() as usize).then_some(Self { size, roots })
    }

    /// Leaves so far.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The tree's root (RFC 6962, section 2.1).
    pub fn root(&self) -> Hash {
        fold(&self.roots).unwrap_or_else(empty_root)
    }

    /// Adds a leaf by its hash. Tells of each subtree above it that it completes: its level, its place among those of that level,
    /// its hash.
    pub fn append(&mut self, leaf: Hash, mut completed: impl FnMut(u8, u64, Hash)) {
        let (mut hash, mut level) = (leaf, 0u8);
        while self.size >> level & 1 == 1
            && let Some(left) = self.roots.pop()
        {
            hash = node_hash(&left, &hash);
            level += 1;
            completed(level, self.size >> level, hash);
        }
        self.roots.push(hash);
        self.size += 1;
    }
}

/// What lies beside the way from leaf `index` to the root of the tree of `size` leaves, as ranges of leaves, from the leaf upwards:
/// their hashes are the audit path (RFC 6962, section 2.1.1). None where the tree has no such leaf.
pub fn beside(index: u64, size: u64) -> Option<Vec<(u64, u64)>> {
    if index >= size {
        return None;
    }
    let (mut start, mut end, mut siblings) = (0, size, Vec::new());
    while end - start > 1 {
        let middle = start + split(end - start);
        if index < middle {
            siblings.push((middle, end));
            end = middle;
        } else {
            siblings.push((start, middle));
            start = middle;
        }
    }
    siblings.reverse();
    Some(siblings)
}

/// The largest power of two below `length`, which is at least 2: where RFC 6962 splits a tree.
pub fn split(length: u64) -> u64 {
    1 << (length - 1).ilog2()
}

/// The complete subtrees that make up the leaves `[start, end)`, as (first leaf, level), largest first. `start` is a
/// multiple of the largest, as it is for every range that RFC 6962 splits off.
pub fn subtrees(start: u64, end: u64) -> impl Iterator<Item = (u64, u8)> {
    let mut at = start;
    std::iter::from_fn(move || {
        let level = (end - at).checked_ilog2()? as u8;
        let first = at;
        at += 1 << level;
        Some((first, level))
    })
}

/// The hash over neighbouring complete subtrees that shrink from left to right; none for none.
pub fn fold(roots: &[Hash]) -> Option<Hash> {
    let (last, rest) = roots.split_last()?;
    Some(rest.iter().rev().fold(*last, |right, left| node_hash(left, &right)))
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
