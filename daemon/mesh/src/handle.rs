//! The mesh as the node above it sees it.

use std::{
    collections::BTreeSet,
    fmt,
    sync::{
        Arc, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use protocol::{
    Code, NodeId, Problem, api,
    wire::{self, Announcement, Call, Kind},
};
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinHandle,
    time::{self, Instant},
};
use tokio_util::sync::CancellationToken;

use crate::{
    address,
    config::Config,
    driver::{self, Command, Shared},
    error::Error,
    handler::Handler,
    keeper::Keeper,
    membership::Membership,
    rpc::{self, Lost, Reply, Session},
    transport::Shown,
};

/// Commands that wait for the driver; callers wait when it is full.
const COMMANDS: usize = 256;
/// A session can end between being chosen and being used; more than this is no chance.
pub(crate) const ATTEMPTS: usize = 3;
/// For one ping, dial included.
const PING: Duration = Duration::from_secs(10);
/// Neighbours that are asked where a node is, and how long each is waited for.
const NEIGHBOURS: usize = 8;
const NEIGHBOUR: Duration = Duration::from_secs(2);
/// Addresses that are believed of all of them together.
const MAX_ADDRESSES: usize = 32;
/// Between an enrolment and the connection as a member, for the other side to keep its credential.
const AGAIN: Duration = Duration::from_millis(200);
/// Answers of one look-up that wait for their caller.
const FOUND: usize = 64;

/// A node of a mesh. Cheap to clone; the node leaves the mesh when [`Self::shutdown`] is called or the last clone is dropped.
#[derive(Clone)]
pub struct Mesh {
    membership: Arc<Membership>,
    shared: Arc<Shared>,
    keeper: Weak<Keeper>,
    commands: mpsc::Sender<Command>,
    token: CancellationToken,
    /// Ends with the driver; it ends by itself when every `commands` is dropped.
    driver: Arc<parking_lot::Mutex<Option<JoinHandle<()>>>>,
}

/// What the driver's helpers hold, so that they don't keep the mesh running.
pub(crate) struct WeakMesh {
    membership: Arc<Membership>,
    shared: Arc<Shared>,
    keeper: Weak<Keeper>,
    commands: mpsc::WeakSender<Command>,
    token: CancellationToken,
    driver: Weak<parking_lot::Mutex<Option<JoinHandle<()>>>>,
}

impl WeakMesh {
    /// The mesh, while it runs.
    pub(crate) fn upgrade(&self) -> Option<Mesh> {
        Some(Mesh {
            membership: self.membership.clone(),
            shared: self.shared.clone(),
            keeper: self.keeper.clone(),
            commands: self.commands.upgrade()?,
            token: self.token.clone(),
            driver: self.driver.upgrade()?,
        })
    }
}

impl fmt::Debug for Mesh {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mesh").field("node_id", &self.shared.node).finish_non_exhaustive()
    }
}

impl Mesh {
    /// Starts a node. It listens when this returns, and keeps trying its bootstrap addresses from now on.
    pub async fn spawn(config: Config, handler: Arc<dyn Handler>) -> Result<Self, Error> {
        let (commands, receiver) = mpsc::channel(COMMANDS);
        let token = CancellationToken::new();
        let membership = config.membership.clone();
        let certificate = match config.certificate.clone() {
            Some(files) => Shown::of(files)?,
            None => Shown::own()?,
        };
        // What the operator gives isn't the mesh's to replace.
        let ours = config.certificate.is_none().then(|| Arc::clone(&certificate));
        let keeper = Keeper::new(membership.clone(), config.papers.clone(), ours, handler);
        let (driver, shared) = Box::pin(driver::start(config, certificate, keeper.clone(), receiver, token.clone())).await?;
        let driver = tokio::spawn(Box::pin(driver.run()));
        let mesh = Self {
            membership,
            shared,
            keeper: Arc::downgrade(&keeper),
            commands,
            token: token.clone(),
            driver: Arc::new(Some(driver).into()),
        };
        keeper.start(mesh.downgrade(), token);
        Ok(mesh)
    }

    /// This node's place in the mesh, and what it knows of others'.
    pub fn membership(&self) -> &Arc<Membership> {
        &self.membership
    }

    fn downgrade(&self) -> WeakMesh {
        WeakMesh {
            membership: self.membership.clone(),
            shared: self.shared.clone(),
            keeper: self.keeper.clone(),
            commands: self.commands.downgrade(),
            token: self.token.clone(),
            driver: Arc::downgrade(&self.driver),
        }
    }

