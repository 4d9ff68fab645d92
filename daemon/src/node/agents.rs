//! The agents that live on this node. An idle one costs its record and nothing else.

use std::{collections::BTreeMap, sync::Arc};

use parking_lot::RwLock;
use protocol::{AgentId, Code, Did, NodeId, Problem, Timestamp, agreement::Pricing, api, claim::IdSalt, entry::Action, manifest::is_name};
use serde::{Deserialize, Serialize};
use store::{Append, Commit, DamagedRow, Kind, RecordWrite, SoundRecords};
use tokio::sync::{OwnedRwLockReadGuard, Semaphore};

use super::{
    Caller,
    journal::{self, Journal, Note},
    moving::Moving,
    plugins::Plugins,
};

/// Agents on one node; each takes about 2 KB of memory.
const MAX_AGENTS: usize = 10_000;
/// Calls of one agent that may wait for others of it.
const MAX_WAITING: usize = 1024;
/// Calls of one agent that may run at a time, whatever its limit says.
const MAX_RUNNING: usize = 1024;

/// One agent.
#[derive(Debug)]
pub(crate) struct Agent {
    /// What the API shows of it.
    pub(crate) outline: api::Agent,
    /// Held by whoever may change its state: mutating calls, a recovery, and its end.
    pub(crate) gate: Arc<tokio::sync::Mutex<Life>>,
    /// Room for its calls.
    pub(crate) room: Arc<Room>,
    /// Held to read by every call from its beginning to its commit, to write by whoever moves the agent.
    pub(crate) presence: Arc<tokio::sync::RwLock<Presence>>,
    /// A move whose outcome isn't known.
    pub(crate) moving: Option<Moving>,
    /// Under which id its state is stored. Held to read while a view is opened, to write while it becomes another.
    pub(crate) state: Arc<tokio::sync::RwLock<AgentId>>,
}

/// What the store keeps of an agent.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Record {
    #[serde(flatten)]
    pub(crate) outline: api::Agent,
    /// Where its state is, if a recovery has moved it.
    #[serde(default, rename = "state_id", skip_serializing_if = "Option::is_none")]
    pub(crate) state: Option<AgentId>,
    /// A move that was decided.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) moving: Option<Moving>,
}

impl Record {
    /// From the store. Before agents could have several plugins, a record was that of the only one.
    fn read(bytes: &[u8]) -> Result<Self, Problem> {
        let mut value: serde_json::Value = journal::decode("agent", bytes)?;
        if let Some(record) = value.as_object_mut().filter(|record| !record.contains_key("plugins")) {
            let parts = ["plugin", "component", "methods", "previous"];
            let only: serde_json::Map<_, _> = parts.iter().filter_map(|part| record.remove_entry(*part)).collect();
            record.insert("plugins".into(), vec![only].into());
        }
        serde_json::from_value(value).map_err(|error| Problem::new(Code::StoreFailed, format!("the stored agent can't be read: {error}")))
    }

    /// The record of an agent that becomes `outline`, with its state stored under `state`.
    pub(crate) fn of(agent: &Agent, outline: api::Agent, state: AgentId) -> Self {
        Self { state: (state != agent.outline.id).then_some(state), outline, moving: None }
    }
}

/// Whether the agent is still there for those who waited at its gate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Life {
    Alive,
    Terminated,
}

/// Whether the agent is here, for those who want to call it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Presence {
    Here,
    /// Whether it is here or there isn't known yet.
    Moving(NodeId),
    Gone,
}

/// How many calls of one agent may be about, and how many of them run.
#[derive(Debug)]
pub(crate) struct Room {
    /// Taken on coming in: who finds none is sent away at once.
    pub(crate) waiting: Arc<Semaphore>,
    /// Taken for as long as the call runs.
    pub(crate) running: Arc<Semaphore>,
}

impl Room {
    fn of(limits: &api::Limits) -> Self {
        let running = usize::try_from(limits.concurrency).unwrap_or(MAX_RUNNING).clamp(1, MAX_RUNNING);
        Self { waiting: Arc::new(Semaphore::new(running + MAX_WAITING)), running: Arc::new(Semaphore::new(running)) }
    }
}

