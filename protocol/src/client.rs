//! The client of the local API: HTTP over the daemon's Unix socket, with connections kept for reuse.

use std::{
    future::Future,
    io,
    path::{Path, PathBuf},
    pin::Pin,
    task,
    time::Duration,
};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{Method, Request, Response, Uri, body::Incoming, header};
use hyper_util::{
    client::legacy::{
        self,
        connect::{Connected, Connection},
    },
    rt::{TokioExecutor, TokioIo},
};
use serde::{Serialize, de::DeserializeOwned};
use tokio::net::UnixStream;

use crate::{
    api::IDEMPOTENCY_HEADER,
    error::{Code, Problem},
    wire::MAX_FRAME,
};

/// Idle connections kept: as many as one client has calls in flight in practice.
const MAX_IDLE: usize = 128;
/// The largest problem that is read where bytes were asked for.
const MAX_PROBLEM: usize = 64 * 1024;

/// A daemon's local API. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Client {
    http: legacy::Client<Connector, Full<Bytes>>,
    socket: PathBuf,
}

impl Client {
    /// The API behind `socket`. Connects with the first request.
    pub fn new(socket: impl Into<PathBuf>) -> Self {
        let socket = socket.into();
        let http = legacy::Client::builder(TokioExecutor::new())
            .pool_max_idle_per_host(MAX_IDLE)
            .pool_idle_timeout(Duration::from_secs(30))
            .build(Connector { socket: socket.clone() });
        Self { http, socket }
    }

    /// The socket's path.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// `GET`s a document.
    pub async fn get<R: DeserializeOwned>(&self, path: &str) -> Result<R, Problem> {
        self.ask(Method::GET, path, Bytes::new(), None).await
    }

    /// `DELETE`s a thing.
    pub async fn delete<R: DeserializeOwned>(&self, path: &str) -> Result<R, Problem> {
        self.ask(Method::DELETE, path, Bytes::new(), None).await
    }

    /// `POST`s a document.
    pub async fn post<B: Serialize, R: DeserializeOwned>(&self, path: &str, body: &B) -> Result<R, Problem> {
        self.ask(Method::POST, path, json(body)?, None).await
    }

    /// `POST`s a document under an idempotency key: a repetition gives the same answer and happens once.
    pub async fn post_once<B: Serialize, R: DeserializeOwned>(&self, path: &str, key: &str, body: &B) -> Result<R, Problem> {
        self.ask(Method::POST, path, json(body)?, Some(key)).await
    }

    /// `PUT`s a document.
    pub async fn put<B: Serialize, R: DeserializeOwned>(&self, path: &str, body: &B) -> Result<R, Problem> {
        self.ask(Method::PUT, path, json(body)?, None).await
    }

    /// `GET`s raw bytes, at most `limit` of them.
    pub async fn get_bytes(&self, path: &str, limit: usize) -> Result<Bytes, Problem> {
        let request = Request::get(uri(path)?).body(Full::new(Bytes::new()));
        let request = request.map_err(|error| Problem::new(Code::InvalidRequest, error.to_string()))?;
        let response = self.http.request(request).await.map_err(|error| self.unreachable(&error))?;
        let ok = response.status().is_success();
        let body = Limited::new(response.into_body(), limit.max(MAX_PROBLEM)).collect().await;
        let body = body.map_err(|error| Problem::new(Code::NotRunning, format!("the daemon's answer broke off: {error}")))?.to_bytes();
        if ok {
            Ok(body)
        } else {
            Err(serde_json::from_slice(&body).unwrap_or_else(|error| Problem::new(Code::Internal, error.to_string())))
        }
    }

    /// `PUT`s raw bytes.
    pub async fn put_bytes<R: DeserializeOwned>(&self, path: &str, body: Bytes) -> Result<R, Problem> {
        self.ask(Method::PUT, path, body, None).await
    }

    /// Follows a stream of server-sent events (WHATWG HTML, section 9.2).
    pub async fn events(&self, path: &str) -> Result<Events, Problem> {
        let request = Request::get(uri(path)?).header(header::ACCEPT, "text/event-stream").body(Full::new(Bytes::new()));
        let request = request.map_err(|error| Problem::new(Code::InvalidRequest, error.to_string()))?;
        let response = self.http.request(request).await.map_err(|error| self.unreachable(&error))?;
        if response.status().is_success() {
            return Ok(Events { body: response.into_body(), buffer: Vec::new() });
        }
        let body = Limited::new(response.into_body(), MAX_FRAME).collect().await;
        let body = body.map_err(|error| Problem::new(Code::NotRunning, format!("the daemon's answer broke off: {error}")))?.to_bytes();
        Err(serde_json::from_slice(&body).unwrap_or_else(|error| Problem::new(Code::Internal, error.to_string())))
    }

    /// Sends any request on; the gateway's way. The path and query of its URI are kept.
    pub async fn forward(&self, mut request: Request<Full<Bytes>>) -> Result<Response<Incoming>, Problem> {
        let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
        *request.uri_mut() = uri(path)?;
        self.http.request(request).await.map_err(|error| self.unreachable(&error))
    }

