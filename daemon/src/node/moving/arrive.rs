//! An agent comes: from the node that was its home, or out of a snapshot where that one is lost.

use std::time::Duration;

use futures::future;
use protocol::{
    AgentId, Code, Digest, NodeId, Problem, Signed, api,
    custody::{Adopt, Answer, Holding, MAX_PAPERS, Papers, Possession, Undertaking},
    entry::Action,
    manifest::is_name,
    snapshot::Snapshot,
    wire,
};
use store::{Bucket, Charge, Commit, Kind, RecordWrite};

use super::{Whereabouts, proof};
use crate::node::{Caller, Node, agents::Record, once::scope_of};

/// Answers that are read at once: each may be as large as a result.
const PAGE: usize = 16;
/// Answers that are written at once: a group of the store's.
const GROUP: usize = 256;

/// An agent that comes, and what becomes of what is kept about it.
pub(in crate::node) struct Arrival {
    /// The agent, in its new epoch.
    pub(in crate::node) agent: api::Agent,
    /// What comes along.
    pub(in crate::node) agreements: Vec<Undertaking>,
    /// The digest of the papers that it came in.
    pub(in crate::node) papers: Option<Digest>,
    /// The mark of agreements that don't.
    pub(in crate::node) mark: api::Departed,
    /// How the trace tells of it.
    pub(in crate::node) action: Action,
}

impl Node {
    /// Whether an agent may come; the agent's home asks before it does anything.
    pub(in crate::node) fn welcome(&self, agent: &api::Agent) -> Result<(), Problem> {
        if !is_name(&agent.name) {
            return Err(Problem::new(Code::InvalidRequest, format!("{:?} is not an agent's name", agent.name)));
        }
        if self.agents.get(&agent.id).is_some() {
            return Err(Problem::new(Code::Conflict, format!("agent {} lives here already", agent.id)));
        }
        self.agents.check_free(&agent.name)
    }

    /// Becomes an agent's home, and says so signed. Once more is no harm.
    pub(in crate::node) async fn adopt(
        &self,
        caller: &Caller,
        from: NodeId,
        adopt: Adopt,
        within: Duration,
    ) -> Result<Signed<Holding>, Problem> {
        let Adopt { agent: id, epoch, snapshot, papers } = adopt;
        let _adopting = tokio::time::timeout(within, self.adopting.lock()).await.map_err(|_| late(id))?;
        if let Some(said) = self.holding_of(id, epoch, self.node_id).await?.filter(|said| said.document().adopted) {
            return Ok(said);
        }
        if self.whereabouts.epoch(&id).is_some_and(|elsewhere| elsewhere >= epoch) {
            return Err(Problem::new(Code::Conflict, format!("agent {id} was given up here in epoch {epoch}")));
        }
        let signed = self.snapshot(id, snapshot).await?;
        self.fetch_blob(caller, from, papers, MAX_PAPERS).await?;
        let bytes = self.plugins.blobs().get(&papers).await?.unwrap_or_default();
        let _ = self.plugins.blobs().remove(&papers).await;
        let malformed = |what: String| Problem::new(Code::MalformedDocument, format!("the papers of agent {id}: {what}"));
        let Papers { agent, agreements, answers } = wire::decode(&bytes).map_err(|error| malformed(error.to_string()))?;
        if agent.id != id || agent.owner != self.owner {
            return Err(malformed("they are of another agent".into()));
        }
        self.welcome(&agent)?;
        // What is here of an earlier stay is older, and nothing is served by it before the agent is here.
        self.take_answers(&agent, answers).await?;
        for undertaking in &agreements {
            self.take_usage(undertaking).await?;
        }
        let mark = api::Departed { node: from, epoch: Some(epoch), lost: false };
        let action = Action::Adopt { agent: id, from, epoch };
        let arrival = Arrival { agent: api::Agent { epoch, ..agent }, agreements, papers: Some(papers), mark, action };
        let (agent, holding) = self.settle_in(caller, arrival, &signed).await?;
        self.count_in(&agent, from, snapshot);
        Ok(holding)
    }

