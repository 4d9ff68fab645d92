//! How two nodes move an agreement on: suspend, resume, close.
//!
//! ```text
//! consumer                                        provider
//! wants it: kept until the provider has taken it
//! Transition, signed ───────────────────────────> the next step, if it is ── taken by both
//!    <── Missed: the steps before it ──────────── or not: the consumer takes those, and asks anew
//! the step, if it follows <──── Transition ────── decides: the next step; told until the consumer knows it
//! if it doesn't: asks for those before ─────────>
//! ```
//!
//! The provider's node puts steps in order, so both have the same. Whoever isn't there is told when it comes back: nothing is
//! tried again by a clock, and past the end of the terms it is all the same.

use std::{sync::Arc, time::Duration};

use futures::{StreamExt as _, stream};
use protocol::{
    AgreementId, Code, Did, Expect, Header, NodeId, Problem, Signed, SignedDuration, Timestamp,
    agreement::{Agreement, Status, Transition, open_active},
    api::{AgreementState, Wanted},
    document::Sealed,
    lifecycle,
    wire::{Acknowledge, Missed, Request, Response},
};

use super::{
    Caller, Node,
    agreements::{Contract, MAX_TRANSITIONS, Order, check_number},
    execute::strange,
};

/// How long the other party is waited for.
const PATIENCE: Duration = Duration::from_secs(15);
/// A signed transition is taken by the other party for this long; it may be offline for a while.
const TRANSITION_VALIDITY: SignedDuration = SignedDuration::from_hours(10 * 366 * 24);
/// How often a consumer asks anew because the provider was ahead of it: each time something happened meanwhile.
const ROUNDS: usize = 8;
/// Agreements of one consumer that it is told of at once.
const AT_ONCE: usize = 8;

impl Node {
    /// This node's owner moves an agreement on. A consumer whose provider can't be reached has it told later.
    pub(crate) async fn transition(&self, caller: &Caller, id: &AgreementId, wanted: Wanted) -> Result<AgreementState, Problem> {
        let contract = self.agreements.get(id).await?;
        let terms = contract.terms();
        self.require_at_home(&terms)?;
        if terms.provider == self.owner {
            self.decide(&contract, &wanted, &caller.request_id).await?;
            self.tell_soon(vec![Arc::clone(&contract)], &caller.request_id);
        } else {
            self.ask_for(&contract, wanted, &caller.request_id).await?;
        }
        Ok(self.agreements.show(&contract))
    }

    /// The provider takes a step of its own; made anew where one of the consumer's came in between.
    async fn decide(&self, contract: &Contract, wanted: &Wanted, request_id: &str) -> Result<(), Problem> {
        let mut rounds = 0..ROUNDS;
        loop {
            let before = contract.steps();
            let step = self.step(contract, wanted).await?;
            match self.agreements.apply(request_id, contract, step, Order::Own).await {
                Err(problem) if problem.code == Code::Conflict && contract.steps() > before && rounds.next().is_some() => {}
                taken => return taken,
            }
        }
    }

    /// The next step, as this owner wants and signs it, if it may take it.
    async fn step(&self, contract: &Contract, wanted: &Wanted) -> Result<Sealed<Transition>, Problem> {
        let (terms, state, now) = (contract.terms(), contract.state(), Timestamp::now());
        let Wanted { to, reason, note } = wanted.clone();
        if state.effective(&terms, now) == Status::Closed {
            return Err(lifecycle::Error::Illegal { from: Status::Closed, to }.into());
        }
        contract.require_in_force(&self.mesh_id, now)?;
        let step = Transition {
            header: Header::new::<Transition>(&self.mesh_id, now, TRANSITION_VALIDITY),
            agreement: terms.id,
            sequence: state.sequence + 1,
            from: state.status,
            to,
            reason,
            note,
            by: self.owner,
        };
        check_number(terms.id, to, step.sequence)?;
        state.after(&terms, &step, now)?;
        Ok(Signed::sign_by(step, &self.owner_key).await?.into())
    }

