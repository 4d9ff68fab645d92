//! An agreement as sentences: what a person reads before signing, and what a court is shown.

use protocol::{
    Did, Timestamp,
    agreement::{Agreement, AtLimit, Limit, OVERAGE_PERCENT, PerCall, Pricing, Quantity, Status, Transition, Window},
    api::AgreementState,
};

use crate::commands::usage;

/// The terms, what was used, and what happened.
pub(super) fn describe(state: &AgreementState) -> String {
    let AgreementState { terms, status, reason, .. } = state;
    let mut text = format!("Agreement {} is {}.\n\n", terms.id, super::status(&status.to_string(), *reason));
    text += &agreed(terms, *status);
    text += &format!("\nYou are the {}. Used so far: {}.", state.side, usage(&state.used));
    if state.price.is_zero() {
        text += "\n";
    } else {
        text += &format!(" That costs {} {}.\n", state.price, terms.pricing.currency);
    }
    if let Some(waiting) = waiting(state) {
        text += &format!("{waiting}\n");
    }
    if let Some(closing) = &state.closing {
        text += &format!("Its books were closed at {}.\n", super::statement::closed_on(closing, &terms.pricing.currency));
    }
    let steps =
        state.bundle.transitions.iter().filter_map(|sealed| sealed.clone().open(protocol::Expect::archived(&terms.header.mesh)).ok());
    let text = steps.fold(text, |text, signed| text + &step(terms, signed.document()) + "\n");
    keys(state).into_iter().fold(text, |text, sentence| text + &sentence + "\n")
}

/// By which keys the parties sign by now, where these are no longer their first.
fn keys(state: &AgreementState) -> Vec<String> {
    let AgreementState { terms, bundle, .. } = state;
    let expect = protocol::Expect::archived(&terms.header.mesh);
    let mut known = protocol::succession::Known::default();
    // What doesn't verify says nothing; 'agreement verify' tells of it.
    let _ = bundle.agreement.clone().open(expect).map(|signed| known.hear(&signed));
    for sealed in &bundle.transitions {
        let _ = sealed.clone().open(expect).map(|signed| known.hear(&signed));
    }
    for sealed in bundle.receipt.iter().chain(&bundle.countersigned) {
        let _ = sealed.clone().open(expect).map(|signed| known.hear(&signed));
    }
    let sentence = |(name, party): (&str, Did)| {
        let newest = known.of(party)?.steps().last()?;
        Some(format!("The {name} has signed by key {} since {}.", newest.to, moment(newest.at)))
    };
    [("provider", terms.provider), ("consumer", terms.consumer)].into_iter().filter_map(sentence).collect()
}

/// What the other party has still to be told.
pub(super) fn waiting(state: &AgreementState) -> Option<String> {
    if let Some(wanted) = &state.wanted {
        let calls = if wanted.to == Status::Active { "" } else { " This node makes no more calls under it." };
        return Some(format!("You want it {}: the provider can't be reached, and is told when it comes back.{calls}", wanted.to));
    }
    if let Some(why) = &state.left_open {
        return Some(format!("A rule of this node is for such proposals, and leaves this one to you: {why}."));
    }
    state.untold.then(|| "The consumer doesn't know of this yet: it is told as soon as it is there.".into())
}

fn agreed(terms: &Agreement, status: Status) -> String {
    let Agreement { provider, provider_node, consumer, consumer_node, agent, methods, template, pricing, per_call, at_limit, .. } = terms;
    let lets = match status {
        Status::Proposed => "would let",
        Status::Active | Status::Suspended => "lets",
        Status::Closed => "let",
    };
    let methods = match methods.as_slice() {
        [] => "all methods".into(),
        [one] => format!("method {one}"),
        [most @ .., last] => format!("the methods {} and {last}", most.join(", ")),
    };
    let at_limit = match at_limit {
        AtLimit::Deny => "calls are refused",
        AtLimit::Overage => &beyond(pricing),
    };
    format!(
        "The provider {provider}, on node {provider_node},\n{lets} the consumer {consumer}, on node {consumer_node},\n\
         call {methods} of agent {agent},\n\
         from {} to {}, by template {template}.\n\n\
         {}\nOne call may use {}. At a limit, {at_limit}.\n{}\n",
        moment(terms.header.issued_at),
        moment(terms.header.expires_at),
        limited(&terms.limits),
        one_call(per_call),
        costs(pricing),
    )
}

