//! Where a connection is admitted before the swarm sees it.
//!
//! Every transport ends here, relayed and hole-punched ones too, with an authenticated peer and its muxer. On the
//! connection's first substream both sides show why they belong to the mesh (`protocol::admission`), and each judges the
//! other. Nothing else has run yet, and nothing else will with a peer that is refused. The refusal reaches the other
//! side, and becomes the reason why its dial failed.

use std::{io, sync::Arc, task::Poll, time::Duration};

use futures::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, FutureExt as _, future::poll_fn};
use libp2p::{
    Transport as _,
    core::{
        ConnectedPoint, Endpoint,
        muxing::{StreamMuxerBox, StreamMuxerExt as _},
        transport::{Boxed, timeout::TransportTimeout},
    },
};
use protocol::{
    Code, NodeId, Problem, Timestamp,
    admission::{Hello, MAX_MESSAGE, Refusal, Verdict},
    wire,
};
use serde::{Serialize, de::DeserializeOwned};
use tokio::time;

use crate::{
    identity,
    limits::{HANDSHAKE, Met, SETUP},
    membership::{Judgement, Membership},
    transport::Connection,
};

/// What is read of a peer that doesn't speak the exchange, so that it hears of that.
const MAX_LEFT: u64 = 64 * 1024;
/// For the other side to hear that it is refused.
const FAREWELL: Duration = Duration::from_secs(1);

/// Lets only those through `transport` whom `membership` admits, within [`HANDSHAKE`], or within [`SETUP`] where somebody
/// is enrolled.
pub(crate) fn admit(transport: Boxed<Connection>, membership: Arc<Membership>) -> Boxed<Connection> {
    let admitted = transport.and_then(move |connection, endpoint| decide(connection, endpoint, membership));
    TransportTimeout::new(admitted.map_err(|error| error.into_inner()), SETUP).boxed()
}

/// Who refused whom, and why: found again in the error of a failed dial.
#[derive(Debug, thiserror::Error)]
#[error("{}", text(.peer, *.by_peer, .refusal))]
pub(crate) struct Refused {
    pub(crate) peer: NodeId,
    /// The peer refused us; otherwise we refused it.
    pub(crate) by_peer: bool,
    pub(crate) refusal: Refusal,
    /// It is no refusal at all: one of the two was enrolled, and connects as a member next.
    pub(crate) enrolled: bool,
}

fn text(peer: &NodeId, by_peer: bool, Refusal { code, detail }: &Refusal) -> String {
    if by_peer { format!("{peer} refuses this node ({code}): {detail}") } else { format!("{peer} is refused ({code}): {detail}") }
}

impl Refused {
    /// The refusal inside an error, if that is what it is.
    pub(crate) fn within<'a>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a Self> {
        let mut next = Some(error);
        while let Some(error) = next {
            if let Some(refused) = error.downcast_ref::<Self>() {
                return Some(refused);
            }
            // An io::Error's `source` skips the error that it wraps.
            next = match error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
                Some(inner) => Some(inner),
                None => error.source(),
            };
        }
        None
    }
}

/// Admits the connection or refuses it.
async fn decide((peer, mut muxer): Connection, endpoint: ConnectedPoint, membership: Arc<Membership>) -> io::Result<Connection> {
    let Some(node) = identity::node_of(&peer) else {
        let reason = format!("{peer} is not the id of a node: its key isn't Ed25519");
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, reason));
    };
    // In a hole punch both sides dial, and one of them was told to behave as the listener.
    let dialler = matches!(endpoint, ConnectedPoint::Dialer { role_override: Endpoint::Dialer, .. });
    let mut stream = timely(first_substream(&mut muxer, dialler)).await?;
    let exchange = async {
        let (ours, theirs) =
            if dialler { as_dialler(&mut stream, node, &membership).await? } else { as_listener(&mut stream, node, &membership).await? };
        conclude(node, ours, theirs, &membership)
    };
    driving(&mut muxer, exchange).await?;
    drop(stream);
    Ok((peer, muxer))
}

