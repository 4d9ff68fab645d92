use std::collections::HashMap;

use proptest::prelude::*;
use protocol::{
    Code, Problem,
    agreement::{Limit, PerCall},
};

use super::*;
use crate::fixture::{after, now, terms};

const DAY: i64 = 86_400;

fn usage(calls: u64, fuel: u64, wall_us: u64, egress_bytes: u64) -> Usage {
    Usage { calls, fuel, wall_us, egress_bytes }
}

fn meter(parameters: &[(&str, &str)]) -> Meter {
    Meter::new(&terms("trial", parameters), [])
}

#[test]
fn the_last_call_gets_what_is_left_and_the_next_is_denied() {
    let mut meter = meter(&[("fuel", "25/1d"), ("call_fuel", "10")]);
    for granted in [10, 10, 5] {
        let reservation = meter.reserve(now()).expect("something is left");
        assert_eq!(reservation.granted.fuel, granted);
        let actual = reservation.granted;
        assert_eq!(meter.settle(reservation, actual), actual);
    }
    let denied = meter.reserve(now()).expect_err("all is used");
    let text = denied.to_string();
    assert!(text.contains("25 fuel per 1d") && text.contains("resets at 2030-06-02T00:00:00Z"), "{text}");
    let problem = Problem::from(denied);
    assert_eq!(problem.code, Code::AgreementExhausted);
    assert!(problem.hint.is_some_and(|hint| hint.contains("mcpctl agreement propose --agent agent_")));
    assert_eq!((meter.total().fuel, meter.total().calls), (25, 3));
    // The next day has its own.
    assert_eq!(meter.reserve(after(600)).map(|reservation| reservation.granted.fuel), Ok(10));
}

#[test]
fn reserved_and_settled_are_told_apart_when_denied() {
    let mut meter = meter(&[("calls", "2/total")]);
    let (one, two) = (meter.reserve(now()).expect("left"), meter.reserve(now()).expect("left"));
    assert!(one.id != two.id && meter.under_way() == 2);
    let denied = meter.reserve(now()).expect_err("both are under way");
    assert!(matches!(denied, Denied::Exhausted { under_way: true, resets_at: None, .. }) && denied.hint().contains("has ended"));
    meter.release(one);
    let three = meter.reserve(now()).expect("one was given back");
    meter.settle(two, usage(1, 0, 0, 0));
    meter.settle(three, usage(1, 0, 0, 0));
    assert!(matches!(meter.reserve(now()), Err(Denied::Exhausted { under_way: false, max: 2, .. })));
}

#[test]
fn a_call_counts_in_the_day_in_which_it_was_reserved() {
    let mut meter = meter(&[("calls", "1/1d"), ("days", "9")]);
    let (today, tomorrow) = (Window::Day.bucket(now()), Window::Day.bucket(after(DAY)));
    let late = meter.reserve(now()).expect("today's");
    assert_eq!(late.stretches.iter().map(|stretch| (stretch.bucket.as_str(), stretch.cap.calls)).next_back(), Some((today.as_str(), 1)));
    let early = meter.reserve(after(DAY)).expect("tomorrow's");
    meter.settle(late, usage(1, 7, 0, 0));
    meter.settle(early, usage(1, 5, 0, 0));
    assert_eq!((meter.used(&today).fuel, meter.used(&tomorrow).fuel, meter.total()), (7, 5, usage(2, 12, 0, 0)));
    // A clock that is set back finds no fresh allowance in the past.
    assert!(meter.reserve(now()).is_err());
    // A day that has passed is forgotten.
    meter.reserve(after(2 * DAY)).map(|reservation| meter.release(reservation)).expect("the day after's");
    assert_eq!((meter.used(&today), meter.used(&tomorrow), meter.buckets.len()), (Usage::default(), Usage::default(), 2));
}

