//! `mcp-gateway`: the thin HTTP gateway of a node.
//!
//! ```text
//! client ──HTTP──> server ─> gateway: host, limits ─> auth: whose key? ─> forward ──Unix socket──> mcpd
//!                                `─ /healthz, /readyz
//! ```
//!
//! It holds no business logic: it authenticates, bounds, and passes on. The daemon authorizes every call.

mod arguments;
mod auth;
mod body;
mod cache;
mod error;
mod forward;
mod gateway;
mod hosts;
mod keys;
mod paths;
mod reply;
mod routes;
mod server;
mod signals;
mod visits;

use std::{
    io::{self, Write as _},
    process::ExitCode,
};

use clap::Parser as _;
use protocol::{Client, Problem, error::Exit};
use tokio_util::sync::CancellationToken;

use crate::{arguments::Arguments, error::Error, gateway::Gateway, hosts::Hosts, keys::StaticKeys};

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    arguments.start_log();
    // Forwarding takes little: one thread serves what one node can answer, in a third of the memory.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    match runtime.map_err(Error::Runtime).and_then(|runtime| runtime.block_on(run(&arguments))) {
        Ok(exit) => ExitCode::from(exit as u8),
        Err(error) => {
            let problem = Problem::from(error);
            let hint = problem.hint.map_or_else(String::new, |hint| format!("hint: {hint}\n"));
            // Nothing can be said about a stderr that can't be written to.
            let _ = write!(io::stderr(), "error: {}\n{hint}", problem.detail);
            ExitCode::from(problem.code.exit() as u8)
        }
    }
}

async fn run(arguments: &Arguments) -> Result<Exit, Error> {
    let keys = StaticKeys::load()?;
    let mut signals = signals::listen().map_err(Error::Runtime)?;
    let (listener, address) = server::bind(arguments.listen).await?;
    let client = Client::new(paths::socket(arguments.socket.as_deref(), arguments.data_dir.as_deref()));
    tracing::info!(%address, socket = %client.socket().display(), static_keys = keys.len(), "serving");
    if let Some(exposed) = server::exposure(address) {
        tracing::warn!("{exposed}");
    }
    let router = gateway::router(Gateway::new(client, keys, Hosts::new(address.ip(), &arguments.allow_host)));
    server::announce(address, arguments.json);

    let stop = CancellationToken::new();
    let serving = server::serve(listener, router, stop.clone());
    tokio::pin!(serving);
    tokio::select! {
        () = &mut serving => return Ok(Exit::Success),
        () = signals.next() => stop.cancel(),
    }
    tracing::info!("stopping: answering what is under way");
    tokio::select! {
        () = signals.next() => Ok(Exit::Failure),
        () = serving => Ok(Exit::Success),
    }
}
