//! The bootstrap node's process.

use std::{path::Path, path::PathBuf};

use protocol::{MeshId, NodeId};
use serde::Deserialize;

use crate::{netns::Host, process::Process, programs::command};

/// A running `mcp-bootstrap`.
#[derive(Debug)]
pub struct Bootstrap {
    place: PathBuf,
    enter: Enter,
    host: Option<Host>,
    process: Process,
    announced: Announced,
}

/// How it gets into its mesh.
#[derive(Debug, Clone)]
pub(crate) enum Enter {
    /// By the name of an open one.
    Open(MeshId),
    /// By a join token, or by the credential that it had by one.
    Token(String),
}

#[derive(Debug, Deserialize)]
struct Announced {
    node_id: NodeId,
    addresses: Vec<String>,
}

impl Bootstrap {
    pub(crate) async fn start(place: &Path, enter: Enter, ports: [u16; 3], host: Option<Host>) -> Self {
        let mut process = launch(place, &enter, ports, host.as_ref());
        let announced = process.announcement().await;
        Self { place: place.into(), enter, host, process, announced }
    }

    /// Its identity.
    pub fn id(&self) -> NodeId {
        self.announced.node_id
    }

    /// Where it listens.
    pub fn addresses(&self) -> &[String] {
        &self.announced.addresses
    }

    /// Its address over `tcp`, `quic` or `wss`.
    pub fn address(&self, transport: &str) -> &str {
        address(&self.announced.addresses, transport)
    }

    /// Its log so far.
    pub fn log(&self) -> String {
        self.process.log()
    }

    /// Kills it.
    pub fn kill9(&mut self) {
        self.process.kill9();
    }

    /// Starts it again, with its key, on its ports.
    pub async fn restart(&mut self) {
        self.process.kill9();
        self.process = launch(&self.place, &self.enter, ports(&self.announced.addresses), self.host.as_ref());
        let before = self.announced.node_id;
        self.announced = self.process.announcement().await;
        assert_eq!(self.announced.node_id, before, "a bootstrap node keeps its identity");
    }
}

fn launch(place: &Path, enter: &Enter, [wss, quic, tcp]: [u16; 3], host: Option<&Host>) -> Process {
    let mut command = command("mcp-bootstrap");
    command.arg("--data-dir").arg(place.join("bootstrap")).arg("--json");
    match host {
        None => command.args(["--private-addresses", "--host", "127.0.0.1"]),
        Some(_) => command.args(["--host", "0.0.0.0"]),
    };
    match enter {
        Enter::Open(mesh_id) => command.args(["--mesh-id", mesh_id.as_str()]),
        Enter::Token(token) => command.env("MCP_JOIN_TOKEN", token),
    };
    command.args(["--port", &wss.to_string(), "--quic-port", &quic.to_string(), "--tcp-port", &tcp.to_string()]);
    let command = host.map(|host| host.command_ref(&command)).unwrap_or(command);
    Process::start("bootstrap", command, place)
}

/// The address over a transport, of a list.
pub(crate) fn address<'a>(addresses: &'a [String], transport: &str) -> &'a str {
    let wanted = |address: &&String| match transport {
        "quic" => address.contains("/quic-v1"),
        "wss" => address.contains("/tls/ws"),
        _ => address.contains("/tcp/") && !address.contains("/ws"),
    };
    addresses.iter().find(wanted).unwrap_or_else(|| panic!("{transport} is not among {addresses:?}"))
}

/// The ports in addresses: TLS WebSocket, QUIC, TCP.
pub(crate) fn ports(addresses: &[String]) -> [u16; 3] {
    ["wss", "quic", "tcp"]
        .map(|transport| address(addresses, transport).split('/').nth(4).and_then(|port| port.parse().ok()).expect("a port"))
}
