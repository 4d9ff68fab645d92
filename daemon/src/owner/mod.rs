//! The owner's key: who signs agreements, transitions, receipts and snapshots.
//!
//! ```text
//! owner.pkcs11, owner.token ──> token: the key never leaves it, a thread speaks to it
//! owner.key, encrypted ───────> passphrase from a file, systemd or a terminal
//! owner.key ──────────────────> made at the first start, if nothing says otherwise; encrypted, if there is a passphrase
//! ```
//!
//! Whatever can't be opened is an error: no other key is ever made, or used, in its place.

mod manage;
mod passphrase;
mod rotate;
mod session;
mod token;
mod uri;

use std::{fmt, path::PathBuf, sync::Arc};

use protocol::{
    Code, Did, Key, Problem, Signer,
    api::{self, KeyKept},
    passphrase::is_encrypted,
    signer::Signing,
    succession::Lineage,
};
use serde::{Deserialize, Serialize};

pub(crate) use self::manage::{Command, run};
use self::{token::Token, uri::Uri};
use crate::data_dir::DataDir;

/// The key's file.
const FILE: &str = "owner.key";
/// Where the key is instead of in its file, so that a setting that is forgotten doesn't make another owner.
const TOKEN: &str = "owner.token";

/// The files of which one says where the owner's key is.
pub(crate) const KEY_FILES: &[&str] = &[FILE, TOKEN];
/// How the owner's key follows its first one.
pub(crate) const LINEAGE_FILE: &str = rotate::LINEAGE;
/// All files of the owner's.
pub(crate) const FILES: &[&str] = &[FILE, TOKEN, LINEAGE_FILE];

/// What the configuration says of the owner's key.
#[derive(Debug, Clone, Default)]
pub(crate) struct Settings {
    /// The token and the key in it: a `pkcs11:` URI.
    pub(crate) pkcs11: Option<String>,
    pub(crate) passphrase_file: Option<PathBuf>,
}

impl Settings {
    /// Whether they can be meant.
    pub(crate) fn check(&self) -> Result<(), String> {
        self.pkcs11.as_deref().map(Uri::parse).transpose().map(drop).map_err(|problem| problem.detail)
    }
}

/// The owner's key, wherever it is. Cheap to clone.
#[derive(Clone)]
pub(crate) struct OwnerKey(Arc<Kept>);

struct Kept {
    held: Held,
    place: String,
    /// How it follows the owner's first key, if it isn't that.
    lineage: Option<Lineage>,
}

enum Held {
    Here { key: Key, encrypted: bool },
    Token(Token),
}

/// What `owner.token` says.
#[derive(Debug, Serialize, Deserialize)]
struct Elsewhere {
    did: Did,
    pkcs11: String,
}

impl OwnerKey {
    /// Opens the owner's key, which is made in a file where there is none and nothing says where it is. Whether there was one
    /// before is for [`crate::identity::require`] to say. Blocks.
    ///
    /// # Errors
    /// `invalid_config`: the passphrase or the PIN is missing or wrong, or the key isn't the one of before;
    /// `key_unavailable`: the token isn't there.
    pub(crate) fn open(directory: &DataDir, settings: &Settings) -> Result<Self, Problem> {
        rotate::finish(directory)?;
        let known = elsewhere(directory)?;
        let opened = match settings.pkcs11.as_deref().or(known.as_ref().map(|known| known.pkcs11.as_str())) {
            Some(uri) => Self::in_token(directory, uri, known.as_ref()),
            None => Self::in_file(directory, settings),
        };
        opened?.with_lineage(directory)
    }

    fn in_token(directory: &DataDir, uri: &str, known: Option<&Elsewhere>) -> Result<Self, Problem> {
        let file = directory.join(FILE);
        if file.exists() {
            let problem = format!("the configuration says that the owner's key is in a token, but there is {}", file.display());
            return Err(Problem::new(Code::InvalidConfig, problem)
                .hint("they are two owners: remove owner.pkcs11 to stay the old one, or begin in a new data directory"));
        }
        let token = Token::open(Uri::parse(uri)?)?;
        if let Some(known) = known.filter(|known| known.did != token.did()) {
            token.close();
            let problem = format!("this node's owner is {}, but the token has the key of {}", known.did, token.did());
            return Err(Problem::new(Code::InvalidConfig, problem).hint("correct owner.pkcs11, or plug in the token of before"));
        }
        if known.is_none_or(|known| known.pkcs11 != uri) {
            keep_elsewhere(directory, &token)?;
        }
        Ok(Self::of(Held::Token(token), uri.to_owned()))
    }

