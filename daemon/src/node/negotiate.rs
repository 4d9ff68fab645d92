//! How two nodes come to an agreement. How they move it on together: `steps.rs`.
//!
//! ```text
//! consumer                                  provider
//! propose: template -> terms, signed ──────> policy: accept  -> countersigned ─┐
//!    <──────────────────────────────────────────────────────────────────────────┤
//!                                            policy: ask     -> kept, as it is ─┘
//!    <────────────── Accept ──────────────── operator: agreement accept
//! ```

use std::{sync::Arc, time::Duration};

use agreement::{policy::Decision, template};
use protocol::{
    AgreementId, Code, Did, NodeId, Problem, Signed, Timestamp,
    advert::Service,
    agreement::{Agreement, Status, open_active},
    api::{AgreementState, Budget, Propose},
    document::Sealed,
    wire::{Request, Response},
};

use super::{
    Caller, Node,
    agreements::{Contract, Kept, Rule},
    inbound::now,
};

/// The longest payload of a proposal, in base64; terms with a hundred methods take a third.
const MAX_PROPOSAL: usize = 16 * 1024;
/// How long the other party is waited for.
const PATIENCE: Duration = Duration::from_secs(15);

impl Node {
    /// Proposes terms to the provider of an agent.
    pub(crate) async fn propose(&self, caller: &Caller, propose: Propose) -> Result<AgreementState, Problem> {
        let unknown = || unknown_agent(&propose.agent);
        if self.agents.find(&propose.agent).is_some_and(|_| propose.node.is_none_or(|node| node == self.node_id)) {
            return Err(Problem::new(Code::Conflict, format!("agent {} lives on this node: its owner needs no agreement", propose.agent)));
        }
        let agent = match propose.agent.parse() {
            Ok(id) => id,
            Err(_) => self.locate_named(&propose.agent, propose.node).await?.ok_or_else(unknown)?,
        };
        let advert = self.locate(&agent, propose.node).await?.ok_or_else(unknown)?;
        let offer = advert.document();
        // One for each of its plugins, at one price.
        let theirs = |service: &&Service| service.agents.iter().any(|offered| offered.id == agent);
        let services: Vec<_> = offer.services.iter().filter(theirs).collect();
        let pricing = &services.first().ok_or_else(unknown)?.pricing;
        let has = |wanted: &str| services.iter().flat_map(|service| &service.methods).any(|method| method.name == wanted);
        if let Some(wrong) = propose.methods.iter().find(|wanted| !has(wanted)) {
            return Err(Problem::new(Code::MethodNotFound, format!("agent {} has no method {wrong}", propose.agent)));
        }
        let parties = template::Parties {
            mesh: self.mesh_id.clone(),
            provider: offer.owner,
            provider_node: offer.node,
            consumer: self.owner,
            consumer_node: self.node_id,
            agent,
        };
        let terms = template::propose(
            &self.templates.get(&propose.template)?.template,
            &propose.parameters,
            parties,
            propose.methods,
            pricing.clone(),
            AgreementId::new(),
            Timestamp::now(),
        )?;
        let signed = Signed::sign_by(terms, &self.owner_key).await?;
        let answer = self.offer(&caller.request_id, offer.node, &signed).await?;
        let contract = self.agreements.keep(caller, answer, false).await?;
        self.agreements.show(&contract)
    }

    /// Sends a proposal, and checks that what comes back is the same terms.
    async fn offer(&self, request_id: &str, provider: NodeId, signed: &Signed<Agreement>) -> Result<Signed<Agreement>, Problem> {
        let request = Request::Propose(signed.clone().into());
        let Response::Agreement(answer) = self.mesh()?.request(provider, request, request_id, PATIENCE).await? else {
            return Err(Problem::new(Code::Internal, format!("node {provider} answered what was not asked")));
        };
        if answer.envelope().payload != signed.envelope().payload {
            return Err(Problem::new(Code::BadSignature, format!("node {provider} signed other terms than were proposed")));
        }
        let answer = answer.open(now(&self.mesh_id))?;
        self.lineages.hear(&answer, &[answer.document().provider])?;
        Ok(answer)
    }

    /// Decides on a peer's proposal by this node's policy. The same proposal again gets the same answer.
    pub(crate) async fn answer_proposal(
        &self,
        from: NodeId,
        caller: &impl Fn(Did) -> Caller,
        sealed: Sealed<Agreement>,
    ) -> Result<Sealed<Agreement>, Problem> {
        let signed = sealed.open(now(&self.mesh_id))?;
        let terms = signed.document();
        signed.require(terms.consumer)?;
        self.lineages.check(&signed)?;
        if terms.provider != self.owner || terms.provider_node != self.node_id || terms.consumer_node != from {
            return Err(Problem::new(Code::AgreementScope, "these terms name other parties than the two nodes that talk"));
        }
        if signed.envelope().payload.len() > MAX_PROPOSAL {
            return Err(Problem::new(Code::TooLarge, format!("a proposal takes at most {MAX_PROPOSAL} bytes")));
        }
        if let Some(known) = self.agreements.lookup(&terms.id).await? {
            known.check_departed()?;
            let now = Timestamp::now();
            let same = known.signed().envelope().payload == signed.envelope().payload;
            let in_force = known.status(now) != Status::Closed && known.require_in_force(&self.mesh_id, now).is_ok();
            return if same && in_force {
                Ok(known.signed().into())
            } else {
                Err(Problem::new(Code::AlreadyExists, format!("agreement {} has other terms, or is closed", terms.id)))
            };
        }
        // What is new was signed just now, by whatever key: who has only an older one can't date it back. What is known may be old.
        signed.require_new(Timestamp::now())?;
        self.agreements.admit(from, terms.consumer)?;
        let agent = self.agents.get(&terms.agent).ok_or_else(|| self.agents.missing(&terms.agent.to_string()))?;
        // What is agreed on while the agent leaves would not go along.
        let _stays = agent.stays_here()?;
        let rules = self.rules_for(terms, from);
        let accepted = match self.policy.decide(terms, &agent.outline.pricing, !rules.is_empty(), Timestamp::now()) {
            Decision::Accept => true,
            Decision::Ask => false,
            Decision::Refuse(why) => {
                return Err(Problem::new(Code::AgreementRefused, format!("the provider's policy refuses these terms: {why}")));
            }
        };
        let consumer = terms.consumer;
        let contract = self.keep_proposal(&caller(consumer), signed, &rules, accepted).await?;
        self.lineages.hear(&contract.signed(), &[consumer])?;
        Ok(contract.signed().into())
    }

