//! Where a call is decided: run here, or asked of the node where the agent lives.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use protocol::{
    AgentId, AgreementId, Code, Digest, Expect, NodeId, Problem, Signed, Timestamp, agreement::Agreement, api, document::Sealed,
    entry::Action, receipt::Receipt, wire,
};
use serde_json::value::RawValue;
use store::Commit;
use tokio::time::Instant;

use super::{
    Caller, Node,
    agents::Agent,
    agreements::{Contract, claimed_agreement, receipt_record},
    journal::Note,
    once::{Claimed, Repeatable},
    outside::check_chain,
    run::{Answered, Run},
    unsettled::Unsettled,
};

/// How often an agent may have moved since its callers last found it.
const MAX_MOVES: usize = 4;

/// A call as it comes in.
#[derive(Debug, Clone)]
pub(crate) struct Invocation {
    /// An agent's id, or the name of one that lives here.
    pub(crate) agent: String,
    pub(crate) method: String,
    pub(crate) params: Bytes,
    pub(crate) agreement: Option<AgreementId>,
    pub(crate) idempotency_key: Option<String>,
    pub(crate) timeout: Duration,
    /// The agents that wait for it, the one that makes it last; empty for a call from outside.
    pub(crate) chain: Vec<AgentId>,
}

impl Node {
    /// Executes a method of any agent in the mesh for a caller of this node.
    pub(crate) async fn execute(&self, caller: &Caller, invocation: Invocation) -> Result<api::Executed, Problem> {
        if let Some(agent) = self.agents.find(&invocation.agent) {
            let id = agent.outline.id;
            match self.execute_here(caller, agent, invocation.clone()).await {
                // It left while the call waited for it.
                Err(problem) if problem.code == Code::AgentMoved => return self.execute_there(caller, id, invocation).await,
                answered => return answered,
            }
        }
        self.agents.require_sound(&invocation.agent)?;
        let left = self.whereabouts.find(&invocation.agent).map(|(id, _)| id);
        let id = left.or_else(|| invocation.agent.parse().ok()).ok_or_else(|| self.agents.missing(&invocation.agent))?;
        self.execute_there(caller, id, invocation).await
    }

    async fn execute_here(&self, caller: &Caller, agent: Arc<Agent>, invocation: Invocation) -> Result<api::Executed, Problem> {
        if caller.principal != agent.outline.owner {
            return Err(Problem::new(Code::NotAuthorized, format!("{} does not own agent {}", caller.principal, agent.outline.name)));
        }
        let Invocation { method, params, idempotency_key, chain, .. } = invocation;
        let deadline = Instant::now() + invocation.timeout;
        let answered =
            self.run_as_owner(caller, Run { agent, method, params, held: None, claim: None, chain, deadline }, idempotency_key).await?;
        Ok(api::Executed { result: json(answered.outcome?)?, operation: answered.operation, usage: answered.usage, receipt: None })
    }

    /// Runs a call of the agent's owner, once if it has a key.
    pub(super) async fn run_as_owner(&self, caller: &Caller, mut run: Run, key: Option<String>) -> Result<Answered, Problem> {
        check_chain(&run.chain, &run.agent.outline.id)?;
        let (method, params, agent) = (run.method.clone(), run.params.clone(), run.agent.outline.id);
        let call = Repeatable { caller: caller.principal, agent, method: &method, key: key.as_deref(), params: &params, agreement: None };
        run.claim = match self.claim(call, run.deadline).await? {
            Claimed::Repeated(ran) => return Ok(ran.answered),
            Claimed::New(claim) => claim,
        };
        Ok(self.run(caller, run).await?.answered)
    }