    fn in_file(directory: &DataDir, settings: &Settings) -> Result<Self, Problem> {
        let place = directory.join(FILE).display().to_string();
        let file = settings.passphrase_file.as_deref();
        let pem = directory.secret(FILE, || {
            let (key, passphrase) = (Key::generate(), passphrase::provided(file)?);
            Ok(passphrase.map_or_else(|| key.to_pem(), |passphrase| key.to_encrypted_pem(&passphrase)))
        })?;
        let encrypted = is_encrypted(&pem);
        let failed = |error: protocol::key::Error| Problem::new(Code::InvalidConfig, format!("{place}: {error}"));
        let key = if encrypted {
            let passphrase = passphrase::existing(file)?;
            Key::from_encrypted_pem(&pem, &passphrase).map_err(|error| {
                failed(error).hint("see that owner.passphrase_file names the file with this key's passphrase; no other key was made")
            })?
        } else {
            if file.is_some() {
                tracing::warn!("there is a passphrase for the owner's key, which isn't encrypted: 'mcpctl key encrypt' does it");
            }
            Key::from_pem(&pem).map_err(failed)?
        };
        Ok(Self::of(Held::Here { key, encrypted }, place))
    }

    fn of(held: Held, place: String) -> Self {
        Self(Arc::new(Kept { held, place, lineage: None }))
    }

    /// The owner, named by the first key.
    pub(crate) fn did(&self) -> Did {
        self.0.lineage.as_ref().map_or_else(|| self.key(), Lineage::root)
    }

    /// The key that signs.
    pub(crate) fn key(&self) -> Did {
        match &self.0.held {
            Held::Here { key, .. } => key.did(),
            Held::Token(token) => token.did(),
        }
    }

    /// How the key is kept.
    pub(crate) fn kept(&self) -> KeyKept {
        match &self.0.held {
            Held::Here { encrypted: false, .. } => KeyKept::File,
            Held::Here { encrypted: true, .. } => KeyKept::EncryptedFile,
            Held::Token(_) => KeyKept::Token,
        }
    }

    /// Whether the key signs now: asked before work begins that is worth nothing unsigned.
    ///
    /// # Errors
    /// `key_unavailable`.
    pub(crate) async fn ready(&self) -> Result<(), Problem> {
        match &self.0.held {
            Held::Here { .. } => Ok(()),
            Held::Token(token) => token.ready().await,
        }
    }

    /// Lets go of the token: to be called before the process ends. Blocks for a moment.
    pub(crate) fn close(&self) {
        if let Held::Token(token) = &self.0.held {
            token.close();
        }
    }

    /// What there is to say of it.
    pub(crate) async fn show(&self) -> api::OwnerKey {
        let unavailable = self.ready().await.err().map(|problem| problem.detail);
        api::OwnerKey { unavailable, ..self.shown() }
    }

    fn shown(&self) -> api::OwnerKey {
        let (did, key) = (self.did(), self.key());
        let lineage = self.0.lineage.iter().flat_map(Lineage::steps).copied().collect();
        api::OwnerKey { did, key, public_key: key.to_pem(), lineage, kept: self.kept(), place: self.0.place.clone(), unavailable: None }
    }
}

impl Signer for OwnerKey {
    fn did(&self) -> Did {
        self.did()
    }

    fn key(&self) -> Did {
        self.key()
    }

    fn lineage(&self) -> Option<&Lineage> {
        self.0.lineage.as_ref()
    }

    fn sign<'a>(&'a self, message: &'a [u8]) -> Signing<'a> {
        match &self.0.held {
            Held::Here { key, .. } => Signer::sign(key, message),
            Held::Token(token) => Box::pin(token.sign(message)),
        }
    }
}

