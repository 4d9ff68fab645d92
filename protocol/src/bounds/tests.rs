use rust_decimal::Decimal;

use super::*;
use crate::{
    AgentId, AgreementId, Digest, Header, Key, OperationId, SignedDuration,
    agreement::{Limit, PerCall, Quantity},
    receipt::{Position, Receipt},
};

const PER_CALL: PerCall = PerCall { fuel: 1_000, wall_ms: 10, result_bytes: 100 };

fn at(text: &str) -> Timestamp {
    text.parse().expect("a time")
}

/// Ten days of terms from one noon on.
fn terms(limits: &[(Quantity, Window, u64)], at_limit: AtLimit) -> Agreement {
    let key = |seed: u8| Key::from_seed(&[seed; 32]);
    let (mesh, begin) = ("model".parse().expect("a mesh"), at("2030-06-01T12:00:00Z"));
    Agreement {
        header: Header::new::<Agreement>(&mesh, begin, SignedDuration::from_hours(240)),
        id: AgreementId::new(),
        provider: key(1).did(),
        provider_node: key(2).node_id(),
        consumer: key(3).did(),
        consumer_node: key(4).node_id(),
        agent: AgentId::new(),
        methods: Vec::new(),
        template: "trial".into(),
        limits: limits.iter().map(|&(quantity, window, max)| Limit { quantity, window, max }).collect(),
        per_call: PER_CALL,
        pricing: Pricing { per_call: Decimal::new(1, 2), per_million_fuel: Decimal::ONE, ..Pricing::free() },
        at_limit,
    }
}

fn usage(calls: u64, fuel: u64) -> Usage {
    Usage { calls, fuel, ..Usage::default() }
}

/// A receipt that states this much, a day after the terms begin.
fn receipt(terms: &Agreement, operation: Usage, total: Usage, overage: Usage) -> Receipt {
    let issued = at("2030-06-02T12:00:00Z");
    Receipt {
        header: Header::new::<Receipt>(&terms.header.mesh, issued, SignedDuration::from_hours(1)),
        agreement: terms.id,
        provider: terms.provider,
        operation: OperationId::new(),
        agent: terms.agent,
        method: "call".into(),
        params: Digest::sha256(b""),
        result: Digest::sha256(b""),
        usage: operation,
        sequence: total.calls,
        total,
        overage,
        price: terms.pricing.price(&total, &overage).unwrap_or_default(),
        currency: terms.pricing.currency.clone(),
        trace: Position { log: terms.provider_node, index: 0, leaf: [0; 32] },
        repeated: false,
    }
}

#[test]
fn windows_are_counted_from_the_beginning_of_the_terms_to_their_end() {
    let daily = terms(&[(Quantity::Calls, Window::Day, 5)], AtLimit::Deny);
    let calls = |time: &str| daily.most(u64::MAX, at(time)).calls;
    assert_eq!(calls("2030-06-01T12:00:00Z"), 5);
    assert_eq!(calls("2030-06-01T23:58:00Z"), 5);
    assert_eq!(calls("2030-06-01T23:59:30Z"), 10, "the provider's clock may be a minute ahead");
    assert_eq!(calls("2030-06-03T01:00:00Z"), 15);
    assert_eq!(calls("2033-01-01T00:00:00Z"), 11 * 5, "no window begins after the end of the terms");
    assert_eq!(calls("2030-01-01T00:00:00Z"), 5, "a time before the terms is their beginning");
    assert_eq!(daily.most(3, at("2030-06-03T01:00:00Z")), Usage { calls: 3, fuel: 3_000, wall_us: 30_000, egress_bytes: 300 });
    assert_eq!(daily.most(u64::MAX, at("2030-06-01T12:00:00Z")).fuel, 5_000, "so many calls use at most so much");
    let hourly = terms(&[(Quantity::Fuel, Window::Hour, 70), (Quantity::Calls, Window::Total, 9)], AtLimit::Deny);
    assert_eq!(hourly.most(100, at("2030-06-01T14:30:00Z")).fuel, 4 * 70, "11:59 was in an hour of its own");
    assert_eq!(hourly.most(100, at("2030-06-01T14:30:00Z")).calls, 9);
}

