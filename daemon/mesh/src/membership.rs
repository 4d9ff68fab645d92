//! Who belongs to the mesh: what this node shows, whom it lets in, and who was thrown out.
//!
//! Pure but for its lock: admission.rs exchanges what is judged here, keeper.rs renews and spreads.

use std::{
    collections::HashMap,
    fmt,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, Ordering},
    },
};

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::RwLock;
use protocol::{
    Code, Credential, Key, MeshId, NodeId, Problem, Signed, SignedDuration, Signer, Timestamp, Token,
    admission::{Hello, Offer, Refusal, VERSION},
    api,
    credential::{Member, Revocations, Revoked},
    document::Sealed,
    token::{Enrolment, Grant},
};
use tokio::sync::Notify;

use crate::{
    bans::{Bans, Offence},
    limits::Counters,
};

/// Credentials of others that are kept: those of connected peers, and room for connections that are being made.
const MAX_ADMITTED: usize = 2_048;

/// Decides who is a member, with the authority's key.
#[async_trait]
pub trait Authority: Send + Sync {
    /// Makes a node a member. Everything that others can verify has been verified.
    async fn enrol(&self, enrolment: &Signed<Enrolment>, grant: &Grant, request_id: &str) -> Result<Signed<Credential>, Problem>;

    /// Prolongs the membership of `node`, if it is in good standing.
    async fn renew(&self, node: NodeId, request_id: &str) -> Result<Signed<Credential>, Problem>;

    /// Signs a request for a TLS certificate of `node`, if it is in good standing: the certificate and the authority's, DER.
    async fn certify(&self, node: NodeId, request: &[u8]) -> Result<Vec<Bytes>, Problem>;

    /// `node` leaves of its own will.
    async fn left(&self, node: NodeId, request_id: &str) -> Result<(), Problem>;

    /// Everyone who is or was a member.
    async fn members(&self) -> Result<Vec<Member>, Problem>;
}

/// Brings an enrolment before the authority, wherever that is.
#[async_trait]
pub(crate) trait Desk: Send + Sync {
    /// `from` is the node that asks.
    async fn enrol(&self, from: NodeId, enrolment: Sealed<Enrolment>) -> Result<Signed<Credential>, Problem>;

    /// Prolongs the membership of a node whose credential has expired, as nobody renewed it in time: it was off, or the
    /// authority was.
    async fn readmit(&self, past: Signed<Credential>) -> Result<Signed<Credential>, Problem>;
}

/// A join token that this node holds and hasn't used yet.
pub struct Pending {
    /// The token.
    pub token: Token,
    /// What it grants.
    pub grant: Grant,
    /// The node's key.
    pub node: Key,
    /// The key of its owner, which may be elsewhere.
    pub owner: Arc<dyn Signer>,
}

impl fmt::Debug for Pending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pending").field("grant", &self.grant.id).finish_non_exhaustive()
    }
}

/// See the module. Shared by admission, the driver and the node above.
pub struct Membership {
    mesh: MeshId,
    node: NodeId,
    state: RwLock<State>,
    bans: RwLock<Bans>,
    /// Bans have changed since they were written down.
    new_bans: AtomicBool,
    counters: Counters,
    /// Rung when somebody was thrown out, or this node's own credential has changed.
    pub(crate) changed: Notify,
}

#[derive(Default)]
struct State {
    own: Option<Signed<Credential>>,
    pending: Option<Arc<Pending>>,
    /// A credential of before, which has expired: shown as long as there is no other, as it may be prolonged.
    past: Option<Sealed<Credential>>,
    entries: Vec<String>,
    revocations: Option<Signed<Revocations>>,
    revoked: HashMap<NodeId, Revoked>,
    admitted: HashMap<NodeId, Arc<Signed<Credential>>>,
    desk: Option<Weak<dyn Desk>>,
}

