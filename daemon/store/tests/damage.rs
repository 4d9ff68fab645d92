//! Flipped bits: whatever changes what is read is found, and nothing that was never written is ever an answer.
//!
//! `MCP_HOSTILE_ROUNDS` says how many bits are flipped in each test, one at a time.

use std::{collections::BTreeMap, fs, path::PathBuf};

use protocol::{AgentId, AgreementId, Code, OperationId, Usage, merkle::leaf_hash};
use rusqlite::Connection;
use store::{
    Answer, Append, Bucket, Charge, Commit, Error, Kind, RecordWrite, Rejected, Sqlite, StateWrites, Store, Tracking, TreeNode, Write,
};

fn rounds() -> usize {
    std::env::var("MCP_HOSTILE_ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(100)
}

/// A generator whose rounds can be had again (<https://prng.di.unimi.it/splitmix64.c>).
struct Dice(u64);

impl Dice {
    fn roll(&mut self, below: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % below
    }
}

/// What was written, by its keys.
struct Written {
    agents: Vec<AgentId>,
    agreements: Vec<AgreementId>,
    operations: Vec<OperationId>,
    records: Vec<(Kind, String)>,
}

const COUNT: u64 = 300;

async fn commit(store: &dyn Store, commit: Commit) {
    store.apply(vec![commit]).await.expect("apply")[0].as_ref().expect("made");
}

/// A bit of everything, so that every table has more than a page.
async fn fill(store: &dyn Store) -> Written {
    let mut written = Written { agents: Vec::new(), agreements: Vec::new(), operations: Vec::new(), records: Vec::new() };
    for agent in 0..4 {
        let id = AgentId::new();
        let write = |number: u64| Write { key: format!("key-{number:03}"), value: Some(vec![agent; 40 + (number as usize % 90) * 9]) };
        commit(store, Commit { tracking: Some(Tracking::Mark(id)), ..Commit::default() }).await;
        let state = Some(StateWrites { agent: id, writes: (0..120).map(write).collect(), quota: None });
        commit(store, Commit { state, tracking: Some(Tracking::Mark(id)), ..Commit::default() }).await;
        let base = Tracking::Base { agent: id, mark: u64::from(agent) * 2 + 2, note: vec![agent; 50] };
        let state = Some(StateWrites { agent: id, writes: (0..60).map(write).collect(), quota: None });
        commit(store, Commit { state, tracking: Some(base), ..Commit::default() }).await;
        written.agents.push(id);
    }
    for number in 0..COUNT {
        let (agreement, operation) = (AgreementId::new(), OperationId::new());
        let entry = format!("entry {number} of {operation}").repeat(1 + number as usize % 7).into_bytes();
        let (kind, id) = (if number % 3 == 0 { Kind::Agent } else { Kind::Agreement }, agreement.to_string());
        let usage = Usage { calls: 1, fuel: number, wall_us: 7, egress_bytes: 0 };
        let full = Commit {
            charge: Some(Charge { agreement, usage, buckets: vec![Bucket::unlimited("total"), Bucket::unlimited("1d:20415")] }),
            records: vec![RecordWrite { kind, id: id.clone(), value: Some(format!("record {number}").repeat(20).into_bytes()) }],
            answer: Some(Answer {
                scope: format!("scope/{}", number % 5),
                key: operation.to_string(),
                value: entry.clone(),
                now_s: 0,
                expires_s: 100,
            }),
            entry: Some(Append { operation, leaf: leaf_hash(&entry), entry }),
            nodes: vec![TreeNode { level: 8, index: number, hash: [number as u8; 32] }],
            prune: if number == 50 { (0..20).collect() } else { Vec::new() },
            ..Commit::default()
        };
        commit(store, full).await;
        written.agreements.push(agreement);
        written.operations.push(operation);
        written.records.push((kind, id));
    }
    written
}

/// All that is read, by what was asked: `Err` is a refusal.
async fn read(store: &dyn Store, written: &Written) -> BTreeMap<String, Result<String, Code>> {
    let mut read = BTreeMap::new();
    let mut put = |what: String, found: Result<String, Error>| drop(read.insert(what, found.map_err(|error| error.code())));
    for agent in &written.agents {
        put(format!("held {agent}"), store.held(agent).await.map(|held| format!("{held:?}")));
        let Ok(mut view) = store.view(agent).await else { continue };
        for number in (0..120).chain([500]) {
            let key = format!("key-{number:03}");
            put(format!("get {agent} {key}"), view.get(&key).await.map(|value| format!("{value:?}")));
        }
        put(format!("list {agent}"), view.list("key-", None, 1_000).await.map(|keys| format!("{keys:?}")));
        put(format!("scan {agent}"), view.scan(None, usize::MAX).await.map(|pairs| format!("{pairs:?}")));
        put(format!("changed {agent}"), view.changed(None, 1_000).await.map(|keys| format!("{keys:?}")));
        put(format!("tracked {agent}"), view.tracked().await.map(|tracked| format!("{tracked:?}")));
    }
    for (kind, id) in &written.records {
        put(format!("record {id}"), store.record(*kind, id).await.map(|value| format!("{value:?}")));
    }
    for kind in [Kind::Agent, Kind::Agreement, Kind::Meta] {
        put(format!("records {kind:?}"), store.records(kind, None, 1_000).await.map(|records| format!("{records:?}")));
    }
    for agreement in &written.agreements {
        put(format!("usage {agreement}"), store.usage(agreement).await.map(|usage| format!("{usage:?}")));
    }
    for (number, operation) in written.operations.iter().enumerate() {
        let (scope, key) = (format!("scope/{}", number % 5), operation.to_string());
        put(format!("answer {operation}"), store.answer(&scope, &key, 50).await.map(|value| format!("{value:?}")));
        put(format!("entry {operation}"), store.entry_of(operation).await.map(|entry| format!("{entry:?}")));
        put(format!("entry {number}"), store.entries(number as u64, 1).await.map(|entry| format!("{entry:?}")));
        put(format!("leaf {number}"), store.leaves(number as u64, 1).await.map(|leaf| format!("{leaf:?}")));
        put(format!("node {number}"), store.nodes(8, number as u64, 1).await.map(|node| format!("{node:?}")));
    }
    put("answers".into(), store.answers("scope/", None, 50, 1_000).await.map(|answers| format!("{answers:?}")));
    put("size".into(), store.log_size().await.map(|size| format!("{size:?}")));
    read
}

struct Place {
    home: tempfile::TempDir,
    written: Written,
    expected: BTreeMap<String, Result<String, Code>>,
}

impl Place {
    async fn new() -> Self {
        let home = tempfile::tempdir().expect("directory");
        let store = Sqlite::open(&home.path().join("store.db")).expect("open");
        let written = fill(&store).await;
        let expected = read(&store, &written).await;
        assert!(expected.values().all(Result::is_ok));
        store.close().await.expect("close");
        Self { home, written, expected }
    }

    fn file(&self) -> PathBuf {
        self.home.path().join("store.db")
    }
}

/// Where a test has found what was changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Found {
    AtOpen,
    Structure,
    Row,
    Nowhere,
}

