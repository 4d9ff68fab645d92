//! Whose data directory it is: which node's, which owner's, and that it has a store.
//!
//! ```text
//! require    before any key is made: what is missing beside files that prove that it was there is an error
//! set_aside  with --new-identity or --new-store: what belongs to what is lost is moved to former-…/, and the start goes on
//! remember   once the keys and the store are open: identity.json, held against the keys at every further start
//! ```
//!
//! A node's first start makes owner.key, node.key, cache.key, the store and blobs/, in this order. Each file therefore proves
//! that those before it were there. The files that an operator may bring before the first start (owner.key, owner.token,
//! owner.lineage, config.toml, join.token) prove nothing about the node's own key and the store.

use std::{fs, io, path::Path};

use mesh::Papers;
use protocol::{Code, Credential, Did, Expect, NodeId, Problem, Signed, Timestamp};
use serde::{Deserialize, Serialize};

use crate::{data_dir::DataDir, owner};

/// The file that says whose directory it is. Not secret.
const FILE: &str = "identity.json";
/// Far above what three fields take.
const MAX_FILE: u64 = 4_096;
/// The store's database, and its write-ahead log, which may be all that is left of it.
pub(crate) const DATABASE: &str = "store/mcp-zero.sqlite";
const LOG: &str = "store/mcp-zero.sqlite-wal";
const NODE_KEY: &str = "node.key";
const AUTHORITY_KEY: &str = "authority.key";
/// What is written only by a node that runs, so with its keys and its store beside it.
const OF_A_RUN: &[&str] =
    &[FILE, "credential.json", "revocations.json", "bans.json", "peers.json", AUTHORITY_KEY, "ca.pem", "blobs", DATABASE, LOG];
/// What is a node's own: another node can't use it.
const OF_A_NODE: &[&str] = &[
    FILE,
    NODE_KEY,
    "cache.key",
    "credential.json",
    "revocations.json",
    "bans.json",
    "peers.json",
    AUTHORITY_KEY,
    "ca.pem",
    "blobs",
    "cache",
];

/// What the operator allows to be made anew, where it is missing.
#[derive(Debug, Clone, Copy, Default, clap::Args)]
pub(crate) struct Anew {
    /// Begin as a new node if a key of this directory's node is missing; its other files are moved to former-TIME/.
    #[arg(long)]
    new_identity: bool,
    /// Begin with an empty store if this directory's is missing; the keys stay, what is left of it is moved to former-TIME/.
    #[arg(long)]
    new_store: bool,
}

/// What `identity.json` says.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Written {
    node: NodeId,
    owner: Did,
}

/// What a directory lacks though it had it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Missing {
    what: &'static str,
    /// The file that proves it.
    evidence: &'static str,
}

/// Refuses to start where a key or the store is missing that was there, unless it may be made anew. `in_token` says that the
/// configuration names a token with the owner's key.
pub(crate) fn require(directory: &DataDir, anew: Anew, in_token: bool) -> Result<(), Problem> {
    let of_owner = owner_key(directory.path(), in_token);
    let of_node = missing(directory.path(), NODE_KEY, &["cache.key"]);
    let of_authority = authority_key(directory)?;
    let key = of_owner.or(of_node).or(of_authority);
    if let Some(missing) = key {
        if !anew.new_identity {
            return Err(lost_key(directory, missing));
        }
        // A new node of the same owner, if that one's key is there.
        let owner_files: &[&str] = if of_owner.is_some() { owner::FILES } else { &[] };
        let former = set_aside(directory, owner_files.iter().chain(OF_A_NODE))?;
        tracing::warn!(missing = missing.what, former, "beginning as a new node (--new-identity); what was here is kept in former");
        return Ok(());
    }
    match missing(directory.path(), DATABASE, &[]) {
        Some(missing) if !anew.new_store => Err(lost_store(directory, missing)),
        Some(_) => {
            let former = set_aside(directory, [].iter())?;
            tracing::warn!(former, "beginning with an empty store (--new-store); what was left of the old one is kept in former");
            Ok(())
        }
        None => Ok(()),
    }
}

/// The file that proves that this directory had an owner's key, if it has none.
pub(crate) fn had_owner(directory: &DataDir) -> Option<&'static str> {
    owner_key(directory.path(), false).map(|missing| missing.evidence)
}