impl Agent {
    fn new(Record { outline, state, moving }: Record) -> Arc<Self> {
        let state = Arc::new(tokio::sync::RwLock::new(state.unwrap_or(outline.id)));
        let room = Arc::new(Room::of(&outline.limits));
        let presence = moving.map_or(Presence::Here, |moving| Presence::Moving(moving.to));
        let (gate, presence) = (Arc::new(tokio::sync::Mutex::new(Life::Alive)), Arc::new(tokio::sync::RwLock::new(presence)));
        Arc::new(Self { outline, gate, room, presence, moving, state })
    }

    /// Refuses what can't be done to an agent that is leaving.
    pub(crate) fn require_present(&self) -> Result<(), Problem> {
        self.stays_here().map(drop)
    }

    /// Keeps an agent from leaving until the guard is dropped; refuses if it is leaving.
    pub(crate) fn stays_here(&self) -> Result<OwnedRwLockReadGuard<Presence>, Problem> {
        let presence = Arc::clone(&self.presence).try_read_owned();
        match presence.as_deref() {
            Ok(Presence::Here) => Ok(presence.expect("it was taken to read")),
            Ok(Presence::Gone) => Err(not_here(&self.outline.name)),
            Ok(Presence::Moving(_)) | Err(_) => {
                Err(Problem::new(Code::AgentMoving, format!("agent {} is moving to another node", self.outline.name)))
            }
        }
    }

    /// The same agent with another record.
    fn with(&self, outline: api::Agent, moving: Option<Moving>) -> Self {
        let (gate, room) = (Arc::clone(&self.gate), Arc::clone(&self.room));
        Self { outline, gate, room, presence: Arc::clone(&self.presence), moving, state: Arc::clone(&self.state) }
    }
}

/// All agents of this node.
#[derive(Debug)]
pub(crate) struct Agents {
    journal: Journal,
    owner: Did,
    /// What holds for an agent of which nothing else is said.
    pricing: Pricing,
    limits: api::Limits,
    /// By id; names are few enough to look through once a spawn, and are resolved by `names` on each call.
    by_id: RwLock<BTreeMap<AgentId, Arc<Agent>>>,
    names: RwLock<BTreeMap<String, AgentId>>,
    /// Those whose records are damaged: they are neither here nor gone.
    damaged: Vec<DamagedRow>,
    /// One spawn at a time, so that two of one name can't both pass the check.
    spawning: tokio::sync::Mutex<()>,
}

impl Agents {
    /// Restores the agents of an earlier run. Their plugins are loaded with their first call.
    pub(crate) async fn open(journal: Journal, owner: Did, (pricing, limits): (Pricing, api::Limits)) -> Result<Self, Problem> {
        let SoundRecords { records, damaged } = journal::sound_records(journal.store().as_ref(), Kind::Agent).await?;
        let agents = Self {
            journal,
            owner,
            pricing,
            limits,
            by_id: RwLock::default(),
            names: RwLock::default(),
            damaged,
            spawning: tokio::sync::Mutex::default(),
        };
        for (_, bytes) in records {
            agents.insert(Agent::new(Record::read(&bytes)?));
        }
        Ok(agents)
    }

    fn insert(&self, agent: Arc<Agent>) {
        self.names.write().insert(agent.outline.name.clone(), agent.outline.id);
        self.by_id.write().insert(agent.outline.id, agent);
    }

    /// The agent of this id or name, if it lives here.
    pub(crate) fn find(&self, id_or_name: &str) -> Option<Arc<Agent>> {
        let id = id_or_name.parse().ok().or_else(|| self.names.read().get(id_or_name).copied())?;
        self.get(&id)
    }

    /// The agent of this id, if it lives here.
    pub(crate) fn get(&self, id: &AgentId) -> Option<Arc<Agent>> {
        self.by_id.read().get(id).cloned()
    }