    /// A consumer wants a step: it is kept, and brought to the provider now, or when that one comes back.
    async fn ask_for(&self, contract: &Arc<Contract>, wanted: Wanted, request_id: &str) -> Result<(), Problem> {
        if let Some(before) = contract.wanted()
            && contract.state().status == wanted.to
        {
            // What wasn't told is taken back.
            return self.agreements.give_up(contract, &before).await;
        }
        if let Err(problem) = self.step(contract, &wanted).await {
            // It may be that the provider has moved it on meanwhile.
            let before = contract.steps();
            let caught_up = self.catch_up(contract, request_id).await;
            if caught_up.is_err() || contract.steps() == before {
                return Err(problem);
            }
            self.step(contract, &wanted).await?;
        }
        self.agreements.want(contract, wanted.clone()).await?;
        let (node, contract, request_id) = (self.clone(), Arc::clone(contract), request_id.to_owned());
        // A task of its own: whoever asked may go away.
        let asking = self.tasks.spawn(async move {
            tokio::select! {
                () = node.stopping.cancelled() => Ok(()),
                brought = node.bring(&contract, &wanted, &request_id) => brought,
            }
        });
        asking.await.unwrap_or_else(|error| Err(Problem::new(Code::Internal, format!("a step was not brought to its provider: {error}"))))
    }

    /// Brings the provider what this consumer wants. What that one can't be asked for stays to be told.
    pub(super) async fn bring(&self, contract: &Arc<Contract>, wanted: &Wanted, request_id: &str) -> Result<(), Problem> {
        match self.negotiate_step(contract, wanted, request_id).await {
            Ok(()) => self.agreements.give_up(contract, wanted).await,
            Err(problem) if is_refusal(problem.code) => {
                self.agreements.give_up(contract, wanted).await?;
                Err(problem)
            }
            Err(problem) => {
                tracing::info!(agreement = %contract.id(), %problem, "the provider is told when it comes back");
                Ok(())
            }
        }
    }

    /// Asks the provider to take a step, after all that it took before.
    async fn negotiate_step(&self, contract: &Arc<Contract>, wanted: &Wanted, request_id: &str) -> Result<(), Problem> {
        let (terms, mut lost) = (contract.terms(), false);
        for _ in 0..ROUNDS {
            if contract.state().status == wanted.to {
                return Ok(());
            }
            let step = self.step(contract, wanted).await?;
            let home = self.home_of(&terms.agent, Some(contract)).await?;
            match self.ask_home(home, &terms.agent, Request::Transition(step.clone()), request_id, PATIENCE).await {
                // What has no signature of the provider's is believed of its nodes alone.
                Ok((node, Response::Done)) if self.speaks_for_provider(node, &terms) => {
                    return self.agreements.apply(request_id, contract, step, Order::Taken).await;
                }
                Ok((node, Response::Missed(missed))) if !missed.is_empty() => {
                    self.take_missed(node, contract, *missed, request_id).await?;
                }
                Ok((node, _)) => return Err(strange(node)),
                Err(problem) if !lost && self.is_back(home, &problem) => lost = true,
                Err(problem) => return Err(problem),
            }
        }
        Err(Problem::new(Code::Overloaded, format!("agreement {} is moved on by its provider all the time", terms.id)))
    }

    /// Asks the provider for the steps that this consumer doesn't have.
    async fn catch_up(&self, contract: &Arc<Contract>, request_id: &str) -> Result<(), Problem> {
        let terms = contract.terms();
        let request = Request::Acknowledge(Box::new(self.standing_of(contract, None)));
        let home = self.home_of(&terms.agent, Some(contract)).await?;
        let (node, response) = self.ask_home(home, &terms.agent, request, request_id, PATIENCE).await?;
        let Response::Standing(standing) = response else { return Err(strange(node)) };
        self.take_missed(node, contract, standing.missed, request_id).await
    }

