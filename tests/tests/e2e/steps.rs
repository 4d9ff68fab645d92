//! Both sides of an agreement keep one history, whoever was away when it moved on.

use protocol::{
    AgreementId, Client, Problem,
    agreement::{Reason, Status},
    api::{AgreementState, Step},
};
use serde_json::json;
use tests::{Node, until};
use tokio::sync::Notify;

use crate::{
    fixtures::{Pair, reaches},
    receipts::{essence, statement},
};

/// How often both move it on at once.
const ROUNDS: usize = 12;

/// Waits until both sides have the same history and nothing is left to tell, and verifies what both state.
async fn agree(provider: &Node, consumer: &Node, id: AgreementId) -> AgreementState {
    let steps =
        |state: &AgreementState| -> Vec<_> { state.bundle.transitions.iter().map(|step| step.envelope().payload.clone()).collect() };
    let same = until("both sides to have the same history", async || {
        let (ours, theirs) = (provider.agreement(id).await?, consumer.agreement(id).await?);
        let same = steps(&ours) == steps(&theirs) && ours.status == theirs.status && ours.reason == theirs.reason;
        (same && theirs.wanted.is_none() && !ours.untold).then_some(ours)
    });
    let state = same.await;
    until("both sides to state the same", async || {
        (essence(&statement(provider, id).await) == essence(&statement(consumer, id).await)).then_some(())
    })
    .await;
    state
}

