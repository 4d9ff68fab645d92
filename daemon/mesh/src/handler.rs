//! What the mesh asks of the node above it.

use std::sync::Arc;

use async_trait::async_trait;
use protocol::{NodeId, Problem, wire};
use tokio::time::Instant;

use crate::membership::Authority;

/// Answers peers' requests and hears what happens. Everything but `request` is called on the mesh's own task and must
/// return at once.
#[async_trait]
pub trait Handler: Send + Sync + 'static {
    /// Answers `request`, which `from` sent; the transport proves that it was `from`. The future is dropped when the
    /// caller cancels, at the `deadline`, and when the connection is lost.
    async fn request(&self, from: NodeId, request: wire::Request, request_id: &str, deadline: Instant) -> Result<wire::Response, Problem>;

    /// `source` announces an advert of its own. The mesh has verified that it did, and that the announcement is valid.
    fn announced(&self, source: NodeId, announcement: wire::Announcement);

    /// Where this node can be reached has changed.
    fn addresses_changed(&self) {}

    /// `node`, a node of this mesh, is connected.
    fn connected(&self, node: NodeId);

    /// The last connection with `node` is closed.
    fn disconnected(&self, node: NodeId);

    /// Decides who is a member, where this node has the authority's key.
    fn authority(&self) -> Option<Arc<dyn Authority>> {
        None
    }
}
