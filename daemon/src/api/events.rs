//! `GET /v1/events`: the trace as it grows (server-sent events, WHATWG HTML section 9.2), and webhooks.

use std::{collections::VecDeque, convert::Infallible, sync::LazyLock, time::Duration};

use axum::{
    Extension,
    extract::State,
    http::HeaderMap,
    response::sse::{Event, KeepAlive, Sse},
};
use futures::{Stream, stream};
use protocol::{
    AgentId, AgreementId, Code, Problem,
    api::{CreateWebhook, DeadLetter, EventFilter, List, Retried, TraceEvent, Webhook},
    id::WebhookId,
};
use serde::Deserialize;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{
    Api,
    reply::{Failure, Json, Path, Query},
    require_owner,
};
use crate::node::{Caller, Feed, Node, check_filter};

/// Those who listen at once.
const MAX_LISTENERS: usize = 64;
/// A proxy between must not think that nobody is there.
const EVERY: Duration = Duration::from_secs(15);

static PLACES: LazyLock<std::sync::Arc<Semaphore>> = LazyLock::new(|| std::sync::Arc::new(Semaphore::new(MAX_LISTENERS)));

#[derive(Debug, Deserialize)]
pub(super) struct Wanted {
    /// The index from which to begin; from now on, where nothing is said.
    from: Option<u64>,
    /// Actions, with commas.
    actions: Option<String>,
    agent: Option<AgentId>,
    agreement: Option<AgreementId>,
}

struct Listener {
    node: Node,
    feed: Feed,
    waiting: VecDeque<TraceEvent>,
    _place: OwnedSemaphorePermit,
}

pub(super) async fn follow(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Query(wanted): Query<Wanted>,
    headers: HeaderMap,
) -> Result<Sse<impl Stream<Item = Result<Event, Infallible>>>, Failure> {
    require_owner(&api, &caller)?;
    // Whoever was cut off says which event came last; that counts more than where it began at first.
    let last = headers.get("last-event-id").and_then(|id| id.to_str().ok()?.parse::<u64>().ok());
    let size = api.node.trace.size().await?;
    let from = last.map(|last| last.saturating_add(1)).or(wanted.from).unwrap_or(size);
    if from > size {
        let detail = format!("the log has {size} entries: {from} is not the next");
        return Err(Problem::new(Code::InvalidRequest, detail).into());
    }
    if let Some(pruned) = api.node.trace.pruned().filter(|pruned| from < pruned.until) {
        let detail = format!("entries before {} were pruned on {}", pruned.until, pruned.at);
        return Err(Problem::new(Code::Pruned, detail).hint(format!("begin at {}", pruned.until)).into());
    }
    let actions = wanted.actions.unwrap_or_default().split(',').filter(|action| !action.is_empty()).map(str::to_owned).collect();
    let filter = EventFilter { actions, agent: wanted.agent, agreement: wanted.agreement };
    check_filter(&filter)?;
    let full = |_| Problem::new(Code::Overloaded, format!("{MAX_LISTENERS} listen already")).hint("close one of them");
    let place = std::sync::Arc::clone(&PLACES).try_acquire_owned().map_err(full)?;
    let feed = Feed::new(api.node.journal.clone(), filter, from);
    let listener = Listener { node: api.node, feed, waiting: VecDeque::new(), _place: place };
    let events = stream::unfold(listener, |mut listener| async move { listener.next().await.map(|event| (Ok(event), listener)) });
    Ok(Sse::new(events).keep_alive(KeepAlive::new().interval(EVERY)))
}

impl Listener {
    /// The next event; `None` when the node stops, or its log can't be read.
    async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = self.waiting.pop_front() {
                let data = serde_json::to_string(&event).expect("an event is text and numbers");
                return Some(Event::default().event("entry").id(event.index.to_string()).data(data));
            }
            let batch = tokio::select! {
                () = self.node.stopping.cancelled() => return None,
                batch = self.feed.next() => batch,
            };
            match batch {
                Ok(batch) => self.waiting = batch.events.into(),
                Err(problem) => {
                    tracing::error!(%problem, "an event stream ends");
                    return None;
                }
            }
        }
    }
}

pub(super) async fn create(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Json(create): Json<CreateWebhook>,
) -> Result<Json<Webhook>, Failure> {
    require_owner(&api, &caller)?;
    Ok(Json(api.node.create_webhook(&caller, create).await?))
}

pub(super) async fn list(State(api): State<Api>, Extension(caller): Extension<Caller>) -> Result<Json<List<Webhook>>, Failure> {
    require_owner(&api, &caller)?;
    Ok(Json(api.node.webhooks().into()))
}

pub(super) async fn remove(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<WebhookId>,
) -> Result<Json<()>, Failure> {
    require_owner(&api, &caller)?;
    Ok(Json(api.node.remove_webhook(&caller, &id).await?))
}

pub(super) async fn dead(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<WebhookId>,
) -> Result<Json<List<DeadLetter>>, Failure> {
    require_owner(&api, &caller)?;
    Ok(Json(api.node.webhooks.dead(&id).await?.into()))
}

pub(super) async fn retry(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<WebhookId>,
) -> Result<Json<Retried>, Failure> {
    require_owner(&api, &caller)?;
    Ok(Json(api.node.retry_webhook(&id).await?))
}
