//! The memory that all guests of a node may hold together.
//!
//! A call begins only where there is room; one that has begun and grows into the ceiling fails as overloaded, and the node
//! lives on. A call that another waits for begins at once: the room that it would wait for may be its caller's.

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::Notify;

/// A ceiling, or none. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Ceiling(Option<Arc<Room>>);

#[derive(Debug)]
struct Room {
    limit: u64,
    used: Mutex<u64>,
    freed: Notify,
}

impl Room {
    /// Whether so little is left that whoever began now would soon fail.
    fn is_nearly_full(&self) -> bool {
        *self.used.lock() > self.limit - self.limit / 8
    }
}

impl Ceiling {
    /// At so many bytes; 0 for none.
    pub(crate) fn new(limit: u64) -> Self {
        let room = || Room { limit, used: Mutex::new(0), freed: Notify::new() };
        Self((limit > 0).then(|| Arc::new(room())))
    }

    /// Takes room, if there is some.
    pub(crate) fn take(&self, bytes: u64) -> bool {
        let Some(room) = &self.0 else { return true };
        let mut used = room.used.lock();
        match used.checked_add(bytes).filter(|sum| *sum <= room.limit) {
            Some(sum) => {
                *used = sum;
                true
            }
            None => false,
        }
    }

    /// Gives room back.
    pub(crate) fn give(&self, bytes: u64) {
        if let Some(room) = self.0.as_deref().filter(|_| bytes > 0) {
            *room.used.lock() -= bytes;
            room.freed.notify_waiters();
        }
    }

    /// Whether there is room for another call.
    pub(crate) fn has_room(&self) -> bool {
        self.0.as_ref().is_none_or(|room| !room.is_nearly_full())
    }

    /// Waits until there is.
    pub(crate) async fn room(&self) {
        let Some(room) = &self.0 else { return };
        loop {
            let mut freed = std::pin::pin!(room.freed.notified());
            freed.as_mut().enable();
            if !room.is_nearly_full() {
                return;
            }
            freed.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn whoever_comes_when_it_is_full_waits_for_room() {
        let ceiling = Ceiling::new(80);
        assert!(ceiling.take(71) && !ceiling.take(10));
        let waiting = tokio::spawn({
            let ceiling = ceiling.clone();
            async move { ceiling.room().await }
        });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        ceiling.give(71);
        waiting.await.expect("there is room");
        assert!(ceiling.take(80), "all was given back");
        assert!(Ceiling::new(0).take(u64::MAX));
    }
}
