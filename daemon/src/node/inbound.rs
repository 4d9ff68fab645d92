//! What peers ask of this node. Never forwarded: a peer's call is for an agent that lives here, or refused.

use std::{path::PathBuf, sync::Arc};

use async_trait::async_trait;
use mesh::Items;
use protocol::{
    Code, Digest, Expect, NodeId, OperationId, Problem, Signed, Timestamp,
    agreement::Agreement,
    document::Sealed,
    entry::{Action, InclusionProof},
    wire::{self, Announcement, Execute, Executed, Request, Response},
};
use tokio::time::Instant;

use super::{
    Caller, Node,
    agents::Agent,
    once::{Claimed, Repeatable},
    outside::check_chain,
    run::{Answered, Ran, Run},
    settle::charged,
};

/// The node, as the mesh sees it.
#[derive(Debug)]
pub(crate) struct Inbound(pub(crate) Node);

#[async_trait]
impl mesh::Handler for Inbound {
    async fn request(&self, from: NodeId, request: Request, request_id: &str, deadline: Instant) -> Result<Response, Problem> {
        let node = &self.0;
        let caller = |principal| Caller { principal, request_id: request_id.chars().take(64).collect() };
        match request {
            Request::Advert => {
                let none = || Problem::new(Code::NotFound, "this node has not published an advert yet");
                node.directory.own().map(Response::Advert).ok_or_else(none)
            }
            Request::Withdraw(sequence) => {
                node.directory.withdraw(from, sequence);
                Ok(Response::Done)
            }
            Request::Propose(sealed) => node.answer_proposal(from, &caller, sealed).await.map(Response::Agreement),
            Request::Accept(sealed) => node.take_acceptance(from, &caller, sealed).await.map(|()| Response::Done),
            Request::Transition(sealed) => node.take_transition(from, &caller, sealed).await,
            Request::Execute(execute) => node.serve(from, &caller, execute, deadline).await.map(Box::new).map(Response::Executed),
            Request::Acknowledge(acknowledge) => {
                node.answer_acknowledgement(from, *acknowledge).await.map(Box::new).map(Response::Standing)
            }
            Request::Prove(operation) => node.prove_to(from, &operation).await.map(Response::Proof),
            Request::Manifest(component) => node.manifest_for(from, &component).await.map(Response::Manifest),
            Request::Witness(shown) => node.witness(from, *shown).await.map(Response::Witnessed),
            Request::Checkpoints(notes) => node.compare_checkpoints(from, notes).await.map(|()| Response::Done),
            Request::Adverts(_) | Request::Fetch { .. } | Request::Custody(_) => {
                Err(Problem::new(Code::InvalidRequest, "this answer comes in items, and the caller has no window for them"))
            }
            Request::Enrol(_)
            | Request::Renew
            | Request::Readmit(_)
            | Request::Certify(_)
            | Request::Leave
            | Request::Members
            | Request::Revocations(_)
            | Request::Revoked(_)
            | Request::Where(_) => Err(Problem::new(Code::Internal, "the mesh answers questions of membership itself")),
        }
    }

    async fn stream(&self, from: NodeId, request: Request, request_id: &str, deadline: Instant, items: Items) -> Result<Response, Problem> {
        let have = match request {
            Request::Adverts(have) => have,
            Request::Custody(custody) => return self.0.answer_custody(from, *custody, request_id, deadline, items).await,
            other => return self.request(from, other, request_id, deadline).await,
        };
        for advert in self.0.directory.newer(&have) {
            items.send(wire::encode(&Sealed::from((*advert).clone()))).await?;
        }
        Ok(Response::Done)
    }

    async fn content(&self, from: NodeId, content: &Digest) -> Result<PathBuf, Problem> {
        self.0.content_for(from, content).await
    }

    fn authority(&self) -> Option<Arc<dyn mesh::Authority>> {
        self.0.books.clone().map(|books| Arc::new(books) as Arc<dyn mesh::Authority>)
    }

    fn announced(&self, _: NodeId, announcement: Announcement) {
        self.0.on_announced(announcement);
    }

    fn addresses_changed(&self) {
        self.0.publish_soon();
    }

    fn connected(&self, node: NodeId) {
        self.0.on_connected(node);
    }

    fn disconnected(&self, _: NodeId) {}
}

