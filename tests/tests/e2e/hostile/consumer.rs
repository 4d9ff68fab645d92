//! A consumer that repeats, hangs up, floods, and signs what is not so.

use std::time::Duration;

use futures::future::join_all;
use protocol::{
    AgreementId, Code, Expect, Problem,
    agreement::Status,
    api::{AgreementState, AgreementUsage, Execute, Executed, Limits, Propose},
    grant::Grants,
    manifest::Import,
};
use serde_json::{json, value::RawValue};
use tests::{Node, Publisher, until, value};

use super::rounds;
use crate::{
    fixtures::{Pair, reaches},
    rogue::Rogue,
    web::Web,
};

async fn used(node: &Node, id: AgreementId) -> u64 {
    node.agreement(id).await.expect("known").used.calls
}

async fn propose(pair: &Pair, parameters: &[(&str, &str)]) -> Result<AgreementState, Problem> {
    let parameters = parameters.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    let agent = pair.agent.id.to_string();
    let propose = Propose { agent, node: None, methods: Vec::new(), template: "trial".into(), parameters };
    pair.consumer.client().post("/v1/agreements", &propose).await
}

/// A pair whose nodes close books a second after the end of an agreement.
async fn briefly_closing() -> Pair {
    let mut pair = Pair::with(&[("agreements.accept", "auto"), ("agreements.closing_grace_s", "1")]).await;
    pair.consumer.set("agreements.closing_grace_s", "1");
    pair.consumer.restart().await;
    pair.consumer.discovers("demo.count", "").await;
    pair
}

/// A rule accepts as much as its budget says, counted over closings and restarts; what is beyond is the operator's.
#[tokio::test(flavor = "multi_thread")]
async fn a_rule_accepts_no_more_than_its_budget() {
    let mut pair = Pair::with(&[("agreements.accept", "manual"), ("agreements.closing_grace_s", "1")]).await;
    let did = pair.consumer.identity().owner.to_string();
    let set = ["agreement", "policy", "set", "--auto-accept", "trial", "--for", &did, "--max-agreements", "2"];
    let policy = pair.provider.json(&[&set[..], &["--max-agreements-per-day", "3", "--max-calls", "12"]].concat()).await;
    let each = &policy["auto_accept"][0]["budget"]["each"];
    assert_eq!((&each["agreements"], &each["agreements_per_day"], &each["calls_per_day"]), (&json!(2), &json!(3), &json!(12)), "{policy}");
    let calls = [("calls", "5/total")];
    let mut active = Vec::new();
    let mut open = Vec::new();
    for _ in 0..10 * rounds() {
        match propose(&pair, &calls).await {
            Ok(state) if state.status == Status::Active => active.push(state.terms.id),
            Ok(state) => open.push(state.terms.id),
            Err(problem) => assert_eq!(problem.code, Code::Overloaded, "{problem}"),
        }
    }
    assert_eq!(active.len(), 2, "two may be open at once");
    let left = pair.provider.agreement(open[0]).await.expect("it waits");
    assert!(left.left_open.is_some_and(|why| why.contains("open agreements of this consumer would be 3")), "{:?}", left.status);
    let outcomes = join_all((0..16).map(|_| pair.count())).await;
    assert_eq!(outcomes.iter().filter(|outcome| outcome.is_ok()).count(), 5, "those of the one that is chosen");

    // What was used today counts when it is closed, and after a restart.
    for id in active.drain(..).chain(open.drain(..)) {
        pair.consumer.json(&["agreement", "terminate", &id.to_string()]).await;
        until("its books to be closed", async || pair.provider.agreement(id).await?.closing).await;
    }
    pair.provider.restart().await;
    pair.consumer.is_connected(pair.provider.id()).await;
    let again = async |calls: &str, status| {
        let state = until("the provider to decide", async || propose(&pair, &[("calls", calls)]).await.ok()).await;
        assert_eq!(state.status, status, "{calls}");
    };
    again("8/total", Status::Proposed).await;
    again("7/total", Status::Active).await;
    again("1/total", Status::Proposed).await;
}

