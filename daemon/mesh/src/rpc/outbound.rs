//! The calling side: one stream to one peer, and the calls that wait on it.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures::{AsyncRead, AsyncReadExt as _, AsyncWrite};
use libp2p::swarm::ConnectionId;
use parking_lot::Mutex;
use protocol::{
    frame::Frame,
    wire::{self, Kind},
};
use tokio::{sync::oneshot, time};
use tokio_util::sync::CancellationToken;

use super::{
    frame::Reader,
    heartbeat::Counted,
    queue::{self, Receiver, Sender},
    streaming::{Arriving, Landing},
};
use crate::address::Transport;

/// A stream without calls for this long is closed, so that its connection may close too.
const IDLE: Duration = Duration::from_secs(300);
/// Calls with items coming, on one stream: at 512 KiB each 32 MiB may wait for their callers.
const MAX_STREAMING: usize = 64;
/// For telling the peer that the stream ends.
const CLOSE: Duration = Duration::from_secs(1);

/// What ended a call, undecoded: the caller's task does that work.
#[derive(Debug)]
pub(crate) enum Reply {
    /// A `wire::Response`.
    Response(Bytes),
    /// A `Problem`.
    Problem(Bytes),
    /// There it is.
    Pong,
    /// Part of the answer.
    Item(Bytes),
}

/// Why a call got no reply.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Lost {
    /// The stream had ended before the call was sent: it may be sent on another.
    NotSent,
    /// The stream ended while the call waited: it may have been carried out.
    Unanswered,
    /// As many calls wait as may.
    Overloaded,
}

/// A stream to a peer, open until its task ends.
#[derive(Debug)]
pub(crate) struct Session {
    /// The connection that carries it.
    pub(crate) connection: ConnectionId,
    /// That connection's transport.
    pub(crate) transport: Transport,
    queue: Sender,
    pending: Mutex<Pending>,
    next: AtomicU64,
    /// Cancelled when nobody calls any more: the task ends.
    ended: CancellationToken,
}

#[derive(Debug, Default)]
struct Pending {
    closed: bool,
    calls: HashMap<u64, Waiting>,
    /// How many of them have items coming.
    streaming: usize,
}

impl Pending {
    fn remove(&mut self, id: u64) -> Option<Waiting> {
        let waiting = self.calls.remove(&id);
        self.streaming -= usize::from(matches!(waiting, Some(Waiting::Items(_))));
        waiting
    }
}

/// What a call waits for.
#[derive(Debug)]
enum Waiting {
    Answer(oneshot::Sender<Reply>),
    Items(Landing),
}

/// Frees a call's place when its caller leaves, and tells the peer to stop.
struct Place<'a> {
    session: &'a Session,
    id: u64,
    sent: bool,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.session.leave(self.id, self.sent);
    }
}

impl Session {
    /// A session and what its task takes frames from.
    pub(crate) fn new(connection: ConnectionId, transport: Transport) -> (Arc<Self>, Writing) {
        let (queue, receiver) = queue::queue();
        let session =
            Self { connection, transport, queue, pending: Mutex::default(), next: AtomicU64::new(1), ended: CancellationToken::new() };
        (Arc::new(session), Writing(receiver))
    }

    /// Whether calls can be made.
    pub(crate) fn is_open(&self) -> bool {
        !self.pending.lock().closed
    }

    /// Whether calls wait on it.
    pub(crate) fn is_busy(&self) -> bool {
        !self.pending.lock().calls.is_empty()
    }

    /// Sends a frame and waits for its reply. Dropping the future tells the peer to stop.
    pub(crate) async fn call(&self, kind: Kind, payload: Bytes) -> Result<Reply, Lost> {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let (sender, reply) = oneshot::channel();
        self.enter(id, Waiting::Answer(sender))?;
        let mut place = Place { session: self, id, sent: false };
        self.queue.send(Frame::new(kind, id, payload)).await.map_err(|_| Lost::NotSent)?;
        place.sent = true;
        reply.await.map_err(|_| Lost::Unanswered)
    }

    /// Sends a request whose answer comes in items, of which `window` bytes may come at once. Dropping what is returned
    /// tells the peer to stop.
    pub(crate) async fn stream(self: &Arc<Self>, payload: Bytes, window: u32) -> Result<Arriving, Lost> {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let (arriving, landing) = Arriving::new(Arc::clone(self), id, window);
        self.enter(id, Waiting::Items(landing))?;
        self.queue.send(Frame::new(Kind::Request, id, payload)).await.map_err(|_| Lost::NotSent)?;
        Ok(arriving)
    }

    /// Asks the peer for a sign of life. Its answer is nobody's.
    pub(super) fn probe(&self) {
        self.queue.try_send(Frame::new(Kind::Ping, self.next.fetch_add(1, Ordering::Relaxed), Bytes::new()));
    }

    /// Tells the peer that so many bytes of call `id`'s items were taken.
    pub(super) fn credit(&self, id: u64, bytes: u32) {
        self.queue.credit(id, bytes);
    }

    fn enter(&self, id: u64, waiting: Waiting) -> Result<(), Lost> {
        let mut pending = self.pending.lock();
        if pending.closed {
            return Err(Lost::NotSent);
        }
        let streams = matches!(waiting, Waiting::Items(_));
        if pending.calls.len() >= wire::MAX_IN_FLIGHT || streams && pending.streaming >= MAX_STREAMING {
            return Err(Lost::Overloaded);
        }
        pending.streaming += usize::from(streams);
        pending.calls.insert(id, waiting);
        Ok(())
    }

