//! The command line: few words, so parsed by hand.

use std::{path::PathBuf, time::Duration};

use anyhow::{Context as _, Result, bail};

use crate::{measure::Pace, place};

/// The sections there are.
const SECTIONS: [&str; 12] =
    ["start", "memory", "kernel", "agents", "snapshot", "agreements", "trace", "local", "remote", "rpc", "hostile", "scale"];
const USAGE: &str = "usage: tests/bench [--quick] [--only start,memory,kernel,agents,snapshot,agreements,trace,local,remote,rpc,hostile,scale] [--json FILE]";

/// What this process is to do.
#[derive(Debug)]
pub(crate) enum Wanted {
    /// `cargo test` builds and runs benches too: without `--bench` nothing is measured.
    Nothing,
    /// Be the responder of the NATS yardstick.
    Responder { url: String, directory: PathBuf, agents: usize },
    /// Be the raw parts behind a socket.
    Served { socket: PathBuf, directory: PathBuf, agents: usize },
    /// Be the echo at the other end.
    Echo,
    /// Measure.
    Figures(Arguments),
}

/// How to measure.
#[derive(Debug)]
pub(crate) struct Arguments {
    /// Short rounds: shows that it works, not how fast.
    pub(crate) quick: bool,
    /// Where the JSON goes.
    pub(crate) json: PathBuf,
    only: Vec<String>,
}

impl Arguments {
    pub(crate) fn parse(mut words: impl Iterator<Item = String>) -> Result<Wanted> {
        let (mut measuring, mut arguments) = (false, Self { quick: false, json: place::target()?.join("bench.json"), only: Vec::new() });
        while let Some(word) = words.next() {
            let mut value = || words.next().context(USAGE);
            match word.as_str() {
                "--bench" => measuring = true,
                "--quick" => arguments.quick = true,
                "--json" => arguments.json = value()?.into(),
                "--only" => arguments.only = value()?.split(',').map(str::to_owned).collect(),
                "--echo" => return Ok(Wanted::Echo),
                "--served" => {
                    return Ok(Wanted::Served { socket: value()?.into(), directory: value()?.into(), agents: value()?.parse()? });
                }
                "--responder" => return Ok(Wanted::Responder { url: value()?, directory: value()?.into(), agents: value()?.parse()? }),
                other => bail!("'{other}' is no argument; {USAGE}"),
            }
        }
        if let Some(strange) = arguments.only.iter().find(|name| !SECTIONS.contains(&name.as_str())) {
            bail!("'{strange}' is no section; {USAGE}");
        }
        Ok(if measuring { Wanted::Figures(arguments) } else { Wanted::Nothing })
    }

    /// Whether a section is to be measured.
    pub(crate) fn wants(&self, section: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|name| name == section)
    }

    /// How long and how often sides take turns.
    pub(crate) fn pace(&self) -> Pace {
        if self.quick {
            Pace { rounds: 2, round: Duration::from_millis(400), warm_up: Duration::from_millis(150) }
        } else {
            Pace { rounds: 5, round: Duration::from_millis(1_300), warm_up: Duration::from_millis(500) }
        }
    }
}