    /// The certificate (PEM) of the mesh's TLS authority, once it has signed one for this node.
    pub fn certificate_authority(&self) -> Option<String> {
        self.keeper.upgrade()?.certificate_authority()
    }

    /// Closes connections with those who are members no longer.
    pub(crate) async fn sweep(&self) {
        self.tell(Command::Sweep).await;
    }

    /// This node.
    pub fn node_id(&self) -> NodeId {
        self.shared.node
    }

    /// Where this node can be dialled: multiaddrs that end in `/p2p/<id>`, the best transport first. Loopback addresses
    /// are left out where there are others.
    pub fn addresses(&self) -> Vec<String> {
        let mut listening = self.shared.external.read().clone();
        listening.extend(self.shared.listening.read().iter().filter(|address| !listening.contains(address)).cloned().collect::<Vec<_>>());
        if listening.iter().any(|address| !address::loopback(address)) {
            listening.retain(|address| !address::loopback(address));
        }
        listening.sort_by_key(address::transport);
        listening.iter().map(|address| format!("{address}/p2p/{}", self.shared.node)).collect()
    }

    /// Dials `address` (a multiaddr or `wss://host:port`) now, and tells which node of this mesh answered there or why
    /// none did. Either way the address is kept as a bootstrap address: dialled until it answers, and again when its
    /// peer is lost.
    pub async fn join(&self, address: &str, timeout: Duration) -> Result<NodeId, Error> {
        let parsed = address::parse(address)?;
        let joined = time::timeout(timeout, async {
            loop {
                let (reply, answer) = oneshot::channel();
                self.send(Command::Join { address: parsed.clone(), reply }).await?;
                match answer.await.map_err(|_| Error::Stopped)? {
                    Err(Error::Enrolled { .. }) => time::sleep(AGAIN).await,
                    settled => return settled,
                }
            }
        });
        joined.await.map_err(|_| Error::TimedOut { target: address.to_owned(), after: timeout })?
    }

    /// Look-ups in Kademlia that have ended, and the requests that all of them took.
    pub fn lookups(&self) -> (u64, u64) {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        (load(&self.shared.lookups.0), load(&self.shared.lookups.1))
    }

    /// Tells where `node` can be reached, by what it has signed: multiaddrs. Those that may not be dialled are left out.
    pub fn learn(&self, node: NodeId, addresses: Vec<String>) {
        // Full means that there is more to do than to learn; it is told again with the next advert.
        let _ = self.commands.try_send(Command::Learn { node, addresses });
    }

    /// What others may use of this node, and what they do.
    pub async fn limits(&self) -> Result<Vec<api::Limit>, Error> {
        let (reply, answer) = oneshot::channel();
        self.send(Command::Limits(reply)).await?;
        answer.await.map_err(|_| Error::Stopped)
    }

    /// Connects with `node` now, also if it was disconnected.
    pub async fn connect(&self, node: NodeId, timeout: Duration) -> Result<(), Error> {
        self.tell(Command::Welcome(node)).await;
        self.session(node, Instant::now() + timeout, timeout).await.map(drop)
    }

    /// Ends every connection with `node`; it isn't dialled again by itself.
    pub async fn disconnect(&self, node: NodeId) {
        self.tell(Command::Disconnect(node)).await;
    }

    /// How this node can be reached, and how it reaches others.
    pub async fn netcheck(&self) -> Result<api::Netcheck, Error> {
        let (reply, answer) = oneshot::channel();
        self.send(Command::Netcheck(reply)).await?;
        answer.await.map_err(|_| Error::Stopped)
    }

    /// The nodes of this mesh that are connected.
    pub fn peers(&self) -> Vec<api::Peer> {
        self.shared.peers.list()
    }

    /// The last measured round trip with `node`, while it is connected.
    pub fn rtt(&self, node: NodeId) -> Option<Duration> {
        self.shared.peers.rtt(node)
    }

    /// Measures the round trip of one message on the stream that carries requests; connects first if need be.
    pub async fn ping(&self, node: NodeId) -> Result<Duration, Error> {
        self.measure(node).await.map(|(rtt, _)| rtt)
    }

    /// The same, and the transport that carried it; `relayed` where a relay stands between.
    pub async fn measure(&self, node: NodeId) -> Result<(Duration, String), Error> {
        let deadline = Instant::now() + PING;
        for _ in 0..ATTEMPTS {
            let session = self.session(node, deadline, PING).await?;
            let started = Instant::now();
            if let Some(reply) = exchange(&session, node, Kind::Ping, Bytes::new(), deadline, PING).await? {
                let rtt = started.elapsed();
                return match reply {
                    Reply::Pong => {
                        self.shared.peers.measured(node, rtt);
                        Ok((rtt, session.transport.to_string()))
                    }
                    Reply::Response(_) | Reply::Problem(_) | Reply::Item(_) => {
                        Err(unreachable(node, "it answered a ping with something else"))
                    }
                };
            }
        }
        Err(unreachable(node, "its streams end as soon as they are opened"))
    }

