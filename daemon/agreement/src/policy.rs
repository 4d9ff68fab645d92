//! What a provider accepts: its operator's policy, held against the terms that a consumer proposes.
//!
//! ```text
//! terms ── always refused? ─> Refuse(every reason)
//!            └─ no ── accept = "auto" ─> Accept     "manual" ─> Accept if accepted beforehand, else Ask     "deny" ─> Refuse
//! ```
//!
//! Ceilings apply to what terms allow in a day and in all, however they say it: 100 calls an hour are 2,400 a day, and
//! calls without a limit on fuel use at most what each call may.

use jiff::SignedDuration;
use protocol::{
    Timestamp, Usage,
    agreement::{Agreement, AtLimit, OVERAGE_PERCENT, PerCall, Pricing, Quantity, Window},
    wire::MAX_RESULT,
};
use serde::{Deserialize, Serialize};

use crate::template::{MAX_LIMITS, MAX_METHODS};

/// What happens to terms that nothing speaks against.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Acceptance {
    /// They are signed at once.
    Auto,
    /// The operator decides.
    #[default]
    Manual,
    /// They are refused: this node provides to nobody.
    Deny,
}

impl Acceptance {
    /// Its name in the configuration: `manual`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Manual => "manual",
            Self::Deny => "deny",
        }
    }
}

/// The most that terms may allow of each quantity; none where it is the provider's to bear.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Ceiling {
    /// Calls.
    pub calls: Option<u64>,
    /// Fuel.
    pub fuel: Option<u64>,
    /// Wall time in milliseconds.
    pub wall_ms: Option<u64>,
    /// Bytes of results.
    pub egress_bytes: Option<u64>,
}

impl Ceiling {
    fn caps(self) -> Usage {
        Usage {
            calls: self.calls.unwrap_or(u64::MAX),
            fuel: self.fuel.unwrap_or(u64::MAX),
            wall_us: self.wall_ms.map_or(u64::MAX, |ms| ms.saturating_mul(1_000)),
            egress_bytes: self.egress_bytes.unwrap_or(u64::MAX),
        }
    }
}

/// Ceilings over time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Ceilings {
    /// In any day of UTC.
    pub day: Ceiling,
    /// Over the whole agreement.
    pub total: Ceiling,
}

/// What a provider accepts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Policy {
    /// What happens to terms that nothing below speaks against.
    pub accept: Acceptance,
    /// The least validity that is left when a proposal comes, in seconds: what lapses at once isn't worth a place.
    pub min_seconds: u32,
    /// The longest validity.
    pub max_days: u32,
    /// The most that terms may allow.
    pub max_limits: Ceilings,
    /// The most that one call may use.
    pub per_call: PerCall,
    /// Whether calls may go on, counted and priced, when a limit is reached.
    pub allow_overage: bool,
}

impl Default for Policy {
    /// The operator decides, on terms of at least a minute and at most a year, without overage, with calls of the usual size.
    fn default() -> Self {
        Self {
            accept: Acceptance::Manual,
            min_seconds: 60,
            max_days: 366,
            max_limits: Ceilings::default(),
            per_call: PerCall { fuel: 10_000_000_000, wall_ms: 10_000, result_bytes: MAX_RESULT as u64 },
            allow_overage: false,
        }
    }
}

/// What becomes of a proposal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// Sign it.
    Accept,
    /// Keep it for the operator.
    Ask,
    /// Refuse it; says every reason, for the consumer to read.
    Refuse(String),
}

impl Policy {
    /// Decides on `terms` for what is `offered`; `beforehand` says that the operator has accepted terms like these.
    pub fn decide(&self, terms: &Agreement, offered: &Pricing, beforehand: bool, now: Timestamp) -> Decision {
        let mut against = Vec::new();
        self.form(terms, &mut against);
        self.validity(terms, now, &mut against);
        price(&terms.pricing, offered, &mut against);
        self.limits(terms, &mut against);
        match self.accept {
            Acceptance::Deny => Decision::Refuse("this provider accepts no agreements".into()),
            Acceptance::Auto | Acceptance::Manual if !against.is_empty() => Decision::Refuse(against.join("; ")),
            Acceptance::Auto => Decision::Accept,
            Acceptance::Manual if beforehand => Decision::Accept,
            Acceptance::Manual => Decision::Ask,
        }
    }

