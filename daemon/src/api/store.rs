//! The store, from its operator's side.

use axum::{Extension, extract::State};
use protocol::api::StoreVerified;

use super::{
    Api,
    reply::{Failure, Json},
    require_owner,
};
use crate::node::Caller;

/// Holds all of the store against its checksums. It reads everything, so it is the owner's alone.
pub(super) async fn verify(State(api): State<Api>, Extension(caller): Extension<Caller>) -> Result<Json<StoreVerified>, Failure> {
    require_owner(&api, &caller)?;
    Ok(Json(api.node.verify_store().await?))
}
