//! The processes: started in order, watched while they start, stopped in the opposite order.

use std::{
    fs::File,
    io::Read as _,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use protocol::{
    Client, Code, Key, NodeId, Problem,
    api::{CreateKey, CreatedKey, NodeStatus},
};
use rustix::process::{Pid, Signal, kill_process};
use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::{Child, Command},
    time::Instant,
};

use crate::output::Output;

/// How long a process may take to serve; it takes a tenth of a second.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long a process may take to drain, a little over its own bound; then it is killed.
const GRACE: Duration = Duration::from_secs(35);

/// The processes and where they live.
#[derive(Debug)]
pub(super) struct Stack {
    place: PathBuf,
    running: Vec<Process>,
}

#[derive(Debug)]
struct Process {
    name: String,
    child: Child,
}

/// A mesh that serves.
#[derive(Debug)]
pub(super) struct Mesh {
    pub(super) members: Vec<Member>,
    pub(super) gateway: Gateway,
    pub(super) bootstrap: Bootstrap,
}

/// One node.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) name: String,
    pub(super) node_id: NodeId,
    pub(super) client: Client,
}

/// The bootstrap node, as it announces itself.
#[derive(Debug, Deserialize)]
pub(super) struct Bootstrap {
    pub(super) node_id: NodeId,
    addresses: Vec<String>,
}

/// The gateway, as it announces itself, and a key for it.
#[derive(Debug)]
pub(super) struct Gateway {
    pub(super) url: String,
    pub(super) key: CreatedKey,
}

#[derive(Debug, Deserialize)]
struct Listening {
    url: String,
}

/// What the report tells of a process.
#[derive(Debug, Serialize)]
pub(super) struct Running {
    pub(super) name: String,
    pub(super) role: &'static str,
    pub(super) node_id: NodeId,
    pub(super) socket: Option<PathBuf>,
}

impl Mesh {
    /// The node that calls; the gateway is its.
    pub(super) fn consumer(&self) -> &Member {
        &self.members[0]
    }

    /// The node that hosts the agent.
    pub(super) fn provider(&self) -> &Member {
        &self.members[1]
    }

    /// All nodes, for the report.
    pub(super) fn running(&self) -> Vec<Running> {
        let bootstrap = Running { name: "bootstrap".into(), role: "bootstrap", node_id: self.bootstrap.node_id, socket: None };
        let role = |at| ["consumer", "provider"].get(at).copied().unwrap_or("member");
        let member = |(at, member): (usize, &Member)| Running {
            name: member.name.clone(),
            role: role(at),
            node_id: member.node_id,
            socket: Some(member.client.socket().into()),
        };
        std::iter::once(bootstrap).chain(self.members.iter().enumerate().map(member)).collect()
    }
}

impl Stack {
    /// No process yet.
    pub(super) fn new(place: &Path) -> Result<Self, Problem> {
        Ok(Self { place: place.into(), running: Vec::new() })
    }

    /// Starts a mesh of its own, on free ports of the loopback interface.
    pub(super) async fn start(&mut self, nodes: u8, output: Output) -> Result<Mesh, Problem> {
        // An id of its own: two such meshes on one machine never mix.
        let suffix: String = Key::generate().node_id().to_string().to_ascii_lowercase().chars().rev().take(8).collect();
        let mesh_id = format!("devstack-{suffix}");
        output.note(&format!("starting a bootstrap node, {nodes} nodes and a gateway in {}", self.place.display()));
        let bootstrap: Bootstrap = self
            .announcing(
                "bootstrap",
                "mcp-bootstrap",
                &[
                    "--json",
                    "--mesh-id",
                    &mesh_id,
                    "--host",
                    "127.0.0.1",
                    "--port",
                    "0",
                    "--tcp-port",
                    "0",
                    "--quic-port",
                    "0",
                    "--private-addresses",
                ],
            )
            .await?;
        let entry = bootstrap.addresses.join(",");
        for at in 0..nodes {
            self.spawn_node(at, &mesh_id, &entry)?;
        }
        let mut members = Vec::new();
        for at in 0..nodes {
            members.push(self.ready(name(at)).await?);
        }
        let socket = members[0].client.socket().display().to_string();
        let listening: Listening =
            self.announcing("gateway", "mcp-gateway", &["--json", "--listen", "127.0.0.1:0", "--socket", &socket]).await?;
        let key = members[0].client.post("/v1/keys", &CreateKey { name: "devstack".into(), ttl_s: None }).await?;
        Ok(Mesh { members, gateway: Gateway { url: listening.url, key }, bootstrap })
    }