    fn form(&self, terms: &Agreement, against: &mut Vec<String>) {
        if terms.methods.len() > MAX_METHODS {
            against.push(format!("the terms list {} methods; at most {MAX_METHODS}", terms.methods.len()));
        }
        if terms.limits.len() > MAX_LIMITS {
            against.push(format!("the terms have {} limits; at most {MAX_LIMITS}", terms.limits.len()));
        }
        if terms.at_limit == AtLimit::Overage && !self.allow_overage {
            against.push("overage is not offered; at a limit, calls are denied".into());
        }
    }

    fn validity(&self, terms: &Agreement, now: Timestamp, against: &mut Vec<String>) {
        let header = &terms.header;
        let (length, max) = (header.expires_at.duration_since(header.issued_at), SignedDuration::from_hours(24 * i64::from(self.max_days)));
        if length > max {
            against.push(format!("the terms are valid for {} days; at most {}", days_begun(length), self.max_days));
        }
        if header.expires_at <= now || length <= SignedDuration::ZERO {
            against.push(format!("the terms ended at {}", header.expires_at));
        } else if header.expires_at.duration_since(now) < SignedDuration::from_secs(i64::from(self.min_seconds)) {
            against
                .push(format!("the terms end at {}; they must be valid for {} s or more from now on", header.expires_at, self.min_seconds));
        }
    }

    fn limits(&self, terms: &Agreement, against: &mut Vec<String>) {
        let bounded = |limit: &&protocol::agreement::Limit| limit.max < u64::MAX;
        let counts = |quantity| matches!(quantity, Quantity::Calls | Quantity::Fuel);
        if !terms.limits.iter().filter(bounded).any(|limit| counts(limit.quantity)) {
            against.push("the terms limit neither calls nor fuel".into());
        }
        let (asked, most) = (terms.per_call, self.per_call);
        let per_call = [
            ("fuel", asked.fuel, most.fuel),
            ("wall_ms", asked.wall_ms, most.wall_ms),
            ("result_bytes", asked.result_bytes, most.result_bytes),
        ];
        for (name, asked, most) in per_call.into_iter().filter(|(_, asked, most)| asked > most) {
            against.push(format!("{name} {asked} for one call; at most {most}"));
        }
        let allowance = Allowance::of(terms);
        exceeded(allowance.day, self.max_limits.day.caps(), "a day", against);
        exceeded(allowance.total, self.max_limits.total.caps(), "in all", against);
    }
}

fn price(asked: &Pricing, offered: &Pricing, against: &mut Vec<String>) {
    if asked.currency != offered.currency {
        let found: String = asked.currency.chars().take(16).collect();
        against.push(format!("the price is in {found:?}, not in {:?}", offered.currency));
        return;
    }
    if asked.per_call < offered.per_call {
        against.push(format!("{} {} for a call is below the price of {}", asked.per_call, asked.currency, offered.per_call));
    }
    if asked.per_million_fuel < offered.per_million_fuel {
        let (asked, price) = (asked.per_million_fuel, offered.per_million_fuel);
        against.push(format!("{asked} {} for a million fuel is below the price of {price}", offered.currency));
    }
    overage(asked, offered, against);
}

/// What passes a limit costs what is offered too, and limits are passed no further than offered.
fn overage(asked: &Pricing, offered: &Pricing, against: &mut Vec<String>) {
    let ((call, fuel), (call_offered, fuel_offered)) = (asked.overage_rates(), offered.overage_rates());
    for (what, asked, price) in [("a call", call, call_offered), ("a million fuel", fuel, fuel_offered)] {
        if asked < price {
            against.push(format!("{asked} {} for {what} beyond a limit is below the price of {price}", offered.currency));
        }
    }
    let percent = |pricing: &Pricing| pricing.overage_percent.unwrap_or(OVERAGE_PERCENT);
    if percent(asked) > percent(offered) {
        against.push(format!("limits may be passed by {} %; at most {} %", percent(asked), percent(offered)));
    }
}

fn exceeded(allowed: Usage, most: Usage, time: &str, against: &mut Vec<String>) {
    for quantity in [Quantity::Calls, Quantity::Fuel, Quantity::WallUs, Quantity::EgressBytes] {
        let (allowed, most) = (quantity.of(&allowed), quantity.of(&most));
        if allowed > most {
            let allowed = if allowed == u64::MAX { "unlimited".into() } else { allowed.to_string() };
            against.push(format!("{} {allowed} {time}; at most {most}", quantity.as_str()));
        }
    }
}