/// A restart after the clock was set back, and then time goes on: what was used in the hour to come is still used.
#[test]
fn hours_to_come_are_not_forgotten() {
    let terms = terms("trial", &[("calls", "2/1h"), ("days", "9")]);
    let later = Window::Hour.bucket(after(3_600));
    let mut meter = Meter::new(&terms, [(later.clone(), usage(2, 0, 0, 0))]);
    meter.reserve(now()).map(|reservation| meter.settle(reservation, usage(1, 0, 0, 0))).expect("this hour's");
    assert_eq!(meter.used(&later).calls, 2);
    assert!(matches!(meter.reserve(after(3_600)), Err(Denied::Exhausted { under_way: false, max: 2, .. })));
    meter.reserve(after(7_200)).map(|reservation| meter.release(reservation)).expect("the next one's");
    assert_eq!(meter.used(&later), Usage::default(), "what has passed is forgotten");
}

#[test]
fn a_limit_that_resets_only_after_the_end_does_not_reset() {
    let mut meter = meter(&[("calls", "1/1d")]);
    let mut resets = |seconds| {
        meter.reserve(after(seconds)).map(|reservation| meter.settle(reservation, usage(1, 0, 0, 0))).expect("each day's first");
        match meter.reserve(after(seconds)) {
            Err(Denied::Exhausted { resets_at, .. }) => resets_at,
            other => panic!("{other:?}"),
        }
    };
    // A trial of a day that begins before midnight touches two days of UTC.
    assert_eq!((resets(0), resets(600)), (Some(after(600)), None));
}

#[test]
fn restored_usage_counts_and_unknown_buckets_do_not() {
    let terms = terms("trial", &[("calls", "5/total,3/1d")]);
    let stored = [("total", 4), (Window::Day.bucket(now()).as_str(), 1), ("1h:9", 100), ("1d:1", 3), ("1w:1", 9)]
        .map(|(name, calls)| (name.to_string(), usage(calls, 0, 0, 0)));
    let mut meter = Meter::new(&terms, stored);
    let reservation = meter.reserve(now()).expect("the fifth");
    assert!(matches!(meter.reserve(now()), Err(Denied::Exhausted { window: Window::Total, .. })));
    assert_eq!(meter.buckets.len(), 2, "yesterday's is dropped");
    meter.release(reservation);
    assert_eq!(meter.total().calls, 4);
}

#[test]
fn what_passes_the_grant_is_the_providers() {
    let mut meter = meter(&[("wall_ms", "15/total"), ("call_wall_ms", "10")]);
    let reservation = meter.reserve(now()).expect("left");
    assert_eq!(meter.settle(reservation, usage(1, 3, 16_000, 0)), usage(1, 3, 10_000, 0));
    assert_eq!(meter.reserve(now()).map(|reservation| reservation.granted.wall_us), Ok(5_000));
}

#[test]
fn overage_has_a_cap_of_its_own() {
    let mut terms = terms("trial", &[("calls", "4/total"), ("call_fuel", "10"), ("fuel", "20/1h"), ("at_limit", "overage")]);
    terms.pricing.overage_percent = Some(50);
    let mut meter = Meter::new(&terms, []);
    for granted in [10, 10, 10] {
        let reservation = meter.reserve(now()).expect("within the limit, or overage");
        let of = |stretch: &Stretch| (stretch.limit.fuel, stretch.cap.fuel);
        assert_eq!(reservation.stretches.iter().map(of).next_back(), Some((20, 30)));
        assert_eq!(reservation.granted.fuel, granted);
        meter.settle(reservation, usage(1, 10, 0, 0));
    }
    // By the hour 30 is the most, in all it is 6 calls.
    assert!(matches!(meter.reserve(now()), Err(Denied::Exhausted { window: Window::Hour, max: 30, .. })));
    for _ in 0..3 {
        meter.reserve(after(3_600)).map(|reservation| meter.settle(reservation, usage(1, 1, 0, 0))).expect("the next hour's");
    }
    assert!(matches!(meter.reserve(after(3_600)), Err(Denied::Exhausted { window: Window::Total, max: 6, .. })));
    terms.pricing.overage_percent = None;
    assert_eq!(terms.hard_caps(Window::Total).calls, 8, "by as much again, if nothing is said");
}

