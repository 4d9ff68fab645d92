//! Who misbehaves, and for how long it is kept out. Pure: takes `now`, does no I/O.
//!
//! Each offence adds to a score that halves every ten minutes. Whoever passes the threshold is banned, for longer each
//! time. A node is banned, never an address: whole sites share one.

use std::collections::HashMap;

use protocol::{Code, NodeId, SignedDuration, Timestamp, admission::Refusal, api};

/// A score that means a ban.
const THRESHOLD: f64 = 100.0;
/// A score halves in this time.
const HALF_LIFE_S: f64 = 600.0;
/// The first ban, and what each further one is multiplied by.
const FIRST: SignedDuration = SignedDuration::from_mins(10);
const FACTOR: i32 = 6;
/// The longest ban that a node imposes by itself, and that an operator may.
const LONGEST: SignedDuration = SignedDuration::from_hours(7 * 24);
const LONGEST_MANUAL: SignedDuration = SignedDuration::from_hours(10 * 366 * 24);
/// A ban that has ended is remembered for so long at least.
const REMEMBERED: SignedDuration = SignedDuration::from_hours(30 * 24);
/// Nodes whose scores, and bans, are kept: what an attacker with many keys could fill.
pub(crate) const MAX_NODES: usize = 4_096;

/// What a peer did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Offence {
    /// Gossip that nobody honest sends.
    ForgedGossip,
    /// Gossip whose signature is wrong, more than once.
    BadlySignedGossip,
    /// More gossip of its own than anybody has to tell.
    GossipFlood,
    /// A frame that is too large, malformed, out of place, or begun and never finished.
    BadFrame,
    /// More requests under way than it may have.
    RequestFlood,
    /// More streams than it may have.
    StreamFlood,
    /// Provider records that are none.
    PoisonedRecord,
}

impl Offence {
    fn weight(self) -> f64 {
        match self {
            Self::ForgedGossip | Self::PoisonedRecord => 20.0,
            // Each node verifies what it passes on.
            Self::BadlySignedGossip => THRESHOLD,
            Self::BadFrame => 25.0,
            Self::GossipFlood => 1.0,
            Self::StreamFlood => 5.0,
            // An honest peer may pass the limit for a moment, while it moves to a better connection.
            Self::RequestFlood => 0.2,
        }
    }

    fn as_str(self) -> &'static str {
        match self {
            Self::ForgedGossip => "forged gossip",
            Self::BadlySignedGossip => "badly signed gossip",
            Self::GossipFlood => "a flood of gossip",
            Self::BadFrame => "bad frames",
            Self::RequestFlood => "a flood of requests",
            Self::StreamFlood => "a flood of streams",
            Self::PoisonedRecord => "poisoned provider records",
        }
    }
}

#[derive(Debug, Clone)]
struct Record {
    score: f64,
    at: Timestamp,
    /// Bans so far.
    times: u32,
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Bans {
    records: HashMap<NodeId, Record>,
    bans: HashMap<NodeId, api::Ban>,
}

impl Bans {
    /// Bans of an earlier run.
    pub(crate) fn restore(bans: Vec<api::Ban>) -> Self {
        let record = |ban: &api::Ban| Record { score: 0.0, at: ban.since, times: ban.times };
        let records = bans.iter().take(MAX_NODES).filter(|ban| !ban.manual).map(|ban| (ban.node, record(ban))).collect();
        Self { records, bans: bans.into_iter().take(MAX_NODES).map(|ban| (ban.node, ban)).collect() }
    }

    /// `node` did wrong; the ban, if that is what follows.
    pub(crate) fn offend(&mut self, node: NodeId, offence: Offence, now: Timestamp) -> Option<api::Ban> {
        if self.records.len() >= MAX_NODES && !self.records.contains_key(&node) {
            // The one whose last offence is longest ago has the least to lose.
            let oldest = self.records.iter().min_by_key(|(_, record)| record.at).map(|(node, _)| *node);
            oldest.and_then(|oldest| self.records.remove(&oldest));
        }
        let record = self.records.entry(node).or_insert(Record { score: 0.0, at: now, times: 0 });
        let passed = now.duration_since(record.at).as_secs_f64().max(0.0);
        record.score = record.score * 0.5_f64.powf(passed / HALF_LIFE_S) + offence.weight();
        record.at = now;
        if record.score < THRESHOLD || self.bans.get(&node).is_some_and(|ban| ban.until > now) {
            return None;
        }
        record.score = 0.0;
        let span = FIRST.saturating_mul(FACTOR.saturating_pow(record.times)).min(LONGEST);
        record.times = (record.times + 1).min(10);
        let times = record.times;
        Some(self.enter(api::Ban { times, ..ban_of(node, span, offence.as_str().to_owned(), false, now) }))
    }

    /// Keeps `node` out for `span`.
    pub(crate) fn ban(&mut self, node: NodeId, span: SignedDuration, reason: String, manual: bool, now: Timestamp) -> api::Ban {
        self.enter(ban_of(node, span, reason, manual, now))
    }

