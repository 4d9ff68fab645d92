//! Receipts: numbered, signed by both, bounded in number while they aren't; statements of both sides that agree.

use futures::future::join_all;
use protocol::{
    AgreementId, Code, Expect, Problem, Signed,
    agreement::Status,
    api::{AgreementState, AgreementUsage},
    document::Sealed,
    receipt::Receipt,
    wire::{Acknowledge, Request, Response, Standing},
};
use serde_json::{Value, json};
use tests::{Node, until};

use crate::{
    fixtures::{Pair, reaches},
    rogue::Rogue,
};

/// A side's statement, verified offline from its file.
pub(crate) async fn statement(node: &Node, id: AgreementId) -> Value {
    let file = node.directory().join("statement.json");
    let (file, id) = (file.to_str().expect("a path"), id.to_string());
    node.mcpctl(&["agreement", "statement", &id, "--out", file]).await.exits(0);
    let verified = node.json(&["agreement", "verify", file]).await;
    if !verified["receipt"].is_null() {
        node.mcpctl(&["receipt", "verify", file]).await.exits(0);
    }
    verified
}

/// What two statements must have in common.
pub(crate) fn essence(statement: &Value) -> Value {
    let of = |names: &[&str]| -> Value {
        names.iter().map(|name| ((*name).to_owned(), statement[*name].clone())).collect::<serde_json::Map<_, _>>().into()
    };
    of(&["id", "status", "reason", "total", "overage", "price", "currency", "transitions", "receipt", "acknowledged"])
}

async fn usage(node: &Node, id: AgreementId) -> AgreementUsage {
    node.client().get(&format!("/v1/agreements/{id}/usage")).await.expect("known")
}

/// Waits until the provider has the consumer's signature up to a number.
async fn acknowledged(provider: &Node, id: AgreementId, number: u64) -> AgreementUsage {
    let what = format!("receipt {number} to be signed by both");
    until(&what, async || Some(usage(provider, id).await).filter(|usage| usage.acknowledged >= number)).await
}

fn opened(state: &AgreementState) -> Signed<Receipt> {
    let sealed = state.bundle.receipt.clone().expect("a receipt");
    sealed.open(Expect::archived(&state.terms.header.mesh)).expect("it verifies")
}

#[tokio::test(flavor = "multi_thread")]
async fn receipts_are_numbered_and_signed_by_both_with_no_call_to_bring_the_last() {
    let (pair, state) = Pair::agreed(&[]).await;
    let id = state.terms.id;
    let answers = join_all((0..32).map(|_| pair.count())).await;
    let mut numbers: Vec<u64> = Vec::new();
    for answer in answers {
        let receipt =
            answer.expect("answered").receipt.expect("a receipt").open(Expect::archived(&state.terms.header.mesh)).expect("signed");
        numbers.push(receipt.document().sequence);
    }
    numbers.sort_unstable();
    assert_eq!(numbers, (1..=32).collect::<Vec<_>>(), "without a gap");

    // Nobody asks for anything: the consumer's node does it by itself.
    let shown = acknowledged(&pair.provider, id, 32).await;
    assert_eq!((shown.receipt, shown.acknowledged, shown.total.calls), (32, 32, 32));
    let (ours, theirs) = (pair.provider.agreement(id).await.expect("known"), pair.consumer.agreement(id).await.expect("known"));
    for state in [&ours, &theirs] {
        let receipt = opened(state);
        assert_eq!(receipt.document().sequence, 32);
        receipt.require(state.terms.consumer).expect("the consumer signed");
        receipt.require(state.terms.provider).expect("the provider signed");
    }
    assert_eq!(opened(&ours).envelope(), opened(&theirs).envelope(), "the same bytes on both sides");

    let (stated, answered) = (statement(&pair.provider, id).await, statement(&pair.consumer, id).await);
    assert_eq!(essence(&stated), essence(&answered));
    assert_eq!((&stated["total"]["calls"], &stated["acknowledged"]), (&json!(32), &json!(32)));
    assert_ne!(stated["stated_by"], answered["stated_by"]);

    // What both signed outlives the provider's process; closing settles what came after.
    let Pair { mut provider, consumer, agent, .. } = pair;
    provider.kill9();
    provider.restart().await;
    assert_eq!(usage(&provider, id).await.acknowledged, 32);
    let agent = agent.id.to_string();
    let again = until("the provider to answer again", async || consumer.execute(&agent, "count", &json!({})).await.ok()).await;
    let receipt = again.receipt.expect("a receipt").open(Expect::archived(&state.terms.header.mesh)).expect("signed");
    assert_eq!(receipt.document().sequence, 33);
    consumer.json(&["agreement", "close", &id.to_string()]).await;
    reaches(&provider, id, Status::Closed).await;
    acknowledged(&provider, id, 33).await;
    let (stated, answered) = (statement(&provider, id).await, statement(&consumer, id).await);
    assert_eq!(essence(&stated), essence(&answered));
    assert_eq!((&stated["status"], &stated["total"]["calls"]), (&json!("closed"), &json!(33)));
}