/// Calls that a consumer doesn't acknowledge are counted over all that was accepted by itself.
#[tokio::test(flavor = "multi_thread")]
async fn calls_that_are_not_acknowledged_count_over_all_agreements() {
    let pair = Pair::with(&[("agreements.accept", "auto"), ("agreements.budget.unacknowledged", "3")]).await;
    let rogue = Rogue::join(&pair).await;
    let mut ids = Vec::new();
    for _ in 0..4 {
        let terms = rogue.terms(Duration::from_secs(3_600));
        rogue.propose(&terms).await.expect("accepted");
        ids.push(terms.id);
    }
    let calls = join_all((0..16).map(|at| rogue.count(Some(ids[at % 4])))).await;
    let (passed, refused): (Vec<_>, Vec<_>) = calls.into_iter().partition(Result::is_ok);
    assert_eq!(passed.len(), 3);
    assert!(refused.iter().all(|answer| answer.as_ref().is_err_and(|problem| problem.code == Code::AgreementUnacknowledged)));
    // Whoever signs goes on.
    let newest = passed.into_iter().next().and_then(Result::ok).and_then(|executed| executed.receipt).expect("a receipt");
    let newest = newest.open(Expect::archived(&pair.provider.identity().mesh_id)).expect("signed").countersign(&rogue.owner);
    let id = newest.document().agreement;
    rogue.count_with(Some(id), Some(newest.into())).await.expect("one of them is acknowledged");
    pair.propose(&[]).await.expect("accepted");
    for _ in 0..8 {
        pair.count().await.expect("an honest consumer notices nothing");
    }
}

/// A key is the caller's: which agreement the repetition is made under, and whether the first one still is, doesn't matter.
#[tokio::test(flavor = "multi_thread")]
async fn a_repetition_is_found_whatever_has_been_agreed_since() {
    let mut pair = briefly_closing().await;
    let first = pair.propose(&[]).await.expect("accepted");
    let agent = pair.agent.id.to_string();
    let once =
        async |pair: &Pair| -> Result<Executed, Problem> { pair.consumer.execute_once(&agent, "count", &json!({}), "the-one").await };
    let answer = once(&pair).await.expect("in force");
    let second = pair.propose(&[("days", "30")]).await.expect("accepted");
    assert!(second.terms.header.expires_at > first.terms.header.expires_at, "the one that calls are made under now");
    let same = |again: Executed| {
        assert_eq!((again.operation, value(&again)), (answer.operation, value(&answer)));
        let receipt = again.receipt.expect("a receipt").open(Expect::archived(&first.terms.header.mesh)).expect("signed");
        assert_eq!(receipt.document().agreement, first.terms.id, "of the agreement that it was charged under");
    };
    for _ in 0..rounds() {
        same(once(&pair).await.expect("answered before"));
    }
    assert_eq!((used(&pair.provider, first.terms.id).await, used(&pair.provider, second.terms.id).await), (1, 0));

    for id in [first.terms.id, second.terms.id] {
        pair.consumer.json(&["agreement", "close", &id.to_string()]).await;
        for node in [&pair.provider, &pair.consumer] {
            until("its books to be closed", async || node.agreement(id).await?.closing).await;
        }
    }
    same(once(&pair).await.expect("answered before, though all is over"));
    pair.consumer.restart().await;
    pair.provider.restart().await;
    pair.consumer.is_connected(pair.provider.id()).await;
    same(once(&pair).await.expect("answered before, though all is over"));
    assert_eq!((used(&pair.provider, first.terms.id).await, used(&pair.provider, second.terms.id).await), (1, 0));
    assert_eq!(pair.count().await.expect_err("no agreement is left").code, Code::AgreementRequired);
}

