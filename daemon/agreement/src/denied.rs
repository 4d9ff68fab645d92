//! Why a call isn't let through.

use protocol::{
    AgentId, AgreementId, Code, Problem, Timestamp,
    agreement::{Quantity, Status, Window},
};

/// A call that its agreement doesn't allow, now or at all.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// Its time is over.
    #[error("agreement {agreement} for {agent} expired at {at}")]
    Expired {
        /// The agreement.
        agreement: AgreementId,
        /// Its agent.
        agent: AgentId,
        /// Its end.
        at: Timestamp,
    },
    /// Its time has not come.
    #[error("agreement {agreement} for {agent} is not valid before {from}")]
    NotYet {
        /// The agreement.
        agreement: AgreementId,
        /// Its agent.
        agent: AgentId,
        /// Its beginning.
        from: Timestamp,
    },
    /// It is proposed, suspended or closed.
    #[error("agreement {agreement} for {agent} is {status}, not active")]
    NotActive {
        /// The agreement.
        agreement: AgreementId,
        /// Its agent.
        agent: AgentId,
        /// Where it stands.
        status: Status,
    },
    /// It is about something else.
    #[error("agreement {agreement} does not cover {outside}")]
    Scope {
        /// The agreement.
        agreement: AgreementId,
        /// The agent that was called.
        agent: AgentId,
        /// What it doesn't cover.
        outside: Outside,
    },
    /// A limit is reached.
    #[error(
        "agreement {agreement} allows {max} {} per {window}, and {} ({})",
        quantity.as_str(),
        if *.under_way { "calls under way hold what is left" } else { "all are used" },
        resets_at.map_or("this limit does not reset".into(), |at| format!("resets at {at}"))
    )]
    Exhausted {
        /// The agreement.
        agreement: AgreementId,
        /// Its agent.
        agent: AgentId,
        /// What is used up.
        quantity: Quantity,
        /// Over what time it counts.
        window: Window,
        /// The most there may be.
        max: u64,
        /// Whether something is left but reserved by calls that have not ended.
        under_way: bool,
        /// When there will be more; never under this agreement if none.
        resets_at: Option<Timestamp>,
    },
    /// The consumer has to sign receipts first.
    #[error("agreement {agreement}: {unacknowledged} calls have no receipt that its consumer signed, and this provider allows {max}")]
    Unacknowledged {
        /// The agreement.
        agreement: AgreementId,
        /// Calls beyond the newest receipt that both have signed.
        unacknowledged: u64,
        /// The most there may be.
        max: u64,
    },
}

/// What an agreement doesn't cover.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Outside {
    /// The node that calls.
    #[error("calls from node {0}")]
    Caller(protocol::NodeId),
    /// The agent that is called.
    #[error("agent {0}")]
    Agent(AgentId),
    /// The method that is called.
    #[error("method {0:?}")]
    Method(String),
}

impl Denied {
    /// The stable code.
    pub fn code(&self) -> Code {
        match self {
            Self::Expired { .. } | Self::NotYet { .. } => Code::AgreementExpired,
            Self::NotActive { .. } => Code::AgreementNotActive,
            Self::Scope { .. } => Code::AgreementScope,
            Self::Exhausted { .. } => Code::AgreementExhausted,
            Self::Unacknowledged { .. } => Code::AgreementUnacknowledged,
        }
    }

    /// What to do about it.
    pub fn hint(&self) -> String {
        match self {
            Self::Expired { agent, .. } | Self::NotActive { agent, status: Status::Closed, .. } => {
                format!("get a new one: mcpctl agreement propose --agent {agent}")
            }
            Self::NotYet { from, .. } => format!("call again after {from}, and check this node's clock"),
            Self::NotActive { agreement, status: Status::Suspended, .. } => {
                format!("whoever suspended it can resume it: mcpctl agreement resume {agreement}")
            }
            Self::NotActive { status: Status::Proposed | Status::Active, .. } => "wait until its provider has accepted it".into(),
            Self::Scope { agent, outside: Outside::Method(method), .. } => {
                format!("get one that covers {method:?}: mcpctl agreement propose --agent {agent}")
            }
            Self::Scope { agent, .. } => format!("get one of your own: mcpctl agreement propose --agent {agent}"),
            Self::Exhausted { under_way: true, .. } => "call again when a call under way has ended".into(),
            Self::Exhausted { agent, resets_at: Some(at), .. } => {
                format!("call again after {at}, or get a larger one: mcpctl agreement propose --agent {agent}")
            }
            Self::Unacknowledged { .. } => {
                "the calling node signs the newest receipt by itself, with its next call or a moment after it: call again then".into()
            }
            Self::Exhausted { agent, resets_at: None, .. } => format!("get a new one: mcpctl agreement propose --agent {agent}"),
        }
    }
}

impl From<Denied> for Problem {
    fn from(denied: Denied) -> Self {
        Self::new(denied.code(), denied.to_string()).hint(denied.hint())
    }
}
