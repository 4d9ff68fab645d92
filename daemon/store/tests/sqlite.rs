//! The embedded backend: the suite that every backend passes, and what is its own: files, crashes, versions.

use std::{
    collections::BTreeSet,
    fs,
    io::{BufRead as _, BufReader, Write as _},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use protocol::{AgentId, AgreementId, Code, OperationId, Usage, merkle::leaf_hash};
use rusqlite::Connection;
use store::{Append, Bucket, Charge, Commit, Committer, Error, Held, Kind, RecordWrite, Sqlite, StateWrites, Store, Tracking, Write};
use tokio::task::JoinSet;

fn place() -> (tempfile::TempDir, PathBuf) {
    let home = tempfile::tempdir().expect("directory");
    let path = home.path().join("store.db");
    (home, path)
}

fn open(path: &Path) -> Arc<dyn Store> {
    Arc::new(Sqlite::open(path).expect("open"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn conforms() {
    let (_home, path) = place();
    store::conformance::run(async || open(&path)).await;
    // And on what the first run left behind.
    store::conformance::run(async || open(&path)).await;
}

#[tokio::test]
async fn conforms_on_one_thread() {
    let (_home, path) = place();
    store::conformance::run(async || open(&path)).await;
}

/// Stores as earlier versions left them: everything is there still, and what is new is right from the beginning.
#[tokio::test]
async fn stores_of_earlier_versions_are_taken_over() {
    let steps = [include_str!("../src/sqlite/v1.sql"), include_str!("../src/sqlite/v2.sql"), include_str!("../src/sqlite/v3.sql")];
    for version in 1..=steps.len() {
        taken_over(&steps[..version]).await;
    }
}

async fn taken_over(steps: &[&str]) {
    let (_home, path) = place();
    let agent = AgentId::new();
    let old = Connection::open(&path).expect("a file");
    old.execute_batch(&steps.concat()).expect("an earlier version");
    old.execute_batch("PRAGMA application_id = 0x4d435030; PRAGMA journal_mode = WAL").expect("its marks");
    old.pragma_update(None, "user_version", steps.len() as u32).expect("its version");
    let insert = "INSERT INTO state (agent, key, value) VALUES (?1, ?2, ?3)";
    for (key, value) in [("é", &b"12345"[..]), ("b", b"")] {
        old.execute(insert, (agent.uuid().as_bytes(), key, value)).expect("some state");
    }
    let (entry, operation, agreement) = (b"an entry".to_vec(), OperationId::new(), AgreementId::new());
    old.execute(
        "INSERT INTO log (position, operation, leaf, entry) VALUES (0, ?1, ?2, ?3)",
        (operation.uuid().as_bytes(), leaf_hash(&entry), &entry),
    )
    .expect("an entry");
    old.execute("INSERT INTO record (kind, id, value) VALUES (11, 'r', x'0102')", []).expect("a record");
    old.execute("INSERT INTO usage VALUES (?1, 'total', 1, 2, 3, 4)", [agreement.uuid().as_bytes()]).expect("some usage");
    old.execute("INSERT INTO answer VALUES ('scope', 'key', x'03', 100)", []).expect("an answer");
    old.execute("INSERT INTO node VALUES (8, 5, ?1)", [[7u8; 32]]).expect("a node of the tree");
    if steps.len() >= 2 {
        old.execute("INSERT INTO held (agent, keys, bytes) VALUES (?1, 2, 8)", [agent.uuid().as_bytes()]).expect("what is held");
    }
    old.close().expect("closed");
    let store = open(&path);
    let logged = store.entry_of(&operation).await.expect("read").expect("there");
    assert_eq!((logged.index, logged.leaf, &logged.entry, store.log_size().await.expect("size")), (0, leaf_hash(&entry), &entry, 1));
    assert_eq!(store.record(Kind::Meta, "r").await.expect("read").as_deref(), Some(&[1, 2][..]));
    let usage = Usage { calls: 1, fuel: 2, wall_us: 3, egress_bytes: 4 };
    assert_eq!(store.usage(&agreement).await.expect("read"), [("total".to_owned(), usage)]);
    assert_eq!(store.answer("scope", "key", 99).await.expect("read").as_deref(), Some(&[3][..]));
    assert_eq!(store.nodes(8, 5, 9).await.expect("read"), [[7; 32]]);
    let checked = store.check(None).await.expect("checked");
    assert!(checked.is_sound() && checked.complete, "{checked:?}");
    assert_eq!(store.held(&agent).await.expect("held"), Held { keys: 2, bytes: 8 });
    assert_eq!(store.view(&agent).await.expect("view").get("é").await.expect("get").as_deref(), Some(&b"12345"[..]));
    assert_eq!(store.view(&agent).await.expect("view").tracked().await.expect("tracked"), None, "of what was before nobody knows");
    store.apply(vec![Commit { tracking: Some(Tracking::Mark(agent)), ..Commit::default() }]).await.expect("apply")[0]
        .as_ref()
        .expect("made");
    let write = Write { key: "é".into(), value: None };
    let state = Some(StateWrites { agent, writes: vec![write], quota: None });
    store.apply(vec![Commit { state, ..Commit::default() }]).await.expect("apply")[0].as_ref().expect("made");
    assert_eq!(store.view(&agent).await.expect("view").changed(None, 9).await.expect("changes"), ["é"]);
    assert_eq!(store.held(&agent).await.expect("held"), Held { keys: 1, bytes: 1 });
    store.close().await.expect("close");
    let version: u32 =
        Connection::open(&path).expect("a file").pragma_query_value(None, "user_version", |row| row.get(0)).expect("a version");
    assert_eq!(version, 4);
}

/// The child's place; in the parent it isn't set.
const CHILD: &str = "STORE_TEST_CHILD";
/// The child writes all of it under these.
const AGENT: &str = "agent_01jz5ad6e1fz5t9c3w0q8x7y2k";
const AGREEMENT: &str = "agreement_01jz5ad6e1fz5t9c3w0q8x7y2m";

/// Commits for ever with eight callers, and prints each operation once it is acknowledged.
async fn commit_until_killed(path: &Path) {
    let agent: AgentId = AGENT.parse().expect("id");
    let agreement: AgreementId = AGREEMENT.parse().expect("id");
    let committer = Committer::spawn(open(path));
    let mut callers = JoinSet::new();
    for _ in 0..8 {
        let committer = committer.clone();
        callers.spawn(async move {
            loop {
                let operation = OperationId::new();
                let entry = operation.to_string().into_bytes();
                let write = Write { key: operation.to_string(), value: Some(entry.clone()) };
                let usage = Usage { calls: 1, ..Usage::default() };
                let buckets = vec![Bucket::unlimited("total")];
                let commit = Commit {
                    state: Some(StateWrites { agent, writes: vec![write], quota: None }),
                    charge: Some(Charge { agreement, usage, buckets }),
                    entry: Some(Append { operation, leaf: leaf_hash(&entry), entry }),
                    ..Commit::default()
                };
                committer.commit(commit).await.expect("commit");
                writeln!(std::io::stdout().lock(), "\nacknowledged {operation}").expect("the parent reads");
            }
        });
    }
    callers.join_all().await;
}

/// Kills a process with SIGKILL while it commits, three times over: all it acknowledged is there, once, whole.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn survives_kill_9() {
    if let Some(path) = std::env::var_os(CHILD) {
        return commit_until_killed(Path::new(&path)).await;
    }
    let (_home, path) = place();
    let mut acknowledged = BTreeSet::new();
    for round in 1..=3 {
        let mut child = Command::new(std::env::current_exe().expect("this program"))
            .args(["--exact", "survives_kill_9", "--nocapture"])
            .env(CHILD, &path)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("child");
        let lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        let mut seen = 0;
        for line in lines {
            // The line that the kill cut short is no acknowledgement that we read.
            let line = line.expect("text");
            if let Some(operation) = line.strip_prefix("acknowledged ").and_then(|id| id.parse::<OperationId>().ok()) {
                assert!(acknowledged.insert(operation), "acknowledged once");
                seen += 1;
                if seen == 100 * round {
                    child.kill().expect("kill");
                }
            }
        }
        assert!(!child.wait().expect("wait").success(), "it was killed");
        assert!(seen >= 100 * round);
        verify(&path, &acknowledged).await;
    }
}

async fn verify(path: &Path, acknowledged: &BTreeSet<OperationId>) {
    let store = open(path);
    let size = store.log_size().await.expect("size");
    let entries = store.entries(0, usize::MAX).await.expect("entries");
    assert!((0..size).eq(entries.iter().map(|entry| entry.index)), "no gap");
    let logged: BTreeSet<_> = entries.iter().map(|entry| entry.entry.clone()).collect();
    assert_eq!(logged.len() as u64, size, "nothing twice");
    for operation in acknowledged {
        assert!(logged.contains(operation.to_string().as_bytes()), "{operation} was acknowledged and is gone");
        assert!(store.entry_of(operation).await.expect("entry").is_some());
    }
    // What was under way is there with all its parts, or with none.
    let agent: AgentId = AGENT.parse().expect("id");
    let keys = store.view(&agent).await.expect("view").list("", None, usize::MAX).await.expect("list");
    assert!(keys.iter().map(|key| key.as_bytes()).eq(logged.iter().map(Vec::as_slice)), "state and log agree");
    let usage = store.usage(&AGREEMENT.parse().expect("id")).await.expect("usage");
    assert_eq!(usage, [("total".to_owned(), Usage { calls: size, ..Usage::default() })]);
    store.close().await.expect("close");
}

/// All files of a directory and what is in them.
fn contents(home: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let files = fs::read_dir(home).expect("list").map(|file| file.expect("file").path());
    let mut contents: Vec<_> = files.map(|path| (path.clone(), fs::read(path).expect("read"))).collect();
    contents.sort_unstable();
    contents
}

#[tokio::test]
async fn a_store_from_the_future_is_refused_untouched() {
    let (home, path) = place();
    open(&path).close().await.expect("close");
    Connection::open(&path).and_then(|file| file.pragma_update(None, "user_version", 99)).expect("a future version");
    let before = contents(home.path());
    let error = Sqlite::open(&path).expect_err("refused");
    assert!(matches!(error, Error::MigrationNeeded { found: 99, known: 4, .. }), "{error:?}");
    assert_eq!(error.code(), Code::MigrationNeeded);
    assert!(contents(home.path()) == before, "its files are as they were");
}

/// A newer program was killed after it migrated: its version stands in the write-ahead log only.
#[tokio::test]
async fn a_future_version_in_the_write_ahead_log_is_refused() {
    let (home, path) = place();
    open(&path).close().await.expect("close");
    let newer = Connection::open(&path).expect("open");
    newer.pragma_update(None, "user_version", 99).expect("a future version");
    let killed = home.path().join("killed");
    fs::create_dir(&killed).expect("directory");
    for suffix in ["", "-wal"] {
        fs::copy(format!("{}{suffix}", path.display()), killed.join(format!("store.db{suffix}"))).expect("copy");
    }
    let files = |name: &str| fs::read(killed.join(name)).expect("read");
    let before = (files("store.db"), files("store.db-wal"));
    let error = Sqlite::open(&killed.join("store.db")).expect_err("refused");
    assert!(matches!(error, Error::MigrationNeeded { found: 99, .. }), "{error:?}");
    assert!((files("store.db"), files("store.db-wal")) == before, "neither file was touched");
}

#[test]
fn what_is_not_a_store_is_refused_untouched() {
    type Make = fn(&Path);
    let cases: [(&str, Make); 4] = [
        ("text", |path| fs::write(path, "precious notes\n".repeat(100)).expect("write")),
        ("empty", |path| fs::write(path, "").expect("write")),
        ("another program's database", |path| {
            let other = Connection::open(path).expect("open");
            other.execute_batch("PRAGMA journal_mode = WAL; CREATE TABLE t (x); INSERT INTO t VALUES (1)").expect("write");
        }),
        ("a log without its file", |path| fs::write(path.with_extension("db-wal"), "left").expect("write")),
    ];
    for (name, make) in cases {
        let (home, path) = place();
        make(&path);
        let before = contents(home.path());
        let error = Sqlite::open(&path).expect_err(name);
        assert!(matches!(error, Error::Foreign { .. }), "{name}: {error:?}");
        assert!(contents(home.path()) == before, "{name}: touched");
    }
}

/// A crash while a store was first made leaves only what is swept away.
#[tokio::test]
async fn a_half_made_store_is_made_again() {
    let (home, path) = place();
    fs::write(home.path().join("store.db.new"), "half").expect("write");
    fs::write(home.path().join("store.db.new-journal"), "half").expect("write");
    let store = open(&path);
    assert_eq!(store.log_size().await.expect("size"), 0);
    store.close().await.expect("close");
    let files: Vec<_> = contents(home.path()).into_iter().map(|(file, _)| file).collect();
    assert_eq!(files, [path], "one file holds all once it is closed");
}

/// A megabyte that differs from the one before: SQLite doesn't write what is there already.
fn bulk(number: u8) -> Commit {
    let record = RecordWrite { kind: Kind::Meta, id: "bulk".into(), value: Some(vec![number; 1 << 20]) };
    Commit { records: vec![record], ..Commit::default() }
}

/// Where there is a view at any time, SQLite never starts its write-ahead log over: it is emptied all the same.
#[tokio::test]
async fn the_write_ahead_log_stays_bounded_under_views() {
    let (home, path) = place();
    let store = open(&path);
    let agent = AgentId::new();
    let length = || fs::metadata(home.path().join("store.db-wal")).expect("log").len();
    let mut view = store.view(&agent).await.expect("view");
    let mut longest = 0;
    let deadline = Instant::now() + Duration::from_secs(60);
    for number in (0..=255).cycle() {
        let mut applied = store.apply(vec![bulk(number)]);
        // A commit that takes long is one that waits for views to end: the next begins before the last one ends.
        while tokio::time::timeout(Duration::from_millis(50), &mut applied).await.is_err() {
            view = store.view(&agent).await.expect("view");
        }
        // Were it started over instead, it would keep 16 MiB: that doesn't count.
        if longest > 60 << 20 && length() < 2 << 20 {
            break;
        }
        longest = longest.max(length());
        view = store.view(&agent).await.expect("view");
        assert!(Instant::now() < deadline, "the write-ahead log was never emptied: {longest}");
    }
    drop(view);
    store.close().await.expect("close");
}

#[tokio::test]
async fn its_files_are_private_and_readable_by_a_second_process() {
    let (home, path) = place();
    let store = open(&path);
    store.apply(vec![bulk(1)]).await.expect("apply")[0].as_ref().expect("made");
    for (file, _) in contents(home.path()) {
        assert_eq!(fs::metadata(&file).expect("file").permissions().mode() & 0o777, 0o600, "{}", file.display());
    }
    let other = Connection::open_with_flags(&path, rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY).expect("open");
    let sound: String = other.query_row("PRAGMA integrity_check", [], |row| row.get(0)).expect("check");
    assert_eq!(sound, "ok");
    let records: i64 = other.query_row("SELECT count(*) FROM record", [], |row| row.get(0)).expect("count");
    assert_eq!(records, 1);
    store.close().await.expect("close");
}

/// A log that forgets what is old stays about as large as it is, however much has gone through it.
#[tokio::test]
async fn pruned_content_makes_room_for_what_comes() {
    let (_home, path) = place();
    let store = open(&path);
    let pages =
        || -> i64 { Connection::open(&path).and_then(|file| file.query_row("PRAGMA page_count", [], |row| row.get(0))).expect("a size") };
    let append = |content: u8| {
        let entry = vec![content; 600];
        Commit { entry: Some(Append { operation: OperationId::new(), leaf: leaf_hash(&entry), entry }), ..Commit::default() }
    };
    let mut sizes = Vec::new();
    for round in 0..4u64 {
        for _ in 0..10 {
            store.apply((0..200).map(append).collect()).await.expect("appended");
        }
        sizes.push(pages());
        let prune = (round * 2_000..(round + 1) * 2_000).collect();
        store.apply(vec![Commit { prune, ..Commit::default() }]).await.expect("pruned");
    }
    assert!(sizes[3] < 2 * sizes[0], "{sizes:?} pages");
    assert_eq!(store.entries(1_999, 2).await.expect("entries").iter().map(|logged| logged.entry.len()).collect::<Vec<_>>(), [0, 0]);
    store.close().await.expect("close");
}
