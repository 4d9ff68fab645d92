//! Which node is believed to run an agent, of all that say so. Pure.
//!
//! ```text
//! advert ── owner signed for the node? ─┐
//! offered ── id made by that owner? ────┴─> proven: beats every other claim; of two, the later epoch is right
//!                                           otherwise: believed while nobody else claims the agent
//! ```
//! What proves a claim: `protocol::claim`. A rogue can repeat what an honest advert says, owner, salt and epoch, but not the
//! owner's signature for its own node, and none of its own owners made the id.

use std::{cmp::Reverse, collections::HashSet, sync::Arc};

use protocol::{
    AgentId, Code, Expect, NodeId, Problem, Signed,
    advert::{Advert, Offered, Service},
    api::Discovered,
    claim::Ownership,
};

/// Claimants that an error names.
const NAMED: usize = 8;

/// An advert whose signature is its node's.
#[derive(Debug)]
pub(crate) struct VerifiedAdvert {
    signed: Signed<Advert>,
    /// Whether its owner signed for its node.
    owned: bool,
}

impl VerifiedAdvert {
    /// What this node itself says.
    pub(crate) fn own(signed: Signed<Advert>) -> Self {
        Self { signed, owned: true }
    }

    /// Verifies what an advert shows for its claims; `check` says whether an owner's key still counts.
    ///
    /// # Errors
    /// It shows a proof that is false: nothing else in it is believed.
    pub(crate) fn of(
        signed: Signed<Advert>,
        expect: Expect<'_>,
        check: impl Fn(&Signed<Ownership>) -> Result<(), Problem>,
    ) -> Result<Self, Problem> {
        let Advert { node, owner, ownership, services, .. } = signed.document();
        let wrong = |what: String| Problem::new(Code::BadSignature, format!("the advert of {node} {what}"));
        if let Some(sealed) = ownership {
            let proof = sealed.clone().open(expect)?;
            proof.require(*owner)?;
            check(&proof)?;
            if proof.document().node != *node || proof.document().owner != *owner {
                return Err(wrong(format!("shows a proof that {} is a node of {}", proof.document().node, proof.document().owner)));
            }
        }
        let mut offered = services.iter().flat_map(|service| &service.agents);
        if let Some(false_claim) = offered.find(|offered| offered.salt.is_some_and(|salt| !salt.proves(&offered.id, *owner))) {
            return Err(wrong(format!("offers agent {}, which {owner} did not make", false_claim.id)));
        }
        Ok(Self { owned: ownership.is_some(), signed })
    }

    pub(crate) fn document(&self) -> &Advert {
        self.signed.document()
    }

    pub(crate) fn signed(&self) -> &Signed<Advert> {
        &self.signed
    }

    /// Whether its owner signed for its node.
    pub(crate) fn is_owned(&self) -> bool {
        self.owned
    }

    /// Its claim to an agent, if it makes one.
    pub(crate) fn claim(&self, agent: &AgentId) -> Option<Claim> {
        let mut offered = self.document().services.iter().flat_map(|service| &service.agents);
        offered.find(|offered| offered.id == *agent).map(|offered| Claim { epoch: offered.epoch, proven: self.proves(offered) })
    }

    /// Whether the claim to an agent that it offers is proven; that what it shows isn't false is verified already.
    pub(crate) fn proves(&self, offered: &Offered) -> bool {
        self.owned && offered.salt.is_some()
    }

    /// The agents that it says provide a capability.
    pub(crate) fn offers(&self, capability: &str, via: &str) -> Vec<Offer> {
        let advert = self.document();
        let found = |service: &Service, offered: &Offered| Discovered {
            agent: offered.id,
            name: offered.name.clone(),
            node_id: advert.node,
            provider: advert.owner,
            plugin: format!("{}@{}", service.plugin, service.release),
            methods: service.methods.clone(),
            pricing: service.pricing.clone(),
            rtt_us: None,
            zone: advert.zone.clone(),
            load: advert.load,
            via: via.into(),
        };
        let offers = advert.providing(capability).flat_map(|service| {
            service.agents.iter().map(move |offered| Offer { proven: self.proves(offered), found: found(service, offered) })
        });
        offers.collect()
    }
}

/// A node's claim to an agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Claim {
    pub(crate) epoch: u64,
    pub(crate) proven: bool,
}

