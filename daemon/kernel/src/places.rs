//! Places in the sandbox: so many calls at a time, those that other calls wait for apart.
//!
//! A call waits for a place only behind calls of its own depth, and those of the last depth wait for nobody: whoever holds a
//! place comes to its end without the places that others wait for. Plugins that are asked what they can do, when they are
//! loaded, have a place apart: a call may wait for that, too.

use std::sync::Arc;

use protocol::wire::MAX_DEPTH;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// See the module.
#[derive(Debug)]
pub(crate) struct Places {
    by_depth: [Arc<Semaphore>; MAX_DEPTH],
    first: usize,
    describing: Arc<Semaphore>,
}

/// Plugins that describe themselves at once: it takes milliseconds.
const DESCRIBING: usize = 1;

impl Places {
    /// `first` places for calls that no other waits for, and half as many for each depth below.
    pub(crate) fn new(first: usize) -> Self {
        let places = |count| Arc::new(Semaphore::new(count));
        Self { by_depth: std::array::from_fn(|depth| places(at(first, depth))), first, describing: places(DESCRIBING) }
    }

    /// Instances that there may be at once.
    pub(crate) fn total(first: usize) -> usize {
        DESCRIBING + (0..MAX_DEPTH).map(|depth| at(first, depth)).sum::<usize>()
    }

    /// A place, if one is free and nobody waits for it.
    pub(crate) fn free(&self, depth: usize) -> Option<OwnedSemaphorePermit> {
        Arc::clone(self.by_depth.get(depth)?).try_acquire_owned().ok()
    }

    /// Waits for a place, first come, first served; none so deep.
    pub(crate) async fn take(&self, depth: usize) -> Option<OwnedSemaphorePermit> {
        Arc::clone(self.by_depth.get(depth)?).acquire_owned().await.ok()
    }

    /// Waits for the place of plugins that describe themselves.
    pub(crate) async fn describe(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.describing).acquire_owned().await.ok()
    }

    /// How much of the places is taken for calls that no other waits for, in percent.
    pub(crate) fn occupancy(&self) -> u8 {
        let taken = self.first.saturating_sub(self.by_depth[0].available_permits());
        u8::try_from(taken * 100 / self.first.max(1)).unwrap_or(100)
    }
}

fn at(first: usize, depth: usize) -> usize {
    (first >> depth).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn each_depth_has_places_of_its_own() {
        assert_eq!((Places::total(64), Places::total(1)), (64 + 32 + 16 + 8 + 1, MAX_DEPTH + 1));
        let places = Places::new(2);
        let _two = (places.take(0).await.expect("one"), places.take(0).await.expect("another"));
        assert_eq!(places.occupancy(), 100);
        for depth in 1..MAX_DEPTH {
            drop(places.take(depth).await.expect("not taken by those above"));
        }
        drop(places.describe().await.expect("nor is this"));
        assert!(places.take(MAX_DEPTH).await.is_none());
    }
}