#[test]
fn a_receipt_states_no_more_than_its_number_of_calls_can_use() {
    let terms = terms(&[(Quantity::Calls, Window::Day, 5)], AtLimit::Deny);
    let check = |operation, total| receipt(&terms, operation, total, Usage::default()).check(&terms);
    check(usage(1, 1_000), usage(3, 3_000)).expect("all that three calls may use");
    let refused = |operation, total, why: &str| {
        let found = check(operation, total).expect_err(why);
        assert!(found.contains(why), "{found}");
    };
    refused(usage(1, 1_001), usage(3, 3_000), "1001 fuel for its operation; one call may use 1000");
    refused(usage(1, 1_000), usage(3, 3_001), "3001 fuel for all calls");
    refused(usage(1, 10), usage(1_000_000, 10), "1000000 calls for all calls");
    refused(usage(1, 10), usage(11, 10), "the terms allow by then for that many calls 10");
    refused(usage(2, 10), usage(3, 10), "counts 2 calls for it");
    refused(usage(1, 10), usage(1, 9), "states less in all than for its own operation");
}

#[test]
fn overage_is_what_can_have_passed_the_limits() {
    let check = |terms: &Agreement, total, overage| receipt(terms, usage(1, 10), total, overage).check(terms);
    let deny = terms(&[(Quantity::Calls, Window::Day, 5)], AtLimit::Deny);
    check(&deny, usage(7, 70), usage(2, 0)).expect_err("without overage there is none");
    let daily = terms(&[(Quantity::Calls, Window::Day, 5)], AtLimit::Overage);
    check(&daily, usage(5, 50), usage(0, 0)).expect("within the limit");
    check(&daily, usage(5, 50), usage(1, 0)).expect_err("five calls pass no limit of five");
    check(&daily, usage(9, 90), usage(4, 0)).expect("all on one day");
    check(&daily, usage(9, 90), usage(0, 0)).expect("on two days");
    check(&daily, usage(9, 90), usage(5, 0)).expect_err("more than passed it");
    check(&daily, usage(9, 90), usage(4, 1)).expect_err("fuel has no limit that it could pass");
    check(&daily, usage(20, 200), usage(10, 0)).expect("both days to their most");
    check(&daily, usage(20, 200), usage(9, 0)).expect_err("that much can't have stayed within limits");
    check(&daily, usage(21, 210), usage(11, 0)).expect_err("beyond what the terms let pass");
}

#[test]
fn receipts_grow_by_what_the_charges_between_them_may_use() {
    let terms = terms(&[(Quantity::Calls, Window::Total, 100)], AtLimit::Deny);
    let state = |operation, total| receipt(&terms, operation, total, Usage::default());
    let first = state(usage(1, 500), usage(1, 500));
    let beside = |other: &Receipt| {
        let one_way = first.check_beside(other, &terms);
        assert_eq!(one_way, other.check_beside(&first, &terms), "in either order");
        one_way
    };
    beside(&first).expect("the same");
    beside(&state(usage(1, 300), usage(2, 800))).expect("the next");
    beside(&state(usage(1, 300), usage(2, 801))).expect_err("more than the call between them used");
    beside(&state(usage(1, 300), usage(2, 799))).expect_err("less than it used");
    beside(&state(usage(1, 300), usage(4, 2_800))).expect("the calls between them used all that they may");
    beside(&state(usage(1, 300), usage(4, 2_801))).expect_err("more than they may");
    beside(&state(usage(1, 300), usage(4, 700))).expect_err("less than its own");
    beside(&state(usage(1, 500), usage(1, 499))).expect_err("one number, two totals");
    let again = Receipt { repeated: true, ..state(usage(1, 500), usage(3, 600)) };
    beside(&again).expect("an answer given again: its usage was counted before");
    beside(&Receipt { repeated: false, ..again }).expect_err("as a charge of its own it is too little");
}

#[test]
fn what_the_terms_allow_has_a_price_or_isnt_agreed_on() {
    let mut terms = terms(&[(Quantity::Calls, Window::Day, 1_000)], AtLimit::Overage);
    terms.check_price().expect("a usual price");
    terms.pricing.per_call = Decimal::MAX;
    terms.check_price().expect_err("a thousand times the largest number");
    terms.pricing.per_call = Decimal::ZERO;
    terms.pricing.overage_per_million_fuel = Some(Decimal::MAX);
    terms.check_price().expect("fuel has no limit that it could pass");
    terms.limits.push(Limit { quantity: Quantity::Fuel, window: Window::Hour, max: 2_000_000 });
    terms.check_price().expect_err("beyond a limit it costs more than can be expressed");
    terms.pricing.overage_per_million_fuel = None;
    terms.pricing.per_million_fuel = Decimal::NEGATIVE_ONE;
    assert!(terms.check_price().expect_err("a gift").contains("per_million_fuel is negative"));
}
