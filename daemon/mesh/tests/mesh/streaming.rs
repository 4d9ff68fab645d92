//! Answers in items, and content on streams of its own.

use std::{fs, sync::atomic::Ordering, time::Duration};

use mesh::{Answers, Piece};
use protocol::{Code, Digest, wire::Request};

use crate::harness::{Node, PATIENCE, eventually, execute, result};

const ITEM: usize = 16 * 1024;
/// What may be under way for an answer among others, in items: half a MiB and a little.
const WINDOW: usize = 33;

async fn pair() -> (Node, Node) {
    let server = Node::new().await;
    let client = Node::joined(&server).await;
    (server, client)
}

async fn number(answers: &mut Answers) -> u64 {
    match answers.next().await.expect("an item") {
        Piece::Item(item) => {
            assert_eq!(item.len(), ITEM);
            u64::from_be_bytes(item[..8].try_into().expect("8 bytes"))
        }
        Piece::End(response) => panic!("{response:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn items_come_as_the_caller_takes_them_and_no_faster() {
    let (server, client) = pair().await;
    let mut answers = client.mesh.stream(server.id(), Request::Adverts(Default::default()), "r", PATIENCE).await.expect("a stream");
    eventually("the window is full", || server.seen.sent.load(Ordering::SeqCst) >= WINDOW - 2).await;
    // Other requests on the same stream go on; the slow caller holds nobody up.
    for _ in 0..20 {
        assert_eq!(result(client.mesh.request(server.id(), execute("echo", "x"), "r", PATIENCE).await.expect("an answer")), "x");
    }
    assert!(server.seen.sent.load(Ordering::SeqCst) <= WINDOW, "{}", server.seen.sent.load(Ordering::SeqCst));
    for i in 0..2_000 {
        assert_eq!(number(&mut answers).await, i);
    }
    assert!(server.seen.sent.load(Ordering::SeqCst) <= 2_000 + WINDOW);
    // Whoever leaves stops the work.
    drop(answers);
    eventually("the handler's future is dropped", || server.seen.dropped.load(Ordering::SeqCst) == 1).await;
    // A caller that wants no items gets none.
    let problem = client.mesh.request(server.id(), Request::Adverts(Default::default()), "r", PATIENCE).await.expect_err("no window");
    assert_eq!(problem.code, Code::InvalidRequest);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_of_items_ends_at_its_deadline_and_with_its_peer() {
    let (server, client) = pair().await;
    let request = || Request::Adverts(Default::default());
    let mut late = client.mesh.stream(server.id(), request(), "r", Duration::from_millis(300)).await.expect("a stream");
    let ended = loop {
        match late.next().await {
            Ok(Piece::Item(_)) => tokio::time::sleep(Duration::from_millis(20)).await,
            Ok(Piece::End(response)) => panic!("{response:?}"),
            Err(problem) => break problem,
        }
    };
    assert_eq!(ended.code, Code::TimedOut);
    let mut lost = client.mesh.stream(server.id(), request(), "r", PATIENCE).await.expect("a stream");
    number(&mut lost).await;
    server.mesh.shutdown().await;
    let ended = loop {
        if let Err(problem) = lost.next().await {
            break problem;
        }
    };
    assert_eq!(ended.code, Code::Unreachable);
}

/// Content that compresses to nothing useful: any shift of it shows.
fn content(size: usize) -> Vec<u8> {
    (0..size as u64).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn content_arrives_whole_and_goes_on_where_it_was_interrupted() {
    let (server, client) = pair().await;
    let place = tempfile::tempdir().expect("a directory");
    let (there, here) = (place.path().join("there"), place.path().join("here"));
    let limit = 1 << 30;
    for size in [0, 1, 300_000, 20_000_000] {
        let bytes = content(size);
        let digest = Digest::blake3(&bytes);
        fs::write(&there, &bytes).expect("written");
        *server.seen.content.lock() = Some(there.clone());
        let _ = fs::remove_file(&here);
        let fetched = client.mesh.fetch(server.id(), digest, &here, limit, "r").await.expect("fetched");
        assert_eq!((fetched, fs::read(&here).expect("a file") == bytes), (size as u64, true), "{size}");
        // What is there already, what was changed, and what is too much: all comes right.
        for change in ["cut", "changed", "longer"] {
            let mut part = bytes.clone();
            match change {
                "cut" => part.truncate(size * 2 / 3),
                "changed" => part.iter_mut().skip(size / 2).take(10).for_each(|byte| *byte ^= 1),
                _ => part.extend_from_slice(&content(600_000)),
            }
            fs::write(&here, part).expect("written");
            client.mesh.fetch(server.id(), digest, &here, limit, "r").await.expect("fetched");
            assert!(fs::read(&here).expect("a file") == bytes, "{size} {change}");
        }
        if size > 0 {
            let problem = client.mesh.fetch(server.id(), digest, &here, size as u64 - 1, "r").await.expect_err("too large");
            assert_eq!(problem.code, Code::TooLarge);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn content_that_isnt_what_was_asked_for_is_refused() {
    let (server, client) = pair().await;
    let place = tempfile::tempdir().expect("a directory");
    let (there, here) = (place.path().join("there"), place.path().join("here"));
    let digest = Digest::blake3(&content(1_000_000));
    let fetch = || client.mesh.fetch(server.id(), digest, &here, 1 << 30, "r");
    assert_eq!(fetch().await.expect_err("none").code, Code::NotFound);
    // The giver sees itself that its disk has lost it.
    fs::write(&there, content(999_999)).expect("written");
    *server.seen.content.lock() = Some(there.clone());
    let problem = fetch().await.expect_err("damaged");
    assert!(problem.code == Code::Internal && problem.detail.contains("damaged"), "{problem}");
    // And where it was whole when the giver looked, the taker sees it.
    fs::write(&there, content(1_000_000)).expect("written");
    fetch().await.expect("fetched");
    let mut changed = content(1_000_000);
    changed[700_000] ^= 1;
    fs::write(&there, changed).expect("written");
    fs::remove_file(&here).expect("removed");
    let problem = fetch().await.expect_err("changed");
    assert!(problem.code == Code::BadSignature && problem.detail.contains("group 2 of 4"), "{problem}");
    assert_eq!(fs::metadata(&here).expect("a file").len(), 2 * 256 * 1024, "what was right is kept");
}

#[tokio::test(flavor = "multi_thread")]
async fn transfers_are_few_and_one_too_many_waits_its_turn() {
    let (server, client) = pair().await;
    let place = tempfile::tempdir().expect("a directory");
    let there = place.path().join("there");
    let bytes = content(30_000_000);
    fs::write(&there, &bytes).expect("written");
    *server.seen.content.lock() = Some(there);
    let digest = Digest::blake3(&bytes);
    let fetches = (0..6).map(|i| {
        let (mesh, node, path) = (client.mesh.clone(), server.id(), place.path().join(format!("here{i}")));
        tokio::spawn(async move { mesh.fetch(node, digest, &path, 1 << 30, "r").await.map(|_| path) })
    });
    for fetched in futures::future::join_all(fetches).await {
        let path = fetched.expect("no panic").expect("fetched");
        assert!(fs::read(path).expect("a file") == bytes);
    }
}
