//! The processor time that all guests of a node may take together, and whose turn it is.
//!
//! ```text
//! its agent's lines: those that begin ─┐
//!                    those that go on ─┴─ one of each in turn ─► the line of all agents ─► the bucket isn't empty ─► runs a tick
//! ```
//! A bucket fills at the node's share. Whoever wants to run stands in line, waits until the bucket isn't empty, and pays for a
//! tick of the clock; when that is used it stands in line again. Of each agent one stands in the line of all, so that agents are
//! slowed alike, however many calls they have, and none is starved.
//!
//! Without a share that the operator sets, only long calls stand in line: those that have run for longer than a short call
//! does, and all of an agent whose calls do so again and again, from their first tick on.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use tokio::{sync::Semaphore, task::yield_now};

use crate::{
    tenants::{Tenant, Tenants, Whose},
    ticker::TICK,
};

/// What may be used at once after a rest, in seconds.
const BURST_S: f64 = 0.05;
/// What a call may run before it counts as long: a short one takes a fraction of it, even if it is interrupted.
const SHORT: Duration = TICK.saturating_mul(2);
/// Ticks come at any time: who has so much left of what it paid for runs until the next one.
const HALF: Duration = Duration::from_millis(1);

/// The shares of a node's guests. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Shares(Arc<Parts>);

#[derive(Debug)]
struct Parts {
    /// Who pays for its first tick, too: everyone, as the operator has set a share.
    of_all: bool,
    bucket: Bucket,
    tenants: Tenants,
}

impl Shares {
    /// So many percent of one processor for all guests. With 0, long calls share all processors but one, so that whoever loops
    /// doesn't stand in the way of short calls, nor of the node itself.
    pub(crate) fn new(percent: u32) -> Self {
        let processors = std::thread::available_parallelism().map_or(1, |found| u32::try_from(found.get()).unwrap_or(u32::MAX));
        let others = processors.saturating_sub(1).max(1).saturating_mul(100);
        let bucket = Bucket::new(if percent > 0 { percent } else { others });
        Self(Arc::new(Parts { of_all: percent > 0, bucket, tenants: Tenants::default() }))
    }

    /// Lets a call begin. If it pays for its first tick, it waits for its turn.
    pub(crate) async fn enter(&self, whose: Whose) -> Pass {
        let Some(tenant) = self.who_pays(whose) else { return self.pass(whose, SHORT, false) };
        let pass = self.pass(whose, Duration::ZERO, !self.0.of_all);
        let asked = Instant::now();
        pass.turn(&tenant, true).await;
        if !self.0.of_all {
            pass.0.run.lock().waited = asked.elapsed();
        }
        pass
    }

    /// Lets a call begin that doesn't pay for its first tick.
    pub(crate) fn free(&self, whose: Whose) -> Option<Pass> {
        self.who_pays(whose).is_none().then(|| self.pass(whose, SHORT, false))
    }

    fn who_pays(&self, whose: Whose) -> Option<Arc<Tenant>> {
        let Parts { of_all, tenants, .. } = &*self.0;
        if *of_all { Some(tenants.of(whose)) } else { tenants.known(whose).filter(|known| known.is_long()) }
    }

    fn pass(&self, whose: Whose, allowed: Duration, long: bool) -> Pass {
        let run = Mutex::new(Run { allowed, ..Run::default() });
        Pass(Arc::new(Ticket { parts: Arc::clone(&self.0), whose, run, long: AtomicBool::new(long) }))
    }
}

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
    fn new(percent: u32) -> Self {
        let level = Mutex::new(Level { seconds: BURST_S, at: Instant::now() });
        Self { rate: f64::from(percent) / 100.0, level, line: Semaphore::new(1) }
    }

    /// Adds what has come in since, and `more`; how long it takes until the bucket isn't empty.
    fn add(&self, more: f64) -> Option<Duration> {
        let mut level = self.level.lock();
        let now = Instant::now();
        let filled = level.seconds + self.rate * now.duration_since(level.at).as_secs_f64() + more;
        *level = Level { seconds: filled.min(BURST_S), at: now };
        (level.seconds <= 0.0).then(|| Duration::from_secs_f64(-level.seconds / self.rate) + Duration::from_millis(1))
    }
}

