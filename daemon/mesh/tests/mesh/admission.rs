//! Who is let in: on every transport, before anything else runs.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use mesh::{Authority, CertificateAuthority, Config, Error, Handler, Keys, Listen, Membership, Mesh, Papers, Pending, Step, enrol};
use parking_lot::Mutex;
use protocol::{
    Code, Credential, Header, Key, MeshId, NodeId, Problem, Signed, SignedDuration, Timestamp, Token, TokenId,
    credential::{MAX_VALIDITY, Member, Revocations, Revoked, Role},
    id::CredentialId,
    token::{Enrolment, Grant},
    wire::{Announcement, Request, Response},
};
use tokio::time::Instant;

use crate::harness::{LOCALHOST, Node, PATIENCE, Seen, eventually, tcp};

/// A mesh's authority, and what it issues.
pub(crate) struct Issuer {
    pub(crate) key: Key,
    pub(crate) node: Key,
    enrolled: Mutex<Vec<NodeId>>,
    certificates: CertificateAuthority,
}

impl Issuer {
    pub(crate) fn new() -> Arc<Self> {
        let key = Key::generate();
        let mesh = MeshId::of(key.did());
        let pem = CertificateAuthority::create(&mesh, Timestamp::now()).expect("made");
        // So short that a node has to ask for the next one while a test waits.
        let certificates = CertificateAuthority::read(&mesh, &pem, SignedDuration::from_secs(15)).expect("its own");
        Arc::new(Self { key, node: Key::generate(), enrolled: Mutex::default(), certificates })
    }

    pub(crate) fn mesh(&self) -> MeshId {
        MeshId::of(self.key.did())
    }

    pub(crate) fn credential(&self, node: NodeId, issued_at: Timestamp, valid: SignedDuration) -> Signed<Credential> {
        let credential = Credential {
            header: Header::new::<Credential>(&self.mesh(), issued_at, valid),
            id: CredentialId::new(),
            node,
            owner: self.key.did(),
            role: Role::Server,
            zone: None,
            issuer: self.node.node_id(),
        };
        Signed::sign(credential, &[&self.key])
    }

    fn token(&self, addresses: Vec<String>) -> (Token, Grant) {
        let key = Token::key();
        let grant = Grant {
            id: TokenId::new(),
            mesh: self.mesh(),
            key: key.did(),
            expires_at: Timestamp::now() + SignedDuration::from_hours(1),
            uses: 1,
            role: Role::Edge,
            zone: None,
            issuer: self.node.node_id(),
            addresses,
        };
        let token = Token::new(&grant, &key, &self.key);
        (token, grant)
    }

    fn revoke(&self, sequence: u64, node: NodeId) -> Signed<Revocations> {
        let now = Timestamp::now();
        let header = Header::new::<Revocations>(&self.mesh(), now, MAX_VALIDITY);
        Signed::sign(Revocations { header, sequence, revoked: vec![Revoked { node, at: now, until: now + MAX_VALIDITY }] }, &[&self.key])
    }

    /// A member of this mesh.
    async fn member(&self, listen: Listen) -> Node {
        Node::spawn(self.config(&Key::generate(), listen)).await
    }

    fn config(&self, key: &Key, listen: Listen) -> Config {
        let config = config(key, self.mesh(), listen);
        let credential = self.credential(key.node_id(), Timestamp::now(), MAX_VALIDITY);
        config.membership.set_credential(credential.into(), Timestamp::now()).expect("a credential");
        config
    }
}

fn config(key: &Key, mesh: MeshId, listen: Listen) -> Config {
    Config { listen, private_addresses: true, ..Config::new(key.clone(), mesh) }
}

#[async_trait]
impl Authority for Issuer {
    async fn enrol(&self, enrolment: &Signed<Enrolment>, _: &Grant, _: &str) -> Result<Signed<Credential>, Problem> {
        let enrolment = enrolment.document();
        self.enrolled.lock().push(enrolment.node);
        Ok(self.credential(enrolment.node, Timestamp::now(), MAX_VALIDITY))
    }

    async fn renew(&self, node: NodeId, _: &str) -> Result<Signed<Credential>, Problem> {
        Ok(self.credential(node, Timestamp::now(), MAX_VALIDITY))
    }

    async fn certify(&self, node: NodeId, request: &[u8]) -> Result<Vec<Bytes>, Problem> {
        self.certificates.issue(node, request, Timestamp::now())
    }

    async fn left(&self, _: NodeId, _: &str) -> Result<(), Problem> {
        Ok(())
    }

    async fn members(&self) -> Result<Vec<Member>, Problem> {
        Ok(Vec::new())
    }
}

/// The node that has the authority's key.
struct Headquarters(Arc<Issuer>, Seen);

