//! What a node takes when nobody asks anything of it: memory and processor, alone, with a gateway, with 1,000 agents.

use std::time::{Duration, Instant};

use anyhow::Result;
use serde_json::json;
use tests::Process;

use crate::{
    arguments::Arguments,
    counter,
    nats::Server,
    node::Node,
    place::Place,
    proc::{self, Memory},
    report::{Gauge, Report},
};

/// Agents on one node.
const AGENTS: usize = 1_000;

/// What an idle process takes.
#[derive(Debug, Clone, Copy)]
struct Idle {
    memory: Memory,
    /// Share of one core, in percent.
    cpu: f64,
}

pub(crate) async fn measure(place: &Place, arguments: &Arguments, report: &mut Report) -> Result<()> {
    let window = Duration::from_secs(if arguments.quick { 2 } else { 10 });
    let node = Node::start(place, "idle", "bench-idle", &[]).await?;
    let gateway = node.gateway(place).await;
    let nats = Server::start(place).await?;
    // What is done at the start is not idleness.
    tokio::time::sleep(Duration::from_secs(1)).await;

    report.gauges(&format!("Idle, over {} s (resident: shared pages of the programs' files included)", window.as_secs()));
    let [ours, front, server] = idle([&node.process, &gateway, &nats.process], window).await?;
    let yardstick = Some(("nats-server", megabytes(server.memory.rss)));
    let mut memory = |what: &str, memory: Memory, aim, yardstick| {
        let detail = json!({ "pss_mb": megabytes(memory.pss), "anonymous_mb": megabytes(memory.anonymous) });
        report.gauge(Gauge { section: "memory", what: what.into(), unit: "MB", value: megabytes(memory.rss), aim, yardstick, detail });
    };
    memory("node, resident", ours.memory, None, yardstick);
    memory("gateway, resident", front.memory, None, yardstick);
    memory("node and gateway, resident", ours.memory.plus(front.memory), Some(48.0), None);
    cpu(report, "node and gateway, processor", ours.cpu + front.cpu, Some(("nats-server", server.cpu)));

    let component = counter::register(&node.client).await?;
    for agent in 0..AGENTS {
        let name = format!("agent-{agent}");
        counter::spawn(&node.client, component, &name).await?;
        counter::count(&node.client, &name).await?;
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    let [ours, front] = idle([&node.process, &gateway], window).await?;
    let detail = json!({
        "pss_mb": megabytes(ours.memory.pss),
        "anonymous_mb": megabytes(ours.memory.anonymous),
        "with_gateway_mb": megabytes(ours.memory.plus(front.memory).rss),
    });
    let what = format!("node with {AGENTS} agents (each called once), resident");
    report.gauge(Gauge {
        section: "memory",
        what,
        unit: "MB",
        value: megabytes(ours.memory.rss),
        aim: Some(128.0),
        yardstick: None,
        detail,
    });
    cpu(report, &format!("node with {AGENTS} agents, processor"), ours.cpu, None);
    drop((gateway, nats));
    node.stop().await
}

fn cpu(report: &mut Report, what: &str, share: f64, yardstick: Option<(&'static str, f64)>) {
    // A yardstick that did nothing at all makes no ratio.
    let yardstick = yardstick.filter(|(_, share)| *share > 0.0);
    report.gauge(Gauge {
        section: "memory",
        what: what.into(),
        unit: "%",
        value: share,
        aim: Some(1.0),
        yardstick,
        detail: serde_json::Value::Null,
    });
}

/// Watches processes do nothing.
async fn idle<const N: usize>(processes: [&Process; N], window: Duration) -> Result<[Idle; N]> {
    let mut pids = [0; N];
    let mut before = [Duration::ZERO; N];
    for (at, process) in processes.into_iter().enumerate() {
        pids[at] = process.id();
        before[at] = proc::cpu(pids[at])?;
    }
    let begun = Instant::now();
    tokio::time::sleep(window).await;
    let mut found = [None; N];
    for (at, found) in found.iter_mut().enumerate() {
        let used = proc::cpu(pids[at])?.saturating_sub(before[at]);
        *found = Some(Idle { memory: Memory::of(pids[at])?, cpu: used.as_secs_f64() / begun.elapsed().as_secs_f64() * 100.0 });
    }
    Ok(found.map(|found| found.expect("each was filled")))
}

/// Millions of bytes.
fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}
