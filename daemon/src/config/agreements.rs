//! What this node agrees to, as a provider.

use agreement::policy::{Acceptance, Policy};
use protocol::{
    agreement::Pricing,
    api::{Budget, Quota},
};

use super::{Error, Layers};

impl Layers {
    pub(super) fn pricing(&self) -> Result<Pricing, Error> {
        Ok(Pricing {
            currency: self.get("agreements.currency")?,
            per_call: self.get("agreements.price_per_call")?,
            per_million_fuel: self.get("agreements.price_per_million_fuel")?,
            overage_per_call: self.maybe("agreements.overage_price_per_call")?,
            overage_per_million_fuel: self.maybe("agreements.overage_price_per_million_fuel")?,
            overage_percent: Some(self.number("agreements.overage_percent") as u32).filter(|percent| *percent > 0),
        })
    }

    pub(super) fn policy(&self, pricing: &Pricing) -> Policy {
        let accept = match self.str("agreements.accept") {
            "auto" => Acceptance::Auto,
            "deny" => Acceptance::Deny,
            _ => Acceptance::Manual,
        };
        Policy {
            accept,
            min_seconds: u32::try_from(self.number("agreements.min_validity_s")).unwrap_or(u32::MAX),
            max_days: u32::try_from(self.number("agreements.max_days")).unwrap_or(u32::MAX),
            allow_overage: pricing.overage_percent.is_some(),
            ..Policy::default()
        }
    }

    /// How much is accepted without the operator where a rule says nothing else.
    pub(super) fn budget(&self) -> Budget {
        let quota = |of: &str| {
            let number = |name: &str| self.number(&format!("agreements.budget.{of}{name}"));
            Quota {
                agreements: number("agreements"),
                agreements_per_day: number("agreements_per_day"),
                calls_per_day: number("calls_per_day"),
                unacknowledged: number("unacknowledged"),
            }
        };
        Budget { each: quota(""), all: quota("all_") }
    }
}
