//! A snapshot that goes on from another is what it would be if all of the state were read.

use std::sync::Arc;

use proptest::{collection::vec, prelude::*, test_runner::Config};
use protocol::{AgentId, Digest, SnapshotId, snapshot::Index};
use store::{Commit, Sqlite, StateWrites, Store, Tracking, Write};

use super::{
    base::{Base, Note},
    cutter::{Cut, Place, Sizes},
    pass::{Pass, Piece},
};

/// As small as they can be: what is rare with large ones, a cut before a pair for example, isn't with these.
const SMALL: Sizes = Sizes { min: 64, average: 256, max: 1_024 };

/// What a pass came to.
#[derive(Debug, Clone, Default, PartialEq)]
struct Taken {
    index: Index,
    cuts: Vec<Cut>,
    totals: (u64, u64),
}

/// A pass, how many of its chunks were kept, and how often it began anew.
async fn pass(store: &dyn Store, agent: AgentId, base: Option<Base>) -> (Taken, usize, usize) {
    let mut pass = Pass::new(store.view(&agent).await.expect("view"), base, SMALL).await.expect("begun");
    let (mut taken, mut kept, mut void) = (Taken::default(), 0, 0);
    while let Some(piece) = pass.next().await.expect("a piece") {
        let (cut, chunk) = match piece {
            Piece::Kept(cut, chunk) => {
                kept += 1;
                (cut, chunk)
            }
            Piece::Cut(cut, bytes) => (cut, (Digest::blake3(&bytes), u32::try_from(bytes.len()).expect("small"))),
            Piece::Void => {
                (taken, kept, void) = (Taken::default(), 0, void + 1);
                continue;
            }
        };
        taken.index.0.push(chunk);
        taken.cuts.push(cut);
    }
    taken.totals = pass.totals();
    (taken, kept, void)
}

async fn kept(store: &dyn Store, commit: Commit) {
    store.apply(vec![commit]).await.expect("applied").pop().expect("one").expect("made");
}

async fn write(store: &dyn Store, agent: AgentId, writes: Vec<Write>) {
    kept(store, Commit { state: Some(StateWrites { agent, writes, quota: None }), ..Commit::default() }).await;
}

/// The last snapshot, as it was kept: in the store's note, and its index beside it.
async fn last(store: &dyn Store, agent: AgentId, index: &Index) -> (u64, Option<Base>) {
    kept(store, Commit { tracking: Some(Tracking::Mark(agent)), ..Commit::default() }).await;
    let Some(tracked) = store.view(&agent).await.expect("view").tracked().await.expect("tracked") else { return (0, None) };
    let note = tracked.base.map(|note| Note::decode(&note).expect("a note"));
    (tracked.mark, note.map(|note| Base { cuts: note.cuts, index: index.clone(), unsound: Default::default() }))
}

/// What happens to a state.
#[derive(Debug, Clone)]
enum Edit {
    /// Keys from one on get values of a length.
    Write { from: u8, keys: u8, length: u16, seed: u64 },
    /// Keys from one on are deleted.
    Delete { from: u8, keys: u8 },
    /// The value of a key becomes longer at its end.
    Grow { key: u8, by: u16 },
    /// All keys are deleted.
    Empty,
}

fn edit() -> impl Strategy<Value = Edit> {
    let length = prop_oneof![6 => 0..40_u16, 4 => 100..700_u16, 1 => 1_500..6_000_u16];
    prop_oneof![
        8 => (any::<u8>(), 1..12_u8, length.clone(), any::<u64>()).prop_map(|(from, keys, length, seed)| Edit::Write { from, keys, length, seed }),
        2 => (any::<u8>(), 40..255_u8, length, any::<u64>()).prop_map(|(from, keys, length, seed)| Edit::Write { from, keys, length, seed }),
        5 => (any::<u8>(), 1..8_u8).prop_map(|(from, keys)| Edit::Delete { from, keys }),
        2 => Just(Edit::Delete { from: 255, keys: 1 }),
        3 => (any::<u8>(), 1..900_u16).prop_map(|(key, by)| Edit::Grow { key, by }),
        1 => Just(Edit::Empty),
    ]
}

