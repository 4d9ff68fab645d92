//! How much is accepted without the operator: a budget of one principal, and one of all of them together.

use std::fmt;

use protocol::{
    agreement::Agreement,
    api::{Budget, Quota},
};

use crate::policy::Allowance;

/// What speaks against one more agreement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Beyond {
    what: &'static str,
    would_be: u64,
    most: u64,
    in_all: bool,
}

impl fmt::Display for Beyond {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { what, would_be, most, in_all } = self;
        let whose = if *in_all { "of all consumers" } else { "of this consumer" };
        if *would_be == u64::MAX {
            return write!(f, "{what} {whose} would not be limited; at most {most} are accepted without the operator");
        }
        write!(f, "{what} {whose} would be {would_be}; at most {most} are accepted without the operator")
    }
}

/// The most calls that terms allow in a day of UTC, as they count against a budget.
pub fn calls_per_day(terms: &Agreement) -> u64 {
    Allowance::of(terms).day.calls
}

/// Whether one more agreement, which allows `calls` in a day, fits beside what one principal has and what all have.
///
/// # Errors
/// Says which number it would pass.
pub fn check(budget: &Budget, calls: u64, (each, all): (&Quota, &Quota)) -> Result<(), Beyond> {
    within(&budget.each, calls, each, false)?;
    within(&budget.all, calls, all, true)
}

fn within(most: &Quota, calls: u64, have: &Quota, in_all: bool) -> Result<(), Beyond> {
    let numbers = [
        ("open agreements", have.agreements.saturating_add(1), most.agreements),
        ("agreements made today", have.agreements_per_day.saturating_add(1), most.agreements_per_day),
        ("calls a day", have.calls_per_day.saturating_add(calls), most.calls_per_day),
    ];
    match numbers.into_iter().find(|(_, would_be, most)| *most > 0 && would_be > most) {
        Some((what, would_be, most)) => Err(Beyond { what, would_be, most, in_all }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::terms;

    #[test]
    fn each_number_holds_for_one_and_for_all() {
        let quota =
            |agreements, agreements_per_day, calls_per_day| Quota { agreements, agreements_per_day, calls_per_day, unacknowledged: 0 };
        let budget = Budget { each: quota(2, 4, 100), all: quota(10, 0, 1_000) };
        let says = |calls, each, all| check(&budget, calls, (&each, &all)).map_err(|beyond| beyond.to_string());
        assert_eq!(says(50, quota(1, 3, 50), quota(9, 1_000_000, 950)), Ok(()));
        let beyond = |outcome: Result<(), String>, what: &str| outcome.is_err_and(|said| said.contains(what));
        assert!(beyond(says(1, quota(2, 0, 0), quota(0, 0, 0)), "open agreements of this consumer would be 3; at most 2"));
        assert!(beyond(says(1, quota(0, 4, 0), quota(0, 0, 0)), "made today of this consumer would be 5"));
        assert!(beyond(says(51, quota(0, 0, 50), quota(0, 0, 0)), "calls a day of this consumer would be 101"));
        assert!(beyond(says(51, quota(0, 0, 0), quota(0, 0, 950)), "calls a day of all consumers would be 1001"));
        assert!(beyond(says(u64::MAX, quota(0, 0, 1), quota(0, 0, 0)), "would not be limited"));
    }

    #[test]
    fn terms_count_with_the_calls_that_they_allow_in_a_day() {
        assert_eq!(calls_per_day(&terms("trial", &[("calls", "5/total")])), 5);
        assert_eq!(calls_per_day(&terms("standard", &[("calls", "7/1h")])), 7 * 24);
    }
}
