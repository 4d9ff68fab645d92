//! The owner goes on with another key.
//!
//! ```text
//! owner.lineage   the old key and the new one sign the succession: written first, and no use to anybody without the new key
//! owner.key or owner.token   the new key takes the old one's place: from here on it is the owner's
//! the other one   removed, where the key went from a file into a token, or came out of one
//! ```
//!
//! A crash before the second step leaves the old key, to which a succession that was never shown means nothing; one after it
//! leaves the new key, and the next start does the third step.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use protocol::{Code, Did, Envelope, Key, Passphrase, Problem, Signer, Timestamp, api::KeyKept, signer::Signing, succession::Lineage};
use serde::{Deserialize, Serialize};

use super::{FILE, Held, OwnerKey, Settings, TOKEN, keep_elsewhere, manage, passphrase, token::Token, uri::Uri};
use crate::data_dir::DataDir;

/// How the owner's key follows its first one.
pub(super) const LINEAGE: &str = "owner.lineage";
/// Sixteen successions take a fourth of it.
const MAX_FILE: u64 = 64 * 1024;

/// What `owner.lineage` says.
#[derive(Debug, Serialize, Deserialize)]
struct Written {
    successions: Vec<Envelope>,
    /// Which file the newest key makes void by being in the other one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    replaces: Option<String>,
}

/// Where the new key is to be.
#[derive(Debug, clap::Args)]
pub(crate) struct Rotate {
    /// Encrypt its file
    #[arg(long)]
    encrypted: bool,
    /// Make it in this token
    #[arg(long, conflicts_with = "encrypted")]
    pkcs11: Option<String>,
    /// Where the passphrase is, of the old key and of the new one
    #[arg(long)]
    passphrase_file: Option<PathBuf>,
    /// Keep the file with the old key here
    #[arg(long)]
    keep_old: Option<PathBuf>,
}

/// Signs as the key that it is, whoever's it is.
#[derive(Debug)]
struct Bare<'a>(&'a OwnerKey);

impl Signer for Bare<'_> {
    fn did(&self) -> Did {
        self.0.key()
    }

    fn sign<'a>(&'a self, message: &'a [u8]) -> Signing<'a> {
        self.0.sign(message)
    }
}

/// A new key that isn't in the old one's place yet.
enum Made {
    File { key: Key, pem: zeroize::Zeroizing<String>, encrypted: bool },
    Token { uri: Uri, did: Did },
}

/// Makes a new key and has the old one name it.
pub(super) fn rotate(rotate: Rotate, directory: &DataDir, settings: &Settings) -> Result<OwnerKey, Problem> {
    if !directory.join(TOKEN).exists() {
        manage::present(directory)?;
    }
    if settings.pkcs11.is_some() {
        let problem = Problem::new(Code::InvalidConfig, "the configuration names the old key's place: owner.pkcs11");
        return Err(problem.hint("take it out first: the data directory says in which token the key is"));
    }
    let passphrase_file = rotate.passphrase_file.clone().or_else(|| settings.passphrase_file.clone());
    let opening = Settings { pkcs11: None, passphrase_file: passphrase_file.clone() };
    let mut old = OwnerKey::open(directory, &opening)?;
    // A token's library serves one session at a time.
    old.close();
    let encrypted = encrypted(&rotate, old.kept())?;
    let passphrase = encrypted.then(|| passphrase::new(passphrase_file.as_deref())).transpose()?;
    if let Some(kept) = &rotate.keep_old {
        keep(directory, kept, old.kept())?;
    }
    let made = make(rotate.pkcs11.as_deref(), passphrase.as_ref())?;
    if old.kept() == KeyKept::Token {
        old = OwnerKey::open(directory, &opening)?;
    }
    let before = old.lineage().cloned();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
    let runtime = runtime.map_err(|error| Problem::new(Code::Internal, format!("nothing can be signed: {error}")))?;
    let named = runtime.block_on(Lineage::name(before.as_ref(), &Bare(&old), made.did(), Timestamp::now()));
    old.close();
    let place = made.place(directory);
    let file = made.file();
    let (held, pem) = made.open()?;
    let new = OwnerKey::of(held, place);
    let accepted = named.and_then(|named| runtime.block_on(Lineage::accept(before.as_ref(), named, &Bare(&new))));
    let written = accepted.and_then(|lineage| {
        let old_file = if old.kept() == KeyKept::Token { TOKEN } else { FILE };
        let replaces = (old_file != file).then(|| old_file.to_owned());
        write(directory, &lineage, replaces)?;
        match (&new.0.held, &pem) {
            (Held::Token(token), _) => keep_elsewhere(directory, token)?,
            (Held::Here { .. }, Some(pem)) => directory.replace_secret(FILE, pem)?,
            (Held::Here { .. }, None) => return Err(Problem::new(Code::Internal, "the new key has no text")),
        }
        finish(directory)
    });
    if let Err(problem) = written {
        new.close();
        return Err(problem);
    }
    new.with_lineage(directory)
}

