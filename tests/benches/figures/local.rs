//! Local execute: through the socket, against the raw parts in this process, and against them behind the same kind of socket.

use std::sync::Arc;

use anyhow::Result;
use futures::FutureExt as _;
use protocol::Client;

use crate::{
    arguments::Arguments,
    counter::{self, Tally},
    measure::{Call, Side, take_turns},
    node::Node,
    place::Place,
    raw::Raw,
    report::Report,
    served,
};

/// The most callers, and so the agents: mutating calls of one agent are serial by design.
pub(crate) const MOST: usize = 64;
/// Rows: callers, and whether each has an agent of its own.
pub(crate) const ROWS: [(usize, bool); 4] = [(1, true), (16, true), (MOST, true), (MOST, false)];
/// What the ratio to the parts alone should be, which have neither a client nor a socket to care for.
const AIM: f64 = 0.5;
/// And to the parts behind HTTP.
const SERVED_AIM: f64 = 0.8;

pub(crate) async fn measure(place: &Place, arguments: &Arguments, report: &mut Report) -> Result<()> {
    let node = Node::start(place, "local", "bench-local", &["mesh.enabled=false"]).await?;
    let component = counter::register(&node.client).await?;
    for agent in 0..MOST {
        counter::spawn(&node.client, component, &name(agent)).await?;
    }
    let raw = Arc::new(Raw::open(&place.directory("raw"), MOST).await?);
    let (process, client) = served::start(place, MOST).await?;

    report.races("Local execute with a durable write of state (mutating calls of one agent are serial, on both sides)");
    let tallies: [Arc<Tally>; 3] = Default::default();
    for (callers, own) in ROWS {
        let [ours, alone] = sides(&node, &raw, &tallies, own);
        let behind = through(&client, process.id(), &tallies[2], own, served::name);
        let rounds = take_turns(&[ours, alone, behind], callers, arguments.pace()).await?;
        let what = format!("socket, {}", agents(own));
        report.race("local", &what, callers, &rounds, (1, "raw parts"), Some(AIM));
        report.race("local", &what, callers, &rounds, (2, "raw parts behind HTTP"), Some(SERVED_AIM));
    }
    tallies[0].check("socket")?;
    tallies[1].check("raw parts")?;
    tallies[2].check("raw parts behind HTTP")?;
    node.stop().await
}

fn sides(node: &Node, raw: &Arc<Raw>, tallies: &[Arc<Tally>; 3], own: bool) -> [Side; 2] {
    let (raw, theirs) = (Arc::clone(raw), Arc::clone(&tallies[1]));
    let raw_parts: Call = Arc::new(move |caller| {
        let (raw, tally, agent) = (Arc::clone(&raw), Arc::clone(&theirs), if own { caller } else { 0 });
        async move {
            tally.take(agent, counter::counted(&raw.count(agent, counter::PARAMS).await?)?);
            Ok(())
        }
        .boxed()
    });
    let ours = through(&node.client, node.process.id(), &tallies[0], own, name);
    [ours, Side { call: raw_parts, processes: Vec::new() }]
}

/// Calls through a socket.
fn through(client: &Client, process: u32, tally: &Arc<Tally>, own: bool, name: fn(usize) -> String) -> Side {
    let (client, tally) = (client.clone(), Arc::clone(tally));
    let call: Call = Arc::new(move |caller| {
        let (client, tally, agent) = (client.clone(), Arc::clone(&tally), if own { caller } else { 0 });
        async move {
            tally.take(agent, counter::count(&client, &name(agent)).await?);
            Ok(())
        }
        .boxed()
    });
    Side { call, processes: vec![process] }
}

fn name(agent: usize) -> String {
    format!("agent-{agent}")
}

/// Whose calls they are, for the table.
pub(crate) fn agents(own: bool) -> &'static str {
    if own { "an agent for each caller" } else { "one agent for all" }
}
