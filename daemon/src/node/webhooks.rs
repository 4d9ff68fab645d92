//! Webhooks: the trace posted to somebody's address, in order, signed, until it arrives or is given up on.
//!
//! ```text
//! log ── next wanted entries ─> signed POST ── 2xx ─> next (durable)
//!                                 └─ else: again after 1, 2, 4 … 300 s ── every attempt failed ─> dead letter (durable)
//! ```
//! How far each one is, is kept with it. A crash between a delivery and that may repeat the delivery, under the same id.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use parking_lot::{Mutex, RwLock};
use protocol::{
    Code, Problem, Timestamp,
    api::{CreateWebhook, DeadLetter, Delivery, EventFilter, Retried, Told, TraceEvent, Webhook},
    entry::Action,
    id::WebhookId,
};
use store::{Commit, Kind, RecordWrite};
use tokio_util::sync::CancellationToken;

use super::{
    Caller, Node,
    feed::Feed,
    journal::{self, Journal},
};

/// Webhooks of a node.
const MAX_WEBHOOKS: usize = 32;
/// Dead letters of one webhook; beyond, the oldest go.
const MAX_DEAD: usize = 1_000;
/// Actions that one filter lists.
const MAX_ACTIONS: usize = 64;
/// How long one delivery may take.
const PATIENCE: Duration = Duration::from_secs(15);
/// The longest pause between two attempts.
const MAX_PAUSE: Duration = Duration::from_secs(300);

/// See the module.
#[derive(Debug)]
pub(crate) struct Webhooks {
    journal: Journal,
    /// How often a delivery is tried.
    attempts: u32,
    known: RwLock<BTreeMap<WebhookId, Arc<Hook>>>,
    /// One change at a time, so that what is in memory is what was committed last.
    changing: tokio::sync::Mutex<()>,
}

#[derive(Debug)]
struct Hook {
    state: Mutex<Webhook>,
    removed: CancellationToken,
    /// Held while something is delivered: a retry and the next delivery don't cross.
    delivering: tokio::sync::Mutex<()>,
}

/// Why a delivery failed.
struct Failed {
    why: String,
    /// Whether another attempt may succeed.
    passing: bool,
}

impl Webhooks {
    /// Restores those of an earlier run.
    pub(crate) async fn open(journal: Journal, attempts: u32) -> Result<Self, Problem> {
        let mut known = BTreeMap::new();
        for (_, bytes) in journal::sound_records(journal.store().as_ref(), Kind::Webhook).await?.records {
            let state: Webhook = journal::decode("webhook", &bytes)?;
            known.insert(state.id, Arc::new(Hook::new(state)));
        }
        Ok(Self { journal, attempts, known: RwLock::new(known), changing: tokio::sync::Mutex::default() })
    }

    fn get(&self, id: &WebhookId) -> Result<Arc<Hook>, Problem> {
        let known = self.known.read().get(id).cloned();
        known.ok_or_else(|| Problem::new(Code::NotFound, format!("there is no webhook {id}")))
    }

    /// Those whose events were given up on, the oldest first.
    pub(crate) async fn dead(&self, id: &WebhookId) -> Result<Vec<DeadLetter>, Problem> {
        self.get(id)?;
        let prefix = format!("{id}/");
        let records = self.journal.store().records(Kind::DeadLetter, Some(&prefix), MAX_DEAD).await?;
        let theirs = records.into_iter().take_while(|(key, _)| key.starts_with(&prefix));
        theirs.map(|(_, bytes)| journal::decode("dead letter", &bytes)).collect()
    }

    /// The first index that a webhook is still to be told, or may be told again; nobody comes with an earlier one while the
    /// guard is held.
    pub(super) async fn untold(&self) -> Result<(tokio::sync::MutexGuard<'_, ()>, u64), Problem> {
        let guard = self.changing.lock().await;
        let states: Vec<_> = self.known.read().values().map(|hook| hook.state.lock().clone()).collect();
        let mut first = u64::MAX;
        for state in states {
            let dead = self.dead(&state.id).await?.into_iter().map(|letter| letter.from).min();
            first = first.min(state.next).min(dead.unwrap_or(u64::MAX));
        }
        Ok((guard, first))
    }

    async fn keep(&self, records: Vec<RecordWrite>) -> Result<(), Problem> {
        self.journal.keep(Commit { records, ..Commit::default() }).await.map(drop)
    }

