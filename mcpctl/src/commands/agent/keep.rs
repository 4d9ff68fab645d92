//! An agent's state: kept, put back, taken elsewhere.

use std::{path::PathBuf, time::Duration};

use protocol::{
    Client, NodeId, SnapshotId,
    api::{Agent, List, Move, Moved, Recover, Replica, Restore, Retention, Schedule, SetReplicas, SnapshotOutline, TakeSnapshot},
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
    /// Delete one snapshot of an agent, also one that is kept by itself
    Discard {
        /// Its id or name
        #[arg(value_parser = parse::agent)]
        agent: String,
        /// The snapshot
        snapshot: SnapshotId,
    },
    /// Have other nodes of this owner hold an agent's newest snapshot, in other zones first; or show which do
    Replicas {
        /// Its id or name
        #[arg(value_parser = parse::agent)]
        agent: String,
        /// How many nodes; 0 for none
        count: Option<u32>,
    },
    /// Make an agent's state that of one of its snapshots; or take an agent over whose node is lost
    #[command(group = clap::ArgGroup::new("source").required(true).args(["from", "from_mesh"]))]
    Recover {
        /// Its id or name
        #[arg(value_parser = parse::agent)]
        agent: String,
        /// The snapshot
        #[arg(long, value_name = "SNAPSHOT")]
        from: Option<SnapshotId>,
        /// The newest snapshot that any node of this owner holds: the agent lives here from then on
        #[arg(long)]
        from_mesh: bool,
        /// Also if its node isn't silent: that one lets go when it learns of this, and keeps what it acknowledged as a snapshot
        #[arg(long, requires = "from_mesh")]
        force: bool,
    },
    /// Move an agent to another node of this owner; its id stays, and callers wait for a moment
    #[command(group = clap::ArgGroup::new("where").required(true).args(["to", "stay"]))]
    Move {
        /// Its id or name
        #[arg(value_parser = parse::agent)]
        agent: String,
        /// The node
        #[arg(long, value_name = "NODE")]
        to: Option<NodeId>,
        /// Give up on a move whose other node is lost: the agent goes on here
        #[arg(long)]
        stay: bool,
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
            output.list(&all, ["id", "taken", "epoch", "plugins", "keys", "bytes", "chunks", "note"], |one| {
                let [epoch, keys, bytes, chunks] = [one.epoch, one.keys, one.bytes, one.chunks].map(|number| number.to_string());
                [one.id.to_string(), one.taken_at.to_string(), epoch, one.plugins.join(", "), keys, bytes, chunks, retained(one)]
            })
        }
        Command::Discard { agent, snapshot } => {
            let () = client.delete(&format!("/v1/agents/{agent}/snapshots/{snapshot}")).await?;
            output.show(&snapshot, |snapshot| format!("{snapshot} is deleted"))
        }
        Command::Replicas { agent, count: Some(replicas) } => {
            let agent: Agent = client.put(&format!("/v1/agents/{agent}/replicas"), &SetReplicas { replicas }).await?;
            output.show(&agent, describe)
        }
        Command::Replicas { agent, count: None } => {
            let all: List<Replica> = client.get(&format!("/v1/agents/{agent}/replicas")).await?;
            output.list(&all, ["node", "zone", "snapshot", "since"], |one| {
                let zone = one.zone.as_ref().map(|zone| zone.as_str().to_owned()).unwrap_or_default();
                [one.node.to_string(), zone, one.snapshot.to_string(), one.held_at.to_string()]
            })
        }
        Command::Recover { agent, from: Some(from), .. } => {
            let recovered: SnapshotOutline = client.post(&format!("/v1/agents/{agent}/recover"), &Recover { snapshot: from }).await?;
            output.show(&recovered, snapshot)
        }
        Command::Recover { agent, from: None, force, .. } => {
            let restored: Agent = client.post("/v1/agents/restore", &Restore { agent, force }).await?;
            output.show(&restored, describe)
        }
        Command::Move { agent, to, .. } => {
            let moved: Moved = client.post(&format!("/v1/agents/{agent}/move"), &Move { to }).await?;
            output.show(&moved, |moved| format!("agent {} lives on node {} (epoch {})", moved.name, moved.to, moved.epoch))
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

/// Why a snapshot is kept whatever else is deleted.
fn retained(one: &SnapshotOutline) -> String {
    match one.retained {
        Some(Retention { branch: true, .. }) => format!("what node {} had acknowledged when it let go", one.node),
        Some(Retention { home, left_s: Some(left), .. }) => format!("given to node {home}, kept for {} h more", left.div_ceil(3_600)),
        Some(Retention { left_s: None, .. }) | None => String::new(),
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
