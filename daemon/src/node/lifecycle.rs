//! What becomes of an agent after it was spawned: stopped and started, given other plugins, moved to
//! another release of one and back.
//!
//! ```text
//! upgrade: load the new release -> its health check, on the state as it is, what it writes dropped -> one commit switches
//! ```
//! The state is the same before and after; a release that fails its check never becomes the agent's.

use std::sync::Arc;

use protocol::{Code, Digest, Problem, api, entry::Action, grant::Grants, manifest::Health, snapshot::MAX_PLUGINS};
use tokio::sync::OwnedMutexGuard;

use super::{
    Caller, Node,
    agents::{Agent, Life, Record, attachment},
};

/// Releases that a plugin of an agent can be taken back to.
const MAX_PREVIOUS: usize = 8;

impl Node {
    /// Refuses calls of an agent, or takes them again. The call that writes now is waited for.
    pub(crate) async fn set_stopped(&self, caller: &Caller, id_or_name: &str, stopped: bool) -> Result<api::Agent, Problem> {
        let (agent, _gate) = self.hold(id_or_name).await?;
        if agent.outline.stopped == stopped {
            return Ok(agent.outline.clone());
        }
        let outline = api::Agent { stopped, ..agent.outline.clone() };
        let id = outline.id;
        let action = if stopped { Action::Stop { agent: id } } else { Action::Start { agent: id } };
        self.replace(caller, &agent, outline, action).await
    }

    /// Moves an agent to another release of one of its plugins, or changes what it may reach.
    pub(crate) async fn upgrade(&self, caller: &Caller, id_or_name: &str, upgrade: api::Upgrade) -> Result<api::Agent, Problem> {
        let to = upgrade.component;
        // Compiling takes its time, and calls go on meanwhile.
        let new = self.ready(id_or_name, &to).await?;
        let (agent, _gate) = self.hold(id_or_name).await?;
        let outline = &agent.outline;
        let grants = upgrade.grants.unwrap_or_else(|| outline.grants.clone());
        self.plugins.check_grants(&new, &grants)?;
        if let Some(at) = outline.plugins.iter().position(|plugin| plugin.component == to) {
            return match outline.grants == grants {
                true => Ok(outline.clone()),
                false => self.switch(caller, &agent, at, outline.plugins[at].clone(), grants).await,
            };
        }
        let at = outline.plugins.iter().position(|plugin| plugin.name() == new.name);
        let other = |why: String| Problem::new(Code::Conflict, why).hint("'mcpctl agent attach' gives an agent another plugin");
        let at = at.ok_or_else(|| other(format!("agent {} has no plugin {}", outline.name, new.name)))?;
        let old = &outline.plugins[at];
        let publisher = self.plugins.get(&old.component).await?.publisher;
        if publisher != new.publisher {
            let why = format!("plugin {} of agent {} is {publisher}'s; this one is {}'s", new.name, outline.name, new.publisher);
            return Err(other(why));
        }
        check_methods(outline, Some(at), &new)?;
        self.check_health(&agent, &to).await?;
        let mut previous = old.previous.clone();
        previous.push(old.component);
        let surplus = previous.len().saturating_sub(MAX_PREVIOUS);
        previous.drain(..surplus);
        self.switch(caller, &agent, at, api::Attachment { previous, ..attachment(&new) }, grants).await
    }

    /// Gives an agent another plugin, on the same state.
    pub(crate) async fn attach(&self, caller: &Caller, id_or_name: &str, attach: api::Upgrade) -> Result<api::Agent, Problem> {
        let component = attach.component;
        let new = self.ready(id_or_name, &component).await?;
        let (agent, _gate) = self.hold(id_or_name).await?;
        let mut outline = agent.outline.clone();
        if outline.components().any(|runs| runs == component) {
            return Ok(outline);
        }
        let refused = |why: String, hint: &str| Err(Problem::new(Code::Conflict, why).hint(hint));
        if outline.plugins.iter().any(|plugin| plugin.name() == new.name) {
            let why = format!("agent {} has a plugin {} already", outline.name, new.name);
            return refused(why, "'mcpctl agent upgrade' moves it to another release");
        }
        if outline.plugins.len() >= MAX_PLUGINS {
            return refused(format!("agent {} has {MAX_PLUGINS} plugins, its most", outline.name), "detach one first");
        }
        check_methods(&outline, None, &new)?;
        outline.plugins.push(attachment(&new));
        outline.grants = attach.grants.unwrap_or(outline.grants);
        self.check_reach(&outline).await?;
        self.check_health(&agent, &component).await?;
        let action = Action::Attach { agent: outline.id, component };
        self.replace(caller, &agent, outline, action).await
    }

