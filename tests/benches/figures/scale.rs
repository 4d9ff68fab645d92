//! Many nodes in one process: joining, look-ups, gossip, memory, as their number grows. Real TCP on the loopback
//! interface; nodes have the mesh alone, as that is what is measured.

use std::{
    collections::HashMap,
    net::Ipv4Addr,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use async_trait::async_trait;
use futures::{StreamExt as _, stream};
use mesh::{Config, Handler, Listen, Mesh};
use parking_lot::Mutex;
use protocol::{
    Code, Digest, Key, NodeId, Problem, Timestamp,
    wire::{self, Announcement, Request, Response},
};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::{arguments::Arguments, proc, report::Report};

/// Sockets that 500 nodes may have.
const FILES: u64 = 262_144;
const SIZES: [usize; 3] = [50, 200, 500];
/// Peers that each node keeps: each is two sockets here, of which a process may have 20,000.
const PEERS: usize = 28;
/// Nodes that join at once.
const BATCH: usize = 8;
const PATIENCE: Duration = Duration::from_secs(120);
/// Look-ups, and announcements, of each size.
const LOOKUPS: usize = 60;
const ANNOUNCEMENTS: usize = 20;
/// For tables to fill and gossip to settle, and for watching idle processors.
const SETTLE: Duration = Duration::from_secs(8);

/// When each announcement arrived where.
#[derive(Default)]
struct Arrivals(Mutex<HashMap<(NodeId, u64), Vec<Instant>>>);

struct Ear(Arc<Arrivals>);

#[async_trait]
impl Handler for Ear {
    async fn request(&self, _: NodeId, _: Request, _: &str, _: tokio::time::Instant) -> Result<Response, Problem> {
        Err(Problem::new(Code::NotFound, "nothing here"))
    }

    fn announced(&self, source: NodeId, announcement: Announcement) {
        self.0.0.lock().entry((source, announcement.sequence)).or_default().push(Instant::now());
    }

    fn connected(&self, _: NodeId) {}

    fn disconnected(&self, _: NodeId) {}
}

pub(crate) async fn measure(arguments: &Arguments, report: &mut Report) -> Result<()> {
    // Each connection within the process has two sockets.
    let limit = getrlimit(Resource::Nofile);
    let all = Rlimit { current: Some(FILES), maximum: Some(FILES) };
    // Only root may raise the maximum; the smaller sizes fit what others have.
    setrlimit(Resource::Nofile, all).or_else(|_| setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }))?;
    report.gauges("Scale: nodes of one mesh in this process, over TCP (times in ms)");
    let columns = ["nodes", "join p50", "join p99", "look-up p50", "p99", "requests", "found", "gossip p50", "p99", "delivered"];
    let more = ["MB/node", "peers/node", "idle CPU/node"];
    report.text(&columns.iter().chain(&more).map(|column| format!("{column:>13}")).collect::<String>());
    let sizes = if arguments.quick { &SIZES[..1] } else { &SIZES[..] };
    for size in sizes {
        let row = of_size(*size).await?;
        report.text(&row.iter().map(|cell| format!("{cell:>13}")).collect::<String>());
        report.keep("scale", serde_json::json!({ "nodes": size, "columns": columns.iter().chain(&more).collect::<Vec<_>>(), "row": row }));
    }
    Ok(())
}