impl fmt::Debug for Membership {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Membership").field("mesh", &self.mesh).field("node", &self.node).finish_non_exhaustive()
    }
}

/// What is to be done with a peer that has shown its offer.
pub(crate) enum Judgement {
    Admit,
    Enrol(Sealed<Enrolment>),
    /// It was a member once, and is refused unless the authority prolongs that.
    Readmit(Box<Signed<Credential>>, Refusal),
    Refuse(Refusal),
}

impl Membership {
    /// The membership of `node` in `mesh`, with nothing to show yet. In an open mesh there is nothing to show.
    pub fn new(mesh: MeshId, node: NodeId) -> Self {
        Self {
            mesh,
            node,
            state: RwLock::default(),
            bans: RwLock::default(),
            new_bans: AtomicBool::new(false),
            counters: Counters::default(),
            changed: Notify::new(),
        }
    }

    /// The mesh.
    pub fn mesh(&self) -> &MeshId {
        &self.mesh
    }

    /// Whether the mesh admits everyone.
    pub fn is_open(&self) -> bool {
        self.mesh.authority().is_none()
    }

    /// This node's credential.
    pub fn credential(&self) -> Option<Signed<Credential>> {
        self.state.read().own.clone()
    }

    /// Takes a credential of this node, after verifying it.
    ///
    /// # Errors
    /// Why it isn't one.
    pub fn set_credential(&self, sealed: Sealed<Credential>, now: Timestamp) -> Result<Signed<Credential>, Problem> {
        let signed = Credential::verify(sealed, &self.mesh, self.node, now)?;
        let mut state = self.state.write();
        state.own = Some(signed.clone());
        (state.pending, state.past) = (None, None);
        drop(state);
        self.changed.notify_one();
        Ok(signed)
    }

    /// Holds a token: whoever connects is told of it, as it may be somebody who can enrol this node.
    pub fn hold(&self, pending: Pending) {
        self.state.write().pending = Some(Arc::new(pending));
    }

    /// Holds a credential that has expired.
    pub(crate) fn hold_past(&self, past: Sealed<Credential>) {
        self.state.write().past = Some(past);
    }

    /// Whether this node has to be made a member first, which may take the other side longer than to admit one.
    pub(crate) fn is_outside(&self, now: Timestamp) -> bool {
        !self.is_open() && self.state.read().own.as_ref().is_none_or(|own| own.document().header.expires_at <= now)
    }

    /// Where a token says that the mesh can be entered.
    pub(crate) fn entries(&self) -> Vec<String> {
        self.state.read().entries.clone()
    }

    pub(crate) fn set_entries(&self, entries: Vec<String>) {
        self.state.write().entries = entries;
    }

    /// The newest list of revocations.
    pub fn revocations(&self) -> Option<Signed<Revocations>> {
        self.state.read().revocations.clone()
    }

    /// Takes a list of revocations; whether it is news.
    ///
    /// # Errors
    /// It isn't the authority's.
    pub fn learn(&self, sealed: Sealed<Revocations>, now: Timestamp) -> Result<bool, Problem> {
        let signed = Revocations::verify(sealed, &self.mesh, now)?;
        let mut state = self.state.write();
        if state.revocations.as_ref().is_some_and(|have| have.document().sequence >= signed.document().sequence) {
            return Ok(false);
        }
        state.revoked = signed.document().revoked.iter().map(|revoked| (revoked.node, revoked.clone())).collect();
        state.revocations = Some(signed);
        drop(state);
        self.changed.notify_one();
        Ok(true)
    }

    /// The credential by which `node` was last admitted here.
    pub fn of(&self, node: NodeId) -> Option<Arc<Signed<Credential>>> {
        self.state.read().admitted.get(&node).cloned()
    }

    /// How often limits were met.
    pub(crate) fn counters(&self) -> &Counters {
        &self.counters
    }