#[test]
fn exposure_is_bounded_until_the_consumer_signs() {
    let mut meter = meter(&[("calls", "100/total")]);
    meter.bound_exposure(2, 0);
    let one = meter.reserve(now()).expect("the first");
    meter.settle(one, usage(1, 0, 0, 0));
    let two = meter.reserve(now()).expect("the second");
    let denied = meter.reserve(now()).expect_err("one is charged, one under way");
    assert_eq!(denied, Denied::Unacknowledged { agreement: meter.agreement, unacknowledged: 2, max: 2 });
    let problem = Problem::from(denied);
    assert_eq!((problem.code, problem.retry_after), (Code::AgreementUnacknowledged, Some(1)));
    // What never ran needs no receipt.
    meter.release(two);
    let two = meter.reserve(now()).expect("the second again");
    meter.settle(two, usage(1, 0, 0, 0));
    assert!(meter.reserve(now()).is_err());
    meter.acknowledge(1);
    meter.acknowledge(0);
    assert_eq!((meter.acknowledged(), meter.unacknowledged()), (1, 1), "an earlier one changes nothing");
    let three = meter.reserve(now()).expect("the first was signed");
    meter.settle(three, usage(1, 0, 0, 0));
    // Restored, it is as it was.
    let mut restored = Meter::new(&terms("trial", &[("calls", "100/total")]), [(TOTAL.to_string(), meter.total())]);
    restored.bound_exposure(2, 1);
    assert!(matches!(restored.reserve(now()), Err(Denied::Unacknowledged { unacknowledged: 2, .. })));
    restored.acknowledge(3);
    restored.reserve(now()).map(|reservation| restored.release(reservation)).expect("all is signed");
}

#[test]
fn a_limit_of_nothing_denies_at_once_and_saturated_usage_stays_unlimited() {
    let mut terms = terms("trial", &[]);
    terms.limits = vec![Limit { quantity: Quantity::EgressBytes, window: Window::Total, max: 0 }];
    assert!(matches!(Meter::new(&terms, []).reserve(now()), Err(Denied::Exhausted { max: 0, under_way: false, .. })));
    terms.limits.clear();
    let mut meter = Meter::new(&terms, [(TOTAL.to_string(), Usage::UNLIMITED)]);
    assert_eq!(meter.reserve(now()).map(|reservation| reservation.granted), Ok(meter.per_call));
}

/// What can happen to a meter.
#[derive(Debug, Clone)]
enum Step {
    Reserve,
    /// Settles one of those under way, at so many 255ths of its grant.
    Settle(prop::sample::Index, [u8; 4]),
    Release(prop::sample::Index),
    /// The clock moves, backwards too.
    Wait(i64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => Just(Step::Reserve),
        3 => (any::<prop::sample::Index>(), any::<[u8; 4]>()).prop_map(|(which, parts)| Step::Settle(which, parts)),
        1 => any::<prop::sample::Index>().prop_map(Step::Release),
        1 => (-4_000i64..50_000).prop_map(Step::Wait),
    ];
    prop::collection::vec(step, 1..120)
}

fn limited() -> impl Strategy<Value = Agreement> {
    let limit = (prop::sample::select(&Quantity::ALL[..]), prop::sample::select(&Window::ALL[..]), 0u64..40)
        .prop_map(|(quantity, window, max)| Limit { quantity, window, max });
    (prop::collection::vec(limit, 0..6), 0u64..12, 0u64..12).prop_map(|(limits, fuel, result_bytes)| Agreement {
        limits,
        per_call: PerCall { fuel, wall_ms: 0, result_bytes },
        ..terms("trial", &[("days", "30")])
    })
}

