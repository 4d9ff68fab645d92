//! `token`: the short strings by which machines are let in. Each is a secret.

use std::time::Duration;

use protocol::{
    Client, TokenId,
    api::{CreateToken, CreatedToken, List, TokenOutline},
    credential::{Role, Zone},
};
use zeroize::Zeroize as _;

use super::zone;
use crate::{error::Result, output::Output, parse};

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Make a join token, shown this once
    Create {
        /// How long it is valid
        #[arg(long, value_name = "TIME", default_value = "24h", value_parser = parse::duration)]
        ttl: Duration,
        /// How many nodes may enter by it
        #[arg(long, default_value_t = 1)]
        uses: u32,
        /// What they become: edge, server or entry
        #[arg(long, default_value_t = Role::Edge)]
        role: Role,
        /// Where they are, as in eu-1
        #[arg(long)]
        zone: Option<Zone>,
        /// Where they enter; this node's entry nodes and own addresses if not given
        #[arg(long = "address", value_name = "ADDR")]
        addresses: Vec<String>,
    },
    /// List tokens, without their secrets
    List,
    /// Take a token back: nobody enters by it any more, those who did stay
    Revoke {
        /// Its id
        id: TokenId,
    },
}

pub(crate) async fn run(command: Command, client: &Client, output: Output) -> Result {
    match command {
        Command::Create { ttl, uses, role, zone, addresses } => {
            let create = CreateToken { ttl_s: ttl.as_secs().max(1), uses, role, zone, addresses };
            let mut created: CreatedToken = client.post("/v1/tokens", &create).await?;
            let TokenOutline { id, uses, role, expires_at, .. } = &created.outline;
            output.note(&format!("{id}: lets {uses} in as {role} until {expires_at}; the token is a secret and is not shown again"));
            // The token alone on stdout, so that it can be piped.
            let shown = output.show(&created, |created| created.token.clone());
            created.token.zeroize();
            shown
        }
        Command::List => {
            let tokens: List<TokenOutline> = client.get("/v1/tokens").await?;
            output.list(&tokens, ["id", "role", "zone", "used", "expires", "state"], |token| {
                let state = if token.revoked { "taken back" } else { "valid" };
                let used = format!("{}/{}", token.used_by.len(), token.uses);
                [token.id.to_string(), token.role.to_string(), zone(token.zone.as_ref()), used, token.expires_at.to_string(), state.into()]
            })
        }
        Command::Revoke { id } => {
            let token: TokenOutline = client.delete(&format!("/v1/tokens/{id}")).await?;
            output.show(&token, |token| format!("{} taken back", token.id))
        }
    }
}
