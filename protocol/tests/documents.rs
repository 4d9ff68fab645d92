//! Properties of everything that is signed or crosses a wire: it survives its encodings unchanged, any change shows,
//! what isn't acceptable is refused by name, and no bytes from outside can make a decoder panic.

mod strategies;

use std::fmt::Debug;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use jiff::SignedDuration;
use proptest::{collection::vec, prelude::*, sample, strategy::ValueTree as _};
use protocol::{
    AgentId, AgreementId, Code, Did, Digest, Document, Envelope, Expect, Header, Key, MeshId, NodeId, OperationId, Problem, Signed,
    Timestamp,
    agreement::{Agreement, Transition},
    checkpoint::Checkpoint,
    document::Sealed,
    entry::{ConsistencyProof, Entry, InclusionProof},
    merkle,
    receipt::Receipt,
    wire::{self, Announcement, Call, Executed, Request, Response},
    witness::{Link, Shown, Witnessed},
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::json;
use strategies::*;

/// Signs, writes as JSON, reads, verifies: the document and its signers are the same, and the bytes that were signed.
fn survives_json<D: Document + Clone + PartialEq + Debug>(document: &D, keys: &[Key]) -> Result<Sealed<D>, TestCaseError> {
    let signed = Signed::sign(document.clone(), &keys.iter().collect::<Vec<_>>());
    let text = serde_json::to_string(&signed).expect("json");
    let sealed: Sealed<D> = serde_json::from_str(&text).expect("own text");
    prop_assert_eq!(sealed.envelope(), signed.envelope());
    let opened = sealed.clone().open(Expect::archived(&document.header().mesh)).expect("own document");
    prop_assert_eq!(&opened, &signed);
    Ok(sealed)
}

fn survives_cbor<T: Serialize + DeserializeOwned + PartialEq + Debug>(message: &T) -> Result<(), TestCaseError> {
    prop_assert_eq!(&wire::decode::<T>(&wire::encode(message)).expect("own message"), message);
    Ok(())
}

fn call(request: Request) -> Call {
    Call { timeout_ms: 1_000, request_id: "0af7651916cd43dd8448eb211c80319c".into(), window: 0, request }
}

fn some_agreement() -> (Signed<Agreement>, Key) {
    let key = Key::from_seed(&[7; 32]);
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let mut document = agreements().new_tree(&mut runner).expect("a tree").current();
    document.header = Header::new::<Agreement>(&"test".parse().expect("mesh"), now(), SignedDuration::from_hours(1));
    (Signed::sign(document, &[&key]), key)
}

fn now() -> Timestamp {
    "2030-06-01T12:00:00Z".parse().expect("a time")
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn manifests_survive(document in manifests(), keys in vec(keys(), 1..3)) {
        let sealed = survives_json(&document, &keys)?;
        survives_cbor(&sealed)?;
        survives_cbor(&Response::Manifest(sealed))?;
    }

    #[test]
    fn adverts_survive(document in adverts(), keys in vec(keys(), 1..2)) {
        let sealed = survives_json(&document, &keys)?;
        survives_cbor(&Response::Advert(sealed))?;
    }

    #[test]
    fn agreements_survive(document in agreements(), keys in vec(keys(), 1..4)) {
        let sealed = survives_json(&document, &keys)?;
        survives_cbor(&call(Request::Propose(sealed.clone())))?;
        survives_cbor(&call(Request::Accept(sealed.clone())))?;
        survives_cbor(&Response::Agreement(sealed))?;
    }

    #[test]
    fn transitions_survive(document in transitions(), keys in vec(keys(), 1..3)) {
        survives_cbor(&call(Request::Transition(survives_json(&document, &keys)?)))?;
    }

    #[test]
    fn receipts_survive(document in receipts(), keys in vec(keys(), 1..3), usage in usages(), ran in any::<bool>(), text in texts()) {
        let receipt = survives_json(&document, &keys)?;
        let problem = Problem::new(Code::PluginFailed, text.clone()).hint(text);
        let outcome = if ran { Ok(Bytes::from_static(b"{\"n\":1}")) } else { Err(problem) };
        survives_cbor(&Response::Executed(Box::new(Executed { outcome, operation: OperationId::new(), usage, receipt: Some(receipt) })))?;
    }

    #[test]
    fn other_messages_survive(execute in executes(), node in nodes(), sequence in any::<u64>(), digest in digests(), at in times()) {
        survives_cbor(&call(Request::Execute(execute)))?;
        survives_cbor(&Announcement { node, sequence, digest, expires_at: at, withdrawn: sequence % 2 == 0 })?;
        for request in [Request::Advert, Request::Adverts([(node, sequence)].into()), Request::Prove(OperationId::new()), Request::Fetch { content: digest, from: sequence }] {
            survives_cbor(&call(request))?;
        }
        survives_cbor(&Response::Done)?;
    }

    /// Entries are read back from the bytes that the log hashed, and prove themselves from there.
    #[test]
    fn entries_survive_and_prove(written in entries(), seed in any::<[u8; 32]>()) {
        let text = serde_json::to_string(&written).expect("json");
        prop_assert_eq!(&serde_json::from_str::<Entry>(&text).expect("own text"), &written);
        let (key, sibling) = (Key::from_seed(&seed), merkle::leaf_hash(b"another"));
        let root = merkle::node_hash(&merkle::leaf_hash(text.as_bytes()), &sibling);
        let checkpoint = Checkpoint { node: key.node_id(), size: 2, root }.sign(&key);
        let shown = Shown { note: checkpoint.clone(), link: Some(Link { from: 1, root: sibling, hashes: vec![root] }) };
        survives_cbor(&call(Request::Witness(Box::new(shown))))?;
        survives_cbor(&Response::Witnessed(Witnessed::Remembered(checkpoint.clone())))?;
        let proof = InclusionProof { index: 0, entry: text, hashes: vec![sibling], checkpoint };
        survives_cbor(&Response::Proof(proof.clone()))?;
        prop_assert_eq!(proof.verify().expect("it is in the log").1, written);
        let elsewhere = InclusionProof { index: 1, ..proof.clone() };
        // The same entry to who reads it, but not the same bytes.
        let respelt = InclusionProof { entry: proof.entry.replacen("\"version\":1", "\"version\": 1", 1), ..proof };
        prop_assert!(elsewhere.verify().is_err() && respelt.verify().is_err());
    }

    #[test]
    fn any_changed_byte_of_payload_type_or_signature_shows(at in any::<sample::Index>(), by in 1u8..=255) {
        let (signed, _) = some_agreement();
        let mesh = signed.document().header.mesh.clone();
        let code = |envelope: Envelope| Sealed::<Agreement>::from(envelope).open(Expect::at(&mesh, now())).map_err(|error| error.code());
        let change = |encoded: &str| {
            let mut bytes = STANDARD.decode(encoded).expect("base64");
            let at = at.index(bytes.len());
            bytes[at] ^= by;
            STANDARD.encode(bytes)
        };
        let honest = signed.envelope().clone();
        let mut payload = honest.clone();
        payload.payload = change(&honest.payload);
        prop_assert_eq!(code(payload).err(), Some(Code::BadSignature));
        let mut signature = honest.clone();
        signature.signatures[0].sig = change(&honest.signatures[0].sig);
        prop_assert_eq!(code(signature).err(), Some(Code::BadSignature));
        let mut keyid = honest.clone();
        keyid.signatures[0].keyid = Key::from_seed(&[by; 32]).did();
        prop_assert!(by == 7 || code(keyid).err() == Some(Code::BadSignature));
        let mut kind = honest.clone();
        let place = at.index(kind.payload_type.len());
        kind.payload_type.replace_range(place..=place, "~");
        prop_assert_eq!(code(kind.clone()).err(), Some(Code::MalformedDocument));
        prop_assert!(kind.verify().is_err(), "the type is signed, too");
        prop_assert!(code(honest).is_ok());
    }

    /// Also where the change leaves base64 or JSON that no honest writer makes.
    #[test]
    fn any_changed_character_of_the_text_shows(at in any::<sample::Index>(), other in "[ -~]") {
        let (signed, _) = some_agreement();
        let text = serde_json::to_string(&signed).expect("json");
        let at = at.index(text.len());
        prop_assume!(text[at..=at] != other);
        let changed = format!("{}{other}{}", &text[..at], &text[at + 1..]);
        let expect = Expect::at(&signed.document().header.mesh, now());
        let opened = serde_json::from_str::<Sealed<Agreement>>(&changed).map(|sealed| sealed.open(expect));
        prop_assert!(!matches!(opened, Ok(Ok(_))), "{}", changed);
    }

    #[test]
    fn what_is_not_acceptable_is_refused_by_name(document in transitions(), key in keys(), later in 61i64..1_000_000_000) {
        let mesh: MeshId = "test".parse().expect("mesh");
        let header = Header::new::<Transition>(&mesh, now(), SignedDuration::from_secs(later));
        let refused = |header: Header, at: i64| {
            let signed = Signed::sign(Transition { header, ..document.clone() }, &[&key]);
            let now = now().checked_add(SignedDuration::from_secs(at)).expect("within range");
            Sealed::from(signed).open(Expect::at(&mesh, now)).err().map(|error| error.code())
        };
        prop_assert_eq!(refused(header.clone(), 0), None);
        prop_assert_eq!(refused(header.clone(), later - 1), None);
        prop_assert_eq!(refused(header.clone(), later), Some(Code::Expired));
        prop_assert_eq!(refused(header.clone(), -60), None);
        prop_assert_eq!(refused(header.clone(), -later), Some(Code::FutureDated));
        for foreign in ["other", "*", "tes", "test."] {
            let foreign = Header { mesh: foreign.parse().expect("mesh"), ..header.clone() };
            prop_assert_eq!(refused(foreign, 0), Some(Code::ForeignMesh));
        }
        for version in [0, 2, u32::MAX] {
            prop_assert_eq!(refused(Header { version, ..header.clone() }, 0), Some(Code::UnknownVersion));
        }
        prop_assert_eq!(refused(Header { kind: "receipt".into(), ..header }, 0), Some(Code::MalformedDocument));
    }

    #[test]
    fn arbitrary_bytes_never_panic_a_decoder(bytes in vec(any::<u8>(), 0..600)) {
        drop((wire::decode::<Call>(&bytes), wire::decode::<Response>(&bytes), wire::decode::<Problem>(&bytes)));
        drop((wire::decode::<Announcement>(&bytes), serde_json::from_slice::<Envelope>(&bytes), serde_json::from_slice::<Entry>(&bytes)));
        let text = String::from_utf8_lossy(&bytes);
        let envelope = Envelope { payload_type: text.to_string(), payload: text.to_string(), signatures: Vec::new() };
        prop_assert!(envelope.verify().is_err());
        prop_assert!(Checkpoint::verify(&text).is_err());
        let sealed = Sealed::<Receipt>::from(Envelope::sign(&Receipt::payload_type(), &bytes, &[&Key::from_seed(&[1; 32])]));
        let refused = sealed.open(Expect::archived(&"test".parse().expect("mesh"))).expect_err("no receipt");
        prop_assert_eq!(refused.code(), Code::MalformedDocument);
    }

    /// Damaged messages reach deeper into a decoder than noise does.
    #[test]
    fn damaged_messages_never_panic_a_decoder(
        execute in executes(), receipt in receipts(), usage in usages(),
        damage in vec((any::<sample::Index>(), any::<u8>()), 1..8), cut in any::<sample::Index>(),
    ) {
        let receipt = Signed::sign(receipt, &[&Key::from_seed(&[1; 32])]).into();
        let executed = Executed { outcome: Ok(Bytes::new()), operation: OperationId::new(), usage, receipt: Some(receipt) };
        for mut bytes in [wire::encode(&call(Request::Execute(execute))), wire::encode(&Response::Executed(executed.into()))] {
            let end = cut.index(bytes.len());
            prop_assert!(wire::decode::<Call>(&bytes[..end]).is_err() && wire::decode::<Response>(&bytes[..end]).is_err());
            for (at, byte) in &damage {
                let at = at.index(bytes.len());
                bytes[at] = *byte;
            }
            drop((wire::decode::<Call>(&bytes), wire::decode::<Response>(&bytes)));
        }
    }

    /// A name has one spelling: what is read is written the same, so that it can be compared as text.
    #[test]
    fn names_have_one_spelling(
        key in keys(), digest in digests(), at in any::<sample::Index>(), other in any::<char>(), noise in any::<String>(),
    ) {
        let honest = [
            key.did().to_string(), key.node_id().to_string(), digest.to_string(), "a-mesh.1".into(),
            AgentId::new().to_string(), AgreementId::new().to_string(), OperationId::new().to_string(), noise,
        ];
        for text in honest {
            let place = text.char_indices().nth(at.index(text.chars().count().max(1)));
            let damaged = place.map(|(i, old)| format!("{}{other}{}", &text[..i], &text[i + old.len_utf8()..]));
            for text in damaged.into_iter().chain([text]) {
                prop_assert!(text.parse::<Did>().map_or(true, |name| name.to_string() == text));
                prop_assert!(text.parse::<NodeId>().map_or(true, |name| name.to_string() == text));
                prop_assert!(text.parse::<Digest>().map_or(true, |name| name.to_string() == text));
                prop_assert!(text.parse::<MeshId>().map_or(true, |name| name.to_string() == text));
                prop_assert!(text.parse::<AgentId>().map_or(true, |name| name.to_string() == text), "{}", text);
                prop_assert!(text.parse::<AgreementId>().map_or(true, |name| name.to_string() == text), "{}", text);
                prop_assert!(text.parse::<OperationId>().map_or(true, |name| name.to_string() == text), "{}", text);
            }
        }
    }

    #[test]
    fn damaged_checkpoints_and_proofs_never_panic(
        seed in any::<[u8; 32]>(), size in any::<u64>(), at in any::<sample::Index>(), other in any::<char>(),
        index in any::<u64>(), hashes in vec(any::<[u8; 32]>(), 0..70),
    ) {
        let key = Key::from_seed(&seed);
        let honest = Checkpoint { node: key.node_id(), size, root: seed };
        let note = honest.sign(&key);
        prop_assert_eq!(Checkpoint::verify(&note), Ok(honest));
        let (i, old) = note.char_indices().nth(at.index(note.chars().count())).expect("within the note");
        let damaged = format!("{}{other}{}", &note[..i], &note[i + old.len_utf8()..]);
        // What is left of a note either fails or still says the same: its last line break isn't part of what is signed.
        prop_assert!(damaged == note || Checkpoint::verify(&damaged).map_or(true, |found| found.size == size && found.root == seed));
        let inclusion = InclusionProof { index, entry: note.clone(), hashes: hashes.clone(), checkpoint: note.clone() };
        let consistency = ConsistencyProof { old: note.clone(), new: note, hashes: [&hashes[..], &[seed]].concat() };
        prop_assert!(inclusion.verify().is_err() && consistency.verify().is_err());
    }
}

/// A later version may have members that this one can't read, and may lack others: it is named all the same.
#[test]
fn a_later_version_is_named_before_it_is_read() {
    let mesh: MeshId = "test".parse().expect("mesh");
    let header = json!({"type": "agreement", "version": 2, "mesh": "test", "issued_at": "2030-01-01T00:00:00Z", "expires_at": "2031-01-01T00:00:00Z"});
    let payload = json!({"header": header, "clauses": []}).to_string();
    let envelope = Envelope::sign(&Agreement::payload_type(), payload.as_bytes(), &[&Key::from_seed(&[1; 32])]);
    let refused = Sealed::<Agreement>::from(envelope).open(Expect::archived(&mesh)).expect_err("unknown");
    assert_eq!(refused.code(), Code::UnknownVersion);
    assert_eq!(refused.to_string(), "the agreement is of version 2; this program knows version 1");
}

/// The same for entries of a log.
#[test]
fn a_later_entry_is_named_before_it_is_read() {
    let key = Key::from_seed(&[1; 32]);
    let entry = json!({"version": 2, "members": "others"}).to_string();
    let root = merkle::leaf_hash(entry.as_bytes());
    let checkpoint = Checkpoint { node: key.node_id(), size: 1, root }.sign(&key);
    let proof = InclusionProof { index: 0, entry, hashes: Vec::new(), checkpoint };
    let refused = proof.verify().expect_err("unknown");
    assert_eq!(refused.to_string(), "the entry is of version 2; this program knows version 1");
}

/// Only plugin manifests may be bound to no mesh.
#[test]
fn a_manifest_of_every_mesh_opens_in_each() {
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let mut manifest = manifests().new_tree(&mut runner).expect("a tree").current();
    manifest.header.mesh = MeshId::any();
    let sealed = Sealed::from(Signed::sign(manifest, &[&Key::from_seed(&[1; 32])]));
    for mesh in ["test", "other"] {
        sealed.clone().open(Expect::archived(&mesh.parse().expect("mesh"))).expect("bound to none");
    }
}

/// Nesting and announced lengths that are far beyond the message neither exhaust the stack nor the memory.
#[test]
fn deep_and_boastful_messages_are_refused() {
    for opener in [0x81u8, 0x9f, 0xa1, 0xbf, 0xc6, 0xd8] {
        let deep = vec![opener; 1 << 20];
        assert!(wire::decode::<Call>(&deep).is_err() && wire::decode::<Response>(&deep).is_err(), "{opener:#x}");
        // Within a member that is skipped.
        let skipped = [&[0xa1, 0x61, b'x'][..], &deep].concat();
        assert!(wire::decode::<Call>(&skipped).is_err() && wire::decode::<Announcement>(&skipped).is_err(), "{opener:#x}");
    }
    for opener in [0x5b, 0x7b, 0x9b, 0xbb] {
        let boastful = [&[0xa1, 0x67][..], b"Adverts", &[opener], &[0x7f; 8]].concat();
        assert!(wire::decode::<Response>(&boastful).is_err(), "{opener:#x}");
    }
    let deep = format!("{{\"payloadType\":{}", "[".repeat(1 << 20));
    assert!(serde_json::from_str::<Envelope>(&deep).is_err());
}

/// What brings about something new is dated by the skew at most from now, though it would be valid for an hour.
#[test]
fn what_is_new_is_dated_now() {
    let (signed, _) = some_agreement();
    let seconds = |seconds| now().saturating_add(SignedDuration::from_secs(seconds)).expect("a time");
    let code = |at| signed.require_new(at).map_err(|error| error.code());
    assert_eq!((code(seconds(-60)), code(now()), code(seconds(60))), (Ok(()), Ok(()), Ok(())));
    assert_eq!((code(seconds(61)), code(seconds(-61))), (Err(Code::Expired), Err(Code::FutureDated)));
}
