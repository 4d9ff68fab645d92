//! A node's process, and what its operator does with it.

use std::{
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
};

use protocol::{
    AgreementId, Client, NodeId, Problem,
    api::{AgreementState, Discovered, Execute, Executed, Identity, List, NodeStatus, Peer},
};
use rustix::process::Signal;
use serde_json::{Value, value::RawValue};
use tempfile::TempDir;

use crate::{
    bootstrap::{address, ports},
    netns::Host,
    process::{Answer, Process, run},
    programs::command,
    wait::until,
};

/// A node in the making.
#[derive(Debug)]
pub struct NodeBuilder {
    place: Arc<TempDir>,
    name: String,
    settings: Vec<(String, String)>,
    variables: Vec<(String, PathBuf)>,
    host: Option<Host>,
}

impl NodeBuilder {
    pub(crate) fn new(place: Arc<TempDir>, name: &str, mesh_id: &protocol::MeshId, entries: &[String]) -> Self {
        let settings = [
            ("mesh.id", mesh_id.as_str()),
            ("mesh.host", "127.0.0.1"),
            ("mesh.port", "0"),
            ("mesh.quic_port", "0"),
            ("mesh.tcp_port", "0"),
            ("mesh.private_addresses", "true"),
            ("mesh.bootstrap_peers", &entries.join(",")),
        ];
        Self {
            place,
            host: None,
            name: name.into(),
            variables: Vec::new(),
            settings: settings.map(|(key, value)| (key.into(), value.into())).into(),
        }
    }

    /// Changes a setting.
    #[must_use]
    pub fn set(mut self, key: &str, value: &str) -> Self {
        self.settings.retain(|(known, _)| known != key);
        self.settings.push((key.into(), value.into()));
        self
    }

    /// Sets a variable of its environment.
    #[must_use]
    pub fn env(mut self, variable: &str, value: &Path) -> Self {
        self.variables.push((variable.into(), value.into()));
        self
    }

    /// Where its data will be.
    pub fn directory(&self) -> PathBuf {
        self.place.path().join(&self.name)
    }

    /// Runs it on a host of a network of our own, on the usual ports, as on the internet.
    #[must_use]
    pub fn on(mut self, host: &Host) -> Self {
        self.host = Some(host.clone());
        let usual = [("mesh.host", "0.0.0.0"), ("mesh.port", "8765"), ("mesh.quic_port", "8765"), ("mesh.tcp_port", "8766")];
        usual.into_iter().fold(self, |builder, (key, value)| builder.set(key, value)).set("mesh.private_addresses", "false")
    }

    /// Gives it the owner of another node.
    #[must_use]
    pub fn owned_as(self, other: &Node) -> Self {
        let directory = self.place.path().join(&self.name);
        std::fs::create_dir(&directory).expect("a new node");
        std::fs::set_permissions(&directory, PermissionsExt::from_mode(0o700)).expect("ours");
        // With its mode: a copy keeps it.
        std::fs::copy(other.directory().join("owner.key"), directory.join("owner.key")).expect("the owner's key");
        self
    }

    /// Starts it and waits until it serves.
    pub async fn start(self) -> Node {
        let directory = self.place.path().join(&self.name);
        let client = Client::new(directory.join("mcpd.sock"));
        let mut node = Node {
            place: self.place,
            name: self.name,
            directory,
            settings: self.settings,
            variables: self.variables,
            host: self.host,
            process: None,
            client,
            identity: None,
        };
        node.launch().await;
        node
    }

    /// Starts it and waits until it has met another node.
    pub async fn join(self) -> Node {
        let node = self.start().await;
        node.has_peers().await;
        node
    }
}

/// A running `mcpd`.
#[derive(Debug)]
pub struct Node {
    place: Arc<TempDir>,
    name: String,
    directory: PathBuf,
    settings: Vec<(String, String)>,
    variables: Vec<(String, PathBuf)>,
    host: Option<Host>,
    process: Option<Process>,
    client: Client,
    identity: Option<Identity>,
}

impl Node {
    /// The command that starts it.
    pub fn command(&self) -> Command {
        let mut command = command("mcpd");
        command.arg("--with-parent").arg("--data-dir").arg(&self.directory);
        command.envs(self.variables.iter().map(|(variable, value)| (variable, value)));
        for (key, value) in &self.settings {
            command.arg("--set").arg(format!("{key}={value}"));
        }
        self.host.as_ref().map(|host| host.command_ref(&command)).unwrap_or(command)
    }

    async fn launch(&mut self) {
        let mut process = Process::start(&self.name, self.command(), self.place.path());
        let client = self.client.clone();
        let what = format!("{} to serve", self.name);
        until(&what, async || {
            assert!(process.is_running(), "{} ended: {}", self.name, process.log());
            client.get::<NodeStatus>("/v1/status").await.ok().filter(|status| status.ready)
        })
        .await;
        self.process = Some(process);
        self.identity = Some(self.client.get("/v1/id").await.expect("a node knows itself"));
    }

    /// Its local API.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Its data directory.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Who it is, and where.
    pub fn identity(&self) -> &Identity {
        self.identity.as_ref().expect("it has served once")
    }

