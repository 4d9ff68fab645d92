//! What a call, or an agreement so far, has used.

use serde::{Deserialize, Serialize};

/// Metered quantities. All saturate instead of wrapping.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// Calls that ran (also those that failed: they used the rest).
    pub calls: u64,
    /// WebAssembly instructions, as wasmtime counts fuel.
    pub fuel: u64,
    /// Wall time in the sandbox, in microseconds.
    pub wall_us: u64,
    /// Bytes that left the node: of results, and of what the calls sent elsewhere.
    pub egress_bytes: u64,
}

impl Usage {
    /// The sum of two, saturating.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        self.zip(other, u64::saturating_add)
    }

    /// What is left after `other`, not below zero.
    #[must_use]
    pub fn minus(self, other: Self) -> Self {
        self.zip(other, u64::saturating_sub)
    }

    /// The smaller of each quantity.
    #[must_use]
    pub fn min(self, other: Self) -> Self {
        self.zip(other, u64::min)
    }

    /// The larger of each quantity.
    #[must_use]
    pub fn max(self, other: Self) -> Self {
        self.zip(other, u64::max)
    }

    /// So many percent of each quantity, rounded down; saturating.
    #[must_use]
    pub fn percent(self, percent: u32) -> Self {
        let part = |of: u64, percent: u64| u64::try_from(u128::from(of) * u128::from(percent) / 100).unwrap_or(u64::MAX);
        let percent = u64::from(percent);
        self.zip(Self { calls: percent, fuel: percent, wall_us: percent, egress_bytes: percent }, part)
    }

    /// So many times each quantity, saturating.
    #[must_use]
    pub fn times(self, times: u64) -> Self {
        self.zip(Self { calls: times, fuel: times, wall_us: times, egress_bytes: times }, u64::saturating_mul)
    }

    /// Whether every quantity is at most that of `cap`.
    pub fn within(self, cap: Self) -> bool {
        self.min(cap) == self
    }

    /// No limit at all.
    pub const UNLIMITED: Self = Self { calls: u64::MAX, fuel: u64::MAX, wall_us: u64::MAX, egress_bytes: u64::MAX };

    fn zip(self, other: Self, f: impl Fn(u64, u64) -> u64) -> Self {
        Self {
            calls: f(self.calls, other.calls),
            fuel: f(self.fuel, other.fuel),
            wall_us: f(self.wall_us, other.wall_us),
            egress_bytes: f(self.egress_bytes, other.egress_bytes),
        }
    }
}