    /// Why there is no agent of this id or name: it doesn't live here, or its record is damaged. By its name it may be any of
    /// those whose records are.
    pub(crate) fn missing(&self, id_or_name: &str) -> Problem {
        let named = id_or_name.parse::<AgentId>().is_err();
        let damaged = self.damaged.iter().find(|row| named || row.record_id().is_none_or(|id| id == id_or_name));
        damaged.map_or_else(|| not_here(id_or_name), |row| store::Error::DamagedRow(row.clone()).into())
    }

    /// Refuses to look elsewhere for an agent that is here, but for its record.
    pub(crate) fn require_sound(&self, id_or_name: &str) -> Result<(), Problem> {
        let problem = self.missing(id_or_name);
        if self.damaged.is_empty() || problem.code == Code::AgentNotFound { Ok(()) } else { Err(problem) }
    }

    /// Every agent, by id.
    pub(crate) fn all(&self) -> Vec<Arc<Agent>> {
        self.by_id.read().values().cloned().collect()
    }

    /// Every agent that takes calls, by id.
    pub(crate) fn running(&self) -> Vec<Arc<Agent>> {
        self.by_id.read().values().filter(|agent| !agent.outline.stopped && agent.moving.is_none()).cloned().collect()
    }

    /// How many there are.
    pub(crate) fn count(&self) -> usize {
        self.by_id.read().len()
    }

    /// Makes an agent of a registered component.
    pub(crate) async fn spawn(&self, caller: &Caller, spawn: api::Spawn, plugins: &Plugins) -> Result<api::Agent, Problem> {
        if !is_name(&spawn.name) {
            return Err(Problem::new(Code::InvalidRequest, format!("{:?} is not an agent's name", spawn.name))
                .hint("1 to 32 of a-z, 0-9, '-' and '_', beginning with a letter"));
        }
        let mut pricing = spawn.pricing.unwrap_or_else(|| self.pricing.clone());
        // How far limits may be passed is the node's to say.
        pricing.overage_percent = pricing.overage_percent.or(self.pricing.overage_percent);
        pricing.check().map_err(|why| Problem::new(Code::InvalidRequest, why))?;
        if pricing.currency.len() > 16 {
            return Err(Problem::new(Code::InvalidRequest, "a currency's label has at most 16 bytes"));
        }
        // Loading proves that the publisher is trusted and the component runs.
        plugins.loaded(&spawn.component).await?;
        let plugin = plugins.get(&spawn.component).await?;
        plugins.check_grants(&plugin, &spawn.grants)?;

        let (salt, created_at) = (IdSalt::random()?, Timestamp::now());
        let outline = api::Agent {
            id: salt.agent(self.owner, created_at),
            name: spawn.name,
            owner: self.owner,
            plugins: vec![attachment(&plugin)],
            pricing,
            limits: spawn.limits.unwrap_or_default().or(self.limits),
            grants: spawn.grants,
            created_at,
            stopped: false,
            schedule: None,
            replicas: 0,
            epoch: 0,
            salt: Some(salt),
        };

        let entry = self.journal.append(caller.note(), Action::Spawn { agent: outline.id, component: spawn.component });
        self.admit(Record { outline, state: None, moving: None }, Commit { entry: Some(entry), ..Commit::default() }).await
    }

    /// Whether a new agent may be called so.
    pub(crate) fn check_free(&self, name: &str) -> Result<(), Problem> {
        if self.names.read().contains_key(name) {
            return Err(Problem::new(Code::AlreadyExists, format!("an agent named {name} lives here already")));
        }
        if self.count() >= MAX_AGENTS {
            return Err(Problem::new(Code::Overloaded, format!("this node has {MAX_AGENTS} agents, its most")));
        }
        Ok(())
    }

    /// Commits a new agent with its trace entry and whatever else is in `along`; from then on it lives here.
    pub(crate) async fn admit(&self, record: Record, mut along: Commit) -> Result<api::Agent, Problem> {
        let _one_at_a_time = self.spawning.lock().await;
        self.check_free(&record.outline.name)?;
        let outline = record.outline.clone();
        let write = RecordWrite { kind: Kind::Agent, id: outline.id.to_string(), value: Some(journal::encode(&record)) };
        along.records.push(write);
        self.journal.keep(along).await?;
        self.insert(Agent::new(record));
        Ok(outline)
    }