    /// Remembers how far a webhook is, and what it gave up on, if it did.
    async fn advance(&self, hook: &Hook, next: u64, given_up: Option<DeadLetter>) -> Result<(), Problem> {
        let _one_at_a_time = self.changing.lock().await;
        let state = {
            let mut state = hook.state.lock();
            state.next = next;
            state.failures = 0;
            if given_up.is_none() {
                state.last_error = None;
            }
            state.clone()
        };
        let mut records = vec![of_webhook(&state)];
        if let Some(letter) = given_up {
            let dead = self.dead(&state.id).await?;
            let over = (dead.len() + 1).saturating_sub(MAX_DEAD);
            records.extend(dead.iter().take(over).map(|letter| of_letter(&state.id, letter, false)));
            records.push(of_letter(&state.id, &letter, true));
        }
        if hook.removed.is_cancelled() {
            return Ok(());
        }
        self.keep(records).await
    }
}

impl Hook {
    fn new(state: Webhook) -> Self {
        Self { state: Mutex::new(state), removed: CancellationToken::new(), delivering: tokio::sync::Mutex::default() }
    }
}

impl Node {
    /// Every webhook, the oldest first.
    pub(crate) fn webhooks(&self) -> Vec<Webhook> {
        let hooks: Vec<_> = self.webhooks.known.read().values().cloned().collect();
        hooks.iter().map(|hook| self.shown(hook)).collect()
    }

    fn shown(&self, hook: &Hook) -> Webhook {
        Webhook { public_key: format!("whpk_{}", BASE64.encode(self.node_id.as_bytes())), ..hook.state.lock().clone() }
    }

    /// Posts events to an address from now on.
    pub(crate) async fn create_webhook(&self, caller: &Caller, create: CreateWebhook) -> Result<Webhook, Problem> {
        let CreateWebhook { url, filter, from } = create;
        crate::egress::check_url(&url).map_err(|why| Problem::new(Code::InvalidRequest, why))?;
        check(&filter)?;
        let _one_at_a_time = self.webhooks.changing.lock().await;
        if self.webhooks.known.read().len() >= MAX_WEBHOOKS {
            return Err(Problem::new(Code::Overloaded, format!("this node has {MAX_WEBHOOKS} webhooks, its most")));
        }
        let size = self.journal.store().log_size().await?;
        // From its own making on: whoever wants everything hears at once that it works.
        let next = from.map_or(size, |from| from.clamp(self.trace.pruned().map_or(0, |pruned| pruned.until).min(size), size));
        let (id, created_at) = (WebhookId::new(), Timestamp::now());
        let state = Webhook { id, url, filter, created_at, next, failures: 0, last_error: None, public_key: String::new() };
        let entry = self.journal.append(caller.note(), Action::Webhook { webhook: id, host: Some(host(&state.url)) });
        self.journal.keep(Commit { records: vec![of_webhook(&state)], entry: Some(entry), ..Commit::default() }).await?;
        let hook = Arc::new(Hook::new(state));
        self.webhooks.known.write().insert(id, Arc::clone(&hook));
        self.tasks.spawn(self.clone().deliver(Arc::clone(&hook)));
        Ok(self.shown(&hook))
    }

    /// Posts nothing more there, and forgets what it was not told.
    pub(crate) async fn remove_webhook(&self, caller: &Caller, id: &WebhookId) -> Result<(), Problem> {
        let _one_at_a_time = self.webhooks.changing.lock().await;
        let hook = self.webhooks.get(id)?;
        let mut records: Vec<_> = self.webhooks.dead(id).await?.iter().map(|letter| of_letter(id, letter, false)).collect();
        records.push(RecordWrite { kind: Kind::Webhook, id: id.to_string(), value: None });
        let entry = self.journal.append(caller.note(), Action::Webhook { webhook: *id, host: None });
        self.journal.keep(Commit { records, entry: Some(entry), ..Commit::default() }).await?;
        hook.removed.cancel();
        self.webhooks.known.write().remove(id);
        Ok(())
    }

    /// Delivers what was given up on, the oldest first, until it fails again.
    pub(crate) async fn retry_webhook(&self, id: &WebhookId) -> Result<Retried, Problem> {
        let hook = self.webhooks.get(id)?;
        let _one_at_a_time = hook.delivering.lock().await;
        let dead = self.webhooks.dead(id).await?;
        let (url, filter) = {
            let state = hook.state.lock();
            (state.url.clone(), state.filter.clone())
        };
        for (delivered, letter) in dead.iter().enumerate() {
            let events = Feed::between(&self.journal, &filter, letter.from, letter.to).await?;
            if let Err(failed) = self.post(id, &url, events).await {
                return Ok(Retried { delivered, left: dead.len() - delivered, error: Some(failed.why) });
            }
            self.webhooks.keep(vec![of_letter(id, letter, false)]).await?;
        }
        Ok(Retried { delivered: dead.len(), left: 0, error: None })
    }

    /// Begins what was under way when the node stopped.
    pub(crate) fn begin_webhooks(&self) {
        for hook in self.webhooks.known.read().values() {
            self.tasks.spawn(self.clone().deliver(Arc::clone(hook)));
        }
    }