    async fn execute_there(&self, caller: &Caller, agent: AgentId, invocation: Invocation) -> Result<api::Executed, Problem> {
        check_chain(&invocation.chain, &agent)?;
        let contract = self.agreement_for(&agent, &invocation).await?;
        let home = self.home_of(&agent, contract.as_deref()).await?;
        // On another node of its own an owner needs no agreement.
        let own = contract.is_none() && self.require_ours(home).await.is_ok();
        let request = wire::Execute {
            agent,
            method: invocation.method,
            // Without an agreement the provider is asked all the same: it alone decides, and says how to get one. But the
            // parameters are for nobody who hasn't signed.
            params: if contract.is_some() || own { invocation.params } else { Bytes::from_static(b"null") },
            agreement: contract.as_ref().map(|contract| contract.id()).or(invocation.agreement),
            idempotency_key: invocation.idempotency_key,
            acknowledged: None,
            chain: invocation.chain,
        };
        let repeatable = request.idempotency_key.is_some();
        let mut asked = Asked {
            method: request.method.clone(),
            params: Digest::sha256(&request.params),
            repeatable,
            // Of calls that begin now, only the repetition of an earlier one can come with the newest receipt that is here.
            least: contract.as_ref().map_or(0, |contract| contract.receipt_number()) + u64::from(!repeatable),
        };
        let (node, response) = self.ask_under(caller, home, contract.as_ref(), request, invocation.timeout).await?;
        let wire::Response::Executed(executed) = response else { return Err(strange(node)) };
        let executed = *executed;
        let Some(contract) = contract else {
            // Whoever isn't this owner's was given no parameters, so what it says is an answer to nothing.
            return if own && self.is_ours(node) { given(executed, None) } else { Err(strange(node)) };
        };
        let contract = match asked.repeatable {
            true => self.answered_under(contract, &executed, &mut asked).await?,
            false => contract,
        };
        let receipt = self.take_answer(caller, node, &contract, &executed, &asked).await?;
        given(executed, Some(receipt.into()))
    }

    /// The agreement that a call is made under: the one it names, or one that covers it.
    async fn agreement_for(&self, agent: &AgentId, invocation: &Invocation) -> Result<Option<Arc<Contract>>, Problem> {
        let (now, repeatable) = (Timestamp::now(), invocation.idempotency_key.is_some());
        let contract = match invocation.agreement {
            Some(id) => Some(self.agreements.get(&id).await?),
            None => match self.agreements.covering(agent, &invocation.method, now) {
                // What was answered under an agreement is answered again when that one is over.
                None if repeatable => self.agreements.latest_of(agent).await,
                covering => covering,
            },
        };
        if let Some(contract) = &contract {
            match repeatable {
                true => contract.require_mesh(&self.mesh_id)?,
                false => contract.require_in_force(&self.mesh_id, now)?,
            }
            contract.check_wanted()?;
            contract.check_undisputed()?;
        }
        Ok(contract)
    }

    /// The agreement that an answer was charged under: of a repetition the first call's, which may be another one than the
    /// repetition was made under. Nothing is known then of how far its receipts had come.
    async fn answered_under(&self, named: Arc<Contract>, executed: &wire::Executed, asked: &mut Asked) -> Result<Arc<Contract>, Problem> {
        let Some(receipt) = &executed.receipt else { return Ok(named) };
        let claimed = claimed_agreement(receipt)?;
        if claimed == named.id() {
            return Ok(named);
        }
        let other = |why: &str| {
            let detail = format!("operation {} was answered before, under agreement {claimed}, {why}", executed.operation);
            Problem::new(Code::AgreementScope, detail)
        };
        let first = self.agreements.get(&claimed).await.map_err(|_| other("which this node doesn't have"))?;
        first.require_mesh(&self.mesh_id)?;
        let (terms, ours) = (first.terms(), named.terms());
        if (terms.consumer, terms.provider, terms.agent) != (self.owner, ours.provider, ours.agent) {
            return Err(other("which is between others"));
        }
        asked.least = 0;
        Ok(first)
    }

    /// Makes a call, with the consumer's signature under the newest receipt, if there is an agreement.
    async fn ask_under(
        &self,
        caller: &Caller,
        home: NodeId,
        contract: Option<&Arc<Contract>>,
        mut request: wire::Execute,
        timeout: Duration,
    ) -> Result<(NodeId, wire::Response), Problem> {
        let (agent, until) = (request.agent, Instant::now() + timeout);
        let Some(contract) = contract else {
            return self.ask_home(home, &agent, wire::Request::Execute(request), &caller.request_id, timeout).await;
        };
        let unsettled = Unsettled { node: self, contract, until, answered: false };
        let signed = contract.to_acknowledge(&self.owner_key).await?;
        let number = signed.as_ref().map_or(0, |receipt| receipt.document().sequence);
        let again = request.clone();
        request.acknowledged = signed.map(Into::into);
        self.count_call(contract).await?;
        let mut answered = self.ask_home(home, &agent, wire::Request::Execute(request), &caller.request_id, timeout).await;
        if answered.as_ref().is_err_and(|problem| problem.code == Code::AgreementUnacknowledged) {
            // It may lack receipts that this node has, or this node those that it made: after this both have the same.
            self.settle_receipts(contract, &caller.request_id).await?;
            self.count_call(contract).await?;
            let left = until.saturating_duration_since(Instant::now());
            answered = self.ask_home(home, &agent, wire::Request::Execute(again), &caller.request_id, left).await;
        }
        unsettled.ended(&answered);
        match &answered {
            Ok(_) => contract.deliver(number),
            Err(problem) if problem.code == Code::AgreementLost => self.hear_lost(contract, home).await?,
            Err(_) => {}
        }
        answered
    }

