//! A peer that was let in, and then misbehaves: honest nodes keep their speed, and throw it out.

use std::{io, sync::Arc, time::Duration};

use futures::{AsyncReadExt as _, AsyncWriteExt as _, future::poll_fn};
use libp2p::{
    Multiaddr, Transport as _,
    core::{
        Endpoint,
        muxing::{StreamMuxerBox, StreamMuxerExt as _, SubstreamBox},
        transport::{DialOpts, PortUse},
    },
    identity::Keypair,
};
use mesh::{Config, Listen, Mesh};
use protocol::{
    Digest, Key, NodeId, Timestamp,
    admission::{Hello, Offer, VERSION, Verdict},
    wire::{self, Announcement},
};
use tokio::{
    sync::{mpsc, oneshot},
    time,
};

use crate::ALONE;
use crate::strangers::{Quiet, median, read, resident, transport};

const MESH: &str = "hostile";

fn config(key: Key) -> Config {
    let listen = Listen { tcp: Some(0), quic: None, wss: None, host: std::net::Ipv4Addr::LOCALHOST.into() };
    Config { listen, private_addresses: true, ..Config::new(key, MESH.parse().expect("a mesh id")) }
}

pub(crate) async fn honest() -> Mesh {
    Mesh::spawn(config(Key::generate()), Arc::new(Quiet::default())).await.expect("a node")
}

/// A connection that was admitted and is at the rogue's disposal.
struct Rogue {
    node: NodeId,
    open: mpsc::Sender<oneshot::Sender<io::Result<SubstreamBox>>>,
}

impl Rogue {
    async fn connect(address: &Multiaddr) -> io::Result<Self> {
        let keypair = Keypair::generate_ed25519();
        let public = keypair.public().try_into_ed25519().expect("its kind").to_bytes();
        let options = DialOpts { role: Endpoint::Dialer, port_use: PortUse::New };
        let dial = transport(&keypair).dial(address.clone(), options).map_err(|error| io::Error::other(error.to_string()))?;
        let (_, muxer) = dial.await?;
        let (open, receiver) = mpsc::channel(1);
        tokio::spawn(drive(muxer, receiver));
        let rogue = Self { node: NodeId::from_bytes(&public).expect("a key"), open };
        let mut stream = rogue.stream().await?;
        let hello = wire::encode(&Hello { version: VERSION, mesh: MESH.parse().expect("a mesh id"), offer: Offer::Nothing });
        let length = u16::try_from(hello.len()).expect("small").to_be_bytes();
        stream.write_all(&[&length[..], &hello].concat()).await?;
        stream.flush().await?;
        let _: Hello = read(&mut stream).await?;
        match read(&mut stream).await? {
            Verdict::Admitted => {}
            Verdict::Refused(refusal) => return Err(io::Error::new(io::ErrorKind::PermissionDenied, refusal)),
            Verdict::Enrolled(_) => unreachable!("the mesh is open"),
        }
        let admitted = wire::encode(&Verdict::Admitted);
        let length = u16::try_from(admitted.len()).expect("small").to_be_bytes();
        stream.write_all(&[&length[..], &admitted].concat()).await?;
        stream.flush().await?;
        Ok(rogue)
    }

    async fn stream(&self) -> io::Result<SubstreamBox> {
        let (reply, opened) = oneshot::channel();
        let gone = || io::Error::from(io::ErrorKind::ConnectionAborted);
        self.open.send(reply).await.map_err(|_| gone())?;
        opened.await.map_err(|_| gone())?
    }

    /// A stream of the RPC protocol.
    async fn rpc(&self) -> io::Result<SubstreamBox> {
        self.speaking(&wire::rpc_protocol(&MESH.parse().expect("a mesh id"))).await
    }

    /// A stream of a protocol (multistream-select 1.0.0, by hand).
    async fn speaking(&self, name: &str) -> io::Result<SubstreamBox> {
        let mut stream = self.stream().await?;
        let message = |text: &str| [&[u8::try_from(text.len() + 1).expect("short")][..], text.as_bytes(), b"\n"].concat();
        stream.write_all(&[message("/multistream/1.0.0"), message(name)].concat()).await?;
        stream.flush().await?;
        let mut answer = vec![0; 20 + 2 + name.len()];
        stream.read_exact(&mut answer).await?;
        Ok(stream)
    }
}

