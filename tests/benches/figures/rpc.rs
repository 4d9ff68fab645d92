//! The mesh's requests alone: 200 bytes there and back between two processes, against NATS and against raw QUIC.
//!
//! ```text
//! this process ─► mesh over TCP, over QUIC ─► echo process (--echo)
//! this process ─► nats-server ─► responder        this process ─► quinn, one stream, own frames ─► echo process
//! ```

use std::{sync::Arc, time::Duration};

use anyhow::{Context as _, Result, bail};
use async_trait::async_trait;
use futures::FutureExt as _;
use mesh::{Config, Handler, Listen, Mesh};
use protocol::{
    AgentId, Key, MeshId, NodeId, Problem,
    wire::{Announcement, Execute, Request, Response},
};
use serde::{Deserialize, Serialize};
use tests::Process;

use crate::{
    arguments::Arguments,
    measure::{Call, Side, take_turns},
    nats::Server,
    place::Place,
    proc::Memory,
    quic,
    report::{Gauge, Report},
};

/// What is sent and comes back.
const PAYLOAD: usize = 200;
/// Callers, each with one request under way.
const CALLERS: [usize; 3] = [1, 64, 512];
/// Peers that are added to see what one costs, and those that come before.
const PEERS: usize = 64;
const WARM: usize = 8;
const TIMEOUT: Duration = Duration::from_secs(10);

/// Where an echo process answers.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Echoes {
    node: NodeId,
    tcp: String,
    quic: String,
    raw: quic::Place,
}

/// Sends back what it gets. The kind of answer doesn't matter; this one is text and nothing else.
pub(crate) struct Echo;

#[async_trait]
impl Handler for Echo {
    async fn request(&self, _: NodeId, request: Request, _: &str, _: tokio::time::Instant) -> Result<Response, Problem> {
        Ok(match request {
            Request::Execute(execute) => Response::Addresses(vec![String::from_utf8_lossy(&execute.params).into_owned()]),
            _ => Response::Done,
        })
    }

    fn announced(&self, _: NodeId, _: Announcement) {}

    fn connected(&self, _: NodeId) {}

    fn disconnected(&self, _: NodeId) {}
}

fn mesh_id() -> MeshId {
    "bench-rpc".parse().expect("a mesh id")
}

fn config(listen: Listen) -> Config {
    // None is let go while it is counted.
    Config { listen, private_addresses: true, peers: 512, ..Config::new(Key::generate(), mesh_id()) }
}

fn nowhere() -> Listen {
    Listen { host: std::net::Ipv4Addr::LOCALHOST.into(), tcp: None, quic: None, wss: None }
}

/// The echo process: says where it answers, and does so until it is killed.
pub(crate) async fn echo() -> Result<()> {
    let mesh = Mesh::spawn(config(Listen { tcp: Some(0), quic: Some(0), ..nowhere() }), Arc::new(Echo)).await?;
    let find = |part: &str| mesh.addresses().into_iter().find(|address| address.contains(part)).context("an address");
    let place = Echoes { node: mesh.node_id(), tcp: find("/tcp/")?, quic: find("/quic-v1")?, raw: quic::serve()? };
    crate::report::say(&serde_json::to_string(&place)?);
    mesh.stopped().await;
    Ok(())
}