async fn of_size(size: usize) -> Result<Vec<String>> {
    let arrivals = Arc::new(Arrivals::default());
    let before = proc::Memory::of(std::process::id())?;
    let spawn = async |bootstrap: Vec<String>| {
        let listen = Listen { host: Ipv4Addr::LOCALHOST.into(), tcp: Some(0), quic: None, wss: None };
        let config = Config::new(Key::generate(), "bench-scale".parse().expect("a mesh id"));
        Mesh::spawn(
            Config { listen, bootstrap, private_addresses: true, peers: PEERS, max_memory: usize::MAX, ..config },
            Arc::new(Ear(Arc::clone(&arrivals))),
        )
        .await
    };
    let first = spawn(Vec::new()).await?;
    let entry = first.addresses().into_iter().next().context("an address")?;
    let joining = stream::iter(1..size).map(|_| async {
        let begun = Instant::now();
        let node = spawn(Vec::new()).await?;
        // Where the processors are busy with others' handshakes a dial may fail; an operator's node tries again too.
        while let Err(error) = node.join(&entry, PATIENCE).await {
            anyhow::ensure!(begun.elapsed() < PATIENCE, "a node doesn't get in: {error}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        anyhow::Ok((node, begun.elapsed()))
    });
    let joined: Vec<Result<(Mesh, Duration)>> = joining.buffer_unordered(BATCH).collect().await;
    let (mut nodes, mut joins) = (vec![first], Vec::new());
    for node in joined {
        let (node, took) = node?;
        nodes.push(node);
        joins.push(took);
    }
    tokio::time::sleep(SETTLE).await;
    let cpu = proc::cpu(std::process::id())?;
    tokio::time::sleep(SETTLE).await;
    let idle = (proc::cpu(std::process::id())?.saturating_sub(cpu)).as_secs_f64() / SETTLE.as_secs_f64() / size as f64 * 100.0;
    let (lookups, requests, found) = look_up(&nodes).await;
    let (delays, delivered) = gossip(&nodes, &arrivals).await;
    let after = proc::Memory::of(std::process::id())?;
    let peers: usize = nodes.iter().map(|node| node.peers().len()).sum();
    let row = vec![
        size.to_string(),
        at(&joins, 0.5),
        at(&joins, 0.99),
        at(&lookups, 0.5),
        at(&lookups, 0.99),
        format!("{requests:.1}"),
        format!("{:.1} %", found * 100.0),
        at(&delays, 0.5),
        at(&delays, 0.99),
        format!("{:.1} %", delivered * 100.0),
        format!("{:.2}", after.anonymous.saturating_sub(before.anonymous) as f64 / 1e6 / size as f64),
        format!("{:.1}", peers as f64 / size as f64),
        format!("{idle:.2} %"),
    ];
    stream::iter(nodes).for_each_concurrent(BATCH, |node| async move { node.shutdown().await }).await;
    Ok(row)
}

/// Every third node provides a key of its own; others look for them.
async fn look_up(nodes: &[Mesh]) -> (Vec<Duration>, f64, f64) {
    let providers: Vec<(usize, [u8; 32])> =
        (0..LOOKUPS).map(|i| (i * 3 % nodes.len(), wire::capability_key(&format!("scale.{i}")))).collect();
    let mut keys: HashMap<usize, Vec<[u8; 32]>> = HashMap::new();
    for (node, key) in &providers {
        keys.entry(*node).or_default().push(*key);
    }
    for (node, keys) in keys {
        nodes[node].set_provided(keys).await;
    }
    tokio::time::sleep(SETTLE).await;
    let before: (u64, u64) = total(nodes);
    let (mut took, mut found) = (Vec::new(), 0);
    for (i, (provider, key)) in providers.iter().enumerate() {
        let asking = &nodes[(i * 7 + 11) % nodes.len()];
        let begun = Instant::now();
        let answer = asking.providers(*key, Duration::from_secs(20)).await.unwrap_or_default();
        took.push(begun.elapsed());
        let here = asking.node_id() == nodes[*provider].node_id();
        found += usize::from(here || answer.contains(&nodes[*provider].node_id()));
    }
    let after = total(nodes);
    let requests = after.1.saturating_sub(before.1) as f64 / after.0.saturating_sub(before.0).max(1) as f64;
    (took, requests, found as f64 / LOOKUPS as f64)
}

fn total(nodes: &[Mesh]) -> (u64, u64) {
    nodes.iter().map(Mesh::lookups).fold((0, 0), |(a, b), (c, d)| (a + c, b + d))
}

/// Announcements of some nodes, and when they arrived at the others.
async fn gossip(nodes: &[Mesh], arrivals: &Arrivals) -> (Vec<Duration>, f64) {
    let mut sent = Vec::new();
    for i in 0..ANNOUNCEMENTS {
        let (node, sequence) = (&nodes[i * 13 % nodes.len()], 1_000 + i as u64);
        let expires_at = Timestamp::now() + Duration::from_secs(60);
        let announcement =
            Announcement { node: node.node_id(), sequence, digest: Digest::blake3(&sequence.to_be_bytes()), expires_at, withdrawn: false };
        sent.push(((node.node_id(), sequence), Instant::now()));
        node.announce(announcement).await;
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    tokio::time::sleep(SETTLE).await;
    let arrived = arrivals.0.lock();
    let mut delays = Vec::new();
    let mut delivered = 0;
    for (id, begun) in sent {
        let times = arrived.get(&id).map(Vec::as_slice).unwrap_or_default();
        // A node repeats its announcement each minute: what counts is the first of each.
        delivered += times.len().min(nodes.len() - 1);
        delays.extend(times.iter().take(nodes.len() - 1).map(|at| at.duration_since(begun)));
    }
    (delays, delivered as f64 / (ANNOUNCEMENTS * (nodes.len() - 1)) as f64)
}

fn at(values: &[Duration], part: f64) -> String {
    let mut values = values.to_vec();
    values.sort_unstable();
    let value = values.get(((values.len().saturating_sub(1)) as f64 * part) as usize).copied().unwrap_or_default();
    format!("{:.1}", value.as_secs_f64() * 1e3)
}
