//! Streamed answers: items that come before the answer itself, never more than the caller has room for.
//!
//! ```text
//! Items::send --waits for credit--> Item frames ==> Arriving: as many bytes as its window
//!      ^                                                |
//!      +------------------ Credit frames <----- taken by the caller
//! ```

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use bytes::Bytes;
use protocol::{
    Code, Problem,
    frame::{Frame, HEADER},
    wire::{Kind, MAX_ITEM, MAX_WINDOW, MIN_WINDOW},
};
use tokio::sync::{Semaphore, mpsc};

use super::{
    outbound::{Lost, Reply, Session},
    queue::Sender,
};

/// The least that an item takes of a window, so that their number is bounded, too.
const LEAST: usize = 1024;

/// What an item takes of a window.
fn cost(payload: usize) -> usize {
    (HEADER + payload).max(LEAST)
}

/// What a caller has room for, on the answering side.
#[derive(Debug, Clone)]
pub(super) struct Credit {
    bytes: Arc<Semaphore>,
    window: u32,
}

impl Credit {
    /// The credit that a call starts with; `None` if it expects no items.
    ///
    /// # Errors
    /// The window is none that may be.
    pub(super) fn new(window: u32) -> Result<Option<Self>, Problem> {
        match window {
            0 => Ok(None),
            MIN_WINDOW..=MAX_WINDOW => Ok(Some(Self { bytes: Arc::new(Semaphore::new(window as usize)), window })),
            other => {
                let detail = format!("a window of {other} bytes is not between {MIN_WINDOW} and {MAX_WINDOW}");
                Err(Problem::new(Code::InvalidRequest, detail))
            }
        }
    }

    /// The caller has taken `bytes`; whether it had as many.
    pub(super) fn add(&self, bytes: u32) -> bool {
        // Only one task adds, and those that take only make it less.
        let fits = self.bytes.available_permits() + bytes as usize <= self.window as usize;
        if fits {
            self.bytes.add_permits(bytes as usize);
        }
        fits
    }
}

/// Where a handler puts the items of its answer.
#[derive(Debug)]
pub struct Items(Option<Open>);

#[derive(Debug)]
struct Open {
    id: u64,
    sender: Sender,
    credit: Credit,
}

impl Items {
    pub(super) fn new(id: u64, sender: &Sender, credit: Option<Credit>) -> Self {
        Self(credit.map(|credit| Open { id, sender: sender.clone(), credit }))
    }

    /// Sends an item when the caller has room for it.
    ///
    /// # Errors
    /// It has over [`MAX_ITEM`] bytes, the caller expects no items, or it is gone.
    pub async fn send(&self, item: impl Into<Bytes>) -> Result<(), Problem> {
        let item = item.into();
        let Some(Open { id, sender, credit }) = &self.0 else {
            return Err(Problem::new(Code::InvalidRequest, "the answer comes in items, and the caller has no window for them"));
        };
        if item.len() > MAX_ITEM {
            return Err(Problem::new(Code::ResultTooLarge, format!("an item of {} bytes is over the limit of {MAX_ITEM}", item.len())));
        }
        let gone = || Problem::new(Code::Cancelled, "the caller is gone");
        let frame = Frame::new(Kind::Item, *id, item);
        let size = u32::try_from(cost(frame.payload.len())).expect("an item is far below 4 GiB");
        credit.bytes.acquire_many(size).await.map_err(|_| gone())?.forget();
        sender.send(frame).await.map_err(|_| gone())
    }
}

/// Where items of a call arrive, on the calling side.
#[derive(Debug)]
pub(super) struct Landing {
    replies: mpsc::Sender<Reply>,
    room: Arc<AtomicUsize>,
}

impl Landing {
    /// Passes an item on; false if it is more than the peer was given room for.
    pub(super) fn item(&self, frame: Frame) -> bool {
        let size = cost(frame.payload.len());
        let fits = self.room.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |room| room.checked_sub(size)).is_ok();
        if fits {
            // Has room for as many as the window; a caller that left needs nothing more.
            let _ = self.replies.try_send(Reply::Item(frame.payload));
        }
        fits
    }

    pub(super) fn end(self, reply: Reply) {
        // There is room for the end, too; a caller that left needs nothing more.
        let _ = self.replies.try_send(reply);
    }
}

/// A call whose answer comes in items.
#[derive(Debug)]
pub(crate) struct Arriving {
    session: Arc<Session>,
    id: u64,
    replies: mpsc::Receiver<Reply>,
    room: Arc<AtomicUsize>,
    window: usize,
    /// Bytes that were taken and not told yet.
    taken: usize,
}

impl Arriving {
    pub(super) fn new(session: Arc<Session>, id: u64, window: u32) -> (Self, Landing) {
        let window = window as usize;
        let (sender, replies) = mpsc::channel(window / LEAST + 1);
        let room = Arc::new(AtomicUsize::new(window));
        (Self { session, id, replies, room: room.clone(), window, taken: 0 }, Landing { replies: sender, room })
    }

    /// The next item, or what ends the answer. Cancel-safe.
    pub(crate) async fn next(&mut self) -> Result<Reply, Lost> {
        let reply = self.replies.recv().await.ok_or(Lost::Unanswered)?;
        if let Reply::Item(payload) = &reply {
            self.taken += cost(payload.len());
            // In halves of the window: few credits, and the peer needn't wait for one.
            if self.taken >= self.window / 2 {
                self.room.fetch_add(self.taken, Ordering::Relaxed);
                self.session.credit(self.id, u32::try_from(self.taken).expect("no more than a window"));
                self.taken = 0;
            }
        }
        Ok(reply)
    }
}

impl Drop for Arriving {
    fn drop(&mut self) {
        self.session.leave(self.id, true);
    }
}