fn key(number: u8) -> String {
    // Of different lengths, and some begin with others.
    format!("k{}", "é".repeat(usize::from(number % 4))) + &format!("/{:03}", number / 4)
}

fn value(seed: u64, length: usize) -> Vec<u8> {
    let mut value = Vec::new();
    while value.len() < length {
        value.extend_from_slice(Digest::blake3(&[seed.to_be_bytes(), (value.len() as u64).to_be_bytes()].concat()).as_bytes());
    }
    value.truncate(length);
    value
}

async fn apply(store: &dyn Store, agent: AgentId, edit: &Edit) {
    let numbers = |from: u8, keys: u8| (0..keys).map(move |key| from.wrapping_add(key));
    let writes = match *edit {
        Edit::Write { from, keys, length, seed } => {
            let write = |number| Write { key: key(number), value: Some(value(seed ^ u64::from(number), length.into())) };
            numbers(from, keys).map(write).collect()
        }
        Edit::Delete { from, keys } => numbers(from, keys).map(|number| Write { key: key(number), value: None }).collect(),
        Edit::Grow { key: number, by } => {
            let mut grown = store.view(&agent).await.expect("view").get(&key(number)).await.expect("get").unwrap_or_default();
            grown.extend(value(7, by.into()));
            vec![Write { key: key(number), value: Some(grown) }]
        }
        Edit::Empty => numbers(0, 255).chain([255]).map(|number| Write { key: key(number), value: None }).collect(),
    };
    write(store, agent, writes).await;
}

/// What happens until a snapshot is kept.
#[derive(Debug, Clone)]
struct Round {
    before: Vec<Edit>,
    /// Between its mark and its view.
    meanwhile: Vec<Edit>,
    /// Which chunks of the last snapshot are lost.
    lost: Option<u8>,
    /// Between its view and its end.
    after: Vec<Edit>,
    /// It is given up.
    fails: bool,
}

fn round() -> impl Strategy<Value = Round> {
    let lost = proptest::option::weighted(0.3, any::<u8>());
    let all = (vec(edit(), 0..6), vec(edit(), 0..2), lost, vec(edit(), 0..3), proptest::bool::weighted(0.2));
    all.prop_map(|(before, meanwhile, lost, after, fails)| Round { before, meanwhile, lost, after, fails })
}

/// Each snapshot is as if all were read, whatever of the last is lost.
async fn as_if_all_were_read(rounds: &[Round]) {
    // In memory, where there is such a place: thousands of commits are flushed.
    let home = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).expect("directory");
    let store: Arc<dyn Store> = Arc::new(Sqlite::open(&home.path().join("store.db")).expect("open"));
    let agent = AgentId::new();
    let mut index = Index::default();
    for Round { before, meanwhile, lost, after, fails } in rounds {
        for edit in before {
            apply(&*store, agent, edit).await;
        }
        let (mark, mut base) = last(&*store, agent, &index).await;
        if let (Some(base), Some(lost)) = (&mut base, lost) {
            base.unsound.extend((0..base.cuts.len()).filter(|at| *at * 7 % 256 == usize::from(*lost)));
        }
        for edit in meanwhile {
            apply(&*store, agent, edit).await;
        }
        let (whole, _, _) = pass(&*store, agent, None).await;
        let (taken, _, void) = pass(&*store, agent, base).await;
        assert_eq!(taken, whole);
        assert_eq!(void, 0, "what is known of the last snapshot is right");
        for edit in after {
            apply(&*store, agent, edit).await;
        }
        if !fails {
            index = taken.index;
            let note = Note { snapshot: SnapshotId::new(), cuts: taken.cuts }.encode();
            kept(&*store, Commit { tracking: Some(Tracking::Base { agent, mark, note }), ..Commit::default() }).await;
        }
    }
    store.close().await.expect("close");
}

