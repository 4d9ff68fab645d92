//! The mesh, from a user's side.

use std::time::{Duration, Instant};

use axum::{Extension, extract::State};
use protocol::{
    Code, NodeId, Problem,
    api::{Discovered, Join, Joined, List, Peer, Pong},
};
use serde::Deserialize;

use super::{
    Api,
    reply::{Failure, Json, Path, Query},
    require_owner,
};
use crate::node::{Caller, discover::Via};

/// How long one address is tried while the user waits; the daemon goes on trying afterwards.
const JOIN_PATIENCE: Duration = Duration::from_secs(10);
/// Addresses in one request.
const MAX_ADDRESSES: usize = 32;

pub(super) async fn join(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Json(join): Json<Join>,
) -> Result<Json<List<Joined>>, Failure> {
    require_owner(&api, &caller)?;
    if join.addresses.is_empty() || join.addresses.len() > MAX_ADDRESSES {
        return Err(Problem::new(Code::InvalidRequest, format!("name 1 to {MAX_ADDRESSES} addresses")).into());
    }
    Ok(Json(api.node.join(&join.addresses, JOIN_PATIENCE).await?.into()))
}

pub(super) async fn peers(State(api): State<Api>) -> Result<Json<List<Peer>>, Failure> {
    Ok(Json(api.node.mesh()?.peers().into()))
}

pub(super) async fn ping(State(api): State<Api>, Path(node): Path<String>) -> Result<Json<Pong>, Failure> {
    let node_id: NodeId = node.parse().map_err(|error: protocol::key::Error| Problem::new(Code::InvalidRequest, error.to_string()))?;
    let begun = Instant::now();
    let rtt = api.node.mesh()?.ping(node_id).await.map_err(Problem::from)?;
    tracing::debug!(%node_id, took = ?begun.elapsed(), "pinged");
    Ok(Json(Pong { node_id, rtt_us: u64::try_from(rtt.as_micros()).unwrap_or(u64::MAX) }))
}

#[derive(Debug, Deserialize)]
pub(super) struct Discover {
    capability: String,
    /// `kademlia` looks nowhere else.
    via: Option<String>,
    timeout_ms: Option<u64>,
}

pub(super) async fn discover(State(api): State<Api>, Query(query): Query<Discover>) -> Result<Json<List<Discovered>>, Failure> {
    let via = match query.via.as_deref() {
        None => Via::Any,
        Some("kademlia") => Via::Kademlia,
        Some(_) => return Err(Problem::new(Code::InvalidRequest, "'via' is 'kademlia', or left out").into()),
    };
    if query.capability.is_empty() || query.capability.len() > 128 {
        return Err(Problem::new(Code::InvalidRequest, "a capability has 1 to 128 bytes: PLUGIN.METHOD").into());
    }
    let timeout = Duration::from_millis(query.timeout_ms.unwrap_or(10_000).clamp(100, 60_000));
    Ok(Json(api.node.discover(&query.capability, via, timeout).await?.into()))
}
