//! Who and how this node is.

use axum::{Extension, extract::State};
use protocol::api::{Identity, List, NodeStatus, Setting};

use super::{
    Api,
    reply::{Failure, Json},
    require_owner,
};
use crate::node::Caller;

pub(super) async fn status(State(api): State<Api>) -> Result<Json<NodeStatus>, Failure> {
    let node = &api.node;
    Ok(Json(NodeStatus {
        node_id: node.node_id,
        ready: !node.stopping.is_cancelled(),
        roles: node.roles(),
        peers: node.mesh().map(|mesh| mesh.peers().len()).unwrap_or_default(),
        agents: node.agents.count(),
        uptime_s: node.started.elapsed().as_secs(),
        version: env!("CARGO_PKG_VERSION").into(),
        trace_size: node.trace.size().await?,
        store_damaged: node.journal.store().damaged().len() as u64,
    }))
}

pub(super) async fn id(State(api): State<Api>) -> Json<Identity> {
    let node = &api.node;
    let addresses = node.mesh().map(mesh::Mesh::addresses).unwrap_or_default();
    Json(Identity { node_id: node.node_id, mesh_id: node.mesh_id.clone(), owner: node.owner, addresses })
}

pub(super) async fn config(State(api): State<Api>, Extension(caller): Extension<Caller>) -> Result<Json<List<Setting>>, Failure> {
    require_owner(&api, &caller)?;
    Ok(Json(api.settings.as_ref().clone().into()))
}
