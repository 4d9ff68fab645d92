//! Starts the node's parts in order, watches them, and stops them in the opposite order.
//!
//! ```text
//! bind:  keys -> store -> kernel -> node -> mesh -> socket -> ready
//! run:   API, checkpoints, housekeeping; the first that ends unexpectedly stops the rest
//! stop:  signal -> no new requests -> drain (10 s) -> work -> mesh -> store
//! ```

use std::{path::PathBuf, sync::Arc, time::Duration};

use protocol::{Code, Key, Problem};
use store::{Blobs, Sqlite, Store};
use tokio::{
    signal::unix::{SignalKind, signal},
    task::{JoinError, JoinSet},
};
use tokio_util::sync::CancellationToken;

use crate::{
    api,
    config::Config,
    data_dir::DataDir,
    egress::Egress,
    node::{Node, Parts, grants::Allowed},
    owner::OwnerKey,
    parent::Parent,
};

/// How long requests under way may take after the first signal.
const GRACE: Duration = Duration::from_secs(10);

/// A part that has ended: its name, and what it died of.
type Ended = (&'static str, Result<(), String>);

/// A node that is bound and about to serve.
#[derive(Debug)]
pub(crate) struct Supervisor {
    node: Node,
    config: Config,
    listener: api::Listener,
    /// Held until everything is stopped.
    directory: Arc<DataDir>,
}

/// Why a node stopped without fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It was told to.
    Stopped,
    /// It is in another mesh from now on: it is to be started again.
    Again,
}

impl Supervisor {
    /// Restores the node and binds its sockets.
    pub(crate) async fn bind(
        directory: Arc<DataDir>,
        config: Config,
        owner_key: OwnerKey,
        socket: Option<PathBuf>,
    ) -> Result<Self, Problem> {
        let node_key = directory.key("node.key")?;
        let cache_key = directory.random("cache.key")?;
        let store: Arc<dyn Store> = Arc::new(Sqlite::open(&directory.subdirectory("store")?.join("mcp-zero.sqlite"))?);
        let kernel = kernel::Kernel::new(kernel::Config {
            max_concurrent: config.max_concurrent,
            cpu_percent: config.cpu_percent,
            max_memory: config.max_memory,
            ..kernel::Config::new(directory.join("cache"), *cache_key, compiler()?)
        })?;
        let membership = membership(&directory, &config, &node_key, &owner_key)?;
        let parts = Parts {
            node_key: node_key.clone(),
            owner_key,
            configured_mesh: config.mesh_id.clone(),
            membership: membership.clone(),
            authority: directory.existing_key("authority.key")?,
            credential_validity: protocol::SignedDuration::from_secs(i64::try_from(config.credential_seconds).unwrap_or(i64::MAX)),
            zone: config.zone.clone(),
            directory: Arc::clone(&directory),
            bootstrap: config.mesh.as_ref().map(|mesh| mesh.bootstrap_peers.clone()).unwrap_or_default(),
            store,
            blobs: Blobs::open(&directory.subdirectory("blobs")?)?,
            kernel,
            policy: config.policy.clone(),
            pricing: config.pricing.clone(),
            limits: config.limits,
            max_unacknowledged: config.max_unacknowledged,
            budget: config.budget,
            closing_grace: protocol::SignedDuration::from_secs(i64::try_from(config.closing_grace_seconds).unwrap_or(i64::MAX)),
            share: config.share,
            webhook_attempts: config.webhook_attempts,
            allowed: Allowed { imports: config.imports.clone(), egress: Egress::open(config.egress.clone())? },
            settings: config.settings().to_vec(),
        };
        let node = Node::open(parts).await?;
        match (&config.mesh, membership) {
            (Some(mesh), Some(membership)) => {
                let papers = mesh::Papers::at(directory.path());
                node.connect(mesh_config(mesh, node_key, membership, papers, node.joined().await?)).await?;
            }
            (Some(_), None) => tracing::info!("in no mesh: 'mcpctl mesh init' founds one, 'mcpctl join TOKEN' enters one"),
            (None, _) => {}
        }
        let path = socket.unwrap_or_else(|| directory.join("mcpd.sock"));
        let listener = api::Listener::bind(&path)
            .map_err(|error| Problem::new(Code::InvalidConfig, format!("can't listen on {}: {error}", path.display())))?;
        tracing::info!(node_id = %node.node_id, mesh_id = %node.mesh_id, agents = node.agents.count(), socket = %path.display(), "ready");
        Ok(Self { node, config, listener, directory })
    }

