//! What this node remembers of the traces of others: the newest checkpoint of each that only added to all before, and
//! what speaks against it. One record for each log, written before anything is cosigned.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;
use protocol::{
    Code, Key, NodeId, Problem, SignedDuration, Timestamp,
    api::WitnessedLog,
    checkpoint::Checkpoint,
    cosignature,
    entry::Action,
    witness::{Evidence, Finding, Link, MAX_TOLD, Shown, Witnessed, forks},
};
use serde::{Deserialize, Serialize};
use store::{Commit, Kind, RecordWrite};
use tokio::time::Instant;
use trace::witness::{Verdict, judge};

use super::Own;
use crate::node::{
    Caller,
    journal::{self, Journal},
};

/// Logs that are remembered, at one or two KiB each: a node keeps about 40 connections, which change.
const MAX_LOGS: usize = 1_024;
/// When all places are taken, one goes to a newcomer only if its log wasn't shown for so long: nobody makes room for a
/// forged past with a flood of new names. One with evidence never does.
const STALE: SignedDuration = SignedDuration::from_hours(7 * 24);
/// Checkpoints in a row without the link that was asked for, before that itself is suspicious: messages do get lost.
const MAX_UNLINKED: u32 = 8;
/// Requests about checkpoints that one peer may have in [`WINDOW`]: an honest one has a dozen, and two with each connection.
const MAX_REQUESTS: u32 = 60;
/// See [`MAX_REQUESTS`].
const WINDOW: Duration = Duration::from_secs(60);
/// Peers whose requests are counted at once: more than can be connected.
const MAX_COUNTED: usize = 2_048;

/// Other nodes' traces, and this one's before others.
#[derive(Debug)]
pub(crate) struct Witness {
    journal: Journal,
    /// Each log under a lock of its own: two histories that come at once are judged one after the other.
    places: Mutex<BTreeMap<NodeId, Arc<tokio::sync::Mutex<Place>>>>,
    counted: Mutex<Counted>,
    pub(super) own: Own,
}

/// When each peer's window began, and its requests since.
#[derive(Debug, Default)]
struct Counted(BTreeMap<NodeId, (Instant, u32)>);

#[derive(Debug, Default)]
struct Place {
    known: Option<(Checkpoint, Log)>,
    /// Checkpoints in a row that came without a link.
    unlinked: u32,
    /// Given to another log, or forgotten: nothing is written here any more.
    gone: bool,
}

/// A log's record.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Log {
    note: String,
    first_at: Timestamp,
    seen_at: Timestamp,
    times: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    evidence: Option<Evidence>,
}

impl Counted {
    fn admits(&mut self, from: NodeId, now: Instant) -> bool {
        if self.0.len() >= MAX_COUNTED {
            self.0.retain(|_, (since, _)| now.duration_since(*since) < WINDOW);
        }
        let room = self.0.len() < MAX_COUNTED;
        let (since, count) = match self.0.entry(from) {
            Entry::Vacant(_) if !room => return false,
            entry => entry.or_insert((now, 0)),
        };
        if now.duration_since(*since) >= WINDOW {
            (*since, *count) = (now, 0);
        }
        *count = count.saturating_add(1);
        *count <= MAX_REQUESTS
    }
}

impl Place {
    fn is_forked(&self) -> bool {
        self.known.as_ref().and_then(|(_, log)| log.evidence.as_ref()).is_some_and(|evidence| evidence.finding.is_proof())
    }

    fn may_go(&self, now: Timestamp) -> bool {
        self.known.as_ref().is_none_or(|(_, log)| log.evidence.is_none() && now.duration_since(log.seen_at) > STALE)
    }
}

