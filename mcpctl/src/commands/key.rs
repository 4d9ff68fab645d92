//! `key`: API keys for gateways, publishers' signing keys, and the key of a node's owner. Secrets are made here, in the daemon or
//! in a token, never on a command line.

mod owner;
mod signing;

use std::{
    ffi::OsStr,
    path::{Path, PathBuf},
    time::Duration,
};

use protocol::{
    Client,
    api::{ApiKey, CreateKey, CreatedKey, List, OwnerKey},
    id::KeyId,
};
use serde::{Serialize, de::IgnoredAny};
use zeroize::Zeroize as _;

pub(super) use self::signing::{new_key, read_key};
use crate::{
    error::Result,
    output::{Output, table},
    parse,
};

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Make an API key, shown this once; or, with --signing, a publisher's Ed25519 key; or, with --owner, a new node's
    Create(Create),
    /// List API keys, and say where the owner's key is
    List,
    /// Revoke an API key
    Revoke {
        /// Its id
        id: KeyId,
    },
    /// Encrypt the owner's key of a stopped node; it asks for the passphrase at each start from then on
    Encrypt {
        /// The file with the passphrase; asked for on a terminal if not given
        #[arg(long, value_name = "FILE")]
        passphrase_file: Option<PathBuf>,
    },
    /// Decrypt the owner's key of a stopped node
    Decrypt {
        /// The file with the passphrase; asked for on a terminal if not given
        #[arg(long, value_name = "FILE")]
        passphrase_file: Option<PathBuf>,
    },
    /// Go on with a new owner's key, at a stopped node: the old one signs that the new one follows it, and is destroyed
    Rotate(Rotate),
    /// Print the public key of the node's owner, or of a publisher (PEM, SubjectPublicKeyInfo)
    Export {
        /// The public half; the private one is never printed
        #[arg(long, required = true)]
        public: bool,
        /// Of the signing key in FILE
        #[arg(long, value_name = "FILE")]
        signing: Option<PathBuf>,
        /// The file with its passphrase
        #[arg(long, value_name = "FILE", requires = "signing")]
        passphrase_file: Option<PathBuf>,
    },
}

#[derive(Debug, clap::Args)]
pub(crate) struct Rotate {
    /// Encrypt the new key's file; one that takes an encrypted one's place is encrypted anyway
    #[arg(long)]
    encrypted: bool,
    /// Make the new key in a token: pkcs11:token=…;object=…?module-path=…&pin-source=file:…
    #[arg(long, value_name = "URI", conflicts_with = "encrypted")]
    pkcs11: Option<String>,
    /// The file with the passphrase, of the old key and of the new one; asked for on a terminal if not given
    #[arg(long, value_name = "FILE")]
    passphrase_file: Option<PathBuf>,
    /// Keep the old key in FILE, which must not exist
    #[arg(long, value_name = "FILE")]
    keep_old: Option<PathBuf>,
}

impl Rotate {
    fn run(&self, data_dir: Option<&Path>, output: Output) -> Result {
        let mut arguments = vec![OsStr::new("rotate")];
        if self.encrypted {
            arguments.push(OsStr::new("--encrypted"));
        }
        if let Some(uri) = &self.pkcs11 {
            arguments.extend([OsStr::new("--pkcs11"), OsStr::new(uri)]);
        }
        if let Some(file) = &self.keep_old {
            arguments.extend([OsStr::new("--keep-old"), file.as_os_str()]);
        }
        owner::run(&arguments, self.passphrase_file.as_deref(), data_dir, output)
    }
}

