//! Split views: proof against a node that signed two traces, and against nobody else.

use protocol::{
    Key,
    checkpoint::{self, Checkpoint},
    split::{Error, Split, SplitView},
};

fn note(key: &Key, size: u64, root: u8) -> String {
    Checkpoint { node: key.node_id(), size, root: [root; 32] }.sign(key)
}

#[test]
fn two_roots_of_one_size_are_proof_against_their_node() {
    let key = Key::generate();
    let view = SplitView::of(&note(&key, 7, 1), &note(&key, 7, 2)).expect("a contradiction");
    assert_eq!(view.verify(), Ok(Split { node: key.node_id(), size: 7, first: [1; 32], second: [2; 32] }));
    let read: SplitView = serde_json::from_str(&serde_json::to_string(&view).expect("JSON")).expect("JSON");
    assert_eq!(read, view);
}

#[test]
fn nobody_is_accused_by_anything_less() {
    let (key, other) = (Key::generate(), Key::generate());
    let one = note(&key, 7, 1);
    for innocent in [note(&key, 7, 1), note(&key, 8, 2), note(&other, 7, 2)] {
        assert_eq!(SplitView::of(&one, &innocent), Err(Error::NoContradiction));
    }
    // A checkpoint in its name that somebody else signed.
    let forged = Checkpoint { node: key.node_id(), size: 7, root: [2; 32] }.sign(&other);
    assert_eq!(SplitView::of(&one, &forged), Err(Error::Checkpoint(checkpoint::Error::Signature)));
    let later = SplitView { version: 2, first: one.clone(), second: note(&key, 7, 2) };
    assert_eq!(later.verify(), Err(Error::Version { found: 2 }));
}