    /// What a consumer says of how it stands.
    pub(super) fn standing_of(&self, contract: &Contract, receipt: Option<Sealed<protocol::receipt::Receipt>>) -> Acknowledge {
        let (terms, state) = (contract.terms(), contract.state());
        let proposed = state.status == Status::Proposed;
        Acknowledge { agreement: terms.id, agent: terms.agent, receipt, transitions: state.sequence, proposed }
    }

    /// Takes what the provider has put in order before, as one of its nodes says.
    pub(super) async fn take_missed(
        &self,
        node: NodeId,
        contract: &Arc<Contract>,
        missed: Missed,
        request_id: &str,
    ) -> Result<(), Problem> {
        if !missed.is_empty() && !self.speaks_for_provider(node, &contract.terms()) {
            return Err(Problem::new(Code::NotAuthorized, format!("node {node} doesn't speak for the provider of {}", contract.id())));
        }
        if missed.transitions.len() > MAX_TRANSITIONS {
            return Err(Problem::new(Code::TooLarge, format!("an agreement takes at most {MAX_TRANSITIONS} steps")));
        }
        if let Some(sealed) = missed.agreement {
            let signed = open_active(sealed, Expect::archived(&self.mesh_id))?;
            if signed.envelope().payload != contract.signed().envelope().payload {
                return Err(Problem::new(Code::AgreementScope, "the provider signed other terms than were proposed"));
            }
            self.lineages.hear(&signed, &[signed.document().provider])?;
            let caller = Caller { principal: signed.document().provider, request_id: request_id.to_owned() };
            if contract.state().status == Status::Proposed {
                self.agreements.keep(&caller, signed, false).await?;
            }
        }
        for step in missed.transitions {
            let opened = step.clone().open(Expect::archived(&self.mesh_id))?;
            self.lineages.hear(&opened, &[contract.terms().provider])?;
            self.agreements.apply(request_id, contract, step, Order::Taken).await?;
        }
        Ok(())
    }

    /// The other party moves an agreement on.
    pub(crate) async fn take_transition(
        &self,
        from: NodeId,
        caller: &impl Fn(Did) -> Caller,
        sealed: Sealed<Transition>,
    ) -> Result<Response, Problem> {
        let opened = sealed.clone().open(Expect::at(&self.mesh_id, Timestamp::now()))?;
        let step = opened.document();
        let contract = self.agreements.get(&step.agreement).await?;
        let (terms, request_id) = (contract.terms(), caller(step.by).request_id);
        self.require_at_home(&terms)?;
        let stranger = || Problem::new(Code::NotAuthorized, "only the other party of an agreement moves it on");
        if terms.provider == self.owner {
            if step.by != terms.consumer || from != terms.consumer_node {
                return Err(stranger());
            }
            self.lineages.hear(&opened, &[terms.consumer])?;
            if !contract.has_taken(step.sequence, &sealed) {
                // The consumer signs anew whenever it asks; only what was taken already may come again later.
                opened.require_new(Timestamp::now())?;
            }
            return self.take_asked(&contract, sealed, step, &request_id).await;
        }
        if !self.speaks_for_provider(from, &terms) {
            return Err(stranger());
        }
        self.lineages.hear(&opened, &[step.by])?;
        let follows = step.sequence == contract.steps() + 1 && step.from == contract.state().status;
        if follows || contract.has_taken(step.sequence, &sealed) {
            self.agreements.apply(&request_id, &contract, sealed.clone(), Order::Taken).await?;
        } else {
            self.catch_up(&contract, &request_id).await?;
        }
        if contract.has_taken(step.sequence, &sealed) {
            return Ok(Response::Done);
        }
        Err(Problem::new(Code::Conflict, format!("transition {} of {} is another one here", step.sequence, terms.id)))
    }

