//! A statement verifies as a whole, and nothing in it can be changed: not by a stranger, and not by the party that signs it.

use protocol::{Key, agreement::Reason, document::Document, receipt::Receipt};
use serde_json::{Value, json};

use super::*;
use crate::commands::agreement::fixture::{self, Case, calls, case, header, now};

impl Case {
    /// On the newest receipt of both.
    fn closing(&self) -> Closing {
        let Receipt { sequence, total, overage, price, .. } = self.receipt(11);
        Closing { at: now(), receipt: sequence, total, overage, price, unacknowledged: 1 }
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
            closing: Some(self.closing()),
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
    assert!(text.contains("on receipt 11 of both signatures") && text.contains("1 calls beyond it by the provider alone"), "{text}");
    // The other side's, with what both signed as the newest.
    let both: Sealed<Receipt> = Signed::sign(case.receipt(12), &[&case.provider, &case.consumer]).into();
    let bundle = Bundle { receipt: Some(both), countersigned: None, ..case.bundle() };
    let theirs = Statement { by: case.consumer.did(), bundle, acknowledged: 12, closing: None, ..case.statement() };
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
    let (other, stranger) = (fixture::case(), Key::from_seed(&[9; 32]));
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

/// It closes on the newest receipt of both signatures, once it is closed, and on nothing else.
#[test]
fn a_closing_follows_from_what_was_signed() {
    let case = case();
    let refused = |change: &dyn Fn(&mut Statement)| {
        let mut statement = case.statement();
        change(&mut statement);
        verify(signed(statement, &case.provider), now()).is_err()
    };
    let with = |closing: Closing| refused(&|statement| statement.closing = Some(closing.clone()));
    let honest = case.closing();
    assert!(!with(honest.clone()));
    let newest = case.receipt(12);
    assert!(with(Closing { receipt: 12, total: newest.total, overage: newest.overage, price: newest.price, ..honest.clone() }));
    assert!(with(Closing { receipt: 0, ..honest.clone() }) && with(Closing { unacknowledged: 0, ..honest.clone() }));
    let moved = |seconds| now().checked_add(jiff::SignedDuration::from_secs(seconds)).expect("a time");
    assert!(with(Closing { at: moved(-61), ..honest.clone() }) && with(Closing { at: moved(61), ..honest.clone() }));
    assert!(!with(Closing { at: moved(-60), ..honest }), "clocks differ");
    // While it is open there is none.
    assert!(refused(&|statement| {
        statement.bundle.transitions.clear();
        (statement.status, statement.reason) = (Status::Active, None);
    }));
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
    assert!(later.check_beside(&earlier, &case.terms).is_ok() && earlier.check_beside(&later, &case.terms).is_ok());
    let shrunk = Receipt { total: Usage { fuel: 1, ..earlier.total }, ..earlier };
    assert!(later.check_beside(&shrunk, &case.terms).is_err(), "totals never shrink");
}
