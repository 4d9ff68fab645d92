//! A log that grows, and what the store keeps of its tree.

use protocol::merkle::{Frontier, Hash};

use crate::{Error, TILE_LEVELS};

/// The hash of a complete subtree at a stored level above the leaves: what the store writes beside an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoredNode {
    /// Its level: 8, 16, 24 … The subtree holds 2^level leaves.
    pub level: u8,
    /// Its place among the nodes of its level: it begins at leaf `index << level`.
    pub index: u64,
    /// Its hash.
    pub hash: Hash,
}

/// A log of known size and root that can grow. At most 64 hashes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tree(Frontier);

impl Tree {
    /// A log without entries.
    pub fn new() -> Self {
        Self::default()
    }

    /// The log of `size` entries, from what [`frontier`](crate::proof::frontier)'s plan assembled.
    ///
    /// # Errors
    /// [`Error::Missing`] where `roots` aren't as many as a tree of this size has.
    pub fn restore(size: u64, roots: Vec<Hash>) -> Result<Self, Error> {
        let (expected, found) = (u64::from(size.count_ones()), roots.len() as u64);
        Frontier::new(size, roots).map(Self).ok_or(Error::Missing { level: 0, from: 0, expected, found })
    }

    /// Entries in it.
    pub fn size(&self) -> u64 {
        self.0.size()
    }

    /// Its root (RFC 6962, section 2.1).
    pub fn root(&self) -> Hash {
        self.0.root()
    }

    /// Adds an entry by its leaf hash. Returns the nodes that it completes at stored levels above the leaves: one for
    /// each 256th entry, two for each 65,536th. They belong into the same commit as the entry.
    pub fn append(&mut self, leaf: Hash) -> Vec<StoredNode> {
        let mut completed = Vec::new();
        self.0.append(leaf, |level, index, hash| {
            if level.is_multiple_of(TILE_LEVELS) {
                completed.push(StoredNode { level, index, hash });
            }
        });
        completed
    }
}

#[cfg(test)]
mod tests {
    use protocol::merkle::empty_root;

    use super::*;

    #[test]
    fn nodes_complete_at_tile_boundaries_only() {
        let mut tree = Tree::new();
        let mut completed = Vec::new();
        for i in 0..65_536u64 {
            let nodes = tree.append(protocol::merkle::leaf_hash(&i.to_be_bytes()));
            completed.extend(nodes.into_iter().map(|node| (i, node.level, node.index)));
        }
        assert_eq!(completed.len(), 257);
        assert_eq!(completed[..2], [(255, 8, 0), (511, 8, 1)]);
        assert_eq!(completed[255..], [(65_535, 8, 255), (65_535, 16, 0)]);
    }

    #[test]
    fn restoring_needs_one_root_for_each_subtree() {
        assert!(Tree::restore(7, vec![[0; 32]; 2]).is_err());
        let mut tree = Tree::restore(0, Vec::new()).expect("an empty log");
        assert_eq!(tree.root(), empty_root());
        tree.append([3; 32]);
        assert_eq!((tree.size(), tree.root()), (1, [3; 32]));
    }
}