    /// A provider says that an agreement is lost: what one of its nodes says is remembered, so that the next call is made under
    /// another one.
    pub(super) async fn hear_lost(&self, contract: &Contract, asked: NodeId) -> Result<(), Problem> {
        let terms = contract.terms();
        let node = self.routes.lock().get(&terms.agent).copied().unwrap_or(asked);
        if self.speaks_for_provider(node, &terms) {
            self.agreements.lose(contract, node).await?;
        }
        Ok(())
    }

    /// Asks the node where an agent lives, and the one that it has moved to, if it has.
    pub(super) async fn ask_home(
        &self,
        mut home: NodeId,
        agent: &AgentId,
        request: wire::Request,
        request_id: &str,
        timeout: Duration,
    ) -> Result<(NodeId, wire::Response), Problem> {
        let deadline = Instant::now() + timeout;
        for _ in 0..MAX_MOVES {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.mesh()?.request(home, request.clone(), request_id, left).await {
                Ok(response) => return Ok((home, response)),
                Err(Problem { code: Code::AgentMoved, moved_to: Some(to), .. }) if to != self.node_id => {
                    home = to;
                    self.routes.lock().insert(*agent, to);
                }
                Err(problem) => {
                    // A node that forgot the agent, or is gone, isn't asked first the next time.
                    if matches!(problem.code, Code::AgentNotFound | Code::Unreachable) {
                        self.routes.lock().remove(agent);
                    }
                    return Err(problem);
                }
            }
        }
        Err(Problem::new(Code::Conflict, format!("agent {agent} is sent from node to node: nobody says that it lives there")))
    }

    /// The node where an agent lives: where it was last found, by its agreement, by an advert, or by asking the neighbours.
    pub(super) async fn home_of(&self, agent: &AgentId, contract: Option<&Contract>) -> Result<NodeId, Problem> {
        if let Some(home) = self.routes.lock().get(agent).copied() {
            return Ok(home);
        }
        if let Some((_, there)) = self.whereabouts.find(&agent.to_string()) {
            return Ok(there.node);
        }
        if let Some(contract) = contract {
            let terms = contract.terms();
            return Ok(self.later_home(&terms).await.unwrap_or(terms.provider_node));
        }
        if let Some(advert) = self.locate(agent, None).await? {
            return Ok(advert.document().node);
        }
        Err(Problem::new(Code::AgentNotFound, format!("agent {agent} is known neither here nor to the neighbours"))
            .hint("'mcpctl discover CAPABILITY' finds agents by what they can do"))
    }

    /// Where the agent of an agreement lives by now, if the node that was agreed on isn't there to tell: another node of its
    /// provider, by that one's credential.
    async fn later_home(&self, terms: &Agreement) -> Option<NodeId> {
        let mesh = self.mesh().ok()?;
        if mesh.rtt(terms.provider_node).is_some() {
            return None;
        }
        let homes = self.directory.homes(&terms.agent, terms.provider);
        let (home, _) = homes.into_iter().max_by_key(|(_, epoch)| *epoch).filter(|(home, _)| *home != terms.provider_node)?;
        if self.owner_of(home).is_none() {
            mesh.ping(home).await.ok()?;
        }
        (self.owner_of(home) == Some(terms.provider)).then_some(home)
    }

    /// Counts a call that is about to be sent: the provider can bill for no more of them than that.
    async fn count_call(&self, contract: &Arc<Contract>) -> Result<(), Problem> {
        self.agreements.count_call(contract).await?;
        if contract.needs_block() {
            let (node, contract) = (self.clone(), Arc::clone(contract));
            self.tasks.spawn(async move {
                if let Err(problem) = node.agreements.reserve_calls(&contract).await {
                    tracing::warn!(agreement = %contract.id(), %problem, "the count of calls was not written; the next call tries again");
                }
            });
        }
        Ok(())
    }

