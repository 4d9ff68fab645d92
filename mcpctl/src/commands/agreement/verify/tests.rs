use jiff::SignedDuration;
use protocol::{Header, Key, succession::Lineage};

use super::*;
use crate::commands::agreement::fixture::{Case, case, header, now};

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

/// The same, signed in the name of the lineage's first key.
fn inherited<D>(signed: Signed<D>, lineage: &Lineage) -> Sealed<D> {
    let mut envelope = signed.into_envelope();
    envelope.signatures.iter_mut().for_each(|signature| signature.lineage = lineage.proofs().to_vec());
    envelope.into()
}

#[tokio::test]
async fn a_party_goes_on_with_another_key_and_the_old_one_is_held_to_its_time() {
    let (case, heir) = (case(), Key::from_seed(&[8; 32]));
    let at = |hours| now() + SignedDuration::from_hours(hours);
    let named = Lineage::name(None, &case.provider, heir.did(), at(1)).await.expect("a key at hand");
    let lineage = Lineage::accept(None, named, &heir).await.expect("both signed");
    let receipt = |hours, key: &Key| case.receipt_with(|receipt| receipt.header.issued_at = at(hours), key);
    let open = |sealed: Sealed<Receipt>| sealed.open(Expect::archived(&case.terms.header.mesh)).expect("signed");
    let step = Transition {
        header: Header { issued_at: at(2), ..header::<Transition>() },
        agreement: case.terms.id,
        sequence: 1,
        from: Status::Active,
        to: Status::Suspended,
        reason: None,
        note: None,
        by: case.provider.did(),
    };
    let transitions = vec![inherited(Signed::sign(step, &[&heir]), &lineage)];
    let with = |receipt| Bundle { transitions: transitions.clone(), receipt: Some(receipt), ..case.bundle() };

    let found = verify(with(inherited(open(receipt(2, &heir)), &lineage)), now()).expect("by the new key");
    assert_eq!(found.successions, lineage.steps());
    assert_eq!(found.receipt.as_ref().map(|stated| stated.signed_by.clone()), Some(vec![case.provider.did()]));
    assert!(describe(&found).contains(&format!("was succeeded by {}", heir.did())));
    verify(with(receipt(0, &case.provider)), now()).expect("by the old key, before");
    let refused = verify(with(receipt(2, &case.provider)), now()).expect_err("by the old key, after");
    assert!(refused.code == Code::BadSignature && refused.detail.contains("was succeeded by another key"), "{refused}");
    assert_eq!(verify(with(receipt(2, &heir)), now()).expect_err("without what proves it").code, Code::Unsigned);
    // Alone, the old key's receipt is as good as any: nothing here says that there is another key.
    let alone = Bundle { receipt: Some(receipt(2, &case.provider)), ..case.bundle() };
    assert!(verify(alone, now()).expect("nothing is known").successions.is_empty());
}
