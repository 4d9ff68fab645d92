//! A statement verifies as a whole, and nothing in it can be changed: not by a stranger, and not by the party that signs it.

use jiff::SignedDuration;
use protocol::{
    AgentId, Digest, Header, Key, OperationId,
    agreement::{AtLimit, Limit, PerCall, Pricing, Quantity, Reason, Status, Transition, Window},
    document::Document,
    receipt::{Position, Receipt},
};
use serde_json::{Value, json};

use super::*;

struct Case {
    provider: Key,
    consumer: Key,
    terms: Agreement,
}

fn now() -> Timestamp {
    "2030-01-01T00:00:00Z".parse().expect("time")
}

fn header<D: Document>() -> Header {
    Header::new::<D>(&"test".parse().expect("mesh"), now(), SignedDuration::from_hours(24))
}

fn case() -> Case {
    let (provider, consumer) = (Key::from_seed(&[1; 32]), Key::from_seed(&[2; 32]));
    let pricing = Pricing {
        currency: "EUR".into(),
        per_call: Decimal::new(1, 2),
        overage_per_call: Some(Decimal::new(3, 2)),
        overage_percent: Some(50),
        ..Pricing::free()
    };
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
        limits: vec![Limit { quantity: Quantity::Calls, window: Window::Total, max: 10 }],
        per_call: PerCall { fuel: 1, wall_ms: 1, result_bytes: 1 },
        pricing,
        at_limit: AtLimit::Overage,
    };
    Case { provider, consumer, terms }
}

fn calls(calls: u64) -> Usage {
    Usage { calls, ..Usage::default() }
}

impl Case {
    /// The receipt of so many calls.
    fn receipt(&self, number: u64) -> Receipt {
        let (total, overage) = (calls(number), calls(number.saturating_sub(10)));
        Receipt {
            header: header::<Receipt>(),
            agreement: self.terms.id,
            provider: self.provider.did(),
            operation: OperationId::new(),
            agent: self.terms.agent,
            method: "search".into(),
            params: Digest::sha256(b"{}"),
            result: Digest::sha256(b"[]"),
            usage: calls(1),
            sequence: number,
            total,
            overage,
            price: self.terms.pricing.price(&total, &overage).expect("a price"),
            currency: "EUR".into(),
            trace: Position { log: self.terms.provider_node, index: 11, leaf: [0; 32] },
        }
    }

    fn closing(&self) -> Transition {
        Transition {
            header: header::<Transition>(),
            agreement: self.terms.id,
            sequence: 1,
            from: Status::Active,
            to: Status::Closed,
            reason: Some(Reason::Completed),
            note: None,
            by: self.consumer.did(),
        }
    }

    fn bundle(&self) -> Bundle {
        Bundle {
            agreement: Signed::sign(self.terms.clone(), &[&self.consumer, &self.provider]).into(),
            transitions: vec![Signed::sign(self.closing(), &[&self.consumer]).into()],
            receipt: Some(Signed::sign(self.receipt(12), &[&self.provider]).into()),
            countersigned: Some(Signed::sign(self.receipt(11), &[&self.provider, &self.consumer]).into()),
        }
    }

    fn statement(&self) -> Statement {
        let newest = self.receipt(12);
        Statement {
            header: header::<Statement>(),
            agreement: self.terms.id,
            by: self.provider.did(),
            status: Status::Closed,
            reason: Some(Reason::Completed),
            bundle: self.bundle(),
            total: newest.total,
            overage: newest.overage,
            price: newest.price,
            currency: "EUR".into(),
            acknowledged: 11,
        }
    }
}

fn signed(statement: Statement, key: &Key) -> Sealed<Statement> {
    Signed::sign(statement, &[key]).into()
}

/// Every place in a document where there is a value that isn't made of others.
fn leaves(value: &Value, at: &str, found: &mut Vec<String>) {
    match value {
        Value::Object(members) => members.iter().for_each(|(name, value)| leaves(value, &format!("{at}/{name}"), found)),
        Value::Array(items) => items.iter().enumerate().for_each(|(index, value)| leaves(value, &format!("{at}/{index}"), found)),
        _ => found.push(at.into()),
    }
}

/// The document with another value in one place.
fn changed(document: &Value, at: &str) -> Value {
    let mut document = document.clone();
    let place = document.pointer_mut(at).expect("a place");
    *place = match place {
        Value::Number(number) => json!(number.as_u64().unwrap_or_default() ^ 1),
        Value::String(text) => json!(format!("{}{}", if text.starts_with('1') { '2' } else { '1' }, text.get(1..).unwrap_or_default())),
        Value::Bool(set) => json!(!*set),
        _ => json!("1"),
    };
    document
}

/// The envelope with another payload, and the signatures of the one before.
fn forged<D: Document>(honest: &Sealed<D>, payload: &Value) -> Sealed<D> {
    let bytes = serde_json::to_vec(payload).expect("JSON");
    let envelope = protocol::Envelope { payload: protocol::Envelope::sign("", &bytes, &[]).payload, ..honest.envelope().clone() };
    envelope.into()
}

fn payload<D: Document>(sealed: &Sealed<D>) -> Value {
    serde_json::from_slice(&sealed.envelope().claimed_payload().expect("base64")).expect("JSON")
}