fn owner_key(directory: &Path, in_token: bool) -> Option<Missing> {
    let named = in_token || owner::KEY_FILES.iter().any(|name| directory.join(name).exists());
    if named { None } else { missing(directory, owner::KEY_FILES[0], &[owner::LINEAGE_FILE, NODE_KEY, "cache.key"]) }
}

/// Whether a file is missing that must have been there: what a run leaves proves it, or one of these.
fn missing(directory: &Path, what: &'static str, beside: &[&'static str]) -> Option<Missing> {
    if directory.join(what).exists() {
        return None;
    }
    let evidence = beside.iter().chain(OF_A_RUN).find(|name| **name != what && directory.join(name).exists())?;
    Some(Missing { what, evidence })
}

/// A node whose credential says that it issued it itself has the authority's key.
fn authority_key(directory: &DataDir) -> Result<Option<Missing>, Problem> {
    if directory.join(AUTHORITY_KEY).exists() {
        return Ok(None);
    }
    let own = credential(directory)?.filter(|own| own.document().issuer == own.document().node);
    Ok(own.map(|_| Missing { what: AUTHORITY_KEY, evidence: "credential.json" }))
}

/// The credential in the directory, expired or not. One that can't be read is the membership's to judge.
fn credential(directory: &DataDir) -> Result<Option<Signed<Credential>>, Problem> {
    let Some(sealed) = Papers::at(directory.path()).credential()? else { return Ok(None) };
    let Ok(header) = sealed.claimed_header() else { return Ok(None) };
    Ok(sealed.open(Expect::archived(&header.mesh)).ok())
}

fn lost_key(directory: &DataDir, Missing { what, evidence }: Missing) -> Problem {
    let path = directory.path().display();
    let problem = format!("{what} is missing in {path}, where {evidence} proves that there was one; no other was made in its place");
    let restore = match what {
        NODE_KEY => "restore node.key from a backup of this directory".to_owned(),
        AUTHORITY_KEY => "restore authority.key from a backup of this directory: without it the mesh has no authority, and \
            'mcpctl revoke' and 'token create' can't work; to end the mesh, remove credential.json"
            .to_owned(),
        _ => "restore owner.key (or owner.token, where it is in a token, and owner.lineage, if it was rotated) from a backup, or copy \
            it from another node of the same owner"
            .to_owned(),
    };
    Problem::new(Code::InvalidConfig, problem)
        .hint(format!("{restore}; 'mcpd --new-identity' begins as a new node instead, and keeps what is here in former-TIME/"))
}

fn lost_store(directory: &DataDir, Missing { evidence, .. }: Missing) -> Problem {
    let database = directory.join(DATABASE);
    let problem = format!(
        "the store's database {} is missing, and {evidence} proves that there was one; no empty one was made in its place",
        database.display()
    );
    Problem::new(Code::InvalidConfig, problem).hint(
        "restore store/ from a backup (or mount the disk that it is on); 'mcpd --new-store' begins with an empty one instead: agents, \
         agreements and the trace are gone then, the keys stay, and 'mcpctl agent recover --from-mesh' brings back agents whose \
         snapshots other nodes of the owner hold",
    )
}

/// Moves files, and what is left in `store/`, to a directory beside them. Says which one.
fn set_aside<'a>(directory: &DataDir, names: impl Iterator<Item = &'a &'a str>) -> Result<String, Problem> {
    let former = format!("former-{}", Timestamp::now().as_second());
    let aside = directory.subdirectory(&former)?;
    let failed =
        |error: io::Error| Problem::new(Code::StoreFailed, format!("can't move the old node's files to {}: {error}", aside.display()));
    for name in names {
        move_to(&directory.join(name), &aside.join(name)).map_err(failed)?;
    }
    // Its files one by one: the directory itself may be where a disk is mounted.
    let left = match fs::read_dir(directory.join("store")) {
        Ok(files) => files.map(|file| Ok(file?.file_name())).collect::<io::Result<Vec<_>>>().map_err(failed)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(error) => return Err(failed(error)),
    };
    if !left.is_empty() {
        let (from, to) = (directory.join("store"), directory.subdirectory(&format!("{former}/store"))?);
        left.iter().try_for_each(|name| move_to(&from.join(name), &to.join(name))).map_err(failed)?;
    }
    fs::File::open(directory.path()).and_then(|directory| directory.sync_all()).map_err(failed)?;
    Ok(former)
}

