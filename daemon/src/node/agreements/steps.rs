//! How an agreement moves on, on this node.
//!
//! ```text
//! provider  decides, or takes what the consumer asks for ─> the next step ─> the consumer is told, until it was
//! consumer  keeps what it wants until the provider has taken it           ─> the same step
//! ```
//!
//! So a consumer's history is always the beginning of its provider's.

use std::sync::Arc;

use protocol::{
    AgreementId, Code, Did, Expect, NodeId, Problem, Timestamp,
    agreement::{Agreement, Status, Transition},
    api::Wanted,
    document::Sealed,
    entry::Action,
    wire::Missed,
};
use serde::{Deserialize, Serialize};
use store::{Commit, Kind, RecordWrite};

use super::{Agreements, Contract, MAX_TRANSITIONS, Standing, transition_id};
use crate::node::{Caller, journal};

/// What the other party has still to be told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Untold {
    /// The consumer wants this, and the provider hasn't taken it yet.
    Wanted(Wanted),
    /// The provider has taken a step that the consumer may not know.
    Taken,
}

impl Untold {
    /// Whether a consumer has what it wanted, or can't have it any more.
    fn is_met_by(&self, step: &Transition, owner: Did) -> bool {
        let Self::Wanted(wanted) = self else { return true };
        step.to == Status::Closed || (step.by == owner && step.to == wanted.to)
    }

    pub(super) fn record(&self, agreement: &AgreementId) -> RecordWrite {
        RecordWrite { kind: Kind::Untold, id: agreement.to_string(), value: Some(journal::encode(self)) }
    }

    /// There is nothing to tell any more.
    pub(super) fn over(agreement: &AgreementId) -> RecordWrite {
        RecordWrite { kind: Kind::Untold, id: agreement.to_string(), value: None }
    }
}

/// Who has put a step in its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Order {
    /// This node, the provider's, by its own hand: the consumer is to be told.
    Own,
    /// This node, the provider's, as the consumer asks for it.
    Asked,
    /// The provider's node, which this one follows: what counts is when the step was made.
    Taken,
}

impl Agreements {
    /// Moves an agreement on by a signed transition. The same one again is no harm.
    pub(crate) async fn apply(
        &self,
        request_id: &str,
        contract: &Contract,
        transition: Sealed<Transition>,
        order: Order,
    ) -> Result<(), Problem> {
        let _moving = self.moving.lock().await;
        let now = Timestamp::now();
        let opened = transition.clone().open(Expect::at(&self.mesh, now))?;
        let step = opened.document();
        if contract.has_taken(step.sequence, &transition) {
            return Ok(());
        }
        contract.require_in_force(&self.mesh, now)?;
        check_number(contract.id, step.to, step.sequence)?;
        let (terms, mut state) = (contract.terms(), contract.state());
        if order != Order::Taken {
            state.clone().apply(&terms, &opened, now)?;
        }
        // By the time that the document claims, as an auditor will judge it.
        state.apply(&terms, &opened, step.header.issued_at)?;
        let (id, sequence, to) = (contract.id, step.sequence, step.to);
        let untold = match (order, contract.standing.lock().untold.clone()) {
            (Order::Own, _) => Some(Untold::Taken),
            // Whoever asks for the next step knows those before.
            (Order::Asked, _) => None,
            (Order::Taken, untold) => untold.filter(|untold| !untold.is_met_by(step, self.owner)),
        };
        let caller = Caller { principal: step.by, request_id: request_id.to_owned() };
        let mut note = caller.note();
        note.agreement = Some(id);
        let entry = self.journal.append(note, Action::Agreement { status: to });
        let record = RecordWrite { kind: Kind::Transition, id: transition_id(&id, sequence), value: Some(journal::encode(&transition)) };
        let told = untold.as_ref().map_or_else(|| Untold::over(&id), |untold| untold.record(&id));
        self.journal.keep(Commit { records: vec![record, told], entry: Some(entry), ..Commit::default() }).await?;
        {
            let mut standing = contract.standing.lock();
            standing.state = state;
            standing.transitions.push(transition);
            standing.untold = untold;
        }
        if to == Status::Closed {
            self.ends.notify_one();
            self.unsettled.notify_one();
        }
        Ok(())
    }

    /// Keeps what a consumer wants, until the provider has taken it.
    pub(crate) async fn want(&self, contract: &Contract, wanted: Wanted) -> Result<(), Problem> {
        let _moving = self.moving.lock().await;
        self.put_untold(contract, Some(Untold::Wanted(wanted))).await
    }

