//! What is done with the key of a node that doesn't run: made, encrypted, decrypted, succeeded by another. `mcpctl key` has the daemon's program do it,
//! which alone knows data directories and tokens.

use std::path::PathBuf;

use protocol::{Code, Did, Key, Problem, api::OwnerKey as Shown, passphrase::is_encrypted};
use zeroize::Zeroizing;

use super::{
    FILE, OwnerKey, Settings, TOKEN, keep_elsewhere, passphrase,
    rotate::{LINEAGE, Rotate, rotate},
    session::Module,
    token::Token,
    uri::Uri,
};
use crate::data_dir::DataDir;

/// What is to be done.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Make the owner's key of a node that hasn't started yet
    Create {
        /// Encrypt its file
        #[arg(long)]
        encrypted: bool,
        /// Make it in this token
        #[arg(long, conflicts_with = "encrypted")]
        pkcs11: Option<String>,
        /// Where the passphrase is
        #[arg(long, requires = "encrypted")]
        passphrase_file: Option<PathBuf>,
    },
    /// Encrypt the owner's key
    Encrypt {
        /// Where the passphrase is
        #[arg(long)]
        passphrase_file: Option<PathBuf>,
    },
    /// Decrypt the owner's key
    Decrypt {
        /// Where the passphrase is
        #[arg(long)]
        passphrase_file: Option<PathBuf>,
    },
    /// Go on with another key
    Rotate(Rotate),
}

/// Does it, in a directory that no node holds.
pub(crate) fn run(command: Command, directory: &DataDir, settings: &Settings) -> Result<Shown, Problem> {
    let key = match command {
        Command::Create { encrypted, pkcs11, passphrase_file } => {
            vacant(directory)?;
            match pkcs11 {
                Some(uri) => in_token(directory, &uri)?,
                None => in_file(directory, encrypted.then(|| passphrase::new(passphrase_file.as_deref())).transpose()?.as_ref())?,
            }
        }
        Command::Encrypt { passphrase_file } => {
            let plain = present(directory)?;
            if is_encrypted(&plain) {
                return Err(Problem::new(Code::Conflict, "the owner's key is encrypted already").hint("'mcpctl key decrypt' first"));
            }
            let key = Key::from_pem(&plain).map_err(|error| invalid(directory, &error))?;
            let passphrase = passphrase::new(passphrase_file.as_deref().or(settings.passphrase_file.as_deref()))?;
            directory.replace_secret(FILE, &key.to_encrypted_pem(&passphrase))?;
            OwnerKey::of(super::Held::Here { key, encrypted: true }, directory.join(FILE).display().to_string())
        }
        Command::Decrypt { passphrase_file } => {
            let pem = present(directory)?;
            if !is_encrypted(&pem) {
                return Err(Problem::new(Code::Conflict, "the owner's key is not encrypted"));
            }
            let passphrase = passphrase::existing(passphrase_file.as_deref().or(settings.passphrase_file.as_deref()))?;
            let key = Key::from_encrypted_pem(&pem, &passphrase).map_err(|error| invalid(directory, &error))?;
            directory.replace_secret(FILE, &key.to_pem())?;
            OwnerKey::of(super::Held::Here { key, encrypted: false }, directory.join(FILE).display().to_string())
        }
        Command::Rotate(how) => rotate(how, directory, settings)?,
    };
    let key = key.with_lineage(directory)?;
    key.close();
    Ok(key.shown())
}

/// What has an owner keeps it.
fn vacant(directory: &DataDir) -> Result<(), Problem> {
    // A node's first start makes its own key too: what it has kept since is its owner's of then.
    let own = [FILE, TOKEN, LINEAGE].into_iter().find(|name| directory.join(name).exists());
    match own.or_else(|| crate::identity::had_owner(directory)) {
        None => Ok(()),
        Some(name) => {
            let problem =
                Problem::new(Code::AlreadyExists, format!("there is {} already, which is left as it is", directory.join(name).display()));
            Err(problem.hint("an owner's key is made before a node's first start: name a new directory with '--data-dir'"))
        }
    }
}

fn in_file(directory: &DataDir, passphrase: Option<&protocol::Passphrase>) -> Result<OwnerKey, Problem> {
    let key = Key::generate();
    let pem = passphrase.map_or_else(|| key.to_pem(), |passphrase| key.to_encrypted_pem(passphrase));
    directory.replace_secret(FILE, &pem)?;
    Ok(OwnerKey::of(super::Held::Here { key, encrypted: passphrase.is_some() }, directory.join(FILE).display().to_string()))
}

fn in_token(directory: &DataDir, text: &str) -> Result<OwnerKey, Problem> {
    let (uri, made) = make_in_token(text)?;
    let token = made_token(uri, made)?;
    keep_elsewhere(directory, &token)?;
    Ok(OwnerKey::of(super::Held::Token(token), text.to_owned()))
}

/// Makes a key in a token.
pub(super) fn make_in_token(text: &str) -> Result<(Uri, Did), Problem> {
    let uri = Uri::parse(text)?;
    if uri.object.is_none() {
        return Err(Problem::new(Code::InvalidConfig, "the URI of a new key names no label for it").hint("add object=LABEL"));
    }
    let made = Module::load(uri.clone())?.generate()?;
    Ok((uri, made))
}

/// Opens a key as the node will: whoever made one that can't be found again should hear of it now.
pub(super) fn made_token(uri: Uri, made: Did) -> Result<Token, Problem> {
    let token = Token::open(uri)?;
    if token.did() != made {
        token.close();
        return Err(Problem::new(Code::KeyUnavailable, format!("the token was given the key {made}, and has {}", token.did())));
    }
    Ok(token)
}

/// The key's file as it is.
pub(super) fn present(directory: &DataDir) -> Result<Zeroizing<String>, Problem> {
    let missing = || {
        let problem = Problem::new(Code::NotFound, format!("there is no {}", directory.join(FILE).display()));
        problem.hint("a node makes it at its first start, 'mcpctl key create --owner' before; a key in a token needs no passphrase")
    };
    directory.secret(FILE, || Err(missing()))
}

fn invalid(directory: &DataDir, error: &protocol::key::Error) -> Problem {
    Problem::new(Code::InvalidConfig, format!("{}: {error}", directory.join(FILE).display())).hint("the file is as it was")
}