impl Witness {
    pub(crate) async fn open(journal: Journal) -> Result<Self, Problem> {
        let mut places = BTreeMap::new();
        for (_, bytes) in journal::sound_records(journal.store().as_ref(), Kind::Witnessed).await?.records {
            let log: Log = journal::decode("memory of another node's trace", &bytes)?;
            let damaged = |error| Problem::new(Code::StoreFailed, format!("a remembered checkpoint can't be read: {error}"));
            let checkpoint = Checkpoint::verify(&log.note).map_err(damaged)?;
            let place = Place { known: Some((checkpoint.clone(), log)), ..Place::default() };
            places.insert(checkpoint.node, Arc::new(tokio::sync::Mutex::new(place)));
        }
        Ok(Self { journal, places: Mutex::new(places), counted: Mutex::default(), own: Own::default() })
    }

    /// Counts a peer's request.
    pub(super) fn pace(&self, from: NodeId) -> Result<(), Problem> {
        let admitted = self.counted.lock().admits(from, Instant::now());
        if admitted { Ok(()) } else { Err(Problem::new(Code::Overloaded, "too many requests about checkpoints")) }
    }

    /// A log's place; a newcomer's, too.
    async fn place(&self, node: NodeId) -> Result<Arc<tokio::sync::Mutex<Place>>, Problem> {
        let (place, ousted) = {
            let mut places = self.places.lock();
            if let Some(place) = places.get(&node) {
                return Ok(Arc::clone(place));
            }
            let ousted = if places.len() < MAX_LOGS { None } else { Some(oust(&mut places)?) };
            (Arc::clone(places.entry(node).or_default()), ousted)
        };
        if let Some(node) = ousted {
            self.write(node, None).await?;
        }
        Ok(place)
    }

    /// Judges what a log's owner shows. Its signature and its owner are verified.
    pub(super) async fn shown(&self, checkpoint: &Checkpoint, shown: Shown, key: &Key) -> Result<Witnessed, Problem> {
        let (node, now) = (checkpoint.node, Timestamp::now());
        let place = self.place(node).await?;
        let mut place = place.lock().await;
        if place.gone {
            return Err(Problem::new(Code::Overloaded, "this log was just forgotten here: show it again"));
        }
        if place.is_forked() {
            return Err(Problem::new(Code::ProofFailed, "this node has a proof that your log has two histories"));
        }
        let Shown { note, link } = shown;
        match judge(place.known.as_ref().map(|(known, _)| known), checkpoint, link.as_ref()) {
            Verdict::Extends => {
                let known = place.known.as_ref().map(|(_, log)| log);
                let log = Log {
                    note,
                    first_at: known.map_or(now, |log| log.first_at),
                    seen_at: now,
                    times: known.map_or(0, |log| log.times) + 1,
                    evidence: known.and_then(|log| log.evidence.clone()),
                };
                self.write(node, Some(&log)).await?;
                place.known = Some((checkpoint.clone(), log));
            }
            Verdict::Known => {
                if let Some((_, log)) = &mut place.known {
                    (log.seen_at, log.times) = (now, log.times + 1);
                }
            }
            Verdict::Unlinked => {
                place.unlinked += 1;
                if place.unlinked >= MAX_UNLINKED {
                    self.accuse(&mut place, Finding::Withheld, note, None).await?;
                }
                return remembered(&place);
            }
            Verdict::Contradicts(finding) => {
                self.accuse(&mut place, finding, note, link.filter(|_| finding.is_proof())).await?;
                return remembered(&place);
            }
        }
        place.unlinked = 0;
        Ok(Witnessed::Cosigned(cosignature::cosign(checkpoint, key, now)))
    }

    /// Holds what a neighbour remembers of a log against what is remembered here.
    pub(super) async fn told(&self, by: NodeId, note: String) -> Result<(), Problem> {
        let Ok(told) = Checkpoint::read(&note) else { return Ok(()) };
        let Some(place) = self.places.lock().get(&told.node).cloned() else { return Ok(()) };
        let mut place = place.lock().await;
        // Only what would be a proof is worth the verification.
        let differs = place.known.as_ref().is_some_and(|(known, _)| forks(known, &told, None));
        if differs && !place.gone && Checkpoint::verify(&note).is_ok() {
            tracing::debug!(neighbour = %by, node = %told.node, "remembers another history");
            self.accuse(&mut place, Finding::Fork, note, None).await?;
        }
        Ok(())
    }