/// An agent on offer.
#[derive(Debug)]
pub(crate) struct Offer {
    proven: bool,
    found: Discovered,
}

/// What is on offer, without claims to agents that are proven to be elsewhere.
pub(crate) fn credible(mut offers: Vec<Offer>) -> Vec<Discovered> {
    if offers.iter().any(|offer| !offer.proven) {
        let proven: HashSet<AgentId> = offers.iter().filter(|offer| offer.proven).map(|offer| offer.found.agent).collect();
        offers.retain(|offer| offer.proven || !proven.contains(&offer.found.agent));
    }
    offers.into_iter().map(|offer| offer.found).collect()
}

/// The advert of the node that is believed to run an agent, of all that claim it.
///
/// # Errors
/// Nobody proves its claim, or one owner's nodes contradict each other: which node is meant must be said.
pub(crate) fn decide(agent: &AgentId, claimants: Vec<Arc<VerifiedAdvert>>) -> Result<Option<Arc<VerifiedAdvert>>, Problem> {
    let mut claims: Vec<_> = claimants.into_iter().filter_map(|advert| Some((advert.claim(agent)?, advert))).collect();
    if claims.iter().any(|(claim, _)| claim.proven) {
        claims.retain(|(claim, _)| claim.proven);
    }
    // Of one owner's nodes the agent's later home is right, and the other one hasn't heard yet.
    claims.sort_by_key(|(claim, _)| Reverse(claim.epoch));
    let Some((first, advert)) = claims.first() else { return Ok(None) };
    let owner = |advert: &VerifiedAdvert| advert.is_owned().then_some(advert.document().owner);
    let settled = |(claim, other): &(Claim, Arc<VerifiedAdvert>)| {
        claim.epoch < first.epoch && owner(advert).is_some() && owner(advert) == owner(other)
    };
    if claims[1..].iter().all(settled) {
        return Ok(Some(Arc::clone(advert)));
    }
    let nodes: Vec<(NodeId, _)> = claims.iter().map(|(_, advert)| (advert.document().node, advert.document().owner)).collect();
    let named: Vec<String> = nodes.iter().take(NAMED).map(|(node, owner)| format!("node {node} of {owner}")).collect();
    let more = if nodes.len() > NAMED { format!(" and {} others", nodes.len() - NAMED) } else { String::new() };
    Err(Problem::new(
        Code::Conflict,
        format!("{} nodes claim agent {agent}, and none proves that it runs there: {}{more}", nodes.len(), named.join(", ")),
    )
    .hint("name the node that you mean ('--to NODE')"))
}

#[cfg(test)]
mod tests {
    use protocol::{Did, Digest, Header, Key, MeshId, SignedDuration, Timestamp, agreement::Pricing, claim::IdSalt, document::Sealed};

    use super::*;

    /// An owner with a node, in a mesh of the test.
    struct Party {
        owner: Key,
        node: Key,
    }

    fn mesh() -> MeshId {
        "test".parse().expect("a name")
    }

    impl Party {
        fn new() -> Self {
            Self { owner: Key::generate(), node: Key::generate() }
        }

        fn proof(&self) -> Sealed<Ownership> {
            let header = Header::new::<Ownership>(&mesh(), Timestamp::now(), SignedDuration::from_hours(1));
            Signed::sign(Ownership { header, node: self.node.node_id(), owner: self.owner.did() }, &[&self.owner]).into()
        }

        fn advert(&self, owner: Did, ownership: Option<Sealed<Ownership>>, offered: Offered) -> Result<Arc<VerifiedAdvert>, Problem> {
            let service = Service {
                plugin: "demo".into(),
                release: "0.1.0".into(),
                component: Digest::blake3(b""),
                methods: Vec::new(),
                pricing: Pricing::free(),
                agents: vec![offered],
            };
            let advert = Advert {
                header: Header::new::<Advert>(&mesh(), Timestamp::now(), SignedDuration::from_secs(60)),
                node: self.node.node_id(),
                owner,
                ownership,
                sequence: 1,
                zone: None,
                load: 0,
                addresses: Vec::new(),
                lineage: Vec::new(),
                services: vec![service],
            };
            let signed = Signed::sign(advert, &[&self.node]);
            VerifiedAdvert::of(signed, Expect::at(&mesh(), Timestamp::now()), |_| Ok(())).map(Arc::new)
        }

