//! The mesh, from a user's side.

use std::time::{Duration, Instant};

use axum::{Extension, extract::State};
use protocol::{
    Code, MeshId, NodeId, Problem, TokenId,
    api::{
        Admission, Ban, BanPeer, CertificateAuthority, CreateToken, CreatedToken, Discovered, Entered, Join, Limit, List, MemberState,
        MeshState, Netcheck, Peer, Pong, TokenOutline,
    },
    credential::{Member, Zone},
};
use serde::Deserialize;

use super::{
    Api,
    reply::{Failure, Json, Path, Query},
    require_owner,
};
use crate::node::{Caller, discover::Via};

/// How long one address is tried while the user waits; the daemon goes on trying afterwards.
const JOIN_PATIENCE: Duration = Duration::from_secs(10);
/// Addresses in one request.
const MAX_ADDRESSES: usize = 32;

pub(super) async fn join(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Json(join): Json<Join>,
) -> Result<Json<Entered>, Failure> {
    require_owner(&api, &caller)?;
    if join.addresses.is_empty() && join.token.is_none() || join.addresses.len() > MAX_ADDRESSES {
        return Err(Problem::new(Code::InvalidRequest, format!("name 1 to {MAX_ADDRESSES} addresses, or give a join token")).into());
    }
    let token = join.token.map(zeroize::Zeroizing::new);
    let node = api.node.clone();
    // A task of its own: what was decided is kept, whether the caller waits or not.
    let joining = tokio::spawn(async move {
        match token {
            Some(token) => node.join_by(&caller, &token, &join.addresses, JOIN_PATIENCE).await,
            None => node.join(&caller, &join.addresses, JOIN_PATIENCE).await,
        }
    });
    Ok(Json(joining.await.map_err(|error| Problem::new(Code::Internal, error.to_string()))??))
}

pub(super) async fn state(State(api): State<Api>) -> Json<MeshState> {
    Json(api.node.mesh_state())
}

#[derive(Debug, Default, Deserialize)]
pub(super) struct Init {
    #[serde(default)]
    zone: Option<Zone>,
}

pub(super) async fn init(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Json(init): Json<Init>,
) -> Result<Json<MeshState>, Failure> {
    require_owner(&api, &caller)?;
    Ok(Json(api.node.found(init.zone, &caller).await?))
}

pub(super) async fn leave(State(api): State<Api>, Extension(caller): Extension<Caller>) -> Result<Json<MeshState>, Failure> {
    require_owner(&api, &caller)?;
    api.node.leave(&caller).await?;
    Ok(Json(MeshState { mesh_id: MeshId::none(), admission: Admission::None, member: None, authority: false, peers: 0 }))
}

pub(super) async fn members(State(api): State<Api>) -> Result<Json<List<MemberState>>, Failure> {
    Ok(Json(api.node.members().await?.into()))
}

pub(super) async fn revoke(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Path(node): Path<NodeId>,
) -> Result<Json<Member>, Failure> {
    require_owner(&api, &caller)?;
    Ok(Json(api.node.revoke(node, &caller).await?))
}

pub(super) async fn create_token(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Json(mut create): Json<CreateToken>,
) -> Result<Json<CreatedToken>, Failure> {
    require_owner(&api, &caller)?;
    if create.addresses.is_empty() {
        create.addresses = api.node.entries().await?;
    }
    for address in &mut create.addresses {
        *address = mesh::parse_address(address).map_err(Problem::from)?;
    }
    Ok(Json(api.node.books()?.create_token(create, &caller.request_id).await?))
}

pub(super) async fn tokens(State(api): State<Api>, Extension(caller): Extension<Caller>) -> Result<Json<List<TokenOutline>>, Failure> {
    require_owner(&api, &caller)?;
    Ok(Json(api.node.books()?.tokens().await?.into()))
}

pub(super) async fn revoke_token(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<TokenId>,
) -> Result<Json<TokenOutline>, Failure> {
    require_owner(&api, &caller)?;
    Ok(Json(api.node.books()?.revoke_token(&id, &caller.request_id).await?))
}

pub(super) async fn peers(State(api): State<Api>) -> Result<Json<List<Peer>>, Failure> {
    Ok(Json(api.node.mesh()?.peers().into()))
}

