//! What the mesh offers, as far as this node knows, and what this node offers to it.
//!
//! Gossip only tells that a newer advert exists; the advert itself is asked for and verified. Nothing relies on
//! gossip: who joins pulls a snapshot from each neighbour, and a capability unknown here is looked up in Kademlia.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
};

use parking_lot::RwLock;
use protocol::{
    AgentId, Expect, Header, Key, MeshId, NodeId, Problem, Signed, Timestamp,
    advert::{Advert, Offered, Service, TTL_SECONDS},
    api::Discovered,
    document::Sealed,
    wire::{self, Announcement},
};

use super::{agents::Agent, plugins::Plugins};

/// Adverts kept of other nodes; the one that expires first makes room.
const MAX_ADVERTS: usize = 4_096;
/// Bytes of adverts in one snapshot: half a frame.
const MAX_SNAPSHOT: usize = wire::MAX_FRAME / 2;

/// Adverts of this node and of others.
#[derive(Debug)]
pub(crate) struct Directory {
    mesh: MeshId,
    key: Key,
    owner: protocol::Did,
    own: RwLock<Option<Signed<Advert>>>,
    known: RwLock<HashMap<NodeId, Arc<Signed<Advert>>>>,
}

impl Directory {
    pub(crate) fn new(mesh: MeshId, key: Key, owner: protocol::Did) -> Self {
        Self { mesh, key, owner, own: RwLock::default(), known: RwLock::default() }
    }

    /// Signs a new advert of these agents; returns it with the capabilities to provide.
    pub(crate) async fn sign(
        &self,
        agents: Vec<Arc<Agent>>,
        plugins: &Plugins,
        addresses: Vec<String>,
    ) -> Result<(Announcement, HashSet<String>), Problem> {
        let now = Timestamp::now();
        let services = services(agents, plugins).await?;
        let capabilities = services.iter().flat_map(Service::capabilities).collect();
        // Milliseconds since 1970 grow over restarts too; a clock set back is made good by counting on.
        let before = self.own.read().as_ref().map_or(0, |own| own.document().sequence);
        let sequence = u64::try_from(now.as_millisecond()).unwrap_or_default().max(before + 1);
        let header = Header::new::<Advert>(&self.mesh, now, protocol::SignedDuration::from_secs(TTL_SECONDS));
        let expires_at = header.expires_at;
        let node = self.key.node_id();
        let advert = Advert { header, node, owner: self.owner, sequence, addresses, services };
        let signed = Signed::sign(advert, &[&self.key]);
        let digest = protocol::Digest::blake3(signed.envelope().payload.as_bytes());
        *self.own.write() = Some(signed);
        Ok((Announcement { node, sequence, digest, expires_at }, capabilities))
    }

    /// This node's advert.
    pub(crate) fn own(&self) -> Option<Sealed<Advert>> {
        self.own.read().clone().map(Into::into)
    }

    /// This node's advert and those it knows, as many as fit.
    pub(crate) fn snapshot(&self) -> Vec<Sealed<Advert>> {
        let now = Timestamp::now();
        let known = self.known.read();
        let others =
            known.values().filter(|advert| advert.document().header.expires_at > now).map(|advert| Sealed::from((**advert).clone()));
        let mut size = 0;
        let fits = |advert: &Sealed<Advert>| {
            size += advert.envelope().payload.len() + 512;
            size <= MAX_SNAPSHOT
        };
        self.own().into_iter().chain(others).take_while(fits).collect()
    }

    /// Whether an announced advert is news.
    pub(crate) fn is_news(&self, announcement: &Announcement) -> bool {
        let known = self.known.read();
        announcement.node != self.key.node_id()
            && known.get(&announcement.node).is_none_or(|have| have.document().sequence < announcement.sequence)
    }

