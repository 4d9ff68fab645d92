//! The node: the rooms of the daemon, put together. The only place that decides local or remote.
//!
//! ```text
//! api::* ──┐                        ┌─ run (local): gate, view, sandbox, commit
//!          ├─> Node::execute ── is ─┤
//! inbound ─┘   (peers: only local)  └─ remote: agreement, mesh request, receipt
//!
//! journal      every write, with its trace entry      trace_log    checkpoints and proofs; search looks things up, tiles show it as files,
//!                                                     prune keeps it from growing for ever
//! witness      cosignatures under them, for them; other nodes' histories
//! outside      what calls reach: the web, other agents         once     what is repeated under an idempotency key
//! agents       who lives here                         plugins      what they run
//! agreements   what is owed, and metered              directory    who offers what
//! negotiate    how agreements come about            steps        how they move on
//! settle       receipts that both parties have signed, and statements            closing   how agreements end
//! custody      what nodes of one owner hold for one another        moving       agents that change their home
//! ```

pub(crate) mod agents;
pub(crate) mod agreements;
pub(crate) mod api_keys;
mod authority;
mod bans;
mod begin;
mod closing;
mod custody;
pub(crate) mod directory;
pub(crate) mod discover;
pub(crate) mod execute;
mod feed;
pub(crate) mod grants;
pub(crate) mod inbound;
mod join;
pub(crate) mod journal;
mod lifecycle;
mod lineages;
pub(crate) mod logs;
mod moving;
pub(crate) mod negotiate;
mod once;
mod outside;
pub(crate) mod plugins;
mod prune;
mod rank;
mod revoked;
mod routes;
pub(crate) mod run;
mod search;
mod settle;
mod sharing;
mod snapshots;
mod steps;
mod templates;
mod tiles;
pub(crate) mod trace_log;
mod unsettled;
mod view;
mod webhooks;
mod witness;

use std::{
    ops::Deref,
    sync::{Arc, OnceLock},
    time::Duration,
};

use agreement::policy::Policy;
use kernel::Kernel;
use mesh::{Keys, Membership, Mesh, Papers};
use protocol::{Code, Did, Key, MeshId, NodeId, Problem, SignedDuration, Signer as _, api::KeyKept, credential::Zone, entry::Action};
use store::{Blobs, Commit, Kind, RecordWrite, Store};
use tokio::{
    sync::{Notify, Semaphore},
    time::{Instant, MissedTickBehavior},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use self::{
    agents::Agents,
    agreements::Agreements,
    api_keys::ApiKeys,
    authority::{AuthorityKeys, Books},
    directory::Directory,
    journal::Journal,
    lineages::Lineages,
    plugins::Plugins,
    revoked::Revoked,
    templates::Templates,
    trace_log::TraceLog,
    webhooks::Webhooks,
    witness::Witness,
};
pub(crate) use self::{feed::Feed, search::Wanted, sharing::Share, webhooks::check as check_filter};
use crate::{data_dir::DataDir, owner::OwnerKey};

/// Adverts fetched at once after gossip told of them; what is skipped is found by the next reconciliation.
const MAX_FETCHES: usize = 16;
/// How often the node renews its advert, reconciles with a neighbour, and forgets what has expired.
const RENEWAL: Duration = Duration::from_secs(60);
/// Under which name a node remembers how its owner's key was kept.
const KEPT: &str = "owner_key";
/// Under which name a node remembers by which key its owner has signed last.
const SIGNED_BY: &str = "owner_signs_by";

/// For whom, and under which id, something is done.
#[derive(Debug, Clone)]
pub(crate) struct Caller {
    /// The principal.
    pub(crate) principal: Did,
    /// The request's id, the same on every node it touches.
    pub(crate) request_id: String,
}

/// What a node is made of.
#[derive(Debug)]
pub(crate) struct Parts {
    pub(crate) node_key: Key,
    pub(crate) owner_key: OwnerKey,
    /// What the operator says; the node's papers say it otherwise.
    pub(crate) configured_mesh: Option<MeshId>,
    pub(crate) membership: Option<Arc<Membership>>,
    pub(crate) authority: Option<Key>,
    pub(crate) credential_validity: SignedDuration,
    pub(crate) zone: Option<Zone>,
    pub(crate) directory: Arc<DataDir>,
    pub(crate) bootstrap: Vec<String>,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) blobs: Blobs,
    pub(crate) kernel: Kernel,
    pub(crate) policy: Policy,
    pub(crate) pricing: protocol::agreement::Pricing,
    pub(crate) limits: protocol::api::Limits,
    pub(crate) max_unacknowledged: u64,
    pub(crate) budget: protocol::api::Budget,
    pub(crate) closing_grace: SignedDuration,
    pub(crate) share: Share,
    /// How often a webhook's delivery is tried.
    pub(crate) webhook_attempts: u32,
    pub(crate) allowed: grants::Allowed,
    /// All of the configuration, for the trace.
    pub(crate) settings: Vec<protocol::api::Setting>,
}

