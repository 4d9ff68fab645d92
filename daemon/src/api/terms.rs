//! Templates, and what this node accepts beforehand.

use axum::{Extension, extract::State};
use protocol::{
    Code, Problem,
    api::{BudgetChange, KnownTemplate, List, PolicyState, Whose},
    template::Template,
};

use super::{
    Api,
    reply::{Failure, Json, Path},
    require_owner,
};
use crate::node::Caller;

pub(super) async fn templates(State(api): State<Api>) -> Json<List<KnownTemplate>> {
    Json(api.node.templates.all().into())
}

pub(super) async fn template(State(api): State<Api>, Path(name): Path<String>) -> Result<Json<KnownTemplate>, Failure> {
    Ok(Json(api.node.templates.get(&name)?))
}

pub(super) async fn add(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Path(name): Path<String>,
    Json(template): Json<Template>,
) -> Result<Json<KnownTemplate>, Failure> {
    require_owner(&api, &caller)?;
    if template.name != name {
        return Err(Problem::new(Code::InvalidRequest, "the template has another name than its address").into());
    }
    Ok(Json(api.node.templates.add(&caller, template).await?))
}

pub(super) async fn remove(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Path(name): Path<String>,
) -> Result<Json<()>, Failure> {
    require_owner(&api, &caller)?;
    Ok(Json(api.node.templates.remove(&caller, &name).await?))
}

pub(super) async fn policy(State(api): State<Api>) -> Json<PolicyState> {
    Json(api.node.policy_state())
}

pub(super) async fn accept_beforehand(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Path((template, whose)): Path<(String, Whose)>,
    Json(change): Json<Option<BudgetChange>>,
) -> Result<Json<PolicyState>, Failure> {
    require_owner(&api, &caller)?;
    api.node.accept_beforehand(&caller, template, whose, change.unwrap_or_default()).await?;
    Ok(Json(api.node.policy_state()))
}

pub(super) async fn ask_again(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Path((template, whose)): Path<(String, Whose)>,
) -> Result<Json<PolicyState>, Failure> {
    require_owner(&api, &caller)?;
    api.node.templates.ask_again(&caller, template, whose).await?;
    Ok(Json(api.node.policy_state()))
}
