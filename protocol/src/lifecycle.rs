//! Where an agreement stands: the one state machine, and who may move it.
//!
//! ```text
//!  proposed ──both signed──> active <──resume── suspended
//!     │                        │ └───suspend───────^ │
//!     └──────────> closed <────┴─────────────────────┘     closed is for good; past its end, closed by itself
//! ```
//!
//! - Terms become active by the provider's signature under the very same bytes, never by a transition.
//! - Either party may suspend, and only who suspended may resume: else a consumer could undo what protects the provider.
//! - Either party may close, for any reason it states: a reason is its claim, signed by it. `expired` alone is a fact,
//!   and refused before the end. A proposal is withdrawn by closing it, and declined by its provider as `rejected`.
//! - Past the end nothing but closing is accepted, and isn't needed: [`State::effective`] says closed.
//!
//! Transitions are numbered, so that of two that cross one is refused as [`Error::Sequence`]. So that the same one wins
//! on both sides, the provider's node puts them in order: the consumer applies its own when the provider has taken it.

mod error;

use jiff::Timestamp;

pub use self::error::Error;
use crate::{
    agreement::{Agreement, MAX_NOTE, Reason, Status, Transition},
    document::Signed,
    key::Did,
};

/// Where an agreement stands after its last transition. What counts at a given time is [`State::effective`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct State {
    /// Its status.
    pub status: Status,
    /// The number of its last transition; 0 before the first.
    pub sequence: u64,
    /// Why it was closed.
    pub reason: Option<Reason>,
    /// Who made its last transition.
    pub by: Option<Did>,
}

/// Whether the state machine has this step.
///
/// # Errors
/// [`Error::Illegal`] where it hasn't.
pub fn step(from: Status, to: Status) -> Result<(), Error> {
    match (from, to) {
        (Status::Proposed | Status::Suspended, Status::Active)
        | (Status::Active, Status::Suspended)
        | (Status::Proposed | Status::Active | Status::Suspended, Status::Closed) => Ok(()),
        (Status::Active, Status::Active)
        | (Status::Proposed | Status::Suspended, Status::Suspended)
        | (_, Status::Proposed)
        | (Status::Closed, _) => Err(Error::Illegal { from, to }),
    }
}

impl State {
    /// An agreement of this status, before any transition.
    pub fn new(status: Status) -> Self {
        Self { status, sequence: 0, reason: None, by: None }
    }

    /// Where newly signed terms stand: active if both parties signed, proposed if the consumer did.
    ///
    /// # Errors
    /// [`Error::Document`] where the consumer's signature is missing.
    pub fn of(signed: &Signed<Agreement>) -> Result<Self, Error> {
        signed.require(signed.document().consumer)?;
        let status = if signed.require(signed.document().provider).is_ok() { Status::Active } else { Status::Proposed };
        Ok(Self::new(status))
    }

    /// Makes a proposal active, now that both parties have signed it.
    ///
    /// # Errors
    /// [`Error::Document`] names the missing party; [`Error::Illegal`] where it isn't proposed, or its time is over.
    pub fn activate(&mut self, signed: &Signed<Agreement>, now: Timestamp) -> Result<(), Error> {
        let terms = signed.document();
        signed.require(terms.consumer)?;
        signed.require(terms.provider)?;
        let from = self.effective(terms, now);
        if from != Status::Proposed {
            return Err(Error::Illegal { from, to: Status::Active });
        }
        self.status = Status::Active;
        Ok(())
    }

    /// Where the agreement of a bundle stands after its transitions, each judged at the time it was issued.
    ///
    /// # Errors
    /// As [`Self::of`] and [`Self::apply`].
    pub fn replay<'a>(signed: &Signed<Agreement>, transitions: impl IntoIterator<Item = &'a Signed<Transition>>) -> Result<Self, Error> {
        let mut state = Self::of(signed)?;
        for transition in transitions {
            state.apply(signed.document(), transition, transition.document().header.issued_at)?;
        }
        Ok(state)
    }

    /// Moves on by a party's signed transition. Changes nothing where it is refused.
    ///
    /// # Errors
    /// Says whether the transition is of another agreement, out of turn, illegal, or not this party's to make.
    pub fn apply(&mut self, terms: &Agreement, signed: &Signed<Transition>, now: Timestamp) -> Result<(), Error> {
        signed.require(signed.document().by)?;
        *self = self.after(terms, signed.document(), now)?;
        Ok(())
    }

    /// Where a transition would lead, whoever signs it.
    ///
    /// # Errors
    /// As [`Self::apply`], but for the signature.
    pub fn after(&self, terms: &Agreement, transition: &Transition, now: Timestamp) -> Result<Self, Error> {
        let (agreement, by, to) = (terms.id, transition.by, transition.to);
        if transition.agreement != agreement {
            return Err(Error::OtherAgreement { expected: agreement, found: transition.agreement });
        }
        if by != terms.provider && by != terms.consumer {
            return Err(Error::NotAParty { agreement, by });
        }
        let expected = self.sequence.saturating_add(1);
        if transition.sequence != expected {
            return Err(Error::Sequence { agreement, expected, found: transition.sequence });
        }
        if transition.from != self.status {
            return Err(Error::Stale { expected: self.status, found: transition.from });
        }
        self.permit(terms, transition, now)?;
        Ok(Self { status: to, sequence: transition.sequence, reason: transition.reason, by: Some(by) })
    }

    /// Whether this step is legal, for this party, at this time.
    fn permit(&self, terms: &Agreement, transition: &Transition, now: Timestamp) -> Result<(), Error> {
        let (agreement, ends, to, reason) = (terms.id, terms.header.expires_at, transition.to, transition.reason);
        step(self.status, to)?;
        if (to == Status::Closed) != reason.is_some() {
            return Err(Error::Reason { to, reason });
        }
        if reason == Some(Reason::Rejected) && (self.status != Status::Proposed || transition.by != terms.provider) {
            return Err(Error::NotDeclined);
        }
        if transition.note.as_ref().is_some_and(|note| note.is_empty() || note.len() > MAX_NOTE || note.chars().any(char::is_control)) {
            return Err(Error::Note);
        }
        match (self.status, to) {
            (_, Status::Closed) if reason == Some(Reason::Expired) && now < ends => Err(Error::NotExpired { agreement, ends }),
            (_, Status::Closed) => Ok(()),
            (Status::Proposed, _) => Err(Error::NotSigned(agreement)),
            _ if now >= ends => Err(Error::Illegal { from: Status::Closed, to }),
            (Status::Suspended, _) => match self.by.filter(|suspended_by| *suspended_by != transition.by) {
                Some(suspended_by) => Err(Error::NotYours { agreement, suspended_by }),
                None => Ok(()),
            },
            _ => Ok(()),
        }
    }

    /// The status that counts at `now`: past the end of the terms, closed.
    pub fn effective(&self, terms: &Agreement, now: Timestamp) -> Status {
        if now >= terms.header.expires_at { Status::Closed } else { self.status }
    }

    /// Why it is closed at `now`: what its closing transition says; else, past the end of the terms, expired.
    pub fn reason(&self, terms: &Agreement, now: Timestamp) -> Option<Reason> {
        match self.status {
            Status::Closed => self.reason,
            Status::Proposed | Status::Active | Status::Suspended => (now >= terms.header.expires_at).then_some(Reason::Expired),
        }
    }
}

#[cfg(test)]
mod tests;
