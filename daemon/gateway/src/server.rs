//! Connections: accepted within a bound, served over HTTP/1.1, and drained.

use std::{
    io::{self, Write as _},
    net::SocketAddr,
    pin::pin,
    sync::Arc,
    time::Duration,
};

use axum::{Extension, Router};
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

use crate::{error::Error, hosts::is_loopback, visits::Visits};

/// Connections at one time: each request in its own, and as many idle ones. For another one the oldest goes that has shown
/// no key; if all have, it waits.
const MAX_CONNECTIONS: usize = 2048;
/// How long a client may take to send a request's header, and a connection may idle.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// The largest header, and the step in which bodies are read.
const BUFFER: usize = 64 * 1024;
/// How long requests under way may take once the gateway stops.
const GRACE: Duration = Duration::from_secs(10);
/// How long to wait where the operating system refuses a connection, for one that was closed to end.
const PAUSE: Duration = Duration::from_millis(10);

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

/// What an address beyond loopback lets others read, as the gateway itself speaks no TLS; nothing for one on loopback.
pub(crate) fn exposure(address: SocketAddr) -> Option<String> {
    (!is_loopback(address.ip())).then(|| {
        format!(
            "listening on {address} WITHOUT TLS: API keys, parameters and results of every request cross the network in clear text, \
         and whoever reads a key there acts as the node's owner; let a proxy with TLS face the network, and keep '--listen' on 127.0.0.1"
        )
    })
}

/// Serves until `stop`, then answers what is under way, for at most [`GRACE`].
pub(crate) async fn serve(listener: TcpListener, router: Router, stop: CancellationToken) {
    let (places, visits) = (Arc::new(Semaphore::new(MAX_CONNECTIONS)), Visits::default());
    let mut connections = JoinSet::new();
    // A connection that was accepted and has no place yet.
    let mut arrived = None;
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => break,
            Some(ended) = connections.join_next(), if !connections.is_empty() => report(ended),
            Ok(place) = Arc::clone(&places).acquire_owned(), if arrived.is_some() => {
                if let Some(stream) = arrived.take() {
                    connections.spawn(connection(stream, router.clone(), stop.clone(), visits.clone(), place));
                }
            }
            accepted = accept(&listener), if arrived.is_none() => match accepted {
                Ok(stream) => {
                    if places.available_permits() == 0 {
                        visits.close_oldest();
                    }
                    arrived = Some(stream);
                }
                Err(error) => {
                    // As a rule for want of descriptors, of which each connection has one.
                    let closed = visits.close_oldest();
                    tracing::warn!(closed_one = closed, "can't accept a connection: {error}");
                    sleep(PAUSE).await;
                }
            },
        }
    }
    drop((listener, arrived));
    let drained = timeout(GRACE, async {
        while let Some(ended) = connections.join_next().await {
            report(ended);
        }
    });
    if drained.await.is_err() {
        tracing::warn!(connections = connections.len(), "closed with requests under way");
    }
}

async fn accept(listener: &TcpListener) -> io::Result<TcpStream> {
    let (stream, _) = listener.accept().await?;
    // Answers are small: waiting to fill a packet only delays them.
    stream.set_nodelay(true)?;
    Ok(stream)
}

async fn connection(stream: TcpStream, router: Router, stop: CancellationToken, visits: Visits, _place: OwnedSemaphorePermit) {
    let (visit, leave) = visits.begin();
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT).max_buf_size(BUFFER);
    let service = TowerToHyperService::new(router.layer(Extension(visit.clone())));
    let mut serving = pin!(http.serve_connection(TokioIo::new(stream), service));
    let served = tokio::select! {
        biased;
        () = leave.cancelled() => Ok(()),
        () = stop.cancelled() => {
            serving.as_mut().graceful_shutdown();
            serving.await
        }
        served = serving.as_mut() => served,
    };
    visit.settle();
    if let Err(error) = served {
        tracing::debug!("a connection ended: {error}");
    }
}

fn report(ended: Result<(), JoinError>) {
    if let Err(error) = ended.map_err(|error| error.to_string()) {
        tracing::error!("a connection's task failed: {error}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_beyond_loopback_is_exposed() {
        for address in ["127.0.0.1:8000", "127.1.2.3:80", "[::1]:8000", "[::ffff:127.0.0.1]:8000"] {
            assert_eq!(exposure(address.parse().expect("an address")), None, "{address}");
        }
        for address in ["0.0.0.0:8000", "[::]:8000", "10.0.0.1:80", "[fe80::1]:80"] {
            let text = exposure(address.parse().expect("an address")).expect(address);
            assert!(text.contains(address) && text.contains("WITHOUT TLS") && text.contains("API keys"), "{text}");
        }
    }
}
