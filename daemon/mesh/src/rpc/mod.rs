//! Requests between nodes: long-lived streams that carry many calls at once.
//!
//! ```text
//! Mesh::request -> Session (outbound.rs) ==stream==> serve (inbound.rs) -> Handler::request
//!                      ^                                   |
//!                      +---- items, response, problem <---+
//! ```
//! A connection has at most one outbound stream for requests, opened on first use, one for each transfer (../transfer/),
//! and a few inbound ones. The swarm only opens and
//! accepts them (behaviour.rs, connection.rs); from then on a task of its own reads and writes each stream, and calls
//! never pass through the swarm's event loop. Frames are those of `protocol::wire` (frame.rs); what waits to be sent
//! goes out in batches with one flush (queue.rs). An answer may come in items, as the caller has room for them
//! (streaming.rs). Calls that wait for a peer that is gone end within five seconds (heartbeat.rs).

mod behaviour;
mod connection;
mod frame;
mod heartbeat;
mod inbound;
mod outbound;
mod queue;
mod room;
mod streaming;

use std::time::Duration;

pub(crate) use behaviour::{Behaviour, Event, Purpose, Stage};
pub(crate) use inbound::{Serving, serve};
pub(crate) use outbound::{Lost, Reply, Session};
use protocol::wire;
pub(crate) use queue::{MAX_FRAMES as MAX_QUEUED, STALL};
pub(crate) use room::Room;
pub(crate) use streaming::Arriving;
pub use streaming::Items;

/// The largest request: parameters and what goes along.
pub(crate) const MAX_REQUEST: usize = wire::MAX_PARAMS + 256 * 1024;
/// No caller waits longer; a deadline beyond it is cut.
pub(crate) const MAX_TIMEOUT: Duration = Duration::from_secs(3600);
/// Bytes of a request's id that are kept.
pub(crate) const MAX_REQUEST_ID: usize = 64;

/// Cuts `text` to `MAX_REQUEST_ID` bytes, between characters.
pub(crate) fn cut(text: &str) -> &str {
    let end = (0..=MAX_REQUEST_ID.min(text.len())).rev().find(|&end| text.is_char_boundary(end)).unwrap_or(0);
    &text[..end]
}
