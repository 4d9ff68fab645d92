//! Recomputes a log from its entries, as they stream by, and holds it against what its node signed.
//!
//! ```text
//! entry 0, entry 1, … entry 99, checkpoint (100), entry 100, … checkpoint (250)   -> Audited
//!    │ dense? bytes hash to the stored leaf?      │ signed by this log's node? of this size? of this root?
//! ```
//!
//! The auditor holds 64 hashes, whatever the size of the log.

use protocol::{
    NodeId,
    checkpoint::Checkpoint,
    merkle::{Hash, leaf_hash},
};

use crate::{Error, Tree};

/// An audit under way.
#[derive(Debug, Clone)]
pub struct Auditor {
    node: NodeId,
    tree: Tree,
    checkpoints: u64,
    newest: Option<String>,
}

/// What an audit found to be true.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Audited {
    /// Entries read and hashed.
    pub entries: u64,
    /// Signed checkpoints that matched.
    pub checkpoints: u64,
    /// The root over all entries.
    pub root: Hash,
    /// The last checkpoint that matched: a signed note. Entries after it are dense but not yet signed for.
    pub newest: Option<String>,
}

impl Auditor {
    /// Begins the audit of the log that `node` keeps.
    pub fn new(node: NodeId) -> Self {
        Self { node, tree: Tree::new(), checkpoints: 0, newest: None }
    }

    /// Entries audited so far: the index of the next.
    pub fn size(&self) -> u64 {
        self.tree.size()
    }

    /// Takes the next entry: its index, the leaf hash stored with it, and its exact bytes.
    ///
    /// # Errors
    /// [`Error::Gap`] where it isn't the next; [`Error::Leaf`] where its bytes were changed.
    pub fn entry(&mut self, index: u64, leaf: &Hash, bytes: &[u8]) -> Result<(), Error> {
        if index != self.size() {
            return Err(Error::Gap { expected: self.size(), found: index });
        }
        if leaf_hash(bytes) != *leaf {
            return Err(Error::Leaf { index });
        }
        self.tree.append(*leaf);
        Ok(())
    }

    /// Takes the next entry by its leaf hash alone, as its bytes are gone: checkpoints still say whether that is the right one.
    ///
    /// # Errors
    /// [`Error::Gap`] where it isn't the next.
    pub fn without_bytes(&mut self, index: u64, leaf: &Hash) -> Result<(), Error> {
        if index != self.size() {
            return Err(Error::Gap { expected: self.size(), found: index });
        }
        self.tree.append(*leaf);
        Ok(())
    }

    /// Takes a signed checkpoint, fed when as many entries as it covers have been fed. Feed those that are left over
    /// at the end as well: one of more entries than there are says that the log was cut.
    ///
    /// # Errors
    /// [`Error::Checkpoint`], [`Error::Origin`], [`Error::Size`] or [`Error::Root`]; the audit may go on after each.
    pub fn checkpoint(&mut self, note: &str) -> Result<(), Error> {
        let entries = self.size();
        let signed = Checkpoint::verify(note).map_err(|fault| Error::Checkpoint { size: entries, fault })?;
        let size = signed.size;
        let own = Checkpoint { node: self.node, size: entries, root: self.tree.root() };
        if signed.origin() != own.origin() {
            return Err(Error::Origin { size, found: signed.origin(), expected: own.origin() });
        }
        if size != entries {
            return Err(Error::Size { size, entries });
        }
        if signed.root != own.root {
            return Err(Error::Root { size });
        }
        self.checkpoints += 1;
        self.newest = Some(note.into());
        Ok(())
    }

    /// Ends the audit.
    pub fn finish(self) -> Audited {
        Audited { entries: self.tree.size(), checkpoints: self.checkpoints, root: self.tree.root(), newest: self.newest }
    }
}

#[cfg(test)]
mod tests {
    use protocol::{Code, Key, checkpoint};

    use super::*;

    fn entry(index: u64) -> Vec<u8> {
        format!("entry {index}").into_bytes()
    }

