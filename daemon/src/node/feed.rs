//! The trace as it grows, for those who are told of it: server-sent events and webhooks.
//!
//! What they are told is what the log has, in its order: whoever remembers an index goes on behind it, over any restart.

use protocol::{
    AgentId, AgreementId, Problem,
    api::{EventFilter, TraceEvent},
};
use serde::Deserialize;
use store::LoggedEntry;
use tokio::sync::watch;

use super::{
    journal::{self, Journal},
    prune::without_content,
};

/// Entries read at a time, and the most that come together.
const PAGE: usize = 256;
const MAX_EVENTS: usize = 100;
/// What they take together, unless one alone takes more.
const MAX_BYTES: usize = 512 * 1024;
/// Entries that are passed over before whoever waits hears how far that went.
const MAX_SKIPPED: u64 = 10_000;

/// What happened, up to an index.
#[derive(Debug)]
pub(crate) struct Batch {
    /// The entries that are wanted; none where many were passed over.
    pub(crate) events: Vec<TraceEvent>,
    /// The index after the last entry that was looked at.
    pub(crate) next: u64,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Feed {
    journal: Journal,
    filter: EventFilter,
    next: u64,
    grown: watch::Receiver<u64>,
}

/// What the filter looks at.
#[derive(Deserialize)]
struct Outline {
    action: String,
    agent: Option<AgentId>,
    agreement: Option<AgreementId>,
}

impl Feed {
    /// The entries from an index on.
    pub(crate) fn new(journal: Journal, filter: EventFilter, from: u64) -> Self {
        Self { grown: journal.grown(), journal, filter, next: from }
    }

    /// What comes next; waits for it.
    pub(crate) async fn next(&mut self) -> Result<Batch, Problem> {
        let from = self.next;
        loop {
            // Before the log is read: what comes while it is read isn't missed.
            self.grown.mark_unchanged();
            let batch = self.read().await?;
            self.next = batch.next;
            if !batch.events.is_empty() || batch.next - from >= MAX_SKIPPED {
                return Ok(batch);
            }
            if self.grown.changed().await.is_err() {
                std::future::pending::<()>().await; // the journal is closed: nothing comes any more
            }
        }
    }

    /// The wanted entries between two indices, both included.
    pub(crate) async fn between(journal: &Journal, filter: &EventFilter, from: u64, to: u64) -> Result<Vec<TraceEvent>, Problem> {
        let wanted = usize::try_from(to - from).unwrap_or(usize::MAX).saturating_add(1);
        let mut events = Vec::new();
        let mut at = from;
        while at <= to {
            let entries = journal.store().entries(at, wanted.min(PAGE)).await?;
            let Some(last) = entries.last() else { break };
            at = last.index + 1;
            events.extend(entries.into_iter().filter(|entry| entry.index <= to).filter_map(|entry| chosen(filter, entry)));
        }
        Ok(events)
    }

    async fn read(&self) -> Result<Batch, Problem> {
        let mut batch = Batch { events: Vec::new(), next: self.next };
        let mut bytes = 0;
        loop {
            let entries = self.journal.store().entries(batch.next, PAGE).await?;
            let whole = entries.len() == PAGE;
            for entry in entries {
                if entry.entry.is_empty() {
                    return Err(without_content(&entry));
                }
                let (index, size) = (entry.index, entry.entry.len());
                if let Some(event) = chosen(&self.filter, entry) {
                    if batch.events.len() == MAX_EVENTS || (bytes + size > MAX_BYTES && !batch.events.is_empty()) {
                        return Ok(batch);
                    }
                    bytes += size;
                    batch.events.push(event);
                }
                batch.next = index + 1;
            }
            if !whole || batch.next - self.next >= MAX_SKIPPED {
                return Ok(batch);
            }
        }
    }
}

/// The entry as an event, if it is wanted. One that can't be read is told: nobody should miss what went wrong.
fn chosen(filter: &EventFilter, logged: LoggedEntry) -> Option<TraceEvent> {
    if logged.entry.is_empty() {
        return None; // pruned
    }
    if *filter != EventFilter::default()
        && let Ok(outline) = journal::decode::<Outline>("trace entry", &logged.entry)
    {
        let wanted = (filter.actions.is_empty() || filter.actions.contains(&outline.action))
            && (filter.agent.is_none() || filter.agent == outline.agent)
            && (filter.agreement.is_none() || filter.agreement == outline.agreement);
        if !wanted {
            return None;
        }
    }
    let text = String::from_utf8_lossy(&logged.entry).into_owned();
    let entry = serde_json::value::RawValue::from_string(text);
    // Entries are JSON; what isn't is told as a text.
    let entry = entry.or_else(|_| serde_json::value::to_raw_value(&String::from_utf8_lossy(&logged.entry)));
    Some(TraceEvent { index: logged.index, entry: entry.ok()? })
}
