//! Bodies in and out: JSON, and RFC 9457 problems for everything that fails, extraction included.

use std::time::Duration;

use axum::{
    body::{Bytes, HttpBody as _},
    extract::{FromRequest, FromRequestParts, Request},
    http::{StatusCode, header, request::Parts},
    response::{IntoResponse, Response},
};
use protocol::{Code, Problem, manifest::MAX_COMPONENT};
use serde::{Serialize, de::DeserializeOwned};

/// How long a client may take to send a body: whoever sends none of it holds a connection no longer.
const BODY_TIMEOUT: Duration = Duration::from_secs(60);

/// A failure of a handler.
#[derive(Debug)]
pub(super) struct Failure(pub(super) Problem);

impl<E: Into<Problem>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self(error.into())
    }
}

impl IntoResponse for Failure {
    /// The middleware adds the request's id and writes the body.
    fn into_response(self) -> Response {
        let mut response = problem(self.0.clone());
        response.extensions_mut().insert(self.0);
        response
    }
}

/// A problem document.
pub(super) fn problem(problem: Problem) -> Response {
    let status = StatusCode::from_u16(problem.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let body = serde_json::to_vec(&problem).unwrap_or_default();
    let mut response = (status, [(header::CONTENT_TYPE, "application/problem+json")], body).into_response();
    if let Some(seconds) = problem.retry_after {
        response.headers_mut().insert(header::RETRY_AFTER, seconds.into());
    }
    response
}

/// A JSON body.
#[derive(Debug)]
pub(super) struct Json<T>(pub(super) T);

impl<T: Serialize> IntoResponse for Json<T> {
    fn into_response(self) -> Response {
        match serde_json::to_vec(&self.0) {
            Ok(body) => ([(header::CONTENT_TYPE, "application/json")], body).into_response(),
            Err(error) => Failure(Problem::new(Code::Internal, format!("the answer can't be written: {error}"))).into_response(),
        }
    }
}

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Json<T> {
    type Rejection = Failure;

    async fn from_request(request: Request, state: &S) -> Result<Self, Failure> {
        let bytes = Body::from_request(request, state).await?.0;
        let bytes = if bytes.is_empty() { Bytes::from_static(b"null") } else { bytes };
        serde_json::from_slice(&bytes)
            .map(Json)
            .map_err(|error| Problem::new(Code::InvalidRequest, format!("the body can't be read: {error}")).into())
    }
}

/// A raw body, within the route's limit.
#[derive(Debug)]
pub(super) struct Body(pub(super) Bytes);

impl<S: Send + Sync> FromRequest<S> for Body {
    type Rejection = Failure;

    async fn from_request(request: Request, state: &S) -> Result<Self, Failure> {
        // The route's own limit is counted as the body comes; nobody has to announce anything.
        if request.body().size_hint().lower() > MAX_COMPONENT as u64 {
            return Err(Problem::new(Code::TooLarge, format!("a body has at most {MAX_COMPONENT} bytes")).into());
        }
        let read = tokio::time::timeout(BODY_TIMEOUT, Bytes::from_request(request, state)).await;
        let late = |_| Problem::new(Code::TimedOut, format!("the body was not sent within {} s", BODY_TIMEOUT.as_secs()));
        read.map_err(late)?.map(Body).map_err(|rejection| {
            let code = if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE { Code::TooLarge } else { Code::InvalidRequest };
            Problem::new(code, rejection.body_text()).into()
        })
    }
}

/// A path's or query's part, whose errors are problems too.
#[derive(Debug)]
pub(super) struct Path<T>(pub(super) T);

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for Path<T> {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Failure> {
        let path = axum::extract::Path::from_request_parts(parts, state).await;
        path.map(|axum::extract::Path(value)| Self(value)).map_err(|error| Problem::new(Code::InvalidRequest, error.body_text()).into())
    }
}

/// A query, whose errors are problems too.
#[derive(Debug)]
pub(super) struct Query<T>(pub(super) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Query<T> {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Failure> {
        let query = axum::extract::Query::from_request_parts(parts, state).await;
        query.map(|axum::extract::Query(value)| Self(value)).map_err(|error| Problem::new(Code::InvalidRequest, error.body_text()).into())
    }
}