/// Opens streams as asked, and moves the connection's bytes.
async fn drive(mut muxer: StreamMuxerBox, mut wanted: mpsc::Receiver<oneshot::Sender<io::Result<SubstreamBox>>>) {
    let mut unanswered = Vec::new();
    let mut opening: Option<oneshot::Sender<io::Result<SubstreamBox>>> = None;
    poll_fn(|cx| {
        loop {
            if opening.is_none() {
                match wanted.poll_recv(cx) {
                    std::task::Poll::Ready(None) => return std::task::Poll::Ready(()),
                    std::task::Poll::Ready(Some(reply)) => opening = Some(reply),
                    std::task::Poll::Pending => {}
                }
            }
            if opening.is_some()
                && let std::task::Poll::Ready(opened) = muxer.poll_outbound_unpin(cx)
            {
                let _ = opening.take().expect("it is some").send(opened);
                continue;
            }
            // What the other side opens is left open, unanswered.
            if let std::task::Poll::Ready(opened) = muxer.poll_inbound_unpin(cx) {
                match opened {
                    Ok(stream) => unanswered.push(stream),
                    Err(_) => return std::task::Poll::Ready(()),
                }
                continue;
            }
            match muxer.poll_unpin(cx) {
                std::task::Poll::Ready(Ok(_)) => {}
                std::task::Poll::Ready(Err(_)) => return std::task::Poll::Ready(()),
                std::task::Poll::Pending => return std::task::Poll::Pending,
            }
        }
    })
    .await;
}

/// Connects again and again, and does `harm` each time, until it is banned; the reason.
async fn until_banned(victim: &Mesh, harm: impl AsyncFn(&Rogue) -> io::Result<()>) -> String {
    let address: Multiaddr = victim.addresses()[0].parse().expect("an address");
    let rogue = Rogue::connect(&address).await.expect("the mesh is open");
    let deadline = time::Instant::now() + Duration::from_secs(30);
    loop {
        if let Some(ban) = victim.membership().bans().into_iter().find(|ban| ban.node == rogue.node) {
            return ban.reason;
        }
        assert!(time::Instant::now() < deadline, "it was never banned");
        // Fails as soon as it is thrown out.
        let _ = time::timeout(Duration::from_secs(2), harm(&rogue)).await;
    }
}

fn frame(length: u32, kind: u8, id: u64, payload: &[u8]) -> Vec<u8> {
    [&length.to_be_bytes()[..], &[kind], &id.to_be_bytes(), payload].concat()
}

/// A field of a protobuf message whose content is bytes.
fn field(number: u8, content: &[u8]) -> Vec<u8> {
    let mut length = Vec::new();
    let mut left = content.len();
    while left >= 0x80 {
        length.push(left as u8 | 0x80);
        left >>= 7;
    }
    length.push(left as u8);
    [&[number << 3 | 2][..], &length, content].concat()
}

/// A gossipsub message of `node`, as if it had announced something, with what `sign` makes of it.
fn gossip(node: NodeId, seqno: u64, sign: impl Fn(&[u8]) -> Vec<u8>) -> Vec<u8> {
    let digest = Digest::blake3(&seqno.to_be_bytes());
    let expires_at = Timestamp::now() + Duration::from_secs(60);
    let announcement = Announcement { node, sequence: seqno, digest, expires_at, withdrawn: false };
    let topic = wire::advert_topic(&MESH.parse().expect("a mesh id"));
    let parts =
        [field(1, &peer_id(node)), field(2, &wire::encode(&announcement)), field(3, &seqno.to_be_bytes()), field(4, topic.as_bytes())];
    let message = parts.concat();
    let signature = field(5, &sign(&[b"libp2p-pubsub:", &message[..]].concat()));
    delimited(&field(2, &[message, signature].concat()))
}

/// PeerId: the identity multihash of the protobuf-encoded Ed25519 key.
fn peer_id(node: NodeId) -> Vec<u8> {
    [&[0, 36, 8, 1, 18, 32][..], node.as_bytes()].concat()
}

/// A message after its length.
fn delimited(message: &[u8]) -> Vec<u8> {
    // As field() writes it, without the field's number.
    field(0, message)[1..].to_vec()
}

