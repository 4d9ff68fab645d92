//! Looking things up in the trace: by agent, action, agreement, principal and time.
//!
//! ```text
//! since ── binary search over the entries' times ──► from here on: read, decide, at most SCANNED ──► page, and where to go on
//! ```
//! Entries stand in the order of their commits, which is nearly that of their times: whoever looks by time begins a little
//! earlier and ends a little later. Where a node's clock was set back, the search may begin behind what it looks for.

use protocol::{
    AgentId, AgreementId, Did, Problem, SignedDuration, Timestamp,
    api::{TraceItem, TracePage},
};
use serde::Deserialize;
use store::LoggedEntry;

use super::{journal, trace_log::TraceLog};

/// Entries that one request reads, at some 2 µs each.
const SCANNED: u64 = 20_000;
/// So many at a time.
const READ: usize = 1_024;
/// What the entries of a page take together, unless one alone takes more: well within what a client reads.
const MAX_BYTES: usize = 4 << 20;
/// How far the order of times is trusted: a commit waits for others for less.
const SLACK: SignedDuration = SignedDuration::from_secs(60);

/// Which entries are wanted; all, where nothing is said.
#[derive(Debug, Default)]
pub(crate) struct Wanted {
    pub(crate) agent: Option<AgentId>,
    /// As entries name them.
    pub(crate) actions: Vec<String>,
    pub(crate) agreement: Option<AgreementId>,
    pub(crate) principal: Option<Did>,
    pub(crate) since: Option<Timestamp>,
    pub(crate) until: Option<Timestamp>,
}

/// What decides.
#[derive(Deserialize)]
struct Outline {
    action: String,
    agent: Option<AgentId>,
    agreement: Option<AgreementId>,
    principal: Did,
    time: Timestamp,
}

#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Wanted,
    Other,
    /// This one and all after it come too late.
    Over,
}

impl Wanted {
    fn judge(&self, outline: &Outline) -> Verdict {
        let over = |until: Timestamp| outline.time > until.saturating_add(SLACK).unwrap_or(Timestamp::MAX);
        if self.until.is_some_and(over) {
            return Verdict::Over;
        }
        let wanted = (self.actions.is_empty() || self.actions.contains(&outline.action))
            && (self.agent.is_none() || self.agent == outline.agent)
            && (self.agreement.is_none() || self.agreement == outline.agreement)
            && self.principal.is_none_or(|principal| principal == outline.principal)
            && self.since.is_none_or(|since| outline.time >= since)
            && self.until.is_none_or(|until| outline.time <= until);
        if wanted { Verdict::Wanted } else { Verdict::Other }
    }
}

impl TraceLog {
    /// At most `limit` of the wanted entries, from an index on, the oldest first.
    pub(crate) async fn search(&self, wanted: &Wanted, from: u64, limit: usize) -> Result<TracePage, Problem> {
        self.flush().await;
        let size = self.size().await?;
        let pruned = self.pruned().filter(|pruned| from < pruned.until);
        let mut at = match wanted.since {
            None => from,
            Some(since) => {
                // Of what was pruned there is no time: if all after it may be wanted, so may be what was kept of it.
                let whole = pruned.map_or(from, |pruned| pruned.until);
                let found = self.index_at(since.saturating_sub(SLACK).unwrap_or(Timestamp::MIN), whole).await?;
                if found == whole { from } else { found }
            }
        };
        let (end, mut bytes) = (at.saturating_add(SCANNED), 0);
        let mut page = TracePage { items: Vec::new(), next: None, pruned };
        while at < size {
            if at >= end {
                page.next = Some(at);
                break;
            }
            let entries = self.store().entries(at, READ).await?;
            let Some(last) = entries.last() else { break };
            let next = last.index + 1;
            for LoggedEntry { index, entry, .. } in entries.into_iter().filter(|logged| !logged.entry.is_empty()) {
                match wanted.judge(&journal::decode("trace entry", &entry)?) {
                    Verdict::Over => return Ok(page),
                    Verdict::Other => continue,
                    Verdict::Wanted => {}
                }
                if bytes + entry.len() > MAX_BYTES && !page.items.is_empty() {
                    return Ok(TracePage { next: Some(index), ..page });
                }
                bytes += entry.len();
                page.items.push(TraceItem { index, entry: journal::decode("trace entry", &entry)? });
                if page.items.len() >= limit {
                    return Ok(TracePage { next: Some(index + 1).filter(|next| *next < size), ..page });
                }
            }
            at = next;
        }
        Ok(page)
    }

    /// The first index from `from` on at which nothing before this time is expected any more.
    pub(super) async fn index_at(&self, time: Timestamp, from: u64) -> Result<u64, Problem> {
        let (mut low, mut high) = (from, self.size().await?.max(from));
        while low < high {
            let middle = low + (high - low) / 2;
            if self.time_of(middle).await?.is_some_and(|there| there >= time) {
                high = middle;
            } else {
                low = middle + 1;
            }
        }
        Ok(low)
    }

    async fn time_of(&self, index: u64) -> Result<Option<Timestamp>, Problem> {
        let logged = self.store().entries(index, 1).await?.pop().filter(|logged| !logged.entry.is_empty());
        logged.map(|logged| journal::decode::<Outline>("trace entry", &logged.entry).map(|outline| outline.time)).transpose()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).expect("a time")
    }

    #[test]
    fn every_part_of_a_filter_counts_and_time_ends_it_with_some_slack() {
        let (agent, agreement, principal) = (AgentId::new(), AgreementId::new(), protocol::Key::generate().did());
        let outline =
            |second| Outline { action: "execute".into(), agent: Some(agent), agreement: Some(agreement), principal, time: at(second) };
        let wanted = || Wanted {
            agent: Some(agent),
            actions: vec!["spawn".into(), "execute".into()],
            agreement: Some(agreement),
            principal: Some(principal),
            since: Some(at(1_000)),
            until: Some(at(2_000)),
        };
        let verdicts =
            [(999, Verdict::Other), (1_000, Verdict::Wanted), (2_000, Verdict::Wanted), (2_060, Verdict::Other), (2_061, Verdict::Over)];
        for (second, verdict) in verdicts {
            assert_eq!(wanted().judge(&outline(second)), verdict, "{second}");
        }
        for other in [
            Wanted { agent: Some(AgentId::new()), ..wanted() },
            Wanted { actions: vec!["exec".into()], ..wanted() },
            Wanted { agreement: Some(AgreementId::new()), ..wanted() },
            Wanted { principal: Some(protocol::Key::generate().did()), ..wanted() },
        ] {
            assert_eq!(other.judge(&outline(1_500)), Verdict::Other, "{other:?}");
        }
        assert_eq!(Wanted::default().judge(&outline(1)), Verdict::Wanted);
    }
}
