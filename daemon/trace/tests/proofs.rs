//! Proofs made from stored tiles, held against RFC 6962 as its recursive definitions say it, and against the
//! verification that auditors use.

use proptest::prelude::*;
use protocol::merkle::{Hash, empty_root, leaf_hash, node_hash, verify_consistency, verify_inclusion};
use trace::{Plan, Tree, proof};

/// What a store keeps: a row of hashes for each stored level.
#[derive(Default)]
struct Stored {
    tree: Tree,
    rows: [Vec<Hash>; 3],
    roots: Vec<Hash>,
}

impl Stored {
    fn of(leaves: &[Hash]) -> Self {
        let mut stored = Self::default();
        for leaf in leaves {
            stored.rows[0].push(*leaf);
            for node in stored.tree.append(*leaf) {
                let row = &mut stored.rows[usize::from(node.level / 8)];
                assert_eq!(node.index, row.len() as u64, "levels fill from the left");
                row.push(node.hash);
            }
            stored.roots.push(stored.tree.root());
        }
        stored
    }

    /// Reads as a daemon would, refusing what isn't stored.
    fn run(&self, plan: &Plan) -> Vec<Hash> {
        let read = |read: &trace::Read| {
            assert!((1..=256).contains(&read.count), "{read:?}");
            self.rows[usize::from(read.level / 8)][read.from as usize..][..read.count as usize].to_vec()
        };
        plan.assemble(plan.reads().iter().map(read).collect()).expect("all was read")
    }

    fn inclusion(&self, index: u64, size: u64) -> Vec<Hash> {
        self.run(&proof::inclusion(index, size).expect("within the log"))
    }

    fn consistency(&self, old: u64, new: u64) -> Vec<Hash> {
        self.run(&proof::consistency(old, new).expect("it grew"))
    }

    /// The root of the first `size` leaves.
    fn root(&self, size: u64) -> Hash {
        size.checked_sub(1).map_or_else(empty_root, |last| self.roots[last as usize])
    }
}

fn leaves(count: u64) -> Vec<Hash> {
    (0..count).map(|i| leaf_hash(&i.to_be_bytes())).collect()
}

/// `MTH` of RFC 6962, section 2.1.
fn naive_root(leaves: &[Hash]) -> Hash {
    match leaves {
        [] => empty_root(),
        [leaf] => *leaf,
        _ => {
            let (left, right) = leaves.split_at(leaves.len().next_power_of_two() / 2);
            node_hash(&naive_root(left), &naive_root(right))
        }
    }
}

/// `PATH` of RFC 6962, section 2.1.1.
fn naive_path(index: usize, leaves: &[Hash]) -> Vec<Hash> {
    if leaves.len() < 2 {
        return Vec::new();
    }
    let (left, right) = leaves.split_at(leaves.len().next_power_of_two() / 2);
    let (mut path, sibling) = match index.checked_sub(left.len()) {
        None => (naive_path(index, left), right),
        Some(index) => (naive_path(index, right), left),
    };
    path.push(naive_root(sibling));
    path
}

/// `SUBPROOF` of RFC 6962, section 2.1.2.
fn naive_subproof(old: usize, leaves: &[Hash], whole: bool) -> Vec<Hash> {
    if old == leaves.len() {
        return if whole { Vec::new() } else { vec![naive_root(leaves)] };
    }
    let (left, right) = leaves.split_at(leaves.len().next_power_of_two() / 2);
    let (mut hashes, sibling) =
        if old <= left.len() { (naive_subproof(old, left, whole), right) } else { (naive_subproof(old - left.len(), right, false), left) };
    hashes.push(naive_root(sibling));
    hashes
}

fn hex(text: &str) -> Hash {
    protocol::digest::unhex32(text).expect("64 digits")
}

