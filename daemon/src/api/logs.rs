//! `GET /v1/agents/{agent}/logs`, and the same as it goes on (server-sent events).

use std::{collections::VecDeque, convert::Infallible, sync::LazyLock, time::Duration};

use axum::{
    Extension,
    extract::State,
    response::sse::{Event, KeepAlive, Sse},
};
use futures::{Stream, stream};
use protocol::{
    AgentId, Code, Problem,
    api::{List, LogLine},
};
use serde::Deserialize;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use super::{
    Api,
    reply::{Failure, Json, Path, Query},
    require_owner,
};
use crate::node::{Caller, Node};

/// Those who follow at once.
const MAX_FOLLOWERS: usize = 64;
/// A proxy between must not think that nobody is there.
const EVERY: Duration = Duration::from_secs(15);
/// Lines that are given where nothing is said, and at most.
const TAIL: usize = 100;
const MAX_TAIL: usize = 2_000;

static PLACES: LazyLock<std::sync::Arc<Semaphore>> = LazyLock::new(|| std::sync::Arc::new(Semaphore::new(MAX_FOLLOWERS)));

#[derive(Debug, Deserialize)]
pub(super) struct Tail {
    tail: Option<usize>,
}

impl Tail {
    fn lines(&self) -> usize {
        self.tail.unwrap_or(TAIL).min(MAX_TAIL)
    }
}

pub(super) async fn list(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Path(agent): Path<String>,
    Query(tail): Query<Tail>,
) -> Result<Json<List<LogLine>>, Failure> {
    require_owner(&api, &caller)?;
    let agent = api.node.agents.find(&agent).ok_or_else(|| api.node.agents.missing(&agent))?;
    Ok(Json(api.node.logs.read(&agent.outline.id, 0, tail.lines()).into()))
}

struct Follower {
    node: Node,
    agent: AgentId,
    changes: watch::Receiver<u64>,
    waiting: VecDeque<LogLine>,
    seen: u64,
    _place: OwnedSemaphorePermit,
}

pub(super) async fn follow(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Path(agent): Path<String>,
    Query(tail): Query<Tail>,
) -> Result<Sse<impl Stream<Item = Result<Event, Infallible>>>, Failure> {
    require_owner(&api, &caller)?;
    let agent = api.node.agents.find(&agent).ok_or_else(|| api.node.agents.missing(&agent))?.outline.id;
    let full = |_| Problem::new(Code::Overloaded, format!("{MAX_FOLLOWERS} follow already")).hint("close one of them");
    let place = std::sync::Arc::clone(&PLACES).try_acquire_owned().map_err(full)?;
    let changes = api.node.logs.watch();
    let waiting: VecDeque<LogLine> = api.node.logs.read(&agent, 0, tail.lines()).into();
    let seen = waiting.back().map_or(*changes.borrow(), |line| line.sequence);
    let follower = Follower { node: api.node, agent, changes, waiting, seen, _place: place };
    let lines = stream::unfold(follower, |mut follower| async move { follower.next().await.map(|line| (Ok(event(&line)), follower)) });
    Ok(Sse::new(lines).keep_alive(KeepAlive::new().interval(EVERY)))
}

impl Follower {
    /// The next line; `None` when the node stops. Whoever follows too slowly misses the oldest.
    async fn next(&mut self) -> Option<LogLine> {
        loop {
            if let Some(line) = self.waiting.pop_front() {
                return Some(line);
            }
            self.waiting = self.node.logs.read(&self.agent, self.seen, MAX_TAIL).into();
            match self.waiting.back() {
                Some(last) => self.seen = last.sequence,
                None => tokio::select! {
                    () = self.node.stopping.cancelled() => return None,
                    changed = self.changes.changed() => changed.ok()?,
                },
            }
        }
    }
}

fn event(line: &LogLine) -> Event {
    let data = serde_json::to_string(line).expect("a line is text and numbers");
    Event::default().event("line").id(line.sequence.to_string()).data(data)
}
