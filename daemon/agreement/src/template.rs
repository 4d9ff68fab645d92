//! Terms from a template and its parameters: what `agreement propose --template standard calls=500/1d` becomes.
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
    wire::MAX_RESULT,
};
use serde::Serialize;

use crate::Error;

/// Larger numbers lose digits where JSON is read as JavaScript does (2⁵³ − 1).
const MAX_NUMBER: u64 = (1 << 53) - 1;
/// A century: long enough for any machine, far from the end of time stamps.
const MAX_DAYS: u64 = 36_500;
/// More methods than a plugin can sensibly have; none listed covers all.
pub const MAX_METHODS: usize = 256;
/// One limit of each quantity in each window: more say nothing new.
pub const MAX_LIMITS: usize = QUANTITIES.len() * Window::ALL.len();

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

/// Terms that parameters can adapt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Template {
    /// Its name.
    pub name: &'static str,
    /// What it is for.
    pub summary: &'static str,
    /// For how many days it is valid.
    pub days: u64,
    /// The window of a parameter that names none and of which the template has no limit.
    pub window: Window,
    /// Its limits.
    pub limits: &'static [Limit],
    /// The most that one call may use.
    pub per_call: PerCall,
}

const fn limit(quantity: Quantity, window: Window, max: u64) -> Limit {
    Limit { quantity, window, max }
}

/// What an honest plugin stays far below; the same that agents have by default.
const PER_CALL: PerCall = PerCall { fuel: 10_000_000_000, wall_ms: 10_000, result_bytes: MAX_RESULT as u64 };
/// An hour in microseconds.
const HOUR_US: u64 = 3_600_000_000;

const TEMPLATES: [Template; 3] = [
    Template {
        name: "standard",
        summary: "1,000 calls a day for 30 days",
        days: 30,
        window: Window::Day,
        limits: &[
            limit(Quantity::Calls, Window::Day, 1_000),
            limit(Quantity::Fuel, Window::Day, 1_000_000_000_000),
            limit(Quantity::WallUs, Window::Day, HOUR_US),
        ],
        per_call: PER_CALL,
    },
    Template {
        name: "trial",
        summary: "100 calls in all, within a day",
        days: 1,
        window: Window::Total,
        limits: &[limit(Quantity::Calls, Window::Total, 100)],
        per_call: PER_CALL,
    },
    Template {
        name: "bulk",
        summary: "1,000,000 calls a day for 30 days",
        days: 30,
        window: Window::Day,
        limits: &[
            limit(Quantity::Calls, Window::Day, 1_000_000),
            limit(Quantity::Fuel, Window::Day, 1_000_000_000_000_000),
            limit(Quantity::WallUs, Window::Day, 100 * HOUR_US),
        ],
        per_call: PER_CALL,
    },
];

/// Names of parameters: the first four are quantities, in the order of [`QUANTITIES`].
const PARAMETERS: [&str; 9] =
    ["calls", "fuel", "wall_ms", "egress_bytes", "days", "call_fuel", "call_wall_ms", "call_result_bytes", "at_limit"];
/// What the first parameters limit, and how many of the quantity's units one unit of the parameter is.
const QUANTITIES: [(&str, Quantity, u64); 4] = [
    ("calls", Quantity::Calls, 1),
    ("fuel", Quantity::Fuel, 1),
    ("wall_ms", Quantity::WallUs, 1_000),
    ("egress_bytes", Quantity::EgressBytes, 1),
];

const A_LIMIT: &str = "a number from 1 to 2^53-1, with /total, /1d or /1h after it where wanted, several with commas (1000/1d,100/1h)";
const A_NUMBER: &str = "a number from 1 to 2^53-1";

/// Every built-in template.
pub fn templates() -> &'static [Template] {
    &TEMPLATES
}

/// The names of the parameters that every template takes.
pub fn parameters() -> &'static [&'static str] {
    &PARAMETERS
}