#[derive(Debug, clap::Args)]
pub(crate) struct Create {
    /// What the API key is for
    #[arg(required_unless_present_any = ["signing", "owner"])]
    name: Option<String>,
    /// How long the API key is valid; for ever if not given
    #[arg(long, value_name = "TIME", value_parser = parse::duration, conflicts_with_all = ["signing", "owner"])]
    ttl: Option<Duration>,
    /// Write a new signing key (PKCS#8 PEM, mode 0600) to FILE, which must not exist
    #[arg(long, value_name = "FILE", conflicts_with = "name")]
    signing: Option<PathBuf>,
    /// Make the owner's key in a data directory in which no node has started yet
    #[arg(long, conflicts_with_all = ["name", "signing"])]
    owner: bool,
    /// Encrypt the key's file with a passphrase
    #[arg(long, conflicts_with = "name")]
    encrypted: bool,
    /// The file with the passphrase; asked for on a terminal if not given
    #[arg(long, value_name = "FILE", requires = "encrypted")]
    passphrase_file: Option<PathBuf>,
    /// Make the owner's key in a token: pkcs11:token=…;object=…?module-path=…&pin-source=file:…
    #[arg(long, value_name = "URI", requires = "owner", conflicts_with_all = ["encrypted", "name", "signing"])]
    pkcs11: Option<String>,
}

pub(crate) async fn run(command: Command, data_dir: Option<&Path>, client: &Client, output: Output) -> Result {
    match command {
        Command::Create(create) => create.run(data_dir, client, output).await,
        Command::List => list(client, output).await,
        Command::Revoke { id } => {
            client.delete::<IgnoredAny>(&format!("/v1/keys/{id}")).await?;
            output.show(&serde_json::json!({ "id": id, "revoked": true }), |_| format!("{id} revoked"))
        }
        Command::Rotate(rotate) => rotate.run(data_dir, output),
        Command::Encrypt { passphrase_file } => owner::run(&["encrypt"], passphrase_file.as_deref(), data_dir, output),
        Command::Decrypt { passphrase_file } => owner::run(&["decrypt"], passphrase_file.as_deref(), data_dir, output),
        Command::Export { signing: Some(file), passphrase_file, .. } => {
            let did = read_key(&file, passphrase_file.as_deref(), output)?.did();
            export(&Public { did, public_key: did.to_pem() }, output)
        }
        Command::Export { signing: None, .. } => {
            let OwnerKey { key: did, public_key, .. } = client.get("/v1/keys/owner").await?;
            export(&Public { did, public_key }, output)
        }
    }
}

impl Create {
    async fn run(self, data_dir: Option<&Path>, client: &Client, output: Output) -> Result {
        let passphrase_file = self.passphrase_file.as_deref();
        if let Some(file) = &self.signing {
            return signing::create(file, self.encrypted, passphrase_file, output);
        }
        if !self.owner {
            return create(self.name.unwrap_or_default(), self.ttl, client, output).await;
        }
        let mut arguments = vec!["create"];
        arguments.extend(self.encrypted.then_some("--encrypted"));
        arguments.extend(self.pkcs11.iter().flat_map(|uri| ["--pkcs11", uri]));
        owner::run(&arguments, passphrase_file, data_dir, output)
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

/// All keys that there are to speak of.
#[derive(Serialize)]
struct Keys {
    owner: OwnerKey,
    #[serde(flatten)]
    keys: List<ApiKey>,
}

async fn list(client: &Client, output: Output) -> Result {
    let keys = Keys { owner: client.get("/v1/keys/owner").await?, keys: client.get("/v1/keys").await? };
    output.show(&keys, |Keys { owner, keys }| {
        let state = owner.unavailable.as_ref().map(|why| format!(" (can't sign now: {why})")).unwrap_or_default();
        let key = if owner.key == owner.did { String::new() } else { format!(", by key {}", owner.key) };
        let mut text = format!("owner {}{key} in {}: {}{state}\n", owner.did, owner::kept(owner.kept), owner.place);
        if !keys.items.is_empty() {
            text.push_str(&table(
                ["id", "name", "principal", "created", "expires"],
                keys.items
                    .iter()
                    .map(|key| [key.id.to_string(), key.name.clone(), key.principal.to_string(), key.created_at.to_string(), expiry(key)]),
            ));
        }
        text
    })
}

fn expiry(key: &ApiKey) -> String {
    key.expires_at.map_or_else(|| "never".into(), |at| at.to_string())
}

/// A public key, as `key export --public` prints it.
#[derive(Serialize)]
struct Public {
    did: protocol::Did,
    public_key: String,
}

/// The PEM alone on stdout, so that it can be redirected to a file.
fn export(public: &Public, output: Output) -> Result {
    output.note(&public.did.to_string());
    output.show(public, |public| public.public_key.clone())
}
