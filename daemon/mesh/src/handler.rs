//! What the mesh asks of the node above it.

use std::{path::PathBuf, sync::Arc};

use async_trait::async_trait;
use protocol::{Code, Digest, NodeId, Problem, wire};
use tokio::time::Instant;

use crate::{membership::Authority, rpc::Items};

/// Answers peers' requests and hears what happens. Everything but `request` is called on the mesh's own task and must
/// return at once.
#[async_trait]
pub trait Handler: Send + Sync + 'static {
    /// Answers `request`, which `from` sent; the transport proves that it was `from`. The future is dropped when the
    /// caller cancels, at the `deadline`, and when the connection is lost.
    async fn request(&self, from: NodeId, request: wire::Request, request_id: &str, deadline: Instant) -> Result<wire::Response, Problem>;

    /// The same for whoever can answer in items: what is put into `items` reaches the caller, as it has room, before the
    /// answer does.
    async fn stream(
        &self,
        from: NodeId,
        request: wire::Request,
        request_id: &str,
        deadline: Instant,
        items: Items,
    ) -> Result<wire::Response, Problem> {
        drop(items);
        self.request(from, request, request_id, deadline).await
    }

    /// The file with content of this BLAKE3 digest, if `from` may have it.
    async fn content(&self, from: NodeId, content: &Digest) -> Result<PathBuf, Problem> {
        Err(Problem::new(Code::NotFound, format!("there is no content {content} here for {from}")))
    }

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
