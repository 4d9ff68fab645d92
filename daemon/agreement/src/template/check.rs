//! Whether a template that an operator brings can be one.

use std::collections::BTreeSet;

use protocol::{
    agreement::{Limit, PerCall},
    manifest::is_name,
    template::{Parameter, Target, Template},
    wire::MAX_RESULT,
};

use super::{MAX_DAYS, MAX_LIMITS, MAX_NUMBER, bearable, most};
use crate::Error;

/// More than anybody would set.
const MAX_PARAMETERS: usize = 32;
/// One line.
const MAX_SUMMARY: usize = 200;

/// Checks that a template says something that can be agreed on, within the bounds of its own parameters.
///
/// # Errors
/// [`Error::BadTemplate`] says what is wrong with it.
pub fn check(template: &Template) -> Result<(), Error> {
    let name: String = template.name.chars().take(80).collect();
    wrong(template).map_or(Ok(()), |what| Err(Error::BadTemplate { name, what }))
}

fn wrong(template: &Template) -> Option<String> {
    let Template { name, summary, days, window: _, at_limit: _, limits, per_call, parameters } = template;
    if !is_name(name) {
        return Some("a name has 1 to 32 of a-z, 0-9, - and _, and begins with a letter".into());
    }
    if summary.is_empty() || summary.len() > MAX_SUMMARY || summary.chars().any(char::is_control) {
        return Some(format!("a summary is one line of 1 to {MAX_SUMMARY} bytes"));
    }
    if !(1..=MAX_DAYS).contains(days) {
        return Some(format!("days are 1 to {MAX_DAYS}"));
    }
    of_limits(limits).or_else(|| of_call(*per_call)).or_else(|| of_parameters(template, parameters))
}

fn of_limits(limits: &[Limit]) -> Option<String> {
    if limits.is_empty() || limits.len() > MAX_LIMITS {
        return Some(format!("it has 1 to {MAX_LIMITS} limits"));
    }
    let mut seen = BTreeSet::new();
    for Limit { quantity, window, max } in limits {
        if !seen.insert((*quantity, *window)) {
            return Some(format!("{}/{window} is limited twice", quantity.as_str()));
        }
        if !(1..=MAX_NUMBER).contains(max) {
            return Some(format!("the limit {}/{window} is a number from 1 to 2^53-1", quantity.as_str()));
        }
    }
    None
}

fn of_call(PerCall { fuel, wall_ms, result_bytes }: PerCall) -> Option<String> {
    let within = (1..=MAX_NUMBER).contains(&fuel)
        && (1..=bearable(Target::CallWallMs)).contains(&wall_ms)
        && (1..=MAX_RESULT as u64).contains(&result_bytes);
    (!within).then(|| format!("a call has fuel, wall_ms and result_bytes, none of them 0, of the last at most {MAX_RESULT}"))
}

fn of_parameters(template: &Template, parameters: &[Parameter]) -> Option<String> {
    if parameters.len() > MAX_PARAMETERS {
        return Some(format!("it has at most {MAX_PARAMETERS} parameters"));
    }
    let mut seen = BTreeSet::new();
    for parameter in parameters {
        let Parameter { name, sets, unit, min, .. } = parameter;
        if !is_name(name) || !seen.insert(name) {
            return Some(format!("parameter {:?} is no name, or there twice", name.chars().take(80).collect::<String>()));
        }
        if *unit == 0 || *min == 0 || *min > most(parameter) || parameter.max.is_some_and(|max| max > most(parameter)) {
            return Some(format!("parameter {name} takes from {min} to {} {sets} in units of {unit}, which is nothing", most(parameter)));
        }
        // Where it is one number, what the template says must be one that could be set.
        if let Ok(value) = template.value(parameter).parse::<u64>()
            && !(*min..=most(parameter)).contains(&value)
        {
            return Some(format!("parameter {name} takes from {min} to {}, and the template itself says {value}", most(parameter)));
        }
    }
    None
}
