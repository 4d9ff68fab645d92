//! One child process: its log, its signals, its end.

use std::{
    fs::{self, File, OpenOptions},
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::wait::{PATIENCE, until};

/// Lines of a log that are shown when a test fails.
const TAIL: usize = 40;

/// A running program. Killed when dropped.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    stdout: PathBuf,
    stderr: PathBuf,
}

impl Process {
    /// Starts a program whose output goes to `<name>.out` and `<name>.log` in `place`; a restart adds to the log.
    ///
    /// # Panics
    /// If it can't be started.
    pub fn start(name: &str, mut command: Command, place: &Path) -> Self {
        let (stdout, stderr) = (place.join(format!("{name}.out")), place.join(format!("{name}.log")));
        let log = OpenOptions::new().create(true).append(true).open(&stderr).expect("a log can be opened");
        let out = File::create(&stdout).expect("a file for stdout can be made");
        let child = command.stdin(Stdio::null()).stdout(out).stderr(log).spawn();
        let child = child.unwrap_or_else(|error| panic!("{name} can't be started: {error}"));
        Self { name: name.into(), child, stdout, stderr }
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.child.id()).expect("process ids are small")).expect("and not 0");
        kill_process(pid, signal).unwrap_or_else(|error| panic!("{} can't be signalled: {error}", self.name));
    }

    /// Kills it as the kernel would (SIGKILL), and reaps it.
    pub fn kill9(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Whether it runs still.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Waits for its end.
    pub async fn ended(&mut self) -> ExitStatus {
        let what = format!("the end of {}", self.name);
        until(&what, async || self.child.try_wait().expect("a child of ours")).await
    }

    /// The first line of its stdout, in JSON: what it announces.
    ///
    /// # Panics
    /// If it ends before, or says something else.
    pub async fn announcement<T: DeserializeOwned>(&mut self) -> T {
        let what = format!("what {} announces", self.name);
        let line = until(&what, async || {
            let text = self.said();
            let line = text.split_once('\n').map(|(line, _)| line.to_owned());
            assert!(line.is_some() || self.is_running(), "{} ended before it announced anything", self.name);
            line
        });
        let line = line.await;
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{} announces {line:?}: {error}", self.name))
    }

    /// Its stdout so far.
    pub fn said(&self) -> String {
        fs::read_to_string(&self.stdout).unwrap_or_default()
    }

    /// Its stderr so far, that of earlier runs included.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.stderr).unwrap_or_default()
    }

    /// What it has found so far.
    pub fn output(&self) -> String {
        fs::read_to_string(&self.stdout).unwrap_or_default()
    }
}

impl Drop for Process {
    /// What a failed test leaves is its log.
    #[expect(clippy::print_stderr, reason = "the test's own output")]
    fn drop(&mut self) {
        self.kill9();
        if std::thread::panicking() {
            let log = self.log();
            let lines: Vec<&str> = log.lines().collect();
            eprintln!("--- the end of {}'s log\n{}", self.name, lines[lines.len().saturating_sub(TAIL)..].join("\n"));
        }
    }
}

/// What a command that ran to its end said.
#[derive(Debug, Clone)]
pub struct Answer {
    /// Its exit code; none where a signal ended it.
    pub code: Option<i32>,
    /// What it found.
    pub stdout: String,
    /// What it remarked.
    pub stderr: String,
}

impl Answer {
    /// Its stdout as JSON.
    ///
    /// # Panics
    /// If it isn't.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("not JSON ({error}): {self:?}"))
    }

    /// Insists on this exit code.
    #[track_caller]
    pub fn exits(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "{self:?}");
        self
    }
}

/// Runs a command to its end.
///
/// # Panics
/// If it doesn't end within [`PATIENCE`].
pub async fn run(command: Command) -> Answer {
    run_within(command, PATIENCE).await
}

/// Runs a command to its end.
///
/// # Panics
/// If it doesn't end in time.
pub async fn run_within(command: Command, patience: Duration) -> Answer {
    let mut command = tokio::process::Command::from(command);
    let output = command.stdin(Stdio::null()).kill_on_drop(true).output();
    let output = tokio::time::timeout(patience, output).await.expect("the command ends in time").expect("the command runs");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("our programs speak UTF-8");
    Answer { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
}

/// The processes whose command line names `path`: those that belong to the directory.
pub fn processes_naming(path: &Path) -> Vec<u32> {
    let needle = path.as_os_str().as_bytes();
    let names = |file: PathBuf| fs::read(file).is_ok_and(|bytes| bytes.windows(needle.len()).any(|window| window == needle));
    let entries = fs::read_dir("/proc").expect("/proc is there").flatten();
    let ids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    ids.filter(|id| names(format!("/proc/{id}/cmdline").into())).collect()
}
