//! Which time is believed before something is done that can't be undone: answers are dropped, entries pruned, books closed.
//!
//! ```text
//! believed = min(the system's clock, what is proven to have passed + 10 min)
//!
//! proven to have passed   the time that was believed last, as the store has it, or that of the trace's newest entry
//!                         + what this process has run (the monotonic clock)
//!   or what two other nodes have signed (their adverts)
//!   or the system's clock, once it has run steadily for an hour
//! ```
//! So a clock that jumps forward drops nothing, and one that was right all along is believed at once. A node that was off for a month
//! believes its clock again as soon as two other nodes have told the same time, or after an hour. A clock that was set back is followed:
//! then less has expired.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use parking_lot::Mutex;
use protocol::{NodeId, Problem, SignedDuration, Timestamp, entry::Entry};
use store::{Kind, RecordWrite, Store};
use tokio::time::Instant;

use super::journal;

/// How far the clock may be ahead of what is proven: notes of the time are ten minutes old at most.
const SLACK: SignedDuration = SignedDuration::from_mins(10);
/// For how long a clock must run steadily before it is its own proof.
const STEADY: Duration = Duration::from_secs(3_600);
/// A larger difference to the monotonic clock between two looks is a jump.
const JUMP: SignedDuration = SignedDuration::from_secs(5);
/// How often the store is told which time is believed.
const NOTED: Duration = Duration::from_secs(600);
/// Nodes whose time is remembered: two are enough, and some leave.
const MAX_HEARD: usize = 64;
/// Under which name a node remembers the time that it believed last.
const BELIEVED: &str = "clock";

/// A time, and how long the process had run then.
#[derive(Debug, Clone, Copy)]
struct Mark {
    time: Timestamp,
    up: Duration,
}

impl Mark {
    /// What it must be by now at least.
    fn at(self, up: Duration) -> Timestamp {
        let passed = SignedDuration::try_from(up.saturating_sub(self.up)).unwrap_or(SignedDuration::MAX);
        self.time.saturating_add(passed).unwrap_or(Timestamp::MAX)
    }
}

/// The decision: values in, a time out.
#[derive(Debug)]
struct Trusted {
    proven: Mark,
    /// What other nodes have signed, the newest of each.
    heard: BTreeMap<NodeId, Mark>,
    last: Mark,
    steady_since: Duration,
}

impl Trusted {
    /// Without any evidence (an empty store) there is nothing to lose, and the clock is believed.
    fn new(evidence: Option<Timestamp>, wall: Timestamp, up: Duration) -> Self {
        let proven = Mark { time: evidence.unwrap_or(wall), up };
        Self { proven, heard: BTreeMap::new(), last: Mark { time: wall, up }, steady_since: up }
    }

    /// Another node has signed this time.
    fn heard(&mut self, node: NodeId, time: Timestamp, up: Duration) {
        let mark = Mark { time, up };
        let known = self.heard.get(&node);
        if known.is_some_and(|known| known.at(up) >= time) || (known.is_none() && self.heard.len() >= MAX_HEARD) {
            return;
        }
        self.heard.insert(node, mark);
    }

    /// The time that has come for certain.
    fn believed(&mut self, wall: Timestamp, up: Duration) -> Timestamp {
        if wall.duration_since(self.last.at(up)).abs() > JUMP {
            self.steady_since = up;
        }
        self.last = Mark { time: wall, up };
        let steady = (up.saturating_sub(self.steady_since) >= STEADY).then_some(wall);
        // One node may err, or lie, about the time.
        let mut told: Vec<Timestamp> = self.heard.values().map(|mark| mark.at(up)).collect();
        told.sort_unstable_by(|one, other| other.cmp(one));
        let proven = [Some(self.proven.at(up)), steady, told.get(1).copied()].into_iter().flatten().max().unwrap_or(wall);
        let believed = wall.min(proven.saturating_add(SLACK).unwrap_or(Timestamp::MAX));
        // What was proven, not what is believed: else the slack would add up. Nothing that was proven is taken back.
        self.proven = Mark { time: proven.min(wall).max(self.proven.at(up)), up };
        believed
    }
}

