//! What a call may use: reserved at its worst before it runs, settled at its actual usage after.
//!
//! ```text
//! caps of a window   |#### settled ####|== reserved ==|........ left ........|
//!
//! reserve   moves the call's worst case, or all that is left of it, from left to reserved
//! settle    moves the actual usage from reserved to settled, and the rest back to left
//! release   moves all of it back: the call never ran
//! ```
//!
//! Settled and reserved together never pass a cap, whatever the order of calls, since what a call used is counted at
//! most at what it was granted. A call counts in the windows in which it was reserved, wherever it ends. Time never
//! runs backwards here: when the clock is set back, the windows of the latest reservation go on.
//!
//! Where the terms say `overage`, caps lie above the limits, by as much as the terms allow: what is used between them is
//! counted as overage by the store, in the commit that charges it.
//!
//! A meter also bounds what the provider may have worked without the consumer's signature ([`Meter::bound_exposure`]):
//! calls charged or under way beyond the newest receipt that both have signed.

use std::collections::BTreeMap;

use protocol::{
    AgentId, AgreementId, Timestamp, Usage,
    agreement::{Agreement, Quantity, Window},
};

use crate::Denied;

/// The bucket of the whole agreement.
const TOTAL: &str = "total";

/// What is settled and reserved in one stretch of a window.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Bucket {
    settled: Usage,
    reserved: Usage,
    /// Reservations that are neither settled nor released.
    open: u64,
}

/// The usage of one agreement. Holds a bucket for each window that its terms limit, and one for each earlier stretch
/// in which calls are still under way: the caller's bound on calls under way bounds it.
#[derive(Debug, Clone)]
pub struct Meter {
    agreement: AgreementId,
    agent: AgentId,
    expires_at: Timestamp,
    per_call: Usage,
    /// The windows that count, with their limits and their caps: the total always, for receipts.
    windows: Vec<(Window, Usage, Usage)>,
    buckets: BTreeMap<String, Bucket>,
    latest: Timestamp,
    next: u64,
    /// The most calls beyond the newest receipt that the consumer has signed; any number, if not bounded.
    max_unacknowledged: Option<u64>,
    /// The number of that receipt.
    acknowledged: u64,
}

/// A stretch of a window in which a call counts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stretch {
    /// Its bucket: `1d:20415`.
    pub bucket: String,
    /// What is used beyond it is overage.
    pub limit: Usage,
    /// No quantity ever passes it.
    pub cap: Usage,
}

/// What one call may use. To be given back to the meter that made it, by [`Meter::settle`] or [`Meter::release`]:
/// dropped, it would hold its share for as long as the meter lives.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "a reservation holds its share until it is settled or released"]
pub struct Reservation {
    /// Its number, counted since the meter was made.
    pub id: u64,
    /// The most that the call may use: at most the terms' worst case, less where less is left.
    pub granted: Usage,
    /// Where it counts, for a store that holds the caps too.
    pub stretches: Vec<Stretch>,
}

impl Reservation {
    /// What counts, and is priced, of what a call used: what passes the grant (a sandbox stops some milliseconds
    /// late) is the provider's.
    pub fn counted(&self, actual: Usage) -> Usage {
        actual.min(self.granted)
    }
}

impl Meter {
    /// The meter of `terms`, which have used what each bucket says (`total`, `1d:20415`; see [`Window::bucket`]).
    pub fn new(terms: &Agreement, used: impl IntoIterator<Item = (String, Usage)>) -> Self {
        let counts = |window: &Window| *window == Window::Total || terms.caps(*window) != Usage::UNLIMITED;
        let limits = |window| (window, terms.caps(window), terms.hard_caps(window));
        let windows: Vec<_> = Window::ALL.into_iter().filter(counts).map(limits).collect();
        let mut buckets: BTreeMap<String, Bucket> = BTreeMap::new();
        for (name, usage) in used {
            let kind = name.split(':').next().unwrap_or_default();
            if windows.iter().any(|(window, _, _)| window.as_str() == kind) {
                let bucket = buckets.entry(name).or_default();
                bucket.settled = bucket.settled.plus(usage);
            }
        }
        Self {
            agreement: terms.id,
            agent: terms.agent,
            expires_at: terms.header.expires_at,
            per_call: terms.most_for_one_call(),
            windows,
            buckets,
            latest: Timestamp::MIN,
            next: 0,
            max_unacknowledged: None,
            acknowledged: 0,
        }
    }

    /// Bounds the calls that may be beyond the newest receipt that both parties have signed, which has this number.
    pub fn bound_exposure(&mut self, max_unacknowledged: u64, acknowledged: u64) {
        self.max_unacknowledged = Some(max_unacknowledged);
        self.acknowledge(acknowledged);
    }

    /// The consumer has signed the receipt of this number. An earlier one changes nothing.
    pub fn acknowledge(&mut self, number: u64) {
        self.acknowledged = self.acknowledged.max(number);
    }

    /// The number of the newest receipt that both parties have signed.
    pub fn acknowledged(&self) -> u64 {
        self.acknowledged
    }

