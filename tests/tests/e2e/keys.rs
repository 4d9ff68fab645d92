//! The owner's key where it is safer than in a plain file: encrypted, or in a token that may be pulled out.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use protocol::{Code, Key, api::OwnerKey};
use serde_json::{Value, json};
use tests::{Answer, Cluster, Node, SoftToken, command, run, until, value};

use crate::{
    fixtures::{Pair, counter},
    membership,
};

/// A file with a secret, for its owner alone.
pub(crate) fn secret(place: &Path, name: &str, text: &str) -> PathBuf {
    let file = place.join(name);
    fs::write(&file, text).expect("write");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).expect("chmod");
    file
}

pub(crate) fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

/// `mcpctl --json` on a data directory in which nothing runs.
async fn mcpctl(directory: &Path, token: Option<&SoftToken>, arguments: &[&str]) -> Answer {
    let mut command = command("mcpctl");
    command.arg("--data-dir").arg(directory).args(arguments).arg("--json");
    command.envs(token.map(|token| ("SOFTHSM2_CONF", token.settings())));
    run(command).await
}

async fn owner_of(node: &Node) -> OwnerKey {
    node.client().get("/v1/keys/owner").await.expect("it knows its owner")
}

#[tokio::test(flavor = "multi_thread")]
async fn an_encrypted_key_serves_with_its_passphrase_alone() {
    let cluster = Cluster::new();
    let right = secret(cluster.place(), "right", "correct horse\n");
    let wrong = secret(cluster.place(), "wrong", "battery staple\n");
    let builder = cluster.node("a").set("owner.passphrase_file", text(&right));
    let directory = builder.directory();
    let create = ["key", "create", "--owner", "--encrypted", "--passphrase-file", text(&right)];
    let made = mcpctl(&directory, None, &create).await.exits(0).json();
    assert_eq!(made["kept"], "encrypted_file", "{made}");
    let file = directory.join("owner.key");
    let kept = fs::read_to_string(&file).expect("a key");
    assert!(kept.starts_with("-----BEGIN ENCRYPTED PRIVATE KEY-----"), "{kept}");
    assert_eq!(fs::metadata(&file).expect("a key").permissions().mode() & 0o777, 0o600);
    assert_eq!(mcpctl(&directory, None, &create).await.exits(1).json()["code"], "already_exists");

    let mut node = builder.start().await;
    assert_eq!(node.json(&["id"]).await["owner"], made["did"]);
    let listed = node.json(&["key", "list"]).await;
    assert_eq!((&listed["owner"]["kept"], &listed["owner"]["place"]), (&json!("encrypted_file"), &json!(text(&file))), "{listed}");
    // How the key is kept is in the trace, once.
    let traced = node.json(&["trace", "list"]).await;
    let entries: Vec<&Value> = traced["items"].as_array().expect("a list").iter().map(|item| &item["entry"]).collect();
    let noted: Vec<_> = entries.iter().filter(|entry| entry["action"] == "key").map(|entry| &entry["kept"]).collect();
    assert_eq!(noted, [&json!("encrypted_file")], "{entries:?}");
    // What a running node holds isn't changed under it.
    assert_eq!(node.mcpctl(&["key", "decrypt", "--passphrase-file", text(&right), "--json"]).await.exits(4).json()["code"], "locked");
    node.stop().await;
    assert!(!node.log().contains("correct horse"));

    // Without the passphrase, with another, with one that all may read: a clear error, and the key is as it was.
    let start = |file: &str| {
        let mut mcpd = node.command();
        mcpd.arg("--set").arg(format!("owner.passphrase_file={file}"));
        run(mcpd)
    };
    let refused = start("").await.exits(2);
    assert!(refused.stderr.contains("there is no passphrase") && refused.stderr.contains("owner.passphrase_file"), "{}", refused.stderr);
    let refused = start(text(&wrong)).await.exits(2);
    assert!(refused.stderr.contains("the passphrase is wrong") && refused.stderr.contains("hint: "), "{}", refused.stderr);
    assert!(!refused.stderr.contains("battery staple"));
    fs::set_permissions(&wrong, fs::Permissions::from_mode(0o644)).expect("chmod");
    assert!(start(text(&wrong)).await.exits(2).stderr.contains("hint: chmod o= "));
    assert_eq!(fs::read_to_string(&file).expect("a key"), kept);

    // Decrypted it serves as any other, and encrypted again it is no file of before.
    let decrypted = mcpctl(&directory, None, &["key", "decrypt", "--passphrase-file", text(&right)]).await.exits(0).json();
    assert_eq!((&decrypted["did"], &decrypted["kept"]), (&made["did"], &json!("file")));
    let plain = Key::from_pem(&fs::read_to_string(&file).expect("a key")).expect("plain");
    assert_eq!(json!(plain.did()), made["did"]);
    assert_eq!(mcpctl(&directory, None, &["key", "decrypt"]).await.exits(1).json()["code"], "conflict");
    mcpctl(&directory, None, &["key", "encrypt", "--passphrase-file", text(&right)]).await.exits(0);
    assert_ne!(fs::read_to_string(&file).expect("a key"), kept);
    node.restart().await;
    assert_eq!(node.json(&["id"]).await["owner"], made["did"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn systemd_may_give_the_passphrase() {
    let cluster = Cluster::new();
    let given = secret(cluster.place(), "owner-passphrase", "correct horse");
    let builder = cluster.node("a").env("CREDENTIALS_DIRECTORY", cluster.place());
    let create = ["key", "create", "--owner", "--encrypted", "--passphrase-file", text(&given)];
    let made = mcpctl(&builder.directory(), None, &create).await.exits(0).json();
    assert_eq!(builder.start().await.json(&["id"]).await["owner"], made["did"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn publishers_encrypt_their_keys_too() {
    let place = tempfile::tempdir().expect("a directory");
    let right = secret(place.path(), "right", "correct horse\n");
    let (key, wasm) = (place.path().join("publisher.pem"), place.path().join("demo.wasm"));
    fs::write(&wasm, counter()).expect("write");
    let create = ["key", "create", "--signing", text(&key), "--encrypted", "--passphrase-file", text(&right)];
    let made = mcpctl(place.path(), None, &create).await.exits(0).json();
    let sign = ["plugin", "sign", "--key", text(&key), "--name", "demo", "--release", "0.1.0"];
    let refused = mcpctl(place.path(), None, &[&sign[..], &[text(&wasm)]].concat()).await.exits(2);
    assert!(refused.json()["hint"].as_str().is_some_and(|hint| hint.contains("--passphrase-file")), "{refused:?}");
    assert!(!place.path().join("demo.manifest.json").exists(), "nothing was signed");
    let signed = mcpctl(place.path(), None, &[&sign[..], &["--passphrase-file", text(&right), text(&wasm)]].concat()).await.exits(0).json();
    assert_eq!(signed["publisher"], made["did"]);
    let export = ["key", "export", "--public", "--signing", text(&key), "--passphrase-file", text(&right)];
    let exported = mcpctl(place.path(), None, &export).await.exits(0).json();
    assert_eq!(exported["did"], made["did"]);
    assert!(exported["public_key"].as_str().is_some_and(|pem| pem.starts_with("-----BEGIN PUBLIC KEY-----")), "{exported}");
}

/// A pair whose provider has its owner's key in a token.
async fn with_token() -> (Pair, SoftToken) {
    let (cluster, bootstrap) = Cluster::with_bootstrap().await;
    let token = SoftToken::new(&cluster.place().join("hsm"));
    let builder = cluster.node("provider").set("agreements.accept", "auto").env("SOFTHSM2_CONF", &token.settings());
    let uri = token.uri("owner");
    let made = mcpctl(&builder.directory(), Some(&token), &["key", "create", "--owner", "--pkcs11", &uri]).await.exits(0).json();
    assert_eq!(made["kept"], "token", "{made}");
    let provider = builder.set("owner.pkcs11", &uri).join().await;
    assert_eq!(json!(provider.identity().owner), made["did"]);
    assert!(!provider.directory().join("owner.key").exists());
    let agent = provider.host("counter", "demo", counter()).await;
    let consumer = cluster.node("consumer").join().await;
    consumer.discovers("demo.count", "").await;
    (Pair { consumer, provider, agent, _bootstrap: bootstrap, cluster }, token)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_signs_and_while_it_is_away_nothing_runs_that_is_paid_for() {
    let (pair, token) = with_token().await;
    let state = pair.propose(&[("calls", "100/total")]).await.expect("the policy accepts");
    let (id, agent) = (state.terms.id, pair.agent.id.to_string());
    let used = async || pair.provider.agreement(id).await.expect("known").used.calls;
    let mut signed = 1;
    pair.count().await.expect("active");

    // The token goes while a call is under way: it runs, and its receipt can't be signed. That is hit by trying, as a token that
    // has just signed isn't asked beforehand whether it is there.
    let mut tries = 0;
    let key = until("a call to run without a token", async || {
        tries += 1;
        let key = format!("try-{tries}");
        if pair.count().await.is_ok() {
            signed += 1;
        }
        token.take_away();
        let refused = pair.consumer.execute_once(&agent, "count", &json!({}), &key).await.expect_err("no receipt, no answer");
        assert_eq!(refused.code, Code::KeyUnavailable, "{refused}");
        if refused.detail.contains(" ran, but ") {
            return Some(key);
        }
        token.put_back();
        None
    })
    .await;
    assert_eq!(used().await, signed + 1, "the call that ran");

    // From now on it is known: calls are refused before they run, and so is whatever else needs a signature.
    for _ in 0..3 {
        let refused = pair.count().await.expect_err("the token is away");
        assert_eq!((refused.code, refused.status), (Code::KeyUnavailable, 503), "{refused}");
        assert!(!refused.detail.contains(" ran, but "), "{refused}");
    }
    let refused = pair.consumer.execute_once(&agent, "count", &json!({}), &key).await.expect_err("still no receipt");
    assert_eq!(refused.code, Code::KeyUnavailable);
    assert_eq!(pair.propose(&[]).await.expect_err("unsigned").code, Code::KeyUnavailable);
    let suspended = pair.provider.mcpctl(&["agreement", "suspend", &id.to_string(), "--json"]).await.exits(1);
    assert_eq!(suspended.json()["code"], "key_unavailable");
    let kept = pair.provider.mcpctl(&["agent", "snapshot", "counter", "--json"]).await;
    assert_eq!(kept.json()["code"], "key_unavailable", "{kept:?}");
    assert_eq!(used().await, signed + 1, "nothing is charged");
    // The node lives, and says what is wrong. Its owner's own calls need no signature.
    let shown = owner_of(&pair.provider).await;
    assert!(shown.unavailable.is_some_and(|why| !why.is_empty()));
    pair.provider.execute("counter", "echo", &json!({})).await.expect("the owner's own call");

    token.put_back();
    let answered =
        until("the token to sign again", async || pair.consumer.execute_once(&agent, "count", &json!({}), &key).await.ok()).await;
    assert!(answered.receipt.is_some());
    assert_eq!(value(&answered)["count"], signed + 1, "the answer of then");
    assert_eq!(used().await, signed + 1, "which was charged then");
    pair.count().await.expect("as before");
    assert_eq!(owner_of(&pair.provider).await.unavailable, None);

    // What the token has signed verifies without any node.
    let file = pair.cluster.place().join("bundle.json");
    pair.consumer.json(&["agreement", "show", &id.to_string(), "--output", text(&file)]).await;
    let verified = mcpctl(pair.cluster.place(), None, &["agreement", "verify", text(&file)]).await.exits(0).json();
    assert_eq!((&verified["verified"], &verified["receipt"]["used"]["calls"]), (&json!(true), &json!(signed + 2)), "{verified}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_whose_key_is_in_a_token_never_becomes_another_owner() {
    let cluster = Cluster::new();
    let token = SoftToken::new(&cluster.place().join("hsm"));
    let builder = cluster.node("a").env("SOFTHSM2_CONF", &token.settings());
    let directory = builder.directory();
    let create = |object: &str| ["key".into(), "create".into(), "--owner".into(), "--pkcs11".to_owned(), token.uri(object)];
    let made = async |directory: &Path, object: &str| {
        let arguments = create(object);
        mcpctl(directory, Some(&token), &arguments.each_ref().map(String::as_str)).await
    };
    let owner = made(&directory, "owner").await.exits(0).json();
    assert_eq!(made(&directory, "other").await.exits(1).json()["code"], "already_exists", "one owner");
    assert_eq!(made(&cluster.place().join("b"), "owner").await.exits(1).json()["code"], "already_exists", "one key of a name");
    made(&cluster.place().join("b"), "other").await.exits(0);

    // Nothing in the configuration says so, and the directory knows it.
    let mut node = builder.start().await;
    let listed = node.json(&["key", "list"]).await;
    assert_eq!((&listed["owner"]["kept"], &listed["owner"]["did"]), (&json!("token"), &owner["did"]), "{listed}");
    let text = node.mcpctl(&["key", "list"]).await.exits(0).stdout;
    assert!(text.contains("in token: pkcs11:token=ops"), "{text}");
    let exported = node.json(&["key", "export", "--public"]).await;
    assert_eq!((&exported["did"], &exported["public_key"]), (&owner["did"], &listed["owner"]["public_key"]));
    node.stop().await;

    // Another key, a wrong PIN, no token.
    let start = |settings: &[String]| {
        let mut mcpd = node.command();
        mcpd.args(settings.iter().flat_map(|setting| ["--set", setting]));
        run(mcpd)
    };
    let other = start(&[format!("owner.pkcs11={}", token.uri("other"))]).await.exits(2);
    assert!(other.stderr.contains("but the token has the key of"), "{}", other.stderr);
    let none = start(&[format!("owner.pkcs11={}", token.uri("nobody"))]).await.exits(2);
    assert!(none.stderr.contains("0 Ed25519 keys") && none.stderr.contains("mcpctl key create --owner"), "{}", none.stderr);
    token.set_pin("4321");
    let refused = start(&[]).await.exits(2);
    assert!(refused.stderr.contains("the token refuses the PIN") && !refused.stderr.contains("4321"), "{}", refused.stderr);
    token.set_pin("1234");
    token.take_away();
    let away = start(&[]).await.exits(1);
    assert!(away.stderr.contains("token") && away.stderr.contains("hint: "), "{}", away.stderr);
    assert!(!directory.join("owner.key").exists(), "no other key in its place");
    token.put_back();
    node.restart().await;
    assert_eq!(node.json(&["id"]).await["owner"], owner["did"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_token_signs_for_an_owners_nodes_and_none_enters_a_mesh_without_it() {
    let cluster = Cluster::new();
    let authority = membership::founder(&cluster).await;
    let token = SoftToken::new(&cluster.place().join("hsm"));
    let ours = |name: &str| cluster.lone_node(name).env("SOFTHSM2_CONF", &token.settings());
    let (one, two) = (ours("one"), ours("two"));
    let create = ["key", "create", "--owner", "--pkcs11", &token.uri("owner")];
    let owner = mcpctl(&one.directory(), Some(&token), &create).await.exits(0).json();
    fs::create_dir(two.directory()).expect("a new node");
    fs::copy(one.directory().join("owner.token"), two.directory().join("owner.token")).expect("where the key is");
    let (mut one, mut two) = (one.start().await, two.start().await);

    let ticket = membership::token(&authority, &["--uses", "2"]).await;
    token.take_away();
    let refused = until("the token to be missed", async || {
        let answer = one.mcpctl(&["join", &ticket, "--json"]).await;
        // What has just been signed with isn't asked whether it is there.
        (answer.json()["code"] == "key_unavailable").then_some(answer)
    });
    refused.await.exits(1);
    token.put_back();
    for node in [&mut one, &mut two] {
        until("the owner to sign that its node enters", async || {
            let joined = node.mcpctl(&["join", &ticket, "--json"]).await;
            (joined.code == Some(0) && joined.json()["member"] == true).then_some(())
        })
        .await;
        node.look_again().await;
    }
    assert_eq!((json!(one.identity().owner), json!(two.identity().owner)), (owner["did"].clone(), owner["did"].clone()));
    let members = authority.json(&["members"]).await;
    let theirs = members["items"].as_array().expect("a list").iter().filter(|member| member["owner"] == owner["did"]);
    assert_eq!(theirs.count(), 2, "{members}");
}