pub(super) async fn ping(State(api): State<Api>, Path(node): Path<String>) -> Result<Json<Pong>, Failure> {
    let node_id: NodeId = node.parse().map_err(|error: protocol::key::Error| Problem::new(Code::InvalidRequest, error.to_string()))?;
    if node_id == api.node.node_id {
        return Err(Problem::new(Code::InvalidRequest, "this is the node itself: there is no way to measure").into());
    }
    let begun = Instant::now();
    let (rtt, via) = api.node.mesh()?.measure(node_id).await.map_err(Problem::from)?;
    tracing::debug!(%node_id, took = ?begun.elapsed(), "pinged");
    Ok(Json(Pong { node_id, rtt_us: u64::try_from(rtt.as_micros()).unwrap_or(u64::MAX), via }))
}

pub(super) async fn limits(State(api): State<Api>) -> Result<Json<List<Limit>>, Failure> {
    Ok(Json(api.node.mesh()?.limits().await.map_err(Problem::from)?.into()))
}

pub(super) async fn certificate_authority(State(api): State<Api>) -> Result<Json<CertificateAuthority>, Failure> {
    let none = || {
        Problem::new(Code::NotFound, "the mesh's authority has signed no TLS certificate for this node")
            .hint("it does so in private meshes as soon as it can be reached, unless mesh.tls_cert is set")
    };
    let pem = api.node.mesh()?.certificate_authority().ok_or_else(none)?;
    Ok(Json(CertificateAuthority { mesh_id: api.node.mesh_id.clone(), pem }))
}

pub(super) async fn connect(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Path(node): Path<NodeId>,
) -> Result<Json<List<Peer>>, Failure> {
    require_owner(&api, &caller)?;
    let mesh = api.node.mesh()?;
    mesh.connect(node, JOIN_PATIENCE).await.map_err(Problem::from)?;
    let peers: Vec<Peer> = mesh.peers().into_iter().filter(|peer| peer.node_id == node).collect();
    Ok(Json(peers.into()))
}

pub(super) async fn disconnect(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Path(node): Path<NodeId>,
) -> Result<Json<NodeId>, Failure> {
    require_owner(&api, &caller)?;
    api.node.mesh()?.disconnect(node).await;
    Ok(Json(node))
}

pub(super) async fn bans(State(api): State<Api>) -> Result<Json<List<Ban>>, Failure> {
    Ok(Json(api.node.mesh()?.membership().bans().into()))
}

pub(super) async fn ban(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Path(node): Path<NodeId>,
    Json(ban): Json<BanPeer>,
) -> Result<Json<Ban>, Failure> {
    require_owner(&api, &caller)?;
    if node == api.node.node_id {
        return Err(Problem::new(Code::InvalidRequest, "a node doesn't ban itself").into());
    }
    let reason = ban.reason.unwrap_or_else(|| "the operator's reasons".into());
    if ban.for_s == 0 || reason.is_empty() || reason.len() > 200 {
        return Err(Problem::new(Code::InvalidRequest, "a ban is for 1 s at least, with a reason of 1 to 200 bytes").into());
    }
    Ok(Json(api.node.ban(&caller, node, ban.for_s, reason).await?))
}

pub(super) async fn unban(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Path(node): Path<NodeId>,
) -> Result<Json<NodeId>, Failure> {
    require_owner(&api, &caller)?;
    api.node.unban(&caller, node).await?;
    Ok(Json(node))
}

pub(super) async fn netcheck(State(api): State<Api>) -> Result<Json<Netcheck>, Failure> {
    Ok(Json(api.node.mesh()?.netcheck().await.map_err(Problem::from)?))
}

#[derive(Debug, Deserialize)]
pub(super) struct Discover {
    capability: String,
    /// `kademlia` looks nowhere else.
    via: Option<String>,
    timeout_ms: Option<u64>,
}

pub(super) async fn discover(State(api): State<Api>, Query(query): Query<Discover>) -> Result<Json<List<Discovered>>, Failure> {
    let via = match query.via.as_deref() {
        None => Via::Any,
        Some("kademlia") => Via::Kademlia,
        Some(_) => return Err(Problem::new(Code::InvalidRequest, "'via' is 'kademlia', or left out").into()),
    };
    if query.capability.is_empty() || query.capability.len() > 128 {
        return Err(Problem::new(Code::InvalidRequest, "a capability has 1 to 128 bytes: PLUGIN.METHOD").into());
    }
    let timeout = Duration::from_millis(query.timeout_ms.unwrap_or(10_000).clamp(100, 60_000));
    Ok(Json(api.node.discover(&query.capability, via, timeout).await?.into()))
}
