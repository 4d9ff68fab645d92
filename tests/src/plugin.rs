//! Signed plugins, and how an operator runs them.

use bytes::Bytes;
use protocol::{
    Digest, Header, Key, MeshId, Problem, Signed, SignedDuration, Timestamp,
    api::{self, Agent, Limits, RegisterPlugin, Spawn, Trust},
    document::Sealed,
    grant::Grants,
    manifest::{INTERFACE, Import, Manifest},
};

use crate::node::Node;

/// Who signs plugins.
#[derive(Debug)]
pub struct Publisher {
    key: Key,
}

/// A component and what its publisher says of it.
#[derive(Debug, Clone)]
pub struct Plugin {
    /// The component.
    pub component: Bytes,
    /// The signed manifest.
    pub manifest: Sealed<Manifest>,
}

impl Publisher {
    /// A publisher whom nobody knows.
    pub fn new() -> Self {
        Self { key: Key::generate() }
    }

    /// Its key.
    pub fn key(&self) -> &Key {
        &self.key
    }

    /// Its statement about a component, unsigned.
    pub fn manifest(&self, name: &str, component: &[u8], imports: &[Import]) -> Manifest {
        Manifest {
            header: Header::new::<Manifest>(&MeshId::any(), Timestamp::now(), SignedDuration::from_hours(24)),
            name: name.into(),
            release: "0.1.0".into(),
            publisher: self.key.did(),
            component: Digest::blake3(component),
            size: component.len() as u64,
            interface: INTERFACE.into(),
            imports: imports.to_vec(),
            health: None,
        }
    }

    /// Signs a component.
    pub fn sign(&self, name: &str, component: impl Into<Bytes>, imports: &[Import]) -> Plugin {
        let component = component.into();
        let manifest = Signed::sign(self.manifest(name, &component, imports), &[&self.key]).into();
        Plugin { component, manifest }
    }
}

impl Default for Publisher {
    fn default() -> Self {
        Self::new()
    }
}

impl Node {
    /// Its operator trusts a publisher.
    pub async fn trust(&self, publisher: &Publisher) {
        let path = format!("/v1/publishers/{}", publisher.key.did());
        let _: api::Publisher = self.client().put(&path, &Trust { name: "tests".into() }).await.expect("the owner may trust");
    }

    /// Uploads and registers a plugin.
    pub async fn register(&self, plugin: &Plugin) -> Result<api::Plugin, Problem> {
        let path = format!("/v1/blobs/{}", Digest::blake3(&plugin.component));
        let _: Digest = self.client().put_bytes(&path, plugin.component.clone()).await?;
        self.client().post("/v1/plugins", &RegisterPlugin { manifest: plugin.manifest.clone() }).await
    }

    /// Runs a registered plugin as an agent.
    pub async fn spawn(&self, name: &str, plugin: &Plugin, limits: Option<Limits>) -> Result<Agent, Problem> {
        self.spawn_with(name, plugin, limits, Grants::default()).await
    }

    /// Runs a registered plugin as an agent that may reach something.
    pub async fn spawn_with(&self, name: &str, plugin: &Plugin, limits: Option<Limits>, grants: Grants) -> Result<Agent, Problem> {
        let (component, limits) = (Digest::blake3(&plugin.component), limits.map(Into::into));
        self.client().post("/v1/agents", &Spawn { name: name.into(), component, pricing: None, limits, grants }).await
    }

    /// Trusts a publisher of its own, and runs a component as an agent, with access to its state.
    pub async fn host(&self, agent: &str, plugin: &str, component: impl Into<Bytes>) -> Agent {
        let publisher = Publisher::new();
        let plugin = publisher.sign(plugin, component, &[Import::State]);
        self.trust(&publisher).await;
        self.register(&plugin).await.expect("the plugin is sound");
        self.spawn(agent, &plugin, None).await.expect("the agent is new")
    }
}
