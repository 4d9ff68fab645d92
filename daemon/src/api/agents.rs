//! Agents: spawn, list, execute, terminate.

use std::time::Duration;

use axum::{Extension, extract::State, http::HeaderMap};
use bytes::Bytes;
use protocol::{
    Code, Problem,
    api::{Agent, Execute, Executed, IDEMPOTENCY_HEADER, List, Spawn},
    wire::MAX_PARAMS,
};

use super::{
    Api,
    reply::{Failure, Json, Path},
    require_owner,
};
use crate::node::{Caller, agents::not_here, execute::Invocation};

/// How long a call is waited for when its caller doesn't say, and at most.
const TIMEOUT: Duration = Duration::from_secs(60);
const MAX_TIMEOUT: Duration = Duration::from_secs(600);

pub(super) async fn spawn(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Json(spawn): Json<Spawn>,
) -> Result<Json<Agent>, Failure> {
    require_owner(&api, &caller)?;
    let agent = api.node.agents.spawn(&caller, spawn, &api.node.plugins).await?;
    api.node.publish_soon();
    Ok(Json(agent))
}

pub(super) async fn list(State(api): State<Api>) -> Json<List<Agent>> {
    Json(api.node.agents.all().iter().map(|agent| agent.outline.clone()).collect::<Vec<_>>().into())
}

pub(super) async fn show(State(api): State<Api>, Path(agent): Path<String>) -> Result<Json<Agent>, Failure> {
    let found = api.node.agents.find(&agent).ok_or_else(|| not_here(&agent))?;
    Ok(Json(found.outline.clone()))
}

pub(super) async fn terminate(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Path(agent): Path<String>,
) -> Result<Json<Agent>, Failure> {
    require_owner(&api, &caller)?;
    let agent = api.node.agents.terminate(&caller, &agent).await?;
    api.node.publish_soon();
    Ok(Json(agent))
}

pub(super) async fn execute(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Path(agent): Path<String>,
    headers: HeaderMap,
    Json(execute): Json<Execute>,
) -> Result<Json<Executed>, Failure> {
    require_owner(&api, &caller)?;
    let params = Bytes::from(String::from(Box::<str>::from(execute.params)));
    if params.len() > MAX_PARAMS {
        return Err(
            Problem::new(Code::TooLarge, format!("the parameters take {} bytes; at most {MAX_PARAMS} are taken", params.len())).into()
        );
    }
    let idempotency_key = match headers.get(IDEMPOTENCY_HEADER).map(|value| value.to_str()) {
        None => None,
        Some(Ok(key)) => Some(key.to_owned()),
        Some(Err(_)) => return Err(Problem::new(Code::InvalidRequest, "an idempotency key is plain ASCII").into()),
    };
    let timeout = execute.timeout_ms.map_or(TIMEOUT, |ms| Duration::from_millis(ms.into())).min(MAX_TIMEOUT);
    let invocation = Invocation { agent, method: execute.method, params, agreement: execute.agreement, idempotency_key, timeout };
    Ok(Json(api.node.execute(&caller, invocation).await?))
}
