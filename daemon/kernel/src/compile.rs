//! Compiling, where a hostile component can do no harm: in a child with hard limits.
//!
//! ```text
//! kernel --component on stdin--> child: limits on itself -> engine like ours -> code on stdout --> cache
//! ```
//! The child is this very program, started with [`COMPILE_ARG`], so that it has the same compiler.

use std::{
    io::{Read as _, Write as _},
    path::{Path, PathBuf},
    process::{ExitCode, ExitStatus, Stdio},
    time::Duration,
};

use protocol::manifest::MAX_COMPONENT;
use rustix::process::{Resource, Rlimit, setrlimit};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    process::Command,
    time::timeout,
};
use wasmtime::Engine;

use crate::{engine, error::Error};

/// The argument that makes a program call [`compile_worker`] and do nothing else.
pub const COMPILE_ARG: &str = "--compile-plugin";

/// Address space of the child: every honest plugin that was measured, 18 MB of Python included, needed less.
const MAX_ADDRESS_SPACE: u64 = 500 << 20;
/// CPU seconds of the child.
const MAX_CPU_SECONDS: u64 = 30;
/// Wall time of the child: its CPU time on a machine that has other things to do.
const MAX_WALL: Duration = Duration::from_secs(180);
/// The most of the child's complaint that is read.
const MAX_COMPLAINT: u64 = 4 * 1024;

/// Who compiles.
#[derive(Debug, Clone)]
pub enum Compiler {
    /// This process, without limits: for tests and tools that compile what they trust.
    InProcess,
    /// A child: an executable that calls [`compile_worker`] when its first argument is [`COMPILE_ARG`].
    Child(PathBuf),
}

impl Compiler {
    /// Compiles a component for engines set like `engine`.
    pub(crate) async fn compile(&self, engine: &Engine, component: &std::sync::Arc<[u8]>) -> Result<Vec<u8>, Error> {
        match self {
            Self::InProcess => {
                let (engine, component) = (engine.clone(), component.clone());
                let task = tokio::task::spawn_blocking(move || engine.precompile_component(&component));
                let code = task.await.map_err(|error| Error::Compile(error.to_string()))?;
                code.map_err(|error| Error::Compile(error.root_cause().to_string()))
            }
            Self::Child(program) => timeout(MAX_WALL, child(program, component))
                .await
                .unwrap_or_else(|_| Err(Error::Compile(format!("it takes longer than {} s", MAX_WALL.as_secs())))),
        }
    }
}

/// Runs the child; it dies with the future.
async fn child(program: &Path, component: &[u8]) -> Result<Vec<u8>, Error> {
    let broken = |error: std::io::Error| Error::Sandbox(format!("the compiler {} can't run: {error}", program.display()));
    let mut child = Command::new(program)
        .arg(COMPILE_ARG)
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(broken)?;
    let mut stdin = child.stdin.take().expect("it is piped");
    let mut stdout = child.stdout.take().expect("it is piped").take(MAX_ADDRESS_SPACE);
    let mut stderr = child.stderr.take().expect("it is piped").take(MAX_COMPLAINT);
    let (mut code, mut complaint) = (Vec::new(), Vec::new());
    let feed = async {
        // A child that died hears nothing more; its status says why.
        let _ = stdin.write_all(component).await;
        drop(stdin);
    };
    let ((), read, _) = tokio::join!(feed, stdout.read_to_end(&mut code), stderr.read_to_end(&mut complaint));
    read.map_err(broken)?;
    let status = child.wait().await.map_err(broken)?;
    if status.success() { Ok(code) } else { Err(Error::Compile(reason(status, &complaint))) }
}

/// A worker that refuses says why and exits with 1; a worker that hits its limits is ended by a signal.
fn reason(status: ExitStatus, complaint: &[u8]) -> String {
    match status.code() {
        Some(1) => String::from_utf8_lossy(complaint).trim().to_owned(),
        _ => format!("it takes more than {} MiB or {MAX_CPU_SECONDS} s of CPU ({status})", MAX_ADDRESS_SPACE >> 20),
    }
}

/// The child's whole life: a component on standard input, its compiled code on standard output.
///
/// Call it first in `main`, before threads start: the limits hold for the process.
pub fn compile_worker() -> ExitCode {
    match work() {
        Ok(()) => ExitCode::SUCCESS,
        Err(complaint) => {
            let _ = writeln!(std::io::stderr(), "{complaint}");
            ExitCode::FAILURE
        }
    }
}

fn work() -> Result<(), String> {
    let limit = |resource, value| {
        let limits = Rlimit { current: Some(value), maximum: Some(value) };
        setrlimit(resource, limits).map_err(|error| format!("its limits can't be set: {error}"))
    };
    limit(Resource::As, MAX_ADDRESS_SPACE)?;
    limit(Resource::Cpu, MAX_CPU_SECONDS)?;
    limit(Resource::Core, 0)?;
    limit(Resource::Fsize, 0)?;
    let mut component = Vec::new();
    let most = MAX_COMPONENT as u64 + 1;
    std::io::stdin().lock().take(most).read_to_end(&mut component).map_err(|error| format!("it can't be read: {error}"))?;
    if component.len() > MAX_COMPONENT {
        return Err(format!("it has more than {MAX_COMPONENT} bytes"));
    }
    let engine = engine::compiler().map_err(|error| error.to_string())?;
    let code = engine.precompile_component(&component).map_err(|error| error.root_cause().to_string())?;
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(&code).and_then(|()| stdout.flush()).map_err(|error| format!("its code can't be written: {error}"))
}
