//! Where the daemon's socket is: flags, then environment, then the place of this kind of installation.
//!
//! ```text
//! --socket | --data-dir  >  MCP_SOCKET  >  MCP_DATA_DIR  >  root: /run/mcp-zero, /var/lib/mcp-zero | others: the user's data directory
//! ```

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
};

/// The socket's name within a data directory.
const SOCKET: &str = "mcpd.sock";
/// A system service's socket, and that of a daemon which root starts by hand.
const SYSTEM: (&str, &str) = ("/run/mcp-zero/mcpd.sock", "/var/lib/mcp-zero/mcpd.sock");

/// The socket that flags and environment name.
pub(crate) fn socket(socket: Option<&Path>, data_dir: Option<&Path>) -> PathBuf {
    choose(socket, data_dir, |name| std::env::var_os(name)).unwrap_or_else(installed)
}

/// What flags and environment say; an empty variable counts as unset.
fn choose(socket: Option<&Path>, data_dir: Option<&Path>, environment: impl Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    let variable = |name| environment(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let inside = |dir: &Path| dir.join(SOCKET);
    let flag = socket.map(Path::to_path_buf).or_else(|| data_dir.map(inside));
    flag.or_else(|| variable("MCP_SOCKET")).or_else(|| variable("MCP_DATA_DIR").as_deref().map(inside))
}

/// Where an installation puts it; that of a system service too where the user has no home.
fn installed() -> PathBuf {
    let (service, by_hand) = SYSTEM;
    if rustix::process::geteuid().is_root() {
        return if Path::new(service).exists() { service.into() } else { by_hand.into() };
    }
    let dirs = directories::ProjectDirs::from("", "", "mcp-zero");
    dirs.map_or_else(|| service.into(), |dirs| dirs.data_dir().join(SOCKET))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_beat_the_environment_and_a_socket_beats_a_directory() {
        let environment = |name: &str| match name {
            "MCP_SOCKET" => Some("/e/s".into()),
            "MCP_DATA_DIR" => Some("/e".into()),
            _ => None,
        };
        let none = |_: &str| None;
        let directory = |name: &str| (name == "MCP_DATA_DIR").then(|| "/e".into());
        let empty = |_: &str| Some(OsString::new());
        assert_eq!(choose(Some("/s".as_ref()), None, environment), Some("/s".into()));
        assert_eq!(choose(None, Some("/d".as_ref()), environment), Some("/d/mcpd.sock".into()));
        assert_eq!(choose(None, None, environment), Some("/e/s".into()));
        assert_eq!(choose(None, None, directory), Some("/e/mcpd.sock".into()));
        assert_eq!(choose(None, None, none), None);
        assert_eq!(choose(None, None, empty), None);
    }
}
