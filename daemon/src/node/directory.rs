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
    AgentId, Did, Expect, Header, Key, MeshId, NodeId, Problem, Signed, SignedDuration, Signer, Timestamp,
    advert::{Advert, Offered, Service, TTL_SECONDS},
    api,
    claim::{OWNERSHIP_SECONDS, Ownership},
    credential::Zone,
    document::Sealed,
    wire::Announcement,
};

use tokio::sync::watch;

use super::{
    agents::Agent,
    claims::{self, Offer, VerifiedAdvert},
    lineages::Lineages,
    plugins::Plugins,
};

/// Adverts kept of other nodes; the one that expires first makes room.
const MAX_ADVERTS: usize = 4_096;
/// Bytes of adverts of other nodes that are kept; the largest makes room.
const MAX_BYTES: usize = 64 * 1024 * 1024;

/// An advert of another node.
#[derive(Debug)]
struct Known {
    advert: Arc<VerifiedAdvert>,
    /// Who brought it.
    from: NodeId,
}

impl Known {
    fn bytes(&self) -> usize {
        self.advert.signed().envelope().payload.len()
    }
}

/// Adverts of this node and of others.
#[derive(Debug)]
pub(crate) struct Directory {
    mesh: MeshId,
    key: Key,
    owner: Did,
    lineages: Lineages,
    /// The owner's word that this node is its own.
    ownership: tokio::sync::Mutex<Option<Signed<Ownership>>>,
    /// How the owner's key follows its first one.
    lineage: Vec<protocol::Envelope>,
    own: RwLock<Option<Signed<Advert>>>,
    known: RwLock<HashMap<NodeId, Known>>,
    /// Nodes that withdrew: up to which sequence, and until when an old advert might be offered again.
    withdrawn: RwLock<HashMap<NodeId, (u64, Timestamp)>>,
    /// Counts changes of what is known, for those who watch.
    changes: watch::Sender<u64>,
}

impl Directory {
    pub(crate) fn new(mesh: MeshId, key: Key, owner: &dyn Signer, lineages: Lineages) -> Self {
        let (changes, _) = watch::channel(0);
        let (owner, lineage) = (owner.did(), owner.lineage().map(|lineage| lineage.proofs().to_vec()).unwrap_or_default());
        Self {
            mesh,
            key,
            owner,
            lineages,
            ownership: tokio::sync::Mutex::default(),
            lineage,
            own: RwLock::default(),
            known: RwLock::default(),
            withdrawn: RwLock::default(),
            changes,
        }
    }

    /// The owner's word that this node is its own, signed anew when half of its time is over. While the owner's key is away,
    /// the old one serves for as long as it is valid.
    async fn ownership(&self, owner: &dyn Signer, now: Timestamp) -> Option<Signed<Ownership>> {
        let mut ownership = self.ownership.lock().await;
        let left = ownership.as_ref().map(|signed| signed.document().header.expires_at.duration_since(now));
        if left.is_none_or(|left| left < SignedDuration::from_secs(OWNERSHIP_SECONDS / 2)) {
            let header = Header::new::<Ownership>(&self.mesh, now, SignedDuration::from_secs(OWNERSHIP_SECONDS));
            let statement = Ownership { header, node: self.key.node_id(), owner: self.owner };
            match Signed::sign_by(statement, owner).await {
                Ok(signed) => *ownership = Some(signed),
                Err(problem) => tracing::warn!(%problem, "the owner's key can't sign that this node is its owner's"),
            }
        }
        ownership.clone().filter(|signed| signed.document().header.expires_at > now)
    }

    /// Signs a new advert of these agents; returns it with the capabilities to provide.
    pub(crate) async fn sign(
        &self,
        agents: Vec<Arc<Agent>>,
        plugins: &Plugins,
        addresses: Vec<String>,
        (zone, load): (Option<Zone>, u8),
        owner: &dyn Signer,
    ) -> Result<(Announcement, HashSet<String>), Problem> {
        let now = Timestamp::now();
        let services = services(agents, plugins).await?;
        let ownership = self.ownership(owner, now).await.map(Into::into);
        let capabilities = services.iter().flat_map(Service::capabilities).collect();
        // Milliseconds since 1970 grow over restarts too; a clock set back is made good by counting on.
        let before = self.own.read().as_ref().map_or(0, |own| own.document().sequence);
        let sequence = u64::try_from(now.as_millisecond()).unwrap_or_default().max(before + 1);
        let header = Header::new::<Advert>(&self.mesh, now, protocol::SignedDuration::from_secs(TTL_SECONDS));
        let expires_at = header.expires_at;
        let node = self.key.node_id();
        let (owner, lineage) = (self.owner, self.lineage.clone());
        let advert = Advert { header, node, owner, ownership, sequence, zone, load, addresses, lineage, services };
        let signed = Signed::sign(advert, &[&self.key]);
        let digest = protocol::Digest::blake3(signed.envelope().payload.as_bytes());
        *self.own.write() = Some(signed);
        self.changed();
        Ok((Announcement { node, sequence, digest, expires_at, withdrawn: false }, capabilities))
    }

