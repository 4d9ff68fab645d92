//! Templates: terms that a consumer adapts by parameters, and within which a provider may accept without looking.
//!
//! The parameters of a template are typed and bounded. Each says what it sets, as in `calls/1d` for the limit on calls a day.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::agreement::{AtLimit, Limit, PerCall, Quantity, Window};

/// Terms that parameters can adapt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Template {
    /// Its name, in terms as well.
    pub name: String,
    /// What it is for, in a line.
    pub summary: String,
    /// For how many days it is valid.
    pub days: u64,
    /// The window of a limit that is set without one, and of whose quantity the template has no limit.
    #[serde(default = "total")]
    pub window: Window,
    /// What happens at a limit.
    #[serde(default)]
    pub at_limit: AtLimit,
    /// Its limits.
    pub limits: Vec<Limit>,
    /// The most that one call may use.
    pub per_call: PerCall,
    /// What can be set.
    #[serde(default)]
    pub parameters: Vec<Parameter>,
}

fn total() -> Window {
    Window::Total
}

/// What can be set of a template, and within which bounds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Parameter {
    /// Its name: `requests_per_day`.
    pub name: String,
    /// What it sets.
    pub sets: Target,
    /// How many of the target's units one of the parameter's is: 1,000,000 where seconds set microseconds.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub unit: u64,
    /// The least, in the parameter's unit.
    #[serde(default = "one")]
    pub min: u64,
    /// The most, in the parameter's unit. Without one it is bounded by what numbers can say, and a provider that accepts
    /// the template beforehand accepts at most what the template itself says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max: Option<u64>,
}

fn one() -> u64 {
    1
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_one(unit: &u64) -> bool {
    *unit == 1
}

/// What a parameter sets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// `days`: for how many days the terms are valid.
    Days,
    /// `at_limit`: `deny` or `overage`.
    AtLimit,
    /// `call.fuel`: the most fuel of one call.
    CallFuel,
    /// `call.wall_ms`: the most milliseconds of one call.
    CallWallMs,
    /// `call.result_bytes`: the most bytes of one result.
    CallResultBytes,
    /// `calls/1d`: one limit.
    Limit(Quantity, Window),
    /// `calls`: all limits of a quantity, which replace the template's; written `1000/1d,100/1h`.
    Limits(Quantity),
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Days => f.write_str("days"),
            Self::AtLimit => f.write_str("at_limit"),
            Self::CallFuel => f.write_str("call.fuel"),
            Self::CallWallMs => f.write_str("call.wall_ms"),
            Self::CallResultBytes => f.write_str("call.result_bytes"),
            Self::Limit(quantity, window) => write!(f, "{}/{window}", quantity.as_str()),
            Self::Limits(quantity) => f.write_str(quantity.as_str()),
        }
    }
}

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let unknown = || {
            let text: String = text.chars().take(80).collect();
            format!("{text:?} can't be set: days, at_limit, call.fuel, call.wall_ms, call.result_bytes, or a quantity as in calls/1d")
        };
        Ok(match text {
            "days" => Self::Days,
            "at_limit" => Self::AtLimit,
            "call.fuel" => Self::CallFuel,
            "call.wall_ms" => Self::CallWallMs,
            "call.result_bytes" => Self::CallResultBytes,
            _ => match text.split_once('/') {
                Some((quantity, window)) => Self::Limit(quantity.parse().map_err(|_| unknown())?, window.parse()?),
                None => Self::Limits(text.parse().map_err(|_| unknown())?),
            },
        })
    }
}

impl Serialize for Target {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Target {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

impl Template {
    /// What a parameter has if nobody sets it, as it would be written; empty where the template says nothing of it.
    pub fn value(&self, parameter: &Parameter) -> String {
        let written = |limit: &Limit| (limit.max / parameter.unit.max(1)).to_string();
        match parameter.sets {
            Target::Days => self.days.to_string(),
            Target::AtLimit => self.at_limit.as_str().into(),
            Target::CallFuel => (self.per_call.fuel / parameter.unit.max(1)).to_string(),
            Target::CallWallMs => (self.per_call.wall_ms / parameter.unit.max(1)).to_string(),
            Target::CallResultBytes => (self.per_call.result_bytes / parameter.unit.max(1)).to_string(),
            Target::Limit(quantity, window) => {
                self.limits.iter().find(|limit| (limit.quantity, limit.window) == (quantity, window)).map(written).unwrap_or_default()
            }
            Target::Limits(quantity) => {
                let of = self.limits.iter().filter(|limit| limit.quantity == quantity);
                of.map(|limit| format!("{}/{}", written(limit), limit.window)).collect::<Vec<_>>().join(",")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_read_as_they_are_written() {
        for text in ["days", "at_limit", "call.fuel", "call.wall_ms", "call.result_bytes", "calls/1d", "wall_us/total", "egress_bytes"] {
            assert_eq!(text.parse::<Target>().expect("a target").to_string(), text);
        }
        for text in ["", "calls/", "calls/1w", "cals", "call.", "calls/1d/1h"] {
            text.parse::<Target>().expect_err(text);
        }
    }
}
