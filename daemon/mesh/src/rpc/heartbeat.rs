//! Whether the peer still answers: calls that wait for one that is gone shall end soon, not when the connection's own
//! time-out is over.
//!
//! Nothing is sent while answers come, or nobody waits. Whoever waits in silence asks (`Kind::Ping`), and any byte will do
//! for an answer.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use futures::{AsyncRead, AsyncWrite};
use tokio::time::{self, Instant};

use super::{frame::SLOWEST, outbound::Session};

/// Silence in which the peer isn't asked yet.
const QUIET: Duration = Duration::from_millis(1_500);
/// How long it may take to answer: it may be busy. With `QUIET` five seconds.
const PATIENCE: Duration = Duration::from_millis(3_500);
/// How often one looks whether it has.
const LOOK: Duration = Duration::from_millis(250);

/// What has crossed a stream.
#[derive(Debug, Default)]
pub(super) struct Traffic {
    read: AtomicU64,
    /// Written since something was last read: it may be on its way still, over a slow link.
    unanswered: AtomicU64,
}

impl Traffic {
    /// Returns when the peer is silent though calls wait for it, and doesn't answer when it is asked.
    pub(super) async fn dies(&self, session: &Session) {
        loop {
            let before = self.read.load(Ordering::Relaxed);
            time::sleep(QUIET).await;
            if before != self.read.load(Ordering::Relaxed) || !session.is_busy() {
                continue;
            }
            let under_way = Duration::from_secs(self.unanswered.load(Ordering::Relaxed) / SLOWEST as u64);
            session.probe();
            let until = Instant::now() + PATIENCE + under_way;
            while before == self.read.load(Ordering::Relaxed) {
                if Instant::now() >= until {
                    return;
                }
                time::sleep(LOOK).await;
            }
        }
    }
}

/// A stream whose traffic is counted.
pub(super) struct Counted<S> {
    stream: S,
    traffic: Arc<Traffic>,
}

impl<S> Counted<S> {
    /// Counts from now on.
    pub(super) fn new(stream: S) -> (Self, Arc<Traffic>) {
        let traffic = Arc::<Traffic>::default();
        (Self { stream, traffic: Arc::clone(&traffic) }, traffic)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Counted<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_read(cx, buffer);
        if let Poll::Ready(Ok(bytes @ 1..)) = polled {
            self.traffic.read.fetch_add(bytes as u64, Ordering::Relaxed);
            self.traffic.unanswered.store(0, Ordering::Relaxed);
        }
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Counted<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write(cx, bytes);
        if let Poll::Ready(Ok(written)) = polled {
            self.traffic.unanswered.fetch_add(written as u64, Ordering::Relaxed);
        }
        polled
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_close(cx)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use futures::AsyncReadExt as _;
    use libp2p::swarm::ConnectionId;
    use protocol::{
        frame::Frame,
        wire::{self, Kind},
    };
    use tokio_util::{compat::TokioAsyncReadCompatExt as _, sync::CancellationToken};

    use super::*;
    use crate::{
        address::Transport,
        rpc::{
            frame::Reader,
            outbound::{Lost, Reply},
        },
    };

    /// A call to a peer that does with each frame what `answer` says; what became of it, and whether the peer counted as dead.
    async fn call(answer: impl Fn(&Frame) -> Option<Frame> + Send + 'static) -> (Result<(), Lost>, bool) {
        let (ours, theirs) = tokio::io::duplex(64 * 1024);
        let (session, writing) = Session::new(ConnectionId::new_unchecked(7), Transport::Tcp);
        let running = tokio::spawn(writing.run(Arc::clone(&session), ours.compat(), CancellationToken::new()));
        let peer = tokio::spawn(async move {
            let (reading, mut writing) = theirs.compat().split();
            let mut reader = Reader::new(reading, wire::MAX_FRAME);
            while let Ok(Some(frame)) = reader.next().await {
                if let Some(answer) = answer(&frame) {
                    let bytes = [&answer.header()[..], &answer.payload].concat();
                    futures::AsyncWriteExt::write_all(&mut writing, &bytes).await.expect("written");
                }
            }
        });
        let called = session.call(Kind::Request, Bytes::from_static(b"?")).await;
        session.close();
        let dead = running.await.expect("no panic").is_some();
        peer.abort();
        (called.map(|reply| assert!(matches!(reply, Reply::Response(_)))), dead)
    }

    #[tokio::test]
    async fn a_peer_that_says_nothing_is_given_up_and_a_slow_one_is_not() {
        let silent = async {
            assert_eq!(call(|_| None).await, (Err(Lost::Unanswered), true));
        };
        let slow = async {
            // It takes longer than a dead one would be waited for, and says that it is there.
            let (begun, long) = (Instant::now(), 2 * (QUIET + PATIENCE));
            let answer = move |frame: &Frame| match frame.kind {
                Kind::Ping if begun.elapsed() > long => Some(Frame::new(Kind::Response, 1, Bytes::new())),
                Kind::Ping => Some(Frame::new(Kind::Pong, frame.id, Bytes::new())),
                _ => None,
            };
            assert_eq!(call(answer).await, (Ok(()), false));
        };
        tokio::join!(silent, slow);
    }
}
