//! Remote execute: from one node's socket to an agent of another node, against NATS request/reply to the raw parts.
//!
//! ```text
//! this process ─► node a ══ mesh, agreement, receipt ══► node b
//! this process ─► nats-server ─────────────────────────► responder
//! ```

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Result, bail, ensure};
use futures::FutureExt as _;
use protocol::{
    AgentId, AgreementId, Code,
    agreement::Status,
    api::{AgreementState, List, Peer, Propose},
};

use crate::{
    arguments::Arguments,
    counter::{self, Tally},
    local::{MOST, ROWS, agents},
    measure::{Call, Side, take_turns},
    nats::{Requester, Server},
    node::Node,
    place::Place,
    report::Report,
};

const MESH: &str = "bench-remote";
/// What the ratio should be.
const AIM: f64 = 0.5;
/// How long nodes may take to meet, and adverts to arrive.
const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) async fn measure(place: &Place, arguments: &Arguments, report: &mut Report) -> Result<()> {
    // One agreement for each agent, all of one consumer.
    let unbounded = ["agreements.budget.agreements=0", "agreements.budget.agreements_per_day=0", "agreements.budget.unacknowledged=0"];
    let settings = [&["agreements.accept=auto", "agreements.budget.all_unacknowledged=0"][..], &unbounded].concat();
    let provider = Node::start(place, "b", MESH, &settings).await?;
    let component = counter::register(&provider.client).await?;
    let mut agent_ids = Vec::new();
    for agent in 0..MOST {
        agent_ids.push(counter::spawn(&provider.client, component, &format!("agent-{agent}")).await?.id);
    }
    let bootstrap = format!("mesh.bootstrap_peers={}", provider.address().await?);
    let consumer = Node::start(place, "a", MESH, &[&bootstrap]).await?;
    let transport = met(&consumer).await?;
    for agent in &agent_ids {
        agree(&consumer, *agent).await?;
    }
    let server = Server::start(place).await?;
    let (responder, requester) = server.responder(place, MOST).await?;

    report.races(&format!("Remote execute with a durable write of state, under an agreement, with receipts (mesh over {transport})"));
    let agent_ids: Arc<[AgentId]> = agent_ids.into();
    let tallies = [Arc::new(Tally::default()), Arc::new(Tally::default())];
    let mesh = [consumer.process.id(), provider.process.id()];
    let nats = [server.process.id(), responder.id()];
    for (callers, own) in ROWS {
        let [over_mesh, over_nats, echo] = calls(&consumer, &agent_ids, &requester, &tallies, own);
        let side = |call, processes: [u32; 2]| Side { call, processes: processes.into() };
        let rounds = take_turns(&[side(over_mesh, mesh), side(over_nats, nats), side(echo, nats)], callers, arguments.pace()).await?;
        let what = format!("mesh, {}", agents(own));
        report.race("remote", &what, callers, &rounds, (1, "NATS request/reply to the raw parts"), Some(AIM));
        report.race("remote", &what, callers, &rounds, (2, "NATS echo (nothing run, nothing kept)"), None);
    }
    tallies[0].check("mesh")?;
    tallies[1].check("NATS")?;
    drop((responder, server));
    consumer.stop().await?;
    provider.stop().await
}

/// Waits until the node has a peer; says by which transport.
pub(crate) async fn met(node: &Node) -> Result<String> {
    let begun = Instant::now();
    while begun.elapsed() < PATIENCE {
        let peers: List<Peer> = node.client.get("/v1/peers").await?;
        if let Some(peer) = peers.items.into_iter().next() {
            return Ok(peer.transport);
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    bail!("the nodes did not meet within {PATIENCE:?}")
}

/// An active agreement on an agent, with limits that no run reaches.
pub(crate) async fn agree(consumer: &Node, agent: AgentId) -> Result<AgreementId> {
    let parameters = [("calls", "1000000000/1d"), ("fuel", "9007199254740991/1d"), ("wall_ms", "9007199254740/1d")];
    let parameters = parameters.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
    let propose = Propose { agent: agent.to_string(), node: None, methods: Vec::new(), template: "bulk".into(), parameters };
    let begun = Instant::now();
    loop {
        match consumer.client.post::<_, AgreementState>("/v1/agreements", &propose).await {
            Ok(state) => {
                ensure!(state.status == Status::Active, "the agreement is {}", state.status);
                return Ok(state.terms.id);
            }
            // The provider's newest advert may be on its way.
            Err(problem) if problem.code == Code::AgentNotFound && begun.elapsed() < PATIENCE => {
                tokio::time::sleep(Duration::from_millis(20)).await
            }
            Err(problem) => return Err(problem.into()),
        }
    }
}

fn calls(consumer: &Node, agent_ids: &Arc<[AgentId]>, requester: &Requester, tallies: &[Arc<Tally>; 2], own: bool) -> [Call; 3] {
    let (client, agent_ids) = (consumer.client.clone(), Arc::clone(agent_ids));
    let [ours, theirs] = tallies.clone();
    let over_mesh: Call = Arc::new(move |caller| {
        let (client, tally, agent) = (client.clone(), Arc::clone(&ours), if own { caller } else { 0 });
        let id = agent_ids[agent];
        async move {
            tally.take(agent, counter::count(&client, &id.to_string()).await?);
            Ok(())
        }
        .boxed()
    });
    let counting = requester.clone();
    let over_nats: Call = Arc::new(move |caller| {
        let (requester, tally, agent) = (counting.clone(), Arc::clone(&theirs), if own { caller } else { 0 });
        async move {
            tally.take(agent, requester.count(agent).await?);
            Ok(())
        }
        .boxed()
    });
    let echoing = requester.clone();
    let echo: Call = Arc::new(move |_| {
        let requester = echoing.clone();
        async move { requester.echo().await }.boxed()
    });
    [over_mesh, over_nats, echo]
}
