//! A web server that says exactly what a test wants: one connection after another, each in a task, bytes by hand.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use serde_json::json;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::TcpListener,
    task::JoinSet,
};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{ServerConfig, crypto::ring, pki_types::PrivatePkcs8KeyDer},
};

/// A server on a port of its own. Gone when dropped.
pub(crate) struct Web {
    address: SocketAddr,
    /// What it was sent, oldest first.
    seen: Arc<Mutex<Vec<String>>>,
    /// Whether `/hook` is busy.
    failing: Arc<AtomicBool>,
    _serving: JoinSet<()>,
}

impl Web {
    /// Without TLS.
    pub(crate) async fn start() -> Self {
        Self::serve(None).await
    }

    /// With a certificate for `localhost`, signed by an authority whose certificate (PEM) comes along.
    pub(crate) async fn with_tls() -> (Self, String) {
        let key = || KeyPair::generate().expect("a key");
        let (root_key, leaf_key) = (key(), key());
        let mut root = CertificateParams::new(Vec::new()).expect("parameters");
        root.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = root.self_signed(&root_key).expect("a certificate");
        let leaf = CertificateParams::new(vec!["localhost".to_owned()]).expect("parameters");
        let leaf = leaf.signed_by(&leaf_key, &Issuer::from_params(&root, &root_key)).expect("a certificate");
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(vec![leaf.der().clone()], PrivatePkcs8KeyDer::from(leaf_key.serialize_der()).into())
            .expect("the key is the certificate's");
        (Self::serve(Some(Arc::new(config).into())).await, authority.pem())
    }

    async fn serve(tls: Option<TlsAcceptor>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("bound");
        let seen = Arc::new(Mutex::new(Vec::new()));
        let mut serving = JoinSet::new();
        let (log, failing) = (Arc::clone(&seen), Arc::<AtomicBool>::default());
        let busy = Arc::clone(&failing);
        serving.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let (tls, log, busy) = (tls.clone(), Arc::clone(&log), Arc::clone(&busy));
                connections.spawn(async move {
                    match tls {
                        None => answer(stream, &log, &busy).await,
                        Some(tls) => match tls.accept(stream).await {
                            Ok(stream) => answer(stream, &log, &busy).await,
                            Err(_) => log.lock().expect("no panic").push("a handshake that failed".into()),
                        },
                    }
                });
            }
        });
        Self { address, seen, failing, _serving: serving }
    }

    /// Lets `/hook` answer that it is busy, or no longer.
    pub(crate) fn fail(&self, failing: bool) {
        self.failing.store(failing, Ordering::SeqCst);
    }

    /// A URL of it, by its address.
    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// Its port.
    pub(crate) fn port(&self) -> u16 {
        self.address.port()
    }

    /// As an agent is granted it.
    pub(crate) fn host(&self) -> String {
        format!("http://{}", self.address)
    }

    /// What it was sent since this was last asked.
    pub(crate) fn seen(&self) -> Vec<String> {
        std::mem::take(&mut self.seen.lock().expect("no panic"))
    }
}

/// Reads one request, and answers by its path.
async fn answer<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S, log: &Mutex<Vec<String>>, busy: &AtomicBool) {
    let mut request = Vec::new();
    let whole = |request: &[u8]| {
        let text = String::from_utf8_lossy(request).into_owned();
        let (head, body) = text.split_once("\r\n\r\n")?;
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse::<usize>().ok()).unwrap_or(0);
        (body.len() >= length).then(|| text.clone())
    };
    let text = loop {
        if let Some(text) = whole(&request) {
            break text;
        }
        let mut part = [0; 4096];
        match stream.read(&mut part).await {
            Ok(0) | Err(_) => return,
            Ok(length) => request.extend_from_slice(&part[..length]),
        }
    };
    let path = text.split_whitespace().nth(1).unwrap_or_default().to_owned();
    log.lock().expect("no panic").push(text.clone());
    let ok = |extra: &str, body: &str| format!("HTTP/1.1 200 OK\r\n{extra}content-length: {}\r\n\r\n{body}", body.len());
    let (head, repeated) = match path.as_str() {
        hook if hook.starts_with("/hook") && busy.load(Ordering::SeqCst) => {
            ("HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n".into(), 0)
        }
        "/echo" => (ok("", &json!(text).to_string()), 0),
        "/redirect" => {
            let body = r#"{"redirected":false}"#;
            (format!("HTTP/1.1 302 Found\r\nlocation: /json\r\ncontent-length: {}\r\n\r\n{body}", body.len()), 0)
        }
        "/large" => (format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", 5 << 20), 5 << 20),
        // It doesn't say how much will come.
        "/endless" => ("HTTP/1.1 200 OK\r\n\r\n".into(), usize::MAX),
        "/headers" => (ok(&"x-much: more\r\n".repeat(10_000), "1"), 0),
        "/slow" => std::future::pending().await,
        _ => (ok("", r#"{"ok":true}"#), 0),
    };
    let _ = stream.write_all(head.as_bytes()).await;
    let mut left = repeated;
    while left > 0 && stream.write_all(&[b' '; 4096]).await.is_ok() {
        left = left.saturating_sub(4096);
    }
    let _ = stream.shutdown().await;
}
