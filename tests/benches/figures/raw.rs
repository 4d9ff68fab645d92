//! The yardstick of execution: the same parts without a node around them.
//!
//! ```text
//! gate (one call of an agent at a time) ─► view ─► sandbox ─► group commit of state and a trace entry, durable
//! ```
//! The entry is bytes of the length that a node's has; nothing is hashed, signed, decided or encoded for each call.

use std::{path::Path, sync::Arc};

use anyhow::{Context as _, Result};
use async_trait::async_trait;
use kernel::{Call, Compiler, Config, Kernel, Plugin, State, StateError};
use protocol::{AgentId, Digest, Key, OperationId, Usage, api::Limits, entry, manifest::Import, merkle::Hash};
use store::{Append, Commit, Committer, Sqlite, StateWrites, Store, View, Write};
use tests::Publisher;
use tokio::sync::Mutex;

use crate::counter;

/// A sandbox, a store, and agents in it.
#[derive(Debug)]
pub(crate) struct Raw {
    kernel: Kernel,
    plugin: Plugin,
    store: Arc<dyn Store>,
    committer: Committer,
    /// An agent's mutating calls are serial, as on a node: each reads what the one before wrote.
    agents: Vec<Arc<Mutex<AgentId>>>,
    entry: Vec<u8>,
}

impl Raw {
    /// Opens the parts in a directory, with so many agents.
    pub(crate) async fn open(directory: &Path, agents: usize) -> Result<Self> {
        std::fs::create_dir_all(directory)?;
        let kernel = Kernel::new(Config::new(directory.join("cache"), [1; 32], Compiler::InProcess))?;
        let component = counter::component();
        let manifest = Publisher::new().manifest(counter::PLUGIN, &component, &[Import::State]);
        let plugin = kernel.load(&component, &manifest).await?;
        let store: Arc<dyn Store> = Arc::new(Sqlite::open(&directory.join("store.sqlite"))?);
        let agents = (0..agents).map(|_| Arc::new(Mutex::new(AgentId::new()))).collect();
        Ok(Self { kernel, plugin, committer: Committer::spawn(Arc::clone(&store)), store, agents, entry: entry()? })
    }

    /// Calls `count` of an agent; its answer, once it is durable.
    pub(crate) async fn count(&self, agent: usize, params: &str) -> Result<Vec<u8>> {
        let agent = self.agents.get(agent).context("no such agent")?.lock().await;
        let view = self.store.view(&agent).await?;
        let call = Call {
            agent: *agent,
            method: counter::METHOD.into(),
            params: params.to_owned(),
            limits: Limits::default(),
            state: Box::new(Stored(view)),
            label: String::new(),
            log: Box::new(()),
            outside: Box::new(()),
            depth: 0,
        };
        let outcome = self.kernel.call(&self.plugin, call).await;
        let result = outcome.result.map_err(protocol::Problem::from)?;
        let writes = outcome.writes.into_iter().map(|(key, value)| Write { key, value }).collect();
        let commit = Commit {
            state: Some(StateWrites { agent: *agent, writes, quota: None }),
            entry: Some(Append { operation: OperationId::new(), leaf: Hash::default(), entry: self.entry.clone() }),
            ..Commit::default()
        };
        self.committer.commit(commit).await?;
        Ok(result)
    }
}

/// A view of the store, as the sandbox wants it.
struct Stored(Box<dyn View>);

#[async_trait]
impl State for Stored {
    async fn get(&mut self, key: &str) -> Result<Option<Vec<u8>>, StateError> {
        Ok(self.0.get(key).await?)
    }

    async fn list(&mut self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Vec<String>, StateError> {
        Ok(self.0.list(prefix, after, limit).await?)
    }
}

/// A trace entry such as a node writes for each call.
fn entry() -> Result<Vec<u8>> {
    let key = Key::generate();
    let entry = entry::Entry {
        version: entry::VERSION,
        operation: OperationId::new(),
        time: protocol::Timestamp::now(),
        mesh: protocol::MeshId::any(),
        principal: key.did(),
        agreement: None,
        action: entry::Action::Execute {
            agent: AgentId::new(),
            method: counter::METHOD.into(),
            params: Digest::sha256(counter::PARAMS.as_bytes()),
            result: Some(Digest::sha256(b"{}")),
            usage: Usage { calls: 1, fuel: 1_000, wall_us: 100, egress_bytes: 12 },
        },
        failure: None,
        request_id: Some(OperationId::new().to_string()),
    };
    Ok(serde_json::to_vec(&entry)?)
}
