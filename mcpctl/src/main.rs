//! `mcpctl`: the command line of MCP-ZERO. It talks only to a daemon's local API.
//!
//! ```text
//! main -> cli (parse, dispatch) -> commands/<noun>.rs -> protocol::Client -> the daemon's socket
//!                                        `-> output (text or JSON)
//! ```

mod beside;
mod cli;
mod commands;
mod devstack;
mod error;
mod input;
mod output;
mod parse;
mod paths;
mod project;

fn main() -> std::process::ExitCode {
    cli::run()
}
