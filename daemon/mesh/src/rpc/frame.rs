//! Reads frames (`protocol::frame`) off a stream.

use std::{io, time::Duration};

use bytes::BytesMut;
use futures::{AsyncRead, AsyncReadExt as _};
use protocol::frame::{self, Frame};
use tokio::time::{self, Instant};

use crate::limits::FRAME;

/// Bytes a second that the slowest link is served at.
pub(super) const SLOWEST: usize = 16 * 1024;
/// One read: what Yamux hands out at once.
const READ: usize = 16 * 1024;

/// Why no more frames can be read.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(transparent)]
    Frame(#[from] frame::Error),
    #[error("the peer began a frame and didn't finish it in {} s", FRAME.as_secs())]
    Unfinished,
}

/// Reads frames of at most `limit` bytes of payload. Memory grows with what arrives, never with what is announced.
pub(super) struct Reader<R> {
    stream: R,
    limit: usize,
    buffer: BytesMut,
    /// Until when the frame that has begun must be whole.
    begun: Option<Instant>,
    chunk: Box<[u8]>,
}

impl<R: AsyncRead + Unpin> Reader<R> {
    pub(super) fn new(stream: R, limit: usize) -> Self {
        Self { stream, limit, buffer: BytesMut::new(), begun: None, chunk: vec![0; READ].into() }
    }

    /// The next frame; `None` when the peer has closed the stream between two frames. Cancel-safe.
    pub(super) async fn next(&mut self) -> Result<Option<Frame>, Error> {
        loop {
            if let Some(frame) = Frame::decode(&mut self.buffer, self.limit)? {
                self.begun = None;
                return Ok(Some(frame));
            }
            let read = self.stream.read(&mut self.chunk);
            let read = if self.buffer.is_empty() {
                self.begun = None;
                read.await?
            } else {
                // What has arrived earns time for the rest: a slow link is no offence, a trickle is.
                let earned = Duration::from_secs((self.buffer.len() / SLOWEST) as u64);
                let until = *self.begun.get_or_insert_with(|| Instant::now() + FRAME) + earned;
                time::timeout_at(until, read).await.map_err(|_| Error::Unfinished)??
            };
            match read {
                0 if self.buffer.is_empty() => return Ok(None),
                0 => return Err(Error::Io(io::ErrorKind::UnexpectedEof.into())),
                read => self.buffer.extend_from_slice(&self.chunk[..read]),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use protocol::wire::Kind;

    use super::*;

    fn encoded(frame: &Frame) -> Vec<u8> {
        [&frame.header()[..], &frame.payload].concat()
    }

    #[tokio::test]
    async fn frames_survive_any_cut() {
        let frames = [
            Frame::new(Kind::Request, 1, vec![7; 100]),
            Frame::new(Kind::Cancel, u64::MAX, Bytes::new()),
            Frame::new(Kind::Response, 2, vec![9; 40_000]),
        ];
        let bytes: Vec<u8> = frames.iter().flat_map(encoded).collect();
        for step in [1, 7, 13, 4096, bytes.len()] {
            let chunks = futures::stream::iter(bytes.chunks(step).map(|chunk| Ok::<_, io::Error>(chunk.to_vec())));
            let mut reader = Reader::new(futures::TryStreamExt::into_async_read(chunks), 50_000);
            for frame in &frames {
                assert_eq!(reader.next().await.expect("a frame").as_ref(), Some(frame));
            }
            assert!(reader.next().await.expect("an end").is_none());
        }
    }

    #[tokio::test]
    async fn what_is_no_frame_is_refused_from_its_header_alone() {
        let mut large = Frame::new(Kind::Request, 3, Bytes::new()).header().to_vec();
        large[..4].copy_from_slice(&(u32::MAX).to_be_bytes());
        assert!(matches!(Reader::new(&large[..], 1000).next().await, Err(Error::Frame(frame::Error::TooLarge { id: 3, .. }))));
        let mut short = large.clone();
        short[..4].copy_from_slice(&8_u32.to_be_bytes());
        assert!(matches!(Reader::new(&short[..], 1000).next().await, Err(Error::Frame(frame::Error::Malformed(_)))));
        let mut unknown = large;
        unknown[4] = 99;
        assert!(matches!(Reader::new(&unknown[..], 1000).next().await, Err(Error::Frame(frame::Error::Malformed(_)))));
        let cut = encoded(&Frame::new(Kind::Request, 4, vec![1; 10]));
        assert!(matches!(Reader::new(&cut[..20], 1000).next().await, Err(Error::Io(_))));
    }
}