    /// Makes an agent this node's, of a snapshot that is here: one commit, with what goes along. `adopting` is held.
    pub(in crate::node) async fn settle_in(
        &self,
        caller: &Caller,
        arrival: Arrival,
        signed: &Signed<Snapshot>,
    ) -> Result<(api::Agent, Signed<Holding>), Problem> {
        let Arrival { mut agent, agreements, papers, mark, action } = arrival;
        self.agents.check_free(&agent.name)?;
        for plugin in &mut agent.plugins {
            self.plugins.loaded(&plugin.component).await?;
            let mut previous = Vec::new();
            for component in std::mem::take(&mut plugin.previous) {
                // It can be taken back to what is here.
                if self.plugins.get(&component).await.is_ok() {
                    previous.push(component);
                }
            }
            plugin.previous = previous;
        }
        self.check_reach(&agent).await?;
        let index = self.verified(signed).await?;
        let (id, staged) = (agent.id, AgentId::new());
        let note = |value| RecordWrite { kind: Kind::Staged, id: staged.to_string(), value };
        self.journal.keep(Commit { records: vec![note(Some(Vec::new()))], ..Commit::default() }).await?;
        let came = async {
            let snapshot = signed.document();
            self.stage(staged, snapshot, &index).await?;
            // What is proved is what the store gives back, not what was written to it.
            self.recount(staged, snapshot).await?;
            let Snapshot { id: of, index, keys, bytes, .. } = *snapshot;
            let holding = self.state_holding(id, agent.epoch, true, Some(Possession { snapshot: of, index, keys, bytes, papers }));
            let mut records = self.on_arrival(id, &agreements, mark).await?;
            records.extend([note(None), proof::record(&holding)]);
            let commit = Commit {
                records,
                entry: Some(self.journal.append(caller.note(), action)),
                // A recovery goes on without the answers that the lost home gave: some of an earlier stay would be no better.
                clear_answers: mark.lost.then(|| scope_of(&id)),
                ..Commit::default()
            };
            let outline = self.agents.admit(Record { outline: agent, state: Some(staged), moving: None }, commit).await?;
            Ok((outline, holding))
        };
        match came.await {
            Ok(arrived) => {
                self.whereabouts.remove(&id);
                self.agreements.departed(&id, mark);
                for undertaking in &agreements {
                    // The agent is here; one agreement that can't be read is no reason to say that it isn't.
                    if let Err(problem) = self.agreements.reopen(&undertaking.agreement).await {
                        tracing::error!(%problem, "an agreement that came with an agent was left out");
                    }
                }
                self.tell_again(None);
                self.publish_soon();
                Ok(arrived)
            }
            Err(problem) => {
                self.journal.keep(Commit { clear_state: Some(staged), records: vec![note(None)], ..Commit::default() }).await?;
                Err(problem)
            }
        }
    }

    /// What changes of all that is kept about an agent when it comes.
    async fn on_arrival(&self, id: AgentId, agreements: &[Undertaking], mark: api::Departed) -> Result<Vec<RecordWrite>, Problem> {
        let mut records = vec![Whereabouts::end(id), RecordWrite { kind: Kind::Held, id: id.to_string(), value: None }];
        records.extend(self.end_given_away(id).await?);
        records.extend(self.agreements.left_behind(&id, agreements, mark).await?);
        for undertaking in agreements {
            records.extend(self.agreements.records(undertaking).await?);
        }
        Ok(records)
    }

