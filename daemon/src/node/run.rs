//! One call of an agent that lives here: isolated, limited, metered, and durable before it is answered.
//!
//! ```text
//! gate (mutating calls: one at a time) -> view (last commit) -> sandbox -> one commit of
//!   state + usage + trace entry + answer -> settle -> reply
//! ```
//! Whoever asked may go away at any time: a call that has reached its commit finishes it, one that hasn't leaves nothing.

use std::sync::Arc;

use bytes::Bytes;
use protocol::{
    AgentId, AgreementId, Code, Digest, OperationId, Problem, Timestamp, Usage, advert::Effect, api::Limits, entry::Action,
    receipt::Position,
};
use serde::{Deserialize, Serialize};
use store::{Commit, Rejected, StateWrites, Write};
use tokio::{
    sync::{OwnedMutexGuard, OwnedRwLockReadGuard},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use super::{
    Caller, Node,
    agents::{Agent, Life, Presence, not_here},
    agreements::Held,
    journal::Note,
    logs::OfCall,
    moving::on_the_move,
    once::Claim,
    outside::{Reach, check_chain},
    settle::charged,
};

/// A call, decided and about to run.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) agent: Arc<Agent>,
    pub(crate) method: String,
    pub(crate) params: Bytes,
    /// What the caller's agreement sets aside for it; the owner needs none.
    pub(crate) held: Option<Held>,
    /// That its idempotency key is its own as long as it runs, if it has one.
    pub(crate) claim: Option<Claim>,
    pub(crate) deadline: Instant,
    /// The agents that wait for it.
    pub(crate) chain: Vec<AgentId>,
}

/// What became of it.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) answered: Answered,
    /// Where it stands in the trace, this node's or that of an earlier home of the agent.
    pub(crate) at: Position,
    /// The agreement's usage after it, and what of it passed limits.
    pub(crate) total: (Usage, Usage),
}

/// The part that is kept for repetitions.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Answered {
    pub(crate) operation: OperationId,
    pub(crate) outcome: Result<Bytes, Problem>,
    pub(crate) usage: Usage,
    /// What was asked: a key stands for one call, not for whatever comes under it.
    pub(super) params: Digest,
    /// Where it stands in the trace of the agent's home of that time, if that was another node.
    #[serde(default)]
    pub(super) at: Option<Position>,
    /// The agreement that it was charged under; the owner's calls have none.
    #[serde(default)]
    pub(super) agreement: Option<AgreementId>,
}

/// What a call holds until it is committed.
#[derive(Debug)]
struct Turn {
    /// The agent stays where it is.
    _presence: OwnedRwLockReadGuard<Presence>,
    /// Nobody else changes its state.
    _gate: Option<OwnedMutexGuard<Life>>,
    /// Nobody else runs under its idempotency key.
    claim: Option<Claim>,
}

/// What a call did.
struct Done {
    result: Result<Bytes, Problem>,
    usage: Usage,
    writes: kernel::Writes,
}

impl Node {
    /// Runs a call of an agent that lives here.
    ///
    /// # Errors
    /// What kept it from running at all. A call that ran and failed is an `Ok` whose outcome says so: it used something.
    pub(crate) async fn run(&self, caller: &Caller, mut run: Run) -> Result<Ran, Problem> {
        check_chain(&run.chain, &run.agent.outline.id)?;
        let _waiting = Arc::clone(&run.agent.room.waiting).try_acquire_owned().map_err(|_| crowded(&run))?;
        let presence = self.find_present(&run).await?;
        let (component, plugin, gate) = loop {
            if run.agent.outline.stopped {
                return Err(stopped(&run));
            }
            let component = run.agent.outline.plugin_of(&run.method).ok_or_else(|| unknown_method(&run))?.component;
            let plugin = self.plugins.loaded(&component).await.map_err(|problem| revoked(&run, problem))?;
            let method = plugin.method(&run.method).ok_or_else(|| unknown_method(&run))?;
            if method.effect == Effect::ReadOnly {
                break (component, plugin, None);
            }
            let gate = self.enter(&run).await?;
            // Whoever waited may find that the agent has become another release meanwhile, or was stopped.
            match self.agents.get(&run.agent.outline.id) {
                Some(now) if !Arc::ptr_eq(&now, &run.agent) => run.agent = now,
                _ => break (component, plugin, Some(gate)),
            }
        };
        let turn = Turn { _presence: presence, _gate: gate, claim: run.claim.take() };
        let running = Arc::clone(&run.agent.room.running).acquire_owned();
        let running = tokio::time::timeout_at(run.deadline, running).await.ok().and_then(Result::ok).ok_or_else(|| crowded(&run))?;
        // What was waited for may have been revoked meanwhile.
        self.plugins.revoked().check(&component).map_err(|problem| revoked(&run, problem))?;
        let limits = limits(&run);
        let params =
            String::from_utf8(run.params.to_vec()).map_err(|_| Problem::new(Code::InvalidParams, "the parameters are not UTF-8"))?;
        let state = super::view::StoredState::new(Arc::clone(self.journal.store()), Arc::clone(&run.agent));
        let call = kernel::Call {
            agent: run.agent.outline.id,
            method: run.method.clone(),
            params,
            limits,
            state: Box::new(state),
            label: format!("{} {}", run.agent.outline.name, caller.request_id),
            log: self.log_of(&run.agent, &run.method, &caller.request_id),
            outside: self.outside_of(&run, caller),
            depth: run.chain.len(),
        };
        if run.held.is_none() {
            let calling = self.plugins.kernel().call(&plugin, call);
            let outcome = tokio::time::timeout_at(run.deadline, calling).await.map_err(|_| too_late(&run))?;
            drop(running);
            return self.finish(caller, run, outcome, turn).await;
        }
        // A consumer pays for what it used: going away stops the guest, and not the meter. With an idempotency key it may come
        // again for the answer: then the call goes on, and the grant bounds the guest.
        let gone = CancellationToken::new();
        let (node, caller, stop) = (self.clone(), caller.clone(), gone.clone());
        let _gone = turn.claim.is_none().then(|| gone.drop_guard());
        let metered = self.tasks.spawn(async move {
            let outcome = node.plugins.kernel().call_until(&plugin, call, stop.cancelled_owned()).await;
            drop(running);
            node.finish(&caller, run, outcome, turn).await
        });
        metered.await.map_err(|error| Problem::new(Code::Internal, format!("the call failed: {error}")))?
    }

