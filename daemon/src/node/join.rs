//! Into a mesh and out of it: founding one, entering by a token or by addresses, leaving.
//!
//! Which mesh a node is in is fixed while it runs: whatever changes that is written to the node's papers, and then the
//! node starts again, within the same process.

use std::{sync::Arc, time::Duration};

use futures::{StreamExt as _, future, stream::FuturesUnordered};
use mesh::{Membership, Pending};
use protocol::{
    Code, MeshId, NodeId, Problem, Timestamp, Token,
    api::{self, Admission, Entered, Joined, MeshState},
    credential::{Member, Standing, Zone},
    entry::Action,
    wire::{Request, Response},
};
use store::{Kind, RecordWrite};

use super::{
    Caller, Node,
    authority::{AuthorityKeys, Books},
    begin::of_mesh,
    journal,
};

/// How long the authority is waited for by a node that leaves, or asks who is a member.
const AUTHORITY: Duration = Duration::from_secs(5);
/// Each address that a token names is tried this much after the one before: the first that answers is enough.
const HEAD_START: Duration = Duration::from_millis(500);

impl Node {
    /// Founds a private mesh, whose authority's key this node makes and keeps.
    pub(crate) async fn found(&self, zone: Option<Zone>, caller: &Caller) -> Result<MeshState, Problem> {
        if let Some(membership) = self.membership.as_ref().filter(|membership| !membership.is_open()) {
            let problem = Problem::new(Code::Conflict, format!("this node is in the private mesh {} already", membership.mesh()));
            // Whoever has founded it can't leave it.
            return Err(if self.books.is_some() { problem } else { problem.hint("leave it first: 'mcpctl leave'") });
        }
        if self.configured_mesh.is_some() {
            return Err(Problem::new(Code::Conflict, "the configuration names a mesh").hint("remove mesh.id from it, then try again"));
        }
        let key = self.directory_on_disk.key("authority.key")?;
        let keys = AuthorityKeys::open(&self.directory_on_disk, key, self.credential_validity)?;
        let books = Books::new((self.journal.clone(), self.lineages.clone()), keys, self.node_id, self.owner, self.credential_validity);
        let credential = books.found(zone, &caller.request_id).await?;
        let mesh = credential.document().header.mesh.clone();
        self.papers.keep_credential(&credential)?;
        tracing::info!(%mesh, "founded a private mesh");
        let membership = Membership::new(mesh, self.node_id);
        membership.set_credential(credential.into(), Timestamp::now())?;
        self.restart.cancel();
        Ok(MeshState { authority: true, peers: 0, ..state_of(Some(&membership)) })
    }

    /// The authority's own membership is its to prolong, also if it was off for longer than that lasted.
    pub(super) async fn prolong_own(&self) -> Result<(), Problem> {
        let (Some(books), Some(membership)) = (&self.books, &self.membership) else { return Ok(()) };
        if membership.credential().is_none() {
            let credential = mesh::Authority::renew(books, self.node_id, "").await?;
            self.papers.keep_credential(&credential)?;
            membership.set_credential(credential.into(), Timestamp::now())?;
        }
        Ok(())
    }

    /// How this node stands to its mesh.
    pub(crate) fn mesh_state(&self) -> MeshState {
        MeshState {
            authority: self.books.is_some(),
            peers: self.mesh().map(|mesh| mesh.peers().len()).unwrap_or_default(),
            ..state_of(self.membership.as_deref())
        }
    }