impl fmt::Debug for OwnerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OwnerKey").field("did", &self.did()).field("key", &self.key()).field("kept", &self.kept()).finish_non_exhaustive()
    }
}

fn elsewhere(directory: &DataDir) -> Result<Option<Elsewhere>, Problem> {
    let path = directory.join(TOKEN);
    let broken = |why: String| Problem::new(Code::InvalidConfig, format!("{}: {why}", path.display()));
    match std::fs::read(&path) {
        Ok(bytes) if bytes.len() <= 8_192 => serde_json::from_slice(&bytes).map(Some).map_err(|error| broken(error.to_string())),
        Ok(_) => Err(broken("it is over 8 KiB".into())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(broken(error.to_string())),
    }
}

fn keep_elsewhere(directory: &DataDir, token: &Token) -> Result<(), Problem> {
    let known = Elsewhere { did: token.did(), pkcs11: token.uri().to_owned() };
    directory.replace_secret(TOKEN, &serde_json::to_string_pretty(&known).expect("two texts"))
}

fn random<const N: usize>() -> Result<[u8; N], Problem> {
    let mut bytes = [0; N];
    let failed = |error| Problem::new(Code::Internal, format!("the operating system's entropy source fails: {error}"));
    getrandom::fill(&mut bytes).map(|()| bytes).map_err(failed)
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt as _};

    use super::*;

    pub(super) fn directory() -> (tempfile::TempDir, DataDir) {
        let place = tempfile::tempdir().expect("temp");
        let directory = DataDir::open(&place.path().join("node")).expect("free");
        (place, directory)
    }

    fn secret(place: &tempfile::TempDir, text: &str) -> PathBuf {
        let file = place.path().join("passphrase");
        fs::write(&file, text).expect("write");
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).expect("chmod");
        file
    }

    #[test]
    fn an_encrypted_key_opens_with_its_passphrase_alone() {
        let (place, directory) = directory();
        let made = OwnerKey::open(&directory, &Settings { passphrase_file: Some(secret(&place, "right")), ..Settings::default() });
        let owner = made.expect("made at the first start").did();
        let before = fs::read(directory.join(FILE)).expect("read");
        let open =
            |text: &str| OwnerKey::open(&directory, &Settings { passphrase_file: Some(secret(&place, text)), ..Settings::default() });
        let opened = open("right\n").expect("the passphrase");
        assert_eq!((opened.did(), opened.kept()), (owner, KeyKept::EncryptedFile));
        let refused = open("wrong").expect_err("another passphrase");
        assert_eq!(refused.code, Code::InvalidConfig);
        assert!(refused.detail.contains("passphrase is wrong") && refused.hint.is_some(), "{refused}");
        fs::set_permissions(secret(&place, "right"), fs::Permissions::from_mode(0o644)).expect("chmod");
        let file = Settings { passphrase_file: Some(place.path().join("passphrase")), ..Settings::default() };
        assert!(OwnerKey::open(&directory, &file).expect_err("everybody's").detail.contains("everybody"));
        assert_eq!(fs::read(directory.join(FILE)).expect("read"), before, "no new key in its place");
    }

    #[test]
    fn a_key_that_is_elsewhere_is_not_made_anew() {
        let (_place, directory) = directory();
        let uri = "pkcs11:object=o?module-path=/no/such.so".to_owned();
        let known = Elsewhere { did: Key::generate().did(), pkcs11: uri.clone() };
        directory.replace_secret(TOKEN, &serde_json::to_string(&known).expect("JSON")).expect("kept");
        let refused = OwnerKey::open(&directory, &Settings::default()).expect_err("no such library");
        assert!(refused.code == Code::InvalidConfig && refused.detail.contains("/no/such.so"), "{refused}");
        assert!(!directory.join(FILE).exists());
        // And one that is here isn't given up for one that is elsewhere.
        fs::remove_file(directory.join(TOKEN)).expect("removed");
        OwnerKey::open(&directory, &Settings::default()).expect("made at the first start");
        let both = OwnerKey::open(&directory, &Settings { pkcs11: Some(uri), ..Settings::default() }).expect_err("two owners");
        assert!(both.code == Code::InvalidConfig && both.detail.contains("owner.key"), "{both}");
    }
}
