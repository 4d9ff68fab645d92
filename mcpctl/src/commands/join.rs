//! `join`: enter a mesh, by a token or through known nodes.

use std::{io::Read as _, path::PathBuf, time::Duration};

use protocol::{
    Client, Problem, Timestamp, Token,
    api::{Entered, Join, List, MeshState},
    error::{Code, Exit},
    token::{MAX_TEXT, PREFIX},
};
use zeroize::Zeroizing;

use super::mesh::settled;
use crate::{
    error::{Error, Result},
    output::Output,
};

/// How long a new member waits for its first peer before it reports what there is.
const FIRST_PEER: Duration = Duration::from_secs(15);
/// How often the daemon is asked meanwhile.
const EVERY: Duration = Duration::from_millis(100);

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// A join token, '-' to read one from standard input, or addresses: multiaddrs or wss://host:port
    #[arg(value_name = "TOKEN|ADDR")]
    targets: Vec<String>,
    /// An address to enter at, beside those that the token names
    #[arg(long, value_name = "ADDR")]
    bootstrap: Vec<String>,
    /// A join token; better in a file or in MCP_JOIN_TOKEN, as others may see a command line
    #[arg(long, conflicts_with = "token_file")]
    token: Option<String>,
    /// A file with a join token
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
}

/// Succeeds if the node is in; the daemon goes on trying what failed.
pub(crate) async fn run(arguments: Arguments, client: &Client, output: Output) -> Result {
    let (token, addresses) = arguments.read()?;
    if let Some(token) = &token {
        // Before anybody is bothered: a token that is broken or has expired is told at once.
        Token::read(token, Timestamp::now())?;
    }
    let by_token = token.is_some();
    let entered: Entered = client.post("/v1/join", &Join { addresses, token: token.map(|token| token.to_string()) }).await?;
    let answered = entered.items.iter().any(|item| item.node_id.is_some());
    let peers = if by_token { first_peer(client, &entered).await? } else { 0 };
    if output.is_json() {
        output.show(
            &serde_json::json!({
                "mesh_id": entered.mesh_id, "member": entered.member, "peers": peers, "items": entered.items,
            }),
            |_| String::new(),
        )?;
    } else {
        report(&entered, by_token, output)?;
    }
    if by_token && entered.member && peers == 0 && !answered {
        output.note("this node is a member; no peer has been reached yet, and the daemon keeps trying");
    }
    if (by_token && entered.member) || answered {
        return Ok(());
    }
    output.note("no address let this node in; the daemon keeps trying");
    Err(Error::Exit(Exit::Failure as u8))
}

fn report(entered: &Entered, by_token: bool, output: Output) -> Result {
    output.list(&List::from(entered.items.clone()), ["address", "failed at", "result"], |item| {
        let result = match (&item.error, item.node_id) {
            (Some(error), _) => error.clone(),
            (None, Some(node)) => format!("{node} answered"),
            (None, None) => "not needed".into(),
        };
        [item.address.clone(), item.step.clone().unwrap_or_else(|| "-".into()), result]
    })?;
    if by_token {
        output.note(&format!("mesh {}", entered.mesh_id));
    }
    Ok(())
}

/// Peers of a node that has just entered, as soon as there is one.
async fn first_peer(client: &Client, entered: &Entered) -> Result<usize, Problem> {
    let mut state = settled(client, &entered.mesh_id).await?;
    let deadline = tokio::time::Instant::now() + FIRST_PEER;
    while entered.member && state.peers == 0 && tokio::time::Instant::now() < deadline {
        tokio::time::sleep(EVERY).await;
        state = client.get::<MeshState>("/v1/mesh").await?;
    }
    Ok(state.peers)
}

impl Arguments {
    /// The token and the addresses, wherever they were written.
    fn read(self) -> Result<(Option<Zeroizing<String>>, Vec<String>), Problem> {
        let mut tokens: Vec<Zeroizing<String>> = self.token.into_iter().map(Zeroizing::new).collect();
        let mut addresses = self.bootstrap;
        for target in self.targets {
            match target.as_str() {
                "-" => tokens.push(text(&mut std::io::stdin().lock(), "standard input")?),
                token if token.starts_with(PREFIX) => tokens.push(Zeroizing::new(target)),
                _ => addresses.push(target),
            }
        }
        if let Some(path) = &self.token_file {
            let failed = |error: std::io::Error| Problem::new(Code::InvalidRequest, format!("can't read {}: {error}", path.display()));
            tokens.push(text(&mut std::fs::File::open(path).map_err(failed)?, &path.display().to_string())?);
        }
        let variable = std::env::var("MCP_JOIN_TOKEN").ok().filter(|token| !token.is_empty());
        if tokens.is_empty() && addresses.is_empty() {
            tokens.extend(variable.map(Zeroizing::new));
        }
        if tokens.len() > 1 {
            return Err(Problem::new(Code::InvalidRequest, "one join token at a time"));
        }
        if tokens.is_empty() && addresses.is_empty() {
            return Err(Problem::new(Code::InvalidRequest, "name a join token, or addresses to enter at")
                .hint("'mcpctl token create' makes a token, on the node that has the mesh's authority"));
        }
        Ok((tokens.pop(), addresses))
    }
}

fn text(from: &mut impl std::io::Read, what: &str) -> Result<Zeroizing<String>, Problem> {
    let mut text = Zeroizing::new(String::with_capacity(MAX_TEXT + 2));
    let read = from.take(MAX_TEXT as u64 + 2).read_to_string(&mut text);
    read.map_err(|error| Problem::new(Code::InvalidRequest, format!("can't read a join token from {what}: {error}")))?;
    Ok(Zeroizing::new(text.trim().to_owned()))
}