    /// Where the lines go that a call of `agent` logs.
    pub(super) fn log_of(&self, agent: &Agent, method: &str, request_id: &str) -> Box<dyn kernel::Log> {
        let (method, request_id) = (method.to_owned(), request_id.to_owned());
        Box::new(OfCall { logs: Arc::clone(&self.logs), agent: agent.outline.id, method, request_id })
    }

    /// What a call may reach.
    fn outside_of(&self, run: &Run, caller: &Caller) -> Box<dyn kernel::Outside> {
        Box::new(Reach {
            node: self.clone(),
            agent: Arc::clone(&run.agent),
            request_id: caller.request_id.clone(),
            chain: run.chain.clone(),
            deadline: run.deadline,
        })
    }

    async fn finish(&self, caller: &Caller, run: Run, outcome: kernel::Outcome, turn: Turn) -> Result<Ran, Problem> {
        if outcome.usage == Usage::default() {
            // Refused before anything ran: nothing to meter, nothing to trace.
            let refused = outcome.result.err().map(Problem::from);
            return Err(refused.unwrap_or_else(|| Problem::new(Code::Internal, "the sandbox neither ran nor refused")));
        }
        let result = outcome.result.map(Bytes::from).map_err(Problem::from);
        let done = Done { result, usage: outcome.usage, writes: outcome.writes };
        self.commit(caller, run, done, turn).await
    }

