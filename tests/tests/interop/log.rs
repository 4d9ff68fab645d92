//! The trace, as an implementation of transparency logs that isn't ours sees it (`signed_note` and `tlog_tiles`).

use std::{fs, path::PathBuf};

use protocol::{
    api::{Proof, SignedCheckpoint},
    entry::ConsistencyProof,
};
use serde_json::json;
use signed_note::{Note, StandardVerifier, VerifierList};
use tests::{Cluster, until};
use tlog_tiles::{Hash, Tile, TileHashReader, TileReader, check_record, check_tree, prove_record, prove_tree, record_hash, tree_hash};

use crate::fixtures::counter;

/// A checkpoint whose note is signed by this key.
fn opened(note: &str, key: &str) -> Result<tlog_tiles::Checkpoint, String> {
    let note = Note::from_bytes(note.as_bytes()).map_err(|error| error.to_string())?;
    let verifier = StandardVerifier::new(key).map_err(|error| error.to_string())?;
    note.verify(&VerifierList::new(vec![Box::new(verifier)])).map_err(|error| error.to_string())?;
    tlog_tiles::Checkpoint::from_bytes(note.text()).map_err(|error| error.to_string())
}

fn hashes(hashes: &[[u8; 32]]) -> Vec<Hash> {
    hashes.iter().map(|hash| Hash(*hash)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn checkpoints_and_proofs_hold_for_others_at_every_size() {
    let cluster = Cluster::new();
    let node = cluster.node("a").start().await;
    node.host("counter", "demo", counter()).await;
    let checkpoint = async || -> SignedCheckpoint { node.client().get("/v1/trace/checkpoint").await.expect("a checkpoint") };
    let mut signed = vec![checkpoint().await];
    let mut operations = Vec::new();
    for _ in 0..17 {
        operations.push(node.execute("counter", "count", &json!({})).await.expect("it counts").operation);
        signed.push(checkpoint().await);
    }
    let key = signed[0].verifier_key.clone();
    for (older, SignedCheckpoint { note, size, .. }) in signed.iter().enumerate() {
        let new = opened(note, &key).expect("the node signed it");
        assert_eq!(new.size(), *size);
        let forged = note.replacen(&format!("\n{size}\n"), &format!("\n{}\n", size + 1), 1);
        assert!(opened(&forged, &key).expect_err("another size").contains("signature"), "{forged}");
        for old in &signed[..older] {
            let path = format!("/v1/trace/consistency?from={}&to={size}", old.size);
            let proof: ConsistencyProof = node.client().get(&path).await.expect("a proof");
            let old = opened(&proof.old, &key).expect("the node signed it");
            check_tree(&hashes(&proof.hashes), new.size(), *new.hash(), old.size(), *old.hash()).expect("it only grew");
            let other = Hash([7; 32]);
            check_tree(&hashes(&proof.hashes), new.size(), *new.hash(), old.size(), other).expect_err("another tree");
        }
    }
    for operation in operations {
        let Proof { inclusion } = node.client().get(&format!("/v1/trace/proof?operation={operation}")).await.expect("a proof");
        let tree = opened(&inclusion.checkpoint, &key).expect("the node signed it");
        let (proof, leaf) = (hashes(&inclusion.hashes), record_hash(inclusion.entry.as_bytes()));
        check_record(&proof, tree.size(), *tree.hash(), inclusion.index, leaf).expect("it is in the log");
        let other = record_hash(inclusion.entry.replacen("execute", "executE", 1).as_bytes());
        check_record(&proof, tree.size(), *tree.hash(), inclusion.index, other).expect_err("another entry");
    }
}

/// An exported directory, to the other implementation, whose paths name the tiles' height too.
struct Exported(PathBuf);

impl TileReader for Exported {
    fn height(&self) -> u8 {
        8
    }

    fn read_tiles(&self, tiles: &[Tile]) -> Result<Vec<Vec<u8>>, tlog_tiles::Error> {
        let file = |tile: &Tile| self.0.join(tile.path().replacen("tile/8/", "tile/", 1));
        Ok(tiles.iter().map(|tile| fs::read(file(tile)).unwrap_or_else(|error| panic!("{}: {error}", tile.path()))).collect())
    }

    fn save_tiles(&self, _: &[Tile], _: &[Vec<u8>]) {}
}

#[tokio::test(flavor = "multi_thread")]
async fn exported_tiles_are_a_log_to_others() {
    let cluster = Cluster::new();
    let node = cluster.node("a").start().await;
    node.host("counter", "demo", counter()).await;
    let checkpoint = async || -> SignedCheckpoint { node.client().get("/v1/trace/checkpoint").await.expect("a checkpoint") };
    let earlier = checkpoint().await;
    for _ in 0..265 {
        node.execute("counter", "count", &json!({})).await.expect("it counts");
    }
    let directory = cluster.place().join("export");
    node.json(&["trace", "export", directory.to_str().expect("UTF-8")]).await;
    let note = fs::read_to_string(directory.join("checkpoint")).expect("a note");
    let (tree, old) =
        (opened(&note, &earlier.verifier_key).expect("signed"), opened(&earlier.note, &earlier.verifier_key).expect("signed"));
    assert!(tree.size() > 256, "more than one tile: {}", tree.size());

    // Their paths are ours, and every tile that they say a log of this size has is there.
    for tile in Tile::new_tiles(8, 0, tree.size()) {
        let path = tile.path().replacen("tile/8/", "tile/", 1);
        let ours = protocol::tile::Tile::parse(&path).expect("a path of ours");
        assert_eq!((u64::from(ours.width), ours.index), (u64::from(tile.width()), tile.level_index()));
        assert_eq!(fs::read(directory.join(&path)).expect("a tile").len(), tile.width() as usize * 32);
    }
    let exported = Exported(directory.clone());
    let hashes = TileHashReader::new(tree.size(), *tree.hash(), &exported);
    assert_eq!(tree_hash(tree.size(), &hashes).expect("a root"), *tree.hash());
    let grown = prove_tree(tree.size(), old.size(), &hashes).expect("a proof");
    check_tree(&grown, tree.size(), *tree.hash(), old.size(), *old.hash()).expect("it only grew");
    // Each entry of the bundles is in the tree, by proofs that they make of the tiles.
    let mut index = 0;
    for bundle in protocol::tile::Tile::row(protocol::tile::Content::Entries, tree.size()) {
        let bytes = fs::read(directory.join(bundle.path())).expect("a bundle");
        for entry in protocol::tile::unbundle(&bytes).expect("entries") {
            let proof = prove_record(tree.size(), index, &hashes).expect("a proof");
            check_record(&proof, tree.size(), *tree.hash(), index, record_hash(entry)).expect("it is in the log");
            index += 1;
        }
    }
    assert_eq!(index, tree.size());
    // They notice a changed tile as well.
    let file = directory.join("tile/0/000");
    let mut bytes = fs::read(&file).expect("a tile");
    bytes[40] ^= 1;
    fs::write(&file, bytes).expect("written");
    let entries = fs::read(directory.join("tile/entries/000")).expect("a bundle");
    let entry = record_hash(protocol::tile::unbundle(&entries).expect("entries")[7]);
    let proven = prove_record(tree.size(), 7, &hashes).and_then(|proof| check_record(&proof, tree.size(), *tree.hash(), 7, entry));
    proven.expect_err("a changed tile");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cosigned_checkpoint_is_still_a_checkpoint_to_others() {
    let mut cluster = Cluster::new();
    let owner = cluster.node("owner").set("trace.checkpoint_seconds", "1").start().await;
    cluster.enter_through(&[owner.address("tcp").to_owned()]);
    let peer = cluster.node("peer").join().await;
    let cosigned =
        until("a cosignature", async || owner.client().get::<SignedCheckpoint>("/v1/trace/checkpoint?cosigned=true").await.ok()).await;
    let checkpoint = opened(&cosigned.note, &cosigned.verifier_key).expect("the node signed it");
    assert_eq!(checkpoint.size(), cosigned.size);
    // The other's signatures are read too: name and key id are what the verifier key says, with 72 bytes of time and signature.
    let note = Note::from_bytes(cosigned.note.as_bytes()).expect("a note");
    let verifier = StandardVerifier::new(&cosigned.verifier_key).expect("a key");
    let (owners, others) = note.verify(&VerifierList::new(vec![Box::new(verifier)])).expect("the node signed it");
    assert_eq!((owners.len(), others.len()), (1, 1));
    let key: Vec<_> = cosigned.cosigners[0].verifier_key.split('+').collect();
    assert_eq!((others[0].name(), format!("{:08x}", others[0].id()).as_str()), (key[0], key[1]));
    assert_eq!((key[0], others[0].signature().len()), (format!("mcp-zero/{}", peer.id()).as_str(), 72));
}
