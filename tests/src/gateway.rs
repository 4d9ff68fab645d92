//! The gateway's process, and an HTTP client for it.

use std::path::Path;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper_util::{client::legacy, rt::TokioExecutor};
use serde::Deserialize;
use serde_json::Value;

use crate::{node::Node, process::Process, programs::command};

/// A running `mcp-gateway`.
#[derive(Debug)]
pub struct Gateway {
    _process: Process,
    url: String,
    http: legacy::Client<legacy::connect::HttpConnector, Full<Bytes>>,
}

/// What it answered.
#[derive(Debug)]
pub struct Reply {
    /// The HTTP status.
    pub status: u16,
    /// The content type.
    pub kind: String,
    /// The body, if it is JSON.
    pub body: Value,
}

#[derive(Deserialize)]
struct Listening {
    url: String,
}

impl Gateway {
    pub(crate) async fn start(place: &Path, node: &Node) -> Self {
        let mut command = command("mcp-gateway");
        command.args(["--json", "--listen", "127.0.0.1:0", "--socket"]).arg(node.client().socket());
        let mut process = Process::start("gateway", command, place);
        let Listening { url } = process.announcement().await;
        Self { _process: process, url, http: legacy::Client::builder(TokioExecutor::new()).build_http() }
    }

    /// Its address.
    pub fn address(&self) -> &str {
        self.url.strip_prefix("http://").expect("it speaks HTTP")
    }

    /// Asks.
    pub async fn ask(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Reply {
        let mut request = http::Request::builder().method(method).uri(format!("{}{path}", self.url));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::from(body.to_owned())).expect("a request");
        let response = self.http.request(request).await.expect("the gateway answers");
        let kind = response.headers().get("content-type").and_then(|kind| kind.to_str().ok()).unwrap_or_default().to_owned();
        let status = response.status().as_u16();
        let body = response.into_body().collect().await.expect("the answer is whole").to_bytes();
        Reply { status, kind, body: serde_json::from_slice(&body).unwrap_or_default() }
    }

    /// Asks with a key.
    pub async fn ask_with(&self, key: &str, method: &str, path: &str, body: &str) -> Reply {
        self.ask(method, path, &[("authorization", &format!("Bearer {key}"))], body).await
    }
}
