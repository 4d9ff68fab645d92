//! The host's side of the plugin interface: what a guest's imports do.
//!
//! Every import is async, so that a call which waits in one can still be stopped.

use std::time::{SystemTime, UNIX_EPOCH};

use protocol::{advert::Effect, api::Limits, manifest::Import};
use wasmtime::{
    Engine, Result, bail,
    component::{HasSelf, Linker},
    format_err,
};

use self::bindings::mcp_zero::plugin::{agents, clock, http, log, random, state, types};
use crate::{
    ceiling::Ceiling,
    limit::MemoryLimit,
    outside::{Egress, Ends, Outside},
    overlay::{Overlay, State, StateError},
};

/// Generated from the interface itself.
#[allow(missing_debug_implementations, unreachable_pub, clippy::unused_async)]
pub(crate) mod bindings {
    wasmtime::component::bindgen!({
        path: "../../protocol/wit",
        world: "plugin",
        imports: { default: async | trappable },
        exports: { default: async },
    });
}

/// The most random bytes of one request.
const MAX_RANDOM: u32 = 64 * 1024;
/// The most log lines of one call: enough to debug by, too few to flood the node's log.
const MAX_LINES: u32 = 100;
/// The longest log line.
const MAX_LINE: usize = 4 * 1024;

/// How much a guest's log line matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// For whoever looks for a fault.
    Debug,
    /// What happens.
    Info,
    /// What may be wrong.
    Warn,
    /// What is wrong.
    Error,
}

impl Level {
    /// As text.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Debug => "debug",
            Self::Info => "info",
            Self::Warn => "warn",
            Self::Error => "error",
        }
    }
}

impl From<log::Level> for Level {
    fn from(level: log::Level) -> Self {
        match level {
            log::Level::Debug => Self::Debug,
            log::Level::Info => Self::Info,
            log::Level::Warn => Self::Warn,
            log::Level::Error => Self::Error,
        }
    }
}

/// Takes a guest's log lines: at most 100 of a call, one bounded line each, without control characters.
pub trait Log: Send {
    /// A line.
    fn line(&mut self, level: Level, line: &str);
}

/// Takes them and keeps none.
impl Log for () {
    fn line(&mut self, _: Level, _: &str) {}
}

/// What a call brings for its guest.
pub(crate) struct Means {
    pub(crate) state: Box<dyn State>,
    pub(crate) label: String,
    pub(crate) log: Box<dyn Log>,
    pub(crate) outside: Box<dyn Outside>,
}

/// What belongs to one instance: its side of each import.
pub(crate) struct Guest {
    /// What it reads and has written.
    pub(crate) overlay: Overlay,
    /// What it may hold.
    pub(crate) memory: MemoryLimit,
    /// Why the committed state couldn't be read, once that happened.
    pub(crate) fault: Option<StateError>,
    /// What it reaches outside of itself.
    pub(crate) outside: Box<dyn Outside>,
    /// What it has sent there.
    pub(crate) egress: Egress,
    /// When its time is over, once that runs.
    pub(crate) ends: Option<Ends>,
    effect: Effect,
    label: String,
    log: Box<dyn Log>,
    lines: u32,
}

impl Guest {
    /// A guest that holds, has written and has sent nothing.
    pub(crate) fn new(means: Means, effect: Effect, limits: &Limits, ceiling: Ceiling) -> Self {
        let Means { state, label, log, outside } = means;
        Self {
            overlay: Overlay::new(state, limits.state_bytes),
            memory: MemoryLimit::new(limits.memory, ceiling),
            fault: None,
            outside,
            egress: Egress::new(limits.egress_bytes),
            ends: None,
            effect,
            label,
            log,
            lines: 0,
        }
    }

    /// What it has written; all else of it ends here.
    pub(crate) fn into_overlay(self) -> Overlay {
        self.overlay
    }

    /// Keeps the cause for the outcome, and traps.
    fn broken(&mut self, error: StateError) -> wasmtime::Error {
        self.fault = Some(error);
        format_err!("the agent's state can't be read")
    }

