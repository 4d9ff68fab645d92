//! Plugins between nodes: who may have this node's, and fetching another's.

use std::path::PathBuf;

use protocol::{
    Code, Digest, NodeId, Problem, api,
    document::Sealed,
    manifest::{MAX_COMPONENT, Manifest},
    wire::{Request, Response},
};

use super::{Caller, Node};

/// For the manifest; a dial included.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(15);

/// Which nodes may have this node's plugins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Share {
    /// Those of the same owner, as their credentials prove; in an open mesh nobody.
    Owner,
    /// Every node of the mesh.
    Members,
    /// None.
    Nobody,
}

impl Node {
    /// The manifest of a plugin of this node, for `peer`.
    pub(super) async fn manifest_for(&self, peer: NodeId, component: &Digest) -> Result<Sealed<Manifest>, Problem> {
        self.shared_with(peer, component)?;
        self.plugins.revoked().check(component)?;
        self.plugins.manifest(component).await
    }

    /// The file of a plugin's component, or of a snapshot's part, for `peer`.
    pub(super) async fn content_for(&self, peer: NodeId, component: &Digest) -> Result<PathBuf, Problem> {
        self.plugins.revoked().check(component)?;
        // What the owner's agents have and are, its other nodes may have.
        if self.is_ours(peer) && self.plugins.blobs().contains(component).await? {
            return Ok(self.plugins.blobs().path(component));
        }
        self.shared_with(peer, component)?;
        // Registered plugins alone: other content is nobody's business.
        self.plugins.manifest(component).await?;
        Ok(self.plugins.blobs().path(component))
    }

    fn shared_with(&self, peer: NodeId, component: &Digest) -> Result<(), Problem> {
        let may = match self.share {
            Share::Members => true,
            Share::Owner => self.is_ours(peer),
            Share::Nobody => false,
        };
        let refused = || Problem::new(Code::NotAuthorized, format!("node {} doesn't share plugin {component} with {peer}", self.node_id));
        may.then_some(()).ok_or_else(|| refused().hint("its operator decides: the setting plugins.share"))
    }

    /// Fetches a plugin from `node` and registers it; its publisher must be trusted here.
    pub(crate) async fn fetch_plugin(&self, caller: &Caller, node: NodeId, component: Digest) -> Result<api::Plugin, Problem> {
        self.plugins.revoked().check(&component)?;
        let mesh = self.mesh()?;
        let Response::Manifest(manifest) = mesh.request(node, Request::Manifest(component), &caller.request_id, PATIENCE).await? else {
            return Err(Problem::new(Code::Internal, format!("node {node} answered what was not asked")));
        };
        let signed = self.plugins.verify(manifest.clone()).await?;
        if signed.document().component != component {
            return Err(Problem::new(Code::BadSignature, format!("node {node} answered with the manifest of another plugin")));
        }
        let blobs = self.plugins.blobs();
        if !blobs.contains(&component).await? {
            self.fetch_blob(caller, node, component, signed.document().size.min(MAX_COMPONENT as u64)).await?;
        }
        self.plugins.register(caller, manifest).await
    }
}
