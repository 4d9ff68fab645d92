//! A plugin's sources: a folder with a `plugin.toml`.
//!
//! ```text
//! new:    template ──► DIR/plugin.toml, sources
//! build:  plugin.toml ─imports─► wit/plugin.wit ──[build] command──► module or component ──► DIR/NAME.wasm
//! ```

mod build;
mod template;

use std::path::{Path, PathBuf};

use protocol::{
    Problem,
    error::Code,
    manifest::{Import, is_name},
};
use serde::Deserialize;

pub(crate) use self::{
    build::build,
    template::{Language, create},
};
use crate::{input, parse};

/// What a WebAssembly component begins with (component model, binary format: layer 1); a core module has layer 0.
pub(crate) const COMPONENT: &[u8] = b"\0asm\x0d\0\x01\0";
/// The file that makes a folder a plugin's.
const FILE: &str = "plugin.toml";
const MAX_FILE: usize = 64 * 1024;

/// What `plugin.toml` says.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Settings {
    /// The plugin's name.
    pub(crate) name: String,
    /// Its semantic version.
    pub(crate) release: String,
    /// What it asks of its host.
    #[serde(default)]
    pub(crate) imports: Vec<Import>,
    /// The method that shows whether the release works on an agent's state.
    pub(crate) health: Option<String>,
    /// How it is built.
    pub(crate) build: Build,
}

/// How a plugin is built.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Build {
    /// Run by `sh` in the plugin's folder.
    pub(crate) command: String,
    /// What it makes there: a component, or a core module.
    pub(crate) output: PathBuf,
    /// Files and folders there of which it is made.
    #[serde(default)]
    pub(crate) watch: Vec<PathBuf>,
}

/// A plugin's folder.
#[derive(Debug, Clone)]
pub(crate) struct Project {
    pub(crate) dir: PathBuf,
    pub(crate) settings: Settings,
}

impl Project {
    /// Reads the folder's `plugin.toml`.
    pub(crate) fn open(dir: &Path) -> Result<Self, Problem> {
        let path = dir.join(FILE);
        let text = input::read(&path, MAX_FILE)
            .map_err(|problem| problem.hint("'mcpctl plugin new NAME --language rust' makes a folder to begin with"))?;
        let wrong = |reason: String| Problem::new(Code::InvalidRequest, format!("{}: {reason}", path.display()));
        let text = String::from_utf8(text).map_err(|_| wrong("it is not UTF-8".into()))?;
        let settings: Settings = toml::from_str(&text).map_err(|error| wrong(error.to_string().trim_end().into()))?;
        check(&settings).map_err(wrong)?;
        Ok(Self { dir: dir.to_path_buf(), settings })
    }

    /// The component that a build leaves.
    pub(crate) fn component(&self) -> PathBuf {
        self.dir.join(format!("{}.wasm", self.settings.name))
    }

    /// Files and folders whose change asks for another build.
    pub(crate) fn watched(&self) -> impl Iterator<Item = PathBuf> {
        std::iter::once(Path::new(FILE)).chain(self.settings.build.watch.iter().map(PathBuf::as_path)).map(|path| self.dir.join(path))
    }
}

fn check(settings: &Settings) -> Result<(), String> {
    parse::plugin(&settings.name).map_err(|reason| format!("name: {reason}"))?;
    parse::release(&settings.release).map_err(|reason| format!("release: {reason}"))?;
    match &settings.health {
        Some(method) if !is_name(method) => Err(format!("health: {method:?} is no method's name")),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_in_a_file_is_named() {
        let dir = tempfile::tempdir().expect("directory");
        let refused = |text: &str| {
            input::write(&dir.path().join(FILE), text.as_bytes()).expect("write");
            Project::open(dir.path()).expect_err("wrong").detail
        };
        let sound = "name = \"a\"\nrelease = \"1.0.0\"\n[build]\ncommand = \"true\"\noutput = \"a.wasm\"\n";
        input::write(&dir.path().join(FILE), sound.as_bytes()).expect("write");
        assert_eq!(Project::open(dir.path()).expect("sound").component(), dir.path().join("a.wasm"));
        assert!(refused(&sound.replace("\"a\"", "\"A B\"")).contains("name:"));
        assert!(refused(&sound.replace("1.0.0", "1")).contains("release:"));
        assert!(refused(&format!("imports = [\"files\"]\n{sound}")).contains("files"));
        assert!(refused(&format!("helth = \"x\"\n{sound}")).contains("helth"));
        assert!(refused(&format!("health = \"X\"\n{sound}")).contains("health:"));
        let missing = Project::open(&dir.path().join("none")).expect_err("no folder");
        assert!(missing.hint.is_some_and(|hint| hint.contains("plugin new")));
    }
}