        fn honest(&self, offered: &Offered) -> Arc<VerifiedAdvert> {
            self.advert(self.owner.did(), Some(self.proof()), offered.clone()).expect("true")
        }
    }

    fn made_by(owner: &Party) -> Offered {
        let salt = IdSalt::random().expect("random");
        Offered { id: salt.agent(owner.owner.did(), Timestamp::now()), name: "counter".into(), epoch: 3, salt: Some(salt) }
    }

    fn decided(agent: &AgentId, claimants: &[&Arc<VerifiedAdvert>]) -> Result<Option<NodeId>, Problem> {
        let claimants = claimants.iter().map(|advert| Arc::clone(advert)).collect();
        decide(agent, claimants).map(|advert| advert.map(|advert| advert.document().node))
    }

    #[test]
    fn a_proven_claim_beats_all_that_repeat_it() {
        let (honest, rogue) = (Party::new(), Party::new());
        let offered = made_by(&honest);
        let (agent, home) = (offered.id, honest.honest(&offered));
        let later = Offered { epoch: u64::MAX, ..offered.clone() };
        // As the same owner's, without its word; and as his own, without the salt.
        let copied = rogue.advert(honest.owner.did(), None, later.clone()).expect("nothing in it is proven false");
        let bare = rogue.advert(rogue.owner.did(), Some(rogue.proof()), Offered { salt: None, ..later.clone() }).expect("nor in this");
        for claimants in [[&home, &copied, &bare], [&bare, &copied, &home]] {
            assert_eq!(decided(&agent, &claimants).expect("decided"), Some(honest.node.node_id()));
        }
        let offers = [&copied, &home, &bare].iter().flat_map(|advert| advert.offers("demo.count", "gossip")).collect();
        assert!(credible(offers).iter().all(|found| found.node_id == honest.node.node_id()));

        // Proofs that are false.
        let refused = |advert: Result<Arc<VerifiedAdvert>, Problem>| advert.expect_err("false").code;
        assert_eq!(refused(rogue.advert(honest.owner.did(), Some(honest.proof()), later.clone())), Code::BadSignature, "another node's");
        assert_eq!(refused(rogue.advert(honest.owner.did(), Some(rogue.proof()), later.clone())), Code::Unsigned, "another owner's");
        assert_eq!(refused(rogue.advert(rogue.owner.did(), Some(rogue.proof()), later)), Code::BadSignature, "another owner's agent");
    }

    #[test]
    fn of_one_owners_nodes_the_later_epoch_is_right() {
        let old = Party::new();
        let new = Party { owner: Key::from_seed(old.owner.seed().as_ref().try_into().expect("32 bytes")), node: Key::generate() };
        let offered = made_by(&old);
        let moved = Offered { epoch: 4, ..offered.clone() };
        let (before, after) = (old.honest(&offered), new.honest(&moved));
        assert_eq!(decided(&offered.id, &[&before, &after]).expect("decided"), Some(new.node.node_id()));
        assert_eq!(decided(&offered.id, &[&before, &new.honest(&offered)]).expect_err("both").code, Code::Conflict);
    }

    #[test]
    fn what_nobody_proves_is_believed_while_it_is_undisputed() {
        let (one, two) = (Party::new(), Party::new());
        let offered = Offered { id: AgentId::new(), name: "counter".into(), epoch: 0, salt: None };
        let later = Offered { epoch: 1, ..offered.clone() };
        let (first, second) = (one.honest(&offered), two.honest(&later));
        assert_eq!(decided(&offered.id, &[]).expect("nobody"), None);
        assert_eq!(decided(&offered.id, &[&first]).expect("undisputed"), Some(one.node.node_id()));
        let disputed = decided(&offered.id, &[&first, &second]).expect_err("which?");
        assert_eq!(disputed.code, Code::Conflict);
        for party in [&one, &two] {
            assert!(disputed.detail.contains(&format!("node {} of {}", party.node.node_id(), party.owner.did())), "{disputed}");
        }
        // That both say the same of their owner decides nothing: anybody can say it.
        let said = two.advert(one.owner.did(), None, later).expect("nothing is shown");
        assert_eq!(decided(&offered.id, &[&first, &said]).expect_err("which?").code, Code::Conflict);
    }
}
