//! Which stored hashes a proof needs, and how it is put together from them.
//!
//! A proof is a list of hashes over ranges of leaves. Each range splits into complete subtrees; each of those is
//! recomputed from at most 128 hashes of the stored level at or below its own; reads of one tile are merged:
//!
//! ```text
//! proof hash ── range [a, b) ─┬─ subtree (level 13) ── 32 hashes of level 8 ─┐
//!                             ├─ subtree (level 9)  ──  2 hashes of level 8 ─┼─ one Read of one tile
//!                             └─ subtree (level 2)  ──  4 hashes of level 0 ─── another Read
//! ```
//!
//! In a log of a billion entries a proof takes at most eight reads of at most 256 hashes.

use protocol::merkle::{Hash, beside, fold, node_hash, split, subtrees};

use crate::{Error, TILE_LEVELS, TILE_WIDTH};

/// Stored hashes to read: `count` of `level`, from the one with index `from`. Never more than a tile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Read {
    /// 0 for the entries' leaf hashes; 8, 16 … for [`StoredNode`](crate::StoredNode)s.
    pub level: u8,
    /// The first index within the level.
    pub from: u64,
    /// How many.
    pub count: u64,
}

impl Read {
    fn tile(&self) -> (u8, u64) {
        (self.level, self.from / TILE_WIDTH)
    }

    fn end(&self) -> u64 {
        self.from + self.count
    }
}

/// What to read, and how to make the hashes of a proof from it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    reads: Vec<Read>,
    /// For each hash of the proof, the subtrees it covers; each a power of two of stored hashes.
    hashes: Vec<Vec<Read>>,
}

/// The plan of the audit path of entry `index` in the tree of `size` entries (RFC 6962, section 2.1.1).
///
/// # Errors
/// [`Error::OutOfRange`] where the tree has no such entry.
pub fn inclusion(index: u64, size: u64) -> Result<Plan, Error> {
    let siblings = beside(index, size).ok_or(Error::OutOfRange { index, size })?;
    Ok(Plan::new(siblings.into_iter()))
}

/// The plan of the proof that the tree of `new` entries extends that of `old` (RFC 6962, section 2.1.2). Empty where
/// either is the empty tree or both are the same.
///
/// # Errors
/// [`Error::Shrunk`] where `old` is larger.
pub fn consistency(old: u64, new: u64) -> Result<Plan, Error> {
    if old > new {
        return Err(Error::Shrunk { old, new });
    }
    if old == 0 || old == new {
        return Ok(Plan::new(std::iter::empty()));
    }
    // Walks down to where the old tree's last complete subtree ends, noting what lies beside the way.
    let (mut start, mut end, mut ranges) = (0, new, Vec::new());
    while end != old {
        let middle = start + split(end - start);
        if old <= middle {
            ranges.push((middle, end));
            end = middle;
        } else {
            ranges.push((start, middle));
            start = middle;
        }
    }
    // Where the old tree is itself a subtree of the new one, the verifier has its root already.
    if start != 0 {
        ranges.push((start, end));
    }
    Ok(Plan::new(ranges.into_iter().rev()))
}

/// The plan of what [`Tree::restore`](crate::Tree::restore) needs for a log of `size` entries.
pub fn frontier(size: u64) -> Plan {
    let bounds = subtrees(0, size).map(|(start, level)| (start, start + (1 << level)));
    Plan::new(bounds)
}

impl Plan {
    /// Of ranges of leaves, one for each hash in order.
    fn new(ranges: impl Iterator<Item = (u64, u64)>) -> Self {
        let hashes: Vec<Vec<Read>> =
            ranges.map(|(start, end)| subtrees(start, end).map(|(start, level)| source(start, level)).collect()).collect();
        let mut parts: Vec<Read> = hashes.iter().flatten().copied().collect();
        parts.sort_unstable_by_key(|part| (part.level, part.from));
        let mut reads: Vec<Read> = Vec::new();
        for part in parts {
            match reads.last_mut().filter(|read| read.tile() == part.tile()) {
                // Parts don't overlap, and what lies between them is stored as well: levels fill from the left.
                Some(read) => read.count = part.end() - read.from,
                None => reads.push(part),
            }
        }
        Self { reads, hashes }
    }

