//! The trace: entries, checkpoints, proofs.

use std::time::Duration;

use axum::{
    Extension,
    extract::State,
    http::header::CONTENT_TYPE,
    response::{IntoResponse as _, Response},
};
use protocol::{
    AgreementId, Code, Did, NodeId, OperationId, Problem, SignedDuration, Timestamp,
    api::{EventFilter, List, Proof, Prune, Pruning, SignedCheckpoint, TraceItem, TracePage, TraceVerified, WitnessedLog},
    entry::ConsistencyProof,
    tile::Tile,
    wire,
};
use serde::Deserialize;

use super::{
    Api,
    agents::finished,
    reply::{Failure, Json, Path, Query},
    require_owner,
};
use crate::node::{Caller, Wanted, check_filter};

/// Entries on one page when the caller doesn't say, and at most.
const PAGE: usize = 100;
const MAX_PAGE: usize = 1_000;
/// How long another node is waited for.
const PATIENCE: Duration = Duration::from_secs(15);

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Page {
    /// The name of an agent that lives here, or an id.
    agent: Option<String>,
    /// Actions, with commas.
    action: Option<String>,
    agreement: Option<AgreementId>,
    principal: Option<Did>,
    since: Option<Timestamp>,
    until: Option<Timestamp>,
    from: Option<u64>,
    limit: Option<usize>,
}

pub(super) async fn list(State(api): State<Api>, Query(page): Query<Page>) -> Result<Json<TracePage>, Failure> {
    let Page { agent, action, agreement, principal, since, until, from, limit } = page;
    // One that is gone is known by its id alone.
    let id = |name: String| {
        name.parse().or_else(|_| api.node.agents.find(&name).map(|agent| agent.outline.id).ok_or_else(|| api.node.agents.missing(&name)))
    };
    let agent = agent.map(id).transpose()?;
    let actions = action.unwrap_or_default().split(',').filter(|action| !action.is_empty()).map(str::to_owned).collect();
    check_filter(&EventFilter { actions: Vec::clone(&actions), ..EventFilter::default() })?;
    let wanted = Wanted { agent, actions, agreement, principal, since, until };
    Ok(Json(api.node.trace.search(&wanted, from.unwrap_or_default(), limit.unwrap_or(PAGE).clamp(1, MAX_PAGE)).await?))
}

pub(super) async fn show(State(api): State<Api>, Path(entry): Path<String>) -> Result<Json<TraceItem>, Failure> {
    if let Ok(index) = entry.parse::<u64>() {
        return Ok(Json(api.node.trace.at(index).await?));
    }
    Ok(Json(api.node.trace.entry(&operation(&entry)?).await?))
}

#[derive(Debug, Deserialize)]
pub(super) struct Prove {
    operation: String,
    /// The node that ran it, if it isn't this one.
    node: Option<NodeId>,
}

pub(super) async fn prove(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Query(prove): Query<Prove>,
) -> Result<Json<Proof>, Failure> {
    let operation = operation(&prove.operation)?;
    let inclusion = match prove.node.filter(|node| *node != api.node.node_id) {
        None => api.node.trace.prove(&operation).await?,
        Some(node) => match api.node.mesh()?.request(node, wire::Request::Prove(operation), &caller.request_id, PATIENCE).await? {
            wire::Response::Proof(proof) => proof,
            _ => return Err(Problem::new(Code::Internal, format!("node {node} answered what was not asked")).into()),
        },
    };
    Ok(Json(Proof { inclusion }))
}

#[derive(Debug, Deserialize)]
pub(super) struct Which {
    /// The newest one that a peer has cosigned.
    #[serde(default)]
    cosigned: bool,
}

pub(super) async fn checkpoint(State(api): State<Api>, Query(which): Query<Which>) -> Result<Json<SignedCheckpoint>, Failure> {
    let newest = api.node.trace.checkpoint().await?;
    Ok(Json(if which.cosigned { api.node.witness.newest_cosigned()? } else { api.node.witness.with_cosignatures(newest) }))
}

pub(super) async fn witnessed(State(api): State<Api>) -> Json<List<WitnessedLog>> {
    Json(List { items: api.node.witness.logs().await, next: None })
}

pub(super) async fn forget_witnessed(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Path(node): Path<NodeId>,
) -> Result<Json<WitnessedLog>, Failure> {
    require_owner(&api, &caller)?;
    Ok(Json(api.node.witness.forget(&caller, node).await?))
}

#[derive(Debug, Deserialize)]
pub(super) struct Consistency {
    from: u64,
    to: Option<u64>,
}

/// Part of the log as <https://c2sp.org/tlog-tiles> lays it out: `checkpoint`, `tile/…`.
pub(super) async fn tiles(State(api): State<Api>, Path(path): Path<String>) -> Result<Response, Failure> {
    if path == "checkpoint" {
        let note = api.node.trace.checkpoint().await?.note;
        return Ok(([(CONTENT_TYPE, "text/plain; charset=utf-8")], note).into_response());
    }
    let tile = Tile::parse(&path)
        .map_err(|error| Problem::new(Code::InvalidRequest, format!("{:?} is {error}", path.chars().take(80).collect::<String>())))?;
    Ok(([(CONTENT_TYPE, "application/octet-stream")], api.node.trace.tile(tile).await?).into_response())
}

pub(super) async fn consistency(State(api): State<Api>, Query(range): Query<Consistency>) -> Result<Json<ConsistencyProof>, Failure> {
    Ok(Json(api.node.trace.consistency(range.from, range.to).await?))
}

pub(super) async fn verify(State(api): State<Api>) -> Result<Json<TraceVerified>, Failure> {
    Ok(Json(api.node.trace.verify().await?))
}

pub(super) async fn prune(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Json(prune): Json<Prune>,
) -> Result<Json<Pruning>, Failure> {
    require_owner(&api, &caller)?;
    let node = api.node.clone();
    let age = SignedDuration::from_secs(i64::try_from(prune.older_than_s).unwrap_or(i64::MAX));
    Ok(Json(finished(&api, async move { node.prune(&caller, age).await }).await?))
}

fn operation(text: &str) -> Result<OperationId, Problem> {
    text.parse().map_err(|_| {
        Problem::new(Code::InvalidRequest, format!("{:?} is not an operation's id (op_…)", text.chars().take(80).collect::<String>()))
    })
}
