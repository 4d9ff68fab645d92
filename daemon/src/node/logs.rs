//! What plugins log: the newest lines of each agent, in memory, for whoever develops or operates it.
//!
//! An agent keeps its own lines whatever others log, up to its share; when all together are too many, the one that has the
//! most gives way.

use std::collections::{HashMap, VecDeque};

use parking_lot::Mutex;
use protocol::{AgentId, Timestamp, api::LogLine};
use tokio::sync::watch;

/// Lines of one agent, and their bytes.
const MAX_LINES: usize = 2_000;
const MAX_BYTES: usize = 1 << 20;
/// Bytes of all agents' lines.
const MAX_ALL: usize = 32 << 20;
/// What a line takes beside its text.
const OVERHEAD: usize = 200;

/// See the module.
#[derive(Debug)]
pub(crate) struct Logs {
    kept: Mutex<Kept>,
    /// Counts lines, for those who follow.
    changes: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Kept {
    agents: HashMap<AgentId, Ring>,
    bytes: usize,
    last: u64,
}

#[derive(Debug, Default)]
struct Ring {
    lines: VecDeque<LogLine>,
    bytes: usize,
}

impl Ring {
    /// Drops the oldest line; how many bytes that frees.
    fn drop_first(&mut self) -> usize {
        let freed = self.lines.pop_front().map_or(0, |line| size(&line));
        self.bytes -= freed;
        freed
    }
}

fn size(line: &LogLine) -> usize {
    line.line.len() + line.method.len() + line.request_id.len() + OVERHEAD
}

impl Logs {
    pub(crate) fn new() -> Self {
        let (changes, _) = watch::channel(0);
        Self { kept: Mutex::default(), changes }
    }

    /// Keeps a line of `agent`.
    fn push(&self, agent: AgentId, mut line: LogLine) {
        let mut kept = self.kept.lock();
        kept.last += 1;
        let last = kept.last;
        line.sequence = last;
        let more = size(&line);
        let ring = kept.agents.entry(agent).or_default();
        ring.bytes += more;
        ring.lines.push_back(line);
        let mut freed = 0;
        while ring.lines.len() > MAX_LINES || ring.bytes > MAX_BYTES {
            freed += ring.drop_first();
        }
        kept.bytes = kept.bytes + more - freed;
        while kept.bytes > MAX_ALL {
            let Some(most) = kept.agents.values_mut().max_by_key(|ring| ring.bytes) else { break };
            let freed = most.drop_first();
            kept.bytes -= freed;
        }
        drop(kept);
        self.changes.send_replace(last);
    }

    /// The newest `limit` lines of `agent` after the one of sequence `after`, the oldest first.
    pub(crate) fn read(&self, agent: &AgentId, after: u64, limit: usize) -> Vec<LogLine> {
        let kept = self.kept.lock();
        let Some(ring) = kept.agents.get(agent) else { return Vec::new() };
        let news = ring.lines.iter().rev().take_while(|line| line.sequence > after).take(limit);
        let mut lines: Vec<LogLine> = news.cloned().collect();
        lines.reverse();
        lines
    }

    /// The agent is no more.
    pub(crate) fn forget(&self, agent: &AgentId) {
        let mut kept = self.kept.lock();
        let freed = kept.agents.remove(agent).map_or(0, |ring| ring.bytes);
        kept.bytes -= freed;
    }

    /// Rings when anything is logged.
    pub(crate) fn watch(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }
}

/// Where the lines of one call go.
pub(crate) struct OfCall {
    pub(crate) logs: std::sync::Arc<Logs>,
    pub(crate) agent: AgentId,
    pub(crate) method: String,
    pub(crate) request_id: String,
}

impl kernel::Log for OfCall {
    fn line(&mut self, level: kernel::Level, line: &str) {
        let line = LogLine {
            sequence: 0,
            time: Timestamp::now(),
            level: level.as_str().into(),
            method: self.method.clone(),
            request_id: self.request_id.clone(),
            line: line.to_owned(),
        };
        self.logs.push(self.agent, line);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(text: &str) -> LogLine {
        LogLine { sequence: 0, time: Timestamp::now(), level: "info".into(), method: "m".into(), request_id: "r".into(), line: text.into() }
    }

    #[test]
    fn a_loud_agent_pushes_out_its_own_lines_alone() {
        let (logs, quiet) = (Logs::new(), AgentId::new());
        logs.push(quiet, line("kept"));
        let loud: Vec<AgentId> = (0..40).map(|_| AgentId::new()).collect();
        let text = "x".repeat(4_000);
        for _ in 0..400 {
            loud.iter().for_each(|agent| logs.push(*agent, line(&text)));
        }
        assert_eq!(logs.read(&quiet, 0, 10).len(), 1);
        let kept = logs.kept.lock();
        assert!(kept.bytes <= MAX_ALL && kept.agents.values().all(|ring| ring.bytes <= MAX_BYTES));
        assert_eq!(kept.bytes, kept.agents.values().map(|ring| ring.bytes).sum::<usize>());
        drop(kept);
        loud.iter().for_each(|agent| logs.forget(agent));
        assert_eq!(logs.kept.lock().bytes, size(&line("kept")));
    }

    #[test]
    fn the_newest_come_in_order_and_each_once() {
        let (logs, agent) = (Logs::new(), AgentId::new());
        (0..10).for_each(|i| logs.push(agent, line(&i.to_string())));
        let texts = |lines: &[LogLine]| lines.iter().map(|line| line.line.clone()).collect::<Vec<_>>();
        let three = logs.read(&agent, 0, 3);
        assert_eq!(texts(&three), ["7", "8", "9"]);
        logs.push(agent, line("10"));
        assert_eq!(texts(&logs.read(&agent, three[2].sequence, 100)), ["10"]);
        (0..3_000).for_each(|_| logs.push(agent, line("")));
        assert_eq!(logs.read(&agent, 0, usize::MAX).len(), MAX_LINES);
    }
}
