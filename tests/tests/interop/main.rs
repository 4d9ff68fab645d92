//! What others make of our documents: envelopes verified by a library that isn't ours (Python's securesystemslib), and the
//! trace, by one of Rust.

#[path = "../e2e/fixtures.rs"]
#[allow(dead_code, reason = "the end-to-end suites need the rest")]
mod fixtures;
mod log;

use std::{io::Write as _, path::PathBuf, process::Stdio};

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use protocol::agreement::Status;
use serde_json::{Value, json};
use tests::program;

use fixtures::{Pair, reaches};

/// Who signed an envelope, by the other library; none if it refuses it.
fn signers(envelope: &Value) -> Option<Value> {
    let target = program("mcpctl").ancestors().nth(2).expect("programs lie in <target>/<profile>").to_path_buf();
    let python = target.join("tools/bin/python");
    assert!(python.is_file(), "{} is missing; tests/run installs it", python.display());
    let script = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/interop/dsse.py");
    let mut command = std::process::Command::new(python);
    let mut child = command.arg(script).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts");
    child.stdin.take().expect("piped").write_all(envelope.to_string().as_bytes()).expect("written");
    let output = child.wait_with_output().expect("it ends");
    if output.status.success() {
        return Some(serde_json::from_slice(&output.stdout).expect("JSON"));
    }
    let why = String::from_utf8_lossy(&output.stderr);
    assert!(why.contains("VerificationError"), "{why}");
    None
}

/// The envelope with one byte of its payload changed.
fn tampered(envelope: &Value) -> Value {
    let mut payload = BASE64.decode(envelope["payload"].as_str().expect("base64")).expect("base64");
    let middle = payload.len() / 2;
    payload[middle] ^= 1;
    let mut envelope = envelope.clone();
    envelope["payload"] = json!(BASE64.encode(payload));
    envelope
}

#[tokio::test(flavor = "multi_thread")]
async fn agreements_transitions_and_receipts_are_envelopes_that_others_verify() {
    let (pair, state) = Pair::agreed(&[]).await;
    let receipt = pair.count().await.expect("it runs").receipt.expect("a receipt");
    let id = state.terms.id;
    pair.consumer.json(&["agreement", "suspend", &id.to_string(), "--note", "an audit"]).await;
    let state = reaches(&pair.provider, id, Status::Suspended).await;
    let (provider, consumer) = (state.terms.provider.to_string(), state.terms.consumer.to_string());
    let agreement = serde_json::to_value(&state.bundle.agreement).expect("JSON");
    let transition = serde_json::to_value(&state.bundle.transitions[0]).expect("JSON");
    let receipt = serde_json::to_value(&receipt).expect("JSON");
    let mut both = [provider.clone(), consumer.clone()];
    both.sort();
    for (envelope, name, by) in [
        (&agreement, "agreement", &both[..]),
        (&transition, "agreement-transition", &[consumer][..]),
        (&receipt, "receipt", &[provider][..]),
    ] {
        let found = signers(envelope).unwrap_or_else(|| panic!("{name} was refused: {envelope}"));
        assert_eq!(found["signers"], json!(by));
        assert!(found["type"].as_str().is_some_and(|found| found.contains(name)), "{found}");
        assert_eq!(signers(&tampered(envelope)), None, "{name}");
    }
}