fn part(granted: u64, of_255: u8) -> u64 {
    granted * u64::from(of_255) / 255
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// Held against sums kept beside it, by bucket: no cap is passed in any interleaving, and sums are exact.
    #[test]
    fn no_interleaving_passes_a_cap(terms in limited(), steps in steps()) {
        let mut meter = Meter::new(&terms, []);
        let (mut clock, mut open) = (0i64, Vec::<Reservation>::new());
        let (mut settled, mut caps) = (HashMap::<String, Usage>::new(), HashMap::<String, Usage>::new());
        for step in steps {
            match step {
                Step::Wait(seconds) => clock += seconds,
                Step::Reserve => match meter.reserve(after(clock)) {
                    Ok(reservation) => {
                        prop_assert!(reservation.granted.within(meter.per_call) && reservation.granted.calls == 1);
                        caps.extend(reservation.stretches.iter().map(|stretch| (stretch.bucket.clone(), stretch.cap)));
                        open.push(reservation);
                        prop_assert!(meter.buckets.len() <= 3 + 2 * open.len(), "what is under way bounds the memory");
                    }
                    Err(Denied::Exhausted { quantity, window, max, .. }) => {
                        prop_assert_eq!(quantity.of(&terms.caps(window)), max);
                        let name = window.bucket(meter.latest);
                        let held = open.iter().filter(|reservation| reservation.stretches.iter().any(|stretch| stretch.bucket == name));
                        let held = held.map(|reservation| quantity.of(&reservation.granted)).sum::<u64>();
                        prop_assert_eq!(settled.get(&name).map_or(0, |usage| quantity.of(usage)) + held, max, "denied too early");
                    }
                    Err(other) => prop_assert!(false, "{:?}", other),
                },
                Step::Settle(which, [_, fuel, wall_us, egress]) if !open.is_empty() => {
                    let reservation = open.swap_remove(which.index(open.len()));
                    let granted = reservation.granted;
                    let actual = usage(1, part(granted.fuel, fuel), part(granted.wall_us, wall_us), part(granted.egress_bytes, egress));
                    for stretch in &reservation.stretches {
                        let sum = settled.entry(stretch.bucket.clone()).or_default();
                        *sum = sum.plus(actual);
                    }
                    prop_assert_eq!(meter.settle(reservation, actual), actual);
                }
                Step::Release(which) if !open.is_empty() => meter.release(open.swap_remove(which.index(open.len()))),
                Step::Settle(..) | Step::Release(_) => {}
            }
            for (name, caps) in &caps {
                let holds = |reservation: &&Reservation| reservation.stretches.iter().any(|stretch| stretch.bucket == *name);
                let reserved = open.iter().filter(holds).fold(Usage::default(), |sum, reservation| sum.plus(reservation.granted));
                let sum = settled.get(name).copied().unwrap_or_default();
                prop_assert!(sum.plus(reserved).within(*caps), "{} over {:?}", name, caps);
                match meter.buckets.get(name) {
                    Some(bucket) => prop_assert_eq!((bucket.settled, bucket.reserved), (sum, reserved), "{}", name),
                    None => prop_assert_eq!(reserved, Usage::default(), "{} is forgotten under way", name),
                }
            }
            prop_assert_eq!(meter.total(), settled.get(TOTAL).copied().unwrap_or_default());
            prop_assert_eq!(meter.under_way(), open.len() as u64);
        }
    }

    /// A meter made anew from what was settled, as after a crash, allows no more than the old one had left.
    #[test]
    fn a_restarted_meter_keeps_the_caps(terms in limited(), before in 0usize..30, after_restart in 0usize..60) {
        let mut meter = Meter::new(&terms, []);
        for _ in 0..before {
            let Ok(reservation) = meter.reserve(now()) else { break };
            let granted = reservation.granted;
            meter.settle(reservation, granted);
        }
        let stored: Vec<_> = meter.buckets.iter().map(|(name, bucket)| (name.clone(), bucket.settled)).collect();
        let mut meter = Meter::new(&terms, stored);
        for _ in 0..after_restart {
            let Ok(reservation) = meter.reserve(now()) else { break };
            let granted = reservation.granted;
            meter.settle(reservation, granted);
        }
        for window in Window::ALL {
            prop_assert!(meter.used(&window.bucket(now())).within(terms.caps(window)));
        }
    }
}
