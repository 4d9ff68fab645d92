//! The data directory: locked first, so that two processes never share a key, and the key in it.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Read as _, Write as _},
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use protocol::{Key, NodeId};
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

use crate::error::Error;

/// What only a node that has run leaves: its key was there.
const OF_A_RUN: &[&str] = &["identity.json", "credential.json", "revocations.json", "bans.json", "peers.json"];
/// The file that says which node's directory it is.
const IDENTITY: &str = "identity.json";
/// Far above what one field takes.
const MAX_IDENTITY: u64 = 4096;
/// A PKCS#8 PEM of an Ed25519 key has 119 bytes.
const MAX_PEM: u64 = 4096;

/// A data directory that this process holds.
pub(crate) struct DataDir {
    path: PathBuf,
    /// The lock lasts as long as this file is open.
    _lock: File,
}

impl DataDir {
    /// Makes the directory if need be, and takes its lock.
    pub(crate) fn lock(path: &Path) -> Result<Self, Error> {
        let failed = |doing: String| move |source| Error::Io { doing, source };
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)
            .map_err(failed(format!("make the data directory {}", path.display())))?;
        let file = path.join("lock");
        let lock = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(&file);
        let lock = lock.map_err(failed(format!("open {}", file.display())))?;
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Self { path: path.to_owned(), _lock: lock }),
            Err(rustix::io::Errno::WOULDBLOCK) => Err(Error::Locked(path.to_owned())),
            Err(error) => Err(failed(format!("lock {}", file.display()))(error.into())),
        }
    }

    /// The node's key, made at the first start. Where another file proves that there was one, a new one is made only if
    /// `new_identity` says so; the old node's files are moved to former-TIME/ then.
    pub(crate) fn key(&self, new_identity: bool) -> Result<Key, Error> {
        let path = self.path.join("node.key");
        let key = match File::open(&path) {
            Ok(file) => read(&path, file)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                match OF_A_RUN.iter().find(|name| self.path.join(name).exists()) {
                    Some(evidence) if !new_identity => return Err(lost(&path, evidence)),
                    Some(_) => self.set_aside()?,
                    None => {}
                }
                let key = Key::generate();
                self.write("node.key", key.to_pem().as_bytes())?;
                tracing::info!(path = %path.display(), node = %key.node_id(), "made a new key");
                key
            }
            Err(source) => return Err(Error::Io { doing: format!("open {}", path.display()), source }),
        };
        self.remember(key.node_id())?;
        Ok(key)
    }

    /// Holds the key against what the directory says of it, and writes that down at the first start.
    fn remember(&self, node: NodeId) -> Result<(), Error> {
        let path = self.path.join(IDENTITY);
        let refuse = |reason: String| Error::Key { path: path.clone(), reason };
        let mut text = String::new();
        match File::open(&path).and_then(|file| file.take(MAX_IDENTITY).read_to_string(&mut text)) {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let written = Identity { node };
                return self.write(IDENTITY, &serde_json::to_vec_pretty(&written).expect("one text"));
            }
            Err(error) => return Err(refuse(error.to_string())),
        }
        let before: Identity = serde_json::from_str(&text)
            .map_err(|error| refuse(format!("{error}; restore it, or remove it if node.key is the right one")))?;
        if before.node == node {
            return Ok(());
        }
        let before = before.node;
        Err(refuse(format!("this directory is of node {before}, but node.key is the key of {node}: put back the node.key of before")))
    }

    /// Moves what belongs to the old node out of the way.
    fn set_aside(&self) -> Result<(), Error> {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default().as_secs();
        let former = self.path.join(format!("former-{now}"));
        let moved = || {
            DirBuilder::new().recursive(true).mode(0o700).create(&former)?;
            for name in OF_A_RUN {
                match fs::rename(self.path.join(name), former.join(name)) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                    Ok(()) | Err(_) => {}
                }
            }
            File::open(&self.path)?.sync_all()
        };
        moved().map_err(|source| Error::Io { doing: format!("move the old node's files to {}", former.display()), source })?;
        tracing::warn!(former = %former.display(), "beginning as a new node (--new-identity); what was here is kept in former");
        Ok(())
    }

    /// Writes beside and renames, so that a power cut leaves no half a key.
    fn write(&self, name: &str, bytes: &[u8]) -> Result<(), Error> {
        let (path, beside) = (self.path.join(name), self.path.join(format!("{name}.new")));
        let write = || {
            let mut file = OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&beside)?;
            file.write_all(bytes)?;
            file.sync_all()?;
            fs::rename(&beside, &path)?;
            File::open(&self.path)?.sync_all()
        };
        write().map_err(|source| Error::Io { doing: format!("write {}", path.display()), source })
    }
}

/// What `identity.json` says.
#[derive(Serialize, Deserialize)]
struct Identity {
    node: NodeId,
}

fn lost(path: &Path, evidence: &str) -> Error {
    let reason = format!(
        "it is missing, and {evidence} proves that there was one; no other was made in its place: restore it from a backup, or begin as \
         a new node with --new-identity, which keeps what is here in former-TIME/"
    );
    Error::Key { path: path.to_owned(), reason }
}

fn read(path: &Path, file: File) -> Result<Key, Error> {
    let refuse = |reason: String| Error::Key { path: path.to_owned(), reason };
    let mode = file.metadata().map_err(|error| refuse(error.to_string()))?.mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(refuse(format!("others may read this key (mode {mode:04o}): run `chmod 600` on it, or replace it if they did")));
    }
    let mut pem = String::new();
    file.take(MAX_PEM).read_to_string(&mut pem).map_err(|error| refuse(error.to_string()))?;
    Key::from_pem(&pem).map_err(|error| {
        refuse(format!("{error}; restore it from a backup, or remove it and start with --new-identity to begin as a new node"))
    })
}
