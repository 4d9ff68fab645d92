//! Terms before they are signed: templates, what a provider accepts beforehand, and how a proposal ends otherwise.

use protocol::{Code, Problem, agreement::Status};
use serde_json::json;

use crate::fixtures::{Pair, reaches};

#[tokio::test(flavor = "multi_thread")]
async fn a_provider_accepts_beforehand_what_stays_within_a_template() {
    let pair = Pair::new("manual").await;
    let consumer = pair.consumer.json(&["id"]).await["owner"].as_str().expect("a did").to_owned();
    let to = pair.provider.json(&["id"]).await["node_id"].as_str().expect("a node").to_owned();
    // An agent of another node is found by its name there.
    let propose = ["agreement", "propose", "--to", &to, "--agent", "counter", "--template", "standard_compute"];
    let within = [&propose[..], &["--set", "duration_days=30", "--set", "requests_per_day=1000"]].concat();
    assert_eq!(pair.consumer.json(&within).await["status"], "proposed");

    let rule = ["agreement", "policy", "set", "--auto-accept", "standard_compute", "--for", &consumer];
    let policy = pair.provider.json(&rule).await;
    let shown = &policy["auto_accept"][0];
    assert_eq!((&shown["template"], &shown["for"], &shown["budget"]), (&json!("standard_compute"), &json!(consumer), &policy["budget"]));
    assert_eq!(pair.consumer.json(&within).await["status"], "active");
    // Terms that say more than the template lets them are the operator's to decide: a consumer with a template of its own
    // that bears the name of ours gets no further.
    let other = pair.consumer.json(&["agreement", "propose", "--agent", "counter", "--set", "calls=5"]).await;
    assert_eq!(other["status"], "proposed");
    let everyone = pair.provider.mcpctl(&["agreement", "policy", "set", "--auto-accept", "trial", "--for", "members", "--json"]).await;
    assert_eq!(everyone.exits(1).json()["code"], "conflict");

    // It stays so over a restart, until it is taken back.
    let (consumer_did, Pair { mut provider, consumer, .. }) = (consumer.clone(), pair);
    provider.restart().await;
    let kept = provider.json(&["agreement", "policy", "show"]).await;
    assert_eq!((&kept["auto_accept"][0]["for"], &kept["auto_accept"][0]["used"]["agreements"]), (&json!(consumer_did), &json!(1)));
    provider.json(&["agreement", "policy", "unset", "--auto-accept", "standard_compute", "--for", rule[6]]).await;
    consumer.discovers("demo.count", "").await;
    let unknown = provider.mcpctl(&["agreement", "policy", "unset", "--auto-accept", "standard_compute", "--for", rule[6], "--json"]).await;
    assert_eq!(unknown.exits(1).json()["code"], "not_found");
    let traced = provider.json(&["trace", "list"]).await.to_string();
    assert_eq!(traced.matches("\"action\":\"auto_accept\"").count(), 2, "{traced}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proposal_is_rejected_or_withdrawn_with_a_note() {
    let pair = Pair::new("manual").await;
    let propose = async || pair.propose(&[]).await.expect("it is kept for the operator").terms.id;
    let (declined, withdrawn) = (propose().await, propose().await);
    // Only the provider declines.
    let text = declined.to_string();
    let refused = pair.consumer.mcpctl(&["agreement", "reject", &text, "--json"]).await.exits(1).json();
    assert_eq!(refused["code"], "illegal_transition");
    let rejected = pair.provider.json(&["agreement", "reject", &text, "--note", "not before the winter"]).await;
    assert_eq!((&rejected["status"], &rejected["reason"]), (&json!("closed"), &json!("rejected")));
    reaches(&pair.consumer, declined, Status::Closed).await;
    let shown = pair.consumer.mcpctl(&["agreement", "show", &text]).await.exits(0).stdout;
    assert!(
        shown.contains("is closed (rejected).") && shown.contains("the provider closed it as rejected: \"not before the winter\""),
        "{shown}"
    );
    assert!(shown.contains("There may be at most 100 calls in all."), "{shown}");
    let ended = pair.consumer.json(&["agreement", "terminate", &withdrawn.to_string()]).await;
    assert_eq!(ended["reason"], "terminated");
    reaches(&pair.provider, withdrawn, Status::Closed).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn templates_of_ones_own_are_checked_kept_and_used() {
    let pair = Pair::new("auto").await;
    let node = &pair.consumer;
    let file = pair.cluster.place().join("template.toml");
    let write = |text: &str| std::fs::write(&file, text).expect("written");
    let add = ["agreement", "templates", "add", file.to_str().expect("a path"), "--json"];
    let good = "name = 'weekly'\nsummary = 'ten calls a day for a week'\ndays = 7\n\
                limits = [{ quantity = 'calls', window = '1d', max = 10 }]\n\
                per_call = { fuel = 1_000_000_000, wall_ms = 1_000, result_bytes = 65_536 }\n\
                parameters = [{ name = 'calls', sets = 'calls/1d', max = 20 }]\n";
    write(&good.replace("max = 20", "max = 5"));
    let refused: Problem = serde_json::from_value(node.mcpctl(&add).await.exits(1).json()).expect("a problem");
    assert!(refused.code == Code::InvalidRequest && refused.detail.contains("the template itself says 10"), "{refused}");
    write(&good.replace("weekly", "standard"));
    assert_eq!(node.mcpctl(&add).await.exits(1).json()["code"], "already_exists");
    write(good);
    node.mcpctl(&add).await.exits(0);
    let shown = node.mcpctl(&["agreement", "templates", "show", "weekly"]).await.exits(0).stdout;
    assert!(shown.contains("--set calls=1..20, 10 if not given"), "{shown}");
    let propose = |calls| ["agreement", "propose", "--agent", "counter", "--template", "weekly", "--set", calls, "--json"];
    let state = node.mcpctl(&propose("calls=20")).await.exits(0).json();
    assert_eq!((&state["status"], &state["terms"]["limits"][0]["max"]), (&json!("active"), &json!(20)));
    let refused = node.mcpctl(&propose("calls=21")).await.exits(1).json();
    assert!(refused["detail"].as_str().is_some_and(|detail| detail.contains("a number from 1 to 20")), "{refused}");
    // The provider doesn't know the template, and decides on the terms alone.
    assert_eq!(
        pair.provider.mcpctl(&["agreement", "templates", "show", "weekly", "--json"]).await.exits(1).json()["code"],
        "invalid_request"
    );
    node.json(&["agreement", "templates", "remove", "weekly"]).await;
    let gone = node.mcpctl(&propose("calls=20")).await.exits(1).json();
    assert!(gone["detail"].as_str().is_some_and(|detail| detail.contains("no template \"weekly\"")), "{gone}");
}