    /// This node's advert.
    pub(crate) fn own(&self) -> Option<Sealed<Advert>> {
        self.own.read().clone().map(Into::into)
    }

    /// The sequences of the adverts that are known here, to tell a neighbour what needn't be sent.
    pub(crate) fn known(&self) -> BTreeMap<NodeId, u64> {
        let own = self.own.read().as_ref().map(|own| (self.key.node_id(), own.document().sequence));
        self.known.read().iter().map(|(node, known)| (*node, known.advert.document().sequence)).chain(own).collect()
    }

    /// This node's advert and those it knows, but for what is no news to somebody who has these.
    pub(crate) fn newer(&self, have: &BTreeMap<NodeId, u64>) -> Vec<Arc<VerifiedAdvert>> {
        let now = Timestamp::now();
        let own = self.own.read().clone().map(|own| Arc::new(VerifiedAdvert::own(own)));
        let known = self.known.read();
        let news = |advert: &Arc<VerifiedAdvert>| {
            let Advert { node, sequence, header, .. } = advert.document();
            header.expires_at > now && have.get(node).is_none_or(|have| have < sequence)
        };
        own.into_iter().chain(known.values().map(|known| Arc::clone(&known.advert))).filter(news).collect()
    }

    /// Whether an announced advert is news.
    pub(crate) fn is_news(&self, announcement: &Announcement) -> bool {
        let known = self.known.read();
        announcement.node != self.key.node_id()
            && known.get(&announcement.node).is_none_or(|have| have.advert.document().sequence < announcement.sequence)
    }

    /// Verifies an advert that `from` brought and keeps it, if it is the newest of its node.
    pub(crate) fn learn(&self, from: NodeId, sealed: Sealed<Advert>) -> Result<Arc<VerifiedAdvert>, Problem> {
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
        let check = |proof: &Signed<Ownership>| self.lineages.check(proof);
        let signed = Arc::new(VerifiedAdvert::of(signed, Expect::at(&self.mesh, now), check)?);
        if node == self.key.node_id() {
            return Ok(signed);
        }
        if self.withdrawn.read().get(&node).is_some_and(|(sequence, until)| *until > now && signed.document().sequence <= *sequence) {
            return Err(Problem::new(protocol::Code::NotFound, format!("node {node} has withdrawn this advert")));
        }
        let mut known = self.known.write();
        if let Some(have) = known.get(&node).filter(|have| have.advert.document().sequence >= signed.document().sequence) {
            return Ok(Arc::clone(&have.advert));
        }
        known.insert(node, Known { advert: Arc::clone(&signed), from });
        make_room(&mut known);
        drop(known);
        self.changed();
        Ok(signed)
    }

    /// `node` withdraws its adverts up to `sequence`; whether that is news.
    pub(crate) fn withdraw(&self, node: NodeId, sequence: u64) -> bool {
        let now = Timestamp::now();
        let until = now.saturating_add(protocol::SignedDuration::from_secs(TTL_SECONDS)).unwrap_or(now);
        let mut withdrawn = self.withdrawn.write();
        withdrawn.retain(|_, (_, until)| *until > now);
        if withdrawn.len() < MAX_ADVERTS {
            withdrawn.insert(node, (sequence, until));
        }
        drop(withdrawn);
        let mut known = self.known.write();
        let news = known.get(&node).is_some_and(|known| known.advert.document().sequence <= sequence);
        if news {
            known.remove(&node);
        }
        drop(known);
        if news {
            self.changed();
        }
        news
    }

    /// This node's own withdrawal, if it has an advert.
    pub(crate) fn withdrawal(&self) -> Option<Announcement> {
        let own = self.own.write().take()?;
        let Advert { node, sequence, header, .. } = own.document();
        let digest = protocol::Digest::blake3(own.envelope().payload.as_bytes());
        Some(Announcement { node: *node, sequence: *sequence, digest, expires_at: header.expires_at, withdrawn: true })
    }

