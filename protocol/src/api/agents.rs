//! The API's agents: spawning, calling, keeping and moving them.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::{
    Timestamp,
    advert::Effect,
    agreement::Pricing,
    claim::IdSalt,
    credential::Zone,
    digest::Digest,
    document::Sealed,
    grant::Grants,
    id::{AgentId, AgreementId, OperationId, SnapshotId},
    key::{Did, NodeId},
    manifest::Manifest,
    receipt::Receipt,
    snapshot::Snapshot,
    usage::Usage,
};

/// `POST /v1/agents`
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Spawn {
    /// Its name: unique on the node.
    pub name: String,
    /// The registered component.
    pub component: Digest,
    /// What calls cost those who aren't the owner; the node's default if none.
    #[serde(default)]
    pub pricing: Option<Pricing>,
    /// The most that it may use; the node's defaults for what isn't given.
    #[serde(default)]
    pub limits: Option<GivenLimits>,
    /// What it may reach outside of itself; nothing if not given.
    #[serde(default)]
    pub grants: Grants,
}

/// What an agent may use: each of its calls, and in all. What an older record doesn't name has its default.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Bytes of linear memory, over all memories of the instance.
    pub memory: u64,
    /// Fuel.
    pub fuel: u64,
    /// Wall time in milliseconds.
    pub wall_ms: u64,
    /// Bytes written to state by one call.
    pub state_bytes: u64,
    /// Bytes of the result.
    pub result_bytes: u64,
    /// Bytes that leave the node with one call: of its result, and of what it sends elsewhere.
    pub egress_bytes: u64,
    /// Calls of the agent that run at a time; the others wait their turn.
    pub concurrency: u64,
    /// Bytes that the agent's state may have, keys and values.
    pub quota_bytes: u64,
    /// Keys that the agent's state may have.
    pub quota_keys: u64,
}

impl Default for Limits {
    /// What an honest plugin stays far below: 64 MiB, 10 G instructions, 10 s, 16 MiB written, 16 MiB answered, as
    /// much sent in all, 32 calls at a time, 4 GiB and 10 million keys of state.
    fn default() -> Self {
        Self {
            memory: 64 << 20,
            fuel: 10_000_000_000,
            wall_ms: 10_000,
            state_bytes: 16 << 20,
            result_bytes: crate::wire::MAX_RESULT as u64,
            egress_bytes: 16 << 20,
            concurrency: 32,
            quota_bytes: 4 << 30,
            quota_keys: 10_000_000,
        }
    }
}

/// Limits of which each may be left to the node, whose defaults are settings (`kernel.limits`)
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GivenLimits {
    /// Bytes of linear memory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<u64>,
    /// Fuel.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fuel: Option<u64>,
    /// Wall time in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wall_ms: Option<u64>,
    /// Bytes written to state by one call.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state_bytes: Option<u64>,
    /// Bytes of the result.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub result_bytes: Option<u64>,
    /// Bytes that leave the node with one call.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub egress_bytes: Option<u64>,
    /// Calls that run at a time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub concurrency: Option<u64>,
    /// Bytes of state.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub quota_bytes: Option<u64>,
    /// Keys of state.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub quota_keys: Option<u64>,
}

impl GivenLimits {
    /// What isn't given is as `defaults` say.
    pub fn or(self, defaults: Limits) -> Limits {
        Limits {
            memory: self.memory.unwrap_or(defaults.memory),
            fuel: self.fuel.unwrap_or(defaults.fuel),
            wall_ms: self.wall_ms.unwrap_or(defaults.wall_ms),
            state_bytes: self.state_bytes.unwrap_or(defaults.state_bytes),
            result_bytes: self.result_bytes.unwrap_or(defaults.result_bytes),
            egress_bytes: self.egress_bytes.unwrap_or(defaults.egress_bytes),
            concurrency: self.concurrency.unwrap_or(defaults.concurrency),
            quota_bytes: self.quota_bytes.unwrap_or(defaults.quota_bytes),
            quota_keys: self.quota_keys.unwrap_or(defaults.quota_keys),
        }
    }
}

