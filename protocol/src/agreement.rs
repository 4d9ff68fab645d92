//! Agreements: the terms that a provider and a consumer sign, and the transitions that they sign later.

use std::{fmt, str::FromStr};

use jiff::Timestamp;
use rust_decimal::Decimal;
use serde::{Deserialize, Serialize};

use crate::{
    document::{Document, Error, Expect, Header, Sealed, Signed},
    id::{AgentId, AgreementId},
    key::{Did, NodeId},
    usage::Usage,
};

/// What a limit counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Quantity {
    /// Calls.
    Calls,
    /// Fuel.
    Fuel,
    /// Wall time in the sandbox, in microseconds.
    WallUs,
    /// Bytes of results, and of what calls send elsewhere.
    EgressBytes,
}

impl Quantity {
    /// Every quantity there is.
    pub const ALL: [Self; 4] = [Self::Calls, Self::Fuel, Self::WallUs, Self::EgressBytes];

    /// Its name in limits: `calls`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Calls => "calls",
            Self::Fuel => "fuel",
            Self::WallUs => "wall_us",
            Self::EgressBytes => "egress_bytes",
        }
    }

    /// Its value in `usage`.
    pub fn of(self, usage: &Usage) -> u64 {
        match self {
            Self::Calls => usage.calls,
            Self::Fuel => usage.fuel,
            Self::WallUs => usage.wall_us,
            Self::EgressBytes => usage.egress_bytes,
        }
    }

    /// Its place in `usage`.
    pub fn of_mut(self, usage: &mut Usage) -> &mut u64 {
        match self {
            Self::Calls => &mut usage.calls,
            Self::Fuel => &mut usage.fuel,
            Self::WallUs => &mut usage.wall_us,
            Self::EgressBytes => &mut usage.egress_bytes,
        }
    }
}

impl FromStr for Quantity {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let known = Self::ALL.into_iter().find(|quantity| quantity.as_str() == text);
        known.ok_or_else(|| format!("{text:?} is not a quantity: calls, fuel, wall_us or egress_bytes"))
    }
}

/// Over what time a limit counts. Days and hours are those of UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Window {
    /// The whole life of the agreement.
    #[serde(rename = "total")]
    Total,
    /// Each day of UTC.
    #[serde(rename = "1d")]
    Day,
    /// Each hour of UTC.
    #[serde(rename = "1h")]
    Hour,
}

impl Window {
    /// Every window there is.
    pub const ALL: [Self; 3] = [Self::Total, Self::Day, Self::Hour];

    /// Its name in limits: `1d`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Total => "total",
            Self::Day => "1d",
            Self::Hour => "1h",
        }
    }

    /// How long one stretch of it lasts, in seconds; none for the whole life of the agreement.
    pub fn seconds(self) -> Option<i64> {
        match self {
            Self::Total => None,
            Self::Day => Some(86_400),
            Self::Hour => Some(3_600),
        }
    }

    /// Names the stretch of it in which `now` falls: `total`, `1d:20415` (days since 1970), `1h:489960`.
    pub fn bucket(self, now: Timestamp) -> String {
        let stretch = |length| format!("{}:{}", self.as_str(), now.as_second().div_euclid(length));
        self.seconds().map_or_else(|| self.as_str().into(), stretch)
    }
}

impl fmt::Display for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Window {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let known = Self::ALL.into_iter().find(|window| window.as_str() == text);
        known.ok_or_else(|| format!("{text:?} is not a window: total, 1d or 1h"))
    }
}

/// At most `max` of `quantity` in each `window`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limit {
    /// What is counted.
    pub quantity: Quantity,
    /// Over what time.
    pub window: Window,
    /// The most there may be.
    pub max: u64,
}

/// What happens at a limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AtLimit {
    /// Calls are refused.
    #[default]
    Deny,
    /// Calls go on, at the price of overage, as far as [`Pricing::overage_percent`] lets them.
    Overage,
}

impl AtLimit {
    /// Its name in terms: `deny`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Deny => "deny",
            Self::Overage => "overage",
        }
    }
}
/// How far a limit may be passed where the terms say `overage` and not how far: by as much again.
pub const OVERAGE_PERCENT: u32 = 100;

/// What usage costs. Amounts are decimals with a label; the mesh moves no money.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pricing {
    /// The unit of account: `EUR`, `credit`.
    pub currency: String,
    /// For each call.
    pub per_call: Decimal,
    /// For each million of fuel.
    pub per_million_fuel: Decimal,
    /// For each call that passes a limit; as any other, if not said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub overage_per_call: Option<Decimal>,
    /// For each million of fuel that passes a limit; as any other, if not said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub overage_per_million_fuel: Option<Decimal>,
    /// How far limits may be passed, in percent of each, under terms that say `overage`; [`OVERAGE_PERCENT`] if not said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub overage_percent: Option<u32>,
}

impl Pricing {
    /// Free of charge.
    pub fn free() -> Self {
        Self {
            currency: "credit".into(),
            per_call: Decimal::ZERO,
            per_million_fuel: Decimal::ZERO,
            overage_per_call: None,
            overage_per_million_fuel: None,
            overage_percent: None,
        }
    }

