//! What nodes sign about an agent's home, and what is made of it.
//!
//! ```text
//! new home   the state that it has written is read again from its store ─> Holding { epoch, what it came to }, in one commit
//!            with the adoption; or Holding { not adopted }, in one commit with the promise never to adopt in that epoch
//! old home   verifies it, keeps it with the commit by which the agent leaves, or goes on here
//! ```
//! A node that signs both for one epoch has lied, and both statements are kept as proof of it.

use protocol::{
    AgentId, Code, Expect, Header, NodeId, Problem, Signed, SignedDuration, Timestamp,
    advert::Advert,
    custody::{Custody, Holding, Possession},
    document::Sealed,
    wire::Response,
};
use store::{Commit, Kind, RecordWrite};

use super::{DRAIN, Moving};
use crate::node::{Node, execute::strange, journal};

/// A statement is evidence for as long as anybody may want to know who had the agent.
const VALIDITY: SignedDuration = SignedDuration::from_hours(10 * 366 * 24);

/// Under which name a statement is kept.
fn record_id(agent: AgentId, epoch: u64, node: NodeId) -> String {
    format!("{agent}/{epoch:020}/{node}")
}

/// Keeps a statement.
pub(super) fn record(signed: &Signed<Holding>) -> RecordWrite {
    let Holding { agent, epoch, node, .. } = signed.document();
    RecordWrite { kind: Kind::Holding, id: record_id(*agent, *epoch, *node), value: Some(journal::encode(signed)) }
}

impl Node {
    /// This node's statement about an agent's home in an epoch.
    pub(super) fn state_holding(&self, agent: AgentId, epoch: u64, adopted: bool, state: Option<Possession>) -> Signed<Holding> {
        let header = Header::new::<Holding>(&self.mesh_id, Timestamp::now(), VALIDITY);
        Signed::sign(Holding { header, node: self.node_id, agent, epoch, adopted, state }, &[&self.node_key])
    }

    /// What a node has signed about an agent's home in an epoch, as far as this node has kept it.
    pub(super) async fn holding_of(&self, agent: AgentId, epoch: u64, node: NodeId) -> Result<Option<Signed<Holding>>, Problem> {
        let Some(bytes) = self.journal.store().record(Kind::Holding, &record_id(agent, epoch, node)).await? else { return Ok(None) };
        let sealed: Sealed<Holding> = journal::decode("statement of a home", &bytes)?;
        Ok(Some(sealed.open(Expect::archived(&self.mesh_id))?))
    }

    /// Verifies what a node says about an agent's home in an epoch, holds it against what it said before, and keeps it.
    pub(super) async fn verify_holding(
        &self,
        from: NodeId,
        (agent, epoch): (AgentId, u64),
        sealed: Sealed<Holding>,
    ) -> Result<Signed<Holding>, Problem> {
        let signed = sealed.open(Expect::at(&self.mesh_id, Timestamp::now()))?;
        signed.require(Advert::signer(&from))?;
        let said = signed.document();
        if (said.node, said.agent, said.epoch) != (from, agent, epoch) {
            return Err(Problem::new(Code::ProofFailed, format!("node {from} signed a statement about another agent, epoch or node")));
        }
        match self.holding_of(agent, epoch, from).await? {
            Some(before) if before.document().adopted != said.adopted => return Err(self.keep_contradiction(&before, &signed).await),
            Some(_) => {}
            None => self.journal.keep(Commit { records: vec![record(&signed)], ..Commit::default() }).await.map(drop)?,
        }
        Ok(signed)
    }

    /// Keeps two statements of which one is a lie.
    async fn keep_contradiction(&self, before: &Signed<Holding>, now: &Signed<Holding>) -> Problem {
        let Holding { agent, epoch, node, .. } = now.document();
        let id = format!("{}/contradicted", record_id(*agent, *epoch, *node));
        let records = vec![RecordWrite { kind: Kind::Holding, id, value: Some(journal::encode(&[before, now])) }];
        if let Err(problem) = self.journal.keep(Commit { records, ..Commit::default() }).await {
            tracing::error!(%problem, "the evidence against a node was not kept");
        }
        tracing::error!(
            %agent, epoch, %node, before = %before.envelope().payload, now = %now.envelope().payload,
            "a node of this owner signed that it adopted an agent and that it did not: one of them is a lie, and both are kept"
        );
        Problem::new(Code::ProofFailed, format!("node {node} contradicts itself about agent {agent} in epoch {epoch}"))
            .hint("'mcpctl agent move AGENT --stay' goes on here; take the owner's key from that node")
    }

    /// Asks a node whether it is an agent's home in an epoch.
    pub(super) async fn ask_holding(&self, node: NodeId, agent: AgentId, name: String, epoch: u64) -> Result<Signed<Holding>, Problem> {
        match self.entrust(node, Custody::Settle { agent, name, epoch }, "settle", DRAIN).await? {
            Response::Holding(sealed) => self.verify_holding(node, (agent, epoch), *sealed).await,
            _ => Err(strange(node)),
        }
    }

    /// Whether a statement proves that the new home of a move holds what it was given; an error if it claims so without proof.
    pub(super) fn proves_move(&self, moving: Moving, signed: &Signed<Holding>) -> Result<bool, Problem> {
        let said = signed.document();
        if !said.adopted {
            return Ok(false);
        }
        if moving.given.is_some() && said.state == moving.given {
            return Ok(true);
        }
        tracing::error!(node = %said.node, agent = %said.agent, epoch = said.epoch, "claims an agent without holding what it was given");
        let detail = format!("node {} says that it adopted agent {}, and does not prove that it holds its state", said.node, said.agent);
        Err(Problem::new(Code::ProofFailed, detail).hint("the state is kept here; 'mcpctl agent move AGENT --stay' goes on with it"))
    }

    /// Notes that a node which offers an agent has signed that it did not adopt it.
    pub(super) async fn expose(&self, agent: AgentId, epoch: u64, node: NodeId, advert: &Signed<Advert>) -> Result<(), Problem> {
        let denied = self.holding_of(agent, epoch, node).await?.filter(|said| !said.document().adopted);
        let Some(denied) = denied else { return Ok(()) };
        let id = format!("{}/advertised", record_id(agent, epoch, node));
        if self.journal.store().record(Kind::Holding, &id).await?.is_some() {
            return Ok(());
        }
        let value = Some(journal::encode(&(denied.envelope(), advert.envelope())));
        let records = vec![RecordWrite { kind: Kind::Holding, id, value }];
        self.journal.keep(Commit { records, ..Commit::default() }).await?;
        tracing::error!(%agent, epoch, %node, "a node offers an agent that it signed not to have adopted; its advert and its statement are kept");
        Ok(())
    }
}