    /// A consumer wants this no longer; something else that it may want by now stays.
    pub(crate) async fn give_up(&self, contract: &Contract, wanted: &Wanted) -> Result<(), Problem> {
        let _moving = self.moving.lock().await;
        if contract.wanted().as_ref() != Some(wanted) {
            return Ok(());
        }
        self.put_untold(contract, None).await
    }

    /// The consumer knows all steps up to this number.
    pub(crate) async fn told(&self, contract: &Contract, steps: u64) -> Result<(), Problem> {
        if !contract.is_untold() {
            return Ok(());
        }
        let _moving = self.moving.lock().await;
        if contract.is_untold() && contract.steps() <= steps {
            self.put_untold(contract, None).await?;
            self.ends.notify_one();
        }
        Ok(())
    }

    async fn put_untold(&self, contract: &Contract, untold: Option<Untold>) -> Result<(), Problem> {
        let record = untold.as_ref().map_or_else(|| Untold::over(&contract.id), |untold| untold.record(&contract.id));
        self.journal.keep(Commit { records: vec![record], ..Commit::default() }).await?;
        contract.standing.lock().untold = untold;
        Ok(())
    }

    /// Agreements of this provider whose consumer has still to be told of a step; of one node, or of all.
    pub(crate) fn untold(&self, consumer: Option<NodeId>) -> Vec<Arc<Contract>> {
        let theirs =
            |contract: &&Arc<Contract>| contract.is_untold() && consumer.is_none_or(|consumer| contract.consumer_node() == consumer);
        self.open.read().values().filter(theirs).cloned().collect()
    }
}

/// Refuses a step beyond the most that an agreement may take.
pub(crate) fn check_number(id: AgreementId, to: Status, sequence: u64) -> Result<(), Problem> {
    if to == Status::Closed || sequence < MAX_TRANSITIONS as u64 {
        return Ok(());
    }
    Err(Problem::new(Code::Conflict, format!("agreement {id} has taken {MAX_TRANSITIONS} steps: it can only be closed")))
}

impl Standing {
    /// What this consumer wants of a provider that hasn't taken it yet, unless its time is over.
    pub(super) fn wanted(&self, terms: &Agreement, now: Timestamp) -> Option<&Wanted> {
        match &self.untold {
            Some(Untold::Wanted(wanted)) if self.state.effective(terms, now) != Status::Closed => Some(wanted),
            _ => None,
        }
    }

    /// Whether its owner wants no more calls under it.
    pub(super) fn is_given_up(&self) -> bool {
        matches!(&self.untold, Some(Untold::Wanted(wanted)) if wanted.to != Status::Active)
    }
}

impl Contract {
    /// How many transitions it has taken.
    pub(crate) fn steps(&self) -> u64 {
        self.standing.lock().state.sequence
    }

    /// Whether this is the step that it has taken under that number.
    pub(crate) fn has_taken(&self, sequence: u64, transition: &Sealed<Transition>) -> bool {
        let standing = self.standing.lock();
        let taken = usize::try_from(sequence).ok().and_then(|at| standing.transitions.get(at.checked_sub(1)?));
        taken.is_some_and(|taken| taken.envelope().payload == transition.envelope().payload)
    }

    /// Its newest transition.
    pub(crate) fn newest_step(&self) -> Option<Sealed<Transition>> {
        self.standing.lock().transitions.last().cloned()
    }

    /// What its history has beyond so many transitions, and beyond a proposal.
    pub(crate) fn missed(&self, steps: u64, proposed: bool) -> Missed {
        let standing = self.standing.lock();
        let is_signed = standing.signed.require(standing.signed.document().provider).is_ok();
        let transitions = standing.transitions.iter().skip(usize::try_from(steps).unwrap_or(usize::MAX)).cloned().collect();
        Missed { agreement: (proposed && is_signed).then(|| standing.signed.clone().into()), transitions }
    }

    /// What this consumer wants of its provider.
    pub(crate) fn wanted(&self) -> Option<Wanted> {
        match &self.standing.lock().untold {
            Some(Untold::Wanted(wanted)) => Some(wanted.clone()),
            Some(Untold::Taken) | None => None,
        }
    }

    /// Whether the consumer has still to be told of a step.
    pub(crate) fn is_untold(&self) -> bool {
        self.standing.lock().untold == Some(Untold::Taken)
    }

    /// Refuses a call that its owner doesn't want any more.
    pub(crate) fn check_wanted(&self) -> Result<(), Problem> {
        let standing = self.standing.lock();
        match &standing.untold {
            Some(Untold::Wanted(wanted)) if standing.is_given_up() => {
                let detail = format!("agreement {} is to be {} as soon as its provider can be told", self.id, wanted.to);
                Err(Problem::new(Code::AgreementNotActive, detail).hint("'mcpctl agreement resume' takes a suspension back"))
            }
            _ => Ok(()),
        }
    }
}
