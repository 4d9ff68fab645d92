//! Keeps the membership alive: answers what peers ask of it, renews this node's credential in time, and sees to it that
//! whoever is thrown out is thrown out everywhere.
//!
//! ```text
//! peers' requests --> Keeper: Handler --+--> membership: Enrol, Renew, Leave, Members, Revocations, Revoked
//!                                       +--> the node's own Handler: everything else
//! run: every 30 s and on change: sweep, renew; a newer list of revocations is told to every peer
//! ```
//! A list of revocations floods the mesh: each node that learns of a newer one tells all its peers, directly and not by
//! gossip, so that it arrives in seconds whatever the gossip mesh looks like.

use std::{
    sync::{Arc, OnceLock, Weak},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use futures::{StreamExt as _, stream};
use parking_lot::Mutex;
use protocol::{
    Code, Credential, NodeId, Problem, Signed, Timestamp,
    document::Sealed,
    token::Enrolment,
    wire::{Announcement, Request, Response},
};
use tokio::{
    sync::Semaphore,
    time::{self, Instant},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    Handler, Mesh, address,
    ca::{self, Obtained, Wanted},
    handle::WeakMesh,
    limits::MAX_ENROLMENTS,
    membership::{Authority, Desk, Membership},
    papers::Papers,
    rpc::Items,
    transfer,
    transport::Shown,
};

/// How often it is looked whether somebody's credential has expired or this node's is to be renewed.
const EVERY: Duration = Duration::from_secs(30);
/// How soon it is looked again where something is due.
const SOON: Duration = Duration::from_secs(5);
/// How long one node is waited for.
const PATIENCE: Duration = Duration::from_secs(5);
/// For the authority's answer to an enrolment, within the time that setting a connection up may take.
const ENROLMENT: Duration = Duration::from_secs(7);
/// Peers that are told at once.
const AT_ONCE: usize = 16;

/// A TLS certificate that the mesh's authority has signed.
struct Certified {
    names: Vec<String>,
    renew_at: Timestamp,
    authority: Bytes,
}

/// See the module.
pub(crate) struct Keeper {
    membership: Arc<Membership>,
    papers: Option<Papers>,
    inner: Arc<dyn Handler>,
    /// Set when the mesh runs. Weak where it is used, as the mesh holds the keeper.
    mesh: OnceLock<WeakMesh>,
    /// What TLS shows, and what it shows that the mesh's authority signed.
    certificate: Option<Arc<Shown>>,
    obtained: Mutex<Option<Certified>>,
    enrolments: Semaphore,
    transfers: transfer::Serving,
    tasks: TaskTracker,
    this: Weak<Self>,
}

impl Keeper {
    pub(crate) fn new(
        membership: Arc<Membership>,
        papers: Option<Papers>,
        certificate: Option<Arc<Shown>>,
        inner: Arc<dyn Handler>,
    ) -> Arc<Self> {
        Arc::new_cyclic(|this| Self {
            membership,
            papers,
            inner,
            mesh: OnceLock::new(),
            certificate,
            obtained: Mutex::default(),
            enrolments: Semaphore::new(MAX_ENROLMENTS),
            transfers: transfer::Serving::default(),
            tasks: TaskTracker::new(),
            this: this.clone(),
        })
    }

    /// Begins its work for `mesh`, until `token` is cancelled.
    pub(crate) fn start(self: &Arc<Self>, mesh: WeakMesh, token: CancellationToken) {
        let _ = self.mesh.set(mesh);
        let desk: Weak<dyn Desk> = self.this.clone();
        self.membership.set_desk(desk);
        let keeper = Arc::clone(self);
        self.tasks.spawn(async move {
            tokio::select! {
                () = token.cancelled() => {}
                () = keeper.run() => {}
            }
        });
    }

    fn mesh(&self) -> Option<Mesh> {
        self.mesh.get().and_then(WeakMesh::upgrade)
    }

    async fn run(&self) {
        let mut told = self.membership.revocations().map_or(0, |list| list.document().sequence);
        let mut kept = self.membership.credential().map(|own| own.document().id);
        let mut wait = Duration::ZERO;
        loop {
            tokio::select! {
                () = time::sleep(wait) => {}
                () = self.membership.changed.notified() => {}
            }
            let Some(mesh) = self.mesh() else { return };
            if let Some(own) = self.membership.credential().filter(|own| kept != Some(own.document().id)) {
                kept = Some(own.document().id);
                self.keep(move |papers| papers.keep_credential(&own)).await;
            }
            if self.membership.take_new_bans() {
                let bans = self.membership.remembered_bans();
                self.keep(move |papers| papers.keep_bans(&bans)).await;
            }
            mesh.sweep().await;
            if let Some(list) = self.membership.revocations().filter(|list| list.document().sequence > told) {
                told = list.document().sequence;
                let kept = list.clone();
                self.keep(move |papers| papers.keep_revocations(&kept)).await;
                self.tell_all(&mesh, &Request::Revoked(list.into())).await;
            }
            self.renew(&mesh).await;
            self.certify(&mesh).await;
            wait = self.wait(Timestamp::now());
        }
    }

    /// Until it is looked again: when the credential is to be renewed, and not much later than others' may expire.
    fn wait(&self, now: Timestamp) -> Duration {
        let due = self.membership.credential().map(|own| own.document().renew_at().duration_since(now));
        // Without a certificate that the authority has signed, it is asked soon again.
        let certified = || self.obtained.lock().as_ref().map(|have| have.renew_at.duration_since(now));
        let due = due.and_then(|due| if self.certificate.is_some() { Some(due.min(certified()?)) } else { Some(due) });
        let due = due.and_then(|due| Duration::try_from(due).ok()).unwrap_or(SOON);
        due.clamp(SOON, EVERY)
    }

    /// Writes to disk, which may take its time.
    async fn keep(&self, write: impl FnOnce(Papers) -> Result<(), Problem> + Send + 'static) {
        let Some(papers) = self.papers.clone() else { return };
        match tokio::task::spawn_blocking(move || write(papers)).await {
            Ok(Ok(())) => {}
            Ok(Err(problem)) => tracing::error!(%problem, "this node's membership is not kept for its next start"),
            Err(error) => tracing::error!(%error, "this node's membership is not kept for its next start"),
        }
    }

    async fn tell_all(&self, mesh: &Mesh, request: &Request) {
        let peers = stream::iter(mesh.peers()).map(|peer| async move {
            if let Err(problem) = mesh.request(peer.node_id, request.clone(), "", PATIENCE).await {
                tracing::debug!(node = %peer.node_id, %problem, "a peer was not told");
            }
        });
        peers.buffer_unordered(AT_ONCE).collect::<()>().await;
    }

    async fn renew(&self, mesh: &Mesh) {
        let Some(own) = self.membership.credential() else { return };
        let (now, own) = (Timestamp::now(), own.document());
        if own.renew_at() > now {
            return;
        }
        let answer = match self.inner.authority() {
            Some(authority) => authority.renew(mesh.node_id(), "").await.map(Sealed::from),
            None => match mesh.request(own.issuer, Request::Renew, "", PATIENCE).await {
                Ok(Response::Credential(sealed)) => Ok(sealed),
                Ok(_) => Err(Problem::new(Code::Internal, "the authority answered what was not asked")),
                Err(problem) => Err(problem),
            },
        };
        match answer.and_then(|sealed| self.membership.set_credential(sealed, now)) {
            Ok(signed) => tracing::info!(expires_at = %signed.document().header.expires_at, "the credential is renewed"),
            Err(problem) => tracing::warn!(%problem, expires_at = %own.header.expires_at, "the credential can't be renewed yet"),
        }
    }

    /// Has the mesh's authority sign what TLS shows, in time, and when this node's hosts have changed.
    async fn certify(&self, mesh: &Mesh) {
        let (Some(shown), Some(own)) = (&self.certificate, self.membership.credential()) else { return };
        let (now, names) = (Timestamp::now(), address::hosts(&mesh.addresses()));
        if self.obtained.lock().as_ref().is_some_and(|have| have.names == names && have.renew_at > now) {
            return;
        }
        let outcome = async {
            let wanted = Wanted::new(names)?;
            let chain = match self.inner.authority() {
                Some(authority) => authority.certify(mesh.node_id(), &wanted.request()).await?,
                None => match mesh.request(own.document().issuer, Request::Certify(wanted.request()), "", PATIENCE).await? {
                    Response::Certified(chain) => chain,
                    _ => return Err(Problem::new(Code::Internal, "the authority answered what was not asked")),
                },
            };
            wanted.take(&chain)
        };
        match outcome.await {
            Ok(Obtained { shown: key, names, renew_at, authority }) => {
                tracing::info!(?names, %renew_at, "the mesh's authority has signed a TLS certificate");
                shown.set(key);
                *self.obtained.lock() = Some(Certified { names, renew_at, authority });
            }
            // Nodes need it not; the one shown before stays.
            Err(problem) => tracing::debug!(%problem, "the mesh's authority signs no TLS certificate yet"),
        }
    }

    /// The certificate of the mesh's TLS authority, as PEM.
    pub(crate) fn certificate_authority(&self) -> Option<String> {
        self.obtained.lock().as_ref().map(|have| ca::pem(&have.authority))
    }

    /// What a new neighbour knows of revocations.
    async fn compare(&self, peer: NodeId) {
        let Some(mesh) = self.mesh() else { return };
        let have = self.membership.revocations().map_or(0, |list| list.document().sequence);
        match mesh.request(peer, Request::Revocations(have), "", PATIENCE).await {
            Ok(Response::Revocations(Some(list))) => {
                if let Err(problem) = self.membership.learn(list, Timestamp::now()) {
                    tracing::warn!(%peer, %problem, "a list of revocations is refused");
                }
            }
            Ok(Response::Revocations(None)) => {}
            Ok(_) => tracing::debug!(%peer, "answered what was not asked"),
            Err(problem) => tracing::debug!(%peer, %problem, "was not asked for revocations"),
        }
    }

    fn authority(&self) -> Result<Arc<dyn Authority>, Problem> {
        let not_here = || Problem::new(Code::NotFound, "this node doesn't have the key of the mesh's authority");
        self.inner.authority().ok_or_else(not_here)
    }

    async fn enrolled(&self, sealed: Sealed<Enrolment>, request_id: &str) -> Result<Signed<Credential>, Problem> {
        let (signed, grant) = Enrolment::verify(sealed, self.membership.mesh(), Timestamp::now())?;
        self.authority()?.enrol(&signed, &grant, request_id).await
    }
}

#[async_trait]
impl Desk for Keeper {
    async fn enrol(&self, from: NodeId, sealed: Sealed<Enrolment>) -> Result<Signed<Credential>, Problem> {
        // Whatever is not worth the authority's time ends here.
        let (signed, grant) = Enrolment::verify(sealed.clone(), self.membership.mesh(), Timestamp::now())?;
        let node = signed.document().node;
        if node != from {
            // It was overheard by a desk: nobody else may use it again.
            return Err(Problem::new(Code::StolenCredential, format!("the enrolment is of node {node}, not of {from}")));
        }
        let Ok(_place) = self.enrolments.try_acquire() else {
            return Err(Problem::new(Code::Overloaded, "too many nodes are being enrolled here: try again soon"));
        };
        if self.inner.authority().is_some() {
            return self.enrolled(sealed, "").await;
        }
        if self.membership.credential().is_none() {
            return Err(Problem::new(Code::NotAMember, "the node that answers isn't a member of the mesh itself yet"));
        }
        let Some(mesh) = self.mesh() else { return Err(Problem::new(Code::ShuttingDown, "the node is stopping")) };
        let unreachable = |problem: Problem| match problem.code {
            Code::Unreachable | Code::TimedOut => Problem::new(
                Code::Unreachable,
                format!("the mesh's authority, node {}, can't be reached from here now: {}", grant.issuer, problem.detail),
            ),
            _ => problem,
        };
        match mesh.request(grant.issuer, Request::Enrol(sealed), "", ENROLMENT).await.map_err(unreachable)? {
            Response::Credential(sealed) => Credential::verify(sealed, self.membership.mesh(), node, Timestamp::now()),
            _ => Err(Problem::new(Code::Internal, "the authority answered what was not asked")),
        }
    }

    async fn readmit(&self, past: Signed<Credential>) -> Result<Signed<Credential>, Problem> {
        let (node, issuer) = (past.document().node, past.document().issuer);
        let Ok(_place) = self.enrolments.try_acquire() else {
            return Err(Problem::new(Code::Overloaded, "too many nodes are being enrolled here"));
        };
        if let Some(authority) = self.inner.authority() {
            return authority.renew(node, "").await;
        }
        // Whoever stands outside doesn't have this node search for the authority.
        let connected = |mesh: &Mesh| mesh.peers().iter().any(|peer| peer.node_id == issuer);
        let Some(mesh) = self.mesh().filter(connected) else {
            return Err(Problem::new(Code::Unreachable, format!("the mesh's authority, node {issuer}, isn't connected here")));
        };
        match mesh.request(issuer, Request::Readmit(past.into()), "", ENROLMENT).await? {
            Response::Credential(sealed) => Credential::verify(sealed, self.membership.mesh(), node, Timestamp::now()),
            _ => Err(Problem::new(Code::Internal, "the authority answered what was not asked")),
        }
    }
}

#[async_trait]
impl Handler for Keeper {
    async fn request(&self, from: NodeId, request: Request, request_id: &str, deadline: Instant) -> Result<Response, Problem> {
        match request {
            Request::Enrol(sealed) => Ok(Response::Credential(self.enrolled(sealed, request_id).await?.into())),
            Request::Renew => Ok(Response::Credential(self.authority()?.renew(from, request_id).await?.into())),
            Request::Readmit(sealed) => {
                let node = Credential::verify_past(sealed, self.membership.mesh())?.document().node;
                Ok(Response::Credential(self.authority()?.renew(node, request_id).await?.into()))
            }
            Request::Certify(request) => self.authority()?.certify(from, &request).await.map(Response::Certified),
            Request::Leave => self.authority()?.left(from, request_id).await.map(|()| Response::Done),
            Request::Members => self.authority()?.members().await.map(Response::Members),
            Request::Revocations(have) => {
                let list = self.membership.revocations().filter(|list| list.document().sequence > have);
                Ok(Response::Revocations(list.map(Sealed::from)))
            }
            Request::Where(node) => {
                let known = match self.mesh() {
                    Some(mesh) => mesh.known(node).await,
                    None => Vec::new(),
                };
                Ok(Response::Addresses(known))
            }
            Request::Revoked(sealed) => self.membership.learn(sealed, Timestamp::now()).map(|_news| Response::Done),
            other => self.inner.request(from, other, request_id, deadline).await,
        }
    }

    async fn stream(&self, from: NodeId, request: Request, request_id: &str, deadline: Instant, items: Items) -> Result<Response, Problem> {
        match request {
            Request::Fetch { content, from: first } => {
                let path = self.inner.content(from, &content).await?;
                self.transfers.serve(from, content, first, path, &items).await
            }
            Request::Adverts(_) | Request::Custody(_) => self.inner.stream(from, request, request_id, deadline, items).await,
            other => self.request(from, other, request_id, deadline).await,
        }
    }

    fn announced(&self, source: NodeId, announcement: Announcement) {
        self.inner.announced(source, announcement);
    }

    fn addresses_changed(&self) {
        self.inner.addresses_changed();
    }

    fn connected(&self, node: NodeId) {
        if !self.membership.is_open()
            && let Some(keeper) = self.this.upgrade()
        {
            // Bounded by the number of connections, and in time.
            self.tasks.spawn(async move { keeper.compare(node).await });
        }
        self.inner.connected(node);
    }

    fn disconnected(&self, node: NodeId) {
        self.inner.disconnected(node);
    }
}
