use jiff::SignedDuration;
use proptest::prelude::*;

use super::*;
use crate::{
    agreement::{AtLimit, PerCall, Pricing},
    document::Header,
    error::Code,
    id::{AgentId, AgreementId},
    key::Key,
};

const DAY: i64 = 86_400;

fn provider() -> Key {
    Key::from_seed(&[1; 32])
}

fn consumer() -> Key {
    Key::from_seed(&[2; 32])
}

fn stranger() -> Key {
    Key::from_seed(&[3; 32])
}

fn now() -> Timestamp {
    "2030-06-01T23:50:00Z".parse().expect("a time")
}

fn after(seconds: i64) -> Timestamp {
    now().checked_add(SignedDuration::from_secs(seconds)).expect("within time")
}

/// Terms of a day.
fn terms() -> Agreement {
    Agreement {
        header: Header::new::<Agreement>(&"test".parse().expect("a mesh id"), now(), SignedDuration::from_secs(DAY)),
        id: AgreementId::new(),
        provider: provider().did(),
        provider_node: Key::from_seed(&[4; 32]).node_id(),
        consumer: consumer().did(),
        consumer_node: Key::from_seed(&[5; 32]).node_id(),
        agent: AgentId::new(),
        methods: Vec::new(),
        template: "trial".into(),
        limits: Vec::new(),
        per_call: PerCall { fuel: 1, wall_ms: 1, result_bytes: 1 },
        pricing: Pricing::free(),
        at_limit: AtLimit::Deny,
    }
}
const ALL: [Status; 4] = [Status::Proposed, Status::Active, Status::Suspended, Status::Closed];

fn active() -> (Signed<Agreement>, State) {
    let signed = Signed::sign(terms(), &[&consumer(), &provider()]);
    let state = State::of(&signed).expect("both signed");
    (signed, state)
}

fn transition(terms: &Agreement, sequence: u64, from: Status, to: Status, by: &Key) -> Transition {
    let header = Header::new::<Transition>(&terms.header.mesh, now(), SignedDuration::from_hours(24));
    let reason = (to == Status::Closed).then_some(Reason::Terminated);
    Transition { header, agreement: terms.id, sequence, from, to, reason, note: None, by: by.did() }
}

/// The next transition of `state`, signed by its author.
fn next(terms: &Agreement, state: &State, to: Status, by: &Key) -> Signed<Transition> {
    Signed::sign(transition(terms, state.sequence + 1, state.status, to, by), &[by])
}

#[test]
fn the_machine_has_six_steps() {
    let legal: Vec<_> = ALL.iter().flat_map(|from| ALL.map(|to| (*from, to))).filter(|(from, to)| step(*from, *to).is_ok()).collect();
    let expected = [
        (Status::Proposed, Status::Active),
        (Status::Proposed, Status::Closed),
        (Status::Active, Status::Suspended),
        (Status::Active, Status::Closed),
        (Status::Suspended, Status::Active),
        (Status::Suspended, Status::Closed),
    ];
    assert_eq!(legal, expected);
    let error = step(Status::Closed, Status::Active).expect_err("closed is for good");
    assert_eq!((error.code(), error.to_string().as_str()), (Code::IllegalTransition, "an agreement can't go from closed to active"));
}

#[test]
fn signatures_make_terms_proposed_then_active() {
    let draft = terms();
    let by_provider = Signed::sign(draft.clone(), &[&provider()]);
    assert_eq!(State::of(&by_provider).expect_err("the consumer proposes").code(), Code::Unsigned);
    let proposed = Signed::sign(draft, &[&consumer()]);
    let mut state = State::of(&proposed).expect("a proposal");
    assert_eq!(state.status, Status::Proposed);
    assert!(matches!(state.activate(&proposed, now()), Err(Error::Document(_))));
    let both = proposed.countersign(&provider());
    assert!(matches!(state.clone().activate(&both, after(DAY)), Err(Error::Illegal { from: Status::Closed, .. })));
    // A transition doesn't stand in for the signature.
    let forced = next(both.document(), &state, Status::Active, &consumer());
    assert_eq!(state.apply(both.document(), &forced, now()).expect_err("unsigned").code(), Code::AgreementNotSigned);
    state.activate(&both, now()).expect("both signed");
    assert_eq!(state, State::of(&both).expect("both signed"));
    assert!(matches!(state.activate(&both, now()), Err(Error::Illegal { .. })));
}

