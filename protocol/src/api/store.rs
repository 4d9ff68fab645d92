//! The node's store: whether all of it is what was written.

use serde::{Deserialize, Serialize};

use super::TraceVerified;
use crate::digest::Digest;

/// The answer of `POST /v1/store/verify`
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct StoreVerified {
    /// Whether nothing is damaged.
    pub sound: bool,
    /// Rows that were held against their checksums, by table.
    pub tables: Vec<VerifiedTable>,
    /// Rows that aren't what was written; a thousand at most are told.
    pub damaged: Vec<DamagedRow>,
    /// What SQLite says of the file's structure.
    pub structure: Vec<String>,
    /// Blobs that were held against their digests.
    pub blobs: u64,
    /// Those whose content is another; a thousand at most are told.
    pub damaged_blobs: Vec<Digest>,
    /// Components of registered plugins that are missing.
    pub missing_blobs: Vec<Digest>,
    /// The trace, recomputed and held against its signed checkpoints.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trace: Option<TraceVerified>,
    /// Why it doesn't verify.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trace_problem: Option<String>,
}

/// A table of the store.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct VerifiedTable {
    /// Its name.
    pub table: String,
    /// Its rows.
    pub rows: u64,
}

/// A row that isn't what was written.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct DamagedRow {
    /// Its table.
    pub table: String,
    /// Its key, as it was read.
    pub key: String,
    /// Whether it is its content that changed; else it may be its key.
    pub content: bool,
}
