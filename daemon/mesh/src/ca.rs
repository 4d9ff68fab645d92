//! The mesh's certificate authority for TLS: signs what WebSocket over TLS shows, where the operator gives no certificate.
//!
//! ```text
//! node: a fresh key, a request with its names --Request::Certify--> authority: a member? few names? --> certificate
//!   ^                                                                                                        |
//!   +------- shown from now on, asked for anew after two thirds of its life <--------------------------------+
//! ```
//! Nodes don't rely on it, as their keys are proven inside TLS (transport/tls.rs). It is for what stands between: proxies
//! and load balancers that verify what they connect to. It vouches for no more than that a member of the mesh asked, so
//! nothing but such a proxy should trust it.

use std::{fmt, time::Duration};

use bytes::Bytes;
use protocol::{Code, MeshId, NodeId, Problem, SignedDuration, Timestamp};
use rcgen::{
    BasicConstraints, Certificate, CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose,
    IsCa, Issuer, KeyPair, KeyUsagePurpose, PublicKeyData as _, SanType,
};
use rustls::{
    crypto::ring,
    pki_types::{CertificateDer, CertificateSigningRequestDer, PrivateKeyDer, PrivatePkcs8KeyDer, pem::PemObject as _},
    sign::CertifiedKey,
};
use zeroize::Zeroizing;

/// The largest request: a key and a handful of names.
const MAX_REQUEST: usize = 4 * 1024;
/// Names in one certificate.
const MAX_NAMES: usize = 16;
/// The longest life of a node's certificate.
const LONGEST: SignedDuration = SignedDuration::from_hours(7 * 24);
/// Clocks of others may be behind.
const BEFORE: SignedDuration = SignedDuration::from_hours(1);
/// The authority's own certificate outlives most nodes, and is made anew in its last years: time to tell every proxy.
const LIFE: SignedDuration = SignedDuration::from_hours(20 * 366 * 24);
const LAST: SignedDuration = SignedDuration::from_hours(2 * 366 * 24);

/// Signs certificates for members.
pub struct CertificateAuthority {
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
    validity: SignedDuration,
}

impl fmt::Debug for CertificateAuthority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CertificateAuthority").finish_non_exhaustive()
    }
}

impl CertificateAuthority {
    /// A new authority for `mesh`: its private key and its certificate, as PEM, one after the other.
    ///
    /// # Errors
    /// The system gives no randomness.
    pub fn create(mesh: &MeshId, now: Timestamp) -> Result<Zeroizing<String>, Problem> {
        certified(mesh, &KeyPair::generate().map_err(failed)?, now)
    }

    /// The same authority with a new certificate, where the one in `pem` is in its last years at `now`. Its key stays, so that
    /// whoever trusts either certificate accepts what it has signed and will sign.
    ///
    /// # Errors
    /// Key or certificate can't be read.
    pub fn renewed(mesh: &MeshId, pem: &str, now: Timestamp) -> Result<Option<Zeroizing<String>>, Problem> {
        let certificate = CertificateDer::from_pem_slice(pem.as_bytes()).map_err(failed)?;
        let (_, parsed) = x509_parser::parse_x509_certificate(&certificate).map_err(failed)?;
        if parsed.validity().not_after.timestamp() - now.as_second() > LAST.as_secs() {
            return Ok(None);
        }
        certified(mesh, &KeyPair::from_pem(pem).map_err(failed)?, now).map(Some)
    }

    /// The authority that [`Self::create`] made. What it signs is valid for `validity`, a week at most.
    ///
    /// # Errors
    /// Key or certificate can't be read, or don't belong together.
    pub fn read(mesh: &MeshId, pem: &str, validity: SignedDuration) -> Result<Self, Problem> {
        let key = KeyPair::from_pem(pem).map_err(failed)?;
        let certificate = CertificateDer::from_pem_slice(pem.as_bytes()).map_err(failed)?;
        let (_, parsed) = x509_parser::parse_x509_certificate(&certificate).map_err(failed)?;
        if parsed.public_key().raw != key.subject_public_key_info() {
            return Err(failed("its key is another's"));
        }
        Ok(Self { issuer: Issuer::new(params(mesh)?, key), certificate: certificate.into_owned(), validity: validity.min(LONGEST) })
    }

