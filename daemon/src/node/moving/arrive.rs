//! An agent comes: from the node that was its home, or out of a snapshot where that one is lost.

use std::time::Duration;

use futures::future;
use protocol::{
    AgentId, Code, NodeId, Problem, Signed, Timestamp, api,
    custody::{Adopt, Answer, MAX_PAPERS, Papers, Undertaking},
    entry::Action,
    manifest::is_name,
    snapshot::Snapshot,
    wire,
};
use store::{Bucket, Charge, Commit, Kind, RecordWrite, Rejected};

use super::Whereabouts;
use crate::node::{Caller, Node, agents::Record};

/// Answers that are read at once: each may be as large as a result.
const PAGE: usize = 16;
/// Answers that are written at once: a group of the store's.
const GROUP: usize = 256;

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

    /// Becomes an agent's home. Once more is no harm.
    pub(in crate::node) async fn adopt(&self, caller: &Caller, from: NodeId, adopt: Adopt, within: Duration) -> Result<(), Problem> {
        let Adopt { agent: id, epoch, snapshot, papers } = adopt;
        let _adopting = tokio::time::timeout(within, self.adopting.lock()).await.map_err(|_| late(id))?;
        if self.agents.get(&id).is_some_and(|here| here.outline.epoch >= epoch) {
            return Ok(());
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
        self.take_answers(&agent, answers).await?;
        for undertaking in &agreements {
            self.take_usage(undertaking).await?;
        }
        let action = Action::Adopt { agent: id, from, epoch };
        let agent = self.settle_in(caller, api::Agent { epoch, ..agent }, &signed, agreements, action).await?;
        self.count_in(&agent, from, snapshot);
        Ok(())
    }

    /// Makes an agent this node's, of a snapshot that is here: one commit, with what goes along. `adopting` is held.
    pub(in crate::node) async fn settle_in(
        &self,
        caller: &Caller,
        mut agent: api::Agent,
        signed: &Signed<Snapshot>,
        agreements: Vec<Undertaking>,
        action: Action,
    ) -> Result<api::Agent, Problem> {
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
            self.stage(staged, signed.document(), &index).await?;
            let mut along = vec![note(None), Whereabouts::end(id), RecordWrite { kind: Kind::Held, id: id.to_string(), value: None }];
            along.extend(agreements.iter().flat_map(|undertaking| self.agreements.records(undertaking)));
            let entry = self.journal.append(caller.note(), action);
            self.agents.admit(Record { outline: agent, state: Some(staged), moving: None }, entry, along).await
        };
        match came.await {
            Ok(outline) => {
                self.whereabouts.remove(&id);
                for undertaking in &agreements {
                    // The agent is here; one agreement that can't be read is no reason to say that it isn't.
                    if let Err(problem) = self.agreements.reopen(&undertaking.agreement).await {
                        tracing::error!(%problem, "an agreement that came with an agent was left out");
                    }
                }
                self.tell_again(None);
                self.publish_soon();
                Ok(outline)
            }
            Err(problem) => {
                self.journal.keep(Commit { clear_state: Some(staged), records: vec![note(None)], ..Commit::default() }).await?;
                Err(problem)
            }
        }
    }

    /// Whether this node has become an agent's home in an epoch; if not, it never will in that one.
    pub(in crate::node) async fn settle_for(&self, home: NodeId, agent: AgentId, name: String, epoch: u64) -> Result<bool, Problem> {
        // An adoption under way ends first.
        let _adopting = self.adopting.lock().await;
        if self.agents.get(&agent).is_some_and(|here| here.outline.epoch >= epoch) {
            return Ok(true);
        }
        // It may have come, and gone on from here.
        if self.whereabouts.epoch(&agent).is_some_and(|elsewhere| elsewhere > epoch) {
            return Ok(true);
        }
        let there = Whereabouts { name, node: home, epoch };
        self.journal.keep(Commit { records: vec![there.record(agent)], ..Commit::default() }).await?;
        self.whereabouts.insert(agent, there);
        Ok(false)
    }

    /// What was answered for an agent under idempotency keys, with where it stands in this node's trace.
    pub(super) async fn answers_of(&self, agent: &AgentId) -> Result<Vec<Answer>, Problem> {
        let store = self.journal.store();
        let (scope, now_s) = (super::super::once::scope_of(agent), Timestamp::now().as_second());
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
        let (scope, now_s) = (super::super::once::scope_of(&agent.id), Timestamp::now().as_second());
        if answers.iter().any(|answer| !answer.scope.starts_with(&scope)) {
            return Err(Problem::new(Code::MalformedDocument, "an answer of another agent is among its papers"));
        }
        for group in answers.chunks(GROUP) {
            let commits = group.iter().cloned().map(|Answer { scope, key, value, expires_s }| {
                let answer = store::Answer { scope, key, value: value.to_vec(), now_s, expires_s };
                self.journal.commit(Commit { answer: Some(answer), ..Commit::default() })
            });
            for committed in future::join_all(commits).await {
                match committed {
                    // An attempt before this one has brought it.
                    Ok(_) | Err(store::Error::Rejected(Rejected::Duplicate)) => {}
                    Err(error) => return Err(error.into()),
                }
            }
        }
        Ok(())
    }

    /// Sets what was used under an agreement. Each bucket is replaced, so that once more is no harm.
    async fn take_usage(&self, undertaking: &Undertaking) -> Result<(), Problem> {
        let agreement = self.agreements.verified(undertaking)?;
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
