//! Nodes and gateways as the benches want them: on a disk, watched closely while they start, with their process at hand.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use protocol::{
    Client,
    api::{Identity, NodeStatus},
};
use rustix::process::Signal;
use tests::{PATIENCE, Process, command};

use crate::place::Place;

/// A node. Killed when dropped.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) process: Process,
    pub(crate) client: Client,
}

impl Node {
    /// Starts a node on free ports of the loopback interface, in a directory of this name; waits until it serves.
    pub(crate) async fn start(place: &Place, name: &str, mesh: &str, settings: &[&str]) -> Result<Self> {
        let socket = place.socket(name);
        let own = ["mesh.host=127.0.0.1", "mesh.port=0", "mesh.quic_port=0", "mesh.tcp_port=0", "mesh.private_addresses=true"];
        let mut command = command("mcpd");
        command.arg("--data-dir").arg(place.directory(name)).arg("--socket").arg(&socket);
        command.arg("--set").arg(format!("mesh.id={mesh}"));
        command.args(own.iter().chain(settings).flat_map(|setting| ["--set", setting]));
        let mut node = Self { process: Process::start(name, command, place.logs()), client: Client::new(socket) };
        let begun = Instant::now();
        while !node.client.get::<NodeStatus>("/v1/status").await.is_ok_and(|status| status.ready) {
            check(&mut node.process, begun)?;
            // The clock's own grain: a start is measured by this loop.
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        Ok(node)
    }

    /// The address of its plain TCP transport.
    pub(crate) async fn address(&self) -> Result<String> {
        let identity: Identity = self.client.get("/v1/id").await?;
        let plain = |address: &&String| address.contains("/tcp/") && !address.contains("/ws");
        identity.addresses.iter().find(plain).cloned().with_context(|| format!("no TCP address among {:?}", identity.addresses))
    }

    /// A gateway in front of it.
    pub(crate) async fn gateway(&self, place: &Place) -> Process {
        self.gateway_at(place).await.map(|(gateway, _)| gateway).expect("a gateway announces where it listens")
    }

    /// The same, with the address at which it listens.
    pub(crate) async fn gateway_at(&self, place: &Place) -> Result<(Process, String)> {
        let mut command = command("mcp-gateway");
        command.args(["--json", "--listen", "127.0.0.1:0", "--socket"]).arg(self.client.socket());
        let mut gateway = Process::start("gateway", command, place.logs());
        let announced: serde_json::Value = gateway.announcement().await;
        let url = announced["url"].as_str().with_context(|| format!("no address in {announced}"))?;
        Ok((gateway, url.trim_start_matches("http://").trim_end_matches('/').to_owned()))
    }

    /// Ends it politely.
    pub(crate) async fn stop(mut self) -> Result<()> {
        self.process.signal(Signal::TERM);
        while self.process.is_running() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let status = self.process.ended().await;
        ensure!(status.success(), "a node stopped with {status}: {}", tail(&self.process));
        Ok(())
    }
}

/// Fails if a process that is waited for has ended, or the time is up.
pub(crate) fn check(process: &mut Process, since: Instant) -> Result<()> {
    ensure!(process.is_running() && since.elapsed() < PATIENCE, "a process does not serve: {}", tail(process));
    Ok(())
}

/// The end of a log.
fn tail(process: &Process) -> String {
    let log = process.log();
    let lines: Vec<_> = log.lines().collect();
    lines[lines.len().saturating_sub(5)..].join(" | ")
}
