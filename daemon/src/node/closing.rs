//! The ends of agreements: each closes its books once, whatever has become of the other party.
//!
//! One timer for all: it waits for the next end.

use std::{sync::Arc, time::Duration};

use protocol::{Code, Problem};
use store::Kind;
use tokio_util::sync::CancellationToken;

use super::{
    Node,
    agreements::{Contract, sums},
};

/// The clock may be set meanwhile.
const LONGEST: Duration = Duration::from_secs(3_600);
/// How often the newest receipt is signed anew because another one came meanwhile.
const ROUNDS: usize = 8;
/// What couldn't be written, or signed by a token that is away, waits for this long.
const RETRY: Duration = Duration::from_secs(60);

impl Node {
    /// Closes the books of agreements that have ended, until cancelled.
    pub(crate) async fn keep_closed(self, stop: CancellationToken) {
        loop {
            // Books are closed once and for good.
            let now = self.journal.clock().believed();
            let (due, next) = self.agreements.due(now);
            let mut failed = false;
            for contract in due {
                if let Err(problem) = self.close_books(&contract).await {
                    tracing::warn!(agreement = %contract.id(), %problem, "its books are not closed yet");
                    failed = true;
                }
            }
            let until_next = next.map_or(LONGEST, |next| Duration::try_from(next.duration_since(now)).unwrap_or_default());
            let longest = if self.journal.clock().is_doubted() { RETRY } else { LONGEST };
            let pause = if failed { RETRY.min(until_next) } else { until_next.min(longest) };
            tokio::select! {
                () = stop.cancelled() => break,
                () = self.agreements.ends.notified() => {}
                () = tokio::time::sleep(pause) => if next.is_some_and(|next| next <= self.journal.clock().believed()) {
                    // What has ended just now is settled for the last time.
                    self.agreements.unsettled.notify_one();
                }
            }
        }
    }

    /// Closes an agreement on the newest receipt that both have signed.
    async fn close_books(&self, contract: &Arc<Contract>) -> Result<(), Problem> {
        let terms = contract.terms();
        let provides = terms.provider == self.owner;
        if provides && self.require_at_home(&terms).is_err() {
            // It is closed where its agent is.
            self.agreements.forget(contract);
            return Ok(());
        }
        for _ in 0..ROUNDS {
            let charged = match provides {
                true => self.charged(contract).await?,
                false => contract.countersigned(&self.owner_key).await.map(|_| None)?,
            };
            if self.agreements.close(contract, charged).await? {
                return Ok(());
            }
        }
        Err(Problem::new(Code::Overloaded, format!("receipts of agreement {} still come", terms.id)))
    }

    /// How many calls a provider can show to have charged.
    async fn charged(&self, contract: &Contract) -> Result<Option<u64>, Problem> {
        let (store, id) = (self.journal.store(), contract.id());
        if store.record(Kind::Charged, &id.to_string()).await?.is_none() {
            return Ok(None);
        }
        Ok(Some(sums(&store.usage(&id).await?).0.calls))
    }
}