    /// Enters a mesh by a token, at the addresses it names and at `addresses`. May be repeated.
    pub(crate) async fn join_by(&self, caller: &Caller, text: &str, addresses: &[String], patience: Duration) -> Result<Entered, Problem> {
        let now = Timestamp::now();
        let (token, grant) = Token::read(text, now)?;
        let mut items = targets(addresses.iter().chain(&grant.addresses))?;
        let current = self.membership.as_deref().filter(|membership| !membership.is_open());
        if let Some(other) = current.filter(|membership| *membership.mesh() != grant.mesh) {
            return Err(Problem::new(Code::Conflict, format!("this node is in mesh {}; the token is for {}", other.mesh(), grant.mesh))
                .hint("leave the mesh first: 'mcpctl leave'"));
        }
        if let Some(configured) = self.configured_mesh.as_ref().filter(|configured| **configured != grant.mesh) {
            return Err(Problem::new(
                Code::Conflict,
                format!("the configuration says mesh.id = {configured}; the token is for {}", grant.mesh),
            )
            .hint("remove mesh.id from the configuration, restart the daemon, then try again"));
        }
        let mesh_id = grant.mesh.clone();
        if current.is_some_and(|membership| membership.credential().is_some()) {
            // A member already: the token isn't needed, the addresses may be.
            self.keep_addresses(caller, &mesh_id, &items).await?;
            self.dial(&mut items, patience).await?;
            return Ok(Entered { mesh_id, member: true, items });
        }
        // The owner signs that the node may enter.
        self.owner_key.ready().await?;
        self.keep_addresses(caller, &mesh_id, &items).await?;
        let keys = self.keys();
        let membership = Arc::new(Membership::new(mesh_id.clone(), self.node_id));
        membership.hold(Pending { token, grant, node: keys.node.clone(), owner: Arc::clone(&keys.owner) });
        let mut attempts: FuturesUnordered<_> = (0u32..)
            .zip(&mut items)
            .map(async |(turn, item)| {
                tokio::time::sleep(HEAD_START * turn).await;
                match mesh::enrol(&keys.node, &membership, &item.address, patience).await {
                    Ok(node) => item.node_id = Some(node),
                    Err(mesh::Enrolling { step, problem }) => {
                        item.step = Some(step.to_string());
                        item.code = Some(problem.code);
                        item.error = Some(problem.detail);
                    }
                }
            })
            .collect();
        while membership.credential().is_none() && attempts.next().await.is_some() {}
        drop(attempts);
        self.settle(&membership, text, current)?;
        Ok(Entered { mesh_id, member: membership.credential().is_some(), items })
    }

    /// Keeps what came of an enrolment: the credential, or the token for later.
    fn settle(&self, membership: &Membership, text: &str, current: Option<&Membership>) -> Result<(), Problem> {
        match (membership.credential(), current) {
            (Some(credential), Some(running)) => {
                self.papers.keep_credential(&credential)?;
                running.set_credential(credential.into(), Timestamp::now())?;
            }
            (Some(credential), None) => {
                self.papers.keep_credential(&credential)?;
                self.restart.cancel();
            }
            (None, _) => {
                self.papers.keep_token(text.trim())?;
                self.restart.cancel();
            }
        }
        Ok(())
    }

    /// Dials each address of this node's mesh and keeps it, reachable now or not: the mesh goes on trying.
    pub(crate) async fn join(&self, caller: &Caller, addresses: &[String], patience: Duration) -> Result<Entered, Problem> {
        let mesh = self.mesh()?;
        // A malformed one is refused before anything is kept.
        let mut items = targets(addresses.iter())?;
        self.keep_addresses(caller, &self.mesh_id, &items).await?;
        self.dial(&mut items, patience).await?;
        let membership = mesh.membership();
        Ok(Entered { mesh_id: self.mesh_id.clone(), member: membership.is_open() || membership.credential().is_some(), items })
    }

    async fn dial(&self, items: &mut [Joined], patience: Duration) -> Result<(), Problem> {
        let mesh = self.mesh()?;
        future::join_all(items.iter_mut().map(async |item| match mesh.join(&item.address, patience).await {
            Ok(node) => item.node_id = Some(node),
            Err(error) => {
                item.code = Some(error.code());
                item.error = Some(error.to_string());
            }
        }))
        .await;
        Ok(())
    }

    /// From now on the node is on its way into this mesh, by these addresses.
    async fn keep_addresses(&self, caller: &Caller, into: &MeshId, items: &[Joined]) -> Result<(), Problem> {
        let peer = |item: &Joined| RecordWrite { kind: Kind::Peer, id: item.address.clone(), value: Some(Vec::new()) };
        let records = items.iter().map(peer).chain([of_mesh(into)]).collect();
        self.enter_action(caller, Action::Join { into: into.clone() }, records).await
    }

    /// The addresses that were joined in earlier runs.
    pub(crate) async fn joined(&self) -> Result<Vec<String>, Problem> {
        let records = journal::sound_records(self.journal.store().as_ref(), Kind::Peer).await?.records;
        Ok(records.into_iter().map(|(address, _)| address).collect())
    }

    /// Where newcomers may enter, best first: the entry nodes that this node uses, and its own addresses.
    pub(crate) async fn entries(&self) -> Result<Vec<String>, Problem> {
        let mut entries = self.bootstrap.clone();
        entries.extend(self.joined().await?);
        entries.extend(self.mesh()?.addresses());
        entries.truncate(protocol::token::MAX_ADDRESSES);
        Ok(entries)
    }

