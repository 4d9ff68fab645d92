//! Two nodes, one agreement: what is refused without it, how it comes about, and that its limits hold.

use std::time::Duration;

use futures::future::join_all;
use protocol::{
    Code, Problem, Signed,
    agreement::{Reason, Status},
    wire::Request,
};
use serde_json::json;
use tests::{until, value};

use crate::{
    fixtures::{Pair, reaches},
    rogue::Rogue,
};

#[tokio::test(flavor = "multi_thread")]
async fn without_an_agreement_a_call_is_refused_and_told_how_to_get_one() {
    let pair = Pair::new("manual").await;
    let agent = pair.agent.id.to_string();
    let refused = pair.consumer.mcpctl(&["agent", "execute", &agent, "count", "--json"]).await.exits(5);
    let problem: Problem = serde_json::from_value(refused.json()).expect("a problem");
    assert_eq!((problem.code, problem.status), (Code::AgreementRequired, 403));
    let hint = problem.hint.expect("a hint");
    assert!(hint.contains(&format!("mcpctl agreement propose --agent {agent}")), "{hint}");

    // By the operator's hand: proposed until the provider accepts, and active on both sides then.
    let proposed = pair.consumer.json(&["agreement", "propose", "--agent", &agent, "--set", "calls=3/total"]).await;
    assert_eq!((&proposed["status"], &proposed["side"]), (&json!("proposed"), &json!("consumer")));
    let id = proposed["terms"]["id"].as_str().expect("an id");
    let waiting = pair.consumer.mcpctl(&["agent", "execute", &agent, "count", "--agreement", id, "--json"]).await.exits(5);
    assert_eq!(waiting.json()["code"], "agreement_not_active");
    let listed = pair.provider.json(&["agreement", "list"]).await;
    assert_eq!((&listed["items"][0]["status"], &listed["items"][0]["side"]), (&json!("proposed"), &json!("provider")));
    pair.consumer.mcpctl(&["agreement", "accept", id]).await.exits(5);
    let accepted = pair.provider.json(&["agreement", "accept", id]).await;
    assert_eq!(accepted["status"], "active");
    let state = reaches(&pair.consumer, id.parse().expect("an id"), Status::Active).await;
    assert_eq!(state.bundle.agreement.envelope().signatures.len(), 2, "both have signed");
    let counted = pair.consumer.json(&["agent", "execute", &agent, "count"]).await;
    assert_eq!(counted["result"]["count"], 1);
    assert!(counted["receipt"].is_object());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_of_five_lets_five_of_sixty_four_pass() {
    let (pair, state) = Pair::agreed(&[("calls", "5/total")]).await;
    let outcomes = join_all((0..64).map(|_| pair.count())).await;
    let (passed, refused): (Vec<_>, Vec<_>) = outcomes.into_iter().partition(Result::is_ok);
    let codes: Vec<_> = refused.into_iter().map(|outcome| outcome.expect_err("refused").code).collect();
    assert_eq!(codes, vec![Code::AgreementExhausted; 59]);
    let mut counts: Vec<_> = passed.iter().map(|outcome| value(outcome.as_ref().expect("passed"))["count"].as_u64()).collect();
    counts.sort_unstable();
    assert_eq!(counts, (1..=5).map(Some).collect::<Vec<_>>());

    let id = state.terms.id;
    for node in [&pair.consumer, &pair.provider] {
        let state = node.agreement(id).await.expect("known");
        assert_eq!(state.used.calls, 5, "on the side of the {}", state.side);
    }
    // What is used up stays used up, over a restart of the provider too.
    let agent = pair.agent.id.to_string();
    let Pair { mut provider, consumer, .. } = pair;
    provider.restart().await;
    let refused = until("the provider to answer again", async || {
        let answer = consumer.mcpctl(&["agent", "execute", &agent, "count", "--json"]).await;
        (answer.json()["code"] != "unreachable").then_some(answer)
    });
    assert_eq!(refused.await.exits(5).json()["code"], "agreement_exhausted");
    assert_eq!(provider.agreement(id).await.expect("kept").used.calls, 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn suspension_resumption_and_the_end_reach_the_other_side() {
    let (pair, state) = Pair::agreed(&[]).await;
    let id = state.terms.id;
    let text = id.to_string();
    let agent = pair.agent.id.to_string();
    let under_it = ["agent", "execute", &agent, "count", "--agreement", &text, "--json"];
    pair.count().await.expect("active");

    // The provider suspends; the consumer can't lift that.
    pair.provider.json(&["agreement", "suspend", &text]).await;
    reaches(&pair.consumer, id, Status::Suspended).await;
    assert_eq!(pair.consumer.mcpctl(&under_it).await.exits(5).json()["code"], "agreement_not_active");
    assert_ne!(pair.consumer.mcpctl(&["agreement", "resume", &text]).await.code, Some(0));
    pair.provider.json(&["agreement", "resume", &text]).await;
    reaches(&pair.consumer, id, Status::Active).await;
    pair.count().await.expect("active again");

    // The consumer suspends and resumes as well.
    pair.consumer.json(&["agreement", "suspend", &text]).await;
    reaches(&pair.provider, id, Status::Suspended).await;
    pair.consumer.json(&["agreement", "resume", &text]).await;
    reaches(&pair.provider, id, Status::Active).await;

    pair.consumer.json(&["agreement", "close", &text]).await;
    let closed = reaches(&pair.provider, id, Status::Closed).await;
    assert_eq!(closed.reason, Some(Reason::Completed));
    assert_eq!(pair.consumer.mcpctl(&under_it).await.exits(5).json()["code"], "agreement_not_active");
    // Nothing comes after the end.
    assert_eq!(pair.provider.mcpctl(&["agreement", "resume", &text, "--json"]).await.exits(1).json()["code"], "illegal_transition");
    assert_eq!(pair.count().await.expect_err("no agreement is left").code, Code::AgreementRequired);
    assert_eq!(pair.provider.agreement(id).await.expect("kept").used.calls, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_provider_that_denies_says_so_and_prices_are_what_was_advertised() {
    let pair = Pair::new("deny").await;
    assert_eq!(pair.propose(&[]).await.expect_err("denied").code, Code::AgreementRefused);
    let wrong = pair.propose(&[("cals", "5")]).await.expect_err("no such parameter");
    assert!(wrong.detail.contains("calls") || wrong.hint.as_deref().unwrap_or_default().contains("calls"), "{wrong:?}");
}

/// What was paid for is handed out again, whatever has become of the limit meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn a_repetition_is_answered_when_the_limit_is_used_up() {
    let (pair, _) = Pair::agreed(&[("calls", "1/total")]).await;
    let agent = pair.agent.id.to_string();
    let first = pair.consumer.execute_once(&agent, "count", &json!({}), "the-one").await.expect("the one call");
    assert_eq!(pair.count().await.expect_err("used up").code, Code::AgreementExhausted);
    let again = pair.consumer.execute_once(&agent, "count", &json!({}), "the-one").await.expect("the same answer");
    assert_eq!((again.operation, value(&again)), (first.operation, value(&first)));
}

#[tokio::test(flavor = "multi_thread")]
async fn one_idempotency_key_is_one_operation_and_counts_once() {
    let (pair, state) = Pair::agreed(&[]).await;
    let agent = pair.agent.id.to_string();
    let nothing = json!({});
    let calls = (0..8).map(|_| pair.consumer.execute_once(&agent, "count", &nothing, "one-and-only"));
    let mut answers: Vec<_> = join_all(calls).await.into_iter().map(|answer| answer.expect("answered")).collect();
    answers.push(pair.consumer.execute_once(&agent, "count", &json!({}), "one-and-only").await.expect("answered"));
    let operations: std::collections::BTreeSet<_> = answers.iter().map(|answer| answer.operation.to_string()).collect();
    assert_eq!(operations.len(), 1, "{operations:?}");
    assert!(answers.iter().all(|answer| value(answer)["count"] == 1));
    assert_eq!(pair.provider.agreement(state.terms.id).await.expect("known").used.calls, 1);
    let next = pair.consumer.execute_once(&agent, "count", &json!({}), "another").await.expect("answered");
    assert_eq!(value(&next)["count"], 2);
    assert_eq!(pair.provider.agreement(state.terms.id).await.expect("known").used.calls, 2);
}

/// A consumer of one's own making finds no way around what the provider signs.
#[tokio::test(flavor = "multi_thread")]
async fn forged_terms_are_refused_and_expired_ones_end() {
    let pair = Pair::with(&[("agreements.accept", "auto"), ("agreements.min_validity_s", "1")]).await;
    let rogue = Rogue::join(&pair).await;
    let hour = Duration::from_secs(3_600);
    assert_eq!(rogue.count(None).await.expect_err("no agreement").code, Code::AgreementRequired);

    // Unsigned, signed by another, signed and then changed.
    let terms = rogue.terms(hour);
    let unsigned = rogue.propose_signed(Signed::sign(terms.clone(), &[]).into()).await;
    assert_eq!(unsigned.expect_err("unsigned").code, Code::Unsigned);
    let stranger = Signed::sign(terms.clone(), &[&protocol::Key::generate()]).into();
    assert_eq!(rogue.propose_signed(stranger).await.expect_err("the consumer must sign").code, Code::Unsigned);
    let mut envelope = Signed::sign(terms.clone(), &[&rogue.owner]).into_envelope();
    envelope.payload = Signed::sign(rogue.terms(2 * hour), &[&rogue.owner]).into_envelope().payload;
    assert_eq!(rogue.propose_signed(envelope.into()).await.expect_err("changed").code, Code::BadSignature);

    // A price of one's own, another mesh, a term that never ends, one that has ended.
    let mut cheap = terms.clone();
    cheap.pricing.per_call = "-1".parse().expect("a number");
    assert_eq!(rogue.propose(&cheap).await.expect_err("cheap").code, Code::AgreementRefused);
    let mut foreign = terms.clone();
    foreign.header.mesh = "elsewhere".parse().expect("a mesh id");
    assert_eq!(rogue.propose(&foreign).await.expect_err("foreign").code, Code::ForeignMesh);
    let long = rogue.terms(Duration::from_secs(400 * 86_400));
    assert_eq!(rogue.propose(&long).await.expect_err("long").code, Code::AgreementRefused);
    let mut over = terms.clone();
    over.header.expires_at = over.header.issued_at;
    assert_eq!(rogue.propose(&over).await.expect_err("over").code, Code::Expired);

    // Accepting in the provider's stead makes nothing active.
    assert!(rogue.accept(Signed::sign(terms.clone(), &[&rogue.owner]).into()).await.is_err());
    assert_eq!(rogue.count(Some(terms.id)).await.expect_err("unknown").code, Code::AgreementRequired);

    // In force for two seconds: it serves until then, and not a moment longer.
    let mut brief = rogue.terms(Duration::from_secs(2));
    brief.limits[0].max = 1_000_000;
    rogue.propose(&brief).await.expect("accepted");
    rogue.count(Some(brief.id)).await.expect("in force").outcome.expect("counted");
    let refused = until("the agreement to expire", async || rogue.count(Some(brief.id)).await.err());
    let refused = refused.await;
    assert_eq!(refused.code, Code::AgreementExpired, "{refused}");
    assert_eq!(pair.provider.agreement(brief.id).await.expect("kept").reason, Some(Reason::Expired));
}

/// Nobody else can use an agreement, or learn what was done under it.
#[tokio::test(flavor = "multi_thread")]
async fn an_agreement_serves_its_parties_alone() {
    let (pair, state) = Pair::agreed(&[]).await;
    let rogue = Rogue::join(&pair).await;
    let executed = pair.count().await.expect("active");
    let stolen = rogue.count(Some(state.terms.id)).await.expect_err("another's agreement");
    assert_eq!(stolen.code, Code::AgreementScope);
    let prying = rogue.ask(Request::Prove(executed.operation)).await.expect_err("another's operation");
    assert_eq!(prying.code, Code::NotFound);
    assert_eq!(pair.provider.agreement(state.terms.id).await.expect("known").used.calls, 1);
}
