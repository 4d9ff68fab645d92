//! Logs on standard error, and the one line on standard output.

use std::io::Write as _;

use mesh::Mesh;
use protocol::{MeshId, NodeId};
use serde::Serialize;
use tracing_subscriber::EnvFilter;

use crate::error::Error;

/// The line that tells a script where the node is.
#[derive(Serialize)]
struct Listening<'a> {
    node_id: NodeId,
    mesh_id: &'a MeshId,
    addresses: Vec<String>,
}

/// Logs to standard error, as `MCP_LOG_LEVEL` says (`info` if it doesn't, or what tracing's directives allow).
pub(crate) fn logs(json: bool) {
    let wanted = std::env::var("MCP_LOG_LEVEL").unwrap_or_default();
    let filter = EnvFilter::try_new(if wanted.is_empty() { "info" } else { &wanted });
    let refused = filter.as_ref().err().map(ToString::to_string);
    let builder = tracing_subscriber::fmt().with_writer(std::io::stderr).with_env_filter(filter.unwrap_or_else(|_| EnvFilter::new("info")));
    if json {
        builder.json().init();
    } else {
        builder.with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr())).init();
    }
    if let Some(reason) = refused {
        tracing::warn!(reason, "MCP_LOG_LEVEL can't be read: logging at info");
    }
}

/// Says on standard output that the node listens, and where.
pub(crate) fn listening(mesh: &Mesh, mesh_id: &MeshId, json: bool) -> Result<(), Error> {
    let listening = Listening { node_id: mesh.node_id(), mesh_id, addresses: mesh.addresses() };
    let line = if json {
        serde_json::to_string(&listening).expect("text encodes as JSON")
    } else {
        format!("node {} of mesh {} listens on {}", listening.node_id, mesh_id, listening.addresses.join(" "))
    };
    let mut output = std::io::stdout().lock();
    writeln!(output, "{line}")
        .and_then(|()| output.flush())
        .map_err(|source| Error::Io { doing: "write to standard output".into(), source })
}