/// The terms of `template`, adapted by `parameters`, for the consumer to sign. `methods` are sorted; none covers all.
///
/// # Errors
/// Names the template, parameter, value or method that is wrong, and the nearest that isn't.
pub fn propose(
    template: &str,
    parameters: &BTreeMap<String, String>,
    parties: Parties,
    methods: Vec<String>,
    pricing: Pricing,
    id: AgreementId,
    now: Timestamp,
) -> Result<Agreement, Error> {
    let template = find(template)?;
    let methods = checked(methods)?;
    let mut draft = Draft { days: template.days, limits: template.limits.to_vec(), per_call: template.per_call, at_limit: AtLimit::Deny };
    for (name, value) in parameters {
        draft.set(template, name, value)?;
    }
    let Parties { mesh, provider, provider_node, consumer, consumer_node, agent } = parties;
    let valid = SignedDuration::from_hours(24 * draft.days as i64);
    Ok(Agreement {
        header: Header::new::<Agreement>(&mesh, now, valid),
        id,
        provider,
        provider_node,
        consumer,
        consumer_node,
        agent,
        methods,
        template: template.name.into(),
        limits: draft.limits,
        per_call: draft.per_call,
        pricing,
        at_limit: draft.at_limit,
    })
}

fn find(name: &str) -> Result<&'static Template, Error> {
    let names = || TEMPLATES.iter().map(|template| template.name);
    TEMPLATES.iter().find(|template| template.name == name).ok_or_else(|| Error::UnknownTemplate {
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
fn nearest(name: &str, names: impl Iterator<Item = &'static str>) -> Option<&'static str> {
    // Bounded before it is compared: the comparison takes time by the product of both lengths.
    let name: String = name.chars().take(80).collect();
    let scored = names.map(|known| (strsim::jaro_winkler(&name, known), known));
    scored.filter(|(score, _)| *score > 0.7).max_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, known)| known)
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
        let Some(&name) = PARAMETERS.iter().find(|known| **known == name) else {
            return Err(Error::UnknownParameter {
                name: name.chars().take(80).collect(),
                nearest: nearest(name, PARAMETERS.into_iter()),
                valid: PARAMETERS.join(", "),
            });
        };
        let bad = |expected| Error::BadParameter { name, value: value.chars().take(80).collect(), expected };
        let below = |max, expected| number(value).filter(|number| *number <= max).ok_or_else(|| bad(expected));
        match name {
            "days" => self.days = below(MAX_DAYS, "a number of days from 1 to 36500")?,
            "call_fuel" => self.per_call.fuel = below(MAX_NUMBER, A_NUMBER)?,
            "call_wall_ms" => self.per_call.wall_ms = below(MAX_NUMBER / 1_000, "a number of milliseconds from 1 to 2^53/1000")?,
            "call_result_bytes" => self.per_call.result_bytes = below(MAX_RESULT as u64, "a number of bytes from 1 to 16777216")?,
            "at_limit" => {
                self.at_limit = match value {
                    "deny" => AtLimit::Deny,
                    "overage" => AtLimit::Overage,
                    _ => return Err(bad("deny or overage")),
                }
            }
            _ => {
                let limits = QUANTITIES.iter().find(|known| known.0 == name).and_then(|known| limits(template, *known, value));
                let limits = limits.ok_or_else(|| bad(A_LIMIT))?;
                self.limits.retain(|limit| limits.iter().all(|new| new.quantity != limit.quantity));
                self.limits.extend(limits);
            }
        }
        Ok(())
    }
}

/// `1000`, `1000/1d` or `1000/1d,100/1h`, each window at most once.
fn limits(template: &Template, (_, quantity, unit): (&str, Quantity, u64), value: &str) -> Option<Vec<Limit>> {
    let usual = template.limits.iter().find(|limit| limit.quantity == quantity).map_or(template.window, |limit| limit.window);
    let mut limits: Vec<Limit> = Vec::new();
    for text in value.split(',') {
        let (text, window) = match text.split_once('/') {
            Some((text, window)) => (text, window.parse().ok()?),
            None => (text, usual),
        };
        let max = number(text)?.checked_mul(unit).filter(|max| *max <= MAX_NUMBER)?;
        if limits.iter().any(|limit| limit.window == window) {
            return None;
        }
        limits.push(limit(quantity, window, max));
    }
    Some(limits)
}

/// A number that isn't zero. Digits alone: `parse` would take a sign too.
fn number(text: &str) -> Option<u64> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    digits.then(|| text.parse().ok())?.filter(|number| (1..=MAX_NUMBER).contains(number))
}

#[cfg(test)]
mod tests {
    use protocol::Code;

    use super::*;
    use crate::fixture::{now, parties};

    fn with(template: &str, parameters: &[(&str, &str)]) -> Result<Agreement, Error> {
        let parameters = parameters.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
        propose(template, &parameters, parties(), Vec::new(), Pricing::free(), AgreementId::new(), now())
    }

