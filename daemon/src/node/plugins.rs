//! Plugins on this node: registered from a signed manifest of a trusted publisher, loaded on first use.

use std::{collections::HashMap, sync::Arc};

use kernel::Kernel;
use parking_lot::Mutex;
use protocol::{
    Code, Did, Digest, Expect, MeshId, Problem, Signed, Timestamp,
    advert::Method,
    api,
    document::Sealed,
    entry::Action,
    manifest::{Health, Manifest},
};
use serde::{Deserialize, Serialize};
use store::{Blobs, Commit, Kind, RecordWrite};
use tokio::sync::OnceCell;

use super::{
    Caller,
    grants::Allowed,
    journal::{self, Journal},
    revoked::Revoked,
};

/// Components that stay loaded; the least is dropped by whoever goes beyond. Their code is mapped, not resident.
const MAX_LOADED: usize = 256;

/// The plugins of this node.
#[derive(Debug)]
pub(crate) struct Plugins {
    journal: Journal,
    blobs: Blobs,
    kernel: Kernel,
    mesh: MeshId,
    allowed: Allowed,
    revoked: Revoked,
    loaded: Mutex<HashMap<Digest, Arc<OnceCell<kernel::Plugin>>>>,
}

/// What the store keeps of a plugin.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Record {
    manifest: Sealed<Manifest>,
    methods: Vec<Method>,
}

impl Plugins {
    /// How much of the sandbox's places is taken, in percent.
    pub(crate) fn occupancy(&self) -> u8 {
        self.kernel.occupancy()
    }

    pub(crate) fn new(journal: Journal, blobs: Blobs, kernel: Kernel, mesh: MeshId, (allowed, revoked): (Allowed, Revoked)) -> Self {
        Self { journal, blobs, kernel, mesh, allowed, revoked, loaded: Mutex::default() }
    }

    /// What this node allows plugins.
    pub(super) fn allowed(&self) -> &Allowed {
        &self.allowed
    }

    /// The way to the web.
    pub(super) fn egress(&self) -> &crate::egress::Egress {
        &self.allowed.egress
    }

    /// The components that don't run here.
    pub(crate) fn revoked(&self) -> &Revoked {
        &self.revoked
    }

    /// The blobs.
    pub(crate) fn blobs(&self) -> &Blobs {
        &self.blobs
    }

    /// The sandbox.
    pub(crate) fn kernel(&self) -> &Kernel {
        &self.kernel
    }

    /// Checks the manifest, compiles the component, and remembers both.
    pub(crate) async fn register(&self, caller: &Caller, manifest: Sealed<Manifest>) -> Result<api::Plugin, Problem> {
        let signed = self.verify(manifest.clone()).await?;
        let plugin = self.load(signed.document()).await?;
        let record = Record { manifest, methods: plugin.methods().to_vec() };
        let plugin = self.describe(signed.document(), record.methods.clone());
        let action = Action::Plugin { component: plugin.component, plugin: Some(format!("{}@{}", plugin.name, plugin.release)) };
        self.write(caller, (Kind::Plugin, plugin.component.to_string()), Some(journal::encode(&record)), action).await?;
        Ok(plugin)
    }

    /// A registered plugin.
    pub(crate) async fn get(&self, component: &Digest) -> Result<api::Plugin, Problem> {
        let record = self.record(component).await?;
        let signed = record.manifest.open(Expect::archived(&self.mesh))?;
        Ok(self.describe(signed.document(), record.methods))
    }

    /// Every registered plugin.
    pub(crate) async fn list(&self) -> Result<Vec<api::Plugin>, Problem> {
        let records = journal::all_records(self.journal.store().as_ref(), Kind::Plugin).await?;
        let read = |(_, bytes): (String, Vec<u8>)| {
            let record: Record = journal::decode("plugin", &bytes)?;
            let signed = record.manifest.open(Expect::archived(&self.mesh))?;
            Ok(self.describe(signed.document(), record.methods))
        };
        records.into_iter().map(read).collect()
    }

    /// Forgets a plugin, and deletes its component. `in_use` tells what still needs it.
    pub(crate) async fn remove(&self, caller: &Caller, component: &Digest, in_use: Option<String>) -> Result<(), Problem> {
        self.record(component).await?;
        if let Some(by) = in_use {
            return Err(Problem::new(Code::Conflict, format!("plugin {component} is needed by {by}"))
                .hint("terminate or upgrade what needs it first"));
        }
        let action = Action::Plugin { component: *component, plugin: None };
        self.write(caller, (Kind::Plugin, component.to_string()), None, action).await?;
        self.loaded.lock().remove(component);
        self.blobs.remove(component).await?;
        Ok(())
    }

