//! The owner's key in a token. Calls of PKCS#11 block, so that a thread of its own makes them, one after the other.
//!
//! ```text
//! sign ──> orders (bounded) ──> thread: session, found again after an error ──> verified signature
//! ready ── signed within a second? else a probe, signed likewise
//! ```

use std::{
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use protocol::{Code, Did, Problem};
use tokio::sync::{mpsc, oneshot};

use super::{
    session::{Module, Open},
    uri::Uri,
};

/// Signatures that may wait: at a few milliseconds each, they take well under a second.
const MAX_WAITING: usize = 64;
/// A token that hasn't answered by then is as good as gone. Those that ask a person to touch them aren't for servers.
const PATIENCE: Duration = Duration::from_secs(10);
/// For how long a signature proves that the token is there.
const FRESH: Duration = Duration::from_secs(1);
/// After a failure the token is left alone for this long: looking for it may take its time.
const PAUSE: Duration = Duration::from_millis(500);
/// How long the library may take to close at the end.
const FAREWELL: Duration = Duration::from_secs(2);
/// What probes sign; documents begin otherwise (`DSSEv1`), so that no probe is ever the signature of one.
const PROBE: &[u8] = b"mcp-zero: can this key sign? ";

/// A token's key. Cheap to clone; the session ends with the last one, or when it is closed.
#[derive(Debug, Clone)]
pub(super) struct Token {
    did: Did,
    uri: String,
    orders: mpsc::Sender<Order>,
    signed: Arc<Mutex<Option<Instant>>>,
    thread: Arc<Mutex<Option<Running>>>,
}

#[derive(Debug)]
enum Order {
    Sign { message: Vec<u8>, reply: oneshot::Sender<Result<[u8; 64], Problem>> },
    End,
}

/// The thread, and a channel that ends when it has nothing more to do.
#[derive(Debug)]
struct Running {
    handle: thread::JoinHandle<()>,
    done: std::sync::mpsc::Receiver<()>,
}

impl Token {
    /// Opens the token and finds the key. Blocks.
    pub(super) fn open(uri: Uri) -> Result<Self, Problem> {
        let text = uri.as_str().to_owned();
        let (orders, queue) = mpsc::channel(MAX_WAITING);
        let (told, opened) = std::sync::mpsc::sync_channel(1);
        let (working, done) = std::sync::mpsc::sync_channel(1);
        let signed = Arc::default();
        let worker = (Arc::clone(&signed), queue);
        let run = move || {
            let _working: std::sync::mpsc::SyncSender<()> = working;
            // Loaded by the thread that uses it: some libraries are particular about that.
            match Module::load(uri).and_then(|mut module| module.connect().map(|open| (module, open))) {
                Ok((module, open)) => {
                    let did = open.did;
                    let _ = told.send(Ok(did));
                    Driver { open: Some(open), module, did, failed: None, signed: worker.0 }.run(worker.1);
                }
                Err(problem) => {
                    let _ = told.send(Err(problem));
                }
            }
        };
        let failed = |error: &dyn std::fmt::Display| Problem::new(Code::KeyUnavailable, format!("the token's thread can't start: {error}"));
        let handle = thread::Builder::new().name("token".into()).spawn(run).map_err(|error| failed(&error))?;
        match opened.recv().map_err(|error| failed(&error))? {
            Ok(did) => Ok(Self { did, uri: text, orders, signed, thread: Arc::new(Mutex::new(Some(Running { handle, done }))) }),
            Err(problem) => {
                let _ = handle.join();
                Err(problem)
            }
        }
    }

    /// Ends the session and the thread, whoever holds the key still: a library that is at work while the process ends may crash
    /// it. Blocks for a moment.
    pub(super) fn close(&self) {
        let Some(Running { handle, done }) = self.thread.lock().take() else { return };
        let told = self.orders.try_send(Order::End).is_ok();
        // Nothing is ever sent: the channel's end is the message.
        if told && done.recv_timeout(FAREWELL) == Err(std::sync::mpsc::RecvTimeoutError::Disconnected) {
            let _ = handle.join();
        }
    }

    pub(super) fn did(&self) -> Did {
        self.did
    }

    pub(super) fn uri(&self) -> &str {
        &self.uri
    }

    pub(super) async fn sign(&self, message: &[u8]) -> Result<[u8; 64], Problem> {
        let (reply, answer) = oneshot::channel();
        let signing = async {
            self.orders.send(Order::Sign { message: message.to_vec(), reply }).await.ok()?;
            answer.await.ok()
        };
        match tokio::time::timeout(PATIENCE, signing).await {
            Ok(Some(signed)) => signed,
            Ok(None) => Err(Problem::new(Code::KeyUnavailable, "the token with the owner's key is not served any more")),
            Err(_) => {
                *self.signed.lock() = None;
                let problem = format!("the token with the owner's key didn't answer within {} s", PATIENCE.as_secs());
                Err(Problem::new(Code::KeyUnavailable, problem).hint("see that the token is there; nothing was signed"))
            }
        }
    }

    /// Whether it signs now, as far as anybody can tell beforehand.
    pub(super) async fn ready(&self) -> Result<(), Problem> {
        if self.signed.lock().is_some_and(|at| at.elapsed() < FRESH) {
            return Ok(());
        }
        self.sign(&[PROBE, &super::random::<16>()?].concat()).await.map(drop)
    }
}

/// The thread's own.
struct Driver {
    /// Closed before the library is.
    open: Option<Open>,
    module: Module,
    did: Did,
    failed: Option<(Instant, Problem)>,
    signed: Arc<Mutex<Option<Instant>>>,
}

impl Driver {
    fn run(mut self, mut orders: mpsc::Receiver<Order>) {
        while let Some(Order::Sign { message, reply }) = orders.blocking_recv() {
            // Whoever has stopped waiting doesn't hold up the others.
            if reply.is_closed() {
                continue;
            }
            let signed = self.sign(&message);
            *self.signed.lock() = signed.is_ok().then(Instant::now);
            // A signature whose asker has left meanwhile is nobody's.
            let _ = reply.send(signed);
        }
    }

    fn sign(&mut self, message: &[u8]) -> Result<[u8; 64], Problem> {
        if let Some((_, problem)) = self.failed.as_ref().filter(|(at, _)| at.elapsed() < PAUSE) {
            return Err(problem.clone());
        }
        let was_open = self.open.is_some();
        let mut signed = self.attempt(message);
        if signed.is_err() && was_open {
            // The session may be over while the token is there.
            signed = self.attempt(message);
        }
        match (&signed, &self.failed) {
            (Ok(_), Some(_)) => tracing::info!("the token with the owner's key is there again"),
            (Err(problem), None) => tracing::error!(%problem, "the owner's key can't be used: nothing is signed until its token is there"),
            _ => {}
        }
        self.failed = signed.as_ref().err().map(|problem| (Instant::now(), problem.clone()));
        signed
    }

    fn attempt(&mut self, message: &[u8]) -> Result<[u8; 64], Problem> {
        let open = match self.open.take() {
            Some(open) => open,
            None => self.module.connect().map_err(later)?,
        };
        if open.did != self.did {
            let problem = Problem::new(Code::KeyUnavailable, format!("the token has another key by now: {}, not {}", open.did, self.did));
            return Err(problem.hint("plug in the token that the node was started with"));
        }
        let signed = open.sign(message)?;
        // Kept only if it worked.
        self.open = Some(open);
        Ok(signed)
    }
}

/// What would be a mistake of the configuration at the start is, later, a key that can't be used now.
fn later(problem: Problem) -> Problem {
    let hint = problem.hint.unwrap_or_else(|| "see that the token is there; nothing was signed".into());
    Problem::new(Code::KeyUnavailable, problem.detail).hint(hint)
}
