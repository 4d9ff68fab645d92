//! Lends the store's view of an agent's state to the sandbox.

use async_trait::async_trait;

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// A view, as the kernel wants it.
pub(crate) struct StoredState(pub(crate) Box<dyn store::View>);

#[async_trait]
impl kernel::State for StoredState {
    async fn get(&mut self, key: &str) -> Result<Option<Vec<u8>>, Failure> {
        Ok(self.0.get(key).await?)
    }

    async fn list(&mut self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Vec<String>, Failure> {
        Ok(self.0.list(prefix, after, limit).await?)
    }
}
