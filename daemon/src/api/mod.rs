//! The local API: HTTP over the Unix socket. A handler decodes, makes one call, and encodes.

mod agents;
mod agreements;
mod events;
mod holder;
mod keys;
mod logs;
mod mesh;
mod plugins;
mod reply;
mod serve;
mod status;
mod store;
mod terms;
mod trace;
mod watch;

use std::sync::Arc;

use axum::{
    Router,
    extract::{DefaultBodyLimit, Request, State},
    http::HeaderValue,
    middleware::{self, Next},
    response::{IntoResponse as _, Response},
    routing::{delete, get, post, put},
};
use protocol::{
    Code, Did, Problem,
    api::{MAX_BODY, PRINCIPAL_HEADER, REQUEST_ID_HEADER, Setting},
    head,
    manifest::MAX_COMPONENT,
};
use tracing::Instrument as _;

use self::reply::Failure;
pub(crate) use self::serve::{Listener, serve};
use crate::node::{Caller, Node, api_keys::HeldKey};

/// What the handlers share.
#[derive(Debug, Clone)]
pub(crate) struct Api {
    node: Node,
    settings: Arc<Vec<Setting>>,
}

/// The routes.
pub(crate) fn router(node: Node, settings: Vec<Setting>) -> Router {
    let api = Api { node, settings: Arc::new(settings) };
    Router::new()
        .route("/v1/status", get(status::status))
        .route("/v1/id", get(status::id))
        .route("/v1/config", get(status::config))
        .route("/v1/join", post(mesh::join))
        .route("/v1/mesh", get(mesh::state))
        .route("/v1/mesh/ca", get(mesh::certificate_authority))
        .route("/v1/mesh/init", post(mesh::init))
        .route("/v1/leave", post(mesh::leave))
        .route("/v1/members", get(mesh::members))
        .route("/v1/members/{node}/revoke", post(mesh::revoke))
        .route("/v1/tokens", post(mesh::create_token).get(mesh::tokens))
        .route("/v1/tokens/{id}", delete(mesh::revoke_token))
        .route("/v1/peers/{node}/connect", post(mesh::connect))
        .route("/v1/peers/{node}/disconnect", post(mesh::disconnect))
        .route("/v1/peers/{node}/ban", post(mesh::ban).delete(mesh::unban))
        .route("/v1/bans", get(mesh::bans))
        .route("/v1/swarm/limits", get(mesh::limits))
        .route("/v1/netcheck", get(mesh::netcheck))
        .route("/v1/peers", get(mesh::peers))
        .route("/v1/peers/{node}/ping", post(mesh::ping))
        .route("/v1/discover", get(mesh::discover))
        .route("/v1/discover/watch", get(watch::discover))
        .route("/v1/plugins", post(plugins::register).get(plugins::list))
        .route("/v1/plugins/fetch", post(plugins::fetch))
        .route("/v1/plugins/revocations", get(plugins::revocations))
        .route("/v1/plugins/{digest}/revocation", get(plugins::revocation).put(plugins::revoke).delete(plugins::unrevoke))
        .route("/v1/plugins/{digest}", get(plugins::show).delete(plugins::remove))
        .route("/v1/plugins/{digest}/manifest", get(plugins::manifest))
        .route("/v1/publishers", get(plugins::publishers))
        .route("/v1/publishers/{did}", put(plugins::trust).delete(plugins::untrust))
        .route("/v1/agents", post(agents::spawn).get(agents::list))
        .route("/v1/agents/{agent}", get(agents::show).delete(agents::terminate))
        .route("/v1/agents/{agent}/snapshots", post(agents::take_snapshot).get(agents::snapshots))
        .route("/v1/agents/{agent}/snapshots/{snapshot}", get(agents::snapshot).delete(agents::discard))
        .route("/v1/agents/{agent}/snapshots/{snapshot}/export", post(agents::export))
        .route("/v1/agents/import", post(agents::import))
        .route("/v1/agents/{agent}/schedule", put(agents::schedule).delete(agents::unschedule))
        .route("/v1/agents/{agent}/upgrade", post(agents::upgrade))
        .route("/v1/agents/{agent}/rollback", post(agents::rollback))
        .route("/v1/agents/restore", post(agents::restore))
        .route("/v1/agents/{agent}/move", post(agents::move_away))
        .route("/v1/agents/{agent}/replicas", get(agents::replicas).put(agents::set_replicas))
        .route("/v1/agents/{agent}/plugins", post(agents::attach))
        .route("/v1/agents/{agent}/plugins/{plugin}", delete(agents::detach))
        .route("/v1/agents/{agent}/stop", post(agents::stop))
        .route("/v1/agents/{agent}/start", post(agents::start))
        .route("/v1/agents/{agent}/state", get(agents::state))
        .route("/v1/agents/{agent}/logs", get(logs::list))
        .route("/v1/agents/{agent}/logs/follow", get(logs::follow))
        .route("/v1/agents/{agent}/recover", post(agents::recover))
        .route("/v1/agents/{agent}/execute", post(agents::execute))
        .route("/v1/templates", get(terms::templates))
        .route("/v1/templates/{name}", get(terms::template).put(terms::add).delete(terms::remove))
        .route("/v1/policy", get(terms::policy))
        .route("/v1/policy/auto-accept/{template}/{whose}", put(terms::accept_beforehand).delete(terms::ask_again))
        .route("/v1/agreements", post(agreements::propose).get(agreements::list))
        .route("/v1/agreements/{id}", get(agreements::show))
        .route("/v1/agreements/{id}/statement", get(agreements::statement))
        .route("/v1/agreements/{id}/usage", get(agreements::usage))
        .route("/v1/agreements/{id}/accept", post(agreements::accept))
        .route("/v1/agreements/{id}/reject", post(agreements::reject))
        .route("/v1/agreements/{id}/suspend", post(agreements::suspend))
        .route("/v1/agreements/{id}/resume", post(agreements::resume))
        .route("/v1/agreements/{id}/close", post(agreements::close))
        .route("/v1/trace", get(trace::list))
        .route("/v1/trace/{entry}", get(trace::show))
        .route("/v1/trace/proof", get(trace::prove))
        .route("/v1/trace/checkpoint", get(trace::checkpoint))
        .route("/v1/trace/consistency", get(trace::consistency))
        .route("/v1/trace/tiles/{*path}", get(trace::tiles))
        .route("/v1/trace/prune", post(trace::prune))
        .route("/v1/trace/verify", post(trace::verify))
        .route("/v1/trace/witness", get(trace::witnessed))
        .route("/v1/trace/witness/{node}", delete(trace::forget_witnessed))
        .route("/v1/store/verify", post(store::verify))
        .route("/v1/events", get(events::follow))
        .route("/v1/webhooks", post(events::create).get(events::list))
        .route("/v1/webhooks/{id}", delete(events::remove))
        .route("/v1/webhooks/{id}/dead", get(events::dead))
        .route("/v1/webhooks/{id}/retry", post(events::retry))
        .route("/v1/keys", post(keys::create).get(keys::list))
        .route("/v1/keys/{id}", delete(keys::revoke))
        .route("/v1/keys/owner", get(keys::owner))
        .route("/v1/keys/resolve", post(keys::resolve))
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .route("/v1/blobs/{digest}", put(plugins::upload).get(plugins::download).layer(DefaultBodyLimit::max(MAX_COMPONENT)))
        .fallback(|| async { Failure(Problem::new(Code::NotFound, "the API has no such route")) })
        .method_not_allowed_fallback(|| async { Failure(Problem::new(Code::InvalidRequest, "the route does not take this method")) })
        .layer(middleware::from_fn_with_state(api.clone(), identify))
        .with_state(api)
}

