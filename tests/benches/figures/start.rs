//! From a process's start to its first answer.

use std::time::{Duration, Instant};

use anyhow::Result;
use serde_json::json;

use crate::{
    arguments::Arguments,
    measure::median,
    nats::Server,
    node::Node,
    place::Place,
    report::{Gauge, Report},
};

/// What a start with data that is there should take, in milliseconds.
const AIM: f64 = 100.0;

pub(crate) async fn measure(place: &Place, arguments: &Arguments, report: &mut Report) -> Result<()> {
    let (first, again) = if arguments.quick { (2, 3) } else { (3, 10) };
    let (mut firsts, mut starts, mut stops, mut yardstick) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for at in 0..first {
        let (started, stopped) = once(place, &format!("first-{at}")).await?;
        firsts.push(started);
        stops.push(stopped);
    }
    for _ in 0..again {
        let (started, stopped) = once(place, "first-0").await?;
        starts.push(started);
        stops.push(stopped);
        yardstick.push(Server::start(place).await?.started_in.as_secs_f64() * 1e3);
    }
    report.gauges("Start, with the mesh on: from the process's start to its first answer on the socket (medians)");
    let yardstick = median(yardstick);
    let mut gauge = |what: &str, values: Vec<f64>, aim, yardstick| {
        let detail = json!({ "rounds": values.len(), "longest_ms": values.iter().copied().fold(0.0, f64::max) });
        report.gauge(Gauge { section: "start", what: what.into(), unit: "ms", value: median(values), aim, yardstick, detail });
    };
    gauge("first start ever (keys and store are made)", firsts, None, None);
    gauge("start with data", starts, Some(AIM), Some(("nats-server", yardstick)));
    gauge("stop, signal to end", stops, None, None);
    Ok(())
}

/// Starts and stops a node; how long each took, in milliseconds.
async fn once(place: &Place, name: &str) -> Result<(f64, f64)> {
    let begun = Instant::now();
    let node = Node::start(place, name, "bench-start", &[]).await?;
    let started = begun.elapsed();
    // What follows the first answer is neither: it ends before the stop begins.
    tokio::time::sleep(Duration::from_millis(100)).await;
    let begun = Instant::now();
    node.stop().await?;
    Ok((started.as_secs_f64() * 1e3, begun.elapsed().as_secs_f64() * 1e3))
}