    /// Serves until a signal, until its parent ends where it has one to watch, or until a part fails.
    pub(crate) async fn run(self, parent: Option<&Parent>) -> Result<Outcome, Problem> {
        let Self { node, config, listener, directory } = self;
        let stop = CancellationToken::new();
        let mut parts = JoinSet::new();
        let router = api::router(node.clone(), config.settings().to_vec());
        parts.spawn({
            let stop = stop.clone();
            async move { ("the local API", api::serve(listener, router, stop, GRACE).await.map_err(|error| error.to_string())) }
        });
        let every = Duration::from_secs(config.checkpoint_seconds);
        parts.spawn(part("checkpoints", Arc::clone(&node.trace).run(every, stop.clone())));
        parts.spawn(part("the witnesses", node.clone().be_witnessed(stop.clone())));
        parts.spawn(part("housekeeping", node.clone().keep_house(stop.clone())));
        parts.spawn(part("the retention", node.clone().keep_days(config.keep_days, stop.clone())));
        parts.spawn(part("the snapshots", node.clone().keep_snapshots(stop.clone())));
        parts.spawn(part("the replicas", node.clone().keep_replicas(stop.clone())));
        parts.spawn(part("the receipts", node.clone().keep_settled(stop.clone())));
        parts.spawn(part("the agreements' ends", node.clone().keep_closed(stop.clone())));
        parts.spawn(part("the journal", node.journal.clone().run(stop.clone())));
        parts.spawn({
            let (mesh, stop) = (node.mesh().ok().cloned(), stop.clone());
            async move {
                let Some(mesh) = mesh else {
                    stop.cancelled().await;
                    return ("the mesh", Ok(()));
                };
                tokio::select! {
                    () = stop.cancelled() => ("the mesh", Ok(())),
                    () = mesh.stopped() => ("the mesh", Err("its driver ended, see the log above".into())),
                }
            }
        });
        notify(&[sd_notify::NotifyState::Ready]);
        parts.spawn(watchdog(stop.clone()));

        let ended = tokio::select! {
            signalled = signalled() => signalled.map(|()| Outcome::Stopped),
            () = orphaned(parent) => Ok(Outcome::Stopped),
            () = node.restart.cancelled() => Ok(Outcome::Again),
            part = parts.join_next() => Err(unexpected(part)),
        };
        if matches!(ended, Ok(Outcome::Again)) {
            tracing::info!("starting again, in another mesh");
        } else {
            notify(&[sd_notify::NotifyState::Stopping]);
            tracing::info!("stopping");
        }
        stop.cancel();
        let drain = async {
            while parts.join_next().await.is_some() {}
            node.shutdown(GRACE).await;
        };
        tokio::select! {
            () = drain => {}
            _ = signalled() => tracing::warn!("stopped at once"),
            () = tokio::time::sleep(3 * GRACE) => tracing::warn!("stopped before all was done"),
        }
        drop(directory);
        ended
    }
}

/// This program compiles; as a child, so that a plugin that is a bomb goes off elsewhere.
fn compiler() -> Result<kernel::Compiler, Problem> {
    let program = std::env::current_exe().map_err(|error| Problem::new(Code::Internal, format!("can't find this program: {error}")))?;
    Ok(kernel::Compiler::Child(program))
}