    /// Asks it again who and where it is: it starts anew, on other ports, when it founds, enters or leaves a mesh.
    pub async fn look_again(&mut self) {
        self.identity = Some(self.client.get("/v1/id").await.expect("a node knows itself"));
    }

    /// Its id.
    pub fn id(&self) -> NodeId {
        self.identity().node_id
    }

    /// Its address over `tcp`, `quic` or `wss`.
    pub fn address(&self, transport: &str) -> &str {
        address(&self.identity().addresses, transport)
    }

    /// Its log so far.
    pub fn log(&self) -> String {
        self.process.as_ref().map(Process::log).unwrap_or_default()
    }

    /// `mcpctl` on it.
    pub async fn mcpctl(&self, arguments: &[&str]) -> Answer {
        let mut command = command("mcpctl");
        command.arg("--data-dir").arg(&self.directory).args(arguments);
        command.envs(self.variables.iter().map(|(variable, value)| (variable, value)));
        run(command).await
    }

    /// `mcpctl --json` on it, which must succeed.
    pub async fn json(&self, arguments: &[&str]) -> Value {
        self.mcpctl(&[arguments, &["--json"]].concat()).await.exits(0).json()
    }

    /// Halts it, so that it answers nobody and closes nothing; or lets it go on.
    pub fn halt(&self, halted: bool) {
        self.process.as_ref().expect("it runs").signal(if halted { Signal::STOP } else { Signal::CONT });
    }

    /// Kills it as a loss of power would.
    pub fn kill9(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill9();
        }
    }

    /// Ends it politely: SIGTERM, exit code 0.
    pub async fn stop(&mut self) {
        let mut process = self.process.take().expect("it runs");
        process.signal(Signal::TERM);
        let status = process.ended().await;
        assert_eq!(status.code(), Some(0), "{} did not stop cleanly: {}", self.name, process.log());
    }

    /// Changes a setting, from its next start on.
    pub fn set(&mut self, key: &str, value: &str) {
        self.settings.retain(|(known, _)| known != key);
        self.settings.push((key.into(), value.into()));
    }

    /// Starts it again, as it was: its directory, its settings, its ports. Ended before if need be, by SIGTERM.
    pub async fn restart(&mut self) {
        if self.process.is_some() {
            self.stop().await;
        }
        let before = self.identity().clone();
        // On a host of its own its ports are fixed already.
        if self.host.is_none() {
            let [wss, quic, tcp] = ports(&before.addresses);
            for (key, port) in [("mesh.port", wss), ("mesh.quic_port", quic), ("mesh.tcp_port", tcp)] {
                self.settings.retain(|(known, _)| known != key);
                self.settings.push((key.into(), port.to_string()));
            }
        }
        self.launch().await;
        assert_eq!(self.id(), before.node_id, "a node keeps its identity");
    }

    /// Waits until it has met another node.
    pub async fn has_peers(&self) {
        until(&format!("a peer of {}", self.name), async || self.peers().await.first().cloned()).await;
    }

    /// Waits until it is connected with a node.
    pub async fn is_connected(&self, other: NodeId) -> Peer {
        let what = format!("{} to meet {other}", self.name);
        until(&what, async || self.peers().await.into_iter().find(|peer| peer.node_id == other)).await
    }

    /// Its peers.
    pub async fn peers(&self) -> Vec<Peer> {
        self.client.get::<List<Peer>>("/v1/peers").await.expect("peers are listed").items
    }

    /// Looks a capability up until there is a provider; `via` is a part of the query, or empty.
    pub async fn discovers(&self, capability: &str, via: &str) -> Discovered {
        let path = format!("/v1/discover?capability={capability}&timeout_ms=5000{via}");
        until(&format!("a provider of {capability}"), async || {
            // Without any other node yet, a look-up may fail as a whole.
            self.client.get::<List<Discovered>>(&path).await.ok()?.items.into_iter().next()
        })
        .await
    }

    /// Calls an agent.
    pub async fn execute(&self, agent: &str, method: &str, params: &Value) -> Result<Executed, Problem> {
        self.client.post(&format!("/v1/agents/{agent}/execute"), &body(method, params)).await
    }

    /// Calls an agent under an idempotency key.
    pub async fn execute_once(&self, agent: &str, method: &str, params: &Value, key: &str) -> Result<Executed, Problem> {
        self.client.post_once(&format!("/v1/agents/{agent}/execute"), key, &body(method, params)).await
    }

    /// An agreement as this node has it.
    pub async fn agreement(&self, id: AgreementId) -> Option<AgreementState> {
        self.client.get(&format!("/v1/agreements/{id}")).await.ok()
    }
}

fn body(method: &str, params: &Value) -> Execute {
    let params = RawValue::from_string(params.to_string()).expect("JSON");
    Execute { method: method.into(), params, agreement: None, timeout_ms: None }
}

/// The result of a call.
pub fn value(executed: &Executed) -> Value {
    serde_json::from_str(executed.result.get()).expect("a result is JSON")
}