    /// `node` did wrong here. Enough of it is a ban, which ends its connections and keeps it out.
    pub(crate) fn offend(&self, node: NodeId, offence: Offence) {
        let ban = self.bans.write().offend(node, offence, Timestamp::now());
        if let Some(ban) = ban {
            tracing::warn!(%node, reason = ban.reason, until = %ban.until, "a peer misbehaves: banned");
            self.bans_changed();
        }
    }

    /// Keeps `node` out for a while, because an operator says so.
    pub fn ban(&self, node: NodeId, span: SignedDuration, reason: String) -> api::Ban {
        let ban = self.bans.write().ban(node, span, reason, true, Timestamp::now());
        tracing::warn!(%node, reason = ban.reason, until = %ban.until, "banned by the operator");
        self.bans_changed();
        ban
    }

    /// Lets `node` in again; whether it was banned.
    pub fn unban(&self, node: NodeId) -> bool {
        let was = self.bans.write().unban(&node);
        self.bans_changed();
        was
    }

    /// Who is kept out now.
    pub fn bans(&self) -> Vec<api::Ban> {
        self.bans.read().list(Timestamp::now())
    }

    /// Whether `node` is kept out.
    pub(crate) fn check_ban(&self, node: NodeId, now: Timestamp) -> Result<(), Refusal> {
        self.bans.read().check(&node, now)
    }

    pub(crate) fn remembered_bans(&self) -> Vec<api::Ban> {
        self.bans.read().remembered()
    }

    pub(crate) fn restore_bans(&self, bans: Vec<api::Ban>) {
        *self.bans.write() = Bans::restore(bans);
    }

    /// Whether bans have changed since this was asked last.
    pub(crate) fn take_new_bans(&self) -> bool {
        self.new_bans.swap(false, Ordering::Relaxed)
    }

    fn bans_changed(&self) {
        self.new_bans.store(true, Ordering::Relaxed);
        self.changed.notify_one();
    }

    /// Whether `node`, once admitted, still may be connected.
    pub(crate) fn still(&self, node: NodeId, now: Timestamp) -> Result<(), Refusal> {
        self.check_ban(node, now)?;
        if self.is_open() {
            return Ok(());
        }
        let state = self.state.read();
        if let Some(revoked) = state.revoked.get(&node) {
            return Err(refuse_revoked(revoked));
        }
        match state.admitted.get(&node).map(|credential| credential.document().header.expires_at) {
            Some(expires_at) if expires_at > now => Ok(()),
            Some(expires_at) => Err(Refusal { code: Code::Expired, detail: format!("its credential expired at {expires_at}") }),
            None => Err(Refusal { code: Code::NotAMember, detail: "it has shown no credential".into() }),
        }
    }

    pub(crate) fn forget(&self, node: NodeId) {
        self.state.write().admitted.remove(&node);
    }

    pub(crate) fn set_desk(&self, desk: Weak<dyn Desk>) {
        self.state.write().desk = Some(desk);
    }

    pub(crate) fn desk(&self) -> Option<Arc<dyn Desk>> {
        self.state.read().desk.as_ref().and_then(Weak::upgrade)
    }

    /// The first message to a peer: by a token, if that is all that this node has.
    ///
    /// # Errors
    /// The owner's key can't be used now.
    pub(crate) async fn introduce(&self, now: Timestamp) -> Result<Hello, Problem> {
        let hello = self.hello();
        // Taken out of the lock: a signature may take its time.
        let pending = {
            let state = self.state.read();
            state.pending.clone().filter(|_| !self.is_open() && state.own.is_none())
        };
        let Some(pending) = pending else { return Ok(hello) };
        let Pending { token, grant, node, owner } = &*pending;
        let enrolment = token.enrol(grant, node, owner.as_ref(), now).await?;
        Ok(Hello { offer: Offer::Enrolment(enrolment.into()), ..hello })
    }

