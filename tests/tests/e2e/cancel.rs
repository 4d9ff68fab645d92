//! Callers that go away in the middle.

use std::time::Duration;

use serde_json::{Value, json};
use tests::until;

use crate::fixtures::Pair;

/// How long the consumer waits before it goes away: far less than a call may take.
const PATIENCE: Duration = Duration::from_millis(500);

/// The newest call in the provider's log.
async fn called(pair: &Pair) -> Option<Value> {
    let trace = pair.provider.json(&["trace", "list"]).await;
    let items = trace["items"].as_array().expect("a list");
    items.iter().map(|item| &item["entry"]).find(|entry| entry["action"] == "execute").cloned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_that_goes_away_stops_the_guest_and_is_charged_for_what_it_used() {
    let pair = Pair::new("auto").await;
    let agent = pair.agent.id.to_string();
    pair.consumer.json(&["agreement", "propose", "--agent", &agent]).await;
    // Dropping the call is going away; the guest would go on for as long as its grant allows.
    let entry = until("the call to be in the provider's log", async || {
        let params = json!({});
        let waited = tokio::time::timeout(PATIENCE, pair.consumer.execute(&agent, "loop", &params)).await;
        assert!(waited.is_err(), "it never ends: {waited:?}");
        called(&pair).await
    })
    .await;
    assert_eq!(entry["failure"], "cancelled", "{entry}");
    assert!(entry["usage"]["fuel"].as_u64().is_some_and(|fuel| fuel > 0), "{entry}");
    // The agent's place is free for the next.
    pair.consumer.execute(&agent, "count", &json!({})).await.expect("it runs");
}