/// The most that terms let through, whichever way they limit it.
pub(crate) struct Allowance {
    pub(crate) day: Usage,
    total: Usage,
}

impl Allowance {
    pub(crate) fn of(terms: &Agreement) -> Self {
        let caps = |window| terms.hard_caps(window);
        let days = days_touched(terms.header.issued_at, terms.header.expires_at);
        let day = times(caps(Window::Hour), 24).min(caps(Window::Day)).min(caps(Window::Total));
        let day = implied(day, terms.per_call);
        Self { day, total: implied(times(day, days).min(caps(Window::Total)), terms.per_call) }
    }
}

/// So many calls use at most so much.
fn implied(allowed: Usage, per_call: PerCall) -> Usage {
    let one = Usage { calls: 1, fuel: per_call.fuel, wall_us: per_call.wall_ms.saturating_mul(1_000), egress_bytes: per_call.result_bytes };
    if allowed.calls == u64::MAX { allowed } else { allowed.min(times(one, allowed.calls)) }
}

fn times(usage: Usage, factor: u64) -> Usage {
    Usage {
        calls: usage.calls.saturating_mul(factor),
        fuel: usage.fuel.saturating_mul(factor),
        wall_us: usage.wall_us.saturating_mul(factor),
        egress_bytes: usage.egress_bytes.saturating_mul(factor),
    }
}

/// Days of UTC that a validity touches: thirty days from noon on touch thirty-one.
fn days_touched(from: Timestamp, to: Timestamp) -> u64 {
    const DAY_NS: i128 = 86_400 * 1_000_000_000;
    let days = (to.as_nanosecond() - 1).div_euclid(DAY_NS) - from.as_nanosecond().div_euclid(DAY_NS) + 1;
    u64::try_from(days).unwrap_or(0)
}

fn days_begun(length: SignedDuration) -> i64 {
    (length.as_secs() + 86_399) / 86_400
}

#[cfg(test)]
mod tests {
    use rust_decimal::Decimal;

    use super::*;
    use crate::fixture::{after, now, terms};

    const DAY: i64 = 86_400;

    fn auto() -> Policy {
        Policy { accept: Acceptance::Auto, ..Policy::default() }
    }

