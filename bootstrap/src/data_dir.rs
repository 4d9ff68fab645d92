//! The data directory: locked first, so that two processes never share a key, and the key in it.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Read as _, Write as _},
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use protocol::Key;
use rustix::fs::{FlockOperation, flock};

use crate::error::Error;

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

    /// The node's key, made at the first start.
    pub(crate) fn key(&self) -> Result<Key, Error> {
        let path = self.path.join("node.key");
        match File::open(&path) {
            Ok(file) => read(&path, file),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let key = Key::generate();
                self.write(&path, key.to_pem().as_bytes())
                    .map_err(|source| Error::Io { doing: format!("write {}", path.display()), source })?;
                tracing::info!(path = %path.display(), node = %key.node_id(), "made a new key");
                Ok(key)
            }
            Err(source) => Err(Error::Io { doing: format!("open {}", path.display()), source }),
        }
    }

    /// Writes beside and renames, so that a power cut leaves no half a key.
    fn write(&self, path: &Path, pem: &[u8]) -> io::Result<()> {
        let beside = path.with_extension("key.new");
        let mut file = OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&beside)?;
        file.write_all(pem)?;
        file.sync_all()?;
        fs::rename(&beside, path)?;
        File::open(&self.path)?.sync_all()
    }
}

fn read(path: &Path, file: File) -> Result<Key, Error> {
    let refuse = |reason: String| Error::Key { path: path.to_owned(), reason };
    let mode = file.metadata().map_err(|error| refuse(error.to_string()))?.mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(refuse(format!("others may read this key (mode {mode:04o}): run `chmod 600` on it, or replace it if they did")));
    }
    let mut pem = String::new();
    file.take(MAX_PEM).read_to_string(&mut pem).map_err(|error| refuse(error.to_string()))?;
    Key::from_pem(&pem).map_err(|error| refuse(format!("{error}; restore it, or remove it to get a new identity")))
}