    /// Commits what the call did. In a task of its own: a caller that goes away doesn't stop it half-way.
    async fn commit(&self, caller: &Caller, run: Run, done: Done, turn: Turn) -> Result<Ran, Problem> {
        // The gate is held: nobody moves it meanwhile.
        let state = *run.agent.state.read().await;
        let (agent, agreement) = (run.agent.outline.id, run.held.as_ref().map(|held| held.contract().id()));
        let once = turn.claim.as_ref().map(Claim::once);
        let asked = run.params.clone();
        let used = done.usage;
        // What it sent elsewhere has left, though its result may not.
        let sent = used.egress_bytes.saturating_sub(done.result.as_ref().map_or(0, |result| result.len() as u64));
        let usage = run.held.as_ref().map_or(used, |held| held.counted(used));
        let params = Digest::sha256(&run.params);
        let answered = Answered { operation: OperationId::new(), outcome: done.result, usage, params, at: None, agreement };
        let action = Action::Execute {
            agent,
            method: run.method.clone(),
            params: answered.params,
            result: answered.outcome.as_ref().ok().map(|result| Digest::sha256(result)),
            usage: answered.usage,
        };
        let failure = answered.outcome.as_ref().err().map(|problem| problem.code);
        let note = Note { operation: answered.operation, principal: caller.principal, agreement, failure, request_id: &caller.request_id };
        let entry = self.journal.append(note, action);
        let leaf = entry.leaf;
        let writes: Vec<_> = done.writes.into_iter().map(|(key, value)| Write { key, value }).collect();
        let now_s = Timestamp::now().as_second();
        let commit = Commit {
            state: (!writes.is_empty()).then_some(StateWrites { agent: state, writes, quota: Some(quota(&run.agent)) }),
            charge: run.held.as_ref().map(|held| held.charge(answered.usage)),
            // So that the receipt can be made again, should nobody get it.
            records: agreement.map(|id| charged(agent, &run.method, &run.params, &answered).record(id)).into_iter().collect(),
            answer: once.as_ref().map(|once| once.answer(&answered, now_s)),
            entry: Some(entry),
            ..Commit::default()
        };
        let journal = self.journal.clone();
        let committing = self.tasks.spawn(async move {
            let committed = journal.commit(commit).await;
            if let Err(store::Error::Rejected(Rejected::StateFull { .. })) = &committed {
                return (committed, Some((run, turn)));
            }
            if let (Ok(committed), Some(held)) = (&committed, run.held) {
                held.settle(usage, committed.overage.unwrap_or_default());
            }
            drop(turn);
            (committed, None)
        });
        let (committed, full) = committing.await.map_err(|error| Problem::new(Code::Internal, format!("the commit failed: {error}")))?;
        if let (Err(error), Some((run, turn))) = (&committed, full) {
            // What it wrote doesn't fit: then the call has failed, which is metered and traced like any other failure.
            let problem = Problem::new(error.code(), error.to_string()).hint("delete some, or spawn the agent with a larger quota");
            let usage = Usage { egress_bytes: sent, ..used };
            let failed = Done { result: Err(problem), usage, writes: kernel::Writes::new() };
            return Box::pin(self.commit(caller, run, failed, turn)).await;
        }
        match committed {
            Ok(committed) => {
                let at = Position { log: self.node_id, index: committed.index.unwrap_or_default(), leaf };
                Ok(Ran { answered, at, total: (committed.total.unwrap_or_default(), committed.overage.unwrap_or_default()) })
            }
            Err(store::Error::Rejected(Rejected::Duplicate)) => {
                let lost = || Problem::new(Code::Conflict, "another call with this idempotency key was answered and forgotten; try again");
                let Some(once) = &once else { return Err(lost()) };
                self.answered(once, None, &asked).await?.ok_or_else(lost)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Waits for the agent's turn.
    async fn enter(&self, run: &Run) -> Result<OwnedMutexGuard<Life>, Problem> {
        let gate = tokio::time::timeout_at(run.deadline, Arc::clone(&run.agent.gate).lock_owned()).await.map_err(|_| too_late(run))?;
        match *gate {
            Life::Alive => Ok(gate),
            Life::Terminated => Err(not_here(&run.agent.outline.id.to_string())),
        }
    }

    /// Waits until the agent is here for certain, and keeps it here.
    async fn find_present(&self, run: &Run) -> Result<OwnedRwLockReadGuard<Presence>, Problem> {
        let waiting = Arc::clone(&run.agent.presence).read_owned();
        let presence = tokio::time::timeout_at(run.deadline, waiting).await.map_err(|_| too_late(run))?;
        match *presence {
            Presence::Here => Ok(presence),
            Presence::Moving(to) => Err(on_the_move(&run.agent, to)),
            Presence::Gone => Err(self.absent(&run.agent.outline.id.to_string())),
        }
    }
}

/// The agent's limits, the agreement's grant, and the time that is left, whichever is least.
fn limits(run: &Run) -> Limits {
    let mut limits = run.agent.outline.limits;
    if let Some(held) = &run.held {
        limits.fuel = limits.fuel.min(held.granted.fuel);
        limits.wall_ms = limits.wall_ms.min(held.granted.wall_us.div_ceil(1_000));
        limits.egress_bytes = limits.egress_bytes.min(held.granted.egress_bytes);
    }
    let left = run.deadline.saturating_duration_since(Instant::now());
    limits.wall_ms = limits.wall_ms.min(u64::try_from(left.as_millis()).unwrap_or(u64::MAX).max(1));
    limits
}

/// The most that an agent may hold.
fn quota(agent: &Agent) -> store::Held {
    store::Held { keys: agent.outline.limits.quota_keys, bytes: agent.outline.limits.quota_bytes }
}

fn crowded(run: &Run) -> Problem {
    Problem::new(Code::Overloaded, format!("too many calls of agent {} are under way", run.agent.outline.name))
        .hint("try again in a moment")
}

fn stopped(run: &Run) -> Problem {
    Problem::new(Code::AgentStopped, format!("agent {} is stopped", run.agent.outline.name))
        .hint("its owner starts it with 'mcpctl agent start'")
}

/// Callers hear which agent it is about, and what becomes of it.
fn revoked(run: &Run, problem: Problem) -> Problem {
    if problem.code != Code::PluginRevoked {
        return problem;
    }
    Problem::new(Code::PluginRevoked, format!("agent {} takes no calls: {}", run.agent.outline.name, problem.detail))
        .hint("its owner moves it to another release with 'mcpctl agent upgrade'; its state stays")
}

fn unknown_method(run: &Run) -> Problem {
    let known: Vec<_> = run.agent.outline.methods().map(|method| method.name.as_str()).collect();
    let short: String = run.method.chars().take(80).collect();
    Problem::new(Code::MethodNotFound, format!("agent {} has no method {short}", run.agent.outline.name))
        .hint(format!("it has {}", known.join(", ")))
}

fn too_late(run: &Run) -> Problem {
    Problem::new(Code::TimedOut, format!("agent {} did not get to {} within the caller's time", run.agent.outline.name, run.method))
}