    /// Takes a plugin from an agent. Its state stays.
    pub(crate) async fn detach(&self, caller: &Caller, id_or_name: &str, plugin: &str) -> Result<api::Agent, Problem> {
        let (agent, _gate) = self.hold(id_or_name).await?;
        let mut outline = agent.outline.clone();
        let at = position(&outline, Some(plugin))?;
        if outline.plugins.len() == 1 {
            let why = format!("{plugin} is the only plugin of agent {}", outline.name);
            return Err(Problem::new(Code::Conflict, why).hint("'mcpctl agent terminate' ends the agent"));
        }
        let component = outline.plugins.remove(at).component;
        let action = Action::Detach { agent: outline.id, component };
        self.replace(caller, &agent, outline, action).await
    }

    /// Ends an agent: its state, and its snapshots, here and at the nodes that hold them.
    pub(crate) async fn terminate(&self, caller: &Caller, id_or_name: &str) -> Result<api::Agent, Problem> {
        let agent = self.agents.terminate(caller, id_or_name).await?;
        self.logs.forget(&agent.id);
        self.publish_soon();
        self.dismiss(agent.id);
        self.end_held(agent.id).await?;
        Ok(agent)
    }

    /// A registered plugin, loaded, for an agent that lives here.
    async fn ready(&self, id_or_name: &str, component: &Digest) -> Result<api::Plugin, Problem> {
        self.agents.find(id_or_name).ok_or_else(|| self.agents.missing(id_or_name))?;
        let plugin = self.plugins.get(component).await?;
        self.plugins.loaded(component).await?;
        Ok(plugin)
    }

    /// Removes a plugin that no agent runs, could go back to, or needs for a snapshot.
    pub(crate) async fn remove_plugin(&self, caller: &Caller, component: &Digest) -> Result<(), Problem> {
        let runs = |plugin: &api::Attachment| plugin.component == *component || plugin.previous.contains(component);
        let uses = |agent: &Arc<Agent>| agent.outline.plugins.iter().any(runs);
        let agent = self.agents.all().into_iter().find(uses).map(|agent| format!("agent {}", agent.outline.name));
        let in_use = match agent {
            Some(agent) => Some(agent),
            None => self.snapshot_with(component).await?.map(|snapshot| format!("{snapshot}")),
        };
        self.plugins.remove(caller, component, in_use).await
    }

    /// How much an agent's state is.
    pub(crate) async fn held(&self, id_or_name: &str) -> Result<api::StateOutline, Problem> {
        let agent = self.agents.find(id_or_name).ok_or_else(|| self.agents.missing(id_or_name))?;
        let held = self.journal.store().held(&*agent.state.read().await).await?;
        Ok(api::StateOutline { keys: held.keys, bytes: held.bytes })
    }

    /// Moves an agent back to the release of a plugin that it had before.
    pub(crate) async fn rollback(&self, caller: &Caller, id_or_name: &str, plugin: Option<&str>) -> Result<api::Agent, Problem> {
        let (agent, _gate) = self.hold(id_or_name).await?;
        let at = position(&agent.outline, plugin)?;
        let mut previous = agent.outline.plugins[at].previous.clone();
        let none = || Problem::new(Code::NotFound, format!("agent {} has had no other release", agent.outline.name));
        let to = previous.pop().ok_or_else(none)?;
        let plugin = self.plugins.get(&to).await?;
        let grants = agent.outline.grants.clone();
        self.plugins.check_grants(&plugin, &grants)?;
        self.plugins.loaded(&to).await?;
        check_methods(&agent.outline, Some(at), &plugin)?;
        self.check_health(&agent, &to).await?;
        self.switch(caller, &agent, at, api::Attachment { previous, ..attachment(&plugin) }, grants).await
    }

    /// An agent as it is now, and nobody else changes it or its state until the guard is dropped.
    pub(super) async fn hold(&self, id_or_name: &str) -> Result<(Arc<Agent>, OwnedMutexGuard<Life>), Problem> {
        let gone = || self.absent(id_or_name);
        let agent = self.agents.find(id_or_name).ok_or_else(gone)?;
        let gate = Arc::clone(&agent.gate).lock_owned().await;
        // It may have become another release, or ended, while this waited.
        let agent = self.agents.get(&agent.outline.id).ok_or_else(gone)?;
        if *gate != Life::Alive {
            return Err(gone());
        }
        agent.require_present()?;
        Ok((agent, gate))
    }

