//! The mathematics of a node's trace: an RFC 6962 Merkle log over stored hashes. No store, no clock, no tokio.
//!
//! The store keeps the leaf hash of every entry (level 0) and the hashes of complete subtrees at each level that is a
//! multiple of eight, so that it writes one inner hash for every 256 entries. Everything between is recomputed:
//!
//! ```text
//! level 16   ──────────────── one hash for 65,536 entries ────────────────   stored
//!   15…9                                                                     recomputed
//! level 8    ─ one hash for 256 entries ─ ─ one hash for 256 entries ─ …     stored
//!   7…1                                                                      recomputed
//! level 0    leaf leaf leaf leaf leaf leaf leaf leaf leaf leaf leaf leaf …   stored, with the entries
//! ```
//!
//! Who appends keeps a [`Tree`]; who proves asks for a [`Plan`], reads what it names, and assembles it:
//!
//! ```text
//! append:   entry -> leaf hash -> Tree::append -> [StoredNode] to write in the same commit
//! prove:    proof::inclusion(index, size) -> Plan::reads -> (the store) -> Plan::assemble -> proof
//! restart:  proof::frontier(size)         -> Plan::reads -> (the store) -> Plan::assemble -> Tree::restore
//! audit:    entries and signed checkpoints in order -> Auditor -> Audited
//! witness:  what is remembered of another log, what is shown -> witness::judge -> Verdict
//! ```

pub mod audit;
mod error;
pub mod proof;
mod tree;
pub mod witness;

pub use audit::{Audited, Auditor};
pub use error::Error;
pub use proof::{Plan, Read};
pub use tree::{StoredNode, Tree};

/// Levels between two stored ones: a tile holds 2⁸ hashes of one level, as those do that a log is exported in.
pub const TILE_LEVELS: u8 = protocol::tile::HEIGHT;
/// Hashes in a full tile, and the most that one [`Read`] asks for.
pub const TILE_WIDTH: u64 = 1 << TILE_LEVELS;
