//! The processor time that all guests of a node may take together.
//!
//! A bucket fills at the node's share. Whoever wants to run stands in line, waits until the bucket isn't empty, and pays for
//! a tick of the clock; at its next tick it stands in line again. So guests are slowed alike, and none is starved.
//! Without such a share, only those who come to a second tick stand in line.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use tokio::sync::Semaphore;

use crate::ticker::TICK;

/// What may be used at once after a rest, in seconds.
const BURST_S: f64 = 0.05;

/// The shares of a node's guests. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Shares {
    /// All guests together, as the operator says.
    pub(crate) of_all: Share,
    /// Those that have run for a tick already: all processors but one, so that whoever loops doesn't stand in the way of
    /// short calls, nor of the node itself.
    long: Share,
}

impl Shares {
    /// So many percent of one processor for all guests; 0 for no limit.
    pub(crate) fn new(percent: u32) -> Self {
        let processors = std::thread::available_parallelism().map_or(1, |found| u32::try_from(found.get()).unwrap_or(u32::MAX));
        Self { of_all: Share::new(percent), long: Share::new(processors.saturating_sub(1).max(1).saturating_mul(100)) }
    }

    /// What a new call counts its waiting in: nothing, where there is nothing to count.
    pub(crate) fn held_back(&self) -> HeldBack {
        HeldBack(self.of_all.is_limited().then(Arc::default))
    }

    /// Where a guest stands at each tick: it lets others run, and waits for its turn. What it waits for the operator's share
    /// isn't its own time; what it waits for others like it is, as on any busy processor.
    pub(crate) async fn tick(&self, held_back: &HeldBack) {
        tokio::task::yield_now().await;
        if self.of_all.is_limited() {
            held_back.turn(&self.of_all).await;
        } else {
            self.long.turn().await;
        }
    }
}

/// A share, or no limit. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Share(Option<Arc<Bucket>>);

#[derive(Debug)]
struct Bucket {
    /// Seconds of processor time for each second.
    rate: f64,
    level: Mutex<Level>,
    /// First come, first served.
    line: Semaphore,
}

#[derive(Debug)]
struct Level {
    seconds: f64,
    at: Instant,
}

impl Bucket {
    /// Adds what has come in since, and `more`; how long it takes until the bucket isn't empty.
    fn add(&self, more: f64) -> Option<Duration> {
        let mut level = self.level.lock();
        let now = Instant::now();
        let filled = level.seconds + self.rate * now.duration_since(level.at).as_secs_f64() + more;
        *level = Level { seconds: filled.min(BURST_S), at: now };
        (level.seconds <= 0.0).then(|| Duration::from_secs_f64(-level.seconds / self.rate) + Duration::from_millis(1))
    }
}

impl Share {
    /// So many percent of one processor; 0 for no limit.
    pub(crate) fn new(percent: u32) -> Self {
        let level = Mutex::new(Level { seconds: BURST_S, at: Instant::now() });
        let bucket = || Bucket { rate: f64::from(percent) / 100.0, level, line: Semaphore::new(1) };
        Self((percent > 0).then(|| Arc::new(bucket())))
    }

    /// Whether there is a limit.
    pub(crate) fn is_limited(&self) -> bool {
        self.0.is_some()
    }

    /// Waits for its turn, and pays for a tick.
    pub(crate) async fn turn(&self) {
        let Some(bucket) = &self.0 else { return };
        // Never closed.
        let _first = bucket.line.acquire().await;
        while let Some(rest) = bucket.add(0.0) {
            tokio::time::sleep(rest).await;
        }
        bucket.add(-TICK.as_secs_f64());
    }

    /// A call ended after `spent`: what it paid for and didn't use is given back.
    pub(crate) fn ended(&self, spent: Duration) {
        if let Some(bucket) = &self.0 {
            bucket.add(TICK.saturating_sub(spent).as_secs_f64());
        }
    }
}

/// How long one call was held back: that time isn't its own.
#[derive(Debug, Clone)]
pub(crate) struct HeldBack(Option<Arc<Mutex<Waited>>>);

#[derive(Debug, Default)]
struct Waited {
    before: Duration,
    since: Option<Instant>,
}

impl HeldBack {
    /// Waits for the call's turn.
    pub(crate) async fn turn(&self, share: &Share) {
        let Some(waited) = &self.0 else { return share.turn().await };
        waited.lock().since = Some(Instant::now());
        share.turn().await;
        let mut waited = waited.lock();
        let since = waited.since.take();
        waited.before += since.map_or(Duration::ZERO, |since| since.elapsed());
    }

    pub(crate) fn get(&self) -> Duration {
        let Some(waited) = &self.0 else { return Duration::ZERO };
        let waited = waited.lock();
        waited.before + waited.since.map_or(Duration::ZERO, |since| since.elapsed())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn whoever_stands_in_line_gets_its_turn_at_the_rate() {
        let free = Share::new(0);
        assert!(!free.is_limited());
        free.turn().await;
        let share = Share::new(50);
        let begun = Instant::now();
        let turns = (0..3).map(|_| {
            let share = share.clone();
            tokio::spawn(async move {
                for _ in 0..50 {
                    share.turn().await;
                }
            })
        });
        for turn in turns.collect::<Vec<_>>() {
            turn.await.expect("no panic");
        }
        // 150 ticks at half a processor, less what there was to begin with.
        assert!(begun.elapsed() >= Duration::from_millis(450), "{:?}", begun.elapsed());
        share.ended(Duration::ZERO);
        share.ended(Duration::from_secs(1));
    }
}
