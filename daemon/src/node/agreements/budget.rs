//! What was accepted without the operator, held against the budget of the rule that accepted it.
//!
//! ```text
//! accepted     a record of its own, in the commit that keeps the agreement: by which rule, when, so many calls a day
//! closed       the record says when, and what was called; it goes when that day is over
//! each call    the calls that a consumer hasn't acknowledged are counted over all its agreements of one rule
//! ```
//! All numbers follow from these records and from what agreements have used, so they hold over restarts and closings.

use std::{collections::HashMap, hash::Hash, sync::Arc};

use agreement::{authorize, budget};
use parking_lot::Mutex;
use protocol::{
    AgreementId, Code, Did, Problem, Signed, Timestamp,
    agreement::{Agreement, Status, Window},
    api::{Budget, Quota, Whose},
};
use serde::{Deserialize, Serialize};
use store::{Commit, Kind, RecordWrite};

use super::{Agreements, Contract, Held};
use crate::node::{Caller, journal};

/// Counts of unacknowledged calls that are remembered. More are counted anew.
const MAX_COUNTS: usize = 4_096;

/// By what an agreement was accepted without the operator.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Rule {
    /// `agreements.accept` is `auto`.
    Auto,
    /// The operator accepts what stays within a template.
    Beforehand {
        template: String,
        #[serde(rename = "for")]
        whose: Whose,
    },
}

/// What became of a proposal that may be accepted without the operator.
#[derive(Debug)]
pub(crate) enum Kept {
    /// It is agreed.
    Agreed(Arc<Contract>),
    /// It would pass every budget that it could be accepted by.
    Beyond(String),
}

/// An agreement that was accepted without the operator, as it counts against a budget.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Accepted {
    rule: Rule,
    consumer: Did,
    at: Timestamp,
    /// Calls that it allows in a day.
    calls: u64,
    /// Once its books are closed.
    #[serde(default)]
    ended: Option<Ended>,
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct Ended {
    at: Timestamp,
    /// What was called on that day, at most.
    calls: u64,
}

impl Accepted {
    fn record(&self, id: &AgreementId) -> RecordWrite {
        RecordWrite { kind: Kind::Accepted, id: id.to_string(), value: Some(journal::encode(self)) }
    }

    /// Whether it was made, or ended, on the day of `now`.
    fn is_of(&self, now: Timestamp) -> bool {
        let day = |time| Window::Day.bucket(time);
        day(self.at) == day(now) || self.ended.is_some_and(|ended| day(ended.at) == day(now))
    }
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Budgets {
    accepted: Mutex<HashMap<AgreementId, Accepted>>,
    exposure: Mutex<Exposure>,
}

/// Unacknowledged calls: never less than there are. Only setting aside adds to them, which is counted here; what takes from them
/// isn't, and a count that reaches its bound is made anew.
#[derive(Debug, Default)]
struct Exposure {
    each: HashMap<(Arc<Rule>, Did), u64>,
    all: HashMap<Arc<Rule>, u64>,
}

/// Counts one more, unless that is too many.
fn expose<K: Eq + Hash>(counts: &mut HashMap<K, u64>, key: K, most: u64, count: impl FnOnce() -> u64) -> Result<(), u64> {
    if most == 0 {
        return Ok(());
    }
    if counts.len() >= MAX_COUNTS {
        counts.clear();
    }
    let now = match counts.get(&key) {
        Some(known) if *known < most => *known,
        _ => count(),
    };
    if now >= most {
        return Err(now);
    }
    counts.insert(key, now + 1);
    Ok(())
}

impl Agreements {
    /// Restores what counts against budgets, and deletes what doesn't any more.
    pub(super) async fn restore_budgets(&self) -> Result<(), Problem> {
        let mut past = Vec::new();
        for (id, bytes) in journal::all_records(self.journal.store().as_ref(), Kind::Accepted).await? {
            let accepted: Accepted = journal::decode("note of an acceptance", &bytes)?;
            let parsed: Result<AgreementId, _> = id.parse();
            let open = parsed.as_ref().ok().and_then(|id| self.find_open(id));
            match parsed {
                Ok(id) if open.is_some() || accepted.is_of(self.opened) => {
                    if let Some(contract) = open {
                        contract.standing.lock().rule = Some(Arc::new(accepted.rule.clone()));
                    }
                    self.budgets.accepted.lock().insert(id, accepted);
                }
                _ => past.push(RecordWrite { kind: Kind::Accepted, id, value: None }),
            }
        }
        if !past.is_empty() {
            self.journal.keep(Commit { records: past, ..Commit::default() }).await?;
        }
        Ok(())
    }

    /// Keeps what both have signed, under the first of these rules whose budget has room for it.
    pub(crate) async fn keep_within(&self, caller: &Caller, signed: Signed<Agreement>, rules: &[(Rule, Budget)]) -> Result<Kept, Problem> {
        let _moving = self.moving.lock().await;
        let (terms, now) = (signed.document().clone(), Timestamp::now());
        let rule = match self.within(&terms, rules, now) {
            Ok(rule) => rule,
            Err(beyond) => return Ok(Kept::Beyond(beyond)),
        };
        let calls = budget::calls_per_day(&terms);
        let accepted = Accepted { rule: rule.clone(), consumer: terms.consumer, at: now, calls, ended: None };
        let (past, over) = self.past_acceptances(now);
        let records = std::iter::once(accepted.record(&terms.id)).chain(over).collect();
        let contract = self.keep_with(caller, signed, None, records).await?;
        contract.standing.lock().rule = Some(Arc::new(rule));
        let mut known = self.budgets.accepted.lock();
        past.iter().for_each(|id| drop(known.remove(id)));
        known.insert(terms.id, accepted);
        drop(known);
        Ok(Kept::Agreed(contract))
    }

