//! Why a change of an agreement is refused.

use crate::{
    Timestamp,
    agreement::{MAX_NOTE, Reason, Status},
    document,
    error::{Code, Problem},
    id::AgreementId,
    key::Did,
};

/// What a party asked for and may not have.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The state machine has no such step.
    #[error("an agreement can't go from {from} to {to}")]
    Illegal {
        /// Where it stands.
        from: Status,
        /// Where it should go.
        to: Status,
    },
    /// A transition of another agreement.
    #[error("the transition is of {found}, not of {expected}")]
    OtherAgreement {
        /// The agreement at hand.
        expected: AgreementId,
        /// The agreement in the transition.
        found: AgreementId,
    },
    /// A transition that was overtaken by another, or whose predecessor is missing.
    #[error("transition {found} of {agreement} does not follow: {expected} is next")]
    Sequence {
        /// The agreement.
        agreement: AgreementId,
        /// The number that is next.
        expected: u64,
        /// The number found.
        found: u64,
    },
    /// A transition from a status in which the agreement isn't.
    #[error("the transition starts from {found}, but the agreement is {expected}")]
    Stale {
        /// Where it stands.
        expected: Status,
        /// Where the transition says it stands.
        found: Status,
    },
    /// A transition decided by somebody else.
    #[error("{by} is no party of {agreement}")]
    NotAParty {
        /// The agreement.
        agreement: AgreementId,
        /// Who decided.
        by: Did,
    },
    /// Only who suspended an agreement resumes it.
    #[error("{agreement} was suspended by {suspended_by}, who alone can resume it")]
    NotYours {
        /// The agreement.
        agreement: AgreementId,
        /// Who can.
        suspended_by: Did,
    },
    /// Terms become active by the second signature under them, not by a transition.
    #[error("{0} becomes active when both parties have signed its terms, not by a transition")]
    NotSigned(AgreementId),
    /// A closing transition without a reason, or another one with it.
    #[error("a transition to {to} can't have {}", reason.map_or("no reason".into(), |reason| format!("reason {reason}")))]
    Reason {
        /// Where it goes.
        to: Status,
        /// The reason given.
        reason: Option<Reason>,
    },
    /// Closed as expired before its end.
    #[error("{agreement} ends at {ends}; until then it can be closed as terminated, not as expired")]
    NotExpired {
        /// The agreement.
        agreement: AgreementId,
        /// Its end.
        ends: Timestamp,
    },
    /// Rejected by somebody but the provider, or when it wasn't a proposal any more.
    #[error("only a proposal is rejected, and only by its provider; others are closed as terminated")]
    NotDeclined,
    /// A note that isn't one line, or a long one.
    #[error("a note is one line of 1 to {MAX_NOTE} bytes")]
    Note,
    /// A party that must sign did not.
    #[error(transparent)]
    Document(#[from] document::Error),
}

impl Error {
    /// The stable code.
    pub fn code(&self) -> Code {
        match self {
            Self::OtherAgreement { .. } | Self::Reason { .. } | Self::Note => Code::InvalidRequest,
            Self::Illegal { .. } | Self::NotExpired { .. } | Self::NotDeclined => Code::IllegalTransition,
            Self::Sequence { .. } | Self::Stale { .. } => Code::Conflict,
            Self::NotAParty { .. } | Self::NotYours { .. } => Code::NotAuthorized,
            Self::NotSigned(_) => Code::AgreementNotSigned,
            Self::Document(error) => error.code(),
        }
    }

    fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Sequence { .. } | Self::Stale { .. } => {
                "the other party changed it meanwhile: look at it again, then decide again".into()
            }
            Self::Illegal { from: Status::Closed, .. } => "a closed agreement stays closed: propose a new one".into(),
            Self::NotSigned(_) => "the provider accepts the proposal by signing its terms".into(),
            Self::NotYours { suspended_by, .. } => format!("ask {suspended_by} to resume it, or close it"),
            Self::Illegal { .. }
            | Self::OtherAgreement { .. }
            | Self::NotAParty { .. }
            | Self::Reason { .. }
            | Self::Note
            | Self::NotDeclined
            | Self::NotExpired { .. }
            | Self::Document(_) => return None,
        })
    }
}

impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        let problem = Self::new(error.code(), error.to_string());
        match error.hint() {
            Some(hint) => problem.hint(hint),
            None => problem,
        }
    }
}
