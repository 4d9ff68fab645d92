//! Terms from a template and its parameters: what `agreement propose --template standard --set calls=500/1d` becomes.
//!
//! ```text
//! standard ── calls=500/1d, days=7 ─> limits, per call, validity ── parties, price ─> Agreement (unsigned)
//! ```

use std::collections::{BTreeMap, BTreeSet};

use jiff::SignedDuration;
use protocol::{
    AgentId, AgreementId, Did, Header, MeshId, NodeId, Timestamp,
    agreement::{Agreement, AtLimit, Limit, PerCall, Pricing, Quantity, Window},
    manifest::is_name,
    template::{Parameter, Target, Template},
    wire::MAX_RESULT,
};

use crate::Error;

mod check;
mod conform;
mod shipped;

pub use check::check;
pub use conform::conform;
pub use shipped::templates;

/// Larger numbers lose digits where JSON is read as JavaScript does (2⁵³ − 1).
const MAX_NUMBER: u64 = (1 << 53) - 1;
/// A century: long enough for any machine, far from the end of time stamps.
const MAX_DAYS: u64 = 36_500;
/// More methods than a plugin can sensibly have; none listed covers all.
pub const MAX_METHODS: usize = 256;
/// One limit of each quantity in each window: more say nothing new.
pub const MAX_LIMITS: usize = Quantity::ALL.len() * Window::ALL.len();

/// Who agrees, where, and about what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parties {
    /// The mesh of both.
    pub mesh: MeshId,
    /// Who answers for the agent.
    pub provider: Did,
    /// Where the agent runs.
    pub provider_node: NodeId,
    /// Who calls.
    pub consumer: Did,
    /// From where.
    pub consumer_node: NodeId,
    /// What is called.
    pub agent: AgentId,
}

/// The terms of `template`, adapted by `parameters`, for the consumer to sign. `methods` are sorted; none covers all.
///
/// # Errors
/// Names the parameter, value or method that is wrong, and the nearest that isn't.
pub fn propose(
    template: &Template,
    parameters: &BTreeMap<String, String>,
    parties: Parties,
    methods: Vec<String>,
    pricing: Pricing,
    id: AgreementId,
    now: Timestamp,
) -> Result<Agreement, Error> {
    let methods = checked(methods)?;
    let mut draft =
        Draft { days: template.days, limits: template.limits.clone(), per_call: template.per_call, at_limit: template.at_limit };
    for (name, value) in parameters {
        draft.set(template, name, value)?;
    }
    let Parties { mesh, provider, provider_node, consumer, consumer_node, agent } = parties;
    let valid = SignedDuration::from_hours(24 * draft.days as i64);
    let terms = Agreement {
        header: Header::new::<Agreement>(&mesh, now, valid),
        id,
        provider,
        provider_node,
        consumer,
        consumer_node,
        agent,
        methods,
        template: template.name.clone(),
        limits: draft.limits,
        per_call: draft.per_call,
        pricing,
        at_limit: draft.at_limit,
    };
    terms.check_price().map_err(Error::Price)?;
    Ok(terms)
}

/// The template of this name among `known`.
///
/// # Errors
/// [`Error::UnknownTemplate`] names the nearest.
pub fn find<'a>(name: &str, known: impl Iterator<Item = &'a Template> + Clone) -> Result<&'a Template, Error> {
    let names = || known.clone().map(|template| template.name.as_str());
    known.clone().find(|template| template.name == name).ok_or_else(|| Error::UnknownTemplate {
        name: name.chars().take(80).collect(),
        nearest: nearest(name, names()),
        valid: names().collect::<Vec<_>>().join(", "),
    })
}

fn checked(methods: Vec<String>) -> Result<Vec<String>, Error> {
    let (max, found) = (MAX_METHODS, methods.len());
    if found > max {
        return Err(Error::TooManyMethods { max, found });
    }
    if let Some(bad) = methods.iter().find(|method| !is_name(method)) {
        return Err(Error::BadMethod(bad.chars().take(80).collect()));
    }
    Ok(methods.into_iter().collect::<BTreeSet<_>>().into_iter().collect())
}

/// The name that a typing mistake most likely meant.
fn nearest<'a>(name: &str, names: impl Iterator<Item = &'a str>) -> Option<String> {
    // Bounded before it is compared: the comparison takes time by the product of both lengths.
    let name: String = name.chars().take(80).collect();
    let scored = names.map(|known| (strsim::jaro_winkler(&name, known), known));
    scored.filter(|(score, _)| *score > 0.7).max_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, known)| known.to_owned())
}