/// The leaves and roots that the reference implementation of RFC 6962 (Certificate Transparency) tests itself with.
#[test]
fn certificate_transparency_known_answers() {
    let entries: [&[u8]; 8] = [b"", b"\0", b"\x10", b"\x20\x21", b"\x30\x31", b"\x40\x41\x42\x43", b"PQRSTUVW", b"`abcdefghijklmno"];
    let roots = [
        "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
        "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
        "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
        "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
        "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
        "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
        "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
    ];
    assert_eq!(Tree::new().root(), hex("e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"));
    let stored = Stored::of(&entries.map(leaf_hash));
    assert_eq!(stored.roots, roots.map(hex));

    let path = [
        "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
    ];
    assert_eq!(stored.inclusion(0, 8), path.map(hex));
    assert_eq!(stored.consistency(1, 8), path.map(hex));
    let grown = [
        "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a",
        "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    ];
    assert_eq!(stored.consistency(6, 8), grown.map(hex));
}

#[test]
fn every_proof_of_every_small_log_is_that_of_the_definition() {
    let leaves = leaves(48);
    let stored = Stored::of(&leaves);
    for size in 1..=48 {
        let tree = &leaves[..size];
        assert_eq!(stored.root(size as u64), naive_root(tree));
        for i in 0..size {
            assert_eq!(stored.inclusion(i as u64, size as u64), naive_path(i, tree), "{i} of {size}");
            assert_eq!(stored.consistency(i as u64 + 1, size as u64), naive_subproof(i + 1, tree, true), "{} to {size}", i + 1);
        }
    }
}

/// Sizes around the edges of tiles of both stored levels, with entries and older sizes around edges.
#[test]
fn proofs_at_tile_boundaries_verify() {
    let edges = [0, 1, 127, 128, 255, 256, 257, 511, 512, 513, 32_768, 65_279, 65_280, 65_281, 65_535, 65_536, 65_537, 65_792, 66_050];
    let leaves = leaves(66_050);
    let stored = Stored::of(&leaves);
    assert_eq!((stored.rows[1].len(), stored.rows[2].len()), (258, 1));
    for size in edges {
        let root = stored.root(size);
        for index in edges.into_iter().filter(|index| *index < size) {
            let proof = stored.inclusion(index, size);
            verify_inclusion(&leaves[index as usize], index, size, &proof, &root).expect("it is in the log");
            let proof = stored.consistency(index, size);
            verify_consistency(index, &stored.root(index), size, &root, &proof).expect("it only grew");
        }
        let restored = Tree::restore(size, stored.run(&proof::frontier(size))).expect("enough roots");
        assert_eq!((restored.size(), restored.root()), (size, root));
    }
    for size in [257, 65_536, 65_537] {
        assert_eq!(stored.root(size), naive_root(&leaves[..size as usize]));
        assert_eq!(stored.inclusion(200, size), naive_path(200, &leaves[..size as usize]));
        assert_eq!(stored.consistency(255, size), naive_subproof(255, &leaves[..size as usize], true));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn proofs_verify_and_no_flipped_bit_does(
        (size, index, old) in (1u64..=3_000).prop_flat_map(|size| (Just(size), 0..size, 1..=size)),
        bit in 0u8..=255,
        pick in any::<prop::sample::Index>(),
    ) {
        let leaves = leaves(size);
        let stored = Stored::of(&leaves);
        let (root, old_root, leaf) = (stored.root(size), stored.root(old), leaves[index as usize]);
        prop_assert_eq!(root, naive_root(&leaves));
        let flip = |hash: &mut Hash| hash[usize::from(bit / 8)] ^= 1 << (bit % 8);
        let flipped = |hash: &Hash| { let mut other = *hash; flip(&mut other); other };

        let proof = stored.inclusion(index, size);
        prop_assert_eq!(&proof, &naive_path(index as usize, &leaves));
        prop_assert!(verify_inclusion(&leaf, index, size, &proof, &root).is_ok());
        prop_assert!(verify_inclusion(&flipped(&leaf), index, size, &proof, &root).is_err());
        prop_assert!(verify_inclusion(&leaf, index, size, &proof, &flipped(&root)).is_err());
        prop_assert!(verify_inclusion(&leaf, index ^ 1 << (bit % 12), size, &proof, &root).is_err());
        prop_assert!(verify_inclusion(&leaf, index, size, &[&proof[..], &[root]].concat(), &root).is_err());
        if !proof.is_empty() {
            let mut forged = proof.clone();
            flip(&mut forged[pick.index(proof.len())]);
            prop_assert!(verify_inclusion(&leaf, index, size, &forged, &root).is_err());
            prop_assert!(verify_inclusion(&leaf, index, size, &proof[1..], &root).is_err());
        }

        let proof = stored.consistency(old, size);
        prop_assert_eq!(&proof, &naive_subproof(old as usize, &leaves, true));
        prop_assert!(verify_consistency(old, &old_root, size, &root, &proof).is_ok());
        prop_assert!(verify_consistency(old, &flipped(&old_root), size, &root, &proof).is_err());
        prop_assert!(verify_consistency(old, &old_root, size, &flipped(&root), &proof).is_err());
        if !proof.is_empty() {
            let mut forged = proof.clone();
            flip(&mut forged[pick.index(proof.len())]);
            prop_assert!(verify_consistency(old, &old_root, size, &root, &forged).is_err());
        }
    }

    /// A node that restarts anywhere goes on as if it had never stopped.
    #[test]
    fn a_restored_log_grows_as_the_original(size in 0u64..1_500, more in 1u64..600) {
        let leaves = leaves(size + more);
        let stored = Stored::of(&leaves[..size as usize]);
        let mut restored = Tree::restore(size, stored.run(&proof::frontier(size))).expect("enough roots");
        let mut original = stored.tree;
        prop_assert_eq!(&restored, &original);
        for leaf in &leaves[size as usize..] {
            prop_assert_eq!(restored.append(*leaf), original.append(*leaf));
        }
        prop_assert_eq!(restored.root(), naive_root(&leaves));
    }
}

/// What a proof costs grows as the height of the tree does, not as the log.
#[test]
fn a_log_a_thousand_times_as_large_is_proven_with_little_more() {
    let mut stored = Stored::default();
    for size in [1_000u64, 10_000, 100_000, 1_000_000] {
        for leaf in (stored.tree.size()..size).map(|i| leaf_hash(&i.to_be_bytes())) {
            stored.rows[0].push(leaf);
            let completed = stored.tree.append(leaf);
            completed.into_iter().for_each(|node| stored.rows[usize::from(node.level / 8)].push(node.hash));
        }
        let (root, height) = (stored.tree.root(), u64::BITS - (size - 1).leading_zeros());
        // At most two tiles of each stored level: beside the leaf, and where the log ends.
        let cheap = |plan: &Plan, hashes: &[Hash]| {
            assert!(hashes.len() <= height as usize + 1, "{size}: {} hashes", hashes.len());
            assert!(plan.reads().len() <= 2 * height.div_ceil(8) as usize, "{size}: {:?}", plan.reads());
        };
        for index in [0, 1, 255, 256, size / 3, size - 1] {
            let plan = proof::inclusion(index, size).expect("within the log");
            let hashes = stored.run(&plan);
            cheap(&plan, &hashes);
            verify_inclusion(&stored.rows[0][index as usize], index, size, &hashes, &root).expect("it is in the log");
        }
        let plan = proof::consistency(size / 3, size).expect("it grew");
        cheap(&plan, &stored.run(&plan));
        // Beside the leaves, which stand with the entries, one hash for 256 of them and a little more.
        let written: usize = stored.rows[1..].iter().map(Vec::len).sum();
        assert!(written as u64 <= size / 255, "{size}: {written} nodes");
    }
}