impl From<Limits> for GivenLimits {
    /// All of them.
    fn from(limits: Limits) -> Self {
        Self {
            memory: Some(limits.memory),
            fuel: Some(limits.fuel),
            wall_ms: Some(limits.wall_ms),
            state_bytes: Some(limits.state_bytes),
            result_bytes: Some(limits.result_bytes),
            egress_bytes: Some(limits.egress_bytes),
            concurrency: Some(limits.concurrency),
            quota_bytes: Some(limits.quota_bytes),
            quota_keys: Some(limits.quota_keys),
        }
    }
}

/// `GET /v1/agents/{agent}/state`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct StateOutline {
    /// Keys.
    pub keys: u64,
    /// Bytes of keys and values.
    pub bytes: u64,
}

/// `GET /v1/agents/{agent}`, an item of `GET /v1/agents`, and the answer of `POST /v1/agents`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Agent {
    /// Its id.
    pub id: AgentId,
    /// Its name.
    pub name: String,
    /// Who owns it.
    pub owner: Did,
    /// Its plugins, in the order in which they came: one at least.
    pub plugins: Vec<Attachment>,
    /// What calls cost.
    pub pricing: Pricing,
    /// What it may use.
    pub limits: Limits,
    /// What it may reach outside of itself.
    #[serde(default, skip_serializing_if = "Grants::is_empty")]
    pub grants: Grants,
    /// When it was spawned.
    pub created_at: Timestamp,
    /// Whether its owner has stopped it: it takes no calls.
    #[serde(default)]
    pub stopped: bool,
    /// When snapshots of it are taken by themselves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schedule: Option<Schedule>,
    /// How many other nodes hold its newest snapshot.
    #[serde(default)]
    pub replicas: u32,
    /// How often it has changed its home.
    #[serde(default)]
    pub epoch: u64,
    /// What proves that its id is of its owner; none where the agent is older than such ids.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub salt: Option<IdSalt>,
}

/// A plugin of an agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attachment {
    /// The plugin, `name@release`.
    pub plugin: String,
    /// The component.
    pub component: Digest,
    /// Its methods, in short. No two plugins of an agent have one of the same name.
    pub methods: Vec<MethodOutline>,
    /// The components that it was before, the last one last.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub previous: Vec<Digest>,
}

impl Attachment {
    /// The plugin's name.
    pub fn name(&self) -> &str {
        self.plugin.split('@').next().unwrap_or_default()
    }
}

impl Agent {
    /// The plugin that has a method.
    pub fn plugin_of(&self, method: &str) -> Option<&Attachment> {
        self.plugins.iter().find(|plugin| plugin.methods.iter().any(|known| known.name == method))
    }

    /// The methods of all its plugins.
    pub fn methods(&self) -> impl Iterator<Item = &MethodOutline> {
        self.plugins.iter().flat_map(|plugin| &plugin.methods)
    }

    /// The components that it runs.
    pub fn components(&self) -> impl Iterator<Item = Digest> + '_ {
        self.plugins.iter().map(|plugin| plugin.component)
    }
}

/// Snapshots by the clock: body of `PUT /v1/agents/{agent}/schedule`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Schedule {
    /// Seconds between two.
    pub every_s: u64,
    /// How many are kept.
    pub keep: u32,
}

/// A snapshot: an item of `GET /v1/agents/{agent}/snapshots`, and the answer of `POST` to it
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SnapshotOutline {
    /// Its id.
    pub id: SnapshotId,
    /// The agent.
    pub agent: AgentId,
    /// When it was taken.
    pub taken_at: Timestamp,
    /// The plugins that the agent ran, `name@release`.
    pub plugins: Vec<String>,
    /// Keys of the state.
    pub keys: u64,
    /// Bytes of keys and values.
    pub bytes: u64,
    /// Chunks that the state was cut into.
    pub chunks: u64,
    /// Bytes of chunks that no earlier snapshot had; known when it is taken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub new_bytes: Option<u64>,
    /// Where it was taken.
    pub node: NodeId,
    /// In which epoch of the agent.
    #[serde(default)]
    pub epoch: u64,
    /// Why it is kept whatever else is deleted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retained: Option<Retention>,
}

/// Why a snapshot is kept whatever else is deleted
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retention {
    /// It is what a home had acknowledged that has let go of the agent: no part of the agent's own history.
    pub branch: bool,
    /// The agent's home since it was taken.
    pub home: NodeId,
    /// For how many more seconds of this node's running; a branch is kept until it is discarded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub left_s: Option<u64>,
}

