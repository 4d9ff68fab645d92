//! `store`: whether all that the node has kept is what it has written.

use protocol::{
    Client,
    api::{DamagedRow, StoreVerified},
};

use crate::{
    error::{Error, Result},
    output::Output,
};

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Have the daemon hold all of its store against checksums, digests and signed checkpoints; exit code 1 if anything is damaged
    Verify,
}

pub(crate) async fn run(command: Command, client: &Client, output: Output) -> Result {
    let Command::Verify = command;
    let verified: StoreVerified = client.post("/v1/store/verify", &serde_json::json!({})).await?;
    output.show(&verified, describe)?;
    if verified.sound {
        return Ok(());
    }
    output.note(
        "hint: check the disk, then restore a backup, or have the agents recovered from replicas ('mcpctl agent recover --from-mesh')",
    );
    Err(Error::Exit(1))
}

fn describe(verified: &StoreVerified) -> String {
    let rows: u64 = verified.tables.iter().map(|table| table.rows).sum();
    let tables = verified.tables.len();
    let mut lines = vec![format!("{rows} rows of {tables} tables and {} blobs were looked at", verified.blobs)];
    let row = |DamagedRow { table, key, content }: &DamagedRow| match content {
        true => format!("damaged: {table} {key}"),
        false => format!("damaged: {table} {key} (the key may be another)"),
    };
    lines.extend(verified.damaged.iter().map(row));
    lines.extend(verified.structure.iter().map(|what| format!("damaged: the file's structure: {what}")));
    lines.extend(verified.damaged_blobs.iter().map(|digest| format!("damaged: blob {digest}")));
    lines.extend(verified.missing_blobs.iter().map(|digest| format!("missing: blob {digest}, a plugin's component")));
    if let Some(trace) = &verified.trace {
        lines.push(format!("the trace's {} entries and {} checkpoints agree", trace.entries, trace.checkpoints));
    }
    lines.extend(verified.trace_problem.iter().map(|problem| format!("damaged: the trace: {problem}")));
    if verified.sound {
        lines.push("all of it is what was written".into());
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_damaged_is_named() {
        let verified = StoreVerified {
            sound: false,
            tables: vec![protocol::api::VerifiedTable { table: "record".into(), rows: 3 }],
            damaged: vec![
                DamagedRow { table: "record".into(), key: "1 agent_x".into(), content: true },
                DamagedRow { table: "usage".into(), key: "y".into(), content: false },
            ],
            structure: Vec::new(),
            blobs: 2,
            damaged_blobs: vec![protocol::Digest::blake3(b"x")],
            missing_blobs: Vec::new(),
            trace: None,
            trace_problem: Some("entry 3 is missing".into()),
        };
        let text = describe(&verified);
        assert!(text.starts_with("3 rows of 1 tables and 2 blobs were looked at\ndamaged: record 1 agent_x\n"), "{text}");
        assert!(text.contains("usage y (the key may be another)") && text.contains("damaged: the trace: entry 3 is missing"), "{text}");
        assert!(!text.contains("all of it is what was written"), "{text}");
    }
}