    /// Frees the place of a call whose caller has left; the peer is told to stop if it knows of the call and hasn't answered.
    pub(super) fn leave(&self, id: u64, sent: bool) {
        let waiting = self.pending.lock().remove(id).is_some();
        if waiting && sent {
            self.queue.cancel(id);
        }
    }

    /// Ends every call that waits, and all that come; then the stream.
    pub(crate) fn close(&self) {
        let mut pending = self.pending.lock();
        pending.closed = true;
        pending.calls.clear();
        pending.streaming = 0;
        drop(pending);
        self.queue.close();
        self.ended.cancel();
    }

    fn answer(&self, id: u64, reply: Reply) {
        // A caller that left has no place any more: its answer is dropped.
        let waiting = self.pending.lock().remove(id);
        match waiting {
            Some(Waiting::Answer(caller)) => drop(caller.send(reply)),
            Some(Waiting::Items(landing)) => landing.end(reply),
            None => {}
        }
    }

    /// Passes an item on; false if nobody may send it.
    fn item(&self, frame: Frame) -> bool {
        match self.pending.lock().calls.get(&frame.id) {
            Some(Waiting::Items(landing)) => landing.item(frame),
            Some(Waiting::Answer(_)) => false,
            // It was cancelled.
            None => true,
        }
    }

    /// Takes answers until the stream ends; whether it is still whole.
    async fn read(&self, stream: impl AsyncRead + Unpin) -> bool {
        let mut reader = Reader::new(stream, wire::MAX_FRAME);
        loop {
            match reader.next().await {
                Ok(Some(Frame { kind: Kind::Response, id, payload })) => self.answer(id, Reply::Response(payload)),
                Ok(Some(Frame { kind: Kind::Problem, id, payload })) => self.answer(id, Reply::Problem(payload)),
                Ok(Some(Frame { kind: Kind::Pong, id, .. })) => self.answer(id, Reply::Pong),
                Ok(Some(frame @ Frame { kind: Kind::Item, .. })) => {
                    if !self.item(frame) {
                        tracing::debug!("the peer sent an item that nobody had room for");
                        return true;
                    }
                }
                Ok(Some(Frame { kind: Kind::Request | Kind::Cancel | Kind::Ping | Kind::Credit, .. })) => {
                    tracing::debug!("the peer sent a request on a stream for answers");
                    return true;
                }
                Ok(None) => return true,
                Err(error) => {
                    tracing::debug!(%error, "an outbound stream failed");
                    return false;
                }
            }
        }
    }

    /// Returns when no call was made for `IDLE` and none waits.
    async fn idle(&self) {
        let mut seen = self.next.load(Ordering::Relaxed);
        loop {
            time::sleep(IDLE).await;
            let now = self.next.load(Ordering::Relaxed);
            if now == seen && self.pending.lock().calls.is_empty() {
                return;
            }
            seen = now;
        }
    }
}

/// What a session's task needs besides its stream.
#[derive(Debug)]
pub(crate) struct Writing(Receiver);

impl Writing {
    /// Reads and writes `stream` until it ends, is idle, or `token` is cancelled. Answers with the connection if it is dead.
    pub(crate) async fn run<S>(self, session: Arc<Session>, stream: S, token: CancellationToken) -> Option<ConnectionId>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let (stream, traffic) = Counted::new(stream);
        let (reading, mut writing) = stream.split();
        let mut dead = None;
        let whole = tokio::select! {
            () = token.cancelled() => true,
            () = session.ended.cancelled() => true,
            whole = session.read(reading) => whole,
            written = queue::write(self.0, &mut writing) => {
                if let Err(error) = &written {
                    tracing::debug!(%error, "an outbound stream failed");
                }
                written.is_ok()
            }
            () = session.idle() => true,
            () = traffic.dies(&session) => {
                dead = Some(session.connection);
                false
            }
        };
        session.close();
        // A stream that has failed while its protocol was agreed on panics when it is used again (multistream-select 0.14).
        if whole {
            let _ = time::timeout(CLOSE, futures::AsyncWriteExt::close(&mut writing)).await;
        }
        dead
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io,
        pin::Pin,
        task::{Context, Poll},
    };

    use super::*;

    /// Fails, and mustn't be used any more then.
    #[derive(Default)]
    struct Failing(bool);

    impl AsyncRead for Failing {
        fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, _: &mut [u8]) -> Poll<io::Result<usize>> {
            assert!(!std::mem::replace(&mut self.0, true), "it has failed before");
            Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()))
        }
    }

    impl AsyncWrite for Failing {
        fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, _: &[u8]) -> Poll<io::Result<usize>> {
            Poll::Pending
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            assert!(!self.0, "it has failed before");
            Poll::Pending
        }

        fn poll_close(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            self.poll_flush(cx)
        }
    }

    #[tokio::test]
    async fn a_stream_that_has_failed_is_let_alone_and_its_calls_end() {
        let (session, writing) = Session::new(ConnectionId::new_unchecked(1), Transport::Tcp);
        let call = tokio::spawn({
            let session = Arc::clone(&session);
            async move { session.call(Kind::Ping, Bytes::new()).await.map(drop) }
        });
        while !session.is_busy() {
            tokio::task::yield_now().await;
        }
        writing.run(Arc::clone(&session), Failing::default(), CancellationToken::new()).await;
        assert!(!session.is_open());
        call.await.expect("no panic").expect_err("nobody answers");
    }
}
