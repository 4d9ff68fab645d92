//! Compilers for plugins: `tests/run` installs them beside the build.

use std::{env, path::PathBuf, process::Command};

use crate::programs::program;

/// A tool of each language's, by which its absence is noticed.
const TOOLS: [&str; 3] = ["zig", "componentize-py", "componentize-qjs"];
/// Rust's target for plugins.
const TARGET: &str = "wasm32-unknown-unknown";

/// Lets a command find the compilers of every language with a template.
///
/// # Panics
/// If one isn't installed.
pub fn with_toolchains(command: &mut Command) {
    let target = program("mcpctl").ancestors().nth(2).expect("programs lie in <target>/<profile>").to_path_buf();
    let tools = target.join("tools");
    let own = [tools.join("bin"), tools.join("node_modules/.bin")];
    let inherited = env::var_os("PATH").unwrap_or_default();
    let path: Vec<PathBuf> = own.into_iter().chain(env::split_paths(&inherited)).collect();
    for tool in TOOLS {
        assert!(path.iter().any(|folder| folder.join(tool).is_file()), "{tool} is not installed; tests/run does it");
    }
    command.env("PATH", env::join_paths(path).expect("no path has a colon"));
    if rustc_has_target() {
        return;
    }
    // Debian ships the standard library's source for WebAssembly, not its build.
    command.env("RUSTC", "/usr/bin/rustc").env("RUSTC_BOOTSTRAP", "1");
    command.env("CARGO_UNSTABLE_BUILD_STD", "std,panic_abort").env("CARGO_UNSTABLE_BUILD_STD_FEATURES", "");
    command.env("CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_LINKER", "lld");
}

fn rustc_has_target() -> bool {
    let sysroot = Command::new("rustc").args(["--print", "sysroot"]).output().expect("rustc runs").stdout;
    let sysroot = String::from_utf8(sysroot).expect("a path");
    PathBuf::from(sysroot.trim()).join("lib/rustlib").join(TARGET).join("lib").is_dir()
}
