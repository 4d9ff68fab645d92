//! One request, from its arrival to its answer.
//!
//! ```text
//! id ─> head ─> room for one more? ─> route ─> host ─> whose key? ─> body ─> daemon ─> answer, streamed
//! ```
//!
//! The key is known before the body is read: who holds none costs no memory. Whether the key is valid still is the daemon's
//! to say, with each request and as long as its answer is streamed.

use std::{sync::Arc, time::Duration};

use axum::{Router, body::Body, extract::State, response::Response};
use http::{HeaderMap, HeaderValue, Request, StatusCode};
use protocol::{
    Client, Code, Problem,
    api::{NodeStatus, REQUEST_ID_HEADER},
    head::{self, Authority},
};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};

use crate::{
    auth::Authenticator,
    body::Budget,
    forward,
    hosts::Hosts,
    keys::StaticKeys,
    reply,
    routes::{Route, route},
    visits::Visit,
};

/// Requests under way: as many as a node lets one peer have.
const MAX_REQUESTS: usize = protocol::wire::MAX_IN_FLIGHT;
/// What a daemon gives a call that names no time, and some slack: the daemon's own answer to a time-out comes first.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(65);
/// How long the daemon may take to say that it serves.
const READY_TIMEOUT: Duration = Duration::from_secs(2);
/// The longest request id that is kept, as on the mesh.
const MAX_REQUEST_ID: usize = 64;

/// What requests share.
#[derive(Debug)]
pub(crate) struct Gateway {
    client: Client,
    authenticator: Authenticator,
    hosts: Hosts,
    room: Arc<Semaphore>,
    budget: Budget,
}

impl Gateway {
    pub(crate) fn new(client: Client, keys: StaticKeys, hosts: Hosts) -> Self {
        let authenticator = Authenticator::new(client.clone(), keys);
        Self { client, authenticator, hosts, room: Arc::new(Semaphore::new(MAX_REQUESTS)), budget: Budget::new() }
    }

    async fn answer(&self, request: Request<Body>, id: &str) -> Result<Response, Problem> {
        let authority = head::check(&request)?;
        let route = route(request.method(), request.uri().path())?;
        if route == Route::Health {
            return Ok(reply::json(r#"{"alive":true}"#));
        }
        let overloaded = |_| Problem::new(Code::Overloaded, format!("{MAX_REQUESTS} requests are under way")).hint("try again in a moment");
        let place = Arc::clone(&self.room).try_acquire_owned().map_err(overloaded)?;
        match route {
            Route::Health | Route::Ready => self.ready().await,
            Route::Forward(limit) => self.forward(request, authority.as_ref(), (limit, place), id).await,
        }
    }

    /// Whether the daemon serves; no more than that for those without a key.
    async fn ready(&self) -> Result<Response, Problem> {
        let status = timeout(READY_TIMEOUT, self.client.get::<NodeStatus>("/v1/status")).await;
        match status.unwrap_or_else(|_| Err(timed_out(READY_TIMEOUT)))? {
            NodeStatus { ready: true, .. } => Ok(reply::json(r#"{"ready":true}"#)),
            NodeStatus { ready: false, .. } => Err(Problem::new(Code::NotRunning, "the node is not ready")),
        }
    }

    async fn forward(
        &self,
        request: Request<Body>,
        authority: Option<&Authority>,
        (limit, place): (usize, OwnedSemaphorePermit),
        id: &str,
    ) -> Result<Response, Problem> {
        let (parts, body) = request.into_parts();
        if !self.hosts.permit(authority) {
            let problem = Problem::new(Code::NotAuthorized, "the gateway does not answer to this Host name");
            return Err(problem.hint("the operator allows it with '--allow-host NAME'"));
        }
        let holder = self.authenticator.holder(&parts.headers).await?;
        if let Some(visit) = parts.extensions.get::<Visit>() {
            visit.settle();
        }
        let body = self.budget.collect(&parts.headers, body, limit).await?;
        let outgoing = forward::outgoing(&parts, body.bytes, &holder, id)?;
        let response = self.client.forward(outgoing).await?;
        drop(body.share);
        if response.status() == StatusCode::UNAUTHORIZED {
            return Err(self.authenticator.forget(&holder));
        }
        Ok(forward::incoming(response, place))
    }
}

/// Every route of the gateway.
pub(crate) fn router(gateway: Gateway) -> Router {
    Router::new().fallback(enter).with_state(Arc::new(gateway))
}

async fn enter(State(gateway): State<Arc<Gateway>>, request: Request<Body>) -> Response {
    let id = request_id(request.headers());
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let answered = timeout(REQUEST_TIMEOUT, gateway.answer(request, &id)).await;
    let mut response = match answered.unwrap_or_else(|_| Err(timed_out(REQUEST_TIMEOUT))) {
        Ok(response) => response,
        Err(problem) => {
            if problem.status >= 500 {
                tracing::warn!(%method, path, request_id = id, code = %problem.code, "{}", problem.detail);
            }
            reply::problem(outside(problem), &id)
        }
    };
    tracing::debug!(%method, path, request_id = id, status = response.status().as_u16(), "answered");
    if let Ok(value) = HeaderValue::from_str(&id) {
        response.headers_mut().insert(REQUEST_ID_HEADER, value);
    }
    response
}

fn timed_out(after: Duration) -> Problem {
    Problem::new(Code::TimedOut, format!("no answer within {} s", after.as_secs()))
}

/// The problem as callers see it: where the daemon's socket is stays in the log.
fn outside(problem: Problem) -> Problem {
    match problem.code {
        Code::NotRunning => Problem::new(Code::NotRunning, "the node behind this gateway does not answer")
            .hint("try again in a moment; its operator finds the reason in the gateway's log"),
        _ => problem,
    }
}

/// The caller's id for the request if it is fit for logs, or a new one.
fn request_id(headers: &HeaderMap) -> String {
    let given = headers.get(REQUEST_ID_HEADER).and_then(|id| id.to_str().ok());
    let fit = |id: &&str| (1..=MAX_REQUEST_ID).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_graphic());
    given.filter(fit).map_or_else(new_id, str::to_owned)
}

/// 64 random bits: an id that isn't unique only makes logs harder to read.
fn new_id() -> String {
    getrandom::u64().map_or_else(|_| "unknown".into(), |bits| format!("{bits:016x}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_id_is_kept_if_it_is_fit() {
        let id = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(REQUEST_ID_HEADER, HeaderValue::from_str(value).expect("value"));
            request_id(&headers)
        };
        assert_eq!(id("abc-1"), "abc-1");
        for unfit in ["", "a b", &"x".repeat(MAX_REQUEST_ID + 1)] {
            assert_eq!(id(unfit).len(), 16, "{unfit:?}");
        }
        assert_ne!(request_id(&HeaderMap::new()), request_id(&HeaderMap::new()));
    }

    #[test]
    fn the_sockets_path_stays_inside() {
        let shown = outside(Problem::new(Code::NotRunning, "no daemon answers on /run/secret.sock"));
        assert!(shown.code == Code::NotRunning && !shown.detail.contains("secret"));
        assert_eq!(outside(Problem::new(Code::TooLarge, "x")).detail, "x");
    }
}
