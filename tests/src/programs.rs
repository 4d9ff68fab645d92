//! Where the programs under test are: in the target directory, above the test's own executable.

use std::{path::PathBuf, process::Command};

/// The built program of this name.
///
/// # Panics
/// If it isn't built.
pub fn program(name: &str) -> PathBuf {
    let own = std::env::current_exe().expect("a test knows its executable");
    let target = own.ancestors().nth(2).expect("a test lies in <target>/<profile>/deps");
    let program = target.join(name);
    assert!(program.is_file(), "{} is not built; run 'cargo build --workspace --bins', or tests/run", program.display());
    program
}

/// A command of a program, without the settings in the environment of whoever runs the tests.
pub fn command(name: &str) -> Command {
    let mut command = Command::new(program(name));
    for (variable, _) in std::env::vars_os().filter(|(variable, _)| variable.to_string_lossy().starts_with("MCP_")) {
        command.env_remove(variable);
    }
    command
}
