//! What waits to be written on a stream: bounded by number and by bytes, written in batches with one flush each.

use std::{collections::HashMap, io, sync::Arc, time::Duration};

use bytes::Bytes;
use futures::{AsyncWrite, AsyncWriteExt as _};
use parking_lot::Mutex;
use protocol::{frame::Frame, wire::Kind};
use tokio::{
    sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc},
    time,
};

use super::room::Taken;

/// Frames that wait: several batches, so that the writer never idles while callers are woken.
pub(crate) const MAX_FRAMES: usize = 256;
/// Bytes that wait, in KiB: two of the largest frames.
const MAX_KIBIBYTES: usize = 36 * 1024;
/// Frames taken at once.
const BATCH: usize = 64;
/// Frames up to this size are gathered into one write.
const SMALL: usize = 16 * 1024;
/// A large frame is written in pieces of this size.
const PIECE: usize = 64 * 1024;
/// A peer that takes nothing for this long is gone.
pub(crate) const STALL: Duration = Duration::from_secs(30);

/// The stream has ended.
#[derive(Debug)]
pub(super) struct Closed;

type Queued = (Frame, Hold);

/// The room that a frame takes while it waits; given back when it is written.
#[derive(Debug)]
#[expect(dead_code, reason = "held, never looked at")]
enum Hold {
    /// Of this queue.
    Queue(OwnedSemaphorePermit),
    /// Of the peer's.
    Peer(Taken),
}

/// Where frames are put.
#[derive(Debug, Clone)]
pub(super) struct Sender {
    frames: mpsc::Sender<Queued>,
    kibibytes: Arc<Semaphore>,
    notices: Arc<Notices>,
}

/// Where the writer takes them.
#[derive(Debug)]
pub(super) struct Receiver {
    frames: mpsc::Receiver<Queued>,
    notices: Arc<Notices>,
}

/// What can't wait for room: callers that have left, as they leave by being dropped, and bytes that callers have taken. The
/// number of both is bounded all the same: each belongs to a call under way, of which there are few.
#[derive(Debug, Default)]
struct Notices {
    waiting: Mutex<Waiting>,
    added: Notify,
}

#[derive(Debug, Default)]
struct Waiting {
    cancelled: Vec<u64>,
    credits: HashMap<u64, u32>,
}

/// A queue for one stream.
pub(super) fn queue() -> (Sender, Receiver) {
    let (frames, receiver) = mpsc::channel(MAX_FRAMES);
    let notices = Arc::<Notices>::default();
    let sender = Sender { frames, kibibytes: Arc::new(Semaphore::new(MAX_KIBIBYTES)), notices: notices.clone() };
    (sender, Receiver { frames: receiver, notices })
}

impl Sender {
    /// Puts `frame` when there is room.
    pub(super) async fn send(&self, frame: Frame) -> Result<(), Closed> {
        let room = self.kibibytes.clone().acquire_many_owned(kibibytes(&frame)).await.map_err(|_| Closed)?;
        self.frames.send((frame, Hold::Queue(room))).await.map_err(|_| Closed)
    }

    /// Puts an answer that has its room already.
    pub(super) async fn answer(&self, frame: Frame, taken: Taken) -> Result<(), Closed> {
        self.frames.send((frame, Hold::Peer(taken))).await.map_err(|_| Closed)
    }

    /// Puts `frame` if there is room now.
    pub(super) fn try_send(&self, frame: Frame) {
        if let Ok(room) = self.kibibytes.clone().try_acquire_many_owned(kibibytes(&frame)) {
            // Full or closed: only notices are sent this way, and the other side's deadline stands in for them.
            let _ = self.frames.try_send((frame, Hold::Queue(room)));
        }
    }

    /// Tells the peer that nobody waits for call `id` any more, whose frame was put before.
    pub(super) fn cancel(&self, id: u64) {
        let mut waiting = self.notices.waiting.lock();
        waiting.credits.remove(&id);
        waiting.cancelled.push(id);
        drop(waiting);
        self.notices.added.notify_one();
    }

    /// Tells the peer that so many bytes of call `id`'s items were taken.
    pub(super) fn credit(&self, id: u64, bytes: u32) {
        *self.notices.waiting.lock().credits.entry(id).or_default() += bytes;
        self.notices.added.notify_one();
    }

