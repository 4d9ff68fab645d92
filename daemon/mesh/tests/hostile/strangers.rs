//! Whoever isn't a member, and tries everything: 10,000 connections with bad papers, each refused with its reason, while
//! members go on calling one another.

use std::{
    io,
    sync::{Arc, atomic::AtomicUsize, atomic::Ordering},
    time::Duration,
};

use async_trait::async_trait;
use futures::{AsyncReadExt as _, AsyncWriteExt as _, FutureExt as _, StreamExt as _, future::poll_fn, stream};
use libp2p::{
    Multiaddr, Transport as _,
    core::{
        Endpoint,
        muxing::{StreamMuxerBox, StreamMuxerExt as _},
        transport::{Boxed, DialOpts, PortUse},
        upgrade::Version,
    },
    identity::Keypair,
    noise, tcp, yamux,
};
use mesh::{Config, Handler, Listen, Mesh};
use parking_lot::Mutex;
use protocol::{
    Code, Credential, Header, Key, MeshId, NodeId, Problem, Signed, SignedDuration, Timestamp,
    admission::{Hello, Offer, VERSION, Verdict},
    credential::{MAX_VALIDITY, Role},
    document::Sealed,
    id::CredentialId,
    wire::{self, Announcement, Request, Response},
};
use tokio::time::{self, Instant};

use crate::ALONE;

/// Connections that are tried in all.
const TRIES: usize = 10_000;
/// Of those, how many at once.
const AT_ONCE: usize = 32;
/// Round trips whose median is compared.
const PINGS: usize = 400;

#[derive(Default)]
pub(crate) struct Quiet(AtomicUsize);

#[async_trait]
impl Handler for Quiet {
    async fn request(&self, _: NodeId, _: Request, _: &str, _: Instant) -> Result<Response, Problem> {
        Err(Problem::new(Code::NotFound, "nothing here"))
    }

    fn announced(&self, _: NodeId, _: Announcement) {}

    fn connected(&self, _: NodeId) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }

    fn disconnected(&self, _: NodeId) {}
}

struct Issuer(Key);

impl Issuer {
    fn mesh(&self) -> MeshId {
        MeshId::of(self.0.did())
    }

    fn credential(&self, signer: &Key, node: NodeId, issued_at: Timestamp) -> Sealed<Credential> {
        let credential = Credential {
            header: Header::new::<Credential>(&self.mesh(), issued_at, MAX_VALIDITY),
            id: CredentialId::new(),
            node,
            owner: self.0.did(),
            role: Role::Server,
            zone: None,
            issuer: self.0.node_id(),
        };
        Signed::sign(credential, &[signer]).into()
    }

    async fn member(&self) -> (Mesh, Arc<Quiet>) {
        let key = Key::generate();
        let listen = Listen { tcp: Some(0), quic: None, wss: None, host: std::net::Ipv4Addr::LOCALHOST.into() };
        let config = Config { listen, private_addresses: true, ..Config::new(key.clone(), self.mesh()) };
        let credential = self.credential(&self.0, key.node_id(), Timestamp::now());
        config.membership.set_credential(credential, Timestamp::now()).expect("a credential");
        let quiet = Arc::new(Quiet::default());
        (Mesh::spawn(config, quiet.clone()).await.expect("a node"), quiet)
    }
}

/// What a stranger sends first.
enum Papers {
    Shown(Hello),
    Bytes(Vec<u8>),
}

/// A way of trying, and the answer that it must get; `None` where nobody is owed one.
fn attempt(issuer: &Issuer, foreign: &Issuer, stolen: &Sealed<Credential>, node: NodeId, turn: usize) -> (Papers, Option<Code>) {
    let now = Timestamp::now();
    let hello = |mesh: MeshId, offer| Papers::Shown(Hello { version: VERSION, mesh, offer });
    let shown = |sealed| hello(issuer.mesh(), Offer::Credential(sealed));
    match turn % 10 {
        0 => (hello(issuer.mesh(), Offer::Nothing), Some(Code::NotAMember)),
        1 => (shown(issuer.credential(&Key::generate(), node, now)), Some(Code::Unsigned)),
        2 => (shown(issuer.credential(&issuer.0, node, now - MAX_VALIDITY)), Some(Code::Expired)),
        3 => (shown(stolen.clone()), Some(Code::StolenCredential)),
        4 => (shown(foreign.credential(&foreign.0, node, now)), Some(Code::ForeignMesh)),
        5 => (hello(foreign.mesh(), Offer::Credential(foreign.credential(&foreign.0, node, now))), Some(Code::ForeignMesh)),
        6 => {
            let mut envelope = issuer.credential(&issuer.0, node, now).envelope().clone();
            envelope.payload.replace_range(40..41, if envelope.payload.as_bytes()[40] == b'A' { "B" } else { "A" });
            (shown(envelope.into()), Some(Code::BadSignature))
        }
        7 => (shown(issuer.credential(&issuer.0, node, now + SignedDuration::from_mins(10))), Some(Code::FutureDated)),
        8 => (Papers::Bytes([&[0, 64][..], &[0xff; 64]].concat()), Some(Code::MalformedDocument)),
        // Longer than anything honest: the limit itself is the answer.
        _ => (Papers::Bytes([&[0xff, 0xff][..], &[0; 100]].concat()), Some(Code::MalformedDocument)),
    }
}

pub(crate) fn transport(key: &Keypair) -> Boxed<(libp2p::PeerId, StreamMuxerBox)> {
    let noise = noise::Config::new(key).expect("Noise");
    tcp::tokio::Transport::new(tcp::Config::default())
        .upgrade(Version::V1Lazy)
        .authenticate(noise)
        .multiplex(yamux::Config::default())
        .boxed()
}

