//! Answers of the gateway's own: problem documents (RFC 9457) and small JSON.

use axum::{body::Body, response::Response};
use http::{HeaderValue, StatusCode, header};
use protocol::{Code, Problem};

/// A problem, as the answer to the request with this id.
pub(crate) fn problem(mut problem: Problem, request_id: &str) -> Response {
    problem.request_id = Some(request_id.into());
    let body = serde_json::to_vec(&problem).unwrap_or_default();
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = StatusCode::from_u16(problem.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
    if problem.code == Code::Unauthenticated {
        headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"mcp-zero\""));
    }
    if let Some(seconds) = problem.retry_after {
        headers.insert(header::RETRY_AFTER, seconds.into());
    }
    response
}

/// A small JSON text.
pub(crate) fn json(text: &'static str) -> Response {
    let mut response = Response::new(Body::from(text));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn problems_say_how_to_authenticate_or_when_to_come_back() {
        let refused = problem(Problem::new(Code::Unauthenticated, "x"), "id");
        assert_eq!(refused.status(), StatusCode::UNAUTHORIZED);
        assert_eq!(refused.headers()[header::CONTENT_TYPE], "application/problem+json");
        assert!(refused.headers().contains_key(header::WWW_AUTHENTICATE));
        assert_eq!(problem(Problem::new(Code::Overloaded, "x"), "id").headers()[header::RETRY_AFTER], "1");
        // 499 is in no registry, but a status all the same.
        assert_eq!(problem(Problem::new(Code::Cancelled, "x"), "id").status().as_u16(), 499);
    }
}