    /// Verifies an advert and keeps it, if it is the newest of its node.
    pub(crate) fn learn(&self, sealed: Sealed<Advert>) -> Result<Arc<Signed<Advert>>, Problem> {
        let now = Timestamp::now();
        let signed = sealed.open(Expect::at(&self.mesh, now))?;
        let node = signed.document().node;
        signed.require(Advert::signer(&node))?;
        // What claims to live longer than any honest advert would push those out.
        let longest = now.saturating_add(protocol::SignedDuration::from_secs(TTL_SECONDS) + protocol::document::MAX_SKEW).unwrap_or(now);
        if signed.document().header.expires_at > longest {
            return Err(Problem::new(
                protocol::Code::MalformedDocument,
                format!("the advert of {node} claims to be valid for over {TTL_SECONDS} s"),
            ));
        }
        let signed = Arc::new(signed);
        if node == self.key.node_id() {
            return Ok(signed);
        }
        let mut known = self.known.write();
        if let Some(have) = known.get(&node).filter(|have| have.document().sequence >= signed.document().sequence) {
            return Ok(Arc::clone(have));
        }
        if known.len() >= MAX_ADVERTS && !known.contains_key(&node) {
            let first = known.iter().min_by_key(|(_, advert)| advert.document().header.expires_at).map(|(node, _)| *node);
            first.and_then(|first| known.remove(&first));
        }
        known.insert(node, Arc::clone(&signed));
        Ok(signed)
    }

    /// Drops what has expired.
    pub(crate) fn sweep(&self) {
        let now = Timestamp::now();
        self.known.write().retain(|_, advert| advert.document().header.expires_at > now);
    }

    /// The advert that offers an agent.
    pub(crate) fn locate(&self, agent: &AgentId) -> Option<Arc<Signed<Advert>>> {
        let now = Timestamp::now();
        let offers = |advert: &&Arc<Signed<Advert>>| {
            let document = advert.document();
            document.header.expires_at > now
                && document.services.iter().any(|service| service.agents.iter().any(|offered| offered.id == *agent))
        };
        self.known.read().values().find(offers).cloned()
    }

    /// Agents of other nodes that provide a capability, by adverts known here.
    pub(crate) fn providing(&self, capability: &str, via: &str) -> Vec<Discovered> {
        let now = Timestamp::now();
        let known = self.known.read();
        let alive = known.values().filter(|advert| advert.document().header.expires_at > now);
        alive.flat_map(|advert| offers(advert.document(), capability, via)).collect()
    }

    /// This node's own agents that provide a capability.
    pub(crate) fn providing_here(&self, capability: &str) -> Vec<Discovered> {
        self.own.read().as_ref().map(|own| offers(own.document(), capability, "local")).unwrap_or_default()
    }
}

/// The agents of an advert that provide a capability.
pub(crate) fn offers(advert: &Advert, capability: &str, via: &str) -> Vec<Discovered> {
    let found = |service: &Service, offered: &Offered| Discovered {
        agent: offered.id,
        name: offered.name.clone(),
        node_id: advert.node,
        provider: advert.owner,
        plugin: format!("{}@{}", service.plugin, service.release),
        methods: service.methods.clone(),
        pricing: service.pricing.clone(),
        rtt_us: None,
        via: via.into(),
    };
    advert.providing(capability).flat_map(|service| service.agents.iter().map(move |offered| found(service, offered))).collect()
}

/// Agents grouped by component and price, so that a thousand of a kind fit an advert.
async fn services(agents: Vec<Arc<Agent>>, plugins: &Plugins) -> Result<Vec<Service>, Problem> {
    let mut services: BTreeMap<(String, String), Service> = BTreeMap::new();
    for agent in agents {
        let outline = &agent.outline;
        let group = (outline.component.to_string(), format!("{:?}", outline.pricing));
        let offered = Offered { id: outline.id, name: outline.name.clone() };
        if let Some(service) = services.get_mut(&group) {
            service.agents.push(offered);
            continue;
        }
        let plugin = plugins.get(&outline.component).await?;
        let (plugin, release, methods) = (plugin.name, plugin.release, plugin.methods);
        let service =
            Service { plugin, release, component: outline.component, methods, pricing: outline.pricing.clone(), agents: vec![offered] };
        services.insert(group, service);
    }
    Ok(services.into_values().collect())
}