/// Calls that come at once under one key run once, whatever they do: this one writes nothing, and posts to a web server.
#[tokio::test(flavor = "multi_thread")]
async fn twins_wait_for_the_first_ones_answer() {
    let web = Web::start().await;
    let settings = [("agreements.accept", "auto"), ("kernel.http_allow", &web.host()), ("kernel.http_networks", "127.0.0.0/8")];
    let pair = Pair::with(&settings).await;
    let publisher = Publisher::new();
    let plugin = publisher.sign("reaching", kernel::fixture::reaching(), &[Import::Http, Import::Agents]);
    pair.provider.trust(&publisher).await;
    pair.provider.register(&plugin).await.expect("sound");
    let grants = Grants { http: vec![web.host().parse().expect("a host")], agents: vec!["*".parse().expect("all")] };
    let agent = pair.provider.spawn_with("web", &plugin, Some(Limits::default()), grants).await.expect("allowed").id.to_string();
    pair.consumer.discovers("reaching.post", "").await;
    let parameters = [("calls".to_owned(), "1/total".to_owned())].into();
    let terms = Propose { agent: agent.clone(), node: None, methods: Vec::new(), template: "trial".into(), parameters };
    let state: AgreementState = pair.consumer.client().post("/v1/agreements", &terms).await.expect("accepted");
    web.seen();
    let params = json!({ "url": web.url("/echo") });
    let once = || pair.consumer.execute_once(&agent, "post", &params, "twins");
    let answers: Vec<_> = join_all((0..16 * rounds()).map(|_| once())).await;
    let operations: Vec<_> = answers.into_iter().map(|answer| answer.expect("one call is allowed, and made").operation).collect();
    assert!(operations.windows(2).all(|pair| pair[0] == pair[1]));
    assert_eq!((web.seen().len(), used(&pair.provider, state.terms.id).await), (1, 1), "one request, one charge");

    // Its owner's calls are no different.
    let own = join_all((0..16).map(|_| pair.provider.execute_once(&agent, "post", &params, "twins"))).await;
    assert!(own.into_iter().all(|answer| answer.is_ok()));
    assert_eq!(web.seen().len(), 1);
}

/// Calls whose callers hang up are charged for, and settled by the consumer's node without anybody asking.
#[tokio::test(flavor = "multi_thread")]
async fn a_caller_that_hangs_up_leaves_nothing_unsettled() {
    let pair = briefly_closing().await;
    let id = pair.propose(&[("calls", "100/total"), ("call_wall_ms", "2000")]).await.expect("accepted").terms.id;
    let agent = pair.agent.id.to_string();
    pair.count().await.expect("in force");
    let usage = async || pair.provider.client().get::<AgreementUsage>(&format!("/v1/agreements/{id}/usage")).await.expect("known");
    until("the first call to be settled", async || (usage().await.acknowledged == 1).then_some(())).await;
    // The last moment at which one may run is four seconds after it was sent.
    let params = RawValue::from_string("{}".into()).expect("JSON");
    let call = Execute { method: "loop".into(), params, agreement: None, timeout_ms: Some(4_000) };
    let (path, client, patience) = (format!("/v1/agents/{agent}/execute"), pair.consumer.client(), Duration::from_millis(500));
    for round in 0..rounds() {
        // With a key the guest goes on when nobody waits, and is charged for later than it is asked after.
        let key = format!("gone-{round}");
        let plain = tokio::time::timeout(patience, client.post::<_, Executed>(&path, &call));
        let keyed = tokio::time::timeout(patience, client.post_once::<_, Executed>(&path, &key, &call));
        let (plain, keyed) = tokio::join!(plain, keyed);
        assert!(plain.is_err() && keyed.is_err(), "they never end: {plain:?} {keyed:?}");
    }
    let charged = 1 + 2 * rounds() as u64;
    let what = "both sides to have signed for what was charged";
    until(what, async || Some(usage().await).filter(|usage| usage.total.calls == charged && usage.acknowledged == charged)).await;
    pair.consumer.json(&["agreement", "close", &id.to_string()]).await;
    let closed = reaches(&pair.provider, id, Status::Closed).await;
    assert_eq!(closed.used.calls, charged);
    let closing = until("its books to be closed", async || pair.consumer.agreement(id).await?.closing).await;
    assert_eq!((closing.receipt, closing.unacknowledged), (charged, 0));
}
