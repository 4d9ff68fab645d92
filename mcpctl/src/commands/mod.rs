//! One file for each noun of the command line: what may be said about it, what is asked of the daemon, what is shown.

pub(crate) mod agent;
pub(crate) mod agreement;
pub(crate) mod completions;
pub(crate) mod config;
pub(crate) mod devstack;
pub(crate) mod discover;
pub(crate) mod events;
pub(crate) mod id;
pub(crate) mod join;
pub(crate) mod key;
pub(crate) mod leave;
pub(crate) mod members;
pub(crate) mod mesh;
pub(crate) mod netcheck;
pub(crate) mod peers;
pub(crate) mod plugin;
pub(crate) mod receipt;
pub(crate) mod revoke;
pub(crate) mod status;
pub(crate) mod store;
pub(crate) mod swarm;
pub(crate) mod token;
pub(crate) mod trace;
pub(crate) mod webhook;

use protocol::{Usage, agreement::Pricing};

/// Microseconds as people read them.
fn rtt(microseconds: Option<u64>) -> String {
    match microseconds {
        None => "-".into(),
        Some(us) if us < 1_000 => format!("{us} us"),
        Some(us) => format!("{}.{} ms", us / 1_000, us % 1_000 / 100),
    }
}

/// What a call costs, in one phrase.
fn pricing(pricing: &Pricing) -> String {
    let Pricing { currency, per_call, per_million_fuel, .. } = pricing;
    match (per_call.is_zero(), per_million_fuel.is_zero()) {
        (true, true) => "free".into(),
        (false, true) => format!("{per_call} {currency}/call"),
        (true, false) => format!("{per_million_fuel} {currency}/Mfuel"),
        (false, false) => format!("{per_call} {currency}/call + {per_million_fuel} {currency}/Mfuel"),
    }
}

/// What was used, in one phrase.
fn usage(usage: &Usage) -> String {
    let Usage { calls, fuel, wall_us, egress_bytes } = usage;
    let plural = if *calls == 1 { "" } else { "s" };
    format!("{calls} call{plural}, {fuel} fuel, {}, {egress_bytes} bytes out", rtt(Some(*wall_us)))
}

/// A zone, or that there is none.
fn zone(zone: Option<&protocol::credential::Zone>) -> String {
    zone.map_or_else(|| "-".into(), ToString::to_string)
}

/// Names one after the other, or what their absence means.
fn names<'a>(names: impl Iterator<Item = &'a str>, none: &str) -> String {
    let names: Vec<&str> = names.collect();
    if names.is_empty() { none.into() } else { names.join(",") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_read_well() {
        assert_eq!((rtt(None), rtt(Some(999)), rtt(Some(12_345))), ("-".into(), "999 us".into(), "12.3 ms".into()));
        assert_eq!(pricing(&Pricing::free()), "free");
        let price = Pricing { currency: "EUR".into(), per_call: "0.01".parse().expect("price"), ..Pricing::free() };
        assert_eq!(pricing(&price), "0.01 EUR/call");
        assert_eq!(usage(&Usage { calls: 1, fuel: 5, wall_us: 1500, egress_bytes: 7 }), "1 call, 5 fuel, 1.5 ms, 7 bytes out");
        assert_eq!(names([].into_iter(), "all"), "all");
    }
}
