//! What a stranger shows first, and what it holds.
#![no_main]

use libfuzzer_sys::fuzz_target;
use protocol::{
    Credential, Key, MeshId, Timestamp,
    admission::{Hello, Offer, Verdict},
    credential::Revocations,
    document::Sealed,
    token::Enrolment,
    wire,
};

fuzz_target!(|data: &[u8]| {
    let mesh = MeshId::of(Key::from_seed(&[7; 32]).did());
    let node = Key::from_seed(&[9; 32]).node_id();
    let now = Timestamp::UNIX_EPOCH;
    let _ = wire::decode::<Verdict>(data);
    if let Ok(hello) = wire::decode::<Hello>(data) {
        match hello.offer {
            Offer::Credential(sealed) => assert!(Credential::verify(sealed, &mesh, node, now).is_err()),
            Offer::Enrolment(sealed) => assert!(Enrolment::verify(sealed, &mesh, now).is_err()),
            Offer::Nothing => {}
        }
    }
    if let Ok(text) = std::str::from_utf8(data) {
        // A payload alone, so that what is inside envelopes is reached.
        let envelope = protocol::Envelope::sign("application/vnd.mcp-zero.credential+json", text.as_bytes(), &[&Key::from_seed(&[8; 32])]);
        assert!(Credential::verify(Sealed::from(envelope), &mesh, node, now).is_err(), "another key signed");
        let envelope = protocol::Envelope::sign("application/vnd.mcp-zero.revocations+json", text.as_bytes(), &[&Key::from_seed(&[7; 32])]);
        let _ = Revocations::verify(Sealed::from(envelope), &mesh, now);
    }
});