    /// A certificate for `node` with the names that `request` (PKCS#10) asks for, and this authority's own.
    ///
    /// # Errors
    /// The request is malformed, isn't signed with its key, or asks for other than a few names.
    pub fn issue(&self, node: NodeId, request: &[u8], now: Timestamp) -> Result<Vec<Bytes>, Problem> {
        let refused = |detail: String| Problem::new(Code::InvalidRequest, format!("the request for a certificate is refused: {detail}"));
        if request.len() > MAX_REQUEST {
            return Err(refused(format!("it has over {MAX_REQUEST} bytes")));
        }
        let request = CertificateSigningRequestDer::from(request);
        let mut request = CertificateSigningRequestParams::from_der(&request).map_err(|error| refused(error.to_string()))?;
        let names = &request.params.subject_alt_names;
        if names.len() > MAX_NAMES || !names.iter().all(|name| matches!(name, SanType::DnsName(_) | SanType::IpAddress(_))) {
            return Err(refused(format!("a certificate has at most {MAX_NAMES} names, of hosts")));
        }
        // Nothing of the request but its key and its names counts.
        let mut params = CertificateParams::default();
        params.subject_alt_names = std::mem::take(&mut request.params.subject_alt_names);
        params.distinguished_name = name(&node.to_string());
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        (params.not_before, params.not_after) = lifetime(now, self.validity);
        request.params = params;
        let signed: Certificate = request.signed_by(&self.issuer).map_err(|error| refused(error.to_string()))?;
        Ok([signed.der(), &self.certificate].map(|der| Bytes::copy_from_slice(der)).into())
    }
}

/// What a node asks the authority for.
pub(crate) struct Wanted {
    key: KeyPair,
    names: Vec<String>,
    request: Vec<u8>,
}

/// What came of it.
pub(crate) struct Obtained {
    pub(crate) shown: CertifiedKey,
    pub(crate) names: Vec<String>,
    /// When the next one is due.
    pub(crate) renew_at: Timestamp,
    /// The authority's certificate.
    pub(crate) authority: Bytes,
}

impl Wanted {
    /// A request with a fresh key, for these hosts.
    pub(crate) fn new(mut names: Vec<String>) -> Result<Self, Problem> {
        names.truncate(MAX_NAMES);
        let key = KeyPair::generate().map_err(failed)?;
        let request = CertificateParams::new(names.clone()).and_then(|params| params.serialize_request(&key)).map_err(failed)?;
        Ok(Self { key, names, request: request.der().to_vec() })
    }

    pub(crate) fn request(&self) -> Bytes {
        self.request.clone().into()
    }

    /// Takes the chain that the authority answered with.
    ///
    /// # Errors
    /// It is none for this request.
    pub(crate) fn take(self, chain: &[Bytes]) -> Result<Obtained, Problem> {
        let [leaf, .., authority] = chain else { return Err(failed("the authority's answer is no chain")) };
        let (_, parsed) = x509_parser::parse_x509_certificate(leaf).map_err(failed)?;
        let (begins, ends) = (parsed.validity().not_before.timestamp(), parsed.validity().not_after.timestamp());
        let life = ends.saturating_sub(begins).saturating_sub(BEFORE.as_secs()).max(0);
        let renew_at = Timestamp::from_second(ends.saturating_sub(life / 3)).map_err(failed)?;
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(self.key.serialize_der()));
        let key = ring::default_provider().key_provider.load_private_key(key).map_err(failed)?;
        let shown = CertifiedKey::new(chain.iter().map(|der| CertificateDer::from(der.to_vec())).collect(), key);
        shown.keys_match().map_err(failed)?;
        Ok(Obtained { shown, names: self.names, renew_at, authority: authority.clone() })
    }
}

/// A certificate as PEM (RFC 7468).
pub(crate) fn pem(der: &[u8]) -> String {
    pem::encode_config(&pem::Pem::new("CERTIFICATE", der), pem::EncodeConfig::new().set_line_ending(pem::LineEnding::LF))
}

/// An authority's private key and its certificate of `now`, as PEM.
fn certified(mesh: &MeshId, key: &KeyPair, now: Timestamp) -> Result<Zeroizing<String>, Problem> {
    let mut params = params(mesh)?;
    (params.not_before, params.not_after) = lifetime(now, LIFE);
    // Two certificates of one issuer must differ in it (RFC 5280, section 4.1.2.2).
    params.serial_number = Some(u64::try_from(now.as_millisecond()).unwrap_or_default().into());
    Ok(Zeroizing::new(format!("{}{}", *Zeroizing::new(key.serialize_pem()), params.self_signed(key).map_err(failed)?.pem())))
}

