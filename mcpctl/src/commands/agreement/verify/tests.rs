use jiff::SignedDuration;
use protocol::Key;

use super::*;
use crate::commands::agreement::fixture::{Case, case, now};

impl Case {
    /// Twelve calls so far.
    fn open(&self) -> Bundle {
        Bundle { transitions: Vec::new(), countersigned: None, ..self.bundle() }
    }

    fn receipt_with(&self, change: impl FnOnce(&mut Receipt), key: &Key) -> Sealed<Receipt> {
        let mut receipt = self.receipt(12);
        change(&mut receipt);
        Signed::sign(receipt, &[key]).into()
    }
}

#[test]
fn a_whole_history_verifies() {
    let case = case();
    let mut bundle = case.open();
    bundle.transitions = vec![
        case.step(1, Status::Active, Status::Suspended, &case.provider),
        case.step(2, Status::Suspended, Status::Active, &case.provider),
        case.step(3, Status::Active, Status::Closed, &case.consumer),
    ];
    let found = verify(bundle, now()).expect("verifies");
    assert_eq!((found.status, found.reason), (Status::Closed, Some(Reason::Completed)));
    assert_eq!(found.signers, [case.consumer.did(), case.provider.did()]);
    assert_eq!(found.receipt.as_ref().map(|stated| (stated.used.calls, stated.price)), Some((12, Decimal::new(16, 2))));
    let text = describe(&found);
    assert!(text.contains("status     closed (completed)\n") && text.contains("costs      0.16 EUR\n"), "{text}");
    assert!(text.contains(&format!("  active -> closed by {}", case.consumer.did())), "{text}");
}

#[test]
fn past_its_end_it_is_expired_and_still_verifies() {
    let case = case();
    let later = now().saturating_add(SignedDuration::from_hours(24 * 3650)).expect("time");
    let found = verify(case.open(), later).expect("verifies from an archive");
    assert_eq!((found.status, found.reason), (Status::Closed, Some(Reason::Expired)));
}

#[test]
fn a_missing_or_forged_signature_is_named() {
    let case = case();
    let mut bundle = case.open();
    bundle.agreement = Signed::sign(case.terms.clone(), &[&case.consumer]).into();
    let problem = verify(bundle, now()).expect_err("the provider did not sign");
    assert_eq!(problem.code, Code::Unsigned);
    assert!(problem.detail.contains(&case.provider.did().to_string()));

    let mut bundle = case.open();
    let mut envelope = bundle.agreement.envelope().clone();
    let mut other = case.terms.clone();
    other.pricing.per_call = Decimal::ZERO;
    envelope.payload = Signed::sign(other, &[&case.consumer]).envelope().payload.clone();
    bundle.agreement = envelope.into();
    assert_eq!(verify(bundle, now()).expect_err("the price was changed").code, Code::BadSignature);
}

#[test]
fn transitions_must_be_legal_in_turn_and_by_a_party() {
    let case = case();
    let (active, suspended, closed) = (Status::Active, Status::Suspended, Status::Closed);
    let stranger = Key::from_seed(&[9; 32]);
    let wrong: [Vec<Sealed<Transition>>; 5] = [
        vec![case.step(2, active, suspended, &case.provider)],
        vec![case.step(1, suspended, active, &case.provider)],
        vec![case.step(1, active, suspended, &stranger)],
        vec![case.step(1, active, suspended, &case.provider), case.step(2, suspended, active, &case.consumer)],
        vec![case.step(1, active, closed, &case.provider), case.step(2, closed, active, &case.provider)],
    ];
    for (number, transitions) in wrong.into_iter().enumerate() {
        let bundle = Bundle { transitions, ..case.open() };
        assert_eq!(verify(bundle, now()).expect_err("illegal").code, Code::IllegalTransition, "case {number}");
    }
}

#[test]
fn a_receipt_must_be_the_providers_and_of_these_terms() {
    let case = case();
    let wrong: [(Sealed<Receipt>, Code); 5] = [
        (case.receipt_with(|_| {}, &case.consumer), Code::Unsigned),
        (case.receipt_with(|receipt| receipt.agreement = AgreementId::new(), &case.provider), Code::ProofFailed),
        (case.receipt_with(|receipt| receipt.price = Decimal::ONE, &case.provider), Code::ProofFailed),
        (case.receipt_with(|receipt| receipt.method = "delete".into(), &case.provider), Code::ProofFailed),
        (case.receipt_with(|receipt| receipt.header.mesh = "other".parse().expect("mesh"), &case.provider), Code::ForeignMesh),
    ];
    for (number, (receipt, code)) in wrong.into_iter().enumerate() {
        let bundle = Bundle { receipt: Some(receipt), ..case.open() };
        assert_eq!(verify(bundle, now()).expect_err("wrong").code, code, "case {number}");
    }
}