    /// The loaded plugin of a component, if that isn't revoked. Its publisher must be trusted still when it is loaded.
    pub(crate) async fn loaded(&self, component: &Digest) -> Result<kernel::Plugin, Problem> {
        self.revoked.check(component)?;
        let cell = {
            let mut loaded = self.loaded.lock();
            if loaded.len() >= MAX_LOADED && !loaded.contains_key(component) {
                loaded.retain(|_, cell| Arc::strong_count(cell) > 1);
                if let Some(any) = loaded.keys().next().copied().filter(|_| loaded.len() >= MAX_LOADED) {
                    loaded.remove(&any);
                }
            }
            Arc::clone(loaded.entry(*component).or_default())
        };
        let load = || async {
            let signed = self.verify(self.record(component).await?.manifest).await?;
            self.load(signed.document()).await
        };
        cell.get_or_try_init(load).await.cloned()
    }

    async fn load(&self, manifest: &Manifest) -> Result<kernel::Plugin, Problem> {
        self.allowed.check(&manifest.imports)?;
        let missing = || {
            Problem::new(Code::NotFound, format!("component {} was not uploaded", manifest.component)).hint("PUT /v1/blobs/<digest> first")
        };
        let component = self.blobs.get(&manifest.component).await?.ok_or_else(missing)?;
        Ok(self.kernel.load(&component, manifest).await?)
    }

    /// The manifest of a registered plugin.
    pub(crate) async fn manifest(&self, component: &Digest) -> Result<Sealed<Manifest>, Problem> {
        Ok(self.record(component).await?.manifest)
    }

    /// The health check that a registered plugin declares.
    pub(crate) async fn health(&self, component: &Digest) -> Result<Option<Health>, Problem> {
        let signed = self.record(component).await?.manifest.open(Expect::archived(&self.mesh))?;
        Ok(signed.document().health.clone())
    }

    async fn record(&self, component: &Digest) -> Result<Record, Problem> {
        let bytes = self.journal.store().record(Kind::Plugin, &component.to_string()).await?;
        let missing = || Problem::new(Code::NotFound, format!("no plugin {component} is registered on this node"));
        journal::decode("plugin", &bytes.ok_or_else(missing)?)
    }

    /// Whether a manifest is genuine, its publisher trusted here, and its component not revoked.
    pub(crate) async fn verify(&self, manifest: Sealed<Manifest>) -> Result<Signed<Manifest>, Problem> {
        let signed = manifest.open(Expect::at(&self.mesh, Timestamp::now()))?;
        let publisher = signed.document().publisher;
        signed.require(publisher)?;
        self.revoked.check(&signed.document().component)?;
        if self.journal.store().record(Kind::Publisher, &publisher.to_string()).await?.is_none() {
            let name = &signed.document().name;
            return Err(Problem::new(
                Code::UntrustedPublisher,
                format!("publisher {publisher} of plugin {name} is not trusted on this node"),
            )
            .hint(format!("if you trust it: mcpctl plugin trust {publisher} --name NAME")));
        }
        Ok(signed)
    }

    /// Trusts a publisher.
    pub(crate) async fn trust(&self, caller: &Caller, did: Did, name: String) -> Result<api::Publisher, Problem> {
        if name.is_empty() || name.len() > 64 {
            return Err(Problem::new(Code::InvalidRequest, "a publisher's name has 1 to 64 bytes"));
        }
        let publisher = api::Publisher { did, name, trusted_at: Timestamp::now() };
        let action = Action::Publisher { publisher: did, trusted: true };
        self.write(caller, (Kind::Publisher, did.to_string()), Some(journal::encode(&publisher)), action).await?;
        Ok(publisher)
    }

    /// No longer trusts a publisher: its plugins are not loaded again.
    pub(crate) async fn untrust(&self, caller: &Caller, did: Did) -> Result<(), Problem> {
        if self.journal.store().record(Kind::Publisher, &did.to_string()).await?.is_none() {
            return Err(Problem::new(Code::NotFound, format!("publisher {did} is not trusted")));
        }
        self.write(caller, (Kind::Publisher, did.to_string()), None, Action::Publisher { publisher: did, trusted: false }).await?;
        self.loaded.lock().clear();
        Ok(())
    }

    async fn write(&self, caller: &Caller, (kind, id): (Kind, String), value: Option<Vec<u8>>, action: Action) -> Result<(), Problem> {
        let entry = self.journal.append(caller.note(), action);
        let records = vec![RecordWrite { kind, id, value }];
        self.journal.keep(Commit { records, entry: Some(entry), ..Commit::default() }).await.map(drop)
    }

    /// The publishers that are trusted.
    pub(crate) async fn publishers(&self) -> Result<Vec<api::Publisher>, Problem> {
        let records = journal::all_records(self.journal.store().as_ref(), Kind::Publisher).await?;
        records.iter().map(|(_, bytes)| journal::decode("publisher", bytes)).collect()
    }

    fn describe(&self, manifest: &Manifest, methods: Vec<Method>) -> api::Plugin {
        api::Plugin {
            name: manifest.name.clone(),
            release: manifest.release.clone(),
            publisher: manifest.publisher,
            component: manifest.component,
            imports: manifest.imports.clone(),
            methods,
            revoked: self.revoked.get(&manifest.component),
        }
    }
}
