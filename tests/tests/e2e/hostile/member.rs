//! A member of the mesh that claims what belongs to others.

use std::{net::Ipv4Addr, sync::Arc};

use async_trait::async_trait;
use mesh::{Config, Handler, Items, Keys, Listen, Mesh, Papers};
use parking_lot::Mutex;
use protocol::{
    AgentId, Code, Header, Key, NodeId, Problem, Signed, SignedDuration, Timestamp,
    advert::{Advert, Offered, Service},
    agreement::Pricing,
    claim::Ownership,
    custody::{Custody, Holding, Possession},
    document::Sealed,
    wire::{self, Announcement, Request, Response},
};
use serde_json::json;
use tests::{Node, PATIENCE, until};

use crate::{
    membership::token,
    moving::{Estate, count},
};

/// What a node of the same owner says of an agent that it is given, holding nothing of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lie {
    /// "It is so", without any statement.
    Unsigned,
    /// A statement signed by another key.
    Forged,
    /// A signed statement about another state.
    AnotherState,
    /// A signed statement about another epoch.
    AnotherEpoch,
    /// First that it did not adopt the agent, then that it did.
    Both,
    /// That it did not adopt it; then it offers the agent in its advert.
    Denied,
    /// All that a true statement has, copied from what it was sent.
    Copied,
}

/// A node of somebody's own that lies to the others.
struct Liar {
    key: Key,
    mesh: protocol::MeshId,
    lie: Lie,
    /// What it was last asked to hold, and the papers that it was asked to adopt with.
    given: Mutex<Option<Possession>>,
    asked: Mutex<u32>,
    advert: Option<Sealed<Advert>>,
}

impl Liar {
    fn statement(&self, agent: AgentId, epoch: u64, adopted: bool) -> Response {
        let given = *self.given.lock();
        let state = match self.lie {
            Lie::AnotherState => given.map(|given| Possession { keys: given.keys + 1, ..given }),
            _ => given,
        };
        let epoch = if self.lie == Lie::AnotherEpoch { epoch + 1 } else { epoch };
        let header = Header::new::<Holding>(&self.mesh, Timestamp::now(), SignedDuration::from_hours(1));
        let said = Holding { header, node: self.key.node_id(), agent, epoch, adopted, state: state.filter(|_| adopted) };
        let forger = Key::generate();
        Response::Holding(Box::new(Signed::sign(said, &[if self.lie == Lie::Forged { &forger } else { &self.key }]).into()))
    }

    fn claim(&self, agent: AgentId, epoch: u64) -> Result<Response, Problem> {
        let mut asked = self.asked.lock();
        *asked += 1;
        match self.lie {
            Lie::Unsigned => Ok(Response::Done),
            Lie::Both => Ok(self.statement(agent, epoch, *asked > 1)),
            Lie::Denied => Ok(self.statement(agent, epoch, false)),
            Lie::Forged | Lie::AnotherState | Lie::AnotherEpoch | Lie::Copied => Ok(self.statement(agent, epoch, true)),
        }
    }
}

#[async_trait]
impl Handler for Liar {
    async fn request(&self, _: NodeId, request: Request, _: &str, _: tokio::time::Instant) -> Result<Response, Problem> {
        let Request::Custody(custody) = request else { return Err(Problem::new(Code::NotFound, "there is nothing here")) };
        match *custody {
            Custody::Hold(hold) => {
                let signed = hold.snapshot.open(protocol::Expect::archived(&protocol::MeshId::any())).expect("the owner's");
                let said = signed.document();
                let (index, keys, bytes) = (said.index, said.keys, said.bytes);
                *self.given.lock() = Some(Possession { snapshot: said.id, index, keys, bytes, papers: None });
                Ok(Response::Done)
            }
            Custody::Welcome(_) | Custody::Release(_) | Custody::Branch(_) => Ok(Response::Done),
            Custody::Adopt(adopt) => {
                if let Some(given) = self.given.lock().as_mut() {
                    (given.snapshot, given.papers) = (adopt.snapshot, Some(adopt.papers));
                }
                self.claim(adopt.agent, adopt.epoch)
            }
            Custody::Settle { agent, epoch, .. } => self.claim(agent, epoch),
            Custody::Held(_) | Custody::Chunks(_) | Custody::Hears(_) | Custody::Lives(_) => {
                Err(Problem::new(Code::NotFound, "there is nothing here"))
            }
        }
    }

    async fn stream(
        &self,
        from: NodeId,
        request: Request,
        request_id: &str,
        deadline: tokio::time::Instant,
        items: Items,
    ) -> Result<Response, Problem> {
        match (&request, &self.advert) {
            (Request::Adverts(_), Some(advert)) => {
                items.send(wire::encode(advert)).await?;
                Ok(Response::Done)
            }
            _ => self.request(from, request, request_id, deadline).await,
        }
    }

    fn announced(&self, _: NodeId, _: Announcement) {}
    fn connected(&self, _: NodeId) {}
    fn disconnected(&self, _: NodeId) {}
}

/// A node of the same owner, whose papers a liar takes over.
struct Stolen {
    keys: Keys,
    papers: Papers,
}

impl Stolen {
    async fn from(estate: &Estate) -> Self {
        let token = token(&estate.home, &["--uses", "1"]).await;
        let mut node = estate.cluster.lone_node("liar").owned_as(&estate.home).start().await;
        node.json(&["join", &token]).await;
        node.look_again().await;
        node.is_connected(estate.home.id()).await;
        let directory = node.directory().to_owned();
        node.stop().await;
        let key = |name: &str| Key::from_pem(&std::fs::read_to_string(directory.join(name)).expect("a key")).expect("a key");
        let keys = Keys { node: key("node.key"), owner: Arc::new(key("owner.key")) };
        Self { keys, papers: Papers::at(&directory) }
    }

