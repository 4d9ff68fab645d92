//! Answers that come in parts: items of a streamed answer, and content too large for a message.

use std::{path::Path, sync::Arc, time::Duration};

use bytes::Bytes;
use protocol::{Code, Digest, NodeId, Problem, wire};
use tokio::{
    sync::oneshot,
    time::{self, Instant},
};

use crate::{
    driver::Command,
    error::Error,
    handle::{ATTEMPTS, Mesh, encode, read, unreachable},
    rpc::{self, Arriving, Lost, Reply, Session},
    transfer::{Download, WINDOW},
};

/// Bytes of items on their way at once, for answers among others on one stream.
const SHARED_WINDOW: u32 = 2 * wire::MIN_WINDOW;
/// A transfer in which nothing arrives for this long has failed; what has arrived is kept.
const SILENCE: Duration = Duration::from_secs(30);
/// A transfer is taken up again so often without anything having arrived in between, after waits that double.
const RETRIES: u32 = 4;
const FIRST_WAIT: Duration = Duration::from_millis(250);

/// What an answer in parts consists of.
#[derive(Debug)]
pub enum Piece {
    /// A part.
    Item(Bytes),
    /// What ends it.
    End(Box<wire::Response>),
}

/// An answer that comes in items. Dropping it tells the peer to stop.
#[derive(Debug)]
pub struct Answers {
    node: NodeId,
    arriving: Arriving,
    deadline: Instant,
    timeout: Duration,
    /// Waited for each item.
    silence: Option<Duration>,
    /// A stream of its own ends with it.
    _apart: Option<Apart>,
}

/// A session for one transfer.
#[derive(Debug)]
struct Apart(Arc<Session>);

impl Drop for Apart {
    fn drop(&mut self) {
        self.0.close();
    }
}

impl Answers {
    /// The next item, or what ends the answer; nothing comes after that.
    ///
    /// # Errors
    /// The peer's problem, or that it was lost or too slow.
    pub async fn next(&mut self) -> Result<Piece, Problem> {
        let silence = self.silence.map(|silence| (Instant::now() + silence, silence)).filter(|(until, _)| *until < self.deadline);
        let (until, after) = silence.unwrap_or((self.deadline, self.timeout));
        let late = |_| Error::TimedOut { target: self.node.to_string(), after };
        match time::timeout_at(until, self.arriving.next()).await.map_err(late)? {
            Ok(Reply::Item(item)) => Ok(Piece::Item(item)),
            Ok(reply) => read(self.node, reply).map(|response| Piece::End(Box::new(response))),
            Err(_) => Err(unreachable(self.node, "the connection was lost before all of the answer had come").into()),
        }
    }
}

impl Mesh {
    /// Sends `request` to `node` and lets its answer come in items, all of it within `timeout`. The peer sends no more
    /// than was taken, but for half a MiB.
    pub async fn stream(&self, node: NodeId, request: wire::Request, request_id: &str, timeout: Duration) -> Result<Answers, Problem> {
        let timeout = timeout.min(rpc::MAX_TIMEOUT);
        let deadline = Instant::now() + timeout;
        for _ in 0..ATTEMPTS {
            let session = self.session(node, deadline, timeout).await?;
            if let Some(arriving) = begin(&session, &request, request_id, deadline, timeout, SHARED_WINDOW).await? {
                return Ok(Answers { node, arriving, deadline, timeout, silence: None, _apart: None });
            }
        }
        Err(unreachable(node, "its streams end as soon as they are opened").into())
    }

    /// Fetches the content with this BLAKE3 digest from `node` into the file at `path`; returns its size. What is written
    /// is verified as it arrives. An interrupted transfer is taken up again, here as long as it gets on, and by the next
    /// call with the same file. Content of over `limit` bytes is refused before any of it comes.
    pub async fn fetch(&self, node: NodeId, content: Digest, path: &Path, limit: u64, request_id: &str) -> Result<u64, Problem> {
        let mut download = Download::open(path, content, limit).await?;
        let (mut failures, mut before) = (0, download.have());
        loop {
            let outcome = self.transfer(node, &mut download, request_id).await;
            if download.have() != before {
                (failures, before) = (0, download.have());
            }
            match outcome {
                Ok(Some(size)) => return Ok(size),
                Ok(None) => {}
                Err(problem) if failures < RETRIES && matches!(problem.code, Code::Unreachable | Code::TimedOut | Code::Overloaded) => {
                    tracing::debug!(%node, %content, %problem, groups = before, "a transfer was interrupted");
                    time::sleep(FIRST_WAIT * 2_u32.pow(failures)).await;
                    failures += 1;
                }
                Err(problem) => return Err(problem),
            }
        }
    }

    async fn transfer(&self, node: NodeId, download: &mut Download, request_id: &str) -> Result<Option<u64>, Problem> {
        let deadline = Instant::now() + rpc::MAX_TIMEOUT;
        // Dials, if need be, and finds the best connection.
        self.session(node, Instant::now() + SILENCE, SILENCE).await?;
        let (reply, opened) = oneshot::channel();
        self.send(Command::OpenApart { node, reply }).await?;
        let lost = || unreachable(node, "the connection was lost");
        let session = time::timeout(SILENCE, opened).await.map_err(|_| lost())?.map_err(|_| lost())??;
        let apart = Apart(Arc::clone(&session));
        let begun = begin(&session, &download.request(), request_id, deadline, rpc::MAX_TIMEOUT, WINDOW).await?;
        let arriving = begun.ok_or_else(lost)?;
        let mut answers = Answers { node, arriving, deadline, timeout: rpc::MAX_TIMEOUT, silence: Some(SILENCE), _apart: Some(apart) };
        download.take(&mut answers).await
    }
}

/// Sends the request; `None` if the session had ended before.
async fn begin(
    session: &Arc<Session>,
    request: &wire::Request,
    request_id: &str,
    deadline: Instant,
    timeout: Duration,
    window: u32,
) -> Result<Option<Arriving>, Problem> {
    let payload = encode(request, request_id, deadline, window)?;
    let late = |_| Problem::new(Code::TimedOut, format!("the request couldn't be sent within {} ms", timeout.as_millis()));
    match time::timeout_at(deadline, session.stream(payload, window)).await.map_err(late)? {
        Ok(arriving) => Ok(Some(arriving)),
        Err(Lost::Overloaded) => Err(Error::Limit { what: "requests to one node under way" }.into()),
        Err(Lost::NotSent | Lost::Unanswered) => Ok(None),
    }
}
