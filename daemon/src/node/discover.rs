//! Finding: own agents, adverts known by gossip, and Kademlia where these are not enough.

use std::{sync::Arc, time::Duration};

use futures::{StreamExt as _, stream};
use mesh::Piece;
use protocol::{
    AgentId, Code, NodeId, Problem,
    advert::Advert,
    api::Discovered,
    credential::Zone,
    document::Sealed,
    wire::{self, Announcement, Request, Response},
};

use super::{
    Node,
    claims::{self, Offer, VerifiedAdvert},
    rank,
};

/// Providers of one capability that are asked for their advert in one look-up.
const MAX_PROVIDERS: usize = 32;
/// Of those, how many at once.
const AT_ONCE: usize = 8;
/// Agents of one name that an error names.
const MAX_NAMED: usize = 8;
/// How long neighbours are waited for that are told of this node's leaving.
const FAREWELL: Duration = Duration::from_secs(1);
/// For all of a neighbour's adverts, however many.
const PULL: Duration = Duration::from_secs(30);
/// How long one peer is waited for.
const PATIENCE: Duration = Duration::from_secs(5);

/// Where to look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Via {
    /// Adverts known here; Kademlia if there are none.
    Any,
    /// Kademlia alone.
    Kademlia,
}

impl Node {
    /// Agents that provide a capability, nearest first.
    pub(crate) async fn discover(&self, capability: &str, via: Via, timeout: Duration) -> Result<Vec<Discovered>, Problem> {
        let mut found = Vec::new();
        if via == Via::Any {
            found = self.known_offers(capability);
        }
        if found.is_empty() {
            let lookup = self.look_up(capability, timeout);
            found = tokio::time::timeout(timeout, lookup).await.unwrap_or_else(|_| Ok(Vec::new()))?;
        }
        self.rank(&mut found);
        Ok(found)
    }

    /// Agents that provide a capability, by adverts known here alone.
    pub(crate) fn providing(&self, capability: &str) -> Vec<Discovered> {
        let mut found = self.known_offers(capability);
        self.rank(&mut found);
        found
    }

    fn known_offers(&self, capability: &str) -> Vec<Discovered> {
        let mut offers = self.directory.providing_here(capability);
        offers.extend(self.directory.providing(capability, "gossip"));
        claims::credible(offers)
    }

    /// The best first: what lives here, then by distance, load, zone and price.
    fn rank(&self, found: &mut [Discovered]) {
        let mesh = self.mesh().ok();
        for item in found.iter_mut() {
            let rtt = mesh.and_then(|mesh| mesh.rtt(item.node_id));
            item.rtt_us = rtt.map(|rtt| u64::try_from(rtt.as_micros()).unwrap_or(u64::MAX));
        }
        let cheapest = found.iter().map(|item| item.pricing.per_call).min().unwrap_or_default();
        let zone = self.zone();
        found.sort_by_key(|item| {
            let rtt = item.rtt_us.map(Duration::from_micros);
            let offer = rank::Offer { rtt, load: item.load, zone: item.zone.as_ref().map(Zone::as_str), per_call: item.pricing.per_call };
            (item.node_id != self.node_id, rank::cost(offer, zone.as_ref().map(Zone::as_str), cheapest), item.agent)
        });
    }

    /// Where this node is: by its credential, or by configuration in an open mesh.
    pub(crate) fn zone(&self) -> Option<Zone> {
        match self.membership.as_ref().and_then(|membership| membership.credential()) {
            Some(own) => own.document().zone.clone(),
            None => self.configured_zone.clone(),
        }
    }

    /// Tells the mesh that this node's adverts hold no longer: neighbours at once, the others by gossip.
    pub(crate) async fn withdraw(&self) {
        let (Some(withdrawal), Ok(mesh)) = (self.directory.withdrawal(), self.mesh()) else { return };
        let sequence = withdrawal.sequence;
        mesh.announce(withdrawal).await;
        let told = stream::iter(mesh.peers()).map(|peer| async move {
            if let Err(problem) = mesh.request(peer.node_id, Request::Withdraw(sequence), "", FAREWELL).await {
                tracing::debug!(node = %peer.node_id, %problem, "was not told that this node leaves");
            }
        });
        let _ = tokio::time::timeout(FAREWELL, told.buffer_unordered(AT_ONCE * 2).collect::<()>()).await;
    }