/// Body of `POST /v1/agents/{agent}/snapshots`
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct TakeSnapshot {
    /// Keep so many of the agent's snapshots, this one included, and delete those before; all if not given.
    #[serde(default)]
    pub keep: Option<u32>,
}

/// Body of `POST /v1/agents/import`; components, index and chunks were uploaded as blobs before
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Import {
    /// What to call the agent; as it was called if not given.
    #[serde(default)]
    pub name: Option<String>,
    /// The snapshot.
    pub snapshot: Sealed<Snapshot>,
    /// The manifests of its plugins.
    pub manifests: Vec<Sealed<Manifest>>,
    /// What the agent may reach here: an export doesn't say what it might elsewhere.
    #[serde(default)]
    pub grants: Grants,
}

/// Body of `PUT /v1/agents/{agent}/replicas`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetReplicas {
    /// How many other nodes of this owner are to hold the agent's newest snapshot.
    pub replicas: u32,
}

/// A node that holds an agent's snapshots: an item of `GET /v1/agents/{agent}/replicas`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Replica {
    /// The node.
    pub node: NodeId,
    /// Where it is.
    #[serde(default)]
    pub zone: Option<Zone>,
    /// The newest snapshot that it holds.
    pub snapshot: SnapshotId,
    /// Since when.
    pub held_at: Timestamp,
}

/// Body of `POST /v1/agents/restore`: an agent whose home is lost becomes this node's
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Restore {
    /// Its id, or the name that it had.
    pub agent: String,
    /// Also if its home seems to be there.
    #[serde(default)]
    pub force: bool,
}

/// Body of `POST /v1/agents/{agent}/move`
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Move {
    /// Another node of the same owner; none gives up on a move whose other node is lost.
    #[serde(default)]
    pub to: Option<NodeId>,
}

/// The answer of `POST /v1/agents/{agent}/move`
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Moved {
    /// The agent.
    pub agent: AgentId,
    /// Its name.
    pub name: String,
    /// Where it lives.
    pub to: NodeId,
    /// How often it has changed its home.
    pub epoch: u64,
}

/// Body of `POST /v1/agents/{agent}/upgrade` and `POST /v1/agents/{agent}/plugins`
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Upgrade {
    /// The registered component of the other release, or of the plugin to attach.
    pub component: Digest,
    /// What the agent may reach from then on; as before if not given.
    #[serde(default)]
    pub grants: Option<Grants>,
}

/// Body of `POST /v1/agents/{agent}/rollback`
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Rollback {
    /// The plugin's name; needn't be given where the agent has one alone.
    #[serde(default)]
    pub plugin: Option<String>,
}

/// Body of `POST /v1/agents/{agent}/recover`
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Recover {
    /// The snapshot, one of this agent.
    pub snapshot: SnapshotId,
}

/// An item of `GET /v1/agents/{agent}/logs`, and the data of each event of `GET /v1/agents/{agent}/logs/follow`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogLine {
    /// Grows from line to line, while the daemon runs.
    pub sequence: u64,
    /// When it was logged.
    pub time: Timestamp,
    /// `debug`, `info`, `warn` or `error`.
    pub level: String,
    /// The method that ran.
    pub method: String,
    /// The request's id.
    pub request_id: String,
    /// What it says.
    pub line: String,
}

/// A method's name and effect.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MethodOutline {
    /// Its name.
    pub name: String,
    /// Whether it changes state.
    pub effect: Effect,
}

/// `POST /v1/agents/{agent}/execute`; `agent` is an id, or a local agent's name
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Execute {
    /// The method.
    pub method: String,
    /// Its parameters: any JSON that its schema accepts, kept byte for byte.
    #[serde(default = "null")]
    pub params: Box<RawValue>,
    /// The agreement to use; chosen among the active ones if none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agreement: Option<AgreementId>,
    /// How long to wait, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u32>,
}

fn null() -> Box<RawValue> {
    RawValue::from_string("null".into()).expect("null is JSON")
}

/// The answer of `POST /v1/agents/{agent}/execute`
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Executed {
    /// The result.
    pub result: Box<RawValue>,
    /// The operation.
    pub operation: OperationId,
    /// What it used.
    pub usage: Usage,
    /// The provider's receipt, where the call was remote.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub receipt: Option<Sealed<Receipt>>,
}
