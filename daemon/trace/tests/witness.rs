//! The verdict of witnesses over logs that grow, that lose their end, and that fork.

use proptest::prelude::*;
use protocol::{
    Key, Timestamp,
    checkpoint::Checkpoint,
    merkle::{Hash, empty_root, leaf_hash, node_hash},
    witness::{Evidence, Finding, Link},
};
use trace::witness::{Verdict, judge};

/// A history: one byte an entry.
type History = Vec<u8>;

fn root(history: &[u8]) -> Hash {
    match history {
        [] => empty_root(),
        [entry] => leaf_hash(&[*entry]),
        _ => {
            let (left, right) = history.split_at(history.len().next_power_of_two() / 2);
            node_hash(&root(left), &root(right))
        }
    }
}

/// `SUBPROOF` of RFC 6962, section 2.1.2.
fn subproof(old: usize, history: &[u8], known: bool) -> Vec<Hash> {
    if old == history.len() {
        return if known { Vec::new() } else { vec![root(history)] };
    }
    let (left, right) = history.split_at(history.len().next_power_of_two() / 2);
    if old <= left.len() {
        let mut proof = subproof(old, left, known);
        proof.push(root(right));
        proof
    } else {
        let mut proof = subproof(old - left.len(), right, false);
        proof.push(root(left));
        proof
    }
}

fn key() -> Key {
    Key::from_seed(&[7; 32])
}

fn checkpoint(history: &[u8]) -> Checkpoint {
    Checkpoint { node: key().node_id(), size: history.len() as u64, root: root(history) }
}

/// What an honest log's owner says when it is told of `from`.
fn link(from: usize, history: &[u8]) -> Link {
    match history.get(..from) {
        Some(past) if from > 0 => Link { from: from as u64, root: root(past), hashes: subproof(from, history, true) },
        _ => Link { from: from as u64, root: empty_root(), hashes: Vec::new() },
    }
}

fn evidence(finding: Finding, [old, new]: [&Checkpoint; 2], link: Option<Link>) -> Evidence {
    Evidence { finding, old: old.sign(&key()), new: new.sign(&key()), link, found_at: Timestamp::UNIX_EPOCH }
}

fn histories() -> impl Strategy<Value = (History, History, History)> {
    let entries = |most| proptest::collection::vec(any::<u8>(), 0..most);
    (entries(40), entries(40), entries(40))
}

proptest! {
    /// A history that only grew is never accused, whatever was remembered of it and in whatever order messages come.
    #[test]
    fn who_only_grows_is_never_accused((past, more, _) in histories()) {
        let (old, new) = (past.clone(), [past, more].concat());
        let (before, now) = (checkpoint(&old), checkpoint(&new));
        let expected = if old.len() == new.len() { Verdict::Known } else { Verdict::Extends };
        prop_assert_eq!(judge(Some(&before), &now, Some(&link(old.len(), &new))), expected);
        prop_assert_eq!(judge(None, &now, None), Verdict::Extends);
        // One that comes late, or a link from a size that isn't remembered any more.
        for (remembered, shown, from) in [(&now, &before, None), (&before, &now, None), (&before, &now, Some(link(new.len(), &new)))] {
            let verdict = judge(Some(remembered), shown, from.as_ref());
            prop_assert!(matches!(verdict, Verdict::Known | Verdict::Unlinked), "{:?}", verdict);
        }
    }

    /// Two histories that differ before the remembered size: the link of the other one is the proof, and verifies.
    #[test]
    fn a_fork_proves_itself((common, mine, theirs) in histories()) {
        let (old, new) = ([common.clone(), mine].concat(), [common, theirs].concat());
        prop_assume!(!new.starts_with(&old) && !old.starts_with(&new));
        let (before, now) = (checkpoint(&old), checkpoint(&new));
        let from = link(old.len(), &new);
        let verdict = judge(Some(&before), &now, Some(&from));
        if new.len() < old.len() {
            prop_assert_eq!(verdict, Verdict::Contradicts(Finding::Rollback));
            // Which proves nothing, and can't be made to look as if it did.
            prop_assert!(evidence(Finding::Fork, [&before, &now], Some(from)).verify().is_err());
            return Ok(());
        }
        prop_assert_eq!(verdict, Verdict::Contradicts(Finding::Fork));
        let from = (new.len() > old.len()).then_some(from);
        evidence(Finding::Fork, [&before, &now], from).verify().expect("a proof");
    }

    /// Nobody is framed: of a history that only grew no link makes a proof.
    #[test]
    fn nobody_is_framed((past, more, noise) in histories(), at in any::<prop::sample::Index>()) {
        prop_assume!(!past.is_empty() && !more.is_empty());
        let new = [past.clone(), more].concat();
        let (before, now) = (checkpoint(&past), checkpoint(&new));
        let honest = link(past.len(), &new);
        let mut forged = honest.clone();
        forged.root = leaf_hash(&noise);
        prop_assert_eq!(judge(Some(&before), &now, Some(&forged)), Verdict::Contradicts(Finding::Unconnected));
        let mut other = honest.clone();
        let place = at.index(other.hashes.len());
        other.hashes[place] = leaf_hash(&noise);
        for link in [Some(honest), Some(forged), Some(other), None] {
            prop_assert!(evidence(Finding::Fork, [&before, &now], link).verify().is_err());
        }
    }
}

#[test]
fn evidence_is_of_one_log_and_signed() {
    let (one, two) = (checkpoint(b"ab"), checkpoint(b"ac"));
    let proof = evidence(Finding::Fork, [&one, &two], None);
    assert_eq!(proof.verify(), Ok((one.clone(), two)));
    let stranger = Key::from_seed(&[8; 32]);
    let new = Checkpoint { node: stranger.node_id(), ..checkpoint(b"ac") }.sign(&stranger);
    assert!(Evidence { new, ..proof.clone() }.verify().is_err());
    assert!(Evidence { new: checkpoint(b"ac").sign(&stranger), ..proof.clone() }.verify().is_err());
    assert!(Evidence { new: proof.old.clone(), ..proof }.verify().is_err());
}