    fn hello(&self) -> Hello {
        let state = self.state.read();
        let offer = match (&state.own, &state.past) {
            _ if self.is_open() => Offer::Nothing,
            (Some(own), _) => Offer::Credential(own.clone().into()),
            (None, Some(past)) => Offer::Credential(past.clone()),
            (None, None) => Offer::Nothing,
        };
        Hello { version: VERSION, mesh: self.mesh.clone(), offer }
    }

    /// What `node` deserves, which showed `hello`.
    pub(crate) fn judge(&self, node: NodeId, hello: Hello, now: Timestamp) -> Judgement {
        self.try_judge(node, hello, now).unwrap_or_else(|problem| Judgement::Refuse(problem.into()))
    }

    fn try_judge(&self, node: NodeId, hello: Hello, now: Timestamp) -> Result<Judgement, Problem> {
        if hello.version != VERSION {
            let detail = format!("it speaks version {} of admission, this node version {VERSION}", hello.version);
            return Err(Problem::new(Code::UnknownVersion, detail));
        }
        if hello.mesh != self.mesh {
            return Err(Problem::new(Code::ForeignMesh, format!("node {} is of mesh {}, not of {}", self.node, self.mesh, hello.mesh)));
        }
        if let Err(refusal) = self.check_ban(node, now) {
            return Ok(Judgement::Refuse(refusal));
        }
        if self.is_open() {
            return Ok(Judgement::Admit);
        }
        let mut state = self.state.write();
        if let Some(revoked) = state.revoked.get(&node) {
            return Ok(Judgement::Refuse(refuse_revoked(revoked)));
        }
        match hello.offer {
            Offer::Nothing => Err(Problem::new(Code::NotAMember, format!("mesh {} is private, and no credential was shown", self.mesh))),
            Offer::Enrolment(enrolment) => Ok(Judgement::Enrol(enrolment)),
            Offer::Credential(sealed) => {
                let known = state.admitted.get(&node).filter(|known| known.envelope() == sealed.envelope());
                // Verified before; only time has passed.
                let known = known.filter(|known| known.document().header.expires_at > now).cloned();
                let credential = match known {
                    Some(known) => known,
                    None => match Credential::verify(sealed.clone(), &self.mesh, node, now) {
                        Ok(credential) => Arc::new(credential),
                        Err(problem) if problem.code == Code::Expired => {
                            let past = Credential::verify_past(sealed, &self.mesh)?;
                            past.document().require_node(node)?;
                            return Ok(Judgement::Readmit(Box::new(past), problem.into()));
                        }
                        Err(problem) => return Err(problem),
                    },
                };
                if state.admitted.len() >= MAX_ADMITTED && !state.admitted.contains_key(&node) {
                    let first = state.admitted.iter().min_by_key(|(_, credential)| credential.document().header.issued_at);
                    let first = first.map(|(node, _)| *node);
                    first.and_then(|first| state.admitted.remove(&first));
                }
                state.admitted.insert(node, credential);
                Ok(Judgement::Admit)
            }
        }
    }
}

fn refuse_revoked(revoked: &Revoked) -> Refusal {
    Refusal { code: Code::Revoked, detail: format!("the membership of node {} was revoked at {}", revoked.node, revoked.at) }
}

#[cfg(test)]
mod tests {
    use protocol::{
        Header,
        credential::{MAX_VALIDITY, Role},
        id::CredentialId,
    };

    use super::*;

    struct Case {
        authority: Key,
        mesh: MeshId,
        now: Timestamp,
    }

    impl Case {
        fn new() -> Self {
            let authority = Key::generate();
            Self { mesh: MeshId::of(authority.did()), authority, now: Timestamp::now() }
        }

        fn member(&self, key: &Key) -> Membership {
            let membership = Membership::new(self.mesh.clone(), key.node_id());
            let credential = Credential {
                header: Header::new::<Credential>(&self.mesh, self.now, MAX_VALIDITY),
                id: CredentialId::new(),
                node: key.node_id(),
                owner: key.did(),
                role: Role::Server,
                zone: None,
                issuer: self.authority.node_id(),
            };
            membership.set_credential(Signed::sign(credential, &[&self.authority]).into(), self.now).expect("a credential");
            membership
        }

