//! Reaching and being reached: firewalls before public addresses, several relays, neighbours on a LAN.

use serde_json::{Value, json};
use tests::{Cluster, Nat, Network, Node, Process, Side, command, until};

use crate::private::{Mesh, reaches, via};

/// The relays that hold a reservation for `node`.
async fn relays(node: &Node) -> Vec<String> {
    let check = node.json(&["netcheck"]).await;
    let held = check["relays"].as_array().expect("a list");
    held.iter().map(|held| held["relay"].as_str().expect("a node").to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_public_address_behind_a_firewall_is_tried_and_relays_are_used() {
    let mut mesh = Mesh::new().await;
    let (cloud, office) = (mesh.network.guarded("cloud", 40, Side::East), mesh.network.behind("office", 3, Nat::Symmetric, Side::West));
    let guarded = mesh.member("guarded", &cloud).await;
    until("a relay to be used", async || {
        let check = guarded.json(&["netcheck"]).await;
        (check["public"] == json!(false) && !relays(&guarded).await.is_empty()).then_some(())
    })
    .await;
    let caller = mesh.member("caller", &office).await;
    reaches(&caller, &guarded).await;
    reaches(&guarded, &caller).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_relays_hold_reservations_and_a_lost_one_is_made_again() {
    let mut mesh = Mesh::new().await;
    let (host, office) = (mesh.network.public("server", 41, Side::East), mesh.network.behind("office", 3, Nat::Symmetric, Side::West));
    let server = mesh.member_as("server", "server", &host).await;
    let member = mesh.member("member", &office).await;
    let ids = [mesh.entry.id().to_string(), server.id().to_string()];
    let both = async || {
        let held = relays(&member).await;
        ids.iter().all(|relay| held.contains(relay)).then_some(())
    };
    until("two reservations", both).await;
    mesh.entry.kill9();
    until("one of them to be lost", async || (relays(&member).await == ids[1..]).then_some(())).await;
    mesh.entry.restart().await;
    until("two reservations again", both).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_beyond_loopback_warns_of_who_can_listen_in() {
    let mut network = Network::new();
    let (host, cluster) = (network.public("gateway", 50, Side::West), Cluster::new());
    for (listen, exposed) in [("0.0.0.0:0", true), ("44.0.0.50:0", true), ("127.0.0.1:0", false)] {
        let mut command = command("mcp-gateway");
        command.args(["--json", "--listen", listen, "--data-dir"]).arg(cluster.place());
        let mut gateway = Process::start(listen, host.command_ref(&command), cluster.place());
        let url = gateway.announcement::<Value>().await["url"].as_str().expect("a url").to_owned();
        let log = gateway.log();
        let address = url.strip_prefix("http://").expect("it speaks HTTP");
        let warned = log.contains("WARN") && log.contains(&format!("listening on {address} WITHOUT TLS"));
        assert_eq!(warned, exposed, "{listen}: {log}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn neighbours_on_a_lan_find_one_another_by_themselves() {
    let mut network = Network::new();
    let (cluster, mut nodes) = (Cluster::new(), Vec::new());
    for (name, number) in [("one", 11), ("two", 12)] {
        let host = network.public(name, number, Side::West);
        network.multicast(&host);
        nodes.push(cluster.node(name).on(&host).set("mesh.private_addresses", "true").start().await);
    }
    nodes[0].is_connected(nodes[1].id()).await;
    assert_ne!(via(&nodes[1], &nodes[0]).await.as_deref(), Some("relayed"));
}