    fn of(terms: &Agreement, quantity: Quantity) -> Vec<(Window, u64)> {
        terms.limits.iter().filter(|limit| limit.quantity == quantity).map(|limit| (limit.window, limit.max)).collect()
    }

    #[test]
    fn templates_stand_as_documented() {
        let terms = with("standard", &[]).expect("it exists");
        assert_eq!(of(&terms, Quantity::Calls), [(Window::Day, 1_000)]);
        assert_eq!(of(&terms, Quantity::WallUs), [(Window::Day, 3_600_000_000)]);
        assert_eq!(terms.header.expires_at.duration_since(now()), SignedDuration::from_hours(720));
        let trial = with("trial", &[]).expect("it exists");
        assert_eq!((of(&trial, Quantity::Calls), trial.limits.len()), (vec![(Window::Total, 100)], 1));
        assert_eq!(of(&with("bulk", &[]).expect("it exists"), Quantity::Calls), [(Window::Day, 1_000_000)]);
    }

    #[test]
    fn parameters_override_by_name() {
        let given = [("calls", "500/1d,50/1h"), ("fuel", "7"), ("wall_ms", "9/total"), ("egress_bytes", "11"), ("days", "7")];
        let terms = with("standard", &given).expect("all valid");
        assert_eq!(of(&terms, Quantity::Calls), [(Window::Day, 500), (Window::Hour, 50)]);
        assert_eq!(of(&terms, Quantity::Fuel), [(Window::Day, 7)]);
        assert_eq!(of(&terms, Quantity::WallUs), [(Window::Total, 9_000)]);
        assert_eq!(of(&terms, Quantity::EgressBytes), [(Window::Day, 11)]);
        assert_eq!(terms.header.expires_at.duration_since(now()), SignedDuration::from_hours(168));
        let given = [("call_fuel", "5"), ("call_wall_ms", "6"), ("call_result_bytes", "7"), ("at_limit", "overage")];
        let terms = with("trial", &given).expect("all valid");
        assert_eq!((terms.per_call, terms.at_limit), (PerCall { fuel: 5, wall_ms: 6, result_bytes: 7 }, AtLimit::Overage));
        assert_eq!(of(&with("trial", &[("calls", "3")]).expect("valid"), Quantity::Calls), [(Window::Total, 3)]);
    }

    #[test]
    fn mistakes_name_what_was_meant() {
        let error = with("standrad", &[]).expect_err("a typing mistake");
        assert!(error.to_string().contains("did you mean \"standard\"?"), "{error}");
        assert!(error.to_string().contains("standard, trial, bulk"), "{error}");
        let error = with("standard", &[("egres_bytes", "1")]).expect_err("a typing mistake");
        assert!(error.to_string().contains("did you mean \"egress_bytes\"?"), "{error}");
        assert_eq!(error.code(), Code::InvalidRequest);
        assert!(!with("standard", &[("quux", "1")]).expect_err("unknown").to_string().contains("did you mean"));
    }

    #[test]
    fn values_are_bounded() {
        let bad = [
            ("calls", ""),
            ("calls", "0"),
            ("calls", "+5"),
            ("calls", "5/1w"),
            ("calls", "5/1d,6/1d"),
            ("calls", "5,"),
            ("calls", "9007199254740992"),
            ("wall_ms", "9007199254740991"),
            ("days", "36501"),
            ("call_result_bytes", "16777217"),
            ("at_limit", "never"),
            ("fuel", "99999999999999999999999"),
        ];
        for (name, value) in bad {
            assert!(matches!(with("standard", &[(name, value)]), Err(Error::BadParameter { .. })), "{name}={value}");
        }
    }

    #[test]
    fn methods_are_names_listed_once() {
        let propose = |methods: Vec<String>| {
            propose("trial", &BTreeMap::new(), parties(), methods, Pricing::free(), AgreementId::new(), now()).map(|terms| terms.methods)
        };
        assert_eq!(propose(vec!["put".into(), "get".into(), "put".into()]).expect("names"), ["get", "put"]);
        assert!(matches!(propose(vec!["rm -rf".into()]), Err(Error::BadMethod(_))));
        assert!(matches!(propose(vec!["get".into(); 257]), Err(Error::TooManyMethods { found: 257, .. })));
    }
}