    /// Delivers for one webhook, until it is removed or the node stops.
    async fn deliver(self, hook: Arc<Hook>) {
        let delivering = async {
            let (filter, next) = {
                let state = hook.state.lock();
                (state.filter.clone(), state.next)
            };
            let mut feed = Feed::new(self.journal.clone(), filter, next);
            loop {
                let batch = feed.next().await?;
                let given_up = if batch.events.is_empty() { None } else { self.insist(&hook, &batch.events).await };
                self.webhooks.advance(&hook, batch.next, given_up).await?;
            }
        };
        let outcome: Result<(), Problem> = tokio::select! {
            () = self.stopping.cancelled() => Ok(()),
            () = hook.removed.cancelled() => Ok(()),
            outcome = delivering => outcome,
        };
        if let Err(problem) = outcome {
            tracing::error!(webhook = %hook.state.lock().id, %problem, "a webhook stopped: the node must be started again");
        }
    }

    /// Tries until the events are delivered, or given up on.
    async fn insist(&self, hook: &Hook, events: &[TraceEvent]) -> Option<DeadLetter> {
        let (id, url) = {
            let state = hook.state.lock();
            (state.id, state.url.clone())
        };
        for attempt in 1.. {
            let posted = {
                let _one_at_a_time = hook.delivering.lock().await;
                self.post(&id, &url, events.to_vec()).await
            };
            let Err(Failed { why, passing }) = posted else { return None };
            {
                let mut state = hook.state.lock();
                state.failures = attempt;
                state.last_error = Some(why.clone());
            }
            if !passing || attempt >= self.webhooks.attempts {
                tracing::warn!(webhook = %id, error = why, "events were not delivered: see 'mcpctl webhook dead'");
                let (from, to) = (events.first()?.index, events.last()?.index);
                return Some(DeadLetter { from, to, events: events.len(), error: why, at: Timestamp::now() });
            }
            tokio::time::sleep(Duration::from_secs(1 << (attempt - 1).min(16)).min(MAX_PAUSE)).await;
        }
        None
    }

    /// Posts events once.
    async fn post(&self, id: &WebhookId, url: &str, events: Vec<TraceEvent>) -> Result<(), Failed> {
        let (Some(first), Some(last)) = (events.first(), events.last()) else { return Ok(()) };
        let (message, now) = (format!("{id}.{}-{}", first.index, last.index), Timestamp::now());
        let delivery = Delivery { r#type: "trace.entries".into(), timestamp: now, data: Told { node: self.node_id, events } };
        let body = journal::encode(&delivery);
        let seconds = now.as_second().to_string();
        let signed = [message.as_bytes(), b".", seconds.as_bytes(), b".", &body].concat();
        let signature = format!("v1a,{}", BASE64.encode(self.node_key.sign(&signed)));
        let headers = [
            ("content-type", "application/json".to_owned()),
            ("webhook-id", message),
            ("webhook-timestamp", seconds),
            ("webhook-signature", signature),
        ];
        let headers = headers.map(|(name, value)| (name.to_owned(), value)).into();
        let posting = self.plugins.egress().post(url, headers, body);
        let passing = |why| Failed { why, passing: true };
        let answered = tokio::time::timeout(PATIENCE, posting).await;
        match answered.map_err(|_| passing(format!("no answer within {} s", PATIENCE.as_secs())))?.map_err(passing)? {
            200..=299 => Ok(()),
            // Too early, too many, timed out: these pass.
            status @ (408 | 425 | 429 | 500..) => Err(passing(format!("status {status}"))),
            status => Err(Failed { why: format!("status {status}"), passing: false }),
        }
    }
}

/// Whether a filter is one.
pub(crate) fn check(filter: &EventFilter) -> Result<(), Problem> {
    if filter.actions.len() > MAX_ACTIONS {
        return Err(Problem::new(Code::InvalidRequest, format!("a filter lists at most {MAX_ACTIONS} actions")));
    }
    filter.actions.iter().try_for_each(|action| {
        let named = if action.len() <= 64 { Action::check_name(action) } else { Err("no action has so long a name".into()) };
        named.map_err(|why| Problem::new(Code::InvalidRequest, format!("the actions of a filter: {why}")))
    })
}

/// The host of a URL. The rest may be a secret, which a log that anybody may be shown is no place for.
fn host(url: &str) -> String {
    url.split("://").nth(1).unwrap_or_default().split(['/', '?', '#']).next().unwrap_or_default().chars().take(255).collect()
}

fn of_webhook(state: &Webhook) -> RecordWrite {
    RecordWrite { kind: Kind::Webhook, id: state.id.to_string(), value: Some(journal::encode(state)) }
}

fn of_letter(id: &WebhookId, letter: &DeadLetter, kept: bool) -> RecordWrite {
    let value = kept.then(|| journal::encode(letter));
    RecordWrite { kind: Kind::DeadLetter, id: format!("{id}/{:020}", letter.from), value }
}
