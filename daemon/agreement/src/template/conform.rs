//! Whether terms stay within a template: what a provider may accept without looking at each.

use jiff::SignedDuration;
use protocol::{
    agreement::{Agreement, AtLimit, Limit},
    template::{Target, Template},
};

/// Holds terms against the template that they name, with each bounded parameter at its most. What has no bound of its own
/// counts as the template says it. The terms alone count: how they came about doesn't matter.
///
/// # Errors
/// Says what passes the template.
pub fn conform(terms: &Agreement, template: &Template) -> Result<(), String> {
    if terms.template != template.name {
        return Err(format!("the terms name template {:?}", terms.template));
    }
    let days = most(template, Target::Days, template.days);
    let (length, longest) = (terms.header.expires_at.duration_since(terms.header.issued_at), SignedDuration::from_hours(24 * days as i64));
    if length > longest {
        return Err(format!("they are valid for more than {days} days"));
    }
    let settable = template.parameters.iter().any(|parameter| parameter.sets == Target::AtLimit);
    if terms.at_limit != AtLimit::Deny && terms.at_limit != template.at_limit && !settable {
        return Err(format!("at a limit they say {}", terms.at_limit.as_str()));
    }
    let (asked, own) = (terms.per_call, template.per_call);
    for (target, asked, own) in [
        (Target::CallFuel, asked.fuel, own.fuel),
        (Target::CallWallMs, asked.wall_ms, own.wall_ms),
        (Target::CallResultBytes, asked.result_bytes, own.result_bytes),
    ] {
        if asked > most(template, target, own) {
            return Err(format!("{target} is {asked}"));
        }
    }
    template.limits.iter().try_for_each(|limit| kept(terms, template, limit))
}

/// Whether the terms have a limit of this kind, and no higher than the template lets it be.
fn kept(terms: &Agreement, template: &Template, limit: &Limit) -> Result<(), String> {
    let Limit { quantity, window, max } = *limit;
    let most = most(template, Target::Limit(quantity, window), max).max(most(template, Target::Limits(quantity), max));
    let found = terms.limits.iter().filter(|found| (found.quantity, found.window) == (quantity, window)).map(|found| found.max).min();
    match found {
        Some(found) if found <= most => Ok(()),
        Some(found) => Err(format!("{} {found}/{window} is over {most}", quantity.as_str())),
        None => Err(format!("they don't limit {}/{window}", quantity.as_str())),
    }
}

/// The most that a target may be set to, where a parameter with a bound sets it; else what the template says.
fn most(template: &Template, target: Target, own: u64) -> u64 {
    let bounds = template.parameters.iter().filter(|parameter| parameter.sets == target);
    bounds.filter_map(|parameter| parameter.max?.checked_mul(parameter.unit)).max().unwrap_or(own)
}