    fn signed(key: &Key, size: u64) -> String {
        let mut tree = Tree::new();
        (0..size).for_each(|index| drop(tree.append(leaf_hash(&entry(index)))));
        Checkpoint { node: key.node_id(), size, root: tree.root() }.sign(key)
    }

    fn audited(key: &Key, entries: u64) -> Auditor {
        let mut auditor = Auditor::new(key.node_id());
        for index in 0..entries {
            auditor.entry(index, &leaf_hash(&entry(index)), &entry(index)).expect("an honest entry");
        }
        auditor
    }

    #[test]
    fn an_honest_log_passes_and_is_counted() {
        let key = Key::generate();
        let mut auditor = Auditor::new(key.node_id());
        auditor.checkpoint(&signed(&key, 0)).expect("the empty log");
        for index in 0..300 {
            auditor.entry(index, &leaf_hash(&entry(index)), &entry(index)).expect("an honest entry");
            if index % 100 == 99 {
                auditor.checkpoint(&signed(&key, index + 1)).expect("an honest checkpoint");
            }
        }
        let audited = auditor.finish();
        assert_eq!((audited.entries, audited.checkpoints, audited.newest), (300, 4, Some(signed(&key, 300))));
    }

    #[test]
    fn gaps_and_changed_bytes_name_the_entry() {
        let mut auditor = audited(&Key::generate(), 7);
        let leaf = leaf_hash(&entry(7));
        assert_eq!(auditor.entry(8, &leaf, &entry(7)), Err(Error::Gap { expected: 7, found: 8 }));
        assert_eq!(auditor.entry(6, &leaf, &entry(7)), Err(Error::Gap { expected: 7, found: 6 }));
        assert_eq!(auditor.entry(7, &leaf, b"entry 7, embellished"), Err(Error::Leaf { index: 7 }));
        auditor.entry(7, &leaf, &entry(7)).expect("still the next");
    }

    #[test]
    fn an_entry_without_bytes_is_held_against_checkpoints_all_the_same() {
        let key = Key::generate();
        let mut auditor = audited(&key, 9);
        assert_eq!(auditor.without_bytes(8, &leaf_hash(&entry(9))), Err(Error::Gap { expected: 9, found: 8 }));
        auditor.without_bytes(9, &leaf_hash(&entry(9))).expect("its hash");
        auditor.checkpoint(&signed(&key, 10)).expect("the same tree");
        let mut forged = audited(&key, 9);
        forged.without_bytes(9, &leaf_hash(b"forged")).expect("nothing to hold it against yet");
        assert_eq!(forged.checkpoint(&signed(&key, 10)), Err(Error::Root { size: 10 }));
    }

    #[test]
    fn a_rewritten_entry_breaks_the_signed_root() {
        let key = Key::generate();
        let mut auditor = audited(&key, 9);
        auditor.entry(9, &leaf_hash(b"forged"), b"forged").expect("consistent in itself");
        let error = auditor.checkpoint(&signed(&key, 10)).expect_err("the node signed another root");
        assert_eq!((error.code(), &error), (Code::ProofFailed, &Error::Root { size: 10 }));
        assert!(error.to_string().contains("entries 0 to 9"), "{error}");
    }

    #[test]
    fn cut_foreign_and_forged_checkpoints_are_told_apart() {
        let (key, other) = (Key::generate(), Key::generate());
        let mut auditor = audited(&key, 5);
        assert_eq!(auditor.checkpoint(&signed(&key, 6)), Err(Error::Size { size: 6, entries: 5 }));
        assert!(matches!(auditor.checkpoint(&signed(&other, 5)), Err(Error::Origin { size: 5, .. })));
        let forged = signed(&key, 5).replace("\n5\n", "\n6\n");
        let refused = Error::Checkpoint { size: 5, fault: checkpoint::Error::Signature };
        assert_eq!(auditor.checkpoint(&forged), Err(refused));
        auditor.checkpoint(&signed(&key, 5)).expect("the right one");
    }
}