    /// Sends `request` to `node` and waits for the answer, at most for `timeout`; connects first if need be. Dropping
    /// the future tells the peer to stop. `request_id` goes along, into the peer's logs and traces (64 bytes of it).
    ///
    /// A problem with code `unreachable` may have come after the peer began: only idempotent requests are safe to repeat.
    pub async fn request(
        &self,
        node: NodeId,
        request: wire::Request,
        request_id: &str,
        timeout: Duration,
    ) -> Result<wire::Response, Problem> {
        let mut outcome = self.try_request(node, request, request_id, timeout.min(rpc::MAX_TIMEOUT)).await;
        if let Err(problem) = &mut outcome {
            problem.request_id.get_or_insert_with(|| request_id.to_owned());
        }
        outcome
    }

    async fn try_request(
        &self,
        node: NodeId,
        request: wire::Request,
        request_id: &str,
        timeout: Duration,
    ) -> Result<wire::Response, Problem> {
        if node == self.shared.node {
            return Err(Problem::new(Code::InvalidRequest, "a node doesn't send requests to itself over the mesh"));
        }
        let deadline = Instant::now() + timeout;
        for _ in 0..ATTEMPTS {
            let session = self.session(node, deadline, timeout).await?;
            let payload = encode(&request, request_id, deadline, 0)?;
            if let Some(reply) = exchange(&session, node, Kind::Request, payload, deadline, timeout).await? {
                return read(node, reply);
            }
        }
        Err(unreachable(node, "its streams end as soon as they are opened").into())
    }

    /// An open session with `node`, dialled if need be.
    pub(crate) async fn session(&self, node: NodeId, deadline: Instant, timeout: Duration) -> Result<Arc<Session>, Error> {
        let mut asked = false;
        for _ in 0..ATTEMPTS {
            if let Some(session) = self.shared.peers.session(node) {
                return Ok(session);
            }
            let (reply, answer) = oneshot::channel();
            let connected = time::timeout_at(deadline, async {
                self.send(Command::Connect { node, reply }).await?;
                answer.await.map_err(|_| Error::Stopped)?
            });
            match connected.await.map_err(|_| unreachable(node, &format!("no connection within {} ms", timeout.as_millis())))? {
                Err(Error::Unreachable { .. }) if !asked && self.ask_neighbours(node, deadline).await => asked = true,
                connected => connected?,
            }
        }
        Err(unreachable(node, "its streams end as soon as they are opened"))
    }

    /// Asks neighbours where `node` is: Kademlia knows only those that can be dialled. Whether any of them knew.
    async fn ask_neighbours(&self, node: NodeId, deadline: Instant) -> bool {
        let neighbours = self.shared.peers.list().into_iter().filter(|peer| peer.node_id != node && !peer.relayed).take(NEIGHBOURS);
        let until = deadline.min(Instant::now() + NEIGHBOUR);
        let answers = futures::future::join_all(neighbours.map(async |peer| {
            // They are connected: at most a stream is opened, and nobody else is asked for it.
            let (reply, opened) = oneshot::channel();
            self.tell(Command::Connect { node: peer.node_id, reply }).await;
            let _ = time::timeout_at(until, opened).await;
            let session = self.shared.peers.session(peer.node_id)?;
            let call = encode(&wire::Request::Where(node), "", until, 0).ok()?;
            let reply = exchange(&session, peer.node_id, Kind::Request, call, until, NEIGHBOUR).await;
            match read(peer.node_id, reply.ok()??).ok()? {
                wire::Response::Addresses(addresses) => Some(addresses),
                _ => None,
            }
        }));
        let found: Vec<String> = answers.await.into_iter().flatten().flatten().take(MAX_ADDRESSES).collect();
        let knew = !found.is_empty();
        if knew {
            self.tell(Command::Learn { node, addresses: found }).await;
        }
        knew
    }

    /// Where `node` is known to be.
    pub(crate) async fn known(&self, node: NodeId) -> Vec<String> {
        let (reply, answer) = oneshot::channel();
        self.tell(Command::Known { node, reply }).await;
        answer.await.unwrap_or_default()
    }