/// What parameters can change.
struct Draft {
    days: u64,
    limits: Vec<Limit>,
    per_call: PerCall,
    at_limit: AtLimit,
}

impl Draft {
    fn set(&mut self, template: &Template, name: &str, value: &str) -> Result<(), Error> {
        let known = || template.parameters.iter().map(|parameter| parameter.name.as_str());
        let parameter = template.parameters.iter().find(|known| known.name == name).ok_or_else(|| Error::UnknownParameter {
            template: template.name.clone(),
            name: name.chars().take(80).collect(),
            nearest: nearest(name, known()),
            valid: known().collect::<Vec<_>>().join(", "),
        })?;
        let bad = || Error::BadParameter { name: name.into(), value: value.chars().take(80).collect(), expected: expected(parameter) };
        let scaled = || scaled(parameter, value).ok_or_else(bad);
        match parameter.sets {
            Target::Days => self.days = scaled()?,
            Target::CallFuel => self.per_call.fuel = scaled()?,
            Target::CallWallMs => self.per_call.wall_ms = scaled()?,
            Target::CallResultBytes => self.per_call.result_bytes = scaled()?,
            Target::AtLimit => {
                let known = [AtLimit::Deny, AtLimit::Overage].into_iter().find(|known| known.as_str() == value);
                self.at_limit = known.ok_or_else(bad)?;
            }
            Target::Limit(quantity, window) => {
                let max = scaled()?;
                self.limits.retain(|limit| (limit.quantity, limit.window) != (quantity, window));
                self.limits.push(Limit { quantity, window, max });
            }
            Target::Limits(quantity) => {
                let limits = limits(template, parameter, quantity, value).ok_or_else(bad)?;
                self.limits.retain(|limit| limit.quantity != quantity);
                self.limits.extend(limits);
            }
        }
        Ok(())
    }
}

/// `1000`, `1000/1d` or `1000/1d,100/1h`, each window at most once.
fn limits(template: &Template, parameter: &Parameter, quantity: Quantity, value: &str) -> Option<Vec<Limit>> {
    let usual = template.limits.iter().find(|limit| limit.quantity == quantity).map_or(template.window, |limit| limit.window);
    let mut limits: Vec<Limit> = Vec::new();
    for text in value.split(',') {
        let (text, window) = match text.split_once('/') {
            Some((text, window)) => (text, window.parse().ok()?),
            None => (text, usual),
        };
        let max = scaled(parameter, text)?;
        if limits.iter().any(|limit| limit.window == window) {
            return None;
        }
        limits.push(Limit { quantity, window, max });
    }
    Some(limits)
}

/// A parameter's value in the unit of what it sets.
fn scaled(parameter: &Parameter, value: &str) -> Option<u64> {
    let value = number(value).filter(|value| (parameter.min..=most(parameter)).contains(value))?;
    value.checked_mul(parameter.unit)
}

/// The most that a parameter takes: what it declares, or what its target can bear.
fn most(parameter: &Parameter) -> u64 {
    let bearable = bearable(parameter.sets) / parameter.unit.max(1);
    parameter.max.map_or(bearable, |max| max.min(bearable))
}

/// The most that can be said of a target, in its own unit.
fn bearable(target: Target) -> u64 {
    match target {
        Target::Days => MAX_DAYS,
        Target::CallResultBytes => MAX_RESULT as u64,
        // Counted in microseconds elsewhere.
        Target::CallWallMs => MAX_NUMBER / 1_000,
        Target::AtLimit | Target::CallFuel | Target::Limit(..) | Target::Limits(_) => MAX_NUMBER,
    }
}

/// What a parameter takes, for whoever got it wrong.
fn expected(parameter: &Parameter) -> String {
    let number = format!("a number from {} to {}", parameter.min, most(parameter));
    match parameter.sets {
        Target::AtLimit => "deny or overage".into(),
        Target::Limits(_) => {
            format!("{number}, with /total, /1d or /1h after it where wanted, several with commas (1000/1d,100/1h)")
        }
        _ => number,
    }
}

/// A number that isn't zero. Digits alone: `parse` would take a sign too.
fn number(text: &str) -> Option<u64> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    digits.then(|| text.parse().ok())?.filter(|number| (1..=MAX_NUMBER).contains(number))
}

#[cfg(test)]
mod tests;
