//! Where the processes of a run keep their data.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use tempfile::TempDir;

/// Directories that are removed with the run.
#[derive(Debug)]
pub(crate) struct Place {
    /// Under the target directory: on a disk, which the system's temporary directory often isn't.
    disk: TempDir,
    /// Socket paths have at most 107 bytes, so they don't lie in a directory that may be deep.
    sockets: TempDir,
}

impl Place {
    pub(crate) fn new() -> Result<Self> {
        let disk = tempfile::Builder::new().prefix("bench-").tempdir_in(target()?)?;
        Ok(Self { disk, sockets: tempfile::tempdir()? })
    }

    /// The directory of a process; made by whoever uses it.
    pub(crate) fn directory(&self, name: &str) -> PathBuf {
        self.disk.path().join(name)
    }

    /// Where processes log.
    pub(crate) fn logs(&self) -> &Path {
        self.disk.path()
    }

    /// The socket of a process.
    pub(crate) fn socket(&self, name: &str) -> PathBuf {
        self.sockets.path().join(name)
    }
}

/// The target directory: this program is `target/release/deps/figures-…`.
pub(crate) fn target() -> Result<PathBuf> {
    let program = std::env::current_exe()?;
    program.ancestors().nth(3).map(Path::to_path_buf).context("this program is not in a target directory")
}
