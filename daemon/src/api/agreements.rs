//! Agreements: propose, accept, move on.

use axum::{Extension, extract::State};
use protocol::{
    AgreementId, Signed,
    agreement::{Reason, Status},
    api::{AgreementOutline, AgreementState, AgreementUsage, Close, List, Propose, Step, Wanted},
    statement::Statement,
};

use super::{
    Api,
    reply::{Failure, Json, Path},
    require_owner,
};
use crate::node::Caller;

pub(super) async fn propose(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Json(propose): Json<Propose>,
) -> Result<Json<AgreementState>, Failure> {
    require_owner(&api, &caller)?;
    Ok(Json(api.node.propose(&caller, propose).await?))
}

pub(super) async fn list(State(api): State<Api>) -> Result<Json<List<AgreementOutline>>, Failure> {
    Ok(Json(api.node.agreements.list().await?.into()))
}

pub(super) async fn show(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<AgreementId>,
) -> Result<Json<AgreementState>, Failure> {
    Ok(Json(api.node.show_agreement(&caller, &id).await?))
}

pub(super) async fn statement(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<AgreementId>,
) -> Result<Json<Signed<Statement>>, Failure> {
    require_owner(&api, &caller)?;
    Ok(Json(api.node.statement(&caller, &id).await?))
}

pub(super) async fn usage(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<AgreementId>,
) -> Result<Json<AgreementUsage>, Failure> {
    Ok(Json(api.node.agreement_usage(&caller, &id).await?))
}

pub(super) async fn accept(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<AgreementId>,
) -> Result<Json<AgreementState>, Failure> {
    require_owner(&api, &caller)?;
    Ok(Json(api.node.accept(&caller, &id).await?))
}

pub(super) async fn reject(api: State<Api>, caller: Extension<Caller>, id: Path<AgreementId>, Json(step): Json<Step>) -> Stepped {
    take(api, caller, id, Status::Closed, Some(Reason::Rejected), step.note).await
}

pub(super) async fn suspend(api: State<Api>, caller: Extension<Caller>, id: Path<AgreementId>, Json(step): Json<Step>) -> Stepped {
    take(api, caller, id, Status::Suspended, None, step.note).await
}

pub(super) async fn resume(api: State<Api>, caller: Extension<Caller>, id: Path<AgreementId>, Json(step): Json<Step>) -> Stepped {
    take(api, caller, id, Status::Active, None, step.note).await
}

pub(super) async fn close(api: State<Api>, caller: Extension<Caller>, id: Path<AgreementId>, Json(close): Json<Close>) -> Stepped {
    take(api, caller, id, Status::Closed, Some(close.reason), close.note).await
}

type Stepped = Result<Json<AgreementState>, Failure>;

async fn take(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<AgreementId>,
    to: Status,
    reason: Option<Reason>,
    note: Option<String>,
) -> Stepped {
    require_owner(&api, &caller)?;
    Ok(Json(api.node.transition(&caller, &id, Wanted { to, reason, note }).await?))
}
