//! Content that is too large for a message: on a stream of its own, verified group by group as it arrives, resumable.
//!
//! ```text
//! fetch.rs: a file with the groups so far --Request::Fetch--> serve.rs: the other side's file
//!     ^                                                            |
//!     +--- appended if it is what the digest says <== items: size, chaining values, groups
//! ```
//! What was written before an interruption is verified and kept; the next attempt goes on behind it (`protocol::tree`).

mod fetch;
mod serve;

use protocol::wire;

pub(crate) use self::{fetch::Download, serve::Serving};

/// Bytes on their way at once, for one transfer: what a fast and distant link holds.
pub(crate) const WINDOW: u32 = wire::MAX_WINDOW;
/// Chaining values in one item.
const VALUES: usize = 4_096;