fn encrypted(rotate: &Rotate, old: KeyKept) -> Result<bool, Problem> {
    match (&rotate.pkcs11, old) {
        (Some(_), _) => Ok(false),
        (None, KeyKept::Token) if !rotate.encrypted => {
            let problem = Problem::new(Code::InvalidRequest, "the owner's key is in a token: say where the new one is to be");
            Err(problem.hint("--pkcs11 URI makes it in a token, --encrypted in a file with a passphrase"))
        }
        (None, old) => Ok(rotate.encrypted || old == KeyKept::EncryptedFile),
    }
}

fn make(pkcs11: Option<&str>, passphrase: Option<&Passphrase>) -> Result<Made, Problem> {
    if let Some(text) = pkcs11 {
        let (uri, did) = manage::make_in_token(text)?;
        return Ok(Made::Token { uri, did });
    }
    let key = Key::generate();
    let pem = passphrase.map_or_else(|| key.to_pem(), |passphrase| key.to_encrypted_pem(passphrase));
    Ok(Made::File { key, pem, encrypted: passphrase.is_some() })
}

impl Made {
    fn did(&self) -> Did {
        match self {
            Self::File { key, .. } => key.did(),
            Self::Token { did, .. } => *did,
        }
    }

    fn file(&self) -> &'static str {
        match self {
            Self::File { .. } => FILE,
            Self::Token { .. } => TOKEN,
        }
    }

    fn place(&self, directory: &DataDir) -> String {
        match self {
            Self::File { .. } => directory.join(FILE).display().to_string(),
            Self::Token { uri, .. } => uri.as_str().to_owned(),
        }
    }

    /// Ready to sign, with the text of its file if it has one.
    fn open(self) -> Result<(Held, Option<zeroize::Zeroizing<String>>), Problem> {
        match self {
            Self::File { key, pem, encrypted } => Ok((Held::Here { key, encrypted }, Some(pem))),
            Self::Token { uri, did } => manage::made_token(uri, did).map(|token: Token| (Held::Token(token), None)),
        }
    }
}

/// A copy of the old key's file, for whoever wants one.
fn keep(directory: &DataDir, kept: &Path, old: KeyKept) -> Result<(), Problem> {
    if old == KeyKept::Token {
        return Err(Problem::new(Code::InvalidRequest, "the old key is in a token, where it stays: it can't be kept in a file"));
    }
    let text = manage::present(directory)?;
    let write = || {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(kept)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()
    };
    write().map_err(|error: io::Error| {
        let code = if error.kind() == io::ErrorKind::AlreadyExists { Code::AlreadyExists } else { Code::StoreFailed };
        Problem::new(code, format!("the old key can't be kept in {}: {error}; nothing was changed", kept.display()))
    })
}

fn write(directory: &DataDir, lineage: &Lineage, replaces: Option<String>) -> Result<(), Problem> {
    let written = Written { successions: lineage.proofs().to_vec(), replaces };
    directory.replace_secret(LINEAGE, &serde_json::to_string_pretty(&written).expect("texts and numbers"))
}

fn read(directory: &DataDir) -> Result<Option<(Lineage, Option<String>)>, Problem> {
    let path = directory.join(LINEAGE);
    let broken = |why: String| Problem::new(Code::InvalidConfig, format!("{}: {why}", path.display()));
    match fs::metadata(&path) {
        Ok(found) if found.len() > MAX_FILE => return Err(broken(format!("it is over {MAX_FILE} bytes"))),
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(broken(error.to_string())),
    }
    let bytes = fs::read(&path).map_err(|error| broken(error.to_string()))?;
    let Written { successions, replaces } = serde_json::from_slice(&bytes).map_err(|error| broken(error.to_string()))?;
    let lineage = Lineage::open(&successions).map_err(|error| broken(error.to_string()))?;
    Ok(lineage.map(|lineage| (lineage, replaces)))
}

/// Ends a rotation that came as far as having the new key in its place.
pub(super) fn finish(directory: &DataDir) -> Result<(), Problem> {
    let Some((lineage, Some(old))) = read(directory)? else { return Ok(()) };
    let void = match old.as_str() {
        FILE => FILE,
        TOKEN => TOKEN,
        other => return Err(Problem::new(Code::InvalidConfig, format!("{LINEAGE} replaces {other:?}, which is no key's file"))),
    };
    let (file, token) = (directory.join(FILE), directory.join(TOKEN));
    if !file.exists() || !token.exists() {
        return Ok(());
    }
    let path = directory.join(void);
    let removed = fs::remove_file(&path).and_then(|()| File::open(directory.path())?.sync_all());
    removed.map_err(|error| Problem::new(Code::StoreFailed, format!("can't remove {}: {error}", path.display())))?;
    write(directory, &lineage, None)
}