fn limited(limits: &[Limit]) -> String {
    let each = limits.iter().map(|Limit { quantity, window, max }| {
        let window = match window {
            Window::Total => "in all",
            Window::Day => "in each day of UTC",
            Window::Hour => "in each hour of UTC",
        };
        let amount = match quantity {
            Quantity::Calls => format!("{} calls", grouped(*max)),
            Quantity::Fuel => format!("{} fuel", grouped(*max)),
            Quantity::WallUs => format!("{} of running", duration(*max)),
            Quantity::EgressBytes => format!("{} bytes sent out", grouped(*max)),
        };
        format!("{amount} {window}")
    });
    let each: Vec<_> = each.collect();
    if each.is_empty() { "Nothing is limited.".into() } else { format!("There may be at most {}.", each.join("; ")) }
}

/// What one call may use.
pub(super) fn one_call(PerCall { fuel, wall_ms, result_bytes }: &PerCall) -> String {
    let wall = duration(wall_ms.saturating_mul(1_000));
    format!("{} fuel, {wall} of running, {} bytes of result", grouped(*fuel), grouped(*result_bytes))
}

/// What happens beyond a limit.
fn beyond(pricing: &Pricing) -> String {
    let Pricing { currency, overage_percent, .. } = pricing;
    let (per_call, per_million_fuel) = pricing.overage_rates();
    let percent = overage_percent.unwrap_or(OVERAGE_PERCENT);
    format!(
        "calls go on, up to {percent} % of it beyond, where a call costs {per_call} {currency} and a million of fuel \
         {per_million_fuel} {currency}; then they are refused"
    )
}

fn costs(Pricing { currency, per_call, per_million_fuel, .. }: &Pricing) -> String {
    match (per_call.is_zero(), per_million_fuel.is_zero()) {
        (true, true) => "It is free of charge.".into(),
        (false, true) => format!("A call costs {per_call} {currency}."),
        (true, false) => format!("A million of fuel costs {per_million_fuel} {currency}."),
        (false, false) => format!("A call costs {per_call} {currency}, and a million of fuel {per_million_fuel} {currency}."),
    }
}

fn step(terms: &Agreement, step: &Transition) -> String {
    let verb = match (step.to, step.reason) {
        (Status::Suspended, _) => "suspended it".into(),
        (Status::Active, _) => "resumed it".into(),
        (to, None) => format!("made it {to}"),
        (_, Some(reason)) => format!("closed it as {reason}"),
    };
    let note = step.note.as_ref().map(|note| format!(": {note:?}")).unwrap_or_default();
    format!("{}. On {} the {} {verb}{note}.", step.sequence, moment(step.header.issued_at), party(terms, step.by))
}

fn party(terms: &Agreement, who: Did) -> &'static str {
    if who == terms.provider { "provider" } else { "consumer" }
}

/// `2026-11-25 23:00:00 UTC`
fn moment(time: Timestamp) -> String {
    time.strftime("%Y-%m-%d %H:%M:%S UTC").to_string()
}

/// `1,000,000`
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let grouped = digits.bytes().enumerate().flat_map(|(at, digit)| {
        let comma = (at > 0 && (digits.len() - at).is_multiple_of(3)).then_some(',');
        comma.into_iter().chain([char::from(digit)])
    });
    grouped.collect()
}

/// Microseconds in the largest unit that they fill exactly.
fn duration(us: u64) -> String {
    let units = [(3_600_000_000, "h"), (60_000_000, "min"), (1_000_000, "s"), (1_000, "ms")];
    let unit = units.into_iter().find(|(size, _)| us > 0 && us.is_multiple_of(*size));
    unit.map_or_else(|| format!("{} us", grouped(us)), |(size, name)| format!("{} {name}", grouped(us / size)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_as_people_write_them() {
        assert_eq!(
            (grouped(0), grouped(999), grouped(1_000), grouped(12_345_678)),
            ("0".into(), "999".into(), "1,000".into(), "12,345,678".into())
        );
        assert_eq!((duration(3_600_000_000), duration(90_000_000), duration(1_500)), ("1 h".into(), "90 s".into(), "1,500 us".into()));
        let limit = |quantity, window, max| Limit { quantity, window, max };
        let text = limited(&[limit(Quantity::Calls, Window::Day, 1_000), limit(Quantity::WallUs, Window::Total, 60_000_000)]);
        assert_eq!(text, "There may be at most 1,000 calls in each day of UTC; 1 min of running in all.");
    }
}
