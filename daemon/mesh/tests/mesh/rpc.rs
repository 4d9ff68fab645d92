//! Requests: answered, refused, cancelled, timed out and lost.

use std::{sync::atomic::Ordering, time::Duration};

use protocol::{
    Code, Key,
    wire::{MAX_IN_FLIGHT, MAX_PARAMS, MAX_RESULT, Request},
};
use tokio::{task::JoinSet, time::Instant};

use crate::harness::{Node, PATIENCE, config, eventually, execute, result, tcp};

/// Two connected nodes.
async fn pair() -> (Node, Node) {
    let server = Node::new().await;
    let client = Node::joined(&server).await;
    (server, client)
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_are_answered_both_ways() {
    let (server, client) = pair().await;
    for (from, to) in [(&client, &server), (&server, &client)] {
        let answer = from.mesh.request(to.id(), execute("echo", "hello"), "request-1", PATIENCE).await.expect("an answer");
        assert_eq!(result(answer), "hello");
        let problem = from.mesh.request(to.id(), Request::Advert, "request-2", PATIENCE).await.expect_err("a problem");
        assert_eq!((problem.code, problem.request_id.as_deref()), (Code::NotFound, Some("request-2")));
        assert_eq!(problem.detail, format!("{} asked request-2", from.id()), "the transport proves who asks");
    }
    let long = "ä".repeat(100);
    let problem = client.mesh.request(server.id(), Request::Advert, &long, PATIENCE).await.expect_err("a problem");
    assert!(problem.detail.ends_with(&"ä".repeat(32)) && !problem.detail.contains(&"ä".repeat(33)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handler_that_panics_harms_its_own_request_alone() {
    let (server, client) = pair().await;
    let problem = client.mesh.request(server.id(), execute("panic", ""), "r", PATIENCE).await.expect_err("a panic");
    assert_eq!(problem.code, Code::Internal);
    client.mesh.request(server.id(), execute("echo", "x"), "r", PATIENCE).await.expect("an answer");
}

#[tokio::test(flavor = "multi_thread")]
async fn deadlines_hold_on_both_sides() {
    let (server, client) = pair().await;
    let started = Instant::now();
    let problem = client.mesh.request(server.id(), execute("forever", ""), "r", Duration::from_millis(300)).await.expect_err("too long");
    assert_eq!(problem.code, Code::TimedOut);
    assert!(started.elapsed() < Duration::from_secs(3), "{:?}", started.elapsed());
    eventually("the handler's future is dropped", || server.seen.dropped.load(Ordering::SeqCst) == 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_that_leaves_stops_the_work() {
    let (server, client) = pair().await;
    let calling = tokio::spawn({
        let (mesh, server) = (client.mesh.clone(), server.id());
        async move { mesh.request(server, execute("forever", ""), "r", Duration::from_secs(600)).await }
    });
    eventually("the request has begun", || server.seen.started.load(Ordering::SeqCst) == 1).await;
    calling.abort();
    eventually("the handler's future is dropped", || server.seen.dropped.load(Ordering::SeqCst) == 1).await;
    // The stream is as good as before.
    client.mesh.request(server.id(), execute("echo", "x"), "r", PATIENCE).await.expect("an answer");
}

#[tokio::test(flavor = "multi_thread")]
async fn large_messages_pass_and_too_large_ones_are_refused() {
    let (server, client) = pair().await;
    let request = |method, params: Vec<u8>| client.mesh.request(server.id(), execute(method, params), "r", PATIENCE);
    assert_eq!(result(request("echo", vec![7; MAX_PARAMS]).await.expect("the largest parameters")).len(), MAX_PARAMS);
    assert_eq!(request("echo", vec![7; MAX_PARAMS + 300_000]).await.expect_err("too large").code, Code::TooLarge);
    assert_eq!(result(request("zeros", MAX_RESULT.to_string().into()).await.expect("the largest result")).len(), MAX_RESULT);
    let result = request("zeros", (MAX_RESULT + 300_000).to_string().into()).await;
    assert_eq!(result.expect_err("too large").code, Code::ResultTooLarge);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_peer_is_unreachable_within_the_time_out() {
    let (server, client) = pair().await;
    let started = Instant::now();
    let stranger = Key::generate().node_id();
    let problem = client.mesh.request(stranger, Request::Advert, "r", Duration::from_secs(5)).await.expect_err("nobody");
    assert_eq!(problem.code, Code::Unreachable, "{problem}");
    assert!(started.elapsed() < Duration::from_secs(6), "{:?}", started.elapsed());
    let alone = Node::spawn(config(tcp(0))).await;
    let problem = alone.mesh.request(server.id(), Request::Advert, "r", PATIENCE).await.expect_err("nobody");
    assert_eq!(problem.code, Code::Unreachable, "{problem}");
    let problem = client.mesh.request(client.id(), Request::Advert, "r", PATIENCE).await.expect_err("itself");
    assert_eq!(problem.code, Code::InvalidRequest);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_dies_fails_what_waits_for_it_at_once() {
    let (server, client) = pair().await;
    let mut calls = JoinSet::new();
    for _ in 0..10 {
        let (mesh, server) = (client.mesh.clone(), server.id());
        calls.spawn(async move { mesh.request(server, execute("forever", ""), "r", Duration::from_secs(600)).await });
    }
    eventually("the requests have begun", || server.seen.started.load(Ordering::SeqCst) == 10).await;
    let started = Instant::now();
    server.mesh.shutdown().await;
    while let Some(call) = calls.join_next().await {
        assert_eq!(call.expect("no panic").expect_err("lost").code, Code::Unreachable);
    }
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
    assert_eq!(server.seen.dropped.load(Ordering::SeqCst), 10);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_requests_share_a_stream() {
    let (server, client) = pair().await;
    let mut calls = JoinSet::new();
    for i in 0..512 {
        let (mesh, server) = (client.mesh.clone(), server.id());
        calls.spawn(async move {
            let params = format!("{i}-{}", "x".repeat(i * 7));
            let answer = mesh.request(server, execute("echo", params.clone()), "r", PATIENCE).await.expect("an answer");
            assert_eq!(result(answer), params);
        });
    }
    let mut answered = 0;
    while let Some(call) = calls.join_next().await {
        call.expect("no panic");
        answered += 1;
    }
    assert_eq!(answered, 512);
    assert_eq!(server.seen.started.load(Ordering::SeqCst), 512);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_request_too_many_is_refused_and_the_others_go_on() {
    let (server, client) = pair().await;
    let mut calls = JoinSet::new();
    for _ in 0..MAX_IN_FLIGHT {
        let (mesh, server) = (client.mesh.clone(), server.id());
        calls.spawn(async move { mesh.request(server, execute("forever", ""), "r", Duration::from_secs(600)).await });
    }
    eventually("the requests have begun", || server.seen.started.load(Ordering::SeqCst) == MAX_IN_FLIGHT).await;
    let problem = client.mesh.request(server.id(), execute("echo", "x"), "r", PATIENCE).await.expect_err("one too many");
    assert_eq!(problem.code, Code::Overloaded);
    calls.abort_all();
    eventually("the handlers' futures are dropped", || server.seen.dropped.load(Ordering::SeqCst) == MAX_IN_FLIGHT).await;
    client.mesh.request(server.id(), execute("echo", "x"), "r", PATIENCE).await.expect("room again");
}
