//! The yardstick of the mesh's transport: quinn, one stream, frames of our own, many requests on it at once.
//!
//! A frame is `length u32 BE | id u64 BE | payload`.

use std::{
    collections::HashMap,
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, atomic::AtomicU64, atomic::Ordering},
};

use anyhow::{Context as _, Result, ensure};
use parking_lot::Mutex;
use quinn::{
    ClientConfig, Endpoint, RecvStream, SendStream, ServerConfig,
    rustls::{
        RootCertStore,
        pki_types::{CertificateDer, PrivatePkcs8KeyDer},
    },
};
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot};

const NAME: &str = "bench.invalid";
/// Frames that wait to be written.
const WAITING: usize = 1_024;

/// Where an echo answers, and by which certificate.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Place {
    address: SocketAddr,
    certificate: Vec<u8>,
}

/// Answers in the background.
pub(crate) fn serve() -> Result<Place> {
    let made = rcgen::generate_simple_self_signed([NAME.to_owned()])?;
    let key = PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
    let server = ServerConfig::with_single_cert(vec![made.cert.der().clone()], key.into())?;
    let endpoint = Endpoint::server(server, (Ipv4Addr::LOCALHOST, 0).into())?;
    let place = Place { address: endpoint.local_addr()?, certificate: made.cert.der().to_vec() };
    tokio::spawn(async move {
        while let Some(incoming) = endpoint.accept().await {
            tokio::spawn(async move {
                let (sender, receiver) = incoming.await?.accept_bi().await?;
                let (frames, waiting) = mpsc::channel(WAITING);
                tokio::spawn(write(sender, waiting));
                read(receiver, |id, payload| frames.try_send((id, payload)).is_ok()).await
            });
        }
    });
    Ok(place)
}

/// A connection to an echo.
#[derive(Debug, Clone)]
pub(crate) struct Echo {
    frames: mpsc::Sender<(u64, Vec<u8>)>,
    pending: Arc<Mutex<HashMap<u64, oneshot::Sender<Vec<u8>>>>>,
    next: Arc<AtomicU64>,
    _endpoint: Endpoint,
}

impl Echo {
    pub(crate) async fn connect(place: &Place) -> Result<Self> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from(place.certificate.clone()))?;
        let mut endpoint = Endpoint::client((Ipv4Addr::LOCALHOST, 0).into())?;
        endpoint.set_default_client_config(ClientConfig::with_root_certificates(Arc::new(roots))?);
        let (sender, receiver) = endpoint.connect(place.address, NAME)?.await?.open_bi().await?;
        let (frames, waiting) = mpsc::channel(WAITING);
        let pending = Arc::<Mutex<HashMap<u64, oneshot::Sender<Vec<u8>>>>>::default();
        tokio::spawn(write(sender, waiting));
        let answered = Arc::clone(&pending);
        tokio::spawn(async move {
            read(receiver, |id, payload| answered.lock().remove(&id).is_some_and(|caller| caller.send(payload).is_ok())).await
        });
        Ok(Self { frames, pending, next: Arc::default(), _endpoint: endpoint })
    }

    pub(crate) async fn echo(&self, text: &str) -> Result<()> {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let (sender, answer) = oneshot::channel();
        self.pending.lock().insert(id, sender);
        self.frames.send((id, text.as_bytes().to_vec())).await?;
        ensure!(answer.await.context("no answer")? == text.as_bytes(), "the echo is another");
        Ok(())
    }
}

/// Writes what waits, in batches.
async fn write(mut stream: SendStream, mut waiting: mpsc::Receiver<(u64, Vec<u8>)>) -> Result<()> {
    let (mut batch, mut buffer) = (Vec::new(), Vec::new());
    while waiting.recv_many(&mut batch, 64).await > 0 {
        for (id, payload) in batch.drain(..) {
            buffer.extend_from_slice(&u32::try_from(payload.len())?.to_be_bytes());
            buffer.extend_from_slice(&id.to_be_bytes());
            buffer.extend_from_slice(&payload);
        }
        stream.write_all(&buffer).await?;
        buffer.clear();
    }
    Ok(())
}

/// Hands out frames until the stream ends or nobody takes them.
async fn read(mut stream: RecvStream, take: impl Fn(u64, Vec<u8>) -> bool) -> Result<()> {
    let mut buffer: Vec<u8> = Vec::new();
    let mut chunk = vec![0; 16 * 1024];
    while let Some(read) = stream.read(&mut chunk).await? {
        buffer.extend_from_slice(&chunk[..read]);
        let mut at = 0;
        while let Some(header) = buffer.get(at..at + 12) {
            let length = u32::from_be_bytes(header[..4].try_into()?) as usize;
            let id = u64::from_be_bytes(header[4..].try_into()?);
            let Some(payload) = buffer.get(at + 12..at + 12 + length) else { break };
            if !take(id, payload.to_vec()) {
                return Ok(());
            }
            at += 12 + length;
        }
        buffer.drain(..at);
    }
    Ok(())
}