/// A consumer that doesn't sign gets no further than the provider lets it, over a restart too.
#[tokio::test(flavor = "multi_thread")]
async fn exposure_is_bounded_until_the_consumer_signs() {
    let pair = Pair::with(&[("agreements.accept", "auto"), ("agreements.max_unacknowledged", "3")]).await;
    let rogue = Rogue::join(&pair).await;
    let mut terms = rogue.terms(std::time::Duration::from_secs(3_600));
    terms.limits[0].max = 100;
    rogue.propose(&terms).await.expect("accepted");
    let mut newest = None;
    for _ in 0..3 {
        newest = rogue.count(Some(terms.id)).await.expect("within the bound").receipt;
    }
    let refused: Problem = rogue.count(Some(terms.id)).await.expect_err("three are unsigned");
    assert_eq!((refused.code, refused.retry_after, refused.status), (Code::AgreementUnacknowledged, Some(1), 429));
    assert!(refused.hint.is_some());

    // Its own signature is needed, under what the provider signed.
    let receipt = newest.expect("a receipt").open(Expect::archived(&terms.header.mesh)).expect("signed");
    let acknowledge = async |receipt: Option<Sealed<Receipt>>| -> Result<Standing, Problem> {
        let acknowledge = Acknowledge { agreement: terms.id, agent: terms.agent, receipt, transitions: 0, proposed: false };
        match rogue.ask(Request::Acknowledge(Box::new(acknowledge))).await? {
            Response::Standing(standing) => Ok(*standing),
            other => panic!("{other:?}"),
        }
    };
    let unsigned = acknowledge(Some(receipt.clone().into())).await.expect_err("the consumer didn't sign");
    assert_eq!(unsigned.code, Code::Unsigned);
    let mut more = receipt.document().clone();
    more.sequence = 1_000;
    more.total.calls = 1_000;
    let forged = acknowledge(Some(Signed::sign(more, &[&rogue.owner]).into())).await.expect_err("the provider didn't sign");
    assert_eq!(forged.code, Code::Unsigned);
    assert_eq!(rogue.count(Some(terms.id)).await.expect_err("still").code, Code::AgreementUnacknowledged);

    // With the next call, or by itself.
    let with = rogue.count_with(Some(terms.id), Some(receipt.clone().countersign(&rogue.owner).into())).await;
    assert_eq!(with.expect("all before it are signed").usage.calls, 1);
    let standing = acknowledge(None).await.expect("a consumer may ask");
    assert_eq!(standing.acknowledged, 3);
    let newer = standing.receipt.expect("there is a newer one").open(Expect::archived(&terms.header.mesh)).expect("signed");
    assert_eq!((newer.document().sequence, newer.document().total.calls), (4, 4));
    let standing = acknowledge(Some(newer.countersign(&rogue.owner).into())).await.expect("signed");
    assert_eq!((standing.acknowledged, standing.receipt), (4, None));

    // An honest consumer notices nothing.
    pair.propose(&[]).await.expect("accepted");
    let outcomes = join_all((0..3).map(|_| pair.count())).await;
    assert!(outcomes.iter().all(Result::is_ok), "{outcomes:?}");
    for _ in 0..8 {
        pair.count().await.expect("each call brings the signature for those before");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sixty_four_callers_are_within_the_usual_bound() {
    let pair = Pair::with(&[("agreements.accept", "auto"), ("agreements.max_unacknowledged", "200")]).await;
    let state = pair.propose(&[("calls", "1000/total")]).await.expect("accepted");
    for _ in 0..8 {
        let outcomes = join_all((0..64).map(|_| pair.count())).await;
        let refused: Vec<_> = outcomes.into_iter().filter_map(Result::err).collect();
        assert!(refused.is_empty(), "{refused:?}");
    }
    acknowledged(&pair.provider, state.terms.id, 512).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn overage_has_its_price_and_its_end() {
    let settings = [
        ("agreements.accept", "auto"),
        ("agreements.currency", "EUR"),
        ("agreements.price_per_call", "0.01"),
        ("agreements.overage_percent", "50"),
        ("agreements.overage_price_per_call", "0.03"),
    ];
    let pair = Pair::with(&settings).await;
    let state = pair.propose(&[("calls", "4/total"), ("at_limit", "overage")]).await.expect("accepted");
    let outcomes = join_all((0..16).map(|_| pair.count())).await;
    assert_eq!(outcomes.iter().filter(|outcome| outcome.is_ok()).count(), 6, "four, and half as many again");
    let id = state.terms.id;
    acknowledged(&pair.provider, id, 6).await;
    for node in [&pair.provider, &pair.consumer] {
        let shown = usage(node, id).await;
        assert_eq!((shown.total.calls, shown.overage.calls, shown.price.to_string().as_str()), (6, 2, "0.1"), "{}", shown.side);
        let calls = shown.limits.iter().find(|state| state.limit.max == 4).expect("the limit on calls");
        assert_eq!((calls.hard_max, calls.used, calls.left), (6, Some(6), Some(0)));
    }
    let (stated, answered) = (statement(&pair.provider, id).await, statement(&pair.consumer, id).await);
    assert_eq!(essence(&stated), essence(&answered));
    assert_eq!((&stated["price"], &stated["overage"]["calls"]), (&json!("0.1"), &json!(2)));
}