    /// Keeps what speaks against a log, and says it aloud: once a suspicion, once a proof.
    async fn accuse(&self, place: &mut Place, finding: Finding, new: String, link: Option<Link>) -> Result<(), Problem> {
        let Some((known, log)) = &mut place.known else { return Ok(()) };
        if log.evidence.as_ref().is_some_and(|before| before.finding.is_proof() || !finding.is_proof()) {
            return Ok(());
        }
        // Two roots of one size need no link.
        let link = link.filter(|_| Checkpoint::read(&new).is_ok_and(|new| new.size != known.size));
        let evidence = Evidence { finding, old: log.note.clone(), new, link, found_at: Timestamp::now() };
        tracing::error!(
            node = %known.node, old = ?evidence.old, new = ?evidence.new,
            "{} ('mcpctl trace witness --evidence {}' exports it)", finding.describe(), known.node
        );
        let log_with = Log { evidence: Some(evidence), ..log.clone() };
        self.write(known.node, Some(&log_with)).await?;
        *log = log_with;
        Ok(())
    }

    /// Some of what is remembered, but for the neighbour's own log: others with each turn.
    pub(super) async fn notes(&self, neighbour: NodeId, turn: usize) -> Vec<String> {
        let places: Vec<_> =
            self.places.lock().iter().filter(|(node, _)| **node != neighbour).map(|(_, place)| Arc::clone(place)).collect();
        let first = turn.wrapping_mul(MAX_TOLD) % places.len().max(1);
        let mut notes = Vec::new();
        for place in places.iter().cycle().skip(first).take(MAX_TOLD.min(places.len())) {
            notes.extend(place.lock().await.known.as_ref().map(|(_, log)| log.note.clone()));
        }
        notes
    }

    /// All that is remembered.
    pub(crate) async fn logs(&self) -> Vec<WitnessedLog> {
        let places: Vec<_> = self.places.lock().values().cloned().collect();
        let mut logs = Vec::new();
        for place in places {
            logs.extend(place.lock().await.known.clone().map(|(checkpoint, log)| log.witnessed(&checkpoint)));
        }
        logs
    }

    /// Forgets a log: whatever its owner shows next is believed.
    pub(crate) async fn forget(&self, caller: &Caller, node: NodeId) -> Result<WitnessedLog, Problem> {
        let unknown = || Problem::new(Code::NotFound, format!("nothing is remembered of the trace of {node}"));
        let place = self.places.lock().get(&node).cloned().ok_or_else(unknown)?;
        let mut place = place.lock().await;
        let (checkpoint, log) = place.known.clone().ok_or_else(unknown)?;
        let record = RecordWrite { kind: Kind::Witnessed, id: node.to_string(), value: None };
        let entry = self.journal.append(caller.note(), Action::Forget { node });
        self.journal.keep(Commit { records: vec![record], entry: Some(entry), ..Commit::default() }).await?;
        (place.known, place.gone) = (None, true);
        self.places.lock().remove(&node);
        Ok(log.witnessed(&checkpoint))
    }

    async fn write(&self, node: NodeId, log: Option<&Log>) -> Result<(), Problem> {
        let record = RecordWrite { kind: Kind::Witnessed, id: node.to_string(), value: log.map(journal::encode) };
        self.journal.keep(Commit { records: vec![record], ..Commit::default() }).await.map(drop)
    }
}

impl Log {
    fn witnessed(self, checkpoint: &Checkpoint) -> WitnessedLog {
        let Self { note, first_at, seen_at, times, evidence } = self;
        WitnessedLog { node: checkpoint.node, size: checkpoint.size, note, first_at, seen_at, times, evidence }
    }
}

