//! Plugins and whom to trust for them.

use axum::{Extension, extract::State};
use protocol::{
    Code, Did, Digest, Problem,
    api::{FetchPlugin, List, Plugin, Publisher, RegisterPlugin, Revocation, Revoke, Trust},
    document::Sealed,
    manifest::Manifest,
};

use super::{
    Api,
    agents::finished,
    reply::{Body, Failure, Json, Path},
    require_owner,
};
use crate::node::Caller;

pub(super) async fn upload(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Path(digest): Path<Digest>,
    Body(body): Body,
) -> Result<Json<Digest>, Failure> {
    require_owner(&api, &caller)?;
    if !digest.matches(&body) {
        return Err(Problem::new(Code::BadSignature, format!("the body's digest is {}, not {digest}", Digest::blake3(&body))).into());
    }
    Ok(Json(api.node.plugins.blobs().put(body).await?))
}

pub(super) async fn download(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Path(digest): Path<Digest>,
) -> Result<Vec<u8>, Failure> {
    require_owner(&api, &caller)?;
    let missing = || Problem::new(Code::NotFound, format!("there is no content {digest} here"));
    Ok(api.node.plugins.blobs().get(&digest).await.map_err(Problem::from)?.ok_or_else(missing)?)
}

pub(super) async fn manifest(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Path(digest): Path<Digest>,
) -> Result<Json<Sealed<Manifest>>, Failure> {
    require_owner(&api, &caller)?;
    Ok(Json(api.node.plugins.manifest(&digest).await?))
}

pub(super) async fn register(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Json(body): Json<RegisterPlugin>,
) -> Result<Json<Plugin>, Failure> {
    require_owner(&api, &caller)?;
    Ok(Json(api.node.plugins.register(&caller, body.manifest).await?))
}

pub(super) async fn fetch(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Json(body): Json<FetchPlugin>,
) -> Result<Json<Plugin>, Failure> {
    require_owner(&api, &caller)?;
    let node = api.node.clone();
    // In a task of its own: what has arrived when the caller leaves is not for nothing.
    let fetched = api.node.tasks.spawn(async move { node.fetch_plugin(&caller, body.node, body.component).await });
    Ok(Json(fetched.await.map_err(|error| Problem::new(Code::Internal, format!("the transfer failed: {error}")))??))
}

pub(super) async fn list(State(api): State<Api>) -> Result<Json<List<Plugin>>, Failure> {
    Ok(Json(api.node.plugins.list().await?.into()))
}

pub(super) async fn show(State(api): State<Api>, Path(digest): Path<Digest>) -> Result<Json<Plugin>, Failure> {
    Ok(Json(api.node.plugins.get(&digest).await?))
}

pub(super) async fn remove(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Path(digest): Path<Digest>,
) -> Result<Json<()>, Failure> {
    require_owner(&api, &caller)?;
    Ok(Json(api.node.remove_plugin(&caller, &digest).await?))
}

pub(super) async fn revocations(State(api): State<Api>) -> Json<List<Revocation>> {
    Json(api.node.plugins.revoked().all().into())
}

pub(super) async fn revocation(State(api): State<Api>, Path(digest): Path<Digest>) -> Result<Json<Revocation>, Failure> {
    let none = || Problem::new(Code::NotFound, format!("plugin {digest} is not revoked on this node"));
    Ok(Json(api.node.plugins.revoked().get(&digest).ok_or_else(none)?))
}

pub(super) async fn revoke(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Path(digest): Path<Digest>,
    Json(revoke): Json<Revoke>,
) -> Result<Json<Revocation>, Failure> {
    require_owner(&api, &caller)?;
    let node = api.node.clone();
    let revocation = finished(&api, async move { node.plugins.revoked().revoke(&caller, digest, revoke.reason).await }).await?;
    api.node.publish_soon();
    Ok(Json(revocation))
}

pub(super) async fn unrevoke(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Path(digest): Path<Digest>,
) -> Result<Json<()>, Failure> {
    require_owner(&api, &caller)?;
    let node = api.node.clone();
    finished(&api, async move { node.plugins.revoked().unrevoke(&caller, digest).await }).await?;
    api.node.publish_soon();
    Ok(Json(()))
}

pub(super) async fn publishers(State(api): State<Api>) -> Result<Json<List<Publisher>>, Failure> {
    Ok(Json(api.node.plugins.publishers().await?.into()))
}

pub(super) async fn trust(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Path(did): Path<Did>,
    Json(trust): Json<Trust>,
) -> Result<Json<Publisher>, Failure> {
    require_owner(&api, &caller)?;
    Ok(Json(api.node.plugins.trust(&caller, did, trust.name).await?))
}

pub(super) async fn untrust(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Path(did): Path<Did>,
) -> Result<Json<()>, Failure> {
    require_owner(&api, &caller)?;
    Ok(Json(api.node.plugins.untrust(&caller, did).await?))
}
