//! `GET /v1/discover/watch`: who provides a capability, as it changes (server-sent events, WHATWG HTML section 9.2).

use std::{collections::BTreeMap, convert::Infallible, sync::LazyLock, time::Duration};

use axum::{
    extract::State,
    response::sse::{Event, KeepAlive, Sse},
};
use futures::{Stream, StreamExt as _, stream};
use protocol::{AgentId, Code, NodeId, Problem, api::Discovered};
use serde::Deserialize;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use super::{
    Api,
    reply::{Failure, Query},
};
use crate::node::Node;

/// Those who watch at once; each costs a connection and a list.
const MAX_WATCHERS: usize = 64;
/// Changes that come together are told together.
const SETTLE: Duration = Duration::from_millis(100);
/// Expiries ring no bell; and a proxy between must not think that nobody is there.
const EVERY: Duration = Duration::from_secs(15);

static PLACES: LazyLock<std::sync::Arc<Semaphore>> = LazyLock::new(|| std::sync::Arc::new(Semaphore::new(MAX_WATCHERS)));

#[derive(Debug, Deserialize)]
pub(super) struct Watch {
    capability: String,
}

/// Whose agent it is; an id alone may be claimed by several.
type Known = BTreeMap<(NodeId, AgentId), Discovered>;

struct Watcher {
    node: Node,
    capability: String,
    changes: watch::Receiver<u64>,
    known: Known,
    first: bool,
    sent: u64,
    _place: OwnedSemaphorePermit,
}

/// Everyone who provides it now, as `added`; then `added`, `changed` and `removed`, each with the agent.
pub(super) async fn discover(
    State(api): State<Api>,
    Query(watch): Query<Watch>,
) -> Result<Sse<impl Stream<Item = Result<Event, Infallible>>>, Failure> {
    if watch.capability.is_empty() || watch.capability.len() > 128 {
        return Err(Problem::new(Code::InvalidRequest, "a capability has 1 to 128 bytes: PLUGIN.METHOD").into());
    }
    let place = std::sync::Arc::clone(&PLACES).try_acquire_owned();
    let full = |_| Problem::new(Code::Overloaded, format!("{MAX_WATCHERS} watch already")).hint("close one of them");
    let watcher = Watcher {
        changes: api.node.directory.watch(),
        node: api.node,
        capability: watch.capability,
        known: Known::new(),
        first: true,
        sent: 0,
        _place: place.map_err(full)?,
    };
    let events = stream::unfold(watcher, |mut watcher| async move { watcher.next().await.map(|events| (stream::iter(events), watcher)) });
    Ok(Sse::new(events.flatten().map(Ok)).keep_alive(KeepAlive::new().interval(EVERY)))
}

impl Watcher {
    /// What has changed, as soon as something has; `None` when the node stops.
    async fn next(&mut self) -> Option<Vec<Event>> {
        loop {
            if !std::mem::take(&mut self.first) {
                tokio::select! {
                    () = self.node.stopping.cancelled() => return None,
                    changed = self.changes.changed() => changed.ok()?,
                    () = tokio::time::sleep(EVERY) => {}
                }
                tokio::time::sleep(SETTLE).await;
                self.changes.mark_unchanged();
            }
            let now: Known = self.node.providing(&self.capability).into_iter().map(|found| ((found.node_id, found.agent), found)).collect();
            let events = self.compare(&now);
            self.known = now;
            if !events.is_empty() {
                return Some(events);
            }
        }
    }

    fn compare(&mut self, now: &Known) -> Vec<Event> {
        let mut events = Vec::new();
        for (id, found) in now {
            match self.known.get(id) {
                None => events.push(("added", found)),
                Some(before) if !alike(before, found) => events.push(("changed", found)),
                Some(_) => {}
            }
        }
        events.extend(self.known.iter().filter(|(id, _)| !now.contains_key(*id)).map(|(_, gone)| ("removed", gone)));
        let mut sent = self.sent;
        let events = events
            .into_iter()
            .map(|(what, found)| {
                sent += 1;
                let data = serde_json::to_string(found).expect("what was found is text and numbers");
                Event::default().event(what).id(sent.to_string()).data(data)
            })
            .collect();
        self.sent = sent;
        events
    }
}

/// Round trips are measured all the time, and no news.
fn alike(one: &Discovered, other: &Discovered) -> bool {
    (&one.name, &one.plugin, &one.pricing, &one.zone, one.load, one.methods.len())
        == (&other.name, &other.plugin, &other.pricing, &other.zone, other.load, other.methods.len())
}
