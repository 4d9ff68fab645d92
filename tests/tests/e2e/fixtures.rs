//! What several suites set up alike.

use protocol::{
    AgreementId, Problem, Signed,
    agreement::Status,
    api::{Agent, AgreementState, Executed, Propose},
    manifest::{Health, Import},
};
use serde_json::{Value, json};
use tests::{Bootstrap, Cluster, Node, Plugin, Publisher, until};

/// The docs plugin's component, as mcpctl carries it.
pub(crate) fn docs() -> Vec<u8> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../mcpctl/plugins/docs/docs.wasm");
    std::fs::read(path).unwrap_or_else(|error| panic!("{path}: {error}; mcpctl/plugins/docs/build.sh makes it"))
}

/// A plugin whose methods do what a sandbox must withstand, and a durable counter.
pub(crate) fn counter() -> Vec<u8> {
    kernel::fixture::misbehaving()
}

/// The counter's component with a custom section: another release that does the same.
pub(crate) fn release(publisher: &Publisher, name: &str, mark: u8, health: Option<&str>) -> Plugin {
    let component = [&counter()[..], &[0, 2, 1, mark]].concat();
    let mut manifest = publisher.manifest(name, &component, &[Import::State]);
    manifest.release = format!("0.{mark}.0");
    manifest.health = health.map(|method| Health { method: method.into(), params: json!({}) });
    Plugin { component: component.into(), manifest: Signed::sign(manifest, &[publisher.key()]).into() }
}

/// A consumer, a provider with an agent `counter` of plugin `demo`, and the bootstrap node between them.
pub(crate) struct Pair {
    pub(crate) consumer: Node,
    pub(crate) provider: Node,
    pub(crate) agent: Agent,
    pub(crate) _bootstrap: Bootstrap,
    pub(crate) cluster: Cluster,
}

impl Pair {
    /// A provider whose policy is `accept`.
    pub(crate) async fn new(accept: &str) -> Self {
        Self::with(&[("agreements.accept", accept)]).await
    }

    /// A provider with these settings.
    pub(crate) async fn with(settings: &[(&str, &str)]) -> Self {
        let (cluster, bootstrap) = Cluster::with_bootstrap().await;
        let provider = settings.iter().fold(cluster.node("provider"), |node, (key, value)| node.set(key, value)).join().await;
        let agent = provider.host("counter", "demo", counter()).await;
        let consumer = cluster.node("consumer").join().await;
        consumer.discovers("demo.count", "").await;
        Self { consumer, provider, agent, _bootstrap: bootstrap, cluster }
    }

    /// A pair with an active agreement.
    pub(crate) async fn agreed(parameters: &[(&str, &str)]) -> (Self, AgreementState) {
        let pair = Self::new("auto").await;
        let state = pair.propose(parameters).await.expect("the policy accepts");
        assert_eq!(state.status, Status::Active);
        (pair, state)
    }

    pub(crate) async fn propose(&self, parameters: &[(&str, &str)]) -> Result<AgreementState, Problem> {
        let parameters = parameters.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let propose = Propose { agent: self.agent.id.to_string(), node: None, methods: Vec::new(), template: "trial".into(), parameters };
        self.consumer.client().post("/v1/agreements", &propose).await
    }

    /// The consumer calls the provider's agent.
    pub(crate) async fn call(&self, method: &str, params: &Value) -> Result<Executed, Problem> {
        self.consumer.execute(&self.agent.id.to_string(), method, params).await
    }

    /// The consumer calls the provider's counter.
    pub(crate) async fn count(&self) -> Result<Executed, Problem> {
        self.call("count", &json!({})).await
    }
}

/// Waits until a node has an agreement at a status.
pub(crate) async fn reaches(node: &Node, id: AgreementId, status: Status) -> AgreementState {
    until(&format!("{id} to be {status}"), async || node.agreement(id).await.filter(|state| state.status == status)).await
}
