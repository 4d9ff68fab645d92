//! Content-addressed blobs: plugins, chunks of snapshots.
//!
//! ```text
//! root/tmp/…         being written: emptied when opened
//! root/partial/…     being fetched: kept for a week, so that an interrupted transfer goes on
//! root/ab/abcdef…    the content whose BLAKE3 digest is abcdef…
//! ```
//!
//! Written to a temporary file, flushed, renamed, and the directory flushed: a blob is there whole or not at all, and
//! stays once [`put`](Blobs::put) returned. It is verified whenever it is read: disks do flip bits.

use std::{
    collections::HashSet,
    fs::{self, DirBuilder, File},
    io::{self, ErrorKind, Write as _},
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;
use protocol::{Digest, digest::unhex32};
use tempfile::NamedTempFile;
use tokio::task::JoinSet;

use crate::error::Error;

/// A transfer that nobody took up again in this time is given up.
const MAX_PARTIAL: Duration = Duration::from_secs(7 * 24 * 3_600);

/// Threads that look at many blobs together.
const LOOKING: usize = 4;

/// A directory of blobs; cheap to clone. One process uses it at a time.
#[derive(Debug, Clone)]
pub struct Blobs {
    root: Arc<Path>,
    /// Those that are being gathered, each by one.
    gathering: Arc<Mutex<HashSet<Digest>>>,
}

/// A blob that should be there.
#[derive(Debug, Clone, Copy)]
pub struct Expected {
    /// Its digest.
    pub digest: Digest,
    /// Its bytes.
    pub length: u64,
    /// Whether to read it.
    pub verify: bool,
}

/// A blob that isn't whole yet. What is in its file stays when this is dropped.
#[derive(Debug)]
pub struct Partial {
    blobs: Blobs,
    digest: Digest,
    path: PathBuf,
}

impl Partial {
    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The file is whole, verified and durable: it becomes the blob.
    pub async fn adopt(self) -> Result<(), Error> {
        let (digest, from) = (self.digest, self.path.clone());
        let blobs = self.blobs.clone();
        blobs
            .run(move |blobs| {
                let path = blobs.path(&digest);
                let shard = blobs.shard(&path)?;
                fs::rename(&from, &path).map_err(Error::files("rename", &from))?;
                flush(shard)
            })
            .await
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        self.blobs.gathering.lock().remove(&self.digest);
    }
}

impl Blobs {
    /// Opens the directory, and makes it (mode 0700) if it isn't there.
    pub fn open(root: &Path) -> Result<Self, Error> {
        let temporary = root.join("tmp");
        DirBuilder::new().recursive(true).mode(0o700).create(&temporary).map_err(Error::files("create", &temporary))?;
        // What a crash left half-written.
        for file in fs::read_dir(&temporary).map_err(Error::files("list", &temporary))? {
            let path = file.map_err(Error::files("list", &temporary))?.path();
            fs::remove_file(&path).map_err(Error::files("remove", &path))?;
        }
        let partial = root.join("partial");
        DirBuilder::new().recursive(true).mode(0o700).create(&partial).map_err(Error::files("create", &partial))?;
        for file in fs::read_dir(&partial).map_err(Error::files("list", &partial))? {
            let file = file.map_err(Error::files("list", &partial))?;
            let age = file.metadata().and_then(|found| found.modified()).ok().and_then(|at| at.elapsed().ok());
            if age.is_some_and(|age| age > MAX_PARTIAL) {
                fs::remove_file(file.path()).map_err(Error::files("remove", file.path()))?;
            }
        }
        // A crash may have come between making a shard and flushing its name.
        flush(root)?;
        Ok(Self { root: root.into(), gathering: Arc::default() })
    }

    /// Stores content; returns its digest when it is durable.
    pub async fn put(&self, content: impl Into<Vec<u8>>) -> Result<Digest, Error> {
        let content = content.into();
        self.run(move |blobs| {
            let digest = Digest::blake3(&content);
            blobs.write(&digest, &content)?;
            Ok(digest)
        })
        .await
    }

    /// Stores content that came with a digest, if it has that BLAKE3 digest.
    pub async fn put_verified(&self, digest: Digest, content: impl Into<Vec<u8>>) -> Result<(), Error> {
        let content = content.into();
        self.run(move |blobs| {
            if Digest::blake3(&content) != digest {
                return Err(Error::Mismatch { expected: digest });
            }
            blobs.write(&digest, &content)
        })
        .await
    }

    /// Where a blob is, if it is there. What is read from it must be verified.
    pub fn path(&self, digest: &Digest) -> PathBuf {
        let name = digest.hex();
        self.root.join(&name[..2]).join(name)
    }

    /// A blob, verified.
    pub async fn get(&self, digest: &Digest) -> Result<Option<Vec<u8>>, Error> {
        let digest = *digest;
        self.run(move |blobs| match blobs.read(&digest)? {
            Some(content) if Digest::blake3(&content) == digest => Ok(Some(content)),
            Some(_) => Err(Error::Damaged { what: format!("blob {digest} doesn't have its digest any more") }),
            None => Ok(None),
        })
        .await
    }

    /// The file in which a blob is gathered that comes piece by piece; one at a time.
    ///
    /// # Errors
    /// It is being gathered already.
    pub fn partial(&self, digest: &Digest) -> Result<Partial, Error> {
        if !self.gathering.lock().insert(*digest) {
            return Err(Error::Busy { what: format!("blob {digest}") });
        }
        Ok(Partial { blobs: self.clone(), digest: *digest, path: self.root.join("partial").join(digest.hex()) })
    }

    /// Whether a blob is there.
    pub async fn contains(&self, digest: &Digest) -> Result<bool, Error> {
        let path = self.path(digest);
        tokio::fs::try_exists(&path).await.map_err(Error::files("look at", path))
    }

    /// Whether a blob is there with all its bytes; whether they are the right ones shows when it is read.
    pub async fn contains_whole(&self, digest: &Digest, length: u64) -> Result<bool, Error> {
        let path = self.path(digest);
        match tokio::fs::metadata(&path).await {
            Ok(found) => Ok(found.len() == length),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
            Err(error) => Err(Error::files("look at", path)(error)),
        }
    }

    /// Which of these, by their places in the list, aren't there as they should be. All are looked at, those that `verify`
    /// names are read: much quicker than one by one.
    pub async fn unsound(&self, expected: Vec<Expected>) -> Result<Vec<usize>, Error> {
        let share = expected.len().div_ceil(LOOKING).max(1);
        let mut shares = JoinSet::new();
        for (at, expected) in expected.chunks(share).enumerate() {
            let (blobs, expected) = (self.clone(), expected.to_vec());
            shares.spawn_blocking(move || blobs.unsound_of(&expected, at * share));
        }
        let mut unsound = Vec::new();
        while let Some(looked_at) = shares.join_next().await {
            unsound.extend(looked_at.unwrap_or_else(|error| Err(Error::failed("look at blobs", error)))?);
        }
        unsound.sort_unstable();
        Ok(unsound)
    }

    /// Which of these aren't as they should be; the first of them stands at the place `from`.
    fn unsound_of(&self, expected: &[Expected], from: usize) -> Result<Vec<usize>, Error> {
        let mut unsound = Vec::new();
        for (at, Expected { digest, length, verify }) in (from..).zip(expected) {
            let path = self.path(digest);
            let sound = match fs::metadata(&path) {
                Ok(found) if found.len() == *length => !verify || fs::read(&path).is_ok_and(|read| Digest::blake3(&read) == *digest),
                Ok(_) => false,
                Err(error) if error.kind() == ErrorKind::NotFound => false,
                Err(error) => return Err(Error::files("look at", path)(error)),
            };
            if !sound {
                unsound.push(at);
            }
        }
        Ok(unsound)
    }

    /// Deletes a blob; says whether it was there.
    pub async fn remove(&self, digest: &Digest) -> Result<bool, Error> {
        let path = self.path(digest);
        match tokio::fs::remove_file(&path).await {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
            Err(error) => Err(Error::files("remove", path)(error)),
        }
    }

    /// The blobs whose digest starts with this byte, in no order: a 256th of all, for whoever looks for unused ones.
    pub async fn list(&self, first: u8) -> Result<Vec<Digest>, Error> {
        self.run(move |blobs| {
            let shard = blobs.root.join(format!("{first:02x}"));
            let files = match fs::read_dir(&shard) {
                Ok(files) => files,
                Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
                Err(error) => return Err(Error::files("list", &shard)(error)),
            };
            let names: io::Result<Vec<_>> = files.map(|file| Ok(file?.file_name())).collect();
            let names = names.map_err(Error::files("list", &shard))?;
            Ok(names.iter().filter_map(|name| Some(Digest::Blake3(unhex32(name.to_str()?)?))).collect())
        })
        .await
    }

    fn read(&self, digest: &Digest) -> Result<Option<Vec<u8>>, Error> {
        let path = self.path(digest);
        match fs::read(&path) {
            Ok(content) => Ok(Some(content)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Error::files("read", path)(error)),
        }
    }

    fn write(&self, digest: &Digest, content: &[u8]) -> Result<(), Error> {
        // The same bytes are there: nothing to do. Other bytes are damage, and are repaired.
        if self.read(digest)?.is_some_and(|present| present == content) {
            return Ok(());
        }
        let path = self.path(digest);
        let shard = self.shard(&path)?;
        // The mode of a temporary file is 0600, and is kept.
        let temporary = self.root.join("tmp");
        let mut file = NamedTempFile::new_in(&temporary).map_err(Error::files("create a file in", &temporary))?;
        file.write_all(content).and_then(|()| file.as_file().sync_all()).map_err(Error::files("write", file.path()))?;
        file.persist(&path).map_err(|failed| Error::files("rename to", &path)(failed.error))?;
        flush(shard)
    }

    /// The directory that a blob's file stands in, made if it isn't there.
    fn shard<'a>(&'a self, path: &'a Path) -> Result<&'a Path, Error> {
        let shard = path.parent().unwrap_or(&self.root);
        match DirBuilder::new().mode(0o700).create(shard) {
            Ok(()) => flush(&self.root)?,
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            Err(error) => return Err(Error::files("create", shard)(error)),
        }
        Ok(shard)
    }

    /// Hashing and flushing take milliseconds: off the runtime's threads. Dropping the future doesn't stop it.
    async fn run<T: Send + 'static>(&self, work: impl FnOnce(&Self) -> Result<T, Error> + Send + 'static) -> Result<T, Error> {
        let blobs = self.clone();
        let done = tokio::task::spawn_blocking(move || work(&blobs)).await;
        done.unwrap_or_else(|error| Err(Error::failed("handle a blob", error)))
    }
}

