//! The templates that this node knows, and whose proposals within one its operator accepts beforehand.

use std::collections::BTreeMap;

use agreement::{policy::Acceptance, template};
use parking_lot::RwLock;
use protocol::{
    Code, Digest, NodeId, Problem, Timestamp,
    agreement::Agreement,
    api::{AutoAccept, Budget, BudgetChange, KnownTemplate, PolicyState, Whose},
    entry::Action,
    template::Template,
};
use store::{Append, Commit, Kind, RecordWrite};

use super::{
    Caller, Node,
    agreements::Rule,
    journal::{self, Journal},
};

/// Templates that an operator may bring; each takes some kilobytes of memory.
const MAX_OWN: usize = 256;
/// Rules of acceptance.
const MAX_RULES: usize = 1_000;

/// What terms are made of, and held against.
#[derive(Debug)]
pub(crate) struct Templates {
    journal: Journal,
    own: RwLock<BTreeMap<String, Template>>,
    /// What is accepted beforehand, with a budget of its own if there is one.
    rules: RwLock<BTreeMap<(String, Whose), Option<Budget>>>,
    /// One change at a time, so that what is in memory is what was committed last.
    changing: tokio::sync::Mutex<()>,
}

impl Templates {
    /// Restores what the operator brought and decided in an earlier run.
    pub(crate) async fn open(journal: Journal) -> Result<Self, Problem> {
        let store = journal.store().as_ref();
        let own = journal::all_records(store, Kind::Template).await?.into_iter();
        let own = own.map(|(name, bytes)| Ok((name, journal::decode("template", &bytes)?))).collect::<Result<_, Problem>>()?;
        let rules = journal::all_records(store, Kind::AutoAccept).await?.into_iter();
        let rule = |(_, bytes): (String, Vec<u8>)| {
            let AutoAccept { template, whose, budget, .. } = journal::decode("rule of acceptance", &bytes)?;
            Ok(((template, whose), budget))
        };
        let rules = rules.map(rule).collect::<Result<_, Problem>>()?;
        Ok(Self { own: RwLock::new(own), rules: RwLock::new(rules), changing: tokio::sync::Mutex::default(), journal })
    }

    /// Every template: those that come along, then the operator's own.
    pub(crate) fn all(&self) -> Vec<KnownTemplate> {
        let shipped = template::templates().iter().map(|template| KnownTemplate { template: template.clone(), shipped: true });
        let own = self.own.read().values().map(|template| KnownTemplate { template: template.clone(), shipped: false }).collect::<Vec<_>>();
        shipped.chain(own).collect()
    }

    /// The template of this name.
    pub(crate) fn get(&self, name: &str) -> Result<KnownTemplate, Problem> {
        let own = self.own.read();
        let found = template::find(name, template::templates().iter().chain(own.values()))?;
        Ok(KnownTemplate { template: found.clone(), shipped: is_shipped(name) })
    }

    /// Keeps a template of the operator's, in place of one of that name.
    pub(crate) async fn add(&self, caller: &Caller, template: Template) -> Result<KnownTemplate, Problem> {
        template::check(&template)?;
        let name = template.name.clone();
        let _one_at_a_time = self.changing.lock().await;
        if is_shipped(&name) {
            return Err(Problem::new(Code::AlreadyExists, format!("template {name} comes with the program and stays as it is"))
                .hint("give yours another name"));
        }
        {
            let own = self.own.read();
            if own.get(&name) == Some(&template) {
                return Ok(KnownTemplate { template, shipped: false });
            }
            if !own.contains_key(&name) && own.len() >= MAX_OWN {
                return Err(Problem::new(Code::Overloaded, format!("this node keeps {MAX_OWN} templates of its own, its most"))
                    .hint("take one away: 'mcpctl agreement templates remove NAME'"));
            }
        }
        let bytes = journal::encode(&template);
        let action = Action::Template { template: name.clone(), digest: Some(Digest::sha256(&bytes)) };
        let entry = self.journal.append(caller.note(), action);
        self.keep(Kind::Template, name.clone(), Some(bytes), entry).await?;
        self.own.write().insert(name, template.clone());
        Ok(KnownTemplate { template, shipped: false })
    }