    fn write(&mut self, key: String, value: Option<Vec<u8>>) -> Result<(), String> {
        match self.effect {
            Effect::ReadOnly => Err("a read-only method can't write state".into()),
            Effect::Mutating => self.overlay.put(key, value),
        }
    }
}

/// Links what the manifest asks for, and nothing else.
pub(crate) fn linker(engine: &Engine, imports: &[Import]) -> Result<Linker<Guest>> {
    fn guest(guest: &mut Guest) -> &mut Guest {
        guest
    }
    let mut linker = Linker::new(engine);
    types::add_to_linker::<Guest, HasSelf<Guest>>(&mut linker, guest)?;
    for import in Import::ALL.into_iter().filter(|import| imports.contains(import)) {
        match import {
            Import::State => state::add_to_linker::<Guest, HasSelf<Guest>>(&mut linker, guest)?,
            Import::Log => log::add_to_linker::<Guest, HasSelf<Guest>>(&mut linker, guest)?,
            Import::Clock => clock::add_to_linker::<Guest, HasSelf<Guest>>(&mut linker, guest)?,
            Import::Random => random::add_to_linker::<Guest, HasSelf<Guest>>(&mut linker, guest)?,
            Import::Http => http::add_to_linker::<Guest, HasSelf<Guest>>(&mut linker, guest)?,
            Import::Agents => agents::add_to_linker::<Guest, HasSelf<Guest>>(&mut linker, guest)?,
        }
    }
    Ok(linker)
}

impl types::Host for Guest {}

impl state::Host for Guest {
    async fn get(&mut self, key: String) -> Result<Option<Vec<u8>>> {
        match self.overlay.get(&key).await {
            Ok(value) => Ok(value),
            Err(error) => Err(self.broken(error)),
        }
    }

    async fn set(&mut self, key: String, value: Vec<u8>) -> Result<Result<(), String>> {
        Ok(self.write(key, Some(value)))
    }

    async fn delete(&mut self, key: String) -> Result<Result<(), String>> {
        Ok(self.write(key, None))
    }

    async fn list_keys(&mut self, prefix: String, after: Option<String>, limit: u32) -> Result<Vec<String>> {
        match self.overlay.list(&prefix, after.as_deref(), limit as usize).await {
            Ok(keys) => Ok(keys),
            Err(error) => Err(self.broken(error)),
        }
    }
}

impl log::Host for Guest {
    async fn write(&mut self, level: log::Level, message: String) -> Result<()> {
        self.lines = self.lines.saturating_add(1);
        let call = &self.label;
        if self.lines > MAX_LINES {
            if self.lines == MAX_LINES + 1 {
                self.log.line(Level::Warn, "further lines of this call are dropped");
                tracing::debug!(target: "plugin", %call, "further lines of this call are dropped");
            }
            return Ok(());
        }
        let line = one_line(&message);
        // The node's own log is its operator's: what plugins say is there on demand only.
        tracing::debug!(target: "plugin", %call, "{line}");
        self.log.line(level.into(), &line);
        Ok(())
    }
}

/// Bounds a message, and takes out what could pass for another line or steer a terminal.
fn one_line(message: &str) -> String {
    let end = message.char_indices().map(|(at, char)| at + char.len_utf8()).take_while(|end| *end <= MAX_LINE).last();
    message[..end.unwrap_or(0)].chars().map(|char| if char.is_control() { ' ' } else { char }).collect()
}

impl clock::Host for Guest {
    async fn now(&mut self) -> Result<u64> {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Ok(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
    }
}

impl random::Host for Guest {
    async fn bytes(&mut self, count: u32) -> Result<Vec<u8>> {
        if count > MAX_RANDOM {
            bail!("at most {MAX_RANDOM} random bytes can be asked for at a time, not {count}");
        }
        let mut bytes = vec![0; count as usize];
        getrandom::fill(&mut bytes).map_err(|error| format_err!("the system has no random bytes: {error}"))?;
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_one_bounded_line() {
        assert_eq!(one_line("a\nb\u{1b}[31m"), "a b [31m");
        assert_eq!(one_line(&"é".repeat(MAX_LINE)).len(), MAX_LINE);
        assert_eq!(one_line(""), "");
    }
}
