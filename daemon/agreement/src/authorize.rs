//! Whether an agreement covers a call. What the call may use is the [`Meter`](crate::Meter)'s to say.

use protocol::{
    AgentId, NodeId, Timestamp,
    agreement::{Agreement, Reason, Status},
    document::MAX_SKEW,
    lifecycle::State,
};

use crate::{Denied, Outside};

/// A call, as it arrives at the provider.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request<'a> {
    /// The node that calls, as its transport proved it to be.
    pub caller_node: NodeId,
    /// The agent.
    pub agent: AgentId,
    /// The method.
    pub method: &'a str,
}

/// Lets a call through that `terms` cover, in `state`, at `now`. Who isn't the consumer learns nothing else.
///
/// # Errors
/// [`Denied`] says what is missing, and how to get it.
pub fn authorize(terms: &Agreement, state: &State, request: &Request<'_>, now: Timestamp) -> Result<(), Denied> {
    let (agreement, agent) = (terms.id, terms.agent);
    let outside = |outside| Err(Denied::Scope { agreement, agent: request.agent, outside });
    parties(terms, request)?;
    if request.agent != agent {
        return outside(Outside::Agent(request.agent));
    }
    if !terms.covers(request.method) {
        // Longer than any method's name: what a stranger writes isn't echoed at length.
        return outside(Outside::Method(request.method.chars().take(64).collect()));
    }
    let header = &terms.header;
    if header.issued_at.duration_since(now) > MAX_SKEW {
        return Err(Denied::NotYet { agreement, agent, from: header.issued_at });
    }
    match state.effective(terms, now) {
        Status::Active => Ok(()),
        Status::Closed if state.reason(terms, now) == Some(Reason::Expired) => {
            Err(Denied::Expired { agreement, agent, at: header.expires_at })
        }
        status @ (Status::Proposed | Status::Suspended | Status::Closed) => Err(Denied::NotActive { agreement, agent, status }),
    }
}

/// Refuses whoever isn't the consumer of these terms, before anything else is said.
///
/// # Errors
/// [`Denied::Scope`].
pub fn parties(terms: &Agreement, request: &Request<'_>) -> Result<(), Denied> {
    if request.caller_node == terms.consumer_node {
        return Ok(());
    }
    Err(Denied::Scope { agreement: terms.id, agent: request.agent, outside: Outside::Caller(request.caller_node) })
}

#[cfg(test)]
mod tests {
    use protocol::{Code, Problem};

    use super::*;
    use crate::fixture::{after, now, terms};

    const DAY: i64 = 86_400;

    fn state(status: Status, reason: Option<Reason>) -> State {
        State { reason, ..State::new(status) }
    }

    fn call<'a>(terms: &Agreement, method: &'a str) -> Request<'a> {
        Request { caller_node: terms.consumer_node, agent: terms.agent, method }
    }

    #[test]
    fn active_terms_cover_their_calls_until_they_end() {
        let terms = terms("trial", &[]);
        let active = state(Status::Active, None);
        let call = call(&terms, "get");
        assert_eq!(authorize(&terms, &active, &call, now()), Ok(()));
        assert_eq!(authorize(&terms, &active, &call, after(DAY - 1)), Ok(()));
        let denied = authorize(&terms, &active, &call, after(DAY)).expect_err("over");
        let problem = Problem::from(denied);
        assert_eq!(problem.code, Code::AgreementExpired);
        let hint = format!("mcpctl agreement propose --agent {}", terms.agent);
        assert!(problem.hint.is_some_and(|found| found.contains(&hint)));
        let denied = authorize(&terms, &active, &call, after(-61)).expect_err("not begun");
        assert_eq!((denied.code(), authorize(&terms, &active, &call, after(-60))), (Code::AgreementExpired, Ok(())));
    }

    #[test]
    fn other_states_refuse() {
        let terms = terms("trial", &[]);
        for (status, reason) in [(Status::Proposed, None), (Status::Suspended, None), (Status::Closed, Some(Reason::Breached))] {
            let denied = authorize(&terms, &state(status, reason), &call(&terms, "get"), now()).expect_err("not active");
            assert_eq!(denied, Denied::NotActive { agreement: terms.id, agent: terms.agent, status });
            assert_eq!(denied.code(), Code::AgreementNotActive);
        }
        let expired = state(Status::Closed, Some(Reason::Expired));
        assert!(matches!(authorize(&terms, &expired, &call(&terms, "get"), now()), Err(Denied::Expired { .. })));
    }

    #[test]
    fn scope_is_checked_before_anything_else() {
        let mut terms = terms("trial", &[]);
        terms.methods = vec!["get".into()];
        let closed = state(Status::Closed, Some(Reason::Terminated));
        let wrong = [
            Request { caller_node: terms.provider_node, ..call(&terms, "get") },
            Request { agent: AgentId::new(), ..call(&terms, "get") },
            call(&terms, "set"),
        ];
        for request in wrong {
            let denied = authorize(&terms, &closed, &request, now()).expect_err("outside");
            assert_eq!(denied.code(), Code::AgreementScope, "{denied}");
        }
        assert_eq!(authorize(&terms, &state(Status::Active, None), &call(&terms, "get"), now()), Ok(()));
    }
}