/// Takes a place from the log that was shown the longest ago; which one.
fn oust(places: &mut BTreeMap<NodeId, Arc<tokio::sync::Mutex<Place>>>) -> Result<NodeId, Problem> {
    let now = Timestamp::now();
    let idle = places.iter().filter_map(|(node, place)| {
        let place = place.try_lock().ok().filter(|place| place.may_go(now))?;
        Some((place.known.as_ref().map(|(_, log)| log.seen_at), *node))
    });
    let full = || Problem::new(Code::Overloaded, format!("this node witnesses {MAX_LOGS} logs already"));
    let (_, node) = idle.min().ok_or_else(full)?;
    if let Some(place) = places.remove(&node) {
        // Whoever holds it waits for its lock yet.
        if let Ok(mut place) = place.try_lock() {
            place.gone = true;
        }
    }
    Ok(node)
}

fn remembered(place: &Place) -> Result<Witnessed, Problem> {
    let nothing = || Problem::new(Code::Internal, "nothing is remembered of this log");
    place.known.as_ref().map(|(_, log)| Witnessed::Remembered(log.note.clone())).ok_or_else(nothing)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node() -> NodeId {
        Key::generate().node_id()
    }

    fn log(days: i64, evidence: bool) -> (Checkpoint, Log) {
        let at = Timestamp::now() - SignedDuration::from_hours(days * 24);
        let finding = Finding::Withheld;
        let evidence = evidence.then(|| Evidence { finding, old: String::new(), new: String::new(), link: None, found_at: at });
        let log = Log { note: String::new(), first_at: at, seen_at: at, times: 1, evidence };
        (Checkpoint { node: node(), size: 1, root: [1; 32] }, log)
    }

    fn places(days: &[(i64, bool)]) -> (BTreeMap<NodeId, Arc<tokio::sync::Mutex<Place>>>, Vec<NodeId>) {
        let known: Vec<_> = days.iter().map(|(days, evidence)| log(*days, *evidence)).collect();
        let nodes = known.iter().map(|(checkpoint, _)| checkpoint.node).collect();
        let place = |known| Arc::new(tokio::sync::Mutex::new(Place { known: Some(known), ..Place::default() }));
        (known.into_iter().map(|known| (known.0.node, place(known))).collect(), nodes)
    }

    #[test]
    fn a_flood_of_newcomers_ousts_neither_fresh_memories_nor_evidence() {
        let (mut fresh, _) = places(&[(0, false), (6, false), (400, true)]);
        assert_eq!(oust(&mut fresh).expect_err("all stay").code, Code::Overloaded);
        assert_eq!(fresh.len(), 3);
        let (mut some, nodes) = places(&[(0, false), (8, false), (30, false), (400, true)]);
        // Who is being judged stays, too.
        let (busy, held) = (Arc::clone(&some[&nodes[2]]), Arc::clone(&some[&nodes[1]]));
        let judging = busy.try_lock().expect("free");
        assert_eq!(oust(&mut some).expect("one is stale"), nodes[1]);
        assert!(held.try_lock().expect("free").gone, "nothing is written there any more");
        drop(judging);
        assert_eq!(oust(&mut some).expect("the other"), nodes[2]);
        assert_eq!(some.len(), 2);
    }

    #[test]
    fn each_peer_has_its_share_of_requests_and_all_have_a_bound() {
        let (mut counted, now, peer) = (Counted::default(), Instant::now(), node());
        assert_eq!((0..1_000).filter(|_| counted.admits(peer, now)).count(), MAX_REQUESTS as usize);
        assert!(counted.admits(node(), now), "another's share is its own");
        assert!(counted.admits(peer, now + WINDOW));
        counted.0.extend((0..MAX_COUNTED).map(|_| (node(), (now, 1))));
        assert!(!counted.admits(node(), now), "no memory for more");
        assert!(counted.admits(node(), now + WINDOW) && counted.0.len() <= 3, "windows end");
    }
}