/// Opens a copy of the file with these bytes, and holds all that it answers against what was written.
async fn judge(place: &Place, bytes: &[u8], what: &str) -> Found {
    let path = place.home.path().join("copy.db");
    for suffix in ["", "-wal", "-shm"] {
        let _ = fs::remove_file(format!("{}{suffix}", path.display()));
    }
    fs::write(&path, bytes).expect("a copy");
    let store = match Sqlite::open(&path) {
        Ok(store) => store,
        Err(_) => return Found::AtOpen,
    };
    let checked = match store.check(None).await {
        Ok(checked) => checked,
        Err(_) => return Found::AtOpen,
    };
    assert!(checked.complete);
    // A node doesn't serve from a file whose structure is damaged.
    if !checked.structure.is_empty() {
        return Found::Structure;
    }
    let read = read(&store, &place.written).await;
    let mut refused = 0;
    for (asked, expected) in &place.expected {
        match read.get(asked) {
            Some(Err(code)) => {
                assert_eq!(*code, Code::StoreDamaged, "{what}: {asked}");
                refused += 1;
            }
            answered => assert!(answered == Some(expected), "{what}: {asked}: {answered:?} instead of {expected:?}"),
        }
    }
    assert!(refused == 0 || !checked.damaged.is_empty(), "{what}: {refused} refusals, and nothing was found");
    // One row is damaged: what doesn't need it works.
    assert!(refused <= 400, "{what}: {refused} refusals for {:?}", checked.damaged);
    store.close().await.expect("close");
    if checked.damaged.is_empty() { Found::Nowhere } else { Found::Row }
}

#[tokio::test]
async fn no_flipped_bit_is_ever_an_answer() {
    let place = Place::new().await;
    let sound = fs::read(place.file()).expect("read");
    assert_eq!(judge(&place, &sound, "as written").await, Found::Nowhere);
    let mut found: BTreeMap<Found, usize> = BTreeMap::new();
    let mut dice = Dice(4);
    for _ in 0..rounds() {
        let bit = dice.roll(sound.len() as u64 * 8) as usize;
        let mut bytes = sound.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        *found.entry(judge(&place, &bytes, &format!("bit {bit}")).await).or_default() += 1;
    }
    // What is found nowhere is where nothing stands: its answers were held against what was written.
    assert!(found.get(&Found::Row).copied().unwrap_or_default() * 2 > rounds(), "{found:?}");
}

