//! Agents: spawn, list, execute, terminate.

use std::time::Duration;

use axum::{Extension, extract::State, http::HeaderMap};
use bytes::Bytes;
use protocol::{
    Code, Problem, SnapshotId,
    api::{
        Agent, Execute, Executed, IDEMPOTENCY_HEADER, Import, List, Move, Moved, Recover, Replica, Restore, Rollback, Schedule,
        SetReplicas, SnapshotOutline, Spawn, StateOutline, TakeSnapshot, Upgrade,
    },
    document::Sealed,
    snapshot::Snapshot,
    wire::MAX_PARAMS,
};

use super::{
    Api,
    reply::{Failure, Json, Path},
    require_owner,
};
use crate::node::{Caller, execute::Invocation};

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
    let found = api.node.agents.find(&agent).ok_or_else(|| api.node.absent(&agent))?;
    Ok(Json(found.outline.clone()))
}

pub(super) async fn state(State(api): State<Api>, Path(agent): Path<String>) -> Result<Json<StateOutline>, Failure> {
    api.node.held(&agent).await.map(Json).map_err(Failure)
}

pub(super) async fn terminate(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Path(agent): Path<String>,
) -> Result<Json<Agent>, Failure> {
    require_owner(&api, &caller)?;
    let node = api.node.clone();
    Ok(Json(finished(&api, async move { node.terminate(&caller, &agent).await }).await?))
}

pub(super) async fn take_snapshot(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Path(agent): Path<String>,
    Json(take): Json<TakeSnapshot>,
) -> Result<Json<SnapshotOutline>, Failure> {
    require_owner(&api, &caller)?;
    let node = api.node.clone();
    Ok(Json(finished(&api, async move { node.take_snapshot(&caller, &agent, take.keep).await }).await?))
}

pub(super) async fn snapshots(State(api): State<Api>, Path(agent): Path<String>) -> Result<Json<List<SnapshotOutline>>, Failure> {
    Ok(Json(api.node.snapshots(&agent).await?.into()))
}

pub(super) async fn snapshot(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Path((agent, snapshot)): Path<(String, SnapshotId)>,
) -> Result<Json<Sealed<Snapshot>>, Failure> {
    require_owner(&api, &caller)?;
    Ok(Json(api.node.signed_snapshot(&agent, snapshot).await?))
}

/// Deletes one snapshot, whatever it is kept for.
pub(super) async fn discard(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Path((agent, snapshot)): Path<(String, SnapshotId)>,
) -> Result<Json<()>, Failure> {
    require_owner(&api, &caller)?;
    let node = api.node.clone();
    Ok(Json(finished(&api, async move { node.discard(&caller, &agent, snapshot).await }).await?))
}

/// The same, to be taken elsewhere.
pub(super) async fn export(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Path((agent, snapshot)): Path<(String, SnapshotId)>,
) -> Result<Json<Sealed<Snapshot>>, Failure> {
    require_owner(&api, &caller)?;
    Ok(Json(api.node.export(&caller, &agent, snapshot).await?))
}

pub(super) async fn import(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Json(import): Json<Import>,
) -> Result<Json<Agent>, Failure> {
    require_owner(&api, &caller)?;
    let node = api.node.clone();
    let agent = finished(&api, async move { node.import(&caller, import).await }).await?;
    api.node.publish_soon();
    Ok(Json(agent))
}

pub(super) async fn restore(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Json(restore): Json<Restore>,
) -> Result<Json<Agent>, Failure> {
    require_owner(&api, &caller)?;
    let node = api.node.clone();
    Ok(Json(finished(&api, async move { node.restore(&caller, restore).await }).await?))
}

pub(super) async fn move_away(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Path(agent): Path<String>,
    Json(Move { to }): Json<Move>,
) -> Result<Json<Moved>, Failure> {
    require_owner(&api, &caller)?;
    let node = api.node.clone();
    let moved = async move {
        match to {
            Some(to) => node.move_agent(&caller, &agent, to).await,
            None => node.stay(&caller, &agent).await,
        }
    };
    Ok(Json(finished(&api, moved).await?))
}

pub(super) async fn replicas(State(api): State<Api>, Path(agent): Path<String>) -> Result<Json<List<Replica>>, Failure> {
    Ok(Json(api.node.replicas_of(&agent)?.into()))
}