    /// Replaces the full set of keys that this node provides: what is new is told to the mesh, a few keys at a time, and
    /// told again as long as it is in the set.
    pub async fn set_provided(&self, keys: Vec<[u8; 32]>) {
        self.tell(Command::Provide(keys)).await;
    }

    /// Asks the mesh who else provides `key`. Returns what was found when the look-up ends or `timeout` has passed; a
    /// time-out with nothing found is an error, as there may be providers.
    pub async fn providers(&self, key: [u8; 32], timeout: Duration) -> Result<Vec<NodeId>, Error> {
        let deadline = Instant::now() + timeout;
        let (found, mut answers) = mpsc::channel(FOUND);
        let timed_out = || Error::TimedOut { target: "the look-up of providers".into(), after: timeout };
        time::timeout_at(deadline, self.send(Command::Providers { key, found })).await.map_err(|_| timed_out())??;
        let mut nodes = BTreeSet::new();
        loop {
            match time::timeout_at(deadline, answers.recv()).await {
                Ok(Some(answer)) => nodes.extend(answer?),
                Ok(None) => return Ok(nodes.into_iter().collect()),
                Err(_) if nodes.is_empty() => return Err(timed_out()),
                Err(_) => return Ok(nodes.into_iter().collect()),
            }
        }
    }

    /// Spreads `announcement`, which must be this node's own, until it expires or the next one replaces it: now, when
    /// new peers can hear it, and each minute. Nobody may rely on it to arrive.
    pub async fn announce(&self, announcement: Announcement) {
        self.tell(Command::Announce(announcement)).await;
    }

    /// Waits until the mesh has ended, by [`Self::shutdown`] or because it failed.
    pub async fn stopped(&self) {
        self.shared.stopped.cancelled().await;
    }

    /// Leaves the mesh: requests under way are dropped, connections closed, within about 4 s.
    pub async fn shutdown(self) {
        self.token.cancel();
        let driver = self.driver.lock().take();
        match driver {
            Some(driver) => {
                if let Err(error) = driver.await {
                    tracing::error!(%error, "the mesh's driver failed");
                }
            }
            // Another clone was first.
            None => self.stopped().await,
        }
    }

    pub(crate) async fn send(&self, command: Command) -> Result<(), Error> {
        self.commands.send(command).await.map_err(|_| Error::Stopped)
    }

    /// For commands without an answer: a mesh that is shut down has nobody to tell.
    async fn tell(&self, command: Command) {
        let _ = self.send(command).await;
    }
}

/// A request as it is sent; items of `window` bytes may come.
pub(crate) fn encode(request: &wire::Request, request_id: &str, deadline: Instant, window: u32) -> Result<Bytes, Problem> {
    let left = deadline.saturating_duration_since(Instant::now());
    let timeout_ms = u32::try_from(left.as_millis()).unwrap_or(u32::MAX);
    let payload = wire::encode(&Call { timeout_ms, request_id: rpc::cut(request_id), window, request });
    if payload.len() > rpc::MAX_REQUEST {
        let detail = format!("a request of {} bytes is over the limit of {}", payload.len(), rpc::MAX_REQUEST);
        return Err(Problem::new(Code::TooLarge, detail));
    }
    Ok(payload.into())
}

/// One exchange; `None` if the session had ended before anything was sent.
async fn exchange(
    session: &Session,
    node: NodeId,
    kind: Kind,
    payload: Bytes,
    deadline: Instant,
    timeout: Duration,
) -> Result<Option<Reply>, Error> {
    let timed_out = |_| Error::TimedOut { target: node.to_string(), after: timeout };
    match time::timeout_at(deadline, session.call(kind, payload)).await.map_err(timed_out)? {
        Ok(reply) => Ok(Some(reply)),
        Err(Lost::NotSent) => Ok(None),
        Err(Lost::Unanswered) => Err(unreachable(node, "the connection was lost before it answered")),
        Err(Lost::Overloaded) => Err(Error::Limit { what: "requests to one node under way" }),
    }
}

pub(crate) fn read(node: NodeId, reply: Reply) -> Result<wire::Response, Problem> {
    let malformed =
        |error: wire::Malformed| Problem::new(Code::Unreachable, format!("{node} answered with what this node can't read: {error}"));
    match reply {
        Reply::Response(payload) => wire::decode(&payload).map_err(malformed),
        Reply::Problem(payload) => Err(wire::decode(&payload).map_err(malformed)?),
        Reply::Pong | Reply::Item(_) => Err(unreachable(node, "it answered a request with something else").into()),
    }
}

pub(crate) fn unreachable(node: NodeId, reason: &str) -> Error {
    Error::Unreachable { target: node.to_string(), reason: reason.to_owned() }
}