        fn revocations(&self, sequence: u64, nodes: &[NodeId]) -> Sealed<Revocations> {
            let revoked = nodes.iter().map(|node| Revoked { node: *node, at: self.now, until: self.now + MAX_VALIDITY }).collect();
            let header = Header::new::<Revocations>(&self.mesh, self.now, MAX_VALIDITY);
            Signed::sign(Revocations { header, sequence, revoked }, &[&self.authority]).into()
        }
    }

    fn code(judgement: &Judgement) -> Option<Code> {
        match judgement {
            Judgement::Admit | Judgement::Enrol(_) => None,
            Judgement::Refuse(refusal) | Judgement::Readmit(_, refusal) => Some(refusal.code),
        }
    }

    #[test]
    fn members_admit_members_until_they_expire_or_are_revoked() {
        let (case, key, other) = (Case::new(), Key::generate(), Key::generate());
        let (membership, peer) = (case.member(&key), case.member(&other));
        let judge = |hello, now| code(&membership.judge(other.node_id(), hello, now));
        assert_eq!(judge(peer.hello(), case.now), None);
        assert_eq!(membership.of(other.node_id()).expect("kept").document().owner, other.did());
        assert_eq!(judge(peer.hello(), case.now + MAX_VALIDITY), Some(Code::Expired));
        assert!(membership.still(other.node_id(), case.now).is_ok());
        assert_eq!(membership.still(other.node_id(), case.now + MAX_VALIDITY).expect_err("expired").code, Code::Expired);
        // What is shown is held against who shows it.
        assert_eq!(code(&membership.judge(key.node_id(), peer.hello(), case.now)), Some(Code::StolenCredential));

        assert!(membership.learn(case.revocations(2, &[other.node_id()]), case.now).expect("genuine"));
        assert_eq!(judge(peer.hello(), case.now), Some(Code::Revoked));
        assert_eq!(membership.still(other.node_id(), case.now).expect_err("revoked").code, Code::Revoked);
        assert!(!membership.learn(case.revocations(1, &[]), case.now).expect("genuine"), "an older list is no news");
        assert_eq!(judge(peer.hello(), case.now), Some(Code::Revoked));
        let foreign = Case::new();
        assert_eq!(membership.learn(foreign.revocations(9, &[]), case.now).expect_err("foreign").code, Code::ForeignMesh);
    }

    #[test]
    fn others_are_told_why_not() {
        let (case, key) = (Case::new(), Key::generate());
        let (membership, node) = (case.member(&key), Key::generate().node_id());
        let judge = |hello| code(&membership.judge(node, hello, case.now));
        assert_eq!(judge(Membership::new(case.mesh.clone(), node).hello()), Some(Code::NotAMember));
        assert_eq!(judge(Membership::new("open".parse().expect("a name"), node).hello()), Some(Code::ForeignMesh));
        let foreign = Case::new();
        assert_eq!(judge(foreign.member(&Key::generate()).hello()), Some(Code::ForeignMesh));
        let later = Hello { version: VERSION + 1, ..membership.hello() };
        assert_eq!(judge(later), Some(Code::UnknownVersion));
    }

    #[test]
    fn an_open_mesh_admits_everyone_of_its_name() {
        let mesh: MeshId = "dev".parse().expect("a name");
        let (one, two) = (Key::generate().node_id(), Key::generate().node_id());
        let (membership, peer) = (Membership::new(mesh.clone(), one), Membership::new(mesh, two));
        let now = Timestamp::now();
        assert_eq!(code(&membership.judge(two, peer.hello(), now)), None);
        assert!(membership.still(two, now + SignedDuration::from_hours(9999)).is_ok());
    }
}