    /// Says, signed, whether this node has become an agent's home in an epoch; if not, it never will in that one.
    pub(in crate::node) async fn settle_for(
        &self,
        home: NodeId,
        agent: AgentId,
        name: String,
        epoch: u64,
    ) -> Result<Signed<Holding>, Problem> {
        // An adoption under way ends first.
        let _adopting = self.adopting.lock().await;
        if let Some(said) = self.holding_of(agent, epoch, self.node_id).await? {
            return Ok(said);
        }
        let here = self.agents.get(&agent).map(|here| here.outline.epoch).filter(|here| *here >= epoch);
        if let Some(here) = here.filter(|here| *here > epoch) {
            return Err(Problem::new(Code::Conflict, format!("agent {agent} lives here in epoch {here}, and not by that move")));
        }
        // It came to its epoch here by itself: spawned, or after a move that came to nothing.
        let holding = self.state_holding(agent, epoch, here.is_some(), None);
        let mut records = vec![proof::record(&holding)];
        let denied = here.is_none() && self.whereabouts.epoch(&agent).is_none_or(|known| known < epoch);
        let there = denied.then_some(Whereabouts { name, node: home, epoch });
        records.extend(there.iter().map(|there| there.record(agent)));
        self.journal.keep(Commit { records, ..Commit::default() }).await?;
        if let Some(there) = there {
            self.whereabouts.insert(agent, there);
        }
        Ok(holding)
    }

    /// What was answered for an agent under idempotency keys, with where it stands in this node's trace.
    pub(super) async fn answers_of(&self, agent: &AgentId) -> Result<Vec<Answer>, Problem> {
        let store = self.journal.store();
        let (scope, now_s) = (scope_of(agent), self.journal.clock().believed().as_second());
        let (mut answers, mut bytes): (Vec<Answer>, u64) = (Vec::new(), 0);
        loop {
            let after = answers.last().map(|last| (last.scope.clone(), last.key.clone()));
            let page = store.answers(&scope, after, now_s, PAGE).await?;
            let last = page.len() < PAGE;
            for answer in page {
                let value = self.located(&answer.value).await?;
                bytes += value.len() as u64;
                answers.push(Answer { scope: answer.scope, key: answer.key, value: value.into(), expires_s: answer.expires_s });
            }
            // What is too much is refused by its size, before it is all in memory.
            if last || bytes > MAX_PAPERS {
                return Ok(answers);
            }
        }
    }

    async fn take_answers(&self, agent: &api::Agent, answers: Vec<Answer>) -> Result<(), Problem> {
        let (scope, now_s) = (scope_of(&agent.id), self.journal.clock().believed().as_second());
        if answers.iter().any(|answer| !answer.scope.starts_with(&scope)) {
            return Err(Problem::new(Code::MalformedDocument, "an answer of another agent is among its papers"));
        }
        self.journal.keep(Commit { clear_answers: Some(scope), ..Commit::default() }).await?;
        for group in answers.chunks(GROUP) {
            let commits = group.iter().cloned().map(|Answer { scope, key, value, expires_s }| {
                let answer = store::Answer { scope, key, value: value.to_vec(), now_s, expires_s };
                self.journal.commit(Commit { answer: Some(answer), ..Commit::default() })
            });
            for committed in future::join_all(commits).await {
                // None was there before: only papers that have one twice are refused.
                committed?;
            }
        }
        Ok(())
    }

    /// Sets what was used under an agreement. Each bucket is replaced, so that once more is no harm.
    async fn take_usage(&self, undertaking: &Undertaking) -> Result<(), Problem> {
        let agreement = self.agreements.verified(undertaking)?;
        let here = self.journal.store().usage(&agreement).await?;
        let retire = here.into_iter().map(|(bucket, _)| (agreement, bucket)).collect();
        self.journal.keep(Commit { retire, ..Commit::default() }).await?;
        for (bucket, usage) in &undertaking.usage {
            let charge = Charge { agreement, usage: *usage, buckets: vec![Bucket::unlimited(bucket.clone())] };
            let commit = Commit { retire: vec![(agreement, bucket.clone())], charge: Some(charge), ..Commit::default() };
            self.journal.keep(commit).await?;
        }
        Ok(())
    }
}

fn late(agent: AgentId) -> Problem {
    Problem::new(Code::TimedOut, format!("agent {agent} could not come: others are coming"))
}
