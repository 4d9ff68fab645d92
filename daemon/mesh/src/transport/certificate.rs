//! The certificate that WebSocket over TLS shows: this node's own, or one in files that are read again when they change.

use std::{
    fs, io,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    sync::{Arc, Weak},
    time::Duration,
};

use parking_lot::RwLock;
use protocol::{Digest, Timestamp};
use rustls::{
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, pem::PemObject as _},
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};

use crate::error::Error;

/// How often the files are looked at. Tools that renew certificates do it weeks before they expire.
const EVERY: Duration = Duration::from_secs(2);
/// A certificate that expires sooner than this is worth a warning.
const SOON_S: i64 = 14 * 24 * 3_600;
/// The largest file: a chain of a few certificates takes 10 KiB.
const MAX_FILE: u64 = 256 * 1024;

/// Where a certificate and its key are: PEM files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateFiles {
    /// The certificate, followed by those that lead to its authority.
    pub chain: PathBuf,
    /// Its private key, which nobody else may read.
    pub key: PathBuf,
}

/// What is shown in handshakes from now on.
#[derive(Debug)]
pub(crate) struct Shown(RwLock<Arc<CertifiedKey>>);

impl ResolvesServerCert for Shown {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.read().clone())
    }
}

impl Shown {
    /// A fresh certificate of this node's own.
    pub(crate) fn own() -> Result<Arc<Self>, Error> {
        let failed = |error: &dyn std::error::Error| super::setup("TLS", error);
        let made = rcgen::generate_simple_self_signed(["mcp-zero.invalid".to_owned()]).map_err(|error| failed(&error))?;
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
        let key = ring::default_provider().key_provider.load_private_key(key).map_err(|error| failed(&error))?;
        Ok(Arc::new(Self(RwLock::new(Arc::new(CertifiedKey::new(vec![made.cert.der().clone()], key))))))
    }

    /// Shows another one from the next handshake on.
    pub(crate) fn set(&self, key: CertifiedKey) {
        *self.0.write() = Arc::new(key);
    }

    /// The certificate in `files`, and whatever they hold later. Needs a runtime.
    ///
    /// # Errors
    /// The files can't be used as they are now.
    pub(crate) fn of(files: CertificateFiles) -> Result<Arc<Self>, Error> {
        let refused = |reason| Error::Setup { what: "the TLS certificate", reason };
        let seen = digest(&files);
        let shown = Arc::new(Self(RwLock::new(Arc::new(load(&files).map_err(refused)?))));
        tokio::spawn(follow(Arc::downgrade(&shown), files, seen));
        Ok(shown)
    }
}

/// Reads the files again whenever they have changed. Connections that are there don't notice.
async fn follow(shown: Weak<Shown>, files: CertificateFiles, mut seen: Option<Digest>) {
    loop {
        tokio::time::sleep(EVERY).await;
        let Some(shown) = shown.upgrade() else { return };
        let looked = files.clone();
        let Ok((now, loaded)) = tokio::task::spawn_blocking(move || (digest(&looked), load(&looked))).await else { continue };
        if now == seen {
            continue;
        }
        // Told once for each change: a renewal writes one file after the other, and for a moment they don't match.
        seen = now;
        match loaded {
            Ok(key) => {
                *shown.0.write() = Arc::new(key);
                tracing::info!(chain = %files.chain.display(), "the TLS certificate has changed, and is shown from now on");
            }
            Err(reason) => tracing::warn!(reason, "the TLS certificate has changed and can't be used: the one before is still shown"),
        }
    }
}

/// What the files hold, or that they can't be read.
fn digest(files: &CertificateFiles) -> Option<Digest> {
    let (chain, key) = (read(&files.chain).ok()?, read(&files.key).ok()?);
    Some(Digest::blake3(&[chain, key].concat()))
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    if fs::metadata(path)?.len() > MAX_FILE {
        return Err(io::Error::other("it is too large"));
    }
    fs::read(path)
}

