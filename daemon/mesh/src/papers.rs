//! What a node keeps on disk of its membership: shown at every start, replaced as a whole, never half written.
//!
//! ```text
//! credential.json    this node's credential
//! revocations.json   the newest list of revocations
//! bans.json          nodes that are kept out
//! peers.json         peers that were connected, and where
//! join.token         a join token that wasn't used yet: a secret
//! ```

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use protocol::{
    Code, Credential, Key, MeshId, NodeId, Problem, Signed, Signer, Timestamp, Token, api,
    credential::Revocations,
    document::{Document, Sealed},
    token,
};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::membership::{Membership, Pending};

const CREDENTIAL: &str = "credential.json";
const REVOCATIONS: &str = "revocations.json";
const TOKEN: &str = "join.token";
const PEERS: &str = "peers.json";
const BANS: &str = "bans.json";
/// The largest of these files: a full list of revocations.
const MAX_FILE: u64 = 2 * 1024 * 1024;

/// Peers that are kept: enough that one of them is there after years.
pub(crate) const MAX_PEERS: usize = 64;

/// A node's papers, in its data directory. Each call reads or writes the disk.
#[derive(Debug, Clone)]
pub struct Papers(PathBuf);

impl Papers {
    /// The papers in `directory`.
    pub fn at(directory: &Path) -> Self {
        Self(directory.to_owned())
    }

    /// The membership that these papers and the configuration make: `None` for a node that is in no mesh.
    ///
    /// # Errors
    /// A paper can't be read, or is of another mesh than the one configured.
    pub fn membership(
        &self,
        configured: Option<&MeshId>,
        keys: &Keys,
        given: Option<&str>,
        now: Timestamp,
    ) -> Result<Option<Membership>, Problem> {
        let credential = self.credential()?;
        let kept = self.token()?;
        let token = given.or(kept.as_ref().map(|text| text.as_str()));
        let token = token.map(|text| Token::read(text, now)).transpose();
        let (token, expired) = match token {
            Ok(token) => (token, None),
            // A token that has expired does no harm to a node that doesn't need it any more.
            Err(problem) if credential.is_some() => (None, Some(problem)),
            Err(problem) => return Err(problem),
        };
        let of_credential = credential.as_ref().map(mesh_of).transpose()?;
        let of_token = token.as_ref().map(|(_, grant)| grant.mesh.clone());
        let Some(mesh) = of_credential.clone().or(of_token).or_else(|| configured.cloned()) else { return Ok(None) };
        if let Some(configured) = configured.filter(|configured| **configured != mesh) {
            return Err(Problem::new(
                Code::InvalidConfig,
                format!("mesh.id is {configured}, but this node's credential or token is of mesh {mesh}"),
            )
            .hint("leave mesh.id out, or leave that mesh first ('mcpctl leave')"));
        }
        let membership = Membership::new(mesh, keys.node.node_id());
        membership.restore_bans(self.bans());
        if let Some(sealed) = credential {
            match membership.set_credential(sealed.clone(), now) {
                Ok(signed) => tracing::debug!(expires_at = %signed.document().header.expires_at, "this node is a member"),
                Err(problem) if problem.code == Code::Expired => {
                    tracing::warn!(%problem, "this node's credential has expired: the mesh's authority is asked to prolong it");
                    membership.hold_past(sealed);
                }
                Err(problem) => tracing::error!(%problem, "this node's credential can't be used: join again with a new token"),
            }
        }
        if let Some(sealed) = self.revocations()? {
            membership.learn(sealed, now)?;
        }
        if let Some((token, grant)) = token.filter(|(_, grant)| grant.mesh == *membership.mesh()) {
            // A member needs the token no more, but may have no other address to begin with.
            membership.set_entries(grant.addresses.clone());
            if membership.credential().is_none() {
                membership.hold(Pending { token, grant, node: keys.node.clone(), owner: Arc::clone(&keys.owner) });
            }
        }
        if let Some(problem) = expired.filter(|_| membership.credential().is_none()) {
            return Err(problem);
        }
        Ok(Some(membership))
    }

    /// The credential.
    ///
    /// # Errors
    /// The file can't be read, or isn't one.
    pub fn credential(&self) -> Result<Option<Sealed<Credential>>, Problem> {
        self.document(CREDENTIAL)
    }

