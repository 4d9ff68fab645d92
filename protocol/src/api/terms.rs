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
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
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

/// Proposals within a template that need no operator: `PUT` and `DELETE /v1/policy/auto-accept/{template}/{for}`
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AutoAccept {
    /// The template that their terms must stay within.
    pub template: String,
    /// Whose they are.
    #[serde(rename = "for")]
    pub whose: Whose,
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