    fn refused(policy: &Policy, terms: &Agreement) -> String {
        match policy.decide(terms, &Pricing::free(), false, now()) {
            Decision::Refuse(reason) => reason,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn acceptance_decides_where_nothing_speaks_against() {
        let decide = |accept| Policy { accept, ..Policy::default() }.decide(&terms("standard", &[]), &Pricing::free(), false, now());
        assert_eq!(decide(Acceptance::Auto), Decision::Accept);
        assert_eq!(decide(Acceptance::Manual), Decision::Ask);
        assert!(matches!(decide(Acceptance::Deny), Decision::Refuse(_)));
        assert_eq!(Policy::default().accept, Acceptance::Manual);
        let beforehand = |accept, terms| Policy { accept, ..Policy::default() }.decide(&terms, &Pricing::free(), true, now());
        assert_eq!(beforehand(Acceptance::Manual, terms("standard", &[])), Decision::Accept);
        assert!(matches!(beforehand(Acceptance::Deny, terms("standard", &[])), Decision::Refuse(_)));
        assert!(matches!(beforehand(Acceptance::Manual, terms("standard", &[("days", "400")])), Decision::Refuse(_)));
    }

    #[test]
    fn prices_below_the_offer_and_other_currencies_are_refused() {
        let offered =
            Pricing { currency: "EUR".into(), per_call: Decimal::new(2, 2), per_million_fuel: Decimal::new(1, 3), ..Pricing::free() };
        let decide = |pricing: Pricing| auto().decide(&Agreement { pricing, ..terms("trial", &[]) }, &offered, false, now());
        let says = |pricing, what: &str| matches!(decide(pricing), Decision::Refuse(reason) if reason.contains(what));
        assert_eq!(decide(offered.clone()), Decision::Accept);
        assert_eq!(decide(Pricing { per_call: Decimal::ONE, ..offered.clone() }), Decision::Accept);
        assert!(says(Pricing { per_call: Decimal::new(1, 2), ..offered.clone() }, "for a call is below"));
        assert!(says(Pricing { per_million_fuel: Decimal::ZERO, ..offered.clone() }, "for a million fuel is below"));
        assert!(says(Pricing { currency: "USD".into(), ..offered.clone() }, "\"USD\""));
        let dear = Pricing { overage_per_call: Some(Decimal::ONE), overage_percent: Some(20), ..offered.clone() };
        let decide = |pricing: Pricing| auto().decide(&Agreement { pricing, ..terms("trial", &[]) }, &dear, false, now());
        let says = |pricing, what: &str| matches!(decide(pricing), Decision::Refuse(reason) if reason.contains(what));
        assert_eq!(decide(dear.clone()), Decision::Accept);
        assert!(says(Pricing { overage_per_call: None, ..dear.clone() }, "for a call beyond a limit is below"));
        assert!(says(Pricing { overage_percent: None, ..dear.clone() }, "passed by 100 %; at most 20 %"));
    }

    #[test]
    fn validity_is_bounded() {
        let policy = Policy { max_days: 30, ..auto() };
        assert_eq!(policy.decide(&terms("standard", &[]), &Pricing::free(), false, now()), Decision::Accept);
        assert!(refused(&policy, &terms("standard", &[("days", "31")])).contains("valid for 31 days; at most 30"));
        let mut reversed = terms("trial", &[]);
        reversed.header.issued_at = after(2 * DAY);
        assert!(refused(&policy, &reversed).contains("ended"));
        assert!(matches!(policy.decide(&terms("trial", &[]), &Pricing::free(), false, after(DAY)), Decision::Refuse(_)));
        let late = |seconds| policy.decide(&terms("trial", &[]), &Pricing::free(), false, after(DAY - seconds));
        assert_eq!(late(60), Decision::Accept);
        assert!(matches!(late(59), Decision::Refuse(why) if why.contains("valid for 60 s or more")), "what lapses at once");
    }

    #[test]
    fn something_must_be_limited() {
        let mut terms = terms("standard", &[]);
        terms.limits.retain(|limit| limit.quantity == Quantity::WallUs);
        assert!(refused(&auto(), &terms).contains("neither calls nor fuel"));
        terms.limits.push(protocol::agreement::Limit { quantity: Quantity::Calls, window: Window::Day, max: u64::MAX });
        assert!(refused(&auto(), &terms).contains("neither calls nor fuel"));
        terms.limits = vec![terms.limits[0]; 13];
        assert!(refused(&auto(), &terms).contains("13 limits"));
    }

    #[test]
    fn ceilings_hold_however_terms_are_put() {
        let day = Ceiling { calls: Some(1_000), ..Ceiling::default() };
        let policy = Policy { max_limits: Ceilings { day, ..Ceilings::default() }, ..auto() };
        assert_eq!(policy.decide(&terms("standard", &[]), &Pricing::free(), false, now()), Decision::Accept);
        assert!(refused(&policy, &terms("standard", &[("calls", "1001")])).contains("calls 1001 a day; at most 1000"));
        assert!(refused(&policy, &terms("standard", &[("calls", "42/1h")])).contains("calls 1008 a day"));
        assert_eq!(policy.decide(&terms("standard", &[("calls", "1000/total")]), &Pricing::free(), false, now()), Decision::Accept);
        assert!(refused(&policy, &terms("trial", &[("calls", "1001")])).contains("calls 1001 a day"));

        let total = Ceiling { fuel: Some(31 * 1_000_000_000_000), ..Ceiling::default() };
        let policy = Policy { max_limits: Ceilings { total, ..Ceilings::default() }, ..auto() };
        assert_eq!(policy.decide(&terms("standard", &[]), &Pricing::free(), false, now()), Decision::Accept);
        assert!(refused(&policy, &terms("standard", &[("days", "31")])).contains("fuel 32000000000000 in all"));
        // No limit on fuel, but calls are limited, and so is the fuel of each.
        assert_eq!(policy.decide(&terms("trial", &[]), &Pricing::free(), false, now()), Decision::Accept);
        assert!(refused(&policy, &terms("trial", &[("calls", "3101")])).contains("fuel 31010000000000 "));
    }

    #[test]
    fn single_calls_and_overage_are_bounded_too() {
        let large = [("call_fuel", "10000000001"), ("call_wall_ms", "10001"), ("at_limit", "overage")];
        let reason = refused(&auto(), &terms("standard", &large));
        for what in ["fuel 10000000001 for one call", "wall_ms 10001", "overage"] {
            assert!(reason.contains(what), "{reason}");
        }
        let generous = Policy { allow_overage: true, ..auto() };
        assert_eq!(generous.decide(&terms("standard", &[("at_limit", "overage")]), &Pricing::free(), false, now()), Decision::Accept);
    }
}
