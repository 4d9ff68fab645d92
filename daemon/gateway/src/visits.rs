//! Connections on which nobody has shown a key yet. Where no further connection can be taken, the oldest of them is closed:
//! whoever opens many and sends nothing keeps out nobody who does.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

/// See the module. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct Visits {
    strangers: Arc<Mutex<BTreeMap<u64, CancellationToken>>>,
    count: Arc<AtomicU64>,
}

/// One connection. Cheap to clone: each of its requests carries it.
#[derive(Debug, Clone)]
pub(crate) struct Visit {
    visits: Visits,
    number: u64,
}

impl Visits {
    /// A new connection, and what is cancelled when it has to go.
    pub(crate) fn begin(&self) -> (Visit, CancellationToken) {
        let (number, leave) = (self.count.fetch_add(1, Ordering::Relaxed), CancellationToken::new());
        self.strangers.lock().insert(number, leave.clone());
        (Visit { visits: self.clone(), number }, leave)
    }

    /// Has the oldest connection without a key closed, if there is one.
    pub(crate) fn close_oldest(&self) -> bool {
        let oldest = self.strangers.lock().pop_first();
        oldest.map(|(_, leave)| leave.cancel()).is_some()
    }
}

impl Visit {
    /// It showed a key, or it has ended: it isn't closed to make room.
    pub(crate) fn settle(&self) {
        self.visits.strangers.lock().remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_without_a_key_makes_room() {
        let visits = Visits::default();
        let [(first, one), (_second, two), (_third, three)] = std::array::from_fn(|_| visits.begin());
        first.settle();
        assert!(visits.close_oldest() && !one.is_cancelled() && two.is_cancelled() && !three.is_cancelled());
        assert!(visits.close_oldest() && three.is_cancelled() && !visits.close_oldest());
    }
}