/// Two rows that have changed places are sound each, but for where they lie.
#[tokio::test]
async fn a_row_under_another_key_is_found() {
    let place = Place::new().await;
    let file = Connection::open(place.file()).expect("a file");
    let swap = |table: &str, column: &str, key: &str, [one, other]: [&str; 2]| {
        let read = |key_of: &str| -> (i64, Vec<u8>) {
            let sql = format!("SELECT sum, {column} FROM {table} WHERE {key} = {key_of}");
            file.query_row(&sql, [], |row| Ok((row.get(0)?, row.get(1)?))).expect("a row")
        };
        for (key_of, content) in [(one, read(other)), (other, read(one))] {
            let sql = format!("UPDATE {table} SET sum = ?1, {column} = ?2 WHERE {key} = {key_of}");
            assert_eq!(file.execute(&sql, content).expect("written"), 1);
        }
    };
    let id = |number: usize| format!("'{}'", place.written.records[number].1);
    swap("record", "value", "id", [&id(1), &id(2)]);
    swap("node", "hash", "position", ["3", "4"]);
    file.close().expect("closed");
    let store = Sqlite::open(&place.file()).expect("open");
    let (kind, id) = &place.written.records[1];
    let refused = store.record(*kind, id).await.expect_err("another's");
    assert!(matches!(refused, Error::DamagedRow(_)) && refused.to_string().contains(id.as_str()), "{refused}");
    assert_eq!(store.nodes(8, 3, 1).await.expect_err("another's").code(), Code::StoreDamaged);
    let checked = store.check(None).await.expect("checked");
    let mut tables: Vec<_> = checked.damaged.iter().map(|row| row.table).collect();
    tables.sort_unstable();
    assert_eq!(tables, ["node", "node", "record", "record"], "{checked:?}");
    assert_eq!(store.damaged().len(), 4);
}

/// What needs a damaged row fails alone: another commit of its group is made.
#[tokio::test]
async fn a_damaged_row_refuses_what_needs_it_and_nothing_else() {
    let place = Place::new().await;
    let (agent, agreement) = (place.written.agents[0], place.written.agreements[0]);
    let file = Connection::open(place.file()).expect("a file");
    file.execute("UPDATE usage SET fuel = fuel + 1 WHERE agreement = ?1 AND bucket = 'total'", [agreement.uuid().as_bytes()])
        .expect("damaged");
    file.execute("UPDATE state SET value = x'00' WHERE agent = ?1 AND key = 'key-007'", [agent.uuid().as_bytes()]).expect("damaged");
    file.execute("UPDATE answer SET expires = 1 WHERE key = ?1", [place.written.operations[9].to_string()]).expect("damaged");
    file.close().expect("closed");
    let store = Sqlite::open(&place.file()).expect("open");
    let charge = |agreement| {
        let usage = Usage { calls: 1, ..Usage::default() };
        Commit { charge: Some(Charge { agreement, usage, buckets: vec![Bucket::unlimited("total")] }), ..Commit::default() }
    };
    let write = |agent, key: &str| {
        let writes = vec![Write { key: key.into(), value: Some(b"v".to_vec()) }];
        Commit { state: Some(StateWrites { agent, writes, quota: None }), ..Commit::default() }
    };
    let again = Answer {
        scope: "scope/4".into(),
        key: place.written.operations[9].to_string(),
        value: b"twice".to_vec(),
        now_s: 50,
        expires_s: 100,
    };
    let group = vec![
        charge(agreement),
        charge(place.written.agreements[1]),
        write(agent, "key-007"),
        write(agent, "key-008"),
        Commit { answer: Some(again), ..Commit::default() },
    ];
    let outcomes = store.apply(group).await.expect("the group is applied");
    let refused = |outcome: &Result<_, Rejected>| matches!(outcome, Err(Rejected::Damaged { .. }));
    assert!(refused(&outcomes[0]) && outcomes[1].is_ok(), "a damaged agreement is not billed, another one is: {outcomes:?}");
    assert!(refused(&outcomes[2]) && outcomes[3].is_ok(), "{outcomes:?}");
    assert!(refused(&outcomes[4]), "a call whose answer is damaged doesn't run again: {outcomes:?}");
    assert_eq!(store.usage(&agreement).await.expect_err("damaged").code(), Code::StoreDamaged);
    assert_eq!(store.usage(&place.written.agreements[1]).await.expect("sound").len(), 2);
    // Its time may be what is damaged: it isn't dropped.
    assert_eq!(store.forget(99).await.expect("forgotten"), 0);
    assert_eq!(store.forget(100).await.expect("forgotten"), COUNT - 1);
    let sound = store.sound_records(Kind::Agent, None, 1_000).await.expect("records");
    assert!(sound.damaged.is_empty() && !sound.records.is_empty());
}