    /// The consumer asks for a step: taken if it follows, or if it was taken before and the answer got lost.
    async fn take_asked(
        &self,
        contract: &Contract,
        sealed: Sealed<Transition>,
        step: &Transition,
        request_id: &str,
    ) -> Result<Response, Problem> {
        let missed = || contract.missed(step.sequence.saturating_sub(1), step.from == Status::Proposed);
        let behind = |missed: Missed| Ok(Response::Missed(Box::new(missed)));
        if contract.has_taken(step.sequence, &sealed) {
            return Ok(Response::Done);
        }
        let before = missed();
        if !before.is_empty() {
            return behind(before);
        }
        match self.agreements.apply(request_id, contract, sealed, Order::Asked).await {
            Ok(()) => Ok(Response::Done),
            // Another one came in between.
            Err(problem) => match missed() {
                before if before.is_empty() => Err(problem),
                before => behind(before),
            },
        }
    }

    /// Whether a node speaks for the provider of an agreement: the one that was agreed on, or another one of the provider, to
    /// which the agent has moved.
    pub(super) fn speaks_for_provider(&self, from: NodeId, terms: &Agreement) -> bool {
        terms.consumer == self.owner && (from == terms.provider_node || self.owner_of(from) == Some(terms.provider))
    }

    /// A consumer is here: it is told what it couldn't be told before.
    pub(super) fn tell_again(&self, consumer: Option<NodeId>) {
        let untold = self.agreements.untold(consumer);
        if !untold.is_empty() {
            self.tell_soon(untold, "told-again");
        }
    }

    /// Tells the consumers of agreements in the background. Whom it doesn't reach is told when it comes back.
    pub(super) fn tell_soon(&self, contracts: Vec<Arc<Contract>>, request_id: &str) {
        let (node, request_id) = (self.clone(), request_id.to_owned());
        self.tasks.spawn(async move {
            let telling = contracts.into_iter().map(async |contract| {
                if let Err(problem) = node.tell(&contract, &request_id).await {
                    tracing::info!(agreement = %contract.id(), %problem, "the consumer is told when it comes back");
                }
            });
            tokio::select! {
                () = node.stopping.cancelled() => {}
                () = stream::iter(telling).buffer_unordered(AT_ONCE).collect::<()>() => {}
            }
        });
    }

    async fn tell(&self, contract: &Contract, request_id: &str) -> Result<(), Problem> {
        let terms = contract.terms();
        // An agent that has left is spoken for from elsewhere.
        if self.require_at_home(&terms).is_err() {
            return Ok(());
        }
        let steps = contract.steps();
        let request = contract.newest_step().map_or_else(|| Request::Accept(contract.signed().into()), Request::Transition);
        let told = self.mesh()?.request(terms.consumer_node, request.clone(), request_id, PATIENCE).await;
        if let Err(problem) = told {
            if !self.is_back(terms.consumer_node, &problem) {
                return Err(problem);
            }
            self.mesh()?.request(terms.consumer_node, request, request_id, PATIENCE).await?;
        }
        self.agreements.told(contract, steps).await
    }

    /// Whether a node that didn't answer is there all the same: it was asked over a connection that turned out to be dead, and came
    /// back over another one before it was missed, so that nobody will say that it did.
    fn is_back(&self, node: NodeId, problem: &Problem) -> bool {
        matches!(problem.code, Code::Unreachable | Code::TimedOut) && self.mesh().is_ok_and(|mesh| mesh.rtt(node).is_some())
    }
}

/// Whether a provider has said no, or the state machine: to ask again is of no use.
fn is_refusal(code: Code) -> bool {
    matches!(
        code,
        Code::IllegalTransition
            | Code::InvalidRequest
            | Code::NotAuthorized
            | Code::AgreementNotSigned
            | Code::AgreementNotActive
            | Code::AgreementExpired
            | Code::ForeignMesh
            | Code::KeyUnavailable
    )
}
