//! Requests that a gateway sends for whoever holds an API key: nothing is answered any longer than the key is valid.
//!
//! ```text
//! mcp-key: ID ─> valid now? ─> handler ─> answer, streamed
//!                                 `──────────`── revoked or expired: 401, or the stream ends
//! ```

use axum::{
    body::{Body, HttpBody as _},
    extract::Request,
    http::HeaderMap,
    middleware::Next,
    response::{IntoResponse as _, Response},
};
use futures::StreamExt as _;
use protocol::{Code, Did, Problem, api::KEY_HEADER};

use super::reply::Failure;
use crate::node::{
    Node,
    api_keys::{self, HeldKey},
};

/// The key by which a gateway was asked, where it says so.
pub(super) fn held(node: &Node, headers: &HeaderMap, principal: Did) -> Result<Option<HeldKey>, Problem> {
    let Some(value) = headers.get(KEY_HEADER) else { return Ok(None) };
    let id = value.to_str().ok().and_then(|id| id.parse().ok());
    let id = id.ok_or_else(|| Problem::new(Code::InvalidRequest, format!("header {KEY_HEADER} is not the id of an API key")))?;
    node.api_keys.hold(&id, principal).map(Some)
}

/// Answers a request for as long as its key is valid. A call that is cut off ends as if its caller had gone away.
pub(super) async fn answer(key: HeldKey, request: Request, next: Next) -> Response {
    let response = tokio::select! {
        biased;
        () = key.clone().ended() => return Failure(api_keys::invalid()).into_response(),
        response = next.run(request) => response,
    };
    if response.body().size_hint().exact().is_some() {
        return response;
    }
    response.map(|body| Body::from_stream(body.into_data_stream().take_until(Box::pin(key.ended()))))
}
