//! `mcp-bootstrap`: a small public entry node. It serves Kademlia and gossip so that nodes find one another; it runs no
//! agents, signs nothing but its own messages, and keeps nothing but its key.
//!
//! ```text
//! arguments + file -> Settings -> data directory locked -> node.key -> Mesh -> wait for a signal -> leave
//! ```

mod data_dir;
mod error;
mod handler;
mod output;
mod settings;

use std::{process::ExitCode, sync::Arc};

use clap::Parser as _;
use mesh::Mesh;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::{data_dir::DataDir, error::Error, handler::Entry, settings::Arguments};

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    output::logs(arguments.json);
    // Both ring and aws-lc are linked: rustls must be told which to use before anything of it is.
    if rustls::crypto::ring::default_provider().install_default().is_err() {
        tracing::debug!("rustls has a provider already");
    }
    match run(arguments).await {
        Ok(code) => code,
        Err(error) => {
            let code = error.code();
            tracing::error!(%code, "{error}");
            ExitCode::from(code.exit() as u8)
        }
    }
}

async fn run(arguments: Arguments) -> Result<ExitCode, Error> {
    let (json, new_identity) = (arguments.json, arguments.new_identity);
    let settings = arguments.settings()?;
    let directory = DataDir::lock(&settings.data_dir)?;
    let config = settings.config(directory.key(new_identity)?)?;
    let (mesh_id, mut stop) = (config.mesh().clone(), Stop::new()?);
    let mesh = Mesh::spawn(config, Arc::new(Entry)).await?;
    output::listening(&mesh, &mesh_id, json)?;
    tokio::select! {
        () = stop.signal() => {}
        () = mesh.stopped() => return Err(Error::MeshEnded),
    }
    tracing::info!("stopping; a second signal stops at once");
    tokio::select! {
        () = stop.signal() => Ok(ExitCode::FAILURE),
        () = mesh.shutdown() => Ok(ExitCode::SUCCESS),
    }
}

/// SIGTERM and SIGINT alike.
struct Stop(Signal, Signal);

impl Stop {
    fn new() -> Result<Self, Error> {
        let listen = |kind| signal(kind).map_err(|source| Error::Io { doing: "listen for signals".into(), source });
        Ok(Self(listen(SignalKind::terminate())?, listen(SignalKind::interrupt())?))
    }

    async fn signal(&mut self) {
        tokio::select! {
            _ = self.0.recv() => {}
            _ = self.1.recv() => {}
        }
    }
}
