//! An agent's state: kept, put back, taken elsewhere.

use std::{path::PathBuf, time::Duration};

use protocol::{
    Client, SnapshotId,
    api::{Agent, List, Recover, Schedule, SnapshotOutline, TakeSnapshot},
};

use super::{describe, grants, transfer};
use crate::{
    error::Result,
    output::{Output, fields},
    parse,
};

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Keep an agent's state as it is now, signed; calls go on meanwhile
    Snapshot {
        /// Its id or name
        #[arg(value_parser = parse::agent)]
        agent: String,
        /// Keep so many of its snapshots, this one included, and delete those before
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
        keep: Option<u32>,
    },
    /// Take snapshots of an agent by the clock
    #[command(group = clap::ArgGroup::new("when").required(true).args(["every", "off"]))]
    Schedule {
        /// Its id or name
        #[arg(value_parser = parse::agent)]
        agent: String,
        /// How often
        #[arg(long, value_name = "TIME", value_parser = parse::duration)]
        every: Option<Duration>,
        /// How many to keep
        #[arg(long, value_name = "N", default_value_t = 24, value_parser = clap::value_parser!(u32).range(1..))]
        keep: u32,
        /// No longer
        #[arg(long)]
        off: bool,
    },
    /// List the snapshots of an agent
    Snapshots {
        /// Its id or name
        #[arg(value_parser = parse::agent)]
        agent: String,
    },
    /// Make an agent's state that of one of its snapshots
    Recover {
        /// Its id or name
        #[arg(value_parser = parse::agent)]
        agent: String,
        /// The snapshot
        #[arg(long, value_name = "SNAPSHOT")]
        from: SnapshotId,
    },
    /// Write an agent into one file, which any node of any mesh can verify and import
    Export {
        /// Its id or name
        #[arg(value_parser = parse::agent)]
        agent: String,
        /// The file
        file: PathBuf,
        /// The snapshot; a new one if not given
        #[arg(long, value_name = "SNAPSHOT")]
        snapshot: Option<SnapshotId>,
    },
    /// Make an agent of an export; its plugin's publisher must be trusted
    Import {
        /// The file
        file: PathBuf,
        /// What to call it; as it was called if not given
        #[arg(long = "as", value_name = "NAME", value_parser = parse::name)]
        name: Option<String>,
        #[command(flatten)]
        grants: grants::Arguments,
    },
}

pub(super) async fn run(command: Command, client: &Client, output: Output) -> Result {
    match command {
        Command::Snapshot { agent, keep } => {
            let taken: SnapshotOutline = client.post(&format!("/v1/agents/{agent}/snapshots"), &TakeSnapshot { keep }).await?;
            output.show(&taken, snapshot)
        }
        Command::Schedule { agent, every, keep, .. } => {
            let path = format!("/v1/agents/{agent}/schedule");
            let agent: Agent = match every {
                Some(every) => client.put(&path, &Schedule { every_s: every.as_secs(), keep }).await?,
                None => client.delete(&path).await?,
            };
            output.show(&agent, describe)
        }
        Command::Snapshots { agent } => {
            let all: List<SnapshotOutline> = client.get(&format!("/v1/agents/{agent}/snapshots")).await?;
            output.list(&all, ["id", "taken", "plugin", "keys", "bytes", "chunks"], |one| {
                let [keys, bytes, chunks] = [one.keys, one.bytes, one.chunks].map(|number| number.to_string());
                [one.id.to_string(), one.taken_at.to_string(), one.plugin.clone(), keys, bytes, chunks]
            })
        }
        Command::Recover { agent, from } => {
            let recovered: SnapshotOutline = client.post(&format!("/v1/agents/{agent}/recover"), &Recover { snapshot: from }).await?;
            output.show(&recovered, snapshot)
        }
        Command::Export { agent, file, snapshot } => {
            let exported = transfer::export(client, &agent, &file, snapshot).await?;
            output.show(&exported, |one| format!("{} in {}", one.id, file.display()))
        }
        Command::Import { file, name, grants } => {
            let agent = transfer::import(client, &file, name, grants.into()).await?;
            output.show(&agent, describe)
        }
    }
}

fn snapshot(one: &SnapshotOutline) -> String {
    fields([
        ("snapshot", one.id.to_string()),
        ("agent", one.agent.to_string()),
        ("taken", one.taken_at.to_string()),
        ("state", format!("{} keys, {} bytes, {} chunks", one.keys, one.bytes, one.chunks)),
        ("new", one.new_bytes.map(|bytes| format!("{bytes} bytes that no earlier snapshot had")).unwrap_or_default()),
    ])
}