/// The certificate and its key, if they belong together and hold.
fn load(files: &CertificateFiles) -> Result<CertifiedKey, String> {
    let in_file = |path: &Path, reason: String| format!("{}: {reason}", path.display());
    let read = |path: &Path| read(path).map_err(|error| in_file(path, error.to_string()));
    let mode = fs::metadata(&files.key).map_err(|error| in_file(&files.key, error.to_string()))?.permissions().mode();
    if mode & 0o077 != 0 {
        return Err(in_file(&files.key, format!("others may read this key (mode {:04o}): chmod 600", mode & 0o777)));
    }
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&read(&files.chain)?).collect();
    let chain = chain.map_err(|error| in_file(&files.chain, error.to_string()))?;
    let first = chain.first().ok_or_else(|| in_file(&files.chain, "it holds no certificate".into()))?;
    let (_, parsed) = x509_parser::parse_x509_certificate(first).map_err(|error| in_file(&files.chain, error.to_string()))?;
    let left = parsed.validity().not_after.timestamp() - Timestamp::now().as_second();
    if left <= 0 {
        return Err(in_file(&files.chain, format!("it expired on {}", parsed.validity().not_after)));
    }
    if left < SOON_S {
        tracing::warn!(chain = %files.chain.display(), not_after = %parsed.validity().not_after, "the TLS certificate expires soon");
    }
    let key = PrivateKeyDer::from_pem_slice(&read(&files.key)?).map_err(|error| in_file(&files.key, error.to_string()))?;
    let key = ring::default_provider().key_provider.load_private_key(key).map_err(|error| in_file(&files.key, error.to_string()))?;
    let certified = CertifiedKey::new(chain, key);
    match certified.keys_match() {
        Ok(()) => Ok(certified),
        Err(error) => Err(in_file(&files.key, format!("it isn't the key of that certificate: {error}"))),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::OpenOptionsExt as _;

    use libp2p::{
        core::{ConnectedPoint, Endpoint, transport::PortUse},
        multiaddr::Multiaddr,
    };
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio_util::compat::{FuturesAsyncReadCompatExt as _, TokioAsyncReadCompatExt as _};

    use super::*;
    use crate::transport::tls::Tls;

    fn write(files: &CertificateFiles, name: &str) -> Vec<u8> {
        use std::io::Write as _;
        let made = rcgen::generate_simple_self_signed([name.to_owned()]).expect("a certificate");
        fs::write(&files.chain, made.cert.pem()).expect("written");
        let mut key = fs::OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&files.key).expect("a file");
        key.write_all(made.signing_key.serialize_pem().as_bytes()).expect("written");
        made.cert.der().to_vec()
    }

    /// A connection in memory: the dialler's end, on which the certificate was seen, and the listener's.
    async fn connect(tls: &Tls) -> (Vec<u8>, impl AsyncReadBoth, impl AsyncReadBoth) {
        let (ours, theirs) = tokio::io::duplex(64 * 1024);
        let address: Multiaddr = "/ip4/127.0.0.1/tcp/1/tls/ws".parse().expect("an address");
        let dialler = ConnectedPoint::Dialer { address: address.clone(), role_override: Endpoint::Dialer, port_use: PortUse::New };
        let listener = ConnectedPoint::Listener { local_addr: address.clone(), send_back_addr: address };
        let (one, other) = tokio::join!(tls.clone().secure(ours.compat(), dialler), tls.clone().secure(theirs.compat(), listener));
        let (one, other) = (one.expect("TLS").into_inner(), other.expect("TLS"));
        let seen = one.get_ref().1.peer_certificates().expect("shown")[0].to_vec();
        (seen, one, other.compat())
    }

    trait AsyncReadBoth: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin {}

    impl<T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin> AsyncReadBoth for T {}

    #[tokio::test]
    async fn a_new_certificate_is_shown_and_old_connections_live_on() {
        let place = tempfile::tempdir().expect("a directory");
        let files = CertificateFiles { chain: place.path().join("chain.pem"), key: place.path().join("key.pem") };
        let first = write(&files, "one.example");
        let tls = Tls::new(Shown::of(files.clone()).expect("a certificate")).expect("TLS");
        let (seen, mut one, mut other) = connect(&tls).await;
        assert_eq!(seen, first);
        // A pair that doesn't match changes nothing.
        fs::write(&files.chain, "no certificate").expect("written");
        tokio::time::sleep(2 * EVERY).await;
        assert_eq!(connect(&tls).await.0, first);
        let second = write(&files, "two.example");
        let deadline = tokio::time::Instant::now() + 10 * EVERY;
        while connect(&tls).await.0 != second {
            assert!(tokio::time::Instant::now() < deadline, "the new certificate is never shown");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        one.write_all(b"still here").await.expect("written");
        one.flush().await.expect("written");
        let mut heard = [0; 10];
        other.read_exact(&mut heard).await.expect("read");
        assert_eq!(&heard, b"still here");
    }

    #[test]
    fn bad_files_are_named() {
        let place = tempfile::tempdir().expect("a directory");
        let files = CertificateFiles { chain: place.path().join("chain.pem"), key: place.path().join("key.pem") };
        assert!(load(&files).expect_err("nothing there").contains("key.pem"));
        write(&files, "one.example");
        assert!(load(&files).is_ok());
        let chain = fs::read(&files.chain).expect("read");
        write(&files, "two.example");
        fs::write(&files.chain, chain).expect("written");
        assert!(load(&files).expect_err("another's key").contains("isn't the key"));
        fs::set_permissions(&files.key, fs::Permissions::from_mode(0o644)).expect("chmod");
        assert!(load(&files).expect_err("readable").contains("chmod 600"));
    }
}
