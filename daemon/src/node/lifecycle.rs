//! What becomes of an agent after it was spawned: stopped and started, moved to another release of its plugin and back.
//!
//! ```text
//! upgrade: load the new release -> its health check, on the state as it is, what it writes dropped -> one commit switches
//! ```
//! The state is the same before and after; a release that fails its check never becomes the agent's.

use std::sync::Arc;

use protocol::{Code, Digest, Problem, api, entry::Action, grant::Grants, manifest::Health};
use tokio::sync::OwnedMutexGuard;

use super::{
    Caller, Node,
    agents::{Agent, Life, Record, not_here},
};

/// Releases that an agent can be taken back to.
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

    /// Moves an agent to another release of its plugin, or changes what it may reach.
    pub(crate) async fn upgrade(&self, caller: &Caller, id_or_name: &str, upgrade: api::Upgrade) -> Result<api::Agent, Problem> {
        let to = upgrade.component;
        let agent = self.agents.find(id_or_name).ok_or_else(|| not_here(id_or_name))?;
        // Compiling takes its time, and calls go on meanwhile.
        let new = self.plugins.get(&to).await?;
        self.plugins.loaded(&to).await?;
        drop(agent);
        let (agent, _gate) = self.hold(id_or_name).await?;
        let outline = &agent.outline;
        let grants = upgrade.grants.unwrap_or_else(|| outline.grants.clone());
        self.plugins.check_grants(&new, &grants)?;
        if outline.component == to {
            return match outline.grants == grants {
                true => Ok(outline.clone()),
                false => self.switch(caller, &agent, &new, outline.previous.clone(), grants).await,
            };
        }
        let old = self.plugins.get(&outline.component).await?;
        if (&old.name, old.publisher) != (&new.name, new.publisher) {
            let detail = format!(
                "agent {} runs {} of {}; {} of {} is another plugin",
                outline.name, old.name, old.publisher, new.name, new.publisher
            );
            return Err(Problem::new(Code::Conflict, detail).hint("spawn an agent of its own for it"));
        }
        self.check_health(&agent, &to).await?;
        let mut previous = outline.previous.clone();
        previous.push(outline.component);
        let surplus = previous.len().saturating_sub(MAX_PREVIOUS);
        previous.drain(..surplus);
        self.switch(caller, &agent, &new, previous, grants).await
    }

    /// Removes a plugin that no agent runs, could go back to, or needs for a snapshot.
    pub(crate) async fn remove_plugin(&self, component: &Digest) -> Result<(), Problem> {
        let uses = |agent: &Arc<Agent>| agent.outline.component == *component || agent.outline.previous.contains(component);
        let agent = self.agents.all().into_iter().find(uses).map(|agent| format!("agent {}", agent.outline.name));
        let in_use = match agent {
            Some(agent) => Some(agent),
            None => self.snapshot_with(component).await?.map(|snapshot| format!("{snapshot}")),
        };
        self.plugins.remove(component, in_use).await
    }

    /// How much an agent's state is.
    pub(crate) async fn held(&self, id_or_name: &str) -> Result<api::StateOutline, Problem> {
        let agent = self.agents.find(id_or_name).ok_or_else(|| not_here(id_or_name))?;
        let held = self.journal.store().held(&*agent.state.read().await).await?;
        Ok(api::StateOutline { keys: held.keys, bytes: held.bytes })
    }

    /// Moves an agent back to the release that it had before.
    pub(crate) async fn rollback(&self, caller: &Caller, id_or_name: &str) -> Result<api::Agent, Problem> {
        let (agent, _gate) = self.hold(id_or_name).await?;
        let mut previous = agent.outline.previous.clone();
        let none = || Problem::new(Code::NotFound, format!("agent {} has had no other release", agent.outline.name));
        let to = previous.pop().ok_or_else(none)?;
        let plugin = self.plugins.get(&to).await?;
        let grants = agent.outline.grants.clone();
        self.plugins.check_grants(&plugin, &grants)?;
        self.plugins.loaded(&to).await?;
        self.check_health(&agent, &to).await?;
        self.switch(caller, &agent, &plugin, previous, grants).await
    }

    /// An agent as it is now, and nobody else changes it or its state until the guard is dropped.
    pub(super) async fn hold(&self, id_or_name: &str) -> Result<(Arc<Agent>, OwnedMutexGuard<Life>), Problem> {
        let gone = || not_here(id_or_name);
        let agent = self.agents.find(id_or_name).ok_or_else(gone)?;
        let gate = Arc::clone(&agent.gate).lock_owned().await;
        // It may have become another release, or ended, while this waited.
        let agent = self.agents.get(&agent.outline.id).ok_or_else(gone)?;
        if *gate == Life::Alive { Ok((agent, gate)) } else { Err(gone()) }
    }

    /// Runs a release's health check as the agent would, and keeps nothing of what it writes. It reaches nothing outside of
    /// itself, which couldn't be taken back.
    async fn check_health(&self, agent: &Arc<Agent>, component: &Digest) -> Result<(), Problem> {
        let Some(Health { method, params }) = self.plugins.health(component).await? else { return Ok(()) };
        let plugin = self.plugins.loaded(component).await?;
        let state = super::view::StoredState::new(Arc::clone(self.journal.store()), Arc::clone(agent));
        let log = self.log_of(agent, &method, "health");
        let call = kernel::Call {
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

    async fn switch(
        &self,
        caller: &Caller,
        agent: &Agent,
        to: &api::Plugin,
        previous: Vec<Digest>,
        grants: Grants,
    ) -> Result<api::Agent, Problem> {
        let from = agent.outline.component;
        let outline = api::Agent {
            plugin: format!("{}@{}", to.name, to.release),
            component: to.component,
            methods: to.methods.iter().map(|method| api::MethodOutline { name: method.name.clone(), effect: method.effect }).collect(),
            previous,
            grants,
            ..agent.outline.clone()
        };
        let action = Action::Upgrade { agent: outline.id, from, to: to.component };
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