    /// Signs a proposal that a rule accepts and its budget has room for; leaves it to the operator otherwise.
    async fn keep_proposal(
        &self,
        caller: &Caller,
        signed: Signed<Agreement>,
        rules: &[(Rule, Budget)],
        accepted: bool,
    ) -> Result<Arc<Contract>, Problem> {
        // What has no room isn't signed in the first place.
        let fits = accepted && self.agreements.within(signed.document(), rules, Timestamp::now()).is_ok();
        if fits {
            match self.agreements.keep_within(caller, signed.clone().countersign_by(&self.owner_key).await?, rules).await? {
                Kept::Agreed(contract) => return Ok(contract),
                Kept::Beyond(why) => tracing::info!(agreement = %signed.document().id, why, "a proposal is left to the operator"),
            }
        }
        self.agreements.keep(caller, signed, false).await
    }

    /// Why a proposal wasn't accepted by a rule that is for it: its budget has no room now.
    fn left_open(&self, contract: &Contract) -> Option<String> {
        let (terms, now) = (contract.terms(), Timestamp::now());
        if terms.provider != self.owner || contract.status(now) != Status::Proposed {
            return None;
        }
        let rules = self.rules_for(&terms, terms.consumer_node);
        if rules.is_empty() { None } else { self.agreements.within(&terms, &rules, now).err() }
    }

    /// The operator accepts a proposal that the policy left open, and the consumer is told.
    pub(crate) async fn accept(&self, caller: &Caller, id: &AgreementId) -> Result<AgreementState, Problem> {
        let contract = self.agreements.get(id).await?;
        let terms = contract.terms();
        if terms.provider != self.owner {
            return Err(Problem::new(Code::NotAuthorized, "only the provider accepts a proposal"));
        }
        self.require_at_home(&terms)?;
        contract.check_departed()?;
        let agent = self.agents.get(&terms.agent).ok_or_else(|| self.agents.missing(&terms.agent.to_string()))?;
        let _stays = agent.stays_here()?;
        if contract.status(Timestamp::now()) != Status::Proposed {
            return Err(Problem::new(
                Code::IllegalTransition,
                format!("agreement {id} is {}, not proposed", contract.status(Timestamp::now())),
            ));
        }
        let contract = self.agreements.keep(caller, contract.signed().countersign_by(&self.owner_key).await?, true).await?;
        self.tell_soon(vec![contract.clone()], &caller.request_id);
        self.agreements.show(&contract)
    }

    /// A provider's acceptance of what this node proposed.
    pub(crate) async fn take_acceptance(
        &self,
        from: NodeId,
        caller: &impl Fn(Did) -> Caller,
        sealed: Sealed<Agreement>,
    ) -> Result<(), Problem> {
        let signed = open_active(sealed, now(&self.mesh_id))?;
        let terms = signed.document();
        let proposed = self.agreements.get(&terms.id).await?;
        if !self.speaks_for_provider(from, terms) || proposed.signed().envelope().payload != signed.envelope().payload {
            return Err(Problem::new(Code::AgreementScope, "this is not the acceptance of what was proposed"));
        }
        self.lineages.hear(&signed, &[terms.provider])?;
        let provider = terms.provider;
        if proposed.state().status == Status::Proposed {
            self.agreements.keep(&caller(provider), signed, false).await?;
        }
        Ok(())
    }

    /// What is known of an agreement; a proposal is asked after once more, in case the acceptance was missed.
    pub(crate) async fn show_agreement(&self, caller: &Caller, id: &AgreementId) -> Result<AgreementState, Problem> {
        let mut contract = self.agreements.get(id).await?;
        let terms = contract.terms();
        if terms.consumer == self.owner
            && contract.status(Timestamp::now()) == Status::Proposed
            && let Ok(answer) = self.offer(&caller.request_id, terms.provider_node, &contract.signed()).await
        {
            contract = self.agreements.keep(caller, answer, false).await?;
        }
        let state = AgreementState { left_open: self.left_open(&contract), ..self.agreements.show(&contract)? };
        self.with_receipts(&contract, state).await
    }

    /// An agreement about an agent that moved goes on where the agent is.
    pub(super) fn require_at_home(&self, terms: &Agreement) -> Result<(), Problem> {
        match self.whereabouts.find(&terms.agent.to_string()) {
            Some((id, there)) if terms.provider == self.owner => Err(there.told(&id.to_string())),
            _ => Ok(()),
        }
    }
}

fn unknown_agent(agent: &str) -> Problem {
    Problem::new(Code::AgentNotFound, format!("agent {agent} is known neither here nor to the neighbours"))
        .hint("'mcpctl discover CAPABILITY' finds agents by what they can do")
}