    /// The providers of the capability's key, each asked for its advert.
    async fn look_up(&self, capability: &str, timeout: Duration) -> Result<Vec<Discovered>, Problem> {
        let providers = self.mesh()?.providers(wire::capability_key(capability), timeout).await?;
        let others = providers.into_iter().filter(|node| *node != self.node_id).take(MAX_PROVIDERS);
        let adverts: Vec<_> = stream::iter(others).map(|node| self.fetch(node)).buffer_unordered(AT_ONCE).collect().await;
        let adverts = adverts
            .into_iter()
            .filter_map(|advert| advert.inspect_err(|problem| tracing::debug!(%problem, "a provider gave no advert")).ok());
        // What is known by gossip may prove whose an agent is that a provider claims.
        let offers: Vec<Offer> = adverts.flat_map(|advert| advert.offers(capability, "kademlia")).collect();
        Ok(claims::credible(offers))
    }

    /// Asks a node for its advert.
    async fn fetch(&self, node: NodeId) -> Result<Arc<VerifiedAdvert>, Problem> {
        let Response::Advert(sealed) = self.mesh()?.request(node, Request::Advert, "", PATIENCE).await? else {
            return Err(Problem::new(Code::Internal, format!("node {node} answered what was not asked")));
        };
        let advert = self.learn(node, sealed)?;
        if advert.document().node == node {
            Ok(advert)
        } else {
            Err(Problem::new(Code::BadSignature, format!("node {node} answered with another's advert")))
        }
    }

    /// The advert of the node that is believed to run an agent; neighbours are asked if no claim to it is proven here.
    pub(crate) async fn locate(&self, agent: &AgentId, node: Option<NodeId>) -> Result<Option<Arc<VerifiedAdvert>>, Problem> {
        let proven = |advert: &VerifiedAdvert| advert.claim(agent).is_some_and(|claim| claim.proven);
        let enough = || self.directory.locate(agent, node).is_ok_and(|advert| advert.is_some_and(|advert| proven(&advert)));
        if !enough() {
            // The only claim that is known may be a rogue's, and several that nobody proves are settled by one that is.
            self.ask_neighbours(enough).await;
        }
        self.directory.locate(agent, node)
    }

    /// The one agent of this name that others offer, of `node` where one is named; neighbours are asked if none is known here.
    /// Names are free to choose: of several, that of a provider with whom this node has an agreement is meant.
    ///
    /// # Errors
    /// There are several: which one is meant must be said.
    pub(crate) async fn locate_named(&self, name: &str, node: Option<NodeId>) -> Result<Option<AgentId>, Problem> {
        let mut found = self.directory.named(name, node);
        if found.is_empty() {
            self.ask_neighbours(|| !self.directory.named(name, node).is_empty()).await;
            found = self.directory.named(name, node);
        }
        if found.len() > 1 {
            let known: Vec<_> = found.iter().filter(|(_, (owner, _))| self.agreements.buys_from(*owner)).map(|(agent, _)| *agent).collect();
            if let [agent] = known[..] {
                return Ok(Some(agent));
            }
            let named: Vec<String> =
                found.iter().take(MAX_NAMED).map(|(agent, (owner, node))| format!("{agent} of {owner} on node {node}")).collect();
            let more = if found.len() > MAX_NAMED { " and others" } else { "" };
            return Err(Problem::new(Code::Conflict, format!("{} agents are called {name}: {}{more}", found.len(), named.join(", ")))
                .hint("name the agent by its id, or the node that you mean ('--to NODE')"));
        }
        Ok(found.into_keys().next())
    }