async fn step(client: &Client, id: AgreementId, verb: &str) -> Result<AgreementState, Problem> {
    client.post(&format!("/v1/agreements/{id}/{verb}"), &Step { note: None }).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_closes_while_its_provider_does_not_answer() {
    let (pair, state) = Pair::agreed(&[]).await;
    let (id, text) = (state.terms.id, state.terms.id.to_string());
    pair.count().await.expect("active");
    pair.provider.halt(true);
    let closed = pair.consumer.json(&["agreement", "terminate", &text, "--note", "we moved on"]).await;
    assert_eq!((&closed["status"], &closed["wanted"]["to"]), (&json!("active"), &json!("closed")), "the provider puts steps in order");
    let shown = pair.consumer.mcpctl(&["agreement", "show", &text]).await.exits(0).stdout;
    assert!(shown.contains("is told when it comes back"), "{shown}");
    // From here on the consumer's own node keeps to what its owner wants.
    let agent = pair.agent.id.to_string();
    let refused = pair.consumer.mcpctl(&["agent", "execute", &agent, "count", "--agreement", &text, "--json"]).await.exits(5);
    assert_eq!(refused.json()["code"], "agreement_not_active");
    until("the provider to be missed", async || {
        pair.consumer.peers().await.iter().all(|peer| peer.node_id != pair.provider.id()).then_some(())
    })
    .await;
    pair.provider.halt(false);
    let state = agree(&pair.provider, &pair.consumer, id).await;
    assert_eq!((state.status, state.reason, state.used.calls), (Status::Closed, Some(Reason::Terminated), 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_consumer_wants_outlives_both_processes() {
    let (pair, state) = Pair::agreed(&[]).await;
    let (id, text) = (state.terms.id, state.terms.id.to_string());
    let Pair { mut provider, mut consumer, agent, _bootstrap, cluster: _cluster } = pair;
    provider.kill9();
    let wanted = consumer.json(&["agreement", "suspend", &text]).await;
    assert_eq!((&wanted["status"], &wanted["wanted"]["to"]), (&json!("active"), &json!("suspended")));
    consumer.kill9();
    consumer.restart().await;
    let kept = consumer.agreement(id).await.expect("kept");
    assert_eq!(kept.wanted.map(|wanted| wanted.to), Some(Status::Suspended));
    let refused = consumer.execute(&agent.id.to_string(), "count", &json!({})).await;
    assert!(refused.is_err(), "{refused:?}");
    provider.restart().await;
    let state = agree(&provider, &consumer, id).await;
    assert_eq!((state.status, state.used.calls, state.bundle.transitions.len()), (Status::Suspended, 0, 1));
    // It is the consumer's to lift; what wasn't told can be taken back.
    assert_eq!(step(consumer.client(), id, "resume").await.expect("theirs").status, Status::Active);
    provider.kill9();
    consumer.json(&["agreement", "suspend", &text]).await;
    let back = consumer.json(&["agreement", "resume", &text]).await;
    assert_eq!((&back["status"], &back["wanted"]), (&json!("active"), &json!(null)));
    provider.restart().await;
    assert_eq!(agree(&provider, &consumer, id).await.status, Status::Active);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_learns_what_its_provider_did_while_it_was_away() {
    let pair = Pair::new("manual").await;
    let proposed = pair.propose(&[]).await.expect("kept for the operator");
    let (id, text) = (proposed.terms.id, proposed.terms.id.to_string());
    let Pair { mut provider, mut consumer, agent: _, _bootstrap, cluster: _cluster } = pair;
    consumer.kill9();
    // The acceptance, and what comes after it.
    provider.json(&["agreement", "accept", &text]).await;
    assert_eq!(provider.json(&["agreement", "suspend", &text]).await["untold"], true);
    provider.kill9();
    provider.restart().await;
    assert!(provider.agreement(id).await.expect("kept").untold);
    consumer.restart().await;
    reaches(&consumer, id, Status::Suspended).await;
    agree(&provider, &consumer, id).await;
    consumer.kill9();
    provider.json(&["agreement", "resume", &text]).await;
    provider.json(&["agreement", "suspend", &text]).await;
    provider.json(&["agreement", "close", &text]).await;
    consumer.restart().await;
    let state = agree(&provider, &consumer, id).await;
    assert_eq!((state.status, state.bundle.transitions.len()), (Status::Closed, 4));
}

#[tokio::test(flavor = "multi_thread")]
async fn steps_that_cross_leave_one_history() {
    let (pair, state) = Pair::agreed(&[("calls", "100/total")]).await;
    let id = state.terms.id;
    let (ours, theirs) = (pair.provider.client(), pair.consumer.client());
    for round in 0..ROUNDS {
        let (one, other) = tokio::join!(step(ours, id, "suspend"), step(theirs, id, "suspend"));
        assert!(one.is_ok() || other.is_ok(), "round {round}: {one:?} {other:?}");
        let suspended = agree(&pair.provider, &pair.consumer, id).await;
        assert_eq!(suspended.status, Status::Suspended, "round {round}");
        // It is one of the two's to lift.
        let (one, other) = tokio::join!(step(ours, id, "resume"), step(theirs, id, "resume"));
        assert!(one.is_ok() != other.is_ok(), "round {round}: {one:?} {other:?}");
        let resumed = agree(&pair.provider, &pair.consumer, id).await;
        assert_eq!((resumed.status, resumed.bundle.transitions.len()), (Status::Active, 2 * (round + 1)));
        pair.count().await.expect("active");
    }
    let close = |client: &Client| {
        let (client, close) = (client.clone(), protocol::api::Close { reason: Reason::Completed, note: None });
        async move { client.post::<_, AgreementState>(&format!("/v1/agreements/{id}/close"), &close).await }
    };
    let (one, other) = tokio::join!(close(ours), close(theirs));
    assert!(one.is_ok() || other.is_ok(), "{one:?} {other:?}");
    let state = agree(&pair.provider, &pair.consumer, id).await;
    assert_eq!((state.status, state.bundle.transitions.len(), state.used.calls), (Status::Closed, 2 * ROUNDS + 1, ROUNDS as u64));
}

/// Steps of both sides, and each time one of the two is killed: at once, or as soon as one of them is answered.
#[tokio::test(flavor = "multi_thread")]
async fn steps_and_kills_leave_one_history() {
    let (pair, state) = Pair::agreed(&[]).await;
    let id = state.terms.id;
    let Pair { mut provider, mut consumer, agent: _, _bootstrap, cluster: _cluster } = pair;
    for round in 0..8 {
        let (ours, theirs, answered) = (provider.client().clone(), consumer.client().clone(), Notify::new());
        let verb = if round % 4 < 2 { "suspend" } else { "resume" };
        let one = async {
            let _ = step(&ours, id, verb).await;
            answered.notify_one();
        };
        let other = async {
            let _ = step(&theirs, id, verb).await;
            answered.notify_one();
        };
        let killed = if round % 2 == 0 { &mut provider } else { &mut consumer };
        let killing = async {
            if round % 3 != 0 {
                answered.notified().await;
            }
            killed.kill9();
            killed.restart().await;
        };
        tokio::join!(one, other, killing);
        consumer.is_connected(provider.id()).await;
        agree(&provider, &consumer, id).await;
    }
}