/// Which mesh the node is in, by its papers, its configuration and the token that it may have been given.
fn membership(directory: &DataDir, config: &Config, node: &Key, owner: &OwnerKey) -> Result<Option<Arc<mesh::Membership>>, Problem> {
    let unreadable = |path: &std::path::Path, error: &std::io::Error| {
        Problem::new(Code::InvalidConfig, format!("can't read the join token in {}: {error}", path.display()))
    };
    let given = match &config.join_token_file {
        Some(path) => Some(std::fs::read_to_string(path).map_err(|error| unreadable(path, &error))?),
        None => std::env::var("MCP_JOIN_TOKEN").ok().filter(|token| !token.is_empty()),
    };
    let given = given.map(zeroize::Zeroizing::new);
    let keys = mesh::Keys { node: node.clone(), owner: Arc::new(owner.clone()) };
    let papers = mesh::Papers::at(directory.path());
    let membership =
        papers.membership(config.mesh_id.as_ref(), &keys, given.as_ref().map(|token| token.as_str()), protocol::Timestamp::now())?;
    Ok(membership.map(Arc::new))
}

fn mesh_config(
    mesh: &crate::config::Mesh,
    key: Key,
    membership: Arc<mesh::Membership>,
    papers: mesh::Papers,
    joined: Vec<String>,
) -> mesh::Config {
    let mut bootstrap = mesh.bootstrap_peers.clone();
    bootstrap.extend(joined);
    mesh::Config {
        membership,
        listen: mesh::Listen { host: mesh.host, tcp: Some(mesh.tcp_port), quic: Some(mesh.quic_port), wss: Some(mesh.wss_port) },
        bootstrap,
        private_addresses: mesh.private_addresses,
        certificate: mesh.certificate.clone().map(|(chain, key)| mesh::CertificateFiles { chain, key }),
        announce: mesh.announce.clone(),
        relay: mesh.relay,
        upnp: mesh.upnp,
        mdns: mesh.mdns,
        peers: mesh.peers,
        max_memory: mesh.max_memory,
        papers: Some(papers),
        ..mesh::Config::new(key, protocol::MeshId::none())
    }
}

/// A part of the node that runs until it is told to stop.
async fn part(name: &'static str, work: impl Future<Output = ()>) -> (&'static str, Result<(), String>) {
    work.await;
    (name, Ok(()))
}

/// Waits for the end of the parent, if there is one to watch.
async fn orphaned(parent: Option<&Parent>) {
    match parent {
        Some(parent) => parent.ended().await,
        None => std::future::pending().await,
    }
}

/// Waits for SIGTERM or SIGINT.
async fn signalled() -> Result<(), Problem> {
    let failed = |error: std::io::Error| Problem::new(Code::Internal, format!("can't listen for signals: {error}"));
    let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}

fn unexpected(part: Option<Result<Ended, JoinError>>) -> Problem {
    let why = match part {
        None => "nothing is left to run".into(),
        Some(Err(error)) => format!("a part of the daemon failed: {error}"),
        Some(Ok((name, Ok(())))) => format!("{name} ended by itself"),
        Some(Ok((name, Err(error)))) => format!("{name} failed: {error}"),
    };
    Problem::new(Code::Internal, why)
}

/// Tells systemd that the daemon lives, twice in the time after which it would be restarted.
async fn watchdog(stop: CancellationToken) -> Ended {
    let Some(within) = sd_notify::watchdog_enabled() else {
        stop.cancelled().await;
        return ("watchdog", Ok(()));
    };
    loop {
        tokio::select! {
            () = stop.cancelled() => return ("watchdog", Ok(())),
            () = tokio::time::sleep(within / 2) => notify(&[sd_notify::NotifyState::Watchdog]),
        }
    }
}

/// Outside of systemd there is nobody to tell, which is no error.
fn notify(state: &[sd_notify::NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        tracing::debug!(%error, "systemd was not told");
    }
}
