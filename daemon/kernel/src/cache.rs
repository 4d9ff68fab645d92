//! Compiled code on disk, bound by a keyed hash to the node that wrote it.
//!
//! ```text
//! <digest>-<compatibility>.cwasm   the code, mapped when it is loaded
//! <digest>-<compatibility>.mac     BLAKE3, keyed: over its name and the code
//! ```
//! Mapping compiled code runs whatever is in the file. The folder is private (0700), and a file without the right
//! MAC is compiled anew, never mapped: so neither a restored backup nor a stray copy of another node's cache runs.

use std::{
    fs, io,
    os::unix::fs::{DirBuilderExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    time::SystemTime,
};

use protocol::Digest;
use wasmtime::{Engine, component::Component};

use crate::{engine::compatibility, error::Error};

const CODE: &str = "cwasm";
const MAC: &str = "mac";

/// The folder of compiled code.
#[derive(Debug)]
pub(crate) struct Cache {
    dir: PathBuf,
    key: [u8; 32],
    compatibility: String,
    capacity: u64,
}

impl Cache {
    /// Opens the folder, makes it private, and clears out what this program can't use.
    pub(crate) fn open(dir: PathBuf, key: [u8; 32], capacity: u64, engine: &Engine) -> Result<Self, Error> {
        let prepare = || {
            fs::DirBuilder::new().recursive(true).mode(0o700).create(&dir)?;
            fs::set_permissions(&dir, fs::Permissions::from_mode(0o700))
        };
        prepare().map_err(|source| Error::Cache { path: dir.clone(), source })?;
        // The caller's key may serve other ends as well.
        let key = blake3::derive_key("mcp-zero 2026 compiled code", &key);
        let cache = Self { dir, key, compatibility: compatibility(engine), capacity };
        cache.sweep(None).map_err(|source| cache.broken(&cache.dir, source))?;
        Ok(cache)
    }

    /// Maps the code of a component, if it is there and ours.
    pub(crate) fn load(&self, engine: &Engine, digest: Digest) -> Result<Option<Component>, Error> {
        let (path, mac) = (self.path(digest, CODE), self.path(digest, MAC));
        let Some(stated) = present(fs::read(&mac)).map_err(|source| self.broken(&mac, source))? else { return Ok(None) };
        let Some(found) = present(self.mac(&path)).map_err(|source| self.broken(&path, source))? else { return Ok(None) };
        // `blake3::Hash` compares in constant time.
        if <[u8; 32]>::try_from(stated).map(blake3::Hash::from_bytes) != Ok(found) {
            tracing::warn!(path = %path.display(), "compiled code isn't what this node wrote; compiling anew");
            return Ok(None);
        }
        // When it was last used, for the sweep. A read-only disk only spoils the order.
        let _ = fs::File::open(&mac).and_then(|file| file.set_modified(SystemTime::now()));
        match map(engine, &path) {
            Ok(component) => Ok(Some(component)),
            Err(error) => {
                tracing::warn!(path = %path.display(), "compiled code can't be used ({error}); compiling anew");
                Ok(None)
            }
        }
    }

    /// Keeps freshly compiled code.
    pub(crate) fn store(&self, digest: Digest, code: &[u8]) -> Result<(), Error> {
        let write = |path: &Path, content: &[u8]| {
            let mut file = tempfile::NamedTempFile::with_prefix_in(".new-", &self.dir)?;
            io::Write::write_all(&mut file, content)?;
            file.persist(path).map_err(|error| error.error)
        };
        let (path, mac) = (self.path(digest, CODE), self.path(digest, MAC));
        write(&path, code).map_err(|source| self.broken(&path, source))?;
        // The MAC last: if we stop in between, the old one doesn't match.
        let tag = self.tag(&path, |hasher| {
            hasher.update(code);
            Ok(())
        });
        tag.and_then(|tag| write(&mac, tag.as_bytes())).map_err(|source| self.broken(&mac, source))?;
        self.sweep(Some(&mac)).map_err(|source| self.broken(&self.dir, source))
    }

    /// Maps what [`Cache::store`] has just written.
    pub(crate) fn fresh(&self, engine: &Engine, digest: Digest) -> wasmtime::Result<Component> {
        map(engine, &self.path(digest, CODE))
    }

    fn path(&self, digest: Digest, extension: &str) -> PathBuf {
        self.dir.join(format!("{}-{}.{extension}", digest.hex(), self.compatibility))
    }

    fn mac(&self, path: &Path) -> io::Result<blake3::Hash> {
        let mut file = fs::File::open(path)?;
        self.tag(path, |hasher| hasher.update_reader(&mut file).map(|_| ()))
    }

    /// The name is hashed too: one plugin's code can't stand in for another's.
    fn tag(&self, path: &Path, content: impl FnOnce(&mut blake3::Hasher) -> io::Result<()>) -> io::Result<blake3::Hash> {
        let name = path.file_name().unwrap_or_default().as_encoded_bytes();
        let mut hasher = blake3::Hasher::new_keyed(&self.key);
        hasher.update(&(name.len() as u64).to_le_bytes()).update(name);
        content(&mut hasher)?;
        Ok(hasher.finalize())
    }

    fn broken(&self, path: &Path, source: io::Error) -> Error {
        Error::Cache { path: path.to_owned(), source }
    }

    /// Deletes half-written files, code of other versions, and beyond the capacity what was used longest ago.
    ///
    /// Code that is in use stays mapped when its file goes.
    fn sweep(&self, keep: Option<&Path>) -> io::Result<()> {
        let mut kept = Vec::new();
        for entry in fs::read_dir(&self.dir)? {
            let path = entry?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let ours = name.ends_with(&format!("-{}.{MAC}", self.compatibility));
            if ours {
                let size = present(fs::metadata(path.with_extension(CODE)))?.map_or(0, |found| found.len());
                kept.push((fs::metadata(&path)?.modified()?, size, path));
            } else if !path.with_extension(MAC).exists() || !name.contains(&self.compatibility) {
                present(fs::remove_file(&path))?;
            }
        }
        kept.sort();
        let mut total: u64 = kept.iter().map(|(_, size, _)| size).sum();
        for (_, size, path) in kept {
            if total > self.capacity && keep != Some(path.as_path()) {
                present(fs::remove_file(&path))?;
                present(fs::remove_file(path.with_extension(CODE)))?;
                total -= size;
            }
        }
        Ok(())
    }
}

/// Absence is no error.
fn present<T>(found: io::Result<T>) -> io::Result<Option<T>> {
    match found {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Maps a file of compiled code whose MAC was checked, or that was written just now.
#[allow(unsafe_code)]
fn map(engine: &Engine, path: &Path) -> wasmtime::Result<Component> {
    // SAFETY: the file is what this node's own compiler wrote, unchanged: its keyed MAC matched just now, or this
    // process wrote it, and the folder is open to no other user. Files here are replaced by renaming, never written in place.
    unsafe { Component::deserialize_file(engine, path) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(text: &str) -> Digest {
        Digest::blake3(text.as_bytes())
    }

    fn names(dir: &Path) -> Vec<String> {
        let name = |entry: io::Result<fs::DirEntry>| entry.expect("entry").file_name().to_string_lossy().into_owned();
        let mut names: Vec<_> = fs::read_dir(dir).expect("folder").map(name).collect();
        names.sort();
        names
    }

    #[test]
    fn only_what_this_node_wrote_is_mapped() {
        let home = tempfile::tempdir().expect("folder");
        let engine = crate::engine::compiler().expect("engine");
        let cache = Cache::open(home.path().join("code"), [7; 32], u64::MAX, &engine).expect("cache");
        let code = engine.precompile_component(&wat::parse_str("(component)").expect("wat")).expect("code");
        assert!(cache.load(&engine, digest("a")).expect("cache").is_none());
        cache.store(digest("a"), &code).expect("cache");
        assert!(cache.load(&engine, digest("a")).expect("cache").is_some());

        let other = Cache { key: [8; 32], dir: cache.dir.clone(), compatibility: cache.compatibility.clone(), capacity: 0 };
        assert!(other.load(&engine, digest("a")).expect("cache").is_none(), "another node's key");
        for extension in [CODE, MAC] {
            fs::copy(cache.path(digest("a"), extension), cache.path(digest("b"), extension)).expect("copy");
        }
        assert!(cache.load(&engine, digest("b")).expect("cache").is_none(), "another plugin's name");
        let mut changed = code.clone();
        changed[code.len() / 2] ^= 1;
        fs::write(cache.path(digest("a"), CODE), changed).expect("write");
        assert!(cache.load(&engine, digest("a")).expect("cache").is_none(), "one bit changed");
        let mode = fs::metadata(&cache.dir).expect("folder").permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
    }

    #[test]
    fn the_cache_is_bounded() {
        let home = tempfile::tempdir().expect("folder");
        let engine = crate::engine::compiler().expect("engine");
        let cache = Cache::open(home.path().into(), [7; 32], 250, &engine).expect("cache");
        for (age, name) in [(3, "a"), (2, "b"), (1, "c")] {
            cache.store(digest(name), &[0; 100]).expect("cache");
            let used = SystemTime::now() - std::time::Duration::from_secs(age);
            if let Ok(file) = fs::File::open(cache.path(digest(name), MAC)) {
                file.set_modified(used).expect("time");
            }
        }
        assert!(!cache.path(digest("a"), CODE).exists(), "the one used longest ago went");
        assert!(cache.path(digest("b"), MAC).exists() && cache.path(digest("c"), MAC).exists());

        fs::write(home.path().join(".new-123"), "half").expect("write");
        fs::write(home.path().join("00-0000000000000000.cwasm"), "old").expect("write");
        fs::write(home.path().join("00-0000000000000000.mac"), "old").expect("write");
        let before = names(home.path()).len();
        Cache::open(home.path().into(), [7; 32], 250, &engine).expect("cache");
        assert_eq!(names(home.path()).len(), before - 3, "{:?}", names(home.path()));
    }
}
