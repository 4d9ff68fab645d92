//! The program as an operator runs it.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::{Child, Command, Output, Stdio},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use mesh::{Config, Handler, Listen, Mesh};
use protocol::{
    Code, Key, NodeId, Problem,
    wire::{Announcement, Request, Response},
};
use rustix::process::{Pid, Signal, kill_process};
use serde::Deserialize;

const PATIENCE: Duration = Duration::from_secs(20);

/// What the program says of itself.
#[derive(Deserialize)]
struct Listening {
    node_id: NodeId,
    mesh_id: String,
    addresses: Vec<String>,
}

/// Stops the program when a test ends, however it ends.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Running {
    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.0), signal).expect("it runs");
    }
}

fn command(directory: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mcp-bootstrap"));
    command.env_clear().args(["--json", "--host", "127.0.0.1", "--port", "0", "--tcp-port", "0", "--mesh-id", "test", "--data-dir"]);
    command.arg(directory);
    command
}

fn start(directory: &Path) -> (Running, Listening) {
    started(command(directory))
}

fn started(mut command: Command) -> (Running, Listening) {
    let child = command.stdout(Stdio::piped()).spawn().expect("it starts");
    let mut running = Running(child);
    let mut line = String::new();
    BufReader::new(running.0.stdout.take().expect("piped")).read_line(&mut line).expect("a line");
    (running, serde_json::from_str(&line).expect("JSON"))
}

fn fails(command: &mut Command) -> (Option<i32>, String) {
    let Output { status, stderr, .. } = command.output().expect("it starts");
    (status.code(), String::from_utf8_lossy(&stderr).into_owned())
}

struct Nothing;

#[async_trait]
impl Handler for Nothing {
    async fn request(&self, _: NodeId, _: Request, _: &str, _: tokio::time::Instant) -> Result<Response, Problem> {
        Ok(Response::Done)
    }

    fn announced(&self, _: NodeId, _: Announcement) {}

    fn connected(&self, _: NodeId) {}

    fn disconnected(&self, _: NodeId) {}
}

async fn node() -> Mesh {
    let listen = Listen::any_port([127, 0, 0, 1].into());
    let config = Config { listen, private_addresses: true, ..Config::new(Key::generate(), "test".parse().expect("a mesh id")) };
    Mesh::spawn(config, Arc::new(Nothing)).await.expect("a node")
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_enter_through_it_over_each_transport_and_it_serves_nothing_else() {
    let directory = tempfile::tempdir().expect("a directory");
    let (mut running, listening) = start(directory.path());
    assert_eq!((listening.mesh_id.as_str(), listening.addresses.len()), ("test", 3));
    for address in &listening.addresses {
        let node = node().await;
        assert_eq!(node.join(address, PATIENCE).await.expect("entered"), listening.node_id);
        node.shutdown().await;
    }
    let node = node().await;
    node.join(&listening.addresses[0], PATIENCE).await.expect("entered");
    let ask = |request| node.request(listening.node_id, request, "r", PATIENCE);
    assert_eq!(ask(Request::Adverts(Default::default())).await.expect("an answer"), Response::Done);
    assert_eq!(ask(Request::Advert).await.expect_err("no advert").code, Code::NotFound);
    let problem = ask(Request::Prove(protocol::OperationId::new())).await.expect_err("no trace");
    assert!(problem.code == Code::NotFound && problem.hint.is_some(), "{problem}");
    running.signal(Signal::TERM);
    assert!(running.0.wait().expect("it ends").success());
}

#[test]
fn the_data_directory_is_held_and_its_key_kept_and_guarded() {
    let directory = tempfile::tempdir().expect("a directory");
    let (mut first, listening) = start(directory.path());
    let (code, text) = fails(&mut command(directory.path()));
    assert_eq!(code, Some(4), "{text}");
    first.signal(Signal::INT);
    assert!(first.0.wait().expect("it ends").success());

    let key = directory.path().join("node.key");
    let pem = fs::read_to_string(&key).expect("a key");
    assert_eq!(Key::from_pem(&pem).expect("PKCS#8").node_id(), listening.node_id);
    assert_eq!(fs::metadata(&key).expect("a key").permissions().mode() & 0o777, 0o600);
    let (again, same) = start(directory.path());
    assert_eq!(same.node_id, listening.node_id);
    drop(again);

    // A key that is lost is no new node's, unless the operator says so.
    fs::rename(&key, directory.path().join("backup")).expect("moved");
    let (code, text) = fails(&mut command(directory.path()));
    assert!(code == Some(2) && text.contains("node.key") && text.contains("--new-identity"), "{code:?} {text}");
    assert!(!key.exists(), "no other key in its place");
    let mut anew = command(directory.path());
    anew.arg("--new-identity");
    let (other, new) = started(anew);
    assert_ne!(new.node_id, listening.node_id);
    drop(other);
    let former = fs::read_dir(directory.path()).expect("listed").flatten();
    assert!(former.map(|file| file.path()).any(|path| path.join("identity.json").exists()), "the old node's files are kept");
    // The key of another node isn't this one's.
    fs::rename(directory.path().join("backup"), &key).expect("moved");
    let (code, text) = fails(&mut command(directory.path()));
    assert!(code == Some(2) && text.contains(&new.node_id.to_string()), "{code:?} {text}");
    fs::remove_file(directory.path().join("identity.json")).expect("removed");
    let (again, same) = start(directory.path());
    assert_eq!(same.node_id, listening.node_id, "the operator has vouched for it");
    drop(again);

    fs::set_permissions(&key, fs::Permissions::from_mode(0o640)).expect("changed");
    let (code, text) = fails(&mut command(directory.path()));
    assert!(code == Some(2) && text.contains("chmod 600"), "{code:?} {text}");
    fs::write(&key, "no key").expect("written");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).expect("changed");
    let (code, text) = fails(&mut command(directory.path()));
    assert!(code == Some(2) && text.contains("node.key"), "{code:?} {text}");
}

#[test]
fn wrong_settings_are_usage_errors() {
    let directory = tempfile::tempdir().expect("a directory");
    let (code, text) = fails(command(directory.path()).args(["--bootstrap", "nonsense"]));
    assert!(code == Some(2) && text.contains("nonsense"), "{code:?} {text}");
    let mut nameless = Command::new(env!("CARGO_BIN_EXE_mcp-bootstrap"));
    let (code, text) = fails(nameless.env_clear().arg("--data-dir").arg(directory.path()));
    assert!(code == Some(2) && text.contains("--mesh-id"), "{code:?} {text}");
}
