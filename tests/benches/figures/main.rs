//! Figures, each beside a yardstick of the same run, because a figure alone says more of the machine than of us.
//!
//! ```text
//! main ─► kernel   execute in this process        | wasmtime alone: an instance, the call
//!      ─► agents   10,000 of them, a neighbour that loops | the same node with few, without it
//!      ─► snapshot a state, and again after a change  | the first of it; a GB of state
//!      ─► agreements what they add to a call   | the same commit without, the signature alone
//!      ─► trace    a log that grows, and proofs   | the same of 1,000 entries
//!      ─► local    execute through the socket     | the raw parts (sandbox, group commit) in this process, and behind HTTP
//!      ─► remote   execute on another node        | NATS request/reply to the same raw parts
//!      ─► rpc      requests of the mesh alone      | NATS request/reply, raw QUIC
//!      ─► hostile  honest calls beside attackers | the same calls in peace
//!      ─► scale    50, 200, 500 nodes in this process
//!      ─► memory   idle node, gateway, 1,000 agents
//!      ─► start    spawn to first answer           (both beside nats-server)
//!      ─► report   a table on stdout, JSON in target/bench.json
//! ```
//! Sides take turns (A B A B …) and the ratio is the median of the rounds' ratios: what else the machine does hits both.
//! Nothing here fails for being slow; it fails where a call fails or counts wrong.

mod agents;
mod agreements;
mod arguments;
mod counter;
mod hostile;
mod kernel;
mod local;
mod measure;
mod memory;
mod nats;
mod node;
mod place;
mod proc;
mod quic;
mod raw;
mod remote;
mod report;
mod rpc;
mod scale;
mod served;
mod snapshot;
mod start;
mod trace;

use std::process::ExitCode;

use anyhow::Result;

use crate::{arguments::Arguments, place::Place, report::Report};

#[tokio::main]
async fn main() -> Result<ExitCode> {
    // Both of rustls' providers are linked: say which one counts.
    let _ = quinn::rustls::crypto::ring::default_provider().install_default();
    let arguments = match Arguments::parse(std::env::args().skip(1))? {
        arguments::Wanted::Nothing => return Ok(ExitCode::SUCCESS),
        arguments::Wanted::Responder { url, directory, agents } => {
            nats::respond(&url, &directory, agents).await?;
            return Ok(ExitCode::SUCCESS);
        }
        arguments::Wanted::Served { socket, directory, agents } => {
            served::serve(&socket, &directory, agents).await?;
            return Ok(ExitCode::SUCCESS);
        }
        arguments::Wanted::Echo => {
            rpc::echo().await?;
            return Ok(ExitCode::SUCCESS);
        }
        arguments::Wanted::Figures(arguments) => arguments,
    };
    tokio::select! {
        measured = run(&arguments) => measured.map(|()| ExitCode::SUCCESS),
        // Returning drops, and so ends, every process, and removes the directories.
        _ = tokio::signal::ctrl_c() => Ok(ExitCode::FAILURE),
    }
}

async fn run(arguments: &Arguments) -> Result<()> {
    let place = Place::new()?;
    let mut report = Report::new(arguments.quick);
    // First what is idle: the caches of the disk and the processor are as cold as they get.
    if arguments.wants("start") {
        start::measure(&place, arguments, &mut report).await?;
    }
    if arguments.wants("memory") {
        memory::measure(&place, arguments, &mut report).await?;
    }
    if arguments.wants("kernel") {
        kernel::measure(&place, arguments, &mut report).await?;
    }
    if arguments.wants("agents") {
        agents::measure(&place, arguments, &mut report).await?;
    }
    if arguments.wants("snapshot") {
        snapshot::measure(&place, arguments, &mut report).await?;
    }
    if arguments.wants("agreements") {
        agreements::measure(&place, arguments, &mut report).await?;
    }
    if arguments.wants("trace") {
        trace::measure(&place, arguments, &mut report).await?;
    }
    if arguments.wants("local") {
        local::measure(&place, arguments, &mut report).await?;
    }
    if arguments.wants("remote") {
        remote::measure(&place, arguments, &mut report).await?;
    }
    if arguments.wants("rpc") {
        rpc::measure(&place, arguments, &mut report).await?;
    }
    if arguments.wants("hostile") {
        hostile::measure(&place, arguments, &mut report).await?;
    }
    if arguments.wants("scale") {
        scale::measure(arguments, &mut report).await?;
    }
    report.finish(&arguments.json)
}
