//! A member of the mesh that claims to run others' agents.

use std::{net::Ipv4Addr, sync::Arc};

use async_trait::async_trait;
use mesh::{Config, Handler, Items, Listen, Mesh};
use protocol::{
    Code, Header, Key, NodeId, Problem, Signed, Timestamp,
    advert::{Advert, Offered, Service, TTL_SECONDS},
    api::{AgreementState, Discovered, List, Propose},
    claim::{IdSalt, Ownership},
    document::Sealed,
    wire::{self, Announcement, Request, Response},
};
use serde_json::json;
use tests::{Node, PATIENCE, until};

use super::rounds;
use crate::fixtures::Pair;

/// Tells everybody who asks of one advert, and answers nothing else.
struct Claimant(Sealed<Advert>);

#[async_trait]
impl Handler for Claimant {
    async fn request(&self, _: NodeId, request: Request, _: &str, _: tokio::time::Instant) -> Result<Response, Problem> {
        match request {
            Request::Advert => Ok(Response::Advert(self.0.clone())),
            _ => Err(Problem::new(Code::NotFound, "there is nothing here")),
        }
    }

    async fn stream(
        &self,
        from: NodeId,
        request: Request,
        id: &str,
        deadline: tokio::time::Instant,
        items: Items,
    ) -> Result<Response, Problem> {
        let Request::Adverts(_) = request else { return self.request(from, request, id, deadline).await };
        items.send(wire::encode(&self.0)).await?;
        Ok(Response::Done)
    }

    fn announced(&self, _: NodeId, _: Announcement) {}
    fn connected(&self, _: NodeId) {}
    fn disconnected(&self, _: NodeId) {}
}

/// How a rogue claims the honest agent.
#[derive(Debug, Clone, Copy)]
enum Claim {
    /// As his own.
    Own,
    /// As the honest owner's other node, to which the agent has moved.
    Moved,
    /// The same, with what the honest owner signed for its node.
    Stolen,
    /// As his own, with the salt of the honest owner's id.
    Salted,
}

/// A rogue, and the capability by which it is seen that its advert is known.
struct Rogue {
    mark: String,
    _mesh: Mesh,
}

impl Rogue {
    /// Joins `victim` and claims every agent of an honest advert.
    async fn join(pair: &Pair, victim: &Node, honest: &Advert, claim: Claim, number: usize) -> Self {
        let (key, owner) = (Key::generate(), Key::generate());
        let mark = format!("rogue{number}.count");
        let mut advert = honest.clone();
        advert.header = Header::new::<Advert>(pair.cluster.mesh_id(), Timestamp::now(), protocol::SignedDuration::from_secs(TTL_SECONDS));
        advert.node = key.node_id();
        let header = Header::new::<Ownership>(pair.cluster.mesh_id(), Timestamp::now(), protocol::SignedDuration::from_hours(1));
        let own = Signed::sign(Ownership { header, node: key.node_id(), owner: owner.did() }, &[&owner]);
        let offered = advert.services.iter_mut().flat_map(|service| &mut service.agents);
        match claim {
            Claim::Own => {
                offered.for_each(|offered| offered.salt = None);
                (advert.owner, advert.ownership) = (owner.did(), Some(own.into()));
            }
            Claim::Moved => {
                offered.for_each(|offered| offered.epoch = u64::MAX);
                advert.ownership = None;
            }
            Claim::Stolen => offered.for_each(|offered| offered.epoch = u64::MAX),
            Claim::Salted => (advert.owner, advert.ownership) = (owner.did(), Some(own.into())),
        }
        // One of its own, too, by which the advert is seen.
        let salt = IdSalt::random().expect("random");
        let salt = (advert.owner == owner.did()).then_some(salt);
        let id = salt.map_or_else(protocol::AgentId::new, |salt| salt.agent(owner.did(), Timestamp::now()));
        let mine = Offered { id, name: "mine".into(), epoch: 0, salt };
        advert.services.push(Service { plugin: format!("rogue{number}"), agents: vec![mine], ..honest.services[0].clone() });
        Self { mark, _mesh: enter(pair, victim, key, advert).await }
    }
}

/// A node that claims what an advert says, connected with `victim`.
async fn enter(pair: &Pair, victim: &Node, key: Key, advert: Advert) -> Mesh {
    let config = Config {
        listen: Listen { host: Ipv4Addr::LOCALHOST.into(), tcp: Some(0), quic: None, wss: None },
        private_addresses: true,
        ..Config::new(key.clone(), pair.cluster.mesh_id().clone())
    };
    let sealed = Signed::sign(advert, &[&key]).into();
    let mesh = Mesh::spawn(config, Arc::new(Claimant(sealed))).await.expect("a peer");
    mesh.join(victim.address("tcp"), PATIENCE).await.expect("the victim answers");
    mesh
}

