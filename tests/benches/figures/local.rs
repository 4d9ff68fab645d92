//! Local execute: through the socket, against the raw parts in this process.

use std::sync::Arc;

use anyhow::Result;
use futures::FutureExt as _;

use crate::{
    arguments::Arguments,
    counter::{self, Tally},
    measure::{Call, Side, take_turns},
    node::Node,
    place::Place,
    raw::Raw,
    report::Report,
};

/// The most callers, and so the agents: mutating calls of one agent are serial by design.
pub(crate) const MOST: usize = 64;
/// Rows: callers, and whether each has an agent of its own.
pub(crate) const ROWS: [(usize, bool); 4] = [(1, true), (16, true), (MOST, true), (MOST, false)];
/// What the ratio should be.
const AIM: f64 = 0.5;

pub(crate) async fn measure(place: &Place, arguments: &Arguments, report: &mut Report) -> Result<()> {
    let node = Node::start(place, "local", "bench-local", &["mesh.enabled=false"]).await?;
    let component = counter::register(&node.client).await?;
    for agent in 0..MOST {
        counter::spawn(&node.client, component, &name(agent)).await?;
    }
    let raw = Arc::new(Raw::open(&place.directory("raw"), MOST).await?);

    report.races("Local execute with a durable write of state (mutating calls of one agent are serial, on both sides)");
    let tallies = [Arc::new(Tally::default()), Arc::new(Tally::default())];
    for (callers, own) in ROWS {
        let rounds = take_turns(&sides(&node, &raw, &tallies, own), callers, arguments.pace()).await?;
        let what = format!("socket, {}", agents(own));
        report.race("local", &what, callers, &rounds, (1, "raw parts"), Some(AIM));
    }
    tallies[0].check("socket")?;
    tallies[1].check("raw parts")?;
    node.stop().await
}

fn sides(node: &Node, raw: &Arc<Raw>, tallies: &[Arc<Tally>; 2], own: bool) -> [Side; 2] {
    let (client, raw) = (node.client.clone(), Arc::clone(raw));
    let [ours, theirs] = tallies.clone();
    let through_socket: Call = Arc::new(move |caller| {
        let (client, tally, agent) = (client.clone(), Arc::clone(&ours), if own { caller } else { 0 });
        async move {
            tally.take(agent, counter::count(&client, &name(agent)).await?);
            Ok(())
        }
        .boxed()
    });
    let raw_parts: Call = Arc::new(move |caller| {
        let (raw, tally, agent) = (Arc::clone(&raw), Arc::clone(&theirs), if own { caller } else { 0 });
        async move {
            tally.take(agent, counter::counted(&raw.count(agent, counter::PARAMS).await?)?);
            Ok(())
        }
        .boxed()
    });
    [Side { call: through_socket, processes: vec![node.process.id()] }, Side { call: raw_parts, processes: Vec::new() }]
}

fn name(agent: usize) -> String {
    format!("agent-{agent}")
}

/// Whose calls they are, for the table.
pub(crate) fn agents(own: bool) -> &'static str {
    if own { "an agent for each caller" } else { "one agent for all" }
}
