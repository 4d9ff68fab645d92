//! What the system says about a process: memory and time on a processor.

use std::{fs, time::Duration};

use anyhow::{Context as _, Result};
use serde::Serialize;

/// A process's memory, in bytes.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Memory {
    /// Resident: its own pages, and those it shares with others (the program's code).
    pub(crate) rss: u64,
    /// Resident, shared pages divided by those who share them.
    pub(crate) pss: u64,
    /// Resident and of no file: what only its end gives back.
    pub(crate) anonymous: u64,
}

impl Memory {
    /// Reads `/proc/PID/smaps_rollup`.
    pub(crate) fn of(pid: u32) -> Result<Self> {
        let path = format!("/proc/{pid}/smaps_rollup");
        let text = fs::read_to_string(&path).with_context(|| path.clone())?;
        let field = |name: &str| -> Result<u64> {
            let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            let kilobytes = line.and_then(|rest| rest.trim().strip_suffix("kB")).with_context(|| format!("{path} has no {name}"))?;
            Ok(kilobytes.trim().parse::<u64>()? * 1024)
        };
        Ok(Self { rss: field("Rss")?, pss: field("Pss")?, anonymous: field("Anonymous")? })
    }

    /// Of both.
    pub(crate) fn plus(self, other: Self) -> Self {
        Self { rss: self.rss + other.rss, pss: self.pss + other.pss, anonymous: self.anonymous + other.anonymous }
    }
}

/// The time that a process's threads have spent on processors so far (`/proc/PID/task/*/schedstat`, nanoseconds).
pub(crate) fn cpu(pid: u32) -> Result<Duration> {
    let mut total = Duration::ZERO;
    for thread in fs::read_dir(format!("/proc/{pid}/task"))? {
        // A thread may end while the others are read.
        if let Ok(text) = fs::read_to_string(thread?.path().join("schedstat")) {
            total += Duration::from_nanos(text.split(' ').next().unwrap_or_default().parse()?);
        }
    }
    Ok(total)
}

/// The machine, for whoever compares runs.
#[derive(Debug, Serialize)]
pub(crate) struct Machine {
    cores: usize,
    cpu: String,
    kernel: String,
    memory_bytes: u64,
    /// Over the minute before the run: what else the machine had to do.
    load: String,
}

impl Machine {
    pub(crate) fn here() -> Self {
        let text = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let after = |text: &str, name: &str| {
            text.lines().find_map(|line| Some(line.strip_prefix(name)?.trim_start_matches([' ', '\t', ':']).to_owned()))
        };
        let memory = after(&text("/proc/meminfo"), "MemTotal").and_then(|rest| rest.trim_end_matches("kB").trim().parse::<u64>().ok());
        Self {
            cores: std::thread::available_parallelism().map_or(0, usize::from),
            cpu: after(&text("/proc/cpuinfo"), "model name").unwrap_or_default(),
            kernel: text("/proc/sys/kernel/osrelease").trim().into(),
            memory_bytes: memory.unwrap_or_default() * 1024,
            load: text("/proc/loadavg").split(' ').next().unwrap_or_default().into(),
        }
    }
}

impl std::fmt::Display for Machine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} cores ({}), Linux {}, load {}", self.cores, self.cpu, self.kernel, self.load)
    }
}