    /// Takes over the adverts of neighbours until they are enough.
    async fn ask_neighbours(&self, enough: impl Fn() -> bool) {
        let Ok(mesh) = self.mesh() else { return };
        let neighbours: Vec<_> = mesh.peers().into_iter().map(|peer| peer.node_id).take(MAX_PROVIDERS).collect();
        let mut answers = stream::iter(neighbours).map(|node| self.pull(node)).buffer_unordered(AT_ONCE);
        while answers.next().await.is_some() && !enough() {}
    }

    /// Takes over the adverts that a neighbour knows. Each is verified; a bad one doesn't spoil the rest.
    async fn pull(&self, node: NodeId) {
        let pulled = async {
            let mut answers = self.mesh()?.stream(node, Request::Adverts(self.directory.known()), "", PULL).await?;
            while let Piece::Item(item) = answers.next().await? {
                match wire::decode(&item) {
                    Ok(sealed) => self.learn_quietly(node, sealed),
                    Err(error) => tracing::debug!(%node, %error, "an advert can't be read"),
                }
            }
            Ok::<_, Problem>(())
        };
        if let Err(problem) = pulled.await {
            tracing::debug!(%node, %problem, "gave no adverts, or not all");
        }
    }

    /// Verifies an advert and keeps it; the mesh learns where its node is.
    fn learn(&self, from: NodeId, sealed: Sealed<Advert>) -> Result<Arc<VerifiedAdvert>, Problem> {
        let advert = self.directory.learn(from, sealed)?;
        let told = advert.document();
        if told.node != self.node_id {
            self.journal.clock().heard(told.node, told.header.issued_at);
        }
        self.hear_of(advert.document());
        self.look_for_twins(&advert);
        let Advert { node, addresses, .. } = advert.document();
        if let Ok(mesh) = self.mesh()
            && *node != self.node_id
        {
            mesh.learn(*node, addresses.clone());
        }
        Ok(advert)
    }

    fn learn_quietly(&self, from: NodeId, sealed: Sealed<Advert>) {
        if let Err(problem) = self.learn(from, sealed) {
            tracing::debug!(%from, %problem, "an advert was refused");
        }
    }

    /// Compares notes with one neighbour, another each time.
    pub(super) async fn reconcile(&self) {
        let Ok(mesh) = self.mesh() else { return };
        let peers = mesh.peers();
        if peers.is_empty() {
            return;
        }
        let turn = (self.started.elapsed().as_secs() / 60) as usize;
        let neighbour = peers[turn % peers.len()].node_id;
        self.pull(neighbour).await;
        self.tell_checkpoints(neighbour, turn).await;
    }

    /// Gossip says that a newer advert exists: it is fetched, unless too many fetches are under way.
    pub(super) fn on_announced(&self, announcement: Announcement) {
        if announcement.withdrawn {
            self.directory.withdraw(announcement.node, announcement.sequence);
            return;
        }
        if !self.directory.is_news(&announcement) {
            return;
        }
        self.in_background(move |node| async move {
            if let Err(problem) = node.fetch(announcement.node).await {
                tracing::debug!(node = %announcement.node, %problem, "an announced advert was not had");
            }
        });
    }

    /// A new neighbour: what it knows is taken over, and it is shown this node's trace.
    pub(super) fn on_connected(&self, peer: NodeId) {
        // It may be a provider that was away, or a consumer.
        self.agreements.unsettled.notify_one();
        self.tell_again(Some(peer));
        self.in_background(move |node| async move {
            node.pull(peer).await;
            // It may have been told of before, when it could not be asked.
            if let Some(advert) = node.directory.of(peer) {
                node.look_for_twins(&advert);
            }
            node.seek_cosignature(peer).await;
        });
    }

    fn in_background<F: Future<Output = ()> + Send + 'static>(&self, work: impl FnOnce(Self) -> F) {
        let Ok(permit) = Arc::clone(&self.fetches).try_acquire_owned() else { return };
        let (stopping, work) = (self.stopping.clone(), work(self.clone()));
        self.tasks.spawn(async move {
            tokio::select! {
                () = stopping.cancelled() => {}
                () = work => {}
            }
            drop(permit);
        });
    }
}