pub(crate) async fn measure(place: &Place, arguments: &Arguments, report: &mut Report) -> Result<()> {
    let mut process = echo_process("echo", place)?;
    let echoes: Echoes = process.announcement().await;
    let server = Server::start(place).await?;
    let (responder, requester) = server.responder(place, 1).await?;
    let raw = quic::Echo::connect(&echoes.raw).await?;
    let text: Arc<str> = "x".repeat(PAYLOAD).into();
    let over_nats: Call = Arc::new({
        let text = Arc::clone(&text);
        move |_| {
            let (requester, text) = (requester.clone(), Arc::clone(&text));
            async move { requester.echo_of(&text).await }.boxed()
        }
    });
    let over_quic: Call = Arc::new({
        let text = Arc::clone(&text);
        move |_| {
            let (raw, text) = (raw.clone(), Arc::clone(&text));
            async move { raw.echo(&text).await }.boxed()
        }
    });
    report.races(&format!("Requests of {PAYLOAD} bytes between two processes, answered with as many"));
    for (transport, address) in [("TCP", &echoes.tcp), ("QUIC", &echoes.quic)] {
        let mesh = Mesh::spawn(config(nowhere()), Arc::new(Echo)).await?;
        mesh.join(address, TIMEOUT).await?;
        let ours = calls(&mesh, echoes.node, &text);
        for callers in CALLERS {
            let echo = process.id();
            let sides = [
                Side { call: Arc::clone(&ours), processes: vec![echo] },
                Side { call: Arc::clone(&over_nats), processes: vec![server.process.id(), responder.id()] },
                Side { call: Arc::clone(&over_quic), processes: vec![echo] },
            ];
            let rounds = take_turns(&sides, callers, arguments.pace()).await?;
            let what = format!("mesh over {transport}");
            report.race("rpc", &what, callers, &rounds, (1, "NATS request/reply, an echo"), (callers > 1).then_some(2.0));
            report.race("rpc", &what, callers, &rounds, (2, "raw QUIC, one stream, an echo"), (callers == 1).then_some(1.0 / 1.3));
        }
        mesh.shutdown().await;
    }
    drop((server, responder, process));
    peers(place, report).await
}

fn calls(mesh: &Mesh, node: NodeId, text: &Arc<str>) -> Call {
    let (mesh, text) = (mesh.clone(), Arc::clone(text));
    Arc::new(move |_| {
        let (mesh, text) = (mesh.clone(), Arc::clone(&text));
        async move {
            let execute = Execute {
                agent: AgentId::new(),
                method: "echo".into(),
                params: text.as_bytes().to_vec().into(),
                agreement: None,
                idempotency_key: None,
                acknowledged: None,
                chain: Vec::new(),
            };
            match mesh.request(node, Request::Execute(execute), "", TIMEOUT).await? {
                Response::Addresses(echo) if echo.first().is_some_and(|echo| **echo == *text) => Ok(()),
                other => bail!("the echo is another: {other:?}"),
            }
        }
        .boxed()
    })
}

/// What one more peer costs: a process of its own, before and after so many have come and asked it something.
async fn peers(place: &Place, report: &mut Report) -> Result<()> {
    report.gauges("Memory of a further peer");
    let mut hub = echo_process("hub", place)?;
    let Echoes { node, tcp, .. } = hub.announcement().await;
    let mut nodes = Vec::new();
    let mut sizes = [0; 2];
    // The first ones are company for what there is one of.
    for (size, many) in sizes.iter_mut().zip([WARM, PEERS]) {
        for _ in 0..many {
            let mesh = Mesh::spawn(config(nowhere()), Arc::new(Echo)).await?;
            mesh.join(&tcp, TIMEOUT).await?;
            mesh.request(node, Request::Advert, "", TIMEOUT).await?;
            nodes.push(mesh);
        }
        *size = Memory::of(hub.id())?.anonymous;
    }
    let value = sizes[1].saturating_sub(sizes[0]) as f64 / PEERS as f64 / 1e6;
    let what = "one end of a connection, with a request made".into();
    report.gauge(Gauge { section: "rpc", what, unit: "MB", value, aim: Some(0.3), yardstick: None, detail: serde_json::Value::Null });
    for node in nodes {
        node.shutdown().await;
    }
    Ok(())
}

fn echo_process(name: &str, place: &Place) -> Result<Process> {
    let mut command = std::process::Command::new(std::env::current_exe()?);
    command.arg("--echo");
    Ok(Process::start(name, command, place.logs()))
}
