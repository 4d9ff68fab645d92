//! An honest consumer against a provider that lies, and an honest provider against a consumer that lies, under random schedules.
//!
//! Held against what really happened: the consumer signs no receipt beyond the calls that it sent (and, for each crash, a block of
//! them), their grants, and the caps of the windows that have begun; the provider works no further ahead than it may, and takes no
//! signature that the consumer can't have. An honest party is never accused.

use std::collections::BTreeSet;

use agreement::{Denied, Meter, SentCalls, acknowledged};
use protocol::{
    Digest, Header, OperationId, Signed, SignedDuration, Timestamp, Usage,
    agreement::{Agreement, AtLimit, Window},
    document::{MAX_SKEW, Sealed},
    receipt::{Position, Receipt},
};

use super::{Dice, EXPOSURE, epoch, key, number, random_terms};

/// The largest block of calls that a crash may count as sent.
const BLOCK: u64 = 256;

fn receipt(terms: &Agreement, operation: Usage, (total, overage): (Usage, Usage), now: Timestamp) -> Receipt {
    Receipt {
        header: Header::new::<Receipt>(&terms.header.mesh, now, SignedDuration::from_hours(1)),
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

/// A consumer that keeps to the rules, and what is true of it.
struct Consumer {
    terms: Agreement,
    sent: SentCalls,
    /// On disk.
    reserved: u64,
    newest: Option<Receipt>,
    /// Calls that were really sent, and those that crashes counted too many.
    really: u64,
    counted_by_crashes: u64,
}

impl Consumer {
    fn new(terms: Agreement) -> Self {
        let sent = SentCalls::new();
        Self { terms, sent, reserved: sent.reserved(), newest: None, really: 0, counted_by_crashes: 0 }
    }

    fn send(&mut self) {
        while !self.sent.send() {
            self.reserved = self.sent.next_block().expect("a block follows");
            self.sent.reserve(self.reserved);
        }
        self.really += 1;
    }

    fn crash(&mut self) {
        let after = SentCalls::restored(self.reserved);
        self.counted_by_crashes += after.sent() - self.sent.sent();
        self.sent = after;
    }

    /// Whether it would sign this receipt.
    fn takes(&mut self, receipt: &Receipt, now: Timestamp) -> Result<(), String> {
        self.sent.check(&self.terms, receipt, now)?;
        if let Some(newest) = &self.newest {
            receipt.check_beside(newest, &self.terms)?;
        }
        if self.newest.as_ref().is_none_or(|newest| newest.sequence < receipt.sequence) {
            self.newest = Some(receipt.clone());
        }
        Ok(())
    }

    /// What it would sign now is within what really happened.
    fn audit(&self, now: Timestamp, crashes: u64) {
        let Some(signed) = &self.newest else { return };
        let most = self.really + self.counted_by_crashes;
        assert!(self.counted_by_crashes <= crashes * BLOCK, "{} calls for {crashes} crashes", self.counted_by_crashes);
        assert!(signed.sequence <= most, "signs for {} calls; sent {}, and {} by crashes", signed.sequence, self.really, crashes);
        let grants = Usage {
            calls: most,
            fuel: self.terms.per_call.fuel * most,
            wall_us: self.terms.per_call.wall_ms * 1_000 * most,
            egress_bytes: self.terms.per_call.result_bytes * most,
        };
        assert!(signed.total.within(grants), "signs for {:?}, beyond all grants {grants:?}", signed.total);
        for window in Window::ALL {
            let caps = self.terms.hard_caps(window);
            let begun = self.windows(window, now);
            let allowed = (0..begun).fold(Usage::default(), |sum, _| sum.plus(caps));
            assert!(signed.total.within(allowed), "signs for {:?}; {begun} windows {window} of {caps:?} have begun", signed.total);
        }
        assert_eq!(Some(signed.price), self.terms.pricing.price(&signed.total, &signed.overage));
        assert!(signed.overage.within(signed.total));
    }

    /// Which windows have begun, counted one by one.
    fn windows(&self, window: Window, now: Timestamp) -> u64 {
        let step = SignedDuration::from_mins(30);
        let mut time = self.terms.header.issued_at.saturating_sub(MAX_SKEW).expect("a time");
        let end = now.saturating_add(MAX_SKEW).expect("a time").min(self.terms.header.expires_at);
        let mut begun = BTreeSet::from([window.bucket(time), window.bucket(end)]);
        while time < end {
            begun.insert(window.bucket(time));
            time = time.saturating_add(step).expect("a time");
        }
        begun.len() as u64
    }
}

/// What an honest provider would state next, and a lie made of it.
fn lie(dice: &mut Dice, terms: &Agreement, honest: &Receipt, now: Timestamp) -> Receipt {
    let mut lie = honest.clone();
    let much = match dice.roll(4) {
        0 => dice.roll(4),
        1 => dice.roll(300),
        2 => dice.roll(1_000_000),
        _ => u64::MAX - dice.roll(3),
    };
    match dice.roll(8) {
        0 => lie.total.calls = lie.total.calls.saturating_add(much),
        1 => lie.total.calls = lie.total.calls.saturating_sub(much),
        2 => lie.total.fuel = lie.total.fuel.saturating_add(much),
        3 => lie.usage.fuel = lie.usage.fuel.saturating_add(much),
        4 => lie.overage.calls = lie.overage.calls.saturating_add(much),
        5 => lie.repeated = true,
        6 => lie.total = lie.total.plus(Usage { calls: 0, fuel: much, wall_us: much, egress_bytes: much }),
        _ => {
            // As much as documents alone would let pass, in the name of windows to come.
            lie.header.issued_at = now.saturating_add(SignedDuration::from_secs(60)).expect("a time");
            lie.total = terms.most(dice.roll(400), terms.header.expires_at);
        }
    }
    lie.sequence = lie.total.calls;
    lie.price = terms.pricing.price(&lie.total, &lie.overage).unwrap_or_default();
    lie
}

#[test]
fn no_lie_of_a_provider_makes_a_consumer_sign_more_than_it_sent() {
    let mut dice = Dice(number("MCP_MODEL_SEED", 1));
    let (mut lies, mut taken, mut found, mut crashes_in_all) = (0_u64, 0_u64, 0_u64, 0_u64);
    while lies < number("MCP_MODEL_LIES", 4_000) {
        let mut consumer = Consumer::new(random_terms(&mut dice));
        let (mut total, mut clock, mut crashes, mut lied) = (Usage::default(), 0_i64, 0_u64, false);
        for _ in 0..200 {
            let now = epoch().saturating_add(SignedDuration::from_secs(clock)).expect("a time");
            match dice.roll(20) {
                0 => {
                    consumer.crash();
                    crashes += 1;
                }
                1..=4 => clock += dice.roll(7_200) as i64,
                5..=12 => consumer.send(),
                _ => {
                    let one = Usage { calls: 1, fuel: dice.roll(1_000), wall_us: 5, egress_bytes: 2 };
                    let next = total.plus(one);
                    let possible = next.calls <= consumer.really && next.within(consumer.terms.most(next.calls, now));
                    let overage = consumer.terms.overage_range(&next, now).0;
                    let honest = receipt(&consumer.terms, one, (next, overage), now);
                    let lying = dice.roll(4) == 0;
                    let stated = if lying { lie(&mut dice, &consumer.terms, &honest, now) } else { honest };
                    if !lying && !possible {
                        continue;
                    }
                    let outcome = consumer.takes(&stated, now);
                    consumer.audit(now, crashes);
                    lies += u64::from(lying);
                    match outcome {
                        Ok(()) => {
                            taken += u64::from(lying);
                            lied |= lying;
                            total = if lying { stated.total } else { next };
                        }
                        Err(_) if lying || lied => {
                            found += 1;
                            break;
                        }
                        // Where overage counts, only the store knows what passed the limit of which window.
                        Err(why) if consumer.terms.at_limit == AtLimit::Deny => panic!("an honest provider is accused: its receipt {why}"),
                        Err(_) => break,
                    }
                }
            }
        }
        crashes_in_all += crashes;
    }
    eprintln!("{lies} lies: {found} found, {taken} within what could be true; {crashes_in_all} crashes");
    assert!(found > 0 && taken > 0 && crashes_in_all > 0, "a schedule that tries too little");
}

/// A consumer that signs what it likes, and an honest provider.
#[test]
fn no_lie_of_a_consumer_makes_a_provider_work_further_ahead_than_it_may() {
    let mut dice = Dice(number("MCP_MODEL_SEED", 1));
    let (provider, consumer, stranger) = (key(1), key(3), key(9));
    let (mut forged, mut ahead_refused) = (0_u64, 0_u64);
    while forged < number("MCP_MODEL_LIES", 4_000) / 4 {
        let terms = random_terms(&mut dice);
        let mut meter = Meter::new(&terms, []);
        meter.bound_exposure(EXPOSURE, 0);
        let (mut honest, mut signed_by_consumer): (Vec<Sealed<Receipt>>, u64) = (Vec::new(), 0);
        for _ in 0..120 {
            let total = meter.total();
            match dice.roll(3) {
                0 | 1 => match meter.reserve(epoch()) {
                    Ok(reservation) => {
                        let used = Usage { calls: 1, fuel: 1, wall_us: 1, egress_bytes: 1 };
                        let counted = meter.settle(reservation, used);
                        let overage = terms.overage_range(&meter.total(), epoch()).0;
                        let next = receipt(&terms, counted, (meter.total(), overage), epoch());
                        honest.push(Signed::sign(next, &[&provider]).into());
                        assert!(meter.total().calls <= signed_by_consumer + EXPOSURE, "further ahead than it may");
                    }
                    Err(Denied::Unacknowledged { .. }) => ahead_refused += 1,
                    Err(Denied::Exhausted { .. }) => break,
                    Err(other) => panic!("{other}"),
                },
                _ => {
                    let Some(at) = honest.len().checked_sub(1) else { continue };
                    let own: Signed<Receipt> = honest[dice.roll(at as u64 + 1) as usize]
                        .clone()
                        .open(protocol::Expect::archived(&terms.header.mesh))
                        .expect("own");
                    let number = own.document().sequence;
                    let (sealed, genuine): (Sealed<Receipt>, bool) = match dice.roll(4) {
                        0 => (own.countersign(&consumer).into(), true),
                        1 => (own.into(), false),
                        2 => (own.countersign(&stranger).into(), false),
                        _ => {
                            let more = Usage { calls: total.calls + 1 + dice.roll(1_000), ..total };
                            let own = receipt(&terms, Usage { calls: 1, ..Usage::default() }, (more, Usage::default()), epoch());
                            (Signed::sign(own, &[&consumer]).into(), false)
                        }
                    };
                    let outcome = acknowledged(sealed, &terms);
                    assert_eq!(outcome.is_ok(), genuine, "{outcome:?}");
                    if genuine {
                        meter.acknowledge(number);
                        signed_by_consumer = signed_by_consumer.max(number);
                    }
                    forged += u64::from(!genuine);
                    assert_eq!(meter.acknowledged(), signed_by_consumer);
                }
            }
        }
    }
    assert!(ahead_refused > 0, "a schedule that tries too little");
}