    /// Nothing is taken any more: those who wait for room are woken.
    pub(super) fn close(&self) {
        self.kibibytes.close();
    }
}

fn kibibytes(frame: &Frame) -> u32 {
    u32::try_from(frame.size().div_ceil(1024)).expect("frames are below 4 TiB")
}

/// Writes what is queued, until the queue is closed or the stream fails.
pub(super) async fn write(mut queue: Receiver, stream: impl AsyncWrite + Unpin) -> io::Result<()> {
    let mut writer = Writer { stream, batch: Vec::with_capacity(BATCH), buffer: Vec::new() };
    loop {
        tokio::select! {
            taken = queue.frames.recv_many(&mut writer.batch, BATCH) => if taken == 0 {
                return writer.stream.close().await;
            },
            () = queue.notices.added.notified() => {}
        }
        // A call's frame was put before it was cancelled: whoever is in `cancelled` now has it in the batch, among the
        // `before` next frames, or already on the wire.
        let Waiting { cancelled, credits } = std::mem::take(&mut *queue.notices.waiting.lock());
        let mut before = if cancelled.is_empty() { 0 } else { queue.frames.len() };
        writer.write_batch().await?;
        while before > 0 {
            before = before.saturating_sub(queue.frames.recv_many(&mut writer.batch, BATCH).await.max(1));
            writer.write_batch().await?;
        }
        for id in cancelled {
            writer.buffer.extend_from_slice(&Frame::new(Kind::Cancel, id, Bytes::new()).header());
        }
        for (id, bytes) in credits {
            let frame = Frame::new(Kind::Credit, id, Bytes::copy_from_slice(&bytes.to_be_bytes()));
            writer.buffer.extend_from_slice(&frame.header());
            writer.buffer.extend_from_slice(&frame.payload);
        }
        writer.flush().await?;
    }
}

struct Writer<W> {
    stream: W,
    batch: Vec<Queued>,
    buffer: Vec<u8>,
}

impl<W: AsyncWrite + Unpin> Writer<W> {
    /// Writes the batch, small frames gathered.
    async fn write_batch(&mut self) -> io::Result<()> {
        for (frame, _hold) in self.batch.drain(..) {
            self.buffer.extend_from_slice(&frame.header());
            if frame.payload.len() <= SMALL {
                self.buffer.extend_from_slice(&frame.payload);
            } else {
                in_time(self.stream.write_all(&self.buffer)).await?;
                self.buffer.clear();
                // Piece by piece, each in its time: a slow link takes long for the whole.
                for piece in frame.payload.chunks(PIECE) {
                    in_time(self.stream.write_all(piece)).await?;
                }
            }
        }
        in_time(self.stream.write_all(&self.buffer)).await?;
        self.buffer.clear();
        Ok(())
    }

    async fn flush(&mut self) -> io::Result<()> {
        in_time(self.stream.write_all(&self.buffer)).await?;
        self.buffer.clear();
        in_time(self.stream.flush()).await
    }
}

async fn in_time(written: impl Future<Output = io::Result<()>>) -> io::Result<()> {
    time::timeout(STALL, written).await.map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "the peer takes nothing"))?
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rpc::frame::Reader;

    #[tokio::test]
    async fn a_call_is_cancelled_after_it_was_sent_however_long_the_queue() {
        let (sender, receiver) = queue();
        for id in 0..MAX_FRAMES as u64 {
            sender.send(Frame::new(Kind::Request, id, vec![0; if id % 50 == 0 { SMALL + 1 } else { 10 }])).await.expect("room");
            sender.cancel(id);
        }
        drop(sender);
        let mut written = Vec::new();
        write(receiver, &mut written).await.expect("writing to memory");
        let mut reader = Reader::new(&written[..], SMALL + 1);
        let mut requested = std::collections::HashSet::new();
        let mut cancelled = 0;
        while let Some(frame) = reader.next().await.expect("a frame") {
            match frame.kind {
                Kind::Request => assert!(requested.insert(frame.id)),
                _ => {
                    assert!(requested.contains(&frame.id));
                    cancelled += 1;
                }
            }
        }
        assert_eq!((requested.len(), cancelled), (MAX_FRAMES, MAX_FRAMES));
    }
}
