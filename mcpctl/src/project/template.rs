//! What a new plugin begins with. Each template is a plugin that builds and runs, named `plugin-name`.

use std::{fs, io, path::Path};

use protocol::{Problem, error::Code};

/// The word that a template has where the plugin's name goes.
const NAME: &str = "plugin-name";

/// A language with a template.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Language {
    /// Rust, by cargo
    Rust,
    /// C, by zig or clang
    C,
    /// Python, by componentize-py
    Python,
    /// JavaScript, by componentize-qjs
    Javascript,
}

macro_rules! template {
    ($folder:literal: $($file:literal),*) => {
        &[$(($file, include_str!(concat!("../../templates/", $folder, "/", $file)))),*]
    };
}

impl Language {
    /// Its files.
    fn files(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::Rust => template!("rust": "plugin.toml", "Cargo.toml", "src/lib.rs"),
            Self::C => template!("c": "plugin.toml", "plugin.c", "mcp_zero.h"),
            Self::Python => template!("python": "plugin.toml", "app.py"),
            Self::Javascript => template!("javascript": "plugin.toml", "plugin.js"),
        }
    }
}

/// Makes a plugin's folder, which must not be there or be empty.
pub(crate) fn create(dir: &Path, name: &str, language: Language) -> Result<(), Problem> {
    let failed = |error: io::Error| Problem::new(Code::InvalidRequest, format!("can't write to {}: {error}", dir.display()));
    fs::create_dir_all(dir).map_err(failed)?;
    if fs::read_dir(dir).map_err(failed)?.next().is_some() {
        let problem = Problem::new(Code::AlreadyExists, format!("{} is not empty, and is left as it is", dir.display()));
        return Err(problem.hint("name another folder with '--dir'"));
    }
    let common: &[(&str, &str)] = template!("common": "README.md", ".gitignore");
    for (file, text) in language.files().iter().chain(common) {
        let path = dir.join(file);
        fs::create_dir_all(path.parent().unwrap_or(dir)).map_err(failed)?;
        fs::write(&path, text.replace(NAME, name)).map_err(failed)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use clap::ValueEnum as _;

    use super::*;
    use crate::project::Project;

    #[test]
    fn each_template_is_a_project_of_its_name() {
        for language in Language::value_variants() {
            let dir = tempfile::tempdir().expect("directory");
            let dir = dir.path().join("made/greeter");
            create(&dir, "greeter", *language).expect("a new folder");
            let project = Project::open(&dir).expect("a project");
            assert_eq!((project.settings.name.as_str(), project.settings.health.as_deref()), ("greeter", Some("greeted")));
            assert!(project.watched().all(|path| path.exists()), "{language:?}");
            assert_eq!(create(&dir, "greeter", *language).expect_err("not empty").code, Code::AlreadyExists);
        }
    }
}