async fn first_substream(muxer: &mut StreamMuxerBox, dialler: bool) -> io::Result<libp2p::core::muxing::SubstreamBox> {
    poll_fn(|cx| {
        let opened = if dialler { muxer.poll_outbound_unpin(cx) } else { muxer.poll_inbound_unpin(cx) };
        match opened {
            Poll::Pending => match muxer.poll_unpin(cx)? {
                // Address changes don't matter before the connection is established.
                Poll::Ready(_) | Poll::Pending => Poll::Pending,
            },
            ready @ Poll::Ready(_) => ready,
        }
    })
    .await
}

/// Runs `exchange` while the muxer moves its bytes.
async fn driving(muxer: &mut StreamMuxerBox, exchange: impl Future<Output = io::Result<()>>) -> io::Result<()> {
    let mut exchange = std::pin::pin!(exchange);
    let mut ended = false;
    poll_fn(|cx| {
        loop {
            if let Poll::Ready(done) = exchange.poll_unpin(cx) {
                return Poll::Ready(done);
            }
            // Once the connection has ended, the exchange still reads what arrived before, and learns of the end itself.
            if ended {
                return Poll::Pending;
            }
            match muxer.poll_unpin(cx) {
                // What has arrived is in the stream, whose waker tells of it.
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(_address_change)) => {}
                Poll::Ready(Err(_)) => ended = true,
            }
        }
    })
    .await
}

/// Our verdict on the peer, and the peer's on us.
type Verdicts = (Verdict, Verdict);

async fn as_dialler(stream: &mut (impl AsyncRead + AsyncWrite + Unpin), node: NodeId, membership: &Membership) -> io::Result<Verdicts> {
    let shown = membership.introduce(Timestamp::now()).await.map_err(io::Error::other)?;
    timely(write(stream, &shown)).await?;
    let hello: Hello = timely(read(stream)).await?;
    let theirs = heard(stream, membership).await?;
    let ours = verdict(node, hello, membership).await;
    let told = write(stream, &ours).await;
    if matches!(ours, Verdict::Admitted) {
        told?;
    } else {
        // The listener ends the stream when it has heard; a connection dropped earlier might take the message with it.
        let _ = time::timeout(FAREWELL, stream.read(&mut [0; 1])).await;
    }
    Ok((ours, theirs))
}

async fn as_listener(stream: &mut (impl AsyncRead + AsyncWrite + Unpin), node: NodeId, membership: &Membership) -> io::Result<Verdicts> {
    let hello = timely(read::<Hello>(stream)).await;
    let shown = membership.introduce(Timestamp::now()).await.map_err(io::Error::other)?;
    timely(write(stream, &shown)).await?;
    let ours = match hello {
        Ok(hello) => verdict(node, hello, membership).await,
        Err(error) if error.kind() == io::ErrorKind::InvalidData => {
            let refused = Verdict::Refused(Refusal { code: Code::MalformedDocument, detail: error.to_string() });
            write(stream, &refused).await?;
            // What is left unread would make the connection end before the reason arrives.
            let _ = time::timeout(FAREWELL, futures::io::copy(stream.take(MAX_LEFT), &mut futures::io::sink())).await;
            return Ok((refused, Verdict::Admitted));
        }
        Err(error) => return Err(error),
    };
    write(stream, &ours).await?;
    let theirs = match (&ours, heard(stream, membership).await) {
        // Whoever was refused needn't say what it thinks of us.
        (Verdict::Refused(_) | Verdict::Enrolled(_), Err(_)) => Verdict::Admitted,
        (_, answer) => answer?,
    };
    // Told the dialler that everything was heard; fails only if it has gone.
    let _ = stream.close().await;
    Ok((ours, theirs))
}

/// The peer's verdict, for which it may have to ask the authority if we are no member.
async fn heard(stream: &mut (impl AsyncRead + Unpin), membership: &Membership) -> io::Result<Verdict> {
    if membership.is_outside(Timestamp::now()) { read(stream).await } else { timely(read(stream)).await }
}

/// One step of the exchange; a silent peer holds a place no longer.
async fn timely<T>(step: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    let silent = |_| io::Error::new(io::ErrorKind::TimedOut, format!("the peer said nothing for {} s", HANDSHAKE.as_secs()));
    time::timeout(HANDSHAKE, step).await.map_err(silent)?
}

