//! Paid calls while either side is killed, over and over: afterwards both sides state the same, and it verifies.
//!
//! `MCP_KILL_CALLS` says how many calls.

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    time::Instant,
};

use futures::{StreamExt as _, stream};
use protocol::{
    Client,
    api::{Execute, Executed},
};
use serde_json::{json, value::RawValue};
use tests::{Node, PATIENCE, until, value};
use tokio::sync::Notify;

use crate::{
    fixtures::Pair,
    receipts::{essence, statement},
};

const CALLERS: usize = 16;

fn calls() -> usize {
    std::env::var("MCP_KILL_CALLS").map_or(300, |text| text.parse().expect("a number"))
}

/// One call until it is answered, under its key. Each takes as long as both sides need to come back.
async fn insist(client: &Client, path: &str, key: &str) -> Executed {
    let params = RawValue::from_string("{}".into()).expect("JSON");
    let body = Execute { method: "count".into(), params, agreement: None, timeout_ms: None };
    until(&format!("call {key}"), async || client.post_once(path, key, &body).await.ok()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn both_sides_agree_whoever_was_killed() {
    let calls = calls();
    let pair = Pair::with(&[("agreements.accept", "auto"), ("agreements.price_per_call", "0.01")]).await;
    let limit = format!("{}/total", 2 * calls);
    let state = pair.propose(&[("calls", &limit)]).await.expect("accepted");
    let id = state.terms.id;
    let Pair { mut provider, mut consumer, agent, _bootstrap, cluster: _cluster } = pair;
    let (client, path) = (consumer.client().clone(), format!("/v1/agents/{}/execute", agent.id));
    let (answered, progress, over) = (AtomicUsize::new(0), Notify::new(), Notify::new());

    let calling = async {
        let each = stream::iter(0..calls).map(async |at| {
            insist(&client, &path, &format!("call-{at}")).await;
            answered.fetch_add(1, Ordering::SeqCst);
            progress.notify_one();
        });
        each.buffer_unordered(CALLERS).collect::<()>().await;
        over.notify_one();
    };
    let killing = async {
        let (mut kills, mut seed) = (0_usize, 0x2545_f491_4f6c_dd1d_u64);
        let mut roll = |below: u64| {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            seed % below
        };
        loop {
            // A few more answers, then one of the two.
            let target = answered.load(Ordering::SeqCst) + 20 + roll(40) as usize;
            let begun = Instant::now();
            while answered.load(Ordering::SeqCst) < target {
                assert!(begun.elapsed() < 2 * PATIENCE, "the calls stand still");
                tokio::select! {
                    () = progress.notified() => {}
                    () = over.notified() => return kills,
                }
            }
            let node: &mut Node = if roll(2) == 0 { &mut provider } else { &mut consumer };
            node.kill9();
            node.restart().await;
            kills += 1;
        }
    };
    let ((), kills) = tokio::join!(calling, killing);
    assert!(kills >= calls / 80, "{kills} kills");

    // Neither lost nor doubled: the counter counts what was charged.
    let counted = value(&provider.execute("counter", "count", &json!({})).await.expect("the owner may")).clone();
    assert_eq!(counted["count"], calls + 1);
    consumer.is_connected(provider.id()).await;
    let (stated, answered) = until("both sides to state the same", async || {
        let answered = statement(&consumer, id).await;
        let stated = statement(&provider, id).await;
        (essence(&stated) == essence(&answered)).then_some((stated, answered))
    })
    .await;
    assert_eq!((&stated["total"]["calls"], &stated["acknowledged"]), (&json!(calls), &json!(calls)), "{answered}");
}
