//! The owner's key is succeeded by another: agreements go on, old documents verify, and the old key is of no more use.

use std::{fs, path::Path, time::Duration};

use protocol::{
    Code, Did, Expect, Header, Key, Problem, Signed, SignedDuration, Signer, Timestamp,
    agreement::{Agreement, Status, Transition},
    signer::Signing,
    succession::Lineage,
    wire::Request,
};
use serde_json::{Value, json};
use tests::{Cluster, Node, SoftToken, command, run, until};

use crate::{
    fixtures::{Pair, reaches},
    keys::{secret, text},
    membership,
    receipts::{essence, statement},
    rogue::Rogue,
};

/// Has a node's owner go on with another key.
async fn rotated(node: &mut Node, how: &[&str]) -> Value {
    node.stop().await;
    let shown = node.json(&[&["key", "rotate"], how].concat()).await;
    node.restart().await;
    node.look_again().await;
    let listed = node.json(&["key", "list"]).await;
    assert_eq!((&listed["owner"]["did"], &listed["owner"]["key"]), (&shown["did"], &shown["key"]), "{listed}");
    assert_eq!(json!(node.identity().owner), shown["did"], "the owner is who it was");
    assert_ne!(shown["did"], shown["key"]);
    shown
}

/// The keys that a node's trace says to have been succeeded, with those that came after.
async fn traced(node: &Node) -> Vec<(Value, Value)> {
    let traced = node.json(&["trace", "list"]).await;
    let entries = traced["items"].as_array().expect("a list").iter().map(|item| &item["entry"]);
    entries.filter(|entry| entry["action"] == "key_rotated").map(|entry| (entry["from"].clone(), entry["to"].clone())).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agreement_goes_on_under_both_parties_new_keys() {
    let (pair, state) = Pair::agreed(&[("calls", "100/total")]).await;
    let (id, mesh) = (state.terms.id, state.terms.header.mesh.clone());
    pair.count().await.expect("active");
    let Pair { mut provider, mut consumer, agent, _bootstrap: bootstrap, cluster } = pair;
    let old = cluster.place().join("old.json");
    consumer.mcpctl(&["agreement", "statement", &id.to_string(), "--out", text(&old)]).await.exits(0);
    let agent = agent.id.to_string();
    let call = async |consumer: &Node| {
        let answered = until("a call to be answered", async || consumer.execute(&agent, "count", &json!({})).await.ok()).await;
        let receipt = answered.receipt.expect("a receipt").open(Expect::archived(&mesh)).expect("it verifies with what it has");
        receipt.require(state.terms.provider).expect("the provider's");
        (receipt.document().sequence, receipt.signatories()[0].key)
    };

    let kept = cluster.place().join("old.pem");
    let theirs = rotated(&mut provider, &["--keep-old", text(&kept)]).await;
    assert_eq!(theirs["did"], json!(state.terms.provider));
    assert_eq!(json!(Key::from_pem(&fs::read_to_string(&kept).expect("kept")).expect("a key").did()), theirs["did"]);
    let heard = format!("key={}", theirs["key"].as_str().expect("text"));
    until("the consumer to hear of it by the provider's advert", async || consumer.log().contains(&heard).then_some(())).await;
    let (number, key) = call(&consumer).await;
    assert_eq!(json!(key), theirs["key"], "by the new key");
    assert_eq!(traced(&provider).await, [(theirs["did"].clone(), theirs["key"].clone())]);
    let ours = rotated(&mut consumer, &[]).await;
    let (later, _) = call(&consumer).await;
    assert!(later > number, "counted on: {later} after {number}");
    let what = "the consumer to sign by its new key";
    until(what, async || {
        let signed = provider.agreement(id).await?.bundle.receipt?.open(Expect::archived(&mesh)).expect("signed");
        signed.signatories().iter().any(|by| json!(by.key) == ours["key"]).then_some(())
    })
    .await;

    // Transitions too, of both sides; and what is said of it names the keys.
    provider.json(&["agreement", "suspend", &id.to_string()]).await;
    reaches(&consumer, id, Status::Suspended).await;
    provider.json(&["agreement", "resume", &id.to_string()]).await;
    reaches(&consumer, id, Status::Active).await;
    consumer.json(&["agreement", "close", &id.to_string()]).await;
    reaches(&provider, id, Status::Closed).await;
    let told = consumer.mcpctl(&["agreement", "show", &id.to_string()]).await.exits(0).stdout;
    let says = |who: &str, key: &Value| told.contains(&format!("The {who} has signed by key {}", key.as_str().expect("text")));
    assert!(says("provider", &theirs["key"]) && says("consumer", &ours["key"]), "{told}");

    // Offline: new statements with what is in them, of both sides alike; the old one as ever.
    let (one, two) = (statement(&provider, id).await, statement(&consumer, id).await);
    assert_eq!(essence(&one), essence(&two));
    assert_eq!(one["successions"].as_array().map(Vec::len), Some(2), "{one}");
    drop(bootstrap);
    provider.stop().await;
    consumer.stop().await;
    let mut mcpctl = command("mcpctl");
    mcpctl.args(["agreement", "verify", text(&old), "--json"]);
    let before = run(mcpctl).await.exits(0).json();
    assert_eq!((&before["verified"], &before["total"]["calls"]), (&json!(true), &json!(1)), "{before}");
}

/// Who signs in the name of an earlier key.
#[derive(Debug)]
struct Heir {
    key: Key,
    lineage: Lineage,
}

impl Heir {
    /// Since ten minutes ago.
    async fn of(old: &Key) -> Self {
        let (key, then) = (Key::generate(), Timestamp::now() - SignedDuration::from_mins(10));
        let named = Lineage::name(None, old, key.did(), then).await.expect("a key at hand");
        let lineage = Lineage::accept(None, named, &key).await.expect("both signed");
        Self { key, lineage }
    }
}

impl Signer for Heir {
    fn did(&self) -> Did {
        self.lineage.root()
    }

    fn key(&self) -> Did {
        self.key.did()
    }

    fn lineage(&self) -> Option<&Lineage> {
        Some(&self.lineage)
    }

    fn sign<'a>(&'a self, message: &'a [u8]) -> Signing<'a> {
        Signer::sign(&self.key, message)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn once_a_successor_has_signed_the_old_key_is_of_no_more_use() {
    let mut pair = Pair::new("auto").await;
    let rogue = Rogue::join(&pair).await;
    let old = rogue.owner.clone();
    let (heir, thief) = (Heir::of(&old).await, Heir::of(&old).await);
    let terms = rogue.terms(Duration::from_secs(3_600));
    rogue.propose(&terms).await.expect("nothing is known of a successor");
    let step = async |sequence, from, to, by: &dyn Signer| {
        let header = Header::new::<Transition>(&terms.header.mesh, Timestamp::now(), SignedDuration::from_hours(1));
        let by_name = old.did();
        let transition = Transition { header, agreement: terms.id, sequence, from, to, reason: None, note: None, by: by_name };
        let sealed = Signed::sign_by(transition, by).await.expect("a key at hand").into();
        rogue.ask(Request::Transition(sealed)).await
    };
    let refused = |answer: Result<_, Problem>| answer.map(|_: protocol::wire::Response| ()).expect_err("not the owner's any more").code;

    step(1, Status::Active, Status::Suspended, &heir).await.expect("the successor speaks for the party");
    assert_eq!(refused(step(2, Status::Suspended, Status::Active, &old).await), Code::BadSignature, "the old key");
    assert_eq!(refused(step(2, Status::Suspended, Status::Active, &thief).await), Code::BadSignature, "another successor");
    step(2, Status::Suspended, Status::Active, &heir).await.expect("the successor goes on");
    let anew: Agreement = rogue.terms(Duration::from_secs(3_600));
    assert_eq!(rogue.propose(&anew).await.expect_err("the old key").code, Code::BadSignature);

    // Nothing is gained by dating it back to when the old key was the owner's, whatever is made by it.
    let mut back = rogue.terms(Duration::from_secs(3 * 3_600));
    back.header.issued_at -= SignedDuration::from_hours(1);
    assert_eq!(rogue.propose(&back).await.expect_err("dated back").code, Code::Expired);
    let header = Header {
        issued_at: back.header.issued_at,
        ..Header::new::<Transition>(&terms.header.mesh, Timestamp::now(), SignedDuration::from_hours(1))
    };
    let (from, to) = (Status::Active, Status::Suspended);
    let dated = Transition { header, agreement: terms.id, sequence: 3, from, to, reason: None, note: None, by: old.did() };
    let dated = rogue.ask(Request::Transition(Signed::sign(dated, &[&old]).into())).await;
    assert_eq!(refused(dated), Code::Expired, "dated back");
    // Whoever signs.
    let late = Signed::sign_by(back, &heir).await.expect("a key at hand");
    assert_eq!(rogue.propose_signed(late.into()).await.expect_err("not signed just before").code, Code::Expired);

    // It is remembered.
    pair.provider.restart().await;
    let mut rogue = Rogue::join(&pair).await;
    rogue.owner = old;
    let anew = rogue.terms(Duration::from_secs(3_600));
    assert_eq!(rogue.propose(&anew).await.expect_err("the old key").code, Code::BadSignature);
    let signed = Signed::sign_by(anew, &heir).await.expect("a key at hand");
    rogue.propose_signed(signed.into()).await.expect("the successor");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_succeeded_wherever_it_is() {
    let cluster = Cluster::new();
    let token = SoftToken::new(&cluster.place().join("hsm"));
    let right = secret(cluster.place(), "right", "correct horse\n");
    let builder = cluster.node("a").set("owner.passphrase_file", text(&right)).env("SOFTHSM2_CONF", &token.settings());
    let mut node = builder.start().await;
    let (directory, owner) = (node.directory().to_owned(), json!(node.identity().owner));
    let running = node.mcpctl(&["key", "rotate", "--passphrase-file", text(&right), "--json"]).await.exits(4);
    assert_eq!(running.json()["code"], "locked", "what a running node holds isn't changed under it");

    let second = rotated(&mut node, &["--passphrase-file", text(&right)]).await;
    assert_eq!((&second["did"], &second["kept"]), (&owner, &json!("encrypted_file")), "as the one before");
    assert!(fs::read_to_string(directory.join("owner.key")).expect("a key").starts_with("-----BEGIN ENCRYPTED PRIVATE KEY-----"));

    // Into a token, to another key there, and out of it.
    let third = rotated(&mut node, &["--passphrase-file", text(&right), "--pkcs11", &token.uri("third")]).await;
    assert_eq!((&third["did"], &third["kept"]), (&owner, &json!("token")));
    assert!(!directory.join("owner.key").exists(), "the old key is destroyed");
    let fourth = rotated(&mut node, &["--pkcs11", &token.uri("fourth")]).await;
    assert_ne!(fourth["key"], third["key"]);
    node.stop().await;
    let unsaid = node.mcpctl(&["key", "rotate", "--json"]).await;
    assert_eq!(unsaid.json()["code"], "invalid_request", "no key leaves a token for a plain file unasked: {unsaid:?}");
    node.restart().await;
    let fifth = rotated(&mut node, &["--encrypted", "--passphrase-file", text(&right)]).await;
    assert_eq!(fifth["kept"], "encrypted_file");
    assert!(!directory.join("owner.token").exists());
    let keys: Vec<_> = [&owner].into_iter().chain([&second, &third, &fourth, &fifth].map(|shown| &shown["key"])).collect();
    let expected: Vec<_> = keys.windows(2).map(|pair| (pair[0].clone(), pair[1].clone())).collect();
    assert_eq!(traced(&node).await, expected);

    // Without the lineage it would be another owner.
    node.stop().await;
    fs::remove_file(directory.join("owner.lineage")).expect("there");
    let mut mcpd = node.command();
    mcpd.arg("--set").arg(format!("owner.passphrase_file={}", text(&right)));
    let refused = run(mcpd).await.exits(2);
    assert!(refused.stderr.contains("owner.lineage is missing") && refused.stderr.contains("hint: "), "{}", refused.stderr);
}

/// A rotation that ended between its steps, as its files say.
#[tokio::test(flavor = "multi_thread")]
async fn a_rotation_that_was_cut_short_leaves_a_node_that_starts() {
    let cluster = Cluster::new();
    let mut node = cluster.node("a").start().await;
    let owner = json!(node.identity().owner);
    node.stop().await;
    let file = |name: &str| node.directory().join(name);
    let (key, before) = (file("owner.key"), cluster.place().join("before.pem"));
    fs::copy(&key, &before).expect("a key");
    node.json(&["key", "rotate"]).await;
    // The succession is there, the new key isn't.
    fs::copy(&before, &key).expect("as it was");
    node.restart().await;
    let listed = node.json(&["key", "list"]).await;
    assert_eq!((&listed["owner"]["did"], &listed["owner"]["key"]), (&owner, &owner), "{listed}");
    assert_eq!(traced(&node).await, []);
    let shown = rotated(&mut node, &[]).await;
    assert_eq!((&shown["did"], shown["lineage"].as_array().map(Vec::len)), (&owner, Some(1)), "{shown}");

    // Now it is done: the older key doesn't come back from a backup, as others would refuse what it signs.
    node.stop().await;
    fs::copy(&before, node.directory().join("owner.key")).expect("a backup");
    let refused = run(node.command()).await.exits(2);
    assert!(refused.stderr.contains("doesn't follow") && refused.stderr.contains("hint: "), "{}", refused.stderr);
}

#[tokio::test(flavor = "multi_thread")]
async fn members_stay_members_and_an_owners_next_node_brings_the_lineage() {
    let cluster = Cluster::new();
    let mut authority = membership::founder(&cluster).await;
    let mut one = cluster.lone_node("one").start().await;
    let ticket = membership::token(&authority, &["--uses", "2"]).await;
    one.json(&["join", &ticket]).await;
    one.look_again().await;
    let owner = rotated(&mut one, &[]).await["did"].clone();
    rotated(&mut authority, &[]).await;
    one.is_connected(authority.id()).await;

    let builder = cluster.lone_node("two").owned_as(&one);
    copy(&one, &builder.directory(), "owner.lineage");
    let mut two = builder.start().await;
    two.json(&["join", &ticket]).await;
    two.look_again().await;
    assert_eq!(json!(two.identity().owner), owner);
    let members = authority.json(&["members"]).await;
    let theirs = members["items"].as_array().expect("a list").iter().filter(|member| member["owner"] == owner);
    assert_eq!(theirs.count(), 2, "{members}");
}

fn copy(from: &Node, to: &Path, name: &str) {
    fs::copy(from.directory().join(name), to.join(name)).expect("copied");
}
