//! The templates that come along.
//!
//! `standard`, `trial` and `bulk` let a consumer set anything. The others are named after what an agent does most, and say
//! how far each of their parameters goes, so that a provider can accept them beforehand.

use std::sync::LazyLock;

use protocol::{
    agreement::{AtLimit, Limit, PerCall, Quantity, Window},
    template::{Parameter, Target, Template},
    wire::MAX_RESULT,
};

static TEMPLATES: LazyLock<Vec<Template>> = LazyLock::new(|| {
    vec![standard(), trial(), bulk(), basic_agent(), standard_compute(), compute_intensive(), storage_focused(), network_optimized()]
});

/// Every template that comes along.
pub fn templates() -> &'static [Template] {
    &TEMPLATES
}

/// What an honest plugin stays far below; the same that agents have by default.
const PER_CALL: PerCall = PerCall { fuel: 10 * GIGA, wall_ms: 10_000, result_bytes: MAX_RESULT as u64 };
const MEGA: u64 = 1_000_000;
const GIGA: u64 = 1_000_000_000;
/// A second and an hour in microseconds.
const SECOND_US: u64 = 1_000_000;
const HOUR_US: u64 = 3_600 * SECOND_US;

fn standard() -> Template {
    let limits = [(Quantity::Calls, 1_000), (Quantity::Fuel, 1_000 * GIGA), (Quantity::WallUs, HOUR_US)];
    open("standard", "1,000 calls a day for 30 days", 30, Window::Day, &limits)
}

fn trial() -> Template {
    open("trial", "100 calls in all, within a day", 1, Window::Total, &[(Quantity::Calls, 100)])
}

fn bulk() -> Template {
    let limits = [(Quantity::Calls, MEGA), (Quantity::Fuel, MEGA * GIGA), (Quantity::WallUs, 100 * HOUR_US)];
    open("bulk", "1,000,000 calls a day for 30 days", 30, Window::Day, &limits)
}

fn basic_agent() -> Template {
    let limits = [(Quantity::Calls, 1_000), (Quantity::Fuel, 100 * GIGA), (Quantity::WallUs, 600 * SECOND_US)];
    let per_call = PerCall { fuel: GIGA, wall_ms: 2_000, result_bytes: 1 << 20 };
    let parameters = vec![duration(365), daily("requests_per_day", Quantity::Calls, 1, 10_000)];
    daily_terms("basic_agent", "a person's or a script's calls: small, 1,000 a day", &limits, per_call, parameters)
}

fn standard_compute() -> Template {
    let limits = [(Quantity::Calls, 10_000), (Quantity::Fuel, 10_000 * GIGA), (Quantity::WallUs, HOUR_US)];
    let parameters = vec![
        duration(365),
        daily("requests_per_day", Quantity::Calls, 1, 100_000),
        daily("gigafuel_per_day", Quantity::Fuel, GIGA, 100_000),
        daily("seconds_per_day", Quantity::WallUs, SECOND_US, 36_000),
        plain("at_limit", Target::AtLimit),
    ];
    daily_terms("standard_compute", "a service's calls: 10,000 a day, an hour of running", &limits, PER_CALL, parameters)
}

fn compute_intensive() -> Template {
    let limits = [(Quantity::Calls, 500), (Quantity::Fuel, 100_000 * GIGA), (Quantity::WallUs, 8 * HOUR_US)];
    let per_call = PerCall { fuel: 1_000 * GIGA, wall_ms: 60_000, result_bytes: MAX_RESULT as u64 };
    let parameters = vec![
        duration(365),
        daily("requests_per_day", Quantity::Calls, 1, 10_000),
        daily("gigafuel_per_day", Quantity::Fuel, GIGA, MEGA),
        daily("seconds_per_day", Quantity::WallUs, SECOND_US, 345_600),
        Parameter { unit: 1_000, max: Some(600), ..plain("seconds_per_call", Target::CallWallMs) },
        Parameter { unit: GIGA, max: Some(10_000), ..plain("gigafuel_per_call", Target::CallFuel) },
        plain("at_limit", Target::AtLimit),
    ];
    daily_terms("compute_intensive", "few calls that run long: 500 a day, each up to a minute", &limits, per_call, parameters)
}

fn storage_focused() -> Template {
    let limits = [(Quantity::Calls, 100_000), (Quantity::Fuel, 10_000 * GIGA), (Quantity::EgressBytes, GIGA)];
    let per_call = PerCall { fuel: GIGA, wall_ms: 2_000, result_bytes: 4 << 20 };
    let parameters = vec![
        duration(3_650),
        daily("requests_per_day", Quantity::Calls, 1, MEGA),
        daily("megabytes_per_day", Quantity::EgressBytes, MEGA, 100_000),
    ];
    daily_terms("storage_focused", "many short calls that keep and look up: 100,000 a day", &limits, per_call, parameters)
}

fn network_optimized() -> Template {
    let limits = [(Quantity::Calls, 50_000), (Quantity::Fuel, 10_000 * GIGA), (Quantity::EgressBytes, 10 * GIGA)];
    let parameters = vec![
        duration(365),
        daily("requests_per_day", Quantity::Calls, 1, 500_000),
        daily("gigabytes_per_day", Quantity::EgressBytes, GIGA, 1_000),
        plain("at_limit", Target::AtLimit),
    ];
    daily_terms("network_optimized", "large results and calls of the web: 50,000 a day, 10 GB", &limits, PER_CALL, parameters)
}

/// A template of which everything can be set.
fn open(name: &str, summary: &str, days: u64, window: Window, limits: &[(Quantity, u64)]) -> Template {
    let parameters = vec![
        plain("calls", Target::Limits(Quantity::Calls)),
        plain("fuel", Target::Limits(Quantity::Fuel)),
        Parameter { unit: 1_000, ..plain("wall_ms", Target::Limits(Quantity::WallUs)) },
        plain("egress_bytes", Target::Limits(Quantity::EgressBytes)),
        plain("days", Target::Days),
        plain("call_fuel", Target::CallFuel),
        plain("call_wall_ms", Target::CallWallMs),
        plain("call_result_bytes", Target::CallResultBytes),
        plain("at_limit", Target::AtLimit),
    ];
    let limits = limits.iter().map(|&(quantity, max)| Limit { quantity, window, max }).collect();
    let (name, summary) = (name.into(), summary.into());
    Template { name, summary, days, window, at_limit: AtLimit::Deny, limits, per_call: PER_CALL, parameters }
}

/// A template for 30 days with limits on each day.
fn daily_terms(name: &str, summary: &str, limits: &[(Quantity, u64)], per_call: PerCall, parameters: Vec<Parameter>) -> Template {
    Template { per_call, parameters, ..open(name, summary, 30, Window::Day, limits) }
}

fn plain(name: &str, sets: Target) -> Parameter {
    Parameter { name: name.into(), sets, unit: 1, min: 1, max: None }
}

fn duration(max: u64) -> Parameter {
    Parameter { max: Some(max), ..plain("duration_days", Target::Days) }
}

fn daily(name: &str, quantity: Quantity, unit: u64, max: u64) -> Parameter {
    Parameter { unit, max: Some(max), ..plain(name, Target::Limit(quantity, Window::Day)) }
}