    /// Leaves the mesh: tells the authority if it can be reached, forgets credential and addresses.
    pub(crate) async fn leave(&self, caller: &Caller) -> Result<(), Problem> {
        let Some(membership) = self.membership.as_ref() else { return Err(Problem::new(Code::Conflict, "this node is in no mesh")) };
        if self.configured_mesh.is_some() {
            return Err(
                Problem::new(Code::Conflict, "the configuration names the mesh").hint("remove mesh.id from it and restart the daemon")
            );
        }
        if self.books.is_some() {
            return Err(Problem::new(Code::Conflict, "this node has the authority's key: without it the mesh would have none")
                .hint("to end the mesh, stop the daemon and remove authority.key and credential.json from its data directory"));
        }
        if let Some(issuer) = membership.credential().map(|own| own.document().issuer)
            && let Err(problem) = self.mesh()?.request(issuer, Request::Leave, "", AUTHORITY).await
        {
            tracing::warn!(%problem, "the authority wasn't told that this node leaves");
        }
        let forgotten = self.joined().await?.into_iter().map(|id| RecordWrite { kind: Kind::Peer, id, value: None });
        let records = forgotten.chain([of_mesh(&MeshId::none())]).collect();
        self.enter_action(caller, Action::Leave { from: membership.mesh().clone() }, records).await?;
        self.papers.clear()?;
        tracing::info!(mesh = %membership.mesh(), "left the mesh");
        self.restart.cancel();
        Ok(())
    }

    /// Everyone in the authority's books; those that this node knows itself, where the authority can't be asked.
    pub(crate) async fn members(&self) -> Result<Vec<api::MemberState>, Problem> {
        let mesh = self.mesh()?;
        let members = match (&self.books, self.membership.as_ref().and_then(|membership| membership.credential())) {
            (Some(books), _) => mesh::Authority::members(books).await?,
            (None, Some(own)) => match mesh.request(own.document().issuer, Request::Members, "", AUTHORITY).await? {
                Response::Members(members) => members,
                _ => return Err(Problem::new(Code::Internal, "the authority answered what was not asked")),
            },
            (None, None) => return Err(Problem::new(Code::Conflict, "this node is in no private mesh: there are no members")),
        };
        let peers: std::collections::HashSet<NodeId> = mesh.peers().into_iter().map(|peer| peer.node_id).collect();
        let state = |member: Member| api::MemberState { connected: peers.contains(&member.node) || member.node == self.node_id, member };
        Ok(members.into_iter().map(state).collect())
    }

    /// Takes a membership back, everywhere.
    pub(crate) async fn revoke(&self, node: NodeId, caller: &Caller) -> Result<Member, Problem> {
        let (books, membership) = (self.books()?, self.membership.as_ref().ok_or_else(no_authority)?);
        let before = membership.revocations().map(|list| list.document().sequence);
        let (member, list) = books.revoke(node, before, &caller.request_id).await?;
        self.papers.keep_revocations(&list)?;
        membership.learn(list.into(), Timestamp::now())?;
        Ok(Member { standing: Standing::Revoked, ..member })
    }

    /// The authority's books.
    ///
    /// # Errors
    /// They are not here.
    pub(crate) fn books(&self) -> Result<&Books, Problem> {
        self.books.as_ref().ok_or_else(no_authority)
    }
}

fn no_authority() -> Problem {
    Problem::new(Code::Conflict, "this node doesn't have the key of the mesh's authority")
        .hint("ask this on the node where 'mcpctl mesh init' was run")
}

fn state_of(membership: Option<&Membership>) -> MeshState {
    let admission = match membership {
        None => Admission::None,
        Some(membership) if membership.is_open() => Admission::Open,
        Some(_) => Admission::Private,
    };
    let member = membership.and_then(Membership::credential).map(|own| {
        let own = own.document();
        api::Membership { role: own.role, zone: own.zone.clone(), expires_at: own.header.expires_at }
    });
    MeshState { mesh_id: membership.map_or_else(MeshId::none, |m| m.mesh().clone()), admission, member, authority: false, peers: 0 }
}

fn targets<'a>(addresses: impl Iterator<Item = &'a String>) -> Result<Vec<Joined>, Problem> {
    let mut items: Vec<Joined> = Vec::new();
    for address in addresses {
        let address = mesh::parse_address(address)?;
        if items.iter().all(|item| item.address != address) {
            items.push(Joined { address, node_id: None, step: None, code: None, error: None });
        }
    }
    Ok(items)
}