    fn spawn_node(&mut self, at: u8, mesh_id: &str, entry: &str) -> Result<(), Problem> {
        let mut settings = vec![
            format!("mesh.id={mesh_id}"),
            format!("mesh.bootstrap_peers={entry}"),
            "mesh.host=127.0.0.1".into(),
            "mesh.port=0".into(),
            "mesh.quic_port=0".into(),
            "mesh.tcp_port=0".into(),
            "mesh.private_addresses=true".into(),
        ];
        if at == 1 {
            // The provider's terms: any sensible proposal is accepted, at a price.
            settings.extend(
                ["agreements.accept=auto", "agreements.price_per_call=0.001", "agreements.price_per_million_fuel=0.0001"]
                    .map(str::to_owned),
            );
        }
        let arguments: Vec<&str> = settings.iter().flat_map(|setting| ["--set", setting]).chain(["--with-parent"]).collect();
        self.spawn(&name(at), "mcpd", &arguments, Stdio::null()).map(drop)
    }

    /// Waits until a node serves and has met the bootstrap node.
    async fn ready(&mut self, name: String) -> Result<Member, Problem> {
        let client = Client::new(self.place.join(&name).join("mcpd.sock"));
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Ok(status) = client.get::<NodeStatus>("/v1/status").await
                && status.ready
                && status.peers > 0
            {
                return Ok(Member { name, node_id: status.node_id, client });
            }
            self.check(&name, deadline)?;
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Fails if the process has ended, or the time is up.
    fn check(&mut self, name: &str, deadline: Instant) -> Result<(), Problem> {
        let process = self.running.iter_mut().find(|process| process.name == name);
        let ended = process.is_none_or(|process| !matches!(process.child.try_wait(), Ok(None)));
        if !ended && Instant::now() < deadline {
            return Ok(());
        }
        let what = if ended { "ended" } else { "does not serve" };
        Err(Problem::new(Code::NotRunning, format!("{name} {what}: {}", self.last_words(name))))
    }

    /// Starts a program that tells on stdout, in one line of JSON, that it listens.
    async fn announcing<T: serde::de::DeserializeOwned>(&mut self, name: &str, program: &str, arguments: &[&str]) -> Result<T, Problem> {
        let child = self.spawn(name, program, arguments, Stdio::piped())?;
        let stdout = child.stdout.take().ok_or_else(|| Problem::new(Code::Internal, "no stdout"))?;
        let mut line = String::new();
        let read = tokio::time::timeout(PATIENCE, BufReader::new(stdout).read_line(&mut line)).await;
        let told = matches!(read, Ok(Ok(read)) if read > 0);
        let parsed = serde_json::from_str(&line).ok().filter(|_| told);
        parsed.ok_or_else(|| Problem::new(Code::NotRunning, format!("{name} does not serve: {}", self.last_words(name))))
    }

    fn spawn(&mut self, name: &str, program: &str, arguments: &[&str], stdout: Stdio) -> Result<&mut Child, Problem> {
        let directory = self.place.join(name);
        let failed = |error: std::io::Error| {
            Problem::new(Code::NotRunning, format!("can't start {program}: {error}"))
                .hint("build all programs first: cargo build --release")
        };
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&directory).map_err(failed)?;
        let log = File::create(self.log(name)).map_err(failed)?;
        let mut command = Command::new(beside(program));
        // Our own environment holds the user's settings, which are not this mesh's.
        for (variable, _) in std::env::vars_os().filter(|(variable, _)| variable.to_string_lossy().starts_with("MCP_")) {
            command.env_remove(variable);
        }
        if program != "mcp-gateway" {
            command.arg("--data-dir").arg(&directory);
        }
        // A group of its own: Ctrl-C reaches us alone, and we stop the processes in order.
        let child = command
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(stdout)
            .stderr(log)
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(failed)?;
        self.running.push(Process { name: name.into(), child });
        Ok(&mut self.running.last_mut().expect("just pushed").child)
    }

    fn log(&self, name: &str) -> PathBuf {
        self.place.join(format!("{name}.log"))
    }

    /// The end of a process's log.
    fn last_words(&self, name: &str) -> String {
        let mut log = String::new();
        let _ = File::open(self.log(name)).and_then(|file| file.take(1 << 20).read_to_string(&mut log));
        log.lines().rev().take(3).collect::<Vec<_>>().into_iter().rev().collect::<Vec<_>>().join(" | ")
    }

    /// Stops every process, the last started first.
    pub(super) async fn stop(&mut self) -> Result<(), Problem> {
        for process in self.running.iter().rev() {
            if let Some(pid) = process.child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?)) {
                let _ = kill_process(pid, Signal::TERM);
            }
        }
        let mut stubborn = Vec::new();
        for mut process in self.running.drain(..).rev() {
            if tokio::time::timeout(GRACE, process.child.wait()).await.is_err() {
                let _ = process.child.kill().await;
                stubborn.push(process.name);
            }
        }
        if stubborn.is_empty() { Ok(()) } else { Err(Problem::new(Code::TimedOut, format!("{} had to be killed", stubborn.join(", ")))) }
    }
}

/// `a`, `b`, `c`, …
fn name(at: u8) -> String {
    char::from(b'a' + at).to_string()
}

/// The program beside this one, or the one on the path.
fn beside(program: &str) -> PathBuf {
    let here = std::env::current_exe().ok().and_then(|path| Some(path.parent()?.join(program)));
    here.filter(|path| path.exists()).unwrap_or_else(|| program.into())
}