fn move_to(from: &Path, to: &Path) -> io::Result<()> {
    match fs::rename(from, to) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Holds the keys against what the directory says of them, and writes that down at the first start.
pub(crate) fn remember(directory: &DataDir, node: NodeId, owner: Did) -> Result<(), Problem> {
    let path = directory.join(FILE);
    let broken = |why: String| {
        let problem = Problem::new(Code::InvalidConfig, format!("{}: {why}", path.display()));
        problem.hint("restore it; or remove it, if you are sure that the keys here are the ones of before: it is made again from them")
    };
    let found = match fs::metadata(&path) {
        Ok(found) if found.len() > MAX_FILE => return Err(broken(format!("it is over {MAX_FILE} bytes"))),
        Ok(_) => fs::read(&path).map_err(|error| broken(error.to_string()))?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            of_credential(directory, node, owner)?;
            let written = serde_json::to_string_pretty(&Written { node, owner }).expect("two texts");
            return directory.replace_secret(FILE, &written);
        }
        Err(error) => return Err(broken(error.to_string())),
    };
    let before: Written = serde_json::from_slice(&found).map_err(|error| broken(error.to_string()))?;
    same(&path, &before, &Written { node, owner })
}

/// What was written before there was an `identity.json` says it, too.
fn of_credential(directory: &DataDir, node: NodeId, owner: Did) -> Result<(), Problem> {
    let Some(own) = credential(directory)? else { return Ok(()) };
    let before = Written { node: own.document().node, owner: own.document().owner };
    same(&directory.join("credential.json"), &before, &Written { node, owner })
}