/// One call's part of the shares: how long its guest has run, and what of that it has paid for. Cheap to clone; the last one
/// dropped settles.
#[derive(Debug, Clone)]
pub(crate) struct Pass(Arc<Ticket>);

#[derive(Debug)]
struct Ticket {
    parts: Arc<Parts>,
    whose: Whose,
    run: Mutex<Run>,
    /// It has stood in line for going on, or is of an agent whose calls are known for it.
    long: AtomicBool,
}

#[derive(Debug, Default)]
struct Run {
    /// How long its guest has had a thread, and since when it has one.
    ran: Duration,
    since: Option<Instant>,
    /// What it may run until it stands in line.
    allowed: Duration,
    paid: bool,
    /// How long it waited to begin, where that is its own time.
    waited: Duration,
    /// What of `ran` its agent is known for.
    told: Duration,
    /// How long it was held back, and since when it is.
    held: Duration,
    held_since: Option<Instant>,
}

impl Run {
    fn ran(&self) -> Duration {
        self.ran + self.since.map_or(Duration::ZERO, |since| since.elapsed())
    }
}

impl Pass {
    /// Counts how long the guest has a thread for `work`, from `since` on; also says until when.
    pub(crate) fn during<T>(&self, since: Instant, work: impl FnOnce() -> T) -> (T, Instant) {
        self.0.run.lock().since = Some(since);
        let (done, until) = (work(), Instant::now());
        let mut run = self.0.run.lock();
        run.since = None;
        run.ran += until.duration_since(since);
        (done, until)
    }

    /// Where a guest stands at each tick: it lets others run, and if it has used what it may, it waits for its turn. What it
    /// waits for the operator's share isn't its own time; what it waits for others like it is, as on any busy processor.
    pub(crate) async fn tick(self) {
        let line = self.line();
        yield_now().await;
        let Some(tenant) = line else { return };
        self.0.run.lock().held_since = self.0.parts.of_all.then(Instant::now);
        self.turn(&tenant, false).await;
        let mut run = self.0.run.lock();
        let held = run.held_since.take().map_or(Duration::ZERO, |since| since.elapsed());
        run.held += held;
    }

    /// Tells how long it ran; where it stands, if it may not go on.
    fn line(&self) -> Option<Arc<Tenant>> {
        let Ticket { parts, whose, run, long } = &*self.0;
        let mut run = run.lock();
        let ran = run.ran();
        if ran < HALF {
            return None;
        }
        let tenant = parts.tenants.of(*whose);
        // A thread that others kept waiting seems to have run for longer than the clock lets a guest run.
        tenant.ran(ran.saturating_sub(run.told).min(TICK).as_secs_f64());
        run.told = ran;
        let stands = ran + HALF >= run.allowed || !run.paid && tenant.is_long();
        if stands {
            long.store(true, Ordering::Relaxed);
        }
        stands.then_some(tenant)
    }

    /// Whether others shouldn't wait for its ticks.
    pub(crate) fn is_long(&self) -> bool {
        self.0.long.load(Ordering::Relaxed)
    }

    #[cfg(test)]
    pub(crate) fn make_long(&self) {
        self.0.long.store(true, Ordering::Relaxed);
    }

    /// How long it waited to begin, for others like it: as what it waits for them later, that is its own time.
    pub(crate) fn waited(&self) -> Duration {
        self.0.run.lock().waited
    }

    /// Waits for its turn, and pays for a tick.
    async fn turn(&self, tenant: &Tenant, begins: bool) {
        let bucket = &self.0.parts.bucket;
        // None of them is ever closed.
        let _first_of_its_kind = tenant.lines[usize::from(begins)].acquire().await;
        let _first_of_its_agent = tenant.door.acquire().await;
        let _first = bucket.line.acquire().await;
        while let Some(rest) = bucket.add(0.0) {
            tokio::time::sleep(rest).await;
        }
        bucket.add(-TICK.as_secs_f64());
        let mut run = self.0.run.lock();
        // What it ran before it had to pay was free.
        let used = if run.paid { run.allowed.max(run.ran().saturating_sub(TICK)) } else { run.ran() };
        (run.allowed, run.paid) = (used + TICK, true);
    }

    /// How long the call was held back: that time isn't its own.
    pub(crate) fn held_back(&self) -> Duration {
        let run = self.0.run.lock();
        run.held + run.held_since.map_or(Duration::ZERO, |since| since.elapsed())
    }
}

