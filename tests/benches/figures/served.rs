//! The yardstick of the socket: the raw parts behind HTTP, in a process of their own. What it lacks of a node is what a node
//! does beyond: who calls, what they may, the trace, limits, logs.

use std::{path::Path, sync::Arc, time::Instant};

use anyhow::Result;
use axum::{
    Json, Router,
    extract::{Path as Named, State},
    http::StatusCode,
    routing::post,
};
use protocol::{Client, OperationId, Usage, api};
use serde_json::value::RawValue;
use tests::Process;
use tokio::net::UnixListener;

use crate::{counter, node::check, place::Place, raw::Raw};

/// Starts it with so many agents, and waits until it answers.
pub(crate) async fn start(place: &Place, agents: usize) -> Result<(Process, Client)> {
    let socket = place.socket("served");
    let mut command = std::process::Command::new(std::env::current_exe()?);
    command.arg("--served").arg(&socket).arg(place.directory("served")).arg(agents.to_string());
    let mut process = Process::start("served", command, place.logs());
    let begun = Instant::now();
    while !socket.exists() {
        check(&mut process, begun)?;
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    Ok((process, Client::new(socket)))
}

/// The name of an agent in it.
pub(crate) fn name(agent: usize) -> String {
    agent.to_string()
}

/// Its process: answers until it is killed.
pub(crate) async fn serve(socket: &Path, directory: &Path, agents: usize) -> Result<()> {
    let raw = Arc::new(Raw::open(directory, agents).await?);
    let router = Router::new().route("/v1/agents/{agent}/execute", post(execute)).with_state(raw);
    Ok(axum::serve(UnixListener::bind(socket)?, router).await?)
}

async fn execute(
    State(raw): State<Arc<Raw>>,
    Named(agent): Named<usize>,
    Json(asked): Json<api::Execute>,
) -> Result<Json<api::Executed>, (StatusCode, String)> {
    let failed = |error: anyhow::Error| (StatusCode::INTERNAL_SERVER_ERROR, error.to_string());
    if asked.method != counter::METHOD {
        return Err((StatusCode::NOT_FOUND, asked.method));
    }
    let result = raw.count(agent, asked.params.get()).await.map_err(failed)?;
    let result = String::from_utf8(result).map_err(anyhow::Error::from).map_err(failed)?;
    let result = RawValue::from_string(result).map_err(anyhow::Error::from).map_err(failed)?;
    let usage = Usage { calls: 1, ..Usage::default() };
    Ok(Json(api::Executed { result, operation: OperationId::new(), usage, receipt: None }))
}