async fn verdict(node: NodeId, hello: Hello, membership: &Membership) -> Verdict {
    match membership.judge(node, hello, Timestamp::now()) {
        Judgement::Admit => Verdict::Admitted,
        Judgement::Refuse(refusal) => Verdict::Refused(refusal),
        Judgement::Readmit(past, refusal) => {
            let Some(desk) = membership.desk() else { return Verdict::Refused(refusal) };
            match desk.readmit(*past).await {
                Ok(credential) => Verdict::Enrolled(credential.into()),
                Err(problem) if problem.code == Code::Revoked => Verdict::Refused(problem.into()),
                Err(problem) => {
                    let detail = format!("{}, and can't be prolonged here now: {}", refusal.detail, problem.detail);
                    Verdict::Refused(Problem::new(refusal.code, detail).into())
                }
            }
        }
        Judgement::Enrol(enrolment) => {
            let Some(desk) = membership.desk() else {
                return Verdict::Refused(Refusal { code: Code::NotAMember, detail: "this node can't enrol anybody".into() });
            };
            match desk.enrol(node, enrolment).await {
                Ok(credential) => Verdict::Enrolled(credential.into()),
                Err(problem) => Verdict::Refused(problem.into()),
            }
        }
    }
}

/// Both verdicts must be welcomes. What the peer says of us comes first: it is what our operator can act on.
fn conclude(peer: NodeId, ours: Verdict, theirs: Verdict, membership: &Membership) -> io::Result<()> {
    let refused = |by_peer: bool, refusal| {
        if !by_peer {
            membership.counters().met(Met::Admission);
        }
        let refused = Refused { peer, by_peer, refusal, enrolled: false };
        tracing::debug!(%refused, "not admitted");
        Err(io::Error::new(io::ErrorKind::PermissionDenied, refused))
    };
    let again = |detail: &str| Refusal { code: Code::NotAMember, detail: detail.into() };
    match (ours, theirs) {
        (Verdict::Admitted, Verdict::Admitted) => Ok(()),
        (_, Verdict::Refused(refusal)) => refused(true, refusal),
        (Verdict::Refused(refusal), _) => refused(false, refusal),
        (_, Verdict::Enrolled(sealed)) => match membership.set_credential(sealed, Timestamp::now()) {
            Ok(_) => {
                let refusal = again("this node has just been enrolled, and connects again as a member");
                Err(io::Error::new(io::ErrorKind::PermissionDenied, Refused { peer, by_peer: true, refusal, enrolled: true }))
            }
            Err(problem) => refused(false, problem.into()),
        },
        (Verdict::Enrolled(_), Verdict::Admitted) => {
            let refusal = again("it has just been enrolled, and connects again as a member");
            Err(io::Error::new(io::ErrorKind::PermissionDenied, Refused { peer, by_peer: false, refusal, enrolled: true }))
        }
    }
}

async fn write<T: Serialize>(stream: &mut (impl AsyncWrite + Unpin), message: &T) -> io::Result<()> {
    let payload = wire::encode(message);
    let length = u16::try_from(payload.len()).ok().filter(|length| usize::from(*length) <= MAX_MESSAGE);
    let length = length.ok_or_else(|| invalid(format!("a message of {} bytes is over the limit of {MAX_MESSAGE}", payload.len())))?;
    stream.write_all(&[&length.to_be_bytes(), &payload[..]].concat()).await?;
    stream.flush().await
}

async fn read<T: DeserializeOwned>(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<T> {
    let mut length = [0; 2];
    stream.read_exact(&mut length).await?;
    let length = usize::from(u16::from_be_bytes(length));
    if length > MAX_MESSAGE {
        return Err(invalid(format!("the peer sent {length} bytes for its admission; the limit is {MAX_MESSAGE}")));
    }
    let mut payload = vec![0; length];
    stream.read_exact(&mut payload).await?;
    wire::decode(&payload).map_err(|error| invalid(format!("the peer doesn't speak the admission exchange: {error}")))
}

fn invalid(reason: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason)
}
