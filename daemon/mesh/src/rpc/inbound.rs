//! The answering side: one stream of one peer, and the requests under way on it.

use std::{collections::HashMap, panic::AssertUnwindSafe, sync::Arc, time::Duration};

use bytes::Bytes;
use futures::{AsyncRead, AsyncReadExt as _, AsyncWrite, FutureExt as _};
use parking_lot::Mutex;
use protocol::{
    Code, NodeId, Problem,
    frame::Frame,
    wire::{self, Call, Kind},
};
use tokio::time::{self, Instant};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

use super::{
    MAX_REQUEST, MAX_TIMEOUT, cut,
    frame::{self, Reader},
    queue::{self, Sender},
    room::{Full, Room, Taken},
    streaming::{Credit, Items},
};
use crate::{Handler, bans::Offence, limits::Met, membership::Membership};

/// For sending what is left when the peer breaks the protocol.
const CLOSE: Duration = Duration::from_secs(1);

/// Whose requests are served, and by whom.
#[derive(Clone)]
pub(crate) struct Serving {
    pub(crate) peer: NodeId,
    pub(crate) handler: Arc<dyn Handler>,
    /// What the peer's requests may take, on all its streams together.
    pub(crate) room: Arc<Room>,
    /// Where its offences are told.
    pub(crate) membership: Arc<Membership>,
}

impl Serving {
    fn bad_frame(&self) {
        self.membership.counters().met(Met::Frames);
        self.membership.offend(self.peer, Offence::BadFrame);
    }
}

/// Requests under way on a stream, by id. Dropping an entry drops the handler's future.
type Running = Arc<Mutex<HashMap<u64, Task>>>;

struct Task {
    _work: AbortOnDropHandle<()>,
    credit: Option<Credit>,
}

/// Drops what is under way when the stream's task ends, however it ends: the tasks hold the list that holds them.
struct Stop(Running);

impl Drop for Stop {
    fn drop(&mut self) {
        self.0.lock().clear();
    }
}

/// Serves `stream` until it ends or `token` is cancelled; what is under way then is dropped.
pub(crate) async fn serve<S>(serving: Serving, stream: S, token: CancellationToken)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let (reading, mut writing) = stream.split();
    let (sender, receiver) = queue::queue();
    let stop = Stop(Running::default());
    let mut write = std::pin::pin!(queue::write(receiver, &mut writing));
    let read = read(&serving, reading, &sender, &stop.0);
    let broken = tokio::select! {
        () = token.cancelled() => false,
        broken = read => broken,
        written = &mut write => {
            if let Err(error) = written {
                tracing::debug!(peer = %serving.peer, %error, "an inbound stream failed");
            }
            return;
        }
    };
    drop((stop, sender));
    if broken {
        // The peer shall learn why. The requests under way are dropped and their senders with them: the queue runs dry.
        let _ = time::timeout(CLOSE, write).await;
    }
}

/// Takes requests until the stream ends; whether there is still something to tell the peer.
async fn read(serving: &Serving, stream: impl AsyncRead + Unpin, sender: &Sender, running: &Running) -> bool {
    let mut reader = Reader::new(stream, MAX_REQUEST);
    loop {
        let frame = match reader.next().await {
            Ok(Some(frame)) => frame,
            Ok(None) => return false,
            Err(frame::Error::Frame(protocol::frame::Error::TooLarge { id, size, limit })) => {
                serving.bad_frame();
                let detail = format!("a request of {size} bytes is over the limit of {limit}");
                return refuse(sender, id, Problem::new(Code::TooLarge, detail)).await;
            }
            Err(error) => {
                tracing::debug!(peer = %serving.peer, %error, "an inbound stream failed");
                if let frame::Error::Frame(_) | frame::Error::Unfinished = error {
                    serving.bad_frame();
                }
                return false;
            }
        };
        let open = match frame.kind {
            Kind::Request => accept(serving, frame.id, &frame.payload, sender, running).await,
            Kind::Cancel => {
                running.lock().remove(&frame.id);
                true
            }
            Kind::Credit => credit(serving, &frame, running),
            Kind::Ping => sender.send(Frame::new(Kind::Pong, frame.id, Bytes::new())).await.is_ok(),
            Kind::Response | Kind::Problem | Kind::Pong | Kind::Item => {
                tracing::debug!(peer = %serving.peer, "the peer sent an answer on a stream for requests");
                serving.bad_frame();
                false
            }
        };
        if !open {
            return false;
        }
    }
}