/// Finds out for whom and under which id a request is, and says so in its span and its answer.
async fn identify(State(api): State<Api>, mut request: Request, next: Next) -> Response {
    let request_id = request_id(&request);
    let span = tracing::debug_span!("request", id = %request_id, method = %request.method(), path = request.uri().path());
    let answered = async {
        let (principal, key) = match asker(&api, &request) {
            Ok(asker) => asker,
            Err(problem) => return Failure(problem).into_response(),
        };
        request.extensions_mut().insert(Caller { principal, request_id: request_id.clone() });
        match key {
            Some(key) => holder::answer(key, request, next).await,
            None => next.run(request).await,
        }
    };
    let mut response = answered.instrument(span).await;
    if let Some(problem) = response.extensions_mut().remove::<Problem>() {
        tracing::debug!(id = %request_id, code = %problem.code, detail = %problem.detail, "refused");
        response = reply::problem(Problem { request_id: Some(request_id.clone()), ..problem });
    }
    if let Ok(value) = HeaderValue::from_str(&request_id) {
        response.headers_mut().insert(REQUEST_ID_HEADER, value);
    }
    response
}

/// For whom a request is, and by which API key a gateway was asked.
fn asker(api: &Api, request: &Request) -> Result<(Did, Option<HeldKey>), Problem> {
    head::check(request)?;
    let headers = request.headers();
    let principal = match headers.get(PRINCIPAL_HEADER).map(|value| value.to_str().unwrap_or_default().parse()) {
        None => api.node.owner,
        Some(Ok(principal)) => principal,
        Some(Err(_)) => return Err(Problem::new(Code::InvalidRequest, format!("header {PRINCIPAL_HEADER} is not a did:key"))),
    };
    Ok((principal, holder::held(&api.node, headers, principal)?))
}

/// The trace id of a W3C `traceparent`, or what the caller calls it, or a new one.
fn request_id(request: &Request) -> String {
    let header = |name| request.headers().get(name).and_then(|value| value.to_str().ok());
    let plain = |text: &&str| (1..=64).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
    let traced = header("traceparent").and_then(|value| value.split('-').nth(1)).filter(|id| id.len() == 32);
    let given = traced.or_else(|| header(REQUEST_ID_HEADER)).filter(plain);
    given.map_or_else(|| protocol::OperationId::new().to_string().replacen("op_", "req_", 1), str::to_owned)
}

/// Only the node's owner does what changes the node itself.
fn require_owner(api: &Api, caller: &Caller) -> Result<(), Failure> {
    if caller.principal == api.node.owner {
        Ok(())
    } else {
        Err(Problem::new(Code::NotAuthorized, "only the node's owner does this").into())
    }
}
