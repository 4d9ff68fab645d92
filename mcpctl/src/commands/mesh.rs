//! `mesh`: found a private mesh, and see how this node stands to its mesh.

use std::time::Duration;

use protocol::{
    Client, MeshId, Problem,
    api::{Admission, CertificateAuthority, MeshState},
    credential::Zone,
    error::Code,
};

use super::zone;
use crate::{error::Result, output::Output};

/// How long a node may take to start again in another mesh.
const RESTART: Duration = Duration::from_secs(30);
/// How often it is asked meanwhile.
const EVERY: Duration = Duration::from_millis(100);

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Found a private mesh: this node makes and keeps the authority's key, and is the first member
    Init {
        /// Where this node is, as in eu-1
        #[arg(long)]
        zone: Option<Zone>,
    },
    /// Show which mesh this node is in, and its membership
    Show,
    /// Print the certificate of the mesh's TLS authority (PEM), for proxies that verify the nodes behind them
    Ca,
}

pub(crate) async fn run(command: Command, client: &Client, output: Output) -> Result {
    match command {
        Command::Init { zone } => {
            let founded: MeshState = client.post("/v1/mesh/init", &serde_json::json!({ "zone": zone })).await?;
            let state = settled(client, &founded.mesh_id).await?;
            output.show(&state, |state| state.mesh_id.to_string())?;
            output.note("the mesh's authority is authority.key in this node's data directory: keep a copy of it in a safe place");
            output.note("'mcpctl token create' makes a token by which others join");
            Ok(())
        }
        Command::Ca => {
            let authority: CertificateAuthority = client.get("/v1/mesh/ca").await?;
            output.show(&authority, |authority| authority.pem.trim_end().into())
        }
        Command::Show => output.show(&client.get::<MeshState>("/v1/mesh").await?, describe),
    }
}

/// Waits until the daemon, which starts again, is in `mesh`.
pub(crate) async fn settled(client: &Client, mesh: &MeshId) -> Result<MeshState, Problem> {
    let deadline = tokio::time::Instant::now() + RESTART;
    loop {
        match client.get::<MeshState>("/v1/mesh").await {
            Ok(state) if state.mesh_id == *mesh => return Ok(state),
            Ok(_) => {}
            Err(problem) if matches!(problem.code, Code::NotRunning | Code::ShuttingDown) => {}
            Err(problem) => return Err(problem),
        }
        if tokio::time::Instant::now() >= deadline {
            return Err(Problem::new(Code::TimedOut, format!("the daemon was not in mesh {mesh} within {} s", RESTART.as_secs()))
                .hint("see the daemon's log"));
        }
        tokio::time::sleep(EVERY).await;
    }
}

fn describe(state: &MeshState) -> String {
    let admission = match state.admission {
        Admission::None => return "in no mesh: 'mcpctl mesh init' founds one, 'mcpctl join TOKEN' enters one".into(),
        Admission::Open => "open: whoever knows its name is admitted (for development only)".into(),
        Admission::Private => match &state.member {
            Some(member) => {
                format!(
                    "private; this node is a member: role {}, zone {}, until {}",
                    member.role,
                    zone(member.zone.as_ref()),
                    member.expires_at
                )
            }
            None => "private; this node is not a member yet".into(),
        },
    };
    let authority = if state.authority { "\nthis node has the authority's key" } else { "" };
    format!("mesh {}\n{admission}{authority}\npeers: {}", state.mesh_id, state.peers)
}