/// The caller has taken items; false if it says so of more than there were.
fn credit(serving: &Serving, frame: &Frame, running: &Running) -> bool {
    let bytes = <[u8; 4]>::try_from(&frame.payload[..]).map(u32::from_be_bytes);
    let credit = running.lock().get(&frame.id).map(|task| task.credit.clone());
    let honest = match (bytes, credit) {
        (Ok(bytes), Some(Some(credit))) => credit.add(bytes),
        // The answer has ended meanwhile.
        (Ok(_), None) => true,
        _ => false,
    };
    if !honest {
        tracing::debug!(peer = %serving.peer, "the peer gave credit that it didn't have");
        serving.bad_frame();
    }
    honest
}

fn overloaded(full: Full) -> Problem {
    let detail = match full {
        Full::Requests => format!("{} requests of this node are under way here already", wire::MAX_IN_FLIGHT),
        Full::Bytes => "too many bytes of requests and answers wait here already".into(),
    };
    Problem::new(Code::Overloaded, detail).hint("wait for some to end, then try again")
}

async fn refuse(sender: &Sender, id: u64, problem: Problem) -> bool {
    sender.send(Frame::new(Kind::Problem, id, wire::encode(&problem))).await.is_ok()
}

/// Starts a request; false when the stream is of no more use.
async fn accept(serving: &Serving, id: u64, payload: &[u8], sender: &Sender, running: &Running) -> bool {
    let call: Call = match wire::decode(payload) {
        Ok(call) => call,
        // No offence: it may be a request of a later version.
        Err(error) => return refuse(sender, id, Problem::new(Code::InvalidRequest, error.to_string())).await,
    };
    let taken = match serving.room.enter(payload.len()) {
        Ok(taken) => taken,
        Err(full) => {
            serving.membership.counters().met(Met::Requests);
            serving.membership.offend(serving.peer, Offence::RequestFlood);
            return refuse(sender, id, overloaded(full)).await;
        }
    };
    let credit = match Credit::new(call.window) {
        Ok(credit) => credit,
        Err(problem) => return refuse(sender, id, problem).await,
    };
    // Held while the task is started, so that it can't end before it is entered.
    let mut entries = running.lock();
    if entries.contains_key(&id) {
        tracing::debug!(peer = %serving.peer, id, "the peer used a request's number twice");
        serving.bad_frame();
        return false;
    }
    let items = Items::new(id, sender, credit.clone());
    let work = work(serving.clone(), id, call, items, sender.clone(), running.clone(), taken);
    entries.insert(id, Task { _work: AbortOnDropHandle::new(tokio::spawn(work)), credit });
    true
}

/// Carries a request out and queues its answer, all within its deadline.
async fn work(serving: Serving, id: u64, call: Call, items: Items, sender: Sender, running: Running, mut taken: Taken) {
    let deadline = Instant::now() + Duration::from_millis(call.timeout_ms.into()).min(MAX_TIMEOUT);
    let request_id = cut(&call.request_id).to_owned();
    let answered = time::timeout_at(deadline, async {
        let handling = AssertUnwindSafe(serving.handler.stream(serving.peer, call.request, &request_id, deadline, items));
        let outcome = handling.catch_unwind().await.unwrap_or_else(|_| Err(Problem::new(Code::Internal, "the request's handler failed")));
        let mut frame = answer(id, outcome, &request_id);
        if let Err(full) = taken.add(frame.payload.len()) {
            let problem = overloaded(full).hint("read answers faster; a call with an idempotency key is answered when it is repeated");
            frame = answer(id, Err(problem), &request_id);
        }
        let _ = sender.answer(frame, taken).await;
    });
    if answered.await.is_err() {
        let problem = Problem::new(Code::TimedOut, format!("{} ms were not enough", call.timeout_ms));
        sender.try_send(answer(id, Err(problem), &request_id));
    }
    // Removes this task's own handle: aborting a task that has nothing left to wait for does nothing.
    running.lock().remove(&id);
}

