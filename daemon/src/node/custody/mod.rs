//! What the nodes of one owner do for one another's agents: hold snapshots, and take an agent over.
//!
//! ```text
//! hold.rs       a snapshot of another node is fetched and kept; what is held is told
//! replicate.rs  this node's agents: their newest snapshots at as many nodes as they ask for, in other zones first
//! restore.rs    an agent whose home is lost becomes this node's
//! silence.rs    whether that home is lost
//! retain.rs     what was given away, and what a home had acknowledged that has let go
//! ```
//! Who the owner of a node is, its credential says: an open mesh has none, so nothing of this is possible there.

mod hold;
mod replicate;
mod restore;
mod retain;
mod silence;

use std::time::Duration;

use mesh::Items;
use protocol::{
    AgentId, Code, Did, NodeId, Problem, api,
    custody::{Custody, MAX_CHUNKS_ASKED},
    wire::{Request, Response},
};
use tokio::time::Instant;

pub(super) use self::{hold::Entrusted, replicate::Replicas, retain::Retained};
use super::{Caller, Node};

/// For a short question, a dial included.
const PATIENCE: Duration = Duration::from_secs(15);
/// For a state of many GB to be fetched.
pub(super) const LARGE: Duration = Duration::from_secs(3_600);

impl Node {
    /// The owner of a node, as the credential proves by which it was admitted here.
    pub(super) fn owner_of(&self, node: NodeId) -> Option<Did> {
        let credential = self.mesh().ok()?.membership().of(node)?;
        Some(credential.document().owner)
    }

    /// Whether a node that is connected has this node's owner.
    pub(super) fn is_ours(&self, node: NodeId) -> bool {
        self.owner_of(node) == Some(self.owner)
    }

    /// Sees to it that a node is connected and has this node's owner.
    pub(super) async fn require_ours(&self, node: NodeId) -> Result<(), Problem> {
        if node == self.node_id {
            return Err(Problem::new(Code::InvalidRequest, "that is this node itself"));
        }
        if !self.is_ours(node) {
            // A credential is known once the node is connected.
            self.mesh()?.ping(node).await?;
        }
        if self.is_ours(node) {
            return Ok(());
        }
        let hint = "nodes of one owner have the same owner.key, in a private mesh whose credentials say so";
        Err(Problem::new(Code::NotAuthorized, format!("node {node} is not known to have this node's owner")).hint(hint))
    }

    /// Asks a node of the same owner.
    pub(super) async fn entrust(&self, node: NodeId, custody: Custody, request_id: &str, within: Duration) -> Result<Response, Problem> {
        self.mesh()?.request(node, Request::Custody(Box::new(custody)), request_id, within).await
    }

    /// Answers a node of the same owner; others are refused.
    pub(super) async fn answer_custody(
        &self,
        from: NodeId,
        custody: Custody,
        request_id: &str,
        deadline: Instant,
        items: Items,
    ) -> Result<Response, Problem> {
        if !self.is_ours(from) {
            return Err(Problem::new(Code::NotAuthorized, "snapshots and agents are entrusted to nodes of the same owner alone"));
        }
        let caller = Caller { principal: self.owner, request_id: request_id.chars().take(64).collect() };
        match custody {
            Custody::Chunks(wanted) => self.send_chunks(&wanted, &items).await,
            Custody::Held(agent) => Ok(Response::Held(self.held_for(&agent).await?)),
            Custody::Welcome(agent) => self.welcome(&agent).map(|()| Response::Done),
            // What has begun is finished, whether the other node still waits or not.
            Custody::Hold(hold) => {
                let node = self.clone();
                self.to_the_end(async move { node.hold_snapshot(&caller, from, *hold).await.map(|()| Response::Done) }).await
            }
            Custody::Release(agent) => {
                let node = self.clone();
                self.to_the_end(async move { node.release_held(agent).await.map(|()| Response::Done) }).await
            }
            Custody::Adopt(adopt) => {
                let node = self.clone();
                let within = deadline.saturating_duration_since(Instant::now());
                let adopted = self.to_the_end(async move { node.adopt(&caller, from, adopt, within).await });
                adopted.await.map(|signed| Response::Holding(Box::new(signed.into())))
            }
            Custody::Settle { agent, name, epoch } => {
                let node = self.clone();
                let settled = self.to_the_end(async move { node.settle_for(from, agent, name, epoch).await });
                settled.await.map(|signed| Response::Holding(Box::new(signed.into())))
            }
            Custody::Branch(snapshot) => {
                let node = self.clone();
                self.to_the_end(async move { node.take_branch(&caller, from, *snapshot).await.map(|()| Response::Done) }).await
            }
            Custody::Hears(node) if node == self.node_id => Ok(Response::Is(true)),
            Custody::Hears(node) => Ok(Response::Is(self.hears(node).await)),
            Custody::Lives(agent) => match self.agents.get(&agent) {
                Some(_) => Ok(Response::Is(true)),
                // It says where the agent went, if it knows.
                None => match self.whereabouts.find(&agent.to_string()) {
                    Some((id, there)) => Err(there.told(&id.to_string())),
                    None => Ok(Response::Is(false)),
                },
            },
        }
    }

    /// Work that is finished even if whoever asked for it goes away.
    pub(crate) async fn to_the_end<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T, Problem>> + Send + 'static,
    ) -> Result<T, Problem> {
        let done = self.tasks.spawn(work).await;
        done.map_err(|error| Problem::new(Code::Internal, format!("the work failed: {error}")))?
    }

    async fn send_chunks(&self, wanted: &[protocol::Digest], items: &Items) -> Result<Response, Problem> {
        if wanted.len() > MAX_CHUNKS_ASKED {
            return Err(Problem::new(Code::InvalidRequest, format!("at most {MAX_CHUNKS_ASKED} chunks are asked for at once")));
        }
        for digest in wanted {
            let chunk = self.plugins.blobs().get(digest).await?;
            let missing = || Problem::new(Code::NotFound, format!("chunk {digest} is not here"));
            items.send(chunk.ok_or_else(missing)?).await?;
        }
        Ok(Response::Done)
    }
}

/// Whether `text` names an agent: by id or by name.
fn names(text: &str, id: AgentId, agent: &api::Agent) -> bool {
    agent.name == text || text.parse().is_ok_and(|named: AgentId| named == id)
}