/// Makes the names in a directory durable.
pub(crate) fn flush(directory: &Path) -> Result<(), Error> {
    File::open(directory).and_then(|file| file.sync_all()).map_err(Error::files("flush", directory))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[tokio::test]
    async fn content_comes_back_and_survives_reopening() {
        let home = tempfile::tempdir().expect("directory");
        let blobs = Blobs::open(home.path()).expect("open");
        let digest = blobs.put(&b"content"[..]).await.expect("put");
        assert_eq!(blobs.put(&b"content"[..]).await.expect("again"), digest);
        assert_eq!(fs::metadata(blobs.path(&digest)).expect("file").permissions().mode() & 0o777, 0o600);
        fs::write(home.path().join("tmp/left"), b"half").expect("left over");
        let blobs = Blobs::open(home.path()).expect("reopen");
        assert_eq!(blobs.get(&digest).await.expect("get").as_deref(), Some(&b"content"[..]));
        assert_eq!(blobs.list(digest.as_bytes()[0]).await.expect("list"), [digest]);
        assert_eq!(fs::read_dir(home.path().join("tmp")).expect("tmp").count(), 0, "left-overs are gone");
        assert!(blobs.remove(&digest).await.expect("remove") && !blobs.remove(&digest).await.expect("again"));
        assert!(!blobs.contains(&digest).await.expect("contains"));
        assert_eq!(blobs.get(&digest).await.expect("get"), None);
    }

    #[tokio::test]
    async fn what_has_another_digest_is_refused() {
        let home = tempfile::tempdir().expect("directory");
        let blobs = Blobs::open(home.path()).expect("open");
        for digest in [Digest::blake3(b"other"), Digest::sha256(b"content")] {
            assert!(matches!(blobs.put_verified(digest, &b"content"[..]).await, Err(Error::Mismatch { .. })));
            assert!(!blobs.contains(&digest).await.expect("contains"));
        }
        blobs.put_verified(Digest::blake3(b"content"), &b"content"[..]).await.expect("its own digest");
    }

    #[tokio::test]
    async fn damage_is_seen_and_repaired() {
        let home = tempfile::tempdir().expect("directory");
        let blobs = Blobs::open(home.path()).expect("open");
        let digest = blobs.put(vec![7; 4096]).await.expect("put");
        let mut bytes = fs::read(blobs.path(&digest)).expect("read");
        bytes[100] ^= 1;
        fs::write(blobs.path(&digest), bytes).expect("damage");
        assert!(matches!(blobs.get(&digest).await, Err(Error::Damaged { .. })));
        let sound = blobs.put(vec![8; 100]).await.expect("put");
        let expected = |digest, length, verify| Expected { digest, length, verify };
        let missing = Digest::blake3(b"missing");
        let looked = [(digest, 4096, false), (digest, 4096, true), (digest, 4095, false), (missing, 1, false), (sound, 100, true)];
        let looked = looked.map(|(digest, length, verify)| expected(digest, length, verify)).to_vec();
        assert_eq!(blobs.unsound(looked).await.expect("looked at"), [1, 2, 3], "what has other bytes shows when it is read");
        blobs.put(vec![7; 4096]).await.expect("put again");
        assert_eq!(blobs.get(&digest).await.expect("get"), Some(vec![7; 4096]));
    }
}
