//! Publishers' signing keys, in files: plain, or encrypted with a passphrase.

use std::{
    fs::{File, OpenOptions},
    io::{self, IsTerminal as _, Write as _},
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use protocol::{Did, Key, Passphrase, Problem, error::Code, passphrase::is_encrypted};
use serde::Serialize;
use zeroize::Zeroizing;

use crate::{error::Result, input, output::Output};

/// A PEM key takes 119 bytes, an encrypted one 300.
const MAX_KEY: usize = 16 * 1024;

/// A publisher's new key, as `key create --signing` reports it.
#[derive(Serialize)]
struct SigningKey {
    did: Did,
    file: PathBuf,
}

pub(super) fn create(file: &Path, encrypted: bool, passphrase_file: Option<&Path>, output: Output) -> Result {
    let passphrase = encrypted.then(|| new_passphrase(passphrase_file)).transpose()?;
    let key = new_key(file, passphrase.as_ref())?;
    output.show(&SigningKey { did: key.did(), file: file.into() }, |key| key.did.to_string())
}

/// Makes a signing key in a file that isn't there yet.
pub(crate) fn new_key(file: &Path, passphrase: Option<&Passphrase>) -> Result<Key, Problem> {
    let key = Key::generate();
    let pem = passphrase.map_or_else(|| key.to_pem(), |passphrase| key.to_encrypted_pem(passphrase));
    save(file, pem.as_bytes()).map_err(|error| match error.kind() {
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

/// The key in a file; where it is encrypted, with the passphrase from another file or the terminal.
pub(crate) fn read_key(file: &Path, passphrase_file: Option<&Path>, output: Output) -> Result<Key, Problem> {
    warn_if_open(file, output);
    let pem = Zeroizing::new(input::read(file, MAX_KEY)?);
    let invalid = |error: protocol::key::Error| {
        let code = if matches!(error, protocol::key::Error::Passphrase) { Code::InvalidConfig } else { Code::MalformedDocument };
        Problem::new(code, format!("{}: {error}", file.display()))
    };
    let text = std::str::from_utf8(&pem).map_err(|_| invalid(protocol::key::Error::Pem))?;
    if is_encrypted(text) {
        let passphrase = match passphrase_file {
            Some(from) => read_passphrase(from)?,
            None if io::stdin().is_terminal() => typed(&format!("Passphrase of {}: ", file.display()))?,
            None => return Err(missing(&format!("{} is encrypted", file.display()))),
        };
        return Key::from_encrypted_pem(text, &passphrase).map_err(invalid);
    }
    Key::from_pem(text).map_err(|error| invalid(error).hint("make one with 'mcpctl key create --signing FILE'"))
}

fn new_passphrase(file: Option<&Path>) -> Result<Passphrase, Problem> {
    match file {
        Some(file) => read_passphrase(file),
        None if io::stdin().is_terminal() => {
            let first = typed("New passphrase: ")?;
            let again = typed("Once more: ")?;
            let differ = || Problem::new(Code::InvalidConfig, "the two passphrases are not the same");
            Some(first).filter(|first| first.expose() == again.expose()).ok_or_else(differ)
        }
        None => Err(missing("a key is to be encrypted")),
    }
}

fn read_passphrase(file: &Path) -> Result<Passphrase, Problem> {
    let unreadable = |detail: String| Problem::new(Code::InvalidConfig, format!("the passphrase in {}: {detail}", file.display()));
    let found = File::open(file).and_then(|opened| Ok((opened.metadata()?.permissions().mode(), opened)));
    let (mode, opened) = found.map_err(|error| unreadable(error.to_string()))?;
    if mode & 0o007 != 0 {
        return Err(unreadable("everybody may use it".into()).hint(format!("chmod o= {}", file.display())));
    }
    Passphrase::read(opened).map_err(|problem| unreadable(problem.detail))
}

fn typed(prompt: &str) -> Result<Passphrase, Problem> {
    let text = rpassword::prompt_password(prompt);
    let text =
        text.map_err(|error| Problem::new(Code::InvalidConfig, format!("no passphrase could be read from the terminal: {error}")))?;
    Passphrase::new(Zeroizing::new(text))
}

fn missing(what: &str) -> Problem {
    Problem::new(Code::InvalidConfig, format!("{what}, and there is no passphrase"))
        .hint("put it into a file of mode 0600 and name that with '--passphrase-file'")
}

fn warn_if_open(file: &Path, output: Output) {
    if std::fs::metadata(file).is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o077 != 0) {
        output.note(&format!("warning: {} can be read by others; run 'chmod 600' on it", file.display()));
    }
}
