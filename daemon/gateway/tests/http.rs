//! The real gateway over real HTTP, with no daemon behind it.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::TcpStream,
    os::unix::net::UnixListener,
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
    time::Duration,
};

use protocol::{Code, Key, Problem, api::Identity};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

const KEY: &str = "a-static-key-for-tests";

/// A gateway of its own for each test; stopped when dropped.
struct Gateway {
    child: Child,
    address: String,
    dir: TempDir,
}

fn command(dir: &TempDir) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mcp-gateway"));
    command.env_clear().env("MCP_DATA_DIR", dir.path()).args(["--listen", "127.0.0.1:0", "--json"]);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn start(arguments: &[&str]) -> Gateway {
    let dir = tempfile::tempdir().expect("directory");
    let command = command(&dir);
    launch(dir, command, arguments)
}

/// A gateway that may have so many files and connections open.
fn start_within(descriptors: usize) -> Gateway {
    let dir = tempfile::tempdir().expect("directory");
    let own = command(&dir);
    let mut shell = Command::new("/bin/sh");
    shell.args(["-c", &format!("ulimit -n {descriptors}; exec \"$0\" \"$@\"")]).arg(own.get_program()).args(own.get_args());
    shell.env_clear().env("MCP_DATA_DIR", dir.path()).stdout(Stdio::piped());
    launch(dir, shell, &[])
}

fn launch(dir: TempDir, mut command: Command, arguments: &[&str]) -> Gateway {
    let file = dir.path().join("keys");
    std::fs::write(&file, format!("{KEY}\n")).expect("keys");
    let mut child = command.env("MCP_API_KEYS_FILE", file).args(arguments).stderr(Stdio::null()).spawn().expect("gateway runs");
    let mut line = String::new();
    BufReader::new(child.stdout.take().expect("piped")).read_line(&mut line).expect("its address");
    let announced: serde_json::Value = serde_json::from_str(&line).expect("json");
    let address = announced["url"].as_str().and_then(|url| url.strip_prefix("http://")).expect("url").to_owned();
    Gateway { child, address, dir }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A response's status line, headers and body.
struct Answer {
    status: u16,
    head: String,
    body: String,
}

impl Answer {
    fn problem(&self) -> Problem {
        assert!(self.head.contains("content-type: application/problem+json"), "{}", self.head);
        serde_json::from_str(&self.body).expect("problem")
    }
}

impl Gateway {
    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(&self.address).expect("connects");
        stream.set_read_timeout(Some(Duration::from_secs(20))).expect("time-out");
        stream
    }

    fn ask(&self, request: &str, headers: &[&str]) -> Answer {
        self.send(&format!("{request} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n{}\r\n", lines(headers)))
    }

    fn send(&self, text: &str) -> Answer {
        let mut stream = self.connect();
        stream.write_all(text.as_bytes()).expect("write");
        let mut text = String::new();
        stream.read_to_string(&mut text).expect("read");
        let (head, body) = text.split_once("\r\n\r\n").expect("head and body");
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("status");
        Answer { status, head: head.to_owned(), body: body.to_owned() }
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("signal");
    }

    fn wait(&mut self) -> ExitStatus {
        self.child.wait().expect("ends")
    }
}

fn lines(headers: &[&str]) -> String {
    headers.iter().map(|header| format!("{header}\r\n")).collect()
}

#[test]
fn it_lives_without_a_daemon_but_is_not_ready() {
    let gateway = start(&[]);
    let alive = gateway.ask("GET /healthz", &[]);
    assert_eq!((alive.status, alive.body.as_str()), (200, r#"{"alive":true}"#));
    let ready = gateway.ask("GET /readyz", &[]);
    assert_eq!((ready.status, ready.problem().code), (503, Code::NotRunning));
    assert!(!ready.body.contains("mcpd.sock"), "{}", ready.body);
}

#[test]
fn without_a_key_nothing_is_asked() {
    let gateway = start(&[]);
    for headers in [&["x-request-id: mine"][..], &["authorization: Basic abc", "x-request-id: mine"]] {
        let refused = gateway.ask("GET /v1/status", headers);
        let problem = refused.problem();
        assert_eq!((refused.status, problem.code, problem.request_id.as_deref()), (401, Code::Unauthenticated, Some("mine")));
        assert!(refused.head.contains("www-authenticate: Bearer"), "{}", refused.head);
        assert!(refused.head.contains("x-request-id: mine"), "{}", refused.head);
    }
}

#[test]
fn with_a_static_key_the_daemon_is_asked_and_missed() {
    let gateway = start(&[]);
    for header in [format!("authorization: Bearer {KEY}"), format!("x-api-key: {KEY}")] {
        let missed = gateway.ask("GET /v1/status", &[&header]);
        let problem = missed.problem();
        assert_eq!((missed.status, problem.code), (503, Code::NotRunning));
        assert!(problem.request_id.is_some_and(|id| id.len() == 16));
    }
    // Whether another key is known can only the daemon say.
    assert_eq!(gateway.ask("GET /v1/status", &["x-api-key: another-key-for-tests"]).problem().code, Code::NotRunning);
}

#[test]
fn what_is_not_for_outside_is_refused_before_any_daemon() {
    let gateway = start(&[]);
    let key = format!("x-api-key: {KEY}");
    let ask = |request: &str| gateway.ask(request, &[&key, "content-length: 0"]).problem().code;
    assert_eq!(ask("POST /v1/keys/resolve"), Code::NotFound);
    assert_eq!(ask("POST /v1/keys"), Code::NotAuthorized);
    assert_eq!(ask("GET /v1/config"), Code::NotAuthorized);
    assert_eq!(ask("GET /metrics"), Code::NotFound);
}

#[test]
fn on_loopback_a_foreign_host_name_is_refused_unless_allowed() {
    let ask = |gateway: &Gateway| {
        gateway.send(&format!("GET /v1/id HTTP/1.1\r\nhost: node.example\r\nx-api-key: {KEY}\r\nconnection: close\r\n\r\n")).problem().code
    };
    assert_eq!(ask(&start(&[])), Code::NotAuthorized);
    assert_eq!(ask(&start(&["--allow-host", "node.example"])), Code::NotRunning);
}

/// A daemon that knows who it is, and nothing else; it ends with the test's process.
fn serve_identity(socket: &Path) {
    let key = Key::generate();
    let mesh_id = "test".parse().expect("a name");
    let identity = Identity { node_id: key.node_id(), mesh_id, owner: key.did(), addresses: Vec::new() };
    let body = serde_json::to_string(&identity).expect("json");
    let answer = format!("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}", body.len());
    let listener = UnixListener::bind(socket).expect("socket");
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let answer = answer.clone();
            std::thread::spawn(move || {
                let mut part = [0; 4096];
                // The gateway sends one small request at a time on a connection.
                while stream.read(&mut part).is_ok_and(|length| length > 0) && stream.write_all(answer.as_bytes()).is_ok() {}
            });
        }
    });
}

