//! Nodes for tests: what they answer, and what they saw.

use std::{
    net::{IpAddr, Ipv4Addr},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use mesh::{Config, Handler, Items, Listen, Mesh};
use parking_lot::Mutex;
use protocol::{
    Code, Digest, Envelope, Key, NodeId, OperationId, Problem, Usage,
    wire::{Announcement, Execute, Executed, Request, Response},
};
use tokio::time::Instant;

pub(crate) const LOCALHOST: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
/// Far more than anything takes on an idle machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// What a node saw.
#[derive(Default)]
pub(crate) struct Seen {
    pub(crate) started: AtomicUsize,
    pub(crate) dropped: AtomicUsize,
    pub(crate) connected: Mutex<Vec<NodeId>>,
    pub(crate) disconnected: Mutex<Vec<NodeId>>,
    pub(crate) announced: Mutex<Vec<(NodeId, Announcement)>>,
    /// Items that were sent on their way, in answers that come in items.
    pub(crate) sent: AtomicUsize,
    /// Where content is that may be fetched.
    pub(crate) content: Mutex<Option<std::path::PathBuf>>,
}

/// Counts a request whose future was dropped before it ended.
struct Unfinished<'a>(&'a AtomicUsize);

impl Drop for Unfinished<'_> {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

#[async_trait]
impl Handler for Seen {
    async fn request(&self, from: NodeId, request: Request, request_id: &str, deadline: Instant) -> Result<Response, Problem> {
        self.started.fetch_add(1, Ordering::SeqCst);
        let Request::Execute(execute) = request else {
            return Err(Problem::new(Code::NotFound, format!("{from} asked {request_id}")));
        };
        match execute.method.as_str() {
            "echo" => Ok(executed(execute.params)),
            "zeros" => Ok(executed(vec![0; String::from_utf8_lossy(&execute.params).parse().expect("a number")].into())),
            "forever" => {
                let _unfinished = Unfinished(&self.dropped);
                assert!(deadline > Instant::now());
                std::future::pending().await
            }
            "panic" => panic!("as asked"),
            other => Err(Problem::new(Code::MethodNotFound, format!("no method {other}"))),
        }
    }

    /// Answers `Adverts` with items of 16 KiB, without end.
    async fn stream(&self, from: NodeId, request: Request, request_id: &str, deadline: Instant, items: Items) -> Result<Response, Problem> {
        let Request::Adverts(_) = request else { return self.request(from, request, request_id, deadline).await };
        let _unfinished = Unfinished(&self.dropped);
        for i in 0_u64.. {
            items.send([&i.to_be_bytes()[..], &[0; 16 * 1024 - 8]].concat()).await?;
            self.sent.fetch_add(1, Ordering::SeqCst);
        }
        Ok(Response::Done)
    }

    async fn content(&self, _: NodeId, content: &Digest) -> Result<std::path::PathBuf, Problem> {
        self.content.lock().clone().ok_or_else(|| Problem::new(Code::NotFound, format!("no {content}")))
    }

    fn announced(&self, source: NodeId, announcement: Announcement) {
        self.announced.lock().push((source, announcement));
    }

    fn connected(&self, node: NodeId) {
        self.connected.lock().push(node);
    }

    fn disconnected(&self, node: NodeId) {
        self.disconnected.lock().push(node);
    }
}

fn executed(result: bytes::Bytes) -> Response {
    let envelope = Envelope::sign("application/test", b"{}", &[&Key::from_seed(&[1; 32])]);
    Response::Executed(Box::new(Executed {
        outcome: Ok(result),
        operation: OperationId::new(),
        usage: Usage::default(),
        receipt: Some(envelope.into()),
    }))
}

/// The result of an executed method.
pub(crate) fn result(response: Response) -> bytes::Bytes {
    match response {
        Response::Executed(executed) => executed.outcome.expect("it ran"),
        other => panic!("{other:?}"),
    }
}

/// A call of `method`.
pub(crate) fn execute(method: &str, params: impl Into<bytes::Bytes>) -> Request {
    Request::Execute(Execute {
        agent: protocol::AgentId::new(),
        method: method.into(),
        params: params.into(),
        agreement: None,
        idempotency_key: None,
        acknowledged: None,
        chain: Vec::new(),
    })
}

/// A node and what it saw.
pub(crate) struct Node {
    pub(crate) mesh: Mesh,
    pub(crate) seen: Arc<Seen>,
}

impl Node {
    pub(crate) async fn spawn(config: Config) -> Self {
        let seen = Arc::new(Seen::default());
        let mesh = Mesh::spawn(config, seen.clone()).await.expect("a node");
        Self { mesh, seen }
    }

    /// A node with every transport.
    pub(crate) async fn new() -> Self {
        Self::spawn(config(Listen::any_port(LOCALHOST))).await
    }

    /// A node with TCP alone that has joined `other`.
    pub(crate) async fn joined(other: &Node) -> Self {
        let node = Self::spawn(config(tcp(0))).await;
        node.mesh.join(&other.address("tcp"), PATIENCE).await.expect("joined");
        node
    }

    pub(crate) fn id(&self) -> NodeId {
        self.mesh.node_id()
    }

    /// The node's address over `transport`.
    pub(crate) fn address(&self, transport: &str) -> String {
        let wanted = |address: &&String| match transport {
            "quic" => address.contains("/quic-v1"),
            "wss" => address.contains("/tls/ws"),
            _ => address.contains("/tcp/") && !address.contains("/ws"),
        };
        self.mesh.addresses().iter().find(wanted).expect("it listens there").clone()
    }

    /// The TCP port of `transport`.
    pub(crate) fn port(&self, transport: &str) -> u16 {
        self.address(transport).split('/').nth(4).expect("a port").parse().expect("a number")
    }

    pub(crate) async fn sees(&self, other: &Node) {
        eventually("connected", || self.mesh.peers().iter().any(|peer| peer.node_id == other.id())).await;
    }
}

pub(crate) fn tcp(port: u16) -> Listen {
    Listen { host: LOCALHOST, tcp: Some(port), quic: None, wss: None }
}

pub(crate) fn config(listen: Listen) -> Config {
    config_of(Key::generate(), listen)
}

pub(crate) fn config_of(key: Key, listen: Listen) -> Config {
    Config { listen, private_addresses: true, ..Config::new(key, "test".parse().expect("a mesh id")) }
}

/// Waits until `condition` holds.
pub(crate) async fn eventually(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