    /// The reads to do, in any order or at once.
    pub fn reads(&self) -> &[Read] {
        &self.reads
    }

    /// Makes the proof from what [`Self::reads`] gave, in their order.
    ///
    /// # Errors
    /// [`Error::Missing`] names the first read that gave another number of hashes than it was asked for.
    pub fn assemble(&self, found: Vec<Vec<Hash>>) -> Result<Vec<Hash>, Error> {
        for (i, read) in self.reads.iter().enumerate() {
            let count = found.get(i).map_or(0, |hashes| hashes.len() as u64);
            if count != read.count {
                return Err(Error::Missing { level: read.level, from: read.from, expected: read.count, found: count });
            }
        }
        let subtree = |part: &Read| {
            let at = self.reads.iter().position(|read| read.tile() == part.tile()).expect("every part is within a read");
            let offset = (part.from - self.reads[at].from) as usize;
            complete(&found[at][offset..][..part.count as usize])
        };
        let range = |parts: &Vec<Read>| fold(&parts.iter().map(subtree).collect::<Vec<_>>()).expect("no range is empty");
        Ok(self.hashes.iter().map(range).collect())
    }
}

/// The stored hashes that the complete subtree of `level` at leaf `start` is computed from: at most 128.
fn source(start: u64, level: u8) -> Read {
    let above = level % TILE_LEVELS;
    let stored = level - above;
    Read { level: stored, from: start >> stored, count: 1 << above }
}

/// The root over a power of two of neighbouring nodes.
fn complete(nodes: &[Hash]) -> Hash {
    let mut row = nodes.to_vec();
    while row.len() > 1 {
        row = row.chunks_exact(2).map(|pair| node_hash(&pair[0], &pair[1])).collect();
    }
    row[0]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_billion_entries_take_few_reads() {
        let size = 1_000_000_007;
        for plan in [inclusion(123_456_789, size), consistency(123_456_789, size), Ok(frontier(size))] {
            let plan = plan.expect("within range");
            assert!(plan.reads().len() <= 8, "{:?}", plan.reads());
            assert!(plan.reads().iter().all(|read| (1..=TILE_WIDTH).contains(&read.count) && read.level <= 24));
            // Only hashes that the log of this size has.
            assert!(plan.reads().iter().all(|read| read.end() <= size >> read.level));
        }
    }

    #[test]
    fn the_largest_log_is_no_special_case() {
        let plan = inclusion(0, u64::MAX).expect("within range");
        assert_eq!(plan.hashes.len(), 64);
        assert!(plan.reads().iter().all(|read| read.count <= TILE_WIDTH));
        assert_eq!(frontier(u64::MAX).hashes.len(), 64);
        consistency(1 << 63, u64::MAX).expect("it grew");
    }

    #[test]
    fn what_is_out_of_range_or_short_is_refused() {
        assert_eq!(inclusion(5, 5), Err(Error::OutOfRange { index: 5, size: 5 }));
        assert_eq!(consistency(6, 5), Err(Error::Shrunk { old: 6, new: 5 }));
        let plan = inclusion(0, 300).expect("within range");
        let reads: Vec<_> = plan.reads().iter().map(|read| vec![[0; 32]; read.count as usize - 1]).collect();
        assert!(matches!(plan.assemble(reads), Err(Error::Missing { level: 0, from: 1, .. })));
        assert!(matches!(plan.assemble(Vec::new()), Err(Error::Missing { found: 0, .. })));
        assert_eq!(frontier(0).assemble(Vec::new()), Ok(Vec::new()));
    }
}