fn same(path: &Path, before: &Written, now: &Written) -> Result<(), Problem> {
    let refused = |what: &str, hint: &str| Problem::new(Code::InvalidConfig, format!("{}: {what}", path.display())).hint(hint);
    if before.node != now.node {
        let problem = format!("this directory is of node {}, but node.key is the key of {}", before.node, now.node);
        return Err(refused(&problem, "put back the node.key of before, or give the other node a directory of its own"));
    }
    if before.owner != now.owner {
        let problem = format!(
            "this directory is of owner {}, but the owner's key here is of {}, or owner.lineage is missing by which it is that owner's",
            before.owner, now.owner
        );
        return Err(refused(
            &problem,
            "put back the owner.key (or owner.token) and owner.lineage of before; another owner needs a new directory",
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOTHING: Anew = Anew { new_identity: false, new_store: false };

    /// A directory with these files.
    fn of(names: &[&str]) -> (tempfile::TempDir, DataDir) {
        let place = tempfile::tempdir().expect("temp");
        let directory = DataDir::open(&place.path().join("node")).expect("free");
        for name in names {
            match *name {
                "blobs" | "cache" => drop(directory.subdirectory(name).expect("made")),
                name => {
                    directory.subdirectory("store").expect("made");
                    fs::write(directory.join(name), "x").expect("written");
                }
            }
        }
        (place, directory)
    }

    fn refusal(names: &[&str]) -> String {
        let (_place, directory) = of(names);
        let before = fs::read_dir(directory.path()).expect("listed").count();
        let problem = require(&directory, NOTHING, false).expect_err(&format!("{names:?}"));
        assert!(problem.code == Code::InvalidConfig && problem.hint.is_some(), "{problem:?}");
        assert_eq!(fs::read_dir(directory.path()).expect("listed").count(), before, "nothing was made");
        problem.detail
    }

    #[test]
    fn a_first_start_needs_nothing_and_may_be_interrupted_anywhere() {
        let made = ["owner.key", NODE_KEY, "cache.key", DATABASE, "blobs", FILE];
        for so_far in 0..=made.len() {
            let (_place, directory) = of(&made[..so_far]);
            require(&directory, NOTHING, false).unwrap_or_else(|problem| panic!("{:?}: {problem}", &made[..so_far]));
        }
    }

    #[test]
    fn what_an_operator_brings_before_the_first_start_is_no_loss() {
        for brought in
            [&["owner.key"][..], &["owner.key", "owner.lineage"], &["owner.token", "owner.lineage"], &["config.toml", "join.token"]]
        {
            let (_place, directory) = of(brought);
            require(&directory, NOTHING, false).unwrap_or_else(|problem| panic!("{brought:?}: {problem}"));
        }
        let (_place, directory) = of(&["owner.lineage"]);
        require(&directory, NOTHING, true).expect("the configuration names the token");
    }

    #[test]
    fn what_is_missing_beside_its_evidence_is_named() {
        let whole = ["owner.key", NODE_KEY, "cache.key", DATABASE, "blobs", FILE];
        let without = |what: &str| -> Vec<&str> { whole.into_iter().filter(|name| *name != what).collect() };
        for what in ["owner.key", NODE_KEY, DATABASE] {
            let told = refusal(&without(what));
            assert!(told.contains(what), "{what}: {told}");
        }
        // Each proof by itself.
        for (names, what) in [
            (&["owner.lineage"][..], "owner.key"),
            (&[NODE_KEY], "owner.key"),
            (&[DATABASE], "owner.key"),
            (&["owner.key", DATABASE], NODE_KEY),
            (&["owner.token", "cache.key"], NODE_KEY),
            (&["owner.key", "peers.json"], NODE_KEY),
            (&["owner.key", "ca.pem"], NODE_KEY),
            (&["owner.key", NODE_KEY, "blobs"], DATABASE),
            (&["owner.key", NODE_KEY, "bans.json"], DATABASE),
            (&["owner.key", NODE_KEY, FILE], DATABASE),
            (&["owner.key", NODE_KEY, LOG], DATABASE),
        ] {
            let told = refusal(names);
            assert!(told.contains(&format!("{what} is missing")) || what == DATABASE && told.contains(what), "{names:?}: {told}");
        }
    }

    #[test]
    fn a_new_identity_sets_the_old_one_aside_and_only_where_a_key_is_missing() {
        let anew = Anew { new_identity: true, new_store: false };
        let (_place, directory) = of(&["owner.key", NODE_KEY, "cache.key", DATABASE, "blobs", FILE]);
        require(&directory, anew, false).expect("nothing is missing");
        assert!(directory.join(NODE_KEY).exists() && directory.join(DATABASE).exists(), "nothing was set aside");
        fs::remove_file(directory.join(NODE_KEY)).expect("removed");
        require(&directory, anew, false).expect("a new node");
        assert!(directory.join("owner.key").exists(), "the owner is the same");
        assert!(!directory.join(DATABASE).exists() && !directory.join(FILE).exists() && !directory.join("blobs").exists());
        let former = fs::read_dir(directory.path()).expect("listed").flatten();
        let former = former.map(|file| file.path()).find(|path| path.to_string_lossy().contains("former-")).expect("set aside");
        assert!(former.join(DATABASE).exists() && former.join("cache.key").exists() && former.join("blobs").exists());

        let (_place, directory) = of(&[NODE_KEY, "owner.lineage", DATABASE]);
        require(&directory, anew, false).expect("a new owner");
        assert!(!directory.join(NODE_KEY).exists() && !directory.join("owner.lineage").exists());
    }

    #[test]
    fn a_new_store_keeps_the_keys_and_is_not_made_for_a_lost_key() {
        let anew = Anew { new_identity: false, new_store: true };
        let (_place, directory) = of(&["owner.key", NODE_KEY, FILE, LOG]);
        require(&directory, anew, false).expect("an empty store");
        assert!(directory.join(NODE_KEY).exists() && directory.join(FILE).exists() && !directory.join(LOG).exists());
        fs::remove_file(directory.join(NODE_KEY)).expect("removed");
        assert!(require(&directory, anew, false).expect_err("a key is missing").detail.contains(NODE_KEY));
    }

    #[test]
    fn keys_of_others_are_refused() {
        let (_place, directory) = of(&[]);
        let (node, owner, other) = (protocol::Key::generate(), protocol::Key::generate(), protocol::Key::generate());
        remember(&directory, node.node_id(), owner.did()).expect("the first start");
        remember(&directory, node.node_id(), owner.did()).expect("the same");
        let problem = remember(&directory, other.node_id(), owner.did()).expect_err("another node");
        assert!(problem.detail.contains("node.key") && problem.hint.is_some(), "{problem:?}");
        let problem = remember(&directory, node.node_id(), other.did()).expect_err("another owner");
        assert!(problem.detail.contains("owner.lineage") && problem.hint.is_some(), "{problem:?}");
        fs::write(directory.join(FILE), "{").expect("damaged");
        assert_eq!(remember(&directory, node.node_id(), owner.did()).expect_err("damaged").code, Code::InvalidConfig);
    }
}