/// A start takes only so long; what it didn't come to is said.
#[tokio::test]
async fn a_check_ends_in_its_time_and_says_so() {
    let place = Place::new().await;
    let store = Sqlite::open(&place.file()).expect("open");
    let checked = store.check(Some(std::time::Duration::ZERO)).await.expect("checked");
    assert!(!checked.complete && checked.is_sound(), "{checked:?}");
}

/// An index that isn't what its table says is made again.
#[tokio::test]
async fn a_damaged_index_is_made_again() {
    let place = Place::new().await;
    let file = Connection::open(place.file()).expect("a file");
    let root: i64 =
        file.query_row("SELECT rootpage FROM sqlite_schema WHERE name = 'answer_by_expiry'", [], |row| row.get(0)).expect("a page");
    file.close().expect("closed");
    let mut bytes = fs::read(place.file()).expect("read");
    // A key in the last cell of its first leaf: all expire at 100.
    let page = usize::try_from(root).expect("a page") * 4096 - 4096..usize::try_from(root).expect("a page") * 4096;
    let at = page.clone().rev().find(|at| bytes[*at] == b'o' && bytes[at - 1] == b'c').expect("a scope");
    bytes[at] ^= 1;
    assert_eq!(judge(&place, &bytes, "an index").await, Found::Nowhere, "it was made again");
}

/// A log of commits that were durable is replayed whole, or not at all.
#[tokio::test]
async fn a_flipped_bit_in_the_write_ahead_log_takes_no_commit_back_silently() {
    let home = tempfile::tempdir().expect("directory");
    let path = home.path().join("store.db");
    let store = Sqlite::open(&path).expect("open");
    let record = |number: u32| RecordWrite { kind: Kind::Meta, id: format!("r{number:03}"), value: Some(vec![number as u8; 900]) };
    for number in 0..40 {
        commit(&store, Commit { records: vec![record(number)], ..Commit::default() }).await;
    }
    // As a loss of power leaves it.
    let (database, log) = (fs::read(&path).expect("read"), fs::read(home.path().join("store.db-wal")).expect("read"));
    store.close().await.expect("close");
    // Each in a place of its own: a store that was dropped is still closing its files.
    let mut places = 0;
    let mut open = |log: &[u8]| {
        places += 1;
        let killed = home.path().join(places.to_string());
        fs::create_dir(&killed).expect("a place");
        fs::write(killed.join("store.db"), &database).expect("a copy");
        fs::write(killed.join("store.db-wal"), log).expect("a copy");
        Sqlite::open(&killed.join("store.db"))
    };
    let count = async |store: Sqlite| {
        let count = store.records(Kind::Meta, None, 1_000).await.expect("records").len();
        store.close().await.expect("close");
        count
    };
    assert_eq!(count(open(&log).expect("as it was")).await, 40);
    // A transaction whose end didn't reach the disk was never acknowledged.
    assert_eq!(count(open(&log[..log.len() - 100]).expect("torn")).await, 39);
    let (mut refused, mut dice) = (0, Dice(9));
    // Where the last transaction begins: behind the last frame but one that ends one.
    let frame = 24 + 4096;
    let ends: Vec<usize> = (32..log.len()).step_by(frame).filter(|at| log[at + 4..at + 8] != [0; 4]).collect();
    let last = ends[ends.len() - 2] + frame;
    for round in 0..rounds() + 256 {
        let bit = if round < 256 { round } else { dice.roll(log.len() as u64 * 8) as usize };
        let mut bytes = log.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        match open(&bytes) {
            Err(error) => {
                assert!(matches!(error, Error::Damaged { .. }), "bit {bit}: {error}");
                refused += 1;
            }
            // What is wrong in the last transaction is what a loss of power leaves.
            Ok(store) => {
                let left = count(store).await;
                assert!(left == 40 || (bit / 8 >= last && left == 39), "bit {bit} of {}: {left} records", log.len() * 8);
            }
        }
    }
    assert!(refused * 2 > rounds() + 256, "{refused}");
}