/// Kademlia's ADD_PROVIDER of `node` for a key.
fn provides(node: NodeId, key: &[u8]) -> Vec<u8> {
    let provider = field(1, &peer_id(node));
    delimited(&[vec![8, 2], field(2, key), field(9, &provider)].concat())
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_poisons_provider_records_is_thrown_out_and_fills_no_more_than_its_share() {
    let _alone = ALONE.lock().await;
    let (one, other) = (honest().await, honest().await);
    other.join(&one.addresses()[0], Duration::from_secs(20)).await.expect("an open mesh");
    let name = wire::kad_protocol(&MESH.parse().expect("a mesh id"));
    // More keys than a node has methods: the rest is refused, and others' records stay.
    let key = wire::capability_key("honest.method");
    other.set_provided(vec![key]).await;
    let address: Multiaddr = one.addresses()[0].parse().expect("an address");
    let rogue = Rogue::connect(&address).await.expect("the mesh is open");
    let mut stream = rogue.speaking(&name).await.expect("a stream");
    for i in 0..4_000_u32 {
        let key = Digest::sha256(&i.to_be_bytes());
        if stream.write_all(&provides(rogue.node, key.as_bytes())).await.is_err() {
            stream = rogue.speaking(&name).await.expect("a stream");
        }
    }
    let _ = stream.flush().await;
    let deadline = time::Instant::now() + Duration::from_secs(30);
    let refused = async || {
        let limits = one.limits().await.expect("it runs");
        limits.iter().find(|limit| limit.name == "records").and_then(|limit| limit.refused).unwrap_or_default()
    };
    while refused().await == 0 {
        assert!(time::Instant::now() < deadline, "a share was never refused");
        time::sleep(Duration::from_millis(10)).await;
    }
    let found = one.providers(key, Duration::from_secs(20)).await.expect("a look-up");
    assert!(found.contains(&other.node_id()), "honest records stay");
    // Keys that are none.
    let seqno = std::sync::atomic::AtomicU64::new(1);
    let reason = until_banned(&one, async |rogue| {
        let mut stream = rogue.speaking(&name).await?;
        loop {
            let number = seqno.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            stream.write_all(&provides(rogue.node, &number.to_be_bytes())).await?;
            stream.flush().await?;
            time::sleep(Duration::from_millis(5)).await;
        }
    });
    assert_eq!(reason.await, "poisoned provider records");
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_brings_badly_signed_gossip_is_thrown_out() {
    let _alone = ALONE.lock().await;
    let (one, other) = (honest().await, honest().await);
    other.join(&one.addresses()[0], Duration::from_secs(20)).await.expect("an open mesh");
    let seqno = std::sync::atomic::AtomicU64::new(1);
    let reason = until_banned(&one, async |rogue| {
        let mut stream = rogue.speaking("/meshsub/1.1.0").await?;
        loop {
            let number = seqno.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            stream.write_all(&gossip(other.node_id(), number, |_| vec![7; 64])).await?;
            stream.flush().await?;
            time::sleep(Duration::from_millis(20)).await;
        }
    });
    assert_eq!(reason.await, "badly signed gossip");
    assert!(one.peers().iter().any(|peer| peer.node_id == other.node_id()), "whose name was abused is not to blame");
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_brings_a_node_its_own_old_gossip_is_not_to_blame() {
    let _alone = ALONE.lock().await;
    // What a node said before it lost power, it hears again from those who remember.
    let seed = *Key::generate().node_id().as_bytes();
    let keypair = Keypair::ed25519_from_bytes(seed).expect("32 bytes");
    let one = Mesh::spawn(config(Key::from_seed(&seed)), Arc::new(Quiet::default())).await.expect("a node");
    let address: Multiaddr = one.addresses()[0].parse().expect("an address");
    let honest = Rogue::connect(&address).await.expect("the mesh is open");
    let mut stream = honest.speaking("/meshsub/1.1.0").await.expect("a stream");
    for seqno in 1..=100 {
        let message = gossip(one.node_id(), seqno, |bytes| keypair.sign(bytes).expect("Ed25519 signs"));
        stream.write_all(&message).await.expect("it listens");
        stream.flush().await.expect("it listens");
        // As long as a ban takes, and more; each message is heard before the next.
        time::sleep(Duration::from_millis(30)).await;
        assert!(one.membership().bans().is_empty(), "after {seqno}: {:?}", one.membership().bans());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn half_frames_and_readers_that_never_read_cost_no_more_than_their_share() {
    let _alone = ALONE.lock().await;
    let (one, other) = (honest().await, honest().await);
    other.join(&one.addresses()[0], Duration::from_secs(20)).await.expect("an open mesh");
    let before = resident();
    let address: Multiaddr = one.addresses()[0].parse().expect("an address");
    let mut held = Vec::new();
    for _ in 0..8 {
        let rogue = Rogue::connect(&address).await.expect("the mesh is open");
        // Announces 4 MiB and sends a tenth of a frame's header and payload.
        let mut half = rogue.rpc().await.expect("a stream");
        half.write_all(&frame(4 << 20, 1, 1, &[0; 400])).await.expect("written");
        half.flush().await.expect("written");
        // Asks and asks, and takes no answer.
        let mut deaf = rogue.rpc().await.expect("a stream");
        let asking = tokio::spawn(async move {
            let call: wire::Call = wire::Call { timeout_ms: 60_000, request_id: String::new(), window: 0, request: wire::Request::Advert };
            let payload = wire::encode(&call);
            for id in 1_u64.. {
                let length = u32::try_from(payload.len() + 9).expect("small");
                if deaf.write_all(&frame(length, 1, id, &payload)).await.is_err() || deaf.flush().await.is_err() {
                    return;
                }
            }
        });
        held.push((rogue, half, asking));
    }
    for _ in 0..50 {
        other.ping(one.node_id()).await.expect("honest nodes are served as before");
        time::sleep(Duration::from_millis(20)).await;
    }
    let grown = resident().saturating_sub(before);
    assert!(grown < 64 << 20, "{} MiB more", grown >> 20);
    held.iter().for_each(|(_, _, asking)| asking.abort());
}

#[tokio::test(flavor = "multi_thread")]
async fn members_that_misbehave_are_thrown_out_and_slow_nobody() {
    let _alone = ALONE.lock().await;
    let (one, other) = (honest().await, honest().await);
    one.join(&other.addresses()[0], Duration::from_secs(20)).await.expect("an open mesh");
    let calm = median(&other, one.node_id()).await;
    let before = resident();

    let harm = async {
        let oversized = until_banned(&one, async |rogue| {
            let mut stream = rogue.rpc().await?;
            stream.write_all(&frame(u32::MAX, 1, 1, &[0; 64])).await?;
            stream.flush().await?;
            stream.read_to_end(&mut Vec::new()).await.map(drop)
        });
        let malformed = until_banned(&one, async |rogue| {
            let mut stream = rogue.rpc().await?;
            stream.write_all(&frame(9, 200, 1, &[])).await?;
            stream.flush().await?;
            stream.read_to_end(&mut Vec::new()).await.map(drop)
        });
        let misplaced = until_banned(&one, async |rogue| {
            let mut stream = rogue.rpc().await?;
            stream.write_all(&frame(9, 2, 1, &[])).await?;
            stream.flush().await?;
            stream.read_to_end(&mut Vec::new()).await.map(drop)
        });
        let streams = until_banned(&one, async |rogue| {
            let mut held = Vec::new();
            for _ in 0..200 {
                held.push(rogue.rpc().await?);
            }
            Ok(())
        });
        tokio::join!(oversized, malformed, misplaced, streams)
    };
    let (under_attack, reasons) = tokio::join!(median(&other, one.node_id()), harm);
    assert_eq!([&*reasons.0, &*reasons.1, &*reasons.2], ["bad frames"; 3]);
    assert_eq!(reasons.3, "a flood of streams");
    other.ping(one.node_id()).await.expect("honest nodes are served as before");
    assert!(one.membership().bans().iter().all(|ban| ban.node != other.node_id()));
    let limits = one.limits().await.expect("it runs");
    let refused = |name: &str| limits.iter().find(|limit| limit.name == name).and_then(|limit| limit.refused).unwrap_or_default();
    assert!(refused("frame.request") >= 12 && refused("streams.rpc") >= 20, "{limits:?}");
    let grown = resident().saturating_sub(before);
    assert!(grown < 64 << 20, "{} MiB more", grown >> 20);
    // Attackers and defenders share this machine's cores, so the floor is what their work may take of them.
    assert!(under_attack < (calm * 2).max(Duration::from_millis(20)), "p50 {under_attack:?} under attack, {calm:?} before");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_gossip_ends_in_a_ban() {
    let _alone = ALONE.lock().await;
    let (one, other) = (honest().await, honest().await);
    let key = Key::generate();
    let loud = Mesh::spawn(config(key.clone()), Arc::new(Quiet::default())).await.expect("a node");
    for node in [&other, &loud] {
        node.join(&one.addresses()[0], Duration::from_secs(20)).await.expect("an open mesh");
    }
    let deadline = time::Instant::now() + Duration::from_secs(60);
    let mut sequence = 0_u64;
    while one.membership().bans().is_empty() {
        assert!(time::Instant::now() < deadline, "it was never banned");
        sequence += 1;
        let digest = Digest::blake3(&sequence.to_be_bytes());
        let expires_at = Timestamp::now() + Duration::from_secs(60);
        loud.announce(Announcement { node: key.node_id(), sequence, digest, expires_at, withdrawn: false }).await;
        time::sleep(Duration::from_millis(1)).await;
    }
    let ban = one.membership().bans().remove(0);
    assert_eq!((ban.node, ban.reason.as_str()), (key.node_id(), "a flood of gossip"));
    // Who only passed it on is not to blame.
    assert!(one.peers().iter().any(|peer| peer.node_id == other.node_id()));
    let apart = |one: &Mesh, other: &Mesh| one.peers().iter().all(|peer| peer.node_id != other.node_id());
    let gone = || apart(&one, &loud) && apart(&loud, &one);
    while !gone() {
        assert!(time::Instant::now() < deadline, "it was never thrown out");
        time::sleep(Duration::from_millis(5)).await;
    }
    let refused = loud.join(&one.addresses()[0], Duration::from_secs(20)).await.expect_err("banned");
    assert_eq!(refused.code(), protocol::Code::Banned, "{refused}");
    one.membership().unban(key.node_id());
    loud.join(&one.addresses()[0], Duration::from_secs(20)).await.expect("let in again");
}