#[test]
fn a_statement_verifies_with_all_that_is_in_it() {
    let case = case();
    let found = verify(signed(case.statement(), &case.provider), now()).expect("verifies");
    assert_eq!((found.total.calls, found.overage.calls, found.price, found.bundle.acknowledged), (12, 2, Decimal::new(16, 2), 11));
    let text = describe(&found);
    assert!(text.contains("0.16 EUR") && text.contains("closed (completed)") && text.contains("up to number 11"), "{text}");
    // The other side's, with what both signed as the newest.
    let both: Sealed<Receipt> = Signed::sign(case.receipt(12), &[&case.provider, &case.consumer]).into();
    let bundle = Bundle { receipt: Some(both), countersigned: None, ..case.bundle() };
    let theirs = Statement { by: case.consumer.did(), bundle, acknowledged: 12, ..case.statement() };
    assert_eq!(verify(signed(theirs, &case.consumer), now()).expect("verifies").bundle.acknowledged, 12);
}

#[test]
fn any_changed_field_of_any_document_shows() {
    let case = case();
    let honest = case.statement();
    let sealed = signed(honest.clone(), &case.provider);
    let mut tried = 0;
    let mut each = |document: &Value, refused: &dyn Fn(&Value) -> bool| {
        let mut places = Vec::new();
        leaves(document, "", &mut places);
        for place in places {
            tried += 1;
            assert!(refused(&changed(document, &place)), "{place} was changed and nobody noticed");
        }
    };
    // By whoever can't sign: in the statement itself, and in each document in it.
    let verifies = |statement: Statement| verify(signed(statement, &case.provider), now()).is_ok();
    // By its signature, before anything in it is read.
    each(&payload(&sealed), &|changed| verify(forged(&sealed, changed), now()).is_err_and(|problem| problem.code == Code::BadSignature));
    let with = |bundle: Bundle| Statement { bundle, ..honest.clone() };
    let bundle = case.bundle();
    each(&payload(&bundle.agreement), &|changed| {
        !verifies(with(Bundle { agreement: forged(&bundle.agreement, changed), ..bundle.clone() }))
    });
    each(&payload(&bundle.transitions[0]), &|changed| {
        !verifies(with(Bundle { transitions: vec![forged(&bundle.transitions[0], changed)], ..bundle.clone() }))
    });
    let (newest, earlier) = (bundle.receipt.clone().expect("there"), bundle.countersigned.clone().expect("there"));
    each(&payload(&newest), &|changed| !verifies(with(Bundle { receipt: Some(forged(&newest, changed)), ..bundle.clone() })));
    each(&payload(&earlier), &|changed| !verifies(with(Bundle { countersigned: Some(forged(&earlier, changed)), ..bundle.clone() })));
    // By the party that signs the statement: what it says must follow from what is in it.
    let mut said = payload(&sealed);
    for name in ["bundle", "header"] {
        said.as_object_mut().expect("an object").remove(name);
    }
    each(&said, &|changed| {
        let mut whole = payload(&sealed);
        for (name, value) in changed.as_object().expect("an object") {
            whole[name] = value.clone();
        }
        serde_json::from_value::<Statement>(whole).map_or(true, |statement| !verifies(statement))
    });
    assert!(tried > 100, "{tried} changes");
}

#[test]
fn what_is_left_out_or_swapped_shows() {
    let case = case();
    let refused = |change: &dyn Fn(&mut Statement), key: &Key| {
        let mut statement = case.statement();
        change(&mut statement);
        verify(signed(statement, key), now()).expect_err("refused").code
    };
    let (other, stranger) = (self::case(), Key::from_seed(&[9; 32]));
    assert_eq!(refused(&|_| (), &case.consumer), Code::Unsigned);
    assert_eq!(refused(&|statement| statement.by = stranger.did(), &stranger), Code::ProofFailed);
    assert_eq!(refused(&|statement| statement.bundle = other.bundle(), &case.provider), Code::ProofFailed);
    assert_eq!(refused(&|statement| statement.bundle.transitions.clear(), &case.provider), Code::ProofFailed);
    assert_eq!(refused(&|statement| statement.bundle.countersigned = None, &case.provider), Code::ProofFailed);
    assert_eq!(refused(&|statement| statement.bundle.receipt = None, &case.provider), Code::ProofFailed);
    // The newest in the place of what the consumer signed, and an earlier one in the place of the newest.
    let newest = case.bundle().receipt;
    assert_eq!(refused(&|statement| statement.bundle.countersigned = newest.clone(), &case.provider), Code::Unsigned);
    let earlier: Sealed<Receipt> = Signed::sign(case.receipt(3), &[&case.provider]).into();
    assert_eq!(refused(&|statement| statement.bundle.receipt = Some(earlier.clone()), &case.provider), Code::ProofFailed);
}

/// What a provider can't state, though it signs it: other numbers, prices, or overage than the terms and the limits make.
#[test]
fn receipts_that_the_terms_do_not_allow_are_refused() {
    let case = case();
    let refused = |change: &dyn Fn(&mut Receipt)| {
        let mut receipt = case.receipt(12);
        change(&mut receipt);
        receipt.check(&case.terms).is_err()
    };
    assert!(!refused(&|_| ()));
    let repriced = |receipt: &mut Receipt| receipt.price = case.terms.pricing.price(&receipt.total, &receipt.overage).expect("a price");
    assert!(refused(&|receipt| receipt.sequence = 11));
    assert!(refused(&|receipt| receipt.price += Decimal::ONE));
    assert!(refused(&|receipt| {
        receipt.overage = calls(12);
        repriced(receipt);
    }));
    assert!(refused(&|receipt| {
        receipt.overage = calls(0);
        repriced(receipt);
    }));
    let beyond = case.receipt(16);
    assert!(beyond.check(&case.terms).is_err(), "15 is the most, overage included");
    let (earlier, later) = (case.receipt(11), case.receipt(12));
    assert!(later.check_beside(&earlier).is_ok() && earlier.check_beside(&later).is_ok());
    let shrunk = Receipt { total: Usage { fuel: 1, ..earlier.total }, ..earlier };
    assert!(later.check_beside(&shrunk).is_err(), "totals never shrink");
}