#[async_trait]
impl Handler for Headquarters {
    async fn request(&self, from: NodeId, request: Request, id: &str, deadline: Instant) -> Result<Response, Problem> {
        self.1.request(from, request, id, deadline).await
    }

    fn authority(&self) -> Option<Arc<dyn Authority>> {
        Some(self.0.clone())
    }

    fn announced(&self, _: NodeId, _: Announcement) {}

    fn connected(&self, _: NodeId) {}

    fn disconnected(&self, _: NodeId) {}
}

const NONE: Listen = Listen { host: LOCALHOST, tcp: None, quic: None, wss: None };

#[tokio::test(flavor = "multi_thread")]
async fn members_alone_get_in_on_every_transport_and_others_are_told_why_not() {
    let (issuer, foreign) = (Issuer::new(), Issuer::new());
    let server = issuer.member(Listen::any_port(LOCALHOST)).await;
    let (own, other, now) = (Key::generate(), Key::generate(), Timestamp::now());
    let day = SignedDuration::from_hours(24);
    let strangers = [
        (Code::NotAMember, None, issuer.mesh()),
        (Code::ForeignMesh, Some(foreign.credential(own.node_id(), now, day)), foreign.mesh()),
        (Code::ForeignMesh, None, "test".parse().expect("an open mesh")),
    ];
    for transport in ["tcp", "quic", "wss"] {
        let address = server.address(transport);
        let member = issuer.member(NONE).await;
        assert_eq!(member.mesh.join(&address, PATIENCE).await.expect(transport), server.id());
        server.sees(&member).await;
        assert_eq!(server.mesh.membership().of(member.id()).expect("its credential").document().node, member.id());
        for (code, credential, mesh) in &strangers {
            let config = config(&own, mesh.clone(), NONE);
            if let Some(credential) = credential {
                config.membership.set_credential(credential.clone().into(), now).expect("good in its own mesh");
            }
            let stranger = Node::spawn(config).await;
            let refused = stranger.mesh.join(&address, PATIENCE).await.expect_err("no member");
            assert!(matches!(&refused, Error::Refused { code: found, .. } if found == code), "{transport}: {refused}");
            assert!(stranger.seen.connected.lock().is_empty() && stranger.mesh.peers().is_empty());
            stranger.mesh.shutdown().await;
        }
        member.mesh.shutdown().await;
    }
    // Nothing but members ever reached the node above.
    assert_eq!(server.seen.connected.lock().len(), 3);
    assert_eq!(server.seen.started.load(Ordering::SeqCst), 0);
    drop(other);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_is_revoked_is_thrown_out_everywhere_and_stays_out() {
    let issuer = Issuer::new();
    let (a, b, c) = (issuer.member(tcp(0)).await, issuer.member(tcp(0)).await, issuer.member(tcp(0)).await);
    b.mesh.join(&a.address("tcp"), PATIENCE).await.expect("a member");
    c.mesh.join(&b.address("tcp"), PATIENCE).await.expect("a member");
    c.mesh.join(&a.address("tcp"), PATIENCE).await.expect("a member");
    for (one, other) in [(&a, &c), (&b, &c), (&a, &b)] {
        one.sees(other).await;
    }
    // Told to one node alone: the list floods.
    let list = issuer.revoke(1, c.id());
    a.mesh.membership().learn(list.into(), Timestamp::now()).expect("genuine");
    for node in [&a, &b] {
        eventually("the revoked node is out", || node.mesh.peers().iter().all(|peer| peer.node_id != c.id())).await;
    }
    a.sees(&b).await;
    eventually("the list has arrived", || b.mesh.membership().revocations().is_some()).await;
    // Whom it takes to be connected still it wouldn't dial.
    eventually("it knows that it is out", || c.mesh.peers().is_empty()).await;
    let refused = c.mesh.join(&b.address("tcp"), PATIENCE).await.expect_err("revoked");
    assert_eq!(refused.code(), Code::Revoked, "{refused}");
    // A node that wasn't there learns of it from its first neighbour.
    let late = issuer.member(tcp(0)).await;
    late.mesh.join(&a.address("tcp"), PATIENCE).await.expect("a member");
    eventually("a newcomer knows", || late.mesh.membership().revocations().is_some()).await;
    assert_eq!(c.mesh.join(&late.address("tcp"), PATIENCE).await.expect_err("revoked").code(), Code::Revoked);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_enrols_whoever_dials_and_whoever_is_dialled() {
    let issuer = Issuer::new();
    let seen = Arc::new(Headquarters(issuer.clone(), Seen::default()));
    let headquarters = Mesh::spawn(issuer.config(&issuer.node, Listen::any_port(LOCALHOST)), seen).await.expect("a node");
    let entry = issuer.member(tcp(0)).await;
    let at = headquarters.addresses();
    entry.mesh.join(&at[0], PATIENCE).await.expect("a member");

    // Through a member that has to ask the authority; by the running mesh itself; over each transport by hand.
    let key = Key::generate();
    let waiting = config(&key, issuer.mesh(), tcp(0));
    let (token, grant) = issuer.token(Vec::new());
    waiting.membership.hold(Pending { token, grant, node: key.clone(), owner: Arc::new(key.clone()) });
    let newcomer = Node::spawn(Config { bootstrap: vec![entry.address("tcp")], ..waiting }).await;
    eventually("enrolled through a member", || newcomer.mesh.membership().credential().is_some()).await;
    newcomer.sees(&entry).await;
    for address in &at {
        let keys = Keys { node: Key::generate(), owner: Arc::new(Key::generate()) };
        let membership = Arc::new(Membership::new(issuer.mesh(), keys.node.node_id()));
        let (token, grant) = issuer.token(Vec::new());
        membership.hold(Pending { token, grant, node: keys.node.clone(), owner: keys.owner.clone() });
        let by = enrol(&keys.node, &membership, address, PATIENCE).await.map_err(|failed| failed.problem).expect(address);
        assert_eq!(by, headquarters.node_id());
        assert_eq!(membership.credential().expect("its own").document().node, keys.node.node_id());
    }
    assert_eq!(issuer.enrolled.lock().len(), 1 + at.len());

    // A node that waits for its authority to call.
    let key = Key::generate();
    let waiting = config(&key, issuer.mesh(), tcp(0));
    let (token, grant) = issuer.token(Vec::new());
    waiting.membership.hold(Pending { token, grant, node: key.clone(), owner: Arc::new(key.clone()) });
    let waiting = Node::spawn(waiting).await;
    assert_eq!(headquarters.join(&waiting.address("tcp"), PATIENCE).await.expect("enrolled, and then a member"), waiting.id());
    eventually("enrolled by a call", || waiting.mesh.membership().credential().is_some()).await;
    eventually("and connected", || headquarters.peers().iter().any(|peer| peer.node_id == waiting.id())).await;
}

/// A node that has nothing but a credential which has expired.
async fn late(issuer: &Issuer, place: &std::path::Path, entry: &Node) -> Node {
    let keys = Keys { node: Key::generate(), owner: Arc::new(Key::generate()) };
    let papers = Papers::at(place);
    let now = Timestamp::now();
    papers.keep_credential(&issuer.credential(keys.node.node_id(), now - MAX_VALIDITY, MAX_VALIDITY)).expect("written");
    let membership = papers.membership(None, &keys, None, now).expect("papers").expect("a mesh");
    assert!(membership.credential().is_none(), "it has expired");
    let config = config(&keys.node, issuer.mesh(), tcp(0));
    Node::spawn(Config { membership: Arc::new(membership), bootstrap: vec![entry.address("tcp")], ..config }).await
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_was_off_for_too_long_is_prolonged_at_the_door_unless_it_was_revoked() {
    let (issuer, place) = (Issuer::new(), tempfile::tempdir().expect("a directory"));
    let entry = issuer.member(tcp(0)).await;
    let node = late(&issuer, place.path(), &entry).await;
    // Nobody can prolong it while the authority is away.
    let refused = node.mesh.join(&entry.address("tcp"), PATIENCE).await.expect_err("the authority is away");
    assert_eq!(refused.code(), Code::Expired, "{refused}");
    let seen = Arc::new(Headquarters(issuer.clone(), Seen::default()));
    let headquarters = Mesh::spawn(issuer.config(&issuer.node, tcp(0)), seen).await.expect("a node");
    entry.mesh.join(&headquarters.addresses()[0], PATIENCE).await.expect("a member");
    eventually("prolonged through a member", || node.mesh.membership().credential().is_some()).await;
    node.sees(&entry).await;

    let other = late(&issuer, place.path(), &entry).await;
    entry.mesh.membership().learn(issuer.revoke(1, other.id()).into(), Timestamp::now()).expect("genuine");
    // It may have been quicker than the list: then it is thrown out.
    eventually("it is out", || entry.mesh.peers().iter().all(|peer| peer.node_id != other.id())).await;
    eventually("it knows that it is out", || other.mesh.peers().is_empty()).await;
    assert_eq!(other.mesh.join(&entry.address("tcp"), PATIENCE).await.expect_err("revoked").code(), Code::Revoked);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_step_that_fails_is_named() {
    let issuer = Issuer::new();
    let server = issuer.member(Listen::any_port(LOCALHOST)).await;
    let free = std::net::TcpListener::bind((LOCALHOST, 0)).expect("a port").local_addr().expect("bound").port();
    let silent = std::net::TcpListener::bind((LOCALHOST, 0)).expect("a port");
    let silent = silent.local_addr().map(|address| (silent, address.port())).expect("bound");
    let attempt = async |address: String| {
        let key = Key::generate();
        let membership = Arc::new(Membership::new(issuer.mesh(), key.node_id()));
        let (token, grant) = issuer.token(Vec::new());
        membership.hold(Pending { token, grant, node: key.clone(), owner: Arc::new(key.clone()) });
        enrol(&key, &membership, &address, Duration::from_secs(3)).await.expect_err("nobody enrols there").step
    };
    assert_eq!(attempt("nonsense".into()).await, Step::Address);
    assert_eq!(attempt("/dns4/nowhere.invalid/tcp/8766".into()).await, Step::Dns);
    assert_eq!(attempt(format!("/ip4/127.0.0.1/tcp/{free}")).await, Step::Tcp);
    assert_eq!(attempt(format!("/ip4/127.0.0.1/udp/{free}/quic-v1")).await, Step::Quic);
    assert_eq!(attempt(format!("wss://127.0.0.1:{}", silent.1)).await, Step::Tls);
    assert_eq!(attempt(format!("/ip4/127.0.0.1/tcp/{}", silent.1)).await, Step::Handshake);
    // There is a member, and the authority can't be reached from it.
    assert_eq!(attempt(server.address("wss")).await, Step::Admission);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_credential_renews_itself() {
    let issuer = Issuer::new();
    let seen = Arc::new(Headquarters(issuer.clone(), Seen::default()));
    let headquarters = Mesh::spawn(issuer.config(&issuer.node, tcp(0)), seen).await.expect("a node");
    let key = Key::generate();
    let config = config(&key, issuer.mesh(), tcp(0));
    let short = issuer.credential(key.node_id(), Timestamp::now(), SignedDuration::from_secs(20));
    config.membership.set_credential(short.into(), Timestamp::now()).expect("a credential");
    let node = Node::spawn(config).await;
    node.mesh.join(&headquarters.addresses()[0], PATIENCE).await.expect("a member");
    let renewed =
        || node.mesh.membership().credential().is_some_and(|own| own.document().header.expires_at > Timestamp::now() + MAX_VALIDITY / 2);
    let deadline = Instant::now() + PATIENCE * 3;
    while !renewed() {
        assert!(Instant::now() < deadline, "not renewed in time");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// What a proxy sees that verifies nodes by the mesh's TLS authority: the serial number of the certificate shown.
async fn verified(address: &str, authority: &str) -> Result<Vec<u8>, String> {
    use rustls::pki_types::{CertificateDer, ServerName, pem::PemObject as _};
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(authority.as_bytes()).expect("PEM")).expect("a certificate");
    let config = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("TLS 1.2 and 1.3")
        .with_root_certificates(roots)
        .with_no_client_auth();
    let parts: Vec<&str> = address.split('/').collect();
    let stream = tokio::net::TcpStream::connect(format!("{}:{}", parts[2], parts[4])).await.expect("it listens");
    let name = ServerName::try_from(parts[2].to_owned()).expect("an address");
    let connected = tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, stream).await.map_err(|error| error.to_string())?;
    let shown = connected.get_ref().1.peer_certificates().expect("shown")[0].clone();
    let (_, parsed) = x509_parser::parse_x509_certificate(&shown).expect("a certificate");
    Ok(parsed.raw_serial().to_vec())
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_show_what_the_meshs_authority_has_signed_and_renew_it_in_time() {
    let issuer = Issuer::new();
    let config = issuer.config(&issuer.node, Listen::any_port(LOCALHOST));
    let headquarters = Mesh::spawn(config, Arc::new(Headquarters(issuer.clone(), Seen::default()))).await.expect("a node");
    let member = issuer.member(Listen::any_port(LOCALHOST)).await;
    let wss = member.address("wss");
    member.mesh.join(&headquarters.addresses()[0], PATIENCE).await.expect("a member");
    eventually("a certificate is signed", || member.mesh.certificate_authority().is_some()).await;
    let authority = member.mesh.certificate_authority().expect("it has one");
    assert_eq!(headquarters.certificate_authority().as_ref(), Some(&authority), "one for the whole mesh");
    let first = verified(&wss, &authority).await.expect("a proxy takes it");
    let deadline = Instant::now() + PATIENCE;
    while verified(&wss, &authority).await.expect("at any time") == first {
        assert!(Instant::now() < deadline, "it was never renewed");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    // Of another mesh's authority nobody is convinced.
    let other = CertificateAuthority::create(&MeshId::of(Key::generate().did()), Timestamp::now()).expect("made");
    let other = &other[other.find("-----BEGIN CERTIFICATE").expect("its certificate")..];
    assert!(verified(&wss, other).await.is_err());
}
