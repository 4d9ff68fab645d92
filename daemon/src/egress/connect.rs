//! A connection to an address that was checked, with TLS for the host that was asked for.

use std::{
    io,
    net::{IpAddr, SocketAddr, ToSocketAddrs as _},
    path::Path,
    sync::Arc,
    time::Duration,
};

use ipnet::IpNet;
use protocol::{Code, Problem};
use rustls::{
    ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, ServerName, pem::PemObject as _},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    sync::Semaphore,
    task::spawn_blocking,
    time::timeout,
};
use tokio_rustls::TlsConnector;

use super::{address::permitted, target::Target};

/// Names that are resolved at once. Each holds a thread for as long as the system's resolver takes, even if nobody waits any more.
const MAX_LOOKUPS: usize = 16;
/// How long one address is tried before the next.
const CONNECT: Duration = Duration::from_secs(3);
/// Addresses of one host that are tried.
const MAX_TRIED: usize = 4;

/// A stream to the web.
pub(super) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// See the module.
pub(super) struct Connector {
    networks: Vec<IpNet>,
    tls: TlsConnector,
    lookups: Arc<Semaphore>,
}

impl std::fmt::Debug for Connector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connector").field("networks", &self.networks).finish_non_exhaustive()
    }
}

impl Connector {
    /// Trusts the web's root certificates, and those in a file.
    pub(super) fn open(networks: Vec<IpNet>, roots: Option<&Path>) -> Result<Self, Problem> {
        let mut trusted = RootCertStore::from_iter(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
        if let Some(path) = roots {
            let wrong = |reason: String| Problem::new(Code::InvalidConfig, format!("kernel.http_roots: {}: {reason}", path.display()));
            let before = trusted.len();
            for certificate in CertificateDer::pem_file_iter(path).map_err(|error| wrong(error.to_string()))? {
                let certificate = certificate.map_err(|error| wrong(error.to_string()))?;
                trusted.add(certificate).map_err(|error| wrong(error.to_string()))?;
            }
            if trusted.len() == before {
                return Err(wrong("it holds no certificate".into()));
            }
        }
        let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|error| Problem::new(Code::Internal, format!("TLS: {error}")))?
            .with_root_certificates(trusted)
            .with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self { networks, tls: Arc::new(config).into(), lookups: Arc::new(Semaphore::new(MAX_LOOKUPS)) })
    }

    /// The same, to any address.
    pub(super) fn anywhere(&self) -> Self {
        let all = |text: &str| text.parse::<IpNet>().expect("a network");
        Self { networks: vec![all("0.0.0.0/0"), all("::/0")], tls: self.tls.clone(), lookups: Arc::clone(&self.lookups) }
    }

    /// Connects; the error is for the guest, and says nothing about the node's own network.
    pub(super) async fn connect(&self, target: &Target) -> Result<Box<dyn Stream>, String> {
        let addresses = self.resolve(target).await?;
        if let Some(refused) = addresses.iter().find(|address| !permitted(address.ip(), &self.networks)) {
            tracing::debug!(target: "egress", host = target.host, address = %refused.ip(), "not reached: see kernel.http_networks");
            return Err(format!("{target} leads to an address that this node does not allow"));
        }
        let stream = reach(target, &addresses).await?;
        if !target.tls {
            return Ok(Box::new(stream));
        }
        let name = ServerName::try_from(target.host.clone()).map_err(|_| format!("{target}: its host can't have a certificate"))?;
        let secured = self.tls.connect(name, stream).await.map_err(|error| format!("{target}: TLS failed: {error}"))?;
        Ok(Box::new(secured))
    }

    async fn resolve(&self, target: &Target) -> Result<Vec<SocketAddr>, String> {
        if let Ok(address) = target.host.parse::<IpAddr>() {
            return Ok(vec![SocketAddr::new(address, target.port)]);
        }
        let unknown = |error: io::Error| format!("{target} can't be resolved: {error}");
        let turn = Arc::clone(&self.lookups).acquire_owned().await.map_err(|error| unknown(io::Error::other(error)))?;
        let (host, port) = (target.host.clone(), target.port);
        let found = spawn_blocking(move || {
            let _turn = turn;
            (host, port).to_socket_addrs().map(Vec::from_iter)
        });
        let addresses = found.await.map_err(|error| unknown(error.into()))?.map_err(unknown)?;
        if addresses.is_empty() { Err(format!("{target} has no address")) } else { Ok(addresses) }
    }
}

/// Connects to the first of these that answers.
async fn reach(target: &Target, addresses: &[SocketAddr]) -> Result<TcpStream, String> {
    let mut last = String::new();
    for address in addresses.iter().take(MAX_TRIED) {
        match timeout(CONNECT, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) => last = error.kind().to_string(),
            Err(_) => last = "it does not answer".into(),
        }
    }
    Err(format!("{target} can't be reached: {last}"))
}
