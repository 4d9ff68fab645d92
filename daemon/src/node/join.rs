//! Entry points into the mesh: tried now, kept for every later start.

use std::time::Duration;

use futures::future;
use protocol::{Problem, api::Joined};
use store::{Commit, Kind, RecordWrite};

use super::{Node, journal};

impl Node {
    /// Dials each address and keeps it, reachable now or not: the mesh goes on trying.
    pub(crate) async fn join(&self, addresses: &[String], patience: Duration) -> Result<Vec<Joined>, Problem> {
        let mesh = self.mesh()?;
        let mut joined = Vec::with_capacity(addresses.len());
        for address in addresses {
            // A malformed one is refused before anything is kept.
            joined.push(Joined { address: mesh::parse_address(address)?, node_id: None, error: None });
        }
        let records =
            joined.iter().map(|item| RecordWrite { kind: Kind::Peer, id: item.address.clone(), value: Some(Vec::new()) }).collect();
        self.journal.keep(Commit { records, ..Commit::default() }).await?;
        future::join_all(joined.iter_mut().map(async |item| match mesh.join(&item.address, patience).await {
            Ok(node) => item.node_id = Some(node),
            Err(error) => item.error = Some(error.to_string()),
        }))
        .await;
        Ok(joined)
    }

    /// The addresses that were joined in earlier runs.
    pub(crate) async fn joined(&self) -> Result<Vec<String>, Problem> {
        let records = journal::all_records(self.journal.store().as_ref(), Kind::Peer).await?;
        Ok(records.into_iter().map(|(address, _)| address).collect())
    }
}
