//! Whose calls run long, and the line of each of them.
//!
//! Whether an agent's calls run long is a bucket that leaks: what they run beyond a tick fills it, so that a call which was
//! merely interrupted counts for little, and loops for what they are.

use std::{collections::HashMap, sync::Arc, time::Instant};

use parking_lot::Mutex;
use protocol::AgentId;
use tokio::sync::Semaphore;

/// Agents that are remembered: those past it are forgotten, unless their calls are about.
const MOST: usize = 1024;
/// What leaks: an agent may run long for so much of a processor, and counts as one whose calls are short.
const LEAK: f64 = 0.02;
/// From here on its calls count as long, in seconds.
const LONG_S: f64 = 0.05;
/// The bucket's size, in seconds: ten seconds after the last long call it is down to where they count as short.
const FULL_S: f64 = 0.25;

/// Whose calls they are: an agent's, or those of plugins that describe themselves.
pub(crate) type Whose = Option<AgentId>;

/// All that are remembered.
#[derive(Debug, Default)]
pub(crate) struct Tenants(Mutex<HashMap<Whose, Arc<Tenant>>>);

/// One of them.
#[derive(Debug)]
pub(crate) struct Tenant {
    /// Those that begin, and those that go on: each line gives every other turn, so that short calls come to their end
    /// beside loops.
    pub(crate) lines: [Semaphore; 2],
    /// One of both stands in the line of all tenants.
    pub(crate) door: Semaphore,
    long: Mutex<Leaking>,
}

impl Default for Tenant {
    fn default() -> Self {
        let lines = [Semaphore::new(1), Semaphore::new(1)];
        Self { lines, door: Semaphore::new(1), long: Mutex::new(Leaking { seconds: 0.0, at: Instant::now() }) }
    }
}

impl Tenant {
    /// Its guest came to a tick after so many seconds.
    pub(crate) fn ran(&self, seconds: f64) {
        self.long.lock().add(seconds, Instant::now());
    }

    /// Whether its calls count as long.
    pub(crate) fn is_long(&self) -> bool {
        self.long.lock().add(0.0, Instant::now()) > LONG_S
    }
}

impl Tenants {
    /// One that is remembered.
    pub(crate) fn known(&self, whose: Whose) -> Option<Arc<Tenant>> {
        self.0.lock().get(&whose).cloned()
    }

    /// This one, remembered from now on.
    pub(crate) fn of(&self, whose: Whose) -> Arc<Tenant> {
        let mut all = self.0.lock();
        if let Some(tenant) = all.get(&whose) {
            return Arc::clone(tenant);
        }
        if all.len() >= MOST {
            // Whoever has a call about can't be forgotten: it would stand in two lines. There are fewer places than this.
            all.retain(|_, tenant| Arc::strong_count(tenant) > 1 || tenant.is_long());
        }
        if all.len() >= MOST {
            all.retain(|_, tenant| Arc::strong_count(tenant) > 1);
        }
        Arc::clone(all.entry(whose).or_default())
    }
}

#[derive(Debug)]
struct Leaking {
    seconds: f64,
    at: Instant,
}

impl Leaking {
    /// What is in it, with so much more.
    fn add(&mut self, more: f64, now: Instant) -> f64 {
        let left = (self.seconds - LEAK * now.saturating_duration_since(self.at).as_secs_f64()).max(0.0);
        *self = Self { seconds: (left + more).min(FULL_S), at: now };
        self.seconds
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn whoever_runs_long_is_known_for_it_until_that_has_leaked_away() {
        let now = Instant::now();
        let mut long = Leaking { seconds: 0.0, at: now };
        // A call in a hundred that was interrupted, for a minute.
        let at = |ms| now + Duration::from_millis(ms);
        assert!((0..600).all(|turn| long.add(0.002, at(turn * 100)) < LONG_S));
        let loops = at(60_000);
        assert!((0..1000).map(|_| long.add(0.002, loops)).last().is_some_and(|seconds| seconds > LONG_S));
        assert!(long.add(0.0, loops + Duration::from_secs(9)) > LONG_S, "it is remembered");
        assert!(long.add(0.0, loops + Duration::from_secs(11)) < LONG_S, "and forgotten");
    }

    #[test]
    fn those_who_are_about_are_never_forgotten() {
        let tenants = Tenants::default();
        let (here, long) = (tenants.of(Some(AgentId::new())), AgentId::new());
        tenants.of(Some(long)).ran(1.0);
        for _ in 0..MOST {
            tenants.of(Some(AgentId::new()));
        }
        let all = tenants.0.lock();
        assert!(all.len() < MOST && all.values().any(|tenant| Arc::ptr_eq(tenant, &here)));
        assert!(all.contains_key(&Some(long)), "what is long is forgotten last");
    }
}
