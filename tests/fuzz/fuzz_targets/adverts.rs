//! Adverts and the other documents that come from peers.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use protocol::{
    Digest, Envelope, Expect, Header, Key, MeshId, Signed, SignedDuration, Timestamp,
    advert::{Advert, Effect, Method, Offered, Service, TTL_SECONDS},
    agreement::{Agreement, Pricing, Transition},
    claim::{IdSalt, Ownership},
    document::{Document, Sealed},
    receipt::Receipt,
    wire,
};

static KEY: LazyLock<Key> = LazyLock::new(|| Key::from_seed(&[7; 32]));
static MESH: LazyLock<MeshId> = LazyLock::new(|| "fuzz".parse().expect("a name"));
static SALT: LazyLock<IdSalt> = LazyLock::new(|| "0001020304050607".to_owned().try_into().expect("16 digits"));
/// An advert as honest nodes sign it: what is changed in it gets far.
static HONEST: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let validity = SignedDuration::from_secs(TTL_SECONDS);
    let method = Method {
        name: "search".into(),
        description: "finds documents".into(),
        effect: Effect::ReadOnly,
        idempotent: true,
        input_schema: serde_json::json!({ "type": "object", "properties": { "query": { "type": "string" } } }),
        output_schema: serde_json::json!({}),
    };
    let service = Service {
        plugin: "docs".into(),
        release: "0.1.0".into(),
        component: Digest::blake3(b"component"),
        methods: vec![method],
        pricing: Pricing::free(),
        agents: vec![Offered { id: SALT.agent(KEY.did(), Timestamp::UNIX_EPOCH), name: "docs".into(), epoch: 0, salt: Some(*SALT) }],
    };
    let ownership = Ownership { header: Header::new::<Ownership>(&MESH, Timestamp::UNIX_EPOCH, validity), node: KEY.node_id(), owner: KEY.did() };
    let advert = Advert {
        header: Header::new::<Advert>(&MESH, Timestamp::UNIX_EPOCH, validity),
        node: KEY.node_id(),
        owner: KEY.did(),
        ownership: Some(Signed::sign(ownership, &[&KEY]).into()),
        sequence: 1,
        zone: Some("eu-1".parse().expect("a zone")),
        load: 7,
        addresses: vec!["/ip4/192.0.2.1/tcp/8766".into()],
        lineage: Vec::new(),
        services: vec![service],
    };
    Signed::sign(advert, &[&KEY]).envelope().claimed_payload().expect("its own")
});

/// Opens what somebody signed.
fn open<D: Document>(payload: &[u8]) {
    // Others end where the header is looked for; to sign them takes most of the time.
    if serde_json::from_slice::<serde_json::Value>(payload).is_ok() {
        let envelope = Envelope::sign(&D::payload_type(), payload, &[&KEY]);
        let _ = Sealed::<D>::from(envelope).open(Expect::at(&MESH, Timestamp::UNIX_EPOCH));
    }
}

/// The honest advert with pieces cut out and put in: where, how much, how much instead, and that.
fn changed(mut edits: &[u8]) -> Vec<u8> {
    let mut payload = HONEST.clone();
    while let Some(([high, low, cut, put], rest)) = edits.split_first_chunk() {
        let at = usize::from(u16::from_be_bytes([*high, *low])) % (payload.len() + 1);
        let end = (at + usize::from(*cut)).min(payload.len());
        let (piece, rest) = rest.split_at(usize::from(*put).min(rest.len()));
        payload.splice(at..end, piece.iter().copied());
        edits = rest;
    }
    payload
}

fuzz_target!(|data: &[u8]| {
    let Some((kind, data)) = data.split_first() else { return };
    match kind % 6 {
        0 => drop(wire::decode::<Vec<Sealed<Advert>>>(data)),
        1 => open::<Advert>(data),
        2 => open::<Agreement>(data),
        3 => open::<Transition>(data),
        4 => open::<Receipt>(data),
        _ => open::<Advert>(&changed(data)),
    }
});