/// See the module. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Clock(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    started: Instant,
    trusted: Mutex<Trusted>,
    noted: Mutex<Option<Instant>>,
}

impl Clock {
    /// With what the store proves.
    pub(super) async fn open(store: &dyn Store) -> Result<Self, Problem> {
        let noted = journal::noted(store, BELIEVED).await?;
        let noted = noted.map(|bytes| journal::decode::<Timestamp>("note of the time", &bytes)).transpose()?;
        let evidence = match noted {
            Some(time) => Some(time),
            None => newest_entry(store).await?,
        };
        let trusted = Trusted::new(evidence, Timestamp::now(), Duration::ZERO);
        Ok(Self(Arc::new(Inner { started: Instant::now(), trusted: Mutex::new(trusted), noted: Mutex::default() })))
    }

    /// The time before which things may be forgotten for good.
    pub(crate) fn believed(&self) -> Timestamp {
        self.0.trusted.lock().believed(Timestamp::now(), self.0.started.elapsed())
    }

    /// Whether the system's clock is ahead of what is believed.
    pub(crate) fn is_doubted(&self) -> bool {
        Timestamp::now().duration_since(self.believed()) > JUMP
    }

    /// Another node has signed this time.
    pub(crate) fn heard(&self, node: NodeId, time: Timestamp) {
        self.0.trusted.lock().heard(node, time, self.0.started.elapsed());
    }

    /// What the store is to be told of it, if it is time for that, or `at_once`.
    pub(super) fn note(&self, at_once: bool) -> Option<RecordWrite> {
        let mut noted = self.0.noted.lock();
        if !at_once && noted.is_some_and(|noted| noted.elapsed() < NOTED) {
            return None;
        }
        *noted = Some(Instant::now());
        // What is proven, without the slack: else each start would add another.
        let believed = self.believed();
        let proven = self.0.trusted.lock().proven.time;
        Some(RecordWrite { kind: Kind::Meta, id: BELIEVED.into(), value: Some(journal::encode(&believed.min(proven))) })
    }
}