/// What the provider tells of itself.
async fn honest_advert(pair: &Pair) -> Advert {
    let nobody = Advert::signer(&Key::generate().node_id());
    let config = Config {
        listen: Listen { host: Ipv4Addr::LOCALHOST.into(), tcp: Some(0), quic: None, wss: None },
        private_addresses: true,
        ..Config::new(Key::generate(), pair.cluster.mesh_id().clone())
    };
    let mesh = Mesh::spawn(config, Arc::new(crate::rogue::Deaf)).await.expect("a peer");
    mesh.join(pair.provider.address("tcp"), PATIENCE).await.expect("the provider answers");
    let asked = mesh.request(pair.provider.id(), Request::Advert, "rogue", PATIENCE).await.expect("an advert");
    let Response::Advert(sealed) = asked else { panic!("{asked:?}") };
    let signed = sealed.open(protocol::Expect::at(pair.cluster.mesh_id(), Timestamp::now())).expect("sound");
    assert_ne!(signed.signers(), [nobody]);
    signed.document().clone()
}

async fn propose(node: &Node, agent: &str) -> Result<AgreementState, Problem> {
    let agent = agent.to_owned();
    let propose = Propose { agent, node: None, methods: Vec::new(), template: "trial".into(), parameters: Default::default() };
    node.client().post("/v1/agreements", &propose).await
}

/// The nodes that a node believes to run the counter.
async fn found(node: &Node) -> Vec<NodeId> {
    let list: List<Discovered> = node.client().get("/v1/discover?capability=demo.count").await.expect("a list");
    list.items.iter().map(|found| found.node_id).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn another_members_claim_to_an_agent_stops_nobody() {
    let pair = Pair::new("auto").await;
    let (honest, agent) = (honest_advert(&pair).await, pair.agent.id.to_string());
    let mut rogues = Vec::new();
    for round in 0..rounds().max(4) {
        let claim = [Claim::Stolen, Claim::Salted, Claim::Own, Claim::Moved][round % 4];
        let rogue = Rogue::join(&pair, &pair.consumer, &honest, claim, round).await;
        if let Claim::Own | Claim::Moved = claim {
            pair.consumer.discovers(&rogue.mark, "").await;
        }
        rogues.push((claim, rogue));
        assert_eq!(found(&pair.consumer).await, [pair.provider.id()], "{claim:?}");
        // By its id, and by its name, which the rogues' claims have too.
        for name in [agent.as_str(), "counter"] {
            let state = propose(&pair.consumer, name).await.unwrap_or_else(|problem| panic!("{claim:?}, {name}: {problem}"));
            assert_eq!((state.terms.provider, state.terms.provider_node), (pair.provider.identity().owner, pair.provider.id()));
        }
        pair.count().await.expect("it counts");
    }
    // Whoever comes later hears of all of them at once.
    let late = pair.cluster.node("late").join().await;
    late.json(&["peers", "connect", &pair.consumer.id().to_string()]).await;
    for (claim, rogue) in &rogues {
        if let Claim::Own | Claim::Moved = claim {
            late.discovers(&rogue.mark, "").await;
        }
    }
    assert_eq!(found(&late).await, [pair.provider.id()]);
    propose(&late, &agent).await.expect("the honest one");
    late.execute(&agent, "count", &json!({})).await.expect("it counts");
    for (claim, rogue) in &rogues {
        if let Claim::Stolen | Claim::Salted = claim {
            // Where gossip told nothing, the mesh is asked, which may take longer than this.
            let asked: Result<List<Discovered>, _> =
                late.client().get(&format!("/v1/discover?capability={}&timeout_ms=1", rogue.mark)).await;
            assert!(!asked.is_ok_and(|list| !list.items.is_empty()), "{claim:?}: a false proof spoils all of the advert");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn anothers_agent_of_the_same_name_is_named_and_passed_over_once_one_is_known() {
    let pair = Pair::new("auto").await;
    let (key, owner, salt) = (Key::generate(), Key::generate(), IdSalt::random().expect("random"));
    let mut advert = honest_advert(&pair).await;
    let header = Header::new::<Ownership>(pair.cluster.mesh_id(), Timestamp::now(), protocol::SignedDuration::from_hours(1));
    advert.ownership = Some(Signed::sign(Ownership { header, node: key.node_id(), owner: owner.did() }, &[&owner]).into());
    (advert.node, advert.owner) = (key.node_id(), owner.did());
    let id = salt.agent(owner.did(), Timestamp::now());
    advert.services[0].agents = vec![Offered { id, name: "counter".into(), epoch: 0, salt: Some(salt) }];
    let node = advert.node;
    let _mesh = enter(&pair, &pair.consumer, key, advert).await;
    until("both to be known", async || (found(&pair.consumer).await.len() == 2).then_some(())).await;
    let several = propose(&pair.consumer, "counter").await.expect_err("which?");
    assert_eq!(several.code, Code::Conflict);
    for candidate in
        [format!("{id} of {} on node {node}", owner.did()), pair.agent.id.to_string(), pair.provider.identity().owner.to_string()]
    {
        assert!(several.detail.contains(&candidate), "{several}");
    }
    // By its id it is known at once, and then its provider is.
    propose(&pair.consumer, &pair.agent.id.to_string()).await.expect("one has this id");
    let state = propose(&pair.consumer, "counter").await.expect("the provider that is known");
    assert_eq!(state.terms.agent, pair.agent.id);
}