    /// Calls beyond it, charged or under way.
    pub fn unacknowledged(&self) -> u64 {
        self.total().calls.saturating_add(self.under_way()).saturating_sub(self.acknowledged)
    }

    /// Reserves what one call may use.
    ///
    /// # Errors
    /// [`Denied::Exhausted`] names the limit that is used up; of several, the one that lasts longest.
    /// [`Denied::Unacknowledged`] where the consumer has to sign first.
    pub fn reserve(&mut self, now: Timestamp) -> Result<Reservation, Denied> {
        self.latest = self.latest.max(now);
        let mut granted = self.per_call;
        let mut stretches = Vec::with_capacity(self.windows.len());
        for &(window, limit, caps) in &self.windows {
            let name = window.bucket(self.latest);
            let bucket = self.buckets.get(&name).copied().unwrap_or_default();
            if let Some(quantity) = Quantity::ALL.into_iter().find(|quantity| quantity.of(&self.left(&bucket, caps)) == 0) {
                return Err(self.exhausted(quantity, window, caps, &bucket));
            }
            granted = granted.min(self.left(&bucket, caps));
            stretches.push(Stretch { bucket: name, limit, cap: caps });
        }
        let unacknowledged = self.unacknowledged();
        if let Some(max) = self.max_unacknowledged.filter(|max| unacknowledged >= *max) {
            return Err(Denied::Unacknowledged { agreement: self.agreement, unacknowledged, max });
        }
        for stretch in &stretches {
            let bucket = self.buckets.entry(stretch.bucket.clone()).or_default();
            bucket.reserved = bucket.reserved.plus(granted);
            bucket.open += 1;
        }
        self.drop_past();
        self.next += 1;
        Ok(Reservation { id: self.next, granted, stretches })
    }

    /// Counts what a call used, at most what it was granted; returns what was counted.
    pub fn settle(&mut self, reservation: Reservation, actual: Usage) -> Usage {
        let counted = reservation.counted(actual);
        for stretch in &reservation.stretches {
            if let Some(bucket) = self.buckets.get_mut(&stretch.bucket) {
                bucket.reserved = bucket.reserved.minus(reservation.granted);
                bucket.open = bucket.open.saturating_sub(1);
                bucket.settled = bucket.settled.plus(counted);
            }
        }
        counted
    }

    /// Gives back what was reserved for a call that never ran.
    pub fn release(&mut self, reservation: Reservation) {
        self.settle(reservation, Usage::default());
    }

    /// What is settled in a bucket. One whose window has passed is forgotten by the first reservation that finds no
    /// call under way in it.
    pub fn used(&self, bucket: &str) -> Usage {
        self.buckets.get(bucket).copied().unwrap_or_default().settled
    }

    /// What is settled in all.
    pub fn total(&self) -> Usage {
        self.used(TOTAL)
    }

    /// Calls that are neither settled nor released.
    pub fn under_way(&self) -> u64 {
        self.buckets.get(TOTAL).map_or(0, |bucket| bucket.open)
    }

    fn left(&self, bucket: &Bucket, caps: Usage) -> Usage {
        // What is unlimited stays so: subtracting from it would make a limit of it.
        let mut left = caps.minus(bucket.settled.plus(bucket.reserved));
        for quantity in Quantity::ALL.into_iter().filter(|quantity| quantity.of(&caps) == u64::MAX) {
            *quantity.of_mut(&mut left) = u64::MAX;
        }
        left
    }

    fn exhausted(&self, quantity: Quantity, window: Window, caps: Usage, bucket: &Bucket) -> Denied {
        let max = quantity.of(&caps);
        Denied::Exhausted {
            agreement: self.agreement,
            agent: self.agent,
            quantity,
            window,
            max,
            under_way: quantity.of(&bucket.settled) < max,
            resets_at: resets_at(window, self.latest).filter(|at| *at < self.expires_at),
        }
    }

    /// Forgets stretches of time that have passed and in which nothing is under way. Those to come stay: a meter made anew after
    /// the clock was set back has them from its store, and finds them used when their time comes.
    fn drop_past(&mut self) {
        let current: Vec<String> = self.windows.iter().map(|(window, _, _)| window.bucket(self.latest)).collect();
        let past = |name: &str| current.iter().any(|now| matches!((place(name), place(now)), ((a, m), (b, n)) if a == b && m < n));
        self.buckets.retain(|name, bucket| bucket.open > 0 || !past(name));
    }
}

/// The window of a bucket, and which stretch of it.
fn place(bucket: &str) -> (&str, Option<i64>) {
    bucket.split_once(':').map_or((bucket, None), |(window, number)| (window, number.parse().ok()))
}

/// When the next stretch of a window begins.
pub fn resets_at(window: Window, now: Timestamp) -> Option<Timestamp> {
    let length = window.seconds()?;
    Timestamp::from_second((now.as_second().div_euclid(length) + 1) * length).ok()
}

#[cfg(test)]
mod tests;