impl Drop for Ticket {
    /// What the call paid for and didn't use is given back; what it used more is taken, up to a tick.
    fn drop(&mut self) {
        let run = self.run.get_mut();
        if run.paid {
            self.parts.bucket.add((run.allowed.as_secs_f64() - run.ran.as_secs_f64()).max(-TICK.as_secs_f64()));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use protocol::AgentId;

    use super::*;

    /// Lets `calls` of an agent take turns for as long as they are wanted; counts them.
    fn turning(shares: &Shares, calls: usize) -> (Vec<tokio::task::JoinHandle<()>>, Arc<AtomicUsize>) {
        let (whose, turns) = (Some(AgentId::new()), Arc::new(AtomicUsize::new(0)));
        let one = || {
            let (shares, turns) = (shares.clone(), Arc::clone(&turns));
            tokio::spawn(async move {
                let (pass, tenant) = (shares.enter(whose).await, shares.0.tenants.of(whose));
                turns.fetch_add(1, Ordering::Relaxed);
                loop {
                    pass.turn(&tenant, false).await;
                    pass.0.run.lock().ran += TICK;
                    turns.fetch_add(1, Ordering::Relaxed);
                    // It would run now.
                    yield_now().await;
                }
            })
        };
        ((0..calls).map(|_| one()).collect(), turns)
    }

    #[tokio::test]
    async fn whoever_stands_in_line_gets_its_turn_at_the_rate() {
        let shares = Shares::new(50);
        let begun = Instant::now();
        let tenant = Tenant::default();
        let pass = shares.enter(None).await;
        for _ in 0..149 {
            pass.0.run.lock().ran += TICK;
            pass.turn(&tenant, false).await;
        }
        // 150 ticks at half a processor, less what there was to begin with.
        assert!(begun.elapsed() >= Duration::from_millis(450), "{:?}", begun.elapsed());
    }

    #[tokio::test]
    async fn an_agent_with_one_call_has_its_turns_beside_one_with_many() {
        let shares = Shares::new(400);
        let ((many, of_many), (one, of_one)) = (turning(&shares, 32), turning(&shares, 1));
        let enough = async {
            while of_one.load(Ordering::Relaxed) < 200 {
                yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), enough).await.expect("turns");
        let (one_had, many_had) = (of_one.load(Ordering::Relaxed), of_many.load(Ordering::Relaxed));
        many.into_iter().chain(one).for_each(|turning| turning.abort());
        // Where calls take turns it is 32 times as many. After a rest there is something for everyone: whoever asks is not held up.
        let even = many_had <= 8 * one_had && many_had >= one_had / 8;
        assert!(even, "{many_had} turns of one agent beside {one_had} of the other");
    }

    #[tokio::test]
    async fn what_was_paid_for_and_not_used_is_given_back() {
        let shares = Shares::new(1);
        let level = || shares.0.bucket.level.lock().seconds;
        let pass = shares.enter(None).await;
        assert!(level() < BURST_S - 0.001, "it has paid");
        drop(pass);
        assert!(level() > BURST_S - 0.000_1, "and had it back");
        let pass = shares.enter(None).await;
        pass.0.run.lock().ran = Duration::from_secs(1);
        drop(pass);
        assert!(level() < BURST_S - 0.003, "what was used more is taken, if it is likely");
        // Without a share nobody pays for a short call.
        let free = Shares::new(0);
        drop(free.enter(None).await);
        assert!(free.0.tenants.known(None).is_none());
    }

    #[tokio::test]
    async fn whose_calls_were_long_again_and_again_stands_in_line_from_the_first_tick_on() {
        let (shares, whose) = (Shares::new(0), Some(AgentId::new()));
        for _ in 0..100 {
            let pass = shares.enter(whose).await;
            pass.0.run.lock().ran = TICK;
            assert_eq!(pass.line().is_some(), shares.0.tenants.of(whose).is_long());
        }
        let (first, other) = (shares.enter(whose).await, shares.enter(Some(AgentId::new())).await);
        assert!(first.0.run.lock().paid && !other.0.run.lock().paid);
        other.0.run.lock().ran = Duration::from_micros(300);
        assert!(other.line().is_none(), "a tick came early");
    }
}
