//! The clock of the sandbox: a thread that advances the engine's epoch while calls run, and sleeps when none do.
//!
//! A guest yields at each tick, which is what lets a time-out or a dropped call stop an endless loop.

use std::{sync::Arc, thread, time::Duration};

use parking_lot::{Condvar, Mutex};
use wasmtime::Engine;

/// How long a guest may hold a thread before it yields: short against what a short call takes that waits behind it, long
/// against a switch.
pub(crate) const TICK: Duration = Duration::from_millis(2);

#[derive(Debug, Default)]
struct Shared {
    pulse: Mutex<Pulse>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Pulse {
    running: usize,
    /// The thread waits for a call. While it ticks nobody wakes it: calls that follow one another cost no switch of threads.
    asleep: bool,
    stopped: bool,
}

/// Owns the thread; dropping it ends the thread.
#[derive(Debug)]
pub(crate) struct Ticker {
    shared: Arc<Shared>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Ticker {
    /// Starts the thread.
    pub(crate) fn spawn(engine: &Engine) -> std::io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let (seen, engine) = (Arc::clone(&shared), engine.clone());
        let thread = thread::Builder::new().name("kernel-epoch".into()).spawn(move || tick(&seen, &engine))?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// Keeps the clock running until the returned guard is dropped.
    pub(crate) fn run(&self) -> Running {
        let mut pulse = self.shared.pulse.lock();
        pulse.running += 1;
        if pulse.asleep {
            self.shared.changed.notify_one();
        }
        Running(Arc::clone(&self.shared))
    }
}

fn tick(shared: &Shared, engine: &Engine) {
    let mut pulse = shared.pulse.lock();
    while !pulse.stopped {
        if pulse.running == 0 {
            pulse.asleep = true;
            shared.changed.wait(&mut pulse);
            pulse.asleep = false;
        } else {
            shared.changed.wait_for(&mut pulse, TICK);
            engine.increment_epoch();
        }
    }
}

impl Drop for Ticker {
    fn drop(&mut self) {
        self.shared.pulse.lock().stopped = true;
        self.shared.changed.notify_one();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join(); // it wakes at once; had it panicked, its message was printed
        }
    }
}

/// Held by a call that runs.
#[derive(Debug)]
pub(crate) struct Running(Arc<Shared>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.pulse.lock().running -= 1;
    }
}