/// Connects, shows `papers` on the first substream, and returns the verdict.
async fn verdict(address: Multiaddr, keypair: Keypair, papers: Papers) -> io::Result<Verdict> {
    let options = DialOpts { role: Endpoint::Dialer, port_use: PortUse::New };
    let dial = transport(&keypair).dial(address, options).map_err(|error| io::Error::other(error.to_string()))?;
    let (_, mut muxer) = dial.await?;
    let mut stream = poll_fn(|cx| {
        let opened = muxer.poll_outbound_unpin(cx);
        if opened.is_pending() {
            let _ = muxer.poll_unpin(cx)?;
        }
        opened
    })
    .await?;
    let mut exchange = std::pin::pin!(async {
        match papers {
            Papers::Shown(hello) => {
                let payload = wire::encode(&hello);
                stream.write_all(&u16::try_from(payload.len()).expect("small").to_be_bytes()).await?;
                stream.write_all(&payload).await?;
            }
            Papers::Bytes(bytes) => stream.write_all(&bytes).await?,
        }
        stream.flush().await?;
        let _hello: Hello = read(&mut stream).await?;
        read::<Verdict>(&mut stream).await
    });
    poll_fn(|cx| {
        let mut ended = false;
        loop {
            if let std::task::Poll::Ready(done) = exchange.poll_unpin(cx) {
                return std::task::Poll::Ready(done);
            }
            if ended {
                return std::task::Poll::Pending;
            }
            match muxer.poll_unpin(cx) {
                std::task::Poll::Pending => return std::task::Poll::Pending,
                std::task::Poll::Ready(event) => ended = event.is_err(),
            }
        }
    })
    .await
}

pub(crate) async fn read<T: serde::de::DeserializeOwned>(stream: &mut (impl futures::AsyncRead + Unpin)) -> io::Result<T> {
    let mut length = [0; 2];
    stream.read_exact(&mut length).await?;
    let mut payload = vec![0; u16::from_be_bytes(length).into()];
    stream.read_exact(&mut payload).await?;
    wire::decode(&payload).map_err(|error| io::Error::other(error.to_string()))
}

/// The median round trip between two members.
pub(crate) async fn median(from: &Mesh, to: NodeId) -> Duration {
    let mut trips = Vec::with_capacity(PINGS);
    for _ in 0..PINGS {
        trips.push(from.ping(to).await.expect("a member answers"));
        time::sleep(Duration::from_millis(2)).await;
    }
    trips.sort_unstable();
    trips[PINGS / 2]
}

/// This process's resident memory, in bytes.
pub(crate) fn resident() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").expect("Linux");
    statm.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok()).expect("a number") * 4096
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_bad_credentials_open_nothing_and_slow_nobody() {
    let _alone = ALONE.lock().await;
    let (issuer, foreign) = (Issuer(Key::generate()), Issuer(Key::generate()));
    let ((one, seen), (other, _)) = (issuer.member().await, issuer.member().await);
    one.join(&other.addresses()[0], Duration::from_secs(20)).await.expect("a member");
    let address: Multiaddr = one.addresses()[0].parse().expect("an address");
    let stolen = issuer.credential(&issuer.0, other.node_id(), Timestamp::now());
    let calm = median(&other, one.node_id()).await;
    let before = resident();

    let wrong = Mutex::new(Vec::new());
    let attack = stream::iter(0..TRIES)
        .map(|turn| {
            let keypair = Keypair::generate_ed25519();
            let seed = keypair.public().try_into_ed25519().expect("its kind").to_bytes();
            let node = NodeId::from_bytes(&seed).expect("a key");
            let (papers, expected) = attempt(&issuer, &foreign, &stolen, node, turn);
            let (address, wrong) = (address.clone(), &wrong);
            async move {
                let found = match time::timeout(Duration::from_secs(30), verdict(address, keypair, papers)).await {
                    Ok(Ok(Verdict::Refused(refusal))) => Some(refusal.code),
                    Ok(Ok(Verdict::Admitted | Verdict::Enrolled(_))) => panic!("attempt {turn} was let in"),
                    Ok(Err(_)) | Err(_) => None,
                };
                if found != expected {
                    wrong.lock().push((turn % 10, found));
                }
            }
        })
        .buffer_unordered(AT_ONCE)
        .collect::<()>();
    let (under_attack, ()) = tokio::join!(median(&other, one.node_id()), attack);

    let wrong = wrong.into_inner();
    // A busy machine may cost a handshake its time; a wrong reason it can't excuse.
    assert!(wrong.iter().all(|(_, found)| found.is_none()), "{:?}", &wrong[..wrong.len().min(10)]);
    assert!(wrong.len() < TRIES / 100, "{} got no reason: {:?}", wrong.len(), &wrong[..wrong.len().min(10)]);
    assert_eq!(seen.0.load(Ordering::SeqCst), 1, "the one member alone was ever connected");
    assert_eq!(one.peers().len(), 1);
    other.ping(one.node_id()).await.expect("members are served as before");
    let grown = resident().saturating_sub(before);
    assert!(grown < 64 << 20, "{} MiB more after {TRIES} strangers", grown >> 20);
    // Attackers and defenders share this machine's cores, so the floor is what a handshake's work may take of them.
    let bound = (calm * 2).max(Duration::from_millis(20));
    assert!(under_attack < bound, "p50 {under_attack:?} under attack, {calm:?} before");
}
