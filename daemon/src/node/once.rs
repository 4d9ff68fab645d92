//! What comes again under an idempotency key happens once.
//!
//! ```text
//! call with a key ── answered before? ── yes ──> that answer, with a receipt of the agreement that it was charged under
//!                      └─ no ── is one under way? ── yes ──> waits until that one has ended, and looks again
//!                                 └─ no ──> Claim: the key is this call's until its commit has ended, or it failed before
//! ```
//! A key is its caller's, for one method of one agent: which agreement a call was made under doesn't matter, as the consumer may
//! have another one by the time it repeats it.

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::Arc,
};

use parking_lot::Mutex;
use protocol::{AgentId, AgreementId, Code, Did, Digest, Problem, Timestamp, Usage, receipt::Position, wire};
use store::Answer;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{
    Node,
    agreements::sums,
    run::{Answered, Ran},
};

/// How long the answer to an idempotency key is kept: a day, in seconds.
const ANSWER_TTL_S: i64 = 24 * 3600;
/// Keys under which calls are under way at once, some 300 bytes each. Far more than there are places for calls.
const MAX_CLAIMS: usize = 16_384;

/// A call that may be the repetition of another one.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Repeatable<'a> {
    /// Who calls.
    pub(crate) caller: Did,
    pub(crate) agent: AgentId,
    pub(crate) method: &'a str,
    pub(crate) key: Option<&'a str>,
    pub(crate) params: &'a [u8],
    /// The agreement that it names.
    pub(crate) agreement: Option<AgreementId>,
}

/// What comes of it.
#[derive(Debug)]
pub(crate) enum Claimed {
    /// It hasn't been made before; if it has a key, that is its own now.
    New(Option<Claim>),
    /// It has, and this was the answer.
    Repeated(Box<Ran>),
}

/// The name under which an answer is kept: the scope keeps callers apart.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Once {
    scope: String,
    key: String,
}

/// The keys under which calls are under way, each with what tells that its call has ended. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(super) struct Claims(Arc<Mutex<HashMap<Once, CancellationToken>>>);

/// A key that is one call's alone. Dropped when the call's commit has ended, or when the call came to nothing: whoever waits
/// looks for its answer, and takes its place if there is none.
#[derive(Debug)]
pub(crate) struct Claim {
    claims: Claims,
    once: Once,
    ended: CancellationToken,
}

impl Claim {
    pub(super) fn once(&self) -> Once {
        self.once.clone()
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.claims.0.lock().remove(&self.once);
        self.ended.cancel();
    }
}

impl Claims {
    /// The key, or what tells when whoever has it is done.
    fn take(&self, once: &Once) -> Result<Result<Claim, CancellationToken>, Problem> {
        let mut taken = self.0.lock();
        let full = taken.len() >= MAX_CLAIMS;
        match taken.entry(once.clone()) {
            Entry::Occupied(other) => Ok(Err(other.get().clone())),
            Entry::Vacant(_) if full => Err(Problem::new(
                Code::Overloaded,
                format!("{MAX_CLAIMS} calls with idempotency keys are under way, the most there may be"),
            )),
            Entry::Vacant(free) => {
                let ended = free.insert(CancellationToken::new()).clone();
                Ok(Ok(Claim { claims: self.clone(), once: once.clone(), ended }))
            }
        }
    }
}

impl Once {
    /// Under which name the answer to a call is kept.
    fn of(by: &str, call: &Repeatable<'_>, key: &str) -> Result<Self, Problem> {
        if key.is_empty() || key.len() > wire::MAX_IDEMPOTENCY_KEY {
            return Err(Problem::new(Code::InvalidRequest, format!("an idempotency key has 1 to {} bytes", wire::MAX_IDEMPOTENCY_KEY)));
        }
        Ok(Self { scope: format!("{}{by}/{}", scope_of(&call.agent), call.method), key: key.to_owned() })
    }

