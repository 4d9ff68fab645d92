//! One call: a fresh instance under limits, and what came of it.
//!
//! ```text
//! Call -> method? -> parameters fit its schema? -> a place in the sandbox
//!      -> instance (fuel, memory, wall time) -> result fits its schema? -> Outcome { result, usage, writes }
//! ```

use std::{
    fmt,
    task::Poll,
    time::{Duration, Instant},
};

use protocol::{
    AgentId, Usage,
    advert::Effect,
    api::Limits,
    error::FieldError,
    wire::{MAX_PARAMS, MAX_RESULT},
};
use serde_json::Value;
use tokio::time::sleep_until;
use wasmtime::{Engine, PoolConcurrencyLimitError, Store, Trap, UpdateDeadline};

use crate::{
    ceiling::Ceiling,
    engine::MAX_MEMORY,
    error::Failure,
    host::{Guest, Log, Means, bindings},
    outside::{Ends, Outside},
    overlay::{State, Writes},
    plugin::Plugin,
    schema::{self, Schema, Unreadable},
    share::Pass,
};

/// The longest text of an error that a guest gives.
const MAX_MESSAGE: usize = 2 * 1024;

/// What to run.
pub struct Call {
    /// Whose call it is: agents share the processors, not calls.
    pub agent: AgentId,
    /// The method.
    pub method: String,
    /// Its parameters: JSON, handed to the guest byte for byte. `null` stands for no parameters.
    pub params: String,
    /// What the call may use.
    pub limits: Limits,
    /// The agent's committed state.
    pub state: Box<dyn State>,
    /// What the node's own log calls it: the agent and the request's id.
    pub label: String,
    /// Where the guest's log lines go.
    pub log: Box<dyn Log>,
    /// What the guest may reach outside of itself; `()` for nothing.
    pub outside: Box<dyn Outside>,
    /// How many calls wait for this one, each for the next; fewer than [`MAX_DEPTH`](protocol::wire::MAX_DEPTH).
    pub depth: usize,
}

impl fmt::Debug for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Call").field("method", &self.method).field("label", &self.label).finish_non_exhaustive()
    }
}

/// What came of a call.
#[derive(Debug)]
pub struct Outcome {
    /// The result: JSON that fits the method's output schema.
    pub result: Result<Vec<u8>, Failure>,
    /// What it used, also if it failed. Nothing if no guest ran.
    pub usage: Usage,
    /// What to commit. Empty if it failed or the method is read-only.
    pub writes: Writes,
}

impl Outcome {
    /// No guest ran.
    pub(crate) fn refused(failure: Failure) -> Self {
        Self { result: Err(failure), usage: Usage::default(), writes: Writes::new() }
    }
}

/// A text that would hold a thread for long while it is read and checked.
const LONG: usize = 256 * 1024;

/// Runs `check` on a thread that may be held: it has much to read.
async fn aside<T: Send + 'static>(check: impl FnOnce() -> T + Send + 'static) -> Result<T, String> {
    tokio::task::spawn_blocking(check).await.map_err(|error| error.to_string())
}

/// Whether the method exists and takes these parameters; gives what the guest is handed.
pub(crate) async fn admit(plugin: &Plugin, method: &str, params: String) -> Result<String, Failure> {
    if params.len() < LONG {
        return taken(plugin, method, params);
    }
    let (of, called) = (plugin.clone(), method.to_owned());
    let admitted = aside(move || taken(&of, &called, params)).await;
    admitted.unwrap_or_else(|detail| Err(Failure::InvalidParams { detail, errors: Vec::new() }))
}

fn taken(plugin: &Plugin, method: &str, params: String) -> Result<String, Failure> {
    let Some((_, schemas)) = plugin.find(method) else {
        let known = plugin.methods().iter().map(|method| method.name.clone()).collect();
        return Err(Failure::MethodNotFound { method: method.chars().take(64).collect(), known });
    };
    let invalid = |detail: String| {
        let whole = FieldError { pointer: String::new(), detail: detail.clone() };
        Failure::InvalidParams { detail: format!("the parameters can't be read: {detail}"), errors: vec![whole] }
    };
    if params.len() > MAX_PARAMS {
        return Err(invalid(format!("they are longer than {MAX_PARAMS} bytes")));
    }
    let value = match schema::parse(&params) {
        Ok(Value::Null) => Value::Object(serde_json::Map::new()),
        Ok(value) => value,
        Err(Unreadable::Malformed(reason)) => return Err(invalid(reason)),
        Err(Unreadable::TooMany(limit)) => return Err(invalid(format!("they hold more than {limit} values"))),
    };
    schemas.input.check(&value).map_err(|errors| {
        let one = |error: &FieldError| format!("{} {}", if error.pointer.is_empty() { "/" } else { &error.pointer }, error.detail);
        let detail = format!("the parameters of {method} are wrong: {}", errors.iter().map(one).collect::<Vec<_>>().join("; "));
        Failure::InvalidParams { detail, errors }
    })?;
    Ok(if params.trim() == "null" { "{}".into() } else { params })
}

