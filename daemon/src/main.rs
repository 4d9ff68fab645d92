//! `mcpd`, the MCP-ZERO node: mesh, kernel, agreements, trace and store in one daemon, behind one Unix socket.

mod api;
mod arguments;
mod config;
mod data_dir;
mod egress;
mod identity;
mod logging;
mod node;
mod owner;
mod parent;
mod supervisor;

use std::{io::Write as _, process::ExitCode, sync::Arc};

use clap::Parser as _;
use protocol::{Code, Problem};

use crate::{
    arguments::Arguments,
    config::Config,
    data_dir::DataDir,
    owner::OwnerKey,
    parent::Parent,
    supervisor::{Outcome, Supervisor},
};

fn main() -> ExitCode {
    // The kernel compiles plugins in a limited child: this very program.
    if std::env::args_os().nth(1).is_some_and(|argument| argument == kernel::COMPILE_ARG) {
        return kernel::compile_worker();
    }
    let mut arguments = Arguments::parse();
    if let Some(command) = arguments.command.take() {
        return arguments::answer(command.run(&arguments));
    }
    match start(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            let mut stderr = std::io::stderr().lock();
            let _ = writeln!(stderr, "error: {problem}");
            if let Some(hint) = &problem.hint {
                let _ = writeln!(stderr, "hint: {hint}");
            }
            ExitCode::from(problem.code.exit() as u8)
        }
    }
}

fn start(arguments: &Arguments) -> Result<(), Problem> {
    let config = Config::load(&arguments.sources()).map_err(|error| Problem::new(Code::InvalidConfig, error.to_string()))?;
    if arguments.check {
        return Ok(());
    }
    let parent = arguments.with_parent.then(Parent::remember);
    logging::open(&config.log)?;
    for variable in &config.strange_variables {
        tracing::warn!(variable, "looks like a setting and is none");
    }
    // Both of rustls' providers are linked (by QUIC and by WebSocket): say which one counts.
    let _ = rustls::crypto::ring::default_provider().install_default();

    let directory = Arc::new(DataDir::open(&arguments.data_dir())?);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Problem::new(Code::Internal, error.to_string()))?;
    identity::require(&directory, arguments.anew, config.owner.pkcs11.is_some())?;
    let owner = OwnerKey::open(&directory, &config.owner)?;
    let ran = runtime.block_on(async {
        loop {
            let supervisor = Box::pin(Supervisor::bind(Arc::clone(&directory), config.clone(), owner.clone(), arguments.socket())).await?;
            if supervisor.run(parent.as_ref()).await? == Outcome::Stopped {
                return Ok(());
            }
        }
    });
    owner.close();
    ran
}