    /// Keeps this node's credential. The token that it was had by is not needed any more.
    ///
    /// # Errors
    /// It can't be written.
    pub fn keep_credential(&self, credential: &Signed<Credential>) -> Result<(), Problem> {
        self.write(CREDENTIAL, &encode(credential))?;
        self.remove(TOKEN)
    }

    fn revocations(&self) -> Result<Option<Sealed<Revocations>>, Problem> {
        self.document(REVOCATIONS)
    }

    /// Keeps a list of revocations.
    ///
    /// # Errors
    /// It can't be written.
    pub fn keep_revocations(&self, revocations: &Signed<Revocations>) -> Result<(), Problem> {
        self.write(REVOCATIONS, &encode(revocations))
    }

    fn token(&self) -> Result<Option<Zeroizing<String>>, Problem> {
        let bytes = self.read(TOKEN)?.map(Zeroizing::new);
        Ok(bytes.and_then(|bytes| Some(Zeroizing::new(std::str::from_utf8(&bytes).ok()?.to_owned()))))
    }

    /// Keeps a token until it is used.
    ///
    /// # Errors
    /// It can't be written.
    pub fn keep_token(&self, text: &str) -> Result<(), Problem> {
        debug_assert!(text.len() <= token::MAX_TEXT, "it was read before");
        self.write(TOKEN, text.as_bytes())
    }

    /// Forgets the mesh: the node is in none at its next start.
    ///
    /// # Errors
    /// A file can't be removed.
    pub fn clear(&self) -> Result<(), Problem> {
        [TOKEN, REVOCATIONS, PEERS, CREDENTIAL].into_iter().try_for_each(|name| self.remove(name))
    }

    /// The peers that were connected when they were kept last. A file that can't be read is as good as none.
    pub(crate) fn peers(&self) -> Vec<KnownPeer> {
        let bytes = self.read(PEERS).ok().flatten().unwrap_or_default();
        let mut peers: Vec<KnownPeer> = serde_json::from_slice(&bytes).unwrap_or_default();
        peers.truncate(MAX_PEERS);
        peers
    }

    /// Keeps peers, for a start when no entry node answers.
    pub(crate) fn keep_peers(&self, peers: &[KnownPeer]) -> Result<(), Problem> {
        self.write(PEERS, &serde_json::to_vec(peers).expect("peers have text keys"))
    }

    fn bans(&self) -> Vec<api::Ban> {
        let bytes = self.read(BANS).ok().flatten().unwrap_or_default();
        serde_json::from_slice(&bytes).unwrap_or_default()
    }

    /// Keeps the bans that hold.
    pub(crate) fn keep_bans(&self, bans: &[api::Ban]) -> Result<(), Problem> {
        self.write(BANS, &serde_json::to_vec(bans).expect("bans are text"))
    }

    fn document<D: Document>(&self, name: &str) -> Result<Option<Sealed<D>>, Problem> {
        let broken = |error: serde_json::Error| {
            Problem::new(Code::InvalidConfig, format!("{} can't be read: {error}", self.0.join(name).display()))
                .hint("restore it, or remove it and join again")
        };
        self.read(name)?.map(|bytes| serde_json::from_slice(&bytes).map_err(broken)).transpose()
    }

    fn read(&self, name: &str) -> Result<Option<Vec<u8>>, Problem> {
        let path = self.0.join(name);
        let mut bytes = Vec::new();
        match File::open(&path).and_then(|file| file.take(MAX_FILE).read_to_end(&mut bytes)) {
            Ok(_) => Ok(Some(bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(failed("read", &path, &error)),
        }
    }

    /// Writes beside and renames, so that a power cut leaves the old or the new.
    fn write(&self, name: &str, bytes: &[u8]) -> Result<(), Problem> {
        let (path, beside) = (self.0.join(name), self.0.join(format!("{name}.new")));
        let write = || {
            let mut file = OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&beside)?;
            file.write_all(bytes)?;
            file.sync_all()?;
            fs::rename(&beside, &path)?;
            File::open(&self.0)?.sync_all()
        };
        write().map_err(|error| failed("write", &path, &error))
    }

    fn remove(&self, name: &str) -> Result<(), Problem> {
        let path = self.0.join(name);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("remove", &path, &error)),
            Ok(()) | Err(_) => Ok(()),
        }
    }
}

/// A peer, and where it was.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct KnownPeer {
    pub(crate) node: NodeId,
    pub(crate) addresses: Vec<String>,
}

