//! The templates that this node knows, and whose proposals within one its operator accepts beforehand.

use std::collections::{BTreeMap, BTreeSet};

use agreement::{policy::Acceptance, template};
use parking_lot::RwLock;
use protocol::{
    Code, Digest, NodeId, Problem,
    agreement::Agreement,
    api::{AutoAccept, KnownTemplate, PolicyState, Whose},
    entry::Action,
    template::Template,
};
use store::{Append, Commit, Kind, RecordWrite};

use super::{
    Caller, Node,
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
    rules: RwLock<BTreeSet<AutoAccept>>,
    /// One change at a time, so that what is in memory is what was committed last.
    changing: tokio::sync::Mutex<()>,
}

impl Templates {
    /// Restores what the operator brought and decided in an earlier run.
    pub(crate) async fn open(journal: Journal) -> Result<Self, Problem> {
        let store = journal.store().as_ref();
        let own = journal::sound_records(store, Kind::Template).await?.records.into_iter();
        let own = own.map(|(name, bytes)| Ok((name, journal::decode("template", &bytes)?))).collect::<Result<_, Problem>>()?;
        let rules = journal::sound_records(store, Kind::AutoAccept).await?.records.into_iter();
        let rules = rules.map(|(_, bytes)| journal::decode("rule of acceptance", &bytes)).collect::<Result<_, Problem>>()?;
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
        if self.rules.read().iter().any(|rule| rule.template == name) {
            return Err(Problem::new(Code::Conflict, format!("proposals within template {name} are accepted beforehand"))
                .hint(format!("take that back first: 'mcpctl agreement policy unset --auto-accept {name} --for …'")));
        }
        let action = Action::Template { template: name.into(), digest: None };
        let entry = self.journal.append(caller.note(), action);
        self.keep(Kind::Template, name.into(), None, entry).await?;
        self.own.write().remove(name);
        Ok(())
    }

    /// Accepts proposals beforehand from now on, or no longer.
    pub(crate) async fn accept_beforehand(&self, caller: &Caller, rule: AutoAccept, accepted: bool) -> Result<(), Problem> {
        let _one_at_a_time = self.changing.lock().await;
        let known = self.rules.read().contains(&rule);
        let AutoAccept { template, whose } = rule.clone();
        match (accepted, known) {
            (true, true) => return Ok(()),
            (true, false) if self.rules.read().len() >= MAX_RULES => {
                return Err(Problem::new(Code::Overloaded, format!("this node keeps {MAX_RULES} rules of acceptance, its most")));
            }
            (true, false) => drop(self.get(&template)?),
            (false, true) => {}
            (false, false) => {
                return Err(Problem::new(Code::NotFound, format!("proposals of {whose} within {template} aren't accepted beforehand")));
            }
        }
        let (id, value) = (format!("{template}/{whose}"), accepted.then(|| journal::encode(&rule)));
        let entry = self.journal.append(caller.note(), Action::AutoAccept { template, whose, accepted });
        self.keep(Kind::AutoAccept, id, value, entry).await?;
        let mut rules = self.rules.write();
        if accepted {
            rules.insert(rule)
        } else {
            rules.remove(&rule)
        };
        Ok(())
    }

    async fn keep(&self, kind: Kind, id: String, value: Option<Vec<u8>>, entry: Append) -> Result<(), Problem> {
        let record = RecordWrite { kind, id, value };
        self.journal.keep(Commit { records: vec![record], entry: Some(entry), ..Commit::default() }).await.map(drop)
    }

    fn rules_for(&self, template: &str) -> Vec<Whose> {
        self.rules.read().iter().filter(|rule| rule.template == template).map(|rule| rule.whose).collect()
    }
}

impl Node {
    /// Whether the operator has accepted terms like these, which came from `from`, beforehand.
    pub(crate) fn accepts_beforehand(&self, terms: &Agreement, from: NodeId) -> bool {
        let theirs = |whose: &Whose| match whose {
            Whose::Members => self.owner_of(from) == Some(terms.consumer),
            Whose::Principal(did) => *did == terms.consumer,
        };
        if !self.templates.rules_for(&terms.template).iter().any(theirs) {
            return false;
        }
        match self.templates.get(&terms.template).map(|known| template::conform(terms, &known.template)) {
            Ok(Ok(())) => true,
            Ok(Err(why)) => {
                tracing::info!(agreement = %terms.id, template = terms.template, why, "a proposal passes its template: the operator decides");
                false
            }
            Err(_) => false,
        }
    }

    /// What this node accepts, as a provider.
    pub(crate) fn policy_state(&self) -> PolicyState {
        PolicyState {
            accept: self.policy.accept.as_str().into(),
            max_days: self.policy.max_days,
            allow_overage: self.policy.allow_overage,
            auto_accept: self.templates.rules.read().iter().cloned().collect(),
        }
    }

    /// Accepts proposals beforehand.
    pub(crate) async fn accept_beforehand(&self, caller: &Caller, rule: AutoAccept) -> Result<(), Problem> {
        if self.policy.accept == Acceptance::Deny {
            return Err(Problem::new(Code::Conflict, "this node provides to nobody: agreements.accept is \"deny\"")
                .hint("set it to \"manual\" in the configuration, and start the node again"));
        }
        if rule.whose == Whose::Members && self.membership.as_ref().is_none_or(|membership| membership.is_open()) {
            return Err(Problem::new(Code::Conflict, "this node is in no private mesh: 'members' would be nobody, or anybody")
                .hint("name a principal: '--for did:key:…'"));
        }
        self.templates.accept_beforehand(caller, rule, true).await
    }
}

fn is_shipped(name: &str) -> bool {
    template::templates().iter().any(|template| template.name == name)
}