fn params(mesh: &MeshId) -> Result<CertificateParams, Problem> {
    let mut params = CertificateParams::new(Vec::new()).map_err(failed)?;
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.distinguished_name = name(&format!("MCP-ZERO mesh {mesh}"));
    Ok(params)
}

fn name(common: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    // X.520 allows 64 characters.
    name.push(DnType::CommonName, common.chars().take(64).collect::<String>());
    name
}

fn lifetime(now: Timestamp, validity: SignedDuration) -> (time::OffsetDateTime, time::OffsetDateTime) {
    let at = |second: i64| time::OffsetDateTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(second).unwrap_or_default());
    (at(now.as_second() - BEFORE.as_secs()), at(now.as_second().saturating_add(validity.as_secs())))
}

fn failed(reason: impl fmt::Display) -> Problem {
    Problem::new(Code::Internal, format!("a TLS certificate can't be made: {reason}"))
}

#[cfg(test)]
mod tests {
    use protocol::Key;

    use super::*;

    #[test]
    fn members_get_what_they_ask_for_and_no_more() {
        let (mesh, node, now) = (MeshId::of(Key::generate().did()), Key::generate().node_id(), Timestamp::now());
        let pem = CertificateAuthority::create(&mesh, now).expect("made");
        let authority = CertificateAuthority::read(&mesh, &pem, SignedDuration::from_hours(24)).expect("read");
        let wanted = Wanted::new(vec!["203.0.113.7".into(), "node.example".into()]).expect("a request");
        let chain = authority.issue(node, &wanted.request(), now).expect("issued");
        let obtained = wanted.take(&chain).expect("a chain");
        assert_eq!(obtained.renew_at, Timestamp::from_second(now.as_second() + 16 * 3_600).expect("a time"));
        let (_, leaf) = x509_parser::parse_x509_certificate(&chain[0]).expect("a certificate");
        let (_, own) = x509_parser::parse_x509_certificate(&chain[1]).expect("a certificate");
        leaf.verify_signature(Some(own.public_key())).expect("signed by the authority");
        assert!(!leaf.is_ca() && own.is_ca() && leaf.subject().to_string().contains(&node.to_string()));
        // Another's chain, and requests that nobody honest makes.
        assert!(Wanted::new(Vec::new()).expect("a request").take(&chain).is_err());
        let mut forged = Wanted::new(vec!["node.example".into()]).expect("a request").request().to_vec();
        let last = forged.len() - 3;
        forged[last] ^= 1;
        for bad in [forged, vec![0; MAX_REQUEST + 1], b"nothing".to_vec()] {
            assert_eq!(authority.issue(node, &bad, now).expect_err("refused").code, Code::InvalidRequest);
        }
        // In its last years it has a certificate more, of the same key: either verifies what it signs.
        assert!(CertificateAuthority::renewed(&mesh, &pem, now + (LIFE - LAST) / 2).expect("read").is_none());
        let later = now + (LIFE - LAST);
        let renewed = CertificateAuthority::renewed(&mesh, &pem, later).expect("read").expect("it is time");
        assert!(CertificateAuthority::renewed(&mesh, &renewed, later).expect("read").is_none());
        let wanted = Wanted::new(vec!["node.example".into()]).expect("a request");
        let authority = CertificateAuthority::read(&mesh, &renewed, LONGEST).expect("read");
        let chain = authority.issue(node, &wanted.request(), later).expect("issued");
        let (_, leaf) = x509_parser::parse_x509_certificate(&chain[0]).expect("a certificate");
        let (_, new) = x509_parser::parse_x509_certificate(&chain[1]).expect("a certificate");
        leaf.verify_signature(Some(own.public_key())).expect("whoever trusts the old one goes on");
        assert!(new.validity().not_after > own.validity().not_after && new.raw_serial() != own.raw_serial());
        assert_eq!((new.public_key(), new.subject()), (own.public_key(), own.subject()));
        let other = CertificateAuthority::create(&mesh, now).expect("made");
        let certificate = &pem[pem.find("-----BEGIN CERTIFICATE").expect("its certificate")..];
        let key = &other[..other.find("-----BEGIN CERTIFICATE").expect("its certificate")];
        assert!(CertificateAuthority::read(&mesh, &format!("{key}{certificate}"), LONGEST).is_err());
    }
}
