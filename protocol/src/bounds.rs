//! What may be used and charged under an agreement: bounds that follow from its terms alone.
//!
//! ```text
//! one call      the terms' grant for one call
//! n calls       n times that
//! each window   its cap times the windows that have begun
//! ```
//! A provider measures what calls use; nobody else can. These bounds are what a consumer, and an auditor without any node, can
//! hold its receipts against.

use jiff::Timestamp;

use crate::{
    agreement::{Agreement, AtLimit, OVERAGE_PERCENT, Pricing, Window},
    document::MAX_SKEW,
    usage::Usage,
};

impl Agreement {
    /// The caps of one window; quantities without a limit are unlimited. The lowest of several limits counts.
    pub fn caps(&self, window: Window) -> Usage {
        let mut caps = Usage::UNLIMITED;
        for limit in self.limits.iter().filter(|limit| limit.window == window) {
            let cap = limit.quantity.of_mut(&mut caps);
            *cap = limit.max.min(*cap);
        }
        caps
    }

    /// The most that usage may ever be in one window: its caps, and above them the overage that the terms allow.
    pub fn hard_caps(&self, window: Window) -> Usage {
        let caps = self.caps(window);
        match self.at_limit {
            AtLimit::Deny => caps,
            AtLimit::Overage => caps.plus(caps.percent(self.pricing.overage_percent.unwrap_or(OVERAGE_PERCENT))),
        }
    }

    /// The most that one call may use.
    pub fn most_for_one_call(&self) -> Usage {
        let per_call = self.per_call;
        Usage { calls: 1, fuel: per_call.fuel, wall_us: per_call.wall_ms.saturating_mul(1_000), egress_bytes: per_call.result_bytes }
    }

    /// The most that so many calls may have used in all, by `at`.
    pub fn most(&self, calls: u64, at: Timestamp) -> Usage {
        let windows = Window::ALL.into_iter().map(|window| self.hard_caps(window).times(self.begun(window, at)));
        let by_windows = windows.fold(Usage::UNLIMITED, Usage::min);
        self.most_for_one_call().times(calls.min(by_windows.calls)).min(by_windows)
    }

    /// What of `total` can have passed a limit by `at`: at least, and at most.
    pub fn overage_range(&self, total: &Usage, at: Timestamp) -> (Usage, Usage) {
        let (mut least, mut most) = (Usage::default(), Usage::default());
        for window in Window::ALL {
            let (caps, begun) = (self.caps(window), self.begun(window, at));
            least = least.max(total.minus(caps.times(begun)));
            // All of it may have come in one stretch of the window; none goes further beyond the cap than the terms allow.
            most = most.plus(total.minus(caps).min(self.hard_caps(window).minus(caps).times(begun)));
        }
        match self.at_limit {
            AtLimit::Deny => (Usage::default(), Usage::default()),
            AtLimit::Overage => (least, most.min(*total)),
        }
    }

    /// How many stretches of `window` have begun by `at` in which calls may count: from the beginning of the terms to their
    /// end, by a clock that is off by at most [`MAX_SKEW`].
    fn begun(&self, window: Window, at: Timestamp) -> u64 {
        let Some(length) = window.seconds() else { return 1 };
        let stretch = |time: Timestamp| time.as_second().div_euclid(length);
        let begin = self.header.issued_at.saturating_sub(MAX_SKEW).unwrap_or(Timestamp::MIN);
        let end = at.saturating_add(MAX_SKEW).unwrap_or(Timestamp::MAX).min(self.header.expires_at).max(begin);
        u64::try_from(stretch(end) - stretch(begin)).unwrap_or_default() + 1
    }

    /// Whether all that the terms allow has a price that can be expressed.
    ///
    /// # Errors
    /// Says that it hasn't, or that a price is negative.
    pub fn check_price(&self) -> Result<(), String> {
        self.pricing.check()?;
        let most = self.most(u64::MAX, self.header.expires_at);
        let (_, overage) = self.overage_range(&most, self.header.expires_at);
        // Each at its most: what is within a limit can't cost more than all of it.
        let priced = [Usage::default(), overage].iter().all(|overage| self.pricing.price(&most, overage).is_some());
        if priced {
            return Ok(());
        }
        Err(format!(
            "the price of all that the terms allow can't be expressed in {}: limit calls or fuel, or lower the price",
            self.pricing.currency
        ))
    }
}

impl Pricing {
    /// Whether prices are prices.
    ///
    /// # Errors
    /// Names the one that is negative.
    pub fn check(&self) -> Result<(), String> {
        let (overage_per_call, overage_per_million_fuel) = self.overage_rates();
        let prices = [
            ("per_call", self.per_call),
            ("per_million_fuel", self.per_million_fuel),
            ("overage_per_call", overage_per_call),
            ("overage_per_million_fuel", overage_per_million_fuel),
        ];
        let negative = prices.into_iter().find(|(_, price)| price.is_sign_negative() && !price.is_zero());
        negative.map_or(Ok(()), |(name, price)| Err(format!("the price {name} is negative: {price}")))
    }
}

#[cfg(test)]
mod tests;
