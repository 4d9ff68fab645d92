//! A peer that speaks the mesh's protocol and keeps to no other rule.

use std::{net::Ipv4Addr, sync::Arc, time::Duration};

use async_trait::async_trait;
use mesh::{Config, Handler, Listen, Mesh};
use protocol::{
    AgentId, AgreementId, Code, Header, Key, NodeId, Problem, Signed, SignedDuration, Timestamp,
    agreement::{Agreement, AtLimit, Limit, PerCall, Pricing, Quantity, Window},
    document::Sealed,
    receipt::Receipt,
    wire::{Announcement, Execute, Executed, Request, Response},
};
use tests::{Node, PATIENCE};

use crate::fixtures::Pair;

/// The peer.
pub(crate) struct Rogue {
    pub(crate) owner: Key,
    mesh: Mesh,
    pair: Terms,
}

/// What it knows of the provider.
struct Terms {
    provider: protocol::api::Identity,
    agent: AgentId,
}

/// Answers nothing.
pub(crate) struct Deaf;

#[async_trait]
impl Handler for Deaf {
    async fn request(&self, _: NodeId, _: Request, _: &str, _: tokio::time::Instant) -> Result<Response, Problem> {
        Err(Problem::new(Code::NotFound, "there is nothing here"))
    }

    fn announced(&self, _: NodeId, _: Announcement) {}
    fn connected(&self, _: NodeId) {}
    fn disconnected(&self, _: NodeId) {}
}

impl Rogue {
    /// Connects to the provider.
    pub(crate) async fn join(pair: &Pair) -> Self {
        Self::meet(&pair.provider, pair.agent.id, Key::generate(), Key::generate()).await
    }

    /// Connects to a provider with these keys: of the node, and of its owner.
    pub(crate) async fn meet(provider: &Node, agent: AgentId, node: Key, owner: Key) -> Self {
        let config = Config {
            listen: Listen { host: Ipv4Addr::LOCALHOST.into(), tcp: Some(0), quic: None, wss: None },
            private_addresses: true,
            ..Config::new(node, provider.identity().mesh_id.clone())
        };
        let mesh = Mesh::spawn(config, Arc::new(Deaf)).await.expect("a peer");
        mesh.join(provider.address("tcp"), PATIENCE).await.expect("the provider answers");
        Self { owner, mesh, pair: Terms { provider: provider.identity().clone(), agent } }
    }

    /// Terms that the provider would take: free, five calls, valid for a while.
    pub(crate) fn terms(&self, valid: Duration) -> Agreement {
        let Terms { provider, agent } = &self.pair;
        let valid = SignedDuration::try_from(valid).expect("short");
        Agreement {
            header: Header::new::<Agreement>(&provider.mesh_id, Timestamp::now(), valid),
            id: AgreementId::new(),
            provider: provider.owner,
            provider_node: provider.node_id,
            consumer: self.owner.did(),
            consumer_node: self.mesh.node_id(),
            agent: *agent,
            methods: Vec::new(),
            template: "trial".into(),
            limits: vec![Limit { quantity: Quantity::Calls, window: Window::Total, max: 5 }],
            per_call: PerCall { fuel: 1_000_000_000, wall_ms: 10_000, result_bytes: 1 << 20 },
            pricing: Pricing::free(),
            at_limit: AtLimit::Deny,
        }
    }

    /// Proposes terms, signed as they should be.
    pub(crate) async fn propose(&self, terms: &Agreement) -> Result<Sealed<Agreement>, Problem> {
        self.propose_signed(Signed::sign(terms.clone(), &[&self.owner]).into()).await
    }

    /// Proposes whatever it is.
    pub(crate) async fn propose_signed(&self, sealed: Sealed<Agreement>) -> Result<Sealed<Agreement>, Problem> {
        match self.ask(Request::Propose(sealed)).await? {
            Response::Agreement(answer) => Ok(answer),
            other => panic!("{other:?}"),
        }
    }

    /// Accepts in the provider's stead.
    pub(crate) async fn accept(&self, sealed: Sealed<Agreement>) -> Result<Response, Problem> {
        self.ask(Request::Accept(sealed)).await
    }

    /// Calls the counter under an agreement.
    pub(crate) async fn count(&self, agreement: Option<AgreementId>) -> Result<Executed, Problem> {
        self.count_with(agreement, None).await
    }

    /// The same, with a receipt that it has signed, or claims to have.
    pub(crate) async fn count_with(
        &self,
        agreement: Option<AgreementId>,
        acknowledged: Option<Sealed<Receipt>>,
    ) -> Result<Executed, Problem> {
        let execute = Execute {
            agent: self.pair.agent,
            method: "count".into(),
            params: "{}".into(),
            agreement,
            idempotency_key: None,
            acknowledged,
            chain: Vec::new(),
        };
        match self.ask(Request::Execute(execute)).await? {
            Response::Executed(executed) => Ok(*executed),
            other => panic!("{other:?}"),
        }
    }

    /// Asks the provider for anything.
    pub(crate) async fn ask(&self, request: Request) -> Result<Response, Problem> {
        self.mesh.request(self.pair.provider.node_id, request, "rogue", PATIENCE).await
    }
}
