//! The data directory: held by one process at a time, with the node's keys in it.
//!
//! ```text
//! lock        flock, taken first
//! node.key    transport identity, PKCS#8 PEM, 0600
//! owner.key   the principal that owns the node and signs its agreements and receipts, 0600; may be encrypted
//! owner.token     where that key is instead, if it is in a token
//! owner.lineage   by which successions that key follows the owner's first one, if it was rotated
//! authority.key   the key of the mesh's authority, where this node founded the mesh, 0600
//! ca.pem          the key and certificate of the mesh's TLS authority, at the same place, 0600
//! credential.json revocations.json join.token   this node's place in its mesh (mesh::Papers)
//! cache.key   authenticates compiled code, 0600
//! identity.json   which node's and which owner's directory it is (crate::identity)
//! mcpd.sock   the local API, 0600
//! store/ blobs/ cache/
//! ```

use std::{
    fs::{self, File, OpenOptions, Permissions},
    io::{self, Read as _, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use protocol::{Code, Key, Problem};
use rustix::fs::FlockOperation;
use zeroize::Zeroizing;

/// A directory that this process holds until it drops the handle.
#[derive(Debug)]
pub(crate) struct DataDir {
    path: PathBuf,
    _lock: File,
}

impl DataDir {
    /// Where a daemon keeps its data when nobody says otherwise: the system's place for root, else the user's.
    pub(crate) fn usual() -> PathBuf {
        if rustix::process::geteuid().is_root() {
            return "/var/lib/mcp-zero".into();
        }
        directories::ProjectDirs::from("", "", "mcp-zero").map_or_else(|| ".mcp-zero".into(), |dirs| dirs.data_dir().into())
    }

    /// Creates the directory where needed (0700) and takes its lock.
    pub(crate) fn open(path: &Path) -> Result<Self, Problem> {
        let failed = |what: &str, error: io::Error| Problem::new(Code::StoreFailed, format!("can't {what} {}: {error}", path.display()));
        fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(|error| failed("create", error))?;
        let path = path.canonicalize().map_err(|error| failed("open", error))?;
        let mut lock = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path.join("lock"))
            .map_err(|error| failed("lock", error))?;
        match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                let mut holder = String::new();
                let _ = lock.read_to_string(&mut holder);
                return Err(Problem::new(Code::Locked, format!("another process (pid {}) holds {}", holder.trim(), path.display()))
                    .hint("stop it, or give this one a directory of its own with '--data-dir'"));
            }
            Err(error) => return Err(failed("lock", error.into())),
        }
        lock.set_len(0).and_then(|()| writeln!(lock, "{}", std::process::id())).map_err(|error| failed("lock", error))?;
        Ok(Self { path, _lock: lock })
    }

    /// A path within it.
    pub(crate) fn join(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// A directory within it, made where needed (0700).
    pub(crate) fn subdirectory(&self, name: &str) -> Result<PathBuf, Problem> {
        let path = self.join(name);
        let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(&path);
        made.map_err(|error| Problem::new(Code::StoreFailed, format!("can't create {}: {error}", path.display())))?;
        Ok(path)
    }

    /// The path of the directory itself.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The Ed25519 key in the file `name`, if it is there.
    pub(crate) fn existing_key(&self, name: &str) -> Result<Option<Key>, Problem> {
        if self.join(name).exists() { self.key(name).map(Some) } else { Ok(None) }
    }

    /// The Ed25519 key in the file `name`, made on first use.
    pub(crate) fn key(&self, name: &str) -> Result<Key, Problem> {
        let pem = self.secret(name, || Ok(Key::generate().to_pem()))?;
        Key::from_pem(&pem).map_err(|error| Problem::new(Code::InvalidConfig, format!("{}: {error}", self.join(name).display())))
    }

    /// 32 random bytes in the file `name`, made on first use.
    pub(crate) fn random(&self, name: &str) -> Result<Zeroizing<[u8; 32]>, Problem> {
        let made = || Ok(Zeroizing::new(protocol::digest::hex(Key::generate().seed().as_ref())));
        let text = self.secret(name, made)?;
        let broken = || Problem::new(Code::InvalidConfig, format!("{} does not hold 64 hexadecimal digits", self.join(name).display()));
        protocol::digest::unhex32(text.trim()).map(Zeroizing::new).ok_or_else(broken)
    }

    /// Reads a secret, or makes and keeps it: written aside, synced, renamed, so that a crash leaves all or nothing.
    pub(crate) fn secret(
        &self,
        name: &str,
        make: impl FnOnce() -> Result<Zeroizing<String>, Problem>,
    ) -> Result<Zeroizing<String>, Problem> {
        let path = self.join(name);
        let failed = |what: &str, error: io::Error| Problem::new(Code::StoreFailed, format!("can't {what} {}: {error}", path.display()));
        match fs::metadata(&path) {
            Ok(metadata) if metadata.permissions().mode() & 0o077 != 0 => {
                return Err(Problem::new(Code::InvalidConfig, format!("others may read {}", path.display()))
                    .hint(format!("chmod 600 {}", path.display())));
            }
            Ok(metadata) if metadata.len() > 4096 => return Err(failed("read", io::Error::other("not a key"))),
            Ok(_) => return fs::read_to_string(&path).map(Zeroizing::new).map_err(|error| failed("read", error)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed("read", error)),
        }
        let secret = make()?;
        self.replace_secret(name, &secret)?;
        Ok(secret)
    }

    /// Keeps a secret in place of the one that there was.
    pub(crate) fn replace_secret(&self, name: &str, secret: &str) -> Result<(), Problem> {
        let path = self.join(name);
        let write = || {
            let mut file = tempfile::Builder::new().permissions(Permissions::from_mode(0o600)).tempfile_in(&self.path)?;
            file.write_all(secret.as_bytes())?;
            file.as_file().sync_all()?;
            file.persist(&path)?;
            File::open(&self.path)?.sync_all()
        };
        write().map_err(|error: io::Error| Problem::new(Code::StoreFailed, format!("can't write {}: {error}", path.display())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_held_once_and_keeps_its_keys() {
        let place = tempfile::tempdir().expect("temp");
        let first = DataDir::open(place.path()).expect("free");
        let key = first.key("node.key").expect("made");
        let refused = DataDir::open(place.path()).expect_err("held");
        assert_eq!(refused.code, Code::Locked);
        assert!(refused.detail.contains(&std::process::id().to_string()));
        drop(first);
        let second = DataDir::open(place.path()).expect("free again");
        assert_eq!(second.key("node.key").expect("kept").did(), key.did());
        fs::set_permissions(second.join("node.key"), Permissions::from_mode(0o644)).expect("chmod");
        assert_eq!(second.key("node.key").expect_err("readable by others").code, Code::InvalidConfig);
    }
}
