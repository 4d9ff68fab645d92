//! `key`: API keys for gateways, and publishers' signing keys. Secrets are made here or in the daemon, never typed.

use std::{
    fs::OpenOptions,
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use protocol::{
    Client, Key, Problem,
    api::{ApiKey, CreateKey, CreatedKey, List},
    error::Code,
    id::KeyId,
};
use serde::{Serialize, de::IgnoredAny};
use zeroize::Zeroize as _;

use crate::{error::Result, output::Output, parse};

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Make an API key, shown this once; or, with --signing, a publisher's Ed25519 key
    Create {
        /// What the API key is for
        #[arg(required_unless_present = "signing")]
        name: Option<String>,
        /// How long the API key is valid; for ever if not given
        #[arg(long, value_name = "TIME", value_parser = parse::duration, conflicts_with = "signing")]
        ttl: Option<Duration>,
        /// Write a new signing key (PKCS#8 PEM, mode 0600) to FILE, which must not exist
        #[arg(long, value_name = "FILE", conflicts_with = "name")]
        signing: Option<PathBuf>,
    },
    /// List API keys
    List,
    /// Revoke an API key
    Revoke {
        /// Its id
        id: KeyId,
    },
}

pub(crate) async fn run(command: Command, client: &Client, output: Output) -> Result {
    match command {
        Command::Create { signing: Some(file), .. } => create_signing(&file, output),
        Command::Create { name, ttl, signing: None } => create(name.unwrap_or_default(), ttl, client, output).await,
        Command::List => {
            let keys: List<ApiKey> = client.get("/v1/keys").await?;
            output.list(&keys, ["id", "name", "principal", "created", "expires"], |key| {
                [key.id.to_string(), key.name.clone(), key.principal.to_string(), key.created_at.to_string(), expiry(key)]
            })
        }
        Command::Revoke { id } => {
            client.delete::<IgnoredAny>(&format!("/v1/keys/{id}")).await?;
            output.show(&serde_json::json!({ "id": id, "revoked": true }), |_| format!("{id} revoked"))
        }
    }
}

/// The secret alone on stdout, so that `KEY=$(mcpctl key create ci)` does what it says.
async fn create(name: String, ttl: Option<Duration>, client: &Client, output: Output) -> Result {
    let mut created: CreatedKey = client.post("/v1/keys", &CreateKey { name, ttl_s: ttl.map(|ttl| ttl.as_secs().max(1)) }).await?;
    output.note(&format!("{} ({}) expires: {}; the secret is not shown again", created.key.id, created.key.name, expiry(&created.key)));
    let shown = output.show(&created, |created| created.secret.clone());
    created.secret.zeroize();
    shown
}

fn expiry(key: &ApiKey) -> String {
    key.expires_at.map_or_else(|| "never".into(), |at| at.to_string())
}

/// A publisher's new key, as `key create --signing` reports it.
#[derive(Serialize)]
struct SigningKey {
    did: protocol::Did,
    file: PathBuf,
}

fn create_signing(file: &Path, output: Output) -> Result {
    let key = new_signing(file)?;
    output.show(&SigningKey { did: key.did(), file: file.into() }, |key| key.did.to_string())
}

/// Makes a signing key in a file that isn't there yet.
pub(super) fn new_signing(file: &Path) -> Result<Key, Problem> {
    let key = Key::generate();
    save(file, key.to_pem().as_bytes()).map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => {
            Problem::new(Code::AlreadyExists, format!("{} exists and is left as it is", file.display())).hint("name another file")
        }
        _ => Problem::new(Code::InvalidRequest, format!("can't write {}: {error}", file.display())),
    })?;
    Ok(key)
}

/// Creates a file that nobody else can read; never follows a link and never overwrites.
fn save(file: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(file)?;
    file.write_all(bytes)?;
    file.sync_all()
}