/// A running node. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Node(Arc<Rooms>);

/// The rooms of a node.
#[derive(Debug)]
pub(crate) struct Rooms {
    pub(crate) started: Instant,
    pub(crate) node_id: NodeId,
    /// `MeshId::none()` for a node that is in none.
    pub(crate) mesh_id: MeshId,
    pub(crate) owner: Did,
    node_key: Key,
    pub(crate) owner_key: OwnerKey,
    configured_mesh: Option<MeshId>,
    membership: Option<Arc<Membership>>,
    /// Where this node has the key of the mesh's authority.
    books: Option<Books>,
    /// By which keys owners sign by now.
    lineages: Lineages,
    credential_validity: SignedDuration,
    /// Where the operator says that this node is; a credential says it otherwise.
    configured_zone: Option<Zone>,
    directory_on_disk: Arc<DataDir>,
    papers: Papers,
    /// Entry nodes by configuration.
    bootstrap: Vec<String>,
    policy: Policy,
    /// How much is accepted without the operator where nothing else is said.
    budget: protocol::api::Budget,
    pub(crate) templates: Templates,
    pub(crate) webhooks: Webhooks,
    share: Share,
    pub(crate) journal: Journal,
    pub(crate) agents: Agents,
    /// What plugins log.
    pub(crate) logs: Arc<logs::Logs>,
    /// Held while a snapshot is taken or let go: nothing is deleted that another one needs.
    snapshotting: tokio::sync::Mutex<()>,
    /// Held while an agent comes from elsewhere.
    adopting: tokio::sync::Mutex<()>,
    /// Where agents are that lived here.
    whereabouts: moving::Elsewhere,
    /// Where agents of others were found that had moved.
    routes: parking_lot::Mutex<routes::Routes>,
    /// Who holds the snapshots of this node's agents.
    replicas: custody::Replicas,
    pub(crate) plugins: Plugins,
    pub(crate) agreements: Agreements,
    pub(crate) directory: Directory,
    pub(crate) trace: Arc<TraceLog>,
    /// What is known of the traces of others, and who cosigned this one's.
    pub(crate) witness: Witness,
    pub(crate) api_keys: ApiKeys,
    mesh: OnceLock<Mesh>,
    /// Work that outlives the request that began it: commits, fetches of adverts, news for the other party.
    pub(crate) tasks: TaskTracker,
    fetches: Arc<Semaphore>,
    /// Idempotency keys under which calls are under way.
    claims: once::Claims,
    /// Rung when the agents have changed; a thousand spawns in a row make a few adverts, not a thousand.
    unpublished: Notify,
    pub(crate) stopping: CancellationToken,
    /// Cancelled when the node is to start again, within the process: its mesh is another.
    pub(crate) restart: CancellationToken,
}

impl Deref for Node {
    type Target = Rooms;

    fn deref(&self) -> &Rooms {
        &self.0
    }
}