    /// Takes a template of the operator's away. Agreements that came from it stay as they are.
    pub(crate) async fn remove(&self, caller: &Caller, name: &str) -> Result<(), Problem> {
        let _one_at_a_time = self.changing.lock().await;
        if is_shipped(name) {
            return Err(Problem::new(Code::Conflict, format!("template {name} comes with the program and stays")));
        }
        if !self.own.read().contains_key(name) {
            return self.get(name).map(drop);
        }
        if self.rules.read().keys().any(|(template, _)| template == name) {
            return Err(Problem::new(Code::Conflict, format!("proposals within template {name} are accepted beforehand"))
                .hint(format!("take that back first: 'mcpctl agreement policy unset --auto-accept {name} --for …'")));
        }
        let action = Action::Template { template: name.into(), digest: None };
        let entry = self.journal.append(caller.note(), action);
        self.keep(Kind::Template, name.into(), None, entry).await?;
        self.own.write().remove(name);
        Ok(())
    }

    /// Accepts proposals beforehand from now on, within a budget that is made of the rule's own, or else of `usual`.
    pub(crate) async fn accept_beforehand(
        &self,
        caller: &Caller,
        (template, whose): (String, Whose),
        change: BudgetChange,
        usual: Budget,
    ) -> Result<(), Problem> {
        let _one_at_a_time = self.changing.lock().await;
        let before = self.rules.read().get(&(template.clone(), whose)).copied();
        if before.is_none() {
            if self.rules.read().len() >= MAX_RULES {
                return Err(Problem::new(Code::Overloaded, format!("this node keeps {MAX_RULES} rules of acceptance, its most")));
            }
            self.get(&template)?;
        }
        // A rule without a budget of its own follows the configuration.
        let own = before.flatten();
        let budget = if change == BudgetChange::default() { own } else { Some(change.on(own.unwrap_or(usual))) };
        if before == Some(budget) {
            return Ok(());
        }
        let rule = AutoAccept { template: template.clone(), whose, budget, used: None };
        let action = Action::AutoAccept { template: template.clone(), whose, accepted: true, budget };
        let entry = self.journal.append(caller.note(), action);
        self.keep(Kind::AutoAccept, format!("{template}/{whose}"), Some(journal::encode(&rule)), entry).await?;
        self.rules.write().insert((template, whose), budget);
        Ok(())
    }

    /// Accepts such proposals beforehand no longer.
    pub(crate) async fn ask_again(&self, caller: &Caller, template: String, whose: Whose) -> Result<(), Problem> {
        let _one_at_a_time = self.changing.lock().await;
        if !self.rules.read().contains_key(&(template.clone(), whose)) {
            return Err(Problem::new(Code::NotFound, format!("proposals of {whose} within {template} aren't accepted beforehand")));
        }
        let id = format!("{template}/{whose}");
        let action = Action::AutoAccept { template: template.clone(), whose, accepted: false, budget: None };
        let entry = self.journal.append(caller.note(), action);
        self.keep(Kind::AutoAccept, id, None, entry).await?;
        self.rules.write().remove(&(template, whose));
        Ok(())
    }

    async fn keep(&self, kind: Kind, id: String, value: Option<Vec<u8>>, entry: Append) -> Result<(), Problem> {
        let record = RecordWrite { kind, id, value };
        self.journal.keep(Commit { records: vec![record], entry: Some(entry), ..Commit::default() }).await.map(drop)
    }

    fn rules_for(&self, template: &str) -> Vec<(Whose, Option<Budget>)> {
        let rules = self.rules.read();
        rules.iter().filter(|((of, _), _)| of == template).map(|((_, whose), budget)| (*whose, *budget)).collect()
    }
}