#[test]
fn only_who_suspended_resumes() {
    for (one, other) in [(provider(), consumer()), (consumer(), provider())] {
        let (signed, mut state) = active();
        let terms = signed.document();
        state.apply(terms, &next(terms, &state, Status::Suspended, &one), now()).expect("either may suspend");
        let error = state.apply(terms, &next(terms, &state, Status::Active, &other), now()).expect_err("not theirs");
        assert_eq!(error.code(), Code::NotAuthorized);
        state.apply(terms, &next(terms, &state, Status::Active, &one), now()).expect("theirs");
        assert_eq!((state.status, state.sequence), (Status::Active, 2));
        state.apply(terms, &next(terms, &state, Status::Closed, &other), now()).expect("either may close");
        assert_eq!(state.reason, Some(Reason::Terminated));
    }
}

#[test]
fn strangers_missing_signatures_and_wrong_turns_are_refused() {
    let (signed, mut state) = active();
    let terms = signed.document();
    let good = transition(terms, 1, Status::Active, Status::Suspended, &provider());
    let mut try_one = |transition: Transition, key: &Key| {
        let before = state.clone();
        let error = state.apply(terms, &Signed::sign(transition, &[key]), now()).expect_err("refused");
        assert_eq!(state, before, "a refused transition changes nothing");
        error.code()
    };
    assert_eq!(try_one(Transition { by: stranger().did(), ..good.clone() }, &stranger()), Code::NotAuthorized);
    assert_eq!(try_one(good.clone(), &consumer()), Code::Unsigned);
    assert_eq!(try_one(Transition { sequence: 2, ..good.clone() }, &provider()), Code::Conflict);
    assert_eq!(try_one(Transition { sequence: 0, ..good.clone() }, &provider()), Code::Conflict);
    assert_eq!(try_one(Transition { from: Status::Suspended, to: Status::Active, ..good.clone() }, &provider()), Code::Conflict);
    assert_eq!(try_one(Transition { to: Status::Proposed, ..good.clone() }, &provider()), Code::IllegalTransition);
    assert_eq!(try_one(Transition { agreement: AgreementId::new(), ..good.clone() }, &provider()), Code::InvalidRequest);
    assert_eq!(try_one(Transition { reason: Some(Reason::Breached), ..good.clone() }, &provider()), Code::InvalidRequest);
    assert_eq!(try_one(Transition { to: Status::Closed, ..good }, &provider()), Code::InvalidRequest);
}

#[test]
fn the_end_closes_by_itself_and_no_sooner() {
    let (signed, mut state) = active();
    let terms = signed.document();
    assert_eq!((state.effective(terms, after(DAY - 1)), state.reason(terms, after(DAY - 1))), (Status::Active, None));
    assert_eq!(state.effective(terms, after(DAY)), Status::Closed);
    assert_eq!(state.reason(terms, after(DAY)), Some(Reason::Expired));
    let expired = Transition { reason: Some(Reason::Expired), ..transition(terms, 1, Status::Active, Status::Closed, &provider()) };
    let expired = Signed::sign(expired, &[&provider()]);
    assert!(matches!(state.clone().apply(terms, &expired, after(DAY - 1)), Err(Error::NotExpired { .. })));
    let late = next(terms, &state, Status::Suspended, &provider());
    assert!(matches!(state.clone().apply(terms, &late, after(DAY)), Err(Error::Illegal { from: Status::Closed, .. })));
    state.apply(terms, &expired, after(DAY)).expect("it is over");
    assert_eq!(state.reason, Some(Reason::Expired));
    // What a party closed for a reason stays so after the end.
    let (signed, mut state) = active();
    state.apply(signed.document(), &next(signed.document(), &state, Status::Closed, &consumer()), now()).expect("a party");
    assert_eq!(state.reason(signed.document(), after(DAY)), Some(Reason::Terminated));
}