    /// Rings when what is known has changed.
    pub(crate) fn watch(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    fn changed(&self) {
        self.changes.send_modify(|count| *count += 1);
    }

    /// Drops what has expired.
    pub(crate) fn sweep(&self) {
        let now = Timestamp::now();
        let mut known = self.known.write();
        let before = known.len();
        known.retain(|_, known| known.advert.document().header.expires_at > now);
        let gone = known.len() < before;
        drop(known);
        if gone {
            self.changed();
        }
    }

    /// The advert of the node that is believed to run an agent, of `node` where one is named.
    ///
    /// # Errors
    /// Several nodes claim the agent, and it can't be told which one runs it.
    pub(crate) fn locate(&self, agent: &AgentId, node: Option<NodeId>) -> Result<Option<Arc<VerifiedAdvert>>, Problem> {
        let claimants = self.valid().into_iter().filter(|advert| {
            let document = advert.document();
            node.is_none_or(|node| document.node == node) && advert.claim(agent).is_some()
        });
        claims::decide(agent, claimants.collect())
    }

    /// The agents of this name that others offer, of `node` where one is named, each with its owner and its node. Of claims to
    /// one agent the proven one counts.
    pub(crate) fn named(&self, name: &str, node: Option<NodeId>) -> BTreeMap<AgentId, (Did, NodeId)> {
        let mut found: BTreeMap<AgentId, (bool, Did, NodeId)> = BTreeMap::new();
        for advert in self.valid() {
            let document = advert.document();
            if node.is_some_and(|node| document.node != node) {
                continue;
            }
            for offered in document.services.iter().flat_map(|service| &service.agents).filter(|offered| offered.name == name) {
                let claim = (advert.proves(offered), document.owner, document.node);
                let best = found.entry(offered.id).or_insert(claim);
                if claim.0 && !best.0 {
                    *best = claim;
                }
            }
        }
        if found.values().any(|(proven, ..)| *proven) {
            found.retain(|_, (proven, ..)| *proven);
        }
        found.into_iter().map(|(agent, (_, owner, node))| (agent, (owner, node))).collect()
    }

    /// The advert of a node, if it is known here and valid.
    pub(crate) fn of(&self, node: NodeId) -> Option<Arc<VerifiedAdvert>> {
        let known = self.known.read();
        known.get(&node).map(|known| Arc::clone(&known.advert)).filter(|advert| advert.document().header.expires_at > Timestamp::now())
    }

    /// The nodes of an owner, by its signature, that offer an agent, each with the epoch in which it does.
    pub(crate) fn homes(&self, agent: &AgentId, owner: Did) -> Vec<(NodeId, u64)> {
        let of_owner = self.valid().into_iter().filter(|advert| advert.is_owned() && advert.document().owner == owner);
        of_owner.filter_map(|advert| Some((advert.document().node, advert.claim(agent)?.epoch))).collect()
    }

    /// The other nodes of `owner`, by its signature.
    pub(crate) fn nodes_of(&self, owner: Did) -> Vec<(NodeId, Option<Zone>)> {
        let of_owner = self.valid().into_iter().filter(|advert| advert.is_owned() && advert.document().owner == owner);
        of_owner.map(|advert| (advert.document().node, advert.document().zone.clone())).collect()
    }

    /// What agents of other nodes provide a capability, by adverts known here.
    pub(crate) fn providing(&self, capability: &str, via: &str) -> Vec<Offer> {
        self.valid().into_iter().flat_map(|advert| advert.offers(capability, via)).collect()
    }

    /// The adverts of others that haven't expired.
    fn valid(&self) -> Vec<Arc<VerifiedAdvert>> {
        let now = Timestamp::now();
        let known = self.known.read();
        known.values().filter(|known| known.advert.document().header.expires_at > now).map(|known| Arc::clone(&known.advert)).collect()
    }

    /// This node's own agents that provide a capability.
    pub(crate) fn providing_here(&self, capability: &str) -> Vec<Offer> {
        let own = self.own.read().clone().map(VerifiedAdvert::own);
        own.map(|own| own.offers(capability, "local")).unwrap_or_default()
    }
}

/// Drops adverts until number and bytes are within their limits: of whoever brought the most, those that expire first. So
/// nobody pushes out what others have brought, however much it makes up.
fn make_room(known: &mut HashMap<NodeId, Known>) {
    let mut bytes: usize = known.values().map(Known::bytes).sum();
    while known.len() > MAX_ADVERTS || bytes > MAX_BYTES {
        let mut brought: HashMap<NodeId, usize> = HashMap::new();
        for entry in known.values() {
            *brought.entry(entry.from).or_default() += if bytes > MAX_BYTES { entry.bytes() } else { 1 };
        }
        let most = brought.into_iter().max_by_key(|(_, amount)| *amount).map(|(from, _)| from);
        let theirs = known.iter().filter(|(_, entry)| Some(entry.from) == most);
        let Some(first) = theirs.min_by_key(|(_, entry)| entry.advert.document().header.expires_at).map(|(node, _)| *node) else { return };
        bytes -= known.remove(&first).map_or(0, |entry| entry.bytes());
    }
}

/// Agents grouped by component and price, so that a thousand of a kind fit an advert; but for what is revoked.
async fn services(agents: Vec<Arc<Agent>>, plugins: &Plugins) -> Result<Vec<Service>, Problem> {
    let mut services: BTreeMap<(String, String), Service> = BTreeMap::new();
    for agent in agents {
        let outline = &agent.outline;
        for attached in outline.plugins.iter().filter(|attached| plugins.revoked().get(&attached.component).is_none()) {
            let group = (attached.component.to_string(), format!("{:?}", outline.pricing));
            let offered = Offered { id: outline.id, name: outline.name.clone(), epoch: outline.epoch, salt: outline.salt };
            if let Some(service) = services.get_mut(&group) {
                service.agents.push(offered);
                continue;
            }
            let api::Plugin { name, release, component, methods, .. } = plugins.get(&attached.component).await?;
            let pricing = outline.pricing.clone();
            services.insert(group, Service { plugin: name, release, component, methods, pricing, agents: vec![offered] });
        }
    }
    Ok(services.into_values().collect())
}