/// Runs an admitted call in an instance of its own, until `stop` at most. Dropping the future drops the instance.
pub(crate) async fn run(
    engine: &Engine,
    (pass, ceiling): (Pass, &Ceiling),
    plugin: &Plugin,
    call: Call,
    stop: impl Future<Output = ()>,
) -> Outcome {
    let Some((method, _)) = plugin.find(&call.method) else {
        return Outcome::refused(Failure::MethodNotFound { method: call.method, known: Vec::new() });
    };
    let limits = bounded(call.limits);
    let means = Means { state: call.state, label: call.label, log: call.log, outside: call.outside };
    let guest = Guest::new(means, method.effect, &limits, ceiling.clone());
    // No text is longer than the memory it is in; what is too long for us is then refused by its own name.
    let crossing = usize::try_from(limits.memory).unwrap_or(usize::MAX).saturating_add(64 << 10);
    let mut sandbox = Sandbox::new(engine, pass, guest, limits, crossing);
    let pre = plugin.pre();
    let answer = sandbox
        .enter(stop, async |store| {
            let instance = pre.instantiate_async(&mut *store).await?;
            instance.call_call(store, &call.method, &call.params).await
        })
        .await;
    let (mut usage, guest) = sandbox.leave();
    let answer = answer.and_then(|answer| accepted(answer, &guest, limits));
    let overlay = guest.into_overlay();
    let result = match answer {
        Ok(text) => check(plugin, call.method, text).await,
        Err(failure) => Err(failure),
    };
    if let Ok(result) = &result {
        usage.egress_bytes += result.len() as u64;
    }
    let keep = result.is_ok() && method.effect == Effect::Mutating;
    let writes = if keep { overlay.into_writes() } else { Writes::new() };
    Outcome { result, usage, writes }
}

/// Limits come from configuration; these are the sandbox's own.
fn bounded(limits: Limits) -> Limits {
    Limits { memory: limits.memory.min(MAX_MEMORY), result_bytes: limits.result_bytes.min(MAX_RESULT as u64), ..limits }
}

/// What the guest said, as an outcome.
fn accepted(answer: Result<String, bindings::Error>, guest: &Guest, limits: Limits) -> Result<String, Failure> {
    // A plugin that reports a refused write as its own failure says less than we know.
    // What is sent elsewhere and what is answered leaves the node alike.
    let limit = limits.result_bytes.min(guest.egress.left());
    match (answer, guest.overlay.exceeded()) {
        (Ok(text), _) if text.len() as u64 > limit => Err(Failure::ResultTooLarge { limit, unit: "bytes" }),
        (Ok(text), _) => Ok(text),
        (Err(_), Some((limit, unit))) => Err(Failure::StateQuota { limit, unit }),
        (Err(_), None) if guest.egress.exceeded() => Err(Failure::EgressQuota { limit: limits.egress_bytes }),
        (Err(bindings::Error::InvalidParams(text)), None) => {
            let errors = vec![FieldError { pointer: String::new(), detail: short(&text) }];
            Err(Failure::InvalidParams { detail: short(&text), errors })
        }
        (Err(bindings::Error::Denied(text)), None) => Err(Failure::Denied(short(&text))),
        (Err(bindings::Error::Failed(text)), None) => Err(Failure::Failed(short(&text))),
        (Err(bindings::Error::UnknownMethod(text)), None) => {
            Err(Failure::Failed(format!("it describes a method it doesn't know: {}", short(&text))))
        }
    }
}

/// Whether the result is what the method's output schema promises.
async fn check(plugin: &Plugin, method: String, text: String) -> Result<Vec<u8>, Failure> {
    let promised = move |plugin: &Plugin, text: String| match plugin.find(&method) {
        Some((_, schemas)) => fitting(text, &schemas.output),
        None => Err(Failure::MethodNotFound { method: method.clone(), known: Vec::new() }),
    };
    if text.len() < LONG {
        return promised(plugin, text);
    }
    let of = plugin.clone();
    aside(move || promised(&of, text)).await.unwrap_or_else(|error| Err(Failure::BadResult(error)))
}

/// Holds the result against the method's output schema.
fn fitting(text: String, schema: &Schema) -> Result<Vec<u8>, Failure> {
    let value = match schema::parse(&text) {
        Ok(value) => value,
        Err(Unreadable::Malformed(reason)) => return Err(Failure::BadResult(format!("it isn't JSON: {reason}"))),
        Err(Unreadable::TooMany(limit)) => return Err(Failure::ResultTooLarge { limit: limit as u64, unit: "values" }),
    };
    match schema.check(&value) {
        // What is around the value is no part of it, and wouldn't survive where the value is put into another: the receipt
        // is of exactly these bytes.
        Ok(()) => Ok(text.trim_matches([' ', '\t', '\n', '\r']).as_bytes().to_vec()),
        Err(errors) => {
            let first = errors.first().map(|error| format!("{} {}", error.pointer, error.detail)).unwrap_or_default();
            Err(Failure::BadResult(format!("it breaks the method's output schema: {first}")))
        }
    }
}

