//! What a guest may reach outside of itself. The kernel knows neither HTTP nor other agents: it meters, and asks whoever made
//! the call.

use std::time::{Duration, Instant};

use async_trait::async_trait;
use wasmtime::Result;

use crate::{
    host::{
        Guest,
        bindings::mcp_zero::plugin::{agents, http, types},
    },
    share::Pass,
};

/// What a call may reach. A future of it that is dropped stops what it does: that is how a call's wall time ends it.
#[async_trait]
pub trait Outside: Send {
    /// Sends a request; the error is for the guest.
    async fn http(&mut self, request: HttpRequest, egress: &mut Egress) -> Result<HttpResponse, String>;

    /// Calls another agent.
    async fn call(&mut self, call: AgentCall, egress: &mut Egress) -> Result<String, Refused>;
}

/// Nothing at all.
#[async_trait]
impl Outside for () {
    async fn http(&mut self, _: HttpRequest, _: &mut Egress) -> Result<HttpResponse, String> {
        Err("HTTP is not allowed here".into())
    }

    async fn call(&mut self, _: AgentCall, _: &mut Egress) -> Result<String, Refused> {
        Err(Refused::Denied("calls of other agents are not allowed here".into()))
    }
}

/// A request as the guest makes it: nothing of it is checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpRequest {
    /// The method.
    pub method: String,
    /// Where to.
    pub url: String,
    /// Names and values.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
}

/// An answer for the guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpResponse {
    /// The status.
    pub status: u16,
    /// Names and values.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
}

/// A call of another agent as the guest makes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentCall {
    /// A name or an id.
    pub agent: String,
    /// The method.
    pub method: String,
    /// Its parameters: JSON, not checked.
    pub params: String,
    /// What is left of the guest's own wall time.
    pub timeout: Duration,
}

/// Why another agent gave no result. The text is for the guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refused {
    /// It has no such method.
    UnknownMethod(String),
    /// The parameters aren't what the method takes.
    InvalidParams(String),
    /// The call isn't allowed.
    Denied(String),
    /// The call failed.
    Failed(String),
}

/// What a call may send, and has sent. It has left the node whatever becomes of the call.
#[derive(Debug)]
pub struct Egress {
    limit: u64,
    sent: u64,
    exceeded: bool,
}

impl Egress {
    /// At most `limit` bytes.
    pub fn new(limit: u64) -> Self {
        Self { limit, sent: 0, exceeded: false }
    }

    /// Counts what is about to be sent.
    ///
    /// # Errors
    /// It is over the limit; then nothing was counted. The text is for the guest.
    pub fn spend(&mut self, bytes: u64) -> Result<(), String> {
        match self.sent.checked_add(bytes).filter(|sent| *sent <= self.limit) {
            Some(sent) => {
                self.sent = sent;
                Ok(())
            }
            None => {
                self.exceeded = true;
                Err(format!("the call may send at most {} bytes", self.limit))
            }
        }
    }

    /// What was sent.
    pub fn sent(&self) -> u64 {
        self.sent
    }

    /// What may still be sent.
    pub(crate) fn left(&self) -> u64 {
        self.limit - self.sent
    }

    /// Whether something was refused.
    pub(crate) fn exceeded(&self) -> bool {
        self.exceeded
    }
}

/// When the wall time of the guest is over. The time that it is held back isn't its own.
#[derive(Debug, Clone)]
pub(crate) struct Ends {
    pub(crate) at: Instant,
    pub(crate) pass: Pass,
}

impl Ends {
    fn left(&self) -> Duration {
        (self.at + self.pass.held_back()).saturating_duration_since(Instant::now())
    }
}

impl http::Host for Guest {
    async fn send(&mut self, request: http::Request) -> Result<Result<http::Response, String>> {
        let http::Request { method, url, headers, body } = request;
        let answer = self.outside.http(HttpRequest { method, url, headers, body }, &mut self.egress).await;
        Ok(answer.map(|HttpResponse { status, headers, body }| http::Response { status, headers, body }))
    }
}

impl agents::Host for Guest {
    async fn call(&mut self, agent: String, method: String, params: String) -> Result<Result<String, types::Error>> {
        let timeout = self.ends.as_ref().map_or(Duration::ZERO, Ends::left);
        let answer = self.outside.call(AgentCall { agent, method, params, timeout }, &mut self.egress).await;
        Ok(answer.map_err(|refused| match refused {
            Refused::UnknownMethod(text) => types::Error::UnknownMethod(text),
            Refused::InvalidParams(text) => types::Error::InvalidParams(text),
            Refused::Denied(text) => types::Error::Denied(text),
            Refused::Failed(text) => types::Error::Failed(text),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_refused_is_not_counted() {
        let mut egress = Egress::new(10);
        egress.spend(6).expect("within the limit");
        assert!(!egress.exceeded());
        assert!(egress.spend(5).is_err() && egress.spend(u64::MAX).is_err());
        assert!(egress.exceeded());
        egress.spend(4).expect("what is left");
        assert_eq!((egress.sent(), egress.left()), (10, 0));
    }
}
