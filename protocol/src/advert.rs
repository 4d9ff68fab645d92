//! The advert: what a node offers to its mesh, signed with the node's key.

use serde::{Deserialize, Serialize};

use crate::{
    agreement::Pricing,
    claim::{IdSalt, Ownership},
    credential::Zone,
    digest::Digest,
    document::{Document, Header, Sealed},
    envelope::Envelope,
    id::AgentId,
    key::{Did, NodeId},
};

/// How long an advert is believed without renewal, in seconds: three missed reconciliations and some slack.
pub const TTL_SECONDS: i64 = 300;

/// What a call to a method may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Effect {
    /// It leaves the agent's state as it is; runs beside others.
    ReadOnly,
    /// It may change the agent's state; runs alone.
    Mutating,
}

/// A method of a plugin, as the plugin describes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Method {
    /// Its name.
    pub name: String,
    /// What it does, for people and models.
    pub description: String,
    /// Whether it changes state.
    pub effect: Effect,
    /// Whether calling it twice with the same parameters is as good as once.
    pub idempotent: bool,
    /// JSON Schema (2020-12) of its parameters.
    pub input_schema: serde_json::Value,
    /// JSON Schema (2020-12) of its result.
    pub output_schema: serde_json::Value,
}

/// An agent on offer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offered {
    /// Its id.
    pub id: AgentId,
    /// Its name on its node.
    pub name: String,
    /// How often it has changed its home: of two nodes of one owner that offer it, the later one is right.
    #[serde(default)]
    pub epoch: u64,
    /// What proves that the agent is the owner's; none of agents that were made before ids were bound to owners.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub salt: Option<IdSalt>,
}

/// Agents of one plugin on offer, at one price.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Service {
    /// The plugin's name.
    pub plugin: String,
    /// The plugin's version.
    pub release: String,
    /// The component.
    pub component: Digest,
    /// Its methods.
    pub methods: Vec<Method>,
    /// What a call costs.
    pub pricing: Pricing,
    /// The agents that run it.
    pub agents: Vec<Offered>,
}

impl Service {
    /// The capabilities it provides: `<plugin>.<method>`.
    pub fn capabilities(&self) -> impl Iterator<Item = String> + '_ {
        self.methods.iter().map(|method| capability(&self.plugin, &method.name))
    }
}

/// The capability that a plugin's method provides.
pub fn capability(plugin: &str, method: &str) -> String {
    format!("{plugin}.{method}")
}

/// What a node offers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Advert {
    /// Type, version, mesh, validity.
    pub header: Header,
    /// The node, whose key signs.
    pub node: NodeId,
    /// The principal that owns the node and is the provider in its agreements.
    pub owner: Did,
    /// The owner's word that the node is its own. What an advert says of its owner is believed no further than this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ownership: Option<Sealed<Ownership>>,
    /// Grows with each advert of the node; the highest wins.
    pub sequence: u64,
    /// Where the node is, as its operator names places.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<Zone>,
    /// How much of its places for calls is taken, in percent, coarsely.
    #[serde(default)]
    pub load: u8,
    /// Where to reach the node: dialable multiaddrs.
    pub addresses: Vec<String>,
    /// The successions from the owner's first key to the one that it signs by now, where that is another.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub lineage: Vec<Envelope>,
    /// What it offers.
    pub services: Vec<Service>,
}

impl Advert {
    /// The signer that an advert of `node` must carry: the node's key, as a principal.
    pub fn signer(node: &NodeId) -> Did {
        Did::from_bytes(node.as_bytes()).expect("a node id holds a valid key")
    }

    /// The services that provide `capability`.
    pub fn providing<'a>(&'a self, wanted: &'a str) -> impl Iterator<Item = &'a Service> {
        self.services.iter().filter(move |service| service.capabilities().any(|have| have == wanted))
    }
}

impl Document for Advert {
    const TYPE: &'static str = "advert";
    const VERSION: u32 = 1;

    fn header(&self) -> &Header {
        &self.header
    }
}