    /// The price of `total`, of which `overage` passed a limit, exact to 9 decimals; `None` if it can't be expressed.
    pub fn price(&self, total: &Usage, overage: &Usage) -> Option<Decimal> {
        let of = |per_call: Decimal, per_million_fuel: Decimal, usage: &Usage| {
            let calls = per_call.checked_mul(usage.calls.into())?;
            let millions = Decimal::from(usage.fuel).checked_div(Decimal::from(1_000_000))?;
            calls.checked_add(per_million_fuel.checked_mul(millions)?)
        };
        let (per_call, per_million_fuel) = self.overage_rates();
        let within = of(self.per_call, self.per_million_fuel, &total.minus(*overage))?;
        Some(within.checked_add(of(per_call, per_million_fuel, overage)?)?.round_dp(9).normalize())
    }

    /// What a call, and a million of fuel, cost that pass a limit.
    pub fn overage_rates(&self) -> (Decimal, Decimal) {
        (self.overage_per_call.unwrap_or(self.per_call), self.overage_per_million_fuel.unwrap_or(self.per_million_fuel))
    }
}

/// The most that one call may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PerCall {
    /// Fuel.
    pub fuel: u64,
    /// Wall time in milliseconds.
    pub wall_ms: u64,
    /// Bytes of the result.
    pub result_bytes: u64,
}

/// The terms. Active once both parties have signed the same bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Agreement {
    /// Type, version, mesh, and the validity of the agreement.
    pub header: Header,
    /// Its id.
    pub id: AgreementId,
    /// The principal that answers for the agent.
    pub provider: Did,
    /// The node through which the provider serves.
    pub provider_node: NodeId,
    /// The principal that calls.
    pub consumer: Did,
    /// The node from which the consumer calls.
    pub consumer_node: NodeId,
    /// The agent that may be called.
    pub agent: AgentId,
    /// Its methods that may be called; empty for all.
    pub methods: Vec<String>,
    /// The template it came from.
    pub template: String,
    /// Hard limits.
    pub limits: Vec<Limit>,
    /// The most that one call may use.
    pub per_call: PerCall,
    /// What usage costs.
    pub pricing: Pricing,
    /// What happens at a limit.
    pub at_limit: AtLimit,
}

impl Agreement {
    /// Whether the terms cover `method`.
    pub fn covers(&self, method: &str) -> bool {
        self.methods.is_empty() || self.methods.iter().any(|covered| covered == method)
    }
}

impl Document for Agreement {
    const TYPE: &'static str = "agreement";
    const VERSION: u32 = 1;

    fn header(&self) -> &Header {
        &self.header
    }
}

/// Where an agreement stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// Signed by the consumer alone.
    Proposed,
    /// Signed by both.
    Active,
    /// Calls are refused until it is resumed.
    Suspended,
    /// Over, for good.
    Closed,
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Proposed => "proposed",
            Self::Active => "active",
            Self::Suspended => "suspended",
            Self::Closed => "closed",
        })
    }
}

/// Why an agreement was closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// All that was agreed was delivered.
    Completed,
    /// Its time is over.
    Expired,
    /// One party ended it.
    Terminated,
    /// One party says that the other broke it.
    Breached,
    /// The provider declined what was proposed.
    Rejected,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Completed => "completed",
            Self::Expired => "expired",
            Self::Terminated => "terminated",
            Self::Breached => "breached",
            Self::Rejected => "rejected",
        })
    }
}

/// The longest note of a transition in bytes.
pub const MAX_NOTE: usize = 500;

/// A party's signed step from one status to the next.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Transition {
    /// Type, version, mesh, validity.
    pub header: Header,
    /// The agreement.
    pub agreement: AgreementId,
    /// 1 for the first transition of an agreement, and so on.
    pub sequence: u64,
    /// The status before.
    pub from: Status,
    /// The status after.
    pub to: Status,
    /// Why, where it is closed.
    pub reason: Option<Reason>,
    /// What whoever decided says of it, in a line of at most [`MAX_NOTE`] bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// Who decided; must be a party and must have signed.
    pub by: Did,
}

impl Document for Transition {
    const TYPE: &'static str = "agreement-transition";
    const VERSION: u32 = 1;

    fn header(&self) -> &Header {
        &self.header
    }
}

/// An agreement with all that happened to it: what `agreement show` prints, and what verifies without any node.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Bundle {
    /// The terms, signed.
    pub agreement: Sealed<Agreement>,
    /// The transitions in order, each signed by a party.
    #[serde(default)]
    pub transitions: Vec<Sealed<Transition>>,
    /// The newest receipt that the provider signed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub receipt: Option<Sealed<crate::receipt::Receipt>>,
    /// The newest receipt that the consumer signed too, where that is an earlier one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub countersigned: Option<Sealed<crate::receipt::Receipt>>,
}

/// An opened agreement that both parties signed.
///
/// # Errors
/// [`Error::NotSignedBy`] names the party whose signature is missing.
pub fn open_active(envelope: Sealed<Agreement>, expect: Expect<'_>) -> Result<Signed<Agreement>, Error> {
    let signed = envelope.open(expect)?;
    signed.require(signed.document().consumer)?;
    signed.require(signed.document().provider)?;
    Ok(signed)
}
