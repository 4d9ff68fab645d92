//! Strangers that connect, say nothing, and hold what they have.

use std::{net::SocketAddr, time::Duration};

use mesh::Mesh;
use tokio::{
    net::{TcpSocket, TcpStream},
    time::{self, Instant},
};

use crate::{ALONE, members::honest};

/// More than there are places for handshakes.
const CONNECTIONS: usize = 400;
/// Another address of the loopback interface than that by which honest nodes come.
const LOUD: [u8; 4] = [127, 0, 0, 9];

async fn connect(to: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.bind((LOUD, 0).into()).expect("a loopback address");
    socket.connect(to).await.expect("it listens")
}

/// Handshakes that others have begun and that are under way.
async fn pending(node: &Mesh) -> u64 {
    let limits = node.limits().await.expect("it runs");
    limits.iter().find(|limit| limit.name == "connections.pending_in").and_then(|limit| limit.in_use).expect("it is counted")
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_connects_and_says_nothing_keeps_nobody_out_and_loses_its_places() {
    let _alone = ALONE.lock().await;
    let (one, other) = (honest().await, honest().await);
    let address = one.addresses().remove(0);
    let port = address.split('/').nth(4).and_then(|port| port.parse().ok()).expect("a port");
    let mut held = Vec::new();
    for _ in 0..CONNECTIONS {
        held.push(connect(([127, 0, 0, 1], port).into()).await);
    }
    other.join(&address, Duration::from_secs(20)).await.expect("there is a place for others");
    let refused = async || {
        let limits = one.limits().await.expect("it runs");
        limits.iter().find(|limit| limit.name == "connections").and_then(|limit| limit.refused).unwrap_or_default()
    };
    let deadline = Instant::now() + Duration::from_secs(60);
    while refused().await == 0 {
        assert!(Instant::now() < deadline, "none was too many");
        time::sleep(Duration::from_millis(10)).await;
    }
    while pending(&one).await > 0 {
        assert!(Instant::now() < deadline, "silent strangers keep their places");
        time::sleep(Duration::from_millis(50)).await;
    }
    drop(held);
}