impl Node {
    /// Runs a peer's call under its agreement, and signs the receipt.
    async fn serve(
        &self,
        from: NodeId,
        caller: &impl Fn(protocol::Did) -> Caller,
        execute: Execute,
        deadline: Instant,
    ) -> Result<Executed, Problem> {
        let agent = self.agents.get(&execute.agent).ok_or_else(|| self.absent(&execute.agent.to_string()))?;
        if execute.agreement.is_none() && self.is_ours(from) {
            return self.serve_owner(caller, agent, execute, deadline).await;
        }
        let required = |detail: String| {
            let hint = format!("mcpctl agreement propose --agent {} (then call again)", execute.agent);
            Problem::new(Code::AgreementRequired, detail).hint(hint)
        };
        let id =
            execute.agreement.ok_or_else(|| required(format!("calls of agent {} need an agreement with its provider", execute.agent)))?;
        let contract = self.agreements.get(&id).await.map_err(|problem| match problem.code {
            Code::NotFound => required(format!("agreement {id} is unknown to the provider")),
            _ => problem,
        })?;
        let terms = contract.terms();
        if terms.provider != self.owner {
            return Err(required(format!("agreement {id} is not one of this provider")));
        }
        let request = agreement::authorize::Request { caller_node: from, agent: execute.agent, method: &execute.method };
        // Who isn't the consumer learns nothing else.
        agreement::authorize::parties(&terms, &request)?;
        contract.require_mesh(&self.mesh_id)?;
        let acknowledged = execute.acknowledged;
        let (method, params) = (&execute.method, &execute.params);
        let key = execute.idempotency_key.as_deref();
        let call = Repeatable { caller: terms.consumer, agent: execute.agent, method, key, params, agreement: Some(id) };
        let claim = match self.claim(call, deadline).await? {
            Claimed::New(claim) => claim,
            Claimed::Repeated(ran) => {
                self.acknowledge_beside(&contract, acknowledged);
                return self.executed_before(&terms, &agent, method, params, *ran).await;
            }
        };
        check_chain(&execute.chain, &execute.agent)?;
        contract.require_in_force(&self.mesh_id, Timestamp::now())?;
        // What can't be receipted is neither run nor charged.
        self.owner_key.ready().await?;
        let reserve = || self.agreements.reserve(&contract, &request, |rule| self.budget_of(rule));
        let held = match (reserve(), acknowledged) {
            // What it brings may be what is waited for.
            (Err(problem), Some(acknowledged)) if problem.code == Code::AgreementUnacknowledged => {
                self.take_acknowledgement(&contract, acknowledged)?;
                reserve()?
            }
            (held, acknowledged) => {
                let held = held?;
                self.acknowledge_beside(&contract, acknowledged);
                held
            }
        };
        let run = Run {
            agent: Arc::clone(&agent),
            method: execute.method.clone(),
            params: execute.params.clone(),
            held: Some(held),
            claim,
            deadline,
            chain: execute.chain,
        };
        let ran = self.run(&caller(terms.consumer), run).await?;
        self.executed(&terms, &agent, &execute.method, &execute.params, ran).await
    }

    /// Runs a call of this node's owner, who comes by way of another of its nodes.
    async fn serve_owner(
        &self,
        caller: &impl Fn(protocol::Did) -> Caller,
        agent: Arc<Agent>,
        execute: Execute,
        deadline: Instant,
    ) -> Result<Executed, Problem> {
        let Execute { method, params, idempotency_key, chain, .. } = execute;
        let run = Run { agent, method, params, held: None, claim: None, chain, deadline };
        let Answered { outcome, operation, usage, .. } = self.run_as_owner(&caller(self.owner), run, idempotency_key).await?;
        Ok(Executed { outcome, operation, usage, receipt: None })
    }

    /// The answer that was given to a call before, with a receipt of the agreement that it was charged under, which may be another
    /// one of the same consumer.
    async fn executed_before(&self, named: &Agreement, agent: &Agent, method: &str, params: &[u8], ran: Ran) -> Result<Executed, Problem> {
        let Some(first) = ran.answered.agreement else {
            // Its owner's, from a node that needed no agreement.
            let Answered { outcome, operation, usage, .. } = ran.answered;
            return Ok(Executed { outcome, operation, usage, receipt: None });
        };
        if first == named.id {
            return self.executed(named, agent, method, params, ran).await;
        }
        let contract = self.agreements.get(&first).await?;
        contract.require_mesh(&self.mesh_id)?;
        self.executed(&contract.terms(), agent, method, params, ran).await
    }

    /// A call's answer with its receipt. Without one it isn't given: it is kept, and its receipt is signed when it is asked for
    /// again.
    async fn executed(&self, terms: &Agreement, agent: &Agent, method: &str, params: &[u8], ran: Ran) -> Result<Executed, Problem> {
        let charged = charged(agent.outline.id, method, params, &ran.answered);
        let receipt = self.receipt(terms, charged, ran.total, ran.at);
        let Answered { outcome, operation, usage, .. } = ran.answered;
        let receipt = Signed::sign_by(receipt, &self.owner_key).await.map_err(|problem| {
            let detail = format!("operation {operation} ran, but its receipt can't be signed now: {}", problem.detail);
            Problem::new(problem.code, detail).hint("call again with the same idempotency key: the answer is kept")
        })?;
        Ok(Executed { outcome, operation, usage, receipt: Some(receipt.into()) })
    }

    /// Proves an operation to the consumer under whose agreement it ran; nobody else learns of it.
    async fn prove_to(&self, from: NodeId, operation: &OperationId) -> Result<InclusionProof, Problem> {
        // Without its content it isn't known whose it was.
        let pruned = |problem: Problem| match problem.code {
            Code::Pruned => Problem::new(Code::Pruned, format!("the content of operation {operation} was pruned on this node")),
            _ => problem,
        };
        let entry = self.trace.entry(operation).await.map_err(pruned)?.entry;
        let unknown = || Problem::new(Code::NotFound, format!("operation {operation} is not one of yours in this node's trace"));
        let Action::Execute { .. } = entry.action else { return Err(unknown()) };
        let contract = self.agreements.get(&entry.agreement.ok_or_else(unknown)?).await?;
        if contract.consumer_node() != from {
            return Err(unknown());
        }
        self.trace.prove(operation).await
    }
}

/// Opens what a peer sent, as of now.
pub(crate) fn now(mesh: &protocol::MeshId) -> Expect<'_> {
    Expect::at(mesh, Timestamp::now())
}