    /// Verifies the receipt of an answer, and keeps it with a trace entry. The answer doesn't wait for the disk: receipts are
    /// cumulative, so the next one makes good for one that is lost in a crash.
    ///
    /// A receipt that the provider signed and that can't be true is kept as evidence instead.
    async fn take_answer(
        &self,
        caller: &Caller,
        node: NodeId,
        contract: &Arc<Contract>,
        executed: &wire::Executed,
        asked: &Asked,
    ) -> Result<Signed<Receipt>, Problem> {
        let provider = contract.terms().provider;
        let missing = || Problem::new(Code::Unsigned, format!("operation {} came without a receipt", executed.operation));
        let receipt = executed.receipt.clone().ok_or_else(missing)?.open(Expect::at(&self.mesh_id, Timestamp::now()))?;
        receipt.require(provider)?;
        // Signed for this answer: a key that was succeeded can't date it back.
        receipt.require_new(Timestamp::now())?;
        self.lineages.hear(&receipt, &[provider])?;
        let said = receipt.document();
        let newest = match asked.check(executed, said).and_then(|()| contract.take_receipt(&receipt)) {
            Ok(newest) => newest,
            Err(why) => return Err(self.agreements.dispute(caller, contract, &receipt, why).await),
        };
        if newest {
            self.journal.keep_newest(receipt_record(&receipt), said.sequence);
            self.agreements.unsettled.notify_one();
        }
        let note = Note {
            operation: executed.operation,
            principal: caller.principal,
            agreement: Some(contract.id()),
            failure: executed.outcome.as_ref().err().map(|problem| problem.code),
            request_id: &caller.request_id,
        };
        let action = Action::ExecuteRemote { node, agent: said.agent, method: said.method.clone(), receipt: Some(digest(&receipt)) };
        self.journal.keep_soon(Commit { entry: Some(self.journal.append(note, action)), ..Commit::default() }).await;
        Ok(receipt)
    }
}

/// What a consumer asked for under an agreement, which the receipt of the answer must be about.
struct Asked {
    method: String,
    params: Digest,
    /// Whether it came with an idempotency key, under which an earlier call may be answered again.
    repeatable: bool,
    /// The least number that the receipt can have.
    least: u64,
}

impl Asked {
    /// Whether a receipt is about this call and its answer.
    fn check(&self, executed: &wire::Executed, said: &Receipt) -> Result<(), String> {
        let ours = said.operation == executed.operation
            && said.method == self.method
            && said.usage == executed.usage
            && said.params == self.params
            && said.result == result_digest(&executed.outcome);
        if !ours {
            return Err("does not match the call that it answers".into());
        }
        if said.repeated && !self.repeatable {
            return Err("says that the call repeats an earlier one, which it doesn't".into());
        }
        if said.sequence < self.least {
            return Err(format!("is number {}, though number {} was the next when the call began", said.sequence, self.least));
        }
        Ok(())
    }
}

/// A call's answer as the API gives it.
fn given(executed: wire::Executed, receipt: Option<Sealed<Receipt>>) -> Result<api::Executed, Problem> {
    let wire::Executed { outcome, operation, usage, .. } = executed;
    Ok(api::Executed { result: json(outcome?)?, operation, usage, receipt })
}

/// The digest by which the trace names a receipt.
pub(crate) fn digest(receipt: &Signed<Receipt>) -> Digest {
    Digest::sha256(receipt.envelope().payload.as_bytes())
}

/// The digest of an outcome in a receipt: of the result, or of the failure's code.
pub(crate) fn result_digest(outcome: &Result<Bytes, Problem>) -> Digest {
    match outcome {
        Ok(result) => Digest::sha256(result),
        Err(problem) => Digest::sha256(problem.code.as_str().as_bytes()),
    }
}

fn json(bytes: Bytes) -> Result<Box<RawValue>, Problem> {
    serde_json::from_slice(&bytes).map_err(|error| Problem::new(Code::PluginBadResult, format!("the result is not JSON: {error}")))
}

pub(super) fn strange(node: NodeId) -> Problem {
    Problem::new(Code::Internal, format!("node {node} answered what was not asked"))
}
