//! The real program, doing what needs no daemon, and failing as it should where it needs one.

use std::{
    fs,
    io::Write as _,
    os::unix::fs::{PermissionsExt as _, symlink},
    path::Path,
    process::{Command, Output, Stdio},
};

use protocol::{
    AgentId, AgreementId, Code, Digest, Expect, Header, Key, MeshId, OperationId, Problem, Signed, Timestamp, Usage,
    agreement::{Agreement, AtLimit, Bundle, PerCall, Pricing},
    checkpoint::Checkpoint,
    document::Sealed,
    entry::{Action, ConsistencyProof, Entry, InclusionProof, VERSION},
    manifest::Manifest,
    merkle,
    receipt::{Position, Receipt},
};
use serde_json::Value;
use tempfile::TempDir;

/// What a component begins with; offline commands read no further.
const COMPONENT: &[u8] = b"\0asm\x0d\0\x01\0 and more";

fn command(dir: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mcpctl"));
    command.current_dir(dir).args(arguments).env_clear().env("MCP_DATA_DIR", dir).stdin(Stdio::null());
    command
}

fn run(dir: &Path, arguments: &[&str]) -> Output {
    command(dir, arguments).output().expect("mcpctl runs")
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn exit(output: &Output) -> Option<i32> {
    output.status.code()
}

/// A directory with a publisher's key and a signed component.
fn signed() -> TempDir {
    let dir = tempfile::tempdir().expect("directory");
    fs::write(dir.path().join("docs.wasm"), COMPONENT).expect("component");
    let made = run(dir.path(), &["key", "create", "--signing", "publisher.pem"]);
    assert_eq!(exit(&made), Some(0), "{}", stderr(&made));
    let arguments =
        ["plugin", "sign", "--key", "publisher.pem", "--name", "docs", "--release", "0.1.0", "--imports", "state,log", "docs.wasm"];
    let made = run(dir.path(), &arguments);
    assert_eq!(exit(&made), Some(0), "{}", stderr(&made));
    dir
}

#[test]
fn a_signing_key_is_private_and_never_overwritten() {
    let dir = tempfile::tempdir().expect("directory");
    let made = run(dir.path(), &["key", "create", "--signing", "publisher.pem"]);
    let file = dir.path().join("publisher.pem");
    let pem = fs::read_to_string(&file).expect("key");
    assert_eq!(stdout(&made).trim(), Key::from_pem(&pem).expect("PKCS#8").did().to_string());
    assert_eq!(fs::metadata(&file).expect("file").permissions().mode() & 0o777, 0o600);
    let again = run(dir.path(), &["key", "create", "--signing", "publisher.pem"]);
    assert_eq!((exit(&again), fs::read_to_string(&file).expect("key")), (Some(1), pem));
    assert!(stderr(&again).starts_with("error: publisher.pem exists"), "{}", stderr(&again));
}

#[test]
fn a_signed_component_is_inspected_and_a_changed_one_refused() {
    let dir = signed();
    let manifest: Sealed<Manifest> =
        serde_json::from_slice(&fs::read(dir.path().join("docs.manifest.json")).expect("file")).expect("envelope");
    let manifest = manifest.open(Expect::at(&MeshId::any(), Timestamp::now())).expect("verifies");
    assert_eq!(manifest.document().component, Digest::blake3(COMPONENT));
    manifest.require(manifest.document().publisher).expect("signed by its publisher");

    for file in ["docs.wasm", "docs.manifest.json"] {
        let shown = run(dir.path(), &["--json", "plugin", "inspect", file]);
        let shown: Value = serde_json::from_str(&stdout(&shown)).expect("json");
        assert_eq!(shown["manifest"]["imports"], serde_json::json!(["state", "log"]));
        assert_eq!((&shown["component_verified"], &shown["expired"]), (&Value::Bool(true), &Value::Bool(false)));
    }
    let shown = stdout(&run(dir.path(), &["plugin", "inspect", "docs.wasm"]));
    assert!(shown.starts_with("plugin     docs@0.1.0\npublisher  did:key:z6Mk"), "{shown}");

    fs::write(dir.path().join("docs.wasm"), b"\0asm\x0d\0\x01\0 and mode").expect("component");
    let refused = run(dir.path(), &["--json", "plugin", "inspect", "docs.manifest.json"]);
    let problem: Problem = serde_json::from_slice(&refused.stdout).expect("problem");
    assert_eq!((exit(&refused), problem.code), (Some(5), Code::BadSignature));
}

#[test]
fn what_is_no_component_or_no_key_is_refused_with_a_hint() {
    let dir = signed();
    fs::write(dir.path().join("core.wasm"), b"\0asm\x01\0\0\0").expect("module");
    let sign = |key, file| run(dir.path(), &["plugin", "sign", "--key", key, "--name", "x", "--release", "0.1.0", file]);
    assert!(stderr(&sign("publisher.pem", "core.wasm")).contains("hint: make one of a core module"));
    assert!(stderr(&sign("docs.wasm", "docs.wasm")).contains("hint: make one with 'mcpctl key create --signing FILE'"));
    assert!(!dir.path().join("core.manifest.json").exists());
}

fn bundle(keys: &[&Key], provider: &Key, consumer: &Key) -> Bundle {
    let mesh: MeshId = "test".parse().expect("mesh");
    let terms = Agreement {
        header: Header::new::<Agreement>(&mesh, Timestamp::now(), jiff::SignedDuration::from_hours(24)),
        id: AgreementId::new(),
        provider: provider.did(),
        provider_node: provider.node_id(),
        consumer: consumer.did(),
        consumer_node: consumer.node_id(),
        agent: AgentId::new(),
        methods: Vec::new(),
        template: "standard".into(),
        limits: Vec::new(),
        per_call: PerCall { fuel: 1, wall_ms: 1, result_bytes: 1 },
        pricing: Pricing::free(),
        at_limit: AtLimit::Deny,
    };
    Bundle { agreement: Signed::sign(terms, keys).into(), transitions: Vec::new(), receipt: None, countersigned: None }
}

#[test]
fn an_agreement_verifies_from_a_file_and_from_stdin() {
    let dir = tempfile::tempdir().expect("directory");
    let (provider, consumer) = (Key::generate(), Key::generate());
    let both = serde_json::to_vec(&bundle(&[&consumer, &provider], &provider, &consumer)).expect("json");
    fs::write(dir.path().join("both.json"), &both).expect("file");
    let shown = run(dir.path(), &["agreement", "verify", "both.json"]);
    assert_eq!(exit(&shown), Some(0), "{}", stderr(&shown));
    assert!(stdout(&shown).contains(&format!("provider   {} (signed)\n", provider.did())), "{}", stdout(&shown));

    // As 'agreement show --json' prints it, piped.
    let state = format!("{{\"side\":\"consumer\",\"bundle\":{}}}", String::from_utf8(both).expect("text"));
    let mut child = command(dir.path(), &["--json", "agreement", "verify", "-"]);
    let mut child = child.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("mcpctl runs");
    child.stdin.take().expect("piped").write_all(state.as_bytes()).expect("write");
    let shown: Value = serde_json::from_slice(&child.wait_with_output().expect("ends").stdout).expect("json");
    assert_eq!((&shown["verified"], &shown["status"]), (&Value::Bool(true), &Value::from("active")));

    let one = serde_json::to_vec(&bundle(&[&consumer], &provider, &consumer)).expect("json");
    fs::write(dir.path().join("one.json"), one).expect("file");
    let refused = run(dir.path(), &["agreement", "verify", "one.json"]);
    assert_eq!((exit(&refused), stderr(&refused)), (Some(5), format!("error: the agreement is not signed by {}\n", provider.did())));
}

/// The receipt of one call, by which the agreement of a bundle has used as much as of all.
fn receipt(bundle: &Bundle, provider: &Key, result: &str) -> Receipt {
    let mesh: MeshId = "test".parse().expect("mesh");
    let terms = bundle.agreement.clone().open(Expect::archived(&mesh)).expect("its own").document().clone();
    let usage = Usage { calls: 1, wall_us: 7, ..Usage::default() };
    Receipt {
        header: Header::new::<Receipt>(&mesh, Timestamp::now(), jiff::SignedDuration::from_hours(24)),
        agreement: terms.id,
        provider: provider.did(),
        operation: OperationId::new(),
        agent: terms.agent,
        method: "search".into(),
        params: Digest::sha256(b"{}"),
        result: Digest::sha256(result.as_bytes()),
        usage,
        sequence: 1,
        total: usage,
        overage: Usage::default(),
        price: Default::default(),
        currency: terms.pricing.currency.clone(),
        trace: Position { log: provider.node_id(), index: 3, leaf: [0; 32] },
        repeated: false,
    }
}

/// Verifies a text by a command: what it prints as JSON if all is well, or its error.
fn verified(dir: &Path, command: &[&str], text: &str) -> Result<Value, String> {
    fs::write(dir.join("file.json"), text).expect("file");
    let shown = run(dir, &[&["--json"], command, &["file.json"]].concat());
    if exit(&shown) == Some(0) { Ok(serde_json::from_slice(&shown.stdout).expect("json")) } else { Err(stderr(&shown)) }
}

#[test]
fn what_stands_beside_a_receipt_is_compared_with_it() {
    let dir = tempfile::tempdir().expect("directory");
    let (provider, consumer) = (Key::generate(), Key::generate());
    let terms = bundle(&[&consumer, &provider], &provider, &consumer);
    // The exact bytes are what is signed.
    let result = r#"{"b": 1.0,"a":"x  y"}"#;
    let receipt = receipt(&terms, &provider, result);
    let sealed = serde_json::to_string(&Sealed::from(Signed::sign(receipt.clone(), &[&provider]))).expect("json");
    let (operation, usage) = (receipt.operation, serde_json::to_string(&receipt.usage).expect("json"));
    let answer = |result: &str, usage: &str, operation: &str, more: &str| {
        format!(r#"{{"result":{result},"operation":"{operation}","usage":{usage},"receipt":{sealed}{more}}}"#)
    };
    let verify = |text: &str| verified(dir.path(), &["receipt", "verify"], text);
    let operation = operation.to_string();
    let honest = verify(&answer(result, &usage, &operation, "")).expect("as it came");
    assert_eq!(honest["compared"], serde_json::json!(["result", "usage", "operation"]));
    assert_eq!((honest.get("not_verified"), honest.get("result")), (None, None), "what is shown is what is signed: {honest}");
    verify(&answer("{\n  \"b\": 1.0,\n  \"a\": \"x  y\"\n}", &usage, &operation, "")).expect_err("white space of its own is signed");
    let unsigned = verify(&answer(result, &usage, &operation, r#","paid":true"#)).expect("the rest is as it came");
    assert_eq!(unsigned["not_verified"], serde_json::json!(["paid"]));
    assert_eq!(verify(&sealed).expect("alone")["verified"], true);

    for (field, altered) in [
        ("result", answer(r#"{"b": 2.0,"a":"x  y"}"#, &usage, &operation, "")),
        ("result", answer(r#"{"b": 1.0,"a":"x y"}"#, &usage, &operation, "")),
        ("usage", answer(result, &usage.replace(":7", ":8"), &operation, "")),
        ("usage", answer(result, &usage.replace('}', r#","free":1}"#), &operation, "")),
        ("operation", answer(result, &usage, &OperationId::new().to_string(), "")),
        ("twice", answer(result, &usage, &operation, r#","result":1"#)),
    ] {
        let error = verify(&altered).expect_err(field);
        assert!(error.contains(field), "{field}: {error}");
    }
    // Compact, as most plugins answer, it may be made readable.
    let compact = receipt_of(&terms, &provider, r#"{"a":["x  y"]}"#);
    verify(&format!("{{\n \"result\": {{\n \"a\": [ \"x  y\" ]\n }},\n \"receipt\": {compact}\n}}")).expect("the same value");
    verify(&format!(r#"{{"result":{{"a":["x y"]}},"receipt":{compact}}}"#)).expect_err("another value");
}

fn receipt_of(terms: &Bundle, provider: &Key, result: &str) -> String {
    serde_json::to_string(&Sealed::from(Signed::sign(receipt(terms, provider, result), &[provider]))).expect("json")
}

#[test]
fn what_stands_beside_an_agreement_is_compared_with_it() {
    let dir = tempfile::tempdir().expect("directory");
    let (provider, consumer) = (Key::generate(), Key::generate());
    let mut bundle = bundle(&[&consumer, &provider], &provider, &consumer);
    let receipt = receipt(&bundle, &provider, "1");
    bundle.receipt = Some(Signed::sign(receipt.clone(), &[&provider]).into());
    let mesh: MeshId = "test".parse().expect("mesh");
    let terms = bundle.agreement.clone().open(Expect::archived(&mesh)).expect("its own").document().clone();
    let shown = serde_json::json!({
        "status": "active", "side": "consumer", "terms": terms, "used": receipt.total, "price": receipt.price, "bundle": bundle,
    });
    let verify = |shown: &Value| verified(dir.path(), &["agreement", "verify"], &shown.to_string());
    let honest = verify(&shown).expect("as it was shown");
    assert_eq!(honest["compared"], serde_json::json!(["status", "terms", "used", "price"]));
    assert_eq!(honest["not_verified"], serde_json::json!(["side"]), "whose copy it is isn't signed");
    let zero = serde_json::json!({ "at": Timestamp::now(), "receipt": 1, "total": receipt.total, "overage": receipt.overage,
        "price": receipt.price, "unacknowledged": 0 });
    for (field, altered) in [
        ("status", Value::from("closed")),
        ("reason", Value::from("breached")),
        ("used", serde_json::json!({ "calls": 0, "fuel": 0, "wall_us": 0, "egress_bytes": 0 })),
        ("price", Value::from("900")),
        ("closing", zero),
    ] {
        let mut shown = shown.clone();
        shown[field] = altered;
        let error = verify(&shown).expect_err(field);
        assert!(error.contains(&format!("{field:?}")), "{field}: {error}");
    }
    let mut other = shown.clone();
    other["terms"]["template"] = "free".into();
    assert!(verify(&other).expect_err("other terms").contains("\"terms\""));

    // A receipt is verified under the terms that stand beside it, in whichever of the two forms.
    for text in [shown.to_string(), shown["bundle"].to_string()] {
        let found = verified(dir.path(), &["receipt", "verify"], &text).expect("under its terms");
        assert_eq!((&found["verified"], &found["terms"]), (&Value::Bool(true), &Value::Bool(true)), "{found}");
    }
    let theirs = Receipt { price: 9.into(), ..receipt };
    bundle.receipt = Some(Signed::sign(theirs, &[&provider]).into());
    let refused = verified(dir.path(), &["receipt", "verify"], &serde_json::to_string(&bundle).expect("json"));
    assert!(refused.expect_err("another price").contains("by the terms its usage costs"));
}

#[test]
fn proofs_verify_offline_and_a_changed_one_fails() {
    let dir = tempfile::tempdir().expect("directory");
    let node = Key::generate();
    let mesh: MeshId = "test".parse().expect("mesh");
    let entry = |agent| Entry {
        version: VERSION,
        operation: OperationId::new(),
        time: Timestamp::now(),
        mesh: mesh.clone(),
        principal: node.did(),
        agreement: None,
        action: Action::Terminate { agent },
        failure: None,
        request_id: None,
    };
    let entries = [AgentId::new(), AgentId::new()].map(|agent| serde_json::to_string(&entry(agent)).expect("json"));
    let [first, second] = entries.each_ref().map(|entry| merkle::leaf_hash(entry.as_bytes()));
    let note = |size, root| Checkpoint { node: node.node_id(), size, root }.sign(&node);
    let (old, new) = (note(1, first), note(2, merkle::node_hash(&first, &second)));
    let [_, entry] = entries;
    let inclusion = InclusionProof { index: 1, entry, hashes: vec![first], checkpoint: new.clone() };
    let consistency = ConsistencyProof { old, new, hashes: vec![second] };
    let write = |name: &str, json: String| fs::write(dir.path().join(name), json).expect("file");
    write("inclusion.json", serde_json::json!({ "inclusion": inclusion }).to_string());
    write("consistency.json", serde_json::to_string(&consistency).expect("json"));
    let more = serde_json::json!({ "inclusion": inclusion, "entry": { "action": "execute" }, "note": "yours" });
    let found = verified(dir.path(), &["trace", "verify"], &more.to_string()).expect("the proof itself is sound");
    assert_eq!(found["not_verified"], serde_json::json!(["entry", "note"]));
    assert_eq!(found["entry"]["action"], "terminate", "what is shown is what the log has");
    let bad = InclusionProof { index: 0, ..inclusion };
    write("bad.json", serde_json::to_string(&bad).expect("json"));

    let shown = run(dir.path(), &["trace", "verify", "inclusion.json"]);
    assert!(
        stdout(&shown).starts_with(&format!("verified: in the trace of {} in mesh test, of 2 entries", node.node_id())),
        "{}",
        stderr(&shown)
    );
    let shown = run(dir.path(), &["--json", "trace", "verify", "consistency.json"]);
    let shown: Value = serde_json::from_slice(&shown.stdout).expect("json");
    assert_eq!((&shown["verified"], &shown["old_size"], &shown["new_size"]), (&Value::Bool(true), &Value::from(1), &Value::from(2)));
    let refused = run(dir.path(), &["trace", "verify", "bad.json"]);
    assert_eq!((exit(&refused), stderr(&refused).as_str()), (Some(1), "error: entry 0 is not in the tree of the checkpoint\n"));
}

/// A directory with what two observers saved of one node's trace of 1, 2 and 3 entries: `one.txt` to `three.txt`, a
/// checkpoint of another trace of 2, and proofs of consistency between them.
fn observed() -> TempDir {
    let node = Key::generate();
    let [a, b, c] = [b"a", b"b", b"c"].map(|entry| merkle::leaf_hash(entry));
    let ab = merkle::node_hash(&a, &b);
    let note = |size, root| Checkpoint { node: node.node_id(), size, root }.sign(&node);
    let (one, two, three) = (note(1, a), note(2, ab), note(3, merkle::node_hash(&ab, &c)));
    let other = note(2, merkle::node_hash(&a, &c));
    let dir = tempfile::tempdir().expect("directory");
    let write = |name: &str, text: &str| fs::write(dir.path().join(name), text).expect("file");
    let stranger = Key::generate();
    write("stranger.txt", &Checkpoint { node: stranger.node_id(), size: 2, root: ab }.sign(&stranger));
    let signed = protocol::api::SignedCheckpoint { note: one.clone(), size: 1, verifier_key: String::new(), cosigners: Vec::new() };
    write("one.json", &serde_json::to_string(&signed).expect("json"));
    for (name, note) in [("one.txt", &one), ("two.txt", &two), ("three.txt", &three), ("other.txt", &other)] {
        write(name, note);
    }
    for (name, old, new, hash) in [("1-2.json", &one, &two, b), ("2-3.json", &two, &three, c), ("1-other.json", &one, &other, c)] {
        let proof = ConsistencyProof { old: old.clone(), new: new.clone(), hashes: vec![hash] };
        write(name, &serde_json::to_string(&proof).expect("json"));
    }
    dir
}

#[test]
fn a_proof_is_held_against_a_checkpoint_that_was_saved() {
    let dir = observed();
    let verify = |arguments: &[&str]| run(dir.path(), &[&["trace", "verify"], arguments].concat());
    for (arguments, found) in [
        (&["1-2.json", "--checkpoint", "two.txt"][..], "the same trace as in the saved checkpoint of 2 entries"),
        (&["1-2.json", "--checkpoint", "one.json"], "only adds to the trace of the saved checkpoint of 1 entries"),
        (&["2-3.json", "--checkpoint", "one.txt", "--consistency", "1-3.json"], "can't read 1-3.json"),
        (&["1-2.json", "--checkpoint", "three.txt", "--consistency", "2-3.json"], "the saved checkpoint of 3 entries only adds to it"),
        (
            &["2-3.json", "--checkpoint", "one.txt"],
            "a consistency proof from 1 to 3 entries is needed to tell that it is the same trace; the one given leads from 2 to 3",
        ),
        (&["1-2.json", "--checkpoint", "stranger.txt"], "the saved checkpoint is of the trace of"),
        (&["1-2.json", "--checkpoint", "1-2.json"], "1-2.json is not a checkpoint"),
    ] {
        let shown = verify(arguments);
        let text = stdout(&shown) + &stderr(&shown);
        assert!(text.contains(found), "{arguments:?}: {text}");
        assert_eq!(exit(&shown), Some(i32::from(text.starts_with("error: "))), "{arguments:?}: {text}");
    }
    assert_eq!(exit(&verify(&["--checkpoint", "two.txt"])), Some(2), "there is nothing to hold against it");
}

#[test]
fn two_traces_of_one_node_are_proof_against_it() {
    let dir = observed();
    let verify = |arguments: &[&str]| run(dir.path(), &[&["trace", "verify"], arguments].concat());
    let caught = verify(&["1-other.json", "--checkpoint", "two.txt"]);
    assert!(stderr(&caught).starts_with("error: split view: node 12D3KooW"), "{}", stderr(&caught));
    assert!(stderr(&caught).contains("hint: '--evidence FILE'"), "{}", stderr(&caught));
    // Seen by way of the proof between the two, as well.
    let caught = verify(&["1-other.json", "--checkpoint", "three.txt", "--consistency", "2-3.json", "--evidence", "split.json"]);
    assert_eq!(exit(&caught), Some(1), "{}", stdout(&caught));
    let shown = verify(&["split.json"]);
    assert!(stdout(&shown).starts_with("verified: 12D3KooW") && stdout(&shown).contains("signed two histories"), "{}", stderr(&shown));
    assert_eq!(exit(&verify(&["split.json", "--checkpoint", "two.txt"])), Some(1), "it stands for itself");

    let evidence = fs::read_to_string(dir.path().join("split.json")).expect("evidence");
    let mut forged: Value = serde_json::from_str(&evidence).expect("json");
    forged["new"] = forged["old"].clone();
    fs::write(dir.path().join("forged.json"), forged.to_string()).expect("file");
    let refused = verify(&["forged.json"]);
    assert_eq!(exit(&refused), Some(1));
    assert!(stderr(&refused).contains("of one history"), "{}", stderr(&refused));
}

#[test]
fn without_a_daemon_it_says_so_and_exits_3() {
    let dir = tempfile::tempdir().expect("directory");
    let failed = run(dir.path(), &["status"]);
    assert_eq!(exit(&failed), Some(3));
    let text = stderr(&failed);
    assert!(text.starts_with(&format!("error: no daemon answers on {}/mcpd.sock", dir.path().display())), "{text}");
    assert!(text.lines().nth(1).is_some_and(|line| line.starts_with("hint: start one with 'mcpd'")), "{text}");
    assert_eq!(stdout(&failed), "");

    let failed = run(dir.path(), &["agent", "execute", "docs", "search", "{}", "--json"]);
    let problem: Problem = serde_json::from_slice(&failed.stdout).expect("problem");
    assert_eq!((exit(&failed), problem.code), (Some(3), Code::NotRunning));
}

#[test]
fn usage_errors_exit_2_in_either_form() {
    let dir = tempfile::tempdir().expect("directory");
    assert_eq!(exit(&run(dir.path(), &["agent", "execute", "docs", "search", "not json"])), Some(2));
    let failed = run(dir.path(), &["--json", "agent", "exekute"]);
    let problem: Problem = serde_json::from_slice(&failed.stdout).expect("problem");
    assert_eq!((exit(&failed), problem.code), (Some(2), Code::InvalidRequest));
}

#[test]
fn a_reader_that_leaves_ends_it_quietly() {
    let dir = tempfile::tempdir().expect("directory");
    let mut child =
        command(dir.path(), &["completions", "bash"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("mcpctl runs");
    drop(child.stdout.take());
    let ended = child.wait_with_output().expect("ends");
    assert_eq!((exit(&ended), stderr(&ended).as_str()), (Some(0), ""));
}

#[test]
fn validation_is_the_daemons_own_program_and_exit_code() {
    // Links, not copies: a file that was open for writing in one thread can't be executed by another that has just forked.
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("directory");
    let own = dir.path().join("mcpctl");
    fs::hard_link(env!("CARGO_BIN_EXE_mcpctl"), &own).expect("link");
    let daemon = dir.path().join("mcpd");
    let validate = || Command::new(&own).args(["config", "validate", "x.toml"]).env_clear().env("PATH", "").output().expect("mcpctl runs");
    let missing = validate();
    assert_eq!(exit(&missing), Some(1));
    assert!(stderr(&missing).contains("hint: install 'mcpd' beside 'mcpctl'"), "{}", stderr(&missing));

    // In the daemon's place, a program that repeats what it was asked, and one that refuses the very same with exit code 2.
    symlink("/bin/echo", &daemon).expect("link");
    let valid = validate();
    assert_eq!((exit(&valid), stderr(&valid).as_str()), (Some(0), "--check --config x.toml\n"));
    assert_eq!(stdout(&valid), "the configuration is valid\n");
    fs::remove_file(&daemon).expect("unlink");
    symlink(&own, &daemon).expect("link");
    let refused = validate();
    assert_eq!((exit(&refused), stdout(&refused).as_str()), (Some(2), ""));
    assert!(stderr(&refused).contains("--check"), "{}", stderr(&refused));
}