impl Node {
    /// Restores a node from its store.
    pub(crate) async fn open(parts: Parts) -> Result<Self, Problem> {
        let owner = parts.owner_key.did();
        let mesh_id = parts.membership.as_ref().map_or_else(MeshId::none, |membership| membership.mesh().clone());
        let journal = Journal::new(parts.store, mesh_id.clone());
        let node_id = parts.node_key.node_id();
        // A key of another mesh is an old one: it has no say here.
        let authority = parts.authority.filter(|key| mesh_id.authority() == Some(key.did()));
        let authority = authority.map(|key| AuthorityKeys::open(&parts.directory, key, parts.credential_validity)).transpose()?;
        let lineages = Lineages::open(journal.clone(), owner, parts.owner_key.lineage()).await?;
        let rooms = Rooms {
            books: authority.map(|keys| Books::new((journal.clone(), lineages.clone()), keys, node_id, owner, parts.credential_validity)),
            lineages,
            membership: parts.membership,
            configured_mesh: parts.configured_mesh,
            credential_validity: parts.credential_validity,
            configured_zone: parts.zone,
            bootstrap: parts.bootstrap,
            papers: Papers::at(parts.directory.path()),
            directory_on_disk: parts.directory,
            restart: CancellationToken::new(),
            started: Instant::now(),
            node_id,
            owner,
            policy: parts.policy,
            budget: parts.budget,
            templates: Templates::open(journal.clone()).await?,
            webhooks: Webhooks::open(journal.clone(), parts.webhook_attempts).await?,
            share: parts.share,
            agents: Agents::open(journal.clone(), owner, (parts.pricing, parts.limits)).await?,
            logs: Arc::new(logs::Logs::new()),
            snapshotting: tokio::sync::Mutex::default(),
            adopting: tokio::sync::Mutex::default(),
            whereabouts: moving::Elsewhere::open(journal.store().as_ref()).await?,
            routes: parking_lot::Mutex::default(),
            replicas: custody::Replicas::default(),
            plugins: Plugins::new(
                journal.clone(),
                parts.blobs,
                parts.kernel,
                mesh_id.clone(),
                (parts.allowed, Revoked::open(journal.clone()).await?),
            ),
            agreements: Agreements::open(journal.clone(), mesh_id.clone(), owner, (parts.max_unacknowledged, parts.closing_grace)).await?,
            directory: Directory::new(mesh_id.clone(), parts.node_key.clone(), &parts.owner_key),
            trace: Arc::new(TraceLog::open(journal.clone(), parts.node_key.clone()).await?),
            witness: Witness::open(journal.clone()).await?,
            api_keys: ApiKeys::new(journal.clone(), owner),
            node_key: parts.node_key,
            owner_key: parts.owner_key,
            mesh_id,
            journal,
            mesh: OnceLock::new(),
            tasks: TaskTracker::new(),
            fetches: Arc::new(Semaphore::new(MAX_FETCHES)),
            claims: once::Claims::default(),
            unpublished: Notify::new(),
            stopping: CancellationToken::new(),
        };
        let node = Self(Arc::new(rooms));
        node.clear_staged().await?;
        node.note_key().await?;
        node.note_rotation().await?;
        node.note_start(&parts.settings).await?;
        node.begin_webhooks();
        Ok(node)
    }

    /// Enters into the trace that the owner's key is kept in another way than before; a plain file is where it begins.
    async fn note_key(&self) -> Result<(), Problem> {
        let plain = |owner| Action::Key { owner, kept: KeyKept::File };
        let before = self.journal.store().record(Kind::Meta, KEPT).await?;
        let before = before.map(|bytes| journal::decode("note of the owner's key", &bytes)).transpose()?;
        let action = Action::Key { owner: self.owner, kept: self.owner_key.kept() };
        if before.unwrap_or_else(|| plain(self.owner)) == action {
            return Ok(());
        }
        let record = RecordWrite { kind: Kind::Meta, id: KEPT.into(), value: Some(journal::encode(&action)) };
        let entry = self.journal.append(journal::Note::plain(self.owner, ""), action);
        self.journal.keep(Commit { records: vec![record], entry: Some(entry), ..Commit::default() }).await.map(drop)
    }

    /// Enters into the trace that the owner signs by another key than before.
    async fn note_rotation(&self) -> Result<(), Problem> {
        let before = self.journal.store().record(Kind::Meta, SIGNED_BY).await?;
        let before: Option<Did> = before.map(|bytes| journal::decode("note of the key that signs", &bytes)).transpose()?;
        let (from, to) = (before.unwrap_or(self.owner), self.owner_key.key());
        let follows = self.owner_key.lineage().is_some_and(|lineage| from == to || lineage.succeeded(from).is_some());
        // Who has signed by a second key once is another owner without the lineage, and refused with an older key.
        if before.is_some() && !follows {
            let problem = format!("this node's owner has signed by {from}, which the key that is here doesn't follow: {to}");
            let problem = if from == to { format!("owner.lineage is missing, by which {to} is this node's owner") } else { problem };
            return Err(Problem::new(Code::InvalidConfig, problem)
                .hint("put owner.lineage and the newest key back: what an older one signs is refused"));
        }
        if from == to {
            return Ok(());
        }
        let record = RecordWrite { kind: Kind::Meta, id: SIGNED_BY.into(), value: Some(journal::encode(&to)) };
        let entry = self.journal.append(journal::Note::plain(self.owner, ""), Action::KeyRotated { from, to });
        self.journal.keep(Commit { records: vec![record], entry: Some(entry), ..Commit::default() }).await.map(drop)
    }

