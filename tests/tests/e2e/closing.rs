//! The end of an agreement: its books are closed once, on what both signed last, whoever has gone.

use std::time::Duration;

use protocol::{
    AgreementId, Expect, Signed,
    agreement::{Reason, Status},
    api::{AgreementState, List, TraceItem},
    entry::Action,
    receipt::Receipt,
    wire::{Acknowledge, Request, Response},
};
use serde_json::json;
use tests::{Node, until};

use crate::{
    fixtures::Pair,
    receipts::{essence, statement},
    rogue::Rogue,
};

/// How often a node's trace says that an agreement was closed.
async fn closed_entries(node: &Node, id: AgreementId) -> usize {
    let trace: List<TraceItem> = node.client().get("/v1/trace?limit=1000").await.expect("a list");
    let closes = |item: &&TraceItem| item.entry.agreement == Some(id) && item.entry.action == Action::Agreement { status: Status::Closed };
    trace.items.iter().filter(closes).count()
}

async fn closed(node: &Node, id: AgreementId) -> AgreementState {
    until("the books to be closed", async || node.agreement(id).await.filter(|state| state.closing.is_some())).await
}

/// A consumer that vanishes before it signed everything; the provider is killed before the end.
#[tokio::test(flavor = "multi_thread")]
async fn a_vanished_consumer_leaves_nothing_open() {
    let settings = [
        ("agreements.accept", "auto"),
        ("agreements.min_validity_s", "1"),
        ("agreements.closing_grace_s", "1"),
        ("agreements.price_per_call", "0.01"),
    ];
    let pair = Pair::with(&settings).await;
    let rogue = Rogue::join(&pair).await;
    let mut terms = rogue.terms(Duration::from_secs(15));
    terms.pricing.per_call = "0.01".parse().expect("a number");
    let id = terms.id;
    rogue.propose(&terms).await.expect("accepted");
    let mut signed = Vec::new();
    for _ in 0..3 {
        let receipt = rogue.count(Some(id)).await.expect("in force").receipt.expect("a receipt");
        signed.push(receipt.open(Expect::archived(&terms.header.mesh)).expect("signed").countersign(&rogue.owner));
    }
    let acknowledge = |receipt: &Signed<Receipt>| {
        let receipt = Some(receipt.clone().into());
        Request::Acknowledge(Box::new(Acknowledge { agreement: id, agent: terms.agent, receipt, transitions: 0, proposed: false }))
    };
    let Response::Standing(standing) = rogue.ask(acknowledge(&signed[1])).await.expect("taken") else { panic!("a standing") };
    assert_eq!(standing.acknowledged, 2);
    assert_eq!(pair.provider.agreement(id).await.expect("kept").closing, None);

    let Pair { mut provider, consumer: _consumer, agent: _, _bootstrap, cluster: _cluster } = pair;
    provider.kill9();
    provider.restart().await;
    let state = closed(&provider, id).await;
    let closing = state.closing.clone().expect("closed");
    assert_eq!((state.status, state.reason), (Status::Closed, Some(Reason::Expired)));
    assert_eq!((closing.receipt, closing.total.calls, closing.unacknowledged), (2, 2, 1));
    assert_eq!((closing.price.to_string().as_str(), closed_entries(&provider, id).await), ("0.02", 1));
    assert!(closing.at >= terms.header.expires_at);

    // Nothing is signed any more, and nothing is done again.
    let answer = until("the provider to be reached", async || rogue.ask(acknowledge(&signed[2])).await.ok());
    let Response::Standing(standing) = answer.await else { panic!("a standing") };
    assert_eq!((standing.acknowledged, standing.receipt), (2, None));
    provider.kill9();
    provider.restart().await;
    let again = provider.agreement(id).await.expect("kept");
    assert_eq!((again.closing, closed_entries(&provider, id).await), (Some(closing), 1));

    // Disputes show both sides' last signed state.
    let stated = statement(&provider, id).await;
    assert_eq!(
        (&stated["closing"]["receipt"], &stated["by_both"]["number"], &stated["receipt"]["number"]),
        (&json!(2), &json!(2), &json!(3))
    );
    let text = provider.mcpctl(&["agreement", "show", &id.to_string()]).await.exits(0).stdout;
    assert!(text.contains("on receipt 2 of both signatures") && text.contains("1 calls beyond it were never acknowledged"), "{text}");
    let text = provider.mcpctl(&["agreement", "usage", &id.to_string()]).await.exits(0).stdout;
    assert!(text.contains("on receipt 2 of both signatures"), "{text}");
}

/// Both sides close on the same receipt, once each, though one was killed in between.
#[tokio::test(flavor = "multi_thread")]
async fn both_close_on_the_same_receipt() {
    let pair = Pair::with(&[("agreements.accept", "auto"), ("agreements.closing_grace_s", "1")]).await;
    let mut consumer = pair.cluster.node("brief").set("agreements.closing_grace_s", "1").join().await;
    consumer.discovers("demo.count", "").await;
    let agent = pair.agent.id.to_string();
    let proposed = consumer.json(&["agreement", "propose", "--agent", &agent, "--template", "trial"]).await;
    let text = proposed["terms"]["id"].as_str().expect("an id").to_owned();
    let id: AgreementId = text.parse().expect("an id");
    for _ in 0..3 {
        consumer.execute(&agent, "count", &json!({})).await.expect("active");
    }
    consumer.kill9();
    pair.provider.json(&["agreement", "close", &text]).await;
    // What nobody has told the consumer keeps the books open.
    assert_eq!(pair.provider.agreement(id).await.map(|state| (state.untold, state.closing)), Some((true, None)));
    consumer.restart().await;
    let (ours, theirs) = (closed(&pair.provider, id).await, closed(&consumer, id).await);
    for state in [&ours, &theirs] {
        let closing = state.closing.as_ref().expect("closed");
        assert_eq!((closing.receipt, closing.unacknowledged), (3, 0), "on the side of the {}", state.side);
    }
    let (stated, answered) = (statement(&pair.provider, id).await, statement(&consumer, id).await);
    assert_eq!(essence(&stated), essence(&answered));
    assert_eq!((closed_entries(&pair.provider, id).await, closed_entries(&consumer, id).await), (1, 1), "of the step that closed it");
}