    /// The error for an agent that doesn't live here; if it did once, it says where it went.
    pub(crate) fn absent(&self, id_or_name: &str) -> Problem {
        self.whereabouts.find(id_or_name).map_or_else(|| self.agents.missing(id_or_name), |(_, there)| there.told(id_or_name))
    }

    /// Runs a release's health check as the agent would, and keeps nothing of what it writes. It reaches nothing outside of
    /// itself, which couldn't be taken back.
    async fn check_health(&self, agent: &Arc<Agent>, component: &Digest) -> Result<(), Problem> {
        let Some(Health { method, params }) = self.plugins.health(component).await? else { return Ok(()) };
        let plugin = self.plugins.loaded(component).await?;
        let state = super::view::StoredState::new(Arc::clone(self.journal.store()), Arc::clone(agent));
        let log = self.log_of(agent, &method, "health");
        let call = kernel::Call {
            agent: agent.outline.id,
            method,
            log,
            params: params.to_string(),
            limits: agent.outline.limits,
            state: Box::new(state),
            label: format!("{} health", agent.outline.name),
            outside: Box::new(()),
            depth: 0,
        };
        self.plugins.kernel().call(&plugin, call).await.result.map(drop).map_err(|failure| {
            let problem = Problem::from(failure);
            Problem::new(
                problem.code,
                format!("{component} failed its health check on the state of {}: {}", agent.outline.name, problem.detail),
            )
            .hint("the agent runs what it ran before, on the same state")
        })
    }

    /// Whether every plugin of an agent may reach what it imports, by the agent's grants and this node's policy.
    pub(super) async fn check_reach(&self, agent: &api::Agent) -> Result<(), Problem> {
        for plugin in &agent.plugins {
            self.plugins.check_grants(&self.plugins.get(&plugin.component).await?, &agent.grants)?;
        }
        Ok(())
    }

    async fn switch(&self, caller: &Caller, agent: &Agent, at: usize, to: api::Attachment, grants: Grants) -> Result<api::Agent, Problem> {
        let mut outline = api::Agent { grants, ..agent.outline.clone() };
        let component = to.component;
        let from = std::mem::replace(&mut outline.plugins[at], to).component;
        self.check_reach(&outline).await?;
        let action = Action::Upgrade { agent: outline.id, from, to: component };
        self.replace(caller, agent, outline, action).await
    }

    pub(super) async fn replace(&self, caller: &Caller, agent: &Agent, outline: api::Agent, action: Action) -> Result<api::Agent, Problem> {
        let record = Record::of(agent, outline, *agent.state.read().await);
        let entry = self.journal.append(caller.note(), action);
        let outline = self.agents.replace(agent, record, entry).await?;
        self.publish_soon();
        Ok(outline)
    }
}

/// Which of an agent's plugins is meant.
fn position(agent: &api::Agent, plugin: Option<&str>) -> Result<usize, Problem> {
    let named = || agent.plugins.iter().map(api::Attachment::name).collect::<Vec<_>>().join(", ");
    match plugin {
        None if agent.plugins.len() == 1 => Ok(0),
        None => Err(Problem::new(Code::InvalidRequest, format!("agent {} has several plugins: name one", agent.name)).hint(named())),
        Some(name) => agent.plugins.iter().position(|plugin| plugin.name() == name).ok_or_else(|| {
            let short: String = name.chars().take(80).collect();
            Problem::new(Code::NotFound, format!("agent {} has no plugin {short}", agent.name)).hint(format!("it has {}", named()))
        }),
    }
}

/// Whether a plugin's methods can stand beside those of an agent's others; `instead` of one of them, if it takes its place.
fn check_methods(agent: &api::Agent, instead: Option<usize>, new: &api::Plugin) -> Result<(), Problem> {
    let others = agent.plugins.iter().enumerate().filter(|(at, _)| Some(*at) != instead);
    for (_, other) in others {
        if let Some(twice) = new.methods.iter().find(|method| other.methods.iter().any(|known| known.name == method.name)) {
            let why = format!("plugins {} and {} both have a method {}", other.plugin, new.name, twice.name);
            return Err(Problem::new(Code::Conflict, why).hint("an agent's methods are found by their names alone"));
        }
    }
    Ok(())
}
