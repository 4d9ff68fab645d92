//! Many agents that are idle, and one that isn't: neither is the others' business.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use futures::{FutureExt as _, StreamExt as _, TryStreamExt as _, stream};
use protocol::{Client, Code, Problem, api};
use serde_json::{json, value::RawValue};

use crate::{
    arguments::Arguments,
    counter::{self, Tally},
    measure::{Call, Side, take_turns},
    node::Node,
    place::Place,
    proc::Memory,
    report::{Gauge, Report},
};

/// Those on the small node.
const FEW: usize = 10;
/// How many ask the noisy agent at a time.
const CALLERS: usize = 64;

pub(crate) async fn measure(place: &Place, arguments: &Arguments, report: &mut Report) -> Result<()> {
    idle(place, arguments, report).await?;
    noisy(place, arguments, report).await
}

async fn idle(place: &Place, arguments: &Arguments, report: &mut Report) -> Result<()> {
    let many = if arguments.quick { 200 } else { 10_000 };
    let (small, small_started) = filled(place, "few", FEW).await?;
    let (large, large_started) = filled(place, "many", many).await?;
    report.gauges(&format!("A node with {many} idle agents, started again, beside one with {FEW}"));
    // What follows the first answer, the advert above all, is over by then.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let memory = |node: &Node| Ok::<_, anyhow::Error>(Memory::of(node.process.id())?.rss as f64 / 1e6);
    let mut gauge = |what: &str, unit, value, aim, beside| {
        let yardstick = Some(("few agents", beside));
        report.gauge(Gauge {
            section: "agents",
            what: what.into(),
            unit,
            value,
            aim: Some(aim),
            yardstick,
            detail: json!({ "agents": many }),
        });
    };
    gauge("start to first answer", "ms", large_started.as_secs_f64() * 1e3, 1_000.0, small_started.as_secs_f64() * 1e3);
    gauge("resident", "MB", memory(&large)?, 256.0, memory(&small)?);

    let tallies = [Arc::new(Tally::default()), Arc::new(Tally::default())];
    let sides = [(&large, &tallies[0]), (&small, &tallies[1])].map(|(node, tally)| counting(node, tally));
    report.races("Execute with a durable write on these nodes (the aim is a latency within 1.1)");
    let rounds = take_turns(&sides, 1, arguments.pace()).await?;
    report.race("agents", &format!("{many} agents"), 1, &rounds, (1, "few agents"), Some(0.91));
    tallies[0].check("many agents")?;
    tallies[1].check("few agents")?;
    large.stop().await?;
    small.stop().await
}

/// A node with so many agents that has been started with them; how long that took.
async fn filled(place: &Place, name: &str, agents: usize) -> Result<(Node, Duration)> {
    let mesh = format!("bench-{name}");
    let node = Node::start(place, name, &mesh, &[]).await?;
    let component = counter::register(&node.client).await?;
    let spawns = stream::iter((0..agents).map(|at| {
        let client = node.client.clone();
        async move { counter::spawn(&client, component, &format!("agent-{at}")).await.map(drop) }
    }));
    spawns.buffer_unordered(CALLERS).try_collect::<()>().await?;
    node.stop().await?;
    let begun = Instant::now();
    let node = Node::start(place, name, &mesh, &[]).await?;
    Ok((node, begun.elapsed()))
}

fn counting(node: &Node, tally: &Arc<Tally>) -> Side {
    let (client, tally) = (node.client.clone(), Arc::clone(tally));
    let call: Call = Arc::new(move |_| {
        let (client, tally) = (client.clone(), Arc::clone(&tally));
        async move {
            tally.take(0, counter::count(&client, "agent-0").await?);
            Ok(())
        }
        .boxed()
    });
    Side { call, processes: vec![node.process.id()] }
}

/// One agent loops for as many as it may; another one counts, as it does alone.
async fn noisy(place: &Place, arguments: &Arguments, report: &mut Report) -> Result<()> {
    let node = Node::start(place, "noisy", "bench-noisy", &["mesh.enabled=false"]).await?;
    let component = counter::register(&node.client).await?;
    counter::spawn(&node.client, component, "agent-0").await?;
    let limits = Some(api::GivenLimits { fuel: Some(u64::MAX), ..Default::default() });
    let spawn = api::Spawn { name: "noisy".into(), component, pricing: None, limits, grants: Default::default() };
    let _: api::Agent = node.client.post("/v1/agents", &spawn).await?;

    report.races(&format!("An agent beside one that loops for {CALLERS} callers"));
    let tally = Arc::new(Tally::default());
    let (mut beside, mut alone) = (Vec::new(), Vec::new());
    let pace = arguments.pace();
    for _ in 0..pace.rounds {
        let side = || [counting(&node, &tally)];
        let once = crate::measure::Pace { rounds: 1, ..pace };
        alone.push(take_turns(&side(), 1, once).await?.side(0));
        let noise: Vec<_> = (0..CALLERS).map(|_| tokio::spawn(endless(node.client.clone()))).collect();
        beside.push(take_turns(&side(), 1, once).await?.side(0));
        for caller in noise {
            ensure!(!caller.is_finished(), "the noise ended by itself: {:?}", caller.await);
            caller.abort();
        }
    }
    tally.check("beside a loop")?;
    report.beside("agents", "one caller, beside the loop", beside, "alone", alone, 3.0);
    node.stop().await
}

/// Asks for a loop again and again.
async fn endless(client: Client) -> Problem {
    loop {
        let params = RawValue::from_string("{}".into()).expect("JSON");
        let execute = api::Execute { method: "loop".into(), params, agreement: None, timeout_ms: Some(5_000) };
        match client.post::<_, api::Executed>("/v1/agents/noisy/execute", &execute).await {
            Err(problem) if matches!(problem.code, Code::TimedOut | Code::Overloaded) => {}
            Err(problem) => return problem,
            Ok(_) => return Problem::new(Code::Internal, "the loop has ended by itself"),
        }
    }
}
