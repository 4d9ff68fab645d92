//! `status`: whether the node serves, and how busy it is.

use protocol::{Client, api::NodeStatus};

use crate::{
    error::Result,
    output::{Output, fields},
};

pub(crate) async fn run(client: &Client, output: Output) -> Result {
    let status: NodeStatus = client.get("/v1/status").await?;
    output.show(&status, text)
}

fn text(status: &NodeStatus) -> String {
    fields([
        ("node", status.node_id.to_string()),
        ("state", if status.ready { "ready" } else { "not ready" }.into()),
        ("roles", status.roles.join(",")),
        ("peers", status.peers.to_string()),
        ("agents", status.agents.to_string()),
        ("trace", format!("{} entries", status.trace_size)),
        ("damaged", damaged(status.store_damaged)),
        ("uptime", uptime(status.uptime_s)),
        ("version", status.version.clone()),
    ])
}

/// The two largest units.
fn uptime(seconds: u64) -> String {
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3_600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, _) => format!("{minutes}m {}s", seconds % 60),
        (0, ..) => format!("{hours}h {minutes}m"),
        _ => format!("{days}d {hours}h"),
    }
}

/// A line only where there is something to say.
fn damaged(rows: u64) -> String {
    if rows == 0 { String::new() } else { format!("{rows} rows of the store: see 'mcpctl store verify'") }
}

#[cfg(test)]
mod tests {
    use protocol::Key;

    use super::*;

    #[test]
    fn status_reads_well() {
        let node_id = Key::from_seed(&[1; 32]).node_id();
        let roles = vec!["kernel".into(), "mesh".into()];
        let status = NodeStatus {
            node_id,
            ready: true,
            roles,
            peers: 2,
            agents: 1,
            uptime_s: 90_061,
            version: "0.1.0".into(),
            trace_size: 7,
            store_damaged: 0,
        };
        let expected = format!(
            "node     {node_id}\nstate    ready\nroles    kernel,mesh\npeers    2\nagents   1\ntrace    7 entries\nuptime   1d 1h\nversion  0.1.0\n"
        );
        assert_eq!(text(&status), expected);
        assert_eq!((uptime(5), uptime(65), uptime(3_660)), ("5s".into(), "1m 5s".into(), "1h 1m".into()));
    }
}
