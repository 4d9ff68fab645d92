use jiff::SignedDuration;
use protocol::{
    Digest, Header, Key,
    agreement::{AtLimit, PerCall, Pricing},
    document::Document,
    receipt::Position,
};

use super::*;

struct Case {
    provider: Key,
    consumer: Key,
    terms: Agreement,
}

fn now() -> Timestamp {
    "2026-01-01T00:00:00Z".parse().expect("time")
}

fn header<D: Document>() -> Header {
    Header::new::<D>(&"test".parse().expect("mesh"), now(), SignedDuration::from_hours(24))
}

fn case() -> Case {
    let (provider, consumer) = (Key::from_seed(&[1; 32]), Key::from_seed(&[2; 32]));
    let terms = Agreement {
        header: header::<Agreement>(),
        id: AgreementId::new(),
        provider: provider.did(),
        provider_node: Key::from_seed(&[3; 32]).node_id(),
        consumer: consumer.did(),
        consumer_node: Key::from_seed(&[4; 32]).node_id(),
        agent: AgentId::new(),
        methods: vec!["search".into()],
        template: "standard".into(),
        limits: Vec::new(),
        per_call: PerCall { fuel: 1, wall_ms: 1, result_bytes: 1 },
        pricing: Pricing { currency: "EUR".into(), per_call: Decimal::new(1, 2), per_million_fuel: Decimal::ZERO, ..Pricing::free() },
        at_limit: AtLimit::Deny,
    };
    Case { provider, consumer, terms }
}

impl Case {
    fn bundle(&self) -> Bundle {
        let agreement = Signed::sign(self.terms.clone(), &[&self.consumer, &self.provider]).into();
        Bundle { agreement, transitions: Vec::new(), receipt: Some(self.receipt(|_| {}, &self.provider)), countersigned: None }
    }

    fn receipt(&self, change: impl FnOnce(&mut Receipt), key: &Key) -> Sealed<Receipt> {
        let mut receipt = Receipt {
            header: header::<Receipt>(),
            agreement: self.terms.id,
            provider: self.provider.did(),
            operation: OperationId::new(),
            agent: self.terms.agent,
            method: "search".into(),
            params: Digest::sha256(b"{}"),
            result: Digest::sha256(b"[]"),
            usage: Usage { calls: 1, ..Usage::default() },
            sequence: 12,
            total: Usage { calls: 12, ..Usage::default() },
            overage: Usage::default(),
            price: Decimal::new(12, 2),
            currency: "EUR".into(),
            trace: Position { log: self.terms.provider_node, index: 11, leaf: [0; 32] },
        };
        change(&mut receipt);
        Signed::sign(receipt, &[key]).into()
    }

    fn step(&self, sequence: u64, from: Status, to: Status, by: &Key) -> Sealed<Transition> {
        let reason = (to == Status::Closed).then_some(Reason::Terminated);
        let step =
            Transition { header: header::<Transition>(), agreement: self.terms.id, sequence, from, to, reason, note: None, by: by.did() };
        Signed::sign(step, &[by]).into()
    }
}

#[test]
fn a_whole_history_verifies() {
    let case = case();
    let mut bundle = case.bundle();
    bundle.transitions = vec![
        case.step(1, Status::Active, Status::Suspended, &case.provider),
        case.step(2, Status::Suspended, Status::Active, &case.provider),
        case.step(3, Status::Active, Status::Closed, &case.consumer),
    ];
    let found = verify(bundle, now()).expect("verifies");
    assert_eq!((found.status, found.reason), (Status::Closed, Some(Reason::Terminated)));
    assert_eq!(found.signers, [case.consumer.did(), case.provider.did()]);
    assert_eq!(found.receipt.as_ref().map(|stated| (stated.used.calls, stated.price)), Some((12, Decimal::new(12, 2))));
    let text = describe(&found);
    assert!(text.contains("status     closed (terminated)\n") && text.contains("costs      0.12 EUR\n"), "{text}");
    assert!(text.contains(&format!("  active -> closed by {}", case.consumer.did())), "{text}");
}

#[test]
fn past_its_end_it_is_expired_and_still_verifies() {
    let case = case();
    let later = now().saturating_add(SignedDuration::from_hours(24 * 3650)).expect("time");
    let found = verify(case.bundle(), later).expect("verifies from an archive");
    assert_eq!((found.status, found.reason), (Status::Closed, Some(Reason::Expired)));
}

#[test]
fn a_missing_or_forged_signature_is_named() {
    let case = case();
    let mut bundle = case.bundle();
    bundle.agreement = Signed::sign(case.terms.clone(), &[&case.consumer]).into();
    let problem = verify(bundle, now()).expect_err("the provider did not sign");
    assert_eq!(problem.code, Code::Unsigned);
    assert!(problem.detail.contains(&case.provider.did().to_string()));

    let mut bundle = case.bundle();
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
        let bundle = Bundle { transitions, ..case.bundle() };
        assert_eq!(verify(bundle, now()).expect_err("illegal").code, Code::IllegalTransition, "case {number}");
    }
}

#[test]
fn a_receipt_must_be_the_providers_and_of_these_terms() {
    let case = case();
    let wrong: [(Sealed<Receipt>, Code); 5] = [
        (case.receipt(|_| {}, &case.consumer), Code::Unsigned),
        (case.receipt(|receipt| receipt.agreement = AgreementId::new(), &case.provider), Code::ProofFailed),
        (case.receipt(|receipt| receipt.price = Decimal::ONE, &case.provider), Code::ProofFailed),
        (case.receipt(|receipt| receipt.method = "delete".into(), &case.provider), Code::ProofFailed),
        (case.receipt(|receipt| receipt.header.mesh = "other".parse().expect("mesh"), &case.provider), Code::ForeignMesh),
    ];
    for (number, (receipt, code)) in wrong.into_iter().enumerate() {
        let bundle = Bundle { receipt: Some(receipt), ..case.bundle() };
        assert_eq!(verify(bundle, now()).expect_err("wrong").code, code, "case {number}");
    }
}
