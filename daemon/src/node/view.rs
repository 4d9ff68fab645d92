//! Lends the store's view of an agent's state to the sandbox.

use std::sync::Arc;

use async_trait::async_trait;
use protocol::Problem;
use store::{Store, View};

use super::agents::Agent;

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// An agent's state as of the call's first look at it. Opened then and not before: calls that still wait for a place in
/// the sandbox hold no view, of which there are few.
pub(crate) struct StoredState {
    store: Arc<dyn Store>,
    agent: Arc<Agent>,
    view: Option<Box<dyn View>>,
}

impl StoredState {
    pub(crate) fn new(store: Arc<dyn Store>, agent: Arc<Agent>) -> Self {
        Self { store, agent, view: None }
    }

    async fn view(&mut self) -> Result<&mut Box<dyn View>, Problem> {
        let view = match self.view.take() {
            Some(view) => view,
            None => self.store.view(&*self.agent.state.read().await).await?,
        };
        Ok(self.view.insert(view))
    }
}

#[async_trait]
impl kernel::State for StoredState {
    async fn get(&mut self, key: &str) -> Result<Option<Vec<u8>>, Failure> {
        Ok(self.view().await?.get(key).await.map_err(Problem::from)?)
    }

    async fn list(&mut self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Vec<String>, Failure> {
        Ok(self.view().await?.list(prefix, after, limit).await.map_err(Problem::from)?)
    }
}
