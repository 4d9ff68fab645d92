//! Round trips and echoes per second between two nodes in one process, over each transport.
//!
//! `cargo run --release -p mesh --example throughput`
#![expect(clippy::print_stdout, reason = "its output is its purpose")]

use std::{
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use mesh::{Config, Handler, Listen, Mesh};
use protocol::{
    Envelope, Key, NodeId, OperationId, Problem, Usage,
    wire::{Announcement, Execute, Executed, Request, Response},
};

const HOST: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const TIMEOUT: Duration = Duration::from_secs(10);
const EACH: Duration = Duration::from_secs(3);

struct Echo(Envelope);

#[async_trait]
impl Handler for Echo {
    async fn request(&self, _: NodeId, request: Request, _: &str, _: tokio::time::Instant) -> Result<Response, Problem> {
        let Request::Execute(execute) = request else { return Ok(Response::Done) };
        Ok(Response::Executed(Box::new(Executed {
            outcome: Ok(execute.params),
            operation: OperationId::new(),
            usage: Usage::default(),
            receipt: Some(self.0.clone().into()),
        })))
    }

    fn announced(&self, _: NodeId, _: Announcement) {}

    fn connected(&self, _: NodeId) {}

    fn disconnected(&self, _: NodeId) {}
}

async fn node(listen: Listen) -> anyhow::Result<Mesh> {
    // Without a signature: what is measured is the mesh, not base58 and curve points.
    let handler = Echo(Envelope { payload_type: "application/test".into(), payload: String::new(), signatures: Vec::new() });
    let config = Config { listen, private_addresses: true, ..Config::new(Key::generate(), "bench".parse()?) };
    Ok(Mesh::spawn(config, Arc::new(handler)).await?)
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let none = Listen { host: HOST, tcp: None, quic: None, wss: None };
    for (name, listen) in
        [("tcp", Listen { tcp: Some(0), ..none }), ("quic", Listen { quic: Some(0), ..none }), ("wss", Listen { wss: Some(0), ..none })]
    {
        let (server, client) = (node(listen).await?, node(none).await?);
        client.join(&server.addresses()[0], TIMEOUT).await?;
        for callers in [1, 64, 512] {
            measure(name, callers, &client, server.node_id()).await?;
        }
        client.shutdown().await;
        server.shutdown().await;
    }
    Ok(())
}

async fn measure(transport: &str, callers: usize, client: &Mesh, server: NodeId) -> anyhow::Result<()> {
    let started = Instant::now();
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..callers {
        let client = client.clone();
        tasks.spawn(async move {
            let mut times = Vec::new();
            while started.elapsed() < EACH {
                let request = Request::Execute(Execute {
                    agent: protocol::AgentId::new(),
                    method: "echo".into(),
                    params: vec![b'x'; 200].into(),
                    agreement: None,
                    idempotency_key: None,
                    acknowledged: None,
                    chain: Vec::new(),
                });
                let sent = Instant::now();
                client.request(server, request, "request", TIMEOUT).await?;
                times.push(sent.elapsed());
            }
            Ok::<_, Problem>(times)
        });
    }
    let mut times = Vec::new();
    while let Some(task) = tasks.join_next().await {
        times.extend(task??);
    }
    times.sort_unstable();
    let rate = times.len() as f64 / started.elapsed().as_secs_f64();
    let at = |part: usize| times[(times.len() - 1) * part / 100];
    println!("{transport:>5} c={callers:<4} {rate:>9.0}/s  p50 {:?}  p99 {:?}", at(50), at(99));
    Ok(())
}