impl Node {
    /// The rules by which terms like these, which came from `from`, need no operator, each with its budget.
    pub(crate) fn rules_for(&self, terms: &Agreement, from: NodeId) -> Vec<(Rule, Budget)> {
        let auto = (self.policy.accept == Acceptance::Auto).then_some((Rule::Auto, self.budget));
        self.beforehand(terms, from).into_iter().chain(auto).collect()
    }

    fn beforehand(&self, terms: &Agreement, from: NodeId) -> Vec<(Rule, Budget)> {
        let theirs = |(whose, _): &(Whose, Option<Budget>)| match whose {
            Whose::Members => self.owner_of(from) == Some(terms.consumer),
            Whose::Principal(did) => *did == terms.consumer,
        };
        let mut rules = self.templates.rules_for(&terms.template);
        rules.retain(theirs);
        if rules.is_empty() {
            return Vec::new();
        }
        match self.templates.get(&terms.template).map(|known| template::conform(terms, &known.template)) {
            Ok(Ok(())) => {}
            Ok(Err(why)) => {
                tracing::info!(agreement = %terms.id, template = terms.template, why, "a proposal passes its template: the operator decides");
                return Vec::new();
            }
            Err(_) => return Vec::new(),
        }
        let rule = |(whose, budget): (Whose, Option<Budget>)| {
            (Rule::Beforehand { template: terms.template.clone(), whose }, budget.unwrap_or(self.budget))
        };
        rules.into_iter().map(rule).collect()
    }

    /// The budget of a rule as it is now; of one that was taken back, as the configuration says.
    pub(super) fn budget_of(&self, rule: &Rule) -> Budget {
        let own = match rule {
            Rule::Auto => None,
            Rule::Beforehand { template, whose } => self.templates.rules.read().get(&(template.clone(), *whose)).copied().flatten(),
        };
        own.unwrap_or(self.budget)
    }

    /// What this node accepts, as a provider, and how much of it by now.
    pub(crate) fn policy_state(&self) -> PolicyState {
        let now = Timestamp::now();
        let rules: Vec<_> = self.templates.rules.read().iter().map(|(rule, budget)| (rule.clone(), *budget)).collect();
        let state = |((template, whose), budget): ((String, Whose), Option<Budget>)| {
            let rule = Rule::Beforehand { template: template.clone(), whose };
            let used = Some(self.agreements.spent(&rule, None, now));
            AutoAccept { template, whose, budget: Some(budget.unwrap_or(self.budget)), used }
        };
        PolicyState {
            accept: self.policy.accept.as_str().into(),
            max_days: self.policy.max_days,
            allow_overage: self.policy.allow_overage,
            min_seconds: self.policy.min_seconds,
            budget: self.budget,
            used: self.agreements.spent(&Rule::Auto, None, now),
            auto_accept: rules.into_iter().map(state).collect(),
        }
    }

    /// Accepts proposals beforehand.
    pub(crate) async fn accept_beforehand(
        &self,
        caller: &Caller,
        template: String,
        whose: Whose,
        change: BudgetChange,
    ) -> Result<(), Problem> {
        if self.policy.accept == Acceptance::Deny {
            return Err(Problem::new(Code::Conflict, "this node provides to nobody: agreements.accept is \"deny\"")
                .hint("set it to \"manual\" in the configuration, and start the node again"));
        }
        if whose == Whose::Members && self.membership.as_ref().is_none_or(|membership| membership.is_open()) {
            return Err(Problem::new(Code::Conflict, "this node is in no private mesh: 'members' would be nobody, or anybody")
                .hint("name a principal: '--for did:key:…'"));
        }
        self.templates.accept_beforehand(caller, (template, whose), change, self.budget).await
    }
}

fn is_shipped(name: &str) -> bool {
    template::templates().iter().any(|template| template.name == name)
}
