//! Providers and announcements.

use std::time::Duration;

use protocol::{Digest, Key, Timestamp, wire::Announcement};

use crate::harness::{Node, PATIENCE, eventually};

#[tokio::test(flavor = "multi_thread")]
async fn providers_are_found_through_a_third_node() {
    let hub = Node::new().await;
    let (provider, seeker) = (Node::joined(&hub).await, Node::joined(&hub).await);
    let key = protocol::wire::capability_key("counter.increment");
    assert!(seeker.mesh.providers(key, PATIENCE).await.expect("a look-up").is_empty());
    provider.mesh.set_provided(vec![key]).await;
    find(&seeker, key, &provider).await;

    // Who comes later finds it too, and can call it without having met it.
    let late = Node::joined(&hub).await;
    find(&late, key, &provider).await;
    late.mesh.ping(provider.id()).await.expect("reachable");
}

async fn find(seeker: &Node, key: [u8; 32], provider: &Node) {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while seeker.mesh.providers(key, PATIENCE).await.expect("a look-up") != [provider.id()] {
        assert!(tokio::time::Instant::now() < deadline, "not found in time");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_set_before_anyone_is_there_are_told_to_those_who_come() {
    let hub = Node::new().await;
    let provider = Node::new().await;
    let keys: Vec<[u8; 32]> = (0..50).map(|i| [i; 32]).collect();
    provider.mesh.set_provided(keys.clone()).await;
    provider.mesh.join(&hub.address("quic"), PATIENCE).await.expect("joined");
    for key in keys {
        find(&hub, key, &provider).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn announcements_spread_and_forged_ones_do_not() {
    let hub = Node::new().await;
    let (speaker, forger, listener) = (Node::joined(&hub).await, Node::joined(&hub).await, Node::joined(&hub).await);
    let announcement = |node, sequence| Announcement {
        node,
        sequence,
        digest: Digest::blake3(b"advert"),
        expires_at: Timestamp::now() + Duration::from_secs(300),
        withdrawn: false,
    };
    let victim = Key::generate().node_id();
    forger.mesh.announce(announcement(victim, 1)).await;
    let genuine = announcement(speaker.id(), 7);
    speaker.mesh.announce(genuine.clone()).await;
    for node in [&hub, &listener, &forger] {
        eventually("the announcement", || node.seen.announced.lock().contains(&(speaker.id(), genuine.clone()))).await;
    }
    // The forger's own genuine announcement arrives after its forged one, over the same way.
    let own = announcement(forger.id(), 2);
    forger.mesh.announce(own.clone()).await;
    eventually("the forger's own announcement", || listener.seen.announced.lock().contains(&(forger.id(), own.clone()))).await;
    for node in [&hub, &listener, &speaker] {
        assert!(node.seen.announced.lock().iter().all(|(source, announced)| *source == announced.node && announced.node != victim));
    }

    // Who joins later hears it without anyone doing anything.
    let late = Node::joined(&hub).await;
    eventually("the repetition", || late.seen.announced.lock().iter().any(|(source, _)| *source == speaker.id())).await;
}
