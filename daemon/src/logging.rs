//! Structured logs on stderr.

use protocol::{Code, Problem};
use tracing_subscriber::EnvFilter;

use crate::config;

/// Opens the log.
pub(crate) fn open(log: &config::Log) -> Result<(), Problem> {
    let wrong = |error: &dyn std::fmt::Display| {
        Problem::new(Code::InvalidConfig, format!("log.level {:?}: {error}", log.level))
            .hint("a level (error, warn, info, debug, trace), or targets: info,mesh=debug")
    };
    let filter = EnvFilter::builder().parse(&log.level).map_err(|error| wrong(&error))?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let opened = if log.json {
        builder.json().flatten_event(true).try_init()
    } else {
        builder.with_ansi(rustix::termios::isatty(rustix::stdio::stderr())).try_init()
    };
    opened.map_err(|error| wrong(&error))
}
