//! What both sides run: a plugin whose method `count` reads a number from its agent's state, adds one and writes it back.

use std::collections::HashMap;

use anyhow::{Context as _, Result, ensure};
use kernel::fixture;
use parking_lot::Mutex;
use protocol::{Client, Digest, api, manifest::Import};
use serde::Deserialize;
use serde_json::value::RawValue;
use tests::Publisher;

/// The method.
pub(crate) const METHOD: &str = "count";
/// The name of the plugin.
pub(crate) const PLUGIN: &str = "counter";
/// Its parameters: as long as those of a small real call.
pub(crate) const PARAMS: &str =
    r#"{"path":"notes/2026/november.txt","text":"agents in a mesh, found by what they can do, run from anywhere"}"#;

/// The component.
pub(crate) fn component() -> Vec<u8> {
    fixture::misbehaving()
}

/// Registers the plugin at a node.
pub(crate) async fn register(node: &Client) -> Result<Digest> {
    let publisher = Publisher::new();
    let plugin = publisher.sign(PLUGIN, component(), &[Import::State]);
    let digest = Digest::blake3(&plugin.component);
    let _: api::Publisher = node.put(&format!("/v1/publishers/{}", publisher.key().did()), &api::Trust { name: "bench".into() }).await?;
    let _: Digest = node.put_bytes(&format!("/v1/blobs/{digest}"), plugin.component).await?;
    let _: api::Plugin = node.post("/v1/plugins", &api::RegisterPlugin { manifest: plugin.manifest }).await?;
    Ok(digest)
}

/// Spawns an agent of a registered component.
pub(crate) async fn spawn(node: &Client, component: Digest, name: &str) -> Result<api::Agent> {
    let spawn = api::Spawn { name: name.into(), component, pricing: None, limits: None, grants: Default::default() };
    Ok(node.post("/v1/agents", &spawn).await?)
}

/// Calls `count` of an agent by id or name; what it counted.
pub(crate) async fn count(node: &Client, agent: &str) -> Result<u64> {
    let params = RawValue::from_string(PARAMS.into())?;
    let execute = api::Execute { method: METHOD.into(), params, agreement: None, timeout_ms: None };
    let executed: api::Executed = node.post(&format!("/v1/agents/{agent}/execute"), &execute).await?;
    counted(executed.result.get().as_bytes())
}

/// Reads the answer `{"count":n}`.
pub(crate) fn counted(result: &[u8]) -> Result<u64> {
    #[derive(Deserialize)]
    struct Counted {
        count: u64,
    }
    let counted: Counted = serde_json::from_slice(result).with_context(|| String::from_utf8_lossy(result).into_owned())?;
    Ok(counted.count)
}

/// Holds every answer against those before: an agent counts each number once. A fast side that loses writes is no side.
#[derive(Debug, Default)]
pub(crate) struct Tally(Mutex<HashMap<usize, (u64, u64)>>);

impl Tally {
    /// Takes an answer of an agent.
    pub(crate) fn take(&self, agent: usize, count: u64) {
        let mut agents = self.0.lock();
        let (answers, highest) = agents.entry(agent).or_default();
        *answers += 1;
        *highest = (*highest).max(count);
    }

    /// All answers that were taken.
    pub(crate) fn answers(&self) -> u64 {
        self.0.lock().values().map(|(answers, _)| answers).sum()
    }

    /// Fails if an agent has counted other than it has answered.
    pub(crate) fn check(&self, side: &str) -> Result<()> {
        for (agent, (answers, highest)) in &*self.0.lock() {
            ensure!(answers == highest, "{side}: agent {agent} answered {answers} calls and counted to {highest}");
        }
        Ok(())
    }
}