    /// Joins the mesh: from now on peers reach this node and it reaches them.
    pub(crate) async fn connect(&self, config: mesh::Config) -> Result<(), Problem> {
        self.prolong_own().await?;
        let mesh = Mesh::spawn(config, Arc::new(inbound::Inbound(self.clone()))).await?;
        let _ = self.mesh.set(mesh);
        self.settle_moves();
        self.publish().await
    }

    /// The mesh.
    ///
    /// # Errors
    /// It is switched off.
    pub(crate) fn mesh(&self) -> Result<&Mesh, Problem> {
        let hint = "found one with 'mcpctl mesh init', or enter one with 'mcpctl join TOKEN' (and see that mesh.enabled is true)";
        self.mesh.get().ok_or_else(|| Problem::new(Code::Unreachable, "this node is in no mesh").hint(hint))
    }

    fn keys(&self) -> Keys {
        Keys { node: self.node_key.clone(), owner: Arc::new(self.owner_key.clone()) }
    }

    /// What this node accepts to do.
    pub(crate) fn roles(&self) -> Vec<String> {
        let mesh = self.mesh.get().map(|_| "mesh");
        ["kernel", "agreement"].into_iter().chain(mesh).map(str::to_owned).collect()
    }

    /// Tells the mesh what this node offers now.
    pub(crate) async fn publish(&self) -> Result<(), Problem> {
        let Some(mesh) = self.mesh.get() else { return Ok(()) };
        let here = (self.zone(), coarse(self.plugins.occupancy()));
        let (announcement, capabilities) = self.directory.sign(self.agents.running(), &self.plugins, mesh.addresses(), here).await?;
        mesh.set_provided(capabilities.iter().map(|capability| protocol::wire::capability_key(capability)).collect()).await;
        mesh.announce(announcement).await;
        Ok(())
    }

    /// Publishes in the background: whoever spawned an agent needn't wait for the mesh.
    pub(crate) fn publish_soon(&self) {
        self.unpublished.notify_one();
    }

    /// Renews, reconciles and forgets, until cancelled.
    pub(crate) async fn keep_house(self, stop: CancellationToken) {
        let mut renewal = tokio::time::interval_at(Instant::now() + RENEWAL, RENEWAL);
        renewal.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let changed = tokio::select! {
                () = stop.cancelled() => break,
                () = self.unpublished.notified() => true,
                _ = renewal.tick() => false,
            };
            if let Err(problem) = self.publish().await {
                tracing::warn!(%problem, "can't renew the advert");
            }
            if changed {
                continue;
            }
            self.reconcile().await;
            self.directory.sweep();
            if let Err(error) = self.journal.store().forget(protocol::Timestamp::now().as_second()).await {
                tracing::warn!(%error, "can't forget old answers");
            }
        }
    }

    /// Ends what is under way, in order: work, mesh, store.
    pub(crate) async fn shutdown(self, grace: Duration) {
        self.stopping.cancel();
        self.tasks.close();
        if tokio::time::timeout(grace, self.tasks.wait()).await.is_err() {
            tracing::warn!("some work did not end in time");
        }
        if let Err(problem) = self.trace.checkpoint().await {
            tracing::warn!(%problem, "the last checkpoint was not signed");
        }
        if let Some(mesh) = self.mesh.get() {
            self.withdraw().await;
            mesh.clone().shutdown().await;
        }
        if let Err(error) = self.journal.close().await {
            tracing::error!(%error, "the store did not close cleanly");
        }
    }
}

/// In tens, so that an advert says something for a while.
fn coarse(percent: u8) -> u8 {
    percent.saturating_add(5) / 10 * 10
}
