//! The TLS layer of WebSocket over TLS.
//!
//! TLS is here so that firewalls and proxies let the connection through as HTTPS. It authenticates nobody: the Noise
//! handshake inside it proves both peers' keys, whatever the certificates say. Hence a node makes its own certificate
//! at each start, and a dialler accepts any. Where something on the way looks at certificates, an operator gives one in
//! files (certificate.rs), which are read again when they change.

use std::{io, sync::Arc};

use futures::{AsyncRead, AsyncWrite};
use libp2p::{core::ConnectedPoint, multiaddr::Protocol};
use rustls::{
    ClientConfig, DigitallySignedStruct, ServerConfig, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime},
};
use tokio_rustls::{TlsAcceptor, TlsConnector, TlsStream};
use tokio_util::compat::{Compat, FuturesAsyncReadCompatExt as _, TokioAsyncReadCompatExt as _};

use super::{certificate::Shown, setup};
use crate::error::Error;

/// What a proxy that inspects ALPN expects before a WebSocket handshake.
const ALPN: &[u8] = b"http/1.1";

/// A stream inside TLS.
pub(super) type Secured<S> = Compat<TlsStream<Compat<S>>>;

/// Both ends of TLS.
#[derive(Clone)]
pub(super) struct Tls {
    connector: TlsConnector,
    acceptor: TlsAcceptor,
}

impl Tls {
    /// TLS that shows what `certificate` holds at the moment of each handshake.
    pub(super) fn new(certificate: Arc<Shown>) -> Result<Self, Error> {
        let provider = Arc::new(ring::default_provider());
        let failed = |error: &dyn std::error::Error| setup("TLS", error);
        let mut server = ServerConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(|error| failed(&error))?
            .with_no_client_auth()
            .with_cert_resolver(certificate);
        server.alpn_protocols = vec![ALPN.to_vec()];
        let mut client = ClientConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(|error| failed(&error))?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(AnyCertificate(provider)))
            .with_no_client_auth();
        client.alpn_protocols = vec![ALPN.to_vec()];
        Ok(Self { connector: Arc::new(client).into(), acceptor: Arc::new(server).into() })
    }

    /// Puts TLS around `stream`, in the role that `endpoint` tells.
    pub(super) async fn secure<S>(self, stream: S, endpoint: ConnectedPoint) -> io::Result<Secured<S>>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let secured = match endpoint {
            ConnectedPoint::Dialer { address, .. } => {
                let name = server_name(address.iter().next())
                    .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, format!("{address} names no host")))?;
                TlsStream::from(self.connector.connect(name, stream.compat()).await?)
            }
            ConnectedPoint::Listener { .. } => TlsStream::from(self.acceptor.accept(stream.compat()).await?),
        };
        Ok(secured.compat())
    }
}

/// The name that a proxy in front of the node routes by.
fn server_name(host: Option<Protocol<'_>>) -> Option<ServerName<'static>> {
    match host? {
        Protocol::Ip4(ip) => Some(ServerName::from(std::net::IpAddr::from(ip))),
        Protocol::Ip6(ip) => Some(ServerName::from(std::net::IpAddr::from(ip))),
        Protocol::Dns(name) | Protocol::Dns4(name) | Protocol::Dns6(name) => ServerName::try_from(name.into_owned()).ok(),
        _ => None,
    }
}

/// Accepts whatever certificate is shown; see the module for why that is safe here and nowhere else. Handshake
/// signatures are verified all the same, so that both sides at least agree on the key that the certificate holds.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
