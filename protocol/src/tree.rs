//! BLAKE3 piece by piece: content is verified group by group as it arrives, against its digest alone.
//!
//! BLAKE3 is a Merkle tree. A group is a subtree of 256 KiB, the last one of what is left; whoever has the chaining values
//! of all groups can compute the root, which is the digest, and then verify each group by itself.

use blake3::{
    Hasher,
    hazmat::{ChainingValue, HasherExt as _, Mode, merge_subtrees_non_root, merge_subtrees_root},
};

use crate::digest::Digest;

/// Bytes of a group: a power of two.
pub const GROUP: usize = 256 * 1024;
/// The largest content that has an outline: 65,536 groups.
pub const MAX_CONTENT: u64 = 16 * 1024 * 1024 * 1024;

/// What content consists of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outline {
    size: u64,
    values: Vec<ChainingValue>,
}

/// How many groups `size` bytes make: at least one, which may be empty.
pub fn groups(size: u64) -> u64 {
    size.div_ceil(GROUP as u64).max(1)
}

/// The chaining value of group `index`; of the `only` one, the digest itself.
pub fn value(index: u64, only: bool, group: &[u8]) -> ChainingValue {
    if only {
        return *blake3::hash(group).as_bytes();
    }
    Hasher::new().set_input_offset(index * GROUP as u64).update(group).finalize_non_root()
}

impl Outline {
    /// The outline of content of `size` bytes whose groups have these chaining values; `None` unless it is `content`'s.
    pub fn verify(content: &Digest, size: u64, values: Vec<ChainingValue>) -> Option<Self> {
        let outline = Self { size, values };
        (size <= MAX_CONTENT && outline.values.len() as u64 == groups(size) && outline.digest() == *content).then_some(outline)
    }

    /// Bytes of content.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The groups' chaining values.
    pub fn values(&self) -> &[ChainingValue] {
        &self.values
    }

    /// Bytes of group `index`.
    pub fn length(&self, index: u64) -> usize {
        let left = self.size.saturating_sub(index * GROUP as u64);
        usize::try_from(left).map_or(GROUP, |left| left.min(GROUP))
    }

    /// Whether `group` is this content's group `index`.
    pub fn matches(&self, index: u64, group: &[u8]) -> bool {
        let expected = usize::try_from(index).ok().and_then(|index| self.values.get(index));
        group.len() == self.length(index) && expected == Some(&value(index, self.values.len() == 1, group))
    }

    fn digest(&self) -> Digest {
        let root = match self.values.as_slice() {
            [only] => *only,
            several => {
                let (left, right) = several.split_at(left(several.len()));
                *merge_subtrees_root(&subtree(left), &subtree(right), Mode::Hash).as_bytes()
            }
        };
        Digest::Blake3(root)
    }
}

/// The left subtree has the largest power of two of groups that leaves something to the right.
fn left(groups: usize) -> usize {
    groups.next_power_of_two() / 2
}

fn subtree(values: &[ChainingValue]) -> ChainingValue {
    match values {
        [only] => *only,
        several => {
            let (left, right) = several.split_at(left(several.len()));
            merge_subtrees_non_root(&subtree(left), &subtree(right), Mode::Hash)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outline(content: &[u8]) -> Vec<ChainingValue> {
        let only = content.len() <= GROUP;
        let values = content.chunks(GROUP).enumerate().map(|(index, group)| value(index as u64, only, group));
        if content.is_empty() { vec![value(0, true, content)] } else { values.collect() }
    }

    #[test]
    fn every_length_has_its_blake3_digest_and_no_changed_byte_passes() {
        for size in [0, 1, 1024, GROUP - 1, GROUP, GROUP + 1, 2 * GROUP, 3 * GROUP - 7, 5 * GROUP + 1, 8 * GROUP, 9 * GROUP] {
            let content: Vec<u8> = (0..size).map(|i| (i * 31 + i / 251) as u8).collect();
            let digest = Digest::blake3(&content);
            let verified = Outline::verify(&digest, size as u64, outline(&content)).unwrap_or_else(|| panic!("{size}"));
            for (index, group) in content.chunks(GROUP).enumerate() {
                assert!(verified.matches(index as u64, group));
                let mut changed = group.to_vec();
                changed[group.len() / 2] ^= 1;
                assert!(!verified.matches(index as u64, &changed) && !verified.matches(index as u64 + 1, group));
                assert!(!verified.matches(index as u64, &group[1..]));
            }
            assert!(Outline::verify(&Digest::blake3(b"other"), size as u64, outline(&content)).is_none());
            assert!(Outline::verify(&digest, size as u64 + 2 * GROUP as u64, outline(&content)).is_none());
            let mut changed = outline(&content);
            changed[0][5] ^= 1;
            assert!(Outline::verify(&digest, size as u64, changed).is_none());
        }
    }
}