    /// What is kept of a call's answer.
    pub(super) fn answer(&self, answered: &Answered, now_s: i64) -> Answer {
        let expires_s = now_s.saturating_add(ANSWER_TTL_S);
        Answer { scope: self.scope.clone(), key: self.key.clone(), value: wire::encode(answered), now_s, expires_s }
    }
}

/// How the scopes begin of all answers that are kept for an agent.
pub(super) fn scope_of(agent: &AgentId) -> String {
    format!("execute/{agent}/")
}

impl Node {
    /// Looks whether a call was made before, and sees to it that no other one is made under its key meanwhile. Before anything
    /// is set aside for it: a repetition takes nothing, and is answered whatever has become of limits and agreements since.
    ///
    /// # Errors
    /// The key was used with other parameters; or the one under way with it didn't end in time.
    pub(crate) async fn claim(&self, call: Repeatable<'_>, deadline: Instant) -> Result<Claimed, Problem> {
        let Some(key) = call.key else { return Ok(Claimed::New(None)) };
        let once = Once::of(&call.caller.to_string(), &call, key)?;
        // Earlier releases kept answers under the agreement's name, for a day.
        let before = call.agreement.map(|id| Ok::<_, Problem>((id, Once::of(&id.to_string(), &call, key)?))).transpose()?;
        loop {
            let ended = match self.claims.take(&once)? {
                Ok(claim) => {
                    let answered = self.answered(&once, before.as_ref(), call.params).await?;
                    return Ok(answered.map_or_else(|| Claimed::New(Some(claim)), |ran| Claimed::Repeated(Box::new(ran))));
                }
                Err(ended) => ended,
            };
            tokio::time::timeout_at(deadline, ended.cancelled()).await.map_err(|_| {
                Problem::new(Code::TimedOut, "a call with this idempotency key is still under way").hint("call again with the same key")
            })?;
            if let Some(ran) = self.answered(&once, before.as_ref(), call.params).await? {
                return Ok(Claimed::Repeated(Box::new(ran)));
            }
        }
    }

    /// The answer that was given before; `before` is where an earlier release would have kept it, under that agreement.
    pub(super) async fn answered(&self, once: &Once, before: Option<&(AgreementId, Once)>, params: &[u8]) -> Result<Option<Ran>, Problem> {
        let (store, now_s) = (self.journal.store(), Timestamp::now().as_second());
        let (mut body, mut under) = (store.answer(&once.scope, &once.key, now_s).await?, None);
        if let (None, Some((id, before))) = (&body, before) {
            (body, under) = (store.answer(&before.scope, &before.key, now_s).await?, Some(*id));
        }
        let Some(body) = body else { return Ok(None) };
        let mut answered: Answered = wire::decode(&body).map_err(unreadable)?;
        if answered.params != Digest::sha256(params) {
            return Err(Problem::new(Code::Conflict, format!("idempotency key {} was used with other parameters", once.key)));
        }
        answered.agreement = answered.agreement.or(under);
        let at = self.position_of(&answered).await?;
        let total = match answered.agreement {
            // From the store, like the answer: the meter in memory counts a call a moment after it is durable.
            Some(id) => sums(&store.usage(&id).await?),
            None => <(Usage, Usage)>::default(),
        };
        Ok(Some(Ran { answered, at, total }))
    }

    /// Where an operation stands that was answered before.
    async fn position_of(&self, answered: &Answered) -> Result<Position, Problem> {
        if let Some(at) = answered.at {
            return Ok(at);
        }
        self.logged_at(&answered.operation).await
    }

    /// A kept answer that says where its operation stands, for the node that will give it from now on.
    pub(super) async fn located(&self, kept: &[u8]) -> Result<Vec<u8>, Problem> {
        let mut answered: Answered = wire::decode(kept).map_err(unreadable)?;
        answered.at = Some(self.position_of(&answered).await?);
        Ok(wire::encode(&answered))
    }
}

fn unreadable(error: wire::Malformed) -> Problem {
    Problem::new(Code::StoreFailed, format!("a kept answer: {error}"))
}