    fn enter(&mut self, ban: api::Ban) -> api::Ban {
        // Only where there is no room: a clock that jumps would let those in whose bans still hold.
        if self.bans.len() >= MAX_NODES {
            self.bans.retain(|_, old| old.until.saturating_add(REMEMBERED).is_ok_and(|end| end > ban.since));
        }
        if self.bans.len() >= MAX_NODES && !self.bans.contains_key(&ban.node) {
            let first = self.bans.values().filter(|ban| !ban.manual).min_by_key(|ban| ban.until).map(|ban| ban.node);
            first.and_then(|first| self.bans.remove(&first));
        }
        self.bans.insert(ban.node, ban.clone());
        ban
    }

    /// All that is to be known at the next start: a ban that has ended makes the next one longer.
    pub(crate) fn remembered(&self) -> Vec<api::Ban> {
        self.bans.values().cloned().collect()
    }

    /// Lets `node` in again; whether it was kept out.
    pub(crate) fn unban(&mut self, node: &NodeId) -> bool {
        self.records.remove(node);
        self.bans.remove(node).is_some()
    }

    /// Whether `node` may come in at `now`.
    pub(crate) fn check(&self, node: &NodeId, now: Timestamp) -> Result<(), Refusal> {
        match self.bans.get(node).filter(|ban| ban.until > now) {
            None => Ok(()),
            Some(ban) => {
                Err(Refusal { code: Code::Banned, detail: format!("node {node} is banned until {} for {}", ban.until, ban.reason) })
            }
        }
    }

    /// Those that hold, the longest first.
    pub(crate) fn list(&self, now: Timestamp) -> Vec<api::Ban> {
        let mut bans: Vec<api::Ban> = self.bans.values().filter(|ban| ban.until > now).cloned().collect();
        bans.sort_by_key(|ban| (std::cmp::Reverse(ban.until), ban.node));
        bans
    }
}

fn ban_of(node: NodeId, span: SignedDuration, reason: String, manual: bool, now: Timestamp) -> api::Ban {
    let until = now.saturating_add(span.min(LONGEST_MANUAL)).unwrap_or(Timestamp::MAX);
    api::Ban { node, reason, since: now, until, manual, times: 0 }
}

#[cfg(test)]
mod tests {
    use protocol::Key;

    use super::*;

    #[test]
    fn misbehaviour_adds_up_decays_and_costs_more_each_time() {
        let (mut bans, node, mut now) = (Bans::default(), Key::generate().node_id(), Timestamp::now());
        for _ in 0..4 {
            assert_eq!(bans.offend(node, Offence::ForgedGossip, now), None);
        }
        let first = bans.offend(node, Offence::ForgedGossip, now).expect("the fifth is too much");
        assert_eq!((first.until, first.reason.as_str()), (now + FIRST, "forged gossip"));
        assert_eq!(bans.check(&node, now).expect_err("banned").code, Code::Banned);
        assert!(bans.check(&node, now + FIRST).is_ok());
        now += FIRST;
        let mut again = None;
        while again.is_none() {
            again = bans.offend(node, Offence::BadFrame, now);
        }
        assert_eq!(again.expect("again").until, now + FIRST * FACTOR);
        // A restart doesn't make it a first offender.
        now += FIRST * FACTOR;
        let mut bans = Bans::restore(bans.remembered());
        assert!(bans.check(&node, now).is_ok());
        let third = (0..10).find_map(|_| bans.offend(node, Offence::BadFrame, now)).expect("again");
        assert_eq!(third.until, now + FIRST * FACTOR * FACTOR);
        // Once in a while is no misbehaviour.
        let other = Key::generate().node_id();
        for _ in 0..100 {
            now += SignedDuration::from_mins(20);
            assert_eq!(bans.offend(other, Offence::BadFrame, now), None);
        }
    }

    #[test]
    fn a_clock_that_jumps_ends_no_ban_for_good() {
        let (mut bans, node, now) = (Bans::default(), Key::generate().node_id(), Timestamp::now());
        bans.ban(node, SignedDuration::from_hours(24), "by hand".into(), true, now);
        let later = now + SignedDuration::from_hours(400 * 24);
        bans.ban(Key::generate().node_id(), SignedDuration::from_hours(1), "flood".into(), false, later);
        let bans = Bans::restore(bans.remembered());
        assert!(bans.check(&node, now).is_err(), "it holds again once the clock is put right");
    }

    #[test]
    fn operators_decide_and_lists_are_bounded() {
        let (mut bans, node, now) = (Bans::default(), Key::generate().node_id(), Timestamp::now());
        bans.ban(node, SignedDuration::from_hours(1), "by hand".into(), true, now);
        assert_eq!(Bans::restore(bans.list(now)).list(now), bans.list(now));
        for _ in 0..MAX_NODES + 10 {
            let other = Key::generate().node_id();
            bans.offend(other, Offence::BadFrame, now);
            bans.ban(other, SignedDuration::from_hours(2), "flood".into(), false, now);
        }
        assert!(bans.records.len() <= MAX_NODES && bans.bans.len() <= MAX_NODES);
        assert!(bans.check(&node, now).is_err(), "what an operator said isn't pushed out");
        assert!(bans.unban(&node) && bans.check(&node, now).is_ok() && !bans.unban(&node));
    }
}
