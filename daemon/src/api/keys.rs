//! API keys.

use axum::{Extension, extract::State};
use protocol::{
    api::{ApiKey, CreateKey, CreatedKey, List, OwnerKey, ResolveKey},
    id::KeyId,
};

use super::{
    Api,
    reply::{Failure, Json, Path},
    require_owner,
};
use crate::node::Caller;

pub(super) async fn create(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Json(create): Json<CreateKey>,
) -> Result<Json<CreatedKey>, Failure> {
    require_owner(&api, &caller)?;
    Ok(Json(api.node.api_keys.create(&caller, create).await?))
}

pub(super) async fn list(State(api): State<Api>, Extension(caller): Extension<Caller>) -> Result<Json<List<ApiKey>>, Failure> {
    require_owner(&api, &caller)?;
    Ok(Json(api.node.api_keys.list().into()))
}

pub(super) async fn owner(State(api): State<Api>, Extension(caller): Extension<Caller>) -> Result<Json<OwnerKey>, Failure> {
    require_owner(&api, &caller)?;
    Ok(Json(api.node.owner_key.show().await))
}

pub(super) async fn revoke(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<KeyId>,
) -> Result<Json<ApiKey>, Failure> {
    require_owner(&api, &caller)?;
    Ok(Json(api.node.api_keys.revoke(&caller, &id).await?))
}

pub(super) async fn resolve(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Json(resolve): Json<ResolveKey>,
) -> Result<Json<ApiKey>, Failure> {
    require_owner(&api, &caller)?;
    Ok(Json(api.node.api_keys.resolve(&resolve.digest).await?))
}
