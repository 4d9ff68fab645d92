//! What breaks and comes back: halves of the internet, interfaces, a start without a network.

use std::time::Duration;

use tests::{Nat, Node, Side, until};
use tokio::time::{Instant, sleep};

use crate::private::{Mesh, reaches};

/// How long the halves of a mesh are apart.
const CUT: Duration = Duration::from_secs(60);
/// Within this time after a cut is mended, all is as before.
const HEALED: Duration = Duration::from_secs(10);

/// Whether every node is connected with every other.
async fn complete(nodes: &[&Node]) -> bool {
    for node in nodes {
        let peers = node.peers().await;
        if nodes.iter().any(|other| other.id() != node.id() && peers.iter().all(|peer| peer.node_id != other.id())) {
            return false;
        }
    }
    true
}

#[tokio::test(flavor = "multi_thread")]
async fn halves_that_were_cut_for_a_minute_are_one_mesh_again_within_ten_seconds() {
    let mut network = tests::Network::new();
    let hosts = [
        network.public("entry", 2, Side::West),
        network.public("west-1", 11, Side::West),
        network.public("west-2", 12, Side::West),
        network.public("east-1", 21, Side::East),
        network.public("east-2", 22, Side::East),
        network.public("east-3", 23, Side::East),
    ];
    let mesh = Mesh::on(network, &hosts[0], &hosts[1]).await;
    let mut members = Vec::new();
    for (name, host) in [("w2", &hosts[2]), ("e1", &hosts[3]), ("e2", &hosts[4]), ("e3", &hosts[5])] {
        members.push(mesh.member(name, host).await);
    }
    let nodes: Vec<&Node> = std::iter::once(&mesh.authority).chain(&members).collect();
    for node in &nodes {
        for other in nodes.iter().filter(|other| other.id() != node.id()) {
            reaches(node, other).await;
        }
    }
    until("everyone to know everyone", async || complete(&nodes).await.then_some(())).await;

    let crossing = async |count: usize| {
        let west = mesh.authority.peers().await;
        (members[1..].iter().filter(|east| west.iter().any(|peer| peer.node_id == east.id())).count() == count).then_some(())
    };
    mesh.network.cut();
    let cut = Instant::now();
    until("the cut to be noticed", async || crossing(0).await).await;
    sleep(CUT.saturating_sub(cut.elapsed())).await;
    mesh.network.heal();
    let healed = Instant::now();
    // An agent that is new in the east is heard of everywhere in the west.
    members[1].host("counter", "demo", kernel::fixture::misbehaving()).await;
    for node in &nodes {
        node.discovers("demo.count", "").await;
    }
    until("everyone to see everyone", async || complete(&nodes).await.then_some(())).await;
    assert!(healed.elapsed() < HEALED, "it took {:?}", healed.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plug_that_is_pulled_and_an_address_that_changes_need_no_human() {
    let mut mesh = Mesh::new().await;
    let mut vpn = mesh.network.public("vpn", 30, Side::East);
    let member = mesh.member("member", &vpn).await;
    reaches(&member, &mesh.authority).await;
    mesh.network.unplug(&vpn);
    until("the loss to be noticed", async || member.peers().await.is_empty().then_some(())).await;
    mesh.network.plug(&vpn);
    reaches(&member, &mesh.authority).await;
    // The VPN comes up elsewhere: another address, the same node.
    mesh.network.renumber(&mut vpn, 31);
    until("it to be back at its new address", async || {
        let seen = mesh.authority.peers().await.into_iter().find(|peer| peer.node_id == member.id())?;
        let check = member.json(&["netcheck"]).await;
        let told = check["reachable"].to_string();
        (told.contains("44.0.0.31") && !told.contains("44.0.0.30") && !seen.address.contains("44.0.0.30")).then_some(())
    })
    .await;
    reaches(&mesh.authority, &member).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_starts_without_a_network_joins_when_it_comes() {
    let mut mesh = Mesh::new().await;
    let offline = mesh.network.behind("offline", 5, Nat::Friendly, Side::East);
    mesh.network.unplug(&offline);
    let node = mesh.unattended("offline", &offline).await;
    assert!(node.peers().await.is_empty());
    mesh.network.plug(&offline);
    node.is_connected(mesh.entry.id()).await;
    reaches(&node, &mesh.authority).await;
}
