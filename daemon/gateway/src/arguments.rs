//! Flags and environment. Secrets come by environment or file only: see [`crate::keys`].

use std::{net::SocketAddr, path::PathBuf};

use clap::{Parser, ValueEnum};
use tracing_subscriber::{
    filter::{LevelFilter, Targets},
    layer::SubscriberExt as _,
    util::SubscriberInitExt as _,
};

/// Serve a node's API over HTTP, to those who hold a key.
///
/// Static keys come from MCP_API_KEYS or the file named by MCP_API_KEYS_FILE, separated by commas, each of at least 16
/// characters; others are made with 'mcpctl key create'.
#[derive(Debug, Parser)]
#[command(name = "mcp-gateway", version)]
pub(crate) struct Arguments {
    /// Where to listen; port 0 takes any, and the address is printed. There is no TLS: beyond loopback put a proxy before it
    #[arg(long, env = "MCP_GATEWAY_LISTEN", value_name = "ADDR", default_value = "127.0.0.1:8000")]
    pub(crate) listen: SocketAddr,
    /// The daemon's data directory [env: MCP_DATA_DIR]
    #[arg(long, value_name = "DIR")]
    pub(crate) data_dir: Option<PathBuf>,
    /// The daemon's socket, instead of the one in its data directory [env: MCP_SOCKET]
    #[arg(long, value_name = "PATH", conflicts_with = "data_dir")]
    pub(crate) socket: Option<PathBuf>,
    /// Host names to answer to, beside loopback names; '*' for all. Any name if not given, unless listening on loopback
    #[arg(long, env = "MCP_GATEWAY_ALLOW_HOST", value_name = "NAME", value_delimiter = ',')]
    pub(crate) allow_host: Vec<String>,
    /// What to log: error, warn, info, debug or trace, or by target as in info,hyper=warn
    #[arg(long, env = "MCP_LOG_LEVEL", value_name = "LEVEL", default_value = "info", value_parser = log_level)]
    log_level: Targets,
    /// How to log, on stderr
    #[arg(long, env = "MCP_LOG_FORMAT", value_name = "FORMAT", default_value = "text")]
    log_format: LogFormat,
    /// Print the address as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum LogFormat {
    Text,
    Json,
}

/// A bare word would pass as a target of which everything is logged; here it is a level.
fn log_level(text: &str) -> Result<Targets, String> {
    let wrong = || format!("{text:?} is not error, warn, info, debug or trace, or a list as in info,hyper=warn");
    let known = |part: &str| part.contains('=') || part.parse::<LevelFilter>().is_ok();
    if text.split(',').all(known) { text.parse().map_err(|_| wrong()) } else { Err(wrong()) }
}

impl Arguments {
    /// Sends log lines to stderr from here on.
    pub(crate) fn start_log(&self) {
        let registry = tracing_subscriber::registry().with(self.log_level.clone());
        let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_ansi(false);
        match self.log_format {
            LogFormat::Text => registry.with(lines).init(),
            LogFormat::Json => registry.with(lines.json()).init(),
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
        let parsed = Arguments::try_parse_from(["mcp-gateway", "--listen", "[::1]:0", "--allow-host", "a.example,b.example", "--json"]);
        let parsed = parsed.expect("valid");
        assert_eq!((parsed.listen.port(), parsed.allow_host.len(), parsed.json), (0, 2, true));
        assert!(Arguments::try_parse_from(["mcp-gateway", "--listen", "here"]).is_err());
        assert!(Arguments::try_parse_from(["mcp-gateway", "--log-level", "loud"]).is_err());
    }
}