/// The keys that ask for membership.
#[derive(Debug, Clone)]
pub struct Keys {
    /// The node's.
    pub node: Key,
    /// Its owner's, which may be elsewhere.
    pub owner: Arc<dyn Signer>,
}

/// The mesh that a credential claims to be of, before anything of it is verified.
fn mesh_of(sealed: &Sealed<Credential>) -> Result<MeshId, Problem> {
    let claimed = sealed.claimed_header().map_err(Problem::from)?;
    Ok(claimed.mesh)
}

fn encode<D: Document>(signed: &Signed<D>) -> Vec<u8> {
    serde_json::to_vec_pretty(signed).expect("envelopes are text")
}

fn failed(what: &str, path: &Path, error: &io::Error) -> Problem {
    Problem::new(Code::StoreFailed, format!("can't {what} {}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use protocol::{
        Header, SignedDuration, TokenId,
        credential::{MAX_VALIDITY, Role},
        id::CredentialId,
        token::Grant,
    };

    use super::*;

    struct Case {
        place: tempfile::TempDir,
        authority: Key,
        keys: Keys,
        now: Timestamp,
    }

    impl Case {
        fn new() -> Self {
            let place = tempfile::tempdir().expect("a directory");
            Self {
                place,
                authority: Key::generate(),
                keys: Keys { node: Key::generate(), owner: Arc::new(Key::generate()) },
                now: Timestamp::now(),
            }
        }

        fn papers(&self) -> Papers {
            Papers::at(self.place.path())
        }

        fn mesh(&self) -> MeshId {
            MeshId::of(self.authority.did())
        }

        fn token(&self) -> Zeroizing<String> {
            let key = Token::key();
            let grant = Grant {
                id: TokenId::new(),
                mesh: self.mesh(),
                key: key.did(),
                expires_at: self.now + SignedDuration::from_hours(1),
                uses: 1,
                role: Role::Edge,
                zone: None,
                issuer: self.authority.node_id(),
                addresses: vec!["/ip4/127.0.0.1/tcp/1".into()],
            };
            Token::new(&grant, &key, &self.authority).to_text()
        }

        fn credential(&self) -> Signed<Credential> {
            let credential = Credential {
                header: Header::new::<Credential>(&self.mesh(), self.now, MAX_VALIDITY),
                id: CredentialId::new(),
                node: self.keys.node.node_id(),
                owner: self.keys.owner.did(),
                role: Role::Edge,
                zone: None,
                issuer: self.authority.node_id(),
            };
            Signed::sign(credential, &[&self.authority])
        }

        fn open(&self, configured: Option<&str>, now: Timestamp) -> Result<Option<Membership>, Problem> {
            let configured = configured.map(|text| text.parse().expect("a mesh id"));
            self.papers().membership(configured.as_ref(), &self.keys, None, now)
        }
    }

    #[test]
    fn papers_say_which_mesh_a_node_is_in() {
        let case = Case::new();
        assert!(case.open(None, case.now).expect("no papers").is_none());
        assert!(case.open(Some("dev"), case.now).expect("no papers").expect("an open mesh").is_open());
        let token = case.token();
        case.papers().keep_token(&token).expect("written");
        let waiting = case.open(None, case.now).expect("a token").expect("its mesh");
        assert_eq!((waiting.mesh(), waiting.credential().is_none(), waiting.entries().len()), (&case.mesh(), true, 1));
        case.papers().keep_credential(&case.credential()).expect("written");
        assert!(!case.place.path().join(TOKEN).exists(), "a used token is not kept");
        let member = case.open(None, case.now).expect("a credential").expect("its mesh");
        assert_eq!(member.credential().expect("shown").document().owner, case.keys.owner.did());
        assert!(case.open(Some(case.mesh().as_str()), case.now).expect("the same mesh").is_some());
        assert_eq!(case.open(Some("dev"), case.now).expect_err("another mesh").code, Code::InvalidConfig);
        let late = case.open(None, case.now + MAX_VALIDITY).expect("expired").expect("its mesh");
        assert!(late.credential().is_none() && late.mesh() == &case.mesh());
        case.papers().clear().expect("removed");
        assert!(case.open(None, case.now).expect("no papers").is_none());
    }

    #[test]
    fn a_broken_paper_is_named() {
        let case = Case::new();
        fs::write(case.place.path().join(CREDENTIAL), b"{").expect("written");
        let problem = case.open(None, case.now).expect_err("broken");
        assert!(problem.detail.contains(CREDENTIAL), "{problem}");
    }
}