    async fn ask<R: DeserializeOwned>(&self, method: Method, path: &str, body: Bytes, once: Option<&str>) -> Result<R, Problem> {
        let mut request = Request::builder().method(method).uri(uri(path)?).header(header::CONTENT_TYPE, "application/json");
        if let Some(key) = once {
            request = request.header(IDEMPOTENCY_HEADER, key);
        }
        let request = request.body(Full::new(body)).map_err(|error| Problem::new(Code::InvalidRequest, error.to_string()))?;
        let response = self.http.request(request).await.map_err(|error| self.unreachable(&error))?;
        let ok = response.status().is_success();
        let status = response.status();
        let body = Limited::new(response.into_body(), MAX_FRAME).collect().await;
        let body = body.map_err(|error| Problem::new(Code::NotRunning, format!("the daemon's answer broke off: {error}")))?.to_bytes();
        let unreadable = |error| Problem::new(Code::Internal, format!("the daemon's answer ({status}) can't be read: {error}"));
        if ok {
            let body = if body.is_empty() { Bytes::from_static(b"null") } else { body };
            serde_json::from_slice(&body).map_err(unreadable)
        } else {
            Err(serde_json::from_slice(&body).unwrap_or_else(unreadable))
        }
    }

    fn unreachable(&self, error: &legacy::Error) -> Problem {
        if !error.is_connect() {
            return Problem::new(Code::NotRunning, format!("the daemon on {} went away: {error}", self.socket.display()));
        }
        let cause = std::error::Error::source(error).map(ToString::to_string).unwrap_or_default();
        Problem::new(Code::NotRunning, format!("no daemon answers on {}: {cause}", self.socket.display()))
            .hint("start one with 'mcpd', or name its directory with '--data-dir' or its socket with '--socket'")
    }
}

/// Events as they come.
#[derive(Debug)]
pub struct Events {
    body: Incoming,
    buffer: Vec<u8>,
}

/// One event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// What kind.
    pub name: String,
    /// What it tells: JSON.
    pub data: String,
}

impl Events {
    /// The next event; `None` when the daemon has ended the stream.
    pub async fn next(&mut self) -> Result<Option<Event>, Problem> {
        loop {
            while let Some(at) = self.buffer.windows(2).position(|pair| pair == b"\n\n") {
                let block: Vec<u8> = self.buffer.drain(..at + 2).collect();
                if let Some(event) = event(&String::from_utf8_lossy(&block)) {
                    return Ok(Some(event));
                }
            }
            if self.buffer.len() > MAX_FRAME {
                return Err(Problem::new(Code::TooLarge, "an event is over the limit of a frame"));
            }
            match self.body.frame().await {
                None => return Ok(None),
                Some(Ok(frame)) => self.buffer.extend_from_slice(frame.data_ref().map(|data| &data[..]).unwrap_or_default()),
                Some(Err(error)) => return Err(Problem::new(Code::NotRunning, format!("the daemon went away: {error}"))),
            }
        }
    }
}

/// An event of a block of lines; comments alone, which keep the connection alive, are none.
fn event(block: &str) -> Option<Event> {
    let field = |name: &'static str| block.lines().filter_map(move |line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim_start);
    let data: Vec<&str> = field("data").collect();
    (!data.is_empty()).then(|| Event { name: field("event").next().unwrap_or("message").to_owned(), data: data.join("\n") })
}

fn json<B: Serialize>(body: &B) -> Result<Bytes, Problem> {
    serde_json::to_vec(body).map(Bytes::from).map_err(|error| Problem::new(Code::InvalidRequest, error.to_string()))
}

fn uri(path: &str) -> Result<Uri, Problem> {
    let uri = Uri::builder().scheme("http").authority("local").path_and_query(path).build();
    uri.map_err(|_| Problem::new(Code::InvalidRequest, format!("{path:?} is not a path of the API")))
}

/// Opens connections to one socket, whatever the URI.
#[derive(Debug, Clone)]
struct Connector {
    socket: PathBuf,
}

impl tower::Service<Uri> for Connector {
    type Response = Stream;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Stream>> + Send>>;

    fn poll_ready(&mut self, _: &mut task::Context<'_>) -> task::Poll<io::Result<()>> {
        task::Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let socket = self.socket.clone();
        Box::pin(async move { UnixStream::connect(socket).await.map(|stream| Stream(TokioIo::new(stream))) })
    }
}

/// A connection as hyper wants it.
struct Stream(TokioIo<UnixStream>);

impl Connection for Stream {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

impl hyper::rt::Read for Stream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut task::Context<'_>, buffer: hyper::rt::ReadBufCursor<'_>) -> task::Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buffer)
    }
}

impl hyper::rt::Write for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut task::Context<'_>, bytes: &[u8]) -> task::Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut task::Context<'_>) -> task::Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut task::Context<'_>) -> task::Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_blocks_of_fields() {
        let read = event("event: added\nid: 1\ndata: {\"a\":1}\n\n").expect("an event");
        assert_eq!((read.name.as_str(), read.data.as_str()), ("added", "{\"a\":1}"));
        assert_eq!(event(": keep-alive\n\n"), None);
        assert_eq!(event("data: a\ndata: b\n\n").expect("an event").data, "a\nb");
    }
}
