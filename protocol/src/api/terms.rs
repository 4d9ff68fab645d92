//! Terms before anybody signs them: templates, and what a provider accepts beforehand.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::{agreement::Reason, key::Did, template::Template};

/// An item of `GET /v1/templates`, and the answer of `GET` and `PUT /v1/templates/{name}`, which takes a [`Template`]
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct KnownTemplate {
    /// The template.
    pub template: Template,
    /// Whether it comes with the program: such a one is neither replaced nor removed.
    pub shipped: bool,
}

/// Whose proposals are accepted beforehand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Whose {
    /// `members`: those of every member of a private mesh, as its credential names it.
    Members,
    /// Those of one principal.
    Principal(Did),
}

impl fmt::Display for Whose {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Members => f.write_str("members"),
            Self::Principal(did) => did.fmt(f),
        }
    }
}

impl FromStr for Whose {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "members" {
            return Ok(Self::Members);
        }
        let wrong = |_| format!("{:?} is neither 'members' nor a did:key:…", text.chars().take(80).collect::<String>());
        text.parse().map(Self::Principal).map_err(wrong)
    }
}

impl Serialize for Whose {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Whose {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// So much of each; 0 is no bound, where it says how much there may be.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quota {
    /// Agreements open at once.
    pub agreements: u64,
    /// Agreements made in one day of UTC.
    pub agreements_per_day: u64,
    /// Calls in one day of UTC: all that open agreements allow, and what was called under those that ended today.
    pub calls_per_day: u64,
    /// Calls under them beyond the newest receipts that their consumers have signed.
    pub unacknowledged: u64,
}

/// How much is accepted without the operator.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Budget {
    /// From each principal.
    pub each: Quota,
    /// From all of them together.
    pub all: Quota,
}

/// What is to be changed of a [`Quota`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct QuotaChange {
    /// See [`Quota::agreements`].
    pub agreements: Option<u64>,
    /// See [`Quota::agreements_per_day`].
    pub agreements_per_day: Option<u64>,
    /// See [`Quota::calls_per_day`].
    pub calls_per_day: Option<u64>,
    /// See [`Quota::unacknowledged`].
    pub unacknowledged: Option<u64>,
}

impl QuotaChange {
    /// The quota after it.
    pub fn on(&self, before: Quota) -> Quota {
        Quota {
            agreements: self.agreements.unwrap_or(before.agreements),
            agreements_per_day: self.agreements_per_day.unwrap_or(before.agreements_per_day),
            calls_per_day: self.calls_per_day.unwrap_or(before.calls_per_day),
            unacknowledged: self.unacknowledged.unwrap_or(before.unacknowledged),
        }
    }
}

/// What is to be changed of a [`Budget`]: the body of `PUT /v1/policy/auto-accept/{template}/{for}`. What it doesn't name stays; of a
/// new rule it is as the configuration says.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BudgetChange {
    /// Of each principal.
    pub each: QuotaChange,
    /// Of all of them together.
    pub all: QuotaChange,
}

impl BudgetChange {
    /// The budget after it.
    pub fn on(&self, before: Budget) -> Budget {
        Budget { each: self.each.on(before.each), all: self.all.on(before.all) }
    }
}

/// Proposals within a template that need no operator: `PUT` and `DELETE /v1/policy/auto-accept/{template}/{for}`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AutoAccept {
    /// The template that their terms must stay within.
    pub template: String,
    /// Whose they are.
    #[serde(rename = "for")]
    pub whose: Whose,
    /// How much of it; as the configuration says, if not said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub budget: Option<Budget>,
    /// How much it is by now, from all principals together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub used: Option<Quota>,
}

/// `GET /v1/policy`: what this node accepts, as a provider
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PolicyState {
    /// What happens to proposals that nothing speaks against: `auto`, `manual` or `deny`.
    pub accept: String,
    /// The longest validity in days.
    pub max_days: u32,
    /// Whether terms may let calls go on at a limit.
    pub allow_overage: bool,
    /// The least validity that must be left of a proposal, in seconds.
    #[serde(default)]
    pub min_seconds: u32,
    /// How much is accepted without the operator where `accept` is `auto`, and by rules that say nothing else.
    #[serde(default)]
    pub budget: Budget,
    /// How much was accepted because `accept` is `auto`, from all principals together.
    #[serde(default)]
    pub used: Quota,
    /// What is accepted though `accept` is `manual`.
    pub auto_accept: Vec<AutoAccept>,
}

/// `POST /v1/agreements/{id}/close`
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Close {
    /// Why.
    pub reason: Reason,
    /// What there is to say of it, in a line.
    #[serde(default)]
    pub note: Option<String>,
}

/// `POST /v1/agreements/{id}/suspend`, `…/resume` and `…/reject`
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Step {
    /// What there is to say of it, in a line.
    #[serde(default)]
    pub note: Option<String>,
}