/// When the trace's newest entry was made. If it can't be read, nobody knows, and nothing is believed before others or an hour prove it.
async fn newest_entry(store: &dyn Store) -> Result<Option<Timestamp>, Problem> {
    let nobody_knows = Some(Timestamp::UNIX_EPOCH);
    let size = match store.log_size().await {
        Ok(0) => return Ok(None),
        Ok(size) => size,
        Err(store::Error::DamagedRow(_)) => return Ok(nobody_knows),
        Err(error) => return Err(error.into()),
    };
    match store.entries(size - 1, 1).await {
        Ok(entries) => {
            let newest = entries.first().filter(|logged| !logged.entry.is_empty());
            let entry = newest.and_then(|logged| journal::decode::<Entry>("trace entry", &logged.entry).ok());
            Ok(entry.map(|entry| entry.time).or(nobody_knows))
        }
        Err(store::Error::DamagedRow(_)) => Ok(nobody_knows),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use protocol::Key;

    use super::*;

    const HOUR: Duration = Duration::from_secs(3_600);

    fn time(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + seconds).expect("a time")
    }

    fn up(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    /// Looks at the clock each minute while the process runs, from `from` for `minutes`; what is believed at the end.
    fn run(trusted: &mut Trusted, wall: Timestamp, from: Duration, minutes: u64) -> Timestamp {
        let mut believed = wall;
        for minute in 0..=minutes {
            let passed = SignedDuration::from_mins(i64::try_from(minute).expect("few"));
            believed = trusted.believed(wall + passed, from + Duration::from_secs(60 * minute));
        }
        believed
    }

    #[test]
    fn a_clock_that_is_right_is_believed_at_once() {
        let mut fresh = Trusted::new(None, time(0), up(0));
        assert_eq!(fresh.believed(time(0), up(0)), time(0));
        assert_eq!(run(&mut fresh, time(0), up(0), 600), time(36_000));
        // Started again after five minutes.
        let mut again = Trusted::new(Some(time(0)), time(300), up(0));
        assert_eq!(again.believed(time(300), up(0)), time(300));
        assert_eq!(run(&mut again, time(300), up(0), 30), time(2_100), "and before it has run for an hour");
    }

    #[test]
    fn a_clock_that_jumps_forward_waits_for_an_hour_and_the_slack_does_not_add_up() {
        let mut trusted = Trusted::new(None, time(0), up(0));
        run(&mut trusted, time(0), up(0), 120);
        let year = time(366 * 86_400);
        let jumped = trusted.believed(year, up(7_260));
        assert_eq!(jumped, time(7_260) + SLACK);
        let later = run(&mut trusted, year, up(7_260), 59);
        assert_eq!(later, time(7_260 + 59 * 60) + SLACK, "each look adds what has passed, and nothing more");
        assert_eq!(
            run(&mut trusted, year + SignedDuration::from_mins(59), up(7_260) + 59 * Duration::from_secs(60), 1),
            year + SignedDuration::from_hours(1)
        );
        // One that jumps again and again is never steady.
        let mut restless = Trusted::new(None, time(0), up(0));
        for step in 1..=600_u64 {
            let wall = time(i64::try_from(step).expect("few") * 3_600);
            let believed = restless.believed(wall, up(60 * step));
            assert!(believed <= time(60 * i64::try_from(step).expect("few")) + SLACK, "step {step}: {believed}");
        }
    }

    #[test]
    fn a_clock_that_is_put_right_has_done_no_harm() {
        let mut trusted = Trusted::new(Some(time(0)), time(86_400 * 400), up(0));
        assert_eq!(trusted.believed(time(86_400 * 400), up(0)), time(0) + SLACK);
        assert_eq!(trusted.believed(time(60), up(60)), time(60));
        assert_eq!(run(&mut trusted, time(60), up(60), 600), time(36_060));
        // A clock that was set back is followed, and nothing that was proven is taken back.
        assert_eq!(trusted.believed(time(-500), up(36_120)), time(-500));
        assert_eq!(trusted.believed(time(36_180), up(36_180)), time(36_180));
    }

    #[test]
    fn a_node_that_was_off_believes_two_others_and_not_one() {
        let month = 30 * 86_400;
        let mut trusted = Trusted::new(Some(time(0)), time(month), up(0));
        let nodes = [Key::generate().node_id(), Key::generate().node_id(), Key::generate().node_id()];
        assert_eq!(trusted.believed(time(month), up(0)), time(0) + SLACK);
        trusted.heard(nodes[0], time(month - 60), up(10));
        assert_eq!(trusted.believed(time(month + 20), up(20)), time(20) + SLACK, "one may lie");
        trusted.heard(nodes[0], time(month * 2), up(20));
        assert_eq!(trusted.believed(time(month + 20), up(20)), time(20) + SLACK, "however often");
        trusted.heard(nodes[1], time(86_400), up(20));
        assert_eq!(trusted.believed(time(month + 20), up(20)), time(86_400) + SLACK, "two: as far as both of them say");
        trusted.heard(nodes[2], time(month - 30), up(20));
        assert_eq!(trusted.believed(time(month + 30), up(30)), time(month + 30));
        // And from then on by itself.
        trusted.heard.clear();
        assert_eq!(trusted.believed(time(month + 90), up(90)), time(month + 90));
    }

    #[test]
    fn a_process_that_slept_waits_as_after_a_jump() {
        let mut trusted = Trusted::new(None, time(0), up(0));
        run(&mut trusted, time(0), up(0), 10);
        // The monotonic clock stood while the machine slept for a day.
        assert_eq!(trusted.believed(time(86_400), up(601)), time(601) + SLACK);
        assert_eq!(run(&mut trusted, time(86_400), up(601), 60), time(86_400) + SignedDuration::try_from(HOUR).expect("short"));
    }
}