/// Every state and every event: who, what, why and when, held against the table in words at the top of the module.
#[test]
fn every_state_and_event_is_decided_as_the_table_says() {
    const REASONS: [Option<Reason>; 6] =
        [None, Some(Reason::Completed), Some(Reason::Expired), Some(Reason::Terminated), Some(Reason::Breached), Some(Reason::Rejected)];
    let (signed, _) = active();
    let terms = signed.document();
    let parties = [provider(), consumer(), stranger()];
    let mut seen = (0, 0);
    for status in ALL {
        // Who made the last step matters where it was a suspension.
        for last in [&parties[0], &parties[1]] {
            let state = State { status, sequence: 7, reason: (status == Status::Closed).then_some(Reason::Breached), by: Some(last.did()) };
            for from in ALL {
                for (to, reason) in ALL.into_iter().flat_map(|to| REASONS.map(|reason| (to, reason))) {
                    for (who, key) in parties.iter().enumerate() {
                        for late in [false, true] {
                            let step = Transition { reason, ..transition(terms, 8, from, to, key) };
                            let now = after(if late { DAY } else { DAY - 1 });
                            let mut after = state.clone();
                            let taken = after.apply(terms, &Signed::sign(step, &[key]), now).is_ok();
                            let expected = who < 2 && from == status && lawful(status, to, reason, who == 0, last.did() == key.did(), late);
                            assert_eq!(taken, expected, "{status} -> {to} ({reason:?}) by {who}, late: {late}");
                            let reached = State { status: to, sequence: 8, reason, by: Some(key.did()) };
                            assert_eq!(after, if taken { reached } else { state.clone() });
                            seen = if taken { (seen.0 + 1, seen.1) } else { (seen.0, seen.1 + 1) };
                        }
                    }
                }
            }
        }
    }
    // 4 states, by 2; from 4, to 4, for 6 reasons, by 3, in time and late.
    assert_eq!((seen.0 + seen.1, seen.0), (4 * 2 * 4 * 4 * 6 * 3 * 2, 94));
}

/// The table: what a party may do next.
fn lawful(status: Status, to: Status, reason: Option<Reason>, provides: bool, by_the_same: bool, late: bool) -> bool {
    match (status, to, reason) {
        (Status::Active, Status::Suspended, None) => !late,
        (Status::Suspended, Status::Active, None) => !late && by_the_same,
        (Status::Proposed, Status::Closed, Some(Reason::Rejected)) => provides,
        (_, Status::Closed, Some(Reason::Rejected)) => false,
        (Status::Proposed | Status::Active | Status::Suspended, Status::Closed, Some(Reason::Expired)) => late,
        (Status::Proposed | Status::Active | Status::Suspended, Status::Closed, Some(_)) => true,
        _ => false,
    }
}

#[test]
fn a_note_is_one_line() {
    let (signed, state) = active();
    let terms = signed.document();
    let with = |note: &str| {
        let step = Transition { note: Some(note.into()), ..transition(terms, 1, Status::Active, Status::Suspended, &provider()) };
        state.clone().apply(terms, &Signed::sign(step, &[&provider()]), now())
    };
    with("the disk is full").expect("a line");
    for bad in ["", "two\nlines", &"x".repeat(501)] {
        assert!(matches!(with(bad), Err(Error::Note)), "{bad:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever is tried, only legal steps happen, each adds one to the sequence, and an archive replays to the same.
    #[test]
    fn any_attempts_keep_the_machine_lawful(attempts in prop::collection::vec((0usize..4, 0usize..3), 1..12)) {
        let (signed, mut state) = active();
        let terms = signed.document();
        let keys = [provider(), consumer(), stranger()];
        let mut taken = Vec::new();
        for (to, by) in attempts {
            let (before, signed) = (state.clone(), next(terms, &state, ALL[to], &keys[by]));
            if state.apply(terms, &signed, now()).is_ok() {
                prop_assert!(step(before.status, state.status).is_ok() && by < 2);
                prop_assert_eq!(state.sequence, before.sequence + 1);
                prop_assert!(before.status != Status::Suspended || state.status == Status::Closed || before.by == state.by);
                // The same transition again is refused.
                prop_assert!(state.clone().apply(terms, &signed, now()).is_err());
                taken.push(signed);
            } else {
                prop_assert_eq!(&state, &before);
            }
        }
        prop_assert_eq!(State::replay(&signed, &taken).expect("what was taken"), state);
    }
}