#[test]
fn connections_without_a_key_make_room_for_others() {
    let gateway = start_within(64);
    serve_identity(&gateway.dir.path().join("mcpd.sock"));
    // Far more than it may have open; each would be waited for until its time for a header is over.
    let mut idle: Vec<TcpStream> = (0..400).map(|_| gateway.connect()).collect();
    for stream in &mut idle {
        // Some are closed by now.
        let _ = stream.write_all(b"GET /v1/id HTTP/1.1\r\nhost: ");
    }
    assert_eq!(gateway.ask("GET /healthz", &[]).status, 200);
    // Whoever has shown a key stays, however many come after.
    let mut kept = gateway.connect();
    let request = format!("GET /v1/id HTTP/1.1\r\nhost: localhost\r\nx-api-key: {KEY}\r\n\r\n");
    let mut ask = || {
        kept.write_all(request.as_bytes()).expect("open");
        let mut answer = String::new();
        while !answer.contains("\"owner\"") {
            let mut part = [0; 1024];
            let length = kept.read(&mut part).expect("an answer");
            assert!(length > 0, "closed after {answer:?}");
            answer += &String::from_utf8_lossy(&part[..length]);
        }
    };
    ask();
    idle.extend((0..200).map(|_| gateway.connect()));
    assert_eq!(gateway.ask("GET /healthz", &[]).status, 200);
    ask();
}

#[test]
fn one_signal_drains_and_two_end_it_at_once() {
    let mut gateway = start(&[]);
    assert_eq!(gateway.ask("GET /healthz", &[]).status, 200);
    gateway.signal(Signal::TERM);
    assert_eq!(gateway.wait().code(), Some(0));

    // Who never answers on the socket keeps a request under way, and so the gateway after its first signal.
    let mut gateway = start(&[]);
    let silent = UnixListener::bind(gateway.dir.path().join("mcpd.sock")).expect("socket");
    let mut stream = gateway.connect();
    stream.write_all(format!("GET /v1/id HTTP/1.1\r\nhost: localhost\r\nx-api-key: {KEY}\r\n\r\n").as_bytes()).expect("write");
    let _connection = silent.accept().expect("the gateway asks");
    gateway.signal(Signal::INT);
    // It listens no more, so the first signal was taken.
    while TcpStream::connect(&gateway.address).is_ok() {
        std::thread::yield_now();
    }
    assert!(gateway.child.try_wait().expect("status").is_none(), "it waits for the request");
    gateway.signal(Signal::TERM);
    assert_eq!(gateway.wait().code(), Some(1));
}

#[test]
fn a_short_key_or_a_taken_address_stops_it_before_it_starts() {
    let dir = tempfile::tempdir().expect("directory");
    let refused = command(&dir).env("MCP_API_KEYS", "hunter2").output().expect("gateway runs");
    let text = String::from_utf8_lossy(&refused.stderr);
    assert_eq!(refused.status.code(), Some(2));
    assert!(text.contains("error: key 1 of MCP_API_KEYS has fewer than 16 characters\nhint: ") && !text.contains("hunter2"), "{text}");

    let other = start(&[]);
    let mut taken = Command::new(env!("CARGO_BIN_EXE_mcp-gateway"));
    let refused = taken.env_clear().env("MCP_DATA_DIR", dir.path()).args(["--listen", &other.address]).output().expect("gateway runs");
    assert_eq!(refused.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("hint: choose another with '--listen"));
}