fn answer(id: u64, outcome: Result<wire::Response, Problem>, request_id: &str) -> Frame {
    let mut problem = match outcome {
        Ok(response) => {
            let payload = wire::encode(&response);
            if payload.len() <= wire::MAX_FRAME {
                return Frame::new(Kind::Response, id, payload);
            }
            Problem::new(Code::ResultTooLarge, format!("an answer of {} bytes is over the limit of {}", payload.len(), wire::MAX_FRAME))
        }
        Err(problem) => problem,
    };
    problem.request_id.get_or_insert_with(|| request_id.to_owned());
    Frame::new(Kind::Problem, id, wire::encode(&problem))
}

#[cfg(test)]
mod tests {
    use async_trait::async_trait;
    use futures::AsyncWriteExt as _;
    use protocol::Key;
    use tokio_util::compat::TokioAsyncReadCompatExt as _;

    use super::*;

    struct Never;

    #[async_trait]
    impl Handler for Never {
        async fn request(&self, _: NodeId, _: wire::Request, _: &str, _: Instant) -> Result<wire::Response, Problem> {
            std::future::pending().await
        }

        fn announced(&self, _: NodeId, _: wire::Announcement) {}

        fn connected(&self, _: NodeId) {}

        fn disconnected(&self, _: NodeId) {}
    }

    /// Sends `bytes` to a served stream and returns what comes back until it ends.
    async fn answers(bytes: Vec<u8>) -> Vec<(Kind, u64, Code)> {
        let (ours, theirs) = tokio::io::duplex(64 * 1024);
        let (peer, mesh) = (Key::generate().node_id(), "test".parse().expect("a mesh id"));
        let membership = Arc::new(Membership::new(mesh, peer));
        let serving = Serving { peer, handler: Arc::new(Never), room: Room::new(Arc::default()), membership };
        let served = tokio::spawn(serve(serving, theirs.compat(), CancellationToken::new()));
        let (reading, mut writing) = ours.compat().split();
        writing.write_all(&bytes).await.expect("written");
        writing.flush().await.expect("written");
        let mut reader = Reader::new(reading, wire::MAX_FRAME);
        let mut answers = Vec::new();
        while let Ok(Some(frame)) = reader.next().await {
            let problem: Problem = wire::decode(&frame.payload).expect("a problem");
            answers.push((frame.kind, frame.id, problem.code));
        }
        served.await.expect("no panic");
        answers
    }

    fn bytes(frame: &Frame) -> Vec<u8> {
        [&frame.header()[..], &frame.payload].concat()
    }

    #[tokio::test]
    async fn a_peer_that_breaks_the_rules_hears_why_and_is_cut_off() {
        let call: Call = Call { timeout_ms: 60_000, request_id: "r".into(), window: 0, request: wire::Request::Advert };
        let request = |id| bytes(&Frame::new(Kind::Request, id, wire::encode(&call)));
        let mut giant = Frame::new(Kind::Request, 9, Bytes::new()).header().to_vec();
        giant[..4].copy_from_slice(&u32::MAX.to_be_bytes());
        assert_eq!(answers(giant.clone()).await, [(Kind::Problem, 9, Code::TooLarge)]);

        let garbage = bytes(&Frame::new(Kind::Request, 3, vec![0xff; 10]));
        let crowded = [(10..=10 + wire::MAX_IN_FLIGHT as u64).flat_map(request).collect(), garbage, giant].concat();
        let last = 10 + wire::MAX_IN_FLIGHT as u64;
        let expected = [(last, Code::Overloaded), (3, Code::InvalidRequest), (9, Code::TooLarge)];
        assert_eq!(answers(crowded).await, expected.map(|(id, code)| (Kind::Problem, id, code)));

        let twice = [request(1), request(1)].concat();
        assert!(answers(twice).await.is_empty());
        assert!(answers(bytes(&Frame::new(Kind::Pong, 1, Bytes::new()))).await.is_empty());
    }
}
