//! Whether all that the node has kept is what it has written: rows against their checksums, SQLite's own look at the file, blobs against
//! their digests, the trace against its signed checkpoints.

use protocol::{
    Digest, Problem,
    api::{DamagedRow, StoreVerified, VerifiedTable},
};
use store::{Checked, Kind, MAX_TOLD};

use super::{Node, journal};

impl Node {
    /// See the module. Calls go on meanwhile; one look at a time.
    pub(crate) async fn verify_store(&self) -> Result<StoreVerified, Problem> {
        let _one_at_a_time = self.verifying.lock().await;
        let Checked { rows, damaged, structure, complete: _ } = self.journal.store().check(None).await?;
        let (blobs, damaged_blobs) = self.verify_blobs().await?;
        let missing_blobs = self.missing_components().await?;
        // Last, as it reads what was just judged.
        let (trace, trace_problem) = match self.trace.verify().await {
            Ok(verified) => (Some(verified), None),
            Err(problem) => (None, Some(problem.detail)),
        };
        let sound =
            damaged.is_empty() && structure.is_empty() && damaged_blobs.is_empty() && missing_blobs.is_empty() && trace_problem.is_none();
        let tables = rows.into_iter().map(|(table, rows)| VerifiedTable { table: table.into(), rows }).collect();
        let damaged = damaged.into_iter().map(|row| DamagedRow { table: row.table.into(), key: row.key, content: row.content }).collect();
        Ok(StoreVerified { sound, tables, damaged, structure, blobs, damaged_blobs, missing_blobs, trace, trace_problem })
    }

    /// How many blobs there are, and which have another content than their digest says.
    async fn verify_blobs(&self) -> Result<(u64, Vec<Digest>), Problem> {
        let (mut count, mut damaged) = (0, Vec::new());
        for first in 0..=u8::MAX {
            for digest in self.plugins.blobs().list(first).await? {
                count += 1;
                match self.plugins.blobs().get(&digest).await {
                    // One that was let go of meanwhile isn't damaged.
                    Ok(_) => {}
                    Err(store::Error::Damaged { .. }) if damaged.len() < MAX_TOLD => damaged.push(digest),
                    Err(store::Error::Damaged { .. }) => {}
                    Err(error) => return Err(error.into()),
                }
            }
        }
        Ok((count, damaged))
    }

    /// Components that registered plugins have, and the node hasn't.
    async fn missing_components(&self) -> Result<Vec<Digest>, Problem> {
        let mut missing = Vec::new();
        for (id, _) in journal::sound_records(self.journal.store().as_ref(), Kind::Plugin).await?.records {
            if let Ok(component) = id.parse::<Digest>()
                && !self.plugins.blobs().contains(&component).await?
            {
                missing.push(component);
            }
        }
        missing.truncate(MAX_TOLD);
        Ok(missing)
    }
}