    /// The first of these rules by which terms can be accepted, or what speaks against each.
    pub(crate) fn within(&self, terms: &Agreement, rules: &[(Rule, Budget)], now: Timestamp) -> Result<Rule, String> {
        let calls = budget::calls_per_day(terms);
        let mut beyond = Vec::new();
        for (rule, budget) in rules {
            let (each, all) = (self.spent(rule, Some(terms.consumer), now), self.spent(rule, None, now));
            match budget::check(budget, calls, (&each, &all)) {
                Ok(()) => return Ok(rule.clone()),
                Err(why) => beyond.push(why.to_string()),
            }
        }
        Err(beyond.join("; "))
    }

    /// What a rule has accepted, from one principal or from all.
    pub(crate) fn spent(&self, rule: &Rule, consumer: Option<Did>, now: Timestamp) -> Quota {
        let mut spent = Quota::default();
        let accepted = self.budgets.accepted.lock();
        for (id, accepted) in
            accepted.iter().filter(|(_, one)| one.rule == *rule && consumer.is_none_or(|consumer| one.consumer == consumer))
        {
            let contract = self.find_open(id);
            let in_force = contract.as_ref().is_some_and(|contract| contract.status(now) != Status::Closed);
            let day = |time| Window::Day.bucket(time);
            spent.agreements += u64::from(in_force);
            spent.agreements_per_day += u64::from(day(accepted.at) == day(now));
            let calls = match (&contract, accepted.ended) {
                (_, Some(ended)) if day(ended.at) == day(now) => ended.calls,
                (Some(_), None) if in_force => accepted.calls,
                (Some(contract), None) => contract.calls_on(now),
                _ => 0,
            };
            spent.calls_per_day = spent.calls_per_day.saturating_add(calls);
            spent.unacknowledged = spent.unacknowledged.saturating_add(contract.map_or(0, |contract| contract.unacknowledged()));
        }
        spent
    }

    /// Sets aside what a call may use, as far as the budget of the rule that accepted its agreement lets its consumer go without
    /// signing receipts.
    pub(crate) fn reserve(
        &self,
        contract: &Arc<Contract>,
        request: &authorize::Request<'_>,
        budget: impl FnOnce(&Rule) -> Budget,
    ) -> Result<Held, Problem> {
        let now = Timestamp::now();
        let rule = contract.standing.lock().rule.clone();
        let Some(rule) = rule else { return contract.reserve(request, now) };
        let budget = budget(&rule);
        if (budget.each.unacknowledged, budget.all.unacknowledged) == (0, 0) {
            return contract.reserve(request, now);
        }
        let consumer = contract.consumer();
        let refused = |of: &'static str, most: u64| {
            move |count: u64| {
                let detail = format!(
                    "{count} calls {of}, under agreements that were accepted without the provider's operator, have no receipt that their \
                     consumer signed; at most {most} may"
                );
                Problem::new(Code::AgreementUnacknowledged, detail)
                    .hint("the calling node signs the newest receipt by itself: call again then")
            }
        };
        // Held until it is set aside: calls that come at once are counted one after another.
        let mut exposure = self.budgets.exposure.lock();
        let (each, all) = (budget.each.unacknowledged, budget.all.unacknowledged);
        let count = |consumer| self.spent(&rule, consumer, now).unacknowledged;
        expose(&mut exposure.each, (Arc::clone(&rule), consumer), each, || count(Some(consumer)))
            .map_err(refused("of this consumer", each))?;
        expose(&mut exposure.all, Arc::clone(&rule), all, || count(None)).map_err(refused("of all consumers", all))?;
        contract.reserve(request, now)
    }

    /// The record of an agreement that was accepted without the operator, now that its books are closed.
    pub(super) fn ended_record(&self, contract: &Contract, now: Timestamp) -> Option<RecordWrite> {
        let mut known = self.budgets.accepted.lock();
        let accepted = known.get_mut(&contract.id)?;
        accepted.ended = Some(Ended { at: now, calls: contract.calls_on(now) });
        Some(accepted.record(&contract.id))
    }

    /// Acceptances that count no more: of agreements that ended on an earlier day, or left with their agents.
    fn past_acceptances(&self, now: Timestamp) -> (Vec<AgreementId>, Vec<RecordWrite>) {
        let known = self.budgets.accepted.lock();
        let over = |id: &AgreementId, accepted: &Accepted| !accepted.is_of(now) && self.find_open(id).is_none();
        let past: Vec<_> = known.iter().filter(|(id, accepted)| over(id, accepted)).map(|(id, _)| *id).collect();
        let records = past.iter().map(|id| RecordWrite { kind: Kind::Accepted, id: id.to_string(), value: None }).collect();
        (past, records)
    }
}

impl Contract {
    /// Calls on the day of `now`, as far as its windows tell days apart; else all there were.
    fn calls_on(&self, now: Timestamp) -> u64 {
        let standing = self.standing.lock();
        let by_day = standing.signed.document().caps(Window::Day) != protocol::Usage::UNLIMITED;
        let used = if by_day { standing.meter.used(&Window::Day.bucket(now)) } else { standing.meter.total() };
        used.calls
    }

    fn unacknowledged(&self) -> u64 {
        self.standing.lock().meter.unacknowledged()
    }

    fn consumer(&self) -> Did {
        self.standing.lock().signed.document().consumer
    }
}
