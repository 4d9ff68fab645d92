//! What an entry node answers: that it has nothing.

use async_trait::async_trait;
use mesh::Handler;
use protocol::{
    Code, NodeId, Problem,
    wire::{Announcement, Request, Response},
};
use tokio::time::Instant;

/// See the module.
pub(crate) struct Entry;

#[async_trait]
impl Handler for Entry {
    async fn request(&self, from: NodeId, request: Request, request_id: &str, _: Instant) -> Result<Response, Problem> {
        match request {
            // It knows of none: an answer without items.
            Request::Adverts(_) => Ok(Response::Done),
            Request::Advert => Err(Problem::new(Code::NotFound, "this is an entry node: it offers nothing, so it has no advert")),
            _ => {
                tracing::debug!(%from, request_id, "a request that an entry node doesn't serve");
                Err(Problem::new(Code::NotFound, "this is an entry node: it runs no agents, has no agreements and keeps no trace")
                    .hint("send the request to a node that runs mcpd"))
            }
        }
    }

    fn announced(&self, source: NodeId, announcement: Announcement) {
        tracing::debug!(%source, sequence = announcement.sequence, "announced");
    }

    fn connected(&self, node: NodeId) {
        tracing::debug!(%node, "connected");
    }

    fn disconnected(&self, node: NodeId) {
        tracing::debug!(%node, "disconnected");
    }
}
