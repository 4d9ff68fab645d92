//! Where a passphrase comes from: a file, systemd's credentials, or a person at a terminal. Never the command line, and never an
//! environment variable, which others can read and children inherit.

use std::{
    fs::{self, File},
    io::{self, IsTerminal as _},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use protocol::{Code, Passphrase, Problem};
use zeroize::Zeroizing;

/// The credential's name under systemd: `LoadCredentialEncrypted=owner-passphrase`.
const CREDENTIAL: &str = "owner-passphrase";

/// The passphrase of a key that there is.
///
/// # Errors
/// `invalid_config`: there is none, or it can't be read.
pub(super) fn existing(file: Option<&Path>) -> Result<Passphrase, Problem> {
    match provided(file)? {
        Some(passphrase) => Ok(passphrase),
        None if io::stdin().is_terminal() => typed("Passphrase of the owner's key: "),
        None => Err(missing("the owner's key is encrypted, and there is no passphrase for it")),
    }
}

/// The passphrase of a key that is about to be encrypted; typed twice where it is typed.
///
/// # Errors
/// As for [`existing`], or what was typed twice isn't the same.
pub(super) fn new(file: Option<&Path>) -> Result<Passphrase, Problem> {
    if let Some(passphrase) = provided(file)? {
        return Ok(passphrase);
    }
    if !io::stdin().is_terminal() {
        return Err(missing("there is no passphrase to encrypt the owner's key with"));
    }
    let first = typed("New passphrase of the owner's key: ")?;
    if typed("Once more: ")?.expose() == first.expose() {
        Ok(first)
    } else {
        Err(Problem::new(Code::InvalidConfig, "the two passphrases are not the same"))
    }
}

/// The passphrase that was set up, if one was.
///
/// # Errors
/// `invalid_config`: it can't be read.
pub(super) fn provided(file: Option<&Path>) -> Result<Option<Passphrase>, Problem> {
    if let Some(file) = file {
        check_mode(file)?;
        return read(file).map(Some);
    }
    // Guarded by systemd itself, whatever its mode.
    let credential = std::env::var_os("CREDENTIALS_DIRECTORY").map(|directory| PathBuf::from(directory).join(CREDENTIAL));
    credential.filter(|path| path.exists()).map(|path| read(&path)).transpose()
}

fn read(file: &Path) -> Result<Passphrase, Problem> {
    let unreadable = |detail: String| Problem::new(Code::InvalidConfig, format!("the passphrase in {}: {detail}", file.display()));
    let opened = File::open(file).map_err(|error| unreadable(error.to_string()))?;
    Passphrase::read(opened).map_err(|problem| unreadable(problem.detail))
}

fn typed(prompt: &str) -> Result<Passphrase, Problem> {
    let text = rpassword::prompt_password(prompt);
    let text =
        text.map_err(|error| Problem::new(Code::InvalidConfig, format!("no passphrase could be read from the terminal: {error}")))?;
    Passphrase::new(Zeroizing::new(text))
}

/// A secret in a file that everybody may read is none.
pub(super) fn check_mode(file: &Path) -> Result<(), Problem> {
    match fs::metadata(file) {
        Ok(found) if found.permissions().mode() & 0o007 != 0 => {
            let problem = Problem::new(Code::InvalidConfig, format!("everybody may use {}", file.display()));
            Err(problem.hint(format!("chmod o= {}", file.display())))
        }
        // That it isn't there is said by whoever opens it.
        _ => Ok(()),
    }
}

fn missing(what: &str) -> Problem {
    Problem::new(Code::InvalidConfig, what).hint(format!(
        "put it into a file of mode 0600 and name that: owner.passphrase_file, MCP_OWNER_PASSPHRASE_FILE or --passphrase-file; \
         under systemd, LoadCredential={CREDENTIAL}"
    ))
}
