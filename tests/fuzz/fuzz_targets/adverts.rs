//! Adverts and the other documents that come from peers.
#![no_main]

use libfuzzer_sys::fuzz_target;
use protocol::{
    Envelope, Expect, Key, MeshId, Timestamp,
    advert::Advert,
    agreement::{Agreement, Transition},
    document::{Document, Sealed},
    receipt::Receipt,
    wire,
};

fn open<D: Document>(payload: &[u8], mesh: &MeshId) {
    let envelope = Envelope::sign(&D::payload_type(), payload, &[&Key::from_seed(&[7; 32])]);
    let _ = Sealed::<D>::from(envelope).open(Expect::at(mesh, Timestamp::UNIX_EPOCH));
}

fuzz_target!(|data: &[u8]| {
    let mesh: MeshId = "fuzz".parse().expect("a name");
    let _ = wire::decode::<Vec<Sealed<Advert>>>(data);
    open::<Advert>(data, &mesh);
    open::<Agreement>(data, &mesh);
    open::<Transition>(data, &mesh);
    open::<Receipt>(data, &mesh);
});
