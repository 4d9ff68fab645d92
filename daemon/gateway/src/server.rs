//! Connections: accepted within a bound, served over HTTP/1.1, and drained.

use std::{
    io::{self, Write as _},
    net::SocketAddr,
    pin::pin,
    sync::Arc,
    time::Duration,
};

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    task::{JoinError, JoinSet},
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::error::Error;

/// Connections at one time: each request in its own, and as many idle ones. Others wait in the kernel's queue.
const MAX_CONNECTIONS: usize = 2048;
/// How long a client may take to send a request's header, and a connection may idle.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// The largest header, and the step in which bodies are read.
const BUFFER: usize = 64 * 1024;
/// How long requests under way may take once the gateway stops.
const GRACE: Duration = Duration::from_secs(10);
/// How long to wait where the operating system refuses a connection (as a rule for want of descriptors).
const PAUSE: Duration = Duration::from_millis(100);

/// Takes the address; says which it became.
pub(crate) async fn bind(address: SocketAddr) -> Result<(TcpListener, SocketAddr), Error> {
    let failed = |source| Error::Listen { address, source };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let bound = listener.local_addr().map_err(failed)?;
    Ok((listener, bound))
}

/// Says where it listens, for whoever asked for port 0. Nobody has to listen.
pub(crate) fn announce(address: SocketAddr, json: bool) {
    let url = format!("http://{address}");
    let line = if json { serde_json::json!({ "url": url }).to_string() } else { url };
    let _ = writeln!(io::stdout(), "{line}");
}

/// Serves until `stop`, then answers what is under way, for at most [`GRACE`].
pub(crate) async fn serve(listener: TcpListener, router: Router, stop: CancellationToken) {
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => break,
            Some(ended) = connections.join_next(), if !connections.is_empty() => report(ended),
            accepted = accept(&listener, &places) => match accepted {
                Ok((stream, place)) => {
                    connections.spawn(connection(stream, router.clone(), stop.clone(), place));
                }
                Err(error) => {
                    tracing::warn!("can't accept a connection: {error}");
                    sleep(PAUSE).await;
                }
            },
        }
    }
    drop(listener);
    let drained = timeout(GRACE, async {
        while let Some(ended) = connections.join_next().await {
            report(ended);
        }
    });
    if drained.await.is_err() {
        tracing::warn!(connections = connections.len(), "closed with requests under way");
    }
}

async fn accept(listener: &TcpListener, places: &Arc<Semaphore>) -> io::Result<(TcpStream, OwnedSemaphorePermit)> {
    let place = Arc::clone(places).acquire_owned().await.map_err(io::Error::other)?;
    let (stream, _) = listener.accept().await?;
    // Answers are small: waiting to fill a packet only delays them.
    stream.set_nodelay(true)?;
    Ok((stream, place))
}

async fn connection(stream: TcpStream, router: Router, stop: CancellationToken, _place: OwnedSemaphorePermit) {
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT).max_buf_size(BUFFER);
    let mut serving = pin!(http.serve_connection(TokioIo::new(stream), TowerToHyperService::new(router)));
    let served = tokio::select! {
        biased;
        () = stop.cancelled() => {
            serving.as_mut().graceful_shutdown();
            serving.await
        }
        served = serving.as_mut() => served,
    };
    if let Err(error) = served {
        tracing::debug!("a connection ended: {error}");
    }
}

fn report(ended: Result<(), JoinError>) {
    if let Err(error) = ended.map_err(|error| error.to_string()) {
        tracing::error!("a connection's task failed: {error}");
    }
}