proptest! {
    #![proptest_config(Config { cases: 200, ..Config::default() })]
    #[test]
    fn whatever_changes_it_is_as_if_all_were_read(rounds in vec(round(), 2..8)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(as_if_all_were_read(&rounds));
    }
}

/// A store with one agent, whose state was taken: of 200 keys, in some 100 chunks.
async fn taken_once() -> (tempfile::TempDir, Arc<dyn Store>, AgentId, Taken) {
    let home = tempfile::tempdir().expect("directory");
    let store: Arc<dyn Store> = Arc::new(Sqlite::open(&home.path().join("store.db")).expect("open"));
    let agent = AgentId::new();
    apply(&*store, agent, &Edit::Write { from: 0, keys: 200, length: 150, seed: 1 }).await;
    let (mark, none) = last(&*store, agent, &Index::default()).await;
    assert!(none.is_none());
    let (taken, _, _) = pass(&*store, agent, None).await;
    let note = Note { snapshot: SnapshotId::new(), cuts: taken.cuts.clone() }.encode();
    kept(&*store, Commit { tracking: Some(Tracking::Base { agent, mark, note }), ..Commit::default() }).await;
    (home, store, agent, taken)
}

#[tokio::test]
async fn what_did_not_change_is_not_read() {
    let (_home, store, agent, taken) = taken_once().await;
    let all = taken.index.0.len();
    assert!(all > 60, "{all}");
    let (_, base) = last(&*store, agent, &taken.index).await;
    let (again, kept, _) = pass(&*store, agent, base).await;
    assert_eq!((&again, kept), (&taken, all), "nothing changed");
    for number in [0, 77, 199] {
        apply(&*store, agent, &Edit::Write { from: number, keys: 1, length: 151, seed: 2 }).await;
    }
    let (_, base) = last(&*store, agent, &taken.index).await;
    let (_, kept, _) = pass(&*store, agent, base).await;
    assert!(kept > all - 30, "{kept} of {all}: a few chunks around each of three keys are cut anew");
    // One that is lost is cut anew, and no other.
    let (_home, store, agent, taken) = taken_once().await;
    let (_, base) = last(&*store, agent, &taken.index).await;
    let base = Base { unsound: [all / 2].into(), ..base.expect("a base") };
    let (again, kept, _) = pass(&*store, agent, Some(base)).await;
    assert_eq!((again, kept), (taken, all - 1));
}

#[tokio::test]
async fn a_base_that_is_no_good_is_noticed_and_all_is_read() {
    let (_home, store, agent, taken) = taken_once().await;
    apply(&*store, agent, &Edit::Write { from: 60, keys: 1, length: 10, seed: 2 }).await;
    let (whole, _, _) = pass(&*store, agent, None).await;
    let places: [fn(&mut Base); 4] = [
        // Keys that aren't there; places behind the ends of pairs; others' counts; a chunk too few.
        |base| base.cuts.iter_mut().for_each(|cut| cut.place.key.push('x')),
        |base| base.cuts.iter_mut().for_each(|cut| cut.place.offset += 100_000),
        |base| base.cuts[0].keys += 1,
        |base| {
            base.cuts.pop();
            base.index.0.pop();
        },
    ];
    for spoil in places {
        let (_, base) = last(&*store, agent, &taken.index).await;
        let mut base = base.expect("a base");
        spoil(&mut base);
        let (again, kept, void) = pass(&*store, agent, Some(base)).await;
        assert_eq!((again, kept, void), (whole.clone(), 0, 1));
    }
}

#[test]
fn places_are_in_the_order_of_the_stream() {
    let place = |key: &str, offset| Place { key: key.into(), offset };
    assert!(place("a", 9) < place("a", 10) && place("a", 10) < place("a/", 0) && place("z", 0) < place("é", 0));
}