    /// Commits what an agent becomes; whoever looks for it finds that from now on. Its gate is held, and stays the same.
    pub(crate) async fn replace(&self, agent: &Agent, record: Record, entry: Append) -> Result<api::Agent, Problem> {
        let write = RecordWrite { kind: Kind::Agent, id: record.outline.id.to_string(), value: Some(journal::encode(&record)) };
        self.journal.keep(Commit { records: vec![write], entry: Some(entry), ..Commit::default() }).await?;
        let outline = record.outline;
        self.insert(Arc::new(agent.with(outline.clone(), None)));
        Ok(outline)
    }

    /// Whoever looks for an agent finds what this record says from now on; it is durable already.
    pub(crate) fn put(&self, agent: &Agent, record: Record) {
        self.insert(Arc::new(agent.with(record.outline, record.moving)));
    }

    /// The agent lives here no longer; its record is gone already.
    pub(crate) fn forget(&self, agent: &Agent) {
        self.by_id.write().remove(&agent.outline.id);
        self.names.write().remove(&agent.outline.name);
    }

    /// Ends an agent and deletes its state. Waits for the mutating call under way.
    pub(crate) async fn terminate(&self, caller: &Caller, id_or_name: &str) -> Result<api::Agent, Problem> {
        let agent = self.find(id_or_name).ok_or_else(|| self.missing(id_or_name))?;
        let mut life = agent.gate.lock().await;
        if *life == Life::Terminated {
            return Err(not_here(id_or_name));
        }
        agent.require_present()?;
        let id = agent.outline.id;
        let record = RecordWrite { kind: Kind::Agent, id: id.to_string(), value: None };
        let entry = self.journal.append(caller.note(), Action::Terminate { agent: id });
        let state = *agent.state.read().await;
        self.journal.keep(Commit { records: vec![record], clear_state: Some(state), entry: Some(entry), ..Commit::default() }).await?;
        *life = Life::Terminated;
        self.forget(&agent);
        Ok(agent.outline.clone())
    }
}

/// A registered plugin as an agent's.
pub(crate) fn attachment(plugin: &api::Plugin) -> api::Attachment {
    api::Attachment {
        plugin: format!("{}@{}", plugin.name, plugin.release),
        component: plugin.component,
        methods: plugin.methods.iter().map(|method| api::MethodOutline { name: method.name.clone(), effect: method.effect }).collect(),
        previous: Vec::new(),
    }
}

/// The error for an agent that doesn't live on this node.
pub(crate) fn not_here(id_or_name: &str) -> Problem {
    let short: String = id_or_name.chars().take(80).collect();
    Problem::new(Code::AgentNotFound, format!("no agent {short} lives on this node"))
        .hint("'mcpctl agent list' names those that do; 'mcpctl discover CAPABILITY' finds others")
}

impl Caller {
    /// A note of an operation by this caller.
    pub(crate) fn note(&self) -> Note<'_> {
        Note::plain(self.principal, &self.request_id)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn records_of_one_plugin_are_read_still() {
        let (owner, component) = (protocol::Key::generate().did(), protocol::Digest::blake3(b"component"));
        let methods = json!([{ "name": "count", "effect": "mutating" }]);
        let old = json!({ "id": AgentId::new(), "name": "a", "owner": owner, "plugin": "demo@0.1.0", "component": component,
            "methods": methods, "pricing": Pricing::free(), "limits": { "memory": 1 }, "created_at": Timestamp::now() });
        let record = Record::read(&journal::encode(&old)).expect("read");
        assert_eq!(record.outline.plugin_of("count").map(|plugin| (plugin.name(), plugin.component)), Some(("demo", component)));
        assert_eq!(record.outline.limits.memory, 1);
        let again = Record::read(&journal::encode(&record)).expect("its own");
        assert_eq!((again.outline.plugins.len(), again.outline.id), (1, record.outline.id));
    }
}
