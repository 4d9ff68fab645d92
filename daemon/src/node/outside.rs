//! What a running call reaches outside of itself: hosts and agents that its agent was granted.
//!
//! ```text
//! guest ── http.send ──► egress                      agents.call ──► granted? ──► Node::execute, as the agent's owner
//! ```
//! A call of another agent is a call like any other: local, or remote under an agreement, with its own trace entry. It carries
//! along the request's id, the time that is left, and the chain of agents that wait for it.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use kernel::{AgentCall, Egress, HttpRequest, HttpResponse, Outside, Refused};
use protocol::{
    AgentId, Code, Problem,
    error::Exit,
    grant::AgentPattern,
    wire::{MAX_DEPTH, MAX_PARAMS},
};
use tokio::time::Instant;

use super::{
    Caller, Node,
    agents::{Agent, not_here},
    execute::Invocation,
};

/// The longest text of an error that a guest is handed.
const MAX_TEXT: usize = 2 * 1024;

/// See the module.
pub(super) struct Reach {
    pub(super) node: Node,
    pub(super) agent: Arc<Agent>,
    pub(super) request_id: String,
    /// The agents that wait for this call.
    pub(super) chain: Vec<AgentId>,
    /// When whoever made this call no longer waits.
    pub(super) deadline: Instant,
}

#[async_trait]
impl Outside for Reach {
    async fn http(&mut self, request: HttpRequest, egress: &mut Egress) -> Result<HttpResponse, String> {
        self.node.plugins.allowed().egress.send(&self.agent.outline.grants.http, request, egress).await
    }

    async fn call(&mut self, call: AgentCall, egress: &mut Egress) -> Result<String, Refused> {
        self.reach(call, egress).await.map_err(refused)
    }
}

impl Reach {
    async fn reach(&self, call: AgentCall, egress: &mut Egress) -> Result<String, Problem> {
        let AgentCall { agent, method, params, timeout } = call;
        if params.len() > MAX_PARAMS {
            return Err(Problem::new(Code::InvalidParams, format!("the parameters are longer than {MAX_PARAMS} bytes")));
        }
        let (id, here) = self.granted(&agent)?;
        if !here {
            egress.spend(params.len() as u64).map_err(|reason| Problem::new(Code::EgressQuota, reason))?;
        }
        let mut chain = self.chain.clone();
        chain.push(self.agent.outline.id);
        let invocation = Invocation {
            agent: id.to_string(),
            method,
            params: Bytes::from(params),
            agreement: None,
            idempotency_key: None,
            timeout: timeout.min(self.deadline.saturating_duration_since(Instant::now())),
            chain,
        };
        let caller = Caller { principal: self.agent.outline.owner, request_id: self.request_id.clone() };
        let executed = self.node.execute(&caller, invocation).await?;
        Ok(Box::<str>::from(executed.result).into())
    }

    /// The agent of this name or id, if it was granted; and whether it lives here.
    fn granted(&self, agent: &str) -> Result<(AgentId, bool), Problem> {
        let grants = &self.agent.outline.grants.agents;
        let denied = || {
            let short: String = agent.chars().take(80).collect();
            Problem::new(Code::NotAuthorized, format!("agent {short} was not granted to this agent"))
        };
        if let Some(found) = self.node.agents.find(agent) {
            let (id, name) = (found.outline.id, found.outline.name.as_str());
            let granted = grants.iter().any(|pattern| pattern.matches(&id, Some(name)));
            return if granted { Ok((id, true)) } else { Err(denied()) };
        }
        // Whoever moved to another node of the owner is called by the same name.
        if let Some((id, there)) = self.node.whereabouts.find(agent) {
            let granted = grants.iter().any(|pattern| pattern.matches(&id, Some(&there.name)));
            return if granted { Ok((id, false)) } else { Err(denied()) };
        }
        match agent.parse::<AgentId>() {
            Ok(id) if grants.iter().any(|pattern| pattern.matches(&id, None)) => Ok((id, false)),
            Err(_) if grants.iter().any(|pattern| matches!(pattern, AgentPattern::Any) || pattern.to_string() == agent) => {
                Err(not_here(agent))
            }
            Ok(_) | Err(_) => Err(denied()),
        }
    }
}

/// Whether `agent` may be called by the last of a chain of agents, each of which waits for the next.
pub(super) fn check_chain(chain: &[AgentId], agent: &AgentId) -> Result<(), Problem> {
    if chain.contains(agent) {
        return Err(Problem::new(Code::CallLoop, format!("agent {agent} waits for this very call"))
            .hint("agents that call one another in a ring would wait for ever"));
    }
    if chain.len() >= MAX_DEPTH {
        return Err(Problem::new(Code::CallDepth, format!("at most {MAX_DEPTH} agents call one another in a row")));
    }
    Ok(())
}

/// A problem as the guest sees it: its kind, and a text that begins with the stable code.
fn refused(problem: Problem) -> Refused {
    let text: String = format!("{}: {}", problem.code, problem.detail).chars().take(MAX_TEXT).collect();
    match problem.code {
        Code::MethodNotFound => Refused::UnknownMethod(text),
        Code::InvalidParams => Refused::InvalidParams(text),
        Code::CallLoop | Code::CallDepth => Refused::Denied(text),
        code if code.exit() == Exit::NotAuthorized => Refused::Denied(text),
        _ => Refused::Failed(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chain_ends_at_its_length_and_where_it_would_close() {
        let agents: Vec<AgentId> = std::iter::repeat_with(AgentId::new).take(MAX_DEPTH + 1).collect();
        assert!(check_chain(&[], &agents[0]).is_ok() && check_chain(&agents[..MAX_DEPTH - 1], &agents[MAX_DEPTH]).is_ok());
        let code = |chain: &[AgentId], agent| check_chain(chain, agent).expect_err("refused").code;
        assert_eq!(code(&agents[..MAX_DEPTH], &agents[MAX_DEPTH]), Code::CallDepth);
        assert_eq!(code(&agents[..2], &agents[0]), Code::CallLoop);
    }

    #[test]
    fn a_guest_is_told_the_code() {
        let told = |code| refused(Problem::new(code, "why"));
        assert_eq!(told(Code::AgreementRequired), Refused::Denied("agreement_required: why".into()));
        assert_eq!(told(Code::MethodNotFound), Refused::UnknownMethod("method_not_found: why".into()));
        assert_eq!(told(Code::CallLoop), Refused::Denied("call_loop: why".into()));
        assert_eq!(told(Code::TimedOut), Refused::Failed("timed_out: why".into()));
        let long = refused(Problem::new(Code::Internal, "x".repeat(1 << 20)));
        assert!(matches!(long, Refused::Failed(text) if text.len() == MAX_TEXT));
    }
}