fn short(text: &str) -> String {
    let end = text.char_indices().map(|(at, char)| at + char.len_utf8()).take_while(|end| *end <= MAX_MESSAGE).last();
    text[..end.unwrap_or(0)].to_owned()
}

/// Compiled code keeps what it has used in a register, and tells it when it calls something, ends, or has used so much: what is
/// stopped in the middle is charged for all but that, a few milliseconds of running.
const COUNTED: u64 = 10_000_000;

/// A store under limits, and the clock of what happens in it.
pub(crate) struct Sandbox {
    store: Store<Guest>,
    limits: Limits,
    wall: Duration,
    pass: Pass,
}

impl Sandbox {
    /// An empty one, whose guest can hand over at most `crossing` bytes at once.
    pub(crate) fn new(engine: &Engine, pass: Pass, guest: Guest, limits: Limits, crossing: usize) -> Self {
        let mut store = Store::new(engine, guest);
        store.limiter(|guest| &mut guest.memory);
        store.set_fuel(limits.fuel).expect("the engine meters fuel");
        store.fuel_async_yield_interval(Some(COUNTED)).expect("the engine meters fuel");
        let at_tick = pass.clone();
        store.epoch_deadline_callback(move |_| Ok(UpdateDeadline::YieldCustom(1, Box::pin(at_tick.clone().tick()))));
        store.set_epoch_deadline(1);
        store.set_hostcall_fuel(crossing);
        store.set_max_component_handles(1000);
        Self { store, limits, wall: Duration::ZERO, pass }
    }

    /// Runs `inside` until it ends, its wall time is over, not counting the time that it was held back, or `stop` comes.
    pub(crate) async fn enter<T>(
        &mut self,
        stop: impl Future<Output = ()>,
        inside: impl AsyncFnOnce(&mut Store<Guest>) -> wasmtime::Result<T>,
    ) -> Result<T, Failure> {
        let (pass, limit, begun) = (self.pass.clone(), Duration::from_millis(self.limits.wall_ms), Instant::now());
        let started = begun.checked_sub(pass.waited()).unwrap_or(begun);
        self.store.data_mut().ends = Some(Ends { at: started + limit, pass: pass.clone() });
        let (ended, at) = {
            let (mut inside, mut stop) = (std::pin::pin!(inside(&mut self.store)), std::pin::pin!(stop));
            let (mut timer, mut first) = (None, Some(begun));
            let run = std::future::poll_fn(|context| {
                let now = first.take().unwrap_or_else(Instant::now);
                if stop.as_mut().poll(context).is_ready() {
                    return Poll::Ready((Err(Failure::Stopped), now));
                }
                let (polled, now) = pass.during(now, || inside.as_mut().poll(context));
                if let Poll::Ready(ended) = polled {
                    return Poll::Ready((Ok(ended), now));
                }
                // Whatever ends at once needs no timer.
                let mut ends = started + limit + pass.held_back();
                let timer = timer.get_or_insert_with(|| Box::pin(sleep_until(ends.into())));
                while timer.as_mut().poll(context).is_ready() {
                    ends = started + limit + pass.held_back();
                    if ends <= now {
                        return Poll::Ready((Err(Failure::TimedOut { limit_ms: self.limits.wall_ms }), now));
                    }
                    timer.as_mut().reset(ends.into());
                }
                Poll::Pending
            });
            run.await
        };
        self.wall += at.duration_since(started).saturating_sub(pass.held_back());
        ended?.map_err(|error| self.failure(&error))
    }

    /// What was used, and what the guest left.
    pub(crate) fn leave(self) -> (Usage, Guest) {
        let fuel = self.limits.fuel.saturating_sub(self.store.get_fuel().unwrap_or(0));
        let wall_us = u64::try_from(self.wall.as_micros()).unwrap_or(u64::MAX);
        let guest = self.store.into_data();
        (Usage { calls: 1, fuel, wall_us, egress_bytes: guest.egress.sent() }, guest)
    }

    /// Tells the limits that the guest ran into from its own faults.
    fn failure(&mut self, error: &wasmtime::Error) -> Failure {
        let limits = self.limits;
        let guest = self.store.data_mut();
        if let Some(fault) = guest.fault.take() {
            Failure::State(fault)
        } else if guest.memory.exceeded() {
            Failure::OutOfMemory { limit: limits.memory }
        } else if guest.memory.crowded() {
            Failure::Crowded
        } else if error.downcast_ref::<Trap>() == Some(&Trap::OutOfFuel) {
            Failure::OutOfFuel { limit: limits.fuel }
        } else if error.downcast_ref::<PoolConcurrencyLimitError>().is_some() {
            Failure::Overloaded
        } else if let Some((limit, unit)) = guest.overlay.exceeded() {
            Failure::StateQuota { limit, unit }
        } else if guest.egress.exceeded() {
            Failure::EgressQuota { limit: limits.egress_bytes }
        } else {
            tracing::debug!(target: "plugin", "trapped: {error:?}");
            Failure::Trapped(short(&error.root_cause().to_string()))
        }
    }
}
