//! The owner's key of a node that doesn't run. The daemon's program cares for it, which alone knows data directories and tokens;
//! a passphrase is typed there too.

use std::{
    path::Path,
    process::{Command as Process, Stdio},
};

use protocol::{
    Problem,
    api::{KeyKept, OwnerKey},
    error::Code,
};

use crate::{
    commands::config::daemon,
    error::Result,
    output::{Output, fields},
};

/// Has the daemon's program do it, and shows what came of it.
pub(super) fn run(
    arguments: &[impl AsRef<std::ffi::OsStr>],
    passphrase_file: Option<&Path>,
    data_dir: Option<&Path>,
    output: Output,
) -> Result {
    let program = daemon();
    let mut process = Process::new(&program);
    if let Some(directory) = data_dir {
        process.arg("--data-dir").arg(directory);
    }
    process.arg("key").args(arguments);
    if let Some(file) = passphrase_file {
        process.arg("--passphrase-file").arg(file);
    }
    let ended = process.stdin(Stdio::inherit()).stderr(Stdio::inherit()).output().map_err(|error| {
        let problem = Problem::new(Code::NotFound, format!("can't run {}: {error}", program.display()));
        problem.hint("install 'mcpd' beside 'mcpctl' or on the PATH")
    })?;
    if !ended.status.success() {
        let said = serde_json::from_slice(&ended.stdout);
        return Err(said
            .unwrap_or_else(|_| Problem::new(Code::Internal, format!("{} failed: {}", program.display(), ended.status)))
            .into());
    }
    let strange = |error| Problem::new(Code::Internal, format!("{} is of another version: {error}", program.display()));
    let key: OwnerKey = serde_json::from_slice(&ended.stdout).map_err(strange)?;
    output.show(&key, |key| {
        fields([
            ("owner", key.did.to_string()),
            ("key", key.key.to_string()),
            ("kept", kept(key.kept).into()),
            ("place", key.place.clone()),
        ])
    })
}

/// How a key is kept, in words.
pub(super) fn kept(kept: KeyKept) -> &'static str {
    match kept {
        KeyKept::File => "file",
        KeyKept::EncryptedFile => "encrypted file",
        KeyKept::Token => "token",
    }
}