pub(super) async fn set_replicas(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Path(agent): Path<String>,
    Json(set): Json<SetReplicas>,
) -> Result<Json<Agent>, Failure> {
    require_owner(&api, &caller)?;
    let node = api.node.clone();
    Ok(Json(finished(&api, async move { node.set_replicas(&caller, &agent, set.replicas).await }).await?))
}

pub(super) async fn recover(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Path(agent): Path<String>,
    Json(recover): Json<Recover>,
) -> Result<Json<SnapshotOutline>, Failure> {
    require_owner(&api, &caller)?;
    let node = api.node.clone();
    Ok(Json(finished(&api, async move { node.recover(&caller, &agent, recover.snapshot).await }).await?))
}

pub(super) async fn upgrade(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Path(agent): Path<String>,
    Json(upgrade): Json<Upgrade>,
) -> Result<Json<Agent>, Failure> {
    require_owner(&api, &caller)?;
    let node = api.node.clone();
    Ok(Json(finished(&api, async move { node.upgrade(&caller, &agent, upgrade).await }).await?))
}

pub(super) async fn rollback(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Path(agent): Path<String>,
    Json(rollback): Json<Rollback>,
) -> Result<Json<Agent>, Failure> {
    require_owner(&api, &caller)?;
    let node = api.node.clone();
    Ok(Json(finished(&api, async move { node.rollback(&caller, &agent, rollback.plugin.as_deref()).await }).await?))
}

pub(super) async fn attach(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Path(agent): Path<String>,
    Json(attach): Json<Upgrade>,
) -> Result<Json<Agent>, Failure> {
    require_owner(&api, &caller)?;
    let node = api.node.clone();
    Ok(Json(finished(&api, async move { node.attach(&caller, &agent, attach).await }).await?))
}

pub(super) async fn detach(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Path((agent, plugin)): Path<(String, String)>,
) -> Result<Json<Agent>, Failure> {
    require_owner(&api, &caller)?;
    let node = api.node.clone();
    Ok(Json(finished(&api, async move { node.detach(&caller, &agent, &plugin).await }).await?))
}

pub(super) async fn schedule(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Path(agent): Path<String>,
    Json(schedule): Json<Schedule>,
) -> Result<Json<Agent>, Failure> {
    require_owner(&api, &caller)?;
    Ok(Json(api.node.set_schedule(&caller, &agent, Some(schedule)).await?))
}

pub(super) async fn unschedule(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Path(agent): Path<String>,
) -> Result<Json<Agent>, Failure> {
    require_owner(&api, &caller)?;
    Ok(Json(api.node.set_schedule(&caller, &agent, None).await?))
}

pub(super) async fn stop(state: State<Api>, caller: Extension<Caller>, agent: Path<String>) -> Result<Json<Agent>, Failure> {
    set_stopped(state, caller, agent, true).await
}

pub(super) async fn start(state: State<Api>, caller: Extension<Caller>, agent: Path<String>) -> Result<Json<Agent>, Failure> {
    set_stopped(state, caller, agent, false).await
}

async fn set_stopped(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Path(agent): Path<String>,
    stopped: bool,
) -> Result<Json<Agent>, Failure> {
    require_owner(&api, &caller)?;
    let node = api.node.clone();
    Ok(Json(finished(&api, async move { node.set_stopped(&caller, &agent, stopped).await }).await?))
}

/// Work that is finished whether its caller waits for it or not.
pub(super) async fn finished<T: Send + 'static>(
    api: &Api,
    work: impl Future<Output = Result<T, Problem>> + Send + 'static,
) -> Result<T, Problem> {
    api.node.to_the_end(work).await
}

pub(super) async fn execute(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Path(agent): Path<String>,
    headers: HeaderMap,
    Json(execute): Json<Execute>,
) -> Result<Json<Executed>, Failure> {
    require_owner(&api, &caller)?;
    let params = Bytes::from(execute.params.get().to_owned());
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
    let Execute { method, agreement, .. } = execute;
    let invocation = Invocation { agent, method, params, agreement, idempotency_key, timeout, chain: Vec::new() };
    Ok(Json(api.node.execute(&caller, invocation).await?))
}
