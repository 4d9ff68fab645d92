//! Agreements whose agent has gone on without this node's copy of them.
//!
//! ```text
//! departure   one commit: the agent is gone, and each agreement about it is marked with where it went
//! adoption    one commit: what comes along replaces all that is here of it, its mark too; whatever else is here stays marked
//! recovery    one commit: all that is here is marked as lost: what was used since is known to the lost home alone
//! ```
//! A marked agreement is an archive. Nothing is run, signed or charged under it, whatever its documents say. A consumer marks
//! its own copy when the provider's node says that the agreement is lost, so that it makes its next calls under another one.

use std::collections::HashSet;

use protocol::{
    AgentId, AgreementId, Code, Did, NodeId, Problem, Timestamp,
    agreement::{Agreement, Status},
    api::Departed,
    custody::Undertaking,
    document::Sealed,
};
use serde::Deserialize;
use store::{Commit, Kind, RecordWrite};

use super::{Agreements, Contract, Standing, transition_id};
use crate::node::journal;

/// What is read of stored terms to find those about one agent.
#[derive(Deserialize)]
struct Outline {
    agent: AgentId,
    provider: Did,
}

fn record(id: &AgreementId, mark: Option<Departed>) -> RecordWrite {
    RecordWrite { kind: Kind::Departed, id: id.to_string(), value: mark.map(|mark| journal::encode(&mark)) }
}

impl Agreements {
    /// The mark of a stored agreement.
    pub(super) async fn mark_of(&self, id: &AgreementId) -> Result<Option<Departed>, Problem> {
        let bytes = self.journal.store().record(Kind::Departed, &id.to_string()).await?;
        bytes.map(|bytes| journal::decode("departed agreement", &bytes)).transpose()
    }

    /// The marks that go into the commit by which an agent leaves.
    pub(crate) fn departing(&self, agent: &AgentId, mark: Departed) -> Vec<RecordWrite> {
        self.open
            .read()
            .values()
            .filter(|contract| self.provides(contract, agent))
            .map(|contract| record(&contract.id, Some(mark)))
            .collect()
    }

    /// The agent has left; the store has the marks already.
    pub(crate) fn departed(&self, agent: &AgentId, mark: Departed) {
        self.open.write().retain(|_, contract| {
            let left = self.provides(contract, agent);
            if left {
                // Requests under way may hold it still.
                contract.standing.lock().departed = Some(mark);
            }
            !left
        });
    }

    /// The marks that go into the commit by which an agent comes: of all that is here about it and was not brought along. Marks
    /// that are there stay, unless `mark` says that the agreements are lost.
    pub(crate) async fn left_behind(&self, agent: &AgentId, brought: &[Undertaking], mark: Departed) -> Result<Vec<RecordWrite>, Problem> {
        let brought: HashSet<AgreementId> = brought.iter().filter_map(|one| self.verified(one).ok()).collect();
        let (store, mut marks) = (self.journal.store(), Vec::new());
        for (id, bytes) in journal::all_records(store.as_ref(), Kind::Agreement).await? {
            let sealed: Sealed<Agreement> = journal::decode("agreement", &bytes)?;
            let payload = sealed.envelope().claimed_payload().map_err(protocol::document::Error::from)?;
            let about = serde_json::from_slice(&payload).is_ok_and(|of: Outline| of.agent == *agent && of.provider == self.owner);
            let Some(id) = id.parse().ok().filter(|id| about && !brought.contains(id)) else { continue };
            // Closed books are final: they say what was used.
            let is_closed = store.record(Kind::Closing, &id.to_string()).await?.is_some();
            if !is_closed && (mark.lost || self.mark_of(&id).await?.is_none()) {
                marks.push(record(&id, Some(mark)));
            }
        }
        Ok(marks)
    }

    /// What must go when an agreement comes with its agent: whatever is here of it is older.
    pub(super) async fn outdated(&self, id: &AgreementId, brought: &Undertaking) -> Result<Vec<RecordWrite>, Problem> {
        let gone = |kind, id: String| RecordWrite { kind, id, value: None };
        let prefix = format!("{id}/");
        let mut records = vec![record(id, None)];
        records.extend([Kind::Closing, Kind::Receipt, Kind::Charged].map(|kind| gone(kind, id.to_string())));
        let first = transition_id(id, brought.transitions.len() as u64);
        let steps = self.journal.store().records(Kind::Transition, Some(&first), super::MAX_TRANSITIONS).await?;
        let steps = steps.into_iter().map(|(step, _)| step).take_while(|step| step.starts_with(&prefix));
        records.extend(steps.map(|step| gone(Kind::Transition, step)));
        Ok(records)
    }

    /// A consumer hears from its provider that an agreement is lost.
    pub(crate) async fn lose(&self, contract: &Contract, node: NodeId) -> Result<(), Problem> {
        if contract.departed().is_some() {
            return Ok(());
        }
        let mark = Departed { node, epoch: None, lost: true };
        self.journal.keep(Commit { records: vec![record(&contract.id, Some(mark))], ..Commit::default() }).await?;
        contract.standing.lock().departed = Some(mark);
        Ok(())
    }
}

impl Standing {
    /// Where it stands at `now`. What is not in force here allows no calls, whatever its documents say.
    pub(super) fn status(&self, now: Timestamp) -> Status {
        match self.state.effective(self.signed.document(), now) {
            Status::Active if self.departed.is_some() => Status::Suspended,
            status => status,
        }
    }

    /// Refuses what is not in force here any more.
    pub(super) fn check_departed(&self) -> Result<(), Problem> {
        let Some(Departed { node, lost, .. }) = self.departed else { return Ok(()) };
        let Agreement { id, agent, .. } = self.signed.document();
        let why = match lost {
            true => format!("agent {agent} was recovered on node {node}, and what was used under it is known to the lost home alone"),
            false => format!("agent {agent} left for node {node}, and this agreement did not come back with it"),
        };
        let hint = format!("make a new one: 'mcpctl agreement propose --agent {agent}'");
        Err(Problem::new(Code::AgreementLost, format!("agreement {id} is not in force any more: {why}")).hint(hint))
    }
}

impl Contract {
    /// Why it is not in force on this node any more, if it is not.
    pub(crate) fn departed(&self) -> Option<Departed> {
        self.standing.lock().departed
    }

    /// Refuses an agreement that is not in force on this node any more.
    pub(crate) fn check_departed(&self) -> Result<(), Problem> {
        self.standing.lock().check_departed()
    }
}