impl OwnerKey {
    /// With what the data directory says of the keys before this one.
    pub(super) fn with_lineage(self, directory: &DataDir) -> Result<Self, Problem> {
        let Some((whole, _)) = read(directory).inspect_err(|_| self.close())? else { return Ok(self) };
        let key = self.key();
        let refused = |why: &str| {
            self.close();
            let problem = format!("the owner's key here is {key}, and {}: {why}", directory.join(LINEAGE).display());
            Problem::new(Code::InvalidConfig, problem)
                .hint("the two belong together: restore both, or copy both from the owner's other node")
        };
        let lineage = whole.up_to(key).map_err(|_| refused("it isn't one of its keys"))?;
        let after = whole.steps().len() - lineage.as_ref().map_or(0, |lineage| lineage.steps().len());
        if after > 1 {
            return Err(refused("it was succeeded more than once"));
        }
        // One step more is a rotation that was cut short, unless the node has signed by that key: its store knows.
        let super::Kept { held, place, .. } = std::sync::Arc::into_inner(self.0).expect("nobody else has it yet");
        Ok(Self(std::sync::Arc::new(super::Kept { held, place, lineage })))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::owner::tests::directory;

    fn plain() -> Rotate {
        Rotate { encrypted: false, pkcs11: None, passphrase_file: None, keep_old: None }
    }

    fn open(directory: &DataDir) -> Result<OwnerKey, Problem> {
        OwnerKey::open(directory, &Settings::default())
    }

    #[test]
    fn the_owner_stays_and_the_key_is_another() {
        let (place, directory) = directory();
        assert_eq!(rotate(plain(), &directory, &Settings::default()).expect_err("no key yet").code, Code::NotFound);
        let first = open(&directory).expect("made");
        let kept = place.path().join("old.pem");
        let second = rotate(Rotate { keep_old: Some(kept.clone()), ..plain() }, &directory, &Settings::default()).expect("rotated");
        assert_eq!((second.did(), second.kept()), (first.did(), KeyKept::File));
        assert_ne!(second.key(), first.key());
        assert_eq!(Key::from_pem(&fs::read_to_string(&kept).expect("kept")).expect("a key").did(), first.did());
        let again = Rotate { keep_old: Some(kept), ..plain() };
        assert_eq!(rotate(again, &directory, &Settings::default()).expect_err("there is one").code, Code::AlreadyExists);
        let opened = open(&directory).expect("the new key");
        assert_eq!((opened.did(), opened.key()), (first.did(), second.key()));
        let third = rotate(plain(), &directory, &Settings::default()).expect("once more");
        assert_eq!((third.did(), third.lineage().map(|lineage| lineage.steps().len())), (first.did(), Some(2)));
    }

    #[test]
    fn a_rotation_that_is_cut_short_leaves_a_key_that_signs() {
        let (_place, directory) = directory();
        let first = open(&directory).expect("made");
        let old = fs::read_to_string(directory.join(FILE)).expect("a key");
        let second = rotate(plain(), &directory, &Settings::default()).expect("rotated");
        let new = fs::read_to_string(directory.join(FILE)).expect("a key");
        // Before the new key was in its place: the old one goes on, and may name another.
        directory.replace_secret(FILE, &old).expect("put back");
        let opened = open(&directory).expect("the old key");
        assert_eq!((opened.key(), opened.lineage().map(|lineage| lineage.steps().len())), (first.key(), None));
        assert_ne!(opened.key(), second.key());
        let other = rotate(plain(), &directory, &Settings::default()).expect("rotated");
        assert_eq!((other.did(), other.lineage().map(|lineage| lineage.steps().len())), (first.did(), Some(1)));
        // The key that was never used isn't the owner's any more, and one of a stranger never was.
        directory.replace_secret(FILE, &new).expect("put back");
        assert_eq!(open(&directory).expect_err("not in the lineage").code, Code::InvalidConfig);
        directory.replace_secret(FILE, &Key::generate().to_pem()).expect("another");
        assert_eq!(open(&directory).expect_err("not in the lineage").code, Code::InvalidConfig);
        // What the token's key replaced is removed at the next start; what it has not replaced yet stays.
        directory.replace_secret(FILE, &old).expect("put back");
        let (lineage, _) = read(&directory).expect("readable").expect("there");
        write(&directory, &lineage, Some(FILE.into())).expect("written");
        finish(&directory).expect("nothing to do");
        assert!(directory.join(FILE).exists());
        directory.replace_secret(TOKEN, "{}").expect("the new key's place");
        finish(&directory).expect("the last step");
        assert!(!directory.join(FILE).exists() && directory.join(TOKEN).exists());
        assert_eq!(read(&directory).expect("readable").expect("there").1, None);
    }

    #[test]
    fn a_lineage_that_was_changed_is_refused() {
        let (_place, directory) = directory();
        open(&directory).expect("made");
        rotate(plain(), &directory, &Settings::default()).expect("rotated");
        let text = fs::read_to_string(directory.join(LINEAGE)).expect("written");
        let mut changed: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        changed["successions"][0]["payload"] = "e30=".into();
        directory.replace_secret(LINEAGE, &changed.to_string()).expect("changed");
        assert_eq!(open(&directory).expect_err("forged").code, Code::InvalidConfig);
    }
}