    /// Connects with a node, to tell it this lie.
    async fn lies(&self, to: &Node, lie: Lie, advert: Option<Sealed<Advert>>) -> Mesh {
        let membership = self.papers.membership(None, &self.keys, None, Timestamp::now()).expect("read").expect("a member");
        let liar = Liar {
            key: self.keys.node.clone(),
            mesh: membership.mesh().clone(),
            lie,
            given: Mutex::default(),
            asked: Mutex::default(),
            advert,
        };
        let config = Config {
            membership: Arc::new(membership),
            listen: Listen { host: Ipv4Addr::LOCALHOST.into(), tcp: Some(0), quic: None, wss: None },
            private_addresses: true,
            ..Config::new(self.keys.node.clone(), liar.mesh.clone())
        };
        let mesh = Mesh::spawn(config, Arc::new(liar)).await.expect("a peer");
        mesh.join(to.address("tcp"), PATIENCE).await.expect("the node answers");
        to.is_connected(self.keys.node.node_id()).await;
        mesh
    }

    /// An advert in which it offers an agent that it never had.
    async fn advert(&self, estate: &Estate, epoch: u64) -> Sealed<Advert> {
        let offered = Offered { id: estate.agent.id, name: "counter".into(), epoch, salt: None };
        let mesh = &estate.home.identity().mesh_id;
        let header = Header::new::<Ownership>(mesh, Timestamp::now(), SignedDuration::from_hours(1));
        let ownership = Ownership { header, node: self.keys.node.node_id(), owner: self.keys.owner.did() };
        let ownership = Signed::sign_by(ownership, self.keys.owner.as_ref()).await.expect("signed");
        let service = Service {
            plugin: "demo".into(),
            release: "0.1.0".into(),
            component: estate.agent.plugins[0].component,
            methods: Vec::new(),
            pricing: Pricing::free(),
            agents: vec![offered],
        };
        let advert = Advert {
            header: Header::new::<Advert>(&estate.home.identity().mesh_id, Timestamp::now(), SignedDuration::from_secs(60)),
            node: self.keys.node.node_id(),
            owner: self.keys.owner.did(),
            sequence: u64::try_from(Timestamp::now().as_millisecond()).expect("after 1970"),
            zone: None,
            load: 0,
            addresses: Vec::new(),
            lineage: Vec::new(),
            ownership: Some(ownership.into()),
            services: vec![service],
        };
        Signed::sign(advert, &[&self.keys.node]).into()
    }
}

/// The owner's own node says that it took an agent over, or that it didn't, and lies. The home deletes nothing that was not proved
/// to be elsewhere, goes on in an epoch of its own, and keeps what proves the lie.
#[tokio::test(flavor = "multi_thread")]
async fn a_home_is_not_talked_out_of_its_agent_by_another_node_of_its_owner() {
    let estate = Estate::new().await;
    let (home, id) = (&estate.home, estate.agent.id.to_string());
    let stolen = Stolen::from(&estate).await;
    let to = stolen.keys.node.node_id().to_string();
    let mut written = count(home).await;
    let epoch = async || home.json(&["agent", "show", "counter"]).await["epoch"].as_u64().expect("a number");
    let lies = [Lie::Unsigned, Lie::Forged, Lie::AnotherState, Lie::AnotherEpoch, Lie::Both, Lie::Denied];
    for lie in lies.into_iter().cycle().take(lies.len() * super::rounds().div_ceil(4)) {
        let mesh = stolen.lies(home, lie, None).await;
        let before = epoch().await;
        let answer = home.mcpctl(&["agent", "move", "counter", "--to", &to, "--json"]).await.exits(1).json();
        if lie == Lie::Denied {
            assert_ne!(answer["code"], "agent_moving", "it is known where it lives: {answer}");
        } else {
            assert_eq!(answer["code"], "agent_moving", "{lie:?}: {answer}");
            home.json(&["agent", "move", "counter", "--stay"]).await;
        }
        written += 1;
        assert_eq!(count(home).await, written, "{lie:?}: its state is there");
        assert_eq!(epoch().await, before + 2, "{lie:?}: not the epoch that the liar might claim");
        mesh.shutdown().await;
    }
    assert!(home.log().contains("one of them is a lie"), "both statements of the liar are kept");

    // It offers what it signed not to have.
    let mesh = stolen.lies(home, Lie::Denied, Some(stolen.advert(&estate, epoch().await - 1).await)).await;
    until("the liar to be exposed", async || home.log().contains("signed not to have adopted").then_some(())).await;
    written += 1;
    assert_eq!(count(home).await, written, "it lives on where it was");
    mesh.shutdown().await;

    // One that copies a proof is believed for now, and what it was given is kept, whatever it asks for.
    let mesh = stolen.lies(home, Lie::Copied, None).await;
    home.json(&["agent", "move", "counter", "--to", &to]).await;
    let release = Request::Custody(Box::new(Custody::Release(estate.agent.id)));
    mesh.request(home.id(), release, "liar", PATIENCE).await.expect("taken");
    let kept = home.json(&["agent", "snapshots", &id]).await;
    assert_eq!(kept["items"][0]["retained"]["home"], json!(to), "{kept}");
    mesh.shutdown().await;
    home.json(&["agent", "recover", "counter", "--from-mesh"]).await;
    assert_eq!(count(home).await, written + 1, "nothing was lost");
}
