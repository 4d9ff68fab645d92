//! What the requests of one peer may take of this node at once: a number of them, and bytes of requests and answers. All
//! peers together have a limit, too.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use protocol::wire::MAX_IN_FLIGHT;

use crate::limits::{MAX_BYTES, MAX_BYTES_PER_PEER};

/// The room of one peer.
#[derive(Debug)]
pub(crate) struct Room {
    requests: AtomicUsize,
    bytes: AtomicUsize,
    all: Arc<AtomicUsize>,
}

/// What one request takes; given back when dropped.
#[derive(Debug)]
pub(crate) struct Taken {
    room: Arc<Room>,
    bytes: usize,
}

/// Why there is no room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Full {
    /// As many requests are under way as may.
    Requests,
    /// As many bytes wait as may.
    Bytes,
}

impl Room {
    /// A peer's room; `all` counts the bytes of all peers.
    pub(crate) fn new(all: Arc<AtomicUsize>) -> Arc<Self> {
        Arc::new(Self { requests: AtomicUsize::new(0), bytes: AtomicUsize::new(0), all })
    }

    /// Whether requests are under way.
    pub(crate) fn is_busy(&self) -> bool {
        self.requests.load(Ordering::Relaxed) > 0
    }

    /// Takes room for a request of so many bytes.
    pub(super) fn enter(self: &Arc<Self>, bytes: usize) -> Result<Taken, Full> {
        take(&self.requests, 1, MAX_IN_FLIGHT).then_some(()).ok_or(Full::Requests)?;
        let mut taken = Taken { room: Arc::clone(self), bytes: 0 };
        taken.add(bytes).map(|()| taken)
    }
}

impl Taken {
    /// Takes room for more bytes.
    pub(super) fn add(&mut self, bytes: usize) -> Result<(), Full> {
        if !take(&self.room.bytes, bytes, MAX_BYTES_PER_PEER) {
            return Err(Full::Bytes);
        }
        if !take(&self.room.all, bytes, MAX_BYTES) {
            self.room.bytes.fetch_sub(bytes, Ordering::Relaxed);
            return Err(Full::Bytes);
        }
        self.bytes += bytes;
        Ok(())
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.room.requests.fetch_sub(1, Ordering::Relaxed);
        self.room.bytes.fetch_sub(self.bytes, Ordering::Relaxed);
        self.room.all.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

fn take(counter: &AtomicUsize, more: usize, limit: usize) -> bool {
    // Added first, so that two who come at once can't both have the last place.
    let fits = counter.fetch_add(more, Ordering::Relaxed) + more <= limit;
    if !fits {
        counter.fetch_sub(more, Ordering::Relaxed);
    }
    fits
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_is_given_back_whoever_took_it() {
        let all = Arc::<AtomicUsize>::default();
        let (one, other) = (Room::new(all.clone()), Room::new(all.clone()));
        let mut taken: Vec<Taken> = (0..MAX_IN_FLIGHT).map(|_| one.enter(10).expect("room")).collect();
        assert_eq!(one.enter(0).expect_err("full"), Full::Requests);
        assert!(one.is_busy() && !other.is_busy());
        assert_eq!(taken[0].add(MAX_BYTES_PER_PEER).expect_err("too much"), Full::Bytes);
        drop(taken);
        let mut large = Vec::new();
        for _ in 0..MAX_BYTES / MAX_BYTES_PER_PEER {
            large.push(Room::new(all.clone()).enter(MAX_BYTES_PER_PEER).expect("room"));
        }
        assert_eq!(other.enter(1).expect_err("others have taken all"), Full::Bytes);
        drop(large);
        other.enter(MAX_BYTES_PER_PEER).expect("room again");
        assert_eq!((all.load(Ordering::Relaxed), one.is_busy(), other.is_busy()), (0, false, false));
    }
}
